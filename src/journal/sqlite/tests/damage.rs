//! Files that are not ours or not whole, folders that cannot be written, disks that are full.

use std::fs;

use super::*;
use crate::db::segments::SegmentSizes;

fn refused(path: &str) -> JournalError {
    let before = fs::read(path).ok();
    let error = SqliteJournal::open(path, JournalOptions::default()).err().expect("is refused");
    assert_eq!(fs::read(path).ok(), before, "the file is as it was");
    error
}

/// A journal with some content, closed.
fn filled() -> (tempfile::TempDir, String) {
    let (folder, path) = folder();
    let desk = Desk::open(&path);
    for index in 0..300 {
        desk.whole(&format!("c{index}"), index, Decision::Commit);
    }
    assert_eq!(desk.history(everything()).len(), 300);
    (folder, path)
}

#[test]
fn a_file_that_is_no_database_is_refused() {
    let (_folder, path) = folder();
    fs::write(&path, "my precious notes, longer than any header of a database could ever be")
        .unwrap();
    assert!(matches!(refused(&path), JournalError::Foreign { .. }));
}

#[test]
fn a_database_of_another_program_is_refused() {
    let (_folder, path) = folder();
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("CREATE TABLE notes (text TEXT)").unwrap();
    drop(other);
    assert!(matches!(refused(&path), JournalError::Foreign { .. }));
}

#[test]
fn a_newer_schema_is_refused() {
    let (_folder, path) = filled();
    let later = rusqlite::Connection::open(&path).unwrap();
    later.pragma_update(None, "user_version", 99).unwrap();
    drop(later);
    let error = refused(&path);
    assert!(matches!(error, JournalError::NewerSchema { found: 99, known: 5, .. }), "{error:?}");
}

#[test]
fn a_truncated_file_is_refused() {
    let (_folder, path) = filled();
    let length = fs::metadata(&path).unwrap().len();
    for left in [length - 1, length / 2, 4_096, 50] {
        fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(left).unwrap();
        let error = refused(&path);
        assert!(matches!(error, JournalError::Damaged { .. }), "{left}: {error:?}");
    }
}

#[test]
fn garbage_in_the_middle_is_found_and_refused() {
    let (_folder, path) = filled();
    let mut bytes = fs::read(&path).unwrap();
    // Enough pages that some of them are in use: a page that is free may hold anything.
    let page = |eighths: usize| bytes.len() * eighths / 8 / 4_096 * 4_096;
    let middle = page(3)..page(5);
    bytes[middle].fill(0xa5);
    fs::write(&path, bytes).unwrap();
    let error = refused(&path);
    assert!(matches!(error, JournalError::Damaged { .. }), "{error:?}");
}

#[test]
fn a_folder_that_is_missing_or_cannot_be_written_is_named() {
    let (folder, _) = folder();
    let missing = folder.path().join("no/journal.db").to_str().unwrap().to_owned();
    let error = refused(&missing);
    assert!(matches!(error, JournalError::Open { .. }));
    assert!(error.to_string().contains("create it first"), "{error}");
    if cfg!(target_os = "linux") {
        // Nobody can make files there, not even root, who may write any other folder.
        let error = refused("/proc/self/journal.db");
        assert!(matches!(error, JournalError::Open { .. }));
        assert!(error.to_string().contains("writable"), "{error}");
    }
    let here = folder.path().to_str().unwrap().to_owned();
    let error = SqliteJournal::open(&here, JournalOptions::default()).err().unwrap();
    assert!(error.to_string().contains("it is a folder"), "{error}");
}

#[test]
fn a_full_disk_fails_begins_and_loses_nothing_that_was_acknowledged() {
    for durability in [Durability::Forced, Durability::Accepted] {
        fill_the_disk(durability);
    }
}

fn fill_the_disk(durability: Durability) {
    let (_folder, path) = folder();
    let options = JournalOptions {
        segments: SegmentSizes { first: 16 << 10, most: 16 << 10, total: Some(64 << 10) },
        projection_idle: Duration::from_secs(3_600),
        ..JournalOptions::default()
    };
    let desk = Desk::with(&path, options);
    let mut stood = Vec::new();
    let error = loop {
        let name = format!("c{}", stood.len());
        match desk.put(append(&name, 1, begin(&*desk.journal, &name), durability)) {
            Answer::Recorded => stood.push(name),
            Answer::Failed(error) => break error,
            other => panic!("{other:?}"),
        }
    };
    assert!(stood.len() > 20);
    assert!(error.to_string().contains("free some space"), "{error}");
    assert_eq!(desk.health.recv_timeout(PATIENCE).unwrap(), Some(error));
    // Decisions are not dropped: they wait. What is known can still be asked for.
    assert!(desk.find(&stood[0]).is_some());
    let status = wait(|reply| desk.journal.status(reply));
    assert!(matches!(status, Err(JournalError::Unavailable { .. }) | Ok(_)));
    drop(desk);
    let again = Desk::open(&path);
    for name in &stood {
        assert!(again.find(name).is_some(), "{name}");
    }
    assert!(matches!(again.put(forced("new", 1, begin(&*again.journal, "new"))), Answer::Recorded));
}

