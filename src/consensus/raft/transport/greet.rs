//! The greeting of two nodes: after it each knows who the other is, as far as that can be proved.
//!
//! The words are in `hello`, the proofs in `proof`, certificates in `tls`. Not bounded in time:
//! whoever calls it is. A caller without an id is a client: it has the same proof to give, and need
//! not say whom it looks for. Invariant: no [`Link`] without the other side's proof.

use std::sync::{Mutex, PoisonError};
use std::{fmt, io};

use bytes::{Bytes, BytesMut};
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::frame::{Decoder, FrameError, encode};
use super::hello::{self, Complaint, Hello, SecurityKind, Welcome};
use super::link::{Link, Reader, Wire, Writer};
use super::options::{CLIENT_FRAME_BYTES_MAX, Security, SetupError};
use super::port::{PeerAddress, TransportError};
use super::proof::{NONCE_BYTES, Role, Secret};
use super::tls::{Tls, is_named, name_of};

/// How a node knows others, ready for use.
pub(super) enum Guard {
    Open,
    Secret(Secret),
    Tls(Tls),
}

impl Guard {
    /// Reads what the security needs; for a node, or (without an id) for a client.
    pub(super) fn load(security: &Security, node: Option<&str>) -> Result<Self, SetupError> {
        Ok(match security {
            Security::Open { .. } => Self::Open,
            Security::Secret(secret) => Self::Secret(secret.clone()),
            Security::Tls(files) => Self::Tls(Tls::load(files, node)?),
        })
    }
}

/// Who a node is to others.
pub(super) struct Identity {
    pub(super) node: String,
    /// The id of the cluster, once it is known.
    pub(super) cluster: Mutex<Option<String>>,
    pub(super) guard: Guard,
    pub(super) frame_max: usize,
}

/// Who called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Caller {
    /// A node, by its id.
    Node(String),
    /// Somebody of the cluster who is no node.
    Client,
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(id) => f.write_str(id),
            Self::Client => f.write_str("a client"),
        }
    }
}

/// Why two nodes do not know each other after a greeting.
#[derive(Debug)]
pub(super) enum GreetError {
    /// The connection.
    Io(io::Error),
    /// The other side said that this one is refused.
    Refused,
    /// This side has something against the other.
    Complaint(Complaint),
}

impl From<io::Error> for GreetError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Complaint> for GreetError {
    fn from(complaint: Complaint) -> Self {
        Self::Complaint(complaint)
    }
}

impl From<FrameError> for GreetError {
    fn from(_: FrameError) -> Self {
        Self::Complaint(Complaint::Garbage("a greeting that is no frame"))
    }
}

impl GreetError {
    /// What whoever called that address is told.
    pub(super) fn told(self, address: &PeerAddress) -> TransportError {
        let reason = match self {
            // What TLS has against a certificate comes as invalid data.
            Self::Io(error) if error.kind() != io::ErrorKind::InvalidData => {
                return TransportError::Unreachable(format!("{address}: {error}"));
            }
            Self::Io(error) => error.to_string(),
            Self::Refused => "it refuses this node; its log says why (another cluster, secret, \
                              certificate or release)"
                .to_owned(),
            Self::Complaint(Complaint::Garbage(words)) => words.to_owned(),
            Self::Complaint(Complaint::Stranger(words)) => words,
        };
        TransportError::Refused(format!("{address}: {reason}"))
    }
}

fn stranger<T>(reason: impl Into<String>) -> Result<T, GreetError> {
    Err(Complaint::Stranger(reason.into()).into())
}

impl Identity {
    fn kind(&self) -> SecurityKind {
        match self.guard {
            Guard::Open => SecurityKind::Open,
            Guard::Secret(_) => SecurityKind::Secret,
            Guard::Tls(_) => SecurityKind::Tls,
        }
    }

    fn cluster(&self) -> String {
        let cluster = self.cluster.lock().unwrap_or_else(PoisonError::into_inner);
        cluster.clone().unwrap_or_default()
    }

    /// Two that both know their cluster must mean the same.
    fn check_cluster(&self, theirs: &str) -> Result<(), GreetError> {
        let own = self.cluster();
        if own.is_empty() || theirs.is_empty() || own == theirs {
            return Ok(());
        }
        stranger(format!("it is a node of cluster \"{theirs}\", this one of cluster \"{own}\""))
    }

    /// The largest frame that is taken of a caller with this id.
    fn frame_max_of(&self, caller: &str) -> usize {
        if caller.is_empty() { self.frame_max.min(CLIENT_FRAME_BYTES_MAX) } else { self.frame_max }
    }

