//! The one thread that writes: takes what waits, judges it, commits it once, answers.
//!
//! Not the rules (judge) and not the questions (serve). Invariants: a forced record is answered
//! after the commit that holds it; an accepted one after its judgement under the write lock; when a
//! commit fails, the view is read again before it is used, and everything that was promised, or is
//! not a begin that somebody still waits for, is written again until it stands.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::instance::Instances;
use super::judge::{self, Verdict};
use super::log;
use super::options::JournalOptions;
use super::queue::{Ask, Pending, Queue, Work};
use super::reader::Reader;
use super::serve::Sweep;
use super::trouble::{Outcome, Trouble};
use super::view::View;
use crate::crash;
use crate::db::sqlite::{self, Place};
use crate::journal::{Answer, Durability, JournalError};
use crate::model::record::Record;

const RETRY_WAIT_FIRST: Duration = Duration::from_millis(20);
/// How long closing may spend on the tables; the log is enough for the next start.
const CLOSING_PROJECTION: Duration = Duration::from_millis(500);

/// Answers with the marks of the records that they are for.
type Answers = Vec<(u64, Answer)>;

/// While the journal cannot write.
struct Backoff {
    error: JournalError,
    wait: Duration,
    retry_at: Instant,
}

/// The writer's state. Lives on its thread.
pub(super) struct Writer {
    pub(super) connection: Connection,
    pub(super) view: View,
    pub(super) queue: Arc<Queue>,
    pub(super) options: JournalOptions,
    pub(super) place: Place,
    pub(super) path: String,
    pub(super) instances: Arc<Instances>,
    pub(super) reader: Reader,
    /// Questions for which the tables must be complete up to a position.
    pub(super) reads: VecDeque<(i64, Ask)>,
    pub(super) sweeps: VecDeque<Sweep>,
    pub(super) projection_paused_until: Option<Instant>,
    is_connected: bool,
    is_forcing: bool,
    /// What is being written, or waits to be tried again.
    batch: Vec<Pending>,
    backoff: Option<Backoff>,
    worked_at: Instant,
}

/// What a writer is made of.
pub(super) struct Parts {
    pub(super) connection: Connection,
    pub(super) view: View,
    pub(super) queue: Arc<Queue>,
    pub(super) options: JournalOptions,
    pub(super) place: Place,
    pub(super) instances: Arc<Instances>,
    pub(super) reader: Reader,
}

impl Writer {
    pub(super) fn new(parts: Parts) -> Self {
        Self {
            connection: parts.connection,
            view: parts.view,
            queue: parts.queue,
            options: parts.options,
            path: parts.place.describe(),
            place: parts.place,
            instances: parts.instances,
            reader: parts.reader,
            reads: VecDeque::new(),
            sweeps: VecDeque::new(),
            projection_paused_until: None,
            is_connected: true,
            is_forcing: true,
            batch: Vec::new(),
            backoff: None,
            worked_at: Instant::now(),
        }
    }

    /// Works until the queue is shut and empty.
    pub(super) fn run(&mut self) {
        loop {
            let (work, is_due) = self.next_work();
            self.batch.extend(work.batch);
            let has_records = !self.batch.is_empty();
            if is_due && (has_records || self.backoff.is_some()) {
                self.write();
                self.worked_at = Instant::now();
            }
            for ask in work.asks {
                self.serve(ask);
            }
            self.background(!has_records);
            let is_idle = self.reads.is_empty() && self.sweeps.is_empty();
            if work.is_last && is_idle && (self.batch.is_empty() || self.backoff.is_some()) {
                return self.finish();
            }
        }
    }

    /// The next work, and whether records may be written now.
    fn next_work(&mut self) -> (Work, bool) {
        if let Some(backoff) = &self.backoff {
            let retry_at = backoff.retry_at;
            self.queue.pause(retry_at);
            let is_due = Instant::now() >= retry_at || self.queue.is_shut();
            return (self.queue.take_now(is_due), is_due);
        }
        let until = if !self.reads.is_empty() || !self.sweeps.is_empty() {
            Some(Instant::now())
        } else if self.view.backlog() > 0 {
            let idle_at = self.worked_at + self.options.projection_idle;
            Some(self.projection_paused_until.map_or(idle_at, |paused| paused.max(idle_at)))
        } else {
            None
        };
        let options = &self.options;
        (self.queue.take(until, options.batch_size_max, options.lazy_wait_max), true)
    }

