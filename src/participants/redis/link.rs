//! The connection to the server: one, shared by all questions, opened when it is needed.
//!
//! Not a pool: Redis carries out one command at a time anyway. A connection that broke, or on
//! which an answer did not come in time, is given up, and the next question opens another one;
//! with each new one the server is asked again what it is and what it promises (`settings`),
//! because it may be another server after a failover, or have been started with other settings.
//! One that was not used for a moment is tried before something is sent on it whose fate would not
//! be known.
//!
//! Invariants: what is said not to have been sent was not; what may have been carried out is lost,
//! never refused; nothing that is written here shows the password.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, ConnectionAddr, RedisError, Value};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout, timeout_at};

use super::greeting;
use super::script::{Call, Script, Words};
use super::settings::Settings;
use super::sync::Syncer;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection that answered so lately is taken to be alive.
const FRESH: Duration = Duration::from_secs(1);
/// How many questions may be on their way at once; more wait their turn.
const QUESTIONS_MAX: usize = 1_000;
/// Errors by which a server refuses a command, or a script's first write, before it did anything.
const REFUSALS: [&str; 10] = [
    "OOM",
    "READONLY",
    "LOADING",
    "MASTERDOWN",
    "MISCONF",
    "NOREPLICAS",
    "BUSY",
    "NOAUTH",
    "WRONGPASS",
    "NOSCRIPT",
];
/// Those of them that may mean that another server is the right one now.
const MOVED: [&str; 3] = ["READONLY", "LOADING", "MASTERDOWN"];

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Nothing was carried out, and another try may find things better.
    Refused(String),
    /// The server answered with an error of a kind that tells nothing of what was done before it.
    Failed(String),
    /// It may have been carried out or not.
    Lost(String),
}

impl Trouble {
    pub(super) fn message(self) -> String {
        match self {
            Self::Refused(message) | Self::Failed(message) | Self::Lost(message) => message,
        }
    }
}

/// A connection that was greeted.
#[derive(Clone)]
pub(super) struct Live {
    pub(super) connection: MultiplexedConnection,
    pub(super) settings: Arc<Settings>,
    hashes: Arc<Vec<String>>,
    number: u64,
}

#[derive(Default)]
struct State {
    live: Option<Live>,
    last_answer: Option<Instant>,
    /// What the last try to open one met, and when.
    failed: Option<(Instant, String)>,
}

/// The way to one server.
pub(super) struct Link {
    client: Client,
    /// Host, port and database, for people.
    pub(super) label: String,
    state: Mutex<State>,
    settings: std::sync::Mutex<Option<Arc<Settings>>>,
    pub(super) syncer: Syncer,
    pub(super) waits_for_disk: bool,
    is_closed: AtomicBool,
    /// How many connections were greeted.
    greeted: AtomicU64,
}

impl Link {
    /// Nothing is opened yet.
    pub(super) fn new(url: &str, waits_for_disk: bool) -> Result<Self, String> {
        let client = Client::open(url).map_err(|error| {
            // Its own words would quote the password.
            let kind = error.category().to_owned();
            format!(
                "cannot be read ({kind}); write it as redis://user:password@host:6379/0, rediss:// \
                 for TLS, or redis+unix:///path/of/the/socket?db=0"
            )
        })?;
        Ok(Self {
            label: label(&client),
            client,
            state: Mutex::default(),
            settings: std::sync::Mutex::default(),
            syncer: Syncer::default(),
            waits_for_disk,
            is_closed: AtomicBool::new(false),
            greeted: AtomicU64::new(0),
        })
    }

    /// Which connection is the latest, counted from 1.
    pub(super) fn latest(&self) -> u64 {
        self.greeted.load(Ordering::Acquire)
    }

    /// What the server said of itself last; nothing before it was reached.
    pub(super) fn settings(&self) -> Option<Arc<Settings>> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn open(&self) {
        self.is_closed.store(false, Ordering::Release);
    }

