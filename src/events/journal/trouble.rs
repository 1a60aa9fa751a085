//! What can go wrong between the bus and its file, and what it means to callers.
//!
//! Not the port's error: a [`Trouble`] still has SQLite's code, by which the writer decides whether
//! its connection can be trusted any longer.

use std::path::Path;

use rusqlite::ErrorCode;

use crate::db::DbError;
use crate::events::EventBusError;

/// A failed step on the file.
#[derive(Debug)]
pub(super) enum Trouble {
    /// SQLite says so.
    Sqlite(rusqlite::Error),
    /// A commit could not be brought to the disk.
    Sync(String),
    /// The file could not be opened again.
    Reopen(DbError),
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
            Self::Sync(_) => false,
            Self::Reopen(_) => true,
        }
    }

    /// In the port's words.
    pub(super) fn at(&self, file: &Path) -> EventBusError {
        let reason = match self {
            Self::Sqlite(error) => format!("{error}; {}", advice(error)),
            Self::Sync(words) => format!(
                "what it wrote could not be brought to the disk ({words}); check the disk, then \
                 start the service again: events that are published again under their ids count \
                 once"
            ),
            Self::Reopen(error) => error.to_string(),
        };
        EventBusError::Unavailable { bus: file.display().to_string(), reason }
    }
}

fn advice(error: &rusqlite::Error) -> &'static str {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            "stop the service and restore the file from a backup, or move it away to begin anew"
        }
        Some(ErrorCode::DiskFull) => "free some space, then publish again",
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            "another process holds it; publish again when that one lets go"
        }
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => {
            "give this process the right to write the file and its folder, then publish again"
        }
        _ => "check the disk, then publish again",
    }
}
