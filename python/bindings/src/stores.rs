//! The engine's own stores as Python classes: handles, and the way for use without a service.
//!
//! Inside a service the engine talks to them directly. Invariant: no interpreter lock is held while
//! a store works. It is long because the five classes share one macro.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use unanimity::model::ids::{ClusterId, CoordinationId, StoreName};
use unanimity::model::lock::{Fence, LockMode, ResourceId};
use unanimity::model::outcome::{Acknowledgement, Vote};
use unanimity::model::request::{CoordinationRequest, RequestParts};
use unanimity::model::value::Value;
use unanimity::participants::last_resource::LastResourceUse;
use unanimity::participants::redis::Durability;
use unanimity::participants::{self, DeliveryAsk, Participant, ParticipantError, PrepareAsk, Rows};
use unanimity::reply::Reply;

use crate::bridge::{Bridge, Shared};
use crate::convert::{from_value, to_value};
use crate::{errors, runtime};

/// The part that all five have.
pub(crate) struct Handle<S> {
    store: Arc<S>,
    name: String,
    attached: Mutex<bool>,
    /// The process in which it was opened: its threads are there.
    opened_in: OnceLock<u32>,
}

impl<S: Participant + 'static> Handle<S> {
    fn new(store: S, name: String) -> Self {
        let attached = Mutex::new(false);
        Self { store: Arc::new(store), name, attached, opened_in: OnceLock::new() }
    }

    /// One whose runtime is this process's from the beginning.
    fn of_this_process(py: Python<'_>, store: S, name: String) -> PyResult<Self> {
        let handle = Self::new(store, name);
        handle.check_process(py)?;
        Ok(handle)
    }

    /// Opens it for use without a service, unless it is open; a failure is tried again next time.
    /// A service opens it again under its own journal.
    fn open(&self, py: Python<'_>) -> PyResult<()> {
        self.check_process(py)?;
        let result = py.detach(|| {
            let mut attached = self.attached.lock().unwrap_or_else(PoisonError::into_inner);
            if !*attached {
                self.attach_alone()?;
                *attached = true;
            }
            Ok(())
        });
        result.map_err(|error| errors::of_store(py, &self.name, &error))
    }

    /// Counts as opened from here on; refuses what a forked child inherited.
    fn check_process(&self, py: Python<'_>) -> PyResult<()> {
        let pid = *self.opened_in.get_or_init(std::process::id);
        runtime::check_process(py, &format!("the store '{}'", self.name), pid)
    }

    fn attach_alone(&self) -> Result<(), ParticipantError> {
        let cluster = ClusterId::new("standalone");
        let name = StoreName::new(&self.name);
        let (Ok(cluster), Ok(name)) = (cluster, name) else {
            return Err(ParticipantError::new("its name cannot be used"));
        };
        self.store.attach(&cluster, &name)
    }

    fn prepare(
        &self,
        py: Python<'_>,
        bridge: &Arc<Shared>,
        future: Py<PyAny>,
        (id, operations, timeout): (&str, &Bound<'_, PyAny>, f64),
        tokens: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        self.open(py)?;
        let fences = tokens.map_or_else(|| Ok(Vec::new()), |tokens| fences(py, tokens))?;
        let request = self.request(py, id, operations, timeout)?;
        let name = StoreName::new(&self.name).map_err(|error| invalid(py, &error.to_string()))?;
        let timeout = request.timeout;
        let ask = PrepareAsk {
            request: Arc::new(request),
            store: name,
            timeout,
            attachment: None,
            fences: fences.into(),
            keeps_receipt: false,
        };
        let bridge = Arc::clone(bridge);
        let reply = Reply::new(move |vote: Vote| {
            let (vote, reason) = match vote {
                Vote::Commit | Vote::Prepared { .. } => ("COMMIT", None),
                Vote::ReadOnly => ("READ_ONLY", None),
                Vote::Abort { reason } => ("ABORT", Some(reason)),
                Vote::Unknown { reason } => ("UNKNOWN", Some(reason)),
            };
            complete_pair(&bridge, future, vote, reason);
        });
        py.detach(|| self.store.prepare(ask, reply));
        Ok(())
    }

    fn request(
        &self,
        py: Python<'_>,
        id: &str,
        operations: &Bound<'_, PyAny>,
        timeout: f64,
    ) -> PyResult<CoordinationRequest> {
        let mut bodies = Vec::new();
        for (index, operation) in operations.try_iter()?.enumerate() {
            let body = to_value(&operation?);
            let mut body =
                body.map_err(|bad| invalid(py, &bad.describe(&format!("operations[{index}]"))))?;
            if let Value::Map(entries) = &mut body {
                entries.retain(|(key, _)| key != "store");
                entries.push(("store".to_owned(), Value::from(self.name.as_str())));
            }
            bodies.push(body);
        }
        let parts = RequestParts {
            id: id.to_owned(),
            kind: "two_phase_commit".to_owned(),
            stores: vec![self.name.clone()],
            operations: bodies,
            timeout_seconds: timeout,
            consistency: "session".to_owned(),
            metadata: Value::Map(Vec::new()),
        };
        CoordinationRequest::check(parts).map_err(|error| invalid(py, &error.to_string()))
    }

    fn deliver(
        &self,
        py: Python<'_>,
        bridge: &Arc<Shared>,
        future: Py<PyAny>,
        id: &str,
        commit: bool,
    ) -> PyResult<()> {
        self.open(py)?;
        let id = CoordinationId::new(id).map_err(|error| invalid(py, &error.to_string()))?;
        let ask =
            DeliveryAsk { id, timeout: Duration::from_secs(60), attachment: None, receipt: None };
        let bridge = Arc::clone(bridge);
        let reply = Reply::new(move |answer: Acknowledgement| {
            let (status, message) = match answer {
                Acknowledgement::Done => ("SUCCESS", None),
                Acknowledgement::Failed { message } => ("FAILED", Some(message)),
                Acknowledgement::Unknown { message } => ("UNKNOWN", Some(message)),
                Acknowledgement::NeverPrepared => {
                    ("FAILED", Some("this transaction was never prepared here".to_owned()))
                }
            };
            complete_pair(&bridge, future, status, message);
        });
        py.detach(|| {
            if commit { self.store.commit(ask, reply) } else { self.store.abort(ask, reply) }
        });
        Ok(())
    }

    fn list_prepared(
        &self,
        py: Python<'_>,
        bridge: &Arc<Shared>,
        future: Py<PyAny>,
    ) -> PyResult<()> {
        self.open(py)?;
        let reply = self.reply(bridge, future, |py, ids: Vec<CoordinationId>| {
            let ids: Vec<&str> = ids.iter().map(CoordinationId::as_str).collect();
            Ok(ids.into_pyobject(py)?.into_any().unbind())
        });
        py.detach(|| self.store.list_prepared(reply));
        Ok(())
    }

    fn reply<T: Send + 'static>(
        &self,
        bridge: &Arc<Shared>,
        future: Py<PyAny>,
        make: impl FnOnce(Python<'_>, T) -> PyResult<Py<PyAny>> + Send + 'static,
    ) -> Reply<Result<T, ParticipantError>> {
        let (bridge, name) = (Arc::clone(bridge), self.name.clone());
        Reply::new(move |answer: Result<T, ParticipantError>| {
            bridge.complete(
                future,
                Box::new(move |py| match answer {
                    Ok(answer) => make(py, answer),
                    Err(error) => Err(errors::of_store(py, &name, &error)),
                }),
            );
        })
    }
}

