//! A connection's octets, plain or through TLS, with a deadline beneath.
//!
//! A read or write blocks in the kernel for a slice at most (SO_RCVTIMEO, SO_SNDTIMEO); after each the deadline of
//! [`Clock`](super::deadline::Clock) is asked anew, so that limits can shrink under pressure. Waiting so costs one
//! system call, where a socket that does not block costs three. TLS sits on top and cannot wait longer than what is
//! below it.
//!
//! No client waits for a delayed acknowledgement: before more content or more of a handshake is waited for, what came is acknowledged
//! (TCP_QUICKACK), since a client with Nagle's algorithm (RFC 896) holds its next small segment back until then. What is answered at
//! once is acknowledged by the answer, and costs nothing more.

use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use rustls::{ServerConnection, StreamOwned};
use zeroize::Zeroize as _;

use super::admission::{Admission, Slot};
use super::deadline::{Clock, Wait};
use super::slices::{Slices, send_to};
use super::slot::Side;
use super::tls::{TlsInfo, TlsServer};

/// What the driver of a session needs of a connection; there is one over TCP and local sockets and, in tests, one in memory.
pub trait Link: Read + Write {
    /// The clock that deadlines come from.
    fn clock(&mut self) -> &mut Clock;
    /// Reads as far as `mode` goes: `None` if nothing came.
    fn read_within(&mut self, mode: ReadMode, buffer: &mut [u8]) -> io::Result<Option<usize>>;
    /// True if the last read took all that had come by then. Another one that does not wait would find but what came since.
    fn is_drained(&self) -> bool {
        false
    }
    /// Much is about to come: system calls may be saved by reading it in large pieces.
    fn expect_much(&mut self);
    /// Nothing comes: gives memory back.
    fn release_buffers(&mut self);
    /// Overwrites input that was read and is kept where the buffers of TLS are, such as a password.
    fn wipe_input(&mut self) {}
    /// Does the TLS handshake.
    fn start_tls(&mut self, acceptor: &TlsServer) -> io::Result<TlsInfo>;
    /// What TLS agreed on, once it is there.
    fn tls(&self) -> Option<TlsInfo>;
    /// Ends the connection in order: close_notify, then FIN, leaving time for a last reply to be read.
    fn close(&mut self);
}

/// A [`Link`] over TCP or a local socket.
#[derive(Debug)]
pub struct Stream {
    inner: Inner,
    /// The last read left room, so nothing waits above the socket.
    had_room: bool,
}

#[derive(Debug)]
enum Inner {
    Plain(Socket),
    Tls(Box<StreamOwned<ServerConnection, Socket>>),
    /// Only while one turns into the other, or after that has failed.
    Gone(Socket),
}

#[derive(Clone, Debug)]
struct Socket {
    socket: Arc<socket2::Socket>,
    slot: Arc<Slot>,
    admission: Arc<Admission>,
    clock: Clock,
    mode: ReadMode,
    slices: Slices,
    ahead: Ahead,
    /// Something came that nothing has been sent after.
    unacknowledged: bool,
    /// The kernel had less than was asked for.
    emptied: bool,
}

/// How long a read waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadMode {
    /// Until the deadline.
    UntilDeadline,
    /// Not at all.
    NonBlocking,
    /// A second at most.
    OneSlice,
}

