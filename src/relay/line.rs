//! The octets of a connection to a next hop: writes what a client says, reads replies, streams content.
//!
//! Every wait has a deadline; a reply's counts from the write before it, so that no server holds a courier by single octets.

use std::io::{self, ErrorKind, Read, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::route::Hop;
use crate::net::connector::{HandshakeError, TlsClient};
use crate::net::dial::is_source;
use crate::net::outbound::Outbound;
use crate::net::stop::{Stop, is_stop};
use crate::net::tls::TlsInfo;
use crate::smtp::client::{Client, Event, Fault, Next, Step, Wait};
use crate::smtp::encoder::Encoder;
use crate::smtp::remote::RemoteReply;
use crate::smtp::reply_reader::{ReplyReader, Response};

/// How long what may take. Shorter waits for the last reply make duplicates (RFC 5321 section 4.5.3.2.6, RFC 1047).
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// Looking up a name.
    pub names: Duration,
    /// Opening a connection to one address.
    pub connect: Duration,
    /// The greeting, a handshake, a reply to a command, and to DATA.
    pub command: Duration,
    /// Content of which no octet moves.
    pub content: Duration,
    /// The reply to the final dot.
    pub data_end: Duration,
    /// From readiness to the last transaction that may begin on a connection.
    pub reuse: Duration,
}

/// The octets of a connection, and replies out of them.
#[derive(Debug)]
pub(super) struct Line {
    outbound: Outbound,
    reader: ReplyReader,
    /// What was read and is part of no reply yet.
    unread: Vec<u8>,
    pub(super) peer: SocketAddr,
    pub(super) host: String,
    pub(super) tls: Option<TlsInfo>,
    pub(super) timeouts: Timeouts,
    pub(super) stop: Arc<Stop>,
}

/// Octets that are read of content at once, and gathered before they are written.
const PIECE: usize = 32 * 1024;

impl Default for Timeouts {
    fn default() -> Self {
        const fn minutes(count: u64) -> Duration {
            Duration::from_secs(60 * count)
        }
        Self {
            names: Duration::from_secs(30),
            connect: Duration::from_secs(30),
            command: minutes(5),
            content: minutes(3),
            data_end: minutes(10),
            reuse: minutes(5),
        }
    }
}

impl Line {
    pub(super) fn new(outbound: Outbound, peer: SocketAddr, hop: &Hop, stop: &Arc<Stop>) -> Self {
        let (reader, unread) = (ReplyReader::new(), Vec::new());
        Self { outbound, reader, unread, peer, host: hop.host.clone(), tls: None, timeouts: hop.timeouts, stop: Arc::clone(stop) }
    }

    /// What a server says first, after which it hears QUIT alone.
    pub(super) fn greeting(&mut self, limit: Duration) -> Result<RemoteReply, Fault> {
        self.outbound.wait(limit, false);
        let greeting = self.reply();
        if greeting.is_ok() {
            self.bid_farewell(b"QUIT\r\n");
        }
        greeting.map(|response| response.reply)
    }

    /// Writes what a step says and waits for the reply that it wants.
    pub(super) fn advance(&mut self, client: &mut Client, step: Step) -> Step {
        let Next::Reply(wait) = step.next else {
            return client.step(Event::Lost(Fault::Defect));
        };
        let (limit, abides) = match wait {
            Wait::Command | Wait::DataInit | Wait::Greeting => (self.timeouts.command, false),
            Wait::DataEnd => (self.timeouts.data_end, true),
        };
        self.outbound.wait(limit, abides);
        let outcome = self.write(&step.write).and_then(|()| self.reply());
        self.tell(client, outcome)
    }

    /// Tells the client of a reply, or of why there is none.
    fn tell(&mut self, client: &mut Client, outcome: Result<Response, Fault>) -> Step {
        match outcome {
            Ok(response) => {
                let more = !self.unread.is_empty();
                client.step(Event::Reply { response: &response, more })
            }
            Err(fault) => client.step(Event::Lost(fault)),
        }
    }

    fn write(&mut self, octets: &[u8]) -> Result<(), Fault> {
        if octets.is_empty() {
            return Ok(());
        }
        self.outbound.write_all(octets).and_then(|()| self.outbound.flush()).map_err(|error| fault_of(&error))
    }

    /// The next reply.
    fn reply(&mut self) -> Result<Response, Fault> {
        loop {
            if let Some(response) = self.parse()? {
                return Ok(response);
            }
            let mut piece = [0; 4096];
            match self.outbound.read(&mut piece) {
                Ok(0) => return Err(Fault::Closed),
                Ok(octets) => self.unread.extend_from_slice(&piece[..octets]),
                Err(error) => return Err(fault_of(&error)),
            }
        }
    }

