//! Where the sockets come from: bound by ourselves, or handed over by a service manager.
//!
//! Known are systemd's LISTEN_FDS with names, inetd's `wait` (a listening socket on descriptor 0), and one connection
//! on descriptor 0 or as LISTEN_FDS with Accept=yes (inetd's `nowait`, tcpserver, s6-tcpserver).

use std::env;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;

use listenfd::ListenFd;
use socket2::{Domain, SockRef, Socket, Type};

use super::listener::Listening;
use crate::smtp::session::Service;

/// What this process was started with.
#[derive(Debug)]
pub enum Inherited {
    /// One connection: serve it and exit.
    Connection(TcpStream),
    /// Listening sockets, with the names that the manager gave them.
    Listeners(Vec<(Listening, Option<String>)>),
    /// inetd's `wait`: a listening socket to be given up when no client comes.
    Lent(TcpListener),
    /// Nothing: bind the configured addresses.
    Nothing,
}

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 1024;

/// Finds out what was handed over. Takes LISTEN_FDS once; a second call finds nothing there.
pub fn inherited() -> io::Result<Inherited> {
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut handed = ListenFd::from_env();
    let mut listeners = Vec::new();
    for index in 0..handed.len() {
        let Some(fd) = take(&mut handed, index)? else { continue };
        let name = names.split(':').nth(index).filter(|name| !name.is_empty()).map(str::to_owned);
        if is_local(&fd)? {
            let socket = UnixListener::from(fd);
            let path = socket.local_addr()?.as_pathname().map(Path::to_owned);
            listeners.push((Listening::Unix { socket, path, login: None }, name));
            continue;
        }
        if !is_listening(&fd)? {
            return Ok(Inherited::Connection(TcpStream::from(fd)));
        }
        listeners.push((TcpListener::from(fd).into(), name));
    }
    if !listeners.is_empty() {
        return Ok(Inherited::Listeners(listeners));
    }
    let Ok(stdin) = io::stdin().as_fd().try_clone_to_owned() else {
        return Ok(Inherited::Nothing);
    };
    match is_listening(&stdin) {
        Ok(true) => Ok(Inherited::Lent(TcpListener::from(stdin))),
        Ok(false) => Ok(Inherited::Connection(TcpStream::from(stdin))),
        // No socket at all.
        Err(_) => Ok(Inherited::Nothing),
    }
}

/// True if standard error is the client's connection, as under inetd: nothing may be written there but SMTP.
pub fn stderr_is_a_connection() -> bool {
    let stderr = io::stderr();
    let socket = SockRef::from(&stderr);
    socket.r#type().is_ok_and(|kind| kind == Type::STREAM)
        && socket.local_addr().is_ok_and(|address| address.as_socket().is_some())
}

/// Takes a handed socket of any address family that is served.
fn take(handed: &mut ListenFd, index: usize) -> io::Result<Option<OwnedFd>> {
    use nix::libc::{AF_INET, AF_INET6, AF_UNIX, SOCK_STREAM};
    handed
        .take_custom::<OwnedFd>(index, AF_INET, SOCK_STREAM, "TCP socket")
        .or_else(|_| handed.take_custom::<OwnedFd>(index, AF_INET6, SOCK_STREAM, "TCP socket"))
        .or_else(|_| handed.take_custom::<OwnedFd>(index, AF_UNIX, SOCK_STREAM, "stream socket"))
}

/// What a local port is for, unless its name says otherwise.
pub fn service_of_port(port: u16) -> Option<Service> {
    match port {
        25 => Some(Service::Smtp),
        465 => Some(Service::Submissions),
        587 | 2525 => Some(Service::Submission),
        _ => None,
    }
}

/// Binds an address. `[::]` takes IPv4 too unless `v6_alone`; on a host without IPv6 it means `0.0.0.0`.
pub fn bind(address: SocketAddr, v6_alone: bool) -> io::Result<TcpListener> {
    match bind_one(address, v6_alone) {
        Err(error) if error.raw_os_error() == Some(nix::libc::EAFNOSUPPORT) && address.ip().is_unspecified() && !v6_alone => {
            bind_one(SocketAddr::from(([0, 0, 0, 0], address.port())), false)
        }
        other => other,
    }
}

fn bind_one(address: SocketAddr, v6_alone: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(v6_alone)?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// True for a listening local socket; a connected one cannot be served, since nothing waits for the next.
fn is_local(fd: &OwnedFd) -> io::Result<bool> {
    let socket = SockRef::from(fd);
    if socket.domain()? != Domain::UNIX {
        return Ok(false);
    }
    match socket.is_listener()? {
        true => Ok(true),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "a local socket must listen; set Accept=no")),
    }
}

/// True for a listening TCP socket, false for a connected one, an error for anything else.
fn is_listening(fd: &OwnedFd) -> io::Result<bool> {
    let socket = SockRef::from(fd);
    if socket.r#type()? != Type::STREAM || socket.local_addr()?.as_socket().is_none() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a TCP socket"));
    }
    socket.is_listener()
}
