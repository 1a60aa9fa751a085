//! The one who writes the log: takes what waits, judges it, writes it, syncs once, answers.
//!
//! Not the thread that does it (desk), not the rules (judge), not the tables (projector) and not
//! the questions (serve). Invariants: a
//! forced record is answered after a sync that covers it; an accepted one when it stands in the
//! log; when a write fails, the view is read again before it is used, and everything that was
//! promised, or is not a begin that somebody still waits for, is written again until it stands.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::judge::{self, Verdict};
use super::options::JournalOptions;
use super::projector::{Projector, Task};
use super::queue::{Ask, Pending, Queue, Work};
use super::reader::Reader;
use super::serve::{Sweep, Upkeep};
use super::trouble::{Outcome, Trouble};
use super::view::View;
use super::{log, sight};
use crate::crash;
use crate::db::instance::Instances;
use crate::db::segments::{Batch, SegmentLog};
use crate::journal::{Answer, Durability, JournalError};
use crate::model::record::Record;

const RETRY_WAIT_FIRST: Duration = Duration::from_millis(20);

/// Answers with the marks of the records that they are for.
type Answers = Vec<(u64, Answer)>;

/// While the journal cannot write.
pub(super) struct Backoff {
    error: JournalError,
    wait: Duration,
    pub(super) retry_at: Instant,
}

/// The writer's state. Whoever has it is the one who writes.
pub(super) struct Writer {
    pub(super) view: View,
    /// None for a journal in memory: there the view is all there is.
    pub(super) log: Option<SegmentLog>,
    pub(super) queue: Arc<Queue>,
    pub(super) options: JournalOptions,
    pub(super) path: String,
    pub(super) instances: Arc<Instances>,
    pub(super) reader: Reader,
    pub(super) projector: Projector,
    pub(super) upkeep: Upkeep,
    /// Questions for which the tables must be complete up to a position.
    pub(super) reads: VecDeque<(i64, Ask)>,
    pub(super) sweeps: VecDeque<Sweep>,
    /// Whether the view says what the log says; not after a write that failed.
    pub(super) is_trusted: bool,
    /// What is being written, or waits to be tried again.
    pub(super) batch: Vec<Pending>,
    frames: Batch,
    pub(super) backoff: Option<Backoff>,
    pub(super) worked_at: Instant,
    /// The last event of which the listener has heard.
    told_events: u64,
    /// The last event that is known to be on the disk.
    synced_events: u64,
}

/// What a writer is made of.
pub(super) struct Parts {
    pub(super) view: View,
    pub(super) log: Option<SegmentLog>,
    pub(super) queue: Arc<Queue>,
    pub(super) options: JournalOptions,
    pub(super) path: String,
    pub(super) instances: Arc<Instances>,
    pub(super) reader: Reader,
    pub(super) projector: Projector,
}

impl Writer {
    pub(super) fn new(parts: Parts) -> Self {
        Self {
            told_events: parts.view.streams().last(),
            synced_events: 0,
            view: parts.view,
            log: parts.log,
            queue: parts.queue,
            options: parts.options,
            path: parts.path,
            instances: parts.instances,
            reader: parts.reader,
            projector: parts.projector,
            upkeep: Upkeep::default(),
            reads: VecDeque::new(),
            sweeps: VecDeque::new(),
            is_trusted: true,
            batch: Vec::new(),
            frames: Batch::default(),
            backoff: None,
            worked_at: Instant::now(),
        }
    }

    /// Does what there is to do, once; true when that was the last.
    pub(super) fn turn(&mut self) -> bool {
        let (work, is_due) = self.next_work();
        self.batch.extend(work.batch);
        let has_records = !self.batch.is_empty();
        if is_due && (has_records || self.backoff.is_some()) {
            self.write(false);
            self.worked_at = Instant::now();
        }
        for note in work.notes {
            self.noted(note);
        }
        for ask in work.asks {
            self.serve(ask);
        }
        self.tell_events();
        self.background(!has_records);
        self.queue.meter.is_behind_by(self.view.backlog());
        let is_idle = self.reads.is_empty() && self.sweeps.is_empty();
        if work.is_last && !is_idle && self.upkeep.is_busy() {
            self.wait_for_notes();
        }
        work.is_last && is_idle && (self.batch.is_empty() || self.backoff.is_some())
    }

