//! Mistakes that can be planted around the machines, to prove that the invariants can fail.
//!
//! Not in the engine and not in the machines: each one is a line of the harness that a driver, a
//! recovery or a journal could get wrong.

/// One mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bug {
    /// The driver lets effects go before the record that they stand behind.
    CutIgnored,
    /// Recovery does not see which tries were begun.
    RecoveryForgetsTries,
    /// Recovery does not see what was done.
    RecoveryForgetsDone,
    /// Recovery does not see that the saga had turned round.
    RecoveryForgetsDecision,
    /// Recovery leaves what was undecided alone.
    NeverRecovers,
    /// The driver takes a lost answer of a step for a failure.
    LostIsFailed,
    /// The driver takes a lost answer of a step for success.
    LostIsDone,
    /// The driver takes a lost answer of a compensation for success.
    LostUndoIsDone,
    /// The journal lets a second decision replace the first.
    LastDecisionStands,
    /// The driver goes on with what it held back although the journal overruled it.
    OverruledGoesOn,
    /// The driver tells the machine of an old try as if it were the one that is out.
    OldTryCounts,
    /// The driver asks before it has the locks.
    AsksBeforeLocked,
    /// The driver takes a lost answer of the consensus service for "it is aborted".
    LostReadIsAbort,
    /// The driver tells every coordination at once that its turn has come.
    TurnsIgnored,
    /// The driver lets the next in line go when an operation is asked, not when it is done.
    LeavesTooEarly,
    /// A process takes requests before what was left open stands in line.
    AdmitsBeforeRecovery,
    /// The driver never steps the machines because of time.
    TimeStandsStill,
}

impl Bug {
    pub(super) const ALL: [Self; 17] = [
        Self::CutIgnored,
        Self::RecoveryForgetsTries,
        Self::RecoveryForgetsDone,
        Self::RecoveryForgetsDecision,
        Self::NeverRecovers,
        Self::LostIsFailed,
        Self::LostIsDone,
        Self::LostUndoIsDone,
        Self::LastDecisionStands,
        Self::OverruledGoesOn,
        Self::OldTryCounts,
        Self::AsksBeforeLocked,
        Self::LostReadIsAbort,
        Self::TurnsIgnored,
        Self::LeavesTooEarly,
        Self::AdmitsBeforeRecovery,
        Self::TimeStandsStill,
    ];
}
