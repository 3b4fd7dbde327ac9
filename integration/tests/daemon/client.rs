//! containerd's Go library, by `integration/client`: what its users see of streams, waits and cancelled calls.

use integration::containerd::{IMAGE, SOCKET, testbed};
use integration::{Bed, Outcome, client};
use std::time::Duration;

/// Ten lives of a task take a busy machine its time; the client gives up by itself a little earlier.
const LIMIT: Duration = Duration::from_secs(120);

/// One test of the client, on a container of its own.
fn call(bed: &Bed, test: &str) -> Outcome {
    let program = testbed().join("client/bin/client").display().to_string();
    let id = bed.id();
    let words = [&program, SOCKET, &bed.containerd.namespace, bed.runtime().name(), IMAGE, &id, test];
    let command = bed.containerd.host.command(Some(LIMIT), &[], &words);
    client::start(command, format!("client {test}"), LIMIT)?.wait()?.ok()?;
    Ok(())
}

pub fn library_copies(bed: &Bed) -> Outcome {
    call(bed, "streams")
}

pub fn library_waits(bed: &Bed) -> Outcome {
    call(bed, "wait")
}

pub fn library_cancels(bed: &Bed) -> Outcome {
    call(bed, "cancel")
}

pub fn library_cancels_creates(bed: &Bed) -> Outcome {
    call(bed, "create")
}

pub fn library_kills(bed: &Bed) -> Outcome {
    call(bed, "kill")
}

pub fn library_deletes_what_never_ran(bed: &Bed) -> Outcome {
    call(bed, "unstarted")
}

pub fn library_reattaches(bed: &Bed) -> Outcome {
    call(bed, "reattach")
}
