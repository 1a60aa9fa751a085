//! A PostgreSQL database as a participant, by PREPARE TRANSACTION.
//!
//! Read it from here down: `voting` answers prepares with `prepare` (one flight of requests) or
//! `fetch` (reads); `delivery` commits and aborts; `decide` commits with the row that decides
//! (`decision_row`); `step` does one operation at once; `receipt`,
//! `marker` and `gid` remember. Below them `pool`, `session` are the connections, `values` and
//! `statement` what travels on them.
//! Not a query builder and not a journal. Invariants: nothing blocks the asking thread; whatever
//! this process does, PostgreSQL holds what was voted for until it is told the decision.

mod decide;
mod decision_row;
mod delivery;
mod fencing;
mod fetch;
mod forget;
mod gid;
mod marker;
mod outbox;
mod outbox_portion;
mod pool;
mod prepare;
mod receipt;
mod running;
mod session;
mod statement;
mod step;
mod values;
mod voting;
mod work;

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::timeout;

use crate::db::postgres::{Server, describe};
use crate::model::ids::{ClusterId, CoordinationId, StoreName};
use crate::model::operation::Operation;
use crate::model::outcome::{Acknowledgement, Vote};
use crate::model::request::CoordinationType;
use crate::model::step::StepAnswer;
use crate::model::value::Value;
use crate::protocol::Standing;
use crate::reply::Reply;

use self::forget::Forgetter;
use self::gid::{Gid, Scope};
pub use self::outbox::Outbox;
use self::pool::{Lease, Pool, Purpose};
use self::running::Running;

use super::last_resource::{DecideAsk, Deciding, LastResource, LastResourceUse, RowAsk};
use super::outbox::OutboxSink;
use super::{
    Abilities, DeliveryAsk, ExecuteAsk, Participant, ParticipantError, PrepareAsk, Rows, barrier,
};

const ATTACH_TIMEOUT: Duration = Duration::from_secs(30);
const LIST_TIMEOUT: Duration = Duration::from_secs(30);
const FETCH_TIMEOUT: Duration = Duration::from_secs(300);

/// A PostgreSQL database that takes part in coordinations.
pub struct PostgresStore {
    inner: Arc<Inner>,
    handle: Handle,
    has_outbox: bool,
    outbox: Mutex<Option<Outbox>>,
}

struct Inner {
    name: String,
    pool: Arc<Pool>,
    scope: Mutex<Option<Arc<Scope>>>,
    running: Arc<Running>,
    forgetter: Forgetter,
    /// Whether its server can tell later what became of a transaction.
    gives_receipts: AtomicBool,
    /// When it is the last resource of a coordination.
    usage: LastResourceUse,
    /// Since the rows of the barrier were purged.
    steps: AtomicU32,
}

impl PostgresStore {
    /// A store over the database that `dsn` names; its tasks run on `handle`'s runtime. Nothing is
    /// opened before it is attached or read.
    pub fn new(
        dsn: &str,
        name: &str,
        min_connections: usize,
        max_connections: usize,
        handle: Handle,
    ) -> Result<Self, ParticipantError> {
        if max_connections < 2 || min_connections > max_connections {
            return Err(ParticipantError::new(format!(
                "the PostgreSQL store '{name}' has min_connections={min_connections} and \
                 max_connections={max_connections}; give a max of at least 2, because a prepare \
                 may wait for another one's commit, and a min that is not above it"
            )));
        }
        let server = Server::parse(dsn, &format!("the PostgreSQL store '{name}'"))
            .map_err(|error| ParticipantError::new(error.to_string()))?;
        let inner = Inner {
            name: name.to_owned(),
            pool: Arc::new(Pool::new(server, name, min_connections, max_connections)),
            scope: Mutex::new(None),
            running: Arc::default(),
            forgetter: Forgetter::default(),
            gives_receipts: AtomicBool::new(false),
            usage: LastResourceUse::Never,
            steps: AtomicU32::new(0),
        };
        let (inner, outbox) = (Arc::new(inner), Mutex::default());
        Ok(Self { inner, handle, has_outbox: false, outbox })
    }

    /// The same with an outbox, which is served while a service has the store.
    #[must_use]
    pub fn with_outbox(mut self) -> Self {
        self.has_outbox = true;
        self
    }

    /// The same, as the last resource of coordinations where `usage` says so. One that always is
    /// needs no prepared transactions. To be said before a service has the store.
    #[must_use]
    pub fn with_last_resource(mut self, usage: LastResourceUse) -> Self {
        if let Some(inner) = Arc::get_mut(&mut self.inner) {
            inner.usage = usage;
        }
        self
    }

