//! The duties of the port, one claim a function; each is a test of every journal.

use super::*;

pub(super) fn answers_come_in_the_order_of_the_appends(place: &Place) {
    let desk = place.desk();
    let mut tokens = Vec::new();
    let mut batch = Vec::new();
    for index in 0..3_000 {
        let name = format!("c{index}");
        let record = begin(&*desk.journal, &name);
        batch.push(forced(&name, index, record));
        tokens.push(batch.last().unwrap().token);
    }
    for part in batch.chunks(700) {
        desk.journal.append(&mut part.to_vec());
    }
    for token in tokens {
        let (answered, answer) = desk.answer();
        assert_eq!(answered, token);
        assert!(matches!(answer, Answer::Recorded));
    }
}

pub(super) fn the_first_begin_stands_and_a_later_one_is_told_it(place: &Place) {
    let desk = place.desk();
    assert!(matches!(desk.put(forced("a", 1, begin(&*desk.journal, "a"))), Answer::Recorded));
    for projected in [false, true] {
        if projected {
            desk.put(forced("a", 2, decide(Decision::Commit)));
            desk.put(forced("a", 3, end(Decision::Commit)));
            assert_eq!(desk.history(everything()), ["a"]);
        }
        match desk.put(forced("a", 9, begin(&*desk.journal, "a"))) {
            Answer::Exists(stored) => {
                assert_eq!(stored.created_at, Timestamp(1));
                assert_eq!(stored.request, request("a"));
                assert_eq!(stored.completed_at.is_some(), projected);
            }
            other => panic!("{other:?}"),
        }
    }
}

pub(super) fn the_first_decision_stands_also_within_one_batch(place: &Place) {
    let desk = place.desk();
    desk.journal.append(&mut vec![
        forced("a", 1, begin(&*desk.journal, "a")),
        forced("a", 2, decide(Decision::Abort)),
        forced("a", 3, decide(Decision::Commit)),
    ]);
    assert!(matches!(desk.answer().1, Answer::Recorded));
    assert!(matches!(desk.answer().1, Answer::Recorded));
    assert!(matches!(desk.answer().1, Answer::Decided(Decision::Abort)));
    let stored = desk.find("a").unwrap();
    assert_eq!(stored.decision, Some(Decision::Abort));
    assert_eq!(stored.reason, Some(Reason::new("refused", "it was refused")));
    assert_eq!(stored.state, TransactionState::Aborting);
}

pub(super) fn a_decision_on_a_finished_coordination_is_told_the_standing_one(place: &Place) {
    let desk = place.desk();
    desk.whole("a", 1, Decision::Commit);
    assert_eq!(desk.history(everything()).len(), 1);
    let answer = desk.put(forced("a", 5, decide(Decision::Abort)));
    assert!(matches!(answer, Answer::Decided(Decision::Commit)), "{answer:?}");
}

pub(super) fn a_record_without_a_begin_is_refused(place: &Place) {
    let desk = place.desk();
    let answer = desk.put(forced("ghost", 1, decide(Decision::Commit)));
    assert!(matches!(answer, Answer::Failed(JournalError::Unavailable { .. })), "{answer:?}");
    assert_eq!(desk.find("ghost"), None);
}

pub(super) fn two_processes_agree_on_the_first_begin_and_the_first_decision(place: &Place) {
    let (one, two) = (place.desk(), place.desk());
    assert_eq!(one.journal.cluster(), two.journal.cluster());
    for round in 0..50 {
        let name = format!("c{round}");
        let begun =
            [&one, &two].map(|desk| desk.put(forced(&name, round, begin(&*desk.journal, &name))));
        assert!(matches!(&begun[0], Answer::Recorded));
        match &begun[1] {
            Answer::Exists(stored) => assert_eq!(&stored.owner, one.journal.instance()),
            other => panic!("{other:?}"),
        }
        let decided = two.put(forced(&name, round, decide(Decision::Abort)));
        assert!(matches!(decided, Answer::Recorded));
        let late = one.put(forced(&name, round, decide(Decision::Commit)));
        assert!(matches!(late, Answer::Decided(Decision::Abort)));
        one.put(forced(&name, round, end(Decision::Abort)));
        if round % 7 == 0 {
            // Projected by one, so that the other has to do with rows that it never saw.
            one.history(everything());
        }
        assert_eq!(two.find(&name).unwrap().state, TransactionState::Aborted, "{name}");
    }
    assert_eq!(one.history(everything()), two.history(everything()));
}

