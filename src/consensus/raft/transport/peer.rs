//! The way to one peer: one connection, many calls on it, opened anew when it breaks.
//!
//! A call takes a place, stands in the table of calls, and waits; one task per peer connects when
//! somebody calls, writes what waits, and hands answers out by their numbers. While the peer cannot
//! be reached, calls fail at once until the next try is due.
//!
//! Invariants: a call that is over, for whatever reason, stands in no table; when a connection
//! breaks, every call hears of it; places bound the calls, the table and the queue.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use super::counts::Counts;
use super::greet::{GreetError, Identity, greet};
use super::link::{Link, LinkError, Reader, Writer};
use super::message::{MESSAGE_HEAD_BYTES, Message};
use super::options::{TransportOptions, bytes_units};
use super::port::{PeerAddress, TransportError};
use crate::protocol::retry::Backoff;

/// The shortest time between two tries to reach a peer.
const RECONNECT_MIN: Duration = Duration::from_millis(25);
/// How often a connection on which nobody calls says that it is still there.
pub(super) const STILL_HERE_EVERY: Duration = Duration::from_secs(15);

type Answer = Result<Bytes, TransportError>;

/// A request on its way to the task.
pub(super) struct Errand {
    number: u64,
    body: Bytes,
}

/// The way to one peer.
pub(super) struct Peer {
    pub(super) address: PeerAddress,
    identity: Arc<Identity>,
    counts: Arc<Counts>,
    options: Arc<TransportOptions>,
    queue: mpsc::Sender<Errand>,
    places: Semaphore,
    bytes: Semaphore,
    numbers: AtomicU64,
    calls: Mutex<HashMap<u64, oneshot::Sender<Answer>>>,
    silence: Mutex<Silence>,
}

/// Whether the peer leaves calls without a sign of life.
#[derive(Default)]
struct Silence {
    /// When something was written after the peer was last heard.
    since: Option<Instant>,
    /// Ends the connection as it is now.
    end: Arc<Notify>,
}

/// Takes a call out of the table when it is over.
struct Entry<'a> {
    peer: &'a Peer,
    number: u64,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.peer.calls().remove(&self.number);
    }
}

impl Peer {
    /// A way to the peer, and what its task is to take.
    pub(super) fn new(
        address: PeerAddress,
        identity: Arc<Identity>,
        counts: Arc<Counts>,
        options: Arc<TransportOptions>,
    ) -> (Arc<Self>, mpsc::Receiver<Errand>) {
        let (queue, errands) = mpsc::channel(options.calls_max);
        let peer = Self {
            address,
            identity,
            counts,
            queue,
            places: Semaphore::new(options.calls_max),
            bytes: Semaphore::new(options.bytes_max()),
            options,
            numbers: AtomicU64::new(1),
            calls: Mutex::default(),
            silence: Mutex::default(),
        };
        (Arc::new(peer), errands)
    }

    /// Hands a request over and waits for its answer.
    pub(super) async fn call(
        &self,
        request: Vec<u8>,
        timeout: Duration,
    ) -> Result<Vec<u8>, TransportError> {
        match tokio::time::timeout(timeout, self.ask(request.into())).await {
            Ok(answer) => answer.map(Vec::from),
            Err(_) => {
                self.suspect();
                let waited = format!("{} said nothing for {timeout:?}", self.address);
                Err(TransportError::Timeout(waited))
            }
        }
    }

    async fn ask(&self, body: Bytes) -> Answer {
        self.check_size(&body, self.options.frame_bytes_max)?;
        let _place = self.places.acquire().await.map_err(|_| TransportError::Closed)?;
        let room = self.bytes.acquire_many(bytes_units(body.len())).await;
        let _room = room.map_err(|_| TransportError::Closed)?;
        let (reply, answer) = oneshot::channel();
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        self.calls().insert(number, reply);
        let _entry = Entry { peer: self, number };
        let errand = Errand { number, body };
        self.queue.send(errand).await.map_err(|_| TransportError::Closed)?;
        answer.await.unwrap_or(Err(TransportError::Closed))
    }

    fn check_size(&self, body: &Bytes, bound: usize) -> Result<(), TransportError> {
        let bytes = body.len() + MESSAGE_HEAD_BYTES;
        if bytes <= bound {
            return Ok(());
        }
        Err(TransportError::TooLarge(format!(
            "a request of {bytes} bytes to {}; the bound is {bound}",
            self.address
        )))
    }

    /// Ends every call, now and later.
    pub(super) fn close(&self) {
        self.places.close();
        self.bytes.close();
        self.fail_all(&TransportError::Closed);
    }

    fn calls(&self) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<Answer>>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn silence(&self) -> MutexGuard<'_, Silence> {
        self.silence.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call has waited in vain. If the peer has not been heard for long, the connection may be
    /// one that only this side takes for open.
    fn suspect(&self) {
        let silence = self.silence();
        if silence.since.is_some_and(|since| since.elapsed() >= self.options.silence_max) {
            silence.end.notify_one();
        }
    }

    fn settle(&self, number: u64, answer: Answer) {
        if let Some(reply) = self.calls().remove(&number) {
            // Nobody waits any more: it was in vain.
            let _ = reply.send(answer);
        }
    }

