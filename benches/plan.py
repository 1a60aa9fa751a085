"""What is measured: the workloads, their subjects, and the goals. Data only.

The first subject of a workload is ours; the others are its peers, run in turn with it. A goal is
a rate relative to a peer, for each number of callers, or a limit of one figure. Goals that were
set as rates were set where the peer had a known rate: they are written as the quotient of the two.
"""

from __future__ import annotations

from dataclasses import dataclass, field

CALLERS = (1, 16, 64)


@dataclass(frozen=True)
class Subject:
    """One program that is measured: its name and the module that runs it."""

    name: str
    module: str
    how: str
    """How it is set up, for the page."""
    arguments: tuple[str, ...] = ()
    sweeps: bool = False
    """Whether one run gives the rows of all numbers of callers."""
    per_round: bool = True
    """Whether it is run in every round, or once, because it takes its own median."""
    server: str = ""
    """Which server it needs, where the subjects of its workload do not need the same one."""
    is_apart: bool = False
    """Whether it runs in the environment of the peers that `make bench-peers` installs."""


@dataclass(frozen=True)
class Workload:
    """What is done, by whom, and how well it should go."""

    name: str
    title: str
    subjects: tuple[Subject, ...]
    callers: tuple[int, ...] = CALLERS
    count: int = 0
    server: str = ""
    """Which all need: one of those that `run.py` can start, such as "accounts" or "zookeeper"."""
    relative_goals: dict[str, dict[int, float]] = field(default_factory=dict)
    """By peer: at least so many times its rate, by callers."""
    limits: dict[tuple[str, str], float] = field(default_factory=dict)
    """By subject and figure: at most so much."""


_OURS = "unanimity"
_ASYNCPG = "asyncpg, one message, no log"
_SQLALCHEMY = "SQLAlchemy twophase"
_PLAIN_WRITES = "two plain writes"
_SHARED = "unanimity, PostgreSQL journal"
_KAZOO = "kazoo"
_FILE = "plain Python, appended file"
_ORIGINAL = "original design, not durable"
_RESTATE = "Restate"
_ETCD = "etcd, aetcd"

