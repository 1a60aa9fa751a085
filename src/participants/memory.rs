//! A key-value store in the memory of this process.
//!
//! Not durable: nothing of it survives the process, so what is prepared here is gone after a
//! crash, with everything else. It answers inline, on the caller's thread, under one mutex that is
//! never held while a reply is given.
//!
//! Invariants: from prepare to the end a key belongs to one transaction, and another one that
//! names it is refused, not queued. Committed values are what [`MemoryStore::get`] reads; prepared
//! ones are seen by nobody.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use foldhash::fast::RandomState;

use super::barrier;
use super::key_value::{
    self, Action, Expected, KeyOperation, describe_failed_check, read_operations,
};
use super::memory_step::Barrier;
use super::{Abilities, DeliveryAsk, ExecuteAsk, Participant, ParticipantError, PrepareAsk};
use crate::crash;
use crate::model::ids::{ClusterId, CoordinationId, StoreName};
use crate::model::lock::{Fence, ResourceId};
use crate::model::operation::Operation;
use crate::model::outcome::{Acknowledgement, Vote};
use crate::model::request::{CoordinationRequest, CoordinationType};
use crate::model::step::StepAnswer;
use crate::model::value::Value;
use crate::protocol::fence::{self, FenceMemory};
use crate::reply::Reply;

/// How many committed ids are remembered at most; the engine's `forget` comes long before.
const COMMITTED_MAX: usize = 1 << 16;

/// A key: its committed value, and the transaction that holds it.
#[derive(Default)]
pub(super) struct Slot {
    pub(super) value: Option<Value>,
    pub(super) holder: Option<CoordinationId>,
}

/// A transaction that voted commit. Its values stay in the request, uncloned, until they count.
struct Prepared {
    request: Arc<CoordinationRequest>,
    store: StoreName,
    cluster: Option<ClusterId>,
    fences: Arc<[Fence]>,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) slots: HashMap<String, Slot, RandomState>,
    prepared: HashMap<CoordinationId, Prepared, RandomState>,
    committed: HashSet<CoordinationId, RandomState>,
    committed_order: VecDeque<CoordinationId>,
    /// One entry for each resource under whose lock something was prepared here.
    fences: HashMap<ResourceId, FenceMemory>,
    pub(super) cluster: Option<ClusterId>,
    /// What steps did.
    pub(super) barrier: Barrier,
    /// The name under which the service knows this store.
    attached_as: Option<StoreName>,
}

/// A key-value store in memory.
pub struct MemoryStore {
    name: String,
    state: Mutex<State>,
}

