//! What this process asked for and holds, as far as it knows.
//!
//! Not the truth, which stands in the database, and no input or output: a change returns what is to
//! be done, as [`Effect`]s. Invariants: a wait has its reply until it is answered, and is answered
//! once; a lock stands here only while its session and lease are good by this process's own clock.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::errand::Errand;
use super::wait::{Effect, Ending, GrantReply, Held, Session, Stage, Wait};
use crate::locks::{Deadlock, Grant, LockAsk, LockError, LockId, RequesterId};
use crate::model::time::Timestamp;

/// How long the server may take to say what became of a wait that is over.
const ENDING_MAX: Duration = Duration::from_secs(1);

/// See the header.
pub(super) struct State {
    pub(super) is_closed: bool,
    pub(super) waits: HashMap<u64, Wait>,
    pub(super) held: HashMap<LockId, Held>,
    pub(super) session: Option<Session>,
    /// Whether the connection that keeps the session was lost since it was last heard of.
    pub(super) is_cut_off: bool,
    /// Whether holders were told that they are suspended, and not yet otherwise.
    pub(super) has_suspended: bool,
    /// Why the server could not be reached, until it is.
    pub(super) trouble: Option<String>,
    /// Sessions that were lost, and may still have rows on the server.
    pub(super) over: Vec<i64>,
    server: String,
    pub(super) session_timeout: Duration,
    next_wait: u64,
    /// When the timer looks next.
    timer_at: Option<Instant>,
    /// How many waits and locks each requester has.
    engaged: HashMap<RequesterId, usize>,
}

impl State {
    pub(super) fn new(server: String, session_timeout: Duration) -> Self {
        Self {
            is_closed: false,
            waits: HashMap::new(),
            held: HashMap::new(),
            session: None,
            is_cut_off: false,
            has_suspended: false,
            trouble: None,
            over: Vec::new(),
            server,
            session_timeout,
            next_wait: 1,
            timer_at: None,
            engaged: HashMap::new(),
        }
    }

    /// Takes a wish in; its number.
    pub(super) fn begin(
        &mut self,
        ask: LockAsk,
        reply: GrantReply,
        now: Instant,
        out: &mut Vec<Effect>,
    ) -> u64 {
        let number = self.next_wait;
        self.next_wait += 1;
        *self.engaged.entry(ask.requester.clone()).or_default() += 1;
        let waits = ask.timeout.filter(|timeout| !timeout.is_zero());
        let deadline = waits.and_then(|timeout| now.checked_add(timeout));
        out.push(Effect::Push(ask.resource.clone(), Errand::Ask(number)));
        let wait = Wait {
            ask,
            reply: Some(reply),
            stage: Stage::Queued,
            ending: None,
            is_again: false,
            has_waited: false,
            began: now,
            deadline,
            answer_by: None,
        };
        if let Some(at) = self.look_at(&wait) {
            self.look(at, out);
        }
        self.waits.insert(number, wait);
        number
    }

    fn look(&self, at: Instant, out: &mut Vec<Effect>) {
        if self.timer_at.is_none_or(|next| at < next) {
            out.push(Effect::Tick);
        }
    }

    /// A session, or a renewal of it.
    pub(super) fn keep_session(&mut self, session: Session, out: &mut Vec<Effect>) {
        self.session = Some(session);
        self.trouble = None;
        self.is_cut_off = false;
        self.look(session.valid_until, out);
        if self.has_suspended {
            out.push(Effect::Tick);
        }
    }

    /// The number of the next wait; those below were given out.
    pub(super) fn next_wait(&self) -> u64 {
        self.next_wait
    }

    /// Whether somebody stands in a queue.
    pub(super) fn has_waiting(&self) -> bool {
        self.waits.values().any(|wait| wait.stage == Stage::Waiting)
    }

    /// Ends a wait as soon as that can be done.
    pub(super) fn end(&mut self, number: u64, ending: Ending, now: Instant, out: &mut Vec<Effect>) {
        let answer_by = now + ENDING_MAX;
        let Some(wait) = self.waits.get_mut(&number) else { return };
        if wait.ending.is_some() && ending != Ending::Dropped {
            return;
        }
        if self.timer_at.is_none_or(|next| answer_by < next) {
            out.push(Effect::Tick);
        }
        wait.ending = Some(ending);
        wait.answer_by = Some(answer_by);
        match wait.stage {
            Stage::Queued if !wait.is_again => self.finish(number, None, out),
            Stage::Queued | Stage::Sent => {}
            Stage::Waiting => {
                out.push(Effect::Push(wait.ask.resource.clone(), Errand::Cancel(number)));
            }
        }
    }

