//! One acceptor thread a socket: accepts connections, asks whether they may come in, and hands them to [`Admission`].
//!
//! It never does TLS and never waits for a client. No error of accept(2) or poll(2) ends it: what comes back at once (too many open
//! files) is answered with a pause. It ends when it is told to, however fast connections come in.

use std::io::{self, ErrorKind, PipeReader, Read as _, Write as _};
use std::mem;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt};
use socket2::Socket;

use super::admission::{Admission, Peer, SlotGuard, TurnedAway};
use super::memory;
use super::network::address_of_uid;
use crate::smtp::session::Service;

/// What an acceptor asks before it lets a connection in, and what it reports.
pub trait AcceptPolicy: Send + Sync {
    /// True if no connection from this address is let in now.
    fn blocks(&self, address: IpAddr) -> bool;
    /// A connection is turned away; gives what to say to the client, if anything.
    fn turned_away(&self, peer: SocketAddr, service: Service, why: TurnedAway) -> Option<Vec<u8>>;
    /// accept(2) or poll(2) failed, and the acceptor pauses.
    fn accept_failed(&self, service: Service, error: &io::Error, pause: Duration);
}

/// A listening socket and what it is for.
#[derive(Debug)]
pub struct Listener {
    /// The socket.
    pub socket: Listening,
    /// What it is for.
    pub service: Service,
}

/// A socket that is listened on.
#[derive(Debug)]
pub enum Listening {
    /// TCP.
    Tcp(TcpListener),
    /// A local socket.
    Unix {
        /// The socket; the name that it was bound to may be one that it had for a moment.
        socket: UnixListener,
        /// Where callers find it, if it has a path.
        path: Option<PathBuf>,
        /// The login that all its callers have, if it is for one alone.
        login: Option<Arc<str>>,
    },
}

/// The shortest and the longest pause after a failed accept(2).
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));
/// Connections that are accepted before the acceptor looks whether it should stop.
const BATCH: usize = 64;

impl Listener {
    /// Accepts until the other end of `orders` is closed, or, if `idle` is given, no connection came for so long while none was
    /// being served. What is written there asks it to give back the memory that this thread keeps.
    pub fn run(
        &self,
        mut orders: &PipeReader,
        idle: Option<Duration>,
        admission: &Arc<Admission>,
        policy: &dyn AcceptPolicy,
    ) -> io::Result<()> {
        self.socket.set_nonblocking(true)?;
        let mut pause = PAUSE.0;
        let (mut last, mut accepted) = (Instant::now(), false);
        let slice = if idle.is_some() { PollTimeout::from(500u16) } else { PollTimeout::NONE };
        loop {
            let mut fds = [PollFd::new(orders.as_fd(), PollFlags::POLLIN), PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            let polled = match poll(&mut fds, slice) {
                Err(Errno::EINTR) => continue,
                other => other.map_err(io::Error::from),
            };
            let [ordered, comes] = fds.map(|fd| polled.is_ok() && fd.any().unwrap_or(true));
            if ordered {
                match orders.read(&mut [0]) {
                    Ok(0) => return Ok(()),
                    Ok(_) if mem::take(&mut accepted) => memory::tidy(),
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            accepted |= comes;
            if admission.sessions() > 0 || comes {
                last = Instant::now();
            }
            if idle.is_some_and(|idle| last.elapsed() >= idle) {
                return Ok(());
            }
            match polled.and_then(|_| self.accept_some(admission, policy)) {
                Ok(()) => pause = PAUSE.0,
                Err(error) => {
                    policy.accept_failed(self.service, &error, pause);
                    if poll(&mut [PollFd::new(orders.as_fd(), PollFlags::POLLIN)], PollTimeout::try_from(pause).unwrap_or(slice))
                        .is_err()
                    {
                        std::thread::sleep(pause);
                    }
                    pause = (pause * 2).min(PAUSE.1);
                }
            }
        }
    }

    fn accept_some(&self, admission: &Arc<Admission>, policy: &dyn AcceptPolicy) -> io::Result<()> {
        for _ in 0..BATCH {
            match self.socket.accept() {
                Ok((socket, peer)) => self.let_in(socket, peer, admission, policy),
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => return Ok(()),
                    // The client went away in between; accept(2) tells of errors that belong to it alone.
                    ErrorKind::Interrupted | ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset => {}
                    _ => return Err(error),
                },
            }
        }
        Ok(())
    }

    fn let_in(&self, socket: Socket, peer: Peer, admission: &Arc<Admission>, policy: &dyn AcceptPolicy) {
        let address = peer.address;
        if policy.blocks(address.ip()) {
            return turn_away(&socket, policy.turned_away(address, self.service, TurnedAway::Blocked));
        }
        match admission.admit(socket, peer, self.service) {
            Err((why, socket)) => turn_away(&socket, policy.turned_away(address, self.service, why)),
            Ok(displaced) => displaced.iter().for_each(|guard| turn_away_waiting(guard, policy)),
        }
    }
}

/// Ends a connection that has waited, for want of a worker.
pub fn turn_away_waiting(guard: &SlotGuard, policy: &dyn AcceptPolicy) {
    let slot = guard.slot();
    turn_away(slot.socket(), policy.turned_away(slot.peer(), slot.service(), TurnedAway::Overloaded));
}

/// Says what there is to say, as far as that needs no waiting.
fn turn_away(mut socket: &Socket, text: Option<Vec<u8>>) {
    if let Some(text) = text {
        let _ = socket.set_nonblocking(true);
        let _ = socket.write(&text);
    }
}

impl Listening {
    /// Where it listens, for people.
    pub fn name(&self) -> String {
        match self {
            Self::Tcp(socket) => socket.local_addr().map_or_else(|error| error.to_string(), |address| address.to_string()),
            Self::Unix { path, .. } => path.as_ref().map_or_else(|| "unnamed".to_owned(), |path| path.display().to_string()),
        }
    }

    fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => socket.set_nonblocking(nonblocking),
            Self::Unix { socket, .. } => socket.set_nonblocking(nonblocking),
        }
    }

