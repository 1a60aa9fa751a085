//! Every store of ours checks fencing tokens: who comes late is refused, who holds is not.
//!
//! Not the rule itself, which has its tests beside it, and not stopped processes
//! (`fencing_stopped.rs`). Each claim is held against all five kinds of stores.

use std::path::Path;
use std::thread;
use std::time::Duration;

use unanimity::model::lock::LockMode::{Exclusive, IntentExclusive, IntentShared, Shared};
use unanimity::model::outcome::{Acknowledgement, Vote};

use crate::support::fenced::{Kind, Place, Store, fence};
use crate::support::postgres::PostgresCluster;
use crate::support::redis::RedisServer;

const LOCK: &str = "bank/it's 1";

#[test]
fn who_comes_late_is_refused_by_every_store_also_after_it_was_opened_again() {
    for kind in Kind::ALL {
        let place = Place::new(kind);
        let mut store = place.open();
        for round in 1..=100 {
            let (late, later) = (2 * round, 2 * round + 1);
            let id = format!("later {round}");
            let shown = [fence(LOCK, Exclusive, later)];
            assert_eq!(store.prepare(&id, store.put("b", later), &shown), Vote::Commit, "{kind:?}");
            store.commit(&id);
            store = place.open_again(store);
            let shown = [fence(LOCK, Exclusive, late)];
            let reason = store.refusal(&format!("late {round}"), store.put("a", late), &shown);
            let said = format!("the lock on '{LOCK}' was lost: a later holder has the exclusive");
            assert!(reason.contains(&said), "{kind:?}: {reason}");
            assert!(reason.contains(&format!("shows the exclusive token {late};")), "{reason}");
            assert_eq!((store.get("a"), store.get("b")), (None, Some(later.to_string())));
        }
    }
}

#[test]
fn who_was_accepted_first_is_no_late_comer_when_modes_go_together() {
    for kind in Kind::ALL {
        let place = Place::new(kind);
        let store = place.open();
        let histories = [
            [(IntentExclusive, 9), (IntentExclusive, 3)],
            [(Shared, 19), (Shared, 13)],
            [(IntentShared, 29), (Shared, 23)],
        ];
        for (number, history) in histories.iter().enumerate() {
            for (mode, token) in history {
                let id = format!("{number} {token}");
                let shown = [fence("bank", *mode, *token)];
                assert_eq!(store.prepare(&id, store.put(&id, *token), &shown), Vote::Commit);
                store.commit(&id);
            }
        }
        // What was between the two readers is late for both.
        let reason =
            store.refusal("late", store.put("a", 1), &[fence("bank", IntentExclusive, 18)]);
        assert!(reason.contains("the shared token 23"), "{kind:?}: {reason}");
    }
}

#[test]
fn the_same_tokens_are_accepted_again_and_those_of_one_holder_go_together() {
    for kind in Kind::ALL {
        let place = Place::new(kind);
        let store = place.open();
        let shown =
            [fence("bank", IntentExclusive, 5), fence(LOCK, Shared, 6), fence(LOCK, Exclusive, 7)];
        for round in 0..3 {
            let id = format!("t{round}");
            assert_eq!(store.prepare(&id, store.put("a", round), &shown), Vote::Commit, "{kind:?}");
            if round == 1 {
                assert_eq!(store.abort(&id), Acknowledgement::Done);
            } else {
                store.commit(&id);
            }
        }
        let reason = store.refusal("late", store.put("a", 9), &[fence(LOCK, IntentShared, 6)]);
        assert!(reason.contains("the exclusive token 7"), "{kind:?}: {reason}");
    }
}

#[test]
fn a_token_stays_raised_when_its_transaction_aborts() {
    for kind in Kind::ALL {
        let place = Place::new(kind);
        let store = place.open();
        let shown = [fence(LOCK, Exclusive, 7)];
        assert_eq!(store.prepare("t", store.put("a", 7), &shown), Vote::Commit);
        assert_eq!(store.abort("t"), Acknowledgement::Done);
        let store = place.open_again(store);
        let reason = store.refusal("late", store.put("a", 5), &[fence(LOCK, Exclusive, 5)]);
        assert!(reason.contains("was lost"), "{kind:?}: {reason}");
    }
}