    /// Removes a wait that nothing on the server stands for any more, and answers it.
    pub(super) fn finish(
        &mut self,
        number: u64,
        told: Option<Result<Deadlock, String>>,
        out: &mut Vec<Effect>,
    ) {
        let Some(wait) = self.waits.remove(&number) else { return };
        self.disengage(&wait.ask.requester);
        let error = match (told, wait.ending) {
            (Some(Ok(deadlock)), _) => LockError::Deadlock(Box::new(deadlock)),
            (_, Some(Ending::Cancelled | Ending::Dropped | Ending::Deadlock)) => {
                LockError::Cancelled
            }
            (told, _) => self.too_late(&wait, told.and_then(Result::err)),
        };
        if let Some(reply) = wait.reply {
            out.push(Effect::Answer(reply, Err(error)));
        }
    }

    fn too_late(&self, wait: &Wait, blockers: Option<String>) -> LockError {
        if wait.stage == Stage::Queued && (self.trouble.is_some() || self.session.is_none()) {
            return self.unavailable();
        }
        LockError::Timeout {
            resource: wait.ask.resource.clone(),
            mode: wait.ask.mode,
            waited_ms: u64::try_from(wait.began.elapsed().as_millis()).unwrap_or(u64::MAX),
            blockers: blockers.unwrap_or_else(|| "earlier requests".to_owned()),
        }
    }

    fn unavailable(&self) -> LockError {
        let message = self.trouble.clone();
        let message = message.unwrap_or_else(|| "it did not answer in time".to_owned());
        LockError::Unavailable { server: self.server.clone(), message }
    }

    /// Answers a wait although the server did not say what became of it. What it may have left
    /// there is removed once the server answers again.
    fn abandon(&mut self, number: u64, out: &mut Vec<Effect>) {
        let error = self.unavailable();
        let Some(wait) = self.waits.get_mut(&number) else { return };
        let was_cancelled = wait.ending == Some(Ending::Cancelled);
        wait.ending = Some(Ending::Dropped);
        wait.answer_by = None;
        if let Some(reply) = wait.reply.take() {
            let error = if was_cancelled { LockError::Cancelled } else { error };
            out.push(Effect::Answer(reply, Err(error)));
        }
        if wait.stage == Stage::Queued && !wait.is_again {
            self.finish(number, None, out);
        }
    }

    /// Its row stands in the queue.
    pub(super) fn waiting(&mut self, number: u64, session: i64, out: &mut Vec<Effect>) {
        if self.session.is_none_or(|now| now.id != session) {
            return self.ask_again(number, out);
        }
        let Some(wait) = self.waits.get_mut(&number) else { return };
        wait.stage = Stage::Waiting;
        wait.has_waited = true;
        let cancels = wait.ending.is_some();
        if cancels {
            out.push(Effect::Push(wait.ask.resource.clone(), Errand::Cancel(number)));
        } else {
            // Only who has something else can close a circle.
            let count = self.engaged.get(&wait.ask.requester);
            out.push(Effect::Watch { is_urgent: count.is_some_and(|count| *count > 1) });
        }
    }

    /// Sends an ask once more.
    pub(super) fn ask_again(&mut self, number: u64, out: &mut Vec<Effect>) {
        let Some(wait) = self.waits.get_mut(&number) else { return };
        wait.stage = Stage::Queued;
        wait.is_again = true;
        out.push(Effect::Push(wait.ask.resource.clone(), Errand::Ask(number)));
    }

    /// A grant of this session. `sent` is when the question that it answers was sent, where it
    /// is one.
    pub(super) fn granted(
        &mut self,
        number: u64,
        (token, at): (u64, Timestamp),
        from: (i64, Option<Instant>),
        out: &mut Vec<Effect>,
    ) {
        let (session, sent) = from;
        // A process that was stopped may find a grant before it finds that its time is over.
        let is_good = |now: &Session| now.id == session && now.valid_until > Instant::now();
        let Some(now) = self.session.filter(is_good) else {
            return self.ask_again(number, out);
        };
        let Some(wait) = self.waits.remove(&number) else { return };
        let mut ask = wait.ask;
        // Known by the server's clock, for whoever asks in its place.
        ask.working_since.get_or_insert(at);
        let (resource, mode) = (ask.resource.clone(), ask.mode);
        let lock_id = LockId::new(&resource, mode, token);
        let valid_until = ask.lease.and_then(|lease| {
            let begins = sent.or_else(|| now.local(at))?;
            begins.checked_add(lease)
        });
        let is_leaving = wait.ending == Some(Ending::Dropped) || wait.reply.is_none();
        if is_leaving {
            let errand = Errand::release(lock_id.clone(), ask.requester.clone(), None);
            out.push(Effect::Push(resource.clone(), errand));
        }
        if let Some(at) = valid_until {
            self.look(at, out);
        }
        let held = Held { ask, valid_until, is_leaving, is_suspended: false };
        self.held.insert(lock_id.clone(), held);
        if self.is_suspended(Instant::now()) {
            out.push(Effect::Tick);
        }
        let zk_path = None;
        let grant =
            Grant { lock_id, resource, mode, acquired_at: at, fencing_token: token, zk_path };
        let answer = if is_leaving { Err(LockError::Cancelled) } else { Ok(grant) };
        out.extend(wait.reply.map(|reply| Effect::Answer(reply, answer)));
    }

