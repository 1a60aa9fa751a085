//! `docs/protocols.md` is printed from the transition table, and may not differ from it.
//!
//! `UPDATE_DOCS=1` writes the page. Not the place for prose about the rules: that is in the headers
//! of `src/protocol`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use unanimity::protocol::two_phase::{TRANSITIONS, Transition};

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

fn page() -> String {
    let mut page = HEAD.to_owned();
    page.push_str(&diagram());
    page.push_str("\n### Transitions\n\n| rule | from | input | when | to | does |\n");
    page.push_str("| --- | --- | --- | --- | --- | --- |\n");
    for row in TRANSITIONS {
        let _ = writeln!(
            page,
            "| {:?} | {} | {} | {} | {} | {} |",
            row.rule,
            from(row),
            row.on,
            row.when,
            row.to.map_or("same", |state| state.as_str()),
            row.does
        );
    }
    page
}

fn from(row: &Transition) -> String {
    let names: Vec<_> = row.from.iter().map(|state| state.as_str()).collect();
    names.join(", ")
}

/// One arrow for each pair of states, with the rules that lead from one to the other.
fn diagram() -> String {
    let mut arrows: BTreeMap<(usize, usize), (&str, &str, Vec<String>)> = BTreeMap::new();
    for row in TRANSITIONS {
        let Some(to) = row.to else { continue };
        for from in row.from {
            let key = (*from as usize, to as usize);
            let arrow = arrows.entry(key).or_insert((from.as_str(), to.as_str(), Vec::new()));
            arrow.2.push(format!("{:?}", row.rule));
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
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/protocols.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&file, page()).expect("the page can be written");
    }
    let written = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(written == page(), "docs/protocols.md differs from the table; run `make docs`");
}
