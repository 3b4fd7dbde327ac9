//! Measures mini beside its peers, all in one run on one machine, in turns. `scripts/bench` prepares and starts it.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use bench::bed::Bed;
use bench::report::Report;
use bench::{Outcome, alone, daemon, group, life, memory, stdio};

type Case = (&'static str, fn(&Bed, &mut Report) -> Outcome);

const CASES: &[Case] = &[
    ("life", life::plain),
    ("life-seccomp", life::seccomp),
    ("member", life::member),
    ("exec", life::exec),
    ("exec-seccomp", life::exec_seccomp),
    ("ctr-run", daemon::run),
    ("alone", alone::run),
    ("calls", alone::calls),
    ("idle", memory::idle),
    ("pods", memory::pods),
    ("ask", memory::ask),
    ("sizes", memory::sizes),
    ("stdio", stdio::through),
    ("unread", stdio::unread),
    ("parallel", life::parallel),
    ("ctr-parallel", daemon::parallel),
    ("probes", memory::probes),
];

fn main() -> ExitCode {
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    let quick = words.iter().any(|word| word == "--quick");
    words.retain(|word| word != "--quick");
    if let Some(unknown) = words.iter().find(|word| !CASES.iter().any(|case| case.0 == **word)) {
        let names: Vec<&str> = CASES.iter().map(|case| case.0).collect();
        eprintln!("bench: no case {unknown}; there are: {}", names.join(" "));
        return ExitCode::from(2);
    }
    match run(&words, quick) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the cases; whether all of them could be measured.
fn run(only: &[String], quick: bool) -> Outcome<bool> {
    let dir = tempfile::Builder::new().prefix("mini-bench-").tempdir_in("/run")?;
    let bed = Bed::new(dir.path(), quick)?;
    let mut report = Report::default();
    let out = std::env::var_os("MINI_BENCH_OUT").map_or_else(|| PathBuf::from("target/bench"), PathBuf::from);
    let mut complete = true;
    for (name, case) in CASES.iter().filter(|case| only.is_empty() || only.iter().any(|word| word == case.0)) {
        eprintln!("bench: {name}");
        if let Err(error) = case(&bed, &mut report) {
            report.note(format!("{name} failed: {error}"));
            complete = false;
            bed.groups.iter().try_for_each(group::Group::clear)?;
        }
        // A run that is stopped leaves what it has.
        report.write(&out, &head(&bed)?)?;
    }
    let table = report.write(&out, &head(&bed)?)?;
    println!("{table}");
    println!("written to {}", out.display());
    Ok(complete)
}

/// What a reader has to know of the run.
fn head(bed: &Bed) -> Outcome<String> {
    let uname = rustix::system::uname();
    let load = std::fs::read_to_string("/proc/loadavg")?;
    let cores = std::thread::available_parallelism()?;
    let kind =
        if bed.quick { "a quick run: it shows that everything works, its figures mean nothing" } else { "medians" };
    Ok(format!(
        "Made by `scripts/bench` ({kind}; in brackets mini's share of the peer's value with its 95 % interval). \
         Linux {}, {cores} cores, load at the end {}.\n",
        uname.release().to_string_lossy(),
        load.split(' ').next().unwrap_or_default(),
    ))
}
