//! Pods and their containers.

use integration::cri::{self, with};
use integration::{Bed, Case, Outcome, cases, ensure};
use serde_json::json;

pub const CASES: &[Case] = cases![one_shim_holds_the_pod, every_handler];

/// The shims of the pod, by what their command line says.
fn shims_of(bed: &Bed, pod: &str) -> Outcome<usize> {
    let processes = bed.containerd.host.processes()?;
    let is_shim = |argv: &[String]| argv[0].contains("containerd-shim") && argv.iter().any(|word| word == pod);
    Ok(processes.iter().filter(|(_, argv)| is_shim(argv)).count())
}

fn one_shim_holds_the_pod(bed: &Bed) -> Outcome {
    with(bed, |cri| {
        let pod = cri.pod(json!({}))?;
        let shim = pod.shim()?;
        for name in ["one", "two", "three"] {
            let id = pod.run(name, "exec sleep 100000", json!({}))?;
            let parent = bed.containerd.host.parent(pod.pid(&id)?)?;
            ensure!(parent == shim, "{name} is a child of {parent}, not of the pod's shim {shim}");
        }
        let shims = shims_of(bed, &pod.id)?;
        ensure!(shims == 1, "{shims} shims for one pod");
        Ok(())
    })
}

fn every_handler(bed: &Bed) -> Outcome {
    with(bed, |cri| {
        for handler in cri::handlers(&bed.containerd) {
            let pod = cri.pod_on(handler, json!({}))?;
            let log = pod.output("one", "echo from $0; cat /etc/image-name", json!({ "args": [handler] }))?;
            ensure!(log == format!("from {handler}\nmini-busybox\n"), "logged {log:?}");
            let id = pod.run("two", "exec sleep 100000", json!({}))?;
            ensure!(pod.exec(&id, "echo inside; exit 3")?.code == 3, "no exit code 3");
        }
        Ok(())
    })
}