    fn background(&mut self, had_nothing: bool) {
        if let Some(backoff) = &self.backoff {
            let error = backoff.error.clone();
            return self.fail_waiting(&error);
        }
        let is_overdue = self.view.backlog() > self.options.projection_backlog_max;
        let is_idle = had_nothing && self.worked_at.elapsed() >= self.options.projection_idle;
        self.advance(is_overdue || is_idle);
    }

    fn write(&mut self) {
        match self.attempt() {
            Ok(answers) => {
                self.batch.clear();
                if self.backoff.take().is_some() {
                    self.queue.health_changed(None);
                }
                self.queue.answer(answers);
            }
            Err(trouble) => self.postpone(&trouble),
        }
    }

    /// Tries to write the batch. Answers what may be answered now that it stands.
    fn attempt(&mut self) -> Outcome<Answers> {
        let is_forced = self.batch.iter().any(|p| p.append.durability == Durability::Forced);
        let mut forced = Vec::new();
        let kinds = self.transact(is_forced, |writer| {
            let (rows, early) = writer.judge_batch(&mut forced)?;
            let kinds = kinds_of(&rows);
            pass_points("before_record", &kinds);
            log::insert(&writer.connection, writer.instances.own(), &rows)?;
            if writer.batch.is_empty() {
                writer.probe()?;
            }
            writer.answer_early(early);
            pass_points("before_sync", &kinds);
            Ok(kinds)
        })?;
        pass_points("after_record", &kinds);
        Ok(forced)
    }

    /// Answers for accepted records come back, those for forced ones go into `forced`.
    fn judge_batch(&mut self, forced: &mut Answers) -> Outcome<(Vec<log::Row>, Answers)> {
        let mut rows = Vec::with_capacity(self.batch.len());
        let mut early = Vec::new();
        let place = judge::Place { path: &self.path, own: self.instances.own() };
        for pending in &mut self.batch {
            let verdict = judge::judge(&self.connection, &mut self.view, pending, &place)?;
            let append = &pending.append;
            pending.refused = matches!(verdict, Verdict::Refuse(_));
            let answer = match verdict {
                Verdict::Refuse(answer) => answer,
                Verdict::Stands => Answer::Recorded,
                Verdict::Keep => {
                    let position = self.view.tail() + 1;
                    let (id, record) = (&append.id, &append.record);
                    rows.push(log::Row::new(position, id, append.epoch, append.at, record)?);
                    self.view.keep(position, id, append.at, record);
                    Answer::Recorded
                }
            };
            match append.durability {
                _ if pending.answered => {}
                Durability::Lazy => {}
                Durability::Accepted => early.push((append.token, answer)),
                Durability::Forced => forced.push((append.token, answer)),
            }
        }
        Ok((rows, early))
    }

    fn answer_early(&mut self, answers: Answers) {
        if answers.is_empty() {
            return;
        }
        for pending in &mut self.batch {
            pending.answered |= pending.append.durability == Durability::Accepted;
        }
        self.queue.answer(answers);
    }

    /// A write that changes nothing, to see whether writing works again.
    fn probe(&self) -> Outcome<()> {
        self.connection
            .prepare_cached("UPDATE journal_meta SET value = value WHERE key = 'watermark'")?
            .execute([])?;
        Ok(())
    }

