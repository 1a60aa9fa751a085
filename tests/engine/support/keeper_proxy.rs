//! A proxy before a ZooKeeper server that knows its frames: it cuts, stalls, and loses replies and
//! events.
//!
//! Not a model of slow networks. Invariant: a reply is lost only after the server has sent it, so
//! the server has done what was asked.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// The server's number of a create with a stat.
pub(crate) const CREATE: i32 = 15;
/// The server's number of a transaction.
pub(crate) const MULTI: i32 = 14;
/// The server's number of a write of data.
pub(crate) const SET_DATA: i32 = 5;
/// The server's number of a delete.
pub(crate) const DELETE: i32 = 2;

/// The server's number of a list of children; its last byte tells whether they are watched.
const GET_CHILDREN: i32 = 8;
/// What stands in place of a request's number where the server tells of an event.
const EVENT: i32 = -1;

#[derive(Default)]
struct Faults {
    is_stalled: AtomicBool,
    holds_replies: AtomicBool,
    is_refusing: AtomicBool,
    /// The operation of which the next reply is lost; 0 for none.
    lose_reply_of: AtomicI32,
    lost: AtomicU32,
    /// How many of the next events are lost.
    lose_events: AtomicU32,
    /// How many answers said that something is watched from now on.
    watches: AtomicU32,
    streams: Mutex<Vec<TcpStream>>,
}

/// A proxy; its threads end with their connections, and the listener with the process.
pub(crate) struct KeeperProxy {
    port: u16,
    faults: Arc<Faults>,
}

impl KeeperProxy {
    /// A proxy before that local port.
    pub(crate) fn before(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let own = listener.local_addr().unwrap().port();
        let faults = Arc::new(Faults::default());
        let shared = faults.clone();
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if shared.is_refusing.load(Ordering::SeqCst) {
                    continue;
                }
                if let Ok(server) = TcpStream::connect(("127.0.0.1", port)) {
                    connect(&shared, client, server);
                }
            }
        });
        Self { port: own, faults }
    }

    /// How to reach the server through it.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Holds everything back in both directions, without closing anything; `false` lets it go on.
    pub(crate) fn stall(&self, is_stalled: bool) {
        self.faults.is_stalled.store(is_stalled, Ordering::SeqCst);
    }

    /// Holds back what the server says; `false` lets it go on.
    pub(crate) fn hold_replies(&self, holds_replies: bool) {
        self.faults.holds_replies.store(holds_replies, Ordering::SeqCst);
    }

    /// Closes all connections, and new ones at once; `false` lets new ones through.
    pub(crate) fn refuse(&self, is_refusing: bool) {
        self.faults.is_refusing.store(is_refusing, Ordering::SeqCst);
        if is_refusing {
            self.faults.cut();
        }
    }

    /// Cuts the connection instead of carrying the next reply to such an operation.
    pub(crate) fn lose_reply_of(&self, operation: i32) {
        self.faults.lose_reply_of.store(operation, Ordering::SeqCst);
    }

    /// Keeps the next events to itself, so many of them, and carries all else.
    pub(crate) fn lose_events(&self, count: u32) {
        self.faults.lose_events.store(count, Ordering::SeqCst);
    }

    /// How many times something was watched, as far as answers told.
    pub(crate) fn watches(&self) -> u32 {
        self.faults.watches.load(Ordering::SeqCst)
    }

    /// How many replies and events were lost.
    pub(crate) fn lost(&self) -> u32 {
        self.faults.lost.load(Ordering::SeqCst)
    }
}

impl Faults {
    fn cut(&self) {
        for stream in self.streams.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn loses_event(&self) -> bool {
        let less = |left: u32| left.checked_sub(1);
        self.lose_events.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok()
    }

    fn wait_while_stalled(&self) {
        wait_while(&self.is_stalled);
    }
}

fn wait_while(flag: &AtomicBool) {
    while flag.load(Ordering::SeqCst) {
        thread::sleep(Duration::from_millis(1));
    }
}

fn connect(faults: &Arc<Faults>, client: TcpStream, server: TcpStream) {
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let ends = [&client, &server].map(|stream| stream.try_clone().unwrap());
    faults.streams.lock().unwrap().extend(ends);
    // Which reply is to be lost; no request has this number.
    let doomed = Arc::new(AtomicI32::new(i32::MIN));
    let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    // The requests to watch whose answers are due.
    let asked = Arc::new(Mutex::new(Vec::new()));
    let (shared, mark, watching) = (faults.clone(), doomed.clone(), asked.clone());
    thread::spawn(move || {
        let mut is_first = true;
        while let Some(frame) = read_frame(&mut from) {
            let wanted = shared.lose_reply_of.load(Ordering::SeqCst);
            if !is_first && wanted != 0 && number(&frame, 8) == wanted {
                mark.store(number(&frame, 4), Ordering::SeqCst);
                shared.lose_reply_of.store(0, Ordering::SeqCst);
            }
            if !is_first && number(&frame, 8) == GET_CHILDREN && frame.last() == Some(&1) {
                watching.lock().unwrap().push(number(&frame, 4));
            }
            is_first = false;
            shared.wait_while_stalled();
            if to.write_all(&frame).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    });
    let (mut from, mut to, shared) = (server, client, faults.clone());
    thread::spawn(move || {
        let mut is_first = true;
        while let Some(frame) = read_frame(&mut from) {
            if !is_first && number(&frame, 4) == doomed.load(Ordering::SeqCst) {
                shared.lost.fetch_add(1, Ordering::SeqCst);
                break;
            }
            if !is_first && number(&frame, 4) == EVENT && shared.loses_event() {
                shared.lost.fetch_add(1, Ordering::SeqCst);
                continue;
            }
            is_first = false;
            shared.wait_while_stalled();
            wait_while(&shared.holds_replies);
            if to.write_all(&frame).is_err() {
                break;
            }
            if asked.lock().unwrap().extract_if(.., |it| *it == number(&frame, 4)).next().is_some()
            {
                shared.watches.fetch_add(1, Ordering::SeqCst);
            }
        }
        let _ = (to.shutdown(Shutdown::Both), from.shutdown(Shutdown::Both));
    });
}

/// One frame with its length before it.
fn read_frame(from: &mut TcpStream) -> Option<Vec<u8>> {
    let mut frame = vec![0; 4];
    from.read_exact(&mut frame).ok()?;
    let length = usize::try_from(number(&frame, 0)).ok()?;
    frame.resize(4 + length, 0);
    from.read_exact(&mut frame[4..]).ok()?;
    Some(frame)
}

fn number(frame: &[u8], at: usize) -> i32 {
    frame.get(at..at + 4).map_or(0, |bytes| i32::from_be_bytes(bytes.try_into().unwrap()))
}
