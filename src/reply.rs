//! The way back for one answer. Not a channel: it is used once, from any thread.
//!
//! Invariant: exactly one call of the continuation, with the answer, or with what the type says
//! for an answer that was lost when the reply is dropped.

use crate::model::outcome::{Acknowledgement, Vote};
use crate::model::step::StepAnswer;

type Continuation<T> = Box<dyn FnOnce(T) + Send>;

/// Takes one answer.
pub struct Reply<T: Lost>(Option<Continuation<T>>);

/// Answers that know how to say that they were lost.
pub trait Lost {
    /// The answer that stands for none.
    fn lost() -> Self;
}

impl<T: Lost> Reply<T> {
    /// A reply that calls `continuation` with the answer.
    pub fn new(continuation: impl FnOnce(T) + Send + 'static) -> Self {
        Self(Some(Box::new(continuation)))
    }

    /// Gives the answer.
    pub fn send(mut self, answer: T) {
        if let Some(continuation) = self.0.take() {
            continuation(answer);
        }
    }
}

impl<T: Lost> Drop for Reply<T> {
    fn drop(&mut self) {
        if let Some(continuation) = self.0.take() {
            continuation(T::lost());
        }
    }
}

/// Asks a question, and waits for its answer as a task does. The task may be gone by then.
pub async fn asked<T: Lost + Send + 'static>(question: impl FnOnce(Reply<T>)) -> T {
    let (sender, answer) = tokio::sync::oneshot::channel();
    question(Reply::new(move |answer| drop(sender.send(answer))));
    answer.await.unwrap_or_else(|_| T::lost())
}

/// What is said of an answer that was lost.
pub const LOST: &str = "the store dropped the question without an answer";

impl Lost for Vote {
    fn lost() -> Self {
        Self::Unknown { reason: LOST.to_owned() }
    }
}

impl Lost for Acknowledgement {
    fn lost() -> Self {
        Self::Unknown { message: LOST.to_owned() }
    }
}

impl Lost for StepAnswer {
    fn lost() -> Self {
        Self::Unknown { message: LOST.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_reply_answers_once_and_a_dropped_one_says_unknown() {
        let (sender, answers) = mpsc::channel();
        let other = sender.clone();
        Reply::new(move |vote: Vote| sender.send(vote).unwrap()).send(Vote::Commit);
        drop(Reply::new(move |vote: Vote| other.send(vote).unwrap()));
        assert_eq!(answers.recv(), Ok(Vote::Commit));
        assert!(matches!(answers.recv(), Ok(Vote::Unknown { .. })));
        assert!(answers.recv().is_err());
    }
}
