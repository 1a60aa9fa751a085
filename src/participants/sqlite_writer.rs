//! The one thread that writes a SQLite file for a store: a queue before a single writer's place.
//!
//! Not the store's face (`sqlite.rs`) and not SQL (`sqlite_statement.rs`, `sqlite_schema.rs`).
//! It is over the soft limit of lines because every path ends in the same few states.
//!
//! Invariants:
//! - The place lock is held exactly while a transaction is held, from before its row is staged.
//! - While a row is staged that this thread does not hold, nothing else is written.
//! - Questions about what is prepared go before new prepares; prepares go first come, first served.
//! - A transaction that was found staged at the start is held only as long as nobody else wants to
//!   end it: another process may be the one that the journal gave its coordination to.

use std::collections::VecDeque;
use std::mem;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode};

use super::last_resource::{DecideAsk, Deciding};
use super::sqlite_ending::{Trouble, committed_before};
use super::sqlite_fence::{self, Trouble as FenceTrouble};
use super::sqlite_lock::PlaceLock;
use super::sqlite_queue::{Ask, Question, Running, Waiting};
use super::sqlite_schema::{self as schema, Owner, StagedRow};
use super::sqlite_statement::{self as statement, Statement};
use super::{ParticipantError, PrepareAsk};
use crate::crash;
use crate::model::ids::CoordinationId;
use crate::model::outcome::{Acknowledgement, Vote};
use crate::reply::Reply;

/// How often the place is tried while another store has it.
const POLL: Duration = Duration::from_millis(2);
/// How often a recovered transaction's holder looks whether another store wants to end it.
const YIELD: Duration = Duration::from_millis(50);
/// How long a statement of ours waits inside SQLite for a writer that is none of ours.
pub(super) const BUSY: Duration = Duration::from_millis(100);
/// The transaction that is open on the connection.
pub(super) struct Held {
    pub(super) id: CoordinationId,
    pub(super) is_recovered: bool,
}

/// The thread's state.
pub(super) struct Writer {
    pub(super) connection: Connection,
    pub(super) lock: PlaceLock,
    pub(super) owner: Owner,
    pub(super) path: PathBuf,
    running: Arc<Running>,
    pub(super) held: Option<Held>,
    waiting: VecDeque<Waiting>,
    pub(super) forgotten: Vec<CoordinationId>,
    /// Who was last seen in the place, for those that wait in vain.
    pub(super) blocker: String,
    /// Since rows of the barrier were purged.
    pub(super) steps: u32,
}

impl Writer {
    pub(super) fn new(
        connection: Connection,
        lock: PlaceLock,
        owner: Owner,
        path: PathBuf,
        running: Arc<Running>,
    ) -> Self {
        Self {
            connection,
            lock,
            owner,
            path,
            running,
            held: None,
            waiting: VecDeque::new(),
            forgotten: Vec::new(),
            blocker: String::new(),
            steps: 0,
        }
    }

    /// Applies again and holds what a process that died had prepared. Where that is not possible
    /// now the row stays, and whoever is asked to commit it says why.
    pub(super) fn recover(&mut self) -> Result<(), String> {
        if !self.lock.try_take().map_err(|error| error.to_string())? {
            return Ok(());
        }
        let row = schema::any_staged(&self.connection).map_err(|error| error.to_string())?;
        if let Some(row) = row.filter(|row| row.is_of(&self.owner)) {
            let id = CoordinationId::new(&row.transaction).map_err(|error| error.to_string())?;
            if let Err(Trouble::Final(message) | Trouble::Passing(message)) = self.reapply(&id) {
                tracing::warn!(%id, message, "a staged transaction could not be applied again yet");
            }
        }
        if self.held.is_none() {
            self.purge_at_start();
            self.purge_aborts();
        }
        self.release_if_free();
        Ok(())
    }

