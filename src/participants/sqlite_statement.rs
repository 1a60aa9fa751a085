//! SQL statements of operations: reading them, refusing what would end our transaction, running.
//!
//! Not the transaction around them. Invariants: a statement begins with a word of an allow list,
//! is one statement, and does not name our own tables, so none of them can commit, roll back,
//! attach or change settings; what comes out of a query is a [`Value`] without loss, or an error.

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, Row, params_from_iter};

use super::{PrepareAsk, Rows};
use crate::model::operation::Operation;
use crate::model::value::Value;

/// The first words that a statement may have. Everything else is a transaction's own business
/// (BEGIN, COMMIT, ROLLBACK, SAVEPOINT, RELEASE, END), another file (ATTACH, DETACH, VACUUM), or a
/// setting (PRAGMA).
const ALLOWED: [&str; 13] = [
    "SELECT", "VALUES", "WITH", "INSERT", "REPLACE", "UPDATE", "DELETE", "CREATE", "DROP", "ALTER",
    "REINDEX", "ANALYZE", "EXPLAIN",
];

/// One statement to execute.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Statement {
    pub(super) operation: String,
    pub(super) text: String,
    pub(super) parameters: Vec<Value>,
    pub(super) expect_rows: Option<i64>,
}

/// Reads this store's operations, or says why the transaction is refused.
pub(super) fn read_statements(ask: &PrepareAsk) -> Result<Vec<Statement>, String> {
    ask.operations()
        .map(|operation| {
            read_statement(operation).map_err(|what| format!("operation '{}' {what}", operation.id))
        })
        .collect()
}

/// Reads one operation; what is wrong with it is said without its id.
pub(super) fn read_statement(operation: &Operation) -> Result<Statement, String> {
    if operation.kind != "execute" {
        let kind = &operation.kind;
        return Err(format!(
            "has the type '{kind}', which SQLite does not know; it knows 'execute'"
        ));
    }
    let body = &operation.body;
    let text = match body.get("statement") {
        Some(Value::Text(text)) => text.clone(),
        Some(other) => {
            return Err(format!("has a 'statement' of type {}; give a str", other.kind()));
        }
        None => return Err("has no 'statement'; 'execute' needs one".to_owned()),
    };
    check_text(&text)?;
    let parameters = match body.get("parameters") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::List(values)) => values.clone(),
        Some(other) => {
            return Err(format!("has 'parameters' of type {}; give a list", other.kind()));
        }
    };
    for (index, value) in parameters.iter().enumerate() {
        to_sql(value).map_err(|what| format!("has parameters[{index}] {what}"))?;
    }
    let expect_rows = match body.get("expect_rows") {
        None | Some(Value::Null) => None,
        Some(Value::Int(rows)) if *rows >= 0 => Some(*rows),
        Some(_) => return Err("has an 'expect_rows' that is no int from 0 upward".to_owned()),
    };
    Ok(Statement { operation: operation.id.clone(), text, parameters, expect_rows })
}

/// Whether this operation reads, as far as its text tells.
pub(super) fn is_read(operation: &Operation) -> bool {
    let text = operation.body.get("statement").and_then(Value::as_text).unwrap_or_default();
    ["SELECT", "VALUES", "EXPLAIN"].iter().any(|word| first_word(text).eq_ignore_ascii_case(word))
}

/// Refuses what must not run inside a transaction that others count on.
fn check_text(text: &str) -> Result<(), String> {
    check_first_word(text)?;
    let lower = text.to_ascii_lowercase();
    let tables =
        ["unanimity_staged", "unanimity_applied", "unanimity_barrier", "unanimity_decisions"];
    for table in tables {
        if lower.contains(table) {
            return Err(format!("names the table {table}, which belongs to the coordination"));
        }
    }
    Ok(())
}

fn check_first_word(text: &str) -> Result<(), String> {
    let word = first_word(text);
    if ALLOWED.iter().any(|allowed| word.eq_ignore_ascii_case(allowed)) {
        return Ok(());
    }
    Err(format!(
        "has a statement that begins with '{word}'; allowed are {}: the coordination begins and \
         ends transactions itself, and settings are not part of one",
        ALLOWED.join(", ")
    ))
}

/// The first word after blanks and comments.
fn first_word(text: &str) -> &str {
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', '\n', '\r', '\x0c', '\u{feff}']);
        if let Some(comment) = rest.strip_prefix("--") {
            rest = comment.split_once('\n').map_or("", |(_, after)| after);
        } else if let Some(comment) = rest.strip_prefix("/*") {
            rest = comment.split_once("*/").map_or("", |(_, after)| after);
        } else {
            let end = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
            return &rest[..end];
        }
    }
}