#[test]
fn who_only_read_under_a_lock_refuses_a_late_writer_and_is_refused_by_a_later_one() {
    for kind in Kind::ALL {
        let place = Place::new(kind);
        let store = place.open();
        let read =
            |id: &str, token| store.prepare(id, store.look("none"), &[fence(LOCK, Shared, token)]);
        assert_eq!(read("r1", 7), Vote::ReadOnly, "{kind:?}");
        let reason = store.refusal("late", store.put("a", 5), &[fence(LOCK, Exclusive, 5)]);
        assert!(reason.contains("the shared token 7"), "{kind:?}: {reason}");
        assert_eq!(
            store.prepare("w", store.put("a", 9), &[fence(LOCK, Exclusive, 9)]),
            Vote::Commit
        );
        store.commit("w");
        let Vote::Abort { reason } = read("r2", 8) else { panic!("{kind:?}: a late reader") };
        assert!(reason.contains("the exclusive token 9"), "{kind:?}: {reason}");
        assert_eq!(read("r3", 10), Vote::ReadOnly);
    }
}

/// The lower one may still be committed, and would then come after the higher one.
#[test]
fn a_prepared_transaction_of_an_earlier_holder_is_waited_for_or_refuses_the_later_one() {
    for kind in Kind::ALL {
        let place = Place::new(kind);
        let mut store = place.open();
        for round in 1..=10 {
            let (early, later) = (format!("early {round}"), format!("later {round}"));
            let shown = [fence(LOCK, IntentExclusive, 2 * round)];
            assert_eq!(store.prepare(&early, store.put("a", round), &shown), Vote::Commit);
            if round % 2 == 0 {
                store = place.open_again(store);
            }
            let shown = [fence(LOCK, Shared, 2 * round + 1)];
            let patience = Duration::from_millis(300);
            let vote = store.prepare_within(patience, &later, store.put("b", round), &shown);
            let Vote::Abort { reason } = vote else { panic!("{kind:?}: {vote:?}") };
            assert!(reason.contains("prepared"), "{kind:?}: {reason}");
            store.commit(&early);
            assert_eq!(store.prepare(&later, store.put("b", round), &shown), Vote::Commit);
            store.commit(&later);
            assert_eq!(store.get("a"), Some(round.to_string()));
        }
    }
}

#[test]
fn holders_of_compatible_locks_prepare_side_by_side_and_none_is_refused() {
    // One writer at a time is what SQLite can do.
    for kind in [Kind::Memory, Kind::Files, Kind::Postgres, Kind::Redis] {
        let place = Place::new(kind);
        let store = place.open();
        let all: Vec<String> = (0..8).map(|number| format!("t{number}")).collect();
        for (id, token) in all.iter().zip([8_u64, 1, 7, 2, 6, 3, 5, 4]) {
            let shown = [fence("bank", IntentExclusive, token), fence("config", Shared, token)];
            assert_eq!(store.prepare(id, store.put(id, token), &shown), Vote::Commit, "{kind:?}");
        }
        for id in all.iter().rev() {
            store.commit(id);
        }
    }
}

#[test]
fn a_crowd_of_rightful_holders_is_never_refused() {
    for kind in Kind::ALL {
        let place = Place::new(kind);
        let store = place.open();
        let clock = std::sync::atomic::AtomicU64::new(1);
        thread::scope(|scope| {
            for holder in 0..8 {
                let (store, clock) = (&store, &clock);
                scope.spawn(move || write_under_locks(store, clock, holder));
            }
        });
        for holder in 0..8 {
            assert_eq!(store.get(&format!("k{holder}")).as_deref(), Some("24"), "{kind:?}");
        }
    }
}

