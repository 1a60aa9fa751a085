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
use crate::db::wal::WriteAheadLog;
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
    wal: Option<WriteAheadLog>,
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
            instances: parts.instances,
            reader: parts.reader,
            reads: VecDeque::new(),
            sweeps: VecDeque::new(),
            projection_paused_until: None,
            is_connected: true,
            wal: match &parts.place {
                Place::File(file) => Some(WriteAheadLog::of(file)),
                Place::Memory => None,
            },
            place: parts.place,
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

    /// Tries to write the batch, and what its first answers lead to. Gives the answers that may be
    /// given now that it stands.
    fn attempt(&mut self) -> Outcome<Answers> {
        let mut late = Vec::new();
        let kinds = self.transact(|writer| writer.fill(&mut late))?;
        if !late.is_empty() {
            self.sync()?;
        }
        pass_points("after_record", &kinds);
        Ok(late)
    }

    /// Inserts the batch, answers what is answered under the write lock, and lets whatever comes
    /// in return into the same commit: a decision then costs no second one.
    fn fill(&mut self, late: &mut Answers) -> Outcome<Vec<&'static str>> {
        let mut kinds = Vec::new();
        let mut judged = 0;
        loop {
            let (rows, early) = self.judge_batch(judged, late)?;
            judged = self.batch.len();
            let mut here = Vec::new();
            note_kinds(&rows, &mut here);
            note_kinds(&rows, &mut kinds);
            pass_points("before_record", &here);
            log::insert(&self.connection, self.instances.own(), &rows)?;
            if self.batch.is_empty() {
                self.probe()?;
            }
            let answered = !early.is_empty();
            self.answer_early(early);
            if !self.has_company(answered, !late.is_empty()) {
                break;
            }
        }
        pass_points("before_sync", &kinds);
        Ok(kinds)
    }

    /// Takes what has come meanwhile into the batch. Waits for it only where answers were given
    /// and nobody waits for this commit yet.
    fn has_company(&mut self, answered: bool, is_awaited: bool) -> bool {
        let room = self.options.batch_size_max.saturating_sub(self.batch.len());
        if room == 0 {
            return false;
        }
        let wait =
            if answered && !is_awaited { self.options.open_wait_max } else { Duration::ZERO };
        let company = self.queue.take_records(wait, room);
        let came = !company.is_empty();
        self.batch.extend(company);
        came
    }

    /// Brings what is committed to the disk. A failure ends the journal: what of it stands is not
    /// known, and only a process that reads the file anew can find out.
    pub(super) fn sync(&mut self) -> Outcome<()> {
        let Some(wal) = &mut self.wal else { return Ok(()) };
        let synced = wal.sync();
        synced.map_err(|error| {
            let trouble = Trouble::Sync(error.to_string());
            self.queue.shut(trouble.at(&self.path));
            trouble
        })
    }

    /// Judges what is new in the batch. Answers for accepted records come back, those for forced
    /// ones go into `late`; so do refusals that tell of other records, which may not be on the
    /// disk yet.
    fn judge_batch(
        &mut self,
        judged: usize,
        late: &mut Answers,
    ) -> Outcome<(Vec<log::Row>, Answers)> {
        let mut rows = Vec::with_capacity(self.batch.len() - judged);
        let mut early = Vec::new();
        let place = judge::Place { path: &self.path, own: self.instances.own() };
        for pending in &mut self.batch[judged..] {
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
                Durability::Accepted if !pending.refused => {
                    pending.answered = true;
                    early.push((append.token, answer));
                }
                Durability::Accepted | Durability::Forced => late.push((append.token, answer)),
            }
        }
        Ok((rows, early))
    }

    fn answer_early(&mut self, answers: Answers) {
        if !answers.is_empty() {
            self.queue.answer(answers);
        }
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
    pub(super) fn transact<T>(&mut self, work: impl FnOnce(&mut Self) -> Outcome<T>) -> Outcome<T> {
        let done = self.try_transact(work);
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

    fn try_transact<T>(&mut self, work: impl FnOnce(&mut Self) -> Outcome<T>) -> Outcome<T> {
        if !self.is_connected {
            self.reconnect()?;
        }
        self.connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        self.view.refresh(&self.connection)?;
        let done = work(self)?;
        self.connection.prepare_cached("COMMIT")?.execute([])?;
        Ok(done)
    }

    fn reconnect(&mut self) -> Outcome<()> {
        // The old connection goes first: what it believes of the file must not reach the new one.
        // In between stands an empty database, which has no table that could take a record.
        let empty = Connection::open_in_memory()?;
        drop(std::mem::replace(&mut self.connection, empty));
        self.connection =
            sqlite::open_writer(&self.place, &self.options.opening()).map_err(Trouble::Reopen)?;
        self.is_connected = true;
        // The last connection may have removed the log; the new one has made another.
        if let Some(wal) = &mut self.wal {
            wal.reopen();
        }
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

fn note_kinds(rows: &[log::Row], kinds: &mut Vec<&'static str>) {
    for row in rows {
        if !kinds.contains(&row.kind) {
            kinds.push(row.kind);
        }
    }
}

fn pass_points(stage: &str, kinds: &[&'static str]) {
    for kind in kinds {
        crash::point(stage, kind);
    }
}
