//! From the question "can you commit this?" to a vote: checks, timeouts, stops, second tries.
//!
//! Not the statements' way to the server. Invariant: a vote of abort is given only when nothing
//! is kept; what was cut off after something was sent is unknown.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_postgres::NoTls;

use crate::crash;
use crate::model::lock::Fence;
use crate::model::outcome::{Receipt, Vote};
use crate::participants::PrepareAsk;

use super::Inner;
use super::fencing::{self, Flush};
use super::fetch::{self, ReadEnding};
use super::gid::Scope;
use super::pool::{Lease, Purpose};
use super::prepare::{self, Ending, Task};
use super::running::Entered;
use super::statement;
use super::work::Step;

/// Keeps a sum of times inside what clocks can say.
pub(super) const FOR_EVER: Duration = Duration::from_secs(86_400 * 365);
/// How long a cancelled flight may take to end before its connection is given up.
const GRACE: Duration = Duration::from_secs(5);
/// A cancel that comes between two statements hits nothing, so it is repeated.
const CANCEL_EVERY: Duration = Duration::from_millis(200);

/// Answers a prepare.
pub(super) async fn vote(inner: &Arc<Inner>, ask: &PrepareAsk) -> Vote {
    let Some(scope) = inner.scope() else {
        return abort(format!("the PostgreSQL store '{}' was not attached", inner.name));
    };
    let steps: Vec<Step<'_>> = match ask.operations().map(Step::read).collect() {
        Ok(steps) => steps,
        Err(reason) => return abort(reason),
    };
    if steps.is_empty() {
        return Vote::ReadOnly;
    }
    let Some(entered) = inner.running.enter(ask.id()) else {
        let reason = "a prepare of this coordination runs already".to_owned();
        return Vote::Unknown { reason };
    };
    let question = Question { inner, scope: &scope, ask, steps: &steps, entered: &entered };
    let deadline = Instant::now() + ask.timeout.min(FOR_EVER);
    if steps.iter().all(|step| statement::is_read(step.statement))
        && let Some(vote) = question.read_only(deadline).await
    {
        return vote;
    }
    question.prepared(deadline).await
}

fn abort(reason: String) -> Vote {
    Vote::Abort { reason }
}

/// One question while it is answered.
pub(super) struct Question<'a> {
    pub(super) inner: &'a Arc<Inner>,
    pub(super) scope: &'a Scope,
    pub(super) ask: &'a PrepareAsk,
    pub(super) steps: &'a [Step<'a>],
    pub(super) entered: &'a Entered,
}