impl MemoryStore {
    /// An empty store; the name is its own, for messages, beside the one that a service gives it.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), state: Mutex::default() }
    }

    /// Its own name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Reads the committed value of a key.
    pub fn get(&self, key: String, reply: Reply<Result<Option<Value>, ParticipantError>>) {
        let value = self.with(|state| state.slots.get(&key).and_then(|slot| slot.value.clone()));
        reply.send(Ok(value));
    }

    /// Runs `act` under the mutex. A panic cannot leave the state half changed in a way that
    /// matters more than refusing every further question would, so poison is passed over.
    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl State {
    fn prepare(&mut self, ask: &PrepareAsk) -> Result<Vote, String> {
        let operations = read_operations(ask)?;
        if self.prepared.contains_key(ask.id()) {
            return Err(format!("the transaction '{}' is prepared here already", ask.id()));
        }
        if self.committed.contains(ask.id()) {
            return Err(format!("the transaction '{}' was committed here before", ask.id()));
        }
        let raised = self.check_fences(&ask.fences)?;
        self.check(&operations)?;
        self.fences.extend(raised);
        if !operations.iter().any(KeyOperation::is_write) {
            return Ok(Vote::ReadOnly);
        }
        self.lock_keys(&operations, ask.id());
        let prepared = Prepared {
            request: Arc::clone(&ask.request),
            store: ask.store.clone(),
            cluster: self.cluster.clone(),
            fences: Arc::clone(&ask.fences),
        };
        self.prepared.insert(ask.id().clone(), prepared);
        Ok(Vote::Commit)
    }

    /// That nobody who came later was here, and nobody who came earlier is prepared. Gives what is
    /// to be remembered.
    fn check_fences(&self, shown: &[Fence]) -> Result<BTreeMap<ResourceId, FenceMemory>, String> {
        if shown.is_empty() {
            return Ok(BTreeMap::new());
        }
        let raised = fence::check(shown, |resource| self.fences.get(resource))
            .map_err(|refusal| refusal.to_string())?;
        for (holder, prepared) in &self.prepared {
            if let Some(standing) = fence::standing_in_the_way(shown, &prepared.fences) {
                return Err(fence::describe_standing(standing, holder.as_str()));
            }
        }
        Ok(raised)
    }

    /// That no key is another's, and that every check holds after the operations before it.
    pub(super) fn check(&self, operations: &[KeyOperation<'_>]) -> Result<(), String> {
        // Without checks nothing needs to know what earlier operations would leave behind.
        let has_checks = operations.iter().any(|operation| !operation.is_write());
        let mut effects: HashMap<&str, Option<&Value>> = HashMap::new();
        for operation in operations {
            let slot = self.slots.get(operation.key);
            if let Some(holder) = slot.and_then(|slot| slot.holder.as_ref()) {
                return Err(operation.refuse(format_args!(
                    "the prepared transaction '{holder}' holds it; try again when that has ended"
                )));
            }
            match operation.action {
                Action::Put(_) | Action::Delete if !has_checks => {}
                Action::Put(value) => {
                    effects.insert(operation.key, Some(value));
                }
                Action::Delete => {
                    effects.insert(operation.key, None);
                }
                Action::Check(expected) => {
                    let committed = || slot.and_then(|slot| slot.value.as_ref());
                    let found = effects.get(operation.key).copied().unwrap_or_else(committed);
                    let holds = match expected {
                        Expected::Value(value) => found == Some(value),
                        Expected::Exists(exists) => found.is_some() == exists,
                    };
                    if !holds {
                        let what = describe_failed_check(expected, found.is_some());
                        return Err(operation.refuse(what));
                    }
                }
            }
        }
        Ok(())
    }

    fn lock_keys(&mut self, operations: &[KeyOperation<'_>], id: &CoordinationId) {
        for operation in operations {
            if let Some(slot) = self.slots.get_mut(operation.key) {
                slot.holder = Some(id.clone());
            } else {
                let slot = Slot { value: None, holder: Some(id.clone()) };
                self.slots.insert(operation.key.to_owned(), slot);
            }
        }
    }

    /// Lets go of the keys, with or without the changes.
    fn end(&mut self, prepared: &Prepared, is_commit: bool) {
        for operation in prepared.request.operations_of(&prepared.store) {
            let Some(key) = operation.body.get("key").and_then(Value::as_text) else { continue };
            if is_commit && operation.kind == "put" {
                let value = operation.body.get("value").cloned();
                match self.slots.get_mut(key) {
                    Some(slot) => *slot = Slot { value, holder: None },
                    // A delete of the same transaction took the slot away.
                    None => drop(self.slots.insert(key.to_owned(), Slot { value, holder: None })),
                }
                continue;
            }
            let Some(slot) = self.slots.get_mut(key) else { continue };
            slot.holder = None;
            if slot.value.is_none() || (is_commit && operation.kind == "delete") {
                self.slots.remove(key);
            }
        }
    }

    fn commit(&mut self, id: &CoordinationId) -> Acknowledgement {
        let Some(prepared) = self.prepared.remove(id) else {
            let is_committed = self.committed.contains(id);
            let unknown = Acknowledgement::NeverPrepared;
            return if is_committed { Acknowledgement::Done } else { unknown };
        };
        self.end(&prepared, true);
        self.remember(id.clone());
        Acknowledgement::Done
    }

    fn remember(&mut self, id: CoordinationId) {
        self.committed.insert(id.clone());
        self.committed_order.push_back(id);
        while self.committed_order.len() > COMMITTED_MAX {
            if let Some(oldest) = self.committed_order.pop_front() {
                self.committed.remove(&oldest);
            }
        }
    }

    fn abort(&mut self, id: &CoordinationId) -> Acknowledgement {
        if let Some(prepared) = self.prepared.remove(id) {
            self.end(&prepared, false);
        } else if self.committed.contains(id) {
            let message = format!("the transaction '{id}' was committed here before its abort");
            return Acknowledgement::Failed { message };
        }
        Acknowledgement::Done
    }

    /// What points of death are told apart by.
    fn attached_name(&self) -> &str {
        self.attached_as.as_ref().map_or("", StoreName::as_str)
    }

    fn forget(&mut self, ids: &[CoordinationId]) {
        for id in ids {
            self.committed.remove(id);
        }
        // Ids are forgotten about in the order of their commits, so the front is soon free.
        while self.committed_order.front().is_some_and(|id| !self.committed.contains(id)) {
            self.committed_order.pop_front();
        }
    }
}

impl Participant for MemoryStore {
    fn abilities(&self) -> Abilities {
        Abilities { lists_prepared: true, single_writer: false }
    }

    fn missing_for(&self, kind: CoordinationType) -> Option<&'static str> {
        barrier::missing_for(kind)
    }

    fn can_compensate(&self, operation: &Operation) -> bool {
        barrier::can_compensate(operation, &key_value::KINDS, "key")
    }

    fn attach(&self, cluster: &ClusterId, name: &StoreName) -> Result<(), ParticipantError> {
        self.with(|state| {
            state.cluster = Some(cluster.clone());
            state.attached_as = Some(name.clone());
        });
        Ok(())
    }

    fn prepare(&self, ask: PrepareAsk, reply: Reply<Vote>) {
        crash::point("store_prepare", ask.store.as_str());
        let vote = self.with(|state| state.prepare(&ask));
        crash::point("store_staged", ask.store.as_str());
        reply.send(vote.unwrap_or_else(|reason| Vote::Abort { reason }));
    }

    fn commit(&self, ask: DeliveryAsk, reply: Reply<Acknowledgement>) {
        let acknowledgement = self.with(|state| {
            crash::point("store_commit", state.attached_name());
            let acknowledgement = state.commit(&ask.id);
            crash::point("store_committed", state.attached_name());
            acknowledgement
        });
        reply.send(acknowledgement);
    }

    fn abort(&self, ask: DeliveryAsk, reply: Reply<Acknowledgement>) {
        let acknowledgement = self.with(|state| state.abort(&ask.id));
        reply.send(acknowledgement);
    }

    fn execute(&self, ask: ExecuteAsk, reply: Reply<StepAnswer>) {
        let store = ask.operation().store.as_str();
        let answer = self.with(|state| {
            crash::point("store_step", store);
            let answer = state.step(&ask);
            crash::point("store_step_committed", store);
            answer
        });
        reply.send(answer);
    }

    fn list_prepared(&self, reply: Reply<Result<Vec<CoordinationId>, ParticipantError>>) {
        let ids = self.with(|state| {
            let ours = |prepared: &Prepared| prepared.cluster == state.cluster;
            let prepared = state.prepared.iter();
            prepared.filter(|(_, prepared)| ours(prepared)).map(|(id, _)| id.clone()).collect()
        });
        reply.send(Ok(ids));
    }

    fn forget(&self, ids: Vec<CoordinationId>) {
        self.with(|state| state.forget(&ids));
    }
}
