//! From whoever keeps events to one handler: what every bus does alike for a subscription.
//!
//! An adapter offers a subscription's events in order; the relay hands them to the handler, one of
//! a stream at a time and at most `in_flight_max` in all, repeats with backoff, gives up a handler
//! that takes too long, and tells the adapter ([`Settle`]) what became of each. Not a store: what
//! it holds is lost with the process, and the adapter still has it. Several takers share a relay's
//! events as a group does within one process; among processes that is the adapter's. The
//! bookkeeping is `streams` and `takers`, pure; here are its lock and timer.
//!
//! Invariants: an event that was offered is settled, or given back by [`Relay::stop`]; never both.
//! The next event of a stream is handed over when its [`Next`] is dropped. Nobody's code is called
//! under the lock. However fast answers come, the stack does not grow: one thread hands over, and
//! others leave their work to it.

#[cfg(test)]
mod relay_test;
mod streams;
mod takers;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::{BusEvent, EventHandler, Handled, SubscribeAsk};
use crate::protocol::retry::Backoff;
use crate::reply::Reply;

use streams::{End, HandOver, Streams, Verdict};
pub use takers::{Taker, TakerId};

/// The upper bound of the wait after the first failed try.
pub const BACKOFF_BASE: Duration = Duration::from_millis(100);
/// The upper bound of every wait.
pub const BACKOFF_CAP: Duration = Duration::from_secs(30);

/// An event on its way through a relay, with what the adapter needs in order to settle it.
#[derive(Debug)]
pub struct Offer<T> {
    /// The event.
    pub event: Arc<BusEvent>,
    /// How often it was handed over so far.
    pub attempts: u32,
    /// The adapter's own: a position, a message to acknowledge.
    pub ticket: T,
}

/// How a relay behaves.
#[derive(Clone, Copy, Debug)]
pub struct RelaySettings {
    /// How often an event is handed over before it is parked.
    pub attempts_max: u32,
    /// How many are out at once, those that are being settled included.
    pub in_flight_max: usize,
    /// How many are held at once, those that are out included.
    pub held_max: usize,
    /// How long a handler may take.
    pub timeout: Duration,
    /// The waits between tries.
    pub backoff: Backoff,
}

impl RelaySettings {
    /// As a subscriber wishes it, holding at most `held_max` events.
    pub fn of(ask: &SubscribeAsk, held_max: usize, seed: u64) -> Self {
        Self {
            attempts_max: ask.attempts_max.max(1),
            in_flight_max: ask.in_flight_max.max(1),
            held_max,
            timeout: ask.timeout,
            backoff: Backoff { base: BACKOFF_BASE, cap: BACKOFF_CAP, seed },
        }
    }
}

/// An adapter's end: is told what became of its events. Must not block; calls come from any thread.
pub trait Settle<T: Send + 'static>: Send + Sync {
    /// The handler is done with it. The stream goes on when `next` is dropped.
    fn done(&self, offer: Offer<T>, next: Next<T>);

    /// Its tries are spent; `message` is what the handler said last. The stream goes on when `next`
    /// is dropped.
    fn park(&self, offer: Offer<T>, message: String, next: Next<T>);

    /// A try failed, and another is due after `delay`. Given back, the event waits here, its stream
    /// with it; kept, it is the adapter's, who offers it again, and its stream goes on at once.
    fn failed(&self, offer: Offer<T>, message: &str, delay: Duration) -> Option<Offer<T>> {
        let _ = (message, delay);
        Some(offer)
    }
}

/// Lets a stream go on when it is dropped. Its event counts as out until then.
pub struct Next<T: Send + 'static> {
    shared: Arc<Shared<T>>,
    stream: Arc<str>,
}

impl<T: Send + 'static> Drop for Next<T> {
    fn drop(&mut self) {
        self.shared.state().streams.settled(&self.stream);
        self.shared.go_on();
    }
}

/// Hands one subscription's events to its handler. A cheap handle; clones are the same relay.
pub struct Relay<T: Send + 'static> {
    shared: Arc<Shared<T>>,
}

