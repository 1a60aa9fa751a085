//! The file store's barrier on disk: a file for each operation, and one slot for the step at hand.
//!
//! `<root>/.unanimity/<journal>/<store>/steps/<xx>/<hash>` holds the rows of one operation, the
//! name made from its ids. `<root>/.unanimity/step.now/` is the slot, one for all stores under the
//! root: the content to put, and the row file to be, which says what its effect is. Not the rules
//! (`barrier.rs`) and not the checks (`files_step.rs`).
//!
//! Theory of operation. A row file under its final name in the slot is the point of no return: the
//! content is moved into place, and then the row file to where it stays. Whoever finds one in the
//! slot, under the root's lock, does what is left of it, whosever it was; so nobody who holds the
//! lock ever sees half a step. Where it cannot be done, and the effect is not in place, the row
//! file is removed, which undoes the step as a whole: nobody was told of it.
//!
//! Invariants: everything here happens under the root's lock; the effect is on disk before its row
//! leaves the slot; each part may have been done before.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::SystemTime;

use super::ExecuteAsk;
use super::barrier::{self, Standing};
use super::files_key::{self, OWN_FOLDER};
use super::files_stage::{Area, Effect, Guard, ignore_missing, make_folder, sync_folder};
use crate::crash;
use crate::model::ids::{ClusterId, StoreName};
use crate::model::value::Value;

/// Names of journals never have a dot in them there, so no journal's folder is called so.
const SLOT: &str = "step.now";
const VERSION: i64 = 1;
/// Into how many folders the rows are divided; one of them is purged at a time.
const FOLDERS: u32 = 256;

/// Why a step was not recorded.
#[derive(Debug)]
pub(super) enum Trouble {
    /// Nothing of it is there.
    Nothing(io::Error),
    /// Perhaps all of it is, or will be.
    Unclear(io::Error),
}

/// One operation's rows as a file, and what its step changes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct RowFile {
    cluster: String,
    store: String,
    coordination: String,
    operation: String,
    standing: Standing,
    effect: Option<Effect>,
}

/// The barrier of one store of one journal under one root.
pub(super) struct Barrier {
    root: PathBuf,
    slot: PathBuf,
    cluster: ClusterId,
    store: StoreName,
    steps: AtomicU32,
}

impl Barrier {
    /// Makes the slot. The folders of rows are made when they are needed.
    pub(super) fn open(area: &Area, cluster: &ClusterId, store: &StoreName) -> io::Result<Self> {
        let root = area.root.clone();
        let slot = root.join(OWN_FOLDER).join(SLOT);
        make_folder(&slot)?;
        let barrier = Self {
            root,
            slot,
            cluster: cluster.clone(),
            store: store.clone(),
            steps: AtomicU32::new(seconds() % FOLDERS * barrier::PURGE_EVERY),
        };
        let guard = area.lock()?;
        barrier.finish(&guard, area)?;
        barrier.purge(&guard, barrier.folder_to_purge());
        Ok(barrier)
    }

    /// Does what is left of a step that a process which died had decided, or undoes it.
    pub(super) fn finish(&self, _guard: &Guard, area: &Area) -> io::Result<()> {
        let Some(row) = read_row(&self.slot.join("row.json"))? else { return Ok(()) };
        match self.carry_out(area, &row) {
            Err(Trouble::Unclear(error)) => {
                let (id, place) = (&row.operation, self.slot.display());
                Err(io::Error::new(
                    error.kind(),
                    format!("the step of operation '{id}' in {place} cannot be ended: {error}"),
                ))
            }
            Ok(()) | Err(Trouble::Nothing(_)) => Ok(()),
        }
    }

    /// The rows of an operation.
    pub(super) fn read(&self, _guard: &Guard, ask: &ExecuteAsk) -> io::Result<Standing> {
        let asked = self.row(ask, Standing::default(), None);
        let found = read_row(&asked.place(&self.root))?;
        if let Some(other) = found.as_ref().filter(|found| !found.is_of_the_same(&asked)) {
            let (one, two) = (&other.operation, &asked.operation);
            let message = format!("the operations '{one}' and '{two}' share the name of a file");
            return Err(io::Error::other(message));
        }
        Ok(found.map(|found| found.standing).unwrap_or_default())
    }

    /// Makes a change of one key, if there is any, and writes the rows: both or nothing.
    pub(super) fn record(
        &self,
        _guard: &Guard,
        area: &Area,
        row: &RowFile,
        content: Option<&[u8]>,
    ) -> Result<(), Trouble> {
        self.stage(row, content).map_err(Trouble::Nothing)?;
        crash::point("store_step_staged", self.store.as_str());
        let (staged, decided) = (self.slot.join("row.new"), self.slot.join("row.json"));
        let marked = fs::rename(staged, decided).and_then(|()| sync_folder(&self.slot));
        if let Err(error) = marked {
            return Err(self.undo(error));
        }
        crash::point("store_step_marked", self.store.as_str());
        self.carry_out(area, row)
    }

