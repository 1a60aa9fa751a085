//! Every setting there is: its name, what it takes, its default, what it does. Data only.
//!
//! The names and defaults of the original design stand as it has them; ours are beside them. The
//! file is over 400 lines because it is one table. Invariants: no key twice, no key that is also a
//! section, no two keys with one variable of the environment (`tests` holds these).

use crate::model::value::Value;

/// What a key takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// `true` or `false`.
    Truth,
    /// A whole number between these, both included.
    Whole(i64, i64),
    /// A number between these, both included.
    Number(f64, f64),
    /// Text that is not empty.
    Text,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Texts in order.
    Texts,
}

/// What of a value people may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secrecy {
    /// All.
    Open,
    /// All but a password inside.
    Address,
    /// Nothing.
    Secret,
}

/// One setting.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Key {
    /// Its name with its sections, such as `consensus.election_timeout_ms`.
    pub path: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// Its default; `Null` where there is none.
    pub default: Standard,
    /// What of it is shown.
    pub secrecy: Secrecy,
    /// Whether `null` is a value of its own, and not the same as leaving it out.
    pub takes_null: bool,
    /// What it does, a sentence.
    pub about: &'static str,
}

/// A default, as a constant can have it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Standard {
    /// None: where it is left out, what `about` says is done.
    Nothing,
    /// A truth value.
    Truth(bool),
    /// A whole number.
    Whole(i64),
    /// A number.
    Number(f64),
    /// A text.
    Text(&'static str),
    /// A list without entries.
    Empty,
}

impl Standard {
    /// It as a value.
    pub fn value(self) -> Value {
        match self {
            Self::Nothing => Value::Null,
            Self::Truth(truth) => Value::Bool(truth),
            Self::Whole(number) => Value::Int(number),
            Self::Number(number) => Value::Float(number),
            Self::Text(text) => Value::Text(text.to_owned()),
            Self::Empty => Value::List(Vec::new()),
        }
    }
}

impl Key {
    const fn new(path: &'static str, kind: Kind, default: Standard, about: &'static str) -> Self {
        Self { path, kind, default, secrecy: Secrecy::Open, takes_null: false, about }
    }

    const fn secret(self) -> Self {
        Self { secrecy: Secrecy::Secret, ..self }
    }

    const fn address(self) -> Self {
        Self { secrecy: Secrecy::Address, ..self }
    }

    const fn or_null(self) -> Self {
        Self { takes_null: true, ..self }
    }

    /// The variable of the environment that gives it.
    pub fn variable(&self) -> String {
        format!("UNANIMITY_{}", self.path.replace('.', "_").to_ascii_uppercase())
    }

    /// Whether it may be given as the name of a file that holds it, by `<key>_file`.
    pub fn takes_file(&self) -> bool {
        self.secrecy != Secrecy::Open
    }
}

/// The longest time that is taken, a year, in seconds.
const LONG: f64 = 86_400.0 * 365.0;
const SECONDS: Kind = Kind::Number(0.001, LONG);
const MILLISECONDS: Kind = Kind::Whole(1, 86_400_000);
const COUNT: Kind = Kind::Whole(1, 1_000_000);
const RATE: Kind = Kind::Number(0.0, 1.0);

use Standard::{Empty, Nothing, Number, Text, Truth, Whole};

