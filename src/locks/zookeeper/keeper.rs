//! Makes sessions, keeps them alive, and notices their end.
//!
//! Not what is done with a session. A session is made when it is first needed and again after one
//! ended, while somebody waits for it. Its end is noticed in three ways, whichever comes first:
//! the server or the driver says so; its own clock passes `valid_until`; the manager is closed.
//! While the driver is disconnected, or no heartbeat is acknowledged, the session is suspended:
//! nothing is granted that needs an answer, and holders, who are told, keep what they hold until
//! `valid_until`.
//!
//! Invariants: at most one session is in use; the owner of a session that ended is told once, after
//! the session can grant nothing more; suspension and its end are told by one task, in their order.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{sleep, sleep_until, timeout_at};
use zookeeper_client::{Client, Error, SessionState};

use crate::model::lock::LockError;

use super::options::Server;
use super::session::{Session, Trouble, told};

const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Who hears of a session.
pub(super) trait Owner: Send + Sync + 'static {
    /// The session ended; what it held is lost.
    fn session_ended(&self, session: &Session, reason: &str);

    /// The session is suspended, or something was granted by one that is.
    fn session_suspended(&self, session: &Session);

    /// The session is suspended no more.
    fn session_resumed(&self, session: &Session);

    /// Time to compare what the session has at the server with what it should have.
    fn audit(&self, session: &Arc<Session>) -> impl Future<Output = ()> + Send;
}

#[derive(Clone)]
enum State {
    Idle,
    Connecting { trouble: String },
    Live(Arc<Session>),
    Closed,
}

/// The maker of sessions.
pub(super) struct Keeper<O> {
    pub(super) server: Arc<Server>,
    handle: Handle,
    state: watch::Sender<State>,
    numbers: AtomicUsize,
    seekers: AtomicUsize,
    owner: Weak<O>,
}

impl<O: Owner> Keeper<O> {
    pub(super) fn new(server: Arc<Server>, handle: Handle, owner: Weak<O>) -> Self {
        let state = watch::Sender::new(State::Idle);
        Self { server, handle, state, numbers: 0.into(), seekers: 0.into(), owner }
    }

    /// The session in use, made if there is none; waits for it until `until` at most.
    pub(super) async fn session(
        self: &Arc<Self>,
        until: Instant,
    ) -> Result<Arc<Session>, LockError> {
        if let State::Live(session) = &*self.state.borrow() {
            return Ok(session.clone());
        }
        self.seekers.fetch_add(1, Ordering::AcqRel);
        let found = self.seek(until).await;
        self.seekers.fetch_sub(1, Ordering::AcqRel);
        found
    }

    /// The session in use.
    pub(super) fn live(&self) -> Option<Arc<Session>> {
        match &*self.state.borrow() {
            State::Live(session) => Some(session.clone()),
            _ => None,
        }
    }

    async fn seek(self: &Arc<Self>, until: Instant) -> Result<Arc<Session>, LockError> {
        let mut states = self.state.subscribe();
        loop {
            self.connect_if_idle();
            let state = states.borrow_and_update().clone();
            let trouble = match state {
                State::Live(session) => return Ok(session),
                State::Closed => return Err(LockError::Closed),
                State::Idle => String::new(),
                State::Connecting { trouble } => trouble,
            };
            if timeout_at(until.into(), states.changed()).await.is_err() {
                let what = if trouble.is_empty() { "no answer in time" } else { &trouble };
                return Err(self.server.unavailable(what));
            }
        }
    }

    fn connect_if_idle(self: &Arc<Self>) {
        let is_mine = self.state.send_if_modified(|state| {
            let is_idle = matches!(state, State::Idle);
            if is_idle {
                *state = State::Connecting { trouble: String::new() };
            }
            is_idle
        });
        if is_mine {
            let keeper = self.clone();
            self.handle.spawn(async move { keeper.connect().await });
        }
    }

