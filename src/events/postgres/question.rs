//! Questions that are asked one by one: subscriptions, their ends, parked events.
//!
//! Invariant: a question whose answer was lost is asked again; each may be.

use std::sync::Arc;

use super::link::{Link, Trouble};
use super::shared::{Ask, Asked, Inner};
use super::turn;
use crate::events::check::OWN_GROUP;
use crate::events::member::{Member, Wake};
use crate::events::{BusEvent, EventBusError, ParkedEvent, SubscribeAsk, SubscriptionId};
use crate::model::time::Timestamp;

const JOIN: &str = "SELECT unanimity_bus_join($1, $2, $3)";
const DROP: &str = "SELECT unanimity_bus_drop($1)";
const REDRIVE: &str = "SELECT unanimity_bus_redrive($1, $2)";
const PARKED: &str = "SELECT p.event_id, p.stream, p.kind, p.body, g.name, p.attempts, p.message, \
     (extract(epoch FROM p.parked_at) * 1000000)::bigint \
     FROM bus_parked p JOIN bus_groups g USING (group_id) \
     WHERE NOT p.is_redriven ORDER BY p.parked_at, p.position LIMIT $1";

/// Answers a question, or puts it back when the connection broke.
pub(super) async fn answer(
    inner: &Arc<Inner>,
    link: &Link,
    session: i64,
    asked: Asked,
) -> Result<(), Trouble> {
    let done = match Wanted::of(&asked.ask) {
        Wanted::Joining(ask) => subscribe(inner, link, session, &ask).await.map(Done::Joined),
        Wanted::Leaving(member) => leave(link, session, &member).await.map(|()| Done::Left),
        Wanted::Parked(limit) => parked(link, limit).await.map(Done::Parked),
        Wanted::Redriving(id, group) => redrive(link, &id, &group).await.map(Done::Redriven),
    };
    match done {
        Ok(done) => {
            tell(inner, asked.ask, done);
            Ok(())
        }
        Err(Trouble::Refused(words)) => {
            asked.ask.fail(inner.unavailable(&words));
            Ok(())
        }
        Err(trouble) => {
            inner.put_back_ask(asked);
            Err(trouble)
        }
    }
}

/// A question without its reply, which cannot be looked at by two threads.
enum Wanted {
    Joining(SubscribeAsk),
    Leaving(Arc<Member>),
    Parked(usize),
    Redriving(String, String),
}

impl Wanted {
    fn of(ask: &Ask) -> Self {
        match ask {
            Ask::Subscribe(ask, _) => Self::Joining(ask.clone()),
            Ask::Leave(member, _) => Self::Leaving(member.clone()),
            Ask::Parked(limit, _) => Self::Parked(*limit),
            Ask::Redrive { event_id, group, .. } => {
                Self::Redriving(event_id.clone(), group.clone())
            }
        }
    }
}

enum Done {
    Joined(Arc<Member>),
    Left,
    Parked(Vec<ParkedEvent>),
    Redriven(bool),
}

fn tell(inner: &Arc<Inner>, ask: Ask, done: Done) {
    match (ask, done) {
        (Ask::Subscribe(_, reply), Done::Joined(member)) => {
            let id: SubscriptionId = member.id;
            if inner.add_member(member.clone()) {
                // What waited for its group is claimed now.
                inner.stir();
                return reply.send(Ok(id));
            }
            member.end(|| ());
            reply.send(Err(EventBusError::Closed));
        }
        (Ask::Leave(member, reply), Done::Left) => {
            inner.remove_member(member.id);
            reply.send(Ok(true));
        }
        (Ask::Parked(_, reply), Done::Parked(found)) => reply.send(Ok(found)),
        (Ask::Redrive { reply, .. }, Done::Redriven(found)) => reply.send(Ok(found)),
        // A question without its answer answers by itself that it was lost.
        _ => {}
    }
}

/// Makes a group with its wish; one without a name is the session's own.
pub(super) async fn join(
    link: &Link,
    session: i64,
    name: Option<&str>,
    kind: Option<&str>,
) -> Result<i64, Trouble> {
    let owner = name.is_none().then_some(session);
    let minted = match name {
        Some(name) => name.to_owned(),
        None => format!("{OWN_GROUP}{session}/{}", mint()?),
    };
    let rows = link.ask(JOIN, &[&minted, &owner, &kind]).await?;
    let missing = || Trouble::Broken("it made no group".to_owned());
    Ok(rows.first().ok_or_else(missing)?.get(0))
}

fn mint() -> Result<String, Trouble> {
    let mut bytes = [0_u8; 8];
    getrandom::fill(&mut bytes).map_err(|error| Trouble::Refused(error.to_string()))?;
    Ok(format!("{:016x}", u64::from_be_bytes(bytes)))
}

async fn subscribe(
    inner: &Arc<Inner>,
    link: &Link,
    session: i64,
    ask: &SubscribeAsk,
) -> Result<Arc<Member>, Trouble> {
    let group = join(link, session, ask.group.as_deref(), ask.kind.as_deref()).await?;
    let stirred = Arc::downgrade(inner);
    let wake: Wake = Arc::new(move || {
        if let Some(inner) = stirred.upgrade() {
            inner.stir();
        }
    });
    Ok(Member::begin(inner.next_id(), group, ask, wake, &inner.runtime))
}

/// The last words of a member, then the end of its own group.
async fn leave(link: &Link, session: i64, member: &Arc<Member>) -> Result<(), Trouble> {
    turn::report(link, session, member).await?;
    if member.is_own {
        link.ask(DROP, &[&member.group()]).await?;
    }
    Ok(())
}

async fn redrive(link: &Link, event_id: &str, group: &str) -> Result<bool, Trouble> {
    let rows = link.ask(REDRIVE, &[&event_id, &group]).await?;
    Ok(rows.first().is_some_and(|row| row.get(0)))
}

async fn parked(link: &Link, limit: usize) -> Result<Vec<ParkedEvent>, Trouble> {
    let rows = link.ask(PARKED, &[&i64::try_from(limit).unwrap_or(i64::MAX)]).await?;
    let parked = rows.iter().map(|row| ParkedEvent {
        event: BusEvent {
            id: row.get(0),
            stream: row.get(1),
            kind: row.get(2),
            body: turn::body(row.get(3)),
        },
        group: row.get(4),
        attempts: u32::try_from(row.get::<_, i32>(5)).unwrap_or(0),
        message: row.get(6),
        parked_at: Timestamp(row.get(7)),
    });
    Ok(parked.collect())
}
