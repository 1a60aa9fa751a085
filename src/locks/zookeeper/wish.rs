//! One wish from the ask to its answer: tries, timeout, cancellation, the end of a session.
//!
//! Not the node (`stake`). Invariants: a wish that is not granted is answered after its node is
//! gone, or after a bounded time in which the server did not say so; then the node is taken away in
//! the background, and with the session at last.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};
use tokio::time::{sleep, sleep_until, timeout};

use crate::locks::{LockAsk, WaitId};
use crate::model::lock::{Grant, LockError, LockId};

use super::node::{Details, whole_ms};
use super::options::wall_now;
use super::session::{Session, told};
use super::shared::Shared;
use super::stake::{Stake, Stop};
use super::table::Hold;
use super::turn::Granted;

/// The least time that the server has for its first answer, however short the wish's own is.
const PATIENCE_MIN: Duration = Duration::from_millis(500);
/// How long an answer waits for the node's going.
const LEAVING_MAX: Duration = Duration::from_secs(2);
/// Between two tries on one session.
const PAUSE: Duration = Duration::from_millis(20);
/// So many of those in the way are named.
const BLOCKERS_NAMED: usize = 3;
const DAY: Duration = Duration::from_secs(86_400);
const NAMING_MAX: Duration = Duration::from_millis(200);

/// One wish.
pub(super) struct Wish {
    shared: Arc<Shared>,
    wait: WaitId,
    ask: LockAsk,
    details: Details,
    started: Instant,
}

/// What a try came to.
enum Outcome {
    Granted(Granted),
    Stopped(Stop),
    GivenUp(LockError),
    TimeUp,
    SessionEnded,
}

impl Wish {
    pub(super) fn new(shared: Arc<Shared>, wait: WaitId, ask: LockAsk) -> Self {
        let details = Details::of(&ask, wall_now());
        Self { shared, wait, ask, details, started: Instant::now() }
    }

    /// Carries the wish to its answer.
    pub(super) async fn run(
        self,
        mut end: oneshot::Receiver<LockError>,
    ) -> Result<Grant, LockError> {
        loop {
            let session = tokio::select! {
                biased;
                reason = &mut end => return Err(given_up(reason)),
                session = self.shared.keeper.session(self.patience_ends()) => session?,
            };
            let tag = self.shared.mint_tag();
            let server = self.shared.keeper.server.clone();
            let mut stake = Stake::new(server, &self.details, self.ask.mode, tag);
            let outcome = self.attempt(&mut stake, &session, &mut end).await;
            let error = match outcome {
                Outcome::Granted(granted) => match self.grant(&stake, &session, granted) {
                    Some(grant) => return Ok(grant),
                    // It was given up in this moment, or the session ended.
                    None => end.try_recv().ok(),
                },
                Outcome::Stopped(Stop::Busy) | Outcome::TimeUp => {
                    Some(self.time_up(&stake, &session).await)
                }
                Outcome::Stopped(Stop::Refused(error)) => {
                    Some(self.shared.keeper.server.unavailable(&told(&error)))
                }
                Outcome::Stopped(Stop::Again) => {
                    sleep(PAUSE).await;
                    None
                }
                Outcome::GivenUp(reason) => Some(reason),
                Outcome::SessionEnded => None,
            };
            self.leave(stake, session).await;
            if let Some(error) = error {
                return Err(error);
            }
        }
    }

    async fn attempt(
        &self,
        stake: &mut Stake,
        session: &Session,
        end: &mut oneshot::Receiver<LockError>,
    ) -> Outcome {
        self.shared.table.add_tag(&stake.tag);
        let is_blocked = stake.is_blocked.subscribe();
        let tag = stake.tag.clone();
        let is_patient = self.ask.timeout.is_none_or(|timeout| !timeout.is_zero());
        let waits = || self.shared.waits_behind(self.wait, &tag);
        tokio::select! {
            biased;
            found = stake.seek(session, is_patient, waits) => match found {
                Ok(granted) => Outcome::Granted(granted),
                Err(stop) => Outcome::Stopped(stop),
            },
            reason = end => Outcome::GivenUp(given_up(reason)),
            _ = session.ended() => Outcome::SessionEnded,
            () = self.time_is_up(is_blocked) => Outcome::TimeUp,
        }
    }

    /// Until when the server must have answered at all.
    fn patience_ends(&self) -> Instant {
        let patience = self.ask.timeout.map_or_else(
            || self.shared.keeper.server.options.session_timeout,
            |timeout| timeout.max(PATIENCE_MIN),
        );
        let from = if self.ask.timeout.is_some() { self.started } else { Instant::now() };
        // Beyond what the clock can hold is as good as a day.
        from.checked_add(patience).unwrap_or(from + DAY)
    }

    /// Ends when the time is up and somebody is in the way, or the server had time enough to tell.
    async fn time_is_up(&self, mut is_blocked: watch::Receiver<bool>) {
        let until = self.ask.timeout.and_then(|timeout| self.started.checked_add(timeout));
        let Some(until) = until else { return std::future::pending().await };
        sleep_until(until.into()).await;
        tokio::select! {
            Ok(_) = is_blocked.wait_for(|is_blocked| *is_blocked) => {}
            () = sleep_until(self.patience_ends().into()) => {}
        }
    }

    fn grant(&self, stake: &Stake, session: &Arc<Session>, granted: Granted) -> Option<Grant> {
        let LockAsk { resource, mode, requester, lease, .. } = &self.ask;
        let id = LockId::new(resource, *mode, granted.token);
        let hold = Hold {
            details: self.details.clone(),
            path: granted.path.clone(),
            tag: stake.tag.clone(),
            session: session.clone(),
            lease_until: lease.and_then(|lease| Instant::now().checked_add(lease)),
            is_suspended: false,
        };
        let is_leased = hold.lease_until.is_some();
        self.shared.table.grant(self.wait, &id, hold).ok()?;
        if is_leased {
            self.shared.mind_leases();
        }
        if let Some(own) = granted.own {
            self.shared.watch_own(id.clone(), requester.clone(), session.clone(), own);
        }
        Some(Grant {
            lock_id: id,
            resource: resource.clone(),
            mode: *mode,
            acquired_at: wall_now(),
            fencing_token: granted.token,
            zk_path: Some(granted.path),
        })
    }

    async fn time_up(&self, stake: &Stake, session: &Session) -> LockError {
        if !*stake.is_blocked.borrow() {
            return self.shared.keeper.server.unavailable("no answer in time");
        }
        LockError::Timeout {
            resource: self.ask.resource.clone(),
            mode: self.ask.mode,
            waited_ms: whole_ms(self.started.elapsed()),
            blockers: timeout(NAMING_MAX, stake.name_blockers(session, BLOCKERS_NAMED))
                .await
                .unwrap_or_else(|_| "others".to_owned()),
        }
    }

    /// Takes the node away, if there may be one.
    async fn leave(&self, stake: Stake, session: Arc<Session>) {
        let shared = self.shared.clone();
        let leaving = shared.handle.clone().spawn(async move {
            let tag = stake.tag.clone();
            tokio::select! {
                () = stake.leave(&session) => {}
                _ = session.ended() => {}
            }
            shared.table.remove_tag(&tag);
        });
        // It goes on by itself when that is not enough.
        let _ = timeout(LEAVING_MAX, leaving).await;
    }
}

fn given_up(reason: Result<LockError, oneshot::error::RecvError>) -> LockError {
    reason.unwrap_or(LockError::Closed)
}
