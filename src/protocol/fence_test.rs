//! Tests of the fencing rule: a table, a naive oracle over every small history, and the two
//! invariants over every small history of a lock.

use super::fence::{FenceMemory, Refusal, check, describe_standing, standing_in_the_way};
use crate::model::lock::LockMode::{self, Exclusive, IntentExclusive, IntentShared, Shared};
use crate::model::lock::{Fence, ResourceId};

fn resource() -> ResourceId {
    ResourceId::new("bank/1").unwrap()
}

fn fence(mode: LockMode, token: u64) -> Fence {
    Fence { resource: resource(), mode, token }
}

/// A store of one resource.
#[derive(Clone, Default)]
struct Store(FenceMemory);

impl Store {
    fn prepare(&mut self, shown: &[Fence]) -> Result<(), Refusal> {
        let raised = check(shown, |_| Some(&self.0))?;
        self.0 = raised.get(&resource()).unwrap_or(&self.0).clone();
        Ok(())
    }
}

/// Every transaction that shows one lock, or two of one holder, with tokens up to `most`.
fn transactions(most: u64) -> Vec<Vec<Fence>> {
    let tokens = 1..=most;
    let one: Vec<Fence> =
        LockMode::ALL.iter().flat_map(|mode| tokens.clone().map(|t| fence(*mode, t))).collect();
    let two = one.iter().flat_map(|a| one.iter().map(|b| vec![a.clone(), b.clone()]));
    let distinct = two.filter(|pair| pair[0].token < pair[1].token);
    one.iter().map(|fence| vec![fence.clone()]).chain(distinct).collect()
}

#[test]
fn a_table_of_histories_says_who_is_refused() {
    // What was shown before, what is shown now, and whether it is refused.
    type Shown = (LockMode, u64);
    let cases: &[(&[Shown], Shown, bool)] = &[
        (&[], (Exclusive, 1), false),
        (&[(Exclusive, 7)], (Exclusive, 5), true),
        (&[(Exclusive, 7)], (Exclusive, 7), false),
        (&[(Exclusive, 7)], (Exclusive, 8), false),
        (&[(Exclusive, 7)], (Shared, 5), true),
        (&[(Exclusive, 7)], (IntentShared, 6), true),
        (&[(Shared, 7)], (Shared, 5), false),
        (&[(Shared, 7), (Shared, 5)], (Exclusive, 6), true),
        (&[(Shared, 7)], (IntentExclusive, 6), true),
        (&[(Shared, 7)], (IntentShared, 1), false),
        (&[(IntentExclusive, 9)], (IntentExclusive, 3), false),
        (&[(IntentExclusive, 9)], (IntentShared, 3), false),
        (&[(IntentExclusive, 9)], (Shared, 3), true),
        (&[(IntentShared, 9)], (IntentExclusive, 3), false),
        (&[(IntentShared, 9)], (Exclusive, 3), true),
        // One number for all modes would refuse this reader, which holds together with the last.
        (&[(Exclusive, 4), (Shared, 9)], (Shared, 5), false),
    ];
    for (before, now, is_refused) in cases {
        let mut store = Store::default();
        for (mode, token) in *before {
            store.prepare(&[fence(*mode, *token)]).expect("the history is a good one");
        }
        let answer = store.prepare(&[fence(now.0, now.1)]);
        assert_eq!(answer.is_err(), *is_refused, "{before:?} then {now:?}: {answer:?}");
    }
}

#[test]
fn a_refusal_names_the_resource_both_modes_and_both_tokens() {
    let mut store = Store::default();
    store.prepare(&[fence(Exclusive, 7)]).unwrap();
    let refusal = store.prepare(&[fence(Shared, 5)]).unwrap_err().to_string();
    for part in ["'bank/1' was lost", "exclusive token 7", "shared token 5", "take the lock again"]
    {
        assert!(refusal.contains(part), "{refusal}");
    }
}

#[test]
fn locks_that_one_holder_has_together_do_not_refuse_each_other_also_when_asked_again() {
    for pair in [
        [fence(Shared, 5), fence(IntentExclusive, 6)],
        [fence(Shared, 5), fence(Exclusive, 7)],
        [fence(Exclusive, 7), fence(Shared, 5)],
    ] {
        let mut store = Store::default();
        for _ in 0..2 {
            assert_eq!(store.prepare(&pair), Ok(()));
        }
        assert!(check(&pair, |_| Some(&store.0)).unwrap().is_empty(), "nothing is written again");
        // One of them alone is not the same holder any more.
        assert!(store.prepare(&[fence(Shared, 5)]).is_err());
    }
}

