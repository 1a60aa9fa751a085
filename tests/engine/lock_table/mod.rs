//! The lock table against an oracle: every small history, and long random ones from a seed.
//!
//! `SEED=7` plays one random history and prints it; `SEEDS=100000` plays that many. Bugs that are
//! planted on purpose show that the judge can fail.

mod action;
mod circles;
mod every_history;
mod oracle;
mod random_history;

use action::{Action, Real, Subject, Told};
use oracle::Oracle;
pub(crate) use random_history::run_all;
use unanimity::model::lock::LockMode;

/// A table and its judge, side by side.
#[derive(Clone)]
struct Trial<S> {
    subject: S,
    oracle: Oracle,
    asks: u64,
}

impl<S: Subject> Trial<S> {
    fn new(subject: S, protected: Vec<usize>) -> Self {
        Self { subject, oracle: Oracle { protected, ..Oracle::default() }, asks: 0 }
    }

    /// Takes one step on both sides; the error says how they differ.
    fn play(&mut self, action: &Action) -> Result<Vec<Told>, String> {
        self.asks += u64::from(matches!(action, Action::Ask { .. }));
        let told = self.subject.apply(action);
        let expected = self.oracle.apply(action, Some(&told))?;
        let sorted = |lines: &[Told]| {
            let mut lines = lines.to_vec();
            lines.sort();
            lines
        };
        if sorted(&told) != sorted(&expected) {
            return Err(format!("told {told:?}\nexpected {expected:?}"));
        }
        self.compare()?;
        Ok(told)
    }

    fn compare(&self) -> Result<(), String> {
        let (seen, expected) = (self.subject.seen(), Subject::seen(&self.oracle));
        if seen != expected {
            return Err(format!("stands {seen:?}\nexpected {expected:?}"));
        }
        let (edges, expected) = (self.subject.edges(), self.oracle.edges());
        if edges != expected {
            return Err(format!("waits {edges:?}\nexpected {expected:?}"));
        }
        let held: Vec<_> = seen.iter().filter(|(.., is_held)| *is_held).collect();
        for (at, (on, who, mode, _)) in held.iter().enumerate() {
            let conflict = held[at + 1..].iter().find(|(other_on, other, other_mode, _)| {
                on == other_on && who != other && !mode.is_compatible_with(*other_mode)
            });
            if let Some(other) = conflict {
                return Err(format!("q{who} {mode} and {other:?} hold r{on} at once"));
            }
        }
        let waiting = edges.iter().map(|(from, _)| *from);
        let unprotected = waiting.filter(|who| !self.oracle.protected.contains(who));
        match unprotected.into_iter().find(|who| self.oracle.is_in_circle(*who)) {
            Some(who) => Err(format!("q{who} is left in a circle: {edges:?}")),
            None => Ok(()),
        }
    }

    /// Those who hold let go, one after the other, until nobody is left: nobody waits for ever.
    fn drain(&mut self) -> Result<(), String> {
        for _ in 0..=self.asks {
            let Some(held) = self.oracle.claims.iter().find(|claim| claim.is_held) else { break };
            let number = held.number;
            self.play(&Action::Release { number })?;
        }
        match self.subject.seen().first() {
            Some(left) => Err(format!("{left:?} is left for ever")),
            None => Ok(()),
        }
    }
}

impl Trial<Real> {
    fn of_the_table(protected: Vec<usize>) -> Self {
        Self::new(Real::new(protected.clone()), protected)
    }
}

/// What a claim with this number can be weakened to, as an action each.
fn downgrades(number: u64, mode: LockMode) -> impl Iterator<Item = Action> {
    let weaker = LockMode::ALL.into_iter().filter(move |other| *other < mode);
    weaker.map(move |mode| Action::Downgrade { number, mode })
}