    async fn connect(self: Arc<Self>) {
        let mut pause = PAUSE_MIN;
        loop {
            match self.open().await {
                Ok(session) => return self.begin(session),
                Err(error) => self.note(State::Connecting { trouble: told(&error) }),
            }
            if self.seekers.load(Ordering::Acquire) == 0 {
                self.note(State::Idle);
                return;
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// A new session that has answered. With an end of its own: a server that accepts and is
    /// silent is as good as none.
    async fn open(&self) -> Result<Session, Error> {
        let options = &self.server.options;
        let mut connector =
            Client::connector().with_session_timeout(options.session_timeout).with_fail_eagerly();
        if let Some(credentials) = &options.credentials {
            let digest = format!("{}:{}", credentials.user, credentials.password);
            connector = connector.with_auth("digest", digest.as_bytes());
        }
        let client = connector.connect(&self.server.hosts).await?;
        let sent = Instant::now();
        client.check_stat("/").await?;
        let number = self.numbers.fetch_add(1, Ordering::Relaxed) as u64;
        Ok(Session::new(client, number, sent))
    }

    fn begin(self: Arc<Self>, session: Session) {
        let session = Arc::new(session);
        let is_wanted = self.state.send_if_modified(|state| {
            let is_wanted = !matches!(state, State::Closed);
            if is_wanted {
                *state = State::Live(session.clone());
            }
            is_wanted
        });
        if is_wanted {
            let (keeper, beating) = (Arc::downgrade(&self), session.clone());
            self.handle.spawn(async move { watch_over(&keeper, &session).await });
            let owner = self.owner.clone();
            self.handle.spawn(async move { beat(&owner, &beating).await });
        }
    }

    /// Goes into a state, unless it is closed.
    fn note(&self, next: State) {
        self.state.send_if_modified(|state| {
            let is_open = !matches!(state, State::Closed);
            if is_open {
                *state = next;
            }
            is_open
        });
    }

    fn retire(&self, session: &Session, reason: &str) {
        if !session.end(reason) {
            return;
        }
        tracing::warn!(server = self.server.hosts, reason, "the ZooKeeper session ended");
        self.state.send_if_modified(|state| {
            let is_this = matches!(state, State::Live(live) if live.number == session.number);
            if is_this {
                *state = State::Idle;
            }
            is_this
        });
        if let Some(owner) = self.owner.upgrade() {
            owner.session_ended(session, reason);
        }
    }

    /// Closes for good; the session that was in use, for waiting until the server has closed it.
    pub(super) fn close(&self) -> Option<Arc<Session>> {
        match self.state.send_replace(State::Closed) {
            State::Live(session) => {
                session.end("the manager was closed");
                Some(session)
            }
            _ => None,
        }
    }
}

/// Waits for a session's end, by the driver's word or by its own clock.
async fn watch_over<O: Owner>(keeper: &Weak<Keeper<O>>, session: &Session) {
    let mut states = session.client.state_watcher();
    let reason = loop {
        let is_suspended = session.is_suspended();
        let wake_at = if is_suspended { session.valid_until() } else { session.calm_until() };
        tokio::select! {
            biased;
            _ = session.ended() => return,
            state = states.changed() => match state {
                SessionState::Expired => break "the session expired".to_owned(),
                state if state.is_terminated() => break format!("the session ended: {state:?}"),
                SessionState::Disconnected => suspend(keeper, session, "the connection is lost"),
                // The session is resumed when the server has acknowledged a heartbeat.
                _ => {}
            },
            () = session.poked(), if is_suspended => {
                let is_connected = states.peek_state() == SessionState::SyncConnected;
                if is_connected && Instant::now() < session.calm_until() {
                    resume(keeper, session);
                } else {
                    tell_owner(keeper, |owner| owner.session_suspended(session));
                }
            }
            () = sleep_until(wake_at.into()) => {
                // It may have moved on in the meantime.
                let now = Instant::now();
                if now >= session.valid_until() {
                    break "no heartbeat was acknowledged in time".to_owned();
                }
                if !is_suspended && now >= session.calm_until() {
                    suspend(keeper, session, "no heartbeat is acknowledged");
                }
            }
        }
    };
    if let Some(keeper) = keeper.upgrade() {
        keeper.retire(session, &reason);
    }
}

fn tell_owner<O: Owner>(keeper: &Weak<Keeper<O>>, of: impl FnOnce(&O)) {
    if let Some(owner) = keeper.upgrade().and_then(|keeper| keeper.owner.upgrade()) {
        of(&owner);
    }
}

fn suspend<O: Owner>(keeper: &Weak<Keeper<O>>, session: &Session, why: &str) {
    tracing::warn!(why, "the ZooKeeper session is suspended");
    session.suspend(true);
    tell_owner(keeper, |owner| owner.session_suspended(session));
}

fn resume<O: Owner>(keeper: &Weak<Keeper<O>>, session: &Session) {
    tracing::info!("the ZooKeeper session goes on");
    session.suspend(false);
    tell_owner(keeper, |owner| owner.session_resumed(session));
}

/// Asks the server something, often enough for the session to stay valid.
async fn beat<O: Owner>(owner: &Weak<O>, session: &Arc<Session>) {
    let interval = (session.client.session_timeout() / 12)
        .clamp(Duration::from_millis(10), Duration::from_secs(2));
    let audit_interval = interval.max(Duration::from_secs(1));
    let mut audited = Instant::now();
    let beats = async {
        loop {
            sleep(interval).await;
            let sent = Instant::now();
            match session.client.check_stat("/").await {
                Ok(_) => session.heard_since(sent),
                Err(error) if Trouble::of(&error) == Trouble::SessionEnded => return,
                Err(_) => {}
            }
            if audited.elapsed() >= audit_interval
                && let Some(owner) = owner.upgrade()
            {
                owner.audit(session).await;
                audited = Instant::now();
            }
        }
    };
    tokio::select! {
        () = beats => {}
        _ = session.ended() => {}
    }
}
