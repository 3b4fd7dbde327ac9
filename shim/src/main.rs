//! A containerd shim v2 whose container runtime is inside: see `boot` for how it is called and `service` for what it does.

#![forbid(unsafe_code)]
#![cfg_attr(not(test), no_main)]

mod boot;
mod connection;
mod convert;
mod events;
mod metrics;
mod options;
mod pod;
mod ready;
mod reap;
mod rootfs;
mod service;
mod stdio;
mod task;
mod worker;

use boot::{Action, Flags};

runtime::entry!(run);

fn run() -> u8 {
    let flags = match Flags::parse(std::env::args_os().skip(1)) {
        Ok(flags) => flags,
        Err(usage) => {
            eprintln!("{usage}");
            // As Go's flag package ends.
            return 2;
        }
    };
    let done = match flags.action {
        Action::Help => boot::help(),
        Action::Version => boot::version(),
        Action::Info => boot::info(),
        Action::Start => boot::start(&flags),
        Action::Delete => boot::delete(&flags),
        Action::Serve => return serve(&flags),
    };
    end(done.map_err(|e| e.to_string()))
}

/// The daemon. From `settle` on, descriptor 2 and the log are containerd's.
fn serve(flags: &Flags) -> u8 {
    match boot::settle(flags) {
        Ok(Some(args)) => end(service::serve(args).map_err(|e| e.to_string())),
        Ok(None) => 0,
        Err(error) => end(Err(error.to_string())),
    }
}

/// What is written to standard error becomes the text of containerd's own error.
fn end(result: Result<(), String>) -> u8 {
    match result {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("containerd-shim-mini-v2: {error}");
            1
        }
    }
}
