//! A key-value store over a folder of files: a key is a relative path, a value its content.
//!
//! Not a database: readers see each file change whole, but several files one after the other. A
//! file has no type, so `put` takes str (kept as UTF-8) or bytes, and [`FileStore::get`] always
//! gives bytes; a check compares contents. Links are not followed, folders are made as needed and
//! never removed.
//!
//! Invariants: work on one transaction is done on one thread, in the order in which it was asked,
//! so an abort finds whatever its prepare left. From prepare to the end a key belongs to one
//! transaction of all stores under this root, also those of other processes; another transaction
//! that names it, or a path above or below it, is refused and does not wait.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::barrier;
use super::files_barrier::Barrier;
use super::files_fence::FenceLog;
use super::files_key;
use super::files_plan::{self, Plan};
use super::files_stage::{Area, Manifest, Standing};
use super::key_value::{self, KeyOperation, read_operations};
use super::worker::Workers;
use super::{Abilities, DeliveryAsk, ExecuteAsk, Participant, ParticipantError, PrepareAsk};
use crate::crash;
use crate::model::ids::{ClusterId, CoordinationId, StoreName};
use crate::model::lock::Fence;
use crate::model::operation::Operation;
use crate::model::outcome::{Acknowledgement, Vote};
use crate::model::request::CoordinationType;
use crate::model::step::StepAnswer;
use crate::model::value::Value;
use crate::protocol::fence;
use crate::reply::Reply;

const THREADS: usize = 2;
const DETACHED: &str = "the store is not open; it opens when a service that has it starts";

/// A store over a folder of files.
pub struct FileStore {
    root: PathBuf,
    name: String,
    opened: Mutex<Option<Arc<Opened>>>,
    workers: Workers,
}

impl FileStore {
    /// A store over this folder, which is made when the store is attached. Touches nothing yet.
    pub fn new(root: impl Into<PathBuf>, name: impl Into<String>) -> Self {
        let (root, name) = (root.into(), name.into());
        let workers = Workers::new(format!("unanimity-files-{name}"), THREADS);
        Self { root, name, opened: Mutex::default(), workers }
    }

    /// Its own name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Reads the committed content of a key, as bytes.
    pub fn get(&self, key: String, reply: Reply<Result<Option<Value>, ParticipantError>>) {
        let root = self.root.clone();
        self.workers.run(number_of(&key), move || {
            let explain = |what| ParticipantError::new(format!("the key '{key}': {what}"));
            let content = files_key::find(&root, &key).and_then(|found| files_plan::read(&found));
            reply.send(content.map(|content| content.map(Value::Bytes)).map_err(explain));
        });
    }

    fn opened(&self) -> Option<Arc<Opened>> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Which thread works on this text's matters.
fn number_of(text: &str) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(text)
}

/// The keys that transactions prepared here hold. Those of others are read from disk.
#[derive(Default)]
struct Held {
    keys: BTreeMap<String, CoordinationId>,
    /// By staging folder.
    transactions: HashMap<PathBuf, HeldBy>,
}

/// What one transaction holds.
struct HeldBy {
    id: CoordinationId,
    keys: Vec<String>,
    fences: Vec<Fence>,
}

impl Held {
    /// The transaction that holds this key, or a path above or below it.
    fn holder(&self, key: &str) -> Option<&CoordinationId> {
        let above = key.match_indices('/').map(|(end, _)| &key[..end]);
        if let Some(holder) = above.chain([key]).find_map(|path| self.keys.get(path)) {
            return Some(holder);
        }
        let below = format!("{key}/");
        let (path, holder) = self.keys.range(below.clone()..).next()?;
        path.starts_with(&below).then_some(holder)
    }

    /// The transaction that stands on a lock which is incompatible with one of these.
    fn standing(&self, shown: &[Fence]) -> Option<(&CoordinationId, &Fence)> {
        let mut all = self.transactions.values();
        all.find_map(|by| Some((&by.id, fence::standing_in_the_way(shown, &by.fences)?)))
    }

    fn release(&mut self, folder: &Path) {
        for key in self.transactions.remove(folder).into_iter().flat_map(|by| by.keys) {
            self.keys.remove(&key);
        }
    }
}

/// The store while a service has it.
pub(super) struct Opened {
    pub(super) area: Area,
    pub(super) barrier: Barrier,
    held: Mutex<Held>,
    fences: FenceLog,
}

