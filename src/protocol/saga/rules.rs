//! The transition table of an orchestrated saga: the only place that says which states follow.
//!
//! Not the code of the steps: the other files name the rules that they take, and taking one moves
//! the state. `protocols.md` is printed from here. Invariant: a rule is taken only from a
//! state in its `from`; [`super::Saga`] asserts it.

use crate::protocol::table::{states, transitions};

states! {
    /// Where a saga stands, finer than the public state.
    pub enum State {
        /// Built, not begun.
        New,
        /// Locks are waited for; nothing was asked of any participant.
        Locking,
        /// Steps are being done; it may still turn round.
        Executing,
        /// A decision is proposed to the consensus service.
        Proposing,
        /// The consensus service is asked what stands.
        Reading,
        /// Nobody knows whether it is decided; asked again later.
        InDoubt,
        /// Decided commit: it only goes forward.
        Committing,
        /// Decided abort; tries that are out are waited for.
        Turning,
        /// Decided abort; steps are being undone, one after the other.
        Compensating,
        /// The tries of a step are spent; an operator is needed.
        Parked,
        /// Nothing is left to do.
        Ended,
    }
}

transitions! {
    Lock: [New] "Started", "locks are needed" => Locking,
        "acquire them, all or none, within the lock timeout";
    Begin: [New] "Started", "no locks are needed" => Executing,
        "record BEGIN (forced), the intent of the steps that depend on none; publish the start; execute those";
    Locked: [Locking] "Locked", "a new saga" => Executing,
        "record BEGIN with the tokens, publish and execute as Begin does";
    LockRefused: [Locking] "LockRefused", "a new saga" => Ended,
        "finish as aborted; nothing is recorded, because nothing was asked of anybody";
    LockTimedOut: [Locking] "TimeReached or Locked", "a new saga, its time passed" => Ended,
        "release: give the wait up; finish as aborted";
    LockGivenUp: [Locking] "AbortRequested or Resolved abort", "a new saga" => Ended,
        "release: give the wait up; finish as aborted";
    StepDone: [Executing, Proposing, Reading, InDoubt, Committing, Turning, Parked] "StepAnswered", "a try to execute is done" => same,
        "record `STEP_DONE`, with the next forced record or forced; before the decision and after a commit go on as the table says below";
    StepsReady: [Executing, Committing, Parked] "any", "steps whose dependencies are all done were not asked yet" => same,
        "record `STEP_STARTED` of each (one batch, forced); execute them, side by side";
    TryFailed: [Executing, Committing, Parked] "StepAnswered", "failed or unknown, and it is tried again" => same,
        "record `STEP_FAILED` (lazy); try again after a capped backoff";
    TryAgain: [Executing, Committing, Parked] "TimeReached", "the backoff of a step passed" => same,
        "record `STEP_STARTED` (forced); execute it again";
    TriesSpent: [Executing, Proposing, Reading, InDoubt, Turning, Parked] "StepAnswered", "failed or unknown, the tries are spent, it refused for good, or the saga turns round" => same,
        "record `STEP_FAILED` as final; before the decision the saga is to turn round";
    TimedOut: [Executing] "any", "the caller's time passed" => same,
        "the saga is to turn round";
    AbortAsked: [Locking, Executing] "AbortRequested or Resolved abort", "no decision" => same,
        "the saga is to turn round";
    LockLost: [Executing] "LockLost", "" => same,
        "the saga is to turn round";
    TurnWaits: [Executing] "any", "it is to turn round, but a pivot that cannot be undone is out or in doubt" => same,
        "ask for nothing new but the pivot again: its answer says which way the saga goes";
    PivotParked: [Executing] "any", "it is to turn round, and the tries of a pivot in doubt that cannot be undone are spent" => Parked,
        "record PARKED (forced); alert; finish as failed";
    Commit: [Executing] "any", "the pivot is done, or without a pivot all steps are; no consensus service" => Committing,
        "record DECISION commit (forced); go forward";
    CommitPropose: [Executing] "any", "the pivot is done, or without a pivot all steps are; consensus service" => Proposing,
        "propose COMMIT";
    Turn: [Executing] "any", "it is to turn round; no consensus service" => Turning,
        "record DECISION abort (forced); wait for the tries that are out";
    TurnPropose: [Executing] "any", "it is to turn round; consensus service" => Proposing,
        "propose ABORT";
    CommitTaken: [Proposing, Reading] "Proposed or DecisionRead", "COMMIT stands" => Committing,
        "record DECISION commit (forced); go forward";
    AbortTaken: [Proposing, Reading] "Proposed or DecisionRead", "ABORT stands" => Turning,
        "record DECISION abort (forced); wait for the tries that are out";
    ProposalLost: [Proposing] "Proposed", "not taken, or no answer" => Reading,
        "read what stands: unknown is not failed";
    NothingStands: [Reading] "DecisionRead", "nothing stands" => Proposing,
        "propose ABORT, or COMMIT once a pivot that cannot be undone is done";
    NothingProposed: [Reading] "DecisionRead", "nothing stands, and a resumed saga had proposed nothing" => Executing,
        "go on as before the crash";
    StillOpen: [Reading] "DecisionRead", "nothing stands though it was proposed before, or no answer" => InDoubt,
        "read again after a backoff";
    AskAgain: [InDoubt] "TimeReached", "the backoff passed" => Reading,
        "read what stands";
    ResolvedCommit: [Proposing, Reading, InDoubt] "Resolved", "commit" => Committing,
        "record DECISION commit (forced), an operator's; go forward";
    ResolvedAbort: [Proposing, Reading, InDoubt] "Resolved", "abort" => Turning,
        "record DECISION abort (forced), an operator's; wait for the tries that are out";
    StepParked: [Committing, Parked] "StepAnswered", "after a commit a step refused for good" => Parked,
        "record `STEP_FAILED`, PARKED (forced); alert; finish as failed; others go on";
    CommitDone: [Committing] "any", "every step is done" => Ended,
        "record END (lazy); release; publish; finish as committed";
    Turned: [Turning] "any", "no try is out" => Compensating,
        "undo what was done, or may have been";
    UndoNext: [Compensating] "any", "nothing is being undone" => same,
        "record `STEP_STARTED` of the next compensation (forced): first what may have run, then what was done, in reverse; ask for it";
    StepUndone: [Compensating] "StepAnswered", "a compensation is done" => same,
        "record `STEP_DONE`, with the next forced record";
    UndoFailed: [Compensating] "StepAnswered", "a compensation failed or is unknown, and is tried again" => same,
        "record `STEP_FAILED` (lazy); try again after a capped backoff";
    UndoAgain: [Compensating] "TimeReached", "the backoff of a compensation passed" => same,
        "record `STEP_STARTED` (forced); ask for the compensation again";
    UndoParked: [Compensating] "StepAnswered", "the tries of a compensation are spent, or it refused for good" => Parked,
        "record `STEP_FAILED`, PARKED (forced); alert; finish as failed; those behind it wait";
    AbortDone: [Compensating] "any", "nothing is left to undo" => Ended,
        "record END (lazy); release; publish; finish as aborted";
    Redriven: [Parked] "Redriven", "a parked step" => same,
        "record REDRIVEN and `STEP_STARTED` (forced); ask again, with fresh tries";
    ByHand: [Committing, Compensating, Parked] "Resolved", "the decision that stands; commit for a pivot in doubt" => same,
        "record `STEP_DONE` of what is parked or waits to be tried again: an operator did it by hand";
    GivenUpByHand: [Parked] "Resolved abort", "a pivot in doubt, before a decision" => same,
        "record `STEP_FAILED` as final: an operator says that it was not done; turn round";
    UnparkedForward: [Parked] "Redriven or Resolved", "commit is decided, nothing else is parked" => Committing,
        "go forward";
    UnparkedBack: [Parked] "Redriven or Resolved", "abort is decided" => Compensating,
        "go on undoing";
    UnparkedUndecided: [Parked] "Redriven or Resolved", "no decision" => Executing,
        "go on";
    OverruledCommit: [Turning, Compensating, Parked, Ended] "Overruled", "COMMIT stands in the journal" => Committing,
        "record again what was held back, go forward: the journal's first decision wins";
    OverruledAbort: [Committing, Parked, Ended] "Overruled", "ABORT stands in the journal" => Turning,
        "record again what was held back, wait for the tries that are out: the journal's first decision wins";
    AbortTooLate: [New, Locking, Proposing, Reading, InDoubt, Committing, Turning, Compensating, Parked, Ended] "AbortRequested", "" => same,
        "nothing: the decision is on its way or made";
    AnswerDue: [Executing, Proposing, Reading, InDoubt, Committing, Turning, Compensating] "TimeReached", "the caller's wait is over" => same,
        "answer how it stands; the saga goes on";
    ResumedLock: [New] "Resumed", "locks are needed" => Locking,
        "acquire them again, for ever, before anything else is done";
    LockRefusedAgain: [Locking] "LockRefused", "a resumed saga" => same,
        "acquire them again after a capped backoff, for ever";
    LockAgain: [Locking] "TimeReached", "a resumed saga, the backoff passed" => same,
        "acquire them again";
    ResumedExecuting: [New, Locking] "Resumed or Locked", "no decision in the journal, no consensus service" => Executing,
        "go on; what was out may have run, and is asked again with the next number";
    ResumedUnread: [New, Locking] "Resumed or Locked", "no decision in the journal, consensus service" => Reading,
        "read what stands";
    ResumedCommit: [New, Locking] "Resumed or Locked", "DECISION commit" => Committing,
        "go forward; what was out is asked again with the next number";
    ResumedAbort: [New, Locking] "Resumed or Locked", "DECISION abort" => Turning,
        "go on undoing; what was out may have run";
    ResumedParked: [New, Locking] "Resumed or Locked", "PARKED of some step" => Parked,
        "finish as failed; after a commit the others go on";
    Ignored: [New, Locking, Executing, Proposing, Reading, InDoubt, Committing, Turning, Compensating, Parked, Ended] "any", "late, doubled, or of no use here" => same,
        "nothing";
}
