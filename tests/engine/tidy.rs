//! House rules that a machine can hold: layers, banned names, lengths, headers, links.
//!
//! Not a formatter and not a linter of style: rustfmt, clippy and ruff are. The layers stand here
//! as data. Each test lists every offence at once. The file is long because each rule is a test.

mod source;

use std::fs;

use source::{Language, Source, files, root, sources};

/// What a module at the root of `src/` may import; imports go down only, siblings never meet.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("crash", &[]),
    ("reply", &["model"]),
    ("histogram", &[]),
    ("simulated", &["model"]),
    ("protocol", &["model"]),
    ("db", &["model", "crash", "simulated"]),
    ("cluster", &["model", "reply", "protocol"]),
    ("config", &["model"]),
    ("journal", LAYER_2),
    ("locks", LAYER_2),
    ("consensus", LAYER_2),
    ("participants", LAYER_2),
    ("events", LAYER_2),
    ("observe", LAYER_2),
    ("error", PORTS),
    ("engine", ENGINE),
    // For tests alone: the whole cluster in one run.
    ("simulated_cluster", ENGINE),
];
const LAYER_2: &[&str] =
    &["model", "reply", "crash", "histogram", "simulated", "protocol", "db", "cluster", "config"];
const PORTS: &[&str] = &[
    "model",
    "reply",
    "protocol",
    "db",
    "cluster",
    "config",
    "journal",
    "locks",
    "consensus",
    "participants",
    "events",
    "observe",
];
const ENGINE: &[&str] = &[
    "model",
    "reply",
    "crash",
    "histogram",
    "simulated",
    "protocol",
    "db",
    "cluster",
    "config",
    "error",
    "journal",
    "locks",
    "consensus",
    "participants",
    "events",
    "observe",
];

/// A word, and the only places (prefixes of paths) where it may stand in code.
const ONLY_IN: &[(&str, &[&str])] = &[
    (
        "rusqlite",
        &["src/db", "src/journal", "src/participants/sqlite", "src/events/journal", "tests/"],
    ),
    (
        "tokio_postgres",
        &[
            "src/db/postgres",
            "src/locks/postgres",
            "src/participants/postgres",
            "src/events/postgres",
            "src/journal/postgres",
            "tests/",
        ],
    ),
    ("openraft", &["src/consensus/raft", "tests/"]),
    ("rustls", &["src/consensus/raft/transport", "tests/"]),
    ("zookeeper_client", &["src/locks/zookeeper", "tests/"]),
    ("async_nats", &["src/events/nats", "tests/"]),
    ("redis", &["src/participants/", "python/bindings/src/stores", "tests/", "benches/redis"]),
    ("pyo3", &["python/bindings/"]),
];

/// Words that make a rule depend on more than its inputs.
const IMPURE: &[&str] = &[
    "async",
    "await",
    "tokio",
    "rusqlite",
    "tokio_postgres",
    "Instant",
    "SystemTime",
    "rand",
    "thread",
    "Mutex",
    "RwLock",
    "Condvar",
    "mpsc",
    "HashMap",
    "HashSet",
    "net",
    "fs",
    "env",
    "process",
];
/// Where a hashed set or map is only asked for one member, never walked: its order cannot be seen.
const HASH_ALLOWED: &[&str] = &["src/model/request.rs", "src/protocol/lock_table/registry.rs"];

const FILE_LINES_SOFT: usize = 400;
const FILE_LINES_MAX: usize = 600;
const TEST_FILE_LINES_MAX: usize = 800;
const FUNCTION_LINES_MAX: usize = 70;
const LINE_COLUMNS_MAX: usize = 100;
/// Tables of which each row is two lines.
const WIDE_TABLES: &[&str] = &[
    "src/protocol/two_phase/rules.rs",
    "src/protocol/lock_table/rules.rs",
    "src/protocol/saga/rules.rs",
    "src/protocol/eventual/rules.rs",
];

fn fail_on(offences: &[String]) {
    assert!(offences.is_empty(), "\n{}\n", offences.join("\n"));
}

