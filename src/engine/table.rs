//! The coordinations that this process drives, by slot, by id and by deadline.
//!
//! Plain bookkeeping without any rule. Invariants: a slot key names one coordination for ever (its
//! generation grows when the slot is used again); an id is in the table at most once; a slot has
//! at most one timer.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use crate::model::ids::CoordinationId;
use crate::model::outcome::{Decision, Outcome, OutcomeKind, TransactionState};
use crate::model::record::Durability;
use crate::model::time::Timestamp;
use crate::participants::Attachment;
use crate::protocol::key_order::TurnKey;
use crate::protocol::{Coordination, Effect};

use super::Waiter;
use super::core::Core;
use super::locking::HeldLocks;

/// A slot and its generation; travels as one number through the journal and the stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct SlotKey {
    index: u32,
    generation: u32,
}

impl SlotKey {
    pub(super) fn token(self) -> u64 {
        u64::from(self.index) << 32 | u64::from(self.generation)
    }

    pub(super) fn from_token(token: u64) -> Self {
        let index = u32::try_from(token >> 32).expect("32 bits are left");
        let generation = u32::try_from(token & u64::from(u32::MAX)).expect("32 bits are left");
        Self { index, generation }
    }
}

/// What is held back until the journal has answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Awaited {
    /// How it was asked for.
    pub(super) durability: Durability,
    /// Whether it is the begin: then nothing was asked of anybody yet.
    pub(super) is_begin: bool,
    /// The decision that the record makes, if it makes one.
    pub(super) decision: Option<Decision>,
    /// Its place among the appends of this process.
    pub(super) sequence: u64,
    /// What it is, in a word.
    pub(super) kind: &'static str,
    /// When it was handed over.
    pub(super) at: Timestamp,
}

/// One coordination under way.
pub(super) struct Entry {
    pub(super) machine: Coordination,
    /// Effects behind a record that the journal has not answered yet.
    pub(super) held: VecDeque<Effect>,
    pub(super) awaited: Option<Awaited>,
    /// When the callers are told that the awaited decision is not certain: their time is over.
    pub(super) doubt_at: Option<Timestamp>,
    /// Those who are told the first answer.
    pub(super) waiters: Vec<Waiter>,
    /// Those who are told the end.
    pub(super) finish_waiters: Vec<Waiter>,
    /// Those who are told how it stands once nothing is held back.
    pub(super) settled_waiters: Vec<Waiter>,
    pub(super) attachment: Option<Attachment>,
    /// The global position of the last event that it appended, once the journal has said it.
    pub(super) events_through: Option<u64>,
    pub(super) locks: HeldLocks,
    /// The lines that it stands in, or stood in; most stand in none.
    pub(super) turns: Option<Arc<[TurnKey]>>,
    /// Whether it waits for its turn.
    pub(super) queued: bool,
    /// Whether it takes one of the places of those that run at once.
    pub(super) counted: bool,
    timer: Option<Timestamp>,
}

impl Entry {
    pub(super) fn new(machine: Coordination, attachment: Option<Attachment>) -> Self {
        Self {
            machine,
            held: VecDeque::new(),
            awaited: None,
            doubt_at: None,
            waiters: Vec::new(),
            finish_waiters: Vec::new(),
            settled_waiters: Vec::new(),
            attachment,
            events_through: None,
            locks: HeldLocks::default(),
            turns: None,
            queued: false,
            counted: false,
            timer: None,
        }
    }

    pub(super) fn id(&self) -> &CoordinationId {
        &self.machine.request().id
    }

    /// When time matters to it next.
    pub(super) fn deadline(&self) -> Option<Timestamp> {
        self.machine.deadline().into_iter().chain(self.doubt_at).min()
    }

    /// Whether a decision is made by the machine, and not yet certain in the journal.
    pub(super) fn awaits_decision(&self) -> bool {
        self.awaited.is_some_and(|awaited| awaited.decision.is_some())
    }
}

#[derive(Default)]
struct Slot {
    generation: u32,
    entry: Option<Box<Entry>>,
}

