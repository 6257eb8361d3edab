//! `pillarbox demo`: serves on 127.0.0.1 without configuration or root, and writes nothing outside its directory.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};

use super::{Arguments, Exit, Failure, Outcome, StartLog, say};
use crate::auth::argon;
use crate::conn::context::Context;
use crate::mail::durable::Faults;
use crate::server::keys::KeySource;
use crate::server::readiness::Readiness;
use crate::server::{self, Server, Stamps, Startup, load, state};

const LOGIN: &str = "demo@example.org";

/// Makes what is not there yet, and serves.
pub(super) fn run(arguments: &Arguments, start_log: StartLog) -> Outcome {
    if arguments.words().len() > 1 {
        return Err(Failure::usage("`demo` takes one DIR at most"));
    }
    let directory = PathBuf::from(arguments.words().first().map_or("./pillarbox-demo", String::as_str));
    let made = make(&directory)?;
    let directory = directory.canonicalize().map_err(|error| Failure::file(Exit::NoInput, &directory, error))?;
    let password = read_password(&directory)?;
    let path = directory.join("pillarbox.toml");
    let config = load::config(&path).map_err(Failure::problems)?;
    let listeners = super::serve::bind_all(&config)?;
    // Without it the server goes on, and says so.
    let _ = state::prepare(&config.state, &config.user);
    let stamps = Stamps::of(&config, &KeySource::default());
    let snapshot = load::snapshot(config, &KeySource::default()).map_err(Failure::problems)?;
    // Stored messages are shown on standard output; the log shows warnings, and with -v every event.
    start_log(arguments.verbosity(), false);
    let os_error = |error: std::io::Error| Failure::new(Exit::OsError, error);
    let (tell, told) = mpsc::channel();
    server::signals(tell).map_err(os_error)?;
    let show = |file: &Path| say(format_args!("stored: {}", file.display()));
    let context = Arc::new(Context::new(snapshot, Faults::default()).tell_stored(show));
    let server = Server::start(context, listeners, None).map_err(os_error)?;
    introduce(&directory, made, &password);
    let startup = Startup { path, keys: KeySource::default(), access: None, stamps, reload: Arc::default() };
    server.run(startup, &told, &mut Readiness::new());
    Ok(Exit::Ok)
}

/// Makes certificate, login, configuration and a first message; false if they were there.
fn make(directory: &Path) -> Result<bool, Failure> {
    let cannot = |error: std::io::Error| Failure::file(Exit::CantCreate, directory, error);
    if directory.join("pillarbox.toml").is_file() {
        return Ok(false);
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(cannot)?;
    let directory = directory.canonicalize().map_err(cannot)?;
    let Some(place) = directory.to_str().filter(|place| !place.contains(['"', '\\', '{', '}', '\n'])) else {
        return Err(Failure::new(
            Exit::CantCreate,
            format!("{}: has a character in it that a configuration cannot hold; choose another", directory.display()),
        ));
    };
    let names = ["localhost".to_owned(), "mail.example.org".to_owned(), "127.0.0.1".to_owned()];
    let pair = rcgen::generate_simple_self_signed(names).map_err(|error| Failure::new(Exit::Software, error))?;
    let password = super::user::generate()?;
    let hash = argon::hash(password.as_bytes()).map_err(|_| Failure::new(Exit::OsError, "the system gives no random octets"))?;
    let write = |name: &str, content: &str| {
        let path = directory.join(name);
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| file.write_all(content.as_bytes()))
            .map_err(|error| Failure::file(Exit::CantCreate, &path, error))
    };
    write("cert.pem", &pair.cert.pem())?;
    write("key.pem", &pair.signing_key.serialize_pem())?;
    write("users", &format!("# see pillarbox-users(5)\n{LOGIN}:{hash}\n"))?;
    write("aliases", &format!("# see pillarbox-aliases(5)\npostmaster: {LOGIN}\nabuse: {LOGIN}\n"))?;
    write("password", &format!("{}\n", *password))?;
    write("hello.eml", "From: demo@example.org\r\nTo: demo@example.org\r\nSubject: hello\r\n\r\nThe first message.\r\n")?;
    // Last, since its presence says that all is there.
    write("pillarbox.toml", &configuration(place))?;
    Ok(true)
}

fn configuration(place: &str) -> String {
    format!(
        "# made by `pillarbox demo`; see pillarbox.toml(5)\n\
         hostname = \"mail.example.org\"\ndomains = [\"example.org\"]\nusers = \"{place}/users\"\naliases = \"{place}/aliases\"\n\
         maildir = \"{place}/mail/{{domain}}/{{user}}\"\nstate = \"{place}/state\"\n\n[listen]\nsmtp = [\"127.0.0.1:2500\"]\n\
         submission = [\"127.0.0.1:2525\"]\nsubmissions = [\"127.0.0.1:4465\"]\n\n[tls]\n\
         certificate = \"{place}/cert.pem\"\nkey = \"{place}/key.pem\"\n"
    )
}

fn read_password(directory: &Path) -> Result<String, Failure> {
    let path = directory.join("password");
    let text = fs::read_to_string(&path).map_err(|error| Failure::file(Exit::NoInput, &path, error))?;
    Ok(text.trim_end().to_owned())
}

fn introduce(directory: &Path, made: bool, password: &str) {
    let place = directory.display();
    let verb = if made { "made" } else { "taken up again" };
    say(format_args!(
        "{place}: {verb}\n  login     {LOGIN}\n  password  {password}\n  listens   127.0.0.1:2525 (submission, STARTTLS), \
         127.0.0.1:4465 (submissions, TLS), 127.0.0.1:2500 (smtp)\n\nSend a first message from a second terminal:\n\n\
         curl -sS --url smtp://localhost:2525/client.example --ssl-reqd --cacert '{place}/cert.pem' -u '{LOGIN}:{password}' \
         --mail-from {LOGIN} --mail-rcpt {LOGIN} -T '{place}/hello.eml'\n\n\
         swaks --server 127.0.0.1:2525 --tls --auth PLAIN --auth-user {LOGIN} --auth-password '{password}' --from {LOGIN} --to {LOGIN}\n\n\
         Stored messages show up here; Ctrl-C ends it.\n"
    ));
}
