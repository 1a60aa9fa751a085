//! Records by name and by number: what makes every step a few look-ups.
//!
//! Not ordered: nobody walks the map, whose order is not the same from run to run. Records are
//! walked by their numbers, which depend on the inputs alone.
//!
//! Invariants: a number stands for one name as long as its record is in use; a record that is no
//! longer in use keeps its memory for the next name, and can be read until a name is added.

use std::borrow::Borrow;
use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::ops::{Index, IndexMut};

use foldhash::quality::RandomState;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// How many unused records are kept when nothing is in use.
const SPARE_MAX: usize = 1_024;

/// The number of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Slot(u32);

/// What a registry keeps.
pub(super) trait Record {
    type Name: Clone + Eq + Hash + Borrow<str>;

    /// An empty record.
    fn new(name: Self::Name) -> Self;

    fn name(&self) -> &Self::Name;

    /// An empty record takes another name.
    fn rename(&mut self, name: Self::Name);

    fn is_empty(&self) -> bool;
}

#[derive(Clone, Debug)]
pub(super) struct Registry<R: Record> {
    /// Each step hashes each name a few times, so by a quick hash; its seed is drawn, because the
    /// names are those of users.
    by_name: HashMap<R::Name, Slot, RandomState>,
    records: Vec<R>,
    spare: Vec<Slot>,
}

impl<R: Record> Registry<R> {
    pub(super) fn new() -> Self {
        Self { by_name: HashMap::default(), records: Vec::new(), spare: Vec::new() }
    }

    pub(super) fn find(&self, name: &str) -> Option<Slot> {
        self.by_name.get(name).copied()
    }

    /// The record of a name, an empty one if there was none.
    pub(super) fn find_or_add(&mut self, name: &R::Name) -> Slot {
        // Here and not when the last one goes: who gave it up may still look at it.
        if self.by_name.is_empty() && self.records.len() > SPARE_MAX {
            *self = Self::new();
        }
        let vacant = match self.by_name.entry(name.clone()) {
            Entry::Occupied(occupied) => return *occupied.get(),
            Entry::Vacant(vacant) => vacant,
        };
        let slot = if let Some(slot) = self.spare.pop() {
            self.records[slot.0 as usize].rename(name.clone());
            slot
        } else {
            let number = u32::try_from(self.records.len());
            self.records.push(R::new(name.clone()));
            Slot(number.expect("memory ends long before four thousand million records"))
        };
        *vacant.insert(slot)
    }

    /// Gives up the record if it is empty.
    pub(super) fn tidy(&mut self, slot: Slot) {
        if !self[slot].is_empty() {
            return;
        }
        let name = self.records[slot.0 as usize].name();
        if self.by_name.get::<R::Name>(name) != Some(&slot) {
            return;
        }
        self.by_name.remove::<R::Name>(name);
        self.spare.push(slot);
    }

    /// The records in use, by their numbers.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Slot, &R)> {
        let numbered = (0..).map(Slot).zip(&self.records);
        numbered.filter(|(_, record)| !record.is_empty())
    }
}

impl<R: Record> Index<Slot> for Registry<R> {
    type Output = R;

    fn index(&self, slot: Slot) -> &R {
        &self.records[slot.0 as usize]
    }
}

impl<R: Record> IndexMut<Slot> for Registry<R> {
    fn index_mut(&mut self, slot: Slot) -> &mut R {
        &mut self.records[slot.0 as usize]
    }
}

/// As it is kept: with its numbers, because the order of effects goes by them.
impl<R: Record + Serialize> Serialize for Registry<R> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (&self.records, &self.spare).serialize(serializer)
    }
}

impl<'de, R: Record + Deserialize<'de>> Deserialize<'de> for Registry<R> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (records, spare): (Vec<R>, Vec<Slot>) = Deserialize::deserialize(deserializer)?;
        let unused: BTreeSet<Slot> = spare.iter().copied().collect();
        let numbered = (0..).map(Slot).zip(&records);
        let used = numbered.filter(|(slot, _)| !unused.contains(slot));
        let by_name = used.map(|(slot, record)| (record.name().clone(), slot)).collect();
        Ok(Self { by_name, records, spare })
    }
}
