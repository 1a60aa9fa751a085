//! One connection on which the errands of some resources travel, in their order.
//!
//! Not the rules: they are the database's functions. What came while a round trip was under way
//! goes together in the next, so a busy lane costs less for each lock, and an idle one waits for
//! nothing. Invariants: a resource has one lane, so its wishes of this process are sent in the
//! order in which they came; at most one round trip of a lane is under way.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio_postgres::types::ToSql;

use super::errand::{Batch, Errand, Question};
use super::link::{Link, Trouble};
use super::question;
use super::shared::Inner;
use crate::locks::LockError;

/// Errands of one round trip. Each may take a lock of the server's lock table, of which there are
/// 64 for each connection by default.
const BATCH_MAX: usize = 64;
const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_millis(500);

/// A queue of errands.
#[derive(Default)]
pub(super) struct Lane {
    queue: Mutex<VecDeque<Errand>>,
    wake: Notify,
}

/// What is sent next.
enum Load {
    Batch(Vec<Errand>),
    Question(Question),
}

impl Lane {
    pub(super) fn push(&self, errand: Errand) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).push_back(errand);
        self.wake.notify_one();
    }

    fn push_front(&self, errands: Vec<Errand>) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        for errand in errands.into_iter().rev() {
            queue.push_front(errand);
        }
    }

    fn is_empty(&self) -> bool {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Takes out all that pass the test.
    pub(super) fn take_all(&self, is_taken: impl Fn(&Errand) -> bool) -> Vec<Errand> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let (taken, kept): (VecDeque<Errand>, VecDeque<Errand>) =
            queue.drain(..).partition(is_taken);
        *queue = kept;
        Vec::from(taken)
    }

    fn load(&self) -> Option<Load> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let is_alone = |errand: &Errand| matches!(errand, Errand::Question(_));
        let count = queue.iter().take(BATCH_MAX).take_while(|errand| !is_alone(errand)).count();
        if count > 0 {
            return Some(Load::Batch(queue.drain(..count).collect()));
        }
        match queue.pop_front() {
            Some(Errand::Question(question)) => Some(Load::Question(question)),
            _ => None,
        }
    }
}

/// Sends what the lane holds, until the manager closes.
pub(super) async fn run(inner: Arc<Inner>, index: usize) {
    let lane = &inner.lanes[index];
    let mut link = None;
    while !inner.is_closing() {
        if lane.is_empty() {
            tokio::select! {
                () = lane.wake.notified() => {}
                () = inner.closing() => {}
            }
            continue;
        }
        let Some(session) = ready(&inner, lane, &mut link).await else { continue };
        let (Some(link_now), Some(load)) = (link.as_mut(), lane.load()) else { continue };
        let outcome = match load {
            Load::Batch(errands) => send(&inner, lane, link_now, session, errands).await,
            Load::Question(asked) => {
                let answer = question::answer(&inner, link_now, session, asked).await;
                answer.map_err(|(trouble, asked)| {
                    lane.push_front(vec![Errand::Question(asked)]);
                    trouble
                })
            }
        };
        if let Err(trouble) = outcome {
            if !matches!(trouble, Trouble::SessionOver) {
                link = None;
            }
            inner.in_trouble(trouble, Some(session));
        }
    }
}

/// Waits until there are a connection and a session; `None` when there is nothing to do any more.
async fn ready(inner: &Arc<Inner>, lane: &Lane, link: &mut Option<Link>) -> Option<i64> {
    let mut backoff = BACKOFF_MIN;
    loop {
        if link.as_ref().is_some_and(|link| link.client.is_closed()) {
            *link = None;
        }
        let session = inner.session_id();
        if session.is_some() && link.is_none() {
            match Link::open_plain(inner).await {
                Ok(opened) => *link = Some(opened),
                Err(trouble) => inner.in_trouble(trouble, None),
            }
        }
        // Opening took its time, so the session is looked at once more.
        if link.is_some() && inner.session_id().is_some() {
            return inner.session_id();
        }
        tokio::select! {
            () = tokio::time::sleep(backoff) => {}
            () = inner.session_comes(), if session.is_none() => {}
            () = inner.closing() => return None,
        }
        backoff = (backoff * 2).min(BACKOFF_MAX);
        inner.refuse_stale(lane);
        if lane.is_empty() {
            return None;
        }
    }
}

async fn send(
    inner: &Arc<Inner>,
    lane: &Lane,
    link: &mut Link,
    session: i64,
    errands: Vec<Errand>,
) -> Result<(), Trouble> {
    let batch = Batch::of(errands, &mut inner.state(), &inner.instance);
    if batch.is_empty() {
        return Ok(());
    }
    let sent = Instant::now();
    let c = &batch.columns;
    let parameters: [&(dyn ToSql + Sync); 17] = [
        &session,
        &c.releases,
        &c.release_resources,
        &c.release_holders,
        &c.cancels,
        &c.cancel_resources,
        &c.waits,
        &c.resources,
        &c.modes,
        &c.requesters,
        &c.coordinations,
        &c.timeouts,
        &c.leases,
        &c.sinces,
        &c.are_protected,
        &c.are_fast,
        &c.are_again,
    ];
    let rows = match link.ask_batch(&parameters).await {
        Ok(rows) => rows,
        Err(trouble) => {
            let errands = batch.into_errands(&mut inner.state());
            lane.push_front(errands);
            return Err(trouble);
        }
    };
    let released = inner.apply(&rows, (session, Some(sent)));
    for release in batch.releases {
        let was_held = inner.state().let_go(&release.lock_id);
        // Of one that was sent twice the first may have done it.
        let is_done = released.contains(&release.lock_id) || release.is_again && was_held;
        if let Some(reply) = release.reply {
            reply.send(Ok(is_done));
        }
    }
    Ok(())
}

impl Inner {
    /// Answers what has lain in a lane for too long.
    pub(super) fn refuse_stale(&self, lane: &Lane) {
        let until = Instant::now();
        let longest = self.options.session_timeout;
        let is_stale = |errand: &Errand| errand.began().is_some_and(|at| until - at >= longest);
        self.refuse(lane.take_all(is_stale));
    }

    /// Answers that there is no answer.
    pub(super) fn refuse(&self, errands: Vec<Errand>) {
        if errands.is_empty() {
            return;
        }
        let trouble = self.state().trouble.clone();
        let message = trouble.unwrap_or_else(|| "it did not answer in time".to_owned());
        for errand in errands {
            if let Errand::Release(release) = &errand {
                self.state().let_go(&release.lock_id);
            }
            let server = self.server_name();
            errand.refuse(LockError::Unavailable { server, message: message.clone() });
        }
    }
}