/// Places where `word` stands as a word of its own.
fn lines_with_word(text: &str, word: &str) -> Vec<usize> {
    let is_inner = |character: char| character.is_alphanumeric() || character == '_';
    let mut lines = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let stands = line.match_indices(word).any(|(at, _)| {
            !line[..at].ends_with(is_inner) && !line[at + word.len()..].starts_with(is_inner)
        });
        if stands {
            lines.push(index + 1);
        }
    }
    lines
}

fn engine_sources() -> Vec<Source> {
    sources().into_iter().filter(|source| source.path.starts_with("src/")).collect()
}

/// `model` for `src/model/ids.rs`, with the depth of the file's module under the root.
fn module_of(path: &str) -> (String, usize) {
    let inner = path.trim_start_matches("src/").trim_end_matches(".rs").trim_end_matches("/mod");
    (inner.split('/').next().unwrap_or_default().to_owned(), inner.split('/').count())
}

fn leading_word(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    &text[..end]
}

/// The first words inside of a group `{a::b, c::{d}}`, `text` beginning after its brace.
fn group_words(text: &str) -> Vec<&str> {
    let (mut depth, mut begin, mut words) = (0, 0, Vec::new());
    for (at, character) in text.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => {
                words.push(leading_word(text[begin..at].trim_start()));
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                words.push(leading_word(text[begin..at].trim_start()));
                begin = at + 1;
            }
            _ => {}
        }
    }
    words
}

/// The root modules that a file names, by `crate::` or by enough `super::`.
fn imports(source: &Source) -> Vec<&str> {
    let (_, depth) = module_of(&source.path);
    let to_root = ["crate::".to_owned(), "super::".repeat(depth), "super::".repeat(depth + 1)];
    let mut found = Vec::new();
    for prefix in &to_root {
        for (at, _) in source.code.match_indices(prefix.as_str()) {
            let rest = &source.code[at + prefix.len()..];
            match rest.strip_prefix('{') {
                Some(group) => found.extend(group_words(group)),
                None => found.push(leading_word(rest)),
            }
        }
    }
    found
}

#[test]
fn imports_go_down_only_and_siblings_never_meet() {
    let is_root = |name: &str| MAY_IMPORT.iter().any(|(module, _)| *module == name);
    let mut offences = Vec::new();
    for source in engine_sources().iter().filter(|source| source.path != "src/lib.rs") {
        let (module, _) = module_of(&source.path);
        let Some((_, allowed)) = MAY_IMPORT.iter().find(|(name, _)| *name == module) else {
            offences
                .push(format!("{}: `{module}` has no layer; add it to MAY_IMPORT", source.path));
            continue;
        };
        for name in imports(source) {
            if is_root(name) && name != module && !allowed.contains(&name) {
                offences.push(format!("{}: `{module}` may not import `{name}`", source.path));
            }
        }
    }
    fail_on(&offences);
}

#[test]
fn the_rules_know_no_clock_task_lock_or_chance() {
    let mut offences = Vec::new();
    let pure = ["src/protocol", "src/model"];
    for source in engine_sources() {
        if !pure.iter().any(|folder| source.path.starts_with(folder)) {
            continue;
        }
        let hash_allowed = HASH_ALLOWED.contains(&source.path.as_str());
        for word in IMPURE.iter().filter(|word| !(hash_allowed && word.starts_with("Hash"))) {
            for line in lines_with_word(source.shipped_code(), word) {
                offences.push(format!("{}:{line}: `{word}` in the rules", source.path));
            }
        }
    }
    fail_on(&offences);
}

#[test]
fn drivers_and_bindings_are_named_only_where_they_belong() {
    let mut offences = Vec::new();
    for source in sources().iter().filter(|source| source.language == Language::Rust) {
        for (word, places) in ONLY_IN {
            if places.iter().any(|place| source.path.starts_with(place)) {
                continue;
            }
            for line in lines_with_word(&source.code, word) {
                offences
                    .push(format!("{}:{line}: `{word}` stands only in {places:?}", source.path));
            }
        }
    }
    fail_on(&offences);
}

