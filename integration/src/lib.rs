//! Harness for tests on real containerds.