    /// Reads committed rows. A statement that writes is refused by the server.
    pub fn fetch(
        &self,
        statement: String,
        parameters: Vec<Value>,
        reply: Reply<Result<Rows, ParticipantError>>,
    ) {
        let inner = self.inner.clone();
        self.handle.spawn(async move {
            let rows = timeout(FETCH_TIMEOUT, inner.fetch(&statement, &parameters)).await;
            let rows = rows.unwrap_or_else(|_| Err("it took longer than 300 s".to_owned()));
            reply.send(rows.map_err(|reason| inner.trouble("fetch from", &reason)));
        });
    }
}

impl Inner {
    fn scope(&self) -> Option<Arc<Scope>> {
        self.scope.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn trouble(&self, verb: &str, reason: &str) -> ParticipantError {
        let (name, place) = (&self.name, &self.pool.server.label);
        ParticipantError::new(format!(
            "cannot {verb} the PostgreSQL store '{name}' ({place}): {reason}"
        ))
    }

    async fn attach(&self, has_outbox: bool) -> Result<(), String> {
        self.pool.warm().await?;
        let mut lease = self.pool.lease(Purpose::Delivery).await?;
        let must_prepare = self.usage != LastResourceUse::Always;
        let gives_receipts = marker::set_up(&lease.session().client, must_prepare).await?;
        if self.usage != LastResourceUse::Never {
            decision_row::set_up(&lease.session().client).await?;
        }
        self.gives_receipts.store(gives_receipts, Ordering::Relaxed);
        if has_outbox {
            let made = outbox::set_up(&lease.session().client).await;
            made.map_err(|error| format!("its table unanimity_outbox: {}", describe(&error)))?;
        }
        lease.clean();
        Ok(())
    }

    async fn fetch(&self, statement: &str, parameters: &[Value]) -> Result<Rows, String> {
        if let Some(refusal) = statement::refusal(statement) {
            return Err(refusal);
        }
        let mut lease = self.pool.lease(Purpose::Work).await?;
        fetch::rows(&mut lease, statement, parameters).await
    }

    async fn list(&self) -> Result<Vec<CoordinationId>, String> {
        let scope = self.scope().ok_or("it was not attached")?;
        let mut lease = self.pool.lease(Purpose::Delivery).await?;
        delivery::list(&mut lease, &scope).await
    }

    /// Carries out a delivery on a connection, within the ask's timeout.
    async fn deliver(
        &self,
        ask: &DeliveryAsk,
        act: impl AsyncFnOnce(&mut Lease, &Scope, &Gid) -> Acknowledgement,
    ) -> Acknowledgement {
        let Some(scope) = self.scope() else {
            return Acknowledgement::Unknown { message: "it was not attached".to_owned() };
        };
        let gid = scope.gid(&ask.id);
        let work = async {
            match self.pool.lease(Purpose::Delivery).await {
                Ok(mut lease) => act(&mut lease, &scope, &gid).await,
                Err(message) => Acknowledgement::Unknown { message },
            }
        };
        timeout(ask.timeout, work).await.unwrap_or_else(|_| Acknowledgement::Unknown {
            message: format!("{} did not answer in time", self.pool.server.label),
        })
    }

    async fn step(self: &Arc<Self>, ask: &ExecuteAsk) -> StepAnswer {
        match self.scope() {
            Some(scope) => step::step(self, &scope, ask).await,
            None => {
                let name = &self.name;
                barrier::try_again(format!("the PostgreSQL store '{name}' was not attached"))
            }
        }
    }

    /// Rows too many are harmless, so this may fail.
    async fn purge_now_and_then(&self) {
        let steps = self.steps.fetch_add(1, Ordering::Relaxed) + 1;
        if !steps.is_multiple_of(barrier::PURGE_EVERY) {
            return;
        }
        if let Ok(mut lease) = self.pool.lease(Purpose::Work).await
            && step::purge(&lease.session().client).await.is_ok()
        {
            lease.clean();
        }
    }

    async fn abort(&self, ask: &DeliveryAsk) -> Acknowledgement {
        if let Some(ended) = self.running.stop(&ask.id)
            && timeout(ask.timeout, ended).await.is_err()
        {
            let message = "its prepare runs and does not stop".to_owned();
            return Acknowledgement::Unknown { message };
        }
        self.deliver(ask, async |lease: &mut Lease, scope: &Scope, gid: &Gid| {
            delivery::abort(lease, scope, gid, ask).await
        })
        .await
    }
}

impl Participant for PostgresStore {
    fn abilities(&self) -> Abilities {
        Abilities { lists_prepared: true, single_writer: false }
    }

