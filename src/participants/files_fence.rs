//! The fencing tokens that the stores under one root were shown: a log in their own folder.
//!
//! `<root>/.unanimity/fencing_tokens.log` has a line for each prepare under locks: a checksum, and
//! by resource the highest tokens. Not the rule (`protocol/fence.rs`). It belongs to no journal:
//! services of several journals may share a lock manager and a folder.
//!
//! Invariants: it is read and written only under the root's lock; a line is on disk before anybody
//! votes because of it; a bad last line was never relied upon, a bad one before it is an error;
//! without tokens the file is neither made nor looked at. It is written anew when most of it is
//! outdated, so it has a bound: twice the resources that were ever locked, or a thousand entries.
//! No resource is dropped, because nobody can know how late a stopped process comes.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::files_key::{OWN_FOLDER, hash};
use super::files_stage::{Guard, sync_folder};
use crate::model::lock::{Fence, ResourceId};
use crate::protocol::fence::{self, FenceMemory};

const NAME: &str = "fencing_tokens.log";
/// Shorter logs are not worth the writing.
const ENTRIES_KEPT: usize = 1024;

type Raised = BTreeMap<ResourceId, FenceMemory>;

/// The log of one root.
pub(super) struct FenceLog {
    folder: PathBuf,
    seen: Mutex<Seen>,
}

/// What was read so far.
#[derive(Default)]
struct Seen {
    /// Kept open, so that no later file can have the same number.
    file: Option<File>,
    /// Whether its name is on the disk.
    is_name_durable: bool,
    /// How far the file is good.
    length: u64,
    entries: usize,
    resources: HashMap<ResourceId, FenceMemory>,
}

impl FenceLog {
    /// Touches nothing yet.
    pub(super) fn new(root: &Path) -> Self {
        Self { folder: root.join(OWN_FOLDER), seen: Mutex::default() }
    }

    /// Checks tokens, and gives what is to be remembered if the transaction goes on.
    pub(super) fn check(&self, _guard: &Guard, shown: &[Fence]) -> Result<Raised, String> {
        if shown.is_empty() {
            return Ok(Raised::new());
        }
        let mut seen = self.seen();
        let path = self.folder.join(NAME);
        seen.read(&path, &self.folder).map_err(|error| {
            format!("the fencing tokens in {} cannot be read: {error}", path.display())
        })?;
        fence::check(shown, |resource| seen.resources.get(resource))
            .map_err(|refusal| refusal.to_string())
    }

