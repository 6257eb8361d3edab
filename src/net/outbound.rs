//! The octets of a connection that was opened here, plain or through TLS, with a deadline beneath.
//!
//! A read or write blocks in the kernel for half a second at most; after each the deadline and [`Stop`] are asked anew.
//! TLS sits on top and cannot wait longer than what is below it. A deadline counts from when the wait for the whole thing
//! began, so that no server holds a connection by single octets; content has a minimum rate instead.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use rustls::{ClientConnection, StreamOwned};

use super::connector::{HandshakeError, TlsClient};
use super::slices::{Slices, send_to};
use super::slot::Side;
use super::stop::{self, SLICE, Stop};
use super::tls::{TlsInfo, not_after};

/// A connection to a server elsewhere.
#[derive(Debug)]
pub struct Outbound {
    inner: Inner,
}

#[derive(Debug)]
enum Inner {
    /// After a handshake that failed, and within one.
    Gone,
    Plain(Socket),
    Tls(Box<StreamOwned<ClientConnection, Socket>>),
}

#[derive(Debug)]
struct Socket {
    tcp: TcpStream,
    stop: Arc<Stop>,
    wait_limit: WaitLimit,
    slices: Slices,
}

/// How long is waited.
#[derive(Clone, Copy, Debug)]
enum WaitLimit {
    /// While content moves: since when, when the last octet moved, how many did.
    Content { since: Instant, moved: Instant, octets: u64, limit: Duration },
    /// Until then; with `abides`, [`Stop`] ends it by its own deadline, otherwise at once.
    Until { deadline: Instant, abides: bool },
}

/// Octets of content a second, at least, averaged.
const CONTENT_RATE: u64 = 100;
/// How long content may be slower than that.
const CONTENT_GRACE: Duration = Duration::from_secs(600);
/// How long the last octets may take to leave.
const FAREWELL_MAX: Duration = Duration::from_secs(2);

impl Outbound {
    /// A connection that stands.
    pub fn new(tcp: TcpStream, stop: Arc<Stop>) -> Self {
        let wait_limit = WaitLimit::Until { deadline: Instant::now(), abides: false };
        Self { inner: Inner::Plain(Socket { tcp, stop, wait_limit, slices: Slices::new(SLICE) }) }
    }

    /// The server's address.
    pub fn peer(&self) -> io::Result<SocketAddr> {
        self.socket_ref().map_or_else(|| Err(ErrorKind::NotConnected.into()), |socket| socket.tcp.peer_addr())
    }

    /// Waits so long from now on for everything that follows. [`Stop`] ends the wait, at its own deadline if `abides`.
    pub fn wait(&mut self, limit: Duration, abides: bool) {
        self.set_wait_limit(WaitLimit::Until { deadline: Instant::now() + limit, abides });
    }

    /// Waits as long as content moves: `limit` without any, and not forever for a trickle.
    pub fn wait_for_content(&mut self, limit: Duration) {
        let now = Instant::now();
        self.set_wait_limit(WaitLimit::Content { since: now, moved: now, octets: 0, limit });
    }