    fn missing_for(&self, kind: CoordinationType) -> Option<&'static str> {
        barrier::missing_for(kind)
    }

    fn can_compensate(&self, operation: &Operation) -> bool {
        barrier::can_compensate(operation, &["execute"], "statement")
    }

    /// Blocks; not to be called from a thread of the runtime.
    fn attach(&self, cluster: &ClusterId, name: &StoreName) -> Result<(), ParticipantError> {
        let inner = &self.inner;
        let attach = async { timeout(ATTACH_TIMEOUT, inner.attach(self.has_outbox)).await };
        let set_up = self.handle.block_on(attach);
        let set_up = set_up.unwrap_or_else(|_| Err("it did not answer within 30 s".to_owned()));
        set_up.map_err(|reason| inner.trouble("use", &reason))?;
        let scope = Arc::new(Scope::new(cluster, name));
        *inner.scope.lock().unwrap_or_else(PoisonError::into_inner) = Some(scope);
        Ok(())
    }

    fn open_outbox(&self, sink: Arc<dyn OutboxSink>) {
        if self.has_outbox {
            let served = Some(self.serve_outbox(sink));
            *self.outbox.lock().unwrap_or_else(PoisonError::into_inner) = served;
        }
    }

    fn prepare(&self, ask: PrepareAsk, reply: Reply<Vote>) {
        let inner = self.inner.clone();
        self.handle.spawn(async move { reply.send(voting::vote(&inner, &ask).await) });
    }

    fn commit(&self, ask: DeliveryAsk, reply: Reply<Acknowledgement>) {
        let inner = self.inner.clone();
        self.handle.spawn(async move {
            let act = async |lease: &mut Lease, scope: &Scope, gid: &Gid| {
                delivery::commit(lease, scope, gid, ask.receipt.as_ref()).await
            };
            reply.send(inner.deliver(&ask, act).await);
        });
    }

    fn abort(&self, ask: DeliveryAsk, reply: Reply<Acknowledgement>) {
        let inner = self.inner.clone();
        self.handle.spawn(async move { reply.send(inner.abort(&ask).await) });
    }

    fn execute(&self, ask: ExecuteAsk, reply: Reply<StepAnswer>) {
        let inner = self.inner.clone();
        self.handle.spawn(async move {
            reply.send(inner.step(&ask).await);
            inner.purge_now_and_then().await;
        });
    }

    fn list_prepared(&self, reply: Reply<Result<Vec<CoordinationId>, ParticipantError>>) {
        let inner = self.inner.clone();
        self.handle.spawn(async move {
            let ids = timeout(LIST_TIMEOUT, inner.list()).await;
            let ids = ids.unwrap_or_else(|_| Err("it did not answer within 30 s".to_owned()));
            reply.send(ids.map_err(|reason| inner.trouble("list what is prepared in", &reason)));
        });
    }

    fn forget(&self, ids: Vec<CoordinationId>) {
        let inner = self.inner.clone();
        let Some(scope) = inner.scope() else { return };
        if inner.forgetter.add(ids) {
            self.handle.spawn(async move {
                let has_rows = inner.usage != LastResourceUse::Never;
                inner.forgetter.run(&inner.pool, &scope, has_rows).await;
            });
        }
    }

    fn last_resource(&self) -> Option<&dyn LastResource> {
        Some(self)
    }

    fn close(&self) {
        // Its task ends by itself when the handle is gone.
        drop(self.outbox.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.inner.pool.close();
    }
}

impl LastResource for PostgresStore {
    fn usage(&self) -> LastResourceUse {
        self.inner.usage
    }

    fn only_reads(&self, operation: &Operation) -> bool {
        let statement = operation.body.get("statement").and_then(Value::as_text);
        statement.is_some_and(statement::is_read)
    }

    fn decide(&self, ask: DecideAsk, reply: Reply<Deciding>) {
        let inner = self.inner.clone();
        self.handle.spawn(async move { reply.send(decide::decide(&inner, &ask).await) });
    }

    fn forbid(&self, ask: RowAsk, reply: Reply<Standing>) {
        let inner = self.inner.clone();
        self.handle.spawn(async move { reply.send(decision_row::forbid(&inner, &ask).await) });
    }

    fn read(&self, ask: RowAsk, reply: Reply<Standing>) {
        let inner = self.inner.clone();
        self.handle.spawn(async move { reply.send(decision_row::read(&inner, &ask).await) });
    }
}

impl Drop for PostgresStore {
    fn drop(&mut self) {
        self.close();
    }
}
