//! Reads committed rows, and answers prepares that only read.
//!
//! Not for writing: everything here runs in a read-only transaction, and the server refuses the
//! rest. Columns of types that cannot be read here are cast to text by the server.

use std::pin::pin;

use futures_util::TryStreamExt as _;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Error, Row, RowStream, Statement};

use crate::model::value::Value;
use crate::participants::Rows;

use super::pool::Lease;
use super::prepare::parameters;
use super::session::{InFlight, all_in_order};
use super::values::{Parameter, Read, is_readable};
use super::work::{Step, refused};
use crate::db::postgres::describe;

/// The rows of a statement.
pub(super) async fn rows(lease: &mut Lease, text: &str, values: &[Value]) -> Result<Rows, String> {
    let statement = prepared(lease, text).await?;
    let Some(casting) = casting(text, &statement) else {
        return read(lease, &statement, &statement, values).await;
    };
    let cast = prepared(lease, &casting).await.map_err(|error| {
        let column = statement.columns().iter().find(|column| !is_readable(column.type_()));
        let (name, of) = column.map_or(("", ""), |c| (c.name(), c.type_().name()));
        format!("cannot read the column '{name}' of type {of}; write {name}::text ({error})")
    })?;
    read(lease, &cast, &statement, values).await
}

async fn prepared(lease: &mut Lease, text: &str) -> Result<Statement, String> {
    let answer = lease.session().prepare_all(&[text]).await.pop();
    match answer {
        Some(Ok(statement)) => Ok(statement),
        Some(Err(error)) => {
            if error.as_db_error().is_some() {
                lease.clean();
            }
            Err(describe(&error))
        }
        None => Err("it was not prepared".to_owned()),
    }
}

/// The same statement with the columns that cannot be read cast to text, if there are any.
/// Columns are renamed by place, because several may have one name.
fn casting(text: &str, statement: &Statement) -> Option<String> {
    let columns = statement.columns();
    if columns.iter().all(|column| is_readable(column.type_())) {
        return None;
    }
    let names: Vec<String> = (0..columns.len()).map(|index| format!("c{index}")).collect();
    let shown: Vec<String> = columns
        .iter()
        .zip(&names)
        .map(
            |(column, name)| {
                if is_readable(column.type_()) { name.clone() } else { format!("{name}::text") }
            },
        )
        .collect();
    let inner = text.trim_end_matches(|c: char| c.is_whitespace() || c == ';');
    // The line break ends a comment that the statement may end with.
    Some(format!("SELECT {} FROM ({inner}\n) AS q({})", shown.join(", "), names.join(", ")))
}

async fn read(
    lease: &mut Lease,
    statement: &Statement,
    named: &Statement,
    values: &[Value],
) -> Result<Rows, String> {
    lease.clean();
    let bound = parameters(values, statement).map_err(|reason| format!("it {reason}"))?;
    lease.soil();
    let answer = in_one_flight(lease, &[(statement, bound)]).await;
    let table = answer.map_err(|(_, error)| describe(&error))?.pop().unwrap_or_default();
    let columns = named.columns().iter().map(|column| column.name().to_owned()).collect();
    let rows = table.iter().map(|row| values_of(row, named)).collect::<Result<_, _>>()?;
    Ok(Rows { columns, rows })
}

pub(super) fn values_of(row: &Row, named: &Statement) -> Result<Vec<Value>, String> {
    let values = named.columns().iter().enumerate().map(|(index, column)| {
        let read: Option<Read> = row.try_get(index).map_err(|error| {
            let (name, of) = (column.name(), column.type_().name());
            let error = describe(&error);
            format!("cannot read the column '{name}' of type {of}: {error}; write {name}::text")
        })?;
        Ok(read.map_or(Value::Null, |read| read.0))
    });
    values.collect()
}

/// How a prepare that looks like a read ended.
pub(super) enum ReadEnding {
    /// Everything was read, and nothing is kept.
    Done,
    /// A statement writes after all.
    Writes,
    Refused(String),
}

/// Runs statements that look like reads. Nothing of it is kept, whatever happens.
pub(super) async fn check(lease: &mut Lease, steps: &[Step<'_>]) -> ReadEnding {
    let texts: Vec<&str> = steps.iter().map(|step| step.statement).collect();
    let answers = lease.session().prepare_all(&texts).await;
    let mut bound = Vec::with_capacity(steps.len());
    let mut statements = Vec::with_capacity(steps.len());
    for (step, answer) in steps.iter().zip(answers) {
        let checked = answer.map_err(|error| format!("failed: {}", describe(&error)));
        let checked =
            checked.and_then(|statement| Ok((parameters(step.parameters, &statement)?, statement)));
        match checked {
            Ok((parameters, statement)) => {
                statements.push(statement);
                bound.push(parameters);
            }
            Err(reason) => return ReadEnding::Refused(refused(step.operation, &reason)),
        }
    }
    let flight: Vec<_> = statements.iter().zip(bound).collect();
    match in_one_flight(lease, &flight).await {
        Ok(tables) => {
            let mut counts = steps.iter().zip(tables);
            let wrong = counts.find_map(|(step, rows)| step.mismatch(rows.len() as u64));
            wrong.map_or(ReadEnding::Done, ReadEnding::Refused)
        }
        Err((_, error)) if error.code() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION) => {
            ReadEnding::Writes
        }
        Err((index, error)) => {
            let operation = steps.get(index).map_or("", |step| step.operation);
            ReadEnding::Refused(refused(operation, &format!("failed: {}", describe(&error))))
        }
    }
}

/// All rows of all statements, or the first error and whose it is.
async fn in_one_flight(
    lease: &mut Lease,
    statements: &[(&Statement, Vec<Parameter>)],
) -> Result<Vec<Vec<Row>>, (usize, Error)> {
    let client = &lease.session().client;
    let mut flight: Vec<InFlight<'_, Vec<Row>>> = Vec::with_capacity(statements.len() + 2);
    flight.push(text(client, "BEGIN READ ONLY"));
    for (statement, parameters) in statements {
        flight.push(Box::pin(async move {
            collected(client.query_raw(*statement, parameters).await?).await
        }));
    }
    // In a failed transaction this rolls back, as is wanted.
    flight.push(text(client, "COMMIT"));
    let answers = all_in_order(flight).await;
    if answers.last().is_some_and(Result::is_ok) {
        lease.clean();
    }
    let mut tables = Vec::with_capacity(statements.len());
    for (index, answer) in answers.into_iter().enumerate() {
        let rows = answer.map_err(|error| (index.saturating_sub(1), error))?;
        if (1..=statements.len()).contains(&index) {
            tables.push(rows);
        }
    }
    Ok(tables)
}

fn text<'a>(client: &'a tokio_postgres::Client, text: &'a str) -> InFlight<'a, Vec<Row>> {
    Box::pin(async move { client.batch_execute(text).await.map(|()| Vec::new()) })
}

async fn collected(stream: RowStream) -> Result<Vec<Row>, Error> {
    pin!(stream).try_collect().await
}
