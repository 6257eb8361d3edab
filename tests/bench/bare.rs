//! What small messages cost any server: the same dialogue, TLS and files, and nothing else.
//!
//! No command is understood, no address looked at, no line logged, no dot or line end turned: every reply is known
//! beforehand. How near Pillarbox comes to it says what its protocol, checks and log cost.

use std::io::{BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use pillarbox::mail::durable::Faults;
use pillarbox::mail::maildir::Store;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// Octets that are read ahead, and room for a message's end; as much as the server itself takes.
const AHEAD: usize = 64 * 1024;

/// A socket that is read in large pieces.
struct Socket(BufReader<TcpStream>);

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Socket {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        self.0.get_ref().write(data)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Serves until the process ends: a thread a connection, all mail into one Maildir.
pub fn serve(address: &str, certificate: &Path, key: &Path, maildir: &Path) {
    let chain = CertificateDer::pem_file_iter(certificate).expect("certificate").collect::<Result<_, _>>().expect("certificate");
    let key = PrivateKeyDer::from_pem_file(key).expect("key");
    let builder = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().expect("versions").with_no_client_auth();
    let config = Arc::new(builder.with_single_cert(chain, key).expect("key pair"));
    let store = Arc::new(Store::new("bare", Faults::default()));
    for tcp in TcpListener::bind(address).expect("address").incoming().flatten() {
        let (config, store, maildir) = (Arc::clone(&config), Arc::clone(&store), maildir.to_owned());
        thread::spawn(move || session(tcp, config, &store, &maildir));
    }
}

fn session(tcp: TcpStream, config: Arc<ServerConfig>, store: &Store, maildir: &PathBuf) -> std::io::Result<()> {
    tcp.set_nodelay(true)?;
    let connection = ServerConnection::new(config).map_err(std::io::Error::other)?;
    let mut tls = StreamOwned::new(connection, Socket(BufReader::with_capacity(AHEAD, tcp)));
    let mut buffer = vec![0; AHEAD];
    tls.write_all(b"220 bare\r\n")?;
    until(&mut tls, &mut buffer, &[b"\r\n"], |_| Ok(()))?;
    tls.write_all(b"250-bare\r\n250-PIPELINING\r\n250 AUTH PLAIN\r\n")?;
    until(&mut tls, &mut buffer, &[b"\r\n"], |_| Ok(()))?;
    tls.write_all(b"235 2.7.0 OK\r\n")?;
    loop {
        if until(&mut tls, &mut buffer, &[b"DATA\r\n", b"QUIT\r\n"], |_| Ok(()))? == 1 {
            return tls.write_all(b"221 2.0.0 Bye\r\n");
        }
        tls.write_all(b"250 2.1.0 OK\r\n250 2.1.5 OK\r\n354 Go on\r\n")?;
        let mut draft = store.begin(maildir)?;
        until(&mut tls, &mut buffer, &[b"\r\n.\r\n"], |piece| draft.write_all(piece))?;
        store.commit(draft, std::slice::from_ref(maildir))?;
        tls.write_all(b"250 2.0.0 stored\r\n")?;
    }
}

/// Hands over what comes until it ends in one of `ends`; gives which.
fn until(
    tls: &mut impl Read,
    buffer: &mut [u8],
    ends: &[&[u8]],
    mut take: impl FnMut(&[u8]) -> std::io::Result<()>,
) -> std::io::Result<usize> {
    let longest = ends.iter().map(|end| end.len()).max().unwrap_or_default();
    let mut kept = 0;
    loop {
        match tls.read(&mut buffer[kept..])? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            octets => kept += octets,
        }
        let ended = ends.iter().position(|end| buffer[..kept].ends_with(end));
        if ended.is_some() || kept == buffer.len() {
            // An end may lie across two pieces.
            let whole = if ended.is_some() { kept } else { kept - longest };
            take(&buffer[..whole])?;
            buffer.copy_within(whole..kept, 0);
            kept -= whole;
        }
        if let Some(which) = ended {
            return Ok(which);
        }
    }
}
