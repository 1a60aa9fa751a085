//! What only the bus in a file claims: its file, its disk, what it keeps, who left it.

use std::fs;

use unanimity::events::journal::JournalBusOptions;

use super::*;

fn path(house: &House) -> std::path::PathBuf {
    house.place().into()
}

fn open(path: &Path, options: JournalBusOptions) -> Result<Process, EventBusError> {
    let bus = JournalEventBus::open_with(path, options, runtime().handle().clone())?;
    Ok(Process { bus: Arc::new(bus) })
}

#[test]
fn the_bus_stands_beside_its_journal() {
    assert_eq!(JournalEventBus::beside(Path::new("/x/j.db")), Path::new("/x/j.db-bus"));
}

#[test]
fn a_full_disk_is_told_and_loses_nothing_that_was_answered() {
    let house = House::journal();
    let options = JournalBusOptions { pages_max: Some(120), ..JournalBusOptions::default() };
    let process = open(&path(&house), options).unwrap();
    let (handler, _heard) = listener();
    let id = process.subscribe(subscription(Some("g"), handler));
    process.unsubscribe(id);
    let large = |number| {
        let body = Value::Text("x".repeat(2_000));
        BusEvent { body, ..event("s", number) }
    };
    let mut answered = 0;
    let error = loop {
        match process.publish(large(answered)) {
            Ok(()) => answered += 1,
            Err(error) => break error.to_string(),
        }
    };
    assert!(error.contains("full") && error.contains("free some space"), "{error}");
    assert!(error.contains(&house.place()), "{error}");
    assert!(process.publish(large(answered)).is_err(), "it is still full");
    drop(process);
    let process = house.process();
    let (handler, heard) = listener();
    process.subscribe(subscription(Some("g"), handler));
    process.publish(event("s", answered)).unwrap();
    let ids = heard.ids(answered + 1);
    assert_eq!(by_stream(ids)["s"], (0..=answered).collect::<Vec<_>>());
}

#[test]
fn a_file_that_cannot_be_written_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("missing").join("bus");
    let error = open(&place, JournalBusOptions::default()).err().unwrap().to_string();
    assert!(error.contains("create it first"), "{error}");
    // A folder that nobody may write to, whoever runs this test.
    let place = Path::new("/proc/unanimity-bus");
    let error = open(place, JournalBusOptions::default()).err().unwrap().to_string();
    assert!(error.contains("/proc/unanimity-bus") && error.contains("writable"), "{error}");
}

#[test]
fn a_file_of_another_kind_a_damaged_one_and_a_newer_one_are_left_as_they_are() {
    let refused = |bytes: &[u8], words: &str| {
        let house = House::journal();
        fs::write(path(&house), bytes).unwrap();
        let error = open(&path(&house), JournalBusOptions::default()).err().unwrap().to_string();
        assert!(error.contains(words), "{error}");
        assert_eq!(fs::read(path(&house)).unwrap(), bytes, "untouched");
    };
    refused(b"words of somebody else, long enough to be a header or so", "no SQLite file");
    let house = House::journal();
    house.process().bus.close();
    let good = fs::read(path(&house)).unwrap();
    refused(&good[..good.len() / 2], "restore it from a backup");
    let mut foreign = good.clone();
    foreign[68..72].copy_from_slice(&[1, 2, 3, 4]);
    refused(&foreign, "another program");
    let mut newer = good;
    newer[60..64].copy_from_slice(&9_u32.to_be_bytes());
    refused(&newer, "schema 9");
}

#[test]
fn what_every_group_has_handled_goes_away_and_what_somebody_has_not_stays() {
    let house = House::journal();
    let options = JournalBusOptions {
        kept_for: Duration::from_secs(3_600),
        kept_max: 10,
        ..JournalBusOptions::default()
    };
    let process = open(&path(&house), options).unwrap();
    let (handler, _heard) = listener();
    process.subscribe(subscription(Some("g"), handler.clone()));
    let waiting = process.subscribe(SubscribeAsk {
        kind: Some("kept".to_owned()),
        ..subscription(Some("absent"), handler)
    });
    process.unsubscribe(waiting);
    process.publish(event_of("kept", "k", 0)).unwrap();
    process.publish_all((0..2_000).map(|number| event(&format!("s{}", number % 7), number)));
    eventually("old events go", || (house.count("bus_events") <= 11).then_some(()));
    assert_eq!(house.count("bus_events WHERE kind = 'kept'"), 1);
    assert_eq!(house.count("bus_lines"), 1);
    let (handler, heard) = listener();
    let kind = Some("kept".to_owned());
    process.subscribe(SubscribeAsk { kind, ..subscription(Some("absent"), handler) });
    assert_eq!(heard.ids(1), ["k/0"]);
}

#[test]
fn old_events_go_by_their_age_too() {
    let house = House::journal();
    let options = JournalBusOptions { kept_for: Duration::ZERO, ..JournalBusOptions::default() };
    let process = open(&path(&house), options).unwrap();
    process.publish_all((0..10).map(|number| event("s", number)));
    eventually("they go", || (house.count("bus_events") == 0).then_some(()));
    process.publish(event("s", 3)).unwrap();
    assert_eq!(house.count("bus_meta WHERE last_position = 11"), 1, "no position twice");
}

#[test]
fn a_subscription_without_a_group_leaves_nothing_behind() {
    let house = House::journal();
    let process = house.process();
    let (handler, _heard) = listener();
    let id = process.subscribe(subscription(None, handler.clone()));
    process.publish(event("s", 0)).unwrap();
    assert!(process.unsubscribe(id));
    assert_eq!(house.count("bus_groups") + house.count("bus_lines"), 0);
    process.subscribe(subscription(None, handler));
    process.bus.close();
    assert_eq!(house.count("bus_groups"), 0, "also when its bus closes");
}