    /// A reply out of what was read already.
    fn parse(&mut self) -> Result<Option<Response>, Fault> {
        let fed = self.reader.feed(&self.unread).map_err(Fault::Garbage)?;
        self.unread.drain(..fed.used);
        Ok(fed.response)
    }

    /// A reply that came though none was due, or the end of the connection; waits for nothing.
    fn early(&mut self) -> Option<Result<Response, Fault>> {
        loop {
            match self.parse() {
                Ok(None) => {}
                Ok(Some(response)) => return Some(Ok(response)),
                Err(fault) => return Some(Err(fault)),
            }
            let mut piece = [0; 4096];
            match self.outbound.read_now(&mut piece) {
                Ok(None) => return None,
                Ok(Some(0)) => return Some(Err(Fault::Closed)),
                Ok(Some(octets)) => self.unread.extend_from_slice(&piece[..octets]),
                Err(error) => return Some(Err(fault_of(&error))),
            }
        }
    }

    /// True if nothing has come that was not asked for.
    pub(super) fn is_silent(&mut self) -> bool {
        if !self.unread.is_empty() || self.reader.is_within() {
            return false;
        }
        let mut piece = [0; 512];
        match self.outbound.read_now(&mut piece) {
            Ok(None) => true,
            Ok(Some(octets)) => {
                self.unread.extend_from_slice(&piece[..octets]);
                false
            }
            Err(_) => false,
        }
    }

    /// Writes the content, and the final dot with the last of it.
    pub(super) fn content(
        &mut self,
        client: &mut Client,
        content: &mut dyn Read,
        before_dot: &mut dyn FnMut() -> io::Result<()>,
    ) -> Step {
        self.outbound.wait_for_content(self.timeouts.content);
        let mut encoder = Encoder::new();
        let mut piece = vec![0; PIECE];
        let mut out = Vec::with_capacity(2 * PIECE);
        loop {
            let octets = match content.read(&mut piece) {
                Ok(0) => break,
                Ok(octets) => octets,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return client.step(Event::Lost(Fault::Local(error.to_string()))),
            };
            if out.len() >= PIECE {
                if let Err(fault) = self.write(&out) {
                    return self.refusal_or(client, fault);
                }
                out.clear();
                if let Some(early) = self.early() {
                    return self.tell(client, early);
                }
            }
            if encoder.feed(&piece[..octets], &mut out).is_err() {
                return client.step(Event::Lost(Fault::Local("the message holds a CR or NUL".into())));
            }
        }
        encoder.finish(&mut out);
        if let Some(early) = self.early() {
            return self.tell(client, early);
        }
        if let Err(error) = before_dot() {
            return client.step(Event::Lost(Fault::Local(error.to_string())));
        }
        let mut step = client.step(Event::ContentSent);
        out.extend_from_slice(&step.write);
        step.write = out.into();
        // The rest of the content may still take its time; the reply's begins after it.
        match self.write(&step.write) {
            Ok(()) => {
                step.write.clear();
                self.advance(client, step)
            }
            Err(fault) => self.refusal_or(client, fault),
        }
    }

    /// A server that closes within the content may have said why.
    fn refusal_or(&mut self, client: &mut Client, fault: Fault) -> Step {
        match self.early() {
            Some(Ok(response)) => self.tell(client, Ok(response)),
            _ => client.step(Event::Lost(fault)),
        }
    }

    /// What came in the clear after the 220 ended it before; what comes from now on is no record of TLS, and ends it too.
    pub(super) fn handshake(&mut self, tls: &TlsClient) -> Result<(), Fault> {
        self.outbound.wait(self.timeouts.command, false);
        match self.outbound.start_tls(tls, &self.host) {
            Ok(info) => {
                self.tls = Some(info);
                Ok(())
            }
            Err(HandshakeError::Certificate(why)) => Err(Fault::Certificate(why)),
            Err(HandshakeError::Io(error)) => Err(fault_of(&error)),
            Err(HandshakeError::Protocol(why)) => Err(Fault::Tls(why)),
        }
    }

    pub(super) fn certificate_end(&self) -> Option<SystemTime> {
        self.outbound.certificate_end()
    }

    /// Writes what may be left to say, and closes.
    pub(super) fn bid_farewell(&mut self, octets: &[u8]) {
        self.outbound.close(octets);
    }
}

/// What an error of the connection means.
pub(super) fn fault_of(error: &io::Error) -> Fault {
    match error.kind() {
        _ if is_stop(error) => Fault::Stopped,
        _ if is_source(error) => Fault::Source(error.to_string()),
        ErrorKind::BrokenPipe | ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof => Fault::Closed,
        ErrorKind::TimedOut => Fault::Timeout,
        _ => Fault::Io(error.to_string()),
    }
}
