//! The connections on which questions are asked: opened when needed, kept for a while or for good.
//!
//! Not those of the writer and of the session, which have one each. Invariant: a connection on
//! which a question failed is not given back, so that whatever is wrong with it ends with it. The
//! number of those in use is bounded by who asks (`reader`).

use std::cell::RefCell;
use std::time::{Duration, Instant};

use super::link::{Link, Outcome};
use super::shared::Inner;

/// How often those that nobody uses are looked at, at most.
const LOOK_MIN: Duration = Duration::from_millis(50);

pub(super) struct Links<'a> {
    inner: &'a Inner,
    /// With since when nobody uses it; the one that was used last is the last.
    idle: RefCell<Vec<(Link, Instant)>>,
}

impl<'a> Links<'a> {
    /// Nothing is opened yet.
    pub(super) fn new(inner: &'a Inner) -> Self {
        Self { inner, idle: RefCell::new(Vec::new()) }
    }

    /// Opens those that are kept. One that cannot be opened is tried again when it is needed.
    pub(super) async fn warm(&self) {
        let kept = self.inner.options.pool.kept_for_questions();
        // One alone is opened with the first question, which mostly never comes.
        for _ in (0..kept).filter(|_| kept > 1) {
            let Ok(link) = Link::open(&self.inner.server).await else { return };
            self.give_back(link);
        }
    }

    pub(super) async fn take(&self) -> Outcome<Link> {
        while let Some((link, _)) = self.pop() {
            if !link.client.is_closed() {
                return Ok(link);
            }
        }
        Link::open(&self.inner.server).await
    }

    pub(super) fn give_back(&self, link: Link) {
        self.idle.borrow_mut().push((link, Instant::now()));
    }

    /// Closes those beyond the kept ones that nobody used for long.
    pub(super) fn trim(&self) {
        let pool = self.inner.options.pool;
        let mut idle = self.idle.borrow_mut();
        while idle.len() > pool.kept_for_questions()
            && idle.first().is_some_and(|(_, since)| since.elapsed() >= pool.idle_max)
        {
            idle.remove(0);
        }
    }

    /// When to trim next.
    pub(super) fn next_look(&self) -> Duration {
        let pool = self.inner.options.pool;
        let idle = self.idle.borrow();
        match idle.first() {
            Some((_, since)) if idle.len() > pool.kept_for_questions() => {
                pool.idle_max.saturating_sub(since.elapsed()).max(LOOK_MIN)
            }
            _ => pool.idle_max.max(LOOK_MIN),
        }
    }

    fn pop(&self) -> Option<(Link, Instant)> {
        self.idle.borrow_mut().pop()
    }
}
