//! The transition table of a choreographed saga, as the process sees it that answers for it.
//!
//! Not the route (`route`) and not the steps: each of those is a coordination of its own at whoever
//! takes it. Invariant: a rule is taken only from a state in its `from`.

/// Where a choreographed saga stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Built, not begun.
    New,
    /// On its way from store to store, forward or back.
    Walking,
    /// It came to an end, and that is recorded.
    Ended,
}

impl State {
    /// The name in tables and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::New => "New",
            Self::Walking => "Walking",
            Self::Ended => "Ended",
        }
    }
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Transition {
    /// The rule's name.
    pub rule: Rule,
    /// The states it is taken from.
    pub from: &'static [State],
    /// The input.
    pub on: &'static str,
    /// What must hold besides.
    pub when: &'static str,
    /// The state after it; `None` for the same.
    pub to: Option<State>,
    /// What is done, in the order of the law.
    pub does: &'static str,
}

macro_rules! table {
    ($($name:ident: [$($from:ident),+] $on:literal, $when:literal => $to:tt, $does:literal;)+) => {
        /// A row of the table by name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Rule {
            $(#[doc = $does] $name,)+
        }

        /// Every row, in the order of [`Rule`].
        pub const TRANSITIONS: &[Transition] = &[
            $(Transition {
                rule: Rule::$name,
                from: &[$(State::$from),+],
                on: $on,
                when: $when,
                to: table!(@to $to),
                does: $does,
            },)+
        ];
    };
    (@to same) => { None };
    (@to $to:ident) => { Some(State::$to) };
}

table! {
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

impl Rule {
    /// The row.
    pub fn row(self) -> &'static Transition {
        &TRANSITIONS[self as usize]
    }
}
