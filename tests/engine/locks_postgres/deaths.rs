//! Holders that die, connections that break, servers that end or refuse.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use unanimity::locks::LockMode::Exclusive;
use unanimity::locks::postgres::{PostgresLockManager, PostgresLockOptions};
use unanimity::locks::{LockAsk, LockError};

use super::{A_WHILE, House, PATIENCE, Process, answer, ask, at_once, count, runtime};
use crate::support::postgres::PostgresCluster;
use crate::support::proxy::Proxy;

const DSN: &str = "UNANIMITY_TEST_LOCK_DSN";
const SHORT: Duration = Duration::from_millis(1_500);

/// Not a claim: what the killed process of the tests below does. Without its variable it is done at
/// once.
#[test]
fn locks_postgres_child_that_holds_and_waits() {
    let Ok(dsn) = std::env::var(DSN) else { return };
    let process = Process::on(&dsn, PostgresLockOptions::default());
    process.acquire(ask("r", Exclusive, "child")).unwrap();
    let (_, _wait) = process.begin(ask("held by parent", Exclusive, "child"));
    println!("\nholds");
    std::thread::sleep(PATIENCE);
}

/// A real second process, which holds `r`.
fn child(dsn: &str) -> Child {
    let name = "locks_postgres::deaths::locks_postgres_child_that_holds_and_waits";
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(DSN, dsn)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line == "holds"), "the child holds its lock");
    child
}

#[test]
fn locks_postgres_a_killed_holder_frees_its_locks_and_its_place_in_the_queue() {
    let house = House::open();
    let process = house.manager();
    let own = process.acquire(ask("held by parent", Exclusive, "parent")).unwrap();
    let mut child = child(&house.dsn());
    house.wait_for("waits", "lock_wait_queue", 1);
    let (_, wait) = process.wait(&house, ask("r", Exclusive, "next"));
    let (_, behind) = process.wait(&house, ask("held by parent", Exclusive, "other"));
    child.kill().unwrap();
    let killed = Instant::now();
    let grant = answer(&wait).unwrap();
    assert!(
        killed.elapsed() < Duration::from_secs(5),
        "half of the timeout: {:?}",
        killed.elapsed()
    );
    child.wait().unwrap();
    process.release(&grant, "next");
    process.release(&own, "parent");
    answer(&behind).unwrap();
    house.wait_for("sessions", "lock_sessions", 1);
}

#[test]
fn locks_postgres_a_holder_that_is_cut_off_hears_it_by_its_own_clock_before_another_is_granted() {
    let house = House::open();
    let proxy = Proxy::before(house.cluster.port());
    let through = house.dsn().replace(&house.cluster.port().to_string(), &proxy.port.to_string());
    let options = PostgresLockOptions { session_timeout: SHORT, ..PostgresLockOptions::default() };
    let cut_off = Process::on(&through, options);
    let other = house.manager_with_timeout(SHORT);
    let grant = cut_off.acquire(ask("r", Exclusive, "a")).unwrap();
    let (_, wait) = other.wait(&house, ask("r", Exclusive, "b"));
    proxy.close();
    let next = answer(&wait).unwrap();
    let lost = cut_off.lost();
    assert_eq!(lost.len(), 1, "told before the next was granted");
    assert!(lost[0].2.contains("heartbeat"), "{}", lost[0].2);
    assert!(next.fencing_token > grant.fencing_token);
}

#[test]
fn locks_postgres_connections_that_the_server_ends_cost_no_lock_and_no_place_in_the_queue() {
    let house = House::open();
    let (one, other) = (house.manager(), house.manager());
    let grant = one.acquire(ask("r", Exclusive, "a")).unwrap();
    let (_, first) = other.wait(&house, ask("r", Exclusive, "b"));
    let (_, second) = one.wait(&house, ask("r", Exclusive, "c"));
    for _ in 0..3 {
        let others = "pg_terminate_backend(pid) FROM pg_stat_activity \
                      WHERE datname = current_database() AND pid <> pg_backend_pid()";
        house.cluster.run(&house.database, &format!("SELECT {others}"));
        assert!(one.acquire(at_once("r", Exclusive, "d")).is_err(), "still held");
    }
    assert!(one.lost().is_empty());
    assert!(one.release(&grant, "a"));
    let grant = answer(&first).unwrap();
    assert!(other.release(&grant, "b"));
    answer(&second).unwrap();
    assert_eq!(house.count("lock_sessions"), 2);
}