impl<T: Send + 'static> Clone for Relay<T> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

type Rest<T> = Box<dyn FnOnce(Vec<Offer<T>>) + Send>;
type Left = Box<dyn FnOnce() + Send>;

struct State<T> {
    streams: Streams<T>,
    /// Some thread hands over, and looks again before it ends.
    is_pumped: bool,
    /// When the timer looks next; `None` while it waits to be told.
    looks_at: Option<Instant>,
    /// Who waits for the end, in the order of asking.
    stopping: Vec<Rest<T>>,
    /// Takers of whom something may be out, and who waits for the end of that.
    leaving: Vec<(TakerId, Left)>,
}

/// When the timer looks again.
enum Look {
    At(Instant),
    WhenTold,
    NoMore,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    settle: Arc<dyn Settle<T>>,
    /// Says that the timer has to look again, or has nothing to do any more.
    changed: Arc<Notify>,
}

impl<T: Send + 'static> Relay<T> {
    /// A relay for one handler; its timer runs on `runtime`, and ends with [`Relay::stop`] or with
    /// the last handle.
    pub fn new(
        settings: RelaySettings,
        handler: Arc<dyn EventHandler>,
        settle: Arc<dyn Settle<T>>,
        runtime: &Handle,
    ) -> Self {
        let RelaySettings { attempts_max, in_flight_max, held_max, timeout, backoff } = settings;
        let relay = Self::without_takers(held_max, backoff, settle, runtime);
        relay.join(Taker { kind: None, handler, attempts_max, in_flight_max, timeout });
        relay
    }

    /// A relay that holds at most `held_max` events, for those who [`Relay::join`].
    pub fn without_takers(
        held_max: usize,
        backoff: Backoff,
        settle: Arc<dyn Settle<T>>,
        runtime: &Handle,
    ) -> Self {
        let state = State {
            streams: Streams::new(held_max, backoff),
            is_pumped: false,
            looks_at: None,
            stopping: Vec::new(),
            leaving: Vec::new(),
        };
        let changed = Arc::new(Notify::new());
        let shared = Arc::new(Shared { state: Mutex::new(state), settle, changed });
        runtime.spawn(keep_time(Arc::downgrade(&shared), Arc::clone(&shared.changed)));
        Self { shared }
    }

    /// Adds somebody who takes events: each event goes to one of those who wish for its type.
    pub fn join(&self, taker: Taker) -> TakerId {
        let id = self.shared.state().streams.takers.join(taker);
        self.shared.go_on();
        id
    }

    /// Gives a taker nothing more, and drops what is held and nobody else wishes for. `told` is
    /// called when nothing of it is out any more.
    pub fn leave(&self, id: TakerId, told: impl FnOnce() + Send + 'static) {
        let mut state = self.shared.state();
        state.streams.takers.leave(id);
        state.streams.forget_unwanted();
        state.leaving.push((id, Box::new(told)));
        drop(state);
        self.shared.go_on();
    }

    /// Takes an event, or gives it back: there is no room, or the relay is stopped. Events of one
    /// stream are offered in their order, by one thread at a time.
    pub fn offer(&self, offer: Offer<T>) -> Result<(), Offer<T>> {
        self.shared.state().streams.put(offer)?;
        self.shared.go_on();
        Ok(())
    }

    /// As [`Relay::offer`], but hands nothing over: for a caller that holds a lock, and calls
    /// [`Relay::go_on`] when it does no more.
    pub fn put(&self, offer: Offer<T>) -> Result<(), Offer<T>> {
        self.shared.state().streams.put(offer)
    }

    /// Hands over what was put.
    pub fn go_on(&self) {
        self.shared.go_on();
    }

    /// How many more events it takes now. It grows with each event that is settled.
    pub fn room(&self) -> usize {
        self.shared.state().streams.room()
    }

    /// Hands over nothing more. When nothing is out any more, which the handler's timeout bounds,
    /// `told` is given what was held and not settled, in the order in which it was offered.
    pub fn stop(&self, told: impl FnOnce(Vec<Offer<T>>) + Send + 'static) {
        let mut state = self.shared.state();
        state.streams.stop();
        state.stopping.push(Box::new(told));
        drop(state);
        self.shared.go_on();
    }
}