/// Octets that were read before they were asked for. The TLS library asks for 4 KiB at a time.
#[derive(Clone, Debug, Default)]
struct Ahead {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

/// The longest sleep without looking whether limits have shrunk or the session was told to end.
const SLICE: Duration = Duration::from_secs(1);
/// Octets that the kernel keeps for a client, which it doubles (socket(7)): a long batch of replies. Left to itself it keeps megabytes
/// for one that reads nothing, and the session goes on working until they are full.
const SEND_BUFFER: usize = 32 * 1024;
/// Octets that are read ahead: some TLS records of full size.
const AHEAD: usize = 64 * 1024;

impl Stream {
    /// A plain connection in a slot.
    pub fn new(slot: &Arc<Slot>, admission: &Arc<Admission>, clock: Clock) -> io::Result<Self> {
        let socket = Arc::clone(slot.socket());
        // One that was handed over may not block.
        socket.set_nonblocking(false)?;
        // On a local socket there is nothing to delay.
        let _ = socket.set_tcp_nodelay(true);
        let _ = socket.set_send_buffer_size(SEND_BUFFER);
        let (slot, admission) = (Arc::clone(slot), Arc::clone(admission));
        let (mode, slices, ahead) = (ReadMode::UntilDeadline, Slices::new(SLICE), Ahead::default());
        Ok(Self {
            inner: Inner::Plain(Socket {
                socket,
                slot,
                admission,
                clock,
                mode,
                slices,
                ahead,
                unacknowledged: false,
                emptied: false,
            }),
            had_room: false,
        })
    }

    fn socket(&mut self) -> &mut Socket {
        match &mut self.inner {
            Inner::Plain(socket) | Inner::Gone(socket) => socket,
            Inner::Tls(tls) => &mut tls.sock,
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let outcome = match &mut self.inner {
            Inner::Plain(socket) => socket.read(buffer),
            Inner::Tls(tls) => match tls.read(buffer) {
                // A client that closes without close_notify is gone all the same; SMTP frames its own messages.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(0),
                other => other,
            },
            Inner::Gone(_) => Ok(0),
        };
        self.had_room = outcome.as_ref().is_ok_and(|octets| *octets < buffer.len());
        outcome
    }
}

impl Write for Stream {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match &mut self.inner {
            Inner::Plain(socket) => socket.write(data),
            Inner::Tls(tls) => tls.write(data),
            Inner::Gone(_) => Err(ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.inner {
            Inner::Tls(tls) => tls.flush(),
            Inner::Plain(_) | Inner::Gone(_) => Ok(()),
        }
    }
}

impl Link for Stream {
    fn clock(&mut self) -> &mut Clock {
        &mut self.socket().clock
    }