    /// Tells of events that came, once they can be read.
    pub(super) fn tell_events(&mut self) {
        let last = self.view.streams().last();
        if last > self.told_events && self.is_trusted {
            self.told_events = last;
            self.queue.events_appended(last);
        }
    }

    /// The next work, and whether records may be written now.
    fn next_work(&mut self) -> (Work, bool) {
        match &self.backoff {
            Some(backoff) => {
                let is_due = Instant::now() >= backoff.retry_at || self.queue.is_shut();
                (self.queue.take_now(is_due), is_due)
            }
            None => (self.queue.take_due(self.options.batch_size_max), true),
        }
    }

    fn background(&mut self, had_nothing: bool) {
        if let Some(backoff) = &self.backoff {
            let error = backoff.error.clone();
            return self.fail_waiting(&error);
        }
        let is_overdue = self.view.backlog() > self.options.projection_due;
        let is_idle = had_nothing && self.worked_at.elapsed() >= self.options.projection_idle;
        self.advance(is_overdue || is_idle);
        // Whoever appends faster than the tables can be written waits for them here.
        while self.is_far_behind() && self.upkeep.is_busy() {
            self.wait_for_notes();
            self.advance(true);
        }
    }

    pub(super) fn is_far_behind(&self) -> bool {
        self.view.backlog() > self.options.projection_backlog_max
    }

    pub(super) fn wait_for_notes(&mut self) {
        for note in self.queue.take_notes() {
            self.noted(note);
        }
    }

    /// `is_alone`: the log's lock is held already, and nobody is waited for.
    pub(super) fn write(&mut self, is_alone: bool) {
        match self.attempt(is_alone) {
            Ok(answers) => {
                self.queue.meter.wrote(self.batch.len());
                self.batch.clear();
                if self.backoff.take().is_some() {
                    self.queue.health_changed(None);
                }
                self.queue.answer(answers);
            }
            Err(trouble) => self.postpone(&trouble),
        }
        if let Some(job) = self.log.as_mut().and_then(SegmentLog::spare_job) {
            self.projector.give(Task::Spare(job), &self.queue);
        }
    }

    /// Tries to write the batch, and what its first answers lead to: a decision then costs no
    /// second sync. Gives the answers that may be given now that everything is on the disk.
    fn attempt(&mut self, is_alone: bool) -> Outcome<Answers> {
        let (mut late, mut kinds, mut judged) = (Vec::new(), Vec::new(), 0);
        loop {
            let work = |writer: &mut Self| writer.write_from(judged, &mut late, &mut kinds);
            let early = if is_alone { self.locked(work) } else { self.under_lock(work) }?;
            let answered = !early.is_empty();
            self.answer_early(judged, early);
            judged = self.batch.len();
            if is_alone || !self.has_company(answered, !late.is_empty()) {
                break;
            }
        }
        pass_points("before_sync", &kinds);
        if !late.is_empty() {
            self.sync()?;
        }
        pass_points("after_record", &kinds);
        Ok(late)
    }

    /// Gives the answers to accepted records, which stand in the log now: they are promised.
    fn answer_early(&mut self, judged: usize, answers: Answers) {
        if answers.is_empty() {
            return;
        }
        for pending in &mut self.batch[judged..] {
            let is_accepted = pending.append.durability == Durability::Accepted;
            pending.answered |= is_accepted && !pending.refused;
        }
        self.queue.answer(answers);
    }

