//! The transition table of event sourcing: the only place that says which states follow.
//!
//! Not the versions of streams (the journal judges them) and not the projections (the engine runs
//! them). Invariant: a rule is taken only from a state in its `from`.

use crate::protocol::table::{states, transitions};

states! {
    /// Where a coordination of events stands.
    pub enum State {
        /// Built, not begun.
        New,
        /// The events are appended, or the begin that appends them is on its way; stores are waited
        /// for.
        Projecting,
        /// Nothing is left to do.
        Ended,
    }
}

transitions! {
    Begin: [New] "Started", "" => Projecting,
        "record BEGIN (forced), which appends the events and is the decision to commit; publish; \
         answer at once if the consistency is eventual; await the projections";
    VersionRefused: [Projecting] "VersionRefused", "the journal did not keep the begin" => Ended,
        "finish as aborted; nothing is recorded, because nothing was appended";
    Resume: [New] "Resumed", "" => Projecting,
        "await the projections";
    Projected: [Projecting] "Projected", "others are missing" => same,
        "nothing";
    AllProjected: [Projecting] "Projected", "the last one" => Ended,
        "record END (lazy); publish; finish as committed";
    AnswerDue: [Projecting] "TimeReached", "the caller's wait is over" => same,
        "answer that the events stand, and which stores have not applied them yet";
    ResolvedCommit: [Projecting] "Resolved", "commit" => Ended,
        "record END (forced); publish; finish as committed: nobody waits for the other stores";
    AbortTooLate: [New, Projecting, Ended] "AbortRequested", "" => same,
        "nothing: what is appended stands";
    Ignored: [New, Projecting, Ended] "any", "late, doubled, or of no use here" => same,
        "nothing";
}
