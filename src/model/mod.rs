//! The words: plain data with serde, no behaviour beyond validation and conversion.
//!
//! Layer 0. Everything may read it; it reads nothing of ours. One word has one meaning, and the
//! meaning is written where the type is.

pub mod event;
pub mod ids;
pub mod lock;
pub mod operation;
pub mod outcome;
pub mod record;
pub mod request;
pub mod resource;
pub mod step;
pub mod stream;
pub mod time;
pub mod trace;
pub mod value;
