//! The one task that writes: takes what waits, judges it, writes it in one round trip, answers.
//!
//! Not the rules (judge) and not the questions (reader). Invariants: a record is answered when the
//! commit that holds it has been acknowledged; answers come in the order of the appends; what was
//! sent and not answered is read back before it is judged again; while the server cannot be
//! reached, begins wait for as long as the patience lasts, and everything else until it stands.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedSender;
use tokio_postgres::Statement;

use super::judge::{Draft, Judge, Pending, Standing, View};
use super::link::{Link, Outcome, Trouble};
use super::queue::{Ask, Work};
use super::shared::Inner;
use super::{adopt, batch, table};
use crate::crash;
use crate::journal::{Answer, Durability, JournalError, OpenCoordination};
use crate::model::ids::{CoordinationId, StoreName};
use crate::model::record::Record;
use crate::reply::Reply;

const RETRY_WAIT_FIRST: Duration = Duration::from_millis(50);
/// More begins than this that may stand though their callers were told otherwise are not kept
/// apart; the next process adopts the rest.
const ABANDONED_MAX: usize = 10_000;

/// While the journal cannot write.
struct Backoff {
    error: JournalError,
    since: Instant,
    wait: Duration,
    retry_at: Instant,
}

/// The writer's state.
pub(super) struct Writer<'a> {
    inner: &'a Inner,
    link: Option<(Link, Statement)>,
    reader: UnboundedSender<Ask>,
    view: View,
    /// What the view may be wrong about: it is read before it is judged.
    unsure: HashSet<CoordinationId>,
    /// Begins that may stand, of which the callers were told that they failed.
    abandoned: HashSet<CoordinationId>,
    /// What waits, the first in line first.
    batch: Vec<Pending>,
    /// Who waits for what is being written.
    flying: Vec<u64>,
    asks: Vec<Ask>,
    backoff: Option<Backoff>,
}

impl<'a> Writer<'a> {
    pub(super) fn new(
        inner: &'a Inner,
        link: (Link, Statement),
        reader: UnboundedSender<Ask>,
    ) -> Self {
        Self {
            inner,
            link: Some(link),
            reader,
            view: View::default(),
            unsure: HashSet::new(),
            abandoned: HashSet::new(),
            batch: Vec::new(),
            flying: Vec::new(),
            asks: Vec::new(),
            backoff: None,
        }
    }

    /// Works until the queue is shut and empty.
    pub(super) async fn run(mut self) {
        loop {
            let work = self.next_work().await;
            self.batch.extend(work.batch);
            self.asks.extend(work.asks);
            self.write().await;
            if self.backoff.is_none() {
                for ask in std::mem::take(&mut self.asks) {
                    self.serve(ask).await;
                }
            }
            if work.is_last {
                return;
            }
        }
    }

    async fn next_work(&self) -> Work {
        let options = &self.inner.options;
        match &self.backoff {
            None => self.inner.queue.take(options.batch_size_max, options.lazy_wait_max).await,
            Some(backoff) => {
                self.inner.queue.pause(backoff.retry_at).await;
                self.inner.queue.take_now(usize::MAX)
            }
        }
    }

    /// Writes what waits, in commits of no more than the most.
    async fn write(&mut self) {
        let most = self.inner.options.batch_size_max.max(1);
        while !self.batch.is_empty() || self.backoff.is_some() {
            let rest = self.batch.split_off(self.batch.len().min(most));
            let mut first = std::mem::replace(&mut self.batch, rest);
            let awaited = first.iter().filter(|p| p.append.durability != Durability::Lazy);
            self.flying.extend(awaited.map(|pending| pending.append.token));
            let attempted = self.attempt(&first).await;
            self.flying.clear();
            match attempted {
                Ok(answers) => {
                    if self.backoff.take().is_some() {
                        self.inner.queue.health_changed(None);
                    }
                    self.inner.queue.answer(answers);
                }
                Err(trouble) => {
                    for pending in &mut first {
                        pending.retried = true;
                        self.view.remove(&pending.append.id);
                        self.unsure.insert(pending.append.id.clone());
                    }
                    first.append(&mut self.batch);
                    self.batch = first;
                    return self.postpone(&trouble);
                }
            }
        }
    }

    /// Tries to write these. Gives the answers that somebody waits for.
    async fn attempt(&mut self, batch: &[Pending]) -> Outcome<Vec<(u64, Answer)>> {
        let all: Vec<&Pending> = batch.iter().collect();
        let answers = match self.commit(&all).await {
            Err(Trouble::Data(_)) => self.commit_apart(batch).await?,
            answers => answers?,
        };
        let told = batch.iter().zip(answers);
        let told = told.filter(|(pending, _)| pending.append.durability != Durability::Lazy);
        Ok(told.map(|(pending, answer)| (pending.append.token, answer)).collect())
    }

