//! Sees every entry on every node, and checks what the cluster promises of its state.
//!
//! Not what processes were told (`witness`) and not the end of a run (`ending`). Invariants that
//! are checked here, with each entry:
//! - An entry that was carried out is the same on every node, for ever, and means the same.
//! - The first decision on an id stands.
//! - Holders of one resource go together; a token is given once; who asks for what conflicts with
//!   nothing is granted it.
//! - A record under an epoch that was taken over is not kept.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use super::planted::Bug;
use super::witness::Shared;
use crate::consensus::raft::simulated::{Auditor, Came};
use crate::model::ids::InstanceId;
use crate::model::lock::{Grant, LockId, LockInfo, LockMode, RequesterId, ResourceId, WaitId};
use crate::model::record::Record;
use crate::model::time::Timestamp;
use crate::protocol::replica::{Answer, Answered, Command, Effect, Entry, Position, Replica};

type Wanted = Vec<(ResourceId, LockMode)>;

#[derive(Default)]
struct Known {
    /// What an entry was, whose sessions ended by it, and what else came of it.
    entries: BTreeMap<u64, (u64, Vec<InstanceId>, u64)>,
    /// The entry as it was before a mistake was planted.
    original: Option<Entry>,
    /// When each node carried out its last entry, by its wall clock.
    walls: BTreeMap<InstanceId, Timestamp>,
    tokens: BTreeSet<(ResourceId, u64)>,
    /// How each lock was asked for.
    granted: BTreeMap<LockId, LockMode>,
    waits: BTreeMap<(InstanceId, WaitId), Wanted>,
}

/// The auditor.
pub(super) struct Audit {
    witness: Shared,
    bug: Option<Bug>,
    known: RefCell<Known>,
}

fn hash(of: &impl std::fmt::Debug) -> u64 {
    let mut hasher = DefaultHasher::new();
    // By what it means, not by when.
    for (at, part) in format!("{of:?}").split("Timestamp(").enumerate() {
        let part = if at == 0 { part } else { part.split_once(')').map_or("", |(_, rest)| rest) };
        part.hash(&mut hasher);
    }
    hasher.finish()
}

/// Whose sessions end.
fn ended(effects: &[Effect]) -> Vec<InstanceId> {
    let whose = |effect: &Effect| match effect {
        Effect::SessionEnded { instance } => Some(instance.clone()),
        _ => None,
    };
    effects.iter().filter_map(whose).collect()
}

impl Audit {
    pub(super) fn new(witness: Shared, bug: Option<Bug>) -> Self {
        Self { witness, bug, known: RefCell::default() }
    }

    /// Whether an entry says that this lock was granted.
    pub(super) fn was_granted(&self, lock_id: &LockId) -> bool {
        self.known.borrow().granted.contains_key(lock_id)
    }

    fn check_sameness(&self, who: &InstanceId, entry: &Entry, came: &Came<'_>) -> bool {
        let Position { term, index } = came.position;
        let ended = ended(came.effects);
        let now = (hash(&(term, entry)), ended, hash(&(&came.answered, &came.effects)));
        let mut known = self.known.borrow_mut();
        match known.entries.get(&index) {
            None => {
                known.entries.insert(index, now);
                return true;
            }
            Some(before) if before.0 != now.0 => {
                self.witness.fail(format!("the entry {index} is another one now, on {who}"));
            }
            Some(before) if before.1 != now.1 => {
                let (one, two) = (&before.1, &now.1);
                let words = format!("sessions do not end alike in {index}: on {who} {two:?}");
                self.witness.fail(format!("{words}, elsewhere {one:?}"));
            }
            Some(before) if before.2 != now.2 => {
                self.witness.fail(format!("the entry {index} means something else on {who}"));
            }
            Some(_) => {}
        }
        false
    }

    fn check_decisions(&self, entry: &Entry, replica: &Replica) {
        let commands = entry.proposals.iter().flat_map(|proposal| &proposal.commands);
        for command in commands {
            let (Command::Decide { id, .. } | Command::Append { id, .. }) = command else {
                continue;
            };
            let Some(standing) = replica.decision(id) else { continue };
            let decided = (standing.decision, standing.index);
            let mut witness = self.witness.lock();
            let first = *witness.decisions.entry(id.clone()).or_insert(decided);
            if first.0 != decided.0 {
                witness.fail(format!("a decision was overwritten: {id}, first {first:?}"));
            }
        }
    }

    fn check_owners(&self, entry: &Entry, came: &Came<'_>) {
        let is_adoption = |command: &Command| matches!(command, Command::Adopt { .. });
        if entry.proposals.iter().flat_map(|it| &it.commands).any(is_adoption) {
            return;
        }
        for (proposal, answered) in entry.proposals.iter().zip(&came.answered) {
            let answers = answered.answers.iter().flatten();
            for (command, answer) in proposal.commands.iter().zip(answers) {
                let Command::Append { id, record, .. } = command else { continue };
                let is_kept =
                    matches!(answer, Answer::Recorded) && !matches!(record, Record::Begin { .. });
                let owner = came.replica.coordination(id).map(|it| &it.owner);
                if is_kept && owner != Some(&proposal.instance) {
                    let (who, kind) = (&proposal.instance, record.kind());
                    self.witness.fail(format!(
                        "a deposed owner wrote: {who} the {kind} of {id}, which is {owner:?}'s"
                    ));
                }
            }
        }
    }

