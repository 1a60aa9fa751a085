//! A portion of rows that is handed over: which wait for which, and what the sink said.
//!
//! Not the table (`outbox`). Rows are handed over without waiting for each other, but for those
//! that name the same key of a store: one of these waits until the sink has accepted those before
//! it. Where it accepts one at another time only, what comes after it on its keys stays too.
//! Invariant: no row is handed over before an earlier one of the portion on a key of its own that
//! is not settled.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::model::request::CoordinationRequest;
use crate::participants::outbox::Acceptance;
use crate::protocol::key_order::TurnKey;

/// How long a sink may take; what it says later counts when the row is handed over again.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a request is kept in order on.
pub(super) fn keys_of(request: &CoordinationRequest) -> Vec<TurnKey> {
    request.operations.iter().map(TurnKey::of).collect()
}

struct Handed {
    position: i64,
    keys: Vec<TurnKey>,
    answer: Option<oneshot::Receiver<Acceptance>>,
}

/// The rows that were handed over.
#[derive(Default)]
pub(super) struct Portion {
    rows: Vec<Handed>,
    /// The last row on each key.
    last: HashMap<TurnKey, usize>,
    /// Keys on which something stays.
    stuck: HashSet<TurnKey>,
    accepted: Vec<i64>,
    refused: Vec<(i64, String)>,
    /// Whether a row stays, to be handed over again.
    pub(super) has_left: bool,
}

impl Portion {
    /// Whether a row on these keys may be handed over; waits for those before it.
    pub(super) async fn has_room(&mut self, keys: &[TurnKey]) -> bool {
        for key in keys {
            if let Some(index) = self.last.get(key).copied() {
                self.settle(index).await;
            }
        }
        let has_room = !keys.iter().any(|key| self.stuck.contains(key));
        if !has_room {
            self.stay(keys);
        }
        has_room
    }

    /// Adds a row that is handed over.
    pub(super) fn add(
        &mut self,
        position: i64,
        keys: Vec<TurnKey>,
        answer: oneshot::Receiver<Acceptance>,
    ) {
        let index = self.rows.len();
        self.last.extend(keys.iter().map(|key| (key.clone(), index)));
        self.rows.push(Handed { position, keys, answer: Some(answer) });
    }

    /// Waits for all; those that were accepted, and those that were refused with the reason.
    pub(super) async fn settled(&mut self) -> (Vec<i64>, Vec<(i64, String)>) {
        for index in 0..self.rows.len() {
            self.settle(index).await;
        }
        (std::mem::take(&mut self.accepted), std::mem::take(&mut self.refused))
    }

    async fn settle(&mut self, index: usize) {
        let Some(answer) = self.rows[index].answer.take() else { return };
        let position = self.rows[index].position;
        match timeout(PATIENCE, answer).await {
            Ok(Ok(Acceptance::Accepted)) => self.accepted.push(position),
            Ok(Ok(Acceptance::Refused(reason))) => self.refused.push((position, reason)),
            Ok(Ok(Acceptance::Later(_)) | Err(_)) | Err(_) => {
                let keys = std::mem::take(&mut self.rows[index].keys);
                self.stay(&keys);
            }
        }
    }

    fn stay(&mut self, keys: &[TurnKey]) {
        self.stuck.extend(keys.iter().cloned());
        self.has_left = true;
    }
}
