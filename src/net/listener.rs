//! One acceptor thread a socket: accepts, asks who may come in, hands over. It never does TLS and never waits for a
//! client, and no accept error ends it: what comes back at once (too many open files) is answered with a pause.

use std::io::{self, ErrorKind, PipeReader, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::admission::Admission;
use super::pool::WorkSender;
use crate::smtp::reply::Refusal;
use crate::smtp::session::Service;

/// What an acceptor asks before it lets a connection in, and what it reports.
pub trait AcceptPolicy: Send + Sync {
    /// Why nobody from this address is let in now, if so.
    fn refuses(&self, address: IpAddr) -> Option<Refusal>;
    /// Somebody was turned away; gives what to say to them, if anything.
    fn turned_away(&self, peer: SocketAddr, service: Service, why: Refusal) -> Option<Vec<u8>>;
    /// accept(2) failed, and the acceptor pauses.
    fn accept_failed(&self, service: Service, error: &io::Error, pause: Duration);
}

/// A listening socket and what it is for.
#[derive(Debug)]
pub struct Listener {
    /// The socket.
    pub socket: TcpListener,
    /// What it is for.
    pub service: Service,
}

/// The shortest and the longest pause behind a failed accept(2).
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

impl Listener {
    /// Accepts until the other end of `stop` is closed, or, if `idle` is given, nobody came for so long while nobody
    /// was being served.
    pub fn run(
        &self,
        stop: &PipeReader,
        idle: Option<Duration>,
        admission: &Arc<Admission>,
        entrance: &WorkSender<()>,
        gate: &dyn AcceptPolicy,
    ) -> io::Result<()> {
        self.socket.set_nonblocking(true)?;
        let mut pause = PAUSE.0;
        let mut last = Instant::now();
        loop {
            let slice = match idle {
                Some(_) => PollTimeout::from(500u16),
                None => PollTimeout::NONE,
            };
            let mut fds = [PollFd::new(stop.as_fd(), PollFlags::POLLIN), PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, slice) {
                Err(nix::errno::Errno::EINTR) => continue,
                Err(errno) => return Err(errno.into()),
                Ok(_) => {}
            }
            if fds[0].any().unwrap_or(true) {
                return Ok(());
            }
            if admission.sessions() > 0 || fds[1].any().unwrap_or(false) {
                last = Instant::now();
            }
            if idle.is_some_and(|idle| last.elapsed() >= idle) {
                return Ok(());
            }
            match self.accept_all(admission, entrance, gate) {
                Ok(()) => pause = PAUSE.0,
                Err(error) => {
                    gate.accept_failed(self.service, &error, pause);
                    let wait = PollTimeout::try_from(pause).unwrap_or(PollTimeout::MAX);
                    let _ = poll(&mut [PollFd::new(stop.as_fd(), PollFlags::POLLIN)], wait);
                    pause = (pause * 2).min(PAUSE.1);
                }
            }
        }
    }

    fn accept_all(&self, admission: &Arc<Admission>, entrance: &WorkSender<()>, gate: &dyn AcceptPolicy) -> io::Result<()> {
        loop {
            match self.socket.accept() {
                Ok((tcp, peer)) => self.let_in(tcp, peer, admission, entrance, gate),
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => return Ok(()),
                    // The client went away in between; accept(2) tells of errors that belong to it alone.
                    ErrorKind::Interrupted | ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset => {}
                    _ => return Err(error),
                },
            }
        }
    }

    fn let_in(
        &self,
        tcp: TcpStream,
        peer: SocketAddr,
        admission: &Arc<Admission>,
        entrance: &WorkSender<()>,
        gate: &dyn AcceptPolicy,
    ) {
        let away = |tcp: &TcpStream, peer: SocketAddr, service: Service, why| {
            if let Some(text) = gate.turned_away(peer, service, why) {
                let _ = tcp.set_nonblocking(true);
                let mut tcp = tcp;
                let _ = tcp.write(&text);
            }
        };
        if let Some(why) = gate.refuses(peer.ip()) {
            return away(&tcp, peer, self.service, why);
        }
        match admission.admit(tcp, peer, self.service) {
            Err((why, tcp)) => away(&tcp, peer, self.service, why),
            Ok(admitted) => {
                if let Some(guard) = admitted.displaced {
                    let slot = guard.slot();
                    away(slot.tcp(), slot.peer(), slot.service(), Refusal::Overloaded);
                }
                // As many places in the channel as there are to wait in: there is always room.
                if admitted.wakes {
                    let _ = entrance.offer(());
                }
            }
        }
    }
}