    /// Lets nobody in any more; [`Link::let_go`] closes what is open.
    pub(super) fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
    }

    /// Closes the connections when those who use them are through, unless it was opened again.
    pub(super) async fn let_go(&self) {
        let mut state = self.state.lock().await;
        if self.is_closed.load(Ordering::Acquire) {
            state.live = None;
            drop(state);
            self.syncer.close().await;
        }
    }

    /// Runs a script, by the deadline.
    pub(super) async fn run(&self, call: &Call, by: Instant) -> Result<Words, Trouble> {
        let hash = call.script as usize;
        let live = self.ready(by).await?;
        if call.script.begins()
            && let Some(reason) = &live.settings.refusal
        {
            return Err(Trouble::Refused(format!("{}: {reason}", self.label)));
        }
        let command = call.command(live.hashes.get(hash).map(String::as_str));
        match self.send(&live, &command, by).await {
            Err(Trouble::Refused(message)) if message.contains("NOSCRIPT") => {
                self.send(&live, &call.command(None), by).await.map(Words::read)
            }
            answer => answer.map(Words::read),
        }
    }

    /// Sends one command that may be carried out twice, by the deadline; once more where the answer
    /// was lost.
    pub(super) async fn ask(&self, command: &Cmd, by: Instant) -> Result<Value, Trouble> {
        let live = self.ready(by).await?;
        match self.send(&live, command, by).await {
            Err(Trouble::Lost(_)) if Instant::now() < by => {
                let live = self.ready(by).await?;
                self.send(&live, command, by).await
            }
            answer => answer,
        }
    }

    /// A connection that works, as far as can be known.
    async fn ready(&self, by: Instant) -> Result<Live, Trouble> {
        match timeout_at(by, self.live()).await {
            Ok(live) => live.map_err(Trouble::Refused),
            Err(_) => Err(Trouble::Refused(format!("{} was not reached in time", self.label))),
        }
    }

    async fn live(&self) -> Result<Live, String> {
        if self.is_closed.load(Ordering::Acquire) {
            return Err("it is closed".to_owned());
        }
        let began = Instant::now();
        let mut state = self.state.lock().await;
        if let Some(live) = state.live.clone() {
            let is_fresh = state.last_answer.is_some_and(|at| at.elapsed() < FRESH);
            if is_fresh || is_alive(&live.connection).await {
                state.last_answer = Some(Instant::now());
                return Ok(live);
            }
            state.live = None;
        }
        // Who waited while another one tried need not try again.
        if let Some((at, message)) = &state.failed
            && *at >= began
        {
            return Err(message.clone());
        }
        match self.greet().await {
            Ok(live) => {
                state.failed = None;
                state.last_answer = Some(Instant::now());
                state.live = Some(live.clone());
                Ok(live)
            }
            Err(message) => {
                state.failed = Some((Instant::now(), message.clone()));
                Err(message)
            }
        }
    }

    async fn greet(&self) -> Result<Live, String> {
        let greeted = async {
            let mut connection = self.connect().await?;
            let info = greeting::info(&mut connection).await?;
            let settings = greeting::settings(&mut connection, &info, self).await?;
            let hashes = greeting::load(&mut connection, &Script::ALL).await?;
            Ok((connection, settings, hashes))
        };
        let greeted = timeout(CONNECT_TIMEOUT, greeted).await.unwrap_or_else(|_| {
            Err(format!("it did not answer within {} s", CONNECT_TIMEOUT.as_secs()))
        });
        let (connection, settings, hashes) =
            greeted.map_err(|what: String| format!("{}: {what}", self.label))?;
        let settings = Arc::new(settings);
        let mut told = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = told.as_ref().is_none_or(|old| old.durability != settings.durability);
        *told = Some(Arc::clone(&settings));
        drop(told);
        if is_news && !settings.durability.is_durable() {
            let (server, meaning) = (&self.label, settings.durability.explain());
            tracing::warn!(server, "the Redis server may forget what it promised: {meaning}");
        }
        let number = self.greeted.fetch_add(1, Ordering::AcqRel) + 1;
        Ok(Live { connection, settings, hashes: Arc::new(hashes), number })
    }

    /// A connection that nobody else uses, and that was not greeted.
    pub(super) async fn connect(&self) -> Result<MultiplexedConnection, String> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(None)
            .set_concurrency_limit(QUESTIONS_MAX);
        let opened = self.client.get_multiplexed_async_connection_with_config(&config).await;
        opened.map_err(|error| describe(&error))
    }

    async fn send(&self, live: &Live, command: &Cmd, by: Instant) -> Result<Value, Trouble> {
        let mut connection = live.connection.clone();
        let answer = match timeout_at(by, connection.send_packed_command(command)).await {
            Ok(answer) => answer.and_then(Value::extract_error),
            Err(_) => {
                self.give_up(live).await;
                return Err(Trouble::Lost(format!("{} did not answer in time", self.label)));
            }
        };
        match answer {
            Ok(value) => Ok(value),
            Err(error) => Err(self.judge(live, &error).await),
        }
    }

    async fn judge(&self, live: &Live, error: &RedisError) -> Trouble {
        let message = format!("{}: {}", self.label, describe(error));
        let Some(code) = error.code() else {
            self.give_up(live).await;
            return Trouble::Lost(message);
        };
        if MOVED.contains(&code) {
            self.give_up(live).await;
        }
        if REFUSALS.contains(&code) { Trouble::Refused(message) } else { Trouble::Failed(message) }
    }

    /// Has the next question open another connection.
    async fn give_up(&self, live: &Live) {
        let mut state = self.state.lock().await;
        if state.live.as_ref().is_some_and(|current| current.number == live.number) {
            state.live = None;
        }
    }

    /// Waits until all that was written so far is on the server's disk, where it takes waiting.
    pub(super) async fn settle(self: &Arc<Self>, by: Instant) -> Result<(), String> {
        if !self.settings().is_some_and(|settings| settings.durability.is_waited_for()) {
            return Ok(());
        }
        let synced = timeout_at(by, self.syncer.sync(self)).await;
        synced.unwrap_or_else(|_| Err("it was not on the server's disk in time".to_owned()))
    }
}

async fn is_alive(connection: &MultiplexedConnection) -> bool {
    let (mut connection, ping) = (connection.clone(), redis::cmd("PING"));
    let answer = timeout(CONNECT_TIMEOUT, connection.send_packed_command(&ping)).await;
    matches!(answer, Ok(Ok(_)))
}

/// Host, port and database, without who asks.
fn label(client: &Client) -> String {
    let info = client.get_connection_info();
    let place = match info.addr() {
        ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
            format!("{host}:{port}")
        }
        ConnectionAddr::Unix(path) => path.display().to_string(),
        _ => "the server".to_owned(),
    };
    format!("{place}/{}", info.redis_settings().db())
}

/// An error for people; the client's own words quote no password once it is connected.
pub(super) fn describe(error: &RedisError) -> String {
    match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => format!("{code} {detail}"),
        (Some(code), None) => code.to_owned(),
        _ => error.to_string(),
    }
}