#[test]
fn another_resource_does_not_count() {
    let other = Fence { resource: ResourceId::new("bank/2").unwrap(), mode: Exclusive, token: 9 };
    let raised = check(std::slice::from_ref(&other), |_| None).unwrap();
    let answer = check(&[fence(Exclusive, 1), other], |resource| raised.get(resource)).unwrap();
    assert_eq!(answer.keys().collect::<Vec<_>>(), [&resource()]);
}

#[test]
fn every_small_history_is_judged_as_by_one_who_forgets_nothing() {
    /// Looks through everything that was accepted.
    fn oracle(accepted: &[Vec<Fence>], shown: &[Fence]) -> bool {
        let all = accepted.iter().flatten();
        let mut pairs = all.flat_map(|old| shown.iter().map(move |new| (old, new)));
        pairs.all(|(old, new)| {
            let is_late = old.token > new.token && !old.mode.is_compatible_with(new.mode);
            !is_late || shown.contains(old)
        })
    }
    let all = transactions(3);
    let mut judged = 0;
    for first in &all {
        for second in &all {
            let (mut store, mut accepted) = (Store::default(), Vec::new());
            for shown in [first, second] {
                if store.prepare(shown).is_ok() {
                    accepted.push(shown.clone());
                }
            }
            for third in &all {
                let is_accepted = store.clone().prepare(third).is_ok();
                if !is_impossible(&accepted, third) {
                    assert_eq!(is_accepted, oracle(&accepted, third), "{accepted:?} {third:?}");
                    judged += 1;
                }
            }
        }
    }
    assert!(judged > 100_000, "{judged}");
}

/// Whether somebody else was granted what cannot be held beside a lock of this holder, between that
/// lock and a later one that it has together with it. No lock table does that.
fn is_impossible(accepted: &[Vec<Fence>], shown: &[Fence]) -> bool {
    let others = || accepted.iter().flatten().filter(|old| !shown.contains(old));
    shown.iter().any(|first| {
        shown.iter().any(|last| {
            others().any(|other| {
                (first.token..last.token).contains(&other.token)
                    && !other.mode.is_compatible_with(first.mode)
            })
        })
    })
}

/// One grant in a history.
#[derive(Clone)]
struct Holder {
    fence: Fence,
    is_held: bool,
    has_written: bool,
}

/// Every history of `left` more steps: a grant, a loss, a prepare by one that holds or held.
fn walk(store: &Store, holders: &[Holder], left: u32, seen: &mut (u64, u64)) {
    if left == 0 {
        return;
    }
    for mode in LockMode::ALL {
        if holders.iter().all(|one| !one.is_held || one.fence.mode.is_compatible_with(mode)) {
            let mut next = holders.to_vec();
            let token = u64::try_from(holders.len()).unwrap() + 1;
            let fence = fence(mode, token);
            next.push(Holder { fence, is_held: true, has_written: false });
            walk(store, &next, left - 1, seen);
        }
    }
    for (index, one) in holders.iter().enumerate() {
        if one.is_held {
            let mut next = holders.to_vec();
            next[index].is_held = false;
            walk(store, &next, left - 1, seen);
        }
        let mut written = store.clone();
        let is_accepted = written.prepare(std::slice::from_ref(&one.fence)).is_ok();
        let is_overtaken = holders[index + 1..]
            .iter()
            .any(|later| later.has_written && !later.fence.mode.is_compatible_with(one.fence.mode));
        assert!(is_accepted || !one.is_held, "a holder was refused");
        assert_eq!(is_accepted, !is_overtaken, "a late one is refused, and nobody else");
        *(if is_accepted { &mut seen.0 } else { &mut seen.1 }) += 1;
        let mut next = holders.to_vec();
        next[index].has_written |= is_accepted;
        walk(&written, &next, left - 1, seen);
    }
}

#[test]
fn over_every_small_history_holders_are_accepted_and_the_overtaken_are_refused() {
    let mut seen = (0, 0);
    walk(&Store::default(), &[], 8, &mut seen);
    assert!(seen.0 > 500_000 && seen.1 > 10_000, "{seen:?}");
}

#[test]
fn a_prepared_transaction_stands_in_the_way_of_incompatible_locks_but_its_own() {
    let prepared = [fence(IntentExclusive, 5), fence(Shared, 6)];
    let way = |shown: &[Fence]| standing_in_the_way(shown, &prepared).map(|one| one.token);
    assert_eq!(way(&[fence(IntentShared, 9)]), None);
    assert_eq!(way(&[fence(Shared, 9)]), Some(5));
    assert_eq!(way(&[fence(IntentExclusive, 9)]), Some(6));
    assert_eq!(way(&prepared), None);
    let words = describe_standing(&prepared[1], "t1");
    assert!(words.contains("'t1'") && words.contains("'bank/1'") && words.contains('6'), "{words}");
}