impl Question<'_> {
    async fn prepared(&self, deadline: Instant) -> Vote {
        crash::point("store_prepare", self.scope.store.as_str());
        let gid = self.scope.gid(self.ask.id());
        let id = self.ask.id().as_str();
        // The id of a hashed gid stands in a row of its own, which goes when its marker does.
        let gives_receipts = self.inner.gives_receipts.load(Ordering::Relaxed);
        let wants_receipt = gives_receipts && self.ask.keeps_receipt && !gid.is_hashed;
        let mut is_second_try = false;
        loop {
            let mut lease = match self.lease(deadline).await {
                Ok(lease) => lease,
                Err(reason) => return abort(reason),
            };
            let left = deadline.saturating_duration_since(Instant::now());
            let fences = &self.ask.fences;
            let steps = self.steps;
            let task = Task { id, gid: &gid, steps, fences, timeout: left, wants_receipt };
            let ending = self.guarded(&mut lease, deadline, async |lease: &mut Lease| {
                prepare::run(lease, &task).await
            });
            match ending.await {
                Ok(Ending::Prepared(number)) => return self.staged(number),
                Ok(Ending::Refused(reason)) => return abort(reason),
                Ok(Ending::Lost(reason)) | Err(reason) => return Vote::Unknown { reason },
                Ok(Ending::Stale(reason)) if is_second_try => return abort(reason),
                Ok(Ending::Stale(_)) => is_second_try = true,
            }
        }
    }

    fn staged(&self, number: Option<u64>) -> Vote {
        crash::point("store_staged", self.scope.store.as_str());
        match number {
            Some(number) => Vote::Prepared { receipt: Receipt::new(&number.to_string()) },
            None => Vote::Commit,
        }
    }

    /// Statements that look like reads. `None` when one of them writes after all.
    async fn read_only(&self, deadline: Instant) -> Option<Vote> {
        let mut lease = match self.lease(deadline).await {
            Ok(lease) => lease,
            Err(reason) => return Some(abort(reason)),
        };
        let ending = self.guarded(&mut lease, deadline, async |lease: &mut Lease| {
            let left = deadline.saturating_duration_since(Instant::now());
            read_under(lease, &self.ask.fences, left, self.steps).await
        });
        match ending.await {
            Ok(ReadEnding::Done) => Some(Vote::ReadOnly),
            Ok(ReadEnding::Writes) => None,
            // Reads keep nothing, also when they are cut off.
            Ok(ReadEnding::Refused(reason)) | Err(reason) => Some(abort(reason)),
        }
    }

    /// A connection; without one nothing was sent, so a failure is no unknown.
    pub(super) async fn lease(&self, deadline: Instant) -> Result<Lease, String> {
        let lease = pin!(self.inner.pool.lease(Purpose::Work));
        tokio::select! {
            () = self.entered.stopped() => Err("it was aborted before it began".to_owned()),
            lease = timeout_at(deadline, lease) => lease.unwrap_or_else(|_| Err(format!(
                "no connection to {} was free or could be opened in time; raise max_connections \
                 or the timeout", self.inner.pool.server.label
            ))),
        }
    }

    /// Runs `work` on the lease; at the deadline or when an abort is asked the server is told to
    /// cancel, and its own answer is waited for a while, because it is the certain one.
    pub(super) async fn guarded<T>(
        &self,
        lease: &mut Lease,
        deadline: Instant,
        work: impl AsyncFnOnce(&mut Lease) -> T,
    ) -> Result<T, String> {
        let cancel = lease.session().client.cancel_token();
        let answer = {
            let mut work = pin!(work(lease));
            tokio::select! {
                biased;
                answer = &mut work => return Ok(answer),
                () = self.entered.stopped() => {}
                () = sleep_until(deadline) => {}
            }
            cancelled(work, &cancel).await
        };
        // A late cancel must not hit somebody else's statement.
        lease.spoil();
        answer.ok_or_else(|| {
            format!("{} did not answer in time, nor when it was told to cancel", self.place())
        })
    }

    fn place(&self) -> &str {
        &self.inner.pool.server.label
    }
}

/// Reads, and looks afterwards whether a later holder came while it read.
async fn read_under(
    lease: &mut Lease,
    shown: &[Fence],
    left: Duration,
    steps: &[Step<'_>],
) -> ReadEnding {
    if shown.is_empty() {
        return fetch::check(lease, steps).await;
    }
    let raise = fencing::raise(shown, Flush::Now, prepare::rounded(left));
    if let Err(error) = lease.session().client.batch_execute(&raise).await {
        return ReadEnding::Refused(fencing::not_shown(&error));
    }
    let ending = fetch::check(lease, steps).await;
    if !matches!(ending, ReadEnding::Done) {
        return ending;
    }
    let read = fencing::read(shown, false);
    match fencing::judge(&lease.session().client, &read, shown).await {
        Ok(Ok(())) => ReadEnding::Done,
        Ok(Err(refusal)) => ReadEnding::Refused(refusal),
        Err(error) => ReadEnding::Refused(fencing::not_shown(&error)),
    }
}

async fn cancelled<T>(
    mut work: std::pin::Pin<&mut impl Future<Output = T>>,
    cancel: &tokio_postgres::CancelToken,
) -> Option<T> {
    let until = Instant::now() + GRACE;
    while Instant::now() < until {
        let asked = async {
            // When the cancel itself fails, the answer or the end of the grace is waited for.
            let _ = timeout(CANCEL_EVERY, cancel.cancel_query(NoTls)).await;
            tokio::time::sleep(CANCEL_EVERY).await;
        };
        tokio::select! {
            biased;
            answer = &mut work => return Some(answer),
            () = asked => {}
        }
    }
    None
}
