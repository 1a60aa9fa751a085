//! Real Redis servers for tests, each in a temporary folder on a free loopback port.
//!
//! Not a mock: Debian's package `redis-server`, without its service, or the program that
//! `UNANIMITY_TEST_REDIS_SERVER` names. A small shell watches over each server: when its input
//! ends, because the test process ended in whatever way, it kills the server and removes the
//! folder. The crate's own tests use this file too. Invariants: no server outlives its test
//! process; each test has databases of its own.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// "keep" ends the server and keeps its folder, the end of the input removes it.
const WATCH: &str = r#"
folder=$1; shift
"$@" >>"$folder/log" 2>&1 &
pid=$!; exec 2>/dev/null
read -r verb
if [ "$verb" = keep ]; then kill -KILL $pid; wait $pid; exit 0; fi
kill -KILL $pid; wait $pid; rm -rf "$folder"
"#;
const DATABASES: u32 = 2_000;

/// A server.
pub(crate) struct RedisServer {
    folder: PathBuf,
    port: u16,
    settings: Vec<String>,
    databases: AtomicU32,
    watch: Option<Child>,
}

impl RedisServer {
    /// The one that the tests of this process share. Its data are in memory where that is possible.
    pub(crate) fn shared() -> &'static Self {
        static SHARED: OnceLock<RedisServer> = OnceLock::new();
        let memory = Path::new("/dev/shm");
        SHARED.get_or_init(|| {
            if memory.is_dir() { Self::start_in(memory, &[]) } else { Self::start(&[]) }
        })
    }

    /// A server of its own, ready; with `appendfsync always` unless these settings say otherwise.
    pub(crate) fn start(settings: &[&str]) -> Self {
        Self::start_in(&std::env::temp_dir(), settings)
    }

    fn start_in(place: &Path, settings: &[&str]) -> Self {
        let folder =
            tempfile::Builder::new().prefix("unanimity-redis-").tempdir_in(place).unwrap().keep();
        std::fs::create_dir(folder.join("data")).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let settings = settings.iter().map(|word| (*word).to_owned()).collect();
        let mut server = Self { folder, port, settings, databases: AtomicU32::new(0), watch: None };
        server.resume();
        server
    }

    /// How to reach an empty database of it.
    pub(crate) fn fresh_url(&self) -> String {
        let database = self.databases.fetch_add(1, Ordering::Relaxed) % DATABASES;
        assert_eq!(self.ask_in(database, &["FLUSHDB"]), "OK");
        self.url(database)
    }

    /// How to reach a database of it.
    pub(crate) fn url(&self, database: u32) -> String {
        format!("redis://127.0.0.1:{}/{database}", self.port)
    }

    /// Its address, as two words.
    #[allow(dead_code, reason = "the crate's own tests have no replica")]
    pub(crate) fn address(&self) -> [String; 2] {
        ["127.0.0.1".to_owned(), self.port.to_string()]
    }

    /// Starts it on its port and data, and waits until it answers.
    pub(crate) fn resume(&mut self) {
        let mut watch = Command::new("sh");
        watch.args(["-c", WATCH, "watch"]).arg(&self.folder).arg(program());
        watch.args(["--bind", "127.0.0.1", "--port", &self.port.to_string(), "--dir"]);
        watch.arg(self.folder.join("data")).args(["--databases", &DATABASES.to_string()]);
        watch.args(["--appendonly", "yes", "--appendfsync", "always", "--save", ""]);
        watch.args(["--repl-diskless-sync-delay", "0"]).args(&self.settings);
        watch.current_dir("/").stdin(Stdio::piped()).stdout(Stdio::null());
        self.watch = Some(watch.spawn().unwrap());
        let until = Instant::now() + Duration::from_secs(60);
        while self.try_ask(0, &["PING"]).as_deref() != Some("PONG") {
            assert!(Instant::now() < until, "the Redis server does not answer");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Kills it, and keeps its data.
    #[allow(dead_code, reason = "the crate's own tests kill none")]
    pub(crate) fn kill(&mut self) {
        let mut watch = self.watch.take().expect("the server runs");
        writeln!(watch.stdin.take().expect("the watch has an input"), "keep").unwrap();
        assert!(watch.wait().unwrap().success());
    }

    /// Asks a command in the database 0; an error is its text, nothing is "nil", a list its lines.
    pub(crate) fn ask(&self, words: &[&str]) -> String {
        self.ask_in(0, words)
    }

    /// The same in another database.
    pub(crate) fn ask_in(&self, database: u32, words: &[&str]) -> String {
        self.try_ask(database, words).expect("the server answers")
    }

    fn try_ask(&self, database: u32, words: &[&str]) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
        let mut text = packed(&["SELECT", &database.to_string()]);
        text.push_str(&packed(words));
        stream.write_all(text.as_bytes()).ok()?;
        let mut reader = BufReader::new(stream);
        let selected = read(&mut reader)?;
        if selected != "OK" {
            return Some(selected);
        }
        read(&mut reader)
    }
}

fn packed(words: &[&str]) -> String {
    let words: Vec<String> =
        words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
    format!("*{}\r\n{}", words.len(), words.concat())
}

fn read(reader: &mut impl BufRead) -> Option<String> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let line = line.trim_end();
    let rest = line.get(1..)?;
    match line.get(..1)? {
        "$" if rest == "-1" => Some("nil".to_owned()),
        "$" => {
            let mut bytes = vec![0; rest.parse::<usize>().ok()? + 2];
            reader.read_exact(&mut bytes).ok()?;
            bytes.truncate(bytes.len() - 2);
            Some(String::from_utf8_lossy(&bytes).into_owned())
        }
        "*" => {
            let count: usize = rest.parse().ok()?;
            let parts: Option<Vec<String>> = (0..count).map(|_| read(reader)).collect();
            Some(parts?.join("\n"))
        }
        _ => Some(rest.to_owned()),
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        if let Some(mut watch) = self.watch.take() {
            drop(watch.stdin.take());
            let _ = watch.wait();
        }
    }
}

fn program() -> PathBuf {
    let named = std::env::var_os("UNANIMITY_TEST_REDIS_SERVER").map(PathBuf::from);
    let usual = ["/usr/bin/redis-server", "/usr/local/bin/redis-server", "/usr/sbin/redis-server"];
    named
        .or_else(|| usual.into_iter().map(PathBuf::from).find(|path| path.exists()))
        .expect("redis-server is not installed; install Debian's package redis-server")
}