/// The form in the staged row.
pub(super) fn encode(statements: &[Statement]) -> String {
    let encode_one = |statement: &Statement| {
        Value::Map(vec![
            ("operation_id".to_owned(), Value::Text(statement.operation.clone())),
            ("statement".to_owned(), Value::Text(statement.text.clone())),
            ("parameters".to_owned(), Value::List(statement.parameters.clone())),
            ("expect_rows".to_owned(), statement.expect_rows.map_or(Value::Null, Value::Int)),
        ])
    };
    Value::List(statements.iter().map(encode_one).collect()).to_json()
}

/// Reads a staged row back.
pub(super) fn decode(json: &str) -> Result<Vec<Statement>, String> {
    let value = Value::from_json(json).map_err(|error| format!("the staged row: {error}"))?;
    let decode_one = |entry: &Value| {
        Some(Statement {
            operation: entry.get("operation_id")?.as_text()?.to_owned(),
            text: entry.get("statement")?.as_text()?.to_owned(),
            parameters: entry.get("parameters")?.as_list()?.to_vec(),
            expect_rows: entry.get("expect_rows")?.as_int(),
        })
    };
    let statements: Option<Vec<_>> =
        value.as_list().and_then(|entries| entries.iter().map(decode_one).collect());
    statements.ok_or_else(|| "the staged row is not a list of statements".to_owned())
}

/// Whether nothing would be written. A statement that cannot be prepared yet counts as a write:
/// it may need a table that an earlier one creates.
pub(super) fn are_read_only(connection: &Connection, statements: &[Statement]) -> bool {
    statements.iter().all(|statement| {
        connection.prepare_cached(&statement.text).is_ok_and(|prepared| prepared.readonly())
    })
}

/// Runs the statements in order, inside whatever transaction is open.
pub(super) fn apply(connection: &Connection, statements: &[Statement]) -> Result<(), String> {
    let violations = deferred_violations(connection).map_err(|error| error.to_string())?;
    for (index, statement) in statements.iter().enumerate() {
        let refuse = |what: String| {
            format!("operation '{}' (statement {index} of this store): {what}", statement.operation)
        };
        let rows = execute(connection, statement).map_err(|error| refuse(error.to_string()))?;
        if let Some(expected) = statement.expect_rows.filter(|expected| *expected != rows) {
            return Err(refuse(format!("expect_rows is {expected}, but it was {rows}")));
        }
    }
    let left = deferred_violations(connection).map_err(|error| error.to_string())?;
    if left > violations {
        return Err("a deferred foreign key is violated at the end of the transaction".to_owned());
    }
    Ok(())
}

/// Rows changed by a statement that writes, rows read by one that does not.
fn execute(connection: &Connection, statement: &Statement) -> rusqlite::Result<i64> {
    let changes_before = connection.total_changes();
    let mut prepared = connection.prepare_cached(&statement.text)?;
    let is_read_only = prepared.readonly();
    let mut rows = prepared.query(params_from_iter(bindings(&statement.parameters)))?;
    let mut read = 0;
    while rows.next()?.is_some() {
        read += 1;
    }
    Ok(if is_read_only { read } else { changes_since(connection, changes_before) })
}

/// How many rows the last statement changed; `before` is what the connection had counted earlier.
pub(super) fn changes_since(connection: &Connection, before: u64) -> i64 {
    // Statements without rows, such as CREATE, leave the count of the statement before them.
    let has_changed = connection.total_changes() != before;
    let changes = if has_changed { connection.changes() } else { 0 };
    i64::try_from(changes).unwrap_or(i64::MAX)
}

/// Violations of foreign keys, counted only where some key is checked as late as the COMMIT; that
/// COMMIT comes after our vote and must not be what finds them.
fn deferred_violations(connection: &Connection) -> rusqlite::Result<i64> {
    let has_deferred: bool = connection
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE sql LIKE '%INITIALLY%DEFERRED%')",
        )?
        .query_row([], |row| row.get(0))?;
    if !has_deferred {
        return Ok(0);
    }
    connection
        .prepare_cached("SELECT count(*) FROM pragma_foreign_key_check")?
        .query_row([], |row| row.get(0))
}

/// Values as a statement's parameters.
pub(super) fn bindings(parameters: &[Value]) -> impl Iterator<Item = ToSqlOutput<'_>> {
    parameters.iter().map(|value| ToSqlOutput::Borrowed(to_sql(value).unwrap_or(ValueRef::Null)))
}

/// A value as SQLite has it; lists and maps it has not.
fn to_sql(value: &Value) -> Result<ValueRef<'_>, String> {
    Ok(match value {
        Value::Null => ValueRef::Null,
        Value::Bool(truth) => ValueRef::Integer(i64::from(*truth)),
        Value::Int(number) => ValueRef::Integer(*number),
        Value::Float(number) => ValueRef::Real(*number),
        Value::Text(text) => ValueRef::Text(text.as_bytes()),
        Value::Bytes(bytes) => ValueRef::Blob(bytes),
        Value::List(_) | Value::Map(_) => {
            return Err(format!(
                "of type {}, which SQLite has not; give None, bool, int, float, str or bytes \
                 (json.dumps makes a str)",
                value.kind()
            ));
        }
    })
}