    /// Reads what is there; `None` if nothing is. Octets that wait to be written stay where they are.
    pub fn read_now(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let outcome = match &mut self.inner {
            Inner::Gone => Ok(0),
            Inner::Plain(socket) => socket.read_now(buffer),
            Inner::Tls(tls) => read_tls_now(tls, buffer),
        };
        match outcome {
            Ok(octets) => Ok(Some(octets)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Does the handshake with the host of this name. After an error nothing more can be read or written.
    pub fn start_tls(&mut self, client: &TlsClient, host: &str) -> Result<TlsInfo, HandshakeError> {
        let connection = client.connection(host)?;
        let Inner::Plain(socket) = std::mem::replace(&mut self.inner, Inner::Gone) else {
            return Err(HandshakeError::Io(ErrorKind::AlreadyExists.into()));
        };
        let mut tls = Box::new(StreamOwned::new(connection, socket));
        while tls.conn.is_handshaking() {
            tls.conn.complete_io(&mut tls.sock).map_err(HandshakeError::of)?;
        }
        let info = TlsInfo::of(&tls.conn).ok_or_else(|| HandshakeError::Io(ErrorKind::InvalidData.into()))?;
        self.inner = Inner::Tls(tls);
        Ok(info)
    }

    /// When the server's certificate ends; `None` in the clear, or if it cannot be read out of it.
    pub fn certificate_end(&self) -> Option<SystemTime> {
        match &self.inner {
            Inner::Tls(tls) => not_after(tls.conn.peer_certificates()?.first()?),
            Inner::Gone | Inner::Plain(_) => None,
        }
    }

    /// Ends the connection: the last octets, close_notify, then FIN, all within two seconds. What the server may still say is
    /// not waited for.
    pub fn close(&mut self, last: &[u8]) {
        self.wait(FAREWELL_MAX, true);
        let _ = self.write_all(last);
        if let Inner::Tls(tls) = &mut self.inner {
            tls.conn.send_close_notify();
            let _ = tls.flush();
        }
        if let Some(socket) = self.socket_ref() {
            let _ = socket.tcp.shutdown(Shutdown::Write);
        }
    }

    fn set_wait_limit(&mut self, wait_limit: WaitLimit) {
        if let Some(socket) = self.socket() {
            socket.wait_limit = wait_limit;
        }
    }

    fn socket(&mut self) -> Option<&mut Socket> {
        match &mut self.inner {
            Inner::Gone => None,
            Inner::Plain(socket) => Some(socket),
            Inner::Tls(tls) => Some(&mut tls.sock),
        }
    }

    fn socket_ref(&self) -> Option<&Socket> {
        match &self.inner {
            Inner::Gone => None,
            Inner::Plain(socket) => Some(socket),
            Inner::Tls(tls) => Some(&tls.sock),
        }
    }
}

impl Read for Outbound {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.inner {
            Inner::Gone => Ok(0),
            Inner::Plain(socket) => socket.read(buffer),
            Inner::Tls(tls) => match tls.read(buffer) {
                // Without close_notify it is gone all the same: SMTP frames its own replies.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(0),
                other => other,
            },
        }
    }
}

impl Write for Outbound {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match &mut self.inner {
            Inner::Gone => Err(ErrorKind::BrokenPipe.into()),
            Inner::Plain(socket) => socket.write(data),
            Inner::Tls(tls) => tls.write(data),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.inner {
            Inner::Tls(tls) => tls.flush(),
            Inner::Gone | Inner::Plain(_) => Ok(()),
        }
    }
}

/// The same through TLS, without the writing that the library's own read does first.
fn read_tls_now(tls: &mut StreamOwned<ClientConnection, Socket>, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match tls.conn.reader().read(buffer) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(0),
            other => return other,
        }
        if tls.conn.read_tls(&mut AtOnce(&tls.sock))? == 0 {
            return Ok(0);
        }
        tls.conn.process_new_packets().map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
    }
}

/// Reads that wait for nothing.
struct AtOnce<'a>(&'a Socket);

impl Read for AtOnce<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read_now(buffer)
    }
}

impl Socket {
    fn read_now(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(recv(self.tcp.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT)?)
    }

