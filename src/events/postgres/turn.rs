//! One turn: what all members report and how much they have room for, as the arrays of one
//! statement, and the lines that it answers with.
//!
//! Invariant: reports of a turn that was not answered go back to their members.

use std::collections::HashMap;
use std::sync::Arc;

use tokio_postgres::types::ToSql;
use tokio_postgres::{Row, Statement};

use super::link::{Link, Trouble};
use super::shared::Inner;
use crate::events::BusEvent;
use crate::events::claims::{Item, Portion, Report};
use crate::events::member::Member;
use crate::model::value::Value;

pub(super) const TURN: &str = "SELECT * FROM unanimity_bus_turn($1, $2, $3, $4, $5, $6, $7, $8, \
     $9, $10, $11, $12, $13, $14, $15)";

type Reported = Vec<(Arc<Member>, Vec<Report>)>;

#[derive(Default)]
struct Reports<'a> {
    groups: Vec<i64>,
    streams: Vec<&'a str>,
    handled: Vec<i64>,
    are_last: Vec<bool>,
    redriven_groups: Vec<i64>,
    redriven: Vec<&'a str>,
    park_groups: Vec<i64>,
    parks: Vec<&'a str>,
    park_attempts: Vec<i32>,
    park_messages: Vec<String>,
}

impl<'a> Reports<'a> {
    fn of(reported: &'a Reported) -> Self {
        let mut columns = Self::default();
        for (member, reports) in reported {
            for report in reports {
                columns.add(member.group(), report);
            }
        }
        columns
    }

    fn add(&mut self, group: i64, report: &'a Report) {
        self.groups.push(group);
        self.streams.push(&report.stream);
        self.handled.push(report.handled.unwrap_or(0));
        self.are_last.push(report.is_last);
        for id in &report.redriven {
            self.redriven_groups.push(group);
            self.redriven.push(id);
        }
        for park in &report.parked {
            self.park_groups.push(group);
            self.parks.push(&park.event_id);
            self.park_attempts.push(i32::try_from(park.attempts).unwrap_or(i32::MAX));
            // PostgreSQL's text cannot hold it.
            self.park_messages.push(park.message.replace('\0', "\u{fffd}"));
        }
    }
}

#[derive(Default)]
struct Wishes<'a> {
    members: Vec<&'a Arc<Member>>,
    groups: Vec<i64>,
    kinds: Vec<Option<&'a str>>,
    lines: Vec<i32>,
    portions: Vec<i32>,
}

impl<'a> Wishes<'a> {
    fn of(reported: &'a Reported) -> Self {
        let number = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
        let mut wishes = Self::default();
        for (member, _) in reported {
            let claims = member.claims();
            if claims.room() > 0 {
                wishes.members.push(member);
                wishes.groups.push(member.group());
                wishes.kinds.push(member.kind.as_deref());
                wishes.lines.push(number(claims.room()));
                wishes.portions.push(number(claims.portion()));
            }
        }
        wishes
    }
}

/// Takes a turn for all members.
pub(super) async fn take(
    inner: &Arc<Inner>,
    link: &Link,
    statement: &Statement,
    session: i64,
) -> Result<(), Trouble> {
    let reported: Reported = inner.members().into_iter().map(with_reports).collect();
    let rows = {
        let (reports, wishes) = (Reports::of(&reported), Wishes::of(&reported));
        if reports.groups.is_empty() && wishes.groups.is_empty() {
            return Ok(());
        }
        let answer = send(link, statement, session, &reports, &wishes).await;
        answer.map(|rows| claimed(&rows, &wishes.members))
    };
    match rows {
        Ok(claimed) => {
            for (member, portions) in claimed {
                member.hand_over(portions);
            }
            Ok(())
        }
        Err(trouble) => {
            put_back(reported);
            Err(trouble)
        }
    }
}

/// Writes what one member reports, and claims nothing.
pub(super) async fn report(link: &Link, session: i64, member: &Arc<Member>) -> Result<(), Trouble> {
    let reported = vec![with_reports(member.clone())];
    let answer = {
        let reports = Reports::of(&reported);
        send(link, TURN, session, &reports, &Wishes::default()).await
    };
    if answer.is_err() {
        put_back(reported);
    }
    answer.map(|_| ())
}

fn put_back(reported: Reported) {
    for (member, reports) in reported {
        member.claims().put_back(reports);
    }
}

async fn send<Q>(
    link: &Link,
    question: &Q,
    session: i64,
    r: &Reports<'_>,
    wishes: &Wishes<'_>,
) -> Result<Vec<Row>, Trouble>
where
    Q: ?Sized + tokio_postgres::ToStatement,
{
    let parameters: [&(dyn ToSql + Sync); 15] = [
        &session,
        &r.groups,
        &r.streams,
        &r.handled,
        &r.are_last,
        &r.redriven_groups,
        &r.redriven,
        &r.park_groups,
        &r.parks,
        &r.park_attempts,
        &r.park_messages,
        &wishes.groups,
        &wishes.kinds,
        &wishes.lines,
        &wishes.portions,
    ];
    link.ask(question, &parameters).await
}

fn with_reports(member: Arc<Member>) -> (Arc<Member>, Vec<Report>) {
    let reports = member.claims().reports();
    (member, reports)
}

/// The lines of each member, in the order in which they came; an event that is not of the member's
/// type ends a line.
fn claimed(rows: &[Row], members: &[&Arc<Member>]) -> Vec<(Arc<Member>, Vec<Portion>)> {
    let mut all: HashMap<usize, Vec<Portion>> = HashMap::new();
    let mut is_cut = false;
    for row in rows {
        let Some(place) = usize::try_from(row.get::<_, i32>(0) - 1).ok() else { continue };
        let Some(member) = members.get(place) else { continue };
        let (stream, portions): (&str, _) = (row.get(1), all.entry(place).or_default());
        if portions.last().is_none_or(|portion| portion.stream != stream) {
            let deaths = u32::try_from(row.get::<_, i32>(7)).unwrap_or(0);
            portions.push(Portion { stream: stream.to_owned(), deaths, items: Vec::new() });
            is_cut = false;
        }
        let (Some(portion), Some(item)) = (portions.last_mut(), item(row)) else { continue };
        is_cut |= member.kind.as_ref().is_some_and(|kind| *kind != item.event.kind);
        if !is_cut {
            portion.items.push(item);
        }
    }
    all.into_iter().map(|(place, portions)| (members[place].clone(), portions)).collect()
}

fn item(row: &Row) -> Option<Item> {
    let position = row.get::<_, Option<i64>>(2)?;
    let (id, stream, kind) = (row.get(3), row.get(1), row.get(4));
    let event = Arc::new(BusEvent { id, stream, kind, body: body(row.get(5)) });
    Some(Item { position, is_redriven: row.get(6), event })
}

/// What somebody else wrote there is handed over as it is: its handler refuses it, it is parked.
pub(super) fn body(text: &str) -> Value {
    Value::from_json(text).unwrap_or_else(|_| text.into())
}
