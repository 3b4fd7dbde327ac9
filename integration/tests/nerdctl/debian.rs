//! Debian's image: what busybox does not ask of a runtime.

use integration::debian::{self, IMAGE, SCRIPT};
use integration::nerdctl::{self, Nerdctl};
use integration::{Bed, Outcome, ensure};

/// From a file, as `nerdctl save` and others write them.
pub fn load(n: &Nerdctl) -> Outcome {
    n.call(&["load", "--input", &debian::archive()])?.ok()?;
    Ok(())
}

pub fn debian_programs(bed: &Bed) -> Outcome {
    nerdctl::with(bed, |n| {
        load(n)?;
        let name = n.name("script");
        let flags = ["--rm", "--network", "none", "--name", &name];
        debian::says(&n.call(&n.run_words_of(IMAGE, &flags, &["bash", "-c", SCRIPT]))?.ok()?)?;
        let name = n.name("user");
        let flags = ["--rm", "--network", "none", "--name", &name, "--user", "user"];
        n.call(&n.run_words_of(IMAGE, &flags, &["bash", "-c", "id; id-of-root -u"]))?
            .ok()?
            .says("uid=1000(user) gid=1000(user) groups=1000(user),2000(extra)\n0\n")?;
        Ok(())
    })
}

pub fn debian_job_control(bed: &Bed) -> Outcome {
    nerdctl::with(bed, |n| {
        load(n)?;
        let name = n.name("tty");
        let flags = ["-it", "--network", "none", "--name", &name];
        let mut run = n.terminal(&n.run_words_of(IMAGE, &flags, &["bash"]))?;
        run.wait_for("# ", integration::containerd::LIMIT)?;
        let mut exec = n.terminal(&["exec", "-it", &name, "bash"])?;
        // `nerdctl exec` ends with 1 whatever the code was.
        for (terminal, wanted) in [(&mut exec, 1), (&mut run, 7)] {
            let code = debian::job_control(terminal)?;
            ensure!(code == wanted, "the client ended with {code}, not {wanted}");
        }
        Ok(())
    })
}
