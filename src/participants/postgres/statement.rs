//! What can be told from a statement's text alone, and literals for texts of our own.
//!
//! Not a parser: the server parses. What is refused here is what would end or escape the
//! transaction, or change a connection that others will use after it.
//! Invariant: a caller's values never become a part of a statement's text.

/// Why a statement cannot be a part of a coordination, if so.
pub(super) fn refusal(statement: &str) -> Option<String> {
    let (first, second) = leading_words(statement);
    let reason = match (first.as_str(), second.as_str()) {
        ("", _) => "has no statement in it",
        (
            "begin" | "start" | "commit" | "end" | "rollback" | "abort" | "savepoint" | "release"
            | "prepare",
            _,
        ) => "controls the transaction, which the coordination does",
        ("set", "local" | "constraints" | "transaction") => return None,
        ("set" | "reset" | "discard" | "listen" | "unlisten" | "deallocate" | "load", _) => {
            "changes the connection, which others use after it; SET LOCAL is possible"
        }
        ("copy", _) => "needs a stream of data, which an operation cannot carry; use INSERT",
        _ => return None,
    };
    let shown: String = statement.trim().chars().take(60).collect();
    Some(format!("its statement {shown:?} {reason}"))
}

/// Whether a statement looks like one that only reads and locks nothing. The server checks it:
/// such statements run in a read-only transaction.
pub(super) fn is_read(statement: &str) -> bool {
    let (first, _) = leading_words(statement);
    let words = statement.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    matches!(first.as_str(), "select" | "values" | "table")
        && !words.into_iter().any(|word| word.eq_ignore_ascii_case("for"))
}

/// The first two words in lower case, past spaces, comments, empty statements and brackets.
fn leading_words(statement: &str) -> (String, String) {
    let (first, rest) = word(statement);
    (first, word(rest).0)
}

fn word(text: &str) -> (String, &str) {
    let text = skip(text);
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    (text[..end].to_lowercase(), &text[end..])
}

fn skip(mut text: &str) -> &str {
    loop {
        text = text.trim_start_matches(|c: char| c.is_whitespace() || c == ';' || c == '(');
        if let Some(comment) = text.strip_prefix("--") {
            text = comment.find(['\n', '\r']).map_or("", |end| &comment[end..]);
        } else if text.starts_with("/*") {
            text = past_comment(text);
        } else {
            return text;
        }
    }
}

/// Block comments nest in PostgreSQL.
fn past_comment(text: &str) -> &str {
    let bytes = text.as_bytes();
    let (mut depth, mut at) = (0_u32, 0);
    while at + 1 < bytes.len() {
        match &bytes[at..at + 2] {
            b"/*" => (depth, at) = (depth + 1, at + 2),
            b"*/" => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return &text[at..];
        }
    }
    ""
}

/// A string literal that means this text whatever `standard_conforming_strings` is. Texts come
/// from ids, which have no NUL.
pub(super) fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') {
        return format!("E'{}'", quoted.replace('\\', "\\\\"));
    }
    format!("'{quoted}'")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transaction_control_is_refused_however_it_is_dressed() {
        for statement in [
            "COMMIT",
            " \n commit work",
            ";; Rollback",
            "-- hello\nEND",
            "/* a /* nested */ */ABORT",
            "SAVEPOINT a",
            "prepare transaction 'x'",
            "START TRANSACTION",
            "SET search_path = x",
            "",
            "/* unfinished",
            "COPY t FROM STDIN",
        ] {
            assert!(refusal(statement).is_some(), "{statement:?} was not refused");
        }
        for statement in ["UPDATE t SET a = 1", "SET LOCAL x = 1", "ending()", "commit_it"] {
            assert_eq!(refusal(statement), None);
        }
    }

    #[test]
    fn only_plain_selects_look_like_reads() {
        assert!(is_read("(SELECT 1)") && is_read("values (1)"));
        assert!(!is_read("SELECT 1 FROM t\nFOR UPDATE") && !is_read("WITH a AS (SELECT 1) DELETE"));
    }

    #[test]
    fn literals_hold_quotes_and_backslashes() {
        assert_eq!(literal("a'b"), "'a''b'");
        assert_eq!(literal(r"a\'b"), r"E'a\\''b'");
    }
}
