//! Somebody who asks the nodes of a cluster and is none: an operator's command.
//!
//! Not a transport between nodes: a connection for each call, and nothing is listened for.
//! Invariants: it proves as much as a node does (the secret, or a certificate of the authority),
//! and asks for the same; it has no id, so that no node takes it for one.

use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::greet::{Guard, Identity, greet};
use super::link::{Link, LinkError};
use super::message::{MESSAGE_HEAD_BYTES, Message, NoMessage};
use super::options::check_exposure;
use super::options::{CLIENT_FRAME_BYTES_MAX, FRAME_BYTES_MAX, Security, SetupError};
use super::peer::STILL_HERE_EVERY;
use super::port::{PeerAddress, TransportError};

/// How long a connection may take until both sides know each other.
const GREETING_TIMEOUT: Duration = Duration::from_secs(5);

/// A client of a cluster.
pub struct Client {
    identity: Identity,
    security: Security,
}

impl Client {
    /// A client of the nodes that know each other in this way; `cluster` where its name is known:
    /// then nodes of another one are refused.
    pub fn new(cluster: Option<String>, security: Security) -> Result<Self, SetupError> {
        let guard = Guard::load(&security, None)?;
        let cluster = Mutex::new(cluster);
        let frame_max = FRAME_BYTES_MAX;
        let identity = Identity { node: String::new(), cluster, guard, frame_max };
        Ok(Self { identity, security })
    }

    /// Hands a request to a node and waits for its answer, at most for `patience`. A node whose id
    /// is that of its place is whoever answers there.
    pub async fn call(
        &self,
        to: &PeerAddress,
        request: Vec<u8>,
        patience: Duration,
    ) -> Result<Vec<u8>, TransportError> {
        let exposed = check_exposure(&self.security, &to.host);
        exposed.map_err(|error| TransportError::Refused(error.to_string()))?;
        let link = self.connect(to).await?;
        let bound = link.frame_max.min(CLIENT_FRAME_BYTES_MAX);
        let bytes = request.len() + MESSAGE_HEAD_BYTES;
        if bytes > bound {
            let words = format!("a request of {bytes} bytes to {to}; the bound is {bound}");
            return Err(TransportError::TooLarge(words));
        }
        match timeout(patience, ask(link, request.into())).await {
            Ok(Ok(Some(Message::Answer { body, .. }))) => Ok(Vec::from(body)),
            Ok(Ok(Some(_))) => {
                Err(TransportError::TooLarge(format!("the answer of {to} is over its bound")))
            }
            Ok(Ok(None)) => Err(lost(to, &"it closed the connection before it answered")),
            Ok(Err(error)) => Err(lost(to, &error)),
            Err(_) => Err(TransportError::Timeout(format!("{to} said nothing for {patience:?}"))),
        }
    }

    async fn connect(&self, to: &PeerAddress) -> Result<Link, TransportError> {
        let opening = async {
            let tcp = TcpStream::connect((to.host.as_str(), to.port)).await?;
            tcp.set_nodelay(true)?;
            greet(&self.identity, to, tcp).await
        };
        match timeout(GREETING_TIMEOUT, opening).await {
            Ok(greeted) => greeted.map_err(|error| error.told(to)),
            Err(_) => {
                let words = format!("{to}: no greeting within {GREETING_TIMEOUT:?}");
                Err(TransportError::Unreachable(words))
            }
        }
    }
}

/// The request was handed over, and what became of it is not known.
fn lost(to: &PeerAddress, reason: &dyn std::fmt::Display) -> TransportError {
    TransportError::Timeout(format!("{to}: {reason}"))
}

/// The answer, or that it is too large; `None` when the connection was closed instead.
async fn ask(link: Link, body: Bytes) -> Result<Option<Message>, LinkError> {
    let Link { mut reader, mut writer, .. } = link;
    writer.put(&Message::Request { number: 1, body });
    writer.flush().await?;
    loop {
        let Ok(heard) = timeout(STILL_HERE_EVERY, reader.next()).await else {
            writer.put(&Message::StillHere);
            writer.flush().await?;
            continue;
        };
        match heard? {
            Some(Message::StillHere) => {}
            Some(Message::Request { .. }) => return Err(NoMessage.into()),
            answer => return Ok(answer),
        }
    }
}