pub(super) fn what_an_owner_left_open_is_adopted_when_it_is_gone_and_not_before(place: &Place) {
    let (owner, heir) = (place.desk(), place.desk());
    owner.put(forced("undecided", 1, begin(&*owner.journal, "undecided")));
    owner.put(forced("decided", 2, begin(&*owner.journal, "decided")));
    owner.put(forced("decided", 3, decide(Decision::Commit)));
    owner.whole("finished", 4, Decision::Commit);
    // Projected once, to see that rows of open ones stay in the log.
    assert_eq!(owner.history(everything()).len(), 3);
    assert!(!heir.journal.is_alone());
    assert_eq!(heir.adopt(), []);
    let gone = owner.journal.instance().clone();
    drop(owner);
    assert_eq!(heir.journal.is_alone(), place.knows_when_alone);
    let few = stores().into_iter().take(1).collect();
    let without = wait(|reply| heir.journal.adopt(few, reply)).unwrap();
    assert_eq!(without, [], "what needs other stores is left to a process that has them");
    let adopted = heir.adopt();
    let names: Vec<&str> = adopted.iter().map(|open| open.id.as_str()).collect();
    assert_eq!(names, ["undecided", "decided"]);
    for open in &adopted {
        assert_eq!((&open.owner, open.epoch), (heir.journal.instance(), 2));
        let (at, first) = &open.records[0];
        let request = request(open.id.as_str());
        let begin = Record::Begin { request, owner: gone.clone(), epoch: 1, locks: Vec::new() };
        assert_eq!(first, &begin);
        assert!(*at == Timestamp(1) || *at == Timestamp(2));
        let last = &open.records.last().unwrap().1;
        assert_eq!(last, &Record::Adopted { owner: heir.journal.instance().clone(), epoch: 2 });
    }
    assert_eq!(adopted[1].records[1].1, decide(Decision::Commit));
    assert_eq!(heir.adopt(), [], "what is owned already is not adopted again");
}

pub(super) fn a_deposed_owner_is_told_so(place: &Place) {
    let desk = place.desk();
    desk.put(forced("a", 1, begin(&*desk.journal, "a")));
    let other = InstanceId::new("other").unwrap();
    let adopted = Record::Adopted { owner: other.clone(), epoch: 2 };
    assert!(matches!(desk.put(forced("a", 2, adopted.clone())), Answer::Recorded));
    assert!(matches!(desk.put(forced("a", 3, adopted)), Answer::Deposed));
    for record in [decide(Decision::Commit), end(Decision::Commit)] {
        assert!(matches!(desk.put(forced("a", 4, record)), Answer::Deposed));
    }
    let stored = desk.find("a").unwrap();
    assert_eq!((stored.owner, stored.epoch, stored.decision), (other, 2, None));
}

