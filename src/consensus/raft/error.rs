//! Why a node does not start, or does not do what an operator asked. Not answers to proposals:
//! those are the port's (`cluster`).

use std::io;
use std::path::{Path, PathBuf};

use crate::db::segments::LogError;

/// Trouble with a node.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RaftError {
    /// What was configured cannot be.
    #[error("{0}")]
    Config(String),
    /// The data in the folder is not this node's, is of a newer format, or is damaged.
    #[error("{path}: {message}", path = .path.display())]
    Data {
        /// Where.
        path: PathBuf,
        /// What is wrong, and how to mend it.
        message: String,
    },
    /// The disk says so.
    #[error("{path}: {error}", path = .path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// What it said.
        error: io::Error,
    },
    /// The change of members is not possible now, or not at all.
    #[error("{0}")]
    Membership(String),
    /// The leader cannot be reached, or has no majority; the change may have been made.
    #[error("the cluster gave no answer: {0}")]
    NoAnswer(String),
    /// The node has stopped, or was closed.
    #[error("this node has stopped: {0}")]
    Stopped(String),
}

impl RaftError {
    pub(super) fn data(path: &Path, message: impl Into<String>) -> Self {
        Self::Data { path: path.to_owned(), message: message.into() }
    }

    pub(super) fn io(path: &Path, error: io::Error) -> Self {
        Self::Io { path: path.to_owned(), error }
    }

    pub(super) fn log(path: &Path, error: LogError) -> Self {
        match error {
            LogError::Io(error) => Self::io(path, error),
            LogError::Busy => Self::data(
                path,
                "another process runs this node; give each node a folder of its own",
            ),
            LogError::Gap => Self::data(path, format!("segments are missing; {MEND}")),
            LogError::Foreign(words) | LogError::Damaged(words) | LogError::Broken(words) => {
                Self::data(path, format!("{words}; {MEND}"))
            }
        }
    }
}

/// What to do about a node whose data cannot be used.
pub(super) const MEND: &str = "remove this node from the cluster, and add one with an empty \
                               folder under a new id; the others have what it had";
