//! What can go wrong between the journal and its database, and what it means to callers.
//!
//! Not the port's error: a [`Trouble`] knows no path and still has SQLite's code, by which the
//! writer decides whether its connection can be trusted any longer.

use rusqlite::ErrorCode;

use crate::db::DbError;
use crate::journal::JournalError;

/// A failed step on the database.
#[derive(Debug)]
pub(super) enum Trouble {
    /// SQLite says so.
    Sqlite(rusqlite::Error),
    /// A row does not say what we wrote.
    Row(String),
    /// The log could not be brought to the disk.
    Sync(String),
    /// The file could not be opened again.
    Reopen(DbError),
}

pub(super) type Outcome<T> = Result<T, Trouble>;

impl From<rusqlite::Error> for Trouble {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl Trouble {
    /// After these the connection's idea of the file may differ from the file: a failed fsync
    /// above all, after which the kernel may have dropped what was not written.
    pub(super) fn breaks_connection(&self) -> bool {
        match self {
            Self::Sqlite(error) => !matches!(
                error.sqlite_error_code(),
                Some(ErrorCode::DiskFull | ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
            ),
            Self::Row(_) => false,
            Self::Sync(_) | Self::Reopen(_) => true,
        }
    }

    /// In the port's words.
    pub(super) fn at(&self, path: &str) -> JournalError {
        match self {
            Self::Sqlite(error) => from_sqlite(path, error),
            Self::Row(found) => damaged(path, found),
            Self::Sync(words) => {
                let reason = format!(
                    "its log could not be brought to the disk ({words}); check the disk, then \
                     start the service again: what is recorded is finished then"
                );
                JournalError::Unavailable { path: path.to_owned(), reason }
            }
            Self::Reopen(error) => error.clone().into(),
        }
    }
}

fn damaged(path: &str, found: &str) -> JournalError {
    let reason = format!("{found}; stop the service and restore the journal from a backup");
    JournalError::Damaged { path: path.to_owned(), reason }
}

fn from_sqlite(path: &str, error: &rusqlite::Error) -> JournalError {
    let advice = match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            return damaged(path, &error.to_string());
        }
        Some(ErrorCode::DiskFull) => "free some space; it goes on by itself",
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            "another process holds it; it goes on by itself when that one lets go"
        }
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => {
            "give this process the right to write the file and its folder; it goes on by itself"
        }
        _ => "check the disk; it is tried again until it works",
    };
    let reason = format!("{error}; {advice}");
    JournalError::Unavailable { path: path.to_owned(), reason }
}

impl From<DbError> for JournalError {
    fn from(error: DbError) -> Self {
        match error {
            DbError::Open { path, reason } => Self::Open { path, reason },
            DbError::Foreign { path, reason } => Self::Foreign { path, reason },
            DbError::Damaged { path, reason } => Self::Damaged { path, reason },
            DbError::NewerSchema { path, found, known } => Self::NewerSchema { path, found, known },
        }
    }
}
