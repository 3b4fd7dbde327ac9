//! containerd itself: replaced by another version, two of them side by side, its clients' rarer calls.

mod client;
mod image;
mod record;
mod several;
mod upgrade;
mod verbs;

use client::{
    library_cancels, library_cancels_creates, library_copies, library_deletes_what_never_ran, library_kills,
    library_reattaches, library_waits,
};
use image::{many_layers, snapshots_with_mapped_owners};
use integration::{cases, suite};
use record::record_of_another_form;
use several::{same_id_in_two_namespaces, same_id_under_two_daemons};
use upgrade::{
    attached_client_across_the_upgrade, containers_run_on_under_another_version, exit_during_the_upgrade_is_reported,
};
use verbs::{checkpoint_is_refused, restart_labels, shim_commands, shims_log_at_containerds_level};

fn main() {
    suite::run_with(
        "daemon",
        cases![
            library_copies,
            library_waits,
            library_cancels,
            library_cancels_creates,
            library_kills,
            library_deletes_what_never_ran,
            library_reattaches,
            many_layers,
            snapshots_with_mapped_owners,
            checkpoint_is_refused,
            restart_labels,
            shim_commands,
        ],
        cases![
            containers_run_on_under_another_version,
            exit_during_the_upgrade_is_reported,
            attached_client_across_the_upgrade,
            same_id_in_two_namespaces,
            same_id_under_two_daemons,
            shims_log_at_containerds_level,
            record_of_another_form,
        ],
    );
}