fn from_sql(value: ValueRef<'_>) -> Result<Value, &'static str> {
    Ok(match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => Value::Int(number),
        ValueRef::Real(number) if number.is_finite() => Value::Float(number),
        ValueRef::Real(_) => return Err("is infinite; select it with CAST(… AS TEXT)"),
        ValueRef::Text(text) => match std::str::from_utf8(text) {
            Ok(text) => Value::Text(text.to_owned()),
            Err(_) => return Err("is text that is not UTF-8; select it with CAST(… AS BLOB)"),
        },
        ValueRef::Blob(bytes) => Value::Bytes(bytes.to_vec()),
    })
}

/// Runs a query that only reads.
pub(super) fn query(
    connection: &Connection,
    text: &str,
    parameters: &[Value],
) -> Result<Rows, String> {
    check_first_word(text).map_err(|what| format!("the query {what}"))?;
    for (index, value) in parameters.iter().enumerate() {
        to_sql(value).map_err(|what| format!("the query has parameters[{index}] {what}"))?;
    }
    let mut prepared = connection.prepare(text).map_err(|error| error.to_string())?;
    if !prepared.readonly() {
        return Err(
            "the query would write; fetch only reads, and writes are 'execute' operations \
                    of a coordination"
                .to_owned(),
        );
    }
    let columns = columns_of(&prepared);
    let mut found = prepared
        .query(params_from_iter(bindings(parameters)))
        .map_err(|error| error.to_string())?;
    let mut rows = Vec::new();
    while let Some(row) = found.next().map_err(|error| error.to_string())? {
        rows.push(values_of(row, &columns)?);
    }
    Ok(Rows { columns, rows })
}

/// The names of the columns that a statement gives.
pub(super) fn columns_of(statement: &rusqlite::Statement<'_>) -> Vec<String> {
    statement.column_names().into_iter().map(str::to_owned).collect()
}

/// A row as values.
pub(super) fn values_of(row: &Row<'_>, columns: &[String]) -> Result<Vec<Value>, String> {
    let mut values = Vec::with_capacity(columns.len());
    for (index, column) in columns.iter().enumerate() {
        let value = row.get_ref(index).map_err(|error| error.to_string())?;
        let value = from_sql(value).map_err(|what| format!("the column '{column}' {what}"))?;
        values.push(value);
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_that_would_end_the_transaction_are_refused() {
        let cases = [
            "BEGIN",
            "commit",
            " END",
            "ROLLBACK",
            "-- x\nSAVEPOINT a",
            "/* x */RELEASE a",
            "\u{feff}ATTACH 'x' AS y",
            "DETACH y",
            "VACUUM",
            "PRAGMA user_version = 1",
            ";COMMIT",
            "",
            "-- nothing",
            "/* open",
            "delete from unanimity_staged",
            "DROP TABLE \"Unanimity_Applied\"",
        ];
        for text in cases {
            assert!(check_text(text).is_err(), "{text:?}");
        }
        for text in
            ["SELECT 1", "/* a */ -- b\n insert into t values (1)", "with a as (select 1) select 1"]
        {
            assert_eq!(check_text(text), Ok(()), "{text:?}");
        }
    }

    #[test]
    fn staged_statements_come_back_as_they_went_in() {
        let statements = vec![
            Statement {
                operation: "t:0".to_owned(),
                text: "INSERT".to_owned(),
                parameters: vec![Value::Bytes(vec![0, 255]), Value::Float(0.1), Value::Null],
                expect_rows: Some(1),
            },
            Statement {
                operation: "t:1".to_owned(),
                text: "é".to_owned(),
                parameters: vec![],
                expect_rows: None,
            },
        ];
        assert_eq!(decode(&encode(&statements)), Ok(statements));
        assert!(decode("{}").is_err() && decode("[{}]").is_err() && decode("[").is_err());
    }

    #[test]
    fn a_query_gives_every_type_and_refuses_to_write() {
        let connection = Connection::open_in_memory().unwrap();
        let text = "SELECT 1 AS a, 2.5 AS b, 'x' AS c, x'00ff' AS d, NULL AS e, ? AS f";
        let rows = query(&connection, text, &[Value::Bool(true)]).unwrap();
        assert_eq!(rows.columns, ["a", "b", "c", "d", "e", "f"]);
        let expected = vec![
            1.into(),
            Value::Float(2.5),
            "x".into(),
            Value::Bytes(vec![0, 255]),
            Value::Null,
            1.into(),
        ];
        assert_eq!(rows.rows, [expected]);
        for text in
            ["CREATE TABLE t (a)", "BEGIN", "SELECT 1; SELECT 2", "SELECT 9e999", "PRAGMA x = 1"]
        {
            assert!(query(&connection, text, &[]).is_err(), "{text}");
        }
    }
}
