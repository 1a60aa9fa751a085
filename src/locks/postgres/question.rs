//! Questions that travel alone: renewals, all locks of a requester, who holds and who waits.
//!
//! Not wishes. Invariant: what is read is one snapshot of both tables, so a circle that is seen in
//! it was one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use tokio_postgres::Row;

use super::errand::{Question, QuestionKind, micros, timestamp};
use super::link::{Link, Trouble};
use super::shared::Inner;
use crate::locks::{LockId, LockInfo, LockMode, RequesterId, ResourceId};
use crate::protocol::claim::Claim;
use crate::protocol::deadlock::WaitGraph;

const RENEW: &str = "UPDATE distributed_locks SET renewed_at = clock_timestamp(), \
     expires_at = clock_timestamp() + $2::bigint * interval '1 microsecond' \
     WHERE lock_id = $1 AND expires_at > clock_timestamp()";

const RELEASE_ALL: &str = "SELECT * FROM unanimity_lock_release_all($1, $2)";

/// Holders first, then upgrades, then the others, each in their order: the order of the rules.
const CLAIMS: &str = "\
     SELECT c.resource_id, c.lock_type, c.requester, c.token, c.since, \
        nullif(c.until, 'infinity') AS until, c.working_since, c.is_protected FROM ( \
        SELECT d.resource_id, d.lock_type, d.holder_id AS requester, d.fencing_token AS token, \
            d.acquired_at AS since, d.expires_at AS until, d.working_since, d.is_protected, \
            0 AS part, d.fencing_token AS place \
        FROM distributed_locks d WHERE d.expires_at > clock_timestamp() \
        UNION ALL SELECT q.resource_id, q.lock_type, q.requester_id, NULL, q.requested_at, \
            q.timeout_at, q.working_since, q.is_protected, \
            CASE WHEN EXISTS (SELECT FROM distributed_locks o WHERE \
                o.resource_id = q.resource_id AND o.holder_id = q.requester_id) \
            THEN 1 ELSE 2 END, q.position_in_queue \
        FROM lock_wait_queue q WHERE q.deadlock IS NULL \
     ) AS c WHERE ";

const ORDER: &str = " ORDER BY c.resource_id, c.part, c.place";

/// A claim with what people want to know of it.
struct Told {
    info: LockInfo,
    claim: Claim,
}

/// Answers a question, or gives it back.
pub(super) async fn answer(
    inner: &Arc<Inner>,
    link: &Link,
    session: i64,
    question: Question,
) -> Result<(), (Trouble, Question)> {
    let sent = Instant::now();
    let rows = match &question.kind {
        QuestionKind::ReleaseAll(requester, _) => {
            link.ask(RELEASE_ALL, &[&session, &requester.as_str()]).await
        }
        QuestionKind::Renew(lock_id, lease, _) => {
            let text = format!("{RENEW} RETURNING lock_id");
            link.ask(&text, &[&lock_id.as_str(), &micros(*lease)]).await
        }
        QuestionKind::Status(resource, _) => {
            let resource = resource.as_ref().map(ResourceId::as_str);
            let text = format!("{CLAIMS} ($1::text IS NULL OR c.resource_id = $1) {ORDER}");
            link.ask(&text, &[&resource]).await
        }
        QuestionKind::Graph(_) => waited_claims(link).await,
    };
    let rows = match rows {
        Ok(rows) => rows,
        Err(trouble) => return Err((trouble, question)),
    };
    match question.kind {
        QuestionKind::ReleaseAll(_, reply) => {
            let released = inner.apply(&rows, (session, None));
            for lock_id in &released {
                inner.state().let_go(lock_id);
            }
            reply.send(Ok(released.len()));
        }
        QuestionKind::Renew(lock_id, lease, reply) => {
            let is_held = !rows.is_empty();
            if is_held {
                let mut out = Vec::new();
                inner.state().renewed(&lock_id, sent, lease, &mut out);
                inner.carry_out(out);
            }
            reply.send(Ok(is_held));
        }
        QuestionKind::Status(_, reply) => {
            let told = rows.iter().filter_map(told).map(|told| told.info);
            reply.send(Ok(with_positions(told.collect())));
        }
        QuestionKind::Graph(reply) => reply.send(Ok(graph(&rows).edges())),
    }
    Ok(())
}

/// The claims on all resources for which somebody waits.
pub(super) async fn waited_claims(link: &Link) -> Result<Vec<Row>, Trouble> {
    let waited = "c.resource_id IN (SELECT w.resource_id FROM lock_wait_queue w)";
    link.ask(&format!("{CLAIMS} {waited} {ORDER}"), &[]).await
}

/// Who waits for whom, from such rows.
pub(super) fn graph(rows: &[Row]) -> WaitGraph {
    let mut queues: BTreeMap<ResourceId, Vec<Claim>> = BTreeMap::new();
    for told in rows.iter().filter_map(told) {
        queues.entry(told.info.resource).or_default().push(told.claim);
    }
    let mut graph = WaitGraph::default();
    for (resource, claims) in &queues {
        graph.add_resource(resource, claims);
    }
    graph
}

/// A row that another program wrote may be none of ours, and is left out.
fn told(row: &Row) -> Option<Told> {
    let resource = ResourceId::new(row.get(0)).ok()?;
    let mode = LockMode::parse(row.get(1))?;
    let requester = RequesterId::new(row.get(2)).ok()?;
    let token = row.get::<_, Option<i64>>(3).and_then(|token| u64::try_from(token).ok());
    let claim = Claim {
        requester: requester.clone(),
        mode,
        working_since: timestamp(row.get(6)),
        is_protected: row.get(7),
    };
    let info = LockInfo {
        lock_id: token.map(|token| LockId::new(&resource, mode, token)),
        resource,
        mode,
        requester,
        position: 0,
        since: timestamp(row.get(4)),
        expires_at: row.get::<_, Option<SystemTime>>(5).map(timestamp),
        fencing_token: token,
    };
    Some(Told { info, claim })
}

fn with_positions(mut infos: Vec<LockInfo>) -> Vec<LockInfo> {
    let mut position = 0;
    for index in 0..infos.len() {
        let is_same = index > 0
            && infos[index].resource == infos[index - 1].resource
            && infos[index].lock_id.is_some() == infos[index - 1].lock_id.is_some();
        position = if is_same { position + 1 } else { 0 };
        infos[index].position = position;
    }
    infos
}