/// The files as a crash at this moment would leave them; its instance's lock is not among them.
fn as_after_a_crash(path: &str) -> (tempfile::TempDir, String) {
    let (folder, copy) = folder();
    for ending in ["", "-wal"] {
        fs::copy(format!("{path}{ending}"), format!("{copy}{ending}")).unwrap();
    }
    fs::create_dir(format!("{copy}-log")).unwrap();
    for entry in fs::read_dir(format!("{path}-log")).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        fs::copy(entry.path(), format!("{copy}-log/{name}")).unwrap();
    }
    (folder, copy)
}

#[test]
fn what_was_acknowledged_is_there_after_a_crash_before_and_after_projection() {
    let (_folder, path) = folder();
    let projection_idle = Duration::from_secs(3_600);
    let options = JournalOptions { projection_idle, ..JournalOptions::default() };
    let desk = Desk::with(&path, options);
    desk.whole("finished", 1, Decision::Commit);
    desk.put(forced("decided", 2, begin(&*desk.journal, "decided")));
    desk.put(forced("decided", 3, decide(Decision::Commit)));
    for projected in [false, true] {
        if projected {
            assert_eq!(desk.history(everything()).len(), 2);
        }
        let (_copied, copy) = as_after_a_crash(&path);
        let heir = Desk::open(&copy);
        assert_eq!(heir.journal.cluster(), desk.journal.cluster());
        assert_eq!(heir.find("finished"), desk.find("finished"));
        assert_eq!(heir.find("decided"), desk.find("decided"));
        let adopted = heir.adopt();
        assert_eq!(adopted.len(), 1, "projected: {projected}");
        assert_eq!(adopted[0].records[1].1, decide(Decision::Commit));
        assert_eq!(adopted[0].records.len(), 3);
        assert_eq!(heir.history(everything()), ["decided", "finished"]);
    }
}

#[test]
fn what_a_late_record_adds_to_a_finished_coordination_is_kept() {
    let (_folder, path) = folder();
    let desk = Desk::open(&path);
    desk.whole("a", 1, Decision::Commit);
    assert_eq!(desk.history(everything()).len(), 1);
    let late = Record::Heuristic {
        store: crate::model::ids::StoreName::new("left").unwrap(),
        expected: Decision::Commit,
        message: "it was thrown away".to_owned(),
    };
    assert!(matches!(desk.put(forced("a", 7, late)), Answer::Recorded));
    let (_copied, copy) = as_after_a_crash(&path);
    for desk in [&desk, &Desk::open(&copy)] {
        assert_eq!(desk.history(everything()), ["a"]);
        let stored = desk.find("a").unwrap();
        assert_eq!((stored.updated_at, stored.completed_at), (Timestamp(7), Some(Timestamp(1))));
    }
}

#[test]
fn while_another_holds_the_log_begins_fail_and_decisions_wait() {
    let (_folder, path) = folder();
    let options = JournalOptions {
        busy_timeout: Duration::from_millis(20),
        retry_wait_max: Duration::from_millis(50),
        projection_idle: Duration::from_secs(3_600),
        ..JournalOptions::default()
    };
    let desk = Desk::with(&path, options);
    desk.put(forced("a", 1, begin(&*desk.journal, "a")));
    let holder = fs::File::open(format!("{path}-log/lock")).unwrap();
    holder.lock().unwrap();
    let decision = forced("a", 2, decide(Decision::Commit));
    let begun = forced("b", 2, begin(&*desk.journal, "b"));
    let (decision_token, begin_token) = (decision.token, begun.token);
    desk.journal.append(&mut vec![decision, begun]);
    let (token, answer) = desk.answer();
    assert_eq!(token, begin_token);
    assert!(matches!(answer, Answer::Failed(JournalError::Unavailable { .. })), "{answer:?}");
    assert!(desk.health.recv_timeout(PATIENCE).unwrap().is_some());
    holder.unlock().unwrap();
    let (token, answer) = desk.answer();
    assert_eq!(token, decision_token);
    assert!(matches!(answer, Answer::Recorded), "{answer:?}");
    assert_eq!(desk.health.recv_timeout(PATIENCE).unwrap(), None);
    assert_eq!(desk.find("a").unwrap().decision, Some(Decision::Commit));
    assert_eq!(desk.find("b"), None);
    assert!(desk.health.try_recv().is_err(), "health is told once");
}