    fn fail_all(&self, error: &TransportError) {
        let calls = std::mem::take(&mut *self.calls());
        for reply in calls.into_values() {
            let _ = reply.send(Err(error.clone()));
        }
    }

    /// The peer's task; ends when it is aborted.
    pub(super) async fn run(self: Arc<Self>, mut errands: mpsc::Receiver<Errand>) {
        let seed = RandomState::new().hash_one(&self.address);
        let backoff = Backoff { base: RECONNECT_MIN, cap: self.options.reconnect_max, seed };
        let mut attempt = 0;
        while let Some(errand) = errands.recv().await {
            let error = match self.connect().await {
                Ok(link) => {
                    let (error, was_heard) = self.converse(link, errand, &mut errands).await;
                    attempt = if was_heard { 0 } else { attempt };
                    error
                }
                Err(error) => error,
            };
            self.fail_all(&error);
            self.rest(backoff.delay(attempt), &error, &mut errands).await;
            attempt = attempt.saturating_add(1);
        }
    }

    /// Until the next try is due, whoever calls is told why the last one failed.
    async fn rest(
        &self,
        delay: Duration,
        error: &TransportError,
        errands: &mut mpsc::Receiver<Errand>,
    ) {
        let due = tokio::time::sleep(delay);
        tokio::pin!(due);
        loop {
            tokio::select! {
                () = &mut due => return,
                errand = errands.recv() => match errand {
                    Some(errand) => self.settle(errand.number, Err(error.clone())),
                    None => return,
                },
            }
        }
    }

    async fn connect(&self) -> Result<Link, TransportError> {
        let opening = async {
            let tcp = TcpStream::connect((self.address.host.as_str(), self.address.port)).await?;
            tcp.set_nodelay(true)?;
            greet(&self.identity, &self.address, tcp).await
        };
        match tokio::time::timeout(self.options.greeting_timeout, opening).await {
            Ok(Ok(link)) => Ok(link),
            Ok(Err(error)) => Err(self.trouble(error)),
            Err(_) => {
                let waited = self.options.greeting_timeout;
                Err(self.unreachable(&format!("no greeting within {waited:?}")))
            }
        }
    }

    fn unreachable(&self, reason: &dyn std::fmt::Display) -> TransportError {
        TransportError::Unreachable(format!("{}: {reason}", self.address))
    }

    fn trouble(&self, error: GreetError) -> TransportError {
        let trouble = error.told(&self.address);
        if let TransportError::Refused(reason) = &trouble {
            self.counts.calls_refused.note(&self.address, reason);
        }
        trouble
    }

    /// Speaks with the peer until the connection is over; with whether it ever answered.
    async fn converse(
        &self,
        link: Link,
        first: Errand,
        errands: &mut mpsc::Receiver<Errand>,
    ) -> (TransportError, bool) {
        let end = Arc::new(Notify::new());
        *self.silence() = Silence { since: None, end: end.clone() };
        let Link { mut reader, mut writer, frame_max } = link;
        let mut was_heard = false;
        let error = tokio::select! {
            error = self.hear(&mut reader, &mut was_heard) => error,
            error = self.speak(&mut writer, frame_max, first, errands) => error,
            () = end.notified() => None,
        };
        self.silence().since = None;
        if let Some(error) = error.as_ref().filter(|error| error.is_garbage()) {
            self.counts.garbage.note(&self.address, error);
        }
        let reason = match error {
            Some(error) => error.to_string(),
            None => "it said nothing any more, or closed the connection".to_owned(),
        };
        (self.unreachable(&reason), was_heard)
    }

    async fn hear(&self, reader: &mut Reader, was_heard: &mut bool) -> Option<LinkError> {
        loop {
            let message = match reader.next().await {
                Ok(message) => message?,
                Err(error) => return Some(error),
            };
            self.silence().since = None;
            *was_heard = true;
            match message {
                Message::Answer { number, body } => self.settle(number, Ok(body)),
                Message::AnswerTooLarge { number } => {
                    let words = format!("the answer of {} is over its bound", self.address);
                    self.settle(number, Err(TransportError::TooLarge(words)));
                }
                Message::StillHere => {}
                Message::Request { .. } => return Some(super::message::NoMessage.into()),
            }
        }
    }

    async fn speak(
        &self,
        writer: &mut Writer,
        frame_max: usize,
        first: Errand,
        errands: &mut mpsc::Receiver<Errand>,
    ) -> Option<LinkError> {
        self.put(writer, frame_max, first);
        loop {
            while writer.is_roomy()
                && let Ok(errand) = errands.try_recv()
            {
                self.put(writer, frame_max, errand);
            }
            if let Err(error) = writer.flush().await {
                return Some(error);
            }
            match tokio::time::timeout(STILL_HERE_EVERY, errands.recv()).await {
                Ok(errand) => self.put(writer, frame_max, errand?),
                Err(_) => writer.put(&Message::StillHere),
            }
        }
    }

    fn put(&self, writer: &mut Writer, frame_max: usize, errand: Errand) {
        let Errand { number, body } = errand;
        if !self.calls().contains_key(&number) {
            return;
        }
        if let Err(error) = self.check_size(&body, frame_max) {
            return self.settle(number, Err(error));
        }
        writer.put(&Message::Request { number, body });
        self.silence().since.get_or_insert_with(Instant::now);
    }
}
