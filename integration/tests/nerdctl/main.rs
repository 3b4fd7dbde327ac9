//! nerdctl: what its users do, on a stock release.

mod compose;
mod debian;
mod networks;
mod rootless;
mod streams;
mod verbs;

use compose::*;
use debian::*;
use integration::{cases, suite};
use networks::*;
use rootless::without_root;
use streams::*;
use verbs::*;

fn main() {
    suite::run_with(
        "nerdctl",
        cases![
            restart_policies,
            compose_with_three_services,
            burst_before_the_exit_is_logged_whole,
            short_lives_lose_no_line,
            stop_kill_wait_restart,
            detach_and_attach_again,
            push_and_pull,
            output_and_exit_codes,
            stdin_arrives_and_ends,
            stdin_may_end_before_the_container_runs,
            terminal,
            logs_of_a_detached_container,
            logs_are_followed_to_the_end,
            logs_of_a_terminal,
            exec,
            create_start_rename_remove,
            pause_and_unpause,
            stats_top_and_inspect,
            limits_and_updates,
            memory_limit_kills,
            copies_and_commits,
            events,
            health_checks,
            identity_and_confinement,
            namespaces_of_others,
            rootfs_of_ones_own,
            published_ports,
            published_udp,
            networks_of_ones_own,
            network_of_another_of_the_host_and_none,
            volumes,
            debian_programs,
            debian_job_control,
        ],
        cases![without_root],
    );
}