fn restart(cluster: &mut PostgresCluster, is_crash: bool) {
    if is_crash {
        cluster.crash();
    } else {
        cluster.stop();
    }
    cluster.resume();
}

#[test]
fn locks_postgres_a_restarted_server_keeps_holders_and_waiters_in_their_order() {
    let mut cluster = PostgresCluster::start(0);
    let dsn = cluster.dsn("postgres");
    let (one, other) = (
        Process::on(&dsn, PostgresLockOptions::default()),
        Process::on(&dsn, PostgresLockOptions::default()),
    );
    let mut token = 0;
    for (round, is_crash) in [false, true].into_iter().enumerate() {
        let name = format!("r{round}");
        let grant = one.acquire(ask(&name, Exclusive, "a")).unwrap();
        assert!(grant.fencing_token > token);
        let waits: Vec<_> = ["b", "c"]
            .into_iter()
            .enumerate()
            .map(|(index, by)| {
                let (_, wait) = other.begin(ask(&name, Exclusive, by));
                while count(&cluster, "postgres", "lock_wait_queue") as usize <= index {
                    std::thread::sleep(Duration::from_millis(5));
                }
                wait
            })
            .collect();
        restart(&mut cluster, is_crash);
        assert!(one.acquire(at_once(&name, Exclusive, "d")).is_err(), "it is still held");
        assert!(waits.iter().all(|wait| wait.try_recv().is_err()));
        assert!(one.release(&grant, "a"));
        token = grant.fencing_token;
        for (wait, by) in waits.iter().zip(["b", "c"]) {
            let next = answer(wait).unwrap();
            assert!(next.fencing_token > token);
            token = next.fencing_token;
            assert!(other.release(&next, by));
        }
        assert!(one.lost().is_empty() && other.lost().is_empty());
    }
}

#[test]
fn locks_postgres_while_the_server_is_away_waits_end_in_time_and_holders_lose_their_locks() {
    let mut cluster = PostgresCluster::start(0);
    let dsn = cluster.dsn("postgres");
    let options = PostgresLockOptions { session_timeout: SHORT, ..PostgresLockOptions::default() };
    let process = Process::on(&dsn, options);
    let grant = process.acquire(ask("r", Exclusive, "a")).unwrap();
    let timeout = Some(Duration::from_secs(1));
    let (_, wait) = process.begin(LockAsk { timeout, ..ask("r", Exclusive, "b") });
    let (_, long) = process.begin(ask("r", Exclusive, "c"));
    while count(&cluster, "postgres", "lock_wait_queue") < 2 {
        std::thread::sleep(Duration::from_millis(5));
    }
    cluster.stop();
    let began = Instant::now();
    let refused = answer(&wait).unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(4));
    assert!(matches!(refused, LockError::Unavailable { .. } | LockError::Timeout { .. }));
    let refused = process
        .acquire(LockAsk { timeout: Some(A_WHILE), ..ask("new", Exclusive, "a") })
        .unwrap_err();
    assert!(matches!(refused, LockError::Unavailable { .. }), "{refused}");
    assert!(refused.to_string().contains(&format!("127.0.0.1:{}", cluster.port())), "{refused}");
    process.wait_until_lost(2 * SHORT);
    cluster.resume();
    // The waiter that has time was asked for again, in a new session.
    let next = answer(&long).unwrap();
    assert!(next.fencing_token > grant.fencing_token);
    assert_eq!(count(&cluster, "postgres", "distributed_locks"), 1);
    assert_eq!(count(&cluster, "postgres", "lock_wait_queue"), 0);
}

fn refusal(dsn: &str, timeout: Option<Duration>) -> (String, Duration) {
    let process = Process::on(dsn, PostgresLockOptions::default());
    let began = Instant::now();
    let refused = process.acquire(LockAsk { timeout, ..ask("r", Exclusive, "a") }).unwrap_err();
    assert!(matches!(refused, LockError::Unavailable { .. }), "{refused}");
    (refused.to_string(), began.elapsed())
}

