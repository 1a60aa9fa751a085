//! What a simulated run puts in the place of the machine: chance, the wall clock, the disk's cache.
//!
//! For tests only, and only on a thread that called [`begin`]; everything else is served as ever.
//! Not the run itself (`simulated_cluster`). Chance: hashed collections and tokio's `select!` take
//! their seeds, on Linux, from the C library's `getrandom`, which this file defines anew. The disk:
//! files are real, and what was written and not synced can be taken back, as a loss of power would.
//! Invariant: on one thread of a new process, the same seed gives the same numbers.

use std::cell::RefCell;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::Duration;

use crate::model::time::Timestamp;

/// The least that a disk loses or keeps of a write.
const SECTOR_BYTES: usize = 512;

/// A mistake of the disk or the log below the rules, planted to see that it is caught.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// A sync returns, and nothing is on the disk.
    NoSync,
    /// The log does not write down whom the node voted for.
    VoteNotWritten,
}

/// A write that is not on the disk yet.
struct Unsynced {
    file: File,
    inode: u64,
    at: u64,
    before: Vec<u8>,
    after: Vec<u8>,
}

struct Run {
    chance: u64,
    wall: Timestamp,
    slowness: (u64, u64),
    flaw: Option<Flaw>,
    unsynced: Vec<Unsynced>,
}

thread_local! {
    static RUN: RefCell<Option<Run>> = const { RefCell::new(None) };
}

fn with<T>(work: impl FnOnce(&mut Run) -> T) -> Option<T> {
    // While the thread ends there is no run any more.
    RUN.try_with(|run| run.try_borrow_mut().ok().and_then(|mut run| run.as_mut().map(work)))
        .ok()
        .flatten()
}

/// From here on this thread is simulated.
pub(crate) fn begin(seed: u64, flaw: Option<Flaw>) {
    let (wall, slowness, unsynced) = (Timestamp(1), (1, 1), Vec::new());
    let run = Run { chance: seed, wall, slowness, flaw, unsynced };
    RUN.with(|place| *place.borrow_mut() = Some(run));
}

pub(crate) fn is_on() -> bool {
    with(|_| ()).is_some()
}

pub(crate) fn has(flaw: Flaw) -> bool {
    with(|run| run.flaw == Some(flaw)) == Some(true)
}

/// Whose turn it is: its wall clock, and how many milliseconds its disk takes for a sync.
pub(crate) fn turn_to(wall: Timestamp, slowness: (u64, u64)) {
    with(|run| (run.wall, run.slowness) = (wall, slowness));
}

pub(crate) fn wall_clock() -> Option<Timestamp> {
    with(|run| run.wall)
}

/// The next number of the run (`SplitMix64`; Steele, Lea, Flood 2014).
fn draw(run: &mut Run) -> u64 {
    run.chance = run.chance.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = run.chance;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// So small that a short run fills several; `None` where nothing is simulated.
pub(crate) fn segment_sizes() -> Option<(u64, u64)> {
    is_on().then_some((64 << 10, 128 << 10))
}

/// Fills the bytes by the seed; false where nothing is simulated.
pub(crate) fn fill(bytes: &mut [u8]) -> bool {
    let filled = with(|run| {
        for part in bytes.chunks_mut(8) {
            part.copy_from_slice(&draw(run).to_le_bytes()[..part.len()]);
        }
    });
    filled.is_some()
}

/// How long the next sync takes.
pub(crate) fn sync_time() -> Duration {
    let millis = with(|run| run.slowness.0 + draw(run) % (run.slowness.1 - run.slowness.0 + 1));
    Duration::from_millis(millis.unwrap_or(0))
}

/// Writes, and remembers what was there; `None` where nothing is simulated.
pub(crate) fn write(file: &File, at: u64, bytes: &[u8]) -> Option<io::Result<()>> {
    is_on().then(|| {
        let mut before = vec![0; bytes.len()];
        file.read_exact_at(&mut before, at)?;
        file.write_all_at(bytes, at)?;
        let (copy, inode) = (file.try_clone()?, file.metadata()?.ino());
        let after = bytes.to_vec();
        let write = Unsynced { file: copy, inode, at, before, after };
        with(|run| run.unsynced.push(write));
        Ok(())
    })
}

/// Makes what was written stand; `None` where nothing is simulated.
pub(crate) fn sync(file: &File) -> Option<io::Result<()>> {
    is_on().then(|| {
        let inode = file.metadata()?.ino();
        if !has(Flaw::NoSync) {
            with(|run| run.unsynced.retain(|write| write.inode != inode));
        }
        Ok(())
    })
}

/// The power fails: of the files in `folder`, what was not synced is lost from some point on.
/// The write at that point is torn; those before it happen to be on the disk.
pub(crate) fn lose_unsynced(folder: &Path) -> io::Result<usize> {
    let mut inodes = Vec::new();
    for entry in fs::read_dir(folder)? {
        inodes.push(entry?.metadata()?.ino());
    }
    let lost = with(|run| {
        let all = std::mem::take(&mut run.unsynced);
        let (writes, others) =
            all.into_iter().partition(|write: &Unsynced| inodes.contains(&write.inode));
        run.unsynced = others;
        let writes: Vec<Unsynced> = writes;
        let cut = usize::try_from(draw(run) % (writes.len() as u64 + 1)).unwrap_or(0);
        let torn = draw(run);
        for write in writes[cut..].iter().rev() {
            write.file.write_all_at(&write.before, write.at)?;
        }
        if let Some(write) = writes.get(cut) {
            tear(write, torn)?;
        }
        Ok(writes.len() - cut)
    });
    lost.unwrap_or(Ok(0))
}

/// Some sectors of a write are on the disk.
fn tear(write: &Unsynced, which: u64) -> io::Result<()> {
    let mut at = write.at;
    let mut rest = write.after.as_slice();
    let mut which = which;
    while !rest.is_empty() {
        let in_sector = SECTOR_BYTES - usize::try_from(at).unwrap_or(0) % SECTOR_BYTES;
        let (part, others) = rest.split_at(in_sector.min(rest.len()));
        if which.is_multiple_of(4) {
            write.file.write_all_at(part, at)?;
        }
        (at, rest, which) = (at + part.len() as u64, others, which.rotate_right(2));
    }
    Ok(())
}

/// The C library's, with chance by the seed on a simulated thread.
///
/// # Safety
/// `buffer` has room for `length` bytes, as everybody who calls it says.
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(buffer: *mut u8, length: usize, _flags: u32) -> isize {
    if length == 0 {
        return 0;
    }
    // SAFETY: the caller says so, and gives bytes of which nobody else knows.
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer, length) };
    if !fill(bytes) && File::open("/dev/urandom").and_then(|file| read(file, bytes)).is_err() {
        return -1;
    }
    isize::try_from(length).unwrap_or(-1)
}

fn read(mut file: File, bytes: &mut [u8]) -> io::Result<()> {
    io::Read::read_exact(&mut file, bytes)
}
