//! The transition table of a claim on a resource: every way in which one comes, stays and goes.
//!
//! Not the code of the steps: those name the rule they take. `protocols.md` is printed from
//! here. Invariant: a rule is taken only from a state in its `from`.

use crate::protocol::table::{states, transitions};

states! {
    /// Where a claim stands.
    pub enum State {
        /// Asked for, not judged yet.
        Asked,
        /// In the queue.
        Waiting,
        /// Granted.
        Held,
        /// Gone; nothing of it is left.
        Gone,
    }
}

transitions! {
    Impossible: [Asked] "ask", "a lease of no length, or the table has all the waits it may have" => Gone,
        "refuse as invalid";
    GrantedFree: [Asked] "ask", "nobody's claim is in its way" => Held,
        "grant at once, with the next token";
    GrantedAgain: [Asked] "ask", "its requester holds as much already" => Held,
        "grant at once, past those who wait";
    GrantedOver: [Asked] "ask", "its requester holds less, and no other holder or earlier upgrade is in its way" => Held,
        "grant at once, past those who wait; look for a circle that it closes";
    GrantedTogether: [Asked] "ask many", "nothing is in the way of any of them" => Held,
        "grant all at once";
    RefusedTogether: [Asked] "ask many", "something is in the way of one of them" => Gone,
        "grant none; the caller asks one by one, in the canonical order";
    RefusedNow: [Asked] "ask", "something is in its way, and it may not wait" => Gone,
        "refuse as timed out";
    Queued: [Asked] "ask", "something is in its way" => Waiting,
        "to the end of the queue; look for a circle that it closes";
    QueuedUpgrade: [Asked] "ask", "its requester holds less, and something is in its way" => Waiting,
        "ahead of the queue, behind earlier upgrades; look for a circle that it closes";
    GrantedInTurn: [Waiting] "any", "the last claim in its way is gone" => Held,
        "grant, with the next token; its neighbours too where they are compatible";
    GaveWay: [Waiting] "ask", "a circle of waits was closed, and of those unprotected in it its requester is the youngest" => Gone,
        "refuse as the victim, with the circle; grant those whose turn it is";
    CircleStands: [Waiting] "ask", "its requester closes a circle of waits of which all are protected" => same,
        "nothing: nobody can give way, and it ends by its timeout";
    TimedOut: [Waiting] "time reached", "its timeout passed" => Gone,
        "refuse, with who was in the way; grant those whose turn it is";
    Cancelled: [Waiting] "cancel", "" => Gone,
        "refuse as cancelled; grant those whose turn it is";
    Withdrawn: [Waiting] "release all", "" => Gone,
        "refuse as cancelled; grant those whose turn it is";
    WaitClosed: [Waiting] "close", "" => Gone,
        "refuse as closed";
    Released: [Held] "release", "its requester holds it" => Gone,
        "answer true; grant those whose turn it is";
    ReleasedWithAll: [Held] "release all", "" => Gone,
        "count it; grant those whose turn it is";
    Downgraded: [Held] "downgrade", "the new mode keeps out no more than the old one" => same,
        "change it for a grant in the new mode; grant those whose turn it is";
    Renewed: [Held] "renew", "" => same,
        "the lease begins anew";
    LeaseEnded: [Held] "time reached", "its lease passed" => Gone,
        "tell the holder that it is lost; grant those whose turn it is";
    HoldClosed: [Held] "close", "" => Gone,
        "nothing: the table is empty";
    NotHeld: [Gone] "release, downgrade or renew", "no such grant, or another requester's" => same,
        "answer false, or nothing";
    NotWaiting: [Gone, Held] "cancel", "no such wait, or not any more" => same,
        "answer false";
}