    fn read_within(&mut self, mode: ReadMode, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        self.socket().mode = mode;
        let outcome = self.read(buffer);
        self.socket().mode = ReadMode::UntilDeadline;
        match outcome {
            Ok(octets) => Ok(Some(octets)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn is_drained(&self) -> bool {
        let socket = match &self.inner {
            Inner::Plain(socket) | Inner::Gone(socket) => socket,
            Inner::Tls(tls) => &tls.sock,
        };
        self.had_room && socket.emptied && socket.ahead.start == socket.ahead.end
    }

    fn expect_much(&mut self) {
        if let Inner::Tls(tls) = &mut self.inner
            && tls.sock.ahead.buffer.is_empty()
        {
            tls.sock.ahead.buffer = vec![0; AHEAD];
        }
    }

    fn release_buffers(&mut self) {
        let ahead = &mut self.socket().ahead;
        if ahead.start == ahead.end {
            *ahead = Ahead::default();
        }
    }

    fn wipe_input(&mut self) {
        if let Inner::Tls(tls) = &mut self.inner {
            // What the library has decrypted stays where the next record will be read to.
            let _ = tls.conn.read_tls(&mut Wipe);
        }
    }

    fn start_tls(&mut self, acceptor: &TlsServer) -> io::Result<TlsInfo> {
        let socket = match &self.inner {
            Inner::Plain(socket) => socket.clone(),
            Inner::Tls(_) | Inner::Gone(_) => return Err(ErrorKind::AlreadyExists.into()),
        };
        self.inner = Inner::Gone(socket.clone());
        let connection = ServerConnection::new(acceptor.config()).map_err(io::Error::other)?;
        let mut tls = Box::new(StreamOwned::new(connection, socket));
        while tls.conn.is_handshaking() {
            tls.conn.complete_io(&mut tls.sock)?;
        }
        // A ticket that waits for the next reply would leave the client's last flight unacknowledged, and a client with Nagle's
        // algorithm silent. Where there is no ticket, the acknowledgement has to go by itself.
        tls.flush()?;
        tls.sock.acknowledge();
        let info = TlsInfo::of(&tls.conn).ok_or(ErrorKind::InvalidData)?;
        self.inner = Inner::Tls(tls);
        Ok(info)
    }

    fn tls(&self) -> Option<TlsInfo> {
        match &self.inner {
            Inner::Tls(tls) => TlsInfo::of(&tls.conn),
            Inner::Plain(_) | Inner::Gone(_) => None,
        }
    }

    fn close(&mut self) {
        self.clock().begin(Wait::Farewell, Instant::now());
        if let Inner::Tls(tls) = &mut self.inner {
            tls.conn.send_close_notify();
            let _ = tls.flush();
        }
        let socket = self.socket();
        let _ = socket.socket.shutdown(Shutdown::Write);
        // Unread input would turn the FIN into a reset, and the reset could overtake the last reply.
        let mut rest = [0; 1024];
        socket.mode = ReadMode::NonBlocking;
        for _ in 0..64 {
            if !matches!(socket.read(&mut rest), Ok(1..)) {
                break;
            }
        }
    }
}

/// Overwrites the buffer that it is to read into, and reads nothing.
struct Wipe;

impl Read for Wipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        buffer.zeroize();
        Err(ErrorKind::WouldBlock.into())
    }
}

impl Socket {
    /// Does `once` as often as it takes to move something, blocking as long as the mode and the deadline allow.
    fn transfer(&mut self, side: Side, once: impl FnMut(i32, MsgFlags) -> nix::Result<usize>) -> io::Result<usize> {
        if self.mode == ReadMode::NonBlocking {
            return self.transfer_now(once);
        }
        if self.clock.wait() == Wait::Farewell {
            // A session that was evicted makes room at once.
            return if self.slot.is_evicted() { self.transfer_now(once) } else { self.block(side, once) };
        }
        if side == Side::Read && self.clock.is_in_content() {
            self.slot.begin_content(self.clock.data_rate());
        }
        let gone = || io::Error::from(ErrorKind::ConnectionAborted);
        if !self.slot.begin_wait(side) {
            return Err(gone());
        }
        let outcome = self.block(side, once);
        if !self.slot.end_wait() {
            return Err(gone());
        }
        outcome
    }

    fn transfer_now(&self, mut once: impl FnMut(i32, MsgFlags) -> nix::Result<usize>) -> io::Result<usize> {
        Ok(once(self.socket.as_raw_fd(), MsgFlags::MSG_DONTWAIT)?)
    }

    fn block(&mut self, side: Side, mut once: impl FnMut(i32, MsgFlags) -> nix::Result<usize>) -> io::Result<usize> {
        loop {
            let now = Instant::now();
            let left = self.clock.deadline(self.admission.is_under_pressure()).saturating_duration_since(now);
            let told = side == Side::Write && self.clock.wait() != Wait::Farewell && self.slot.ending().is_some();
            // What is there already is taken, late as it is: it may be the server that was slow. But not for ever: a client that
            // sends faster than is read has always something there.
            let over = left.is_zero() || told;
            if over && side == Side::Read && now >= self.clock.end() {
                return Err(ErrorKind::TimedOut.into());
            }
            let flags = if over { MsgFlags::MSG_DONTWAIT } else { self.slices.block_for(&*self.socket, side, left)? };
            match once(self.socket.as_raw_fd(), flags) {
                Ok(octets) => return Ok(octets),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) if over => return Err(ErrorKind::TimedOut.into()),
                Err(Errno::EAGAIN) if self.mode == ReadMode::UntilDeadline => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Reads into `buffer`. Notes how much content came. Before more of it is waited for, what came is acknowledged, and so it is in
    /// a handshake, in which some clients send a flight in pieces; not if more is there already.
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let content = self.clock.is_in_content();
        if self.unacknowledged && (content || self.clock.wait() == Wait::Handshake) {
            self.acknowledge();
        }
        let octets = self.transfer(Side::Read, |fd, flags| recv(fd, buffer, flags))?;
        if content {
            self.slot.add_content(octets);
        }
        self.emptied = octets < buffer.len();
        self.unacknowledged = self.emptied;
        Ok(octets)
    }

    /// Sends the acknowledgement that is due without a delay. The kernel leaves this mode by itself (tcp(7)), so it is asked for
    /// anew with every read.
    fn acknowledge(&self) {
        let _ = self.socket.set_tcp_quickack(true);
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.ahead.buffer.is_empty() {
            return self.receive(buffer);
        }
        if self.ahead.start == self.ahead.end {
            let mut ahead = std::mem::take(&mut self.ahead.buffer);
            let outcome = self.receive(&mut ahead);
            self.ahead = Ahead { buffer: ahead, start: 0, end: 0 };
            self.ahead.end = outcome?;
        }
        let octets = buffer.len().min(self.ahead.end - self.ahead.start);
        buffer[..octets].copy_from_slice(&self.ahead.buffer[self.ahead.start..][..octets]);
        self.ahead.start += octets;
        Ok(octets)
    }
}

impl Write for Socket {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let sent = self.transfer(Side::Write, |fd, flags| send_to(fd, data, flags))?;
        self.unacknowledged = false;
        Ok(sent)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::mem::MaybeUninit;

