//! A journal read without a service, for the command line. Owns no coordination and no store.
//!
//! Every method blocks, with the interpreter lock let go. Invariant: it adopts nothing; what it
//! writes is only an operator's word, by the journal's own rules.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::PyDict;
use unanimity::engine::dead_letters::dead_letters;
use unanimity::engine::held_locks::held_locks;
use unanimity::engine::{EngineError, operator};
use unanimity::journal::streams::Streams;
use unanimity::journal::{self, Journal, JournalError, JournalOptions, StoredCoordination};
use unanimity::model::ids::CoordinationId;
use unanimity::reply::{Lost, Reply};

use crate::{coordinator, errors, locks, records, streams};

/// A journal that is looked at.
#[pyclass(frozen)]
pub(crate) struct JournalReader {
    journal: Arc<dyn Journal>,
}

/// Asks the journal and waits for its answer.
fn ask<T>(
    py: Python<'_>,
    question: impl FnOnce(Reply<Result<T, JournalError>>) + Send,
) -> PyResult<T>
where
    T: Send + 'static,
    Result<T, JournalError>: Lost,
{
    let answer = py.detach(|| {
        let (sender, receiver) = mpsc::channel();
        question(Reply::new(move |answer| {
            let _ = sender.send(answer);
        }));
        receiver.recv().unwrap_or(Err(JournalError::Closed))
    });
    answer.map_err(|error| errors::of_journal(py, &error))
}

/// A length of time that the command line has checked; what cannot be is none.
fn seconds(age: f64) -> Duration {
    Duration::try_from_secs_f64(age).unwrap_or_default()
}

/// Asks the journal's streams, where it keeps any.
fn streams_of<T>(
    journal: &Arc<dyn Journal>,
    reply: Reply<Result<T, JournalError>>,
    question: impl FnOnce(&dyn Streams, Reply<Result<T, JournalError>>),
) where
    Result<T, JournalError>: Lost,
{
    match journal.streams() {
        Some(streams) => question(streams, reply),
        None => reply.send(Err(JournalError::Unavailable {
            path: "PostgreSQL".to_owned(),
            reason: "it keeps no streams of events; a journal in a file does".to_owned(),
        })),
    }
}

#[pymethods]
impl JournalReader {
    #[new]
    fn new(py: Python<'_>, path: &str) -> PyResult<Self> {
        let journal = py.detach(|| journal::open(path, JournalOptions::default(), true));
        let journal = journal.map_err(|error| errors::of_journal(py, &error))?;
        Ok(Self { journal })
    }

    fn status(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let status = ask(py, |reply| self.journal.status(reply))?;
        records::status(py, &status)
    }

    fn history(&self, py: Python<'_>, filter: &Bound<'_, PyDict>) -> PyResult<Py<PyAny>> {
        let filter = records::filter(filter)?;
        let found: Vec<StoredCoordination> = ask(py, |reply| self.journal.history(filter, reply))?;
        records::list(py, &found)
    }

    fn describe(&self, py: Python<'_>, id: &str) -> PyResult<Option<Py<PyAny>>> {
        let Ok(id) = CoordinationId::new(id) else { return Ok(None) };
        let found = ask(py, |reply| self.journal.find(id, reply))?;
        found.map(|stored| records::stored(py, &stored)).transpose()
    }

    fn resolve(
        &self,
        py: Python<'_>,
        id: &str,
        outcome: &str,
        reason: String,
    ) -> PyResult<Py<PyAny>> {
        let decision = coordinator::decision(py, outcome)?;
        let id = CoordinationId::new(id)
            .map_err(|error| errors::exception(py, "InvalidRequest", &error.to_string(), &[]))?;
        let journal = Arc::clone(&self.journal);
        let resolved = py.detach(|| operator::resolve(&journal, &id, decision, &reason));
        let stored = resolved.map_err(|error| errors::of_engine(py, &error))?;
        records::stored(py, &stored)
    }

