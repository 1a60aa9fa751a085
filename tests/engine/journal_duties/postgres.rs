//! The duties of the port, for the journal in a PostgreSQL database.

use super::{Place, claims};
use crate::support::postgres::PostgresCluster;

/// A journal in a fresh database.
pub(super) fn place() -> Place {
    let cluster = PostgresCluster::shared();
    Place::database(cluster.dsn(&cluster.create_database()))
}

macro_rules! claims {
    ($($claim:ident),+) => {
        $(
            #[test]
            fn $claim() {
                claims::$claim(&place());
            }
        )+
    };
}

claims! {
    answers_come_in_the_order_of_the_appends,
    the_first_begin_stands_and_a_later_one_is_told_it,
    the_first_decision_stands_also_within_one_batch,
    a_decision_on_a_finished_coordination_is_told_the_standing_one,
    a_record_without_a_begin_is_refused,
    two_processes_agree_on_the_first_begin_and_the_first_decision,
    what_an_owner_left_open_is_adopted_when_it_is_gone_and_not_before,
    a_deposed_owner_is_told_so,
    only_one_of_two_heirs_adopts,
    lazy_and_accepted_records_reach_the_file,
    a_lazy_record_is_written_without_company,
    everything_comes_back_from_the_tables_as_it_was_in_memory,
    history_filters_and_lists_the_latest_first,
    unknown_ids_are_those_that_never_began,
    retention_removes_what_ended_long_ago_and_never_what_is_open,
    a_closed_journal_refuses_and_its_file_opens_again
}
