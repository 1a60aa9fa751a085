//! What the tests of the transport share: nodes on loopback, handlers, chance, patience.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use tokio::sync::Notify;

use super::{Handler, Network, PeerAddress, Secret, Security, Transport, TransportError};
use super::{TransportCounts, TransportOptions};

/// How long anything may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// Answers with what it was asked, and who asked. `"wait"` waits for `go`, `"big"` answers with
/// more than a frame may hold.
#[derive(Default)]
pub(super) struct Echo {
    pub(super) asked: AtomicUsize,
    pub(super) from: Mutex<Vec<String>>,
    pub(super) go: Arc<Notify>,
    pub(super) big: usize,
}

impl Handler for Echo {
    fn handle(&self, from: String, request: Vec<u8>) -> BoxFuture<'static, Vec<u8>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.from.lock().unwrap().push(from);
        let (go, big) = (self.go.clone(), self.big);
        Box::pin(async move {
            match request.as_slice() {
                b"wait" => go.notified().await,
                b"big" => return vec![0; big],
                _ => {}
            }
            request
        })
    }

    fn handle_client(&self, request: Vec<u8>) -> BoxFuture<'static, Vec<u8>> {
        self.handle("a client".to_owned(), request)
    }
}

/// A node that serves.
pub(super) struct Node {
    pub(super) network: Network,
    pub(super) echo: Arc<Echo>,
    pub(super) address: PeerAddress,
}

pub(super) fn open() -> Security {
    Security::Open { trusted: false }
}

pub(super) fn secret(text: &str) -> Security {
    Security::Secret(Secret::new(text.as_bytes()).unwrap())
}

pub(super) fn options(id: &str, security: Security) -> TransportOptions {
    let own = PeerAddress { id: id.to_owned(), host: "127.0.0.1".to_owned(), port: 1 };
    let listen = Some(("127.0.0.1".to_owned(), 0));
    TransportOptions { listen, ..TransportOptions::new(own, security) }
}

pub(super) async fn node_of(options: TransportOptions) -> Node {
    let (id, big) = (options.own.id.clone(), options.frame_bytes_max);
    let network = Network::bind(options).await.unwrap();
    let echo = Arc::new(Echo { big, ..Echo::default() });
    network.serve(echo.clone());
    let address = PeerAddress { id, host: "127.0.0.1".to_owned(), port: network.port() };
    Node { network, echo, address }
}

pub(super) async fn node(id: &str, security: Security) -> Node {
    node_of(options(id, security)).await
}

impl Node {
    pub(super) async fn call(
        &self,
        to: &PeerAddress,
        request: &[u8],
    ) -> Result<Vec<u8>, TransportError> {
        self.network.call(to, request.to_vec(), PATIENCE).await
    }

    /// Waits until its counters are so.
    pub(super) async fn counts(&self, is_so: impl Fn(TransportCounts) -> bool) {
        eventually(|| is_so(self.network.counts())).await;
    }
}

/// Waits for what gives no signal.
pub(super) async fn eventually(is_so: impl Fn() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < PATIENCE, "it never came to be so");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Chance from a seed: `UNANIMITY_SEED`, or any, which is printed.
pub(super) struct Chance(u64);

impl Chance {
    pub(super) fn new() -> Self {
        let given = std::env::var("UNANIMITY_SEED").ok().and_then(|text| text.parse().ok());
        let seed = given.unwrap_or_else(|| getrandom::u64().unwrap());
        println!("UNANIMITY_SEED={seed}");
        Self(seed)
    }

    /// `SplitMix64` (Steele, Lea, Flood 2014).
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(bound.max(1)).unwrap()).unwrap()
    }

    pub(super) fn bytes(&mut self, most: usize) -> Vec<u8> {
        (0..self.below(most + 1)).map(|_| self.next().to_le_bytes()[0]).collect()
    }
}
