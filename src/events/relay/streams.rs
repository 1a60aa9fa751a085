//! What a relay knows: the streams that have something, who is out, and what is due when.
//!
//! Pure bookkeeping: no task, no lock, no clock; time is an argument. Invariants: of one stream at
//! most one event is out, and the others wait behind it in the order of their arrival; what is
//! held is in exactly one stream; an answer counts only for the try that it was given for.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use tokio::time::Instant;

use super::super::{Delivery, EventHandler, Handled};
use super::Offer;
use super::takers::{TakerId, Takers};
use crate::protocol::retry::Backoff;

/// Names one try: an answer that comes for an earlier one is nobody's any more.
pub(super) type Serial = u64;

/// One try, to be handed to the handler.
pub(super) struct HandOver {
    pub(super) stream: Arc<str>,
    pub(super) serial: Serial,
    pub(super) delivery: Delivery,
    pub(super) handler: Arc<dyn EventHandler>,
}

/// What became of a try. The stream stands still until it is said how it goes on.
pub(super) struct Verdict<T> {
    pub(super) stream: Arc<str>,
    pub(super) offer: Offer<T>,
    pub(super) end: End,
}

pub(super) enum End {
    Done,
    Parked { message: String },
    Failed { message: String, delay: std::time::Duration },
}

struct Held<T> {
    offer: Offer<T>,
    arrival: u64,
}

enum Head<T> {
    /// In line for the handler.
    Ready(Held<T>),
    /// With the handler.
    Out { held: Held<T>, taker: TakerId, serial: Serial, until: Instant },
    /// Its answer is there, and the adapter has it.
    Settling { arrival: u64, taker: TakerId },
    /// Waits for its next try.
    Later { held: Held<T>, serial: Serial },
    /// Nothing, for as long as it is moved.
    Moving,
}

struct Stream<T> {
    head: Head<T>,
    waiting: VecDeque<Held<T>>,
}

enum Due {
    Timeout { stream: Arc<str>, serial: Serial },
    Retry { stream: Arc<str>, serial: Serial },
}

pub(super) struct Streams<T> {
    held_max: usize,
    backoff: Backoff,
    pub(super) takers: Takers,
    by_name: HashMap<Arc<str>, Stream<T>>,
    ready: VecDeque<Arc<str>>,
    /// By time, and by serial among those of one time.
    due: BTreeMap<(Instant, Serial), Due>,
    held: usize,
    out: usize,
    arrivals: u64,
    serials: Serial,
    stopped: bool,
}

impl<T> Streams<T> {
    pub(super) fn new(held_max: usize, backoff: Backoff) -> Self {
        Self {
            held_max,
            backoff,
            takers: Takers::default(),
            by_name: HashMap::new(),
            ready: VecDeque::new(),
            due: BTreeMap::new(),
            held: 0,
            out: 0,
            arrivals: 0,
            serials: 0,
            stopped: false,
        }
    }

    pub(super) fn room(&self) -> usize {
        if self.stopped { 0 } else { self.held_max.saturating_sub(self.held) }
    }

    pub(super) fn put(&mut self, offer: Offer<T>) -> Result<(), Offer<T>> {
        if self.room() == 0 {
            return Err(offer);
        }
        self.held += 1;
        self.arrivals += 1;
        let held = Held { offer, arrival: self.arrivals };
        let name: &str = &held.offer.event.stream;
        match self.by_name.get_mut(name) {
            Some(stream) => stream.waiting.push_back(held),
            None => {
                let name: Arc<str> = Arc::from(name);
                let stream = Stream { head: Head::Ready(held), waiting: VecDeque::new() };
                self.by_name.insert(Arc::clone(&name), stream);
                self.ready.push_back(name);
            }
        }
        Ok(())
    }

    /// The next try, if one may go out.
    pub(super) fn next(&mut self, now: Instant) -> Option<HandOver> {
        if self.stopped || !self.takers.has_room() {
            return None;
        }
        for place in 0..self.ready.len() {
            let stream = self.by_name.get_mut(&self.ready[place])?;
            let Head::Ready(held) = &stream.head else { unreachable!("only streams in line") };
            let Some((id, taker)) = self.takers.choose(&held.offer.event) else { continue };
            let name = self.ready.remove(place)?;
            let Head::Ready(held) = std::mem::replace(&mut stream.head, Head::Moving) else {
                return None;
            };
            self.serials += 1;
            self.out += 1;
            let (serial, until) = (self.serials, now + taker.timeout);
            let event = Arc::clone(&held.offer.event);
            let delivery = Delivery { event, attempt: held.offer.attempts.saturating_add(1) };
            let handler = Arc::clone(&taker.handler);
            stream.head = Head::Out { held, taker: id, serial, until };
            self.due.insert((until, serial), Due::Timeout { stream: Arc::clone(&name), serial });
            return Some(HandOver { stream: name, serial, delivery, handler });
        }
        None
    }

