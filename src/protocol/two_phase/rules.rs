//! The transition table of two-phase commit: the only place that says which states follow.
//!
//! Not the code of the steps: `mod.rs` names the rule it takes, and taking it moves the state.
//! `protocols.md` is printed from here. Invariant: a rule is taken only from a state in its
//! `from`; [`super::TwoPhase`] asserts it.

use crate::protocol::table::{states, transitions};

states! {
    /// Where a coordination stands, finer than the public state.
    pub enum State {
        /// Built, not begun.
        New,
        /// Locks are waited for; nothing was asked of any store.
        Locking,
        /// Votes are being gathered.
        Preparing,
        /// A decision is proposed to the consensus service, or to the last resource.
        Proposing,
        /// The consensus service, or the last resource, is asked what stands.
        Reading,
        /// Nobody knows whether it is decided; asked again later.
        InDoubt,
        /// Decided commit; delivered until done.
        Committing,
        /// Decided abort; delivered until done.
        Aborting,
        /// A store gave a contrary final word; an operator resolves it.
        Heuristic,
        /// Nothing is left to do.
        Ended,
    }
}

transitions! {
    BeginLast: [New] "Started", "no locks are needed, and the last resource is the only store" => Proposing,
        "record BEGIN (forced) with the last resource's name; publish the start; propose COMMIT to it";
    Lock: [New] "Started", "locks are needed" => Locking,
        "acquire them, all or none, within the prepare deadline";
    Begin: [New] "Started", "no locks are needed" => Preparing,
        "record BEGIN (forced, or accepted when every store lists its prepared work and none is the last \
         resource); publish the start; ask prepare of all but that, single-writer stores one after \
         the other";
    Locked: [Locking] "Locked", "a new coordination" => Preparing,
        "record BEGIN with the tokens, publish and ask as Begin does";
    LockedLast: [Locking] "Locked", "a new coordination, and the last resource is the only store" => Proposing,
        "record BEGIN with the tokens, publish and propose as without locks";
    LockRefused: [Locking] "LockRefused", "a new coordination" => Ended,
        "finish as aborted; nothing is recorded, because nothing was asked of any store";
    LockTimedOut: [Locking] "TimeReached", "a new coordination, the prepare deadline passed" => Ended,
        "release: give the wait up; finish as aborted";
    LockGivenUp: [Locking] "AbortRequested or Resolved abort", "a new coordination" => Ended,
        "release: give the wait up; finish as aborted";
    LockLost: [Preparing] "LockLost", "no consensus service" => Aborting,
        "record DECISION abort (accepted); ask abort of all that answered";
    LockLostPropose: [Preparing] "LockLost", "consensus service" => Proposing,
        "propose ABORT";
    VoteCounted: [Preparing] "Voted", "yes or read-only, others are missing" => same,
        "ask prepare of the next single-writer store";
    AllYes: [Preparing] "Voted", "the last vote, none against, nobody else decides" => Committing,
        "record DECISION commit (forced); ask commit of all that voted COMMIT";
    AllYesPropose: [Preparing] "Voted", "the last vote, none against, consensus service or last resource" => Proposing,
        "propose COMMIT";
    AllReadOnly: [Preparing] "Voted", "the last vote, all are read-only, no last resource" => Ended,
        "record END (lazy); finish as committed: no decision is needed";
    VoteAgainst: [Preparing] "Voted", "ABORT or unknown, no consensus service" => Aborting,
        "record DECISION abort (accepted); ask abort of all that answered";
    VoteAgainstPropose: [Preparing] "Voted", "ABORT or unknown, consensus service" => Proposing,
        "propose ABORT";
    PrepareTimedOut: [Preparing] "TimeReached", "the prepare deadline passed, no consensus service" => Aborting,
        "record DECISION abort (accepted); ask abort of all that were asked";
    PrepareTimedOutPropose: [Preparing] "TimeReached", "the prepare deadline passed, consensus service" => Proposing,
        "propose ABORT";
    AbortAsked: [Preparing] "AbortRequested or Resolved abort", "no consensus service" => Aborting,
        "record DECISION abort (accepted); ask abort of all that answered";
    AbortAskedPropose: [Preparing] "AbortRequested or Resolved abort", "consensus service" => Proposing,
        "propose ABORT";
    AbortTooLate: [New, Locking, Proposing, Reading, InDoubt, Committing, Aborting, Heuristic, Ended] "AbortRequested", "" => same,
        "nothing: the decision is on its way or made";
    LastRefused: [Proposing] "ProposalRefused", "the last resource rolled back, for certain" => Aborting,
        "record DECISION abort (accepted); ask abort of all others";
    CommitTaken: [Proposing, Reading] "Proposed or DecisionRead", "COMMIT stands" => Committing,
        "record DECISION commit (forced; accepted where a last resource's row stands); ask commit of all others that voted COMMIT";
    AbortTaken: [Proposing, Reading] "Proposed or DecisionRead", "ABORT stands" => Aborting,
        "record DECISION abort (accepted); ask abort of all that answered";
    ProposalLost: [Proposing] "Proposed", "not taken, or no answer" => Reading,
        "read what stands: unknown is not failed";
    NothingStands: [Reading] "DecisionRead", "nothing stands, ABORT not tried yet" => Proposing,
        "propose ABORT";
    StillOpen: [Reading] "DecisionRead", "nothing stands though ABORT was proposed, or no answer" => InDoubt,
        "read again after a backoff";
    AskAgain: [InDoubt] "TimeReached", "the backoff passed" => Reading,
        "read what stands";
    OverruledCommit: [Proposing, Reading, InDoubt, Aborting, Ended] "Overruled", "COMMIT stands in the journal" => Committing,
        "ask commit of all that are not read-only: the journal's first decision wins";
    OverruledAbort: [Proposing, Reading, InDoubt, Committing, Ended] "Overruled", "ABORT stands in the journal" => Aborting,
        "ask abort of all that answered: the journal's first decision wins";
    Acknowledged: [Committing, Aborting] "Acknowledged", "done, others are missing" => same,
        "nothing";
    CommitDone: [Committing] "Acknowledged", "done, the last one" => Ended,
        "record END (lazy); publish; finish as committed";
    AbortDone: [Aborting] "Acknowledged or Voted", "nothing is left to undo" => Ended,
        "record END (lazy); publish; finish as aborted";
    DeliveryUnknown: [Committing, Aborting, Heuristic] "Acknowledged", "no answer" => same,
        "ask again after a capped backoff, for ever";
    ToldEarly: [Aborting] "Acknowledged", "the answer to an abort that was asked before a late vote came" => same,
        "ask abort again: the answer does not count";
    AskDeliveryAgain: [Committing, Aborting, Heuristic] "TimeReached", "a store's backoff passed" => same,
        "ask commit or abort again";
    StoreRefused: [Committing, Aborting, Heuristic] "Acknowledged", "the store's final word is contrary, others are missing" => same,
        "record HEURISTIC (forced); alert";
    HeuristicEnd: [Committing, Aborting] "Acknowledged", "the last one, and some store's final word was contrary" => Heuristic,
        "record HEURISTIC (forced) if this store's; finish as failed; kept for an operator";
    HeuristicAcknowledged: [Heuristic] "Acknowledged", "a store that was asked again after recovery is done" => same,
        "nothing";
    LateVote: [Proposing, Reading, InDoubt, Committing, Aborting, Heuristic] "Voted", "the first answer of a store that was not waited for" => same,
        "ask of it what is decided, again if it was asked before";
    AnswerDue: [Proposing, Reading, InDoubt, Committing, Aborting] "TimeReached", "the caller's wait is over" => same,
        "answer how it stands; the coordination goes on";
    ResolvedCommit: [Proposing, Reading, InDoubt] "Resolved", "commit" => Committing,
        "record DECISION commit (forced), an operator's; ask commit of all that voted for it";
    ResolvedAbort: [Proposing, Reading, InDoubt] "Resolved", "abort" => Aborting,
        "record DECISION abort (forced), an operator's; ask abort of all that answered";
    ResolvedDelivery: [Committing, Aborting] "Resolved", "the decision that stands" => Ended,
        "record HEURISTIC for every silent store, then END (forced): an operator answers for them";
    ResolvedHeuristic: [Heuristic] "Resolved", "" => Ended,
        "record HEURISTIC for every silent store, then END (forced) with the operator's words";
    ResumedLock: [New] "Resumed", "locks are needed" => Locking,
        "acquire them again, for ever, before anything else is done";
    LockRefusedAgain: [Locking] "LockRefused", "a resumed coordination" => same,
        "acquire them again after a capped backoff, for ever";
    LockAgain: [Locking] "TimeReached", "a resumed coordination, the backoff passed" => same,
        "acquire them again";
    ResumedUndecided: [New, Locking] "Resumed or Locked", "no decision in the journal, nobody else decides" => Aborting,
        "record DECISION abort (accepted); ask abort of all: presumed abort";
    ResumedUnread: [New, Locking] "Resumed or Locked", "no decision in the journal, consensus service or last resource" => Reading,
        "read what stands";
    ResumedCommit: [New, Locking] "Resumed or Locked", "DECISION commit" => Committing,
        "ask commit of all but the read-only ones";
    ResumedAbort: [New, Locking] "Resumed or Locked", "DECISION abort" => Aborting,
        "ask abort of all";
    ResumedHeuristic: [New, Locking] "Resumed or Locked", "HEURISTIC of some store" => Heuristic,
        "ask the others again; finish as failed; kept for an operator";
    Ignored: [New, Locking, Preparing, Proposing, Reading, InDoubt, Committing, Aborting, Heuristic, Ended] "any", "late, doubled, or of no use here" => same,
        "nothing";
}
