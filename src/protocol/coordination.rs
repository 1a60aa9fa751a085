//! The machine of one coordination, of whichever kind its request asks for.
//!
//! No rules of its own. It is an enum and no boxed trait object, so that the common kind costs no
//! allocation more.

use std::ops::{Deref, DerefMut};

use super::Machine;
use super::choreography::Choreography;
use super::two_phase::TwoPhase;

/// One coordination's machine.
#[derive(Debug)]
pub enum Coordination {
    /// All or none, by prepare and commit.
    TwoPhase(TwoPhase),
    /// Steps and compensations, driven by events.
    Choreography(Box<Choreography>),
}

impl Deref for Coordination {
    type Target = dyn Machine;

    fn deref(&self) -> &Self::Target {
        match self {
            Self::TwoPhase(machine) => machine,
            Self::Choreography(machine) => machine.as_ref(),
        }
    }
}

impl DerefMut for Coordination {
    fn deref_mut(&mut self) -> &mut Self::Target {
        match self {
            Self::TwoPhase(machine) => machine,
            Self::Choreography(machine) => machine.as_mut(),
        }
    }
}
