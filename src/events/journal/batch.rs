//! What one transaction does: events, questions, reports of members, then their new claims.
//!
//! Not the commit. Invariant: a batch that failed gives every report back and answers everybody.

use std::sync::Arc;

use rusqlite::Connection;

use super::queue::Ask;
use super::store::{self, Claim, Publication};
use super::upkeep;
use crate::events::claims::{Portion, Report};
use crate::events::member::Member;
use crate::events::{BusEvent, EventBusError, ParkedEvent};
use crate::model::time::Timestamp;
use crate::reply::Reply;

type Publish = (BusEvent, Reply<Result<(), EventBusError>>);

/// A transaction's work.
pub(super) struct Batch {
    pub(super) publishes: Vec<Publish>,
    pub(super) asks: Vec<Ask>,
    members: Vec<(Arc<Member>, Vec<Report>)>,
    /// Processes whose lines and groups are free.
    pub(super) dead: Vec<String>,
    at: Timestamp,
}

/// What it brought about.
pub(super) struct Written {
    /// As the questions, in their order.
    pub(super) dones: Vec<Done>,
    pub(super) claims: Vec<(Arc<Member>, Vec<Portion>)>,
    pub(super) published: i64,
}

/// The answer to a question.
pub(super) enum Done {
    Joined(i64),
    Left,
    Parked(Vec<ParkedEvent>),
    Redriven(bool),
}

impl Batch {
    /// Takes the reports of all members.
    pub(super) fn new(
        publishes: Vec<Publish>,
        asks: Vec<Ask>,
        members: Vec<Arc<Member>>,
        at: Timestamp,
    ) -> Self {
        let reported = |member: Arc<Member>| {
            let reports = member.claims().reports();
            (member, reports)
        };
        let members = members.into_iter().map(reported).collect();
        Self { publishes, asks, members, dead: Vec::new(), at }
    }

    /// Whether there is anything to write.
    pub(super) fn has_something(&self, connection: &Connection) -> rusqlite::Result<bool> {
        if !self.publishes.is_empty() || !self.asks.is_empty() || !self.dead.is_empty() {
            return Ok(true);
        }
        for (member, reports) in &self.members {
            let is_free =
                || store::has_free_line(connection, member.group(), member.kind.as_deref());
            if !reports.is_empty() || member.claims().room() > 0 && is_free()? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether somebody is told that something is on the disk.
    pub(super) fn is_promised(&self) -> bool {
        let promises = |ask: &Ask| !matches!(ask, Ask::Parked(..));
        let parks = |(_, reports): &(Arc<Member>, Vec<Report>)| {
            reports.iter().any(|report| !report.parked.is_empty())
        };
        !self.publishes.is_empty()
            || self.asks.iter().any(promises)
            || self.members.iter().any(parks)
    }

    /// Whether a member holds this line, or tells its last of it here.
    pub(super) fn holds(&self, group: i64, stream: &str) -> bool {
        self.members.iter().filter(|(member, _)| member.group() == group).any(
            |(member, reports)| {
                member.claims().has(stream) || reports.iter().any(|report| report.stream == stream)
            },
        )
    }

    /// Writes it all.
    pub(super) fn write(&self, connection: &Connection, owner: &str) -> rusqlite::Result<Written> {
        let mut publication = Publication::begin(connection, self.at)?;
        for (event, _) in &self.publishes {
            publication.add(event)?;
        }
        let published = publication.end()?;
        for dead in &self.dead {
            upkeep::take_over(connection, dead)?;
        }
        for (member, reports) in &self.members {
            for report in reports {
                store::settle(connection, member.group(), owner, report)?;
            }
        }
        let mut dones = Vec::with_capacity(self.asks.len());
        for (place, ask) in self.asks.iter().enumerate() {
            dones.push(self.done(connection, owner, place, ask)?);
        }
        let mut claims = Vec::new();
        for (member, _) in &self.members {
            let (lines, portion) = {
                let claims = member.claims();
                (claims.room(), claims.portion())
            };
            if lines > 0 {
                let (group, kind) = (member.group(), member.kind.as_deref());
                let wish = Claim { group, kind, owner, lines, portion };
                let portions = store::claim(connection, &wish)?;
                if !portions.is_empty() {
                    claims.push((member.clone(), portions));
                }
            }
        }
        Ok(Written { dones, claims, published })
    }

    fn done(
        &self,
        connection: &Connection,
        owner: &str,
        place: usize,
        ask: &Ask,
    ) -> rusqlite::Result<Done> {
        Ok(match ask {
            Ask::Subscribe(ask, _) => {
                let kind = ask.kind.as_deref();
                Done::Joined(match &ask.group {
                    Some(name) => store::join_group(connection, name, None, kind)?,
                    None => {
                        let name = format!("{}{owner}/{}/{place}", super::OWN_GROUP, self.at.0);
                        store::join_group(connection, &name, Some(owner), kind)?
                    }
                })
            }
            Ask::Leave(member, _) => {
                if member.is_own {
                    store::drop_group(connection, member.group())?;
                }
                Done::Left
            }
            Ask::Parked(limit, _) => Done::Parked(store::parked(connection, *limit)?),
            Ask::Redrive { event_id, group, .. } => {
                Done::Redriven(store::redrive(connection, event_id, group)?)
            }
        })
    }

    /// Nothing of it was written.
    pub(super) fn fail(self, error: &EventBusError) {
        for (member, reports) in self.members {
            member.claims().put_back(reports);
        }
        for (_, reply) in self.publishes {
            reply.send(Err(error.clone()));
        }
        for ask in self.asks {
            ask.fail(error.clone());
        }
    }
}
