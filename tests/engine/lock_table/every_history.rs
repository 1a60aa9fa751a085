//! Every history of a few claims: all orders of ask, grant, release, cancel, upgrade, downgrade
//! and time out, walked as a graph of states in which each state is visited once.
//!
//! Two histories that lead to the same holders, waits and deadlines behave alike from there on, so
//! a state that was seen is not walked again. States that differ by names only are one state: see
//! [`Renaming`]. A state is kept as its key and the step that led to it first; the table itself is
//! built again by the steps from the beginning, most of which the state before it has in common.

use std::collections::HashSet;

use unanimity::model::lock::LockMode;

use super::action::{Action, Real, Subject};
use super::oracle::Claim;
use super::{Trial, downgrades};

/// How wide the search is.
#[derive(Debug)]
struct Bounds {
    requesters: usize,
    resources: usize,
    modes: &'static [LockMode],
    /// How many claims there are at most at once.
    claims: usize,
    /// The latest wait ends first, or the earliest.
    latest_ends_first: bool,
    /// Nothing is taken for alike, and the order of holders counts.
    is_whole: bool,
}

/// Other names for everything, under which the table does the same. Requesters are alike but for
/// their ages, which only choose victims. Resources are alike. `Shared` and `IntentExclusive` are
/// alike too: each goes with itself and `IntentShared` and with nothing else.
#[derive(Clone)]
struct Renaming {
    requesters: Vec<usize>,
    resources: Vec<usize>,
    modes_change_places: bool,
}

impl Renaming {
    fn all(bounds: &Bounds) -> Vec<Self> {
        let has = |mode| bounds.modes.contains(&mode);
        let mirrors = has(LockMode::Shared) == has(LockMode::IntentExclusive);
        let ways = if mirrors { vec![false, true] } else { vec![false] };
        let mut all = Vec::new();
        for requesters in orders(bounds.requesters) {
            for resources in orders(bounds.resources) {
                for modes_change_places in ways.clone() {
                    let (requesters, resources) = (requesters.clone(), resources.clone());
                    all.push(Self { requesters, resources, modes_change_places });
                }
            }
        }
        all
    }

    fn mode(&self, mode: LockMode) -> LockMode {
        match mode {
            LockMode::Shared if self.modes_change_places => LockMode::IntentExclusive,
            LockMode::IntentExclusive if self.modes_change_places => LockMode::Shared,
            mode => mode,
        }
    }

    /// All claims in one number, 11 bits for each: who waits in the order of the queues, with the
    /// order of their ends; who holds in any order unless that counts, for it decides nothing but
    /// which of several circles is found first.
    fn key(&self, claims: &[(&Claim, u128)], order_counts: bool) -> u128 {
        let code = |(claim, rank): &(&Claim, u128)| {
            let waits = u128::from(!claim.is_held) << 9 | rank << 6;
            let is_upgrade = u128::from(!claim.is_held && claim.is_upgrade) << 5;
            let names = self.requesters[claim.who] << 2 | self.mode(claim.mode) as usize;
            (self.resources[claim.on] as u128) << 10 | waits | is_upgrade | names as u128
        };
        let mut codes: Vec<(u128, usize)> = claims.iter().map(code).zip(0..).collect();
        codes.sort_unstable_by_key(|(code, at)| {
            let is_held = code >> 9 & 1 == 0;
            (code >> 9, if is_held && !order_counts { *code } else { 0 }, *at)
        });
        codes.iter().fold(1, |key, (code, _)| key << 11 | code)
    }
}

fn orders(count: usize) -> Vec<Vec<usize>> {
    let mut all = vec![Vec::new()];
    for last in 0..count {
        let with_last = |order: &Vec<usize>| {
            (0..=last).map(|at| [&order[..at], &[last], &order[at..]].concat()).collect::<Vec<_>>()
        };
        all = all.iter().flat_map(with_last).collect();
    }
    all
}

