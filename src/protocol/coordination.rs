//! The machine of one coordination, of whichever kind its request asks for.
//!
//! No rules of its own. It is an enum and no boxed trait object, so that the common kind costs no
//! allocation more; the others are boxed, so that it is no larger for them.

use std::ops::{Deref, DerefMut};

use super::Machine;
use super::choreography::Choreography;
use super::event_sourcing::EventSourcing;
use super::eventual::Eventual;
use super::saga::Saga;
use super::two_phase::TwoPhase;

/// One coordination's machine.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "the common kind is the large one, and not boxed")]
pub enum Coordination {
    /// All or none, by prepare and commit.
    TwoPhase(TwoPhase),
    /// Steps and compensations, driven by events.
    Choreography(Box<Choreography>),
    /// Steps, undone in reverse when one fails.
    Saga(Box<Saga>),
    /// Events appended with version checks, then projected.
    EventSourcing(Box<EventSourcing>),
    /// Accepted durably, delivered later.
    Eventual(Box<Eventual>),
}

impl Deref for Coordination {
    type Target = dyn Machine;

    fn deref(&self) -> &Self::Target {
        match self {
            Self::TwoPhase(machine) => machine,
            Self::Choreography(machine) => machine.as_ref(),
            Self::Saga(machine) => &**machine,
            Self::EventSourcing(machine) => &**machine,
            Self::Eventual(machine) => &**machine,
        }
    }
}

impl DerefMut for Coordination {
    fn deref_mut(&mut self) -> &mut Self::Target {
        match self {
            Self::TwoPhase(machine) => machine,
            Self::Choreography(machine) => machine.as_mut(),
            Self::Saga(machine) => &mut **machine,
            Self::EventSourcing(machine) => &mut **machine,
            Self::Eventual(machine) => &mut **machine,
        }
    }
}