impl Opened {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn prepare(&self, ask: &PrepareAsk) -> Result<Vote, String> {
        let operations = read_operations(ask)?;
        if operations.is_empty() {
            return Ok(Vote::ReadOnly);
        }
        for operation in &operations {
            files_plan::check_operation(operation).map_err(|what| operation.refuse(what))?;
        }
        let explain = |error: io::Error| format!("{}: {error}", self.area.root.display());
        let guard = self.area.lock().map_err(explain)?;
        self.barrier.finish(&guard, &self.area).map_err(explain)?;
        match self.area.standing(ask.id()).map_err(explain)? {
            Standing::None => {}
            Standing::Prepared(_) => {
                return Err(format!("the transaction '{}' is prepared here already", ask.id()));
            }
            Standing::Applied => {
                return Err(format!("the transaction '{}' was committed here before", ask.id()));
            }
        }
        let raised = self.fences.check(&guard, &ask.fences)?;
        self.check_free(&operations, &ask.fences)?;
        let plan = files_plan::plan(&self.area.root, &operations)?;
        self.fences.remember(&guard, raised).map_err(explain)?;
        if plan.effects.is_empty() {
            return Ok(Vote::ReadOnly);
        }
        crash::point("store_prepare", ask.store.as_str());
        self.stage(ask, &operations, plan).map_err(explain)?;
        crash::point("store_staged", ask.store.as_str());
        Ok(Vote::Commit)
    }

    /// That no prepared transaction holds a key, or a path above or below one, or stands on a lock
    /// that is incompatible with one of these.
    pub(super) fn check_free(
        &self,
        operations: &[KeyOperation<'_>],
        shown: &[Fence],
    ) -> Result<(), String> {
        let refuse = |operation: &KeyOperation<'_>, holder: &str| {
            operation.refuse(format_args!(
                "the prepared transaction '{holder}' holds it, or a path above or below it; \
                 try again when that has ended"
            ))
        };
        let mut held = self.held();
        for operation in operations {
            while let Some(holder) = held.holder(operation.key).cloned() {
                // Another process of this journal may have ended it.
                match self.area.standing(&holder) {
                    Ok(Standing::None | Standing::Applied) => {
                        held.release(&self.area.staging(&holder));
                    }
                    _ => return Err(refuse(operation, holder.as_str())),
                }
            }
        }
        while let Some((holder, standing)) = held.standing(shown) {
            match self.area.standing(holder) {
                Ok(Standing::None | Standing::Applied) => {
                    let folder = self.area.staging(holder);
                    held.release(&folder);
                }
                _ => return Err(fence::describe_standing(standing, holder.as_str())),
            }
        }
        let foreign = self
            .area
            .foreign(|folder| held.transactions.contains_key(folder))
            .map_err(|error| format!("what others have prepared cannot be read: {error}"))?;
        for manifest in foreign {
            if let Some(standing) = fence::standing_in_the_way(shown, &manifest.fences) {
                return Err(fence::describe_standing(standing, &manifest.transaction));
            }
            for operation in operations {
                if manifest.keys.iter().any(|key| files_key::are_related(key, operation.key)) {
                    return Err(refuse(operation, &manifest.transaction));
                }
            }
        }
        Ok(())
    }

