//! The shim tells the truth about deaths: each row of a labelled corpus is staged with a real shim on a real kernel, on
//! whichever version of control groups this machine has, and what the shim's log says of it is compared. Needs root.
//! Ends with the corpus as a table.

#[allow(dead_code, reason = "the service's tests use the rest of it")]
#[path = "../service/bed.rs"]
mod bed;
mod corpus;
mod stage;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use libtest_mimic::{Arguments, Trial};
use runtime::cgroup::Layout;

use corpus::CORPUS;
use stage::Stage;

fn main() {
    let arguments = Arguments::from_args();
    let unified = Layout::read().unwrap().is_unified();
    let table = Arc::new(Mutex::new(Vec::new()));
    let staged = CORPUS.iter().enumerate().filter(|(_, death)| if unified { !death.only_v1 } else { !death.only_v2 });
    let trials = staged.map(|(number, death)| {
        let table = Arc::clone(&table);
        Trial::test(death.name, move || {
            let play = async {
                tokio::time::timeout(Duration::from_secs(100), Stage::play(number, death)).await.expect("it hangs")
            };
            let row =
                tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build().unwrap().block_on(play);
            table.lock().unwrap().push((number, row));
            Ok(())
        })
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    let mut rows = std::mem::take(&mut *table.lock().unwrap());
    rows.sort_unstable();
    println!("\n| death | cgroup | TaskOOM | init | exec |\n|---|---|---|---|---|");
    for (number, row) in rows {
        println!("| {} | {} | {row} |", CORPUS[number].name, if unified { "v2" } else { "v1" });
    }
    conclusion.exit();
}