    /// On a local socket the kernel says who the caller is.
    fn accept(&self) -> io::Result<(Socket, Peer)> {
        match self {
            Self::Tcp(socket) => socket.accept().map(|(socket, peer)| (socket.into(), peer.into())),
            Self::Unix { socket, login, .. } => {
                let (socket, _) = socket.accept()?;
                let uid = getsockopt(&socket, sockopt::PeerCredentials)?.uid();
                Ok((socket.into(), Peer { address: address_of_uid(uid), local_login: login.clone() }))
            }
        }
    }
}

impl AsFd for Listening {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(socket) => socket.as_fd(),
            Self::Unix { socket, .. } => socket.as_fd(),
        }
    }
}

impl From<TcpListener> for Listening {
    fn from(socket: TcpListener) -> Self {
        Self::Tcp(socket)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::net::TcpStream;

    use super::super::admission::Capacity;
    use super::*;

    struct TurnAll;

    impl AcceptPolicy for TurnAll {
        fn blocks(&self, _: IpAddr) -> bool {
            true
        }

        fn turned_away(&self, _: SocketAddr, _: Service, _: TurnedAway) -> Option<Vec<u8>> {
            Some(b"421".to_vec())
        }

        fn accept_failed(&self, _: Service, _: &io::Error, _: Duration) {}
    }

    #[test]
    fn an_octet_gives_memory_back_and_the_end_stops() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let listener = Listener { socket: socket.into(), service: Service::Smtp };
        let admission = Admission::new(Capacity { workers: 1, waiting: 0, per_network: 1 }, Arc::default());
        let (orders, mut order) = io::pipe().unwrap();
        let acceptor = std::thread::spawn(move || listener.run(&orders, None, &admission, &TurnAll));
        for _ in 0..3 {
            let mut text = String::new();
            TcpStream::connect(address).unwrap().read_to_string(&mut text).unwrap();
            assert_eq!(text, "421");
            order.write_all(b"m").unwrap();
        }
        drop(order);
        acceptor.join().unwrap().unwrap();
    }
}
