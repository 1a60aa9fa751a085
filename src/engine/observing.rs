//! What observers are told (`observe::Observation`), from the places where it happens.
//!
//! Not what they make of it. Invariants: nothing is told, timed or kept where nobody observes; an
//! answer is told before it becomes a fact, so that a coordination's end comes after the answers
//! that led to it.

use std::sync::Arc;

use crate::journal::Answer;
use crate::locks::{Grant, LockError};
use crate::model::ids::{CoordinationId, StoreName};
use crate::model::outcome::{Acknowledgement, Decision};
use crate::model::request::{CoordinationRequest, CoordinationType};
use crate::model::step::Work;
use crate::model::stream::StreamEvent;
use crate::model::time::Timestamp;
use crate::observe::{Act, Call, Ending, Observation};
use crate::protocol::{Ask, Standing};

use super::core::Core;
use super::locking::code_of;
use super::table::{Awaited, Entry};

/// A question that is out, until its answer is told.
pub(super) struct Watch {
    request: Arc<CoordinationRequest>,
    asked_at: Timestamp,
}

/// What a store was asked, for those who watch it.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) call: Call,
    pub(super) store: &'a StoreName,
    pub(super) operation: Option<&'a str>,
    pub(super) attempt: Option<u32>,
}

impl Core {
    pub(super) fn is_observed(&self) -> bool {
        !self.ports.observers.is_empty()
    }

    /// From now on the answer is waited for; `None` where nobody observes.
    pub(super) fn watch(&self, request: &Arc<CoordinationRequest>) -> Option<Watch> {
        self.is_observed()
            .then(|| Watch { request: Arc::clone(request), asked_at: self.clock.now() })
    }

    /// The answer came to what was watched.
    pub(super) fn observe(&self, watch: &Watch, act: Act<'_>, ending: Ending<'_>) {
        let (id, kind) = (&watch.request.id, watch.request.kind);
        self.observe_since(id, kind, act, watch.asked_at, ending);
    }

    /// A store answered.
    pub(super) fn observe_call<'a>(
        &self,
        watch: Option<&Watch>,
        asked: Asked<'_>,
        answer: impl Into<Ending<'a>>,
    ) {
        if let Some(watch) = watch {
            self.observe(watch, asked.act(), answer.into());
        }
    }

    /// When a store is asked to take in an event; `None` where nobody observes.
    pub(super) fn watch_event(&self) -> Option<Timestamp> {
        self.is_observed().then(|| self.clock.now())
    }

    /// A store answered whether it has taken in an event.
    pub(super) fn observe_event(
        &self,
        event: &StreamEvent,
        store: &StoreName,
        attempt: u32,
        asked_at: Timestamp,
        answer: &Acknowledgement,
    ) {
        let (operation, attempt) = (Some(event.stream.as_str()), Some(attempt));
        let act = Act::Call { call: Call::Apply, store, operation, attempt };
        let kind = CoordinationType::EventSourcing;
        self.observe_since(&event.coordination, kind, act, asked_at, answer.into());
    }

    /// The consensus service answered a proposal.
    pub(super) fn observe_proposal(&self, watch: Option<&Watch>, decision: Decision, taken: bool) {
        let no = Ending::Unknown { code: "consensus.not_taken", message: "it was not taken" };
        if let Some(watch) = watch {
            let ending = if taken { Ending::Done } else { no };
            self.observe(watch, Act::Propose { decision }, ending);
        }
    }

    /// The consensus service told what stands.
    pub(super) fn observe_standing(&self, watch: Option<&Watch>, standing: &Standing) {
        let no = Ending::Unknown { code: "consensus.unknown", message: "it did not answer" };
        if let Some(watch) = watch {
            let ending = if *standing == Standing::Unknown { no } else { Ending::Done };
            self.observe(watch, Act::ReadDecision, ending);
        }
    }

    /// The lock manager answered.
    pub(super) fn observe_locks(
        &self,
        watch: Option<&Watch>,
        count: usize,
        result: &Result<Vec<Grant>, LockError>,
    ) {
        let Some(watch) = watch else { return };
        let words = result.as_ref().err().map(|error| (code_of(error), error.to_string()));
        let ending = match &words {
            None => Ending::Done,
            Some((code, message)) => Ending::Refused { code, message },
        };
        self.observe(watch, Act::Locks { count }, ending);
    }

    pub(super) fn observe_since(
        &self,
        coordination: &CoordinationId,
        kind: CoordinationType,
        act: Act<'_>,
        began_at: Timestamp,
        ending: Ending<'_>,
    ) {
        let duration = self.clock.now().since(began_at);
        let of = Observation { coordination, kind, act, began_at, duration, ending };
        for observer in &self.ports.observers {
            observer.observe(&of);
        }
    }

    /// A coordination takes its first step here.
    pub(super) fn observe_begin(&self, entry: &Entry) {
        if self.is_observed() {
            let request = entry.machine.request();
            let act = Act::Began { request, is_resumed: entry.locks.resumed };
            let now = self.clock.now();
            self.observe_since(&request.id, request.kind, act, now, Ending::Done);
        }
    }

    /// A coordination has left the table; one that only waited for its turn never began.
    pub(super) fn observe_end(&self, entry: &Entry) {
        if self.is_observed() && !entry.queued {
            let request = entry.machine.request();
            let outcome = entry.machine.view().outcome;
            let act = Act::Ended { outcome: &outcome, is_resumed: entry.locks.resumed };
            let began_at = entry.machine.began_at();
            self.observe_since(&request.id, request.kind, act, began_at, (&outcome).into());
        }
    }

    /// The journal answered a record that was waited for.
    pub(super) fn observe_record(&self, entry: &Entry, awaited: &Awaited, answer: &Answer) {
        if self.is_observed() {
            let request = entry.machine.request();
            let act = Act::Record { kind: awaited.kind };
            let words = answer_words(answer);
            let ending = ending_of(answer, &words, awaited.decision);
            self.observe_since(&request.id, request.kind, act, awaited.at, ending);
        }
    }
}

