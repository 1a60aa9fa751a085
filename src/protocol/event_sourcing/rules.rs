//! The transition table of event sourcing: the only place that says which states follow.
//!
//! Not the versions of streams (the journal judges them) and not the projections (the engine runs
//! them). Invariant: a rule is taken only from a state in its `from`.

/// Where a coordination of events stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Built, not begun.
    New,
    /// The events are appended, or the begin that appends them is on its way; stores are waited
    /// for.
    Projecting,
    /// Nothing is left to do.
    Ended,
}

impl State {
    /// The name in tables and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::New => "New",
            Self::Projecting => "Projecting",
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

impl Rule {
    /// The row.
    pub fn row(self) -> &'static Transition {
        &TRANSITIONS[self as usize]
    }
}
