//! How the writer sees what other processes wrote: by reading on in the log, or all of it anew.
//!
//! Not what is written. Invariants: work under the log's lock begins with everything that stands
//! in the log taken in; after a failure nothing that was believed before is believed.

use std::time::Duration;

use rusqlite::Connection;

use super::log;
use super::projector::Tables;
use super::trouble::{Outcome, Trouble};
use super::view::View;
use super::writer::Writer;
use crate::db::instance::Instances;
use crate::db::segments::{LogError, SegmentLog};

/// How often the tables may run ahead of a reading of everything before it is given up.
const RELOADS_MAX: u32 = 20;

impl Writer {
    /// Runs `work` under the log's lock, after taking in what others wrote. After a failure the
    /// view is read anew: nobody knows what of it stands.
    pub(super) fn under_lock<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Outcome<T>,
    ) -> Outcome<T> {
        if let Some(log) = &self.log {
            log.lock(self.options.busy_timeout)?;
        }
        self.locked(work)
    }

    /// The same where the lock is held already; it is given back.
    pub(super) fn locked<T>(&mut self, work: impl FnOnce(&mut Self) -> Outcome<T>) -> Outcome<T> {
        let done = self.look().and_then(|()| work(self));
        if let Some(log) = &self.log {
            log.unlock();
        }
        self.is_trusted &= done.is_ok();
        done
    }

    /// Takes in what other processes wrote.
    pub(super) fn look(&mut self) -> Outcome<()> {
        if self.log.is_none() {
            return Ok(());
        }
        let seen = if self.is_trusted { self.read_on() } else { self.reload() };
        match seen {
            // Others brought it into the tables, and removed it, before it was seen here.
            Err(Trouble::Log(LogError::Gap)) => self.reload(),
            seen => seen,
        }
    }

    fn read_on(&mut self) -> Outcome<()> {
        match (&mut self.log, self.projector.reading()) {
            (Some(log), Some(tables)) => read_on(log, &mut self.view, tables),
            _ => Ok(()),
        }
    }

    fn reload(&mut self) -> Outcome<()> {
        let mut tries = 0;
        loop {
            let read = self.read_everything();
            self.is_trusted = read.is_ok();
            match read {
                // The tables moved on between the look at them and the one at the log.
                Err(Trouble::Log(LogError::Gap)) if tries < RELOADS_MAX => tries += 1,
                read => return read,
            }
        }
    }

    fn read_everything(&mut self) -> Outcome<()> {
        let (Some(log), Some(tables)) = (&mut self.log, self.projector.reading()) else {
            return Ok(());
        };
        self.view = View::load(tables)?;
        log.rewind(self.view.tail())?;
        self.read_on()
    }
}

/// Takes what the log has beyond the view into the view.
pub(super) fn read_on(log: &mut SegmentLog, view: &mut View, tables: &Connection) -> Outcome<()> {
    log.catch_up(|position, payload| {
        if position <= view.tail() {
            return Ok(());
        }
        view.take(tables, log::decode(position, payload)?)
    })
}

/// A journal that is closed in peace is one file again: whoever is the last removes the segments,
/// of which nothing is needed any more.
pub(super) fn retire(
    log: &mut SegmentLog,
    tables: &mut Tables,
    instances: &Instances,
) -> Outcome<()> {
    log.lock(Duration::ZERO)?;
    let retired = log
        .catch_up(|_, _| Err(Trouble::Log(LogError::Busy)))
        .and_then(
            |()| if instances.alive().len() == 1 { Ok(()) } else { Err(LogError::Busy.into()) },
        )
        .and_then(|()| tables.renounce_segments())
        .and_then(|()| log.remove_all().map_err(|error| LogError::Io(error).into()));
    log.unlock();
    retired
}
