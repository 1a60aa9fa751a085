//! Real ZooKeeper servers for tests, alone or three as one, on free loopback ports.
//!
//! Not a mock: Debian's package `zookeeper`, without its service. A small shell watches over each
//! server: when its input ends, because the test process ended in whatever way, it kills the server
//! and removes the folder. Invariant: no server outlives its test process.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// "keep <signal>" ends the server and keeps its folder, "tell <signal>" only signals, the end of
/// the input ends it and removes the folder.
const WATCH: &str = r#"
folder=$1; shift
"$@" >>"$folder/log" 2>&1 &
pid=$!; exec 2>/dev/null
while read -r verb signal; do
kill "-$signal" $pid
if [ "$verb" = keep ]; then wait $pid; exit 0; fi
done
kill -KILL $pid; wait $pid; rm -rf "$folder"
"#;

/// A tick; a session's timeout is at least 2 of them.
const TICK_MS: u32 = 200;
/// The longest timeout of a session, for tests in which none may end.
pub(crate) const SESSION_MAX: Duration = Duration::from_secs(60);

/// One server.
pub(crate) struct ZooKeeperServer {
    folder: PathBuf,
    pub(crate) port: u16,
    watch: Option<Child>,
}

impl ZooKeeperServer {
    /// A server that stands alone, ready.
    pub(crate) fn start() -> Self {
        let server = Self::begin(free_port(), None, &[]);
        server.wait_until_ready();
        server
    }

    /// Three servers that are one ensemble, ready.
    pub(crate) fn start_ensemble() -> Vec<Self> {
        let members: Vec<String> = (1..=3)
            .map(|id| format!("server.{id}=127.0.0.1:{}:{}", free_port(), free_port()))
            .collect();
        let servers: Vec<Self> =
            (1..=3).map(|id| Self::begin(free_port(), Some(id), &members)).collect();
        servers.iter().for_each(Self::wait_until_ready);
        servers
    }

    fn begin(port: u16, id: Option<u32>, members: &[String]) -> Self {
        let folder = tempfile::Builder::new().prefix("unanimity-zk-").tempdir().unwrap().keep();
        fs::create_dir(folder.join("data")).unwrap();
        if let Some(id) = id {
            fs::write(folder.join("data/myid"), id.to_string()).unwrap();
        }
        let settings = format!(
            "tickTime={TICK_MS}\ninitLimit=50\nsyncLimit=10\ndataDir={}\nclientPort={port}\n\
             maxSessionTimeout={}\nclientPortAddress=127.0.0.1\nadmin.enableServer=false\n\
             maxClientCnxns=0\n4lw.commands.whitelist=srvr\n{}\n",
            folder.join("data").display(),
            SESSION_MAX.as_millis(),
            members.join("\n")
        );
        fs::write(folder.join("zoo.cfg"), settings).unwrap();
        let mut server = Self { folder, port, watch: None };
        server.launch();
        server
    }

    fn launch(&mut self) {
        let mut watch = Command::new("sh");
        watch.args(["-c", WATCH, "watch"]).arg(&self.folder);
        watch.args(["java", "-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]);
        // What a killed process has written stays written; only a power cut needs a sync.
        watch.args(["-Dzookeeper.forceSync=no", "-cp", &class_path()]);
        watch.arg("org.apache.zookeeper.server.quorum.QuorumPeerMain");
        watch.arg(self.folder.join("zoo.cfg"));
        watch.current_dir(&self.folder).stdin(Stdio::piped()).stdout(Stdio::null());
        self.watch = Some(watch.spawn().unwrap());
    }

    /// Kills it, and keeps its data.
    pub(crate) fn kill(&mut self) {
        let mut watch = self.watch.take().expect("the server runs");
        let mut input = watch.stdin.take().expect("the watch has an input");
        writeln!(input, "keep KILL").unwrap();
        assert!(watch.wait().unwrap().success());
    }

    /// Stops its clock and everything else of it, or lets it go on.
    pub(crate) fn freeze(&mut self, is_frozen: bool) {
        let watch = self.watch.as_mut().expect("the server runs");
        let input = watch.stdin.as_mut().expect("the watch has an input");
        writeln!(input, "tell {}", if is_frozen { "STOP" } else { "CONT" }).unwrap();
    }

    /// Starts it again on the same port and data.
    pub(crate) fn resume(&mut self) {
        self.launch();
        self.wait_until_ready();
    }

    /// How to reach it.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Whether it leads an ensemble.
    pub(crate) fn is_leader(&self) -> bool {
        self.mode().is_some_and(|mode| mode == "leader")
    }

    /// The word after "Mode:"; `None` while it does not serve.
    fn mode(&self) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_millis(300))).ok()?;
        stream.write_all(b"srvr").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("Mode: "))?;
        Some(line.to_owned())
    }

    fn wait_until_ready(&self) {
        let until = Instant::now() + Duration::from_secs(60);
        while Instant::now() < until {
            if self.mode().is_some() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        panic!("the server did not start; are the packages zookeeper and a JRE there?\n{log}");
    }
}

impl Drop for ZooKeeperServer {
    fn drop(&mut self) {
        if let Some(mut watch) = self.watch.take() {
            drop(watch.stdin.take());
            let _ = watch.wait();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The jars of the package; each names in its manifest those that it needs.
fn class_path() -> String {
    let listed = Command::new("dpkg").args(["-L", "zookeeper", "libzookeeper-java"]).output();
    let listed = listed.map(|output| output.stdout).unwrap_or_default();
    let jars: Vec<String> = String::from_utf8_lossy(&listed)
        .lines()
        .filter(|path| Path::new(path).extension().is_some_and(|extension| extension == "jar"))
        .filter(|path| path.starts_with("/usr/share/java/"))
        .map(str::to_owned)
        .collect();
    assert!(!jars.is_empty(), "ZooKeeper is not installed: apt-get install zookeeper");
    jars.join(":")
}
