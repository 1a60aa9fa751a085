//! `docs/internals/protocols.md` is printed from the transition table, and may not differ from it.
//!
//! `UPDATE_DOCS=1` writes the page. Not the place for prose about the rules: that is in the headers
//! of `src/protocol`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use unanimity::model::lock::LockMode;
use unanimity::protocol::{choreography, event_sourcing, eventual, lock_table, saga, two_phase};

const HEAD: &str = "\
# Protocols

This page is printed from the transition tables in `src/protocol` (`make docs`); a test compares it.
Do not edit it by hand.

## Two-phase commit

A coordination is one machine. Inputs are facts, what it does are requests; whatever stands after a
record waits until the record is as durable as the row says. Every row is taken by a scenario in
`tests/scenarios/two_phase` or by the simulation. Where a row names several states, it holds from
each of them; `same` means that the state stays.

### States

";

const EVENTS: &str = "
## Event sourcing

The begin record is the append, the check of every stream's version, and the decision, in one
forced write. The journal gives each event its version in its stream and its position among all
events, by the order of its log alone. Each participating store has a projection, which hands it
every event in order; the machine waits until those have come as far as the events of its request.
It takes no locks: what isolates writers of a stream is the version that they expect. Every row is
taken by a scenario in `tests/scenarios/event_sourcing`.

### States

";

const CHOREOGRAPHY: &str = "
## Choreographed sagas

The saga is a routing slip that travels over a durable event bus. At each stop the process that
has the store does its part as an orchestrated saga of one step, and undoes it, when the slip
comes back, as an eventual coordination; both are recorded in its own journal. This table is the
part of whoever began it: it records the beginning, sends the slip off, and records the end that
it hears. Every row is taken by the tests next to the machine.

### States

";

const SAGA: &str = "
## Orchestrated sagas

Steps are done in the order of what they depend on, and undone in reverse order when one of them
cannot be done; once the pivot is done, a saga only goes forward. The intent of every try is on disk
before its participant is asked, what it did before anything that depends on it, and the decision to
turn round before the first compensation. One input may take several rows, one after the other; rows
whose input is `any` are taken as soon as they hold. Every row is taken by a scenario in
`tests/scenarios/saga`.

### States

";

const EVENTUAL: &str = "
## Eventual consistency

The begin is the acceptance, and the acceptance is the decision; then every operation is delivered
by itself, those on one key in their order, and in the order in which their coordinations were
accepted.
Every row is taken by a scenario in `tests/scenarios/eventual`.

### States

";

const LOCKS: &str = "
## The lock table

Each resource has its holders and one queue, first come, first served. A claim is granted when
every claim ahead of it, held or waiting, is compatible with it or its requester's own; neighbours
that get along are granted together, and an upgrade goes ahead of the queue. Each grant of a
resource has a higher fencing token than every one before. A circle of waits is found when it
closes: the youngest requester in it that is not protected (prepared or decided) gives way. Every
row of the second table is taken by a scenario in `tests/scenarios/lock_table` or by a random
history.

### What is granted beside what

As the table itself answers; intents on a store announce locks on its keys. SIX is S and IX held by
one requester.

| held by one | IS by another | IX | S | X |
| --- | --- | --- | --- | --- |
";

fn page() -> String {
    let mut page = HEAD.to_owned();
    chapter(&mut page, &two_phase_rows());
    page.push_str(SAGA);
    chapter(&mut page, &saga_rows());
    page.push_str(CHOREOGRAPHY);
    chapter(&mut page, &choreography_rows());
    page.push_str(EVENTUAL);
    chapter(&mut page, &eventual_rows());
    page.push_str(EVENTS);
    chapter(&mut page, &event_sourcing_rows());
    page.push_str(LOCKS);
    for row in lock_table::effective_matrix().expect("its names are short") {
        let held: Vec<&str> = row.held.iter().map(|mode| letters(*mode)).collect();
        let granted: Vec<&str> = row
            .granted
            .iter()
            .map(|is_granted| if *is_granted { "granted" } else { "waits" })
            .collect();
        let _ = writeln!(page, "| {} | {} |", held.join(" and "), granted.join(" | "));
    }
    page.push_str("\n### Transitions of a claim\n\n| rule | from | input | when | to | does |\n");
    page.push_str("| --- | --- | --- | --- | --- | --- |\n");
    for row in lock_table::TRANSITIONS {
        let from: Vec<&str> = row.from.iter().map(|state| state.as_str()).collect();
        let to = row.to.map_or("same", |state| state.as_str());
        let lock_table::Transition { rule, on, when, does, .. } = row;
        let _ =
            writeln!(page, "| {rule:?} | {} | {on} | {when} | {to} | {does} |", from.join(", "));
    }
    page
}

