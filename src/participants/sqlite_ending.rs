//! The endings of a prepared transaction of a SQLite file: commit and abort, also after a crash.
//!
//! Not the queue before them (`sqlite_writer.rs`). Invariants: data, marker and the end of the
//! staged row are one commit of SQLite; what a process that died had staged is applied again
//! before it is committed, or it is said why it cannot be.

use rusqlite::ErrorCode;

use super::sqlite_schema as schema;
use super::sqlite_statement as statement;
use super::sqlite_writer::{Held, Standing, Writer};
use crate::crash;
use crate::model::ids::CoordinationId;
use crate::model::outcome::Acknowledgement;

/// How many markers go with one commit.
pub(super) const FORGET_MAX: usize = 256;

impl Writer {
    /// Opens the staged transaction again, as prepare left it. The place lock is held.
    pub(super) fn reapply(&mut self, id: &CoordinationId) -> Result<(), Trouble> {
        let passing = |error: &rusqlite::Error| Trouble::Passing(error.to_string());
        let json = schema::staged(&self.connection, &self.owner, id).map_err(|e| passing(&e))?;
        let json = json.ok_or_else(|| Trouble::Passing("the staged row is gone".to_owned()))?;
        let statements = statement::decode(&json).map_err(Trouble::Final)?;
        if self.lock.is_overrun() {
            return Err(Trouble::Passing("a writer that is none of ours is at work".to_owned()));
        }
        self.connection.execute_batch("BEGIN IMMEDIATE").map_err(|e| passing(&e))?;
        if let Err(message) = self.apply(id, &statements) {
            self.roll_back();
            return Err(Trouble::Final(message));
        }
        self.held = Some(Held { id: id.clone(), is_recovered: true });
        Ok(())
    }

    /// Commits what a process that died had prepared; `None` when it must wait.
    pub(super) fn commit_staged(&mut self, id: &CoordinationId) -> Option<Acknowledgement> {
        match self.standing(id) {
            Err(message) => return Some(Acknowledgement::Unknown { message }),
            Ok(Standing::Applied) => return Some(Acknowledgement::Done),
            Ok(Standing::None) => return Some(Acknowledgement::NeverPrepared),
            Ok(Standing::Staged) => {}
        }
        match self.reapply(id) {
            Ok(()) => Some(self.commit_held()),
            Err(Trouble::Final(what)) => {
                let message = format!(
                    "what the transaction '{id}' had prepared cannot be applied again: {what}; \
                     something else changed {} in between",
                    self.path.display()
                );
                Some(Acknowledgement::Failed { message })
            }
            Err(Trouble::Passing(what)) => {
                self.blocker = what;
                None
            }
        }
    }

    pub(super) fn abort_staged(&mut self, id: &CoordinationId) -> Option<Acknowledgement> {
        match self.standing(id) {
            Err(message) => return Some(Acknowledgement::Unknown { message }),
            Ok(Standing::Applied) => return Some(committed_before(id)),
            Ok(Standing::None | Standing::Staged) => {}
        }
        match self.unstage(id) {
            Ok(()) => Some(Acknowledgement::Done),
            Err(error) => {
                self.blocker = self.describe(&error);
                None
            }
        }
    }

    /// Data, marker and the end of the staged row in one commit of SQLite.
    pub(super) fn commit_held(&mut self) -> Acknowledgement {
        let Some(Held { id, .. }) = &self.held else { return Acknowledgement::NeverPrepared };
        let id = id.clone();
        crash::point("store_commit", self.owner.store.as_str());
        let over = self.forgotten.len().min(FORGET_MAX);
        let commit = || {
            schema::mark_applied(&self.connection, &self.owner, &id)?;
            schema::unstage(&self.connection, &self.owner, &id)?;
            schema::forget(&self.connection, &self.owner, &self.forgotten[..over])?;
            self.connection.execute_batch("COMMIT")
        };
        match commit() {
            Ok(()) => {
                crash::point("store_committed", self.owner.store.as_str());
                self.forgotten.drain(..over);
                self.held = None;
                self.release_if_free();
                Acknowledgement::Done
            }
            Err(error) => {
                let message = self.describe(&error);
                // SQLite may have rolled back (a full disk); then the staged row is applied again.
                if self.connection.is_autocommit() {
                    self.held = None;
                    self.release_if_free();
                }
                if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) {
                    return Acknowledgement::Failed { message };
                }
                Acknowledgement::Unknown { message }
            }
        }
    }

    pub(super) fn abort_held(&mut self) -> Acknowledgement {
        let Some(Held { id, .. }) = self.held.take() else { return Acknowledgement::Done };
        self.roll_back();
        let unstaged = self.unstage(&id);
        self.release_if_free();
        match unstaged {
            Ok(()) => Acknowledgement::Done,
            // The row is still staged and no longer held; the next abort finds it so.
            Err(error) => Acknowledgement::Unknown { message: self.describe(&error) },
        }
    }

    /// Undoes a prepare: the staged row is all that is left of it on the disk.
    pub(super) fn unstage(&self, id: &CoordinationId) -> rusqlite::Result<()> {
        crash::point("store_abort", self.owner.store.as_str());
        schema::unstage(&self.connection, &self.owner, id)?;
        crash::point("store_aborted", self.owner.store.as_str());
        Ok(())
    }
}

/// Why a staged transaction could not be opened again.
pub(super) enum Trouble {
    /// It never will.
    Final(String),
    /// Perhaps later.
    Passing(String),
}

pub(super) fn committed_before(id: &CoordinationId) -> Acknowledgement {
    let message = format!("the transaction '{id}' was committed here before its abort");
    Acknowledgement::Failed { message }
}
