//! What people see of locks in the tables of a file. The duties of the port are tested for every
//! journal in `tests/engine/journal_duties`.

use super::*;

#[test]
fn the_locks_of_what_is_under_way_are_rows_until_its_end() {
    let (_folder, path) = folder();
    let desk = Desk::open(&path);
    let Record::Begin { request, owner, epoch, .. } = begin(&*desk.journal, "a") else {
        panic!("a begin is a begin");
    };
    let held = |request: &str| {
        let connection = rusqlite::Connection::open(&path).unwrap();
        let sql = "SELECT lock_id FROM distributed_locks WHERE coordination_id = ?1 ORDER BY 1";
        let mut statement = connection.prepare(sql).unwrap();
        let rows = statement.query_map([request], |row| row.get::<_, String>(0)).unwrap();
        rows.map(Result::unwrap).collect::<Vec<_>>()
    };
    let locked = Record::Begin { request, owner, epoch, locks: vec![7, 9] };
    desk.put(forced("a", 1, locked));
    desk.history(everything());
    assert_eq!(held("a"), ["left:intent_exclusive:7", "right:intent_exclusive:9"]);
    desk.put(forced("a", 2, decide(Decision::Commit)));
    desk.history(everything());
    assert_eq!(held("a").len(), 2, "decided is not ended");
    desk.put(forced("a", 3, end(Decision::Commit)));
    desk.history(everything());
    assert!(held("a").is_empty());
}