    /// Forgets a lock that was let go of.
    pub(super) fn let_go(&mut self, lock_id: &LockId) -> bool {
        let Some(held) = self.held.remove(lock_id) else { return false };
        self.disengage(&held.ask.requester);
        true
    }

    /// A lock is held no more, and its holder did not ask for that.
    pub(super) fn lose(&mut self, lock_id: &LockId, reason: &str, out: &mut Vec<Effect>) {
        let Some(held) = self.held.remove(lock_id) else { return };
        self.disengage(&held.ask.requester);
        if !held.is_leaving {
            out.push(Effect::Lost(lock_id.clone(), held.ask.requester, reason.to_owned()));
        }
    }

    /// The session is over: nothing is held any more, and waits are asked for again in the next.
    pub(super) fn lose_session(&mut self, reason: &str, out: &mut Vec<Effect>) {
        let Some(session) = self.session.take() else { return };
        self.over.push(session.id);
        out.push(Effect::SessionOver);
        let held: Vec<LockId> = self.held.keys().cloned().collect();
        for lock_id in &held {
            self.lose(lock_id, reason, out);
        }
        let waiting = self.waits.iter().filter(|(_, wait)| wait.stage == Stage::Waiting);
        let mut numbers: Vec<u64> = waiting.map(|(number, _)| *number).collect();
        // In the order in which they were asked for.
        numbers.sort_unstable();
        for number in numbers {
            self.ask_again(number, out);
        }
    }

    fn disengage(&mut self, requester: &RequesterId) {
        if let Some(count) = self.engaged.get_mut(requester) {
            *count -= 1;
            if *count == 0 {
                self.engaged.remove(requester);
            }
        }
    }

    /// What time alone brings about; when to look again.
    pub(super) fn tick(&mut self, now: Instant, out: &mut Vec<Effect>) -> Option<Instant> {
        if self.session.is_some_and(|session| session.valid_until <= now) {
            let reason = format!(
                "{} did not acknowledge a heartbeat in time, so the session is over",
                self.server
            );
            self.lose_session(&reason, out);
        }
        let is_over = |held: &Held| held.valid_until.is_some_and(|until| until <= now);
        let over: Vec<LockId> =
            self.held.iter().filter(|(_, held)| is_over(held)).map(|(id, _)| id.clone()).collect();
        for lock_id in over {
            self.lose(&lock_id, "its lease ended without a renewal", out);
        }
        self.tick_waits(now, out);
        let calm = self.tell_suspension(now, out);
        let waits = self.waits.values().filter_map(|wait| self.look_at(wait));
        let leases = self.held.values().filter_map(|held| held.valid_until);
        let session = self.session.map(|session| session.valid_until);
        let next = waits.chain(leases).chain(session).chain(calm).min();
        self.timer_at = next;
        next
    }

    /// Starts a lease anew; `begins` is not after its beginning there.
    pub(super) fn renewed(
        &mut self,
        lock_id: &LockId,
        begins: Instant,
        lease: Duration,
        out: &mut Vec<Effect>,
    ) {
        let until = begins.checked_add(lease);
        if let Some(held) = self.held.get_mut(lock_id) {
            held.valid_until = until;
        }
        if let Some(until) = until {
            self.look(until, out);
        }
    }

    fn tick_waits(&mut self, now: Instant, out: &mut Vec<Effect>) {
        let due =
            self.waits.iter().filter(|(_, wait)| self.look_at(wait).is_some_and(|at| at <= now));
        let mut due: Vec<u64> = due.map(|(number, _)| *number).collect();
        due.sort_unstable();
        for number in due {
            let Some(wait) = self.waits.get(&number) else { continue };
            let is_late = wait.deadline.is_some_and(|deadline| deadline <= now);
            if is_late && wait.ending.is_none() {
                self.end(number, Ending::Timeout, now, out);
            } else {
                self.abandon(number, out);
            }
        }
    }

    /// When time changes something about a wait.
    fn look_at(&self, wait: &Wait) -> Option<Instant> {
        wait.reply.as_ref()?;
        if wait.ending.is_some() {
            return wait.answer_by;
        }
        let reach_by = (!wait.has_waited).then_some(wait.began + self.session_timeout);
        [wait.deadline, reach_by].into_iter().flatten().min()
    }

    /// The server refuses this user: nothing that is asked can be answered.
    pub(super) fn refuse_all(&mut self, out: &mut Vec<Effect>) {
        let queued = self.waits.iter().filter(|(_, wait)| wait.stage == Stage::Queued);
        let mut numbers: Vec<u64> = queued.map(|(number, _)| *number).collect();
        numbers.sort_unstable();
        for number in numbers {
            self.abandon(number, out);
        }
    }

    /// Nothing is answered any more after this.
    pub(super) fn close(&mut self, out: &mut Vec<Effect>) {
        self.is_closed = true;
        for (_, mut wait) in self.waits.drain() {
            if let Some(reply) = wait.reply.take() {
                out.push(Effect::Answer(reply, Err(LockError::Closed)));
            }
        }
        self.held.clear();
        self.engaged.clear();
    }
}
