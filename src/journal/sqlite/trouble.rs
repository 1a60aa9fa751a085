//! What can go wrong between the journal and its database, and what it means to callers.
//!
//! Not the port's error: a [`Trouble`] knows no path and still has SQLite's code, by which the
//! writer decides whether its connection can be trusted any longer.

use std::io;

use rusqlite::ErrorCode;

use crate::db::DbError;
use crate::db::segments::LogError;
use crate::journal::JournalError;

/// A failed step on the database.
#[derive(Debug)]
pub(super) enum Trouble {
    /// SQLite says so.
    Sqlite(rusqlite::Error),
    /// A row does not say what we wrote.
    Row(String),
    /// The tables could not be brought to the disk.
    Sync(String),
    /// The log says so.
    Log(LogError),
    /// The file could not be opened again.
    Reopen(DbError),
    /// A thread could not be started.
    Thread(io::Error),
}

pub(super) type Outcome<T> = Result<T, Trouble>;

impl From<LogError> for Trouble {
    fn from(error: LogError) -> Self {
        Self::Log(error)
    }
}

impl From<rusqlite::Error> for Trouble {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl Trouble {
    /// After these a connection's idea of the file may differ from the file.
    pub(super) fn breaks_connection(&self) -> bool {
        match self {
            Self::Sqlite(error) => !matches!(
                error.sqlite_error_code(),
                Some(ErrorCode::DiskFull | ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
            ),
            Self::Row(_) | Self::Log(_) | Self::Thread(_) => false,
            Self::Sync(_) | Self::Reopen(_) => true,
        }
    }

    /// In the port's words.
    pub(super) fn at(&self, path: &str) -> JournalError {
        match self {
            Self::Sqlite(error) => from_sqlite(path, error),
            Self::Row(found) => damaged(path, found),
            Self::Sync(words) => unsynced(path, words),
            Self::Log(error) => from_log(path, error),
            Self::Reopen(error) => error.clone().into(),
            Self::Thread(error) => {
                let reason = format!("{error}; this process must be able to start threads");
                JournalError::Open { path: path.to_owned(), reason }
            }
        }
    }
}

fn unsynced(path: &str, words: &str) -> JournalError {
    let reason = format!(
        "it could not be brought to the disk ({words}); check the disk, then start the service \
         again: what is recorded is finished then"
    );
    JournalError::Unavailable { path: path.to_owned(), reason }
}

/// The folder of a journal's segments.
pub(super) fn log_folder(path: &str) -> String {
    format!("{path}-log")
}

fn from_log(path: &str, error: &LogError) -> JournalError {
    let advice = match error {
        LogError::Broken(words) => return unsynced(path, words),
        LogError::Damaged(words) => return damaged(path, &format!("its log's segment {words}")),
        LogError::Gap => return damaged(path, "segments of its log are missing"),
        LogError::Foreign(words) => {
            let reason = format!(
                "{}: {words}; move that folder away, or put back the journal that it belongs to",
                log_folder(path)
            );
            return JournalError::Foreign { path: path.to_owned(), reason };
        }
        LogError::Busy => "it goes on by itself when that one lets go",
        LogError::Io(error) if error.kind() == io::ErrorKind::StorageFull => {
            "free some space; it goes on by itself"
        }
        _ => "check the disk and the rights of this process; it is tried again until it works",
    };
    let reason = format!("its log cannot be written: {error}; {advice}");
    JournalError::Unavailable { path: path.to_owned(), reason }
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