    /// Something in the batch cannot be kept: each coordination goes alone, so that only those
    /// fail that have to.
    async fn commit_apart(&mut self, batch: &[Pending]) -> Outcome<Vec<Answer>> {
        let mut answers: Vec<Option<Answer>> = batch.iter().map(|_| None).collect();
        for (index, pending) in batch.iter().enumerate() {
            if answers[index].is_some() {
                continue;
            }
            let same = |(_, other): &(usize, &Pending)| other.append.id == pending.append.id;
            let (places, group): (Vec<usize>, Vec<&Pending>) =
                batch.iter().enumerate().filter(same).unzip();
            let given = match self.commit(&group).await {
                Err(trouble @ Trouble::Data(_)) => {
                    let error = trouble.at(self.inner.label());
                    let coordination = &pending.append.id;
                    tracing::error!(%error, %coordination, "a record is not kept");
                    places.iter().map(|_| Answer::Failed(error.clone())).collect()
                }
                given => given?,
            };
            for (place, answer) in places.into_iter().zip(given) {
                answers[place] = Some(answer);
            }
        }
        let closed = || Answer::Failed(JournalError::Closed);
        Ok(answers.into_iter().map(|answer| answer.unwrap_or_else(closed)).collect())
    }

    /// Writes these in one commit, as often as others get in between. One answer for each.
    async fn commit(&mut self, batch: &[&Pending]) -> Outcome<Vec<Answer>> {
        loop {
            self.connect().await?;
            let looked_up = self.look_up(batch).await?;
            let Some((link, statement)) = &self.link else { continue };
            let mut judge = Judge::new(&self.view, &self.inner.own, self.inner.label());
            let answers: Vec<Answer> = batch.iter().map(|pending| judge.judge(pending)).collect();
            let drafts = judge.drafts;
            let began = Instant::now();
            let written = if drafts.is_empty() {
                Ok(())
            } else {
                pass_points(&["before_record", "before_sync"], batch);
                batch::write(link, statement, drafts.iter()).await
            };
            match written {
                Ok(()) => {
                    if !drafts.is_empty() {
                        self.inner.queue.meter.wrote(batch.len());
                        self.inner.queue.meter.synced(began.elapsed());
                        pass_points(&["after_record"], batch);
                    }
                    self.take_in(drafts, looked_up);
                    return Ok(answers);
                }
                Err(Trouble::Conflict | Trouble::Again) => {
                    for draft in drafts {
                        self.view.remove(&draft.stored.request.id);
                        self.unsure.insert(draft.stored.request.id.clone());
                    }
                }
                Err(trouble) => return Err(trouble),
            }
        }
    }

    async fn connect(&mut self) -> Outcome<&Link> {
        if self.link.as_ref().is_none_or(|(link, _)| link.client.is_closed()) {
            self.link = None;
            let link = Link::open_by_keys(&self.inner.server).await?;
            let statement = batch::prepare(&link).await?;
            self.link = Some((link, statement));
        }
        match &self.link {
            Some((link, _)) => Ok(link),
            None => Err(Trouble::Broken("there is no connection".to_owned())),
        }
    }

    /// Reads what the judge has to know and does not. Gives the ids that were read.
    async fn look_up(&mut self, batch: &[&Pending]) -> Outcome<Vec<CoordinationId>> {
        let mut ids: Vec<CoordinationId> = Vec::new();
        let mut begun = HashSet::new();
        for pending in batch {
            let id = &pending.append.id;
            let is_begin = matches!(pending.append.record, Record::Begin { .. });
            if is_begin {
                begun.insert(id);
            }
            let is_missing = !self.view.contains_key(id) && !begun.contains(id);
            if (is_missing || self.unsure.contains(id)) && !ids.contains(id) {
                ids.push(id.clone());
            }
        }
        let Some((link, _)) = &self.link else { return Ok(ids) };
        if ids.is_empty() {
            return Ok(ids);
        }
        let names: Vec<&str> = ids.iter().map(CoordinationId::as_str).collect();
        let rows = table::find(link, &names).await?;
        for id in &ids {
            self.unsure.remove(id);
            self.view.remove(id);
        }
        for found in rows {
            let (stored, version) = (Arc::new(found.stored), found.version);
            self.view.insert(stored.request.id.clone(), Standing { stored, version });
        }
        Ok(ids)
    }

