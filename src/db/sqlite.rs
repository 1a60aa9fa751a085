//! Opens SQLite files: looks before it touches, then sets what durability needs.
//!
//! Not the tables (migration). Invariants: [`inspect`] changes no byte of the file; a connection
//! for writing is in WAL mode with synchronous=NORMAL (see `wal`) and foreign keys on; a new file
//! carries our application id from its first durable byte, because the tables are made before the
//! switch to WAL, under SQLite's rollback journal.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, MAIN_DB, OpenFlags};

use super::DbError;
use super::migration::{self, JOURNAL, Schema};

/// "unan": how a file says that it is ours.
pub const APPLICATION_ID: u32 = 0x756e_616e;

const HEADER_BYTES: usize = 100;
const STATEMENTS_CACHED: usize = 64;

/// Where a database is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In this process's memory, gone with the connection.
    Memory,
    /// In this file.
    File(PathBuf),
}

impl Place {
    /// `memory:` or a path.
    pub fn parse(location: &str) -> Self {
        match location {
            "memory:" | ":memory:" => Self::Memory,
            path => Self::File(path.into()),
        }
    }

    /// For people.
    pub fn describe(&self) -> String {
        match self {
            Self::Memory => "memory:".to_owned(),
            Self::File(path) => path.display().to_string(),
        }
    }
}

/// How to open.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// How long to wait for another process's lock.
    pub busy_timeout: Duration,
    /// The most pages that the file may have; `None` leaves it to the disk.
    pub pages_max: Option<u32>,
    /// Files up to this size are read through for damage before they are opened.
    pub check_bytes_max: u64,
}

/// Opens a journal for writing; creates the file and its tables where there are none.
pub fn open_writer(place: &Place, options: &OpenOptions) -> Result<Connection, DbError> {
    open_writer_of(&JOURNAL, place, options)
}

/// Opens a file of this schema for writing; creates it and its tables where there are none.
pub fn open_writer_of(
    schema: &Schema,
    place: &Place,
    options: &OpenOptions,
) -> Result<Connection, DbError> {
    let path = place.describe();
    let mut connection = match place {
        Place::Memory => Connection::open_in_memory().map_err(|e| open_error(&path, &e))?,
        Place::File(file) => {
            inspect(schema, file, options)?;
            let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
                | OpenFlags::SQLITE_OPEN_CREATE
                | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            Connection::open_with_flags(file, flags).map_err(|e| open_error(&path, &e))?
        }
    };
    if connection.is_readonly(MAIN_DB).map_err(|e| open_error(&path, &e))? {
        let reason = "the file is read-only; give this process the right to write it".to_owned();
        return Err(DbError::Open { path, reason });
    }
    connection.busy_timeout(options.busy_timeout).map_err(|e| open_error(&path, &e))?;
    migration::migrate(&mut connection, &path, schema)?;
    settle(&connection, place, options).map_err(|e| open_error(&path, &e))?;
    Ok(connection)
}

/// Opens for reading beside a writer that has the file open.
pub fn open_reader(file: &Path, busy_timeout: Duration) -> Result<Connection, DbError> {
    let failed = |error: rusqlite::Error| open_error(&file.display().to_string(), &error);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(file, flags).map_err(failed)?;
    connection.busy_timeout(busy_timeout).map_err(failed)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_CACHED);
    Ok(connection)
}

fn settle(
    connection: &Connection,
    place: &Place,
    options: &OpenOptions,
) -> Result<(), rusqlite::Error> {
    connection.set_prepared_statement_cache_capacity(STATEMENTS_CACHED);
    match place {
        Place::Memory => connection.execute_batch("PRAGMA synchronous=OFF")?,
        Place::File(_) => {
            switch_to_wal(connection, options.busy_timeout)?;
            connection.execute_batch("PRAGMA synchronous=NORMAL")?;
        }
    }
    connection.execute_batch(
        "PRAGMA foreign_keys=ON; PRAGMA cell_size_check=ON; PRAGMA temp_store=MEMORY; \
         PRAGMA cache_size=-16384; PRAGMA journal_size_limit=67108864",
    )?;
    if let Some(pages) = options.pages_max {
        connection.execute_batch(&format!("PRAGMA max_page_count={pages}"))?;
    }
    Ok(())
}