    fn postpone(&mut self, trouble: &Trouble) {
        let error = trouble.at(&self.path);
        let mut answers = Vec::new();
        self.batch.retain_mut(|pending| {
            let is_awaited = !pending.answered && pending.append.durability != Durability::Lazy;
            let is_begin = matches!(pending.append.record, Record::Begin { .. });
            if is_awaited && is_begin {
                answers.push((pending.append.token, Answer::Failed(error.clone())));
                return false;
            }
            pending.retried = true;
            is_awaited || !pending.refused
        });
        let wait = match &self.backoff {
            None => {
                tracing::error!(%error, "the journal cannot write");
                self.queue.health_changed(Some(error.clone()));
                RETRY_WAIT_FIRST
            }
            Some(backoff) => (backoff.wait * 2).min(self.options.retry_wait_max),
        };
        self.backoff = Some(Backoff { error, wait, retry_at: Instant::now() + wait });
        self.queue.answer(answers);
    }

    /// Runs `work` under the write lock, after taking in what others wrote, and commits. Whatever
    /// fails, nothing of it stands afterwards, or it is not known whether it does.
    pub(super) fn transact<T>(
        &mut self,
        is_forced: bool,
        work: impl FnOnce(&mut Self) -> Outcome<T>,
    ) -> Outcome<T> {
        let done = self.try_transact(is_forced, work);
        if let Err(trouble) = &done {
            self.view.distrust();
            if !self.connection.is_autocommit() {
                // It may be rolled back already, by SQLite itself.
                let _ = self.connection.execute_batch("ROLLBACK");
            }
            if trouble.breaks_connection() && self.place != Place::Memory {
                self.is_connected = false;
            }
        }
        done
    }

    fn try_transact<T>(
        &mut self,
        is_forced: bool,
        work: impl FnOnce(&mut Self) -> Outcome<T>,
    ) -> Outcome<T> {
        if !self.is_connected {
            self.reconnect()?;
        }
        self.force(is_forced)?;
        self.connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        self.view.refresh(&self.connection)?;
        let done = work(self)?;
        self.connection.prepare_cached("COMMIT")?.execute([])?;
        Ok(done)
    }

    /// Whether the next commit waits for the disk. Only outside of a transaction.
    fn force(&mut self, is_forced: bool) -> Outcome<()> {
        if self.is_forcing != is_forced && self.place != Place::Memory {
            let mode = if is_forced { "FULL" } else { "NORMAL" };
            self.connection.execute_batch(&format!("PRAGMA synchronous={mode}"))?;
            self.is_forcing = is_forced;
        }
        Ok(())
    }

    fn reconnect(&mut self) -> Outcome<()> {
        // The old connection goes first: what it believes of the file must not reach the new one.
        // In between stands an empty database, which has no table that could take a record.
        let empty = Connection::open_in_memory()?;
        drop(std::mem::replace(&mut self.connection, empty));
        self.connection =
            sqlite::open_writer(&self.place, &self.options.opening()).map_err(Trouble::Reopen)?;
        self.is_connected = true;
        self.is_forcing = true;
        Ok(())
    }

    fn finish(&mut self) {
        let error = self.backoff.as_ref().map_or(JournalError::Closed, |b| b.error.clone());
        self.give_up(&error);
        let deadline = Instant::now() + CLOSING_PROJECTION;
        while self.backoff.is_none() && self.view.backlog() > 0 && Instant::now() < deadline {
            if self.project_portion().is_err() {
                break;
            }
        }
        self.reader.close();
    }

    /// Answers everything that is still waited for: it is not known to stand, and never will be.
    pub(super) fn give_up(&mut self, error: &JournalError) {
        let awaited = self
            .batch
            .drain(..)
            .filter(|pending| !pending.answered && pending.append.durability != Durability::Lazy);
        let answers = awaited.map(|p| (p.append.token, Answer::Failed(error.clone()))).collect();
        self.queue.answer(answers);
        self.fail_waiting(error);
    }
}

fn kinds_of(rows: &[log::Row]) -> Vec<&'static str> {
    let mut kinds = Vec::new();
    for row in rows {
        if !kinds.contains(&row.kind) {
            kinds.push(row.kind);
        }
    }
    kinds
}

fn pass_points(stage: &str, kinds: &[&'static str]) {
    for kind in kinds {
        crash::point(stage, kind);
    }
}
