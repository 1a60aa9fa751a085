//! Sources as text with roles: what is code, what is a comment, what is a string.
//!
//! Not a parser: it knows just enough of Rust and Python to blank out what is not meant. Invariant:
//! both views have the lines and columns of the file itself.

use std::fs;
use std::path::{Path, PathBuf};

/// The language of a file, as far as we read it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Language {
    Rust,
    Python,
}

/// One file of the project.
pub(super) struct Source {
    /// Relative to the root of the project, with `/`.
    pub(super) path: String,
    pub(super) language: Language,
    /// As it stands.
    pub(super) text: String,
    /// With comments, strings and characters blanked out.
    pub(super) code: String,
    /// With everything but comments blanked out.
    pub(super) comments: String,
}

impl Source {
    fn read(root: &Path, path: &Path, language: Language) -> Self {
        let text = fs::read_to_string(path).expect("a source is readable UTF-8");
        Self::new(relative(root, path), text, language)
    }

    /// A source with this text.
    pub(super) fn new(path: String, text: String, language: Language) -> Self {
        let (code, comments) = split(&text, language);
        Self { path, language, text, code, comments }
    }

    /// Whether the file is part of the tests, wherever it stands, or a benchmark.
    pub(super) fn is_test(&self) -> bool {
        let beside = ["_test.rs", "/tests.rs", "/test_kit.rs"];
        self.path.starts_with("tests/")
            || self.path.starts_with("benches/")
            || self.path.starts_with("src/simulat")
            || self.path.contains("/tests/")
            || beside.iter().any(|end| self.path.ends_with(end))
    }

    /// The code up to the file's own unit tests.
    pub(super) fn shipped_code(&self) -> &str {
        let end = self.code.find("#[cfg(test)]").unwrap_or(self.code.len());
        &self.code[..end]
    }

    /// The comment or docstring with which the file opens.
    pub(super) fn header(&self) -> String {
        match self.language {
            Language::Rust => {
                self.text.lines().take_while(|line| line.starts_with("//!")).collect()
            }
            Language::Python => {
                let body = self.text.trim_start_matches(|c| c != '"');
                let opens_file = self.text.lines().find(|line| !line.starts_with('#'));
                match (opens_file, body.strip_prefix("\"\"\"")) {
                    (Some(line), Some(rest)) if line.contains("\"\"\"") => {
                        rest.split("\"\"\"").next().unwrap_or_default().to_owned()
                    }
                    _ => String::new(),
                }
            }
        }
    }
}

/// The root of the project.
pub(super) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn relative(root: &Path, path: &Path) -> String {
    let path = path.strip_prefix(root).expect("the walk stays under the root");
    path.to_string_lossy().replace('\\', "/")
}

/// Every file under these folders with this extension, in a stable order.
pub(super) fn files(folders: &[&str], extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut waiting: Vec<PathBuf> = folders.iter().map(|folder| root().join(folder)).collect();
    while let Some(folder) = waiting.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry.expect("the folder can be listed").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.starts_with('.') || name == "__pycache__" || name == "target" {
                continue;
            }
            if path.is_dir() {
                waiting.push(path);
            } else if path.extension().is_some_and(|given| given == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Every Rust and Python source of the project.
pub(super) fn sources() -> Vec<Source> {
    let folders = ["src", "tests", "python", "examples", "benches"];
    let rust = files(&folders, "rs").into_iter().map(|path| (path, Language::Rust));
    let python = files(&folders, "py").into_iter().map(|path| (path, Language::Python));
    rust.chain(python).map(|(path, language)| Source::read(&root(), &path, language)).collect()
}

/// A stretch of text that is not code.
enum Stretch {
    Comment(usize),
    Literal(usize),
}

/// The two views of a text.
fn split(text: &str, language: Language) -> (String, String) {
    let characters: Vec<char> = text.chars().collect();
    let (mut code, mut comments) = (String::new(), String::new());
    let mut at = 0;
    while at < characters.len() {
        let rest = &characters[at..];
        let stretch = match language {
            Language::Rust => rust_stretch(rest, at > 0 && is_word(characters[at - 1])),
            Language::Python => python_stretch(rest),
        };
        let length = match stretch {
            Some(Stretch::Comment(length) | Stretch::Literal(length)) => length,
            None => 1,
        };
        for character in &rest[..length] {
            let blank = if *character == '\n' { '\n' } else { ' ' };
            let is_comment = matches!(stretch, Some(Stretch::Comment(_)));
            comments.push(if is_comment { *character } else { blank });
            code.push(if stretch.is_none() { *character } else { blank });
        }
        at += length;
    }
    (code, comments)
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

fn line_length(rest: &[char]) -> usize {
    rest.iter().position(|character| *character == '\n').unwrap_or(rest.len())
}

/// The length of a literal that ends at `end`, not counting escaped characters.
fn literal_length(rest: &[char], begin: usize, end: &[char], has_escapes: bool) -> usize {
    let mut at = begin;
    while at < rest.len() {
        if has_escapes && rest[at] == '\\' {
            at += 2;
        } else if rest[at..].starts_with(end) {
            return at + end.len();
        } else {
            at += 1;
        }
    }
    rest.len()
}

fn rust_stretch(rest: &[char], follows_word: bool) -> Option<Stretch> {
    match rest {
        ['/', '/', ..] => Some(Stretch::Comment(line_length(rest))),
        ['/', '*', ..] => Some(Stretch::Comment(literal_length(rest, 2, &['*', '/'], false))),
        ['"', ..] => Some(Stretch::Literal(literal_length(rest, 1, &['"'], true))),
        ['r', '"' | '#', ..] if !follows_word => raw_string(rest),
        ['\'', '\\', ..] => Some(Stretch::Literal(literal_length(rest, 1, &['\''], true))),
        ['\'', _, '\'', ..] => Some(Stretch::Literal(3)),
        _ => None,
    }
}

fn raw_string(rest: &[char]) -> Option<Stretch> {
    let hashes = rest[1..].iter().take_while(|character| **character == '#').count();
    if rest.get(1 + hashes) != Some(&'"') {
        return None;
    }
    let end: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
    Some(Stretch::Literal(literal_length(rest, hashes + 2, &end, false)))
}

fn python_stretch(rest: &[char]) -> Option<Stretch> {
    match rest {
        ['#', ..] => Some(Stretch::Comment(line_length(rest))),
        ['"', '"', '"', ..] | ['\'', '\'', '\'', ..] => {
            Some(Stretch::Literal(literal_length(rest, 3, &[rest[0]; 3], true)))
        }
        ['"' | '\'', ..] => Some(Stretch::Literal(literal_length(rest, 1, &[rest[0]], true))),
        _ => None,
    }
}

#[test]
fn code_and_comments_are_told_apart() {
    let text = "let a = \"// no\"; // yes 'x'\nlet b: &'a str = r#\"\"b\"#; '\\'' 'c'";
    let (code, comments) = split(text, Language::Rust);
    assert_eq!(
        code.split_whitespace().collect::<Vec<_>>().join(" "),
        "let a = ; let b: &'a str = ;"
    );
    assert_eq!(comments.trim(), "// yes 'x'");
    assert_eq!(code.lines().map(str::len).max(), text.lines().map(str::len).max());
}
