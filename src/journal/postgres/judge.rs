//! The rules of who may write what, on what is known here; the server refuses what is not so.
//!
//! Not the writing (writer, batch). Invariants: the first begin, the first decision and the highest
//! epoch stand; a draft says how many records its coordination had before it, so that it is
//! refused as a whole when others have added some.

use std::collections::HashMap;
use std::sync::Arc;

use crate::journal::{Answer, Append, JournalError, StoredCoordination, fold};
use crate::model::ids::{CoordinationId, InstanceId};
use crate::model::record::Record;
use crate::model::request::CoordinationType;
use crate::model::time::Timestamp;

/// A record on its way, over one or more tries.
pub(super) struct Pending {
    pub(super) append: Append,
    /// An earlier try failed, and its end is not known for certain.
    pub(super) retried: bool,
}

/// A coordination as this process knows it.
pub(super) struct Standing {
    pub(super) stored: Arc<StoredCoordination>,
    /// How many records it has.
    pub(super) version: i64,
}

/// What this process knows of coordinations that may get records.
pub(super) type View = HashMap<CoordinationId, Standing, foldhash::fast::RandomState>;

/// A record that is kept while its coordination is open.
pub(super) struct Kept {
    pub(super) version: i64,
    pub(super) epoch: u32,
    pub(super) at: Timestamp,
    pub(super) kind: &'static str,
    pub(super) body: String,
}

/// A coordination with the records that it gets.
pub(super) struct Draft {
    pub(super) stored: StoredCoordination,
    /// How it was before; `None` for one that begins.
    pub(super) before: Option<Arc<StoredCoordination>>,
    /// How many records it had.
    pub(super) known: i64,
    pub(super) version: i64,
    pub(super) begun_by: InstanceId,
    pub(super) begun_epoch: u32,
    /// Without the begin, which is in the row.
    pub(super) records: Vec<Kept>,
}

impl Draft {
    pub(super) fn is_ended(&self) -> bool {
        self.stored.completed_at.is_some()
    }

    fn begin(stored: StoredCoordination) -> Self {
        let (begun_by, begun_epoch) = (stored.owner.clone(), stored.epoch);
        let (known, version, records) = (0, 1, Vec::new());
        Self { stored, before: None, known, version, begun_by, begun_epoch, records }
    }

    fn on(standing: &Standing) -> Self {
        let before = Arc::clone(&standing.stored);
        let version = standing.version;
        let begun = Self::begin((*before).clone());
        Self { before: Some(before), known: version, version, ..begun }
    }

    fn add(&mut self, append: &Append) -> Result<(), serde_json::Error> {
        let body = serde_json::to_string(&append.record)?;
        self.version += 1;
        fold::apply(&mut self.stored, append.at, &append.record);
        let (version, kind) = (self.version, append.record.kind());
        self.records.push(Kept { version, epoch: append.epoch, at: append.at, kind, body });
        Ok(())
    }
}

/// Judges a batch, in its order.
pub(super) struct Judge<'a> {
    pub(super) view: &'a View,
    pub(super) own: &'a InstanceId,
    pub(super) label: &'a str,
    /// What is to be written, in the order in which it was first met.
    pub(super) drafts: Vec<Draft>,
    by_id: HashMap<CoordinationId, usize, foldhash::fast::RandomState>,
}

impl<'a> Judge<'a> {
    pub(super) fn new(view: &'a View, own: &'a InstanceId, label: &'a str) -> Self {
        Self { view, own, label, drafts: Vec::new(), by_id: HashMap::default() }
    }

    /// Judges one record, and takes it into a draft if it may stand.
    pub(super) fn judge(&mut self, pending: &Pending) -> Answer {
        let append = &pending.append;
        match &append.record {
            Record::Begin { .. } => self.judge_begin(pending),
            _ => match self.judge_later(pending) {
                Some(answer) => answer,
                None => self.add(append),
            },
        }
    }

    fn standing(&self, id: &CoordinationId) -> Option<&StoredCoordination> {
        match self.by_id.get(id) {
            Some(index) => Some(&self.drafts[*index].stored),
            None => self.view.get(id).map(|standing| &*standing.stored),
        }
    }

    fn judge_begin(&mut self, pending: &Pending) -> Answer {
        let append = &pending.append;
        let Record::Begin { request, owner, epoch, .. } = &append.record else {
            return self.failed("it is no begin".to_owned());
        };
        if let Some(standing) = self.standing(&append.id) {
            let is_own = standing.owner == *owner && standing.epoch == *epoch;
            return if pending.retried && is_own {
                Answer::Recorded
            } else {
                Answer::Exists(Box::new(standing.clone()))
            };
        }
        if request.kind == CoordinationType::EventSourcing {
            return self.failed(
                "it keeps no streams of events yet; use a journal in a file for them".to_owned(),
            );
        }
        if let Some(stored) = fold::begun(append.at, &append.record) {
            self.by_id.insert(append.id.clone(), self.drafts.len());
            self.drafts.push(Draft::begin(stored));
        }
        Answer::Recorded
    }

    /// The answer to a later record that is not to be written; `None` for one that is.
    fn judge_later(&self, pending: &Pending) -> Option<Answer> {
        let append = &pending.append;
        let Some(stored) = self.standing(&append.id) else {
            let (kind, id) = (append.record.kind(), &append.id);
            return Some(self.failed(format!(
                "a {kind} record of '{id}' has no begin record before it; its begin was refused \
                 or never written"
            )));
        };
        // A try whose end was not known may have stood, and was ours if the owner is the same.
        let may_stand =
            pending.retried && stored.owner == *self.own && stored.epoch == append.epoch;
        match &append.record {
            Record::Adopted { owner, epoch } if *epoch <= stored.epoch => {
                let is_this = pending.retried && stored.owner == *owner && stored.epoch == *epoch;
                Some(if is_this { Answer::Recorded } else { Answer::Deposed })
            }
            Record::Adopted { .. } => None,
            _ if append.epoch < stored.epoch => Some(Answer::Deposed),
            Record::Decision { decision, .. } => match stored.decision {
                None => None,
                Some(standing) if may_stand && standing == *decision => Some(Answer::Recorded),
                Some(standing) => Some(Answer::Decided(standing)),
            },
            Record::End { .. } if may_stand && stored.completed_at.is_some() => {
                Some(Answer::Recorded)
            }
            _ => None,
        }
    }

    fn add(&mut self, append: &Append) -> Answer {
        let index = match self.by_id.get(&append.id) {
            Some(index) => *index,
            None => {
                let Some(standing) = self.view.get(&append.id) else {
                    return self.failed(format!("'{}' is not known", append.id));
                };
                self.by_id.insert(append.id.clone(), self.drafts.len());
                self.drafts.push(Draft::on(standing));
                self.drafts.len() - 1
            }
        };
        match self.drafts[index].add(append) {
            Ok(()) => Answer::Recorded,
            Err(error) => self.failed(format!("the record cannot be written: {error}")),
        }
    }

    fn failed(&self, reason: String) -> Answer {
        Answer::Failed(JournalError::Unavailable { path: self.label.to_owned(), reason })
    }
}
