//! What cannot be run says why, in the words that clients look for, and leaves nothing.

use integration::{Bed, Outcome, cases, ensure, suite};

/// Runs what cannot be run; the harness sees to it that nothing of it stays.
fn fails(bed: &Bed, flags: &[&str], program: &str, words: &str) -> Outcome {
    let output = bed.run(flags, &[program])?.failed_with(words)?;
    ensure!(output.stdout.is_empty(), "{}", output.report());
    Ok(())
}

/// The same, and the failure is the runtime's, not the program's: ctr itself says so.
fn fails_before_it_runs(bed: &Bed, flags: &[&str], program: &str, words: &str) -> Outcome {
    let output = bed.run(flags, &[program])?.exited(1)?.failed_with(words)?;
    ensure!(output.errors().contains("OCI runtime create failed"), "Create did not fail\n{}", output.report());
    Ok(())
}

fn missing_from_path(bed: &Bed) -> Outcome {
    fails_before_it_runs(bed, &[], "no-such-program", r#"exec: "no-such-program": executable file not found in $PATH"#)
}

fn missing_file(bed: &Bed) -> Outcome {
    fails_before_it_runs(bed, &[], "/no/such/file", "no such file or directory")?;
    fails_before_it_runs(bed, &[], "/no/such/file", "/no/such/file")
}

fn directory(bed: &Bed) -> Outcome {
    fails_before_it_runs(bed, &[], "/bin", r#"exec: "/bin": is a directory"#)
}

fn below_a_file(bed: &Bed) -> Outcome {
    fails_before_it_runs(bed, &[], "/etc/passwd/program", "not a directory")
}

fn without_x_bit(bed: &Bed) -> Outcome {
    fails_before_it_runs(bed, &[], "/broken/no-x-bit", "permission denied")
}

fn cwd_that_is_a_file(bed: &Bed) -> Outcome {
    fails_before_it_runs(bed, &["--cwd", "/etc/passwd"], "true", "/etc/passwd")?;
    fails_before_it_runs(bed, &["--cwd", "/etc/passwd"], "true", "not a directory")
}

fn user_that_does_not_exist(bed: &Bed) -> Outcome {
    fails(bed, &["--user", "nosuchuser"], "true", "no users found")
}

fn missing_loader(bed: &Bed) -> Outcome {
    fails(bed, &[], "/broken/no-loader", "no such file or directory")
}

fn wrong_architecture(bed: &Bed) -> Outcome {
    fails(bed, &[], "/broken/wrong-arch", "exec format error")
}

fn script_without_interpreter(bed: &Bed) -> Outcome {
    fails(bed, &[], "/broken/no-interpreter", "no such file or directory")
}

fn file_without_magic(bed: &Bed) -> Outcome {
    fails(bed, &[], "/broken/no-magic", "exec format error")
}

fn failure_of_start_is_reported_by_start(bed: &Bed) -> Outcome {
    // Only execve can find these out: mini reports them by Start instead of leaving a message in the container's output.
    for program in ["/broken/no-loader", "/broken/wrong-arch", "/broken/no-interpreter", "/broken/no-magic"] {
        let output = bed.run(&[], &[program])?.exited(1)?;
        ensure!(output.errors().contains("OCI runtime"), "{}", output.report());
        ensure!(output.errors().contains(program), "the program is not named\n{}", output.report());
    }
    Ok(())
}

fn missing_bind_source(bed: &Bed) -> Outcome {
    let mount = "type=bind,src=/no/such/source,dst=/mnt,options=rbind:ro";
    fails_before_it_runs(bed, &["--mount", mount], "true", "/no/such/source")
}

fn unknown_mount_type(bed: &Bed) -> Outcome {
    let mount = "type=nosuchfs,src=none,dst=/mnt,options=rw";
    fails_before_it_runs(bed, &["--mount", mount], "true", "no such device")
}

fn name_of_a_failed_container_is_free_again(bed: &Bed) -> Outcome {
    // A failed container, and then one of the same name that works: nothing of the first is in its way.
    let id = bed.id();
    bed.ctr(&bed.run_words(&id, &["--rm"], &["/no/such/file"]))?.exited(1)?;
    bed.ctr(&bed.run_words(&id, &["--rm"], &["echo", "second"]))?.ok()?.says("second\n")?;
    Ok(())
}

fn exec_of_a_missing_program(bed: &Bed) -> Outcome {
    let id = bed.sleeper()?;
    let output = bed.exec(&id, &[], &["no-such-program"])?;
    output.failed_with(r#"exec: "no-such-program": executable file not found in $PATH"#)?;
    bed.exec(&id, &[], &["/no/such/file"])?.failed_with("no such file or directory")?;
    bed.exec(&id, &[], &["/bin"])?.failed_with("is a directory")?;
    bed.exec(&id, &[], &["/broken/no-x-bit"])?.failed_with("permission denied")?;
    bed.exec(&id, &["--cwd", "/etc/passwd"], &["true"])?.failed_with("not a directory")?;
    bed.exec_sh(&id, &[], "echo still works")?.ok()?.says("still works\n")?;
    Ok(())
}

fn failures_send_no_exit(bed: &Bed) -> Outcome {
    let id = bed.id();
    bed.ctr(&bed.run_words(&id, &["--rm"], &["no-such-program"]))?.exited(1)?;
    std::thread::sleep(std::time::Duration::from_secs(1));
    let events = bed.containerd.events(|events| Ok(events.of(&id)))?;
    let topics = integration::events::topics(&events);
    ensure!(!topics.contains(&"create") && !topics.contains(&"start"), "the events are {topics:?}");
    Ok(())
}

fn main() {
    suite::run(
        "failures",
        cases![
            missing_from_path,
            missing_file,
            directory,
            below_a_file,
            without_x_bit,
            cwd_that_is_a_file,
            user_that_does_not_exist,
            missing_loader,
            wrong_architecture,
            script_without_interpreter,
            file_without_magic,
            failure_of_start_is_reported_by_start,
            missing_bind_source,
            unknown_mount_type,
            name_of_a_failed_container_is_free_again,
            exec_of_a_missing_program,
            failures_send_no_exit,
        ],
    );
}
