//! Telling holders that the server is silent, before its silence costs them their locks.
//!
//! Not the end of a session (`state`). Invariants: suspension and its end are told by the timer's
//! task alone, in their order; each holder hears of one suspension once, and of its end only if it
//! heard of it.

use std::time::Instant;

use super::state::State;
use super::wait::Effect;

impl State {
    /// The connection that keeps the session is lost.
    pub(super) fn is_cut_off(&mut self, out: &mut Vec<Effect>) {
        self.is_cut_off = true;
        out.push(Effect::Tick);
    }

    /// Until when the silence of the session's server means nothing: two heartbeats fit in.
    fn calm_until(&self) -> Option<Instant> {
        self.session.map(|session| session.here + self.session_timeout / 2)
    }

    /// Whether the server is silent, or away.
    pub(super) fn is_suspended(&self, now: Instant) -> bool {
        self.calm_until().is_some_and(|until| self.is_cut_off || until <= now)
    }

    /// Tells each holder that does not know; when to look again.
    pub(super) fn tell_suspension(
        &mut self,
        now: Instant,
        out: &mut Vec<Effect>,
    ) -> Option<Instant> {
        let session = self.session?;
        let is_suspended = self.is_suspended(now);
        self.has_suspended = is_suspended;
        for (lock_id, held) in &mut self.held {
            if held.is_suspended == is_suspended {
                continue;
            }
            held.is_suspended = is_suspended;
            let (lock_id, requester) = (lock_id.clone(), held.ask.requester.clone());
            let lease = held.valid_until.unwrap_or(session.valid_until);
            let until = lease.min(session.valid_until);
            out.push(match (held.is_leaving, is_suspended) {
                (true, _) => continue,
                (false, true) => Effect::Suspended(lock_id, requester, until),
                (false, false) => Effect::Resumed(lock_id, requester),
            });
        }
        self.calm_until().filter(|_| !is_suspended)
    }
}