    /// The steps that wait for an operator.
    fn dead_letters(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let letters = py.detach(|| {
            let (sender, receiver) = mpsc::channel();
            let reply = Reply::new(move |letters| drop(sender.send(letters)));
            dead_letters(&*self.journal, reply);
            receiver.recv().unwrap_or(Err(EngineError::Closed))
        });
        let letters = letters.map_err(|error| errors::of_engine(py, &error))?;
        records::dead_letters(py, &letters)
    }

    /// Has a parked step tried again by whoever takes its coordination over.
    fn redrive(
        &self,
        py: Python<'_>,
        operation_id: &str,
        coordination_id: Option<&str>,
    ) -> PyResult<bool> {
        let coordination = coordination_id.map(|id| coordinator::checked_id(py, id)).transpose()?;
        let journal = Arc::clone(&self.journal);
        py.detach(|| operator::redrive(&journal, operation_id, coordination.as_ref()))
            .map_err(|error| errors::of_engine(py, &error))
    }

    /// The locks that open coordinations hold.
    fn locks(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let journal = Arc::clone(&self.journal);
        let held = py.detach(|| held_locks(&journal));
        locks::infos(py, held.map_err(|error| errors::of_engine(py, &error))?)
    }

    /// Events of all streams behind a position.
    fn events(&self, py: Python<'_>, after: u64, limit: usize) -> PyResult<Py<PyAny>> {
        let found = ask(py, |reply| {
            streams_of(&self.journal, reply, |streams, reply| {
                streams.read_all(after, limit, reply);
            });
        })?;
        streams::events(py, &found)
    }

    /// Events of one stream from a version on.
    fn stream(
        &self,
        py: Python<'_>,
        stream: &str,
        from_version: u64,
        limit: usize,
    ) -> PyResult<Py<PyAny>> {
        let stream = streams::stream_id(py, stream)?;
        let read = |reply| {
            streams_of(&self.journal, reply, |streams, reply| {
                streams.read_stream(stream, from_version, limit, reply);
            });
        };
        streams::events(py, &ask(py, read)?)
    }

    fn stream_version(&self, py: Python<'_>, stream: &str) -> PyResult<u64> {
        let stream = streams::stream_id(py, stream)?;
        ask(py, |reply| {
            streams_of(&self.journal, reply, |streams, reply| {
                streams.stream_version(stream, reply);
            });
        })
    }

    /// The position of the last event of all.
    fn last_event(&self, py: Python<'_>) -> PyResult<u64> {
        ask(py, |reply| {
            streams_of(&self.journal, reply, |streams, reply| streams.last_position(reply));
        })
    }

    /// How many ended longer ago than so many seconds.
    fn count_ended(&self, py: Python<'_>, age: f64) -> PyResult<u64> {
        let age = seconds(age);
        ask(py, |reply| self.journal.count_ended(age, reply))
    }

    /// Removes at most so many of them. Answers how many.
    fn remove_ended(&self, py: Python<'_>, age: f64, at_most: u64) -> PyResult<u64> {
        let age = seconds(age);
        ask(py, |reply| self.journal.retain_some(age, at_most, reply))
    }

    /// Gives free room of the file back. Answers how many bytes.
    fn shrink(&self, py: Python<'_>) -> PyResult<u64> {
        ask(py, |reply| self.journal.shrink(reply))
    }

    /// Settings of the server that keeps it, where there is one.
    fn server_facts(&self, py: Python<'_>) -> PyResult<Vec<(String, String)>> {
        ask(py, |reply| self.journal.server_facts(reply))
    }

    /// The id that the journal was born with, by which stores know whose their prepared work is.
    fn cluster(&self) -> String {
        self.journal.cluster().to_string()
    }

    /// The id of this process's own hold on the journal.
    fn instance(&self) -> String {
        self.journal.instance().to_string()
    }

    /// Opening has brought the tables up to date already; says how they are.
    fn migrate(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.status(py)
    }

    fn close(&self, py: Python<'_>) {
        py.detach(|| self.journal.close());
    }
}
