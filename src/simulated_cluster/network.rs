//! The network between the nodes: delays, losses and cuts by the seed, behind the transport's port.
//!
//! Not what the bytes mean. Letters are in one queue by the time of their arrival. Invariants (the
//! port's duties): a call ends within its timeout; what is refused was not handed over. A request
//! that is late is handed over all the same, when nobody waits for its answer any more.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::oneshot;

use super::random::Random;
use super::witness::Shared;
use crate::consensus::raft::simulated::promise;
use crate::consensus::raft::transport::{Handler, PeerAddress, Transport, TransportError};
use crate::model::time::Timestamp;

type Back = oneshot::Sender<Result<Vec<u8>, TransportError>>;

/// Something on its way.
pub(super) enum Letter {
    Asks { from: String, to: String, bytes: Vec<u8>, back: Back },
    Answers { from: String, to: String, bytes: Vec<u8>, back: Back },
}

/// How bad the network is, of 1000 letters.
#[derive(Clone, Copy, Default)]
pub(super) struct Weather {
    pub(super) lost: usize,
    pub(super) late: usize,
}

/// What is between the nodes.
pub(super) struct Net {
    letters: BTreeMap<(Timestamp, u64), Letter>,
    count: u64,
    random: Random,
    pub(super) weather: Weather,
    /// Pairs that do not reach each other: from, to.
    pub(super) cut: BTreeSet<(String, String)>,
    pub(super) now: Timestamp,
    witness: Shared,
}

/// Everybody's handle.
#[derive(Clone)]
pub(super) struct Wires(Arc<Mutex<Net>>);

impl Wires {
    pub(super) fn new(random: Random, witness: Shared) -> Self {
        let (letters, cut) = (BTreeMap::new(), BTreeSet::new());
        let weather = Weather::default();
        let net = Net { letters, count: 0, random, weather, cut, now: Timestamp(0), witness };
        Self(Arc::new(Mutex::new(net)))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Net> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers a request on the runtime of the node `me`.
    pub(super) async fn serve(self, me: String, handler: Arc<dyn Handler>, letter: Letter) {
        let Letter::Asks { from, bytes, back, .. } = letter else { return };
        let witness = self.lock().witness.clone();
        let before = witness.promise_of(&me);
        let answer = handler.handle(from.clone(), bytes.clone()).await;
        if let Some(vote) = promise(&bytes, &answer) {
            witness.promised(&me, before, vote);
        }
        self.lock().send(Letter::Answers { from: me, to: from, bytes: answer, back });
    }
}

impl Net {
    fn is_cut(&self, from: &str, to: &str) -> bool {
        self.cut.contains(&(from.to_owned(), to.to_owned()))
    }

    fn send(&mut self, letter: Letter) {
        let late = self.random.below(1_000) < self.weather.late;
        let delay = if late { self.random.millis(100, 3_000) } else { self.random.millis(1, 12) };
        let is_lost = self.random.below(1_000) < self.weather.lost;
        self.note("sends", &letter, is_lost);
        if !is_lost {
            self.put(self.now + delay, letter);
        }
    }

    pub(super) fn put(&mut self, at: Timestamp, letter: Letter) {
        self.count += 1;
        self.letters.insert((at, self.count), letter);
    }

    /// The next letter that arrives by now.
    pub(super) fn next(&mut self) -> Option<Letter> {
        let first = self.letters.first_entry().filter(|first| first.key().0 <= self.now)?;
        let letter = first.remove();
        let (Letter::Asks { from, to, .. } | Letter::Answers { from, to, .. }) = &letter;
        let is_cut = self.is_cut(from, to);
        self.note("arrives", &letter, is_cut);
        // Whoever waits for it waits until his time is over.
        if is_cut { self.next() } else { Some(letter) }
    }

    fn note(&self, what: &str, letter: &Letter, is_lost: bool) {
        let (kind, from, to, bytes) = match letter {
            Letter::Asks { from, to, bytes, .. } => ("asks", from, to, bytes),
            Letter::Answers { from, to, bytes, .. } => ("answers", from, to, bytes),
        };
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        let (hash, length) = (hasher.finish(), bytes.len());
        let lost = if is_lost { ", lost" } else { "" };
        let text = format!("   {from} {kind} {to}: {what} {length} bytes {hash:016x}{lost}");
        self.witness.note(&text);
    }
}

/// One node's end.
pub(super) struct Link {
    pub(super) wires: Wires,
    pub(super) from: String,
}

impl Transport for Link {
    fn call(
        &self,
        to: &PeerAddress,
        request: Vec<u8>,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Vec<u8>, TransportError>> {
        let (wires, from, to) = (self.wires.clone(), self.from.clone(), to.id.clone());
        async move {
            let (back, answer) = oneshot::channel();
            wires.lock().send(Letter::Asks { from, to: to.clone(), bytes: request, back });
            match tokio::time::timeout(timeout, answer).await {
                Ok(Ok(answer)) => answer,
                // The letter is gone; a connection would be as silent.
                Ok(Err(_)) | Err(_) => Err(TransportError::Timeout(format!("{to} did not answer"))),
            }
        }
        .boxed()
    }
}
