//! The door of a node: takes connections in, has them greet, and answers what they ask.
//!
//! Invariants: what is not known yet is bounded in number, time and size, and when there are too
//! many, the one that came first goes, so that strangers who say nothing keep no node out; one peer
//! has at most `calls_max` requests in work, then its connection is not read; every task belongs to
//! the door's and ends with it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinError, JoinSet};

use super::counts::{Counts, Dropped};
use super::greet::{Caller, GreetError, Identity, answer};
use super::hello::Complaint;
use super::link::{Link, LinkError, Reader, Writer};
use super::message::{MESSAGE_HEAD_BYTES, Message};
use super::options::{TransportOptions, bytes_units};
use super::peer::STILL_HERE_EVERY;
use super::port::Handler;

/// How long nothing may come from a node before its connection is closed.
const IDLE_MAX: Duration = STILL_HERE_EVERY.saturating_mul(4);
/// How long the door waits when the system has no more sockets.
const OUT_OF_SOCKETS_WAIT: Duration = Duration::from_millis(100);

/// Why a semaphore gives a place.
const OPEN: &str = "it is never closed";

/// An answer, and the place in the bounds that its request has until it is on its way.
type Ready = (Message, (OwnedSemaphorePermit, OwnedSemaphorePermit));

/// What every connection needs.
pub(super) struct Door {
    pub(super) identity: Arc<Identity>,
    pub(super) handler: Arc<dyn Handler>,
    pub(super) counts: Arc<Counts>,
    pub(super) options: Arc<TransportOptions>,
    pub(super) places: Semaphore,
    pub(super) clients: Semaphore,
}

/// A connection that is not known yet.
struct Greeting {
    task: AbortHandle,
    is_over: Arc<AtomicBool>,
}

/// Takes connections in; ends when it is aborted.
pub(super) async fn run(listener: TcpListener, door: Arc<Door>) {
    let mut connections = JoinSet::new();
    let mut greetings = VecDeque::new();
    loop {
        tokio::select! {
            taken = listener.accept() => match taken {
                Ok((tcp, from)) => {
                    make_room(&door, &mut greetings);
                    let is_over = Arc::new(AtomicBool::new(false));
                    let connection = connection(door.clone(), tcp, from, is_over.clone());
                    let task = connections.spawn(connection);
                    greetings.push_back(Greeting { task, is_over });
                }
                Err(error) => {
                    tracing::warn!(%error, "connections of the cluster cannot be taken in");
                    tokio::time::sleep(OUT_OF_SOCKETS_WAIT).await;
                }
            },
            Some(ended) = connections.join_next() => say_panic(ended),
        }
    }
}

/// Sends away whoever greets longest, when there are too many.
fn make_room(door: &Door, greetings: &mut VecDeque<Greeting>) {
    greetings.retain(|one| !one.is_over.load(Ordering::Acquire) && !one.task.is_finished());
    if greetings.len() >= door.options.greetings_max
        && let Some(oldest) = greetings.pop_front()
    {
        oldest.task.abort();
        let reason = "too many connections greet at once; the oldest goes";
        door.counts.crowded.note(&"somebody", &reason);
    }
}

fn say_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a connection of the cluster failed; this is a mistake of ours");
    }
}

async fn connection(door: Arc<Door>, tcp: TcpStream, from: SocketAddr, is_over: Arc<AtomicBool>) {
    let counts = &door.counts;
    // Without it answers would wait for more; a socket that refuses it is about to fail anyway.
    let _ = tcp.set_nodelay(true);
    let greeting = answer(&door.identity, tcp);
    let greeted = tokio::time::timeout(door.options.greeting_timeout, greeting).await;
    is_over.store(true, Ordering::Release);
    let (link, peer) = match greeted {
        Ok(Ok(greeted)) => greeted,
        Ok(Err(error)) => {
            let (dropped, reason) = complaint(counts, error);
            return dropped.note(&from, &reason);
        }
        Err(_) => return counts.unfinished.note(&from, &"it greets too slowly"),
    };
    let places = match &peer {
        Caller::Node(_) => &door.places,
        Caller::Client => &door.clients,
    };
    let Ok(_place) = places.try_acquire() else {
        return counts.crowded.note(&from, &"too many connections are open");
    };
    counts.connections.fetch_add(1, Ordering::Relaxed);
    let _open = Open(counts);
    if let Err(error) = converse(&door, link, &peer).await
        && error.is_garbage()
    {
        counts.garbage.note(&format!("{peer} at {from}"), &error);
    }
}

