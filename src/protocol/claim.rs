//! Who stands in whose way on one resource, read from an ordered list of claims.
//!
//! Not a table that changes: it judges one snapshot, so that every manager judges alike. A snapshot
//! lists claims in their order: the holders first and then those who wait, upgrades before the
//! others; or simply all in the order of asking, where nothing but the order is known
//! (`ZooKeeper`'s sequence numbers). The rule is the same for both:
//!
//! *A claim is granted when every earlier one is compatible with it, or its requester's own.*
//!
//! One exception makes an upgrade go ahead of the queue: an earlier claim does not count when a
//! still earlier, granted claim of the same requester bars it. Without that, an upgrade would wait
//! for somebody who waits for the upgrader.
//!
//! Invariants: whoever is granted stays granted while claims are added at the end and taken away
//! anywhere, under one duty of the manager: a granted claim is taken away only after the later
//! claims of the same requester on the same resource. Granted claims of two requesters are
//! compatible.

use crate::model::lock::{LockMode, RequesterId};
use crate::model::time::Timestamp;

/// One holder of a resource, or one who waits for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// By whom.
    pub requester: RequesterId,
    /// How it is held or asked for.
    pub mode: LockMode,
    /// Since when the requester is at work, for the choice of a deadlock's victim.
    pub working_since: Timestamp,
    /// Whether the requester is prepared or decided, and so never a victim.
    pub is_protected: bool,
}

impl Claim {
    fn conflicts_with(&self, other: &Self) -> bool {
        self.requester != other.requester && !self.mode.is_compatible_with(other.mode)
    }
}

/// The claims that the one at `index` waits for, in their order; none when it is granted. The last
/// is the nearest: as long as that one stands, nothing needs to be judged anew.
pub fn blockers_of(claims: &[Claim], index: usize) -> Vec<usize> {
    let bars = barring_claims(claims, index);
    blockers(claims, index, &bars).collect()
}

/// Whether the claim at `index` is granted.
pub fn is_granted(claims: &[Claim], index: usize) -> bool {
    let bars = barring_claims(claims, index);
    blockers(claims, index, &bars).next().is_none()
}

fn blockers<'a>(
    claims: &'a [Claim],
    index: usize,
    bars: &'a [usize],
) -> impl Iterator<Item = usize> + 'a {
    let claim = &claims[index];
    (0..index).filter(move |earlier| {
        let other = &claims[*earlier];
        let is_barred =
            || bars.iter().any(|bar| bar < earlier && claims[*bar].conflicts_with(other));
        claim.conflicts_with(other) && !is_barred()
    })
}

/// The earlier claims of the same requester that are granted.
fn barring_claims(claims: &[Claim], index: usize) -> Vec<usize> {
    let mut bars = Vec::new();
    for earlier in 0..index {
        // Found in order, so that each is judged with those before it, without recursion.
        if claims[earlier].requester == claims[index].requester
            && blockers(claims, earlier, &bars).next().is_none()
        {
            bars.push(earlier);
        }
    }
    bars
}

