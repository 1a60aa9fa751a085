//! Ten mistakes that can be planted around the real parts, to prove that the invariants can fail.
//!
//! Not in shipped code: each stands in what is between the parts (the disk, the port of the log,
//! the ear, an entry on its way to the state and what came of it). `catches` says with which
//! words each has to be caught.

use std::time::Duration;

use serde_json::Value as Json;

use crate::consensus::raft::simulated::Came;
use crate::model::lock::LockMode;
use crate::model::outcome::Decision;
use crate::model::record::Record;
use crate::protocol::replica::{Answer, Command, Effect, Entry, Replica};
use crate::simulated::Flaw;

/// One mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bug {
    /// A sync of the log returns before anything is on the disk.
    NoSync,
    /// The last decision on an id stands, not the first.
    DecisionOverwritten,
    /// A node answers for a lock from its own state, before the entry is agreed.
    GrantWithoutMajority,
    /// A node answers a read from its own state.
    StaleRead,
    /// Sessions end by the wall clock of each node, not by the time in the entries.
    ExpiryByWallClock,
    /// Fencing tokens come from a small pool.
    TokenReuse,
    /// Who takes a coordination over does not get a higher epoch.
    AdoptionWithoutEpoch,
    /// A node does not write down whom it voted for.
    VoteLost,
    /// The first wait of a process is not told that it was granted.
    FirstWaitNotWoken,
    /// Shared and intent-shared are taken to conflict.
    SharedIntentRefused,
}

impl Bug {
    pub(super) const ALL: [Self; 10] = [
        Self::NoSync,
        Self::DecisionOverwritten,
        Self::GrantWithoutMajority,
        Self::StaleRead,
        Self::ExpiryByWallClock,
        Self::TokenReuse,
        Self::AdoptionWithoutEpoch,
        Self::VoteLost,
        Self::FirstWaitNotWoken,
        Self::SharedIntentRefused,
    ];

    pub(super) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|bug| format!("{bug:?}") == name)
    }

    /// Words that tell of the invariant which this one breaks.
    pub(super) fn catches(self) -> &'static [&'static str] {
        match self {
            Self::NoSync => &["is another one now", "is lost", "broke its vote"],
            Self::DecisionOverwritten => &["a decision was overwritten"],
            Self::GrantWithoutMajority => &["that no majority granted"],
            Self::StaleRead => &["a stale read"],
            Self::ExpiryByWallClock => &["sessions do not end alike"],
            Self::TokenReuse => &["a token was given twice"],
            Self::AdoptionWithoutEpoch => &["a deposed owner wrote"],
            Self::VoteLost => &["broke its vote"],
            Self::FirstWaitNotWoken => &["was not woken"],
            Self::SharedIntentRefused => &["nothing that conflicts"],
        }
    }

    /// What of it is below the rules.
    pub(super) fn flaw(self) -> Option<Flaw> {
        match self {
            Self::NoSync => Some(Flaw::NoSync),
            Self::VoteLost => Some(Flaw::VoteNotWritten),
            _ => None,
        }
    }

    /// Spoils an entry before it is carried out; so much passed on this node's wall clock.
    pub(super) fn before(self, entry: &mut Entry, wall_passed: Duration) {
        match self {
            Self::ExpiryByWallClock => entry.elapsed = wall_passed,
            Self::SharedIntentRefused => {
                let commands = entry.proposals.iter_mut().flat_map(|it| &mut it.commands);
                for command in commands {
                    if let Command::Acquire { wanted, .. } = command {
                        let intents = wanted.iter_mut().map(|(_, mode)| mode);
                        intents
                            .filter(|mode| **mode == LockMode::IntentShared)
                            .for_each(|mode| *mode = LockMode::IntentExclusive);
                    }
                }
            }
            _ => {}
        }
    }

    /// Spoils what came of an entry.
    pub(super) fn after(self, entry: &Entry, came: &mut Came<'_>) {
        match self {
            Self::TokenReuse => reuse_tokens(came),
            Self::DecisionOverwritten => overwrite(entry, came),
            Self::AdoptionWithoutEpoch => lower_epochs(came),
            _ => {}
        }
    }
}

fn reuse_tokens(came: &mut Came<'_>) {
    let answers = came.answered.iter_mut().filter_map(|it| it.answers.as_mut()).flatten();
    let answered = answers.filter_map(|answer| match answer {
        Answer::Granted(grants) => Some(grants),
        _ => None,
    });
    let told = came.effects.iter_mut().filter_map(|effect| match effect {
        Effect::Granted { grants, .. } => Some(grants),
        _ => None,
    });
    for grant in answered.chain(told).flatten() {
        grant.fencing_token %= 7;
    }
}

fn overwrite(entry: &Entry, came: &mut Came<'_>) {
    let mut overwritten = Vec::new();
    for (proposal, answered) in entry.proposals.iter().zip(&mut came.answered) {
        let answers = answered.answers.iter_mut().flatten();
        for (command, answer) in proposal.commands.iter().zip(answers) {
            let (id, decision) = match command {
                Command::Decide { id, decision, .. } => (id, *decision),
                Command::Append { id, record: Record::Decision { decision, .. }, .. } => {
                    (id, *decision)
                }
                _ => continue,
            };
            let is_other =
                |replica: &Replica| replica.decision(id).is_some_and(|it| it.decision != decision);
            if is_other(came.replica) {
                overwritten.push((id.to_string(), decision));
                *answer = Answer::Recorded;
            }
        }
    }
    for (id, decision) in overwritten {
        edit(came.replica, |state| set_decision(&mut state["ledger"]["decisions"][&id], decision));
    }
}

fn set_decision(made: &mut Json, decision: Decision) {
    made["decision"] = serde_json::to_value(decision).expect("a word");
}

fn lower_epochs(came: &mut Came<'_>) {
    let answers = came.answered.iter().filter_map(|it| it.answers.as_ref()).flatten();
    let adopted = answers.filter_map(|answer| match answer {
        Answer::Adopted(adopted) => Some(adopted),
        _ => None,
    });
    let ids: Vec<(String, u32)> =
        adopted.flatten().map(|it| (it.request.id.to_string(), it.epoch)).collect();
    for (id, epoch) in ids {
        edit(came.replica, |state| {
            let coordination = &mut state["ledger"]["coordinations"][&id];
            coordination["epoch"] = (epoch - 1).into();
            if let Some([_, record]) = coordination["records"]
                .as_array_mut()
                .and_then(|records| records.last_mut())
                .and_then(|pair| pair.as_array_mut())
                .map(Vec::as_mut_slice)
            {
                record["epoch"] = (epoch - 1).into();
            }
        });
    }
}

/// Changes the state behind its back.
fn edit(replica: &mut Replica, change: impl FnOnce(&mut Json)) {
    let mut state: Json = serde_json::from_slice(&replica.snapshot()).expect("a snapshot is text");
    change(&mut state);
    let bytes = serde_json::to_vec(&state).expect("it was text");
    *replica = Replica::restore(&bytes).expect("it is a state");
}