    /// Works until it is told to stop, or nobody is left to tell it anything.
    pub(super) fn run(mut self, asks: &Receiver<Ask>) {
        loop {
            let next = match self.patience() {
                None => asks.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(patience) => asks.recv_timeout(patience),
            };
            match next {
                Ok(ask) => {
                    // What came in the meantime is taken too: an abort must overtake its prepare.
                    for ask in std::iter::once(ask).chain(asks.try_iter()) {
                        if !self.take(ask) {
                            return self.stop();
                        }
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return self.stop(),
            }
            self.yield_recovered();
            self.expire();
            self.advance();
        }
    }

    /// How long there is nothing to do unless something comes.
    fn patience(&self) -> Option<Duration> {
        let now = Instant::now();
        let first = self.waiting.iter().map(|waiting| waiting.deadline).min();
        let until_first = first.map(|deadline| deadline.saturating_duration_since(now));
        match &self.held {
            None if !self.waiting.is_empty() => until_first.map(|left| left.min(POLL)),
            Some(held) if held.is_recovered => Some(until_first.unwrap_or(YIELD).min(YIELD)),
            _ => until_first,
        }
    }

    /// Takes one message; false for the last.
    fn take(&mut self, ask: Ask) -> bool {
        match ask {
            Ask::Prepare { ask, deadline, reply } => self.queue_prepare(ask, deadline, reply),
            Ask::Commit { id, deadline, reply } => self.take_commit(id, deadline, reply),
            Ask::Abort { id, deadline, reply } => self.take_abort(id, deadline, reply),
            Ask::Decide { ask, deadline, reply } => self.queue_decide(ask, deadline, reply),
            Ask::Forbid { id, deadline, reply } => {
                self.drop_queued(&id);
                let question = Question::Forbid { id, reply };
                self.waiting.push_front(Waiting { question, deadline });
            }
            Ask::ReadRow { id, reply } => reply.send(self.row(&id)),
            Ask::List(reply) => reply.send(self.list()),
            Ask::Execute { ask, deadline, reply } => {
                let question = Question::Execute { ask, reply };
                self.waiting.push_back(Waiting { question, deadline });
            }
            Ask::Forget(ids) => self.forgotten.extend(ids),
            Ask::Stop => return false,
        }
        true
    }

    fn queue_prepare(&mut self, ask: PrepareAsk, deadline: Instant, reply: Reply<Vote>) {
        let statements = match statement::read_statements(&ask) {
            Ok(statements) if statements.is_empty() => return reply.send(Vote::ReadOnly),
            Ok(statements) => statements,
            Err(reason) => return reply.send(Vote::Abort { reason }),
        };
        let is_held = self.held.as_ref().is_some_and(|held| held.id == *ask.id());
        if is_held || self.waiting.iter().any(|waiting| waiting.prepares(ask.id())) {
            let reason = format!("the transaction '{}' is prepared here already", ask.id());
            return reply.send(Vote::Abort { reason });
        }
        let question = Question::Prepare { ask, statements, reply };
        self.waiting.push_back(Waiting { question, deadline });
    }

    fn queue_decide(&mut self, ask: Box<DecideAsk>, deadline: Instant, reply: Reply<Deciding>) {
        match statement::read_statements(&ask.work) {
            Ok(statements) => {
                let question = Question::Decide { ask, statements, reply };
                self.waiting.push_back(Waiting { question, deadline });
            }
            Err(reason) => reply.send(Deciding::Refused { reason }),
        }
    }

    fn take_commit(
        &mut self,
        id: CoordinationId,
        deadline: Instant,
        reply: Reply<Acknowledgement>,
    ) {
        if self.held.as_ref().is_some_and(|held| held.id == id) {
            return reply.send(self.commit_held());
        }
        match self.standing(&id) {
            Err(message) => reply.send(Acknowledgement::Unknown { message }),
            Ok(Standing::Applied) => reply.send(Acknowledgement::Done),
            Ok(Standing::None) => reply.send(Acknowledgement::NeverPrepared),
            Ok(Standing::Staged) => {
                let question = Question::Commit { id, reply };
                self.waiting.push_front(Waiting { question, deadline });
            }
        }
    }

    fn take_abort(&mut self, id: CoordinationId, deadline: Instant, reply: Reply<Acknowledgement>) {
        self.drop_queued(&id);
        if self.held.as_ref().is_some_and(|held| held.id == id) {
            return reply.send(self.abort_held());
        }
        match self.standing(&id) {
            Err(message) => reply.send(Acknowledgement::Unknown { message }),
            Ok(Standing::Applied) => reply.send(committed_before(&id)),
            Ok(Standing::None) => reply.send(Acknowledgement::Done),
            Ok(Standing::Staged) => {
                let question = Question::Abort { id, reply };
                self.waiting.push_front(Waiting { question, deadline });
            }
        }
    }

    /// An abort that overtook its prepare: the prepare is not begun.
    fn drop_queued(&mut self, id: &CoordinationId) {
        let place = self.waiting.iter().position(|waiting| waiting.prepares(id));
        if let Some(waiting) = place.and_then(|place| self.waiting.remove(place)) {
            let reason = format!("the transaction '{id}' was aborted while it waited its turn");
            waiting.refuse(&reason);
        }
    }

    pub(super) fn standing(&self, id: &CoordinationId) -> Result<Standing, String> {
        let read = || {
            if schema::is_applied(&self.connection, &self.owner, id)? {
                return Ok(Standing::Applied);
            }
            let staged = schema::staged(&self.connection, &self.owner, id)?;
            Ok(if staged.is_some() { Standing::Staged } else { Standing::None })
        };
        read().map_err(|error| self.describe(&error))
    }

    fn list(&self) -> Result<Vec<CoordinationId>, ParticipantError> {
        let ids = schema::list(&self.connection, &self.owner)
            .map_err(|error| ParticipantError::new(self.describe(&error)))?;
        // A row with an impossible id was not written by us.
        Ok(ids.iter().filter_map(|id| CoordinationId::new(id).ok()).collect())
    }

    /// Serves what waits, as long as the place is free.
    fn advance(&mut self) {
        while self.held.is_none() && !self.waiting.is_empty() {
            let wants_to_end = self.waiting.iter().any(|waiting| waiting.question.is_ending());
            match self.lock.try_take() {
                Ok(true) => {}
                Ok(false) => {
                    self.lock.set_wanted(wants_to_end);
                    "another process, or another store in this one, has the writer's place"
                        .clone_into(&mut self.blocker);
                    return;
                }
                Err(error) => {
                    self.blocker = format!("the lock file cannot be locked: {error}");
                    return;
                }
            }
            self.lock.set_wanted(false);
            let Some(waiting) = self.waiting.pop_front() else { break };
            let again = self.serve(waiting);
            self.release_if_free();
            if let Some(waiting) = again {
                return self.waiting.push_front(waiting);
            }
        }
    }

    /// Answers one question, or gives it back because it must wait longer.
    fn serve(&mut self, waiting: Waiting) -> Option<Waiting> {
        let Waiting { question, deadline } = waiting;
        let question = match question {
            Question::Prepare { ask, statements, reply } => match self.prepare(&ask, &statements) {
                Some(vote) => {
                    reply.send(vote);
                    return None;
                }
                None => Question::Prepare { ask, statements, reply },
            },
            Question::Execute { ask, reply } => match self.step(&ask) {
                Some(answer) => {
                    reply.send(answer);
                    return None;
                }
                None => Question::Execute { ask, reply },
            },
            Question::Decide { ask, statements, reply } => match self.decide(&ask, &statements) {
                Some(answer) => {
                    reply.send(answer);
                    return None;
                }
                None => Question::Decide { ask, statements, reply },
            },
            Question::Forbid { id, reply } => match self.forbid(&id) {
                Some(standing) => {
                    reply.send(standing);
                    return None;
                }
                None => Question::Forbid { id, reply },
            },
            Question::Commit { id, reply } => match self.commit_staged(&id) {
                Some(acknowledgement) => {
                    reply.send(acknowledgement);
                    return None;
                }
                None => Question::Commit { id, reply },
            },
            Question::Abort { id, reply } => match self.abort_staged(&id) {
                Some(acknowledgement) => {
                    reply.send(acknowledgement);
                    return None;
                }
                None => Question::Abort { id, reply },
            },
        };
        Some(Waiting { question, deadline })
    }

    /// Prepares with the place lock held; `None` when it must wait.
    fn prepare(&mut self, ask: &PrepareAsk, statements: &[Statement]) -> Option<Vote> {
        let id = ask.id();
        match schema::any_staged(&self.connection) {
            Err(error) => return Some(Vote::Abort { reason: self.describe(&error) }),
            Ok(Some(row)) if row.is(&self.owner, id) => {
                let reason = format!("the transaction '{id}' is prepared here already");
                return Some(Vote::Abort { reason });
            }
            Ok(Some(row)) => {
                self.blame_staged(&row);
                return None;
            }
            Ok(None) => {}
        }
        match schema::is_applied(&self.connection, &self.owner, id) {
            Err(error) => return Some(Vote::Abort { reason: self.describe(&error) }),
            Ok(true) => {
                let reason = format!("the transaction '{id}' was committed here before");
                return Some(Vote::Abort { reason });
            }
            Ok(false) => {}
        }
        let is_read_only = statement::are_read_only(&self.connection, statements);
        let writes = !is_read_only || !ask.fences.is_empty();
        if writes && self.lock.is_overrun() {
            self.blame_outsider();
            return None;
        }
        if is_read_only {
            return match sqlite_fence::guarded(&self.connection, &ask.fences, || Ok(())) {
                Ok(()) => Some(self.read_only(id, statements)),
                Err(trouble) => self.not_staged(trouble),
            };
        }
        self.stage_and_apply(ask, statements)
    }

    /// `None` when it must wait for an outsider.
    fn not_staged(&mut self, trouble: FenceTrouble) -> Option<Vote> {
        let reason = match trouble {
            FenceTrouble::Sqlite(error) if is_busy(&error) => {
                self.blame_outsider();
                return None;
            }
            FenceTrouble::Sqlite(error) => self.describe(&error),
            FenceTrouble::Refused(refusal) => refusal.to_string(),
        };
        Some(Vote::Abort { reason })
    }

    /// Runs statements that change nothing, for what they expect.
    fn read_only(&self, id: &CoordinationId, statements: &[Statement]) -> Vote {
        if let Err(error) = self.connection.execute_batch("BEGIN") {
            return Vote::Abort { reason: self.describe(&error) };
        }
        let applied = self.apply(id, statements);
        self.roll_back();
        applied.map_or_else(|reason| Vote::Abort { reason }, |()| Vote::ReadOnly)
    }

    fn stage_and_apply(&mut self, ask: &PrepareAsk, statements: &[Statement]) -> Option<Vote> {
        let id = ask.id();
        let store = self.owner.store.clone();
        crash::point("store_prepare", store.as_str());
        let json = statement::encode(statements);
        let stage = || schema::stage(&self.connection, &self.owner, id, &json);
        if let Err(trouble) = sqlite_fence::guarded(&self.connection, &ask.fences, stage) {
            return self.not_staged(trouble);
        }
        let begun = self.connection.execute_batch("BEGIN IMMEDIATE");
        let must_wait = begun.as_ref().is_err_and(is_busy);
        let applied = match begun {
            Ok(()) => self.apply(id, statements),
            Err(error) => Err(self.describe(&error)),
        };
        let Err(reason) = applied else {
            crash::point("store_staged", store.as_str());
            self.held = Some(Held { id: id.clone(), is_recovered: false });
            return Some(Vote::Commit);
        };
        self.roll_back();
        if let Err(error) = schema::unstage(&self.connection, &self.owner, id) {
            let trouble = self.describe(&error);
            let reason = format!("{reason}; and its staged row could not be removed: {trouble}");
            return Some(Vote::Unknown { reason });
        }
        if must_wait {
            self.blame_outsider();
            return None;
        }
        Some(Vote::Abort { reason })
    }

    /// Whether a transaction that begins and ends at once may write, with the place lock held:
    /// nobody has anything staged, and no outsider is at work. Who is in the way is blamed.
    pub(super) fn is_clear(&mut self) -> rusqlite::Result<bool> {
        if let Some(row) = schema::any_staged(&self.connection)? {
            self.blame_staged(&row);
            return Ok(false);
        }
        if self.lock.is_overrun() {
            self.blame_outsider();
            return Ok(false);
        }
        Ok(true)
    }

    fn blame_staged(&mut self, row: &StagedRow) {
        self.blocker = format!(
            "the transaction '{}' of the journal {} is prepared and its process is gone; \
             start a service with that journal, which ends it",
            row.transaction, row.cluster
        );
    }

    pub(super) fn blame_outsider(&mut self) {
        "a writer that is none of ours has the file locked".clone_into(&mut self.blocker);
    }

    pub(super) fn apply(
        &self,
        id: &CoordinationId,
        statements: &[Statement],
    ) -> Result<(), String> {
        self.running.set(Some(id.clone()));
        let applied = statement::apply(&self.connection, statements);
        self.running.set(None);
        match applied {
            // A trigger's RAISE(ROLLBACK) may end the transaction under our hands.
            Ok(()) if self.connection.is_autocommit() => {
                Err("the statements ended the transaction themselves".to_owned())
            }
            other => other,
        }
    }

    /// Lets go of a recovered transaction that another store was told to end.
    fn yield_recovered(&mut self) {
        if self.held.as_ref().is_some_and(|held| held.is_recovered) && self.lock.is_wanted() {
            self.roll_back();
            self.held = None;
            self.release_if_free();
        }
    }

    /// Answers those whose time is over.
    fn expire(&mut self) {
        let now = Instant::now();
        if self.waiting.iter().all(|waiting| waiting.deadline > now) {
            return;
        }
        let blocker = match &self.held {
            Some(held) => format!("the prepared transaction '{}' has the writer's place", held.id),
            None => self.blocker.clone(),
        };
        let why = format!("{} is busy: {blocker}", self.path.display());
        for waiting in mem::take(&mut self.waiting) {
            if waiting.deadline > now {
                self.waiting.push_back(waiting);
            } else {
                waiting.refuse(&why);
            }
        }
        if self.waiting.is_empty() {
            self.lock.set_wanted(false);
        }
    }

    pub(super) fn release_if_free(&mut self) {
        if self.held.is_none() {
            self.lock.release();
        }
    }

    /// Rolls back if anything is open. It can only fail by having been rolled back already.
    pub(super) fn roll_back(&self) {
        if !self.connection.is_autocommit() {
            drop(self.connection.execute_batch("ROLLBACK"));
        }
    }

    /// Ends: what is held stays staged, what waits is answered.
    fn stop(mut self) {
        for waiting in mem::take(&mut self.waiting) {
            waiting.refuse("the store was closed");
        }
        self.roll_back();
        self.held = None;
        // A marker too many is harmless, so this is tried once.
        let _ = schema::forget(&self.connection, &self.owner, &self.forgotten);
        self.lock.release();
    }

    pub(super) fn describe(&self, error: &rusqlite::Error) -> String {
        format!("{}: {error}", self.path.display())
    }
}

/// How an id stands in the file.
pub(super) enum Standing {
    Applied,
    Staged,
    None,
}

pub(super) fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}