#[test]
fn while_another_holds_the_tables_records_go_on_until_too_many_are_ahead_of_them() {
    let (_folder, path) = folder();
    let options = JournalOptions {
        busy_timeout: Duration::from_millis(20),
        projection_due: 10,
        projection_backlog_max: 30,
        ..JournalOptions::default()
    };
    let desk = Desk::with(&path, options);
    desk.put(forced("open", 1, begin(&*desk.journal, "open")));
    let holder = rusqlite::Connection::open(&path).unwrap();
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    let listed = wait(|reply| desk.journal.history(everything(), reply));
    assert!(matches!(listed, Err(JournalError::Unavailable { .. })), "{listed:?}");
    let mut stood = 0;
    let error = loop {
        let name = format!("c{stood}");
        match desk.put(forced(&name, 1, begin(&*desk.journal, &name))) {
            Answer::Recorded => stood += 1,
            Answer::Failed(error) => break error,
            other => panic!("{other:?}"),
        }
    };
    assert!(stood >= 29, "{stood}");
    assert!(error.to_string().contains("another process holds it"), "{error}");
    assert!(matches!(desk.put(forced("open", 2, decide(Decision::Commit))), Answer::Recorded));
    holder.execute_batch("ROLLBACK").unwrap();
    let deadline = std::time::Instant::now() + PATIENCE;
    while wait(|reply| desk.journal.history(everything(), reply)).map_or(0, |found| found.len())
        <= stood
    {
        assert!(std::time::Instant::now() < deadline, "the tables never caught up");
        std::thread::yield_now();
    }
    assert!(matches!(desk.put(forced("new", 3, begin(&*desk.journal, "new"))), Answer::Recorded));
}

#[test]
fn a_journal_without_its_segments_or_with_those_of_another_is_refused() {
    let (_folder, path) = folder();
    let desk = Desk::open(&path);
    desk.put(forced("open", 1, begin(&*desk.journal, "open")));
    let (_copied, copy) = as_after_a_crash(&path);
    let segment = format!("{copy}-log/{:020}.log", 1);
    fs::rename(&segment, format!("{copy}-away")).unwrap();
    let error = SqliteJournal::open(&copy, JournalOptions::default()).err().unwrap();
    assert!(matches!(error, JournalError::Damaged { .. }), "{error:?}");
    assert!(error.to_string().contains("has no segments"), "{error}");
    fs::rename(format!("{copy}-away"), &segment).unwrap();
    let (_other_folder, other) = folder();
    drop(Desk::open(&other));
    fs::copy(&segment, format!("{other}-log/{:020}.log", 1)).unwrap();
    let error = SqliteJournal::open(&other, JournalOptions::default()).err().unwrap();
    assert!(matches!(error, JournalError::Foreign { .. }), "{error:?}");
    assert!(error.to_string().contains("move that folder away"), "{error}");
    assert!(Desk::open(&copy).find("open").is_some());
}

#[test]
fn a_journal_that_is_closed_in_peace_is_one_file_again() {
    let (_folder, path) = folder();
    let (desk, other) = (Desk::open(&path), Desk::open(&path));
    desk.whole("done", 1, Decision::Commit);
    desk.put(forced("open", 2, begin(&*desk.journal, "open")));
    let segments = || {
        let entries = fs::read_dir(format!("{path}-log")).unwrap();
        entries.filter(|entry| entry.as_ref().unwrap().file_name() != "lock").count()
    };
    drop(desk);
    assert_eq!(segments(), 1, "another still writes it");
    drop(other);
    assert_eq!(segments(), 0);
    let (folder, moved) = folder();
    fs::copy(&path, &moved).unwrap();
    let desk = Desk::open(&moved);
    assert_eq!(desk.find("done").unwrap().state, TransactionState::Committed);
    assert_eq!(desk.adopt().len(), 1);
    drop((desk, folder));
}

#[test]
fn a_listener_that_panics_leaves_nobody_waiting() {
    struct Panicking(Mutex<Sender<bool>>);
    impl AnswerSink for Panicking {
        fn answered(&self, answers: Vec<(u64, Answer)>) {
            let failed = matches!(answers[0].1, Answer::Failed(_));
            let _ = self.0.lock().unwrap().send(failed);
            assert!(failed, "provoked");
        }
        fn health_changed(&self, _: Option<JournalError>) {}
    }
    let (_folder, path) = folder();
    let journal = SqliteJournal::open(&path, JournalOptions::default()).unwrap();
    let (sender, told) = mpsc::channel();
    journal.attach(Arc::new(Panicking(Mutex::new(sender))));
    journal.append(&mut vec![forced("a", 1, begin(&journal, "a"))]);
    assert!(!told.recv_timeout(PATIENCE).unwrap());
    let found = wait(|reply| journal.find(id("a"), reply));
    assert!(matches!(found, Err(JournalError::Unavailable { .. })), "{found:?}");
    journal.append(&mut vec![forced("b", 1, begin(&journal, "b"))]);
    assert!(journal.writer.lock().unwrap().is_some());
    journal.close();
    assert!(journal.writer.lock().unwrap().is_none());
}
