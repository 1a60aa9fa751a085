//! `unanimity._engine`: the native module. Conversion, the loop bridge, error mapping.
//!
//! Layer 4. It decides nothing: every outcome comes from the engine. Invariant (law 5): no thread
//! of ours ever attaches to the interpreter; completions and calls to Python wait in a queue, and
//! the loop's own thread takes them (`bridge`).

mod answers;
mod bridge;
mod call;
mod collector;
mod config;
mod consensus;
mod convert;
mod coordinator;
mod errors;
mod events;
mod locks;
mod logging;
mod numbers;
mod pictures;
mod ports;
mod python_store;
mod reader;
mod records;
mod request;
mod runtime;
mod start;
mod stores;
mod streams;
mod traces;
mod wake;
mod watch;

use mimalloc::MiMalloc;
use pyo3::prelude::*;

/// Requests are made on the loop's thread and dropped on the journal's: an allocator that is good
/// at frees from another thread saves a third of the journal's time.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// The version of the package.
#[pyfunction]
fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

#[pymodule]
fn _engine(module: &Bound<'_, PyModule>) -> PyResult<()> {
    logging::start();
    module.add_function(wrap_pyfunction!(version, module)?)?;
    module.add_class::<bridge::Bridge>()?;
    module.add_class::<coordinator::Coordinator>()?;
    module.add_class::<reader::JournalReader>()?;
    config::register(module)?;
    consensus::register(module)?;
    events::register(module)?;
    module.add_class::<streams::Streams>()?;
    module.add_class::<traces::Tracer>()?;
    locks::register(module)?;
    numbers::register(module)?;
    pictures::register(module)?;
    stores::register(module)?;
    runtime::register(module)
}