    fn proof(&self, role: Role, transcript: &[u8]) -> Vec<u8> {
        match &self.guard {
            Guard::Secret(secret) => secret.proof(role, transcript).to_vec(),
            _ => Vec::new(),
        }
    }

    fn check_proof(&self, role: Role, transcript: &[u8], shown: &[u8]) -> Result<(), GreetError> {
        let is_proved = match &self.guard {
            Guard::Secret(secret) => secret.fits(role, transcript, shown),
            _ => shown.is_empty(),
        };
        if is_proved { Ok(()) } else { stranger("it does not know the secret of the cluster") }
    }

    /// `bounds`: the largest frame that is taken, and the largest that the other side takes.
    fn link(&self, speech: Speech, role: Role, transcript: &[u8], bounds: (usize, u32)) -> Link {
        let their_role = if role == Role::Caller { Role::Answerer } else { Role::Caller };
        let seal = |role| match &self.guard {
            Guard::Secret(secret) => Some(secret.seal(role, transcript)),
            _ => None,
        };
        let frame_max = self.frame_max.min(bounds.1 as usize);
        let (reader, writer) = tokio::io::split(speech.wire);
        let decoder = Decoder::new(bounds.0, seal(their_role));
        Link {
            reader: Reader::new(reader, speech.buffer, decoder),
            writer: Writer::new(writer, seal(role)),
            frame_max,
        }
    }
}

/// Frames of a greeting.
struct Speech {
    wire: Box<dyn Wire>,
    buffer: BytesMut,
    decoder: Decoder,
}

impl Speech {
    fn over(wire: Box<dyn Wire>) -> Self {
        let decoder = Decoder::new(hello::GREETING_BYTES_MAX, None);
        Self { wire, buffer: BytesMut::new(), decoder }
    }

    async fn say(&mut self, body: &[u8]) -> io::Result<()> {
        let mut out = BytesMut::new();
        encode(&[body], None, &mut out);
        self.wire.write_all(&out).await?;
        self.wire.flush().await
    }

    async fn hear(&mut self) -> Result<Bytes, GreetError> {
        loop {
            if let Some(body) = self.decoder.decode(&mut self.buffer)? {
                return Ok(body);
            }
            if self.wire.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        }
    }

    /// What an answerer's frame carries.
    async fn hear_going_on(&mut self) -> Result<Bytes, GreetError> {
        hello::carried(self.hear().await?)?.ok_or(GreetError::Refused)
    }
}

