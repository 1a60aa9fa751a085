//! Questions to the tables, and the removal of what is old, on connections of their own.
//!
//! Not adoption (adopt, on the writer's connection). Invariants: a question comes here when every
//! record that was queued before it stands; as many are asked at once as there may be connections;
//! only finished coordinations are ever removed; removal goes in portions, with other questions in
//! between.

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures_util::StreamExt as _;
use futures_util::future::LocalBoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

use super::alive;
use super::link::{Link, Outcome, Trouble};
use super::links::Links;
use super::queue::{Ask, Removed};
use super::shared::Inner;
use super::table::{self, COLUMNS, Found, get};
use super::values::At;
use crate::db::postgres_migration::JOURNAL_SCHEMA_KNOWN;
use crate::journal::{HistoryFilter, JournalError, JournalStatus, StoredCoordination};
use crate::model::ids::CoordinationId;
use crate::model::outcome::TransactionState;
use crate::model::request::CoordinationType;
use crate::model::time::Timestamp;
use crate::reply::Reply;

const RETRY_WAIT: Duration = Duration::from_millis(100);

const REMOVE: &str = "WITH old AS (SELECT coordination_id FROM coordination_transactions \
         WHERE created_at < $1 AND completed_at < $1 ORDER BY created_at LIMIT $2 \
         FOR UPDATE SKIP LOCKED), \
     operations AS (DELETE FROM coordination_operations o USING old \
         WHERE o.coordination_id = old.coordination_id), \
     removed AS (DELETE FROM coordination_transactions t USING old \
         WHERE t.coordination_id = old.coordination_id RETURNING 1) \
     SELECT count(*) FROM removed";

const SERVER_FACTS: &str = "SELECT * FROM (VALUES \
     ('version', current_setting('server_version_num')), \
     ('fsync', current_setting('fsync')), \
     ('full_page_writes', current_setting('full_page_writes')), \
     ('is_standby', pg_is_in_recovery()::text), \
     ('clock', extract(epoch FROM clock_timestamp())::text)) AS facts (name, value)";

const COUNT_ENDED: &str = "SELECT count(*) FROM coordination_transactions \
     WHERE created_at < $1 AND completed_at < $1";

pub(super) fn now() -> Timestamp {
    let micros = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
    Timestamp(i64::try_from(micros).unwrap_or(i64::MAX))
}

/// Answers questions, each on a connection of its own while it lasts.
pub(super) struct Reader<'a> {
    pub(super) inner: &'a Inner,
    pub(super) links: Links<'a>,
    /// Where the next portion of a removal waits.
    pub(super) again: UnboundedSender<Ask>,
}

impl Reader<'_> {
    /// Works until the writer is gone and everything is answered.
    pub(super) async fn run(self, mut asks: UnboundedReceiver<Ask>) {
        let mut over = self.inner.is_over.subscribe();
        let most = self.inner.options.pool.for_questions();
        let mut working: FuturesUnordered<LocalBoxFuture<'_, ()>> = FuturesUnordered::new();
        working.push(Box::pin(self.links.warm()));
        loop {
            // What is queued is served before the end is seen.
            tokio::select! {
                biased;
                ask = asks.recv(), if working.len() < most => match ask {
                    Some(ask) => working.push(Box::pin(self.serve(ask))),
                    None => break,
                },
                _ = over.wait_for(|over| *over), if working.len() < most => break,
                Some(()) = working.next() => {}
                () = tokio::time::sleep(self.links.next_look()) => self.links.trim(),
            }
        }
        while working.next().await.is_some() {}
    }

    async fn serve(&self, ask: Ask) {
        match ask {
            Ask::Find(id, reply) => {
                let found = self.patiently(async |link, _| find(link, &id).await).await;
                reply.send(found);
            }
            Ask::UnknownOf(ids, reply) => {
                let unknown = self.patiently(async |link, _| unknown_of(link, &ids).await).await;
                reply.send(unknown);
            }
            Ask::History(filter, reply) => {
                let found = self.patiently(async |link, _| history(link, &filter).await).await;
                reply.send(found);
            }
            Ask::Status(reply) => {
                reply.send(self.patiently(async |link, inner| status(link, inner).await).await);
            }
            Ask::Retain(age, progress, reply) => self.retain(age, progress, reply).await,
            Ask::CountEnded(age, reply) => {
                let cutoff = At(now() - age);
                let count = self.patiently(async |link, _| count(link, COUNT_ENDED, cutoff).await);
                reply.send(count.await);
            }
            Ask::ServerFacts(reply) => {
                reply.send(self.patiently(async |link, _| server_facts(link).await).await);
            }
            // The writer keeps these.
            Ask::Adopt(_, reply) => reply.send(Err(JournalError::Closed)),
        }
    }

    /// Removes one portion; the next one waits behind other questions.
    async fn retain(
        &self,
        age: Duration,
        Removed { before, at_most }: Removed,
        reply: Reply<Result<u64, JournalError>>,
    ) {
        let portion = u64::try_from(self.inner.options.portion).unwrap_or(u64::MAX);
        let portion = i64::try_from(portion.min(at_most - before)).unwrap_or(i64::MAX);
        let cutoff = At(now() - age);
        match self.patiently(async |link, _| remove(link, cutoff, portion).await).await {
            Ok(0) => reply.send(Ok(before)),
            Ok(removed) if before + removed >= at_most => reply.send(Ok(before + removed)),
            Ok(_) if self.inner.queue.is_shut() => reply.send(Err(JournalError::Closed)),
            Ok(removed) => {
                let progress = Removed { before: before + removed, at_most };
                // A reader that is gone drops the reply, which says so.
                let _ = self.again.send(Ask::Retain(age, progress, reply));
            }
            Err(error) => reply.send(Err(error)),
        }
    }

    /// Asks, and asks again while the server cannot be reached and the patience lasts.
    async fn patiently<T>(
        &self,
        question: impl AsyncFn(&Link, &Inner) -> Outcome<T>,
    ) -> Result<T, JournalError> {
        let inner = self.inner;
        let until = Instant::now() + inner.options.patience;
        loop {
            let trouble = match self.links.take().await {
                Ok(link) => match question(&link, inner).await {
                    Ok(answer) => {
                        self.links.give_back(link);
                        return Ok(answer);
                    }
                    Err(trouble) => trouble,
                },
                Err(trouble) => trouble,
            };
            let may_pass = matches!(trouble, Trouble::Broken(_) | Trouble::Again);
            if !may_pass || Instant::now() >= until || inner.queue.is_shut() {
                return Err(trouble.at(inner.label()));
            }
            tokio::time::sleep(RETRY_WAIT).await;
        }
    }
}

