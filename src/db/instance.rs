//! Who has a file open: one locked file per live process, in a folder beside it.
//!
//! Not ownership of what is in it: that stands in it. Invariants: a lock file whose lock can be
//! taken belonged to a process that is dead; it has its final name only while it is locked, so that
//! nobody can take a lock between its making and its locking.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::model::ids::{ClusterId, InstanceId};

/// Lock files of this process, by instance. A forked child inherits them and must let go.
static HELD: Mutex<Vec<(InstanceId, File)>> = Mutex::new(Vec::new());

/// Lets go of the lock files that a forked child inherited. Never blocks.
pub fn forget_locks_in_child() -> bool {
    let Ok(mut held) = HELD.try_lock() else { return false };
    held.clear();
    true
}

fn hold(id: &InstanceId, file: File) {
    // The list is a plain vector, whole at every moment, so a poisoned lock is as good.
    HELD.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((id.clone(), file));
}

fn let_go(id: &InstanceId) {
    let mut held = HELD.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    held.retain(|(other, _)| other != id);
}

/// 16 bytes in hex: `prefix`, then randomness of the operating system.
fn random_hex(prefix: &[u8]) -> io::Result<String> {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    bytes[..prefix.len()].copy_from_slice(prefix);
    Ok(format!("{:032x}", u128::from_be_bytes(bytes)))
}

/// A new id of a process's hold; later ones sort later.
pub fn mint_instance_id() -> io::Result<InstanceId> {
    let millis = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let bytes = u64::try_from(millis).unwrap_or(u64::MAX).to_be_bytes();
    let text = random_hex(&bytes[2..])?;
    InstanceId::new(&text).map_err(io::Error::other)
}

/// A new id of a journal.
pub fn mint_cluster_id() -> io::Result<ClusterId> {
    ClusterId::new(&random_hex(&[])?).map_err(io::Error::other)
}

/// The folder of lock files, and this process's file in it.
pub struct Instances {
    folder: Option<PathBuf>,
    own: InstanceId,
}

/// What [`Instances::probe`] found.
#[derive(Debug)]
pub enum Life {
    /// Its process lives.
    Alive,
    /// Its process is dead. The lock keeps others from finding the same while it is held.
    Dead(Option<File>),
}

impl Instances {
    /// Makes and locks this process's lock file beside `file`; `None` for what is in memory.
    pub fn join(file: Option<&Path>) -> io::Result<Self> {
        let own = mint_instance_id()?;
        let Some(shared) = file else { return Ok(Self { folder: None, own }) };
        let mut name = shared.as_os_str().to_owned();
        name.push("-instances");
        let folder = PathBuf::from(name);
        fs::create_dir_all(&folder)?;
        let hidden = folder.join(format!(".{own}"));
        let file = File::create_new(&hidden)?;
        file.try_lock()?;
        fs::rename(&hidden, folder.join(own.as_str()))?;
        hold(&own, file);
        Ok(Self { folder: Some(folder), own })
    }

    /// This process's hold.
    pub fn own(&self) -> &InstanceId {
        &self.own
    }

    /// Whether the process of this instance lives.
    pub fn probe(&self, id: &InstanceId) -> Life {
        let Some(folder) = &self.folder else { return Life::Alive };
        match File::open(folder.join(id.as_str())) {
            Ok(file) => match file.try_lock() {
                Ok(()) => Life::Dead(Some(file)),
                Err(TryLockError::WouldBlock | TryLockError::Error(_)) => Life::Alive,
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Life::Dead(None),
            // What cannot be told apart is left alone: adopting from the living is worse.
            Err(_) => Life::Alive,
        }
    }

    /// Removes the file of a dead instance.
    pub fn bury(&self, id: &InstanceId) {
        if let Some(folder) = &self.folder
            && *id != self.own
        {
            // One that stays is found dead again by the next who looks.
            let _ = fs::remove_file(folder.join(id.as_str()));
        }
    }

    /// The other instances that have a file.
    pub fn others(&self) -> Vec<InstanceId> {
        let Some(entries) = self.folder.as_ref().and_then(|folder| fs::read_dir(folder).ok())
        else {
            return Vec::new();
        };
        entries
            .filter_map(|entry| InstanceId::new(entry.ok()?.file_name().to_str()?).ok())
            .filter(|id| *id != self.own && !id.as_str().starts_with('.'))
            .collect()
    }

    /// All instances whose process lives, this one first.
    pub fn alive(&self) -> Vec<InstanceId> {
        let others = self.others().into_iter().filter(|id| matches!(self.probe(id), Life::Alive));
        std::iter::once(self.own.clone()).chain(others).collect()
    }

    /// Gives the lock up: from here on others may adopt what this instance owns.
    pub fn leave(&self) {
        if self.folder.is_some() {
            self.remove_own();
            let_go(&self.own);
        }
    }

    fn remove_own(&self) {
        if let Some(folder) = &self.folder {
            let _ = fs::remove_file(folder.join(self.own.as_str()));
        }
    }
}