pub(super) fn only_one_of_two_heirs_adopts(place: &Place) {
    let owner = place.desk();
    for index in 0..200 {
        let name = format!("c{index}");
        owner.put(forced(&name, index, begin(&*owner.journal, &name)));
    }
    drop(owner);
    let heirs = [place.desk(), place.desk()];
    let adopted: Vec<_> = std::thread::scope(|scope| {
        let threads = heirs.each_ref().map(|heir| {
            let journal = heir.journal.clone();
            scope.spawn(move || wait(|reply| journal.adopt(stores(), reply)).unwrap())
        });
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let mut names: Vec<_> = adopted.iter().map(|open| open.id.clone()).collect();
    names.sort();
    names.dedup();
    assert_eq!((adopted.len(), names.len()), (200, 200));
}

pub(super) fn lazy_and_accepted_records_reach_the_file(place: &Place) {
    let desk = place.desk();
    let accepted = append("a", 1, begin(&*desk.journal, "a"), Durability::Accepted);
    assert!(matches!(desk.put(accepted), Answer::Recorded));
    desk.journal.append(&mut vec![append("a", 2, decide(Decision::Abort), Durability::Lazy)]);
    drop(desk);
    assert_eq!(place.desk().find("a").unwrap().decision, Some(Decision::Abort));
}

pub(super) fn a_lazy_record_is_written_without_company(place: &Place) {
    let (desk, other) = (place.desk(), place.desk());
    desk.journal.append(&mut vec![append("a", 1, begin(&*desk.journal, "a"), Durability::Lazy)]);
    let deadline = std::time::Instant::now() + PATIENCE;
    while other.find("a").is_none() {
        assert!(std::time::Instant::now() < deadline, "it never came");
        std::thread::yield_now();
    }
}

pub(super) fn everything_comes_back_from_the_tables_as_it_was_in_memory(place: &Place) {
    let desk = place.desk();
    desk.put(forced("a", 1, begin(&*desk.journal, "a")));
    desk.put(forced("a", 2, decide(Decision::Abort)));
    let open = desk.find("a").unwrap();
    let listed = wait(|reply| desk.journal.history(everything(), reply)).unwrap();
    assert_eq!(listed, [open]);
    desk.put(forced("a", 3, end(Decision::Abort)));
    let finished = desk.find("a").unwrap();
    assert_eq!(finished.stores.len(), 1);
    assert_eq!(finished.completed_at, Some(Timestamp(3)));
    let listed = wait(|reply| desk.journal.history(everything(), reply)).unwrap();
    assert_eq!(listed.as_slice(), std::slice::from_ref(&finished));
    assert_eq!(desk.find("a"), Some(finished));
}

pub(super) fn history_filters_and_lists_the_latest_first(place: &Place) {
    let desk = place.desk();
    desk.whole("committed", 1_000, Decision::Commit);
    desk.whole("aborted", 2_000, Decision::Abort);
    desk.put(forced("open", 3_000, begin(&*desk.journal, "open")));
    assert_eq!(desk.history(everything()), ["open", "aborted", "committed"]);
    let filter = HistoryFilter { limit: 2, ..everything() };
    assert_eq!(desk.history(filter), ["open", "aborted"]);
    let states = vec![TransactionState::Committed, TransactionState::Preparing];
    let filter = HistoryFilter { states, ..everything() };
    assert_eq!(desk.history(filter), ["open", "committed"]);
    let filter = HistoryFilter { since: Some(Timestamp(2_000)), ..everything() };
    assert_eq!(desk.history(filter), ["open", "aborted"]);
    let filter = HistoryFilter { until: Some(Timestamp(2_000)), ..everything() };
    assert_eq!(desk.history(filter), ["aborted", "committed"]);
    assert_eq!(desk.history(HistoryFilter { open: true, ..everything() }), ["open"]);
    let states = vec![TransactionState::Committed, TransactionState::Preparing];
    let filter = HistoryFilter { states, open: true, limit: 1, ..everything() };
    assert_eq!(desk.history(filter), ["open"]);
    let filter = HistoryFilter { store: Some("right".to_owned()), ..everything() };
    assert_eq!(desk.history(filter).len(), 3);
    let filter = HistoryFilter { store: Some("%".to_owned()), ..everything() };
    assert_eq!(desk.history(filter).len(), 0);
    let kind = Some(CoordinationType::EventSourcing);
    assert_eq!(desk.history(HistoryFilter { kind, ..everything() }).len(), 0);
    let facts = wait(|reply| desk.journal.status(reply)).unwrap();
    assert_eq!(facts.states[&TransactionState::Committed], 1);
    assert_eq!(facts.states[&TransactionState::Preparing], 1);
    assert_eq!(facts.instances_alive, [desk.journal.instance().clone()]);
}

pub(super) fn unknown_ids_are_those_that_never_began(place: &Place) {
    let desk = place.desk();
    desk.whole("finished", 1, Decision::Commit);
    assert_eq!(desk.history(everything()).len(), 1);
    desk.put(forced("open", 2, begin(&*desk.journal, "open")));
    let ids = ["ghost", "finished", "open", "other"].map(id).to_vec();
    let unknown = wait(|reply| desk.journal.unknown_of(ids, reply)).unwrap();
    assert_eq!(unknown, ["ghost", "other"].map(id));
}

pub(super) fn retention_removes_what_ended_long_ago_and_never_what_is_open(place: &Place) {
    let desk = place.desk();
    let recent = now().0;
    for index in 0..1_203 {
        let name = format!("old{index}");
        let records = [begin(&*desk.journal, &name), decide(Decision::Commit)];
        let lazy = records.map(|record| append(&name, index, record, Durability::Lazy));
        desk.journal.append(&mut lazy.into());
        desk.journal.append(&mut vec![append(&name, 9, end(Decision::Commit), Durability::Lazy)]);
    }
    desk.put(forced("open", 1, begin(&*desk.journal, "open")));
    desk.whole("recent", recent, Decision::Commit);
    let day = Duration::from_secs(86_400);
    assert_eq!(wait(|reply| desk.journal.count_ended(day, reply)), Ok(1_203));
    for at_most in [1, 7, 600] {
        let some = wait(|reply| desk.journal.retain_some(day, at_most, reply)).unwrap();
        assert_eq!(some, at_most);
    }
    assert_eq!(wait(|reply| desk.journal.count_ended(day, reply)), Ok(595));
    let removed = wait(|reply| desk.journal.retain(day, reply)).unwrap();
    assert_eq!(removed, 595);
    assert_eq!(desk.history(everything()), ["recent", "open"]);
    assert_eq!(desk.find("old7"), None);
    let again = wait(|reply| desk.journal.retain(day, reply)).unwrap();
    assert_eq!(again, 0);
}

pub(super) fn a_closed_journal_refuses_and_its_file_opens_again(place: &Place) {
    let desk = place.desk();
    desk.whole("a", 1, Decision::Commit);
    desk.journal.close();
    let answer = desk.put(forced("b", 1, begin(&*desk.journal, "b")));
    assert!(matches!(answer, Answer::Failed(JournalError::Closed)), "{answer:?}");
    let found = wait(|reply| desk.journal.find(id("a"), reply));
    assert_eq!(found, Err(JournalError::Closed));
    let again = place.desk();
    assert_eq!(again.journal.cluster(), desk.journal.cluster());
    assert_ne!(again.journal.instance(), desk.journal.instance());
    assert_eq!(again.find("a").unwrap().state, TransactionState::Committed);
}
