//! Real PostgreSQL servers for tests, each in a temporary folder on a free loopback port.
//!
//! Not a mock. A server refuses to run as root, so root starts it as an unprivileged user.
//! A small shell watches over each server: when its input ends, because the test process ended
//! in whatever way, it stops the server and removes the folder.
//! Invariant: one shared server per test process, a fresh database for each test.

use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio_postgres::{NoTls, SimpleQueryMessage};

const SETTINGS: &[&str] =
    &["fsync=on", "listen_addresses=127.0.0.1", "shared_buffers=32MB", "max_connections=300"];

/// Waits for a line; "keep <signal>" stops the server and keeps its folder, the end of the input
/// stops it and removes the folder.
const WATCH: &str = r#"
folder=$1; shift
"$@" >>"$folder/log" 2>&1 &
pid=$!; exec 2>/dev/null
read -r verb signal
if [ "$verb" = keep ]; then kill "-$signal" $pid; wait $pid; exit 0; fi
kill -QUIT $pid; wait $pid; rm -rf "$folder"
"#;

/// A server.
pub(crate) struct PostgresCluster {
    folder: PathBuf,
    port: u16,
    prepared_max: u32,
    watch: Option<Child>,
}

impl PostgresCluster {
    /// The one that the tests of this process share.
    pub(crate) fn shared() -> &'static Self {
        static SHARED: OnceLock<PostgresCluster> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(64))
    }

    /// A server of its own.
    pub(crate) fn start(prepared_max: u32) -> Self {
        let folder = tempfile::Builder::new().prefix("unanimity-pg-").tempdir().unwrap().keep();
        if let Some(user) = unprivileged() {
            let status = Command::new("chown").arg(&user).arg(&folder).status().unwrap();
            assert!(status.success(), "chown to {user} failed");
        }
        let data = folder.join("data");
        let initdb = as_server(&binary("initdb"))
            .args(["-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync", "-D"])
            .arg(&data)
            .current_dir("/")
            .output()
            .unwrap();
        assert!(initdb.status.success(), "{}", String::from_utf8_lossy(&initdb.stderr));
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut cluster = Self { folder, port, prepared_max, watch: None };
        cluster.resume();
        cluster
    }

    /// Stops it as `pg_ctl stop -m fast` does, and keeps the data.
    pub(crate) fn stop(&mut self) {
        self.end("INT");
    }

    /// Stops it as a crash would: without a checkpoint, to be recovered at the next start.
    pub(crate) fn crash(&mut self) {
        self.end("QUIT");
    }

    fn end(&mut self, signal: &str) {
        let mut watch = self.watch.take().expect("the server runs");
        let mut input = watch.stdin.take().expect("the watch has an input");
        writeln!(input, "keep {signal}").unwrap();
        assert!(watch.wait().unwrap().success());
    }

    /// Starts it again on the same port and data.
    pub(crate) fn resume(&mut self) {
        let mut server = as_server(&binary("postgres"));
        server.arg("-D").arg(self.folder.join("data"));
        for setting in SETTINGS {
            server.args(["-c", setting]);
        }
        server.args(["-c", &format!("max_prepared_transactions={}", self.prepared_max)]);
        server.args(["-c", &format!("port={}", self.port)]);
        server.args(["-c", &format!("unix_socket_directories={}", self.folder.display())]);
        let mut watch = Command::new("sh");
        watch.args(["-c", WATCH, "watch"]).arg(&self.folder);
        watch.arg(server.get_program()).args(server.get_args());
        watch.current_dir("/").stdin(Stdio::piped()).stdout(Stdio::null());
        self.watch = Some(watch.spawn().unwrap());
        self.wait_until_ready();
    }

    fn wait_until_ready(&self) {
        let until = Instant::now() + Duration::from_secs(60);
        let status = self.folder.join("data/postmaster.pid");
        while Instant::now() < until {
            let text = std::fs::read_to_string(&status).unwrap_or_default();
            if text.lines().nth(7).is_some_and(|line| line.trim() == "ready") {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let log = std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        panic!("the server did not start:\n{log}");
    }

    /// Where it listens.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// How to reach a database of it.
    pub(crate) fn dsn(&self, database: &str) -> String {
        format!("postgresql://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// A fresh database; its name.
    pub(crate) fn create_database(&self) -> String {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("test_{}", COUNT.fetch_add(1, Ordering::Relaxed));
        self.run("postgres", &format!("CREATE DATABASE {name}"));
        name
    }

    /// Runs statements in a database; all columns of all rows as text.
    pub(crate) fn run(&self, database: &str, text: &str) -> Vec<Vec<Option<String>>> {
        let dsn = self.dsn(database);
        let text = text.to_owned();
        // On a thread of its own: a test may be inside a runtime already.
        let work = std::thread::spawn(move || {
            Runtime::new().unwrap().block_on(async {
                let (client, connection) = tokio_postgres::connect(&dsn, NoTls).await.unwrap();
                let carried = tokio::spawn(connection);
                let answers = client.simple_query(&text).await.unwrap();
                drop(client);
                carried.await.unwrap().unwrap();
                answers.iter().filter_map(row).collect()
            })
        });
        work.join().unwrap()
    }
}

impl Drop for PostgresCluster {
    fn drop(&mut self) {
        if let Some(mut watch) = self.watch.take() {
            drop(watch.stdin.take());
            let _ = watch.wait();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn row(answer: &SimpleQueryMessage) -> Option<Vec<Option<String>>> {
    let SimpleQueryMessage::Row(row) = answer else { return None };
    Some((0..row.len()).map(|index| row.get(index).map(str::to_owned)).collect())
}

/// The newest installed version of a server's program.
fn binary(name: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").map(|found| {
        let mut all: Vec<PathBuf> = found.flatten().map(|entry| entry.path()).collect();
        all.sort_by_key(|path| version(path));
        all
    });
    let candidates = versions.unwrap_or_default().into_iter().rev();
    let found = candidates.map(|version| version.join("bin").join(name)).find(|path| path.exists());
    found.unwrap_or_else(|| PathBuf::from(name))
}

fn version(path: &Path) -> u32 {
    path.file_name().and_then(|name| name.to_str()?.parse().ok()).unwrap_or(0)
}

/// The user as whom root runs a server; `None` when this is not root.
fn unprivileged() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let has_postgres = users.lines().any(|line| line.starts_with("postgres:"));
    Some(if has_postgres { "postgres" } else { "nobody" }.to_owned())
}

fn as_server(program: &Path) -> Command {
    let Some(user) = unprivileged() else { return Command::new(program) };
    let mut command = Command::new("setpriv");
    command.args([&format!("--reuid={user}"), "--clear-groups"]);
    let group = Command::new("id").args(["-g", &user]).output().unwrap().stdout;
    command.arg(format!("--regid={}", String::from_utf8_lossy(&group).trim()));
    command.arg(program);
    command
}
