//! A Redis server as a participant: key-value, each question one script of the server's.
//!
//! Read it from here down: `prepare`, `delivery` and `step` ask the scripts (`scripts/`) and read
//! their words; `operation` is what travels, `scope` the names under which things are kept; `link`
//! is the connection, `greeting` and `settings` what is asked of a server first, `sync` the wait
//! for its disk. What is prepared stands in Redis beside the data, as do the keys that it holds,
//! so every process that uses the server sees them. Other programs that write the same keys do
//! not.
//!
//! Not a cluster's client, and not a cache. Invariants: nothing blocks the asking thread; a
//! promise is as durable as the server's settings make it, which [`RedisStore::durability`] tells.

mod delivery;
mod greeting;
mod link;
mod operation;
mod prepare;
mod scope;
mod script;
mod settings;
mod step;
mod sync;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{Instant, timeout};

use crate::model::ids::{ClusterId, CoordinationId, StoreName};
use crate::model::operation::Operation;
use crate::model::outcome::{Acknowledgement, Vote};
use crate::model::request::CoordinationType;
use crate::model::step::StepAnswer;
use crate::model::value::Value;
use crate::reply::Reply;

use self::link::{Link, Trouble};
use self::scope::Scope;
pub use self::settings::Durability;

use super::{
    Abilities, DeliveryAsk, ExecuteAsk, Participant, ParticipantError, PrepareAsk, barrier,
    key_value,
};

const ATTACH_TIMEOUT: Duration = Duration::from_secs(30);
/// Between two looks at a server that reads its data.
const LOADING_PAUSE: Duration = Duration::from_millis(100);
const LIST_TIMEOUT: Duration = Duration::from_secs(30);
const GET_TIMEOUT: Duration = Duration::from_secs(30);
/// Keeps a sum of times inside what clocks can say.
const FOR_EVER: Duration = Duration::from_secs(86_400 * 365);

/// A Redis server that takes part in coordinations.
pub struct RedisStore {
    inner: Arc<Inner>,
    handle: Handle,
}

struct Inner {
    name: String,
    /// What every key of the data begins with.
    prefix: String,
    link: Arc<Link>,
    scope: Mutex<Option<Arc<Scope>>>,
}

impl RedisStore {
    /// A store over the server that `url` names (`redis://user:password@host:6379/0`, `rediss://`,
    /// `redis+unix:///socket`), whose keys all begin with `prefix`; its tasks run on `handle`'s
    /// runtime. With `waits_for_disk` answers wait for WAITAOF where that makes them durable.
    /// Nothing is opened before it is attached or read.
    pub fn new(
        url: &str,
        name: &str,
        prefix: &str,
        waits_for_disk: bool,
        handle: Handle,
    ) -> Result<Self, ParticipantError> {
        let link = Link::new(url, waits_for_disk).map_err(|reason| {
            ParticipantError::new(format!("the url of the Redis store '{name}' {reason}"))
        })?;
        let inner = Inner {
            name: name.to_owned(),
            prefix: prefix.to_owned(),
            link: Arc::new(link),
            scope: Mutex::new(None),
        };
        Ok(Self { inner: Arc::new(inner), handle })
    }

    /// Reads the committed value of a key, behind the prefix.
    pub fn get(&self, key: String, reply: Reply<Result<Option<Value>, ParticipantError>>) {
        let inner = self.inner.clone();
        self.handle.spawn(async move {
            let value = inner.get(&key).await;
            reply.send(value.map_err(|reason| inner.trouble("read from", &reason)));
        });
    }

    /// What the server's promises are worth, as it was when it was last connected to; nothing
    /// before it was.
    pub fn durability(&self) -> Option<Durability> {
        self.inner.link.settings().map(|settings| settings.durability)
    }
}

/// When an answer is of no use any more.
fn deadline(timeout: Duration) -> Instant {
    Instant::now() + timeout.min(FOR_EVER)
}

