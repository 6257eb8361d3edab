//! Blocking for a while: the time that the kernel lets a read or a write of a socket block.
//!
//! A wait is made of slices, so that it is looked between them whether there is a reason to end it. The kernel is told of a
//! slice only where it differs from the last one.

use std::io;
use std::os::fd::{AsFd, RawFd};
use std::time::Duration;

use nix::sys::socket::{MsgFlags, send};
use socket2::SockRef;

use super::slot::Side;

/// The slices of one socket.
#[derive(Clone, Debug)]
pub(super) struct Slices {
    longest: Duration,
    /// What the kernel was told for a read and for a write; zero if it was not told yet.
    told: [Duration; 2],
}

impl Slices {
    pub(super) fn new(longest: Duration) -> Self {
        Self { longest, told: [Duration::ZERO; 2] }
    }

    /// Lets the next call block until `left` is over, or for the longest slice; gives the flags for it.
    pub(super) fn block_for(&mut self, socket: &impl AsFd, side: Side, left: Duration) -> io::Result<MsgFlags> {
        let slice = left.clamp(Duration::from_millis(1), self.longest);
        let told = &mut self.told[side as usize];
        if *told != slice {
            let socket = SockRef::from(socket);
            match side {
                Side::Read => socket.set_read_timeout(Some(slice))?,
                Side::Write => socket.set_write_timeout(Some(slice))?,
            }
            *told = slice;
        }
        Ok(MsgFlags::empty())
    }
}

/// Sends octets. A peer that is gone is an error, not a signal.
pub(super) fn send_to(fd: RawFd, data: &[u8], flags: MsgFlags) -> nix::Result<usize> {
    send(fd, data, flags | MsgFlags::MSG_NOSIGNAL)
}
