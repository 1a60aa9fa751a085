//! The rules of who may write what: the first begin, the first decision, the highest epoch.
//!
//! Not the writing itself. Invariant: asked under the log's lock, after others' records were taken
//! in, in the order of the appends, with every kept record added to the view before the next one.

use rusqlite::Connection;

use super::queue::Pending;
use super::table;
use super::trouble::Outcome;
use super::view::View;
use crate::journal::{Answer, JournalError};
use crate::model::ids::InstanceId;
use crate::model::record::Record;

/// What is to be done with a record.
pub(super) enum Verdict {
    /// Write it.
    Keep,
    /// It stands already: an earlier try, whose end was not known, had written it.
    Stands,
    /// It is not written.
    Refuse(Answer),
}

/// Judges one record.
pub(super) fn judge(
    connection: &Connection,
    view: &mut View,
    pending: &Pending,
    place: &Place<'_>,
) -> Outcome<Verdict> {
    let id = &pending.append.id;
    if let Record::Begin { owner, epoch, .. } = &pending.append.record {
        if let Some(error) = place.overload {
            return Ok(Verdict::Refuse(Answer::Failed(error.clone())));
        }
        let standing = match view.get(id) {
            Some(standing) => (*standing.stored).clone(),
            None if view.is_newer_than_tables(id) => return Ok(Verdict::Keep),
            None if table::exists(connection, id)? => match table::find(connection, id)? {
                Some(stored) => stored,
                None => return Ok(Verdict::Keep),
            },
            None => return Ok(Verdict::Keep),
        };
        let is_own = pending.retried && standing.owner == *owner && standing.epoch == *epoch;
        return Ok(if is_own {
            Verdict::Stands
        } else {
            Verdict::Refuse(Answer::Exists(Box::new(standing)))
        });
    }
    if view.get(id).is_none()
        && let Some(stored) = table::find(connection, id)?
    {
        view.recall(stored);
    }
    let verdict = judge_later(view, pending, place);
    if !matches!(verdict, Verdict::Keep) {
        view.dismiss(id);
    }
    Ok(verdict)
}

/// Names the journal and this process's hold on it.
pub(super) struct Place<'a> {
    pub(super) path: &'a str,
    pub(super) own: &'a InstanceId,
    /// Why nothing new may begin: too much is ahead of tables that cannot be written.
    pub(super) overload: Option<&'a JournalError>,
}

fn judge_later(view: &View, pending: &Pending, place: &Place<'_>) -> Verdict {
    let append = &pending.append;
    let Some(standing) = view.get(&append.id) else {
        return Verdict::Refuse(Answer::Failed(no_begin(pending, place)));
    };
    let stored = &standing.stored;
    // A try whose end was not known may have stood, and was ours if the owner is still the same.
    let may_stand = pending.retried && stored.owner == *place.own && stored.epoch == append.epoch;
    match &append.record {
        Record::Adopted { epoch, .. } if *epoch <= stored.epoch => Verdict::Refuse(Answer::Deposed),
        Record::Adopted { .. } => Verdict::Keep,
        _ if append.epoch < stored.epoch => Verdict::Refuse(Answer::Deposed),
        Record::Decision { decision, .. } => match stored.decision {
            None => Verdict::Keep,
            Some(standing) if may_stand && standing == *decision => Verdict::Stands,
            Some(standing) => Verdict::Refuse(Answer::Decided(standing)),
        },
        Record::End { .. } if may_stand && standing.is_ended() => Verdict::Stands,
        _ => Verdict::Keep,
    }
}

fn no_begin(pending: &Pending, place: &Place<'_>) -> JournalError {
    let reason = format!(
        "a {} record of '{}' has no begin record before it; its begin was refused or never written",
        pending.append.record.kind(),
        pending.append.id
    );
    JournalError::Unavailable { path: place.path.to_owned(), reason }
}
