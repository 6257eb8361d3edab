//! Opens a connection to an address elsewhere: within a deadline, from a source address if one is wanted, and given up
//! when everything is stopped.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Protocol, Socket, Type};

use super::stop::{self, SLICE, Stop};

/// The source address for a connection to `to`: the first of its family. `None` if there are sources, and none of them is
/// of the family: the address cannot be reached from them.
pub fn source_for(to: SocketAddr, sources: &[IpAddr]) -> Option<Option<IpAddr>> {
    match sources.iter().find(|source| source.is_ipv4() == to.is_ipv4()) {
        Some(source) => Some(Some(*source)),
        None if sources.is_empty() => Some(None),
        None => None,
    }
}

/// Connects within `limit`. The error is `TimedOut` after it, one that [`stop::is_stop`] knows once `stop` is said, and one
/// that [`is_source`] knows if `source` is no address to connect from.
pub fn dial(to: SocketAddr, source: Option<IpAddr>, limit: Duration, stop: &Stop) -> io::Result<TcpStream> {
    let deadline = Instant::now() + limit;
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    if let Some(source) = source {
        let bound = socket.bind(&SocketAddr::new(source, 0).into());
        bound.map_err(|error| io::Error::new(error.kind(), BadSource(source, error)))?;
    }
    socket.set_nonblocking(true)?;
    match socket.connect(&to.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(Errno::EINPROGRESS as i32) => wait(&socket, deadline, stop)?,
        Err(error) => return Err(error),
    }
    socket.set_nonblocking(false)?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket.into())
}

/// True for an error that means: the source is no address of this machine, or none that may be used.
pub fn is_source(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<BadSource>())
}

#[derive(Debug)]
struct BadSource(IpAddr, io::Error);

impl fmt::Display for BadSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0, self.1)
    }
}

impl std::error::Error for BadSource {}

/// Waits until the connection stands or has failed.
fn wait(socket: &Socket, deadline: Instant, stop: &Stop) -> io::Result<()> {
    loop {
        if stop.is_stopped() {
            return Err(stop::error());
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        let slice = left.min(SLICE) + Duration::from_millis(1);
        let timeout = PollTimeout::try_from(slice).unwrap_or(PollTimeout::ZERO);
        let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
        match poll(&mut fds, timeout) {
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return socket.take_error()?.map_or(Ok(()), Err),
            Err(errno) => return Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn from_a_source_address() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let tcp = dial(listener.local_addr().unwrap(), Some([127, 0, 0, 9].into()), MINUTE, &Stop::new()).unwrap();
        assert_eq!(listener.accept().unwrap().1.ip(), IpAddr::from([127, 0, 0, 9]));
        assert!(tcp.nodelay().unwrap());
    }

    #[test]
    fn from_an_address_of_another_machine() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        let error = dial(to, Some([192, 0, 2, 1].into()), MINUTE, &Stop::new()).unwrap_err();
        assert!(is_source(&error) && error.to_string().starts_with("192.0.2.1: "), "{error}");
        drop(listener);
        assert!(!is_source(&dial(to, Some([127, 0, 0, 9].into()), MINUTE, &Stop::new()).unwrap_err()));
    }

    #[test]
    fn refused_timed_out_stopped() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        assert_eq!(dial(address, None, MINUTE, &Stop::new()).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        // A socket that listens with a full queue answers nothing.
        let full = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        full.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        full.listen(0).unwrap();
        let address = full.local_addr().unwrap().as_socket().unwrap();
        let mut held = Vec::new();
        let late = (0..50).find_map(|_| match dial(address, None, Duration::from_millis(200), &Stop::new()) {
            Ok(tcp) => {
                held.push(tcp);
                None
            }
            Err(error) => Some(error.kind()),
        });
        assert_eq!(late, Some(ErrorKind::TimedOut));
        let stop = Stop::new();
        std::thread::scope(|scope| {
            let dialing = scope.spawn(|| dial(address, None, MINUTE, &stop).unwrap_err());
            stop.stop(Instant::now());
            assert!(stop::is_stop(&dialing.join().unwrap()));
        });
    }

    #[test]
    fn sources_choose_the_family() {
        let four: IpAddr = [127, 0, 0, 1].into();
        let six: IpAddr = [0, 0, 0, 0, 0, 0, 0, 1u16].into();
        let (to_four, to_six) = (SocketAddr::new(four, 25), SocketAddr::new(six, 25));
        assert_eq!(source_for(to_four, &[]), Some(None));
        assert_eq!(source_for(to_six, &[four]), None);
        assert_eq!(source_for(to_six, &[four, six]), Some(Some(six)));
    }
}