#[test]
fn tasks_are_spawned_only_by_the_engine_and_by_adapters() {
    let adapters = ["journal", "locks", "consensus", "participants", "events", "engine"];
    let mut offences = Vec::new();
    for source in engine_sources() {
        let (module, _) = module_of(&source.path);
        // A port's own file is `src/<port>/mod.rs`; deeper ones belong to an adapter.
        let depth = source.path.matches('/').count();
        let is_port = source.path.ends_with("/mod.rs") && module != "engine" && depth == 2;
        let may = source.is_test() || adapters.contains(&module.as_str()) && !is_port;
        for spawn in ["tokio::spawn", "thread::spawn", ".spawn("] {
            if !may && source.shipped_code().contains(spawn) {
                offences.push(format!("{}: `{spawn}` outside of engine and adapters", source.path));
            }
        }
    }
    fail_on(&offences);
}

#[test]
fn shipped_code_neither_prints_nor_unwraps() {
    let banned = [".unwrap()", "println!", "eprintln!", "dbg!", "todo!", "unimplemented!"];
    let mut offences = Vec::new();
    for source in sources() {
        if source.language != Language::Rust || source.is_test() {
            continue;
        }
        for word in banned {
            if source.path.starts_with("examples/") && word.contains("println") {
                continue;
            }
            if source.shipped_code().contains(word) {
                offences.push(format!("{}: `{word}`", source.path));
            }
        }
    }
    fail_on(&offences);
}

#[test]
fn files_are_short_and_say_why_when_they_are_not() {
    let mut offences = Vec::new();
    for source in sources() {
        let lines = source.text.lines().count();
        let most = if source.is_test() { TEST_FILE_LINES_MAX } else { FILE_LINES_MAX };
        if lines > most {
            offences.push(format!("{}: {lines} lines, at most {most}", source.path));
        }
        let says_why =
            ["long", "lines", "length"].iter().any(|word| source.header().contains(word));
        if lines > FILE_LINES_SOFT && !says_why && !source.is_test() {
            offences.push(format!("{}: {lines} lines, and the header says not why", source.path));
        }
    }
    fail_on(&offences);
}

#[test]
fn lines_fit_into_100_columns() {
    let mut offences = Vec::new();
    for source in sources() {
        // Python's lines are ruff's.
        let is_python = source.language == Language::Python;
        if is_python || WIDE_TABLES.contains(&source.path.as_str()) {
            continue;
        }
        for (index, line) in source.text.lines().enumerate() {
            if line.chars().count() > LINE_COLUMNS_MAX {
                offences.push(format!("{}:{}: over 100 columns", source.path, index + 1));
            }
        }
    }
    fail_on(&offences);
}

#[test]
fn every_file_opens_with_a_header() {
    let mut offences = Vec::new();
    for source in sources() {
        if source.header().trim().is_empty() {
            offences.push(format!("{}: no header; say what it is and is not", source.path));
        }
    }
    fail_on(&offences);
}

/// The lines of each function of a Rust file: name, first line, count.
fn rust_functions(code: &str) -> Vec<(String, usize, usize)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        let starts_word = code[..at].ends_with(|c: char| c.is_whitespace() || c == '(');
        let name = leading_word(&code[at + 3..]);
        let Some(open) = code[at..].find(['{', ';']).map(|offset| at + offset) else { continue };
        if !starts_word && at > 0 || name.is_empty() || code[open..].starts_with(';') {
            continue;
        }
        let mut depth = 0;
        let end = code[open..].char_indices().find_map(|(offset, character)| {
            depth += i32::from(character == '{') - i32::from(character == '}');
            (depth == 0).then_some(open + offset)
        });
        let first = code[..at].matches('\n').count() + 1;
        let last = code[..end.unwrap_or(code.len())].matches('\n').count() + 1;
        found.push((name.to_owned(), first, last - first + 1));
    }
    found
}

