//! The machine of one coordination, of whichever kind its request asks for.
//!
//! No rules of its own. It is an enum and no boxed trait object, so that the common kind costs no
//! allocation more.

use std::ops::{Deref, DerefMut};

use super::Machine;
use super::two_phase::TwoPhase;

/// One coordination's machine.
#[derive(Debug)]
pub enum Coordination {
    /// All or none, by prepare and commit.
    TwoPhase(TwoPhase),
}

impl Deref for Coordination {
    type Target = dyn Machine;

    fn deref(&self) -> &Self::Target {
        match self {
            Self::TwoPhase(machine) => machine,
        }
    }
}

impl DerefMut for Coordination {
    fn deref_mut(&mut self) -> &mut Self::Target {
        match self {
            Self::TwoPhase(machine) => machine,
        }
    }
}
