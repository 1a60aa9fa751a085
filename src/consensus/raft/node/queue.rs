//! What waits to be taken by one task, with a bound. Not a channel: it can be emptied by others.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

pub(in crate::consensus::raft) struct Queue<T> {
    waiting: Mutex<VecDeque<T>>,
    bound: usize,
    came: Notify,
}

impl<T> Queue<T> {
    pub(super) fn new(bound: usize) -> Self {
        Self { waiting: Mutex::default(), bound, came: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<T>> {
        // A queue is whole at every moment, also after a panic elsewhere.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds one, unless `refuse`, which is asked under the lock, has something against it, or the
    /// bound is reached (`None`). Whoever empties the queue first sets what `refuse` looks at.
    pub(super) fn push<E>(
        &self,
        item: T,
        refuse: impl FnOnce() -> Option<E>,
    ) -> Result<(), (T, Option<E>)> {
        let mut waiting = self.lock();
        if let Some(error) = refuse() {
            return Err((item, Some(error)));
        }
        if waiting.len() >= self.bound {
            return Err((item, None));
        }
        waiting.push_back(item);
        drop(waiting);
        self.came.notify_one();
        Ok(())
    }

    /// Returns when something waits. For one task.
    pub(super) async fn ready(&self) {
        while self.lock().is_empty() {
            self.came.notified().await;
        }
    }

    /// Takes from the front while `fits` agrees.
    pub(super) fn take_while(&self, mut fits: impl FnMut(&T) -> bool) -> Vec<T> {
        let (mut waiting, mut taken) = (self.lock(), Vec::new());
        while waiting.front().is_some_and(&mut fits) {
            taken.extend(waiting.pop_front());
        }
        taken
    }

    /// Takes everything.
    pub(super) fn drain(&self) -> Vec<T> {
        self.lock().drain(..).collect()
    }
}
