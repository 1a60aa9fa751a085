//! The PostgreSQL participant where the engine keeps its receipts: no marker is written, and every
//! duty holds all the same.
//!
//! Not the duties as such (`postgres`, which shows no receipts). Invariant: nothing is left
//! prepared, which each test's database sees to when it ends.

use std::sync::mpsc::{Receiver, channel};

use unanimity::model::outcome::{Acknowledgement, Receipt, Vote};
use unanimity::model::value::Value;
use unanimity::participants::postgres::PostgresStore;
use unanimity::participants::{DeliveryAsk, Participant, PrepareAsk};
use unanimity::reply::Reply;

use crate::postgres::{Bank, PATIENCE, add, attached, delivery, execute, question};
use crate::support::proxy::Proxy;

fn begin_prepare(store: &PostgresStore, id: &str, operations: Vec<Value>) -> Receiver<Vote> {
    let (sender, answers) = channel();
    let ask = PrepareAsk { keeps_receipt: true, ..question("bank", id, operations, PATIENCE) };
    store.prepare(ask, Reply::new(move |vote| sender.send(vote).unwrap()));
    answers
}

fn prepare(store: &PostgresStore, id: &str, operations: Vec<Value>) -> Vote {
    begin_prepare(store, id, operations).recv_timeout(PATIENCE).unwrap()
}

fn receipt(vote: Vote) -> Receipt {
    match vote {
        Vote::Prepared { receipt } => receipt,
        other => panic!("{other:?} has no receipt"),
    }
}

fn prepared(store: &PostgresStore, id: &str) -> Receipt {
    receipt(prepare(store, id, vec![add(1, -1)]))
}

fn showing(id: &str, receipt: &Receipt) -> DeliveryAsk {
    DeliveryAsk { receipt: Some(receipt.clone()), ..delivery(id) }
}

fn commit(store: &PostgresStore, ask: DeliveryAsk) -> Acknowledgement {
    let (sender, answers) = channel();
    store.commit(ask, Reply::new(move |answer| sender.send(answer).unwrap()));
    answers.recv_timeout(PATIENCE).unwrap()
}

fn abort(store: &PostgresStore, ask: DeliveryAsk) -> Acknowledgement {
    let (sender, answers) = channel();
    store.abort(ask, Reply::new(move |answer| sender.send(answer).unwrap()));
    answers.recv_timeout(PATIENCE).unwrap()
}

#[test]
fn a_commit_may_be_repeated_by_its_receipt_and_no_marker_is_written() {
    let bank = Bank::open();
    let receipt = prepared(&bank.store, "c1");
    assert_eq!(bank.balance(1), "100");
    assert_eq!(commit(&bank.store, showing("c1", &receipt)), Acknowledgement::Done);
    assert_eq!(commit(&bank.store, showing("c1", &receipt)), Acknowledgement::Done);
    assert_eq!((bank.balance(1), bank.count("unanimity_prepared")), ("99".to_owned(), 0));
    // Without it nobody can tell, as with a marker that is gone.
    assert_eq!(commit(&bank.store, delivery("c1")), Acknowledgement::NeverPrepared);
}

#[test]
fn an_abort_may_be_repeated_and_a_commit_after_it_is_known_to_be_late() {
    let bank = Bank::open();
    let receipt = prepared(&bank.store, "c1");
    assert_eq!(abort(&bank.store, showing("c1", &receipt)), Acknowledgement::Done);
    assert_eq!(abort(&bank.store, showing("c1", &receipt)), Acknowledgement::Done);
    assert_eq!(commit(&bank.store, showing("c1", &receipt)), Acknowledgement::NeverPrepared);
    assert_eq!(bank.balance(1), "100");
}

#[test]
fn an_abort_that_comes_after_the_commit_hears_so() {
    let bank = Bank::open();
    let receipt = prepared(&bank.store, "c1");
    assert_eq!(commit(&bank.store, showing("c1", &receipt)), Acknowledgement::Done);
    let answer = abort(&bank.store, showing("c1", &receipt));
    assert!(
        matches!(&answer, Acknowledgement::Failed { message } if message.contains("committed"))
    );
}

#[test]
fn what_somebody_rolled_back_by_hand_is_no_commit() {
    let bank = Bank::open();
    let receipt = prepared(&bank.store, "c1");
    let gids = bank.cluster.run(
        &bank.database,
        "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()",
    );
    let gid = gids[0][0].clone().unwrap().replace('\'', "''");
    bank.cluster.run(&bank.database, &format!("ROLLBACK PREPARED '{gid}'"));
    assert_eq!(commit(&bank.store, showing("c1", &receipt)), Acknowledgement::NeverPrepared);
}

