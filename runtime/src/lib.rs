//! An OCI runtime as a library.
