//! What is known of a run from outside: what was seen, what was told, and what broke first.
//!
//! Not the checks of single entries (`audit`). It is shared by the world, the network and the
//! nodes. Invariants that are held here: a read sees what was told before it began; whoever
//! promised itself to a vote does not take part under a lower one.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::model::ids::CoordinationId;
use crate::model::outcome::Decision;
use crate::model::time::Timestamp;
use crate::protocol::replica::Replica;

/// The first decision on an id, and the index of its entry.
pub(super) type Decided = (Decision, u64);

/// The witness.
#[derive(Default)]
pub(super) struct Witness {
    pub(super) now: Timestamp,
    pub(super) failure: Option<String>,
    trace: Vec<String>,
    is_traced: bool,
    digest: DefaultHasher,
    /// The last entry that somebody was told of, by an answer or by a read.
    floor: u64,
    /// By node, the highest vote that it promised itself to.
    promises: BTreeMap<String, (u64, u64)>,
    pub(super) decisions: BTreeMap<CoordinationId, Decided>,
    /// What was counted, to see that a run does something.
    pub(super) counts: BTreeMap<&'static str, u64>,
}

/// The one witness of a run.
#[derive(Clone, Default)]
pub(super) struct Shared(Arc<Mutex<Witness>>);

impl Shared {
    pub(super) fn new(is_traced: bool) -> Self {
        let witness = Witness { is_traced, ..Witness::default() };
        Self(Arc::new(Mutex::new(witness)))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Witness> {
        // A panic elsewhere is a failure of its own.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn note(&self, text: &str) {
        self.lock().note(text);
    }

    pub(super) fn fail(&self, invariant: impl Into<String>) {
        self.lock().fail(invariant.into());
    }

    pub(super) fn count(&self, what: &'static str) {
        *self.lock().counts.entry(what).or_default() += 1;
    }

    pub(super) fn floor(&self) -> u64 {
        self.lock().floor
    }

    /// Somebody was told of everything up to here.
    pub(super) fn raise_floor(&self, index: u64) {
        let mut witness = self.lock();
        witness.floor = witness.floor.max(index);
    }

    /// A read that began when everything up to `floor` was told sees this state.
    pub(super) fn saw(&self, who: &str, floor: u64, replica: &Replica) {
        let index = replica.applied().index;
        if index < floor {
            self.fail(format!(
                "a stale read: {who} sees {index}, {floor} was told before it asked"
            ));
        }
        self.raise_floor(index);
    }

    pub(super) fn promise_of(&self, node: &str) -> (u64, u64) {
        self.lock().promises.get(node).copied().unwrap_or_default()
    }

    /// A node takes part under a vote, and had promised itself to another when it was asked.
    pub(super) fn promised(&self, node: &str, before: (u64, u64), vote: (u64, u64)) {
        if vote < before {
            self.fail(format!(
                "{node} broke its vote: it takes part in term {} after term {}",
                vote.0, before.0
            ));
        }
        let mut witness = self.lock();
        let promise = witness.promises.entry(node.to_owned()).or_default();
        *promise = vote.max(*promise);
    }
}

impl Witness {
    pub(super) fn note(&mut self, text: &str) {
        (self.now, text).hash(&mut self.digest);
        if self.is_traced {
            let micros = u64::try_from(self.now.0).unwrap_or_default();
            let seconds = Duration::from_micros(micros).as_secs_f64();
            self.trace.push(format!("{seconds:>8.3}s {text}"));
        }
    }

    pub(super) fn fail(&mut self, invariant: String) {
        self.note(&format!("FAILED: {invariant}"));
        self.failure.get_or_insert(invariant);
    }

    /// A number for all that was noted.
    pub(super) fn digest(&self) -> u64 {
        self.digest.finish()
    }

    pub(super) fn trace(&self) -> String {
        self.trace.join("\n")
    }
}
