//! What can go wrong with a log, as its owner has to tell it apart. Knows no path: the owner does.

use std::io;

/// Trouble with a log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The system says so; what was asked for may be tried again.
    #[error("{0}")]
    Io(io::Error),
    /// Another process holds the lock.
    #[error("another process holds its lock")]
    Busy,
    /// Records that were to be read next are gone: they are known elsewhere by now.
    #[error("records are gone that were not read here")]
    Gap,
    /// A segment of another log.
    #[error("{0}")]
    Foreign(String),
    /// What is there is not what was written.
    #[error("{0}")]
    Damaged(String),
    /// A sync failed. What is on the disk is not known, and this process does not find out.
    #[error("{0}")]
    Broken(String),
}