    /// Remembers what [`FenceLog::check`] gave, durably, under the same lock.
    pub(super) fn remember(&self, _guard: &Guard, raised: Raised) -> io::Result<()> {
        if raised.is_empty() {
            return Ok(());
        }
        let mut seen = self.seen();
        seen.append(&self.folder, &raised)?;
        seen.merge(raised);
        if seen.entries > ENTRIES_KEPT.max(2 * seen.resources.len())
            && let Err(error) = seen.write_anew(&self.folder)
        {
            let folder = self.folder.display();
            tracing::warn!(%folder, %error, "the log of fencing tokens could not be shortened");
        }
        Ok(())
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        // What is left half done is read again or cut off, as after a crash.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    /// Takes in what was written since the last time, by whomever.
    fn read(&mut self, path: &Path, folder: &Path) -> io::Result<()> {
        let there = match fs::metadata(path) {
            Ok(metadata) => Some(metadata),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let number = |metadata: &fs::Metadata| (metadata.dev(), metadata.ino());
        let known = self.file.as_ref().map(File::metadata).transpose()?;
        let length = there.as_ref().map_or(0, fs::Metadata::len);
        if known.as_ref().map(number) != there.as_ref().map(number) || length < self.length {
            *self = Self::default();
        }
        if there.is_some() && self.file.is_none() {
            self.file = Some(File::options().read(true).write(true).open(path)?);
        }
        if let Some(file) = self.file.as_ref().filter(|_| length > self.length) {
            let missing = usize::try_from(length - self.length).map_err(io::Error::other)?;
            let mut bytes = vec![0; missing];
            file.read_exact_at(&mut bytes, self.length)?;
            // Whoever wrote it may have died before it was on the disk.
            file.sync_data()?;
            self.take(&bytes)?;
        }
        if self.file.is_some() && !self.is_name_durable {
            self.make_name_durable(folder)?;
        }
        Ok(())
    }

    fn make_name_durable(&mut self, folder: &Path) -> io::Result<()> {
        self.is_name_durable = false;
        sync_folder(folder)?;
        self.is_name_durable = true;
        Ok(())
    }

    /// Takes in whole lines; what follows them is torn.
    fn take(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
            match decode(line) {
                Some(raised) => self.merge(raised?),
                None if rest.is_empty() => break,
                None => {
                    let message = format!("it is damaged after its byte {}", self.length);
                    return Err(io::Error::new(ErrorKind::InvalidData, message));
                }
            }
            self.length += length_of(&bytes[..=end]);
            bytes = rest;
        }
        Ok(())
    }

    fn merge(&mut self, raised: Raised) {
        self.entries += raised.len();
        for (resource, memory) in raised {
            self.resources.entry(resource).or_default().raise_all(&memory);
        }
    }

    fn append(&mut self, folder: &Path, raised: &Raised) -> io::Result<()> {
        let line = encode(raised);
        if self.file.is_none() {
            let path = folder.join(NAME);
            let file = File::options().read(true).write(true).create_new(true).open(path)?;
            self.file = Some(file);
        }
        if !self.is_name_durable {
            self.make_name_durable(folder)?;
        }
        let Some(file) = &self.file else { return Ok(()) };
        if file.metadata()?.len() > self.length {
            file.set_len(self.length)?;
        }
        let written =
            file.write_all_at(line.as_bytes(), self.length).and_then(|()| file.sync_data());
        if written.is_err() {
            // What stays is cut off the next time, or was remembered too early, which is safe.
            let _ = file.set_len(self.length);
        }
        written?;
        self.length += length_of(line.as_bytes());
        Ok(())
    }

    /// Writes one line for each resource into a new file, which then takes the old one's place.
    fn write_anew(&mut self, folder: &Path) -> io::Result<()> {
        let mut text = String::new();
        for (resource, memory) in &self.resources {
            text.push_str(&encode(&Raised::from([(resource.clone(), memory.clone())])));
        }
        let (path, unfinished) = (folder.join(NAME), folder.join("fencing_tokens.new"));
        let mut options = File::options();
        let file = options.read(true).write(true).create(true).truncate(true).open(&unfinished)?;
        file.write_all_at(text.as_bytes(), 0)?;
        file.sync_all()?;
        fs::rename(&unfinished, &path)?;
        self.file = Some(file);
        self.length = length_of(text.as_bytes());
        self.entries = self.resources.len();
        // Until then a crash brings the old file back, which says the same.
        self.make_name_durable(folder)
    }
}

fn length_of(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

fn encode(raised: &Raised) -> String {
    let json = serde_json::to_string(raised).expect("names and numbers can be written");
    format!("{:032x} {json}\n", hash(json.as_bytes()))
}

/// `None` for a line that was not written whole.
fn decode(line: &[u8]) -> Option<io::Result<Raised>> {
    let (sum, json) = std::str::from_utf8(line).ok()?.split_once(' ')?;
    if sum != format!("{:032x}", hash(json.as_bytes())) {
        return None;
    }
    let unknown = |error| {
        let message = format!("it has a line that this version does not know: {error}");
        io::Error::new(ErrorKind::InvalidData, message)
    };
    Some(serde_json::from_str(json).map_err(unknown))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::lock::LockMode;
    use crate::participants::files_stage::Area;
    use crate::participants::test_kit::{cluster, store_name};

    struct Root {
        folder: tempfile::TempDir,
        area: Area,
    }

    impl Root {
        fn new() -> Self {
            let folder = tempfile::TempDir::new().unwrap();
            let area = Area::open(folder.path(), &cluster(), &store_name()).unwrap();
            Self { folder, area }
        }

        fn path(&self) -> PathBuf {
            self.folder.path().join(OWN_FOLDER).join(NAME)
        }

        fn log(&self) -> FenceLog {
            FenceLog::new(self.folder.path())
        }

        fn show(&self, log: &FenceLog, resource: &str, token: u64) -> Result<(), String> {
            let resource = ResourceId::new(resource).unwrap();
            let guard = self.area.lock().unwrap();
            let raised =
                log.check(&guard, &[Fence { resource, mode: LockMode::Exclusive, token }])?;
            log.remember(&guard, raised).map_err(|error| error.to_string())
        }
    }

    #[test]
    fn two_that_write_in_turn_see_each_others_tokens() {
        let root = Root::new();
        let (one, other) = (root.log(), root.log());
        for token in 1..=10 {
            let (writer, reader) = if token % 2 == 0 { (&one, &other) } else { (&other, &one) };
            root.show(writer, "a\nb", 2 * token).unwrap();
            assert!(root.show(reader, "a\nb", 2 * token - 1).unwrap_err().contains("was lost"));
        }
    }

    #[test]
    fn a_torn_last_line_is_cut_off_and_a_damaged_one_before_it_is_an_error() {
        let root = Root::new();
        root.show(&root.log(), "a", 7).unwrap();
        let whole = fs::read(root.path()).unwrap();
        for torn in [&whole[..whole.len() - 1], &whole[..5], b"\0\0\0\0", b"\0\0\n"] {
            fs::write(root.path(), [&whole[..], torn].concat()).unwrap();
            let log = root.log();
            assert!(root.show(&log, "a", 6).is_err());
            root.show(&log, "b", 1).unwrap();
            assert!(root.show(&root.log(), "a", 6).unwrap_err().contains("was lost"));
            assert_eq!(fs::read_to_string(root.path()).unwrap().lines().count(), 2);
        }
        fs::write(root.path(), [b"what\n", &whole[..]].concat()).unwrap();
        let reason = root.show(&root.log(), "a", 9).unwrap_err();
        assert!(reason.contains("damaged after its byte 0") && reason.contains(NAME), "{reason}");
    }

    #[test]
    fn the_log_is_written_anew_before_it_is_long_and_forgets_nothing() {
        let root = Root::new();
        let (log, idle) = (root.log(), root.log());
        root.show(&idle, "rare", 5).unwrap();
        let mut longest = 0;
        for token in 1..=2_500 {
            root.show(&log, "hot", token).unwrap();
            longest = longest.max(fs::read_to_string(root.path()).unwrap().lines().count());
        }
        assert!(longest <= ENTRIES_KEPT + 1, "{longest}");
        for late in [&log, &idle, &root.log()] {
            assert!(root.show(late, "rare", 4).is_err() && root.show(late, "hot", 2_499).is_err());
        }
    }
}