/// Tokens by resource. A plain number is an exclusive lock's; one of the engine's knows its own.
fn fences(py: Python<'_>, tokens: &Bound<'_, PyDict>) -> PyResult<Vec<Fence>> {
    let mut fences = Vec::with_capacity(tokens.len());
    for (resource, token) in tokens {
        let bad = |what: String| invalid(py, &format!("fencing_tokens {what}"));
        let name: String =
            resource.extract().map_err(|_| bad(format!("has the key {resource}; give a str")))?;
        let resource = ResourceId::new(&name)
            .map_err(|error| bad(format!("has the resource {name:?}: {error}")))?;
        let number = token.extract().map_err(|_| {
            bad(format!("has {token} for '{name}'; give the int that came with the lock"))
        })?;
        let mode = match token.getattr_opt("lock_type")? {
            Some(word) => LockMode::parse(word.extract()?)
                .ok_or_else(|| bad(format!("has a lock type {word} for '{name}'")))?,
            None => LockMode::Exclusive,
        };
        fences.push(Fence { resource, mode, token: number });
    }
    Ok(fences)
}

fn invalid(py: Python<'_>, message: &str) -> PyErr {
    errors::exception(py, "InvalidRequest", message, &[])
}

/// A store, unless its address or its settings cannot be.
fn configured<S>(py: Python<'_>, store: Result<S, ParticipantError>) -> PyResult<S> {
    store.map_err(|error| errors::exception(py, "ConfigError", &error.message, &[]))
}

fn usage(py: Python<'_>, word: &str) -> PyResult<LastResourceUse> {
    LastResourceUse::parse(word).ok_or_else(|| {
        let message = format!("last_resource is {word:?}; give True, False or \"auto\"");
        errors::exception(py, "ConfigError", &message, &[])
    })
}

