//! The duties of the journal's port, kept by the replicated one: every claim of
//! `tests/engine/journal_duties` on a cluster in memory.
//!
//! Not what only this journal promises (`tests`). It stands inside of the crate because that
//! cluster does. Invariant: a desk that is dropped is a process that is gone.

#[path = "../../../tests/engine/journal_duties/claims.rs"]
mod claims;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::ReplicatedJournal;
use crate::cluster::memory::{MemoryCluster, MemoryNode};
use crate::cluster::{ClusterError, Look, ReplicaEar, ReplicatedLog};
use crate::journal::test_kit::*;
use crate::journal::{Answer, Durability, HistoryFilter, JournalError};
use crate::model::ids::{ClusterId, InstanceId};
use crate::model::outcome::{Decision, TransactionState};
use crate::model::record::{Reason, Record};
use crate::model::request::CoordinationType;
use crate::model::time::Timestamp;
use crate::protocol::replica::{Answer as Word, Command, Replica};
use crate::reply::Reply;

fn now() -> Timestamp {
    let micros = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros();
    Timestamp(i64::try_from(micros).unwrap())
}

/// A cluster; each desk is another of its processes.
struct Place {
    cluster: MemoryCluster,
    count: AtomicU32,
    knows_when_alone: bool,
}

impl Place {
    fn new() -> Self {
        let (cluster, count) = (MemoryCluster::new(), AtomicU32::new(0));
        Self { cluster, count, knows_when_alone: false }
    }

    fn desk(&self) -> Desk {
        let name = format!("process-{}", self.count.fetch_add(1, Ordering::Relaxed));
        let node = Mortal { node: self.cluster.node(&name), cluster: self.cluster.clone() };
        Desk::over(Arc::new(ReplicatedJournal::open(Arc::new(node)).expect("opens")))
    }
}

/// A process whose session ends with it.
struct Mortal {
    node: Arc<MemoryNode>,
    cluster: MemoryCluster,
}

impl Drop for Mortal {
    fn drop(&mut self) {
        self.cluster.kill(&self.node);
    }
}

impl ReplicatedLog for Mortal {
    fn cluster(&self) -> &ClusterId {
        self.node.cluster()
    }

    fn instance(&self) -> &InstanceId {
        self.node.instance()
    }

    fn lease(&self) -> Duration {
        self.node.lease()
    }

    fn location(&self) -> String {
        self.node.location()
    }

    fn listen(&self, ear: Arc<dyn ReplicaEar>) {
        self.node.listen(ear);
    }

    fn propose(&self, commands: Vec<Command>, reply: Reply<Result<Vec<Word>, ClusterError>>) {
        self.node.propose(commands, reply);
    }

    fn read(&self, look: Look) {
        self.node.read(look);
    }

    fn glance(&self, look: &mut dyn FnMut(&Replica)) {
        self.node.glance(look);
    }
}

macro_rules! claims {
    ($($claim:ident),+) => {
        $(
            #[test]
            fn $claim() {
                claims::$claim(&Place::new());
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