/// The same for Python, by indentation.
fn python_functions(code: &str) -> Vec<(String, usize, usize)> {
    let lines: Vec<&str> = code.lines().collect();
    let indent = |line: &str| line.len() - line.trim_start().len();
    let mut found = Vec::new();
    for (first, line) in lines.iter().enumerate() {
        let head = line.trim_start().trim_start_matches("async ");
        let Some(rest) = head.strip_prefix("def ") else { continue };
        let mut last = first;
        for (index, inner) in lines.iter().enumerate().skip(first + 1) {
            // A closing bracket of a long signature stands as far left as the head.
            let closes = inner.trim_start().starts_with(')');
            if !inner.trim().is_empty() && indent(inner) <= indent(line) && !closes {
                break;
            }
            if !inner.trim().is_empty() {
                last = index;
            }
        }
        found.push((leading_word(rest).to_owned(), first + 1, last - first + 1));
    }
    found
}

#[test]
fn functions_have_at_most_70_lines() {
    let mut offences = Vec::new();
    for source in sources() {
        let functions = match source.language {
            Language::Rust => rust_functions(&source.code),
            Language::Python => python_functions(&source.code),
        };
        for (name, first, count) in functions {
            if count > FUNCTION_LINES_MAX {
                offences.push(format!("{}:{first}: `{name}` has {count} lines", source.path));
            }
        }
    }
    fail_on(&offences);
}

#[test]
fn code_and_comments_are_ascii_and_leave_nothing_for_later() {
    let later = [concat!("FIX", "ME"), concat!("TO", "DO"), concat!("X", "XX")];
    let mut offences = Vec::new();
    for source in sources() {
        for (index, line) in source.code.lines().zip(source.comments.lines()).enumerate() {
            if !line.0.is_ascii() || !line.1.is_ascii() {
                offences.push(format!("{}:{}: not ASCII", source.path, index + 1));
            }
        }
        for word in later {
            for line in lines_with_word(&source.text, word) {
                offences.push(format!("{}:{line}: `{word}`", source.path));
            }
        }
    }
    fail_on(&offences);
}

#[test]
fn no_folder_has_a_name_that_says_nothing() {
    let nothing = ["utils", "util", "common", "helpers", "core", "manager", "misc"];
    let mut offences = Vec::new();
    for source in sources() {
        if source.path.split('/').any(|part| nothing.contains(&part)) {
            offences.push(source.path);
        }
    }
    fail_on(&offences);
}

/// The targets of a page's links, code blocks left out.
fn link_targets(page: &str) -> Vec<String> {
    let mut in_block = false;
    let mut targets = Vec::new();
    for line in page.lines() {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
        }
        for (at, _) in line.match_indices("](").filter(|_| !in_block) {
            let rest = &line[at + 2..];
            targets.push(rest[..rest.find(')').unwrap_or(rest.len())].to_owned());
        }
    }
    targets
}

#[test]
fn links_between_pages_resolve() {
    let mut pages = files(&["docs", "examples", "tests", "benches"], "md");
    pages.extend(["README.md", "CHANGELOG.md"].map(|name| root().join(name)));
    let mut offences = Vec::new();
    for page in pages.iter().filter(|page| page.exists()) {
        let text = fs::read_to_string(page).expect("a page is readable UTF-8");
        for target in link_targets(&text) {
            let is_outside = target.contains("://") || target.starts_with("mailto:");
            let path = target.split('#').next().unwrap_or_default();
            let folder = page.parent().expect("a page lies in a folder");
            if !is_outside && !path.is_empty() && !folder.join(path).exists() {
                offences.push(format!("{}: `{target}` is not there", page.display()));
            }
        }
    }
    fail_on(&offences);
}

#[test]
fn imports_are_found_in_every_form() {
    let text = "use crate::journal::Journal;\nuse crate::{db::{a, b}, engine};\n\
                use super::super::model::ids; // crate::events\nlet a = \"crate::locks\";";
    let source = Source::new("src/db/sqlite.rs".into(), text.into(), Language::Rust);
    assert_eq!(imports(&source), ["journal", "db", "engine", "model"]);
}

#[test]
fn functions_are_measured_in_both_languages() {
    let rust = "fn a();\npub(crate) fn b(x: u8) -> u8 {\n    if x { y }\n}\n";
    assert_eq!(rust_functions(rust), [("b".to_owned(), 2, 3)]);
    let python = "class A:\n    async def b(\n        self,\n    ):\n        pass\n\n    c = 1\n";
    assert_eq!(python_functions(python), [("b".to_owned(), 2, 4)]);
}