fn complete_pair(
    bridge: &Arc<Shared>,
    future: Py<PyAny>,
    word: &'static str,
    message: Option<String>,
) {
    bridge.complete(
        future,
        Box::new(move |py| Ok((word, message).into_pyobject(py)?.into_any().unbind())),
    );
}

fn rows(py: Python<'_>, rows: &Rows) -> PyResult<Py<PyAny>> {
    let list = PyList::empty(py);
    for row in &rows.rows {
        let dict = PyDict::new(py);
        for (column, value) in rows.columns.iter().zip(row) {
            dict.set_item(column, from_value(py, value)?)?;
        }
        list.append(dict)?;
    }
    Ok(list.into_any().unbind())
}

fn parameters(py: Python<'_>, given: &Bound<'_, PyAny>) -> PyResult<Vec<Value>> {
    let mut values = Vec::new();
    for (index, parameter) in given.try_iter()?.enumerate() {
        let value = to_value(&parameter?);
        values.push(
            value.map_err(|bad| invalid(py, &bad.describe(&format!("parameters[{index}]"))))?,
        );
    }
    Ok(values)
}

/// The methods that all five classes have, and those of its own.
macro_rules! store_class {
    ($name:ident, $inner:ty, $docs:literal, { $($own:tt)* }) => {
        #[doc = $docs]
        #[pyclass(frozen)]
        pub(crate) struct $name(Handle<$inner>);

        #[pymethods]
        impl $name {
            $($own)*

            #[expect(clippy::too_many_arguments, reason = "the Python method's parameters")]
            #[pyo3(signature = (bridge, future, transaction_id, operations, timeout,
                fencing_tokens = None))]
            fn prepare(
                &self,
                py: Python<'_>,
                bridge: &Bound<'_, Bridge>,
                future: Py<PyAny>,
                transaction_id: &str,
                operations: &Bound<'_, PyAny>,
                timeout: f64,
                fencing_tokens: Option<&Bound<'_, PyDict>>,
            ) -> PyResult<()> {
                let asked = (transaction_id, operations, timeout);
                self.0.prepare(py, &bridge.get().shared, future, asked, fencing_tokens)
            }

            fn commit(
                &self,
                py: Python<'_>,
                bridge: &Bound<'_, Bridge>,
                future: Py<PyAny>,
                transaction_id: &str,
            ) -> PyResult<()> {
                self.0.deliver(py, &bridge.get().shared, future, transaction_id, true)
            }

            fn abort(
                &self,
                py: Python<'_>,
                bridge: &Bound<'_, Bridge>,
                future: Py<PyAny>,
                transaction_id: &str,
            ) -> PyResult<()> {
                self.0.deliver(py, &bridge.get().shared, future, transaction_id, false)
            }

            fn list_prepared(
                &self,
                py: Python<'_>,
                bridge: &Bound<'_, Bridge>,
                future: Py<PyAny>,
            ) -> PyResult<()> {
                self.0.list_prepared(py, &bridge.get().shared, future)
            }

            fn close(&self, py: Python<'_>) -> PyResult<()> {
                self.0.check_process(py)?;
                py.detach(|| self.0.store.close());
                Ok(())
            }
        }
    };
}

