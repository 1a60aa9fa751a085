//! Whose turn it is on each key: operations of different coordinations on one key go in the order
//! in which the coordinations were accepted.
//!
//! Not a lock (`lock_table`): nobody refuses, upgrades or times out, and a ticket that is parked
//! keeps everybody behind it waiting, because the order is promised. Not a queue of work: only of
//! tickets. Invariants: the first of a queue, and only the first, has its turn; a key that nobody
//! waits for takes no memory.

use std::collections::{BTreeMap, VecDeque};

use crate::model::ids::StoreName;
use crate::model::operation::Operation;

/// What operations are kept in order on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TurnKey {
    /// The store.
    pub store: StoreName,
    /// The operation's `resource` or `key`; those of a store that name none share one order.
    pub key: Option<String>,
}

impl TurnKey {
    /// The key of an operation.
    pub fn of(operation: &Operation) -> Self {
        Self { store: operation.store.clone(), key: operation.resource().map(str::to_owned) }
    }
}

/// The queues of all keys.
#[derive(Clone, Debug)]
pub struct KeyOrder<T> {
    queues: BTreeMap<TurnKey, VecDeque<T>>,
}

impl<T> Default for KeyOrder<T> {
    fn default() -> Self {
        Self { queues: BTreeMap::new() }
    }
}

impl<T: Copy + Eq> KeyOrder<T> {
    /// Puts a ticket at the end of a key's queue; true when it is its turn. One that stands there
    /// may enter again only after it left.
    pub fn enter(&mut self, key: &TurnKey, ticket: T) -> bool {
        let queue = self.queues.entry(key.clone()).or_default();
        queue.push_back(ticket);
        queue.len() == 1
    }

    /// Takes a ticket out of a key's queue; the ticket whose turn it is by that, if it is another's
    /// now. One that is not there changes nothing.
    pub fn leave(&mut self, key: &TurnKey, ticket: T) -> Option<T> {
        let queue = self.queues.get_mut(key)?;
        let at = queue.iter().position(|other| *other == ticket)?;
        queue.remove(at);
        if queue.is_empty() {
            self.queues.remove(key);
            return None;
        }
        if at == 0 { queue.front().copied() } else { None }
    }

    /// How many keys somebody waits for or has the turn of.
    pub fn len(&self) -> usize {
        self.queues.len()
    }

    /// Whether nobody waits for any key.
    pub fn is_empty(&self) -> bool {
        self.queues.is_empty()
    }
}