    use super::*;
    use crate::net::admission::Capacity;
    use crate::net::deadline::DeadlineLimits;
    use crate::smtp::session::Service;
    use std::net::{TcpListener, TcpStream};

    /// A client, and its session, which is 10 seconds old and waits for a command as long.
    fn with_session<T>(session: Duration, run: impl FnOnce(TcpStream, Stream) -> T) -> T {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (tcp, peer) = listener.accept().unwrap();
        let admission = Admission::new(Capacity { workers: 1, waiting: 1, per_network: 1 }, Arc::default());
        admission.admit(tcp, peer, Service::Smtp).unwrap();
        let guard = admission.next_waiting().unwrap();
        let opened = Instant::now().checked_sub(Duration::from_secs(10)).unwrap();
        let limits = DeadlineLimits { idle: Duration::from_secs(1), login: session, session, data_rate: 1 };
        let mut clock = Clock::new(limits, opened);
        clock.begin(Wait::Command, opened);
        run(client, Stream::new(guard.slot(), &admission, clock).unwrap())
    }

    #[test]
    fn a_read_that_left_room_took_all_that_had_come() {
        with_session(Duration::from_secs(60), |mut client, mut stream| {
            client.write_all(b"DATA\r\nmore").unwrap();
            let mut buffer = [0; 6];
            let mut drained_after = |octets: usize| (stream.read(&mut buffer[..octets]).unwrap(), stream.is_drained());
            assert_eq!(drained_after(6), (6, false), "it may be all or not");
            assert_eq!(drained_after(6), (4, true));
        });
    }

    fn read_late(session: Duration) -> io::Result<usize> {
        with_session(session, |mut client, mut stream| {
            client.write_all(b"NOOP").unwrap();
            while stream.socket().socket.peek(&mut [MaybeUninit::uninit()]).unwrap() == 0 {}
            stream.read(&mut [0; 8])
        })
    }

    #[test]
    fn a_client_that_reads_nothing_is_soon_waited_for() {
        with_session(Duration::from_secs(60), |_client, mut stream| {
            // What has arrived at the client is in a buffer of its own, which is as large as it likes.
            let kept = stream.socket().socket.send_buffer_size().unwrap();
            assert!((SEND_BUFFER..=2 * SEND_BUFFER).contains(&kept), "{kept}");
        });
    }

    /// The server may have been slow; but a client that always has something to be read is not served beyond the end.
    #[test]
    fn what_is_there_is_taken_until_the_session_ends() {
        assert_eq!(read_late(Duration::from_secs(60)).unwrap(), 4);
        assert_eq!(read_late(Duration::from_secs(5)).unwrap_err().kind(), ErrorKind::TimedOut);
    }
}
