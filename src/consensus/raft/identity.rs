//! Whose data a folder holds: the format, the cluster, the node. Not a lock: the log has one.
//!
//! Invariant: data of another node or cluster, or of a newer format, is never opened; a Raft node
//! that answers for another one's promises breaks the promises of both.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::error::RaftError;
use crate::db::segments::Tag;

/// The format of everything in the folder.
const FORMAT: u32 = 1;
const NAME: &str = "node.json";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    format: u32,
    cluster: String,
    node: String,
}

#[derive(Deserialize)]
struct FormatOnly {
    format: u32,
}

impl Identity {
    pub(super) fn new(cluster: &str, node: &str) -> Self {
        Self { format: FORMAT, cluster: cluster.to_owned(), node: node.to_owned() }
    }

    /// What marks the segments of this node's log.
    pub(super) fn tag(&self) -> Tag {
        let mut hasher = Sha256::new();
        hasher.update(self.cluster.as_bytes());
        hasher.update([0]);
        hasher.update(self.node.as_bytes());
        hasher.finalize().into()
    }

    /// Sees that the folder is this node's, and makes it so where it is empty.
    pub(super) fn check(&self, folder: &Path) -> Result<(), RaftError> {
        let path = folder.join(NAME);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return self.write(folder).map_err(|error| RaftError::io(&path, error));
            }
            Err(error) => return Err(RaftError::io(&path, error)),
        };
        self.compare(&path, &text)
    }

    fn compare(&self, path: &Path, text: &str) -> Result<(), RaftError> {
        let wrong = |message| Err(RaftError::data(path, message));
        match serde_json::from_str::<FormatOnly>(text) {
            Err(error) => {
                return wrong(format!("it cannot be read ({error}); {}", super::error::MEND));
            }
            Ok(found) if found.format > FORMAT => {
                let words = "is newer than this version of unanimity reads; install the newer one";
                return wrong(format!("format {} {words}", found.format));
            }
            Ok(_) => {}
        }
        match serde_json::from_str::<Self>(text) {
            Err(error) => wrong(format!("it cannot be read ({error}); {}", super::error::MEND)),
            Ok(found) if found.cluster != self.cluster => wrong(format!(
                "the data is of the cluster {}, and this node is of {}; give another data_dir",
                found.cluster, self.cluster
            )),
            Ok(found) if found.node != self.node => wrong(format!(
                "the data is of the node {}, and this is {}; give each node its own data_dir",
                found.node, self.node
            )),
            Ok(_) => Ok(()),
        }
    }

    fn write(&self, folder: &Path) -> io::Result<()> {
        let text = serde_json::to_vec(self).expect("names are text");
        write_durably(folder, NAME, |file| file.write_all(&text))
    }
}

/// Writes a file that is there whole or not at all, also after a loss of power.
pub(super) fn write_durably(
    folder: &Path,
    name: &str,
    fill: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<()> {
    let (draft, path) = (folder.join(format!("{name}.new")), folder.join(name));
    let mut file = File::create(&draft)?;
    fill(&mut file)?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    File::open(folder)?.sync_all()
}
