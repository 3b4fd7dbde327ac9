//! `docker` and dockerd with mini below them, and with runc to check the tests.

use integration::{docker, docker_cases, suite};

mod again;
mod compose;
mod daemon;
mod debian;
mod docs;
mod errors;
mod exec;
mod isolation;
mod limits;
mod logs;
mod network;
mod phases;
mod run;
mod state;

fn main() {
    suite::run_prepared(
        "docker",
        docker::prepare,
        docker_cases![
            logs::nothing_lost_of_short_lives,
            run::output_errors_and_exit_codes,
            run::stdin_is_passed_to_its_end,
            run::create_start_restart_rm,
            run::start_attached_shows_each_life,
            run::kill_and_stop_codes,
            run::codes_of_an_attached_client,
            run::signals_of_the_client_are_passed_on,
            run::terminal,
            run::detach_and_attach_again,
            run::attach_without_a_terminal,
            run::inspect_of_a_life,
            run::shim_is_the_one_asked_for,
            logs::both_streams_tail_and_timestamps,
            logs::follow_to_the_end,
            logs::since_and_until,
            logs::follow_from_a_point,
            logs::much_output_arrives_unchanged,
            logs::equal_checksums,
            logs::local_driver_and_none,
            exec::output_errors_and_exit_codes,
            exec::user_cwd_and_environment,
            exec::privileged,
            exec::terminal,
            exec::detach_keys_leave_it_running,
            exec::detached,
            exec::stdin_is_passed_to_its_end,
            exec::many_at_once,
            exec::ends_with_its_container,
            again::names_used_again_at_once,
            again::failed_start_with_rm_leaves_nothing,
            again::restarts_are_counted,
            again::two_clients_attached,
            again::copies_of_one_that_runs_and_one_that_does_not,
            again::commit_with_and_without_pause,
            again::disk_usage_and_prune,
            phases::state_field_by_field,
            phases::every_event_of_a_life,
            limits::each_flag_in_the_files,
            limits::what_dockerd_refuses,
            limits::update_of_every_field,
            limits::stats_are_what_the_files_say,
            limits::block_weight,
            state::pause_and_unpause,
            state::limits_and_their_update,
            state::stats,
            state::top,
            debian::programs_of_glibc,
            debian::job_control,
            debian::setuid_program,
            debian::installer_image,
            state::copy_diff_and_commit,
            state::events_in_order,
            state::events_as_they_come,
            state::stats_as_they_come,
            state::out_of_memory,
            state::restart_policies,
            state::health_checks,
            isolation::namespaces_of_the_host,
            isolation::namespaces_of_another_container,
            isolation::kinds_of_ipc_and_uts,
            isolation::hostname_and_files_of_docker,
            isolation::volumes_binds_and_tmpfs,
            isolation::propagation_of_volumes,
            isolation::devices,
            isolation::capabilities_added_and_dropped,
            isolation::seccomp_and_no_new_privileges,
            isolation::sysctls_and_ulimits,
            isolation::read_only_root,
            isolation::init_reaps,
            isolation::user_groups_workdir_and_entrypoint,
            network::published_ports,
            network::published_udp,
            network::user_network_with_names,
            network::network_of_another_container,
            network::none_and_host,
            compose::three_services,
            compose::pushed_and_pulled,
            errors::missing_from_path,
            errors::missing_file,
            errors::below_a_file,
            errors::directory,
            errors::without_x_bit,
            errors::cwd_that_is_a_file,
            errors::user_that_does_not_exist,
            errors::found_out_by_execve,
            errors::bad_option_of_the_client,
            errors::mount_on_the_wrong_kind,
            errors::unknown_runtime,
            errors::of_exec,
            errors::name_is_free_again,
        ],
        docker_cases![
            docs::commands,
            daemon::default_runtime_and_build,
            daemon::containerd_of_its_own,
            daemon::runtimes_with_options,
            daemon::live_restore,
            daemon::ends_while_dockerd_is_away,
            daemon::policies_at_a_restart_of_dockerd,
            daemon::user_namespaces,
            daemon::containerd_image_store,
        ],
    );
}
