//! What a relay knows: the streams that have something, who is out, and what is due when.
//!
//! Pure bookkeeping: no task, no lock, no clock; time is an argument. Invariants: of one stream at
//! most one event is out, and the others wait behind it in the order of their arrival; what is
//! held is in exactly one stream; an answer counts only for the try that it was given for.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use tokio::time::Instant;

use super::super::{Delivery, Handled};
use super::{Offer, RelaySettings};
use crate::protocol::retry::Backoff;

/// Names one try: an answer that comes for an earlier one is nobody's any more.
pub(super) type Serial = u64;

/// One try, to be handed to the handler.
pub(super) struct HandOver {
    pub(super) stream: Arc<str>,
    pub(super) serial: Serial,
    pub(super) delivery: Delivery,
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
    Out { held: Held<T>, serial: Serial, until: Instant },
    /// Its answer is there, and the adapter has it.
    Settling { arrival: u64 },
    /// Waits for its next try.
    Later(Held<T>),
}

struct Stream<T> {
    head: Head<T>,
    waiting: VecDeque<Held<T>>,
}

enum Due {
    Timeout { stream: Arc<str>, serial: Serial },
    Retry { stream: Arc<str> },
}

pub(super) struct Streams<T> {
    settings: RelaySettings,
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
    pub(super) fn new(settings: RelaySettings) -> Self {
        Self {
            settings,
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
        if self.stopped { 0 } else { self.settings.held_max.saturating_sub(self.held) }
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
        if self.stopped || self.out >= self.settings.in_flight_max {
            return None;
        }
        let name = self.ready.pop_front()?;
        self.serials += 1;
        self.out += 1;
        let (serial, until) = (self.serials, now + self.settings.timeout);
        let stream = self.by_name.get_mut(&name)?;
        let head = std::mem::replace(&mut stream.head, Head::Settling { arrival: 0 });
        let Head::Ready(held) = head else { unreachable!("only streams in line are ready") };
        let event = Arc::clone(&held.offer.event);
        let delivery = Delivery { event, attempt: held.offer.attempts.saturating_add(1) };
        stream.head = Head::Out { held, serial, until };
        self.due.insert((until, serial), Due::Timeout { stream: Arc::clone(&name), serial });
        Some(HandOver { stream: name, serial, delivery })
    }

    /// The handler's answer; `None` when nobody waits for it any more.
    pub(super) fn answered(
        &mut self,
        name: &Arc<str>,
        serial: Serial,
        handled: Handled,
    ) -> Option<Verdict<T>> {
        let stream = self.by_name.get_mut(name)?;
        match &stream.head {
            Head::Out { serial: current, until, .. } if *current == serial => {
                self.due.remove(&(*until, serial));
            }
            _ => return None,
        }
        let head = std::mem::replace(&mut stream.head, Head::Settling { arrival: 0 });
        let Head::Out { held, .. } = head else { return None };
        stream.head = Head::Settling { arrival: held.arrival };
        let Held { mut offer, arrival } = held;
        offer.attempts = offer.attempts.saturating_add(1);
        let end = match handled {
            Handled::Done => End::Done,
            Handled::Failed { message } if offer.attempts >= self.settings.attempts_max => {
                End::Parked { message }
            }
            Handled::Failed { message } => {
                let backoff = self.settings.backoff;
                let backoff = Backoff { seed: backoff.seed ^ arrival, ..backoff };
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
                Due::Retry { stream } => self.retry(stream),
                Due::Timeout { stream, serial } => {
                    let seconds = self.settings.timeout.as_secs_f64();
                    let message = format!("the handler gave no answer within {seconds} s");
                    let handled = Handled::Failed { message };
                    verdicts.extend(self.answered(&stream, serial, handled));
                }
            }
        }
        verdicts
    }

    fn retry(&mut self, name: Arc<str>) {
        let Some(stream) = self.by_name.get_mut(&name) else { return };
        match std::mem::replace(&mut stream.head, Head::Settling { arrival: 0 }) {
            Head::Later(held) => {
                stream.head = Head::Ready(held);
                self.ready.push_back(name);
            }
            other => stream.head = other,
        }
    }

    /// A failed event stays here for another try.
    pub(super) fn again(&mut self, name: &Arc<str>, offer: Offer<T>, at: Instant) {
        let Some(stream) = self.by_name.get_mut(name) else { return };
        let Head::Settling { arrival } = stream.head else { return };
        stream.head = Head::Later(Held { offer, arrival });
        self.out -= 1;
        self.serials += 1;
        self.due.insert((at, self.serials), Due::Retry { stream: Arc::clone(name) });
    }

    /// The event at the head is gone for good: the next one of its stream is in line.
    pub(super) fn settled(&mut self, name: &Arc<str>) {
        let Some(stream) = self.by_name.get_mut(name) else { return };
        if !matches!(stream.head, Head::Settling { .. }) {
            return;
        }
        self.out -= 1;
        self.held -= 1;
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
            if let Head::Ready(held) | Head::Later(held) = stream.head {
                all.push(held);
            }
            all.extend(stream.waiting);
        }
        all.sort_by_key(|held| held.arrival);
        all.into_iter().map(|held| held.offer).collect()
    }
}
