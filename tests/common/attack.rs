//! An attack on the workers: connections that go as far as they can and then drip for ever.

use std::io::{ErrorKind, Read as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::{Client, PATIENCE, Server, from_with_buffer};

/// What an attacker does with a connection, as far as it gets, and then for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Handshake,
    BeforeEhlo,
    BeforeLogin,
    Mail,
    Rcpt,
    Data,
    SlowData,
    Bdat,
    ReadsNothing,
}

/// Goes to its stage and drips there until the server closes or the test is over.
pub fn attack(server: &Server, source: [u8; 4], stage: Stage, stop: &AtomicBool) -> Option<()> {
    let service = if matches!(stage, Stage::Handshake | Stage::BeforeLogin) { "submissions" } else { "smtp" };
    let octets = if matches!(stage, Stage::ReadsNothing) { 1 } else { 0 };
    let tcp = from_with_buffer(source, server.address(service), octets).ok()?;
    let mut client = Client::over(tcp, &server.dir.path().join("cert.pem"));
    let send = |client: &mut Client, octets: &[u8], pause: u64| -> Option<()> {
        client.transcript.clear();
        while !stop.load(Ordering::Relaxed) {
            client.send(octets).ok()?;
            // Replies are read only so that the server need not wait for that.
            let mut replies = [0; 4096];
            let _ = client.tcp().set_read_timeout(Some(Duration::from_millis(1)));
            if matches!(client.tcp().read(&mut replies), Ok(0)) {
                return None;
            }
            thread::sleep(Duration::from_millis(pause));
        }
        Some(())
    };
    if let Stage::Handshake = stage {
        client.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03").ok()?;
        return send(&mut client, b"x", 200);
    }
    if let Stage::BeforeLogin = stage {
        client.tls().ok()?;
    }
    reply(&mut client, stop)?;
    if let Stage::BeforeEhlo = stage {
        return send(&mut client, b"E", 200);
    }
    client.send(b"EHLO attack.example\r\n").ok()?;
    reply(&mut client, stop)?;
    let envelope: &[&str] = match stage {
        Stage::BeforeLogin => &[],
        Stage::Mail => &["MAIL FROM:<>"],
        Stage::Rcpt | Stage::Bdat | Stage::ReadsNothing => &["MAIL FROM:<>", "RCPT TO:<alice@example.org>"],
        _ => &["MAIL FROM:<>", "RCPT TO:<alice@example.org>", "DATA"],
    };
    for line in envelope {
        client.send(format!("{line}\r\n").as_bytes()).ok()?;
        reply(&mut client, stop)?;
    }
    match stage {
        Stage::BeforeLogin | Stage::Mail | Stage::Rcpt => send(&mut client, b"NOOP\r\n", 700),
        Stage::SlowData => send(&mut client, b"x", 200),
        Stage::Bdat => {
            client.send(b"BDAT 1000000 LAST\r\n").ok()?;
            send(&mut client, &[b'x'; 150], 200)
        }
        Stage::ReadsNothing => {
            client.tcp().set_write_timeout(Some(Duration::from_millis(200))).ok()?;
            while !stop.load(Ordering::Relaxed) {
                if let Err(error) = client.send(&b"BDAT 1\r\nx".repeat(1000))
                    && error.kind() != ErrorKind::WouldBlock
                {
                    return None;
                }
            }
            Some(())
        }
        _ => send(&mut client, &[b'x'; 150], 200),
    }
}

impl Stage {
    pub const ALL: [Self; 9] = [
        Self::Handshake,
        Self::BeforeEhlo,
        Self::BeforeLogin,
        Self::Mail,
        Self::Rcpt,
        Self::Data,
        Self::SlowData,
        Self::Bdat,
        Self::ReadsNothing,
    ];
}

/// A reply, however long it takes; `None` if the connection or the attack has ended.
fn reply(client: &mut Client, stop: &AtomicBool) -> Option<()> {
    while !stop.load(Ordering::Relaxed) {
        client.tcp().set_read_timeout(Some(Duration::from_millis(200))).ok()?;
        match client.tcp().peek(&mut [0]) {
            Ok(0) => return None,
            Ok(_) => {
                client.tcp().set_read_timeout(Some(PATIENCE)).ok()?;
                return client.reply().map(drop);
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => return None,
        }
    }
    None
}
