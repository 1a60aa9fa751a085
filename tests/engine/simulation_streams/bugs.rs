//! Mistakes that can be planted around the machines, to prove that the invariants can fail.
//!
//! Not in the engine and not in the machines: each one is a line of the harness that a driver, a
//! recovery, a projection or a journal could get wrong.

/// One mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bug {
    /// The driver lets effects go before the record that they stand behind.
    CutIgnored,
    /// The driver goes on with what it held back although a version was not the expected one.
    RefusedGoesOn,
    /// The journal does not look at expected versions.
    VersionsIgnored,
    /// A crash leaves a part of the events of one begin.
    TornAppend,
    /// The journal takes a second begin under one id.
    SecondBeginStands,
    /// What is resumed waits for no store.
    RecoveryWaitsForNothing,
    /// Nobody takes over what a dead process left open.
    NeverRecovers,
    /// A projection takes a lost answer for "it is applied".
    LostIsApplied,
    /// A projection writes how far it is when it hands an event over.
    WritesBeforeApplied,
    /// The journal takes a position under a generation that is over.
    GenerationIgnored,
    /// A process takes a projection from one that lives.
    ClaimsFromTheLiving,
    /// The driver never steps the machines because of time.
    TimeStandsStill,
}

impl Bug {
    pub(super) const ALL: [Self; 12] = [
        Self::CutIgnored,
        Self::RefusedGoesOn,
        Self::VersionsIgnored,
        Self::TornAppend,
        Self::SecondBeginStands,
        Self::RecoveryWaitsForNothing,
        Self::NeverRecovers,
        Self::LostIsApplied,
        Self::WritesBeforeApplied,
        Self::GenerationIgnored,
        Self::ClaimsFromTheLiving,
        Self::TimeStandsStill,
    ];
}
