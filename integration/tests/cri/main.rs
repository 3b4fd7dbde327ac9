//! Kubernetes, as the kubelet meets it: containerd's CRI plugin over the runtime under test.

mod counter;
mod debian;
mod faults;
mod pods;
mod resources;
mod security;
mod streams;
mod upgrade;

use integration::{Case, cri, suite};

fn main() {
    // One list: an exception that names a test of a part would otherwise look like one for a test that is gone.
    let parts = [pods::CASES, streams::CASES, security::CASES, resources::CASES, debian::CASES];
    let shared: &'static [Case] = Vec::leak(parts.into_iter().flatten().copied().collect());
    let alone: &'static [Case] = Vec::leak([faults::CASES, upgrade::CASES].into_iter().flatten().copied().collect());
    suite::run_prepared("cri", cri::prepare, shared, alone);
}
