//! Mistakes that can be planted around the machine, to prove that the invariants can fail.
//!
//! Not in the engine and not in the machine: each one is a line of the harness that a driver, a
//! recovery or a journal could get wrong.

/// One mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bug {
    /// The driver lets effects go before the record that they stand behind.
    CutIgnored,
    /// Recovery takes a coordination without a decision for one that has nothing to undo.
    RecoveryForgetsAbort,
    /// Recovery takes a coordination without a decision for a committed one.
    PresumedCommit,
    /// The driver drops a vote that nobody waits for any more.
    LateVoteDropped,
    /// The driver takes a lost answer to abort for an acknowledgement.
    LostAbortIsDone,
    /// The driver takes a lost answer to commit for an acknowledgement.
    LostCommitIsDone,
    /// The driver takes a lost answer of the consensus service for "it is aborted".
    LostReadIsAbort,
    /// The journal lets a second decision replace the first.
    LastDecisionStands,
    /// The journal takes records from an owner that was deposed.
    DeposedOwnerWrites,
    /// The driver goes on with what it held back although the journal overruled it.
    OverruledGoesOn,
    /// Stores are told to forget before the end is on disk.
    ForgetsTooEarly,
    /// The sweep rolls back what is prepared although its coordination is not over.
    SweepsUndecided,
    /// Nobody sweeps prepared work that no record tells of.
    NeverSweeps,
    /// The driver lets go of the locks when the decision is told.
    ReleasesTooEarly,
    /// The driver takes locks for held that it has only asked for.
    PreparesBeforeLocked,
    /// Recovery goes on without the locks.
    RecoveryTakesNoLocks,
    /// The driver does not tell the machine of a lock that was lost.
    LostLockIgnored,
    /// A process takes requests before it has asked for the locks of what was left open.
    AdmitsBeforeRecovery,
    /// The journal keeps the decision without the receipts.
    ReceiptsLost,
    /// The last resource commits without the row of the decision.
    RowNotWritten,
    /// The last resource says that no commit will come, and writes no row that forbids it.
    NoRowOfAbort,
    /// The driver takes a lost answer of the last resource for its word that it rolled back.
    LostDecideIsRefused,
    /// The driver never steps the machine because of time.
    TimeStandsStill,
}

impl Bug {
    pub(super) const ALL: [Self; 23] = [
        Self::CutIgnored,
        Self::RecoveryForgetsAbort,
        Self::PresumedCommit,
        Self::LateVoteDropped,
        Self::LostAbortIsDone,
        Self::LostCommitIsDone,
        Self::LostReadIsAbort,
        Self::LastDecisionStands,
        Self::DeposedOwnerWrites,
        Self::OverruledGoesOn,
        Self::ForgetsTooEarly,
        Self::SweepsUndecided,
        Self::NeverSweeps,
        Self::ReleasesTooEarly,
        Self::PreparesBeforeLocked,
        Self::RecoveryTakesNoLocks,
        Self::LostLockIgnored,
        Self::AdmitsBeforeRecovery,
        Self::ReceiptsLost,
        Self::RowNotWritten,
        Self::NoRowOfAbort,
        Self::LostDecideIsRefused,
        Self::TimeStandsStill,
    ];
}
