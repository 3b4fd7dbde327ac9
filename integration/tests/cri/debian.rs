//! Debian's image: what busybox does not ask of a runtime.

use std::sync::{Mutex, PoisonError};

use integration::containerd::LIMIT;
use integration::cri::{Cri, import_one, with};
use integration::debian::{self, FULL_NAME, SCRIPT};
use integration::pty::Pty;
use integration::{Bed, Case, Outcome, cases, ensure, eventually};
use serde_json::json;

pub const CASES: &[Case] = cases![debian_programs, debian_job_control];

/// Imports it, and waits until CRI has heard of it.
fn load(bed: &Bed, cri: &Cri) -> Outcome {
    // One at a time: ctr asks whether the image is there and then makes it, so that one of two is told "already exists".
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    import_one(&bed.containerd, "debian-image/debian.tar")?;
    drop(turn);
    eventually(LIMIT, || {
        let known = cri.call("ImageStatus", json!({ "image": { "image": FULL_NAME } }))?;
        ensure!(known["image"].is_object(), "CRI does not know the image: {known}");
        Ok(())
    })
}

fn debian_programs(bed: &Bed) -> Outcome {
    with(bed, |cri| {
        load(bed, cri)?;
        let pod = cri.pod(json!({}))?;
        let image = json!({ "image": FULL_NAME });
        let patch = json!({ "image": image, "command": ["bash", "-c", SCRIPT] });
        debian::check(&pod.output("script", "", patch)?)?;
        for (refused, uid) in [(false, "0\n"), (true, "1000\n")] {
            let context = json!({ "run_as_user": { "value": 1000 }, "no_new_privs": refused });
            let patch = json!({ "image": image, "linux": { "security_context": context } });
            let log = pod.output(&format!("setuid-{refused}"), "id-of-root -u", patch)?;
            ensure!(log == uid, "no_new_privs {refused}: {log}");
        }
        Ok(())
    })
}

fn debian_job_control(bed: &Bed) -> Outcome {
    with(bed, |cri| {
        load(bed, cri)?;
        let pod = cri.pod(json!({}))?;
        let id = pod.run("one", "sleep 100000", json!({ "image": { "image": FULL_NAME } }))?;
        let command = cri.crictl_command(Some(LIMIT), &["exec", "--interactive", "--tty", &id, "bash"]);
        // crictl ends with a code of its own when the command's is not 0.
        let code = debian::job_control(&mut Pty::start(&command, 40, 100)?)?;
        ensure!(code != 0, "crictl ended with {code}");
        Ok(())
    })
}
