//! What a thread touches to wake an event loop: a descriptor that becomes readable.
//!
//! An eventfd where there is one, a socket pair elsewhere. Not the queue behind it (`bridge`).
//! Invariants: ringing never blocks and needs no interpreter; many rings before a look are one.

use std::io;

use rustix::fd::{AsRawFd, OwnedFd};

pub(crate) struct Bell {
    /// What the loop watches.
    watched: OwnedFd,
    /// The other end, where the two ends are not one.
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    rope: OwnedFd,
}

#[cfg(any(target_os = "linux", target_os = "android"))]
impl Bell {
    pub(crate) fn new() -> io::Result<Self> {
        use rustix::event::{EventfdFlags, eventfd};
        let watched = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { watched })
    }

    fn rope(&self) -> &OwnedFd {
        &self.watched
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
impl Bell {
    pub(crate) fn new() -> io::Result<Self> {
        let (watched, rope) = std::os::unix::net::UnixStream::pair()?;
        watched.set_nonblocking(true)?;
        rope.set_nonblocking(true)?;
        Ok(Self { watched: watched.into(), rope: rope.into() })
    }

    fn rope(&self) -> &OwnedFd {
        &self.rope
    }
}

impl Bell {
    pub(crate) fn fileno(&self) -> i32 {
        self.watched.as_raw_fd()
    }

    pub(crate) fn ring(&self) {
        // Full or gone can only mean that the loop is told already, or never will be.
        let _ = rustix::io::write(self.rope(), &1_u64.to_ne_bytes());
    }

    /// Forgets all rings so far.
    pub(crate) fn clear(&self) {
        let mut rung = [0_u8; 512];
        while rustix::io::read(&self.watched, &mut rung).is_ok_and(|length| length == rung.len()) {}
    }
}
