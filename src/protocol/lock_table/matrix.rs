//! What the table really grants beside what, found by asking it: for pages and people.
//!
//! Not the rule (`model/lock.rs`). Invariant: nothing here knows the rule; a table that strayed
//! from it would be printed as it is.

use super::{Ask, LockTable};
use crate::model::ids::IdError;
use crate::model::lock::{LockMode, RequesterId, ResourceId};
use crate::model::time::Timestamp;

/// What one requester holds, and for each mode in the order of [`LockMode::ALL`] whether another
/// requester is granted it beside that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MatrixRow {
    /// What is held together.
    pub held: Vec<LockMode>,
    /// Whether it is granted.
    pub granted: Vec<bool>,
}

/// The matrix as the table has it, with the row of SIX: S and IX held by one requester.
pub fn effective_matrix() -> Result<Vec<MatrixRow>, IdError> {
    use LockMode::{Exclusive, IntentExclusive, IntentShared, Shared};
    let rows: [&[LockMode]; 5] =
        [&[IntentShared], &[IntentExclusive], &[Shared], &[Shared, IntentExclusive], &[Exclusive]];
    rows.into_iter().map(row).collect()
}

fn row(held: &[LockMode]) -> Result<MatrixRow, IdError> {
    let resource = ResourceId::new("resource")?;
    let (holder, other) = (RequesterId::new("holder")?, RequesterId::new("other")?);
    let ask = |requester, mode| Ask {
        resource: &resource,
        mode,
        requester,
        timeout: None,
        lease: None,
        working_since: Timestamp(0),
        is_protected: false,
    };
    let is_granted = |mode: &LockMode| {
        let mut table = LockTable::new(0, 1);
        let mut take =
            |wish: Ask<'_>| table.ask_now(Timestamp(0), &wish, &mut Vec::new()).is_some();
        held.iter().all(|own| take(ask(&holder, *own))) && take(ask(&other, *mode))
    };
    let granted = LockMode::ALL.iter().map(is_granted).collect();
    Ok(MatrixRow { held: held.to_vec(), granted })
}
