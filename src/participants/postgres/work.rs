//! What the operations of one question ask for, checked before anything is sent.
//!
//! Not the doing. Invariant: a refusal names the operation and says how to mend it.

use crate::model::operation::Operation;
use crate::model::value::Value;

use super::statement;

/// One statement to execute.
#[derive(Debug)]
pub(super) struct Step<'a> {
    pub(super) operation: &'a str,
    pub(super) statement: &'a str,
    pub(super) parameters: &'a [Value],
    pub(super) expect_rows: Option<u64>,
}

impl<'a> Step<'a> {
    /// Reads an operation.
    pub(super) fn read(operation: &'a Operation) -> Result<Self, String> {
        Self::checked(operation).map_err(|reason| refused(&operation.id, &reason))
    }

    fn checked(operation: &'a Operation) -> Result<Self, String> {
        if operation.kind != "execute" {
            return Err(format!(
                "has the type '{}', which an SQL store does not know; use \"execute\"",
                operation.kind
            ));
        }
        let statement = match operation.body.get("statement") {
            Some(Value::Text(text)) => text,
            Some(other) => return Err(format!("has a 'statement' of type {}", other.kind())),
            None => return Err("has no 'statement'".to_owned()),
        };
        if statement.contains('\0') {
            return Err("has a NUL character in its statement".to_owned());
        }
        if let Some(refusal) = statement::refusal(statement) {
            return Err(refusal);
        }
        let parameters = match operation.body.get("parameters") {
            None | Some(Value::Null) => &[][..],
            Some(Value::List(values)) => values,
            Some(other) => {
                return Err(format!("has 'parameters' of type {}; give a list", other.kind()));
            }
        };
        let expect_rows = match operation.body.get("expect_rows") {
            None | Some(Value::Null) => None,
            Some(Value::Int(rows)) if *rows >= 0 => Some(rows.unsigned_abs()),
            Some(other) => {
                return Err(format!("has 'expect_rows' {}; give an int >= 0", other.to_json()));
            }
        };
        Ok(Self { operation: &operation.id, statement, parameters, expect_rows })
    }

    /// What is wrong if the statement touched this many rows.
    pub(super) fn mismatch(&self, rows: u64) -> Option<String> {
        let expected = self.expect_rows.filter(|expected| *expected != rows)?;
        let reason = format!("touched {rows} rows, and {expected} were expected");
        Some(refused(self.operation, &reason))
    }
}

/// A reason that names the operation.
pub(super) fn refused(operation: &str, reason: &str) -> String {
    format!("operation '{operation}' {reason}")
}
