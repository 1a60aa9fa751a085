//! The file store's own folder: what is staged, what was applied, and the steps between.
//!
//! `<root>/.unanimity/<journal>/<store>/staged/<id>/` holds numbered contents and a manifest; the
//! manifest under its final name is the mark "prepared", and moved to `applied/<id>` it is the mark
//! "committed". Not the rules of who may prepare what (`files.rs`).
//!
//! Invariants: nothing is staged except under the folder's lock, so a staging folder without a
//! manifest that is seen under the lock is torn; every mark is durable before it is relied upon;
//! each step of a commit may be done again. It is long because the layout is told in one place.

use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use super::files_key::{self, OWN_FOLDER};
use crate::crash;
use crate::model::ids::{ClusterId, CoordinationId, StoreName};
use crate::model::lock::{Fence, LockMode, ResourceId};
use crate::model::value::Value;

const MANIFEST: &str = "manifest.json";
const VERSION: i64 = 1;

/// One change of one key: a new content, or none.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Effect {
    pub(super) key: String,
    pub(super) is_put: bool,
}

impl Effect {
    pub(super) fn encode(&self) -> Value {
        Value::Map(vec![
            ("key".to_owned(), Value::Text(self.key.clone())),
            ("type".to_owned(), Value::from(if self.is_put { "put" } else { "delete" })),
        ])
    }

    pub(super) fn decode(value: &Value) -> Option<Self> {
        let is_put = match value.get("type")?.as_text()? {
            "put" => true,
            "delete" => false,
            _ => return None,
        };
        let key = value.get("key")?.as_text()?.to_owned();
        files_key::check_text(&key).ok()?;
        Some(Self { key, is_put })
    }
}

/// What a prepared transaction has written down.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Manifest {
    pub(super) transaction: String,
    /// In the order in which they are made. The content of the n-th is the file named n.
    pub(super) effects: Vec<Effect>,
    /// Every key that it holds, those that were only checked included.
    pub(super) keys: Vec<String>,
    /// The locks under which it was prepared.
    pub(super) fences: Vec<Fence>,
}

impl Manifest {
    fn encode(&self) -> String {
        let effects = self.effects.iter().map(Effect::encode);
        let keys = self.keys.iter().cloned().map(Value::Text);
        let mut entries = vec![
            ("version".to_owned(), VERSION.into()),
            ("transaction_id".to_owned(), Value::Text(self.transaction.clone())),
            ("operations".to_owned(), Value::List(effects.collect())),
            ("keys".to_owned(), Value::List(keys.collect())),
        ];
        if !self.fences.is_empty() {
            let fences = self.fences.iter().map(encode_fence).collect();
            entries.push(("fences".to_owned(), Value::List(fences)));
        }
        Value::Map(entries).to_json()
    }

    fn decode(json: &str) -> Option<Self> {
        let value = Value::from_json(json).ok()?;
        let text = |value: &Value| value.as_text().map(str::to_owned);
        if value.get("version")?.as_int()? != VERSION {
            return None;
        }
        Some(Self {
            transaction: text(value.get("transaction_id")?)?,
            effects: value
                .get("operations")?
                .as_list()?
                .iter()
                .map(Effect::decode)
                .collect::<Option<_>>()?,
            keys: value.get("keys")?.as_list()?.iter().map(text).collect::<Option<_>>()?,
            fences: match value.get("fences") {
                Some(fences) => {
                    fences.as_list()?.iter().map(decode_fence).collect::<Option<_>>()?
                }
                None => Vec::new(),
            },
        })
    }
}

/// The token as text, because it has 64 bits and a number here has 63.
fn encode_fence(fence: &Fence) -> Value {
    Value::Map(vec![
        ("resource".to_owned(), fence.resource.as_str().into()),
        ("mode".to_owned(), fence.mode.as_str().into()),
        ("token".to_owned(), Value::Text(fence.token.to_string())),
    ])
}

