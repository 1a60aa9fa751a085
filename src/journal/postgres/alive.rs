//! Who has the journal open, and who of them is dead.
//!
//! Not ownership: that stands in the rows, and is refused there when it is another's. Invariants: a
//! process of this machine that runs no more is dead at once; one that may only have lost its
//! connection is left some time to come back; one without a row is dead.

use std::time::{Duration, Instant};

use super::link::{Link, Outcome, Trouble};
use super::shared::Inner;
use super::table::get;
use crate::db::process;
use crate::model::ids::InstanceId;

/// The server's start counts as a heartbeat: nobody could send one before. `pg_locks` has the
/// halves of a key in two columns.
const INSTANCES: &str = "SELECT i.instance_id, i.machine, i.process, \
     (extract(epoch FROM clock_timestamp() - greatest(i.heartbeat_at, pg_postmaster_start_time())) \
         * 1000000)::bigint, \
     EXISTS (SELECT FROM pg_locks l WHERE l.locktype = 'advisory' AND l.granted \
         AND l.objsubid = 1 AND l.classid = ((i.lock_key >> 32) & 4294967295)::oid \
         AND l.objid = (i.lock_key & 4294967295)::oid AND l.database = \
             (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())) \
     FROM journal_instances i ORDER BY i.started_at";

const BEAT: &str = "INSERT INTO journal_instances (instance_id, lock_key, machine, process) \
     VALUES ($1::text, hashtextextended('unanimity journal ' || $1::text, 0), $2, $3) \
     ON CONFLICT (instance_id) DO UPDATE SET heartbeat_at = clock_timestamp()";

const LOCK: &str =
    "SELECT pg_try_advisory_lock(hashtextextended('unanimity journal ' || $1::text, 0))";

/// Those that nobody needs to know any more; who lives after all writes its row again.
const BURY: &str = "DELETE FROM journal_instances i WHERE i.instance_id = ANY($1::text[]) \
     AND i.heartbeat_at < clock_timestamp() - interval '1 minute' AND NOT EXISTS \
     (SELECT FROM coordination_transactions t WHERE t.owner = i.instance_id \
      AND t.completed_at IS NULL)";

/// The instances that have a row.
#[derive(Default)]
pub(super) struct Census {
    pub(super) alive: Vec<InstanceId>,
    pub(super) dead: Vec<InstanceId>,
}

/// Says that this process lives.
pub(super) async fn beat(link: &Link, own: &InstanceId) -> Outcome<()> {
    let (machine, process) = (process::machine(), process::process());
    link.ask(BEAT, &[&own.as_str(), &machine, &process]).await.map(drop)
}

/// Takes the lock of this instance. False while the connection that had it before is not gone.
pub(super) async fn lock(link: &Link, own: &InstanceId) -> Outcome<bool> {
    let rows = link.ask(LOCK, &[&own.as_str()]).await?;
    Ok(rows.first().is_some_and(|row| row.get(0)))
}

/// Says goodbye: what this instance owns may be adopted at once.
pub(super) async fn leave(link: &Link, own: &InstanceId) -> Outcome<()> {
    let sql = "DELETE FROM journal_instances WHERE instance_id = $1";
    link.ask(sql, &[&own.as_str()]).await.map(drop)
}

/// Removes the rows of those who died long ago and own nothing.
pub(super) async fn bury(link: &Link, dead: &[InstanceId]) -> Outcome<()> {
    if dead.is_empty() {
        return Ok(());
    }
    let ids: Vec<&str> = dead.iter().map(InstanceId::as_str).collect();
    link.ask(BURY, &[&ids]).await.map(drop)
}

/// Looks who lives. This process is always among the living, and the first of them.
pub(super) async fn census(link: &Link, inner: &Inner) -> Outcome<Census> {
    let machine = process::machine();
    let options = &inner.options;
    // Others lost their connections when this one lost its own, and need time as it did.
    let is_back = inner.regained().is_some_and(|at| at + options.grace > Instant::now());
    let mut census = Census { alive: vec![inner.own.clone()], dead: Vec::new() };
    for row in link.ask(INSTANCES, &[]).await? {
        let id = InstanceId::new(get(&row, 0)?)
            .map_err(|error| Trouble::Row(format!("journal_instances: {error}")))?;
        if id == inner.own {
            continue;
        }
        let is_here = !machine.is_empty() && get::<&str>(&row, 1)? == machine;
        let silent = Duration::from_micros(u64::try_from(get::<i64>(&row, 3)?).unwrap_or(0));
        let is_locked: bool = get(&row, 4)?;
        let has_ended = is_here && process::has_ended(get(&row, 2)?);
        let is_heard = if is_locked {
            silent < options.silence_max
        } else {
            silent < options.grace || is_back
        };
        let list = if is_heard && !has_ended { &mut census.alive } else { &mut census.dead };
        list.push(id);
    }
    Ok(census)
}
