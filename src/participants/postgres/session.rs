//! One connection with what was prepared on it, and requests that leave in one flight.
//!
//! Not the pool. Invariant: requests of a flight reach the server in their order, and a statement
//! that the cache forgets is closed on the server by the driver.

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio_postgres::{Client, Error, Statement};

/// Prepared statements that a connection remembers.
const STATEMENTS_MAX: usize = 256;

/// A connection.
pub(super) struct Session {
    pub(super) client: Client,
    pub(super) idle_since: Instant,
    /// Whether the statement that writes a marker is prepared on it.
    pub(super) is_marker_prepared: bool,
    /// The timeouts in force on it; `None` where that is not known.
    pub(super) timeout: Option<Duration>,
    statements: HashMap<String, Statement>,
    order: VecDeque<String>,
}

impl Session {
    pub(super) fn new(client: Client) -> Self {
        Self {
            client,
            idle_since: Instant::now(),
            is_marker_prepared: false,
            timeout: None,
            statements: HashMap::new(),
            order: VecDeque::new(),
        }
    }

    /// Prepares those of the texts that are not yet, all in one flight.
    pub(super) async fn prepare_all(&mut self, texts: &[&str]) -> Vec<Result<Statement, Error>> {
        if texts.iter().all(|text| self.statements.contains_key(*text)) {
            return texts.iter().map(|text| Ok(self.statements[*text].clone())).collect();
        }
        let known = &self.statements;
        let client = &self.client;
        let flight = texts
            .iter()
            .map(|text| -> InFlight<'_, Statement> {
                match known.get(*text) {
                    Some(statement) => {
                        let statement = statement.clone();
                        Box::pin(async move { Ok(statement) })
                    }
                    None => Box::pin(client.prepare(text)),
                }
            })
            .collect();
        let answers = all_in_order(flight).await;
        for (text, answer) in texts.iter().zip(&answers) {
            if let Ok(statement) = answer {
                self.remember(text, statement);
            }
        }
        answers
    }

    fn remember(&mut self, text: &str, statement: &Statement) {
        if self.statements.contains_key(text) {
            return;
        }
        if self.order.len() == STATEMENTS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.statements.remove(&oldest);
        }
        self.order.push_back(text.to_owned());
        self.statements.insert(text.to_owned(), statement.clone());
    }
}

/// A request that is sent when it is polled for the first time.
pub(super) type InFlight<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>;

/// Sends all requests in their order without waiting in between, then takes the answers, which
/// come in the same order.
pub(super) async fn all_in_order<T>(mut flight: Vec<InFlight<'_, T>>) -> Vec<Result<T, Error>> {
    let mut answers: Vec<Option<Result<T, Error>>> = flight.iter().map(|_| None).collect();
    let mut is_sent = false;
    poll_fn(|context| {
        for (request, answer) in flight.iter_mut().zip(answers.iter_mut()) {
            if answer.is_some() {
                continue;
            }
            match request.as_mut().poll(context) {
                Poll::Ready(result) => *answer = Some(result),
                // Once everything is sent, nobody is answered before the first who waits.
                Poll::Pending if is_sent => return Poll::Pending,
                Poll::Pending => {}
            }
        }
        is_sent = true;
        if answers.iter().all(Option::is_some) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    answers.into_iter().flatten().collect()
}
