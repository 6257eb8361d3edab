//! A connection's octets, plain or through TLS, with a deadline beneath.
//!
//! The socket itself never blocks; a read or write that cannot go on waits in poll(2) until the deadline of
//! [`Clock`](super::deadline::Clock), which is asked anew at every slice, so that limits can shrink under pressure.
//! TLS sits on top and cannot wait longer than what is below it.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustls::{ServerConnection, StreamOwned};

use super::admission::{Admission, Seat};
use super::deadline::{Clock, Wait};
use super::tls::{Acceptor, TlsInfo};

/// What the driver of a session needs of a connection; there is one over TCP and, in tests, one in memory.
pub trait Link: Read + Write {
    /// The clock that deadlines come from.
    fn clock(&mut self) -> &mut Clock;
    /// Reads what is there already, without waiting: `None` if nothing is.
    fn read_now(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>>;
    /// Does the TLS handshake.
    fn start_tls(&mut self, acceptor: &Acceptor) -> io::Result<TlsInfo>;
    /// What TLS agreed on, once it is there.
    fn tls(&self) -> Option<TlsInfo>;
    /// Ends the connection in order: close_notify, then FIN, leaving time for a last reply to be read.
    fn close(&mut self);
}

/// A [`Link`] over TCP.
#[derive(Debug)]
pub struct Stream {
    inner: Inner,
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
    tcp: Arc<TcpStream>,
    seat: Arc<Seat>,
    admission: Arc<Admission>,
    clock: Clock,
    wait: bool,
}

/// The longest sleep without looking whether limits have shrunk or the session was told to end.
const SLICE: Duration = Duration::from_secs(1);

impl Stream {
    /// A plain connection in a seat.
    pub fn new(seat: &Arc<Seat>, admission: &Arc<Admission>, clock: Clock) -> io::Result<Self> {
        let tcp = Arc::clone(seat.tcp());
        tcp.set_nonblocking(true)?;
        let _ = tcp.set_nodelay(true);
        let socket = Socket { tcp, seat: Arc::clone(seat), admission: Arc::clone(admission), clock, wait: true };
        Ok(Self { inner: Inner::Plain(socket) })
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
        match &mut self.inner {
            Inner::Plain(socket) => socket.read(buffer),
            Inner::Tls(tls) => match tls.read(buffer) {
                // A client that closes without close_notify is gone all the same; SMTP frames its own messages.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(0),
                other => other,
            },
            Inner::Gone(_) => Ok(0),
        }
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

    fn read_now(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        self.socket().wait = false;
        let outcome = self.read(buffer);
        self.socket().wait = true;
        match outcome {
            Ok(octets) => Ok(Some(octets)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn start_tls(&mut self, acceptor: &Acceptor) -> io::Result<TlsInfo> {
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
        let _ = socket.tcp.shutdown(Shutdown::Write);
        // Unread input would turn the FIN into a reset, and the reset could overtake the last reply.
        let mut rest = [0; 1024];
        socket.wait = false;
        for _ in 0..64 {
            if !matches!(socket.read(&mut rest), Ok(1..)) {
                break;
            }
        }
    }
}

impl Socket {
    /// Waits until the socket can go on, at most until the deadline.
    fn wait_for(&self, what: PollFlags) -> io::Result<()> {
        self.seat.falls_silent();
        loop {
            let left = self.clock.deadline(self.admission.is_under_pressure()).saturating_duration_since(Instant::now());
            let told = what == PollFlags::POLLOUT && self.clock.wait() != Wait::Farewell && self.seat.told().is_some();
            if left.is_zero() || told {
                return Err(ErrorKind::TimedOut.into());
            }
            let slice = PollTimeout::try_from(left.min(SLICE) + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(self.tcp.as_fd(), what)], slice) {
                Ok(0) | Err(nix::errno::Errno::EINTR) => {}
                Ok(_) => return Ok(()),
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    fn transfer(&mut self, flags: PollFlags, mut once: impl FnMut(&TcpStream) -> io::Result<usize>) -> io::Result<usize> {
        loop {
            match once(&self.tcp) {
                Ok(octets) => {
                    if octets > 0 {
                        self.seat.moves();
                    }
                    return Ok(octets);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock && self.wait => self.wait_for(flags)?,
                Err(error) => return Err(error),
            }
        }
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.transfer(PollFlags::POLLIN, |mut tcp| tcp.read(buffer))
    }
}

impl Write for Socket {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.transfer(PollFlags::POLLOUT, |mut tcp| tcp.write(data))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