impl<T> Shared<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Send + 'static> Shared<T> {
    /// Hands over what may go out, unless another thread is at it, and ends what is to end.
    fn go_on(self: &Arc<Self>) {
        loop {
            let mut state = self.state();
            if state.is_pumped {
                return;
            }
            let Some(next) = state.streams.next(Instant::now()) else {
                return self.end_what_ends(state);
            };
            state.is_pumped = true;
            self.set_timer(&mut state);
            drop(state);
            self.hand_over(next);
            self.state().is_pumped = false;
        }
    }

    fn hand_over(self: &Arc<Self>, next: HandOver) {
        let HandOver { stream, serial, delivery, handler } = next;
        let shared = Arc::clone(self);
        let reply = Reply::new(move |handled: Handled| {
            let verdict = shared.state().streams.answered(&stream, serial, handled);
            if let Some(verdict) = verdict {
                shared.carry_out(verdict);
            }
        });
        handler.handle(delivery, reply);
    }

    /// Tells the adapter; its stream goes on by its [`Next`], or by what it gives back.
    fn carry_out(self: &Arc<Self>, verdict: Verdict<T>) {
        let Verdict { stream, offer, end } = verdict;
        match end {
            End::Done => self.settle.done(offer, self.next_of(stream)),
            End::Parked { message } => self.settle.park(offer, message, self.next_of(stream)),
            End::Failed { message, delay } => match self.settle.failed(offer, &message, delay) {
                None => drop(self.next_of(stream)),
                Some(offer) => {
                    let mut state = self.state();
                    state.streams.again(&stream, offer, Instant::now() + delay);
                    self.set_timer(&mut state);
                    drop(state);
                    self.go_on();
                }
            },
        }
    }

    fn next_of(self: &Arc<Self>, stream: Arc<str>) -> Next<T> {
        Next { shared: Arc::clone(self), stream }
    }

    /// Has the timer look again when something is due before it would.
    fn set_timer(&self, state: &mut State<T>) {
        let Some(deadline) = state.streams.deadline() else { return };
        if state.looks_at.is_none_or(|looks_at| deadline < looks_at) {
            state.looks_at = Some(deadline);
            self.changed.notify_one();
        }
    }

    /// Tells those who wait for the end of a taker or of all.
    fn end_what_ends(&self, mut state: MutexGuard<'_, State<T>>) {
        let State { streams, leaving, .. } = &mut *state;
        let left: Vec<_> = leaving.extract_if(.., |(id, _)| streams.takers.is_gone(*id)).collect();
        let is_over = streams.is_stopped() && streams.is_quiet();
        let stopping = if is_over { std::mem::take(&mut state.stopping) } else { Vec::new() };
        let mut rest = if is_over { state.streams.drain() } else { Vec::new() };
        drop(state);
        for (_, told) in left {
            told();
        }
        if is_over {
            self.changed.notify_one();
        }
        for told in stopping {
            told(std::mem::take(&mut rest));
        }
    }

    /// The timer: does what is due.
    fn look(self: &Arc<Self>) -> Look {
        let verdicts = self.state().streams.time_passed(Instant::now());
        for verdict in verdicts {
            self.carry_out(verdict);
        }
        self.go_on();
        let mut state = self.state();
        if state.streams.is_stopped() && state.streams.is_quiet() {
            return Look::NoMore;
        }
        state.looks_at = state.streams.deadline();
        state.looks_at.map_or(Look::WhenTold, Look::At)
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        self.changed.notify_one();
    }
}

async fn keep_time<T: Send + 'static>(shared: Weak<Shared<T>>, changed: Arc<Notify>) {
    loop {
        let Some(look) = shared.upgrade().map(|shared| shared.look()) else { return };
        match look {
            Look::NoMore => return,
            Look::WhenTold => changed.notified().await,
            Look::At(deadline) => {
                let _ = tokio::time::timeout_at(deadline, changed.notified()).await;
            }
        }
    }
}
