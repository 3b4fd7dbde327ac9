//! What cannot be run: the words docker shows and the exit codes it makes of them.

use integration::{Docker, Outcome, ensure};

/// `docker run` fails with the code and the words, and what it left can be inspected and removed.
fn fails(docker: &Docker, flags: &[&str], program: &str, code: i32, words: &str) -> Outcome {
    fails_as(docker, flags, program, (code, code), words)
}

/// The same with two codes: the client's, which knows of 126 and 127 by fewer words, and the container's state's.
fn fails_as(docker: &Docker, flags: &[&str], program: &str, (client, state): (i32, i32), words: &str) -> Outcome {
    let output = docker.run(flags, &[program])?.exited(client)?.failed_with(words)?;
    ensure!(output.stdout.is_empty(), "{}", output.report());
    let id = docker.id();
    let flags = [&["--name", &id], flags].concat();
    docker.docker(&docker.words("create", &flags, &[program]))?.ok()?;
    docker.docker(&["start", &id])?.exited(1)?.failed_with(words)?;
    let now = docker.inspect(&id, "{{.State.Status}} {{.State.ExitCode}} {{.State.Pid}}")?;
    ensure!(now == format!("created {state} 0"), "the state of {program} is {now:?}");
    let error = docker.inspect(&id, "{{.State.Error}}")?;
    ensure!(error.contains(words), "the state has the error {error:?}");
    docker.docker(&["rm", &id])?.ok()?;
    Ok(())
}

pub fn missing_from_path(docker: &Docker) -> Outcome {
    fails(docker, &[], "no-such-program", 127, r#"exec: "no-such-program": executable file not found in $PATH"#)
}

pub fn missing_file(docker: &Docker) -> Outcome {
    fails(docker, &[], "/no/such/file", 127, r#"exec: "/no/such/file": stat /no/such/file: no such file or directory"#)
}

pub fn below_a_file(docker: &Docker) -> Outcome {
    fails_as(docker, &[], "/etc/passwd/program", (125, 127), "not a directory")
}

pub fn directory(docker: &Docker) -> Outcome {
    fails(docker, &[], "/bin", 126, r#"exec: "/bin": is a directory"#)
}

pub fn without_x_bit(docker: &Docker) -> Outcome {
    fails(docker, &[], "/broken/no-x-bit", 126, r#"exec: "/broken/no-x-bit": permission denied"#)
}

pub fn cwd_that_is_a_file(docker: &Docker) -> Outcome {
    // docker itself looks first.
    docker.run(&["--workdir", "/etc/passwd"], &["true"])?.exited(125)?.failed_with("not a directory")?;
    Ok(())
}

pub fn user_that_does_not_exist(docker: &Docker) -> Outcome {
    docker.run(&["--user", "nobody-there"], &["true"])?.exited(125)?.failed_with("unable to find user nobody-there")?;
    Ok(())
}

pub fn found_out_by_execve(docker: &Docker) -> Outcome {
    for (program, on_mini, words) in [
        ("/broken/no-loader", 127, "no such file or directory"),
        ("/broken/no-interpreter", 127, "no such file or directory"),
        ("/broken/wrong-arch", 125, "exec format error"),
        ("/broken/no-magic", 125, "exec format error"),
    ] {
        // runc's container has begun by then: its log has the message, and it ends with 255 (integration/exceptions.md).
        let code = if docker.on_mini() { on_mini } else { 255 };
        let output = docker.run(&[], &[program])?.exited(code)?.failed_with(words)?;
        ensure!(output.errors().contains(program), "the program is not named\n{}", output.report());
    }
    Ok(())
}

pub fn bad_option_of_the_client(docker: &Docker) -> Outcome {
    docker.docker(&["run", "--no-such-option", integration::docker::IMAGE])?.exited(125)?;
    docker.docker(&["run", "--pull", "never", "no-such-image"])?.exited(125)?.failed_with("No such image")?;
    Ok(())
}

pub fn mount_on_the_wrong_kind(docker: &Docker) -> Outcome {
    let directory = docker.directory("bind")?;
    let file = directory.join("file");
    std::fs::write(&file, "")?;
    // docker adds the question when it reads ENOTDIR's words.
    let question = "Are you trying to mount a directory onto a file (or vice-versa)?";
    for bind in [format!("{}:/etc/passwd", directory.display()), format!("{}:/etc", file.display())] {
        let output = docker.run(&["-v", &bind], &["true"])?.exited(125)?;
        output.failed_with("not a directory")?.failed_with(question)?;
    }
    docker.run(&["--tmpfs", "/etc/passwd"], &["true"])?.exited(125)?.failed_with("not a directory")?;
    Ok(())
}

pub fn unknown_runtime(docker: &Docker) -> Outcome {
    let words = ["run", "--rm", "--runtime", "io.containerd.no-such.v2", integration::docker::IMAGE, "true"];
    let output = docker.docker(&words)?.exited(125)?;
    ensure!(output.errors().contains("no-such"), "{}", output.report());
    Ok(())
}

pub fn of_exec(docker: &Docker) -> Outcome {
    let id = docker.sleeper(&[])?;
    for (program, code, words) in [
        ("no-such-program", 127, r#"exec: "no-such-program": executable file not found in $PATH"#),
        ("/no/such/file", 127, r#"exec: "/no/such/file": stat /no/such/file: no such file or directory"#),
        ("/bin", 126, r#"exec: "/bin": is a directory"#),
        ("/broken/no-x-bit", 126, r#"exec: "/broken/no-x-bit": permission denied"#),
        ("/etc/passwd/program", 127, "not a directory"),
    ] {
        let output = docker.docker(&["exec", &id, program])?.exited(code)?;
        // docker prints the failure of an exec on stdout, where the program's words would have been.
        let said = output.text() + &output.errors();
        ensure!(said.contains("OCI runtime exec failed: exec failed: ") && said.contains(words), "{}", output.report());
    }
    docker.exec(&[], &id, "echo still works")?.ok()?.says("still works\n")?;
    Ok(())
}

pub fn name_is_free_again(docker: &Docker) -> Outcome {
    let id = docker.id();
    docker.docker(&docker.words("run", &["--rm", "--name", &id], &["/no/such/file"]))?.exited(127)?;
    docker.docker(&docker.words("run", &["--rm", "--name", &id], &["echo", "second"]))?.ok()?.says("second\n")?;
    Ok(())
}
