//! Measures mini beside its peers, all in one run on one machine, in turns. `scripts/bench` prepares and starts it.
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::Instant;

use bench::bed::{Bed, Length};
use bench::report::Report;
use bench::{Outcome, alone, daemon, exec, flame, group, guest, life, memory, poll, probes, stdio};

type Case = (&'static str, fn(&Bed, &mut Report) -> Outcome);

const CASES: &[Case] = &[
    ("life", life::plain),
    ("life-seccomp", life::seccomp),
    ("member", exec::member),
    ("exec", exec::plain),
    ("exec-seccomp", exec::seccomp),
    ("ctr-run", daemon::run),
    ("alone", alone::run),
    ("calls", alone::calls),
    ("calls-v2", guest::calls),
    ("idle", memory::idle),
    ("pods", memory::pods),
    ("ask", poll::ask),
    ("poll", poll::every_second),
    ("sizes", memory::sizes),
    ("stdio", stdio::through),
    ("unread", stdio::unread),
    ("parallel", life::parallel),
    ("ctr-parallel", daemon::parallel),
    ("probes", probes::probes),
];

fn main() -> ExitCode {
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    if words.first().is_some_and(|word| word == "flame") {
        return flame(&words[1..]);
    }
    let has = |words: &[String], flag: &str| words.iter().any(|word| word == flag);
    let length = match (has(&words, "--quick"), has(&words, "--long")) {
        (true, _) => Length::Quick,
        (_, true) => Length::Long,
        _ => Length::Normal,
    };
    words.retain(|word| !["--quick", "--long"].contains(&word.as_str()));
    if let Some(unknown) = words.iter().find(|word| !CASES.iter().any(|case| case.0 == **word)) {
        let names: Vec<&str> = CASES.iter().map(|case| case.0).collect();
        eprintln!("bench: no case {unknown}; there are: {}", names.join(" "));
        return ExitCode::from(2);
    }
    match run(&words, length) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the cases; whether all of them could be measured.
fn run(only: &[String], length: Length) -> Outcome<bool> {
    let dir = tempfile::Builder::new().prefix("mini-bench-").tempdir_in("/run")?;
    let mut bed = Bed::new(dir.path(), length)?;
    let mut report = Report::default();
    let mut complete = true;
    // A peer that does not work on this machine would end every case.
    for name in bed.peers.iter().map(|peer| peer.name).collect::<Vec<_>>() {
        let (peer, group) = bed.peer(name).ok_or("no such peer")?;
        if name != "mini"
            && let Err(error) = life::once(&bed, peer, group)
        {
            report.note(format!("{name} is left out: {error}"));
            bed.leave_out(name)?;
        }
    }
    let out = bed.out.clone();
    for (name, case) in CASES.iter().filter(|case| only.is_empty() || only.iter().any(|word| word == case.0)) {
        let started = Instant::now();
        let mut done = case(&bed, &mut report);
        if let Err(error) = &done {
            // What peers do now and then under load shall not cost the case: once more, after what there is.
            report.note(format!("{name} once more: {error}"));
            report.level(name);
            bed.groups.iter().try_for_each(group::Group::clear)?;
            done = case(&bed, &mut report);
        }
        eprintln!("bench: {name}: {} s", started.elapsed().as_secs());
        if let Err(error) = done {
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

/// `bench flame [PROGRAM…]`: perf script's output on stdin becomes a flame graph of all but these programs on stdout.
fn flame(programs: &[String]) -> ExitCode {
    let programs: Vec<&str> = programs.iter().map(String::as_str).collect();
    match std::io::read_to_string(std::io::stdin()) {
        Ok(script) => {
            print!("{}", flame::graph(&script, &programs));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("bench: flame: standard input: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What a reader has to know of the run.
fn head(bed: &Bed) -> Outcome<String> {
    let uname = rustix::system::uname();
    let load = std::fs::read_to_string("/proc/loadavg")?;
    let cores = std::thread::available_parallelism()?;
    let kind = match bed.length {
        Length::Quick => "a quick run: it shows that everything works, its figures mean nothing",
        Length::Normal => "medians",
        Length::Long => "a long run; medians",
    };
    Ok(format!(
        "Made by `scripts/bench` ({kind}; in brackets mini's share of the peer's value with its 95 % interval). \
         Linux {}, {cores} cores, load at the end {}.\n",
        uname.release().to_string_lossy(),
        load.split(' ').next().unwrap_or_default(),
    ))
}