fn decode_fence(value: &Value) -> Option<Fence> {
    Some(Fence {
        resource: ResourceId::new(value.get("resource")?.as_text()?).ok()?,
        mode: LockMode::parse(value.get("mode")?.as_text()?)?,
        token: value.get("token")?.as_text()?.parse().ok()?,
    })
}

/// How far an id came.
pub(super) enum Standing {
    Prepared(Manifest),
    Applied,
    None,
}

/// The folders of one store of one journal under one root.
#[derive(Debug)]
pub(super) struct Area {
    pub(super) root: PathBuf,
    staged: PathBuf,
    applied: PathBuf,
    store: StoreName,
}

/// The lock of all stores under one root, held while this lives.
pub(super) struct Guard(#[expect(dead_code, reason = "the open file is the lock")] File);

impl Area {
    /// Makes the folders, durably, and removes what prepares that never ended have left.
    pub(super) fn open(root: &Path, cluster: &ClusterId, store: &StoreName) -> io::Result<Self> {
        fs::create_dir_all(root)?;
        let root = root.canonicalize()?;
        let mut own = root.clone();
        let (cluster, name) =
            (files_key::escape(cluster.as_str()), files_key::escape(store.as_str()));
        for component in [OWN_FOLDER, &cluster, &name] {
            own.push(component);
            make_folder(&own)?;
        }
        let (staged, applied) = (own.join("staged"), own.join("applied"));
        make_folder(&staged)?;
        make_folder(&applied)?;
        let area = Self { root, staged, applied, store: store.clone() };
        let guard = area.lock()?;
        area.remove_torn()?;
        drop(guard);
        Ok(area)
    }

    /// Waits for the lock of everything under this root.
    pub(super) fn lock(&self) -> io::Result<Guard> {
        let path = self.root.join(OWN_FOLDER).join("lock");
        // Each time another open file: the lock must also part the threads of this process.
        let file = File::options().create(true).truncate(false).write(true).open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => file.lock()?,
            Err(TryLockError::Error(error)) => return Err(error),
        }
        Ok(Guard(file))
    }

    fn remove_torn(&self) -> io::Result<()> {
        for folder in folders_of(&self.staged)? {
            let is_over = folder.file_name().is_some_and(|name| self.applied.join(name).exists());
            if is_over || !folder.join(MANIFEST).exists() {
                remove_folder(&folder)?;
            }
        }
        sync_folder(&self.staged)
    }

    /// The name under which the service knows the store.
    pub(super) fn store_name(&self) -> &str {
        self.store.as_str()
    }

    /// The folder in which an id is staged.
    pub(super) fn staging(&self, id: &CoordinationId) -> PathBuf {
        self.staged.join(files_key::escape(id.as_str()))
    }

    fn marker(&self, id: &CoordinationId) -> PathBuf {
        self.applied.join(files_key::escape(id.as_str()))
    }

    /// How far this id came. A damaged manifest is an error of the kind `InvalidData`.
    pub(super) fn standing(&self, id: &CoordinationId) -> io::Result<Standing> {
        let found = match read_manifest(&self.marker(id))? {
            Some(manifest) => Some((manifest, true)),
            None => read_manifest(&self.staging(id).join(MANIFEST))?.map(|found| (found, false)),
        };
        match found {
            Some((manifest, _)) if manifest.transaction != id.as_str() => {
                let other = manifest.transaction;
                let message = format!("the ids '{other}' and '{id}' share the name of a folder");
                Err(io::Error::other(message))
            }
            Some((_, true)) => Ok(Standing::Applied),
            Some((manifest, false)) => Ok(Standing::Prepared(manifest)),
            None => Ok(Standing::None),
        }
    }

    /// Everything prepared under this root, by whomever: its staging folder and its manifest.
    /// `is_known` says which folders need not be read.
    pub(super) fn foreign(&self, is_known: impl Fn(&Path) -> bool) -> io::Result<Vec<Manifest>> {
        let mut found = Vec::new();
        for cluster in folders_of(&self.root.join(OWN_FOLDER))? {
            for store in folders_of(&cluster)? {
                for folder in folders_of(&store.join("staged"))? {
                    let is_over = || {
                        let name = folder.file_name().unwrap_or_default();
                        store.join("applied").join(name).exists()
                    };
                    if is_known(&folder) || is_over() {
                        continue;
                    }
                    found.extend(read_manifest(&folder.join(MANIFEST))?);
                }
            }
        }
        Ok(found)
    }

    /// Stages contents and, last, the mark. Called under the lock. On an error nothing is kept.
    pub(super) fn stage(
        &self,
        id: &CoordinationId,
        manifest: &Manifest,
        contents: &[Option<&[u8]>],
    ) -> io::Result<()> {
        let folder = self.staging(id);
        // Under the lock a folder that is there already was left by a prepare that never ended.
        remove_folder(&folder)?;
        let staged =
            self.stage_into(&folder, manifest, contents).and_then(|()| sync_folder(&self.staged));
        if staged.is_err() {
            remove_folder(&folder)?;
        }
        staged
    }

    fn stage_into(
        &self,
        folder: &Path,
        manifest: &Manifest,
        contents: &[Option<&[u8]>],
    ) -> io::Result<()> {
        fs::create_dir(folder)?;
        for (index, content) in contents.iter().enumerate() {
            if let Some(content) = content {
                write_file(&folder.join(index.to_string()), content)?;
                crash::point("store_content", self.store.as_str());
            }
        }
        let unmarked = folder.join("manifest.new");
        write_file(&unmarked, manifest.encode().as_bytes())?;
        crash::point("store_unmarked", self.store.as_str());
        // One sync of the folder is enough for contents and mark: nobody relies on the mark before.
        fs::rename(unmarked, folder.join(MANIFEST))?;
        sync_folder(folder)
    }

    /// Makes the change visible and marks it. Every step may have been done before.
    pub(super) fn commit(&self, id: &CoordinationId, manifest: &Manifest) -> io::Result<()> {
        let folder = self.staging(id);
        let mut touched = BTreeSet::new();
        for (index, effect) in manifest.effects.iter().enumerate() {
            if index > 0 {
                crash::point("store_rename", self.store.as_str());
            }
            let found = files_key::find(&self.root, &effect.key).map_err(io::Error::other)?;
            let place = found.path();
            if effect.is_put {
                self.put(&folder.join(index.to_string()), place, &mut touched)?;
            } else {
                ignore_missing(fs::remove_file(place))?;
                touched.extend(place.parent().filter(|parent| parent.is_dir()).map(Path::to_owned));
            }
        }
        for folder in &touched {
            sync_folder(folder)?;
        }
        crash::point("store_renamed", self.store.as_str());
        fs::rename(folder.join(MANIFEST), self.marker(id))?;
        sync_folder(&self.applied)?;
        crash::point("store_committed", self.store.as_str());
        // What stays here after a crash is removed by the next start: the marker says it is over.
        let _ = remove_folder(&folder);
        Ok(())
    }

    /// Moves one content into its place. One that is gone is there already, by an earlier try,
    /// whose folders may not have reached the disk.
    pub(super) fn put(
        &self,
        content: &Path,
        place: &Path,
        touched: &mut BTreeSet<PathBuf>,
    ) -> io::Result<()> {
        let folders: Vec<&Path> =
            place.ancestors().skip(1).take_while(|folder| folder.starts_with(&self.root)).collect();
        touched.extend(folders.first().map(|parent| (*parent).to_owned()));
        if !content.try_exists()? {
            touched.extend(folders.into_iter().map(Path::to_owned));
            return Ok(());
        }
        for pair in folders.windows(2).rev() {
            let (folder, above) = (pair[0], pair[1]);
            match fs::create_dir(folder) {
                Ok(()) => drop(touched.insert(above.to_owned())),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        fs::rename(content, place)
    }

    /// Whether a commit of this has begun, so that it cannot be undone.
    pub(super) fn has_begun(&self, id: &CoordinationId, manifest: &Manifest) -> bool {
        let folder = self.staging(id);
        let puts = manifest.effects.iter().enumerate().filter(|(_, effect)| effect.is_put);
        puts.into_iter().any(|(index, _)| !folder.join(index.to_string()).exists())
    }

    /// Takes away what is staged: the mark first, so that half of it is never taken for prepared.
    pub(super) fn discard(&self, id: &CoordinationId) -> io::Result<()> {
        let folder = self.staging(id);
        crash::point("store_abort", self.store.as_str());
        ignore_missing(fs::remove_file(folder.join(MANIFEST)))?;
        crash::point("store_discard", self.store.as_str());
        remove_folder(&folder)?;
        sync_folder(&self.staged)?;
        crash::point("store_aborted", self.store.as_str());
        Ok(())
    }

    /// The ids that are prepared and not over.
    pub(super) fn list(&self) -> io::Result<Vec<CoordinationId>> {
        let mut ids = Vec::new();
        for folder in folders_of(&self.staged)? {
            let is_over = folder.file_name().is_some_and(|name| self.applied.join(name).exists());
            if let Some(manifest) = read_manifest(&folder.join(MANIFEST))?.filter(|_| !is_over) {
                ids.push(CoordinationId::new(&manifest.transaction).map_err(io::Error::other)?);
            }
        }
        Ok(ids)
    }

    /// Removes markers. A marker too many is harmless, so nothing is made durable here.
    pub(super) fn forget(&self, ids: &[CoordinationId]) {
        for id in ids {
            crash::point("store_forget", self.store.as_str());
            let _ = fs::remove_file(self.marker(id));
        }
    }
}

fn write_file(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    file.write_all(content)?;
    file.sync_data()
}

fn read_manifest(path: &Path) -> io::Result<Option<Manifest>> {
    match fs::read_to_string(path) {
        Ok(json) => Manifest::decode(&json).map(Some).ok_or_else(|| {
            let message = format!("{} is no manifest that this version knows", path.display());
            io::Error::new(ErrorKind::InvalidData, message)
        }),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Makes a folder, and its name durable in the folder above.
pub(super) fn make_folder(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Ok(()) => path.parent().map_or(Ok(()), sync_folder),
        Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(error),
    }
}

fn folders_of(path: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if is_missing(&error) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut folders = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            folders.push(entry.path());
        }
    }
    Ok(folders)
}

/// Another process may be removing the same folder: then both go on until it is gone.
fn remove_folder(path: &Path) -> io::Result<()> {
    loop {
        match fs::remove_dir_all(path) {
            Err(error) if is_missing(&error) && path.try_exists()? => {}
            other => return ignore_missing(other),
        }
    }
}

pub(super) fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    result.or_else(|error| if is_missing(&error) { Ok(()) } else { Err(error) })
}