    /// Writes what is new in the batch. Gives the answers that need no sync.
    fn write_from(
        &mut self,
        judged: usize,
        late: &mut Answers,
        kinds: &mut Vec<&'static str>,
    ) -> Outcome<Answers> {
        let mut here = Vec::new();
        let early = self.judge_batch(judged, late, &mut here)?;
        pass_points("before_record", &here);
        kinds.extend(here);
        if let Some(log) = &mut self.log {
            if self.batch.is_empty() {
                log.probe()?;
            }
            log.append(&self.frames)?;
        }
        Ok(early)
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

    /// Brings what is written to the disk. A failure ends the journal: what of it stands is not
    /// known, and only a process that reads the file anew can find out.
    pub(super) fn sync(&mut self) -> Outcome<()> {
        let Some(log) = &mut self.log else { return Ok(()) };
        let began = Instant::now();
        log.sync().map_err(|error| {
            let trouble = Trouble::Log(error);
            self.queue.shut(trouble.at(&self.path));
            trouble
        })?;
        self.queue.meter.synced(began.elapsed());
        self.synced_events = self.view.streams().last();
        Ok(())
    }

    /// Sees that every event that is known is on the disk: another process may not have come to
    /// its own sync yet.
    pub(super) fn sync_events(&mut self) -> Outcome<()> {
        if self.view.streams().last() > self.synced_events { self.sync() } else { Ok(()) }
    }

    /// Judges what is new in the batch, and puts what is to be written into `frames`. Answers for
    /// accepted records come back, those for forced ones go into `late`; so do refusals that tell
    /// of other records, which may not be on the disk yet.
    fn judge_batch(
        &mut self,
        judged: usize,
        late: &mut Answers,
        kinds: &mut Vec<&'static str>,
    ) -> Outcome<Answers> {
        let mut early = Vec::new();
        let is_far_behind = self.is_far_behind();
        let Some(tables) = self.projector.reading() else { return Ok(early) };
        let overload = self.upkeep.trouble.as_ref().filter(|_| is_far_behind);
        let place = judge::Place { path: &self.path, own: self.instances.own(), overload };
        self.frames.clear();
        for pending in &mut self.batch[judged..] {
            let verdict = judge::judge(tables, &mut self.view, pending, &place)?;
            let append = &pending.append;
            pending.refused = matches!(verdict, Verdict::Refuse(_));
            let answer = match verdict {
                Verdict::Refuse(answer) => answer,
                Verdict::Stands => self.view.answer_again(append),
                Verdict::Keep(versions) => {
                    let position = self.view.tail() + 1;
                    if self.log.is_some() {
                        self.frames.push(position, |bytes| log::encode(append, bytes))?;
                    }
                    note_kind(append.record.kind(), kinds);
                    self.view.accept(append, versions)?
                }
            };
            match append.durability {
                _ if pending.answered => {}
                Durability::Lazy => {}
                Durability::Accepted if !pending.refused => early.push((append.token, answer)),
                Durability::Accepted | Durability::Forced => late.push((append.token, answer)),
            }
        }
        Ok(early)
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

    /// Ends the journal: what can be brought to the tables is, and the log goes when they have it.
    pub(super) fn finish(&mut self) {
        let error = self.backoff.as_ref().map_or(JournalError::Closed, |b| b.error.clone());
        self.give_up(&error);
        if self.backoff.is_none() && self.look().is_ok() {
            self.settle_tables();
        }
        self.reader.close();
        let is_complete = self.is_trusted && self.view.backlog() == 0 && self.backoff.is_none();
        let tables = self.projector.end();
        if let (Some(mut tables), Some(log), true) = (tables, &mut self.log, is_complete)
            && let Err(trouble) = sight::retire(log, &mut tables, &self.instances)
        {
            tracing::debug!(error = %trouble.at(&self.path), "the journal's segments stay");
        }
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

fn note_kind(kind: &'static str, kinds: &mut Vec<&'static str>) {
    if !kinds.contains(&kind) {
        kinds.push(kind);
    }
}

fn pass_points(stage: &str, kinds: &[&'static str]) {
    for kind in kinds {
        crash::point(stage, kind);
    }
}
