//! Looks after what nobody asks for: sessions that ended without a word, leases that are over,
//! circles of waits.
//!
//! Not the own session (`session`). Every manager watches while somebody of it waits, and now and
//! then otherwise. Invariants: of several detectors one looks at a time, and sees what the one
//! before refused, so a circle has one victim; a session is ended at once only when its process is
//! seen to have ended, else when its heartbeat is too old.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::errand::timestamp;
use super::link::{Link, Trouble};
use super::shared::Inner;
use super::{answer, question};
use crate::db::process;
use crate::locks::Deadlock;

/// A burst of new waits is looked at together.
const GAP: Duration = Duration::from_millis(10);
/// Circles that one look resolves.
const CIRCLES_MAX: usize = 64;

const OTHERS: &str =
    "SELECT session_id, process FROM lock_sessions WHERE machine = $1 AND session_id <> $2";
const SWEEP: &str = "SELECT * FROM unanimity_lock_sweep($1, $2, $3)";
const REFUSE: &str = "SELECT * FROM unanimity_lock_refuse($1, $2, $3, $4)";
const DETECT: &str =
    "BEGIN; SELECT pg_advisory_xact_lock(hashtextextended('unanimity_lock_detect', 0))";
const NEXT_LEASE: &str = "SELECT ceil(extract(epoch FROM min(expires_at) - clock_timestamp()) \
     * 1000)::bigint FROM distributed_locks WHERE expires_at <> 'infinity'";

/// When something was last done.
struct Rounds {
    swept: Option<Instant>,
    swept_fully: Option<Instant>,
    detected: Option<Instant>,
}

fn is_due(last: Option<Instant>, every: Duration) -> bool {
    last.is_none_or(|last| last.elapsed() >= every)
}

/// Watches until the manager closes.
pub(super) async fn run(inner: Arc<Inner>) {
    let mut link = None;
    let mut rounds = Rounds { swept: None, swept_fully: None, detected: None };
    let mut pause = GAP;
    while !inner.is_closing() {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = inner.watch_wake.notified() => tokio::time::sleep(GAP).await,
            () = inner.closing() => return,
        }
        pause = inner.options.detection_interval;
        let Some(session) = inner.session_id() else { continue };
        if link.as_ref().is_none_or(|link: &Link| link.client.is_closed()) {
            link = Link::open_plain(&inner).await.ok();
        }
        let Some(link_now) = &link else { continue };
        match look(&inner, link_now, session, &mut rounds).await {
            Ok(next) => pause = next,
            Err(_) => link = None,
        }
    }
}

/// Does what is due; when to look again.
async fn look(
    inner: &Arc<Inner>,
    link: &Link,
    session: i64,
    rounds: &mut Rounds,
) -> Result<Duration, Trouble> {
    let interval = inner.options.detection_interval;
    let has_waiting = inner.state().has_waiting();
    let full_interval = inner.options.session_timeout / 2;
    let is_full = is_due(rounds.swept_fully, full_interval);
    let next_lease = if has_waiting { next_lease(link).await? } else { None };
    let is_lease_over = next_lease.is_some_and(|next| next.is_zero());
    if is_full || is_lease_over || has_waiting && is_due(rounds.swept, interval) {
        sweep(inner, link, session, is_full).await?;
        rounds.swept = Some(Instant::now());
        rounds.swept_fully = if is_full { rounds.swept } else { rounds.swept_fully };
    }
    let is_urgent = inner.takes_urgency();
    let is_due = is_urgent || has_waiting && is_due(rounds.detected, interval);
    if is_due && inner.options.detects {
        detect(inner, link, session).await?;
        rounds.detected = Some(Instant::now());
    }
    let next_lease = if is_lease_over { Some(GAP) } else { next_lease };
    // Sessions that are short end between two searches for circles.
    let longest = interval.min(full_interval).max(GAP);
    Ok(next_lease.unwrap_or(longest).clamp(GAP, longest))
}

async fn next_lease(link: &Link) -> Result<Option<Duration>, Trouble> {
    let rows = link.ask(NEXT_LEASE, &[]).await?;
    let left: Option<i64> = rows.first().and_then(|row| row.get(0));
    Ok(left.map(|left| Duration::from_millis(u64::try_from(left).unwrap_or(0))))
}

async fn sweep(
    inner: &Arc<Inner>,
    link: &Link,
    session: i64,
    is_full: bool,
) -> Result<(), Trouble> {
    let machine = process::machine();
    let others = link.ask(OTHERS, &[&machine, &session]).await?;
    let has_ended =
        |row: &&tokio_postgres::Row| !machine.is_empty() && process::has_ended(row.get(1));
    let gone: Vec<i64> = others.iter().filter(has_ended).map(|row| row.get(0)).collect();
    loop {
        let rows = link.ask(SWEEP, &[&session, &gone, &is_full]).await?;
        inner.apply(&rows, (session, None));
        if rows.iter().all(|row| row.get::<_, &str>(0) != "m") {
            return Ok(());
        }
    }
}

/// Refuses a victim of each circle that there is.
async fn detect(inner: &Arc<Inner>, link: &Link, session: i64) -> Result<(), Trouble> {
    for _ in 0..CIRCLES_MAX {
        link.run(DETECT).await?;
        let claims = question::waited_claims(link).await?;
        let circles = question::graph(&claims).resolve();
        let now = timestamp(SystemTime::now());
        let Some(deadlock) = circles.into_iter().find_map(|circle| circle.deadlock(now)) else {
            return link.run("COMMIT").await;
        };
        let Deadlock { victim, resource, .. } = &deadlock;
        let mark = answer::mark(&deadlock);
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 4] =
            [&session, &victim.as_str(), &resource.as_str(), &mark];
        let rows = link.ask(REFUSE, &parameters).await?;
        link.run("COMMIT").await?;
        let is_refused = |row: &tokio_postgres::Row| row.get::<_, &str>(0) == "d";
        // What was refused is told by the notification; an answer here would answer it twice.
        let (refused, granted): (Vec<_>, Vec<_>) = rows.into_iter().partition(is_refused);
        inner.apply(&granted, (session, None));
        if !refused.is_empty() {
            inner.tell_deadlock(deadlock);
        }
    }
    Ok(())
}