#[test]
fn a_receipt_that_the_server_does_not_know_leaves_the_commit_unknown() {
    let bank = Bank::open();
    let future = Receipt::new("9000000000000000000");
    let answer = commit(&bank.store, showing("c1", &future));
    assert!(matches!(&answer, Acknowledgement::Unknown { .. }), "{answer:?}");
}

#[test]
fn a_prepare_that_comes_after_its_abort_is_refused() {
    let bank = Bank::open();
    assert_eq!(abort(&bank.store, delivery("c1")), Acknowledgement::Done);
    let vote = prepare(&bank.store, "c1", vec![add(1, -1)]);
    let said = "was aborted or prepared in this database before";
    assert!(matches!(&vote, Vote::Abort { reason } if reason.contains(said)), "{vote:?}");
    assert_eq!(bank.balance(1), "100");
}

#[test]
fn a_deferred_constraint_that_fails_like_a_cast_is_not_taken_for_an_abort() {
    let bank = Bank::open();
    bank.cluster.run(
        &bank.database,
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS \
         $$ BEGIN PERFORM 'no number'::text::bigint; RETURN NULL; END $$; \
         CREATE CONSTRAINT TRIGGER late AFTER UPDATE ON account DEFERRABLE INITIALLY DEFERRED \
         FOR EACH ROW EXECUTE FUNCTION refuse()",
    );
    let vote = prepare(&bank.store, "c1", vec![add(1, -1)]);
    assert!(matches!(&vote, Vote::Abort { reason } if reason.contains("no number")), "{vote:?}");
}

#[test]
fn a_statement_may_need_what_an_earlier_one_creates() {
    let bank = Bank::open();
    let make = execute("CREATE TABLE extra (id int8)", &[]);
    let fill = execute("INSERT INTO extra VALUES (1)", &[]);
    let receipt = receipt(prepare(&bank.store, "c1", vec![make, fill]));
    assert_eq!(commit(&bank.store, showing("c1", &receipt)), Acknowledgement::Done);
    assert_eq!(bank.count("extra"), 1);
}

#[test]
fn a_database_with_another_isolation_by_default_gets_markers() {
    let bank = Bank::open();
    let database = format!("\"{}\"", bank.database);
    let level = "SET default_transaction_isolation = 'repeatable read'";
    bank.cluster.run(&bank.database, &format!("ALTER DATABASE {database} {level}"));
    let store = attached(&bank.cluster.dsn(&bank.database), &bank.journal, "bank").unwrap();
    assert_eq!(prepare(&store, "c1", vec![add(1, -1)]), Vote::Commit);
    assert_eq!(commit(&store, delivery("c1")), Acknowledgement::Done);
    assert_eq!(commit(&store, delivery("c1")), Acknowledgement::Done);
}

#[test]
fn a_prepare_whose_connection_was_lost_is_shut_out_before_it_comes_through() {
    let bank = Bank::open();
    let proxy = Proxy::before(bank.cluster.port());
    let dsn = format!("postgresql://postgres@127.0.0.1:{}/{}", proxy.port, bank.database);
    let far = attached(&dsn, &bank.journal, "bank").unwrap();
    let known = receipt(prepare(&far, "known", vec![add(2, 0)]));
    assert_eq!(commit(&far, showing("known", &known)), Acknowledgement::Done);
    let holder = prepared(&bank.store, "holder");
    let waiting = begin_prepare(&far, "lost", vec![add(1, -1)]);
    bank.wait_for_lock_wait();
    proxy.cut();
    let vote = waiting.recv_timeout(PATIENCE).unwrap();
    assert!(matches!(&vote, Vote::Unknown { .. }), "{vote:?}");
    // The server still has all of it, and goes on when it gets the lock.
    assert_eq!(abort(&bank.store, delivery("lost")), Acknowledgement::Done);
    assert_eq!(commit(&bank.store, showing("holder", &holder)), Acknowledgement::Done);
    let still = "pg_stat_activity WHERE datname = current_database() \
                 AND state NOT IN ('idle', 'idle in transaction (aborted)') \
                 AND pid <> pg_backend_pid()";
    bank.wait_for("backends that are busy", still, 0);
    assert_eq!((bank.prepared(), bank.balance(1)), (0, "99".to_owned()));
}
