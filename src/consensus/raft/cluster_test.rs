//! Three nodes in one process, links that are cut, nodes that crash: what a cluster promises.

use std::sync::{Arc, Mutex};

use super::node::read_index;
use super::test_kit::*;
use super::transport::PeerAddress;
use crate::cluster::{ClusterError, QuorumLost, ReplicaEar, ReplicatedLog};
use crate::consensus::{Consensus, Proposal, Standing};
use crate::model::outcome::Decision::{Abort, Commit};
use crate::model::value::Value;
use crate::protocol::replica::{Answer, Command, Effect, Replica};
use crate::reply::asked;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_decision_wins_whoever_is_asked() {
    let cluster = Cluster::in_memory().of_three().await;
    assert_eq!(decided(cluster.node("a"), "x", Commit).await, Ok(Commit));
    for node in cluster.nodes.values() {
        assert_eq!(decided(node, "x", Abort).await, Ok(Commit));
        assert_eq!(read(node, "x").await.unwrap().unwrap().decision, Commit);
        assert_eq!(read(node, "nobody").await, Ok(None));
    }
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_calls_at_once_ride_together_and_each_gets_its_own_answer() {
    let cluster = Cluster::in_memory().of_three().await;
    let leader = cluster.leader().await;
    let follower = Arc::clone(cluster.node(cluster.others(&leader)[0]));
    let before = *follower.inner.applied.index().borrow();
    let calls = (0..400).map(|number| {
        let node = Arc::clone(&follower);
        tokio::spawn(async move {
            let decision = if number % 3 == 0 { Abort } else { Commit };
            let (one, two) = (format!("x{number}"), format!("y{number}"));
            let commands = vec![decide(&one, decision), decide(&two, Commit)];
            let answers = propose(&node, commands).await.unwrap();
            let decisions: Vec<_> = answers
                .iter()
                .map(|answer| match answer {
                    Answer::Standing(standing) => standing.decision,
                    other => panic!("{other:?}"),
                })
                .collect();
            assert_eq!(decisions, [decision, Commit]);
        })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.unwrap();
    }
    let entries = *follower.inner.applied.index().borrow() - before;
    assert!(entries < 200, "{entries} entries for 400 calls");
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_port_of_consensus_says_taken_only_of_what_stands() {
    let cluster = Cluster::in_memory().of_three().await;
    let node = cluster.node("b");
    let votes = |vote: &str| Value::Map(vec![("left".to_owned(), Value::from(vote))]);
    let evidence = Value::Map(vec![("votes".to_owned(), votes("READ_ONLY"))]);
    let propose = async |decision| {
        asked(|reply| Consensus::propose(&**node, &id("x"), decision, evidence.clone(), reply))
            .await
    };
    assert_eq!(propose(Abort).await, Proposal::Taken);
    assert_eq!(propose(Commit).await, Proposal::NotTaken);
    assert_eq!(propose(Abort).await, Proposal::Taken);
    let read = async |name| {
        let node = cluster.node("c");
        asked(|reply| Consensus::read(&**node, &id(name), reply)).await
    };
    let read_only = vec![crate::model::ids::StoreName::new("left").unwrap()];
    assert_eq!(read("x").await, Standing::Decided { decision: Abort, read_only });
    assert_eq!(read("y").await, Standing::Open);
    cluster.close().await;
}

/// Notes what it hears of the majority.
#[derive(Default)]
struct Ear {
    heard: Mutex<Vec<bool>>,
    came: tokio::sync::Notify,
    replaced: Mutex<usize>,
    missing: Mutex<Vec<String>>,
}

impl ReplicaEar for Ear {
    fn happened(&self, _: &[Effect]) {}

    fn replaced(&self, _: &Replica) {
        *self.replaced.lock().unwrap() += 1;
    }

    fn quorum_changed(&self, lost: Option<&QuorumLost>) {
        if let Some(lost) = lost {
            self.missing.lock().unwrap().clone_from(&lost.unreachable);
        }
        self.heard.lock().unwrap().push(lost.is_none());
        self.came.notify_one();
    }
}

impl Ear {
    async fn hears(&self, is_well: bool) {
        let heard = async {
            while self.heard.lock().unwrap().last() != Some(&is_well) {
                self.came.notified().await;
            }
        };
        tokio::time::timeout(BOUND, heard).await.expect("it hangs");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_minority_decides_nothing_and_says_so_until_it_is_back() {
    let cluster = Cluster::in_memory().of_three().await;
    assert_eq!(decided(cluster.node("a"), "before", Commit).await, Ok(Commit));
    for role in ["leader", "follower"] {
        let leader = cluster.leader().await;
        let alone = if role == "leader" { leader } else { cluster.others(&leader)[0].to_owned() };
        let ear = Arc::new(Ear::default());
        cluster.node(&alone).listen(ear.clone());
        cluster.net.isolate(&alone);
        ear.hears(false).await;
        let name = format!("while {role} is alone");
        let refused = decided(cluster.node(&alone), &name, Abort).await;
        assert!(matches!(refused, Err(ClusterError::NoQuorum { .. })), "{role}: {refused:?}");
        assert!(matches!(
            read(cluster.node(&alone), "before").await,
            Err(ClusterError::NoQuorum { .. })
        ));
        let others = cluster.others(&alone);
        cluster.leader_among(&others).await;
        // The majority goes on, and what the minority was asked has no part in it.
        assert_eq!(decided(cluster.node(others[0]), &name, Commit).await, Ok(Commit));
        cluster.net.heal();
        ear.hears(true).await;
        assert_eq!(read(cluster.node(&alone), &name).await.unwrap().unwrap().decision, Commit);
    }
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_listens_while_no_majority_is_in_reach_is_told_so_and_who_is_missing() {
    let cluster = Cluster::in_memory().of_three().await;
    let alone = cluster.leader().await;
    let (early, late) = (Arc::new(Ear::default()), Arc::new(Ear::default()));
    cluster.node(&alone).listen(early.clone());
    cluster.net.isolate(&alone);
    early.hears(false).await;
    assert_eq!(*early.missing.lock().unwrap(), cluster.others(&alone));
    cluster.node(&alone).listen(late.clone());
    assert_eq!(*late.heard.lock().unwrap(), [false]);
    assert_eq!(*late.missing.lock().unwrap(), cluster.others(&alone));
    cluster.net.heal();
    late.hears(true).await;
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_cut_off_leader_was_asked_is_unknown_and_one_decision_stands_everywhere() {
    let cluster = Cluster::in_memory().of_three().await;
    let old = cluster.isolate_leader().await;
    // Written where nobody else hears it.
    let asked = decided(cluster.node(&old), "x", Abort);
    let others = cluster.others(&old);
    let meanwhile = async {
        cluster.leader_among(&others).await;
        decided(cluster.node(others[0]), "x", Commit).await
    };
    let (lost, stands) = tokio::join!(asked, meanwhile);
    assert_eq!(stands, Ok(Commit));
    assert!(matches!(lost, Err(ClusterError::Unknown { .. })), "{lost:?}");
    cluster.net.heal();
    for node in cluster.nodes.values() {
        let standing = loop {
            // The old leader may take a moment to hear of the new one.
            if let Ok(standing) = read(node, "x").await {
                break standing;
            }
        };
        assert_eq!(standing.unwrap().decision, Commit);
    }
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_was_acknowledged_is_lost_when_leaders_crash_and_come_back() {
    let mut cluster = Cluster::on_disk().of_three().await;
    let mut acknowledged = Vec::new();
    for round in 0..4 {
        let leader = cluster.leader().await;
        for number in 0..5 {
            let name = format!("{round}-{number}");
            let node = cluster.nodes.values().nth(number % 3).unwrap();
            assert_eq!(decided(node, &name, Commit).await, Ok(Commit));
            acknowledged.push(name);
        }
        cluster.crash(&leader).await;
        let name = format!("{round} without {leader}");
        let other = cluster.others(&leader)[0].to_owned();
        // A proposal that was under way when its leader died is sent again.
        assert_eq!(decided(cluster.node(&other), &name, Commit).await, Ok(Commit));
        acknowledged.push(name);
        cluster.start(&leader, &["a", "b", "c"]).await;
    }
    for node in cluster.nodes.values() {
        for name in &acknowledged {
            assert_eq!(decided(node, name, Abort).await, Ok(Commit), "{name}");
        }
    }
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_comes_back_from_its_disks_and_refuses_to_be_another() {
    let mut cluster = Cluster::on_disk().of_three().await;
    assert_eq!(decided(cluster.node("a"), "x", Commit).await, Ok(Commit));
    let term = cluster.node("a").status().await.unwrap().term;
    for id in ["a", "b", "c"] {
        cluster.crash(id).await;
    }
    for id in ["a", "b", "c"] {
        cluster.start(id, &["a", "b", "c"]).await;
    }
    cluster.leader().await;
    assert_eq!(decided(cluster.node("c"), "x", Abort).await, Ok(Commit));
    let status = cluster.node("c").status().await.unwrap();
    assert!(status.term >= term, "a vote was forgotten");
    assert_eq!(status.members.len(), 3);
    assert!(status.last_applied <= status.commit_index && status.trouble.is_none());
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_disk_fails_stops_and_the_others_go_on() {
    let cluster = Cluster::on_disk().of_three().await;
    let leader = cluster.leader().await;
    let node = cluster.node(&leader);
    assert_eq!(decided(node, "before", Commit).await, Ok(Commit));
    node.inner.log.fail_disk();
    let answer = decided(node, "x", Commit).await;
    assert!(matches!(answer, Err(ClusterError::Unknown { .. } | ClusterError::Stopped { .. })));
    let stopped = decided(node, "y", Commit).await;
    assert!(matches!(stopped, Err(ClusterError::Stopped { .. })), "{stopped:?}");
    assert_eq!(node.status().await.unwrap().state, "shutdown");
    let others = cluster.others(&leader);
    let goes_on = decided(cluster.node(others[0]), "y", Abort).await;
    assert_eq!(goes_on, Ok(Abort));
    assert_eq!(read(cluster.node(others[1]), "before").await.unwrap().unwrap().decision, Commit);
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_lagged_gets_a_snapshot_and_logs_stay_short() {
    let mut cluster = Cluster::on_disk();
    cluster.threshold = 20;
    let cluster = cluster.of_three().await;
    let leader = cluster.leader().await;
    let late = cluster.others(&leader)[0].to_owned();
    let ear = Arc::new(Ear::default());
    cluster.node(&late).listen(ear.clone());
    cluster.net.isolate(&late);
    for number in 0..80 {
        let name = format!("x{number}");
        assert_eq!(decided(cluster.node(&leader), &name, Commit).await, Ok(Commit));
    }
    let node = cluster.node(&leader);
    let compacted = wait(node, |metrics| metrics.purged.is_some_and(|id| id.index > 50)).await;
    assert!(compacted.snapshot >= compacted.purged);
    cluster.net.heal();
    level(cluster.node(&late), node).await;
    assert_eq!(read(cluster.node(&late), "x0").await.unwrap().unwrap().decision, Commit);
    assert!(*ear.replaced.lock().unwrap() > 0, "by a snapshot");
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_node_grows_to_three_and_shrinks_and_ids_are_not_used_again() {
    let mut cluster = Cluster::on_disk();
    cluster.start("a", &["a"]).await;
    assert_eq!(decided(cluster.node("a"), "x", Commit).await, Ok(Commit));
    for (id, list) in [("b", vec!["a", "b"]), ("c", vec!["a", "b", "c"])] {
        cluster.start(id, &list).await;
        assert_eq!(cluster.node("a").status().await.unwrap().members.len(), list.len() - 1);
        cluster.node("a").add_node(&address(id)).await.unwrap();
        // Again is as good as once.
        cluster.node("a").add_node(&address(id)).await.unwrap();
        level(cluster.node(id), cluster.node("a")).await;
    }
    assert_eq!(decided(cluster.node("c"), "x", Abort).await, Ok(Commit));
    let voters = cluster.node("a").status().await.unwrap().members;
    assert!(voters.len() == 3 && voters.iter().all(|member| member.is_voter));
    // With three of them one may be missing.
    cluster.crash("a").await;
    cluster.leader_among(&["b", "c"]).await;
    assert_eq!(decided(cluster.node("b"), "y", Commit).await, Ok(Commit));
    cluster.start("a", &["a"]).await;
    level(cluster.node("a"), cluster.node("b")).await;

    cluster.leader().await;
    cluster.node("b").remove_node("c").await.unwrap();
    cluster.node("b").remove_node("c").await.unwrap();
    let members = cluster.node("b").status().await.unwrap().members;
    assert_eq!(members.len(), 2);
    let elsewhere = PeerAddress { port: 9, ..address("c") };
    let refused = cluster.node("a").add_node(&elsewhere).await.unwrap_err().to_string();
    assert!(refused.contains("was removed") && refused.contains("another id"), "{refused}");
    // One that runs as a cluster of its own, and one that does not run.
    cluster.start("d", &["d"]).await;
    wait(cluster.node("d"), |metrics| metrics.current_leader.is_some()).await;
    let refused = cluster.node("a").add_node(&address("d")).await.unwrap_err().to_string();
    assert!(refused.contains("belongs to a cluster already"), "{refused}");
    let refused = cluster.node("a").add_node(&address("e")).await.unwrap_err().to_string();
    assert!(refused.contains("start it first"), "{refused}");
    let unknown = cluster.node("a").remove_node("nobody").await.unwrap_err().to_string();
    assert!(unknown.contains("not among the nodes"), "{unknown}");
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_handed_over_to_the_node_that_was_named() {
    let cluster = Cluster::on_disk().of_three().await;
    for _ in 0..2 {
        let old = cluster.leader().await;
        let others = cluster.others(&old);
        let target = others[1];
        // Asked of one that is neither.
        cluster.node(others[0]).transfer_leadership(target).await.unwrap();
        assert_eq!(cluster.leader().await, target);
        assert_eq!(decided(cluster.node(&old), target, Commit).await, Ok(Commit));
    }
    let refused = cluster.node("a").transfer_leadership("nobody").await.unwrap_err().to_string();
    assert!(refused.contains("no voting node"), "{refused}");
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_can_be_removed() {
    let cluster = Cluster::in_memory().of_three().await;
    let leader = cluster.leader().await;
    let others = cluster.others(&leader);
    cluster.node(others[0]).remove_node(&leader).await.unwrap();
    cluster.leader_among(&others).await;
    assert_eq!(decided(cluster.node(others[1]), "x", Commit).await, Ok(Commit));
    assert_eq!(cluster.node(others[0]).status().await.unwrap().members.len(), 2);
    cluster.close().await;
}

#[tokio::test]
async fn a_node_that_closes_answers_what_waits() {
    let mut cluster = Cluster::in_memory();
    // The others never come.
    let node = cluster.start("b", &["a", "b", "c"]).await;
    let waits = decided(&node, "x", Commit);
    let (answer, ()) = tokio::join!(waits, node.close());
    assert!(
        matches!(answer, Err(ClusterError::Closed | ClusterError::NoQuorum { .. })),
        "{answer:?}"
    );
    assert_eq!(decided(&node, "x", Commit).await, Err(ClusterError::Closed));
    assert_eq!(read(&node, "x").await, Err(ClusterError::Closed));
}

#[test]
fn options_that_cannot_be_say_which_and_why() {
    let cluster = Cluster::in_memory();
    let refused = |id: &str, list: &[&str]| {
        cluster.options(id, list).check().expect_err("refused").to_string()
    };
    assert!(refused("d", &["a", "b"]).contains("d is not among the nodes: a, b"));
    assert!(refused("a", &["a", "b", "a"]).contains("names the node a twice"));
    assert!(refused("ab", &["ab", "ba"]).contains("have one address"));
    let mut options = cluster.options("a", &["a"]);
    options.heartbeat_interval = options.election_timeout;
    assert!(options.check().expect_err("refused").to_string().contains("heartbeat_interval_ms"));
    let mut options = cluster.options("a", &["a"]);
    options.log_compaction_threshold = 0;
    assert!(options.check().is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_lost_its_folder_begins_no_second_cluster() {
    let mut cluster = Cluster::on_disk().of_three().await;
    assert_eq!(decided(cluster.node("b"), "x", Commit).await, Ok(Commit));
    cluster.crash("a").await;
    std::fs::remove_dir_all(cluster.data_dir("a").unwrap()).unwrap();
    cluster.leader_among(&["b", "c"]).await;
    assert_eq!(decided(cluster.node("b"), "y", Commit).await, Ok(Commit));
    cluster.start("a", &["a", "b", "c"]).await;
    level(cluster.node("a"), cluster.node("b")).await;
    for name in ["x", "y"] {
        assert_eq!(decided(cluster.node("a"), name, Abort).await, Ok(Commit));
    }
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_renews_its_session_without_being_asked() {
    let mut cluster = Cluster::in_memory();
    cluster.lease = std::time::Duration::from_millis(300);
    let node = cluster.start("a", &["a"]).await;
    // The first is written at once; the others follow, with nobody at work.
    let before = wait(&node, |metrics| metrics.last_applied.is_some_and(|id| id.index >= 2)).await;
    let more = before.last_applied.unwrap().index + 3;
    wait(&node, |metrics| metrics.last_applied.is_some_and(|id| id.index >= more)).await;
    node.close().await;
    assert_eq!(node.status().await.unwrap().state, "shutdown");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn few_large_entries_are_compacted_too() {
    let mut cluster = Cluster::on_disk();
    cluster.start("a", &["a"]).await;
    let node = cluster.node("a");
    for number in 0..40 {
        let evidence = Value::Text("x".repeat(10_000));
        let id = id(&format!("x{number}"));
        let command = Command::Decide { id, decision: Commit, evidence };
        propose(node, vec![command]).await.unwrap();
    }
    wait(node, |metrics| metrics.purged.is_some_and(|id| id.index > 20)).await;
    assert!(node.inner.log.bytes() < 300_000);
    cluster.crash("a").await;
    cluster.start("a", &["a"]).await;
    assert_eq!(decided(cluster.node("a"), "x0", Abort).await, Ok(Commit));
    cluster.close().await;
}

/// Leads again after a snapshot took the place of an entry that it wrote when it led before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn issue_5_a_leader_whose_entry_was_replaced_by_a_snapshot_writes_when_it_leads_again() {
    let mut cluster = Cluster::on_disk();
    cluster.threshold = 8;
    let cluster = cluster.of_three().await;
    let old = cluster.isolate_leader().await;
    let node = Arc::clone(cluster.node(&old));
    let log = node.inner.raft.metrics().borrow().last_log_index;
    let lost = {
        let node = Arc::clone(&node);
        tokio::spawn(async move { decided(&node, "lost", Commit).await })
    };
    wait(&node, |metrics| metrics.last_log_index > log).await;
    let others = cluster.others(&old);
    let new = cluster.leader_among(&others).await;
    for number in 0..40 {
        let name = format!("{number}");
        assert_eq!(decided(cluster.node(&new), &name, Commit).await, Ok(Commit));
    }
    wait(cluster.node(&new), |metrics| metrics.purged.is_some_and(|id| Some(id.index) > log)).await;
    cluster.net.heal();
    level(&node, cluster.node(&new)).await;
    let _ = lost.await;
    loop {
        // Refused while the other is not level, or somebody else leads by now.
        let leader = cluster.leader().await;
        if leader == old || cluster.node(&leader).transfer_leadership(&old).await.is_ok() {
            break;
        }
    }
    assert_eq!(decided(&node, "after", Abort).await, Ok(Abort));
    cluster.close().await;
}

/// A leader that is started again leads on without an election, and openraft has it read up to the
/// last mark of a commit in its log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn issue_5_a_leader_that_was_started_again_reads_what_it_told_before() {
    let mut cluster = Cluster::on_disk().of_three().await;
    let mut count = 0;
    for number in 0..10 {
        let (name, old) = (format!("{number}"), cluster.leader().await);
        assert_eq!(decided(cluster.node(&old), &name, Commit).await, Ok(Commit));
        let told = *cluster.node(&old).inner.applied.index().borrow();
        cluster.node(&old).inner.log.lose_mark();
        cluster.crash(&old).await;
        // So that nobody tells it at once what is committed.
        cluster.net.isolate(&old);
        let node = cluster.start(&old, &["a", "b", "c"]).await;
        cluster.net.heal();
        if node.inner.is_leader()
            && let Ok(index) = read_index(&node.inner).await
        {
            count += 1;
            assert!(index >= told, "it reads up to {index}, and told of {told}");
        }
    }
    assert!(count > 0, "it never led on");
    cluster.close().await;
}