    /// Does `once` as often as it takes to move something, blocking as long as the deadline allows.
    fn transfer(&mut self, side: Side, mut once: impl FnMut(i32, MsgFlags) -> nix::Result<usize>) -> io::Result<usize> {
        loop {
            let now = Instant::now();
            let (deadline, stopped) = self.wait_limit.deadline(&self.stop, now);
            let left = deadline.saturating_duration_since(now);
            if left.is_zero() && stopped {
                return Err(stop::error());
            }
            // What is there already is taken, late as it is: it may be this machine that was slow, and a reply that is not
            // read is a duplicate. Replies are bounded by their reader.
            let flags = if left.is_zero() { MsgFlags::MSG_DONTWAIT } else { self.slices.block_for(&self.tcp, side, left)? };
            match once(self.tcp.as_raw_fd(), flags) {
                Ok(octets) => {
                    self.wait_limit.moved(octets);
                    return Ok(octets);
                }
                Err(Errno::EAGAIN) if left.is_zero() => return Err(ErrorKind::TimedOut.into()),
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl WaitLimit {
    /// Until when, and whether that is because everything is stopped.
    fn deadline(&self, stop: &Stop, now: Instant) -> (Instant, bool) {
        let (own, abides) = match *self {
            Self::Content { since, moved, octets, limit } => {
                let earned = Duration::from_secs(octets / CONTENT_RATE);
                ((moved + limit).min(since + CONTENT_GRACE + earned), true)
            }
            Self::Until { deadline, abides } => (deadline, abides),
        };
        match stop.until() {
            Some(until) if abides && until >= own => (own, false),
            Some(until) if abides => (until, true),
            Some(_) => (now, true),
            None => (own, false),
        }
    }

    fn moved(&mut self, more: usize) {
        if let Self::Content { moved, octets, .. } = self
            && more > 0
        {
            *moved = Instant::now();
            *octets += more as u64;
        }
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.transfer(Side::Read, |fd, flags| recv(fd, buffer, flags))
    }
}

impl Write for Socket {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.transfer(Side::Write, |fd, flags| send_to(fd, data, flags))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::stop::is_stop;
    use super::*;
    use std::net::TcpListener;

    fn pair(stop: &Arc<Stop>) -> (Outbound, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (Outbound::new(tcp, Arc::clone(stop)), listener.accept().unwrap().0)
    }

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_wait_ends() {
        let (mut outbound, _server) = pair(&Arc::default());
        outbound.wait(Duration::from_millis(20), false);
        assert_eq!(outbound.read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::TimedOut);
        assert!(outbound.read_now(&mut [0; 8]).unwrap().is_none());
        // Octets that trickle do not push the end away.
        let (mut outbound, mut server) = pair(&Arc::default());
        let trickle = std::thread::spawn(move || {
            while server.write_all(b"2").is_ok() {
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        outbound.wait(Duration::from_millis(20), false);
        let end = std::iter::repeat_with(|| outbound.read(&mut [0; 64])).find_map(Result::err);
        assert_eq!(end.unwrap().kind(), ErrorKind::TimedOut);
        drop(outbound);
        trickle.join().unwrap();
    }

    #[test]
    fn a_stop_ends_commands_at_once_and_content_by_its_deadline() {
        let rows = [(false, HOUR, true), (true, Duration::ZERO, true), (true, HOUR, false)];
        for (abides, later, ends) in rows {
            let stop = Arc::default();
            let (mut outbound, mut server) = pair(&stop);
            outbound.wait(HOUR, abides);
            stop.stop(Instant::now() + later);
            if ends {
                assert!(is_stop(&outbound.read(&mut [0; 8]).unwrap_err()), "{abides} {later:?}");
                assert!(is_stop(&outbound.write_all(b"x").unwrap_err()));
            } else {
                server.write_all(b"250").unwrap();
                assert_eq!(outbound.read(&mut [0; 8]).unwrap(), 3);
            }
        }
        // A read that waits already is reached as well.
        let stop = Arc::default();
        let (mut outbound, _server) = pair(&stop);
        outbound.wait(HOUR, false);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(move || outbound.read(&mut [0; 8]).unwrap_err());
            stop.stop(Instant::now());
            assert!(is_stop(&waiting.join().unwrap()));
        });
    }

    #[test]
    fn content_waits_while_it_moves() {
        let since = Instant::now();
        let at = |moved: u64, octets| {
            let moved = since + Duration::from_secs(moved);
            let wait_limit = WaitLimit::Content { since, moved, octets, limit: Duration::from_secs(180) };
            (wait_limit.deadline(&Stop::new(), since).0 - since).as_secs()
        };
        assert_eq!(at(0, 0), 180);
        assert_eq!(at(100, 1_000_000), 280);
        // A trickle: at 1 octet a second it ends after ten minutes.
        assert_eq!(at(590, 590), 605);
        assert_eq!(at(590, 100_000), 770);
        // Octets that are taken do not end it.
        let (mut outbound, _server) = pair(&Arc::default());
        outbound.wait_for_content(Duration::from_millis(50));
        let outcome = outbound.write_all(&vec![b'x'; 64 << 20]);
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::TimedOut);
    }
}
