//! What the database's functions answer, and what that changes here.
//!
//! Not the functions: they stand in the migrations, with the letters that they answer by.
//! Invariant: an answer may come twice or late, by a question, a notification and a look at the
//! rows; the first one counts.

use std::collections::HashSet;
use std::time::{Instant, SystemTime};

use serde::{Deserialize, Serialize};
use tokio_postgres::Row;

use super::errand::{timestamp, wait_number};
use super::shared::Inner;
use super::wait::{Ending, Stage};
use crate::locks::{Deadlock, LockId, RequesterId, ResourceId};
use crate::model::time::Timestamp;

/// What the row of a deadlock's victim carries.
#[derive(Serialize, Deserialize)]
struct Mark {
    cycle: Vec<RequesterId>,
    resource: ResourceId,
    detected_at: Timestamp,
}

/// The mark of a deadlock.
pub(super) fn mark(deadlock: &Deadlock) -> String {
    let Deadlock { cycle, resource, detected_at, .. } = deadlock;
    let mark = Mark { cycle: cycle.clone(), resource: resource.clone(), detected_at: *detected_at };
    serde_json::to_string(&mark).unwrap_or_default()
}

fn marked(text: &str) -> Option<Deadlock> {
    let Mark { cycle, resource, detected_at } = serde_json::from_str(text).ok()?;
    Some(Deadlock { victim: cycle.first()?.clone(), cycle, resource, detected_at })
}

impl Inner {
    /// Takes answers in. `from` is the session that asked and when; the released locks.
    pub(super) fn apply(&self, rows: &[Row], from: (i64, Option<Instant>)) -> HashSet<LockId> {
        let mut released = HashSet::new();
        let mut out = Vec::new();
        let mut state = self.state();
        for row in rows {
            let (kind, id): (&str, &str) = (row.get(0), row.get(1));
            if kind == "r" {
                released.insert(LockId::from_text(id));
                continue;
            }
            let Some(number) = wait_number(&self.instance, id) else { continue };
            match kind {
                "g" => {
                    let token = u64::try_from(row.get::<_, i64>(2)).unwrap_or(0);
                    let at = timestamp(row.get::<_, SystemTime>(3));
                    // Only an answer to the wish itself says when the grant began at the latest.
                    let is_asked =
                        state.waits.get(&number).is_some_and(|wait| wait.stage == Stage::Sent);
                    let sent = from.1.filter(|_| is_asked);
                    state.granted(number, (token, at), (from.0, sent), &mut out);
                }
                "w" => state.waiting(number, from.0, &mut out),
                "d" => {
                    let mark = row.get::<_, Option<&str>>(4).and_then(marked);
                    state.finish(number, mark.map(Ok), &mut out);
                }
                _ => {
                    let blockers = row.get::<_, Option<&str>>(4).map(str::to_owned);
                    state.finish(number, blockers.map(Err), &mut out);
                }
            }
        }
        drop(state);
        self.carry_out(out);
        released
    }

    /// Takes a notification in: `granted <wait> <token> <microseconds>` or `deadlock <wait>`.
    pub(super) fn hear(&self, session: i64, text: &str) {
        let words: Vec<&str> = text.split(' ').collect();
        let mut out = Vec::new();
        match words[..] {
            ["granted", wait, token, at] => {
                let number = wait_number(&self.instance, wait);
                let (Some(number), Ok(token), Ok(at)) = (number, token.parse(), at.parse()) else {
                    return;
                };
                let grant = (token, Timestamp(at));
                self.state().granted(number, grant, (session, None), &mut out);
            }
            ["deadlock", wait] => {
                let Some(number) = wait_number(&self.instance, wait) else { return };
                self.state().end(number, Ending::Deadlock, Instant::now(), &mut out);
            }
            _ => {}
        }
        self.carry_out(out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_tells_the_whole_deadlock() {
        let names = ["b", "a c", "'"].map(|name| RequesterId::new(name).unwrap());
        let deadlock = Deadlock {
            victim: names[0].clone(),
            cycle: names.to_vec(),
            resource: ResourceId::new("x \"y\"").unwrap(),
            detected_at: Timestamp(7),
        };
        assert_eq!(marked(&mark(&deadlock)), Some(deadlock));
    }
}
