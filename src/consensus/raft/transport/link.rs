//! A connection between two nodes that know each other: messages in, messages out.
//!
//! Not the greeting and not who waits for what. Invariant: what is written in one flush is one
//! write of the socket, however many messages it holds.

use std::io;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::io::{ReadHalf, WriteHalf};

use super::frame::{Decoder, FrameError, encode};
use super::message::{Message, NoMessage};
use super::proof::Seal;

/// Beyond this many bytes no further message joins a write.
const WRITE_BYTES: usize = 256 * 1024;
/// How much room is made for one read at least.
const READ_BYTES: usize = 16 * 1024;

/// A stream of bytes in both directions, plain or by TLS.
pub(super) trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// Why a connection is over.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("{0}")]
    Message(#[from] NoMessage),
}

impl LinkError {
    /// Whether it is what was sent that is wrong.
    pub(super) fn is_garbage(&self) -> bool {
        !matches!(self, Self::Io(_))
    }
}

/// Both halves of a connection.
pub(super) struct Link {
    pub(super) reader: Reader,
    pub(super) writer: Writer,
    /// The largest frame that both sides take.
    pub(super) frame_max: usize,
}

/// The half that hears.
pub(super) struct Reader {
    wire: ReadHalf<Box<dyn Wire>>,
    buffer: BytesMut,
    decoder: Decoder,
}

impl Reader {
    pub(super) fn new(wire: ReadHalf<Box<dyn Wire>>, buffer: BytesMut, decoder: Decoder) -> Self {
        Self { wire, buffer, decoder }
    }

    /// The next message; `None` when the other side has closed. May be dropped at any time: what
    /// was read stays in the buffer.
    pub(super) async fn next(&mut self) -> Result<Option<Message>, LinkError> {
        loop {
            if let Some(body) = self.decoder.decode(&mut self.buffer)? {
                return Ok(Some(Message::decode(body)?));
            }
            self.buffer.reserve(READ_BYTES);
            if self.wire.read_buf(&mut self.buffer).await? == 0 {
                let is_whole = self.buffer.is_empty();
                return if is_whole { Ok(None) } else { Err(cut_off()) };
            }
        }
    }
}

fn cut_off() -> LinkError {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the connection ended inside of a frame").into()
}

/// The half that speaks.
pub(super) struct Writer {
    wire: WriteHalf<Box<dyn Wire>>,
    seal: Option<Seal>,
    out: BytesMut,
}

impl Writer {
    pub(super) fn new(wire: WriteHalf<Box<dyn Wire>>, seal: Option<Seal>) -> Self {
        Self { wire, seal, out: BytesMut::new() }
    }

    /// Puts a message behind those that wait for the next flush.
    pub(super) fn put(&mut self, message: &Message) {
        let (head, body) = message.parts();
        encode(&[&head, body], self.seal.as_mut(), &mut self.out);
    }

    /// Whether another message may join the next flush.
    pub(super) fn is_roomy(&self) -> bool {
        self.out.len() < WRITE_BYTES
    }

    /// Writes what waits. Not to be dropped before it ends, unless the connection is given up.
    pub(super) async fn flush(&mut self) -> Result<(), LinkError> {
        self.wire.write_all(&self.out).await?;
        self.wire.flush().await?;
        self.out.clear();
        if self.out.capacity() > 4 * WRITE_BYTES {
            self.out = BytesMut::new();
        }
        Ok(())
    }
}

#[cfg(test)]
impl Writer {
    /// Puts what is no message.
    pub(super) fn put_noise(&mut self, noise: &[u8]) {
        self.out.extend_from_slice(noise);
    }
}
