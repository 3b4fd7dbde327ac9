//! containerd itself: replaced by another version, two of them side by side, its clients' rarer calls.

mod image;
mod record;
mod several;
mod upgrade;
mod verbs;

use image::{many_layers, snapshots_with_mapped_owners};
use integration::{cases, suite};
use record::record_of_another_form;
use several::{same_id_in_two_namespaces, same_id_under_two_daemons};
use upgrade::{containers_run_on_under_another_version, exit_during_the_upgrade_is_reported};
use verbs::{checkpoint_is_refused, shim_commands, shims_log_at_containerds_level};

fn main() {
    suite::run_with(
        "daemon",
        cases![many_layers, snapshots_with_mapped_owners, checkpoint_is_refused, shim_commands,],
        cases![
            containers_run_on_under_another_version,
            exit_during_the_upgrade_is_reported,
            same_id_in_two_namespaces,
            same_id_under_two_daemons,
            shims_log_at_containerds_level,
            record_of_another_form,
        ],
    );
}
