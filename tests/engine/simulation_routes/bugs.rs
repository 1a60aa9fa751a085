//! Mistakes that can be planted around the machine, to prove that the invariants can fail.
//!
//! Not in the engine and not in the machine: each one is a line of the harness that a driver, a
//! recovery, a stop or a journal could get wrong.

/// One mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bug {
    /// The driver sends the slip before its beginning is on disk.
    CutIgnored,
    /// The driver never steps the machines because of time, so no slip is sent again.
    TimeStandsStill,
    /// Nobody takes over a saga that a dead process answers for.
    NeverRecovers,
    /// Nobody takes over a stop that a dead process was at.
    StopsNeverRecovered,
    /// The driver takes every end for a success.
    EveryEndIsSuccess,
    /// A slip is acknowledged before what follows is on the bus.
    AcknowledgedTooEarly,
    /// A stop that was done is done again when its slip comes again.
    JournalNotAsked,
    /// A stop is taken although another process is at it.
    TwoTakeOne,
    /// A slip goes back from an operation whose failure is not on disk.
    FailureNotRecorded,
    /// A slip goes back because an operation could not even be begun, which nobody recorded.
    RefusalTurnsBack,
    /// A slip goes back to the first operation first.
    UndoneFromTheFirst,
    /// A stop takes a lost answer of a store for success.
    LostIsDone,
}

impl Bug {
    pub(super) const ALL: [Self; 12] = [
        Self::CutIgnored,
        Self::TimeStandsStill,
        Self::NeverRecovers,
        Self::StopsNeverRecovered,
        Self::EveryEndIsSuccess,
        Self::AcknowledgedTooEarly,
        Self::JournalNotAsked,
        Self::TwoTakeOne,
        Self::FailureNotRecorded,
        Self::RefusalTurnsBack,
        Self::UndoneFromTheFirst,
        Self::LostIsDone,
    ];
}