#[test]
fn locks_postgres_a_wrong_password_or_database_is_said_at_once_and_a_wrong_port_within_the_timeout()
{
    let cluster = PostgresCluster::start(0);
    cluster.run(
        "postgres",
        "CREATE ROLE guarded LOGIN PASSWORD 'right'; DO $$ BEGIN EXECUTE format('COPY (VALUES \
         (''host all guarded 127.0.0.1/32 scram-sha-256''), \
         (''host all all 127.0.0.1/32 trust'')) TO %L', current_setting('hba_file')); END $$; \
         SELECT pg_reload_conf()",
    );
    let port = cluster.port();
    let dsn = |user: &str, port: u16, database: &str| {
        format!("postgresql://{user}@127.0.0.1:{port}/{database}")
    };
    let wrong = dsn("guarded:not-right", port, "postgres");
    // The server reads its rules anew when it comes to it.
    let until = Instant::now() + PATIENCE;
    while Process::on(&wrong, PostgresLockOptions::default())
        .acquire(at_once("r", Exclusive, "a"))
        .is_ok_and(|_| Instant::now() < until)
    {}
    for (dsn, word) in [
        (wrong, "password authentication failed"),
        (dsn("guarded", port, "postgres"), "password missing"),
        (dsn("postgres", port, "nowhere"), "\"nowhere\" does not exist"),
    ] {
        let (told, took) = refusal(&dsn, None);
        assert!(told.contains(word) && told.contains(&format!("127.0.0.1:{port}")), "{told}");
        assert!(!told.contains("not-right"), "{told}");
        assert!(took < Duration::from_secs(5), "{took:?}");
    }
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (told, took) = refusal(&dsn("postgres", free, "postgres"), Some(Duration::from_secs(1)));
    assert!(told.contains("refused") && told.contains(&format!("127.0.0.1:{free}")), "{told}");
    assert!(took < Duration::from_secs(3), "{took:?}");
}

#[test]
fn locks_postgres_a_server_that_takes_connections_and_says_nothing_is_told_within_the_timeout() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let dsn = format!("postgresql://postgres@127.0.0.1:{port}/postgres");
    let (told, took) = refusal(&dsn, Some(Duration::from_secs(1)));
    assert!(told.contains(&format!("127.0.0.1:{port}")), "{told}");
    assert!(took < Duration::from_secs(3), "{took:?}");
}

#[test]
fn locks_postgres_a_newer_schema_is_refused_and_left_alone() {
    let house = House::open();
    drop(house.manager().acquire(ask("r", Exclusive, "a")).unwrap());
    house.cluster.run(&house.database, "UPDATE unanimity_schema SET version = 99");
    let (told, _) = refusal(&house.dsn(), None);
    assert!(told.contains("schema 99"), "{told}");
    assert_eq!(house.count("unanimity_schema WHERE version = 99"), 1);
}

#[test]
fn locks_postgres_eight_processes_that_start_at_once_make_the_tables_once() {
    let house = House::open();
    std::thread::scope(|scope| {
        for index in 0..8 {
            let house = &house;
            scope.spawn(move || {
                house.manager().acquire(ask("r", Exclusive, &format!("p{index}"))).unwrap();
            });
        }
    });
    assert_eq!(house.count("unanimity_schema"), 1);
}

#[test]
fn locks_postgres_options_and_dsns_that_cannot_be_are_refused_by_name() {
    let new = |dsn: &str, options| {
        let made = PostgresLockManager::new(dsn, options, runtime().handle().clone());
        made.err().map(|error| error.to_string()).unwrap_or_default()
    };
    let good = PostgresLockOptions::default();
    let told = new("postgresql://ann:secret@db:secret/x", good);
    assert!(told.contains("the dsn of the PostgreSQL lock manager"), "{told}");
    assert!(!told.contains("cret"), "{told}");
    let options = PostgresLockOptions { session_timeout: Duration::from_millis(10), ..good };
    assert!(new("postgresql://db/x", options).contains("session_timeout"));
}
