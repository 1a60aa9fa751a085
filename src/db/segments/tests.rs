//! The log as its owner sees it: order, two holders, torn writes, loss of power, damage.
//!
//! A loss of power is played by bytes that are taken away or left over in a copy of the files.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use super::*;

const TAG: Tag = [7; 32];
const PATIENCE: Duration = Duration::from_secs(5);
const SMALL: SegmentSizes = SegmentSizes { first: 512, most: 2_048, total: None };

type Records = Vec<(i64, Vec<u8>)>;

fn open(folder: &Path, after: i64) -> (SegmentLog, Records) {
    try_open(folder, after, TAG).expect("opens")
}

fn try_open(folder: &Path, after: i64, tag: Tag) -> Result<(SegmentLog, Records), LogError> {
    let mut log =
        SegmentLog::open_locked(folder, tag, SMALL, PATIENCE, || Ok::<_, LogError>(after))?;
    let records = read_on(&mut log)?;
    let settled = log.settle();
    log.unlock();
    settled.map(|()| (log, records))
}

fn read_on(log: &mut SegmentLog) -> Result<Records, LogError> {
    let mut records = Vec::new();
    log.catch_up(|position, payload| {
        records.push((position, payload.to_vec()));
        Ok::<_, LogError>(())
    })?;
    Ok(records)
}

fn payload(position: i64) -> Vec<u8> {
    let length = usize::try_from(position % 50).unwrap() + 1;
    vec![u8::try_from(position % 251).unwrap() | 1; length]
}

fn write(log: &mut SegmentLog, count: i64) -> Records {
    log.lock(PATIENCE).expect("locks");
    let mut seen = read_on(log).expect("reads");
    let mut batch = Batch::default();
    let first = log.tail() + 1;
    for position in first..first + count {
        batch
            .push(position, |bytes| {
                bytes.extend(payload(position));
                Ok::<_, ()>(())
            })
            .unwrap();
        seen.push((position, payload(position)));
    }
    log.append(&batch).expect("appends");
    log.unlock();
    seen
}

fn expected(positions: impl IntoIterator<Item = i64>) -> Records {
    positions.into_iter().map(|position| (position, payload(position))).collect()
}

#[test]
fn records_come_back_in_order_over_many_segments() {
    let folder = tempfile::tempdir().unwrap();
    let (mut log, found) = open(folder.path(), 0);
    assert!(found.is_empty());
    for _ in 0..60 {
        write(&mut log, 5);
    }
    log.sync().unwrap();
    assert!(segment::list(folder.path()).unwrap().len() > 5);
    drop(log);
    let (log, found) = open(folder.path(), 0);
    assert_eq!(found, expected(1..=300));
    assert_eq!(log.tail(), 300);
}

#[test]
fn a_batch_that_is_larger_than_a_segment_gets_one_of_its_own_size() {
    let folder = tempfile::tempdir().unwrap();
    let (mut log, _) = open(folder.path(), 0);
    write(&mut log, 1_000);
    write(&mut log, 1);
    drop(log);
    assert_eq!(open(folder.path(), 0).1, expected(1..=1_001));
}

#[test]
fn two_holders_see_each_others_records_in_one_order() {
    let folder = tempfile::tempdir().unwrap();
    let (mut left, _) = open(folder.path(), 0);
    let (mut right, _) = open(folder.path(), 0);
    let (mut seen_left, mut seen_right) = (Vec::new(), Vec::new());
    for round in 0..50 {
        seen_left.extend(write(&mut left, 1 + round % 7));
        seen_right.extend(write(&mut right, 1 + round % 3));
    }
    seen_left.extend(read_on(&mut left).unwrap());
    assert_eq!(seen_left, seen_right);
    assert_eq!(seen_left, expected(1..=right.tail()));
}

#[test]
fn what_is_known_elsewhere_can_be_removed_and_a_holder_that_missed_it_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let (mut log, _) = open(folder.path(), 0);
    let (mut late, _) = open(folder.path(), 0);
    for _ in 0..40 {
        write(&mut log, 5);
    }
    assert!(log.has_before(150) && !log.has_before(0));
    log.remove_through(150).unwrap();
    assert!(matches!(read_on(&mut late), Err(LogError::Gap)));
    assert!(matches!(try_open(folder.path(), 0, TAG), Err(LogError::Gap)));
    let (mut again, found) = open(folder.path(), 150);
    assert_eq!(found.last(), Some(&(200, payload(200))));
    assert!(found.first().unwrap().0 <= 151);
    assert_eq!(again.tail(), 200);
    again.rewind(160).unwrap();
    assert_eq!(read_on(&mut again).unwrap().last(), found.last());
    assert!(matches!(again.rewind(0), Err(LogError::Gap)));
    again.remove_all().unwrap();
    assert!(!SegmentLog::exists(folder.path()));
    assert_eq!(open(folder.path(), 200).0.tail(), 200);
}

/// The only segment of a folder, opened for playing tricks.
fn last_segment(folder: &Path) -> std::fs::File {
    let first = *segment::list(folder).unwrap().last().unwrap();
    OpenOptions::new().write(true).read(true).open(folder.join(segment::name(first))).unwrap()
}

