//! What every transition table is made of: states by name, rows by rule, and the taking of a row.
//!
//! Not the tables: each machine's `rules.rs` has its own. Invariant: a state changes only by a row
//! that is taken from one of its `from`.

/// One row of a table, with the machine's own rules and states.
#[derive(Clone, Copy, Debug)]
pub struct Transition<R: 'static, S: 'static> {
    /// The rule's name.
    pub rule: R,
    /// The states it is taken from.
    pub from: &'static [S],
    /// The input.
    pub on: &'static str,
    /// What must hold besides.
    pub when: &'static str,
    /// The state after it; `None` for the same.
    pub to: Option<S>,
    /// What is done, in the order of the law.
    pub does: &'static str,
}

/// The states of a table: each has a sentence that says what it is.
macro_rules! states {
    ($(#[$about:meta])+ pub enum State { $($(#[$what:meta])+ $name:ident,)+ }) => {
        $(#[$about])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum State {
            $($(#[$what])+ $name,)+
        }

        impl State {
            /// The name in tables and messages.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)+
                }
            }
        }
    };
}

/// The rows of a table, over the `State` beside it.
macro_rules! transitions {
    ($($name:ident: [$($from:ident),+] $on:literal, $when:literal => $to:tt, $does:literal;)+) => {
        /// One row of the table.
        pub type Transition = $crate::protocol::table::Transition<Rule, State>;

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
                to: $crate::protocol::table::transitions!(@to $to),
                does: $does,
            },)+
        ];

        impl Rule {
            /// The row.
            pub fn row(self) -> &'static Transition {
                &TRANSITIONS[self as usize]
            }

            /// The state after it, which is the only way in which a state changes. Panics where the
            /// table does not allow it.
            pub fn after(self, state: State) -> State {
                let row = self.row();
                assert!(row.from.contains(&state), "{self:?} cannot be taken from {state:?}");
                row.to.unwrap_or(state)
            }

            /// Its bit among the rules that were taken.
            pub fn bit(self) -> u64 {
                1 << self as u8
            }

            /// The rules whose bits these are.
            pub fn of_bits(taken: u64) -> impl Iterator<Item = Self> {
                TRANSITIONS.iter().map(|row| row.rule).filter(move |rule| taken & rule.bit() != 0)
            }
        }
    };
    (@to same) => { None };
    (@to $to:ident) => { Some(State::$to) };
}

pub(in crate::protocol) use {states, transitions};