/// Those who have no claim are alike: one of them asks for all, the oldest or the youngest.
fn askers(trial: &Trial<Real>, bounds: &Bounds) -> Vec<usize> {
    let claims = &trial.oracle.claims;
    let is_known = |who: &usize| claims.iter().any(|claim| claim.who == *who);
    if bounds.is_whole {
        return (0..bounds.requesters).collect();
    }
    let (mut known, new): (Vec<usize>, Vec<usize>) = (0..bounds.requesters).partition(is_known);
    known.extend(if trial.asks.is_multiple_of(2) { new.first() } else { new.last() });
    known
}

fn actions(trial: &Trial<Real>, bounds: &Bounds) -> Vec<Action> {
    let claims = &trial.oracle.claims;
    let mut actions = Vec::new();
    let askers = askers(trial, bounds);
    if claims.len() < bounds.claims {
        let number = trial.asks + 1;
        // A claim that comes later ends earlier or later than all others.
        let offset = if bounds.latest_ends_first { 1_000_000 - number * 10 } else { number * 10 };
        let timeout = Some(1_000_000 + offset);
        for who in askers.iter().copied() {
            for on in 0..bounds.resources {
                for mode in bounds.modes.iter().copied() {
                    let lease = None;
                    actions.push(Action::Ask { number, who, on, mode, timeout, lease });
                }
            }
        }
    }
    for claim in claims {
        if claim.is_held {
            actions.push(Action::Release { number: claim.number });
            actions.extend(downgrades(claim.number, claim.mode));
        } else {
            actions.push(Action::Cancel { number: claim.number });
        }
    }
    let next_end = claims.iter().filter_map(|claim| claim.until).min();
    actions.extend(next_end.map(|until| Action::Advance { by: until - trial.oracle.now }));
    actions.extend(askers.into_iter().map(|who| Action::ReleaseAll { who }));
    actions
}

/// How a state was reached first: from which one, by which of its actions.
struct Reached {
    from: usize,
    by: u8,
}

/// All states that were found, in the order of their distance, so that no history is long.
struct Search<'a> {
    bounds: &'a Bounds,
    renamings: Vec<Renaming>,
    /// Their keys, where nothing is taken for alike.
    seen: HashSet<u128>,
    /// Their keys, with all that is alike taken for one.
    classes: HashSet<u128>,
    reached: Vec<Reached>,
    /// The states on the way to the one that was built last.
    way: Vec<(usize, Trial<Real>)>,
    steps: usize,
}

impl<'a> Search<'a> {
    fn new(bounds: &'a Bounds) -> Self {
        let start = Trial::of_the_table(Vec::new());
        let (renamings, reached) = (Renaming::all(bounds), vec![Reached { from: 0, by: 0 }]);
        let (seen, classes) = (HashSet::new(), HashSet::new());
        Self { bounds, renamings, seen, classes, reached, way: vec![(0, start)], steps: 0 }
    }

    /// Whether a state was not seen before.
    fn is_new(&mut self, trial: &Trial<Real>) -> bool {
        let all = &trial.oracle.claims;
        let rank = |claim: &Claim| {
            let earlier = all.iter().filter(|other| !other.is_held && other.until < claim.until);
            if claim.is_held { 0 } else { earlier.count() as u128 }
        };
        let ranked: Vec<(&Claim, u128)> = all.iter().map(|claim| (claim, rank(claim))).collect();
        let keys = self.renamings.iter().map(|renaming| renaming.key(&ranked, false));
        let is_new = self.classes.insert(keys.min().unwrap_or_default());
        if self.bounds.is_whole {
            self.seen.insert(self.renamings[0].key(&ranked, true))
        } else {
            is_new
        }
    }