WORKLOADS = (
    Workload(
        "w1",
        "W1: a durable saga of three Python steps",
        (
            Subject(
                _OURS,
                "cases.w1",
                "one `Participant` with three async operations and their compensations, SQLite "
                "journal with fsync; before a step runs its intent is on disk, and its result "
                "before the next one's",
            ),
            Subject(
                "DBOS, SQLite",
                "cases.w1_dbos",
                "an async workflow of three async steps; its SQLite file in WAL mode, which is "
                "faster than its default, with synchronous=FULL; pool of 20 connections, its "
                "default. It records a step when it has run",
                is_apart=True,
            ),
            Subject(
                "DBOS, PostgreSQL",
                "cases.w1_dbos",
                "the same over PostgreSQL with fsync, psycopg, pool of 20",
                server="database",
                is_apart=True,
            ),
            Subject(
                "absurd",
                "cases.w1_absurd",
                "async tasks of three steps over PostgreSQL with fsync, on up to 4 connections "
                "that work on up to 4 tasks each and as many that spawn; nobody polls: callers and "
                "workers, in one process, wake each other. The schema is that of absurd 0.5.0",
                server="database",
                is_apart=True,
            ),
            Subject(
                _RESTATE,
                "cases.w1_restate",
                "a handler of three `run_typed` steps, served by hypercorn with the settings of "
                "Restate's pages, called over the ingress by aiohttp; the server is one node with "
                "its defaults, fsync on; CPU is that of callers and service, the server's is "
                "beside it",
                server="restate",
                is_apart=True,
            ),
        ),
        relative_goals={_RESTATE: {1: 1_200 / 193, 16: 9_000 / 561, 64: 20.0}},
    ),
    Workload(
        "w3",
        "W3: two-phase commit over two plain Python stores",
        (
            Subject(
                _OURS,
                "cases.w3",
                "stores with async methods that stage in a dict and can list what is prepared; "
                "SQLite journal with fsync; the stores declare that their list is this journal's "
                "alone, so that only the decision is waited for",
            ),
            Subject(
                "unanimity, stores cannot list",
                "cases.w3",
                "the same without `list_prepared_transactions`, so that the begin record is waited "
                "for too: two durable writes, one after the other",
            ),
            Subject(
                _ORIGINAL,
                "cases.w3",
                "the asyncio code of the design this package began with, event bus stubbed; a task "
                "and a `wait_for` for each ask; nothing is written",
            ),
            Subject(
                "original design, commit each",
                "cases.w3",
                "the same with one `sqlite3` commit (WAL, synchronous=FULL) for each decision, on "
                "the loop's thread",
            ),
            Subject(
                "original design, group commit",
                "cases.w3",
                "the same with a thread that commits all decisions that wait, as one",
            ),
        ),
        relative_goals={_ORIGINAL: {1: 4_000 / 21_000, 16: 25_000 / 26_000, 64: 35_000 / 27_000}},
    ),
    Workload(
        "w3n",
        "W3n: two-phase commit over two native MemoryStores",
        (
            Subject(
                _OURS,
                "cases.w3n",
                "two `MemoryStore`s, SQLite journal with fsync; `settled` also waits for the "
                "history's tables, which are written behind the log",
            ),
            Subject(
                _ORIGINAL,
                "cases.w3",
                "as in W3, over plain Python stores: it has no others",
            ),
        ),
        relative_goals={_ORIGINAL: {1: 4_500 / 21_000, 16: 40_000 / 26_000, 64: 80_000 / 27_000}},
    ),
    Workload(
        "w2",
        "W2: two-phase commit over two PostgreSQL databases",
        (
            Subject(
                _OURS,
                "cases.w2",
                "two `PostgresStore`s with `max_connections` 16 (2 at one caller), SQLite journal "
                "with fsync",
            ),
            Subject(
                _SHARED,
                "cases.w2",
                "the same with its journal in a schema of the first of the two databases",
            ),
            Subject(
                _ASYNCPG,
                "cases.w2",
                "BEGIN, UPDATE and PREPARE TRANSACTION as one simple-query message to both at "
                "once, then COMMIT PREPARED to both at once, on at most 32 pairs of connections; "
                "no coordinator's log, so a crash between the phases cannot be resolved",
            ),
            Subject(
                _SQLALCHEMY,
                "cases.w2",
                "`AsyncSession(twophase=True)` over two async engines of asyncpg, with at most 32 "
                "connections each; a session asks one database after the other; no log either",
            ),
        ),
        server="accounts",
        relative_goals={
            _ASYNCPG: {1: 0.8, 16: 0.9, 64: 1.0},
            _SQLALCHEMY: {1: 2.0, 16: 2.0, 64: 2.0},
        },
    ),
    Workload(
        "w2-last",
        "W2: a row in PostgreSQL and a file as one, with a last resource",
        (
            Subject(
                f"{_OURS}, last resource",
                "cases.w2_last",
                "a `PostgresStore` with `last_resource=True` and `max_connections` 16 (2 at one "
                "caller), a `FileStore`, SQLite journal with fsync",
            ),
            Subject(
                f"{_OURS}, both prepared",
                "cases.w2_last",
                "the same without a last resource",
            ),
            Subject(
                _PLAIN_WRITES,
                "cases.w2_last",
                "an UPDATE by an asyncpg pool of at most 32, then a file written beside, synced, "
                "renamed, its folder synced, in a thread; nothing tells after a crash which of the "
                "two was made",
            ),
        ),
        server="account",
        relative_goals={_PLAIN_WRITES: {16: 0.6}},
    ),
    Workload(
        "w4",
        "W4: taking and letting go of a lock, each caller its own",
        (
            Subject(_OURS, "cases.w4", "`LocalLockManager`, exclusive locks by name"),
            Subject(
                "asyncio.Lock",
                "cases.w4",
                "one `asyncio.Lock` for each caller: no names, modes, tokens or deadlocks",
            ),
        ),
        relative_goals={"asyncio.Lock": {64: 200_000 / 2_500_000}},
    ),
    Workload(
        "w4-hot",
        "W4: the same, all callers want one lock",
        (
            Subject(f"{_OURS}, hot key", "cases.w4", "`LocalLockManager`, one name"),
            Subject("asyncio.Lock, hot key", "cases.w4", "one `asyncio.Lock`"),
        ),
        callers=(16,),
    ),
    Workload(
        "w4-deadlock",
        "W4: from the wait that closes a circle to its refusal",
        (
            Subject(
                "unanimity, deadlock",
                "cases.w4",
                "`LocalLockManager`, a circle of two; the limit is for the 99th percentile",
            ),
        ),
        callers=(1,),
        limits={("unanimity, deadlock", "ms"): 5.0},
    ),
    Workload(
        "w4-postgres",
        "W4: locks in PostgreSQL, each caller its own",
        (
            Subject(
                "unanimity, PostgreSQL",
                "cases.w4",
                "`PostgresLockManager` with its defaults: modes, queue, fencing, deadlocks",
            ),
            Subject(
                "advisory locks",
                "cases.w4",
                "asyncpg, `pg_advisory_lock` and `pg_advisory_unlock`, a connection for each "
                "caller, at most 32; in memory, without modes, tokens or names",
            ),
        ),
        server="database",
        relative_goals={
            "advisory locks": {1: 2_000 / 6_600, 16: 10_000 / 27_000, 64: 15_000 / 30_000}
        },
    ),
    Workload(
        "w4-postgres-hot",
        "W4: the same, all callers want one lock",
        (
            Subject("unanimity, PostgreSQL, hot key", "cases.w4", "one name"),
            Subject("advisory locks, hot key", "cases.w4", "one number"),
        ),
        callers=(16,),
        server="database",
    ),
    Workload(
        "w4-zookeeper",
        "W4: locks in ZooKeeper, each caller its own",
        (
            Subject("unanimity, ZooKeeper", "cases.w4", "`ZooKeeperLockManager`, one session"),
            Subject(
                _KAZOO,
                "cases.w4",
                "kazoo's `Lock`, one client, a thread and a lock object for each caller",
            ),
        ),
        server="zookeeper",
        relative_goals={_KAZOO: {1: 1.3, 16: 2.0, 64: 3.0}},
    ),
    Workload(
        "w4-zookeeper-hot",
        "W4: the same, all callers want one lock",
        (
            Subject("unanimity, ZooKeeper, hot key", "cases.w4", "one name"),
            Subject("kazoo, hot key", "cases.w4", "one path"),
        ),
        callers=(16,),
        server="zookeeper",
    ),
    Workload(
        "w4-replicated",
        "W4: locks that three nodes keep, each caller its own, beside puts into etcd",
        (
            Subject(
                "unanimity, locks",
                "cases.w5",
                "`RaftLockManager` on the leader of three processes, with fsync; to take a lock "
                "and to let go of it are an entry of the log each, so two for each operation",
            ),
            Subject(
                _ETCD,
                "cases.w5",
                "etcd 3.4, three members, the settings of its package; one put for each operation",
                server="etcd",
            ),
        ),
        relative_goals={_ETCD: {1: 1.0, 16: 1.0, 64: 1.0}},
    ),
    Workload(
        "outbox",
        "Outbox: from a user's own transaction to the store that follows it",
        (
            Subject(
                "unanimity, outbox",
                "cases.outbox",
                "`PostgresStore(serves_outbox=True)` and a `Participant` of one async function, "
                "SQLite journal with fsync; each row is in the journal before it leaves the "
                "outbox, and its delivery is recorded",
            ),
            Subject(
                "by hand, asyncpg, no journal",
                "cases.outbox",
                "a task that listens, takes up to 100 rows with their locks, calls the function "
                "for each, deletes them and commits; no retry, and one that fails holds up all",
            ),
        ),
        server="database",
    ),
    Workload(
        "w5",
        "W5: decisions that three nodes keep, with fsync",
        (
            Subject(
                "unanimity, leader",
                "cases.w5",
                "`propose_coordination_decision`; three processes, the one that is measured is "
                "the leader; frames with a tag by a shared secret",
            ),
            Subject(
                "unanimity, follower",
                "cases.w5",
                "the same, and the one that is measured is a follower: it forwards",
            ),
            Subject(
                _ETCD,
                "cases.w5",
                "etcd 3.4, three members, the settings of its package; puts of 34 bytes through "
                "one client of `aetcd`",
                server="etcd",
            ),
        ),
        relative_goals={_ETCD: {1: 1_500 / 1_263, 16: 12_000 / 6_206, 64: 35_000 / 11_512}},
    ),
    Workload(
        "group-commit",
        "Group commit: records a second that are waited for",
        (
            Subject(
                "unanimity's journal, from Rust",
                "cases.journal",
                "`benches/journal.rs`: coordinations of two records that are waited for and one "
                "that is not; only the first two are counted here",
                sweeps=True,
            ),
            Subject(
                _FILE,
                "cases.group_commit_file",
                "a thread that takes the queue and does one `fdatasync` for each batch; records of "
                "300 bytes; nothing can be looked up in it",
            ),
        ),
        relative_goals={_FILE: {1: 1.0, 16: 1.0, 64: 1.0}},
    ),
    Workload(
        "sustained",
        "Sustained: many coordinations of W3n in one journal",
        (
            Subject(
                "unanimity, sustained",
                "cases.w3n",
                "as W3n, one journal from beginning to end. The rate is that of a million in a "
                "row; `settled` is the same until the tables of the history, which are written "
                "behind the log, have caught up too, and CPU is that until then. Before them and "
                "after them stands a burst of the usual length; the slowdown is what the finished "
                "ones cost the next",
                per_round=False,
            ),
        ),
        callers=(64,),
        count=1_000_000,
        limits={("unanimity, sustained", "slowdown"): 1.2},
    ),
    Workload(
        "recovery",
        "Recovery: coordinations left open by a killed process",
        (
            Subject(
                _OURS,
                "cases.recovery",
                "two Python stores over one SQLite file; half decided, half not; from `start()` "
                "until all are resolved in both stores, which is checked",
            ),
        ),
        callers=(1,),
        count=10_000,
        limits={(_OURS, "seconds"): 5.0},
    ),
    Workload(
        "raft-restart",
        "Restart: a node of three behind 100,000 decisions, after kill -9",
        (
            Subject(
                _OURS,
                "cases.raft_restart",
                "three processes, 64 callers at the leader, `log_compaction_threshold` 500, so "
                "that most is in a snapshot; a follower is killed; from the start of its process "
                "until it answers a read of what the cluster has",
            ),
            Subject(
                "unanimity, whole log",
                "cases.raft_restart",
                "the same with the default, 10,000: that many callers share entries, and nothing "
                "is compacted yet",
            ),
            Subject(
                "unanimity, all nodes",
                "cases.raft_restart",
                "all three are killed at once; until one decides again, with an election in it",
            ),
        ),
        callers=(1,),
        count=100_000,
        limits={(_OURS, "seconds"): 3.0, ("unanimity, whole log", "seconds"): 3.0},
    ),
    Workload(
        "raft-failover",
        "Failover: from kill -9 of the leader to the next decision",
        (
            Subject(
                _OURS,
                "cases.raft_failover",
                "three processes, `election_timeout_ms` 1000; a proposal at another node right "
                "behind the kill; five kills a run",
            ),
        ),
        callers=(1,),
        limits={(_OURS, "slowest_seconds"): 2.0},
    ),
    Workload(
        "start",
        "Start: import and installation",
        (
            Subject(
                "import and wheel",
                "cases.start",
                "a fresh interpreter with the import, less one without; median of 20",
                sweeps=True,
                per_round=False,
            ),
        ),
        callers=(0,),
        limits={
            ("import unanimity", "ms"): 60,
            ("import of the service and the engine, beside asyncio's", "ms"): 60,
            ("wheel", "mib"): 15,
            ("required dependencies", "count"): 0,
        },
    ),
)