/// A bound as it is said.
fn word(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

fn fresh_nonce() -> io::Result<[u8; NONCE_BYTES]> {
    let mut nonce = [0; NONCE_BYTES];
    getrandom::fill(&mut nonce).map_err(io::Error::other)?;
    Ok(nonce)
}

/// Greets the node that was called.
pub(super) async fn greet(
    own: &Identity,
    to: &PeerAddress,
    mut tcp: TcpStream,
) -> Result<Link, GreetError> {
    let opening = hello::opening(own.kind());
    tcp.write_all(&opening).await?;
    match tcp.read_u8().await? {
        hello::GO_ON => {}
        hello::REFUSED => return Err(GreetError::Refused),
        _ => return Err(Complaint::Garbage("what answers there is no node of unanimity").into()),
    }
    let wire: Box<dyn Wire> = match &own.guard {
        Guard::Tls(tls) => {
            let name = name_of(&to.id).map_err(|error| Complaint::Stranger(error.to_string()))?;
            Box::new(tls.connector.connect(name, tcp).await?)
        }
        _ => Box::new(tcp),
    };
    let mut speech = Speech::over(wire);
    // A client that was given an address alone speaks with whoever is there.
    let is_anybody = own.node.is_empty() && to.id == to.place();
    let hello = Hello {
        cluster: own.cluster(),
        node: own.node.clone(),
        to: if is_anybody { String::new() } else { to.id.clone() },
        frame_max: word(own.frame_max),
        nonce: fresh_nonce()?,
    };
    let said = hello.encode();
    speech.say(&said).await?;
    let challenge = speech.hear_going_on().await?;
    let transcript = [&opening[..], &said, &challenge].concat();
    speech.say(&own.proof(Role::Caller, &transcript)).await?;
    let (welcome, said, proof) = Welcome::decode(&speech.hear_going_on().await?)?;
    if welcome.node != to.id && !is_anybody {
        return stranger(format!("the node there is \"{}\"", welcome.node));
    }
    own.check_cluster(&welcome.cluster)?;
    own.check_proof(Role::Answerer, &[&transcript[..], &said].concat(), &proof)?;
    Ok(own.link(speech, Role::Caller, &transcript, (own.frame_max, welcome.frame_max)))
}

/// Answers the greeting of whoever called; with who that is.
pub(super) async fn answer(
    own: &Identity,
    mut tcp: TcpStream,
) -> Result<(Link, Caller), GreetError> {
    let mut opening = [0; hello::OPENING_BYTES];
    tcp.read_exact(&mut opening).await?;
    if let Err(complaint) = hello::check_opening(opening, own.kind()) {
        // Whether it is heard changes nothing.
        let _ = tcp.write_all(&[hello::REFUSED]).await;
        return Err(complaint.into());
    }
    tcp.write_all(&[hello::GO_ON]).await?;
    let (wire, certificate): (Box<dyn Wire>, _) = match &own.guard {
        Guard::Tls(tls) => {
            let accepting = tls.acceptor.accept(tcp).into_fallible();
            let stream = match accepting.await {
                Ok(stream) => stream,
                Err((error, tcp)) => {
                    read_out(tcp).await;
                    return Err(error.into());
                }
            };
            let shown = stream.get_ref().1.peer_certificates();
            let first = shown.and_then(<[_]>::first).map(|one| one.clone().into_owned());
            (Box::new(stream), first)
        }
        _ => (Box::new(tcp), None),
    };
    let mut speech = Speech::over(wire);
    match answer_hello(own, &mut speech, &opening, certificate).await {
        Ok((hello, transcript)) => {
            let bounds = (own.frame_max_of(&hello.node), hello.frame_max);
            let link = own.link(speech, Role::Answerer, &transcript, bounds);
            let is_client = hello.node.is_empty();
            Ok((link, if is_client { Caller::Client } else { Caller::Node(hello.node) }))
        }
        Err(error) => {
            if matches!(error, GreetError::Complaint(_)) {
                let _ = speech.say(&[hello::REFUSED]).await;
            }
            Err(error)
        }
    }
}

/// Takes what the other side still says, so that it hears why TLS failed before it sees the
/// connection reset. Bounded in size here, and in time by whoever has the node greet.
async fn read_out(mut tcp: TcpStream) {
    let _ = tcp.shutdown().await;
    let mut rest = [0; 1_024];
    for _ in 0..16 {
        if !matches!(tcp.read(&mut rest).await, Ok(1..)) {
            return;
        }
    }
}

async fn answer_hello(
    own: &Identity,
    speech: &mut Speech,
    opening: &[u8],
    certificate: Option<CertificateDer<'static>>,
) -> Result<(Hello, Vec<u8>), GreetError> {
    let said = speech.hear().await?;
    let hello = Hello::decode(said.clone())?;
    check_caller(own, &hello, certificate)?;
    let challenge = fresh_nonce()?;
    speech.say(&hello::going_on(&[&challenge])).await?;
    let transcript = [opening, &said, &challenge].concat();
    own.check_proof(Role::Caller, &transcript, &speech.hear().await?)?;
    let (cluster, node) = (own.cluster(), own.node.clone());
    let frame_max = word(own.frame_max_of(&hello.node));
    let said = Welcome { cluster, node, frame_max }.encode();
    let proof = own.proof(Role::Answerer, &[&transcript[..], &said].concat());
    speech.say(&hello::going_on(&[&said, &proof])).await?;
    Ok((hello, transcript))
}

fn check_caller(
    own: &Identity,
    hello: &Hello,
    certificate: Option<CertificateDer<'static>>,
) -> Result<(), GreetError> {
    own.check_cluster(&hello.cluster)?;
    let is_client = hello.node.is_empty();
    if hello.to != own.node && !(is_client && hello.to.is_empty()) {
        return stranger(format!("it looks for \"{}\"; this is \"{}\"", hello.to, own.node));
    }
    if hello.node == own.node {
        return stranger(format!("it calls itself \"{}\", as this node does", own.node));
    }
    if is_client {
        // That its certificate is one of the authority's was seen by TLS.
        return Ok(());
    }
    let Guard::Tls(_) = own.guard else { return Ok(()) };
    let name = name_of(&hello.node).map_err(|error| Complaint::Stranger(error.to_string()))?;
    match certificate {
        Some(certificate) if is_named(&certificate, &name) => Ok(()),
        _ => stranger(format!("its certificate does not name the node \"{}\"", hello.node)),
    }
}