    /// The table in a state, built again from the last state on the way that they share.
    fn build(&mut self, state: usize) -> Trial<Real> {
        let mut missing = vec![state];
        while let Some(from) = missing.last().map(|last| self.reached[*last].from) {
            if self.way.iter().any(|(known, _)| known == missing.last().unwrap_or(&0)) {
                break;
            }
            missing.push(from);
        }
        let shared = missing.pop().expect("the first state is on every way");
        let at = self.way.iter().position(|(known, _)| *known == shared).expect("was found there");
        self.way.truncate(at + 1);
        for state in missing.into_iter().rev() {
            let mut trial = self.way[self.way.len() - 1].1.clone();
            let action = actions(&trial, self.bounds)[usize::from(self.reached[state].by)];
            trial.play(&action).expect("it went well before");
            forget_the_dead(&mut trial);
            self.way.push((state, trial));
        }
        self.way[self.way.len() - 1].1.clone()
    }

    /// Takes every step that a state allows.
    fn expand(&mut self, state: usize) {
        let trial = self.build(state);
        for (action, by) in actions(&trial, self.bounds).into_iter().zip(0..) {
            let mut next = trial.clone();
            self.steps += 1;
            if let Err(broken) = next.play(&action) {
                let way: Vec<usize> = self.way.iter().map(|(state, _)| *state).collect();
                panic!("from {:?} by {way:?}\n{action:?}\n{broken}", trial.subject.seen());
            }
            assert_eq!(next.oracle.claims.is_empty(), next.subject.is_empty());
            if self.is_new(&next) {
                self.reached.push(Reached { from: state, by });
            }
        }
    }
}

fn forget_the_dead(trial: &mut Trial<Real>) {
    let claims = &trial.oracle.claims;
    trial.subject.forget_all_but(|number| claims.iter().any(|claim| claim.number == number));
}

/// Visits every state.
fn walk(bounds: &Bounds) -> Search<'_> {
    let mut search = Search::new(bounds);
    let start = search.way[0].1.clone();
    search.is_new(&start);
    let mut state = 0;
    while state < search.reached.len() {
        search.expand(state);
        state += 1;
    }
    println!("{bounds:?}: {} states, {} steps", search.reached.len(), search.steps);
    search
}

/// `CLAIMS=6` and `REQUESTERS=4` look further than `make verify` has the time for.
fn wished(name: &str, usual: usize) -> usize {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty());
    text.map_or(usual, |text| text.parse().expect("a number"))
}

fn assert_every_history(
    resources: usize,
    modes: &'static [LockMode],
    claims: usize,
    latest_ends_first: bool,
) {
    let (requesters, claims) = (wished("REQUESTERS", 3), wished("CLAIMS", claims));
    assert!(requesters <= 8 && claims <= 8, "a key has no room for more");
    let is_whole = false;
    let bounds = Bounds { requesters, resources, modes, claims, latest_ends_first, is_whole };
    let states = walk(&bounds).reached.len();
    assert!(states > 500, "only {states}");
}

#[test]
fn every_history_in_all_modes_on_one_resource() {
    assert_every_history(1, &LockMode::ALL, 5, false);
    assert_every_history(1, &LockMode::ALL, 4, true);
}

#[test]
fn every_history_of_readers_and_writers_on_one_resource() {
    assert_every_history(1, &[LockMode::Shared, LockMode::Exclusive], 5, false);
}

#[test]
fn every_history_of_readers_and_writers_on_two_resources() {
    assert_every_history(2, &[LockMode::Shared, LockMode::Exclusive], 4, false);
}

#[test]
fn every_history_in_all_modes_on_two_resources() {
    assert_every_history(2, &LockMode::ALL, 4, true);
}

#[test]
fn what_is_taken_for_alike_hides_no_state() {
    for (resources, claims) in [(1, 3), (2, 2)] {
        let (modes, requesters, latest_ends_first) = (&LockMode::ALL, 3, false);
        let bounds =
            |is_whole| Bounds { requesters, resources, modes, claims, latest_ends_first, is_whole };
        let (whole, alike) = (bounds(true), bounds(false));
        let (whole, alike) = (walk(&whole), walk(&alike));
        assert!(whole.reached.len() > 4 * alike.reached.len());
        assert_eq!(whole.classes, alike.classes);
    }
}