/// Not there, also because a folder on the way is not.
fn is_missing(error: &io::Error) -> bool {
    error.kind() == ErrorKind::NotFound
}

pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_comes_back_and_a_bad_one_is_refused() {
        let effects = vec![
            Effect { key: "a/b".to_owned(), is_put: true },
            Effect { key: "c".to_owned(), is_put: false },
        ];
        let keys = vec!["a/b".to_owned(), "c".to_owned(), "d".to_owned()];
        let resource = ResourceId::new("files/a").unwrap();
        let fences = vec![Fence { resource, mode: LockMode::Exclusive, token: u64::MAX }];
        let manifest = Manifest { transaction: "t\"é".to_owned(), effects, keys, fences };
        assert_eq!(Manifest::decode(&manifest.encode()), Some(manifest.clone()));
        let unlocked = Manifest { fences: Vec::new(), ..manifest.clone() };
        assert!(!unlocked.encode().contains("fence"));
        assert_eq!(Manifest::decode(&unlocked.encode()), Some(unlocked));
        let changes = [("a/b", "../b"), (":1", ":2"), ("delete", "drop"), ("excl", "incl")];
        for (from, to) in changes.into_iter().chain([("{", "["), ("5\"", "5x\"")]) {
            assert_eq!(Manifest::decode(&manifest.encode().replace(from, to)), None, "{from}");
        }
    }
}
