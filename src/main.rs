//! The program: hands its arguments to [`pillarbox::cli`], and sets up the log, the allocator and the panic hook.

use std::alloc::System;
use std::io::Write as _;
use std::os::unix::net::UnixDatagram;

use zeroizing_alloc::ZeroAlloc;

/// Memory is wiped when it is freed: a password also passes through buffers of the TLS library, which does not wipe them.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

fn main() {
    let mut args = std::env::args_os();
    let program = args.next().unwrap_or_default();
    let args: Vec<std::ffi::OsString> = args.collect();
    std::process::exit(pillarbox::cli::run(&program, &args, start_log));
}

/// The local syslog, for a process whose standard error is its client; a line a datagram.
struct Syslog(Option<UnixDatagram>);

impl std::io::Write for Syslog {
    fn write(&mut self, lines: &[u8]) -> std::io::Result<usize> {
        for line in lines.split(|octet| *octet == b'\n').filter(|line| !line.is_empty()) {
            if let Some(socket) = &self.0 {
                let _ = socket.send_to(line, "/dev/log");
            }
        }
        Ok(lines.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Standard error, a line an event: with a time stamp, or under systemd with a priority instead (sd-daemon(3)).
fn start_log(level: usize, syslog: bool) {
    let default = [log::LevelFilter::Warn, log::LevelFilter::Info, log::LevelFilter::Debug];
    let filter = default.get(level).copied().unwrap_or(log::LevelFilter::Trace);
    let journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let mut builder = env_logger::Builder::new();
    if syslog {
        builder.target(env_logger::Target::Pipe(Box::new(Syslog(UnixDatagram::unbound().ok()))));
    }
    builder.filter_level(filter).parse_default_env();
    builder.write_style(env_logger::WriteStyle::Never);
    builder.format(move |out, record| {
        // Libraries log at the lower levels too, and what they log has not been checked for secrets.
        if !record.target().starts_with("pillarbox") {
            return Ok(());
        }
        let (level, now) = (record.level(), jiff::Timestamp::now());
        let priority = match level {
            log::Level::Error => 3,
            log::Level::Warn => 4,
            log::Level::Info => 6,
            log::Level::Debug | log::Level::Trace => 7,
        };
        // Lines that belong together come as one text.
        record.args().to_string().split('\n').try_for_each(|line| match (syslog, journal) {
            // Facility 2 is mail (RFC 5424 section 6.2.1).
            (true, _) => writeln!(out, "<{}>pillarbox[{}]: {line}", 16 + priority, std::process::id()),
            (false, true) => writeln!(out, "<{priority}>{line}"),
            (false, false) => writeln!(out, "{now:.3} {level:<5} {line}"),
        })
    });
    let _ = builder.try_init();
    // A panic's own words may quote what a client sent; where it happened is enough to find the defect.
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map_or_else(|| "unknown".to_owned(), |at| format!("{}:{}", at.file(), at.line()));
        pillarbox::journal::panicked(&place);
    }));
}
