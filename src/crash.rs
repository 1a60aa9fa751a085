//! Named points at which the process can be made to die, or this package to fail, for crash tests
//! of the real thing.
//!
//! Not a debugging aid and not a feature flag: the wheel that is tested is the wheel that is
//! shipped. `UNANIMITY_CRASH_AT=<point>[#<n>]` sends SIGKILL to this process when `point` is
//! reached for the n-th time (first by default). `UNANIMITY_PANIC_AT`, of the same form, panics
//! there instead, as a mistake in our own code would. Unset, a point costs one load.
//! Invariant: a point's name never changes its place in the order of durable writes.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

struct Armed {
    point: String,
    left: AtomicU32,
    panics: bool,
}

static ARMED: OnceLock<Option<Armed>> = OnceLock::new();

fn armed() -> Option<&'static Armed> {
    ARMED
        .get_or_init(|| {
            let panics = std::env::var_os("UNANIMITY_CRASH_AT").is_none();
            let name = if panics { "UNANIMITY_PANIC_AT" } else { "UNANIMITY_CRASH_AT" };
            let setting = std::env::var(name).ok()?;
            let (point, count) = setting.split_once('#').unwrap_or((&setting, "1"));
            let left = AtomicU32::new(count.parse().ok()?);
            Some(Armed { point: point.to_owned(), left, panics })
        })
        .as_ref()
}

/// Whether some point is armed, for callers who put a subject together only then.
pub fn is_armed() -> bool {
    armed().is_some()
}

/// Dies or panics here if the environment says so. `subject` tells apart points of one kind, such
/// as the store's name: the armed name is `stage` or `stage:subject`.
pub fn point(stage: &str, subject: &str) {
    if let Some(armed) = armed() {
        let named = match armed.point.split_once(':') {
            None => armed.point == stage,
            Some((kind, name)) => kind == stage && name == subject,
        };
        if named && armed.left.fetch_sub(1, Ordering::SeqCst) == 1 {
            assert!(!armed.panics, "UNANIMITY_PANIC_AT={} was reached", armed.point);
            die();
        }
    }
}

fn die() -> ! {
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    // The signal cannot be caught; the abort is for systems where sending it is forbidden.
    std::process::abort()
}