async fn find(link: &Link, id: &CoordinationId) -> Outcome<Option<StoredCoordination>> {
    let found = table::find(link, &[id.as_str()]).await?;
    Ok(found.into_iter().next().map(|found| found.stored))
}

async fn unknown_of(link: &Link, ids: &[CoordinationId]) -> Outcome<Vec<CoordinationId>> {
    let names: Vec<&str> = ids.iter().map(CoordinationId::as_str).collect();
    let sql = "SELECT coordination_id FROM coordination_transactions \
               WHERE coordination_id = ANY($1::text[])";
    let rows = link.ask(sql, &[&names]).await?;
    let known = rows.iter().map(|row| get(row, 0)).collect::<Outcome<Vec<&str>>>()?;
    let unknown = ids.iter().filter(|id| !known.contains(&id.as_str()));
    Ok(unknown.cloned().collect())
}

async fn history(link: &Link, filter: &HistoryFilter) -> Outcome<Vec<StoredCoordination>> {
    let states: Vec<&str> = filter.states.iter().copied().map(TransactionState::as_str).collect();
    let kind = filter.kind.map(CoordinationType::as_str);
    let since = filter.since.map(At);
    let until = filter.until.map(At);
    let limit = i64::try_from(filter.limit).unwrap_or(i64::MAX);
    let is_open = if filter.open { "t.completed_at IS NULL" } else { "true" };
    let of_states =
        if states.is_empty() { "$1::text[] IS NOT NULL" } else { "t.state = ANY($1::text[])" };
    let sql = format!(
        "SELECT {COLUMNS} FROM coordination_transactions t WHERE {of_states} \
         AND ($2::text IS NULL OR t.coordination_type = $2::text) \
         AND ($3::text IS NULL OR $3 = ANY(t.participating_stores)) \
         AND ($4::timestamptz IS NULL OR t.created_at >= $4) \
         AND ($5::timestamptz IS NULL OR t.created_at <= $5) AND {is_open} \
         ORDER BY t.created_at DESC, t.position DESC LIMIT $6"
    );
    let rows = link.ask(&sql, &[&states, &kind, &filter.store, &since, &until, &limit]).await?;
    rows.iter().map(|row| Found::read(row).map(|found| found.stored)).collect()
}

async fn status(link: &Link, inner: &Inner) -> Outcome<JournalStatus> {
    let sql = "SELECT state, count(*) FROM coordination_transactions GROUP BY state";
    let mut states = HashMap::new();
    for row in link.ask(sql, &[]).await? {
        let name: &str = get(&row, 0)?;
        let state = TransactionState::parse(name)
            .ok_or_else(|| Trouble::Row(format!("the state {name:?} is unknown")))?;
        states.insert(state, u64::try_from(get::<i64>(&row, 1)?).unwrap_or(0));
    }
    let instances_alive = alive::census(link, inner).await?.alive;
    let version = link.ask("SELECT current_setting('server_version')", &[]).await?;
    let version: &str = version.first().map_or(Ok("?"), |row| get(row, 0))?;
    Ok(JournalStatus {
        location: format!("PostgreSQL {}", inner.label()),
        engine: format!("PostgreSQL {version}"),
        schema: JOURNAL_SCHEMA_KNOWN,
        states,
        instances_alive,
        space: None,
    })
}

async fn server_facts(link: &Link) -> Outcome<Vec<(String, String)>> {
    let rows = link.ask(SERVER_FACTS, &[]).await?;
    rows.iter().map(|row| Ok((get(row, 0)?, get(row, 1)?))).collect()
}

async fn count(link: &Link, sql: &str, cutoff: At) -> Outcome<u64> {
    let rows = link.ask(sql, &[&cutoff]).await?;
    let count: i64 = rows.first().map_or(Ok(0), |row| get(row, 0))?;
    Ok(u64::try_from(count).unwrap_or(0))
}

async fn remove(link: &Link, cutoff: At, portion: i64) -> Outcome<u64> {
    let rows = link.ask(REMOVE, &[&cutoff, &portion]).await?;
    let count: i64 = rows.first().map_or(Ok(0), |row| get(row, 0))?;
    Ok(u64::try_from(count).unwrap_or(0))
}
