//! What is to be sent to the server: wishes, releases and given up waits, which travel together,
//! and questions, which travel alone.
//!
//! Not the sending (`lane`). Invariant: an errand keeps its reply until it is answered, so that it
//! can be sent again after a connection broke.

use std::collections::HashSet;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::state::State;
use super::wait::Stage;
use crate::locks::{LockError, LockId, LockInfo, RequesterId, ResourceId, WaitForGraph};
use crate::model::time::Timestamp;
use crate::reply::Reply;

/// Longer than anybody waits, and within what an interval can say.
const DURATION_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 3_600);

/// Takes the answer to a release or a renewal.
pub(super) type KnownReply = Reply<Result<bool, LockError>>;

/// One thing to send.
pub(super) enum Errand {
    /// The wish of this number.
    Ask(u64),
    /// The wait of this number is given up.
    Cancel(u64),
    Release(Release),
    Question(Question),
}

/// A lock that is let go of.
pub(super) struct Release {
    pub(super) lock_id: LockId,
    pub(super) requester: RequesterId,
    pub(super) reply: Option<KnownReply>,
    /// Whether it may have reached the server before.
    pub(super) is_again: bool,
    pub(super) began: Instant,
}

/// What is asked alone.
pub(super) struct Question {
    pub(super) kind: QuestionKind,
    pub(super) began: Instant,
}

/// Which.
pub(super) enum QuestionKind {
    ReleaseAll(RequesterId, Reply<Result<usize, LockError>>),
    Renew(LockId, Duration, KnownReply),
    Status(Option<ResourceId>, Reply<Result<Vec<LockInfo>, LockError>>),
    Graph(Reply<Result<WaitForGraph, LockError>>),
}

impl QuestionKind {
    /// Answers that there is no answer.
    pub(super) fn refuse(self, error: LockError) {
        match self {
            Self::ReleaseAll(_, reply) => reply.send(Err(error)),
            Self::Renew(_, _, reply) => reply.send(Err(error)),
            Self::Status(_, reply) => reply.send(Err(error)),
            Self::Graph(reply) => reply.send(Err(error)),
        }
    }
}

impl Errand {
    /// A release, sent for the first time.
    pub(super) fn release(
        lock_id: LockId,
        requester: RequesterId,
        reply: Option<KnownReply>,
    ) -> Self {
        let (is_again, began) = (false, Instant::now());
        Self::Release(Release { lock_id, requester, reply, is_again, began })
    }

    /// A question, asked now.
    pub(super) fn question(kind: QuestionKind) -> Self {
        Self::Question(Question { kind, began: Instant::now() })
    }

    /// When it was brought; wishes are watched over by their own clock.
    pub(super) fn began(&self) -> Option<Instant> {
        match self {
            Self::Ask(_) | Self::Cancel(_) => None,
            Self::Release(release) => Some(release.began),
            Self::Question(question) => Some(question.began),
        }
    }

    /// Answers that there is no answer.
    pub(super) fn refuse(self, error: LockError) {
        match self {
            Self::Ask(_) | Self::Cancel(_) => {}
            Self::Release(release) => {
                if let Some(reply) = release.reply {
                    reply.send(Err(error));
                }
            }
            Self::Question(question) => question.kind.refuse(error),
        }
    }
}

/// Errands that travel together, with the columns that they are sent as.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) asks: Vec<u64>,
    pub(super) cancels: Vec<u64>,
    pub(super) releases: Vec<Release>,
    pub(super) columns: Columns,
}

/// See `unanimity_lock_batch` in the migrations.
#[derive(Default)]
pub(super) struct Columns {
    pub(super) releases: Vec<String>,
    pub(super) release_resources: Vec<String>,
    pub(super) release_holders: Vec<String>,
    pub(super) cancels: Vec<String>,
    pub(super) cancel_resources: Vec<String>,
    pub(super) waits: Vec<String>,
    pub(super) resources: Vec<String>,
    pub(super) modes: Vec<&'static str>,
    pub(super) requesters: Vec<String>,
    pub(super) coordinations: Vec<Option<String>>,
    pub(super) timeouts: Vec<Option<i64>>,
    pub(super) leases: Vec<Option<i64>>,
    pub(super) sinces: Vec<Option<SystemTime>>,
    pub(super) are_protected: Vec<bool>,
    pub(super) are_fast: Vec<bool>,
    pub(super) are_again: Vec<bool>,
}

