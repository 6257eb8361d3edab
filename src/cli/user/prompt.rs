//! Where a password comes from: the terminal, standard input, or the system's random octets.
//!
//! At the terminal there is no echo. A signal that ends the program there, such as Ctrl-C, first switches the echo on
//! again; a shell would otherwise be left silent.

use std::io::{self, BufRead as _, IsTerminal as _, Read as _, Write as _};
use std::thread;

use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;
use zeroize::Zeroizing;

use crate::cli::{Arguments, Exit, Failure, say};

pub(super) type Password = Zeroizing<String>;

/// Octets in a password, at most: a PLAIN response must fit into a line.
const PASSWORD_MAX: usize = 1024;
/// How often two passwords may differ before the verb gives up.
const TRIES: usize = 3;

/// A password from the terminal, typed twice; from standard input; or made and printed once.
pub(super) fn obtain(arguments: &Arguments) -> Result<Password, Failure> {
    if arguments.matches.opt_present("generate") {
        let password = generate()?;
        say(&*password);
        return Ok(password);
    }
    let failed = |error: io::Error| Failure::new(Exit::NoInput, format!("password: {error}"));
    let twice = arguments.words().first().is_none_or(|word| word != "verify");
    let password = match io::stdin().is_terminal() {
        true => typed(twice).map_err(failed)?,
        false => line_of_stdin().map_err(failed)?,
    };
    if password.is_empty() || password.len() > PASSWORD_MAX {
        return Err(Failure::new(Exit::NoInput, format!("password: must have 1 to {PASSWORD_MAX} octets")));
    }
    Ok(password)
}

/// 100 bits, in characters that survive being read aloud.
pub(in crate::cli) fn generate() -> Result<Password, Failure> {
    const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let mut octets = Zeroizing::new([0; 20]);
    aws_lc_rs::rand::fill(&mut *octets).map_err(|_| Failure::new(Exit::OsError, "the system gives no random octets"))?;
    Ok(Zeroizing::new(octets.iter().map(|octet| ALPHABET[usize::from(octet % 32)] as char).collect()))
}

fn line_of_stdin() -> io::Result<Password> {
    let mut line = Zeroizing::new(String::with_capacity(PASSWORD_MAX + 2));
    io::stdin().lock().take(PASSWORD_MAX as u64 + 2).read_line(&mut line)?;
    let length = line.trim_end_matches(['\r', '\n']).len();
    line.truncate(length);
    Ok(line)
}

fn typed(twice: bool) -> io::Result<Password> {
    for _ in 0..TRIES {
        let first = ask("Password: ")?;
        if !twice || *ask("Again: ")? == *first {
            return Ok(first);
        }
        eprintln!("The two differ; once more.");
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "the two differed three times; nothing was changed"))
}

fn ask(prompt: &str) -> io::Result<Password> {
    let before = tcgetattr(io::stdin())?;
    let restored = on_signal(before.clone())?;
    let mut silent = before.clone();
    silent.local_flags.remove(LocalFlags::ECHO);
    tcsetattr(io::stdin(), SetArg::TCSAFLUSH, &silent)?;
    // Only now, so that what is typed at the prompt is neither shown nor flushed.
    eprint!("{prompt}");
    io::stderr().flush()?;
    let line = line_of_stdin();
    tcsetattr(io::stdin(), SetArg::TCSAFLUSH, &before)?;
    restored.close();
    eprintln!();
    line
}

/// Until it is closed, a signal that ends the program restores the terminal before.
fn on_signal(before: Termios) -> io::Result<signal_hook::iterator::Handle> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGQUIT, SIGTERM])?;
    let handle = signals.handle();
    // A termios holds a RefCell, so the thread gets the plain structure.
    let before = nix::libc::termios::from(before);
    thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, &Termios::from(before));
            eprintln!();
            let _ = emulate_default_handler(signal);
        }
    });
    Ok(handle)
}