/// A connection that is counted as open.
struct Open<'a>(&'a Counts);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

fn complaint(counts: &Counts, error: GreetError) -> (&Dropped, String) {
    match error {
        GreetError::Complaint(Complaint::Garbage(words)) => (&counts.garbage, words.to_owned()),
        GreetError::Complaint(Complaint::Stranger(words)) => (&counts.refused, words),
        // What TLS has against the other side comes as invalid data.
        GreetError::Io(error) if error.kind() == std::io::ErrorKind::InvalidData => {
            (&counts.refused, error.to_string())
        }
        GreetError::Io(error) => (&counts.unfinished, error.to_string()),
        GreetError::Refused => (&counts.unfinished, "it went away".to_owned()),
    }
}

/// Answers a caller until the connection is over.
async fn converse(door: &Arc<Door>, link: Link, peer: &Caller) -> Result<(), LinkError> {
    let Link { mut reader, mut writer, frame_max } = link;
    let (answers, mut ready) = mpsc::channel(door.options.calls_max);
    tokio::select! {
        ended = hear(door, &mut reader, peer, frame_max, answers) => ended,
        ended = speak(&mut writer, &mut ready) => ended,
    }
}

async fn hear(
    door: &Arc<Door>,
    reader: &mut Reader,
    peer: &Caller,
    frame_max: usize,
    answers: mpsc::Sender<Ready>,
) -> Result<(), LinkError> {
    let places = Arc::new(Semaphore::new(door.options.calls_max));
    let bytes = Arc::new(Semaphore::new(door.options.bytes_max()));
    let mut work = JoinSet::new();
    loop {
        let place = places.clone().acquire_owned().await.expect(OPEN);
        let Ok(message) = tokio::time::timeout(IDLE_MAX, reader.next()).await else {
            return Ok(());
        };
        match message? {
            Some(Message::Request { number, body }) => {
                let units = bytes_units(body.len());
                let room = bytes.clone().acquire_many_owned(units).await.expect(OPEN);
                let request = Vec::from(body);
                let asked = match peer {
                    Caller::Node(id) => door.handler.handle(id.clone(), request),
                    Caller::Client => door.handler.handle_client(request),
                };
                let answers = answers.clone();
                work.spawn(async move {
                    let answer = answer_message(number, asked.await, frame_max);
                    // When the connection is over, whoever asked hears of that.
                    let _ = answers.send((answer, (place, room))).await;
                });
            }
            Some(Message::StillHere) => {}
            Some(_) => return Err(super::message::NoMessage.into()),
            None => return Ok(()),
        }
        while let Some(ended) = work.try_join_next() {
            say_panic(ended);
        }
    }
}

fn answer_message(number: u64, answer: Vec<u8>, frame_max: usize) -> Message {
    if answer.len() + MESSAGE_HEAD_BYTES > frame_max {
        return Message::AnswerTooLarge { number };
    }
    Message::Answer { number, body: Bytes::from(answer) }
}

async fn speak(writer: &mut Writer, ready: &mut mpsc::Receiver<Ready>) -> Result<(), LinkError> {
    while let Some((message, _room)) = ready.recv().await {
        writer.put(&message);
        while writer.is_roomy()
            && let Ok((message, _room)) = ready.try_recv()
        {
            writer.put(&message);
        }
        writer.flush().await?;
    }
    Ok(())
}
