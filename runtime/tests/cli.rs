//! `mini` as a program, as root on a real kernel. Where runc has the same promise the same test also runs on runc, which
//! checks the test; what is mini's alone says so in [`tests`].
//!
//! busybox and runc come from `scripts/testbed` (`MINI_TESTBED`, else /var/cache/mini-testbed).
#![forbid(unsafe_code)]

#[path = "cli/bench.rs"]
mod bench;
#[path = "cli/config.rs"]
mod config;
#[path = "cli/exec.rs"]
mod exec;
#[path = "cli/filter.rs"]
mod filter;
#[path = "cli/life.rs"]
mod life;
#[path = "cli/statistics.rs"]
mod statistics;
#[path = "cli/straits.rs"]
mod straits;
#[path = "cli/terminal.rs"]
mod terminal;

use bench::Bench;
use libtest_mimic::{Arguments, Trial};

type Test = (&'static str, fn(&Bench));

/// What runc promises, too.
const BOTH: &[Test] = &[
    ("exit_codes", life::exit_codes),
    ("streams", life::streams),
    ("states", life::states),
    ("ids", life::ids),
    ("delete", life::delete),
    ("kill", life::kill),
    ("any_umask", life::any_umask),
    ("list", life::list),
    ("pause", life::pause),
    ("killed_without_a_pid_namespace", life::killed_without_a_pid_namespace),
    ("killed_before_its_start", life::killed_before_its_start),
    ("killed_while_paused", life::killed_while_paused),
    ("stranger_below_its_group", life::stranger_below_its_group),
    ("no_limit_for_processes", life::no_limit_for_processes),
    ("update_and_statistics", life::update_and_statistics),
    ("events_without_an_oom_killer", life::events_without_an_oom_killer),
    ("update_that_is_refused", life::update_that_is_refused),
    ("update_leaves_the_devices", life::update_leaves_the_devices),
    ("exec_into_a_full_group", life::exec_into_a_full_group),
    ("log", life::log),
    ("options_after_the_id", life::options_after_the_id),
    ("preserved_descriptors", life::preserved_descriptors),
    ("sockets_of_a_service_manager", life::sockets_of_a_service_manager),
    ("signals_are_passed_on", life::signals_are_passed_on),
    ("failed_creates_leave_nothing", life::failed_creates_leave_nothing),
    ("spec", life::spec),
    ("exec_options", exec::options),
    ("exec_in_groups_below", exec::in_groups_below),
    ("exec_file", exec::file),
    ("systemd_is_asked_only_where_it_runs", life::systemd_is_asked_only_where_it_runs),
    ("exec_detached", exec::detached),
    ("exec_failures", exec::failures),
    ("exec_capabilities", exec::capabilities),
    ("console_socket", terminal::console_socket),
    ("terminal_rules", terminal::rules),
    ("console_in_a_read_only_dev", terminal::console_in_a_read_only_dev),
    ("foreground_terminal", terminal::foreground),
    ("destinations_behind_links_that_dangle", config::destinations_behind_links_that_dangle),
    ("mounts_below_what_a_link_leads_to", config::mounts_below_what_a_link_leads_to),
    ("long_options_of_file_systems", config::long_options_of_file_systems),
    ("remounts_change_file_systems", config::remounts_change_file_systems),
    ("options_that_fsconfig_does_not_take", config::options_that_fsconfig_does_not_take),
    ("directories_below_masks", config::directories_below_masks),
    ("masks_hold_under_what_covers_their_mounts", config::masks_hold_under_what_covers_their_mounts),
    ("working_directory_in_a_read_only_path", config::working_directory_in_a_read_only_path),
    ("root_in_read_only_paths", config::root_in_read_only_paths),
    ("modes_of_temporary_file_systems", config::modes_of_temporary_file_systems),
    ("access_times_that_nobody_chooses", config::access_times_that_nobody_chooses),
    ("second_version_by_name", config::second_version_by_name),
    ("environment_of_hooks_in_the_container", config::environment_of_hooks_in_the_container),
    ("terminal_in_a_joined_user_namespace", config::terminal_in_a_joined_user_namespace),
    ("volumes_beside_joined_user_and_pid_namespaces", config::volumes_beside_joined_user_and_pid_namespaces),
    ("network_of_the_host_beside_a_joined_user_namespace", config::network_of_the_host_beside_a_joined_user_namespace),
    ("fields_that_ask_for_nothing", config::fields_that_ask_for_nothing),
    ("user_namespace_that_forbids_setgroups", config::user_namespace_that_forbids_setgroups),
    ("sysctls_are_not_for_the_network_of_the_host", config::sysctls_are_not_for_the_network_of_the_host),
    ("surroundings_of_hooks", config::surroundings_of_hooks),
    ("hooks_speak_to_nobody", config::hooks_speak_to_nobody),
    ("poststop_hooks_of_what_has_failed", config::poststop_hooks_of_what_has_failed),
    ("what_is_bound_over_devices", config::what_is_bound_over_devices),
    ("devices_that_are_there", config::devices_that_are_there),
    ("listener_of_a_create", config::listener_of_a_create),
    ("listener_of_an_exec", filter::listener_of_an_exec),
    ("hooks_where_clone3_is_forbidden", filter::hooks_where_clone3_is_forbidden),
    ("nothing_is_allowed", filter::nothing_is_allowed),
    ("oom_score_of_an_exec", config::oom_score_of_an_exec),
    ("cpus_of_an_exec", config::cpus_of_an_exec),
];

/// What is only true of mini, with the reason.
const OURS: &[Test] = &[
    ("killed_and_deleted", life::killed_and_deleted),
    // runc waits until somebody lets it go on
    ("exec_that_is_stopped", life::exec_that_is_stopped),
    // runc's exec reads the bundle again
    ("changes_after_the_create", config::changes_after_the_create),
    // runc follows whatever is there
    ("remounts_change_none_of_the_host", config::remounts_change_none_of_the_host),
    // runc opens it
    ("passwd_that_is_no_file", config::passwd_that_is_no_file),
    // runc has no other way
    ("sysfs_where_a_part_is_covered", config::sysfs_where_a_part_is_covered),
    // runc's init has threads
    ("one_process_in_a_user_namespace", config::one_process_in_a_user_namespace),
    // runc forgets the shares with the kernel
    ("update_of_an_idle_group", life::update_of_an_idle_group),
    // Takes runc along, to compare
    ("statistics_are_those_of_runc", statistics::as_runc),
    // runc takes "+1" and says nothing of "1:"
    ("exec_users_are_exact", exec::users_are_exact),
    // runc has no plan
    ("plan_needs_no_privileges", life::plan_needs_no_privileges),
    // runc has rootless mode
    ("what_is_not_implemented_is_refused", life::what_is_not_implemented_is_refused),
    // runc answers both starts of a race at times
    ("one_of_many_starts_wins", life::one_of_many_starts_wins),
    // runc's own start needs more descriptors than some of these allow
    ("create_without_descriptors", straits::create_without_descriptors),
    ("exec_without_descriptors", straits::exec_without_descriptors),
    ("nobody_is_taken_for_dead", straits::nobody_is_taken_for_dead),
    ("delete_of_a_create_that_was_killed", straits::delete_of_a_create_that_was_killed),
    ("list_tells_of_a_broken_record", straits::list_tells_of_a_broken_record),
    // how far mini reads the table of mounts
    ("many_mounts", straits::many_mounts),
    // runc keeps other files
    ("create_without_space", straits::create_without_space),
    // runc ignores the rest of a command line with --process
    ("exec_file_excludes_options", exec::file_excludes_options),
];

fn main() {
    let mut arguments = Arguments::from_args();
    // They count processes and groups of the host; and two cores are no place for races with each other.
    arguments.test_threads.get_or_insert(2);
    let bed = bench::testbed();
    let peer = bed.join("c2.1/bin/runc");
    let mini = std::path::PathBuf::from(env!("CARGO_BIN_EXE_mini"));
    let on = |program: &std::path::Path, runtime: &str, tests: &[Test]| {
        let program = program.to_owned();
        let runtime = runtime.to_owned();
        let make = move |(name, test): &Test| {
            let (program, test, short) = (program.clone(), *test, *name);
            Trial::test(format!("{runtime}::{short}"), move || {
                test(&Bench::new(&program, short));
                Ok(())
            })
        };
        tests.iter().map(make).collect::<Vec<_>>()
    };
    let mut trials = on(&mini, "mini", BOTH);
    trials.extend(on(&mini, "mini", OURS));
    trials.extend(on(&peer, "runc", BOTH));
    libtest_mimic::run(&arguments, trials).exit();
}
