//! The transition table of eventual consistency: the only place that says which states follow.
//!
//! Not the code of the steps: the other files name the rules that they take, and taking one moves
//! the state. `protocols.md` is printed from here. Invariant: a rule is taken only from a
//! state in its `from`; [`super::Eventual`] asserts it.

use crate::protocol::table::{states, transitions};

states! {
    /// Where a coordination stands, finer than the public state.
    pub enum State {
        /// Built, not begun.
        New,
        /// Accepted; operations are delivered until all are done.
        Delivering,
        /// The tries of an operation are spent; an operator is needed, others go on.
        Parked,
        /// Nothing is left to do.
        Ended,
    }
}

transitions! {
    Accept: [New] "Started", "" => Delivering,
        "record BEGIN (forced): the acceptance, and the intent of the first operation of each key; stand in line for the keys; publish the start; at the level \"eventual\" answer";
    TurnCame: [Delivering, Parked] "TurnCame", "operations of the key are not done" => same,
        "execute the first of them; one that is not the key's first, or was asked before, after `STEP_STARTED` (forced)";
    StepDone: [Delivering, Parked] "StepAnswered", "done" => same,
        "record `STEP_DONE`, with the next forced record or forced";
    NextOfKey: [Delivering, Parked] "StepAnswered or Resolved", "the key has another operation, and its turn" => same,
        "record `STEP_STARTED` (forced); execute it";
    KeyDone: [Delivering, Parked] "StepAnswered or Resolved", "the key has no other operation" => same,
        "leave the key's line: the next coordination's turn comes";
    TryFailed: [Delivering, Parked] "StepAnswered", "failed or unknown, and it is tried again" => same,
        "record `STEP_FAILED` (lazy); try again after a capped backoff";
    TryAgain: [Delivering, Parked] "TimeReached", "the backoff of an operation passed" => same,
        "record `STEP_STARTED` (forced); execute it again";
    StepParked: [Delivering, Parked] "StepAnswered", "the tries are spent, or it refused for good" => Parked,
        "record `STEP_FAILED`, PARKED (forced); alert; finish as failed; other keys go on, the same key waits";
    Redriven: [Parked] "Redriven", "a parked operation that has its turn" => same,
        "record REDRIVEN and `STEP_STARTED` (forced); execute it, with fresh tries";
    RedrivenLater: [Parked] "Redriven", "a parked operation whose turn has not come again since a crash" => same,
        "record REDRIVEN (forced); it is executed when its turn comes";
    ByHand: [Delivering, Parked] "Resolved commit", "an operation is parked, or waits to be tried again" => same,
        "record `STEP_DONE` (forced) of each: an operator did it by hand";
    GivenUpByHand: [Delivering, Parked] "Resolved abort", "an operation is parked, or waits to be tried again" => same,
        "record `STEP_FAILED` as final (forced) of each: an operator gives it up";
    Unparked: [Parked] "Redriven or Resolved", "nothing else is parked" => Delivering,
        "go on";
    Done: [Delivering] "any", "every operation is done or given up" => Ended,
        "record END (lazy); publish; finish as committed";
    AnswerDue: [Delivering] "TimeReached", "the caller's wait is over" => same,
        "answer how it stands; delivery goes on";
    AbortTooLate: [New, Delivering, Parked, Ended] "AbortRequested", "" => same,
        "nothing: the acceptance is the decision";
    Resumed: [New] "Resumed", "" => Delivering,
        "stand in line for the keys again; what was out may have run, and is asked again with the next number";
    ResumedParked: [New] "Resumed", "PARKED of some operation" => Parked,
        "the same; finish as failed";
    Ignored: [New, Delivering, Parked, Ended] "any", "late, doubled, or of no use here" => same,
        "nothing";
}
