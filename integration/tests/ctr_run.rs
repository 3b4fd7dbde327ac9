//! `ctr run` and its options.

use integration::{Bed, Outcome, cases, ensure, suite};

fn says_hello(bed: &Bed) -> Outcome {
    bed.run(&[], &["echo", "hello"])?.ok()?.says("hello\n")?;
    Ok(())
}

fn exit_code_7(bed: &Bed) -> Outcome {
    let output = bed.sh(&[], "exit 7")?.exited(7)?;
    ensure!(output.stdout.is_empty(), "{}", output.report());
    Ok(())
}

fn main() {
    suite::run("ctr_run", cases![says_hello, exit_code_7]);
}