    /// Who holds one resource goes together.
    fn check_holders(&self, replica: &Replica) {
        let status = replica.lock_table().status(None);
        let holders: Vec<_> = status.iter().filter(|info| info.lock_id.is_some()).collect();
        for (at, one) in holders.iter().enumerate() {
            let is_apart = |other: &&&LockInfo| {
                other.resource == one.resource
                    && other.requester != one.requester
                    && !other.mode.is_compatible_with(one.mode)
            };
            if let Some(other) = holders[at + 1..].iter().find(is_apart) {
                self.witness.fail(format!("locks do not exclude: {one:?} and {other:?}"));
            }
        }
    }

    fn took(&self, wanted: &Wanted, grants: &[Grant]) {
        let mut known = self.known.borrow_mut();
        for ((_, mode), grant) in wanted.iter().zip(grants) {
            if known.granted.insert(grant.lock_id.clone(), *mode).is_some() {
                // Held by the requester before; it is given again as it was.
                continue;
            }
            if !known.tokens.insert((grant.resource.clone(), grant.fencing_token)) {
                let (resource, token) = (&grant.resource, grant.fencing_token);
                self.witness.fail(format!("a token was given twice: {token} of {resource}"));
            }
        }
    }

    fn learn(&self, entry: &Entry, came: &Came<'_>) {
        for (proposal, answered) in entry.proposals.iter().zip(&came.answered) {
            let answers = answered.answers.iter().flatten();
            for (command, answer) in proposal.commands.iter().zip(answers) {
                let Command::Acquire { wait, wanted, requester, .. } = command else { continue };
                match answer {
                    Answer::Granted(grants) => self.took(wanted, grants),
                    Answer::Waits => {
                        let key = (proposal.instance.clone(), *wait);
                        self.known.borrow_mut().waits.insert(key, wanted.clone());
                        self.check_wait(entry, requester, wanted, came);
                        self.witness.count("waits");
                    }
                    _ => {}
                }
            }
        }
        for effect in came.effects.iter() {
            match effect {
                Effect::Granted { instance, wait, grants } => {
                    let wanted = self.known.borrow_mut().waits.remove(&(instance.clone(), *wait));
                    self.took(&wanted.unwrap_or_default(), grants);
                }
                Effect::Deadlock(_) => self.witness.count("deadlocks"),
                Effect::SessionEnded { .. } => self.witness.count("sessions ended"),
                _ => {}
            }
        }
    }

    /// One that waits alone waits for somebody, by Gray's matrix.
    fn check_wait(&self, entry: &Entry, who: &RequesterId, wanted: &Wanted, came: &Came<'_>) {
        let commands = entry.proposals.iter().map(|it| it.commands.len()).sum::<usize>();
        let table = came.replica.lock_table();
        if commands != 1 || !came.effects.is_empty() || table.waiting() != 1 {
            return;
        }
        let known = self.known.borrow();
        let is_in_the_way = |info: &LockInfo| {
            let Some(lock_id) = &info.lock_id else { return false };
            let mode = known.granted.get(lock_id).copied().unwrap_or(info.mode);
            info.requester != *who
                && wanted.iter().any(|(resource, wish)| {
                    *resource == info.resource && !wish.is_compatible_with(mode)
                })
        };
        if !table.status(None).iter().any(is_in_the_way) {
            let words = "waits for nothing that conflicts";
            self.witness.fail(format!("{who} {words}: {wanted:?}"));
        }
    }
}

impl Auditor for Audit {
    fn before(&self, who: &InstanceId, _at: Position, entry: &Entry) -> Entry {
        let mut known = self.known.borrow_mut();
        known.original = Some(entry.clone());
        let now = crate::simulated::wall_clock().unwrap_or_default();
        let last = known.walls.insert(who.clone(), now).unwrap_or(now);
        let mut entry = entry.clone();
        if let Some(bug) = self.bug {
            bug.before(&mut entry, now.since(last));
        }
        entry
    }

    fn after(&self, who: &InstanceId, mut came: Came<'_>) -> Vec<Answered> {
        let Some(entry) = self.known.borrow_mut().original.take() else { return came.answered };
        if let Some(bug) = self.bug {
            bug.after(&entry, &mut came);
        }
        if self.check_sameness(who, &entry, &came) {
            self.witness.note(&format!("   {who} carries out {:?}: {entry:?}", came.position));
            self.witness.count("entries");
            self.check_decisions(&entry, came.replica);
            self.check_owners(&entry, &came);
            self.check_holders(came.replica);
            self.learn(&entry, &came);
        }
        came.answered
    }
}