    /// These stand now. What is over, or another's, need not be known any longer.
    fn take_in(&mut self, drafts: Vec<Draft>, looked_up: Vec<CoordinationId>) {
        for draft in drafts {
            let id = draft.stored.request.id.clone();
            let (stored, version) = (Arc::new(draft.stored), draft.version);
            if stored.completed_at.is_none() && stored.owner == self.inner.own {
                self.view.insert(id, Standing { stored, version });
            } else {
                self.view.remove(&id);
            }
        }
        for id in looked_up {
            let is_over = self.view.get(&id).is_some_and(|standing| {
                let stored = &standing.stored;
                stored.completed_at.is_some() || stored.owner != self.inner.own
            });
            if is_over {
                self.view.remove(&id);
            }
        }
    }

    fn postpone(&mut self, trouble: &Trouble) {
        let error = trouble.at(self.inner.label());
        self.link = None;
        let now = Instant::now();
        let (since, wait) = match &self.backoff {
            None => {
                tracing::error!(%error, "the journal cannot write");
                self.inner.queue.health_changed(Some(error.clone()));
                (now, RETRY_WAIT_FIRST)
            }
            Some(backoff) => {
                (backoff.since, (backoff.wait * 2).min(self.inner.options.retry_wait_max))
            }
        };
        if now.duration_since(since) >= self.inner.options.patience {
            self.fail_waiting(&error);
        }
        self.backoff = Some(Backoff { error, since, wait, retry_at: now + wait });
    }

    /// Begins and questions have waited for long enough.
    fn fail_waiting(&mut self, error: &JournalError) {
        let mut answers = Vec::new();
        let abandoned = &mut self.abandoned;
        self.batch.retain(|pending| {
            let append = &pending.append;
            let is_begin = matches!(append.record, Record::Begin { .. });
            if !is_begin || append.durability == Durability::Lazy {
                return true;
            }
            if pending.retried && abandoned.len() < ABANDONED_MAX {
                abandoned.insert(append.id.clone());
            }
            answers.push((append.token, Answer::Failed(error.clone())));
            false
        });
        self.inner.queue.answer(answers);
        for ask in std::mem::take(&mut self.asks) {
            ask.fail(error.clone());
        }
    }

    async fn serve(&mut self, ask: Ask) {
        match ask {
            Ask::Adopt(stores, reply) => self.adopt(stores, reply).await,
            ask => {
                if let Err(unsent) = self.reader.send(ask) {
                    unsent.0.fail(JournalError::Closed);
                }
            }
        }
    }

    async fn adopt(
        &mut self,
        stores: Vec<StoreName>,
        reply: Reply<Result<Vec<OpenCoordination>, JournalError>>,
    ) {
        match self.try_adopt(&stores).await {
            Ok(open) => reply.send(Ok(open)),
            Err(trouble) => {
                self.link = None;
                reply.send(Err(trouble.at(self.inner.label())));
            }
        }
    }

    async fn try_adopt(&mut self, stores: &[StoreName]) -> Outcome<Vec<OpenCoordination>> {
        self.connect().await?;
        let Some((link, _)) = &self.link else { return Ok(Vec::new()) };
        let adopted = adopt::adopt(link, self.inner, stores, &self.abandoned).await?;
        let mut handed = Vec::with_capacity(adopted.len());
        for (standing, open) in adopted {
            self.abandoned.remove(&open.id);
            self.view.insert(open.id.clone(), standing);
            handed.push(open);
        }
        Ok(handed)
    }
}

impl Drop for Writer<'_> {
    /// Answers everything that is still waited for: it is not known to stand. Also after a panic.
    fn drop(&mut self) {
        let error = self.backoff.take().map_or(JournalError::Closed, |backoff| backoff.error);
        let awaited = self.batch.drain(..).filter(|p| p.append.durability != Durability::Lazy);
        let tokens = self.flying.drain(..).chain(awaited.map(|pending| pending.append.token));
        let answers = tokens.map(|token| (token, Answer::Failed(error.clone()))).collect();
        self.inner.queue.answer(answers);
        for ask in self.asks.drain(..) {
            ask.fail(error.clone());
        }
    }
}

fn pass_points(stages: &[&str], batch: &[&Pending]) {
    if !crash::is_armed() {
        return;
    }
    let mut kinds: Vec<&str> = batch.iter().map(|p| p.append.record.kind()).collect();
    kinds.sort_unstable();
    kinds.dedup();
    for stage in stages {
        for kind in &kinds {
            crash::point(stage, kind);
        }
    }
}