    /// The handler's answer; `None` when nobody waits for it any more.
    pub(super) fn answered(
        &mut self,
        name: &Arc<str>,
        serial: Serial,
        handled: Handled,
    ) -> Option<Verdict<T>> {
        let stream = self.by_name.get_mut(name)?;
        let head = std::mem::replace(&mut stream.head, Head::Moving);
        let (held, taker) = match head {
            Head::Out { held, taker, serial: current, until } if current == serial => {
                self.due.remove(&(until, serial));
                (held, taker)
            }
            other => {
                stream.head = other;
                return None;
            }
        };
        let Held { mut offer, arrival } = held;
        stream.head = Head::Settling { arrival, taker };
        offer.attempts = offer.attempts.saturating_add(1);
        let attempts_max = self.takers.get(taker).map_or(1, |taker| taker.attempts_max);
        let end = match handled {
            Handled::Done => End::Done,
            Handled::Failed { message } if offer.attempts >= attempts_max => {
                End::Parked { message }
            }
            Handled::Failed { message } => {
                let backoff = Backoff { seed: self.backoff.seed ^ arrival, ..self.backoff };
                End::Failed { message, delay: backoff.delay(offer.attempts - 1) }
            }
        };
        Some(Verdict { stream: Arc::clone(name), offer, end })
    }

    /// What time did: tries that took too long; those whose wait is over are in line again.
    pub(super) fn time_passed(&mut self, now: Instant) -> Vec<Verdict<T>> {
        let mut verdicts = Vec::new();
        while let Some(entry) = self.due.first_entry() {
            if entry.key().0 > now {
                break;
            }
            match entry.remove() {
                Due::Retry { stream, serial } => self.retry(stream, serial),
                Due::Timeout { stream, serial } => {
                    let message = self.timeout_words(&stream);
                    let handled = Handled::Failed { message };
                    verdicts.extend(self.answered(&stream, serial, handled));
                }
            }
        }
        verdicts
    }

    fn timeout_words(&self, name: &Arc<str>) -> String {
        let taker = match self.by_name.get(name).map(|stream| &stream.head) {
            Some(Head::Out { taker, .. }) => self.takers.get(*taker),
            _ => None,
        };
        let seconds = taker.map_or(0.0, |taker| taker.timeout.as_secs_f64());
        format!("the handler gave no answer within {seconds} s")
    }

    fn retry(&mut self, name: Arc<str>, serial: Serial) {
        let Some(stream) = self.by_name.get_mut(&name) else { return };
        match std::mem::replace(&mut stream.head, Head::Moving) {
            Head::Later { held, serial: current } if current == serial => {
                stream.head = Head::Ready(held);
                self.ready.push_back(name);
            }
            other => stream.head = other,
        }
    }

    /// A failed event stays here for another try.
    pub(super) fn again(&mut self, name: &Arc<str>, offer: Offer<T>, at: Instant) {
        let Some(stream) = self.by_name.get_mut(name) else { return };
        let Head::Settling { arrival, taker } = stream.head else { return };
        self.serials += 1;
        let serial = self.serials;
        stream.head = Head::Later { held: Held { offer, arrival }, serial };
        self.takers.give_back(taker);
        self.out -= 1;
        self.due.insert((at, serial), Due::Retry { stream: Arc::clone(name), serial });
    }

    /// The event at the head is gone for good: the next one of its stream is in line.
    pub(super) fn settled(&mut self, name: &Arc<str>) {
        let Some(stream) = self.by_name.get(name) else { return };
        let Head::Settling { taker, .. } = stream.head else { return };
        self.takers.give_back(taker);
        self.out -= 1;
        self.held -= 1;
        self.advance(name);
    }

    /// Puts the next event of a stream at its head.
    fn advance(&mut self, name: &Arc<str>) {
        let Some(stream) = self.by_name.get_mut(name) else { return };
        match stream.waiting.pop_front() {
            Some(held) => {
                stream.head = Head::Ready(held);
                self.ready.push_back(Arc::clone(name));
            }
            None => {
                self.by_name.remove(name);
            }
        }
    }

    /// Drops what nobody wishes for any more; how many that were.
    pub(super) fn forget_unwanted(&mut self) -> usize {
        let before = self.held;
        let mut emptied = Vec::new();
        for (name, stream) in &mut self.by_name {
            let wished = |held: &Held<T>| self.takers.wish_for(&held.offer.event);
            let waited = stream.waiting.len();
            stream.waiting.retain(wished);
            self.held -= waited - stream.waiting.len();
            if let Head::Ready(held) | Head::Later { held, .. } = &stream.head
                && !wished(held)
            {
                self.held -= 1;
                emptied.push(Arc::clone(name));
            }
        }
        for name in emptied {
            self.ready.retain(|ready| *ready != name);
            self.advance(&name);
        }
        before - self.held
    }

    /// When [`Streams::time_passed`] has something to do.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.due.first_key_value().map(|((at, _), _)| *at)
    }

    /// Hands over nothing more.
    pub(super) fn stop(&mut self) {
        self.stopped = true;
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Whether no event is with the handler or the adapter.
    pub(super) fn is_quiet(&self) -> bool {
        self.out == 0
    }

    /// All that is held, in the order of arrival. For a relay that is stopped and quiet.
    pub(super) fn drain(&mut self) -> Vec<Offer<T>> {
        self.due.clear();
        self.ready.clear();
        self.held = 0;
        let mut all: Vec<Held<T>> = Vec::new();
        for (_, stream) in self.by_name.drain() {
            if let Head::Ready(held) | Head::Later { held, .. } = stream.head {
                all.push(held);
            }
            all.extend(stream.waiting);
        }
        all.sort_by_key(|held| held.arrival);
        all.into_iter().map(|held| held.offer).collect()
    }
}