impl Watch {
    pub(super) fn request(&self) -> &CoordinationRequest {
        &self.request
    }
}

impl<'a> Asked<'a> {
    /// A question of the coordinations that go by votes. Only prepare is asked once.
    pub(super) fn by_vote(ask: Ask, store: &'a StoreName) -> Self {
        let (call, attempt) = match ask {
            Ask::Prepare => (Call::Prepare, Some(1)),
            Ask::Commit => (Call::Commit, None),
            Ask::Abort => (Call::Abort, None),
        };
        Self { call, store, operation: None, attempt }
    }

    /// A question of the coordinations that go by steps.
    pub(super) fn by_step(
        request: &'a CoordinationRequest,
        step: usize,
        work: Work,
        attempt: u32,
    ) -> Self {
        let operation = &request.operations[step];
        let (call, attempt) = (work.into(), Some(attempt));
        Self { call, store: &operation.store, operation: Some(&operation.id), attempt }
    }

    pub(super) fn act(self) -> Act<'a> {
        let Self { call, store, operation, attempt } = self;
        Act::Call { call, store, operation, attempt }
    }
}

fn answer_words(answer: &Answer) -> String {
    match answer {
        Answer::Failed(error) => error.to_string(),
        Answer::VersionMismatch { stream, expected, actual } => {
            format!("stream '{stream}' has version {actual}, not {expected}")
        }
        _ => String::new(),
    }
}

fn ending_of<'a>(answer: &Answer, words: &'a str, decision: Option<Decision>) -> Ending<'a> {
    let refused = |code, message| Ending::Refused { code, message };
    match answer {
        Answer::Recorded | Answer::Appended { .. } => Ending::Done,
        Answer::Decided(standing) if decision == Some(*standing) => Ending::Done,
        Answer::Decided(_) => refused("journal.decided", "another decision stands"),
        Answer::Exists(_) => refused("journal.exists", "a begin of this id stands already"),
        Answer::VersionMismatch { .. } => refused("transaction.aborted.version", words),
        Answer::Deposed => refused("journal.deposed", "another process has taken it over"),
        // It may be on the disk all the same: the next process reads it.
        Answer::Failed(_) => Ending::Unknown { code: "journal.unavailable", message: words },
    }
}