    /// The row file of an ask.
    pub(super) fn row(
        &self,
        ask: &ExecuteAsk,
        standing: Standing,
        effect: Option<Effect>,
    ) -> RowFile {
        RowFile {
            cluster: self.cluster.as_str().to_owned(),
            store: self.store.as_str().to_owned(),
            coordination: ask.id().as_str().to_owned(),
            operation: ask.operation().id.clone(),
            standing,
            effect,
        }
    }

    fn stage(&self, row: &RowFile, content: Option<&[u8]>) -> io::Result<()> {
        if let Some(content) = content {
            write_over(&self.slot.join("content"), content)?;
        }
        write_over(&self.slot.join("row.new"), row.encode().as_bytes())
    }

    /// Effect, then row. Every part may have been done before.
    fn carry_out(&self, area: &Area, row: &RowFile) -> Result<(), Trouble> {
        if let Some(effect) = &row.effect
            && let Err(error) = self.make(area, effect)
        {
            let is_in_place = match files_key::find(&self.root, &effect.key) {
                _ if effect.is_put => !self.slot.join("content").exists(),
                Ok(found) => !found.path().exists(),
                Err(_) => false,
            };
            return Err(if is_in_place { Trouble::Unclear(error) } else { self.undo(error) });
        }
        crash::point("store_step_renamed", self.store.as_str());
        self.keep(row).map_err(Trouble::Unclear)
    }

    fn make(&self, area: &Area, effect: &Effect) -> io::Result<()> {
        let found = files_key::find(&self.root, &effect.key).map_err(io::Error::other)?;
        let place = found.path();
        let mut touched = BTreeSet::new();
        if effect.is_put {
            area.put(&self.slot.join("content"), place, &mut touched)?;
        } else {
            ignore_missing(fs::remove_file(place))?;
            touched.extend(place.parent().filter(|parent| parent.is_dir()).map(Path::to_owned));
        }
        touched.iter().try_for_each(|folder| sync_folder(folder))
    }

    /// Moves the row file to where it stays.
    fn keep(&self, row: &RowFile) -> io::Result<()> {
        let place = row.place(&self.root);
        let folder = place.parent().unwrap_or(&self.root);
        if !folder.is_dir() {
            let mut made = self.root.clone();
            for component in folder.strip_prefix(&self.root).into_iter().flatten() {
                made.push(component);
                make_folder(&made)?;
            }
        }
        fs::rename(self.slot.join("row.json"), &place)?;
        sync_folder(folder)
    }

    /// Takes a decided step back, whose effect is not in place.
    fn undo(&self, error: io::Error) -> Trouble {
        let undone = ignore_missing(fs::remove_file(self.slot.join("row.json")))
            .and_then(|()| sync_folder(&self.slot));
        match undone {
            Ok(()) => Trouble::Nothing(error),
            Err(_) => Trouble::Unclear(error),
        }
    }

    /// Purges one folder of rows each time that enough steps have passed.
    pub(super) fn purge_now_and_then(&self, guard: &Guard) {
        if self.steps.fetch_add(1, Ordering::Relaxed).is_multiple_of(barrier::PURGE_EVERY) {
            self.purge(guard, self.folder_to_purge());
        }
    }

    fn folder_to_purge(&self) -> u32 {
        self.steps.load(Ordering::Relaxed) / barrier::PURGE_EVERY % FOLDERS
    }

    /// Removes old row files from one folder. Rows too many are harmless, so it may fail.
    fn purge(&self, _guard: &Guard, number: u32) {
        let folder = folder_of_rows(&self.root, self.cluster.as_str(), self.store.as_str());
        let Ok(entries) = fs::read_dir(folder.join(format!("{number:02x}"))) else { return };
        let is_old = |entry: &fs::DirEntry| {
            let written = entry.metadata().and_then(|metadata| metadata.modified());
            let age = written.ok().and_then(|at| SystemTime::now().duration_since(at).ok());
            age.is_some_and(|age| age > barrier::KEPT)
        };
        let most = usize::try_from(barrier::PURGED_MAX).unwrap_or(usize::MAX);
        for entry in entries.flatten().filter(is_old).take(most) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn folder_of_rows(root: &Path, cluster: &str, store: &str) -> PathBuf {
    let (cluster, store) = (files_key::escape(cluster), files_key::escape(store));
    root.join(OWN_FOLDER).join(cluster).join(store).join("steps")
}

fn seconds() -> u32 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u32::try_from(since.as_secs() % 1_000_000).unwrap_or(0)
}

impl RowFile {
    /// Where it stays.
    fn place(&self, root: &Path) -> PathBuf {
        let ids = format!("{}\0{}", self.coordination, self.operation);
        let name = format!("{:032x}", files_key::hash(ids.as_bytes()));
        folder_of_rows(root, &self.cluster, &self.store).join(&name[..2]).join(name)
    }

