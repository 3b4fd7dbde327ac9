//! `mini`: the runtime of containerd-shim-mini-v2 on the command line, in runc's shape.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), no_main)]

#[path = "../cli/mod.rs"]
mod cli;

runtime::entry!(cli::main);
