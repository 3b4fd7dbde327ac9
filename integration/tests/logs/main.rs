//! Logs and streams when something goes wrong: readers, loggers, disks and containerd itself that stop, die or come back.
//! Nothing blocks for ever, nothing is lost that somebody could still receive, nothing is reordered.

mod loggers;
mod speed;
mod trouble;

use integration::{cases, suite};
use loggers::*;
use speed::*;
use trouble::*;

fn main() {
    suite::run_with(
        "logs",
        cases![
            logger_that_is_never_ready,
            logger_that_hangs,
            disk_full_at_a_file,
            everything_through_a_fifo,
            everything_into_a_file,
            everything_through_a_logger,
            everything_through_a_terminal,
            reader_that_stops_dies_and_comes_back,
            grandchild_that_keeps_the_pipe,
            logger_that_is_slow_gets_the_tail,
            logger_that_crashes_at_once,
            logger_that_crashes_midway,
            logger_that_does_not_exist,
            short_lives_lose_no_line,
        ],
        cases![containerd_down_under_writers],
    );
}
