//! The transition table of a choreographed saga, as the process sees it that answers for it.
//!
//! Not the route (`route`) and not the steps: each of those is a coordination of its own at whoever
//! takes it. Invariant: a rule is taken only from a state in its `from`.

use crate::protocol::table::{states, transitions};

states! {
    /// Where a choreographed saga stands.
    pub enum State {
        /// Built, not begun.
        New,
        /// On its way from store to store, forward or back.
        Walking,
        /// It came to an end, and that is recorded.
        Ended,
    }
}

transitions! {
    Begin: [New] "Started", "" => Walking,
        "record BEGIN (forced); publish; walk: send the route on its way";
    Resume: [New] "Resumed", "" => Walking,
        "walk again: hosts that have done their part say so from their journals";
    WalkAgain: [Walking] "TimeReached", "no end was heard for long" => same,
        "walk again: a message may be lost, a process that took one may be dead";
    RouteCompleted: [Walking] "RouteEnded", "the last operation is done" => Ended,
        "record DECISION commit and END (forced); publish; finish as committed";
    RouteUndone: [Walking] "RouteEnded", "one failed, and those before it are undone" => Ended,
        "record DECISION abort and END (forced); publish; finish as aborted";
    AnswerDue: [Walking] "TimeReached", "the caller's wait is over" => same,
        "answer that it is not known yet; the saga goes on";
    AbortTooLate: [New, Walking, Ended] "AbortRequested", "" => same,
        "nothing: nobody can say how far it is";
    Ignored: [New, Walking, Ended] "any", "late, doubled, or of no use here" => same,
        "nothing";
}