impl Inner {
    fn scope(&self) -> Option<Arc<Scope>> {
        self.scope.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn trouble(&self, verb: &str, reason: &str) -> ParticipantError {
        let name = &self.name;
        ParticipantError::new(format!("cannot {verb} the Redis store '{name}': {reason}"))
    }

    async fn attach(&self) -> Result<(), String> {
        self.link.open();
        let by = deadline(ATTACH_TIMEOUT);
        while let Err(trouble) = self.link.ask(&redis::cmd("PING"), by).await {
            let message = trouble.message();
            // A server that was started just now reads its file first.
            if !message.contains("LOADING") {
                return Err(message);
            }
            tokio::time::sleep(LOADING_PAUSE).await;
        }
        match self.link.settings().and_then(|settings| settings.refusal.clone()) {
            Some(reason) => Err(format!("{}: {reason}", self.link.label)),
            None => Ok(()),
        }
    }

    async fn get(&self, key: &str) -> Result<Option<Value>, String> {
        let key = format!("{}{key}", self.prefix);
        let answer = self.link.ask(redis::cmd("GET").arg(&key), deadline(GET_TIMEOUT)).await;
        match answer.map_err(Trouble::message)? {
            redis::Value::Nil => Ok(None),
            redis::Value::BulkString(bytes) => Ok(Some(Value::Bytes(bytes))),
            other => Err(format!("the server's answer {other:?} is not understood")),
        }
    }

    async fn list(&self) -> Result<Vec<CoordinationId>, String> {
        let scope = self.scope().ok_or("it was not attached")?;
        delivery::list(self, &scope, deadline(LIST_TIMEOUT)).await
    }
}

impl Participant for RedisStore {
    fn abilities(&self) -> Abilities {
        Abilities { lists_prepared: true, single_writer: false }
    }

    fn missing_for(&self, kind: CoordinationType) -> Option<&'static str> {
        barrier::missing_for(kind)
    }

    fn can_compensate(&self, operation: &Operation) -> bool {
        barrier::can_compensate(operation, &key_value::KINDS, "key")
    }

    /// Blocks; not to be called from a thread of the runtime.
    fn attach(&self, cluster: &ClusterId, name: &StoreName) -> Result<(), ParticipantError> {
        let inner = &self.inner;
        let attached = async { timeout(ATTACH_TIMEOUT, inner.attach()).await };
        let attached = self.handle.block_on(attached);
        let attached = attached.unwrap_or_else(|_| Err("it did not answer within 30 s".to_owned()));
        attached.map_err(|reason| inner.trouble("use", &reason))?;
        let scope = Arc::new(Scope::new(cluster, name));
        *inner.scope.lock().unwrap_or_else(PoisonError::into_inner) = Some(scope);
        Ok(())
    }

    fn prepare(&self, ask: PrepareAsk, reply: Reply<Vote>) {
        let inner = self.inner.clone();
        self.handle.spawn(async move { reply.send(prepare::vote(&inner, &ask).await) });
    }

    fn commit(&self, ask: DeliveryAsk, reply: Reply<Acknowledgement>) {
        let inner = self.inner.clone();
        self.handle.spawn(async move { reply.send(delivery::commit(&inner, &ask).await) });
    }

    fn abort(&self, ask: DeliveryAsk, reply: Reply<Acknowledgement>) {
        let inner = self.inner.clone();
        self.handle.spawn(async move { reply.send(delivery::abort(&inner, &ask).await) });
    }

    fn execute(&self, ask: ExecuteAsk, reply: Reply<StepAnswer>) {
        let inner = self.inner.clone();
        self.handle.spawn(async move { reply.send(step::step(&inner, &ask).await) });
    }

    fn list_prepared(&self, reply: Reply<Result<Vec<CoordinationId>, ParticipantError>>) {
        let inner = self.inner.clone();
        self.handle.spawn(async move {
            let ids = inner.list().await;
            reply.send(ids.map_err(|reason| inner.trouble("list what is prepared in", &reason)));
        });
    }

    fn forget(&self, ids: Vec<CoordinationId>) {
        let inner = self.inner.clone();
        let Some(scope) = inner.scope() else { return };
        self.handle.spawn(async move { delivery::forget(&inner, &scope, &ids).await });
    }

    fn close(&self) {
        let link = self.inner.link.clone();
        link.close();
        self.handle.spawn(async move { link.let_go().await });
    }
}