fn letters(mode: LockMode) -> &'static str {
    match mode {
        LockMode::IntentShared => "IS",
        LockMode::IntentExclusive => "IX",
        LockMode::Shared => "S",
        LockMode::Exclusive => "X",
    }
}

#[test]
fn the_matrix_that_the_table_has_is_grays() {
    let rows = lock_table::effective_matrix().expect("its names are short");
    let shown: Vec<String> = rows
        .iter()
        .map(|row| {
            row.granted.iter().map(|is_granted| if *is_granted { '+' } else { '-' }).collect()
        })
        .collect();
    assert_eq!(shown, ["+++-", "++--", "+-+-", "+---", "----"]);
}

/// A row of a coordination's table, whichever machine it is of.
struct Row {
    rule: String,
    /// The states, by their order in the table's enum and by name.
    from: Vec<(usize, &'static str)>,
    to: Option<(usize, &'static str)>,
    cells: [&'static str; 3],
}

/// The rows of one machine's table; their types have the same fields, but are not one type.
macro_rules! rows {
    ($name:ident, $machine:ident) => {
        fn $name() -> Vec<Row> {
            let state = |state: $machine::State| (state as usize, state.as_str());
            let row = |row: &$machine::Transition| Row {
                rule: format!("{:?}", row.rule),
                from: row.from.iter().map(|from| state(*from)).collect(),
                to: row.to.map(state),
                cells: [row.on, row.when, row.does],
            };
            $machine::TRANSITIONS.iter().map(row).collect()
        }
    };
}

rows!(two_phase_rows, two_phase);
rows!(saga_rows, saga);
rows!(choreography_rows, choreography);
rows!(eventual_rows, eventual);
rows!(event_sourcing_rows, event_sourcing);

fn chapter(page: &mut String, rows: &[Row]) {
    page.push_str(&diagram(rows));
    page.push_str("\n### Transitions\n\n| rule | from | input | when | to | does |\n");
    page.push_str("| --- | --- | --- | --- | --- | --- |\n");
    for row in rows {
        let from: Vec<_> = row.from.iter().map(|(_, name)| *name).collect();
        let to = row.to.map_or("same", |(_, name)| name);
        let [on, when, does] = row.cells;
        let _ = writeln!(
            page,
            "| {} | {} | {on} | {when} | {to} | {does} |",
            row.rule,
            from.join(", ")
        );
    }
}

/// One arrow for each pair of states, with the rules that lead from one to the other.
fn diagram(rows: &[Row]) -> String {
    let mut arrows: BTreeMap<(usize, usize), (&str, &str, Vec<&str>)> = BTreeMap::new();
    for row in rows {
        let Some((to_number, to)) = row.to else { continue };
        for (from_number, from) in &row.from {
            let arrow = arrows.entry((*from_number, to_number)).or_insert((from, to, Vec::new()));
            arrow.2.push(&row.rule);
        }
    }
    let mut text = "```mermaid\nstateDiagram-v2\n    [*] --> New\n".to_owned();
    for (from, to, rules) in arrows.into_values() {
        let _ = writeln!(text, "    {from} --> {to}: {}", rules.join(", "));
    }
    text.push_str("    Ended --> [*]\n```\n");
    text
}

#[test]
fn the_page_says_what_the_table_says() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/internals/protocols.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&file, page()).expect("the page can be written");
    }
    let written = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(written == page(), "protocols.md differs from the table; run `make docs`");
}
