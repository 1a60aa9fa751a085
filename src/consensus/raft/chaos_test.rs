//! Random histories: nodes are cut off, crash and come back while everybody proposes. Whatever
//! happens, an id has one decision, and one that somebody was told of stands everywhere.
//!
//! The seed is printed, and can be given as `SEED`. The threads of a run are not in its power, so
//! a seed gives the same actions, not the same interleaving.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::test_kit::*;
use crate::cluster::ClusterError;
use crate::model::outcome::Decision::{self, Abort, Commit};

const ROUNDS: u64 = 12;
const NAMES: [&str; 3] = ["a", "b", "c"];

/// Small and good enough: a linear congruence, of which the high bits are used.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    fn name(&mut self) -> &'static str {
        NAMES[usize::try_from(self.below(3)).unwrap()]
    }
}

fn seed() -> u64 {
    let seed = std::env::var("SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| {
        let mut bytes = [0; 8];
        getrandom::fill(&mut bytes).unwrap();
        u64::from_le_bytes(bytes) % 1_000_000
    });
    println!("SEED={seed}");
    seed
}

/// What somebody was told of each id.
type Told = BTreeMap<String, Decision>;

/// Has a few ids decided by all nodes at once, each wanting something else.
async fn round(cluster: &Cluster, number: u64, told: &mut Told) {
    let calls = (0..4).flat_map(|call| {
        cluster.nodes.values().enumerate().map(move |(index, node)| {
            let (node, name) = (Arc::clone(node), format!("{number}-{call}"));
            let wanted = if index % 2 == 0 { Commit } else { Abort };
            tokio::spawn(async move { (name.clone(), decided(&node, &name, wanted).await) })
        })
    });
    for call in calls.collect::<Vec<_>>() {
        match call.await.unwrap() {
            (name, Ok(decision)) => {
                let first = *told.entry(name.clone()).or_insert(decision);
                assert_eq!(first, decision, "{name} was told in two ways");
            }
            (_, Err(ClusterError::NoQuorum { .. } | ClusterError::Unknown { .. })) => {}
            (name, Err(error)) => panic!("{name}: {error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_decision_stands_for_each_id_whatever_happens_to_nodes_and_links() {
    let mut random = Random(seed());
    let mut cluster = Cluster::on_disk();
    // Snapshots and purges are part of it.
    cluster.threshold = 8;
    let mut cluster = cluster.of_three().await;
    let mut told = Told::new();
    for number in 0..ROUNDS {
        match random.below(4) {
            0 => cluster.net.isolate(random.name()),
            1 => {
                let name = random.name();
                cluster.crash(name).await;
                cluster.start(name, &NAMES).await;
            }
            2 => {
                // All at once, as in a loss of power.
                for name in NAMES {
                    cluster.crash(name).await;
                }
                for name in NAMES {
                    cluster.start(name, &NAMES).await;
                }
            }
            _ => {}
        }
        round(&cluster, number, &mut told).await;
        cluster.net.heal();
    }
    cluster.leader().await;
    for node in cluster.nodes.values() {
        for (name, decision) in &told {
            let standing = loop {
                // A node that was cut off may take a moment to find the others again.
                if let Ok(standing) = read(node, name).await {
                    break standing;
                }
            };
            assert_eq!(standing.map(|made| made.decision), Some(*decision), "{name}");
        }
    }
    assert!(told.len() > 4, "nearly nothing was decided: {told:?}");
    cluster.close().await;
}