/// `get` of a key-value store, `fetch` of an SQL store.
macro_rules! reading {
    (get, $self:ident, $py:ident, $bridge:ident, $future:ident, $key:ident) => {{
        $self.0.open($py)?;
        let reply = $self.0.reply(&$bridge.get().shared, $future, |py, value: Option<Value>| {
            value.map_or_else(|| Ok(py.None()), |value| from_value(py, &value))
        });
        $py.detach(|| $self.0.store.get($key, reply));
        Ok(())
    }};
    (fetch, $self:ident, $py:ident, $bridge:ident, $future:ident, $asked:expr) => {{
        $self.0.open($py)?;
        let (statement, given): (String, &Bound<'_, PyAny>) = $asked;
        let values = parameters($py, given)?;
        let reply =
            $self.0.reply(&$bridge.get().shared, $future, |py, found: Rows| rows(py, &found));
        $py.detach(|| $self.0.store.fetch(statement, values, reply));
        Ok(())
    }};
}

store_class!(MemoryStore, participants::MemoryStore, "Key-value in this process's memory.", {
    #[new]
    fn new(name: String) -> Self {
        Self(Handle::new(participants::MemoryStore::new(name.clone()), name))
    }

    fn get(
        &self,
        py: Python<'_>,
        bridge: &Bound<'_, Bridge>,
        future: Py<PyAny>,
        key: String,
    ) -> PyResult<()> {
        reading!(get, self, py, bridge, future, key)
    }
});

store_class!(FileStore, participants::FileStore, "Key-value over a folder of files.", {
    #[new]
    fn new(root: String, name: String) -> Self {
        Self(Handle::new(participants::FileStore::new(root, name.clone()), name))
    }

    fn get(
        &self,
        py: Python<'_>,
        bridge: &Bound<'_, Bridge>,
        future: Py<PyAny>,
        key: String,
    ) -> PyResult<()> {
        reading!(get, self, py, bridge, future, key)
    }
});

store_class!(SqliteStore, participants::SqliteStore, "SQL over one SQLite file.", {
    #[new]
    #[pyo3(signature = (path, name, last_resource = "never"))]
    fn new(py: Python<'_>, path: String, name: String, last_resource: &str) -> PyResult<Self> {
        let store = participants::SqliteStore::new(path, name.clone());
        Ok(Self(Handle::new(store.with_last_resource(usage(py, last_resource)?), name)))
    }

    fn fetch(
        &self,
        py: Python<'_>,
        bridge: &Bound<'_, Bridge>,
        future: Py<PyAny>,
        statement: String,
        parameters: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        reading!(fetch, self, py, bridge, future, (statement, parameters))
    }
});

store_class!(PostgresStore, participants::PostgresStore, "SQL over one PostgreSQL database.", {
    #[new]
    #[expect(clippy::too_many_arguments, reason = "the Python constructor's parameters")]
    #[pyo3(signature = (dsn, name, min_connections, max_connections, outbox,
        last_resource = "never"))]
    fn new(
        py: Python<'_>,
        dsn: &str,
        name: String,
        min_connections: usize,
        max_connections: usize,
        outbox: bool,
        last_resource: &str,
    ) -> PyResult<Self> {
        let runtime = runtime::handle(None)?;
        let store =
            participants::PostgresStore::new(dsn, &name, min_connections, max_connections, runtime);
        let store = configured(py, store)?.with_last_resource(usage(py, last_resource)?);
        let store = if outbox { store.with_outbox() } else { store };
        Ok(Self(Handle::of_this_process(py, store, name)?))
    }

    fn fetch(
        &self,
        py: Python<'_>,
        bridge: &Bound<'_, Bridge>,
        future: Py<PyAny>,
        statement: String,
        parameters: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        reading!(fetch, self, py, bridge, future, (statement, parameters))
    }
});

store_class!(RedisStore, participants::RedisStore, "Key-value over one Redis server.", {
    #[new]
    fn new(
        py: Python<'_>,
        url: &str,
        name: String,
        prefix: &str,
        waits_for_disk: bool,
    ) -> PyResult<Self> {
        let runtime = runtime::handle(None)?;
        let store = participants::RedisStore::new(url, &name, prefix, waits_for_disk, runtime);
        Ok(Self(Handle::of_this_process(py, configured(py, store)?, name)?))
    }

    fn get(
        &self,
        py: Python<'_>,
        bridge: &Bound<'_, Bridge>,
        future: Py<PyAny>,
        key: String,
    ) -> PyResult<()> {
        reading!(get, self, py, bridge, future, key)
    }

    /// Opens it if need be: its level, whether that survives a crash, and what it means.
    fn durability(&self, py: Python<'_>) -> PyResult<(&'static str, bool, &'static str)> {
        self.0.open(py)?;
        let told = self.0.store.durability().unwrap_or(Durability::Unknown);
        Ok((told.as_str(), told.is_durable(), told.explain()))
    }
});

/// The engine's side of a native store, `None` for any other object.
pub(crate) fn participant(store: &Bound<'_, PyAny>) -> PyResult<Option<Arc<dyn Participant>>> {
    /// Marks it as opened, so that reading later does not open it under another journal.
    fn taken<S: Participant + 'static>(
        py: Python<'_>,
        handle: &Handle<S>,
    ) -> PyResult<Arc<dyn Participant>> {
        handle.check_process(py)?;
        *handle.attached.lock().unwrap_or_else(PoisonError::into_inner) = true;
        Ok(Arc::clone(&handle.store) as _)
    }
    let py = store.py();
    if let Ok(store) = store.cast::<MemoryStore>() {
        taken(py, &store.get().0).map(Some)
    } else if let Ok(store) = store.cast::<FileStore>() {
        taken(py, &store.get().0).map(Some)
    } else if let Ok(store) = store.cast::<SqliteStore>() {
        taken(py, &store.get().0).map(Some)
    } else if let Ok(store) = store.cast::<PostgresStore>() {
        taken(py, &store.get().0).map(Some)
    } else if let Ok(store) = store.cast::<RedisStore>() {
        taken(py, &store.get().0).map(Some)
    } else {
        Ok(None)
    }
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<MemoryStore>()?;
    module.add_class::<FileStore>()?;
    module.add_class::<SqliteStore>()?;
    module.add_class::<PostgresStore>()?;
    module.add_class::<RedisStore>()
}
