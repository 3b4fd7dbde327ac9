//! `mini`: the runtime of containerd-shim-mini-v2 on the command line, in runc's shape.
#![forbid(unsafe_code)]

#[path = "../cli/mod.rs"]
mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
