//! Two machines in one test: network namespaces with a wire between, addresses that look public, and port 25 for the taking.
//!
//! The namespace belongs to a thread: what the test's own thread starts is here, what is done [`Network::there`] is on the
//! other machine.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::process::Command;
use std::sync::mpsc::{self, Sender};
use std::thread;

use nix::sched::{CloneFlags, unshare};

type Deed = Box<dyn FnOnce() + Send>;

/// The wire; both namespaces go when their threads and what they started have ended.
pub struct Network {
    there: Sender<Deed>,
}

/// This machine.
pub const HERE: &str = "203.0.113.1";
/// The first of the other's addresses.
pub const THERE: [&str; 8] = [
    "203.0.113.11",
    "203.0.113.12",
    "203.0.113.13",
    "203.0.113.14",
    "203.0.113.15",
    "203.0.113.16",
    "2001:67c::11",
    "203.0.113.17",
];

impl Network {
    /// Runs a test on a thread that is in a namespace of its own. Needs root and ip(8).
    pub fn run(test: impl FnOnce(&Self) + Send + 'static) {
        if !super::require_root() || !super::require(&["ip"]) {
            return;
        }
        let name = thread::current().name().unwrap_or("a test").to_owned();
        let thread = thread::Builder::new().name(name).spawn(move || test(&Self::new())).unwrap();
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    }

    fn new() -> Self {
        let (there, deeds) = mpsc::channel::<Deed>();
        let (tell, told) = mpsc::channel();
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            tell.send(nix::unistd::gettid()).unwrap();
            deeds.into_iter().for_each(|deed| deed());
        });
        let other = told.recv().unwrap().to_string();
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        ip(&["link", "set", "lo", "up"]);
        ip(&["link", "add", "here", "type", "veth", "peer", "name", "there", "netns", &other]);
        ip(&["addr", "add", &format!("{HERE}/24"), "dev", "here"]);
        ip(&["addr", "add", "2001:67c::1/64", "dev", "here", "nodad"]);
        ip(&["link", "set", "here", "up"]);
        let network = Self { there };
        network.there(|| {
            ip(&["link", "set", "lo", "up"]);
            ip(&["link", "set", "there", "up"]);
        });
        THERE.into_iter().for_each(|address| network.add(address));
        network
    }

    /// One more address of the other machine: of 203.0.113/24 or 2001:67c::/64.
    pub fn add(&self, address: &str) {
        let (length, options): (u8, &[&str]) = if address.contains(':') { (64, &["nodad"]) } else { (24, &[]) };
        let address = format!("{address}/{length}");
        self.there(move || ip(&[&["addr", "add", &address, "dev", "there"], options].concat()));
    }

    /// Does something on the other machine.
    pub fn there<T: Send + 'static>(&self, deed: impl FnOnce() -> T + Send + 'static) -> T {
        let (tell, told) = mpsc::channel();
        self.there.send(Box::new(move || drop(tell.send(deed())))).unwrap();
        told.recv().unwrap()
    }

    /// Listens on a port of the other machine.
    pub fn listen(&self, address: &str, port: u16) -> TcpListener {
        let address = SocketAddr::new(address.parse::<IpAddr>().unwrap(), port);
        self.there(move || TcpListener::bind(address)).unwrap_or_else(|error| panic!("{address}: {error}"))
    }
}

/// Calls ip(8) in the namespace of this thread.
pub fn ip(words: &[&str]) {
    let output = super::finish(Command::new("ip").args(words));
    assert!(output.status.success(), "ip {words:?}: {}", super::said(&output));
}