#[derive(Default)]
pub(super) struct Table {
    slots: Vec<Slot>,
    free: Vec<u32>,
    by_id: HashMap<CoordinationId, SlotKey, foldhash::fast::RandomState>,
    timers: BTreeSet<(Timestamp, SlotKey)>,
}

impl Table {
    pub(super) fn insert(&mut self, entry: Entry) -> SlotKey {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            u32::try_from(self.slots.len() - 1).expect("fewer than 2^32 coordinations are open")
        });
        let slot = &mut self.slots[index as usize];
        let key = SlotKey { index, generation: slot.generation };
        self.by_id.insert(entry.id().clone(), key);
        slot.entry = Some(Box::new(entry));
        key
    }

    pub(super) fn get(&mut self, key: SlotKey) -> Option<&mut Entry> {
        let slot = self.slots.get_mut(key.index as usize)?;
        if slot.generation == key.generation { slot.entry.as_deref_mut() } else { None }
    }

    pub(super) fn find(&self, id: &CoordinationId) -> Option<SlotKey> {
        self.by_id.get(id).copied()
    }

    pub(super) fn remove(&mut self, key: SlotKey) -> Option<Box<Entry>> {
        self.get(key)?;
        let slot = &mut self.slots[key.index as usize];
        let entry = slot.entry.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(key.index);
        self.by_id.remove(entry.id());
        if let Some(at) = entry.timer {
            self.timers.remove(&(at, key));
        }
        Some(entry)
    }

    /// Makes sure that the slot's timer fires at `deadline` at the latest. A timer that is set
    /// earlier stays: firing early is cheaper than moving it with every step.
    pub(super) fn set_timer(&mut self, key: SlotKey, deadline: Option<Timestamp>) {
        let Some(deadline) = deadline else { return };
        let Some(entry) = self.get(key) else { return };
        match entry.timer {
            Some(at) if at <= deadline => {}
            earlier => {
                entry.timer = Some(deadline);
                if let Some(at) = earlier {
                    self.timers.remove(&(at, key));
                }
                self.timers.insert((deadline, key));
            }
        }
    }

    /// Takes one slot whose timer has passed.
    pub(super) fn pop_due(&mut self, now: Timestamp) -> Option<SlotKey> {
        let (at, key) = *self.timers.first()?;
        if at > now {
            return None;
        }
        self.timers.pop_first();
        if let Some(entry) = self.get(key) {
            entry.timer = None;
        }
        Some(key)
    }

    pub(super) fn next_timer(&self) -> Option<Timestamp> {
        self.timers.first().map(|(at, _)| *at)
    }

    pub(super) fn ids(&self) -> Vec<CoordinationId> {
        self.by_id.keys().cloned().collect()
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.slots.iter().filter_map(|slot| slot.entry.as_deref())
    }

    pub(super) fn drain(&mut self) -> impl Iterator<Item = Box<Entry>> {
        self.by_id.clear();
        self.timers.clear();
        self.slots.iter_mut().filter_map(|slot| slot.entry.take())
    }
}

impl Entry {
    pub(super) fn tell(&self, core: &Core, waiters: Vec<Waiter>, outcome: &Outcome) {
        let began_at = self.machine.began_at();
        for waiter in waiters {
            let request = self.machine.request();
            waiter.send(Ok(core.result_of(request, outcome.clone(), began_at)));
        }
    }

    /// The journal does not confirm the decision: the caller is told what is known, which is that
    /// nobody knows.
    pub(super) fn answer_in_doubt(&mut self, core: &Core) {
        self.doubt_at = None;
        let waiters = std::mem::take(&mut self.waiters);
        self.tell(core, waiters, &unwritten_outcome());
    }
}

pub(super) fn unwritten_outcome() -> Outcome {
    let message = "in doubt: the journal has not confirmed the decision yet; it goes on being \
                   written, and wait_for() waits for the end";
    Outcome {
        kind: OutcomeKind::Unknown,
        state: TransactionState::Prepared,
        code: Some("journal.unconfirmed".to_owned()),
        message: Some(message.to_owned()),
        operations_completed: 0,
        operations_failed: 0,
    }
}