    fn is_of_the_same(&self, other: &Self) -> bool {
        let ids = |row: &'_ Self| (row.coordination.clone(), row.operation.clone());
        ids(self) == ids(other)
    }

    fn encode(&self) -> String {
        let text = |text: &str| Value::Text(text.to_owned());
        let rows = self.standing.rows().map(|(work, result)| {
            let mut entries = vec![("work".to_owned(), text(work.as_str()))];
            entries.extend(result.map(|result| ("result".to_owned(), result.clone())));
            Value::Map(entries)
        });
        let mut entries = vec![
            ("version".to_owned(), VERSION.into()),
            ("cluster_id".to_owned(), text(&self.cluster)),
            ("store_name".to_owned(), text(&self.store)),
            ("coordination_id".to_owned(), text(&self.coordination)),
            ("operation_id".to_owned(), text(&self.operation)),
            ("rows".to_owned(), Value::List(rows.collect())),
        ];
        if let Some(effect) = &self.effect {
            entries.push(("effect".to_owned(), effect.encode()));
        }
        Value::Map(entries).to_json()
    }

    fn decode(json: &str) -> Option<Self> {
        let value = Value::from_json(json).ok()?;
        let text = |key: &str| Some(value.get(key)?.as_text()?.to_owned());
        if value.get("version")?.as_int()? != VERSION {
            return None;
        }
        let mut standing = Standing::default();
        for row in value.get("rows")?.as_list()? {
            standing.take_value(row.get("work")?.as_text()?, row.get("result").cloned());
        }
        let effect = match value.get("effect") {
            Some(effect) => Some(Effect::decode(effect)?),
            None => None,
        };
        Some(Self {
            cluster: text("cluster_id")?,
            store: text("store_name")?,
            coordination: text("coordination_id")?,
            operation: text("operation_id")?,
            standing,
            effect,
        })
    }
}

fn read_row(path: &Path) -> io::Result<Option<RowFile>> {
    match fs::read_to_string(path) {
        Ok(json) => RowFile::decode(&json).map(Some).ok_or_else(|| {
            let message = format!("{} has no row that this version knows", path.display());
            io::Error::new(ErrorKind::InvalidData, message)
        }),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes a file that may be there already: a step that never was decided left it.
fn write_over(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(content)?;
    file.sync_data()
}

#[cfg(test)]
mod tests {
    use super::barrier::Executed;
    use super::*;
    use crate::model::step::Work;
    use crate::participants::test_kit::{cluster, put, step_ask, store_name};

    #[test]
    fn a_row_file_comes_back_and_a_bad_one_is_refused() {
        let row = RowFile {
            cluster: "c".to_owned(),
            store: "s".to_owned(),
            coordination: "t\"é".to_owned(),
            operation: "t:0".to_owned(),
            standing: Standing {
                executed: Some(Executed::Done(Value::Bytes(vec![0, 255]))),
                undone: Some(Value::Null),
            },
            effect: Some(Effect { key: "a/b".to_owned(), is_put: true }),
        };
        assert_eq!(RowFile::decode(&row.encode()), Some(row.clone()));
        let empty = RowFile { standing: Standing::emptied(), effect: None, ..row.clone() };
        assert_eq!(RowFile::decode(&empty.encode()), Some(empty));
        for (from, to) in [("a/b", "../b"), (":1", ":2"), ("put", "push"), ("{", "[")] {
            assert_eq!(RowFile::decode(&row.encode().replace(from, to)), None, "{from}");
        }
    }
    #[test]
    fn row_files_older_than_a_month_go_and_younger_ones_stay() {
        let folder = tempfile::TempDir::new().unwrap();
        let area = Area::open(folder.path(), &cluster(), &store_name()).unwrap();
        let barrier = Barrier::open(&area, &cluster(), &store_name()).unwrap();
        let guard = area.lock().unwrap();
        let mut places = Vec::new();
        for number in 0..40 {
            let ask = step_ask(&format!("c{number}"), Work::Execute, vec![put("a", "1")]);
            let row = barrier.row(&ask, Standing::emptied(), None);
            barrier.record(&guard, &area, &row, None).unwrap();
            let age = std::time::Duration::from_secs((28 + number / 10) * 86_400);
            let file = File::options().write(true).open(row.place(&area.root)).unwrap();
            file.set_modified(SystemTime::now() - age).unwrap();
            places.push(row.place(&area.root));
        }
        for folder in 0..FOLDERS {
            barrier.purge(&guard, folder);
        }
        let left: Vec<bool> = places.iter().map(|place| place.exists()).collect();
        let expected: Vec<bool> = (0..40).map(|number| number < 20).collect();
        assert_eq!(left, expected);
    }
}
