//! Keys of the file store: which are good, where they lead, and how ids become names of folders.
//!
//! Not reading or writing of values. Invariants: a good key leads to a place under the root, by
//! real folders only, outside the store's own folder; it is checked as text, then against what is
//! on disk. The folders under the root are trusted not to be changed by an enemy between the two.

use std::fs::{self, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

/// The store's own folder under its root.
pub(super) const OWN_FOLDER: &str = ".unanimity";

/// The longest name that common file systems take, in bytes.
const NAME_MAX: usize = 255;
/// The longest path that systems take, less some room for staging.
const PATH_MAX: usize = 4_000;

/// What is at a key's place.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// A file with a value.
    File(PathBuf),
    /// No value.
    Nothing(PathBuf),
}

impl Found {
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::File(path) | Self::Nothing(path) => path,
        }
    }
}

/// Checks a key as text.
pub(super) fn check_text(key: &str) -> Result<(), String> {
    if key.is_empty() {
        return Err("it is empty; give a relative path such as 'folder/file'".to_owned());
    }
    if key.starts_with('/') {
        return Err("it is an absolute path; give one relative to the store's root".to_owned());
    }
    if key.contains('\0') {
        return Err("it contains a NUL character, which file systems cannot hold".to_owned());
    }
    for (index, component) in key.split('/').enumerate() {
        match component {
            "" => {
                return Err("it has an empty component; write each '/' once, none last".to_owned());
            }
            "." | ".." => return Err(format!("it has the component '{component}'; leave it out")),
            _ if component.len() > NAME_MAX => {
                return Err(format!("a component is longer than {NAME_MAX} bytes"));
            }
            _ if index == 0 && component.eq_ignore_ascii_case(OWN_FOLDER) => {
                return Err(format!("the folder {OWN_FOLDER} belongs to the store itself"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Finds a key's place without following any symbolic link.
pub(super) fn find(root: &Path, key: &str) -> Result<Found, String> {
    check_text(key)?;
    if root.as_os_str().len() + key.len() > PATH_MAX {
        return Err(format!("with the store's root it is longer than {PATH_MAX} bytes"));
    }
    let mut path = root.to_owned();
    let mut components = key.split('/').peekable();
    while let Some(component) = components.next() {
        path.push(component);
        let Some(metadata) = look(&path)? else { return Ok(Found::Nothing(root.join(key))) };
        let shown = path.display();
        if metadata.is_symlink() {
            return Err(format!("{shown} is a symbolic link; the store does not follow any"));
        }
        if components.peek().is_some() && !metadata.is_dir() {
            return Err(format!("{shown} is not a folder, so nothing can be below it"));
        }
        if components.peek().is_none() && metadata.is_dir() {
            return Err(format!("{shown} is a folder; a value needs a file"));
        }
        if components.peek().is_none() && !metadata.is_file() {
            return Err(format!("{shown} is no regular file"));
        }
    }
    Ok(Found::File(path))
}

fn look(path: &Path) -> Result<Option<Metadata>, String> {
    match fs::symlink_metadata(path) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("{} cannot be looked at: {error}", path.display())),
    }
}

/// That a rename from the store's own folder to this place can be foreseen to succeed.
pub(super) fn check_writable(root: &Path, place: &Path) -> Result<(), String> {
    let explain = |what: io::Error| format!("{} cannot be looked at: {what}", place.display());
    let folder = place
        .ancestors()
        .skip(1)
        .take_while(|ancestor| ancestor.starts_with(root))
        .find(|ancestor| ancestor.is_dir())
        .unwrap_or(root);
    let device = fs::metadata(folder).map_err(explain)?.dev();
    if device != fs::metadata(root.join(OWN_FOLDER)).map_err(explain)?.dev() {
        return Err(format!(
            "{} is on another file system than the store's root, and a rename cannot cross; \
             make a store with that folder as its root",
            folder.display()
        ));
    }
    access(folder, Access::WRITE_OK | Access::EXEC_OK)
        .map_err(|error| format!("the folder {} cannot be written: {error}", folder.display()))
}

/// Whether two keys cannot be held by two transactions: they are one, or one is a folder on the
/// other's way.
pub(super) fn are_related(one: &str, other: &str) -> bool {
    one == other || is_below(one, other) || is_below(other, one)
}

fn is_below(key: &str, folder: &str) -> bool {
    key.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
}

/// An id as the name of a folder, also where upper and lower case are one. Long names are cut and
/// end in a hash; whoever reads the folder compares the id that is written inside.
pub(super) fn escape(id: &str) -> String {
    use std::fmt::Write as _;
    let mut name = String::with_capacity(id.len());
    for byte in id.bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => name.push(char::from(byte)),
            // Writing to a String cannot fail.
            _ => drop(write!(name, "%{byte:02x}")),
        }
    }
    if name.len() > 200 {
        name.truncate(150);
        let _ = write!(name, "~{:032x}", hash(id.as_bytes()));
    }
    name
}

/// FNV-1a over 128 bits: stable for ever, as names on disk must be.
pub(super) fn hash(bytes: &[u8]) -> u128 {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    bytes.iter().fold(OFFSET, |hash, byte| (hash ^ u128::from(*byte)).wrapping_mul(PRIME))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_become_names_that_differ_and_stay_short() {
        assert_eq!(escape("order-1_a"), "order-1_a");
        assert_eq!(escape("A/.."), "%41%2f%2e%2e");
        let (one, other) = (format!("{}1", "é".repeat(120)), format!("{}2", "é".repeat(120)));
        assert!(escape(&one).len() < 200 && escape(&one) != escape(&other));
        assert_eq!(hash(b"a"), 0xd228_cb69_6f1a_8caf_7891_2b70_4e4a_8964);
    }

    #[test]
    fn keys_are_related_when_one_is_on_the_others_way() {
        assert!(are_related("a", "a") && are_related("a/b", "a") && are_related("a", "a/b/c"));
        assert!(!are_related("a", "ab") && !are_related("a/b", "a/c"));
    }
}
