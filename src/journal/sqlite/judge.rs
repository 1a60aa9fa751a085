//! The rules of who may write what: the first begin, the first decision, the highest epoch,
//! and the versions that appended events expect.
//!
//! Not the writing itself. Invariant: asked under the log's lock, after others' records were taken
//! in, in the order of the appends, with every kept record added to the view before the next one.

use rusqlite::Connection;

use super::queue::Pending;
use super::streams::{self, Placement};
use super::table;
use super::trouble::{Outcome, Trouble};
use super::view::View;
use crate::journal::{Answer, JournalError, StoredCoordination};
use crate::model::ids::{CoordinationId, InstanceId};
use crate::model::record::Record;

/// What is to be done with a record.
pub(super) enum Verdict {
    /// Write it. If it appends events, they get these versions.
    Keep(Option<Vec<u64>>),
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
        return match standing_begin(connection, view, id)? {
            None => judge_events(connection, view, pending, place),
            Some(standing)
                if pending.retried && standing.owner == *owner && standing.epoch == *epoch =>
            {
                Ok(Verdict::Stands)
            }
            Some(standing) => Ok(Verdict::Refuse(Answer::Exists(Box::new(standing)))),
        };
    }
    if view.get(id).is_none()
        && let Some(stored) = table::find(connection, id)?
    {
        view.recall(stored);
    }
    let verdict = judge_later(view, pending, place);
    if !matches!(verdict, Verdict::Keep(_)) {
        view.dismiss(id);
    }
    Ok(verdict)
}

/// The coordination of this id, if there is one.
fn standing_begin(
    connection: &Connection,
    view: &View,
    id: &CoordinationId,
) -> Outcome<Option<StoredCoordination>> {
    match view.get(id) {
        Some(standing) => Ok(Some((*standing.stored).clone())),
        None if view.is_newer_than_tables(id) || !table::exists(connection, id)? => Ok(None),
        None => table::find(connection, id),
    }
}

/// Whether a new begin may stand: one that appends events must find the versions that it expects.
fn judge_events(
    connection: &Connection,
    view: &View,
    pending: &Pending,
    place: &Place<'_>,
) -> Outcome<Verdict> {
    let Record::Begin { request, .. } = &pending.append.record else {
        return Ok(Verdict::Keep(None));
    };
    if !streams::appends(request) {
        return Ok(Verdict::Keep(None));
    }
    let fit = match view.streams().fit(connection, view.tail() + 1, request) {
        // A request that is no good is refused alone; those beside it in the batch go on.
        Err(trouble @ Trouble::Row(_)) => {
            return Ok(Verdict::Refuse(Answer::Failed(trouble.at(place.path))));
        }
        fit => fit?,
    };
    Ok(match fit {
        Placement::Fits(versions) => Verdict::Keep(Some(versions)),
        Placement::Mismatch { stream, expected, actual } => {
            Verdict::Refuse(Answer::VersionMismatch { stream, expected, actual })
        }
    })
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
        Record::Adopted { .. } => Verdict::Keep(None),
        _ if append.epoch < stored.epoch => Verdict::Refuse(Answer::Deposed),
        Record::Decision { decision, .. } => match stored.decision {
            None => Verdict::Keep(None),
            Some(standing) if may_stand && standing == *decision => Verdict::Stands,
            Some(standing) => Verdict::Refuse(Answer::Decided(standing)),
        },
        Record::End { .. } if may_stand && standing.is_ended() => Verdict::Stands,
        _ => Verdict::Keep(None),
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
