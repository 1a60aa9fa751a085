//! Projections: every store that can apply events is handed each of the journal's, in order.
//!
//! Not the rules of a coordination (`protocol::event_sourcing`) and not the events (the journal).
//! `run` is the task of one store, `handle` what callers ask, this file who waits for which store
//! to have come how far.
//!
//! Invariants: of all processes of a journal one at a time runs the projection of a store; a store
//! is handed the next event when it has acknowledged the one before; a projection that is parked
//! holds up only itself.
//!
//! What another process appended, or how far its projections are, is seen within [`POLL`].

mod handle;
mod parked;
mod run;

pub(super) use parked::{is_projection, with_projections};

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::journal::JournalError;
use crate::journal::streams::Streams;
use crate::model::ids::StoreName;
use crate::model::request::CoordinationType;
use crate::protocol::Input;
use crate::reply::Reply;

use super::core::{Core, Fact};
use super::drive::State;
use super::error::EngineError;
use super::table::SlotKey;

/// How often is looked for what other processes did.
pub(super) const POLL: Duration = Duration::from_millis(100);
/// How soon a question that the journal could not answer is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Wakes those who wait for events or for projections.
#[derive(Default)]
pub(super) struct Signals {
    /// There are new events, or a projection was restarted.
    pub(super) appended: Notify,
    /// A projection of this process has moved.
    pub(super) moved: Notify,
    /// The stores whose projections wait for an operator.
    parked: Mutex<HashSet<StoreName>>,
}

impl Signals {
    fn parked(&self) -> MutexGuard<'_, HashSet<StoreName>> {
        self.parked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(in crate::engine) fn parked_projections(&self) -> usize {
        self.parked().len()
    }

    /// Says whether the projection of a store waits for an operator.
    fn note_parked(&self, store: &StoreName, is_parked: bool) {
        if is_parked {
            self.parked().insert(store.clone());
        } else {
            self.parked().remove(store);
        }
    }
}

/// What the parts of this folder tell the engine's state.
pub(super) enum News {
    /// The events that a coordination waits for end here.
    EndsAt { key: SlotKey, through: u64 },
    /// Where they end could not be found out.
    EndUnknown { key: SlotKey },
    /// A store has come this far; not always further than before.
    At { store: StoreName, position: u64 },
    /// A store has the events of a coordination.
    Reached { key: SlotKey, party: usize },
}

/// Who waits for which store to have come how far.
#[derive(Default)]
pub(super) struct Lines(HashMap<StoreName, Line>);

#[derive(Default)]
struct Line {
    position: u64,
    /// By the position waited for; with the store's index in the request.
    waiting: BTreeMap<(u64, SlotKey), usize>,
}

impl State {
    pub(super) fn projection_news(&mut self, core: &Core, news: News) {
        match news {
            News::EndsAt { key, through } => self.wait_in_lines(core, key, through),
            News::EndUnknown { key } => self.await_projections(core, key),
            News::At { store, position } => self.store_at(core, store, position),
            News::Reached { key, party } => self.step(core, key, Input::Projected { party }),
        }
    }

    /// The machine wants to hear when its stores have come as far as its events.
    pub(super) fn await_projections(&mut self, core: &Core, key: SlotKey) {
        let Some(entry) = self.table.get(key) else { return };
        if let Some(through) = entry.events_through {
            return self.wait_in_lines(core, key, through);
        }
        // Built from records, which say no positions: whoever has come to the end has come far
        // enough.
        let Some(streams) = core.ports.journal.streams() else { return };
        let (this, runtime) = (core.this.clone(), core.ports.runtime.clone());
        streams.last_position(Reply::new(move |last: Result<u64, JournalError>| match last {
            Ok(through) => Core::tell(&this, News::EndsAt { key, through }),
            Err(JournalError::Closed) => {}
            Err(_) => {
                runtime.spawn(async move {
                    tokio::time::sleep(ASK_AGAIN).await;
                    Core::tell(&this, News::EndUnknown { key });
                });
            }
        }));
    }

    fn wait_in_lines(&mut self, core: &Core, key: SlotKey, through: u64) {
        let Some(entry) = self.table.get(key) else { return };
        for (party, store) in entry.machine.request().stores.iter().enumerate() {
            let line = self.lines.0.entry(store.clone()).or_default();
            if line.position >= through {
                // A fact like any other: it waits until the step that asked is done.
                core.post(Fact::Projection(News::Reached { key, party }));
            } else {
                line.waiting.insert((through, key), party);
            }
        }
    }

    fn store_at(&mut self, core: &Core, store: StoreName, position: u64) {
        let line = self.lines.0.entry(store).or_default();
        line.position = position;
        let mut reached = Vec::new();
        while let Some(first) = line.waiting.first_entry()
            && first.key().0 <= position
        {
            let ((_, key), party) = first.remove_entry();
            reached.push((key, party));
        }
        for (key, party) in reached {
            self.step(core, key, Input::Projected { party });
        }
    }
}

impl Core {
    fn tell(this: &std::sync::Weak<Self>, news: News) {
        if let Some(core) = this.upgrade() {
            core.post(Fact::Projection(news));
        }
    }

    /// The journal's streams, where it keeps any.
    fn streams(&self) -> Result<&dyn Streams, EngineError> {
        self.ports.journal.streams().ok_or_else(|| EngineError::CannotProject {
            store: "*".to_owned(),
            reason: "this journal keeps no events".to_owned(),
        })
    }
}

/// Starts a task for each store that can apply events.
pub(super) fn start(core: &Arc<Core>) {
    if core.ports.journal.streams().is_none() {
        return;
    }
    for (store, participant, _) in &core.ports.stores {
        if participant.missing_for(CoordinationType::EventSourcing).is_none() {
            let task = run::Projector::new(core, store.clone(), Arc::clone(participant));
            core.ports.runtime.spawn(task.run());
        }
    }
}