/// SQLite does not wait for others by itself while it changes the mode of a file.
fn switch_to_wal(connection: &Connection, patience: Duration) -> Result<(), rusqlite::Error> {
    let deadline = Instant::now() + patience;
    loop {
        let switched =
            connection.query_row("PRAGMA journal_mode=WAL", [], |row| row.get::<_, String>(0));
        match switched {
            Ok(_) => return Ok(()),
            Err(error)
                if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
                    && Instant::now() < deadline =>
            {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) => return Err(error),
        }
    }
}

/// Refuses a file that is not ours, damaged, or newer than we are, without changing it.
pub fn inspect(schema: &Schema, file: &Path, options: &OpenOptions) -> Result<(), DbError> {
    let path = file.display().to_string();
    let opened = match fs::File::open(file) {
        Ok(opened) => opened,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return inspect_folder(file),
        Err(error) => return Err(DbError::Open { path, reason: error.to_string() }),
    };
    let metadata = opened
        .metadata()
        .map_err(|error| DbError::Open { path: path.clone(), reason: error.to_string() })?;
    if metadata.is_dir() {
        let reason = "it is a folder; name a file".to_owned();
        return Err(DbError::Open { path, reason });
    }
    if metadata.len() == 0 {
        return Ok(());
    }
    inspect_header(schema, opened, metadata.len(), file)?;
    if metadata.len() <= options.check_bytes_max { inspect_pages(file, options) } else { Ok(()) }
}

fn inspect_folder(file: &Path) -> Result<(), DbError> {
    let folder = match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    if folder.is_dir() {
        return Ok(());
    }
    let reason = format!("there is no folder {}; create it first", folder.display());
    Err(DbError::Open { path: file.display().to_string(), reason })
}

fn inspect_header(
    schema: &Schema,
    mut opened: fs::File,
    length: u64,
    file: &Path,
) -> Result<(), DbError> {
    let path = file.display().to_string();
    let mut header = [0; HEADER_BYTES];
    let whole = opened.read_exact(&mut header).is_ok();
    if !header.starts_with(b"SQLite format 3\0") {
        let reason = "it is no SQLite file; name another file".to_owned();
        return Err(DbError::Foreign { path, reason });
    }
    if !whole {
        return Err(truncated(path, length, HEADER_BYTES as u64));
    }
    let number = |at: usize| {
        u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    if number(68) != schema.application_id {
        let reason = "it is a SQLite file of another program; name another file".to_owned();
        return Err(DbError::Foreign { path, reason });
    }
    if number(60) > schema.known() {
        return Err(DbError::NewerSchema { path, found: number(60), known: schema.known() });
    }
    let page_bytes = match u16::from_be_bytes([header[16], header[17]]) {
        1 => 65_536,
        bytes => u64::from(bytes),
    };
    let expected = page_bytes * u64::from(number(28));
    // The count of pages is only right when both counters agree, and pages may still be in the WAL.
    if number(24) == number(92) && length < expected && !has_wal(file) {
        return Err(truncated(path, length, expected));
    }
    Ok(())
}

fn truncated(path: String, length: u64, expected: u64) -> DbError {
    let reason = format!(
        "it has {length} bytes where {expected} are due; restore it from a backup, or move it away \
         to begin a new one"
    );
    DbError::Damaged { path, reason }
}

fn has_wal(file: &Path) -> bool {
    let mut wal = file.as_os_str().to_owned();
    wal.push("-wal");
    fs::metadata(wal).is_ok_and(|metadata| metadata.len() > 0)
}

fn inspect_pages(file: &Path, options: &OpenOptions) -> Result<(), DbError> {
    let path = file.display().to_string();
    let connection = open_reader(file, options.busy_timeout)?;
    let verdict: String = connection
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(|error| open_error(&path, &error))?;
    if verdict == "ok" {
        return Ok(());
    }
    Err(damaged(path, &verdict))
}

fn damaged(path: String, found: &str) -> DbError {
    let reason = format!(
        "SQLite reports \"{}\"; restore it from a backup, or move it away to begin a new one",
        found.replace('\n', " ")
    );
    DbError::Damaged { path, reason }
}

/// What SQLite's error means to somebody who opens a file.
pub fn open_error(path: &str, error: &rusqlite::Error) -> DbError {
    let path = path.to_owned();
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
            damaged(path, &error.to_string())
        }
        Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
            let reason = format!(
                "{error}; the file and its folder must exist and be writable by this process, \
                 because SQLite keeps two files beside it"
            );
            DbError::Open { path, reason }
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            let reason = format!("{error}; another process holds it, try again when it is done");
            DbError::Open { path, reason }
        }
        _ => DbError::Open { path, reason: error.to_string() },
    }
}
