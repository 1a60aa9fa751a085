//! The manager's clock: keeps the session alive while it is needed, and ends by itself what nobody
//! answers for any more.
//!
//! Not the cluster's time, which stands still where no majority is. A lock is held until the moment
//! at which the last proposal left that kept the session alive, plus the lease, less a margin: the
//! cluster counts the lease from a later moment, and no faster than a clock (after Gray and
//! Cheriton, "Leases", 1989). Invariant: a holder hears of its loss before another can be granted
//! the lock.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::super::{LockError, WaitId};
use super::shared::Shared;
use super::state::{Owed, State, Telling};

/// How long what was not carried out waits for the next try.
pub(super) const PAUSE: Duration = Duration::from_millis(100);

/// Starts the clock of a manager; it ends with it.
pub(super) fn start(shared: &Arc<Shared>) {
    let (weak, alarm) = (Arc::downgrade(shared), Arc::clone(&shared.alarm));
    shared.handle.spawn(async move {
        loop {
            match tick(&weak) {
                Next::In(wait) => drop(tokio::time::timeout(wait, alarm.notified()).await),
                Next::WhenWoken => alarm.notified().await,
                Next::Never => return,
            }
        }
    });
}

/// When to look again.
enum Next {
    In(Duration),
    WhenWoken,
    Never,
}

/// Does what is due.
fn tick(shared: &Weak<Shared>) -> Next {
    let Some(shared) = shared.upgrade() else { return Next::Never };
    let now = Instant::now();
    let mut state = shared.lock();
    if state.is_closed {
        return Next::Never;
    }
    if state.is_idle() {
        return Next::WhenWoken;
    }
    let clock = Clock { now, lease: shared.lease };
    clock.end_locks(&mut state);
    clock.end_waits(&mut state);
    clock.suspend(&mut state);
    let renews = state.tried.is_none_or(|tried| now >= tried + clock.every());
    let pays = state.pay_at.is_none_or(|at| now >= at);
    shared.tell(state);
    if renews {
        shared.put(Vec::new(), |_| {});
    }
    if pays {
        shared.pay();
    }
    let state = shared.lock();
    let next = clock.next(&state);
    Next::In(next.saturating_duration_since(Instant::now()).max(Duration::from_millis(1)))
}

struct Clock {
    now: Instant,
    lease: Duration,
}

impl Clock {
    fn every(&self) -> Duration {
        self.lease / 4
    }

    /// Until when the session is certain to last; `None` where nothing proves it.
    fn certain(&self, state: &State) -> Option<Instant> {
        state.proven.map(|proven| proven + self.lease.mul_f32(0.9))
    }

    /// Whether the cluster answers, as far as it was asked.
    fn is_well(&self, state: &State) -> bool {
        state.unanswered.is_none_or(|since| self.now < since + self.lease / 2)
    }

    /// How much longer than its timeout a wait may take: the cluster's time lags, and its refusal
    /// says who is in the way.
    fn grace(&self, state: &State) -> Duration {
        if self.is_well(state) { self.lease } else { self.every() }
    }

    fn end_locks(&self, state: &mut State) {
        let is_over = self.certain(state).is_none_or(|until| self.now >= until);
        let own_end = |until: Option<Instant>| until.is_some_and(|until| self.now >= until);
        let held = state.held.iter();
        let ended = held.filter(|(_, held)| is_over || own_end(held.until));
        let ended: Vec<_> = ended.map(|(id, held)| (id.clone(), own_end(held.until))).collect();
        for (lock_id, is_own_end) in ended {
            let silence = "no majority of the cluster answered for as long as its session lasts";
            let reason = if is_own_end { "its lease ended" } else { silence };
            if let Some(requester) = state.lose(&lock_id, reason) {
                // The session may last all the same.
                state.owed.push(Owed::release(lock_id, requester, None));
            }
        }
        if is_over && !self.is_well(state) {
            state.is_suspended = false;
            // Whose release nobody has heard of holds nothing any more: not known how it went.
            for reply in state.owed.iter_mut().filter_map(|owed| owed.reply.take()) {
                let message = "no majority of the cluster answers; the lock ends with the session";
                let (server, message) = ("the cluster".to_owned(), message.to_owned());
                let error = LockError::Unavailable { server, message };
                state.tellings.push_back(Telling::Released(reply, Err(error)));
            }
        }
    }

    /// The cluster ends a wait by its own time, and names who is in the way: here only what it
    /// does not end in time.
    fn end_waits(&self, state: &mut State) {
        let grace = self.grace(state);
        let due = state.waits.iter().filter(|(_, wait)| {
            let elapsed = self.now.saturating_duration_since(wait.asked_at);
            wait.timeout().is_some_and(|timeout| elapsed >= timeout.saturating_add(grace))
        });
        for id in due.map(|(id, _)| *id).collect::<Vec<WaitId>>() {
            let Some(wait) = state.waits.get(&id) else { continue };
            let first = &wait.asks[0];
            let waited = self.now.saturating_duration_since(wait.asked_at).as_millis();
            let error = LockError::Timeout {
                resource: first.resource.clone(),
                mode: first.mode,
                waited_ms: u64::try_from(waited).unwrap_or(u64::MAX),
                blockers: "a cluster that does not answer is".to_owned(),
            };
            state.refuse(id, error);
            state.owed.push(Owed::give_up(id));
        }
    }

    fn suspend(&self, state: &mut State) {
        let Some(until) = self.certain(state) else { return };
        let silent = state.proven.is_some_and(|proven| self.now >= proven + self.lease / 2);
        if !silent || state.is_suspended || state.held.is_empty() {
            return;
        }
        state.is_suspended = true;
        let held = state.held.iter();
        let told = held.map(|(id, it)| Telling::Suspended(id.clone(), it.requester.clone(), until));
        state.tellings.extend(told);
    }

    fn next(&self, state: &State) -> Instant {
        let renewal = state.tried.map(|tried| tried + self.every());
        let silence = state.proven.filter(|_| !state.is_suspended);
        let suspension = silence.map(|proven| proven + self.lease / 2);
        let leases = state.held.values().filter_map(|held| held.until).min();
        let grace = self.grace(state);
        let waits = state.waits.values();
        let timeouts = waits
            .filter_map(|wait| Some(wait.asked_at + wait.timeout()?.saturating_add(grace)))
            .min();
        let all = [renewal, suspension, self.certain(state), leases, timeouts, state.pay_at];
        let next = all.into_iter().flatten().filter(|at| *at > self.now).min();
        next.unwrap_or(self.now + PAUSE)
    }
}