/// Whether holding `held` is as good as holding `asked`: it keeps out everybody that `asked` keeps
/// out.
pub fn covers(held: LockMode, asked: LockMode) -> bool {
    LockMode::ALL
        .into_iter()
        .all(|other| asked.is_compatible_with(other) || !held.is_compatible_with(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Claims from words like `a:S`, all of one age.
    fn claims(text: &str) -> Vec<Claim> {
        let claim = |word: &str| {
            let (name, mode) = word.split_once(':').unwrap();
            let mode = match mode {
                "S" => LockMode::Shared,
                "X" => LockMode::Exclusive,
                "IS" => LockMode::IntentShared,
                "IX" => LockMode::IntentExclusive,
                _ => panic!("{mode}"),
            };
            let requester = RequesterId::new(name).unwrap();
            Claim { requester, mode, working_since: Timestamp(0), is_protected: false }
        };
        text.split_whitespace().map(claim).collect()
    }

    #[test]
    fn a_claim_waits_for_every_earlier_one_that_is_incompatible() {
        let queue = claims("a:S b:S c:X d:S e:X");
        assert!(is_granted(&queue, 0) && is_granted(&queue, 1));
        assert_eq!(blockers_of(&queue, 2), [0, 1]);
        assert_eq!(blockers_of(&queue, 3), [2], "nobody overtakes a waiting writer");
        assert_eq!(blockers_of(&queue, 4), [0, 1, 2, 3]);
    }

    #[test]
    fn what_harms_nobody_ahead_is_granted_past_those_who_wait() {
        assert!(is_granted(&claims("a:S b:IX c:IS"), 2));
    }

    #[test]
    fn own_claims_do_not_count() {
        assert!(is_granted(&claims("a:X a:S a:IX a:X"), 3));
    }

    #[test]
    fn an_upgrade_goes_ahead_of_those_whom_its_requester_bars_already() {
        let queue = claims("a:S b:S c:X a:X");
        assert_eq!(blockers_of(&queue, 3), [1], "not c, who waits for a");
        assert!(is_granted(&claims("a:S c:X a:X"), 2));
        assert!(is_granted(&claims("a:S c:X a:S"), 2), "re-entrant past a waiting writer");
    }

    #[test]
    fn a_claim_that_is_not_granted_itself_bars_nobody() {
        let queue = claims("d:S a:IX c:X a:IS");
        assert_eq!(blockers_of(&queue, 1), [0]);
        assert_eq!(blockers_of(&queue, 3), [2]);
    }

    #[test]
    fn two_upgraders_wait_for_each_other() {
        let queue = claims("a:S b:S a:X b:X");
        assert_eq!(blockers_of(&queue, 2), [1]);
        assert_eq!(blockers_of(&queue, 3), [0], "a's upgrade is barred by b's own share");
    }

    #[test]
    fn a_mode_covers_what_keeps_out_no_more_than_it_does() {
        use LockMode::{Exclusive, IntentExclusive, IntentShared, Shared};
        let covered = |held: LockMode| {
            LockMode::ALL.into_iter().filter(|asked| covers(held, *asked)).collect::<Vec<_>>()
        };
        assert_eq!(covered(IntentShared), [IntentShared]);
        assert_eq!(covered(IntentExclusive), [IntentShared, IntentExclusive]);
        assert_eq!(covered(Shared), [IntentShared, Shared]);
        assert_eq!(covered(Exclusive), LockMode::ALL);
    }

    /// Every list of up to five claims of three requesters: the promises of the header.
    #[test]
    fn grants_are_compatible_and_stay_whatever_else_goes_or_comes() {
        let names = ["a", "b", "c"];
        let kinds: Vec<Claim> = names
            .iter()
            .flat_map(|name| ["IS", "IX", "S", "X"].map(|mode| claims(&format!("{name}:{mode}"))))
            .flatten()
            .collect();
        let mut lists: Vec<Vec<Claim>> = vec![Vec::new()];
        for _ in 0..5 {
            lists = lists
                .iter()
                .flat_map(|list| {
                    kinds.iter().map(|kind| [list.as_slice(), std::slice::from_ref(kind)].concat())
                })
                // Requesters come in order of their names: the others are the same with other
                // names.
                .filter(|list| {
                    let is_first =
                        |name: &str| list.iter().position(|c| c.requester.as_str() == name);
                    is_first("b").unwrap_or(9) <= is_first("c").unwrap_or(9)
                        && is_first("a").unwrap_or(9) <= is_first("b").unwrap_or(9)
                })
                .collect();
            for list in &lists {
                assert_promises(list);
            }
        }
    }

    fn assert_promises(list: &[Claim]) {
        let granted: Vec<usize> = (0..list.len()).filter(|at| is_granted(list, *at)).collect();
        for (at, one) in granted.iter().enumerate() {
            for other in &granted[at + 1..] {
                assert!(!list[*one].conflicts_with(&list[*other]), "{list:?}");
            }
        }
        assert!(list.is_empty() || !granted.is_empty(), "somebody is always granted");
        for gone in 0..list.len() {
            let is_own_later =
                |later: usize| list[later].requester == list[gone].requester && later > gone;
            if granted.contains(&gone) && (0..list.len()).any(is_own_later) {
                continue;
            }
            let mut rest = list.to_vec();
            rest.remove(gone);
            for at in granted.iter().filter(|at| **at != gone) {
                let at = if *at > gone { at - 1 } else { *at };
                assert!(is_granted(&rest, at), "{list:?} without {gone}");
            }
        }
    }
}
