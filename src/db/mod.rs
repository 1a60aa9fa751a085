//! Databases of our own: opening them with the right settings, and their versioned tables.
//!
//! Not what is kept in them: that is the journal's and the lock managers'. Layer 1, knows only the
//! standard library, SQLite and PostgreSQL. Invariant: what is not ours, is damaged, or is newer
//! than we are is refused before anything is written to it.

pub mod instance;
pub mod migration;
pub mod postgres;
pub mod postgres_migration;
pub mod process;
pub mod segments;
pub mod sqlite;
pub mod wal;

/// Why a database cannot be opened: what, where, and how to mend it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DbError {
    /// The file or folder cannot be opened or created.
    #[error("cannot open {path}: {reason}")]
    Open {
        /// Where.
        path: String,
        /// Why, and what to do.
        reason: String,
    },
    /// The file is not ours.
    #[error("{path} is not ours: {reason}")]
    Foreign {
        /// Where.
        path: String,
        /// What it is instead.
        reason: String,
    },
    /// The file is damaged.
    #[error("{path} is damaged: {reason}")]
    Damaged {
        /// Where.
        path: String,
        /// What was found, and what to do.
        reason: String,
    },
    /// A later version wrote it.
    #[error("{path} has schema {found}, {known} is the highest known")]
    NewerSchema {
        /// Where.
        path: String,
        /// What it has.
        found: u32,
        /// What we know.
        known: u32,
    },
}