#[test]
fn a_write_that_was_cut_at_any_byte_is_wiped_and_written_over() {
    for cut in 0..80 {
        let folder = tempfile::tempdir().unwrap();
        let (mut log, _) = open(folder.path(), 0);
        write(&mut log, 3);
        let (mut other, _) = open(folder.path(), 0);
        // A killed process leaves the beginning of its batch.
        let mut batch = Batch::default();
        for position in 4..=5 {
            batch
                .push(position, |bytes| {
                    bytes.extend([9; 25]);
                    Ok::<_, ()>(())
                })
                .unwrap();
        }
        last_segment(folder.path()).write_all_at(&batch.bytes()[..cut], log.offset).unwrap();
        let whole = i64::try_from((cut + 7) / 48).unwrap();
        let seen = write(&mut other, 4);
        let own = expected(4 + whole..8 + whole);
        assert_eq!(seen[usize::try_from(whole).unwrap()..], own, "{cut}");
        drop((log, other));
        let (log, found) = open(folder.path(), 0);
        assert_eq!(log.tail(), 7 + whole, "{cut}");
        assert_eq!(found[3 + usize::try_from(whole).unwrap()..], own, "{cut}");
    }
}

#[test]
fn what_a_loss_of_power_left_behind_the_end_does_not_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let (mut log, _) = open(folder.path(), 0);
    write(&mut log, 2);
    let end = log.offset;
    write(&mut log, 3);
    drop(log);
    // Of the last batch the first frame is lost, the others are there.
    let lost = [0; 24];
    last_segment(folder.path()).write_all_at(&lost, end).unwrap();
    let (mut log, found) = open(folder.path(), 0);
    assert_eq!(found, expected(1..=2));
    // A record of the same length would stand right in front of the old ones.
    write(&mut log, 1);
    drop(log);
    assert_eq!(open(folder.path(), 0).1, expected(1..=3));
}

#[test]
fn what_cannot_be_read_in_front_of_a_later_segment_is_damage() {
    for at in [HEADER_BYTES as u64 + 20, HEADER_BYTES as u64 + 200] {
        let folder = tempfile::tempdir().unwrap();
        let (mut log, _) = open(folder.path(), 0);
        while segment::list(folder.path()).unwrap().len() < 2 {
            write(&mut log, 1);
        }
        let path = folder.path().join(segment::name(1));
        OpenOptions::new().write(true).open(path).unwrap().write_all_at(&[0xa5; 24], at).unwrap();
        assert!(matches!(try_open(folder.path(), 0, TAG), Err(LogError::Damaged(_))));
    }
}

#[test]
fn a_log_that_lost_what_is_known_elsewhere_goes_on_behind_it() {
    let folder = tempfile::tempdir().unwrap();
    let (mut log, _) = open(folder.path(), 0);
    write(&mut log, 3);
    drop(log);
    let mut log =
        SegmentLog::open_locked(folder.path(), TAG, SMALL, PATIENCE, || Ok::<_, LogError>(10))
            .unwrap();
    read_on(&mut log).unwrap();
    log.settle().unwrap();
    log.skip_to(10).unwrap();
    log.unlock();
    assert_eq!(write(&mut log, 2), expected(11..=12));
    let (_, found) = open(folder.path(), 10);
    assert_eq!(found, expected(11..=12));
}

#[test]
fn a_segment_that_ended_without_a_next_one_is_followed_by_one() {
    let folder = tempfile::tempdir().unwrap();
    let (mut log, _) = open(folder.path(), 0);
    while segment::list(folder.path()).unwrap().len() < 2 {
        write(&mut log, 1);
    }
    let tail = log.tail();
    drop(log);
    // Whoever wrote the mark died before there was a next segment.
    let last = segment::list(folder.path()).unwrap()[1];
    std::fs::remove_file(folder.path().join(segment::name(last))).unwrap();
    let (mut log, found) = open(folder.path(), 0);
    assert_eq!(found, expected(1..tail));
    write(&mut log, 2);
    drop(log);
    assert_eq!(open(folder.path(), 0).1, expected(1..=tail + 1));
}

#[test]
fn segments_of_another_log_and_headers_that_are_none_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path(), 0));
    assert!(matches!(try_open(folder.path(), 0, [8; 32]), Err(LogError::Foreign(_))));
    last_segment(folder.path()).write_all_at(&[1], 9).unwrap();
    assert!(matches!(try_open(folder.path(), 0, TAG), Err(LogError::Damaged(_))));
}

#[test]
fn a_lock_that_another_holds_is_waited_for_within_a_bound() {
    let folder = tempfile::tempdir().unwrap();
    let (left, _) = open(folder.path(), 0);
    let (right, _) = open(folder.path(), 0);
    left.lock(PATIENCE).unwrap();
    assert!(matches!(right.lock(Duration::from_millis(20)), Err(LogError::Busy)));
    left.unlock();
    right.lock(PATIENCE).unwrap();
}

#[test]
fn nothing_but_the_segments_stays_when_a_log_is_closed() {
    let folder = tempfile::tempdir().unwrap();
    let (mut log, _) = open(folder.path(), 0);
    for _ in 0..60 {
        write(&mut log, 5);
        if let Some(job) = log.spare_job() {
            job();
        }
    }
    let job = log.spares.job(64);
    std::fs::write(folder.path().join("spare-0-1"), b"of a dead process").unwrap();
    drop(log);
    // Ready too late: nobody wants it any more.
    job();
    drop(open(folder.path(), 0));
    let others: Vec<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.starts_with("0000") && name != "lock")
        .collect();
    assert!(others.is_empty(), "{others:?}");
}
