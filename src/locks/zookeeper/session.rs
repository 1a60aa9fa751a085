//! One session with the server, and how long it is certain to live.
//!
//! Not who makes sessions (`keeper`). **Validity**: the server ends a session when it heard nothing
//! for the negotiated timeout. Every answered request proves that it heard us after the request
//! was sent, so the session lives at least until then plus the timeout. A quarter is taken off: in
//! an ensemble a follower tells the leader of its clients every half tick, a timeout has at least
//! two ticks, and a follower that dies takes the last half tick with it.
//!
//! Invariants: after `valid_until`, or once ended, nobody is granted anything by this session; a
//! session that ended stays so.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use zookeeper_client::{Client, Error};

/// Containers that a session remembers, so as not to make them again.
const CONTAINERS_MAX: usize = 10_000;

/// A session.
pub(super) struct Session {
    pub(super) client: Client,
    pub(super) number: u64,
    started: Instant,
    valid_until_us: AtomicU64,
    ended: watch::Sender<Option<Arc<str>>>,
    is_suspended: AtomicBool,
    /// Wakes whoever watches over a session that is suspended.
    poke: Notify,
    containers: Mutex<HashSet<String>>,
}

impl Session {
    /// A session that answered a request sent at `sent`.
    pub(super) fn new(client: Client, number: u64, sent: Instant) -> Self {
        let session = Self {
            client,
            number,
            started: sent,
            valid_until_us: AtomicU64::new(0),
            ended: watch::Sender::new(None),
            is_suspended: AtomicBool::new(false),
            poke: Notify::new(),
            containers: Mutex::default(),
        };
        session.heard_since(sent);
        session
    }

    /// Notes that the server heard of us at some time after `sent`.
    pub(super) fn heard_since(&self, sent: Instant) {
        let until = sent.saturating_duration_since(self.started) + self.validity();
        let until = u64::try_from(until.as_micros()).unwrap_or(u64::MAX);
        self.valid_until_us.fetch_max(until, Ordering::AcqRel);
        self.poke_if_suspended();
    }

    fn validity(&self) -> Duration {
        self.client.session_timeout() * 3 / 4
    }

    pub(super) fn valid_until(&self) -> Instant {
        self.started + Duration::from_micros(self.valid_until_us.load(Ordering::Acquire))
    }

    /// Until when its silence means nothing: several heartbeats fit in.
    pub(super) fn calm_until(&self) -> Instant {
        let until = self.valid_until();
        until.checked_sub(self.validity() / 2).unwrap_or(until)
    }

    pub(super) fn is_suspended(&self) -> bool {
        self.is_suspended.load(Ordering::SeqCst)
    }

    pub(super) fn suspend(&self, is_suspended: bool) {
        self.is_suspended.store(is_suspended, Ordering::SeqCst);
    }

    /// Has its watcher look again, if it is suspended: it was heard of, or granted something.
    pub(super) fn poke_if_suspended(&self) {
        if self.is_suspended() {
            self.poke.notify_one();
        }
    }

    /// Somebody poked it.
    pub(super) async fn poked(&self) {
        self.poke.notified().await;
    }

    /// Whether it may grant: it did not end, and its own clock allows it.
    pub(super) fn is_alive(&self) -> bool {
        self.ended.borrow().is_none() && Instant::now() < self.valid_until()
    }

    /// Ends it; false if it was ended before.
    pub(super) fn end(&self, reason: &str) -> bool {
        self.ended.send_if_modified(|ended| {
            let is_first = ended.is_none();
            if is_first {
                *ended = Some(reason.into());
            }
            is_first
        })
    }

    /// Why it ended, once it has.
    pub(super) async fn ended(&self) -> Arc<str> {
        let mut ended = self.ended.subscribe();
        let reason = ended.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
        reason.unwrap_or_else(|| "the session ended".into())
    }

    pub(super) fn knows(&self, container: &str) -> bool {
        self.containers.lock().unwrap_or_else(PoisonError::into_inner).contains(container)
    }

    pub(super) fn remember(&self, container: &str) {
        let mut containers = self.containers.lock().unwrap_or_else(PoisonError::into_inner);
        if containers.len() >= CONTAINERS_MAX {
            containers.clear();
        }
        containers.insert(container.to_owned());
    }

    pub(super) fn forget(&self, container: &str) {
        self.containers.lock().unwrap_or_else(PoisonError::into_inner).remove(container);
    }

    /// Deletes a node, again and again until it is acknowledged; false when the session ended
    /// before that, which takes the node too.
    pub(super) async fn delete(&self, path: &str) -> Result<bool, Error> {
        loop {
            let sent = Instant::now();
            match self.client.delete(path, None).await {
                Ok(()) | Err(Error::NoNode) => {
                    self.heard_since(sent);
                    return Ok(true);
                }
                Err(error) => match Trouble::of(&error) {
                    Trouble::Passing => {}
                    Trouble::SessionEnded => return Ok(false),
                    Trouble::Refused => return Err(error),
                },
            }
        }
    }

    /// Writes a node's data until it is acknowledged; false where the node is gone.
    pub(super) async fn write(&self, path: &str, data: &[u8]) -> Result<bool, Error> {
        loop {
            let sent = Instant::now();
            match self.client.set_data(path, data, None).await {
                Ok(_) => {
                    self.heard_since(sent);
                    return Ok(true);
                }
                Err(Error::NoNode) => return Ok(false),
                Err(error) => match Trouble::of(&error) {
                    Trouble::Passing => {}
                    Trouble::SessionEnded => return Ok(false),
                    Trouble::Refused => return Err(error),
                },
            }
        }
    }
}

/// What an error means for one who asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The answer is lost; the driver looks for another server, and holds requests until then.
    Passing,
    /// The session is gone, and its nodes with it.
    SessionEnded,
    /// The server says no.
    Refused,
}

impl Trouble {
    pub(super) fn of(error: &Error) -> Self {
        match error {
            Error::ConnectionLoss | Error::Timeout | Error::Throttled | Error::SessionMoved => {
                Self::Passing
            }
            Error::SessionExpired | Error::ClientClosed => Self::SessionEnded,
            // Whatever broke the connection below the protocol.
            Error::Custom(_) => Self::Passing,
            _ => Self::Refused,
        }
    }
}

/// An error in words, with what to do about it.
pub(super) fn told(error: &Error) -> String {
    match error {
        Error::NoAuth => "not authorized: the nodes belong to another user; check the user and \
                          the password, or give another lock_root_path"
            .to_owned(),
        Error::AuthFailed => "authentication failed; check the user and the password".to_owned(),
        Error::NoHosts => "no server can be reached; check the address, and that one runs \
                           there"
            .to_owned(),
        other => other.to_string(),
    }
}