    fn stage(
        &self,
        ask: &PrepareAsk,
        operations: &[KeyOperation<'_>],
        plan: Plan<'_>,
    ) -> io::Result<()> {
        let mut keys: Vec<String> = operations.iter().map(|one| one.key.to_owned()).collect();
        keys.sort_unstable();
        keys.dedup();
        let transaction = ask.id().as_str().to_owned();
        let fences = ask.fences.to_vec();
        let manifest = Manifest { transaction, effects: plan.effects, keys, fences };
        self.area.stage(ask.id(), &manifest, &plan.contents)?;
        let mut held = self.held();
        held.keys.extend(manifest.keys.iter().map(|key| (key.clone(), ask.id().clone())));
        let Manifest { keys, fences, .. } = manifest;
        let by = HeldBy { id: ask.id().clone(), keys, fences };
        held.transactions.insert(self.area.staging(ask.id()), by);
        Ok(())
    }

    fn commit(&self, id: &CoordinationId, store: &str) -> Acknowledgement {
        let manifest = match self.area.standing(id) {
            Ok(Standing::Prepared(manifest)) => manifest,
            Ok(Standing::Applied) => return Acknowledgement::Done,
            Ok(Standing::None) => return Acknowledgement::NeverPrepared,
            Err(error) => return unclear(&error),
        };
        crash::point("store_commit", store);
        match self.area.commit(id, &manifest) {
            Ok(()) => {
                self.held().release(&self.area.staging(id));
                Acknowledgement::Done
            }
            Err(error) => {
                let message = format!(
                    "the transaction '{id}' could not be moved into place under {}: {error}; \
                     mend that, and it is tried again",
                    self.area.root.display()
                );
                Acknowledgement::Unknown { message }
            }
        }
    }

    fn abort(&self, id: &CoordinationId) -> Acknowledgement {
        let failed =
            |what| Acknowledgement::Failed { message: format!("the transaction '{id}' {what}") };
        match self.area.standing(id) {
            Ok(Standing::Prepared(manifest)) if self.area.has_begun(id, &manifest) => {
                return failed("has files in place already, by a commit that began");
            }
            Ok(Standing::Applied) => return failed("was committed here before its abort"),
            Ok(Standing::Prepared(_)) => {}
            // What a prepare of another process may be staging now is not ours to remove.
            Ok(Standing::None) => return Acknowledgement::Done,
            Err(error) => return unclear(&error),
        }
        match self.area.discard(id) {
            Ok(()) => {
                self.held().release(&self.area.staging(id));
                Acknowledgement::Done
            }
            Err(error) => unclear(&error),
        }
    }
}

/// A damaged manifest stays damaged; everything else may pass.
fn unclear(error: &io::Error) -> Acknowledgement {
    let message = error.to_string();
    if error.kind() == ErrorKind::InvalidData {
        return Acknowledgement::Failed { message };
    }
    Acknowledgement::Unknown { message }
}

impl Participant for FileStore {
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
        let explain = |error: io::Error| {
            let root = self.root.display();
            ParticipantError::new(format!("cannot open the folder {root}: {error}"))
        };
        let area = Area::open(&self.root, cluster, name).map_err(explain)?;
        let barrier = Barrier::open(&area, cluster, name).map_err(explain)?;
        let fences = FenceLog::new(&area.root);
        let opened = Arc::new(Opened { area, barrier, held: Mutex::default(), fences });
        *self.opened.lock().unwrap_or_else(PoisonError::into_inner) = Some(opened);
        Ok(())
    }

    fn prepare(&self, ask: PrepareAsk, reply: Reply<Vote>) {
        let Some(opened) = self.opened() else {
            return reply.send(Vote::Abort { reason: DETACHED.to_owned() });
        };
        self.workers.run(number_of(ask.id().as_str()), move || {
            let vote = opened.prepare(&ask);
            reply.send(vote.unwrap_or_else(|reason| Vote::Abort { reason }));
        });
    }

    fn commit(&self, ask: DeliveryAsk, reply: Reply<Acknowledgement>) {
        let Some(opened) = self.opened() else {
            return reply.send(Acknowledgement::Unknown { message: DETACHED.to_owned() });
        };
        self.workers.run(number_of(ask.id.as_str()), move || {
            reply.send(opened.commit(&ask.id, opened.area.store_name()));
        });
    }

    fn abort(&self, ask: DeliveryAsk, reply: Reply<Acknowledgement>) {
        let Some(opened) = self.opened() else {
            return reply.send(Acknowledgement::Unknown { message: DETACHED.to_owned() });
        };
        self.workers.run(number_of(ask.id.as_str()), move || reply.send(opened.abort(&ask.id)));
    }

    fn execute(&self, ask: ExecuteAsk, reply: Reply<StepAnswer>) {
        let Some(opened) = self.opened() else {
            return reply.send(barrier::try_again(DETACHED));
        };
        let number = number_of(ask.id().as_str());
        self.workers.run(number, move || reply.send(opened.step(&ask)));
    }

    fn list_prepared(&self, reply: Reply<Result<Vec<CoordinationId>, ParticipantError>>) {
        let Some(opened) = self.opened() else {
            return reply.send(Err(ParticipantError::new(DETACHED)));
        };
        self.workers.run(0, move || {
            let ids = opened.area.list();
            reply.send(ids.map_err(|error| ParticipantError::new(error.to_string())));
        });
    }

    fn forget(&self, ids: Vec<CoordinationId>) {
        if let Some(opened) = self.opened() {
            self.workers.run(1, move || opened.area.forget(&ids));
        }
    }

    fn close(&self) {
        drop(self.opened.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.workers.close();
    }
}
