//! What the writing thread of a SQLite file is told, and what waits there for the writer's place.
//!
//! Not the thread itself. Invariant: what waits is answered exactly once: by being served, or by
//! [`Waiting::refuse`], which has done nothing.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use rusqlite::InterruptHandle;

use super::barrier;
use super::last_resource::{DecideAsk, Deciding};
use super::sqlite_statement::Statement;
use super::{ExecuteAsk, ParticipantError, PrepareAsk};
use crate::model::ids::CoordinationId;
use crate::model::outcome::{Acknowledgement, Vote};
use crate::model::step::StepAnswer;
use crate::protocol::Standing;
use crate::reply::Reply;

type ListReply = Reply<Result<Vec<CoordinationId>, ParticipantError>>;

/// What the thread is told.
pub(super) enum Ask {
    Prepare { ask: PrepareAsk, deadline: Instant, reply: Reply<Vote> },
    Execute { ask: ExecuteAsk, deadline: Instant, reply: Reply<StepAnswer> },
    Commit { id: CoordinationId, deadline: Instant, reply: Reply<Acknowledgement> },
    Abort { id: CoordinationId, deadline: Instant, reply: Reply<Acknowledgement> },
    Decide { ask: Box<DecideAsk>, deadline: Instant, reply: Reply<Deciding> },
    Forbid { id: CoordinationId, deadline: Instant, reply: Reply<Standing> },
    ReadRow { id: CoordinationId, reply: Reply<Standing> },
    List(ListReply),
    Forget(Vec<CoordinationId>),
    Stop,
}

/// What waits for the place.
pub(super) enum Question {
    Prepare { ask: PrepareAsk, statements: Vec<Statement>, reply: Reply<Vote> },
    Execute { ask: ExecuteAsk, reply: Reply<StepAnswer> },
    Decide { ask: Box<DecideAsk>, statements: Vec<Statement>, reply: Reply<Deciding> },
    Forbid { id: CoordinationId, reply: Reply<Standing> },
    Commit { id: CoordinationId, reply: Reply<Acknowledgement> },
    Abort { id: CoordinationId, reply: Reply<Acknowledgement> },
}

impl Question {
    /// Whether it would end what is prepared.
    pub(super) fn is_ending(&self) -> bool {
        matches!(self, Self::Commit { .. } | Self::Abort { .. })
    }
}

/// A question and how long its answer is of use.
pub(super) struct Waiting {
    pub(super) question: Question,
    pub(super) deadline: Instant,
}

impl Waiting {
    /// Whether it is the prepare of this id, or its decide.
    pub(super) fn prepares(&self, id: &CoordinationId) -> bool {
        match &self.question {
            Question::Prepare { ask, .. } => ask.id() == id,
            Question::Decide { ask, .. } => ask.work.id() == id,
            _ => false,
        }
    }

    /// Answers without having done anything.
    pub(super) fn refuse(self, why: &str) {
        let why = why.to_owned();
        match self.question {
            Question::Prepare { reply, .. } => reply.send(Vote::Abort { reason: why }),
            Question::Decide { reply, .. } => reply.send(Deciding::Refused { reason: why }),
            Question::Forbid { reply, .. } => reply.send(Standing::Unknown),
            Question::Execute { reply, .. } => reply.send(barrier::try_again(why)),
            Question::Commit { reply, .. } | Question::Abort { reply, .. } => {
                reply.send(Acknowledgement::Unknown { message: why });
            }
        }
    }
}

/// Lets an abort cut a prepare's statements short.
pub(super) struct Running {
    id: Mutex<Option<CoordinationId>>,
    handle: InterruptHandle,
}

impl Running {
    pub(super) fn new(handle: InterruptHandle) -> Self {
        Self { id: Mutex::default(), handle }
    }

    /// The mutex is held over the interrupt, so that it cannot hit the next transaction.
    pub(super) fn interrupt(&self, id: &CoordinationId) {
        let running = self.id.lock().unwrap_or_else(PoisonError::into_inner);
        if running.as_ref() == Some(id) {
            self.handle.interrupt();
        }
    }

    pub(super) fn set(&self, id: Option<CoordinationId>) {
        *self.id.lock().unwrap_or_else(PoisonError::into_inner) = id;
    }
}
