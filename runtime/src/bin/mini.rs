//! `mini`: the runtime of containerd-shim-mini-v2 on the command line, in runc's shape.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), no_main)]

#[path = "../cli/mod.rs"]
mod cli;

runtime::entry!(run);

fn run() -> u8 {
    // Inherited by every child until its execve: a process of the container may not trace it or look into its descriptors
    // (CVE-2016-9962). Refusal is not known to happen, and would leave us as we were.
    let _kept = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    cli::main()
}
