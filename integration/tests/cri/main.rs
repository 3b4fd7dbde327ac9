//! Kubernetes, as the kubelet meets it: containerd's CRI plugin over the runtime under test.

mod pods;

use integration::{cri, suite};

fn main() {
    suite::run_prepared("cri", cri::prepare, pods::CASES, &[]);
}
