//! A real NATS server with JetStream for tests, on a free loopback port.
//!
//! Not a mock: Debian's package `nats-server`, without its service. A small shell watches over the
//! server: when its input ends, because the test process ended in whatever way, it kills the server
//! and removes the folder. Invariant: no server outlives its test process.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
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

/// One server.
pub(crate) struct NatsServer {
    folder: PathBuf,
    port: u16,
    watch: Option<Child>,
}

impl NatsServer {
    /// A server, ready; `None` where none is installed.
    pub(crate) fn start() -> Option<Self> {
        program()?;
        let folder = tempfile::Builder::new().prefix("unanimity-nats-").tempdir().unwrap().keep();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut server = Self { folder, port, watch: None };
        server.resume();
        Some(server)
    }

    /// How to reach it.
    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Starts it on its port and data, and waits until it answers.
    pub(crate) fn resume(&mut self) {
        let mut watch = Command::new("sh");
        watch.args(["-c", WATCH, "watch"]).arg(&self.folder);
        watch.arg(program().expect("it was there")).args(["-js", "-a", "127.0.0.1", "-sd"]);
        watch.arg(self.folder.join("data")).args(["-p", &self.port.to_string()]);
        watch.current_dir("/").stdin(Stdio::piped()).stdout(Stdio::null());
        self.watch = Some(watch.spawn().unwrap());
        let until = Instant::now() + Duration::from_secs(60);
        while !self.answers() {
            assert!(Instant::now() < until, "the NATS server does not answer");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Kills it, and keeps its data.
    pub(crate) fn kill(&mut self) {
        let mut watch = self.watch.take().expect("the server runs");
        writeln!(watch.stdin.take().expect("the watch has an input"), "keep").unwrap();
        assert!(watch.wait().unwrap().success());
    }

    fn answers(&self) -> bool {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)) else { return false };
        let _ = stream.set_read_timeout(Some(Duration::from_millis(500)));
        if stream.write_all(b"CONNECT {}\r\nPING\r\n").is_err() {
            return false;
        }
        let (mut heard, mut buffer) = (Vec::new(), [0_u8; 4096]);
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            heard.extend_from_slice(&buffer[..length]);
            if heard.windows(4).any(|word| word == b"PONG") {
                return true;
            }
        }
        false
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        if let Some(mut watch) = self.watch.take() {
            drop(watch.stdin.take());
            let _ = watch.wait();
        }
    }
}

/// Debian puts it outside of most users' path.
fn program() -> Option<&'static Path> {
    ["/usr/sbin/nats-server", "/usr/local/bin/nats-server", "/usr/bin/nats-server"]
        .into_iter()
        .map(Path::new)
        .find(|path| path.exists())
}