/// All of them: those of the original design in its order, then ours.
pub const KEYS: &[Key] = &[
    Key::new(
        "database.connection_string",
        Kind::Text,
        Nothing,
        "The PostgreSQL database that keeps the journal, where `journal` does not say otherwise; \
         also that of locks and events in PostgreSQL.",
    )
    .address(),
    Key::new(
        "database.connection_pool.min_connections",
        Kind::Whole(0, 10_000),
        Whole(5),
        "How many connections of the journal to its database stay open when there is nothing to \
         do; three always do.",
    ),
    Key::new(
        "database.connection_pool.max_connections",
        Kind::Whole(3, 10_000),
        Whole(20),
        "How many connections the journal opens to its database at most.",
    ),
    Key::new(
        "database.connection_pool.idle_timeout_seconds",
        SECONDS,
        Whole(300),
        "When a connection above the least, which nobody used for so long, is closed.",
    ),
    Key::new(
        "consensus.algorithm",
        Kind::Choice(&["raft", "local"]),
        Nothing,
        "Who decides: `raft`, the cluster, or `local`, the journal. Left out: `raft` where \
         `cluster_nodes` names any, else `local`.",
    ),
    Key::new(
        "consensus.cluster_nodes",
        Kind::Texts,
        Empty,
        "The nodes that the cluster begins with, `host:port` or `id=host:port`, the same list at \
         each.",
    ),
    Key::new(
        "consensus.election_timeout_ms",
        MILLISECONDS,
        Whole(5_000),
        "How long a node hears nothing of a leader before it stands itself.",
    ),
    Key::new(
        "consensus.heartbeat_interval_ms",
        MILLISECONDS,
        Whole(1_000),
        "How often a leader says that it lives; at most half of the election timeout.",
    ),
    Key::new(
        "consensus.log_compaction_threshold",
        Kind::Whole(1, 1_000_000_000),
        Whole(10_000),
        "After how many entries of the log a snapshot takes their place.",
    ),
    Key::new(
        "lock_manager.backend",
        Kind::Choice(&["zookeeper", "postgres", "raft", "local"]),
        Nothing,
        "Who keeps the locks: a server, the cluster, or this process (`local`). Left out: \
         `zookeeper` where `zookeeper.connection_string` is given, else `local`.",
    ),
    Key::new(
        "lock_manager.zookeeper.connection_string",
        Kind::Text,
        Nothing,
        "The ZooKeeper servers, `host:port,host:port`, with `/path` behind them for a chroot.",
    ),
    Key::new(
        "lock_manager.zookeeper.session_timeout_ms",
        MILLISECONDS,
        Whole(30_000),
        "After how long a silence a process loses its locks in ZooKeeper.",
    ),
    Key::new(
        "lock_manager.zookeeper.lock_root_path",
        Kind::Text,
        Text("/memory_os/locks"),
        "The node in ZooKeeper under which the locks stand.",
    ),
    Key::new(
        "lock_manager.deadlock_detection.enabled",
        Kind::Truth,
        Truth(true),
        "Whether deadlocks are looked for; otherwise they end by the timeouts of those who wait.",
    ),
    Key::new(
        "lock_manager.deadlock_detection.detection_interval_seconds",
        Kind::Number(0.01, LONG),
        Whole(10),
        "How often deadlocks over several processes are looked for while somebody waits, beside \
         the look when a wait begins.",
    ),
    Key::new(
        "lock_manager.deadlock_detection.max_wait_time_seconds",
        SECONDS,
        Whole(300),
        "The longest that anybody waits for a lock.",
    ),
    Key::new(
        "timeouts.default_transaction_timeout_seconds",
        SECONDS,
        Whole(300),
        "The timeout of what `service.transaction()` begins without one.",
    ),
    Key::new(
        "timeouts.prepare_phase_timeout_seconds",
        SECONDS,
        Whole(30),
        "How long the stores may take for their votes.",
    ),
    Key::new(
        "timeouts.commit_phase_timeout_seconds",
        SECONDS,
        Whole(60),
        "How long a caller waits for stores to acknowledge a decision that stands; the delivery \
         goes on until they have.",
    ),
    Key::new(
        "timeouts.lock_acquisition_timeout_seconds",
        SECONDS,
        Whole(30),
        "How long a strong coordination waits for its locks.",
    ),
    Key::new(
        "performance.max_concurrent_coordinations",
        COUNT,
        Whole(100),
        "How many coordinations run at once; more wait in order.",
    ),
    Key::new(
        "performance.coordination_worker_threads",
        Kind::Whole(1, 1_024),
        Whole(20),
        "How many threads run the methods of stores that are plain functions, at most; the \
         engine's own are as many, and never more than two.",
    ),
    Key::new(
        "performance.batch_size",
        COUNT,
        Whole(50),
        "How many records the journal makes durable at once, at most.",
    ),
    Key::new(
        "performance.batch_timeout_ms",
        Kind::Whole(0, 60_000),
        Whole(100),
        "How long a record that nobody waits for may wait for others, at most; one that somebody \
         waits for is never held back.",
    ),
    Key::new(
        "monitoring.metrics_enabled",
        Kind::Truth,
        Truth(true),
        "Whether the service counts and measures, and tells the collector that it is given.",
    ),
    Key::new(
        "monitoring.distributed_tracing_enabled",
        Kind::Truth,
        Truth(true),
        "Whether spans are made with OpenTelemetry. Left out, they are where the program has \
         imported it.",
    ),
    Key::new(
        "monitoring.trace_sampling_rate",
        RATE,
        Number(0.1),
        "The share of the coordinations outside of any trace that begin one; inside of one, the \
         trace says whether it is kept.",
    ),
    Key::new(
        "monitoring.alerts.high_failure_rate_threshold",
        RATE,
        Number(0.05),
        "The share of coordinations that may fail within `window_seconds` before an alert.",
    ),
    Key::new(
        "monitoring.alerts.high_latency_threshold_ms",
        Kind::Number(1.0, LONG * 1_000.0),
        Whole(5_000),
        "How long a coordination may take, from acceptance to its end, before it is slow; an alert \
         comes when more than one of twenty within `window_seconds` is.",
    ),
    Key::new(
        "monitoring.alerts.deadlock_rate_threshold_per_hour",
        Kind::Number(0.0, 1e9),
        Whole(10),
        "How many deadlocks an hour may have before an alert.",
    ),
    // Ours from here on.
    Key::new(
        "monitoring.alerts.enabled",
        Kind::Truth,
        Truth(true),
        "Whether the alert rules run; what needs a person is told all the same.",
    ),
    Key::new(
        "monitoring.alerts.in_doubt_age_threshold_seconds",
        SECONDS,
        Whole(60),
        "How old a coordination in doubt may get before an alert.",
    ),
    Key::new(
        "monitoring.alerts.undelivered_age_threshold_seconds",
        SECONDS,
        Whole(300),
        "How old a coordination that is decided may get without every store having it.",
    ),
    Key::new(
        "monitoring.alerts.parked_age_threshold_seconds",
        SECONDS,
        Whole(900),
        "How long something may be parked, after the alert that told of it, before another one.",
    ),
    Key::new(
        "monitoring.alerts.window_seconds",
        SECONDS,
        Whole(300),
        "Over how long failures and slow coordinations are counted.",
    ),
    Key::new(
        "monitoring.alerts.minimum_samples",
        COUNT,
        Whole(20),
        "How many coordinations have to end within `window_seconds` before their shares count.",
    ),
    Key::new(
        "monitoring.alerts.evaluation_interval_seconds",
        SECONDS,
        Whole(10),
        "How often the alert rules look.",
    ),
    Key::new(
        "monitoring.alerts.resolve_after_seconds",
        SECONDS,
        Whole(300),
        "How long the cause of an alert has to be away before it is told as resolved.",
    ),
    Key::new(
        "monitoring.alerts.repeat_interval_seconds",
        SECONDS,
        Whole(14_400),
        "How often an alert is told again while its cause lasts.",
    ),
    Key::new(
        "monitoring.alerts.webhook_url",
        Kind::Text,
        Nothing,
        "Where alerts are posted, as JSON; left out: they go to the log. `alerting_service=` goes \
         before it.",
    )
    .secret(),
    Key::new(
        "monitoring.alerts.webhook_secret",
        Kind::Text,
        Nothing,
        "What the posts to `webhook_url` are signed with.",
    )
    .secret(),
    Key::new(
        "journal",
        Kind::Text,
        Nothing,
        "Where decisions become durable: a path, `memory:`, or `postgresql://...`. Left out: the \
         cluster with `raft`, else `database.connection_string`, else `unanimity.db`.",
    )
    .address(),
    Key::new(
        "node_id",
        Kind::Text,
        Nothing,
        "Which of `consensus.cluster_nodes` this process is; `host:port` where the list gives no \
         id.",
    ),
    Key::new(
        "cluster",
        Kind::Text,
        Text("unanimity"),
        "The name of the cluster: nodes and data of another name are refused.",
    ),
    Key::new(
        "data_dir",
        Kind::Text,
        Nothing,
        "The folder of this node's log. Left out: in memory, which is for tests.",
    ),
    Key::new(
        "listen",
        Kind::Text,
        Nothing,
        "Where this node listens, `host:port`, when that is not where others find it.",
    ),
    Key::new(
        "secret",
        Kind::Text,
        Nothing,
        "By what the nodes of a cluster know each other, at least 16 bytes, the same everywhere; \
         or use `tls`.",
    )
    .secret(),
    Key::new(
        "tls.certificate",
        Kind::Text,
        Nothing,
        "The file of this node's certificate, in PEM.",
    ),
    Key::new("tls.key", Kind::Text, Nothing, "The file of the certificate's private key, in PEM."),
    Key::new(
        "tls.authority",
        Kind::Text,
        Nothing,
        "The file of the certificate that every node's is signed by, in PEM.",
    ),
    Key::new(
        "insecure",
        Kind::Truth,
        Truth(false),
        "Whether a cluster with neither `secret` nor `tls` may listen on more than loopback.",
    ),
    Key::new(
        "event_bus.backend",
        Kind::Choice(&["none", "in_process", "journal", "postgres", "nats"]),
        Text("none"),
        "What carries events: this process, a file beside the journal, PostgreSQL, or NATS.",
    ),
    Key::new(
        "event_bus.url",
        Kind::Text,
        Nothing,
        "The NATS servers, or the PostgreSQL database where it is another one than \
         `database.connection_string`.",
    )
    .address(),
    Key::new(
        "event_bus.queue_size",
        Kind::Whole(1, 1 << 31),
        Whole(10_000),
        "How many events may wait for one group in this process.",
    ),
    Key::new("event_bus.stream", Kind::Text, Text("UNANIMITY"), "The stream in NATS."),
    Key::new(
        "event_bus.partitions",
        Kind::Whole(1, 1 << 31),
        Whole(16),
        "Over how many partitions the stream in NATS is spread; fixed when it is made.",
    ),
    Key::new(
        "event_bus.replicas",
        Kind::Whole(1, 5),
        Whole(1),
        "How many servers of a NATS cluster keep the stream.",
    ),
    Key::new(
        "lock_manager.zookeeper.user",
        Kind::Text,
        Nothing,
        "With `password`: whose the nodes in ZooKeeper are, and nobody else's.",
    ),
    Key::new(
        "lock_manager.zookeeper.password",
        Kind::Text,
        Nothing,
        "The password of `user`, by ZooKeeper's digest scheme.",
    )
    .secret(),
    Key::new(
        "lock_manager.postgres.connection_string",
        Kind::Text,
        Nothing,
        "The database of the locks, where it is another one than `database.connection_string`.",
    )
    .address(),
    Key::new(
        "lock_manager.postgres.session_timeout_ms",
        Kind::Whole(300, 86_400_000),
        Whole(10_000),
        "After how long a silence a process loses its locks in PostgreSQL.",
    ),
    Key::new(
        "lock_manager.postgres.connections",
        Kind::Whole(1, 64),
        Whole(2),
        "How many connections ask for locks in PostgreSQL.",
    ),
    Key::new(
        "performance.max_queued_coordinations",
        COUNT,
        Whole(10_000),
        "How many coordinations wait for their turn; one more is refused.",
    ),
    Key::new(
        "recovery.recovery_interval_seconds",
        SECONDS,
        Whole(1),
        "How often the coordinations of processes that died are looked for.",
    ),
    Key::new(
        "recovery.orphan_interval_seconds",
        SECONDS,
        Whole(60),
        "How long prepared work that no record tells of is left alone.",
    ),
    Key::new(
        "retention.finished_days",
        Kind::Number(1e-6, 365_000.0),
        Whole(30),
        "How long finished coordinations are kept, in days; `null` for ever.",
    )
    .or_null(),
    Key::new(
        "retention.retention_interval_seconds",
        SECONDS,
        Whole(3_600),
        "How often what is older is removed.",
    ),
];
