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

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> TurnKey {
        TurnKey { store: StoreName::new("s").unwrap(), key: Some(name.to_owned()) }
    }

    /// What must be true, in the simplest words: of all that entered a key and did not leave it,
    /// the one that entered first has its turn.
    #[derive(Clone, Default)]
    struct Oracle(Vec<(usize, u8)>);

    impl Oracle {
        fn turn(&self, key: usize) -> Option<u8> {
            self.0.iter().find(|(entered, _)| *entered == key).map(|(_, ticket)| *ticket)
        }
    }

    fn every_history(
        order: &KeyOrder<u8>,
        oracle: &Oracle,
        keys: &[TurnKey],
        left: usize,
    ) -> usize {
        if left == 0 {
            return 1;
        }
        let mut histories = 0;
        for (at, key) in keys.iter().enumerate() {
            for ticket in 0..3 {
                let (mut order, mut oracle) = (order.clone(), oracle.clone());
                match oracle.0.iter().position(|entry| *entry == (at, ticket)) {
                    None => {
                        oracle.0.push((at, ticket));
                        let has_turn = order.enter(key, ticket);
                        assert_eq!(has_turn, oracle.turn(at) == Some(ticket));
                    }
                    Some(entry) => {
                        let before = oracle.turn(at);
                        oracle.0.remove(entry);
                        let next = order.leave(key, ticket);
                        assert_eq!(next, oracle.turn(at).filter(|_| before == Some(ticket)));
                    }
                }
                let waited_for = (0..keys.len()).filter(|key| oracle.turn(*key).is_some()).count();
                assert_eq!((order.len(), order.is_empty()), (waited_for, waited_for == 0));
                histories += every_history(&order, &oracle, keys, left - 1);
            }
        }
        histories
    }

    #[test]
    fn in_every_history_the_first_that_stands_there_has_its_turn_and_empty_keys_are_forgotten() {
        let keys = [key("k"), key("j")];
        let histories = every_history(&KeyOrder::default(), &Oracle::default(), &keys, 6);
        assert_eq!(histories, 46_656);
    }

    #[test]
    fn who_is_not_there_changes_nothing_by_leaving() {
        let mut order = KeyOrder::default();
        assert_eq!(order.leave(&key("k"), 1), None);
        assert!(order.enter(&key("k"), 1));
        assert!(!order.enter(&key("k"), 2));
        assert_eq!(order.leave(&key("k"), 3), None);
        assert_eq!(order.leave(&key("k"), 2), None, "the turn was another's, and stays so");
        assert_eq!(order.leave(&key("k"), 1), None);
        assert!(order.is_empty());
    }
}