fn write_under_locks(store: &Store, clock: &std::sync::atomic::AtomicU64, holder: u64) {
    let next = || clock.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    for round in 0..25 {
        let (id, key) = (format!("{holder} {round}"), format!("k{holder}"));
        let shown = [
            fence("bank", IntentExclusive, next()),
            fence("config", Shared, next()),
            fence(&format!("bank/{key}"), Exclusive, next()),
        ];
        assert_eq!(store.prepare(&id, store.put(&key, round), &shown), Vote::Commit);
        store.commit(&id);
    }
}

#[test]
fn without_tokens_nothing_is_kept() {
    for kind in Kind::DURABLE {
        let place = Place::new(kind);
        let store = place.open();
        assert_eq!(store.prepare("t", store.put("a", 1), &[]), Vote::Commit);
        store.commit("t");
        assert_eq!(store.prepare("r", store.look("none"), &[]), Vote::ReadOnly);
        assert_eq!(kept(&place), 0, "{kind:?}");
        let shown = [fence(LOCK, Exclusive, 1), fence("bank", IntentExclusive, 1)];
        assert_eq!(store.prepare("u", store.put("a", 1), &shown), Vote::Commit);
        store.commit("u");
        assert!(kept(&place) > 0, "{kind:?}");
    }
}

/// Rows, or bytes, that remember tokens.
fn kept(place: &Place) -> u64 {
    let text = "SELECT count(*) FROM unanimity_fencing_tokens";
    match place.kind {
        Kind::Memory => 0,
        Kind::Files => {
            let log = Path::new(&place.address).join(".unanimity/fencing_tokens.log");
            log.metadata().map_or(0, |metadata| metadata.len())
        }
        Kind::Sqlite => rusqlite::Connection::open(&place.address)
            .unwrap()
            .query_row(text, [], |row| row.get::<_, u32>(0))
            .unwrap()
            .into(),
        Kind::Postgres => {
            let database = place.address.rsplit('/').next().unwrap();
            let rows = PostgresCluster::shared().run(database, text);
            rows[0][0].as_ref().unwrap().parse().unwrap()
        }
        Kind::Redis => {
            let database = place.address.rsplit('/').next().unwrap().parse().unwrap();
            let fields = ["HLEN", "unanimity:tokens"];
            RedisServer::shared().ask_in(database, &fields).parse().unwrap()
        }
    }
}

#[test]
fn under_any_isolation_level_of_the_database_a_late_holder_is_refused_and_a_later_one_is_not() {
    for level in ["repeatable read", "serializable"] {
        let place = Place::new(Kind::Postgres);
        let database = place.address.rsplit('/').next().unwrap();
        let text =
            format!("ALTER DATABASE {database} SET default_transaction_isolation = '{level}'");
        PostgresCluster::shared().run(database, &text);
        let store = place.open();
        for round in 1..=20 {
            let id = format!("later {round}");
            let shown = [fence(LOCK, Exclusive, 2 * round + 1)];
            assert_eq!(store.prepare(&id, store.put("b", round), &shown), Vote::Commit, "{level}");
            store.commit(&id);
            let shown = [fence(LOCK, Exclusive, 2 * round)];
            let reason = store.refusal(&format!("late {round}"), store.put("a", round), &shown);
            assert!(reason.contains("was lost"), "{level}: {reason}");
        }
    }
}

#[test]
fn the_highest_possible_token_comes_back_from_every_store() {
    for kind in Kind::ALL {
        let place = Place::new(kind);
        let store = place.open();
        let shown = [fence(LOCK, Exclusive, u64::MAX)];
        assert_eq!(store.prepare("t", store.put("a", 1), &shown), Vote::Commit, "{kind:?}");
        store.commit("t");
        let store = place.open_again(store);
        let shown = [fence(LOCK, Shared, u64::MAX - 1)];
        let reason = store.refusal("late", store.put("a", 5), &shown);
        assert!(reason.contains(&u64::MAX.to_string()), "{kind:?}: {reason}");
    }
}