impl Batch {
    /// Puts errands together, without those that meanwhile came to nothing.
    pub(super) fn of(errands: Vec<Errand>, state: &mut State, instance: &str) -> Self {
        let mut batch = Self::default();
        let mut seen = HashSet::new();
        for errand in errands {
            match errand {
                Errand::Ask(number) => batch.add_wait(number, state, instance, &mut seen),
                Errand::Cancel(number) => batch.add_cancel(number, state, instance),
                Errand::Release(release) => batch.add_release(release),
                // A lane sends questions alone.
                Errand::Question(_) => {}
            }
        }
        batch
    }

    pub(super) fn is_empty(&self) -> bool {
        self.asks.is_empty() && self.cancels.is_empty() && self.releases.is_empty()
    }

    fn add_wait(
        &mut self,
        number: u64,
        state: &mut State,
        instance: &str,
        seen: &mut HashSet<ResourceId>,
    ) {
        let Some(wait) = state.waits.get_mut(&number) else { return };
        if wait.stage != Stage::Queued {
            return;
        }
        if wait.ending.is_some() {
            // It may stand on the server from before, so it is taken away there.
            return self.add_cancel(number, state, instance);
        }
        wait.stage = Stage::Sent;
        let ask = &wait.ask;
        let columns = &mut self.columns;
        columns.waits.push(wait_name(instance, number));
        columns.resources.push(ask.resource.as_str().to_owned());
        columns.modes.push(ask.mode.as_str());
        columns.requesters.push(ask.requester.as_str().to_owned());
        let coordination = ask.coordination.as_ref().map(|id| id.as_str().to_owned());
        columns.coordinations.push(coordination);
        columns.timeouts.push(ask.timeout.map(micros));
        columns.leases.push(ask.lease.map(micros));
        columns.sinces.push(ask.working_since.map(system_time));
        columns.are_protected.push(ask.is_protected);
        // Two wishes for one resource do not see each other in one statement.
        columns.are_fast.push(seen.insert(ask.resource.clone()) && !wait.is_again);
        columns.are_again.push(wait.is_again);
        self.asks.push(number);
    }

    fn add_cancel(&mut self, number: u64, state: &State, instance: &str) {
        let Some(wait) = state.waits.get(&number) else { return };
        self.columns.cancels.push(wait_name(instance, number));
        self.columns.cancel_resources.push(wait.ask.resource.as_str().to_owned());
        self.cancels.push(number);
    }

    fn add_release(&mut self, release: Release) {
        let Some((resource, _, _)) = LockId::parse(release.lock_id.as_str()) else { return };
        self.columns.releases.push(release.lock_id.as_str().to_owned());
        self.columns.release_resources.push(resource.as_str().to_owned());
        self.columns.release_holders.push(release.requester.as_str().to_owned());
        self.releases.push(release);
    }

    /// The errands again, after a connection broke under them: they may have been carried out.
    pub(super) fn into_errands(self, state: &mut State) -> Vec<Errand> {
        let releases = self.releases.into_iter().map(|mut release| {
            release.is_again = true;
            Errand::Release(release)
        });
        let mut errands: Vec<Errand> = releases.collect();
        errands.extend(self.cancels.into_iter().map(Errand::Cancel));
        for number in self.asks {
            if let Some(wait) = state.waits.get_mut(&number) {
                wait.stage = Stage::Queued;
                wait.is_again = true;
                errands.push(Errand::Ask(number));
            }
        }
        errands
    }
}

/// A wait's name on the server.
pub(super) fn wait_name(instance: &str, number: u64) -> String {
    format!("{instance}:{number}")
}

/// The number of a wait of this instance.
pub(super) fn wait_number(instance: &str, name: &str) -> Option<u64> {
    name.strip_prefix(instance)?.strip_prefix(':')?.parse().ok()
}

/// A duration as the server takes it.
pub(super) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.min(DURATION_MAX).as_micros()).unwrap_or(i64::MAX)
}

/// A time as the driver takes it. What lies before 1970 counts as 1970.
fn system_time(time: Timestamp) -> SystemTime {
    let since = Duration::from_micros(u64::try_from(time.0).unwrap_or(0)).min(DURATION_MAX);
    UNIX_EPOCH + since
}

/// A time as the driver gives it.
pub(super) fn timestamp(time: SystemTime) -> Timestamp {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}
