//! The shape of the tree: which module may import which, which file may name which crate, and that the manual says what
//! the code does.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use pillarbox::cli::{Exit, OPTIONS, VERBS};
use pillarbox::config::{Config, KEYS};
use pillarbox::journal::EVENTS;
use pillarbox::mail::message::{HEADER_MAX, RECEIVED_MAX};
use pillarbox::smtp::command::COMMAND_MAX;
use pillarbox::smtp::reply::Refusal;
use pillarbox::smtp::sasl::SASL_LINE_MAX;
use pillarbox::smtp::session::{DEFERRALS_MAX, JUNK_MAX};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every source file with its module path and its text up to the tests; a file that is a test module is left out.
fn sources() -> Vec<(String, String)> {
    fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() { walk(&path, found) } else { found.push(path) }
        }
    }
    let mut files = Vec::new();
    walk(&root().join("src"), &mut files);
    let tests: Vec<PathBuf> = files.iter().flat_map(|file| test_modules(file)).collect();
    files.retain(|file| !tests.contains(file));
    files
        .into_iter()
        // A module's tests in a file of their own.
        .filter(|file| !file.ends_with("tests.rs"))
        .map(|file| {
            let name = file.strip_prefix(root().join("src")).unwrap().display().to_string();
            let text = fs::read_to_string(file).unwrap();
            let code: Vec<&str> = text
                .split("\n#[cfg(test)]")
                .next()
                .unwrap()
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"))
                .collect();
            (name, code.join("\n"))
        })
        .collect()
}

/// The files of the modules that this file declares for tests alone.
fn test_modules(file: &Path) -> Vec<PathBuf> {
    let text = fs::read_to_string(file).unwrap();
    let declared = text.split("#[cfg(test)]\nmod ").skip(1).filter_map(|rest| rest.lines().next()?.strip_suffix(';'));
    declared.map(|name| file.with_extension("").join(format!("{name}.rs"))).collect()
}

fn module(file: &str) -> &str {
    let first = file.split('/').next().unwrap();
    first.strip_suffix(".rs").unwrap_or(first)
}

#[test]
fn imports_point_down_only() {
    // Which of our own modules may name which.
    let allowed: [(&str, &[&str]); 14] = [
        ("main", &["cli", "journal"]),
        ("cli", &["server", "conn", "relay", "queue", "net", "auth", "mail", "policy", "journal", "config", "smtp", "problem"]),
        ("server", &["conn", "relay", "queue", "net", "auth", "mail", "policy", "journal", "config", "smtp", "problem", "files"]),
        ("conn", &["queue", "net", "auth", "mail", "policy", "journal", "config", "smtp", "problem"]),
        ("relay", &["queue", "net", "auth", "mail", "policy", "journal", "config", "smtp", "problem", "files"]),
        ("queue", &["net", "auth", "mail", "policy", "journal", "config", "smtp", "problem"]),
        ("config", &["policy", "smtp", "problem"]),
        ("net", &["smtp", "files"]),
        ("auth", &["smtp", "problem"]),
        ("mail", &["smtp"]),
        ("policy", &["smtp", "problem"]),
        ("journal", &[]),
        ("problem", &[]),
        ("files", &[]),
    ];
    for (file, text) in sources() {
        let name = module(&file);
        if name == "lib" {
            continue;
        }
        for (at, _) in text.match_indices("crate::").chain(text.match_indices("pillarbox::")) {
            let other: String =
                text[at..].split("::").nth(1).unwrap().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            let may = allowed.iter().find(|(module, _)| *module == name).map_or(&[][..], |(_, may)| may);
            assert!(other == name || may.contains(&other.as_str()), "{file} names {other}");
        }
    }
}

/// Connections know what a port is for, and no words of the protocol.
#[test]
fn the_network_names_no_refusals() {
    for (file, text) in sources().iter().filter(|(file, _)| module(file) == "net") {
        for line in text.lines().filter(|line| line.contains("smtp::")) {
            assert!(line.contains("smtp::session::Service"), "{file}: {line}");
        }
    }
}

#[test]
fn crates_are_named_where_they_belong() {
    let places: [(&str, &[&str]); 19] = [
        ("rustls", &["net/connector.rs", "net/outbound.rs", "net/stream.rs", "net/tls.rs"]),
        ("rustls_native_certs", &["net/connector.rs"]),
        ("rustls_pemfile", &["net/tls.rs"]),
        ("webpki", &["net/connector.rs", "net/tls.rs"]),
        ("x509_cert", &["net/tls.rs"]),
        ("argon2", &["auth/argon.rs"]),
        ("crossbeam_channel", &["net/memory.rs", "net/pool.rs", "queue/clerk.rs", "queue/dispatcher.rs", "relay/pool.rs"]),
        ("domain", &["relay/dns.rs"]),
        ("resolv_conf", &["relay/resolve.rs"]),
        ("pem", &["mail/dkim.rs"]),
        ("getopts", &["cli.rs"]),
        ("tempfile", &["cli/user.rs"]),
        ("log", &["journal.rs", "journal/queue.rs", "main.rs"]),
        ("env_logger", &["main.rs"]),
        (
            "toml",
            &[
                "config.rs",
                "config/read.rs",
                "config/read/dkim.rs",
                "config/read/local.rs",
                "config/read/outgoing.rs",
                "config/read/sending.rs",
            ],
        ),
        ("listenfd", &["net/handover.rs"]),
        ("encoding_rs", &["mail/display_name.rs"]),
        ("rcgen", &["cli/demo.rs"]),
        ("sd_notify", &["server/readiness.rs"]),
    ];
    for (file, text) in sources() {
        for (name, places) in places {
            let path = format!("{name}::");
            let named = text
                .match_indices(&path)
                .any(|(at, _)| !text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':'));
            assert!(!named || places.contains(&file.as_str()), "{file} names {name}");
        }
    }
}

#[test]
fn the_protocol_is_pure_and_nothing_is_unsafe() {
    for (file, text) in sources() {
        if file.starts_with("smtp/") || file.starts_with("queue/schedule") {
            for impure in ["std::io", "std::fs", "std::net", "std::time", "std::thread", "log::", "SystemTime", "Instant", "rand"]
            {
                assert!(!text.contains(impure), "{file} has {impure}");
            }
        }
        assert!(!text.contains("unsafe"), "{file}");
        if file != "smtp/reply.rs" {
            let coded = text.match_indices(['4', '5']).any(|(at, _)| {
                let number: String = text[at..].chars().take_while(char::is_ascii_digit).collect();
                number.len() == 3
                    && text[at..].starts_with(&format!("{number} {}.", &number[..1]))
                    && !text[..at].ends_with(|c: char| c.is_ascii_digit())
            });
            assert!(!coded, "{file} writes a refusal of its own");
        }
    }
    assert!(read("Cargo.toml").contains("unsafe_code = \"forbid\""));
}

/// The words of a manual page without its markup.
fn manual(page: &str) -> String {
    read(&format!("man/{page}")).replace("\\-", "-").replace("\\&", "")
}

/// The items of a list in a section: what follows `.It` with this macro.
fn items<'a>(page: &'a str, section: &str, item: &str) -> Vec<&'a str> {
    let start = page.find(&format!(".Sh {section}\n")).unwrap_or_else(|| panic!("no section {section}"));
    let body = &page[start + 4..];
    let body = &body[..body.find("\n.Sh ").unwrap_or(body.len())];
    body.lines().filter_map(|line| line.strip_prefix(item)).map(str::trim).collect()
}

#[test]
fn the_manual_lists_every_refusal_and_no_other() {
    let page = manual("pillarbox.8");
    let rows = items(&page, "DIAGNOSTICS", ".It Li");
    for why in Refusal::ALL {
        let parts = why.parts();
        let (a, b, c) = parts.status;
        let want = format!("{} {a}.{b}.{c} {}", parts.code, parts.reason);
        assert!(rows.contains(&want.as_str()), "{want} is not in DIAGNOSTICS");
    }
    assert_eq!(rows.len(), Refusal::ALL.len(), "DIAGNOSTICS has rows that the code does not");
}

/// The text of each refusal is the code's, with `...` or a number for what varies; then comes what it means, and what
/// can be done where something can.
#[test]
fn the_manual_says_of_every_refusal_what_the_client_reads() {
    let page = manual("pillarbox.8");
    let section = page.split(".Sh DIAGNOSTICS\n").nth(1).unwrap().split("\n.Sh ").next().unwrap();
    for why in Refusal::ALL {
        let parts = why.parts();
        let entry = section.split(".It Li ").find(|entry| entry.lines().next().unwrap().ends_with(&format!(" {}", parts.reason)));
        let entry = entry.unwrap_or_else(|| panic!("{}", parts.reason));
        let shown = entry.lines().find_map(|line| line.strip_prefix(".Dq ")?.strip_suffix(" .")).unwrap_or_default();
        let (before, after) = parts.text.split_once("{}").unwrap_or((parts.text, ""));
        let varies = shown.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
        let plausible = |text: &str| match parts.text.contains("{}") {
            true => text == "..." || text.parse::<u32>().is_ok(),
            false => text.is_empty(),
        };
        assert!(varies.is_some_and(plausible), "{}: `{shown}` for `{}`", parts.reason, parts.text);
        assert!(entry.contains("\nMeaning:\n"), "{}: no meaning", parts.reason);
        assert!(!entry.contains("None"), "{}: where there is nothing to do, nothing is said", parts.reason);
    }
    // mdoc's No is a macro: in `.Dq No such mailbox` it would vanish.
    let source = read("man/pillarbox.8");
    assert!(!source.lines().any(|line| line.starts_with('.') && line.split(' ').skip(1).any(|word| word == "No")), "write \\&No");
}

/// Limits that are no keys are in the manual as the code has them.
#[test]
fn the_manual_has_the_limits_of_the_code() {
    let page = manual("pillarbox.8");
    let with_comma = |number: usize| format!("{},{:03}", number / 1000, number % 1000);
    for (reason, want) in [
        ("auth-line-too-long", format!("longer than {} octets", with_comma(SASL_LINE_MAX))),
        ("header-too-large", format!("larger than {} KiB", HEADER_MAX / 1024)),
        ("junk-commands", format!("More than {JUNK_MAX} NOOP")),
        ("line-too-long", format!("longer than {} octets", with_comma(COMMAND_MAX))),
        ("loop", format!("more than {RECEIVED_MAX} Received")),
        ("too-many-errors", format!("or {} with a code", with_comma(DEFERRALS_MAX as usize))),
    ] {
        let entry =
            page.split(".It Li ").find(|entry| entry.lines().next().is_some_and(|row| row.ends_with(&format!(" {reason}"))));
        let entry = entry.unwrap_or_else(|| panic!("{reason}")).replace('\n', " ");
        assert!(entry.contains(&want), "{reason}: no `{want}` in {entry}");
    }
}

#[test]
fn the_manual_lists_every_event_with_its_keys() {
    let page = manual("pillarbox.8");
    let rows = items(&page, "LOG", ".It Li");
    for (event, keys) in EVENTS {
        let want = format!("{event} {}", keys.join(" "));
        assert!(rows.contains(&want.as_str()), "{want} is not in LOG: {rows:?}");
    }
    assert_eq!(rows.len(), EVENTS.len());
}

/// In a line that begins with a macro, mdoc(7) takes quotes around words away: what stands there to be copied would be wrong.
#[test]
fn quotes_in_the_manuals_are_shown() {
    for page in ["pillarbox.8", "pillarbox-aliases.5", "pillarbox-users.5", "pillarbox.toml.5"] {
        for line in read(&format!("man/{page}")).lines().filter(|line| line.starts_with('.')) {
            assert!(!line.contains(" \""), "{page}: write \\(dq in\n{line}");
        }
    }
}

/// The words of `about` and `what`, which are no keys: those that the code has, and no others.
#[test]
fn the_manual_lists_what_a_notice_is_about_and_what_is_reloaded() {
    let page = manual("pillarbox.8").replace('\n', " ");
    let listed = |event: &str, before: &str| -> BTreeSet<String> {
        let item = page.split_once(&format!(".It Li {event} ")).unwrap().1.split(".It ").next().unwrap();
        let mut words = item.split_once(before).unwrap().1.to_owned();
        while let Some((start, rest)) = words.clone().split_once('(') {
            words = format!("{}{}", start.trim_end(), rest.split_once(')').unwrap().1);
        }
        let words = words.split('.').next().unwrap().replace(" or ", ", ");
        words.split(',').map(|word| word.trim().to_owned()).collect()
    };
    let word = |text: &str| text.trim_start().strip_prefix('"').map(|rest| rest.split('"').next().unwrap().to_owned());
    let sources = sources();
    // The second for what a session meets of the disk.
    let written = |writer: &'static str| sources.iter().flat_map(move |(_, code)| code.split(writer).skip(1)).filter_map(word);
    assert_eq!(listed("notice", "about is "), written("notice(").chain(written(".storage(")).collect());
    let (_, reload) = sources.iter().find(|(file, _)| file == "server/reload.rs").unwrap();
    let names = reload.split_once("fn name(").unwrap().1.split('}').next().unwrap().split("=>").skip(1);
    assert_eq!(listed("reloaded", ". what is "), names.filter_map(word).collect());
}

/// What the log's budget never leaves out.
#[test]
fn the_manual_lists_what_is_always_written() {
    let sources = sources();
    let (_, code) = sources.iter().find(|(file, _)| file == "journal.rs").unwrap();
    let always = code.split("pub fn ").filter(|body| body.contains("Class::Always,") || body.contains("self.push(line"));
    let events: BTreeSet<&str> = always.map(|body| body.split(".line(\"").nth(1).unwrap().split('"').next().unwrap()).collect();
    let page = manual("pillarbox.8").replace('\n', " ");
    let listed = page.split_once("Lines with ").unwrap().1.split_once(" are always written").unwrap().0.replace(" and ", ", ");
    assert_eq!(listed.split(", ").collect::<BTreeSet<_>>(), events);
}

/// The keys that EVENTS lists for an event are those that its functions write, and no others.
#[test]
fn the_journal_writes_the_keys_that_it_lists() {
    let files: Vec<String> = sources().into_iter().filter(|(file, _)| module(file) == "journal").map(|(_, code)| code).collect();
    for (event, keys) in EVENTS {
        let mut written: Vec<&str> = Vec::new();
        let mut writers = 0;
        for code in &files {
            for body in code.split("fn ").filter(|body| body.contains(&format!("(\"{event}\")"))) {
                writers += 1;
                written.extend(keys_written(body));
                // What `self.line(…)` begins with.
                if body.contains(&format!(".line(\"{event}\")")) {
                    let begins = |body: &&str| body.starts_with("line(") || body.starts_with("session_keys(");
                    written.extend(code.split("fn ").filter(begins).flat_map(keys_written));
                }
            }
        }
        assert!(writers > 0, "{event} is never written");
        written.sort_unstable();
        written.dedup();
        let mut listed = keys.to_vec();
        listed.sort_unstable();
        assert_eq!(written, listed, "{event}");
    }
}

/// The first arguments of the methods that append to a line: `.key("size", size)`.
fn keys_written(body: &str) -> Vec<&str> {
    let word = |c: char| c.is_ascii_lowercase() || c == '_';
    let key = |(at, _): (usize, &str)| {
        let method = body[..at].rsplit(|c: char| !word(c)).next()?;
        let (literal, rest) = body[at + 2..].split_once('"')?;
        let appends = body[..at - method.len()].ends_with('.') && method != "line" && rest.starts_with(", ");
        (appends && literal.chars().all(word)).then_some(literal)
    };
    body.match_indices("(\"").filter_map(key).collect()
}

#[test]
fn the_manual_lists_every_key_with_its_default() {
    let page = manual("pillarbox.toml.5");
    let rows = items(&page, "KEYS", ".It Ic");
    let names: Vec<&str> =
        KEYS.iter().filter(|(_, default)| !default.is_empty()).map(|(key, _)| *key).chain(["senders"]).collect();
    for name in &names {
        assert!(rows.contains(name), "{name} is not in KEYS");
    }
    assert_eq!(rows.len(), names.len(), "KEYS has rows that the code does not: {rows:?}");
    assert!(rows.is_sorted(), "alphabetical");
    for (key, default) in KEYS.iter().filter(|(key, _)| names.contains(key)) {
        let body = &page[page.find(&format!(".It Ic {key}\n")).unwrap()..];
        let body = &body[..body[4..].find(".It ").map_or(body.len(), |end| end + 4)];
        assert!(
            body.contains(&format!("Default: {default}.")) || body.contains(&format!("Default: {}.", default.trim_matches('"'))),
            "{key}: no `Default: {default}.` in\n{body}"
        );
    }
}

/// The range of each limit is the one that the error for a wrong value names.
#[test]
fn the_manual_has_the_range_of_every_limit() {
    let page = manual("pillarbox.toml.5");
    let limits =
        KEYS.iter().filter_map(|(key, _)| Some((*key, format!("[limits]\n{} = \"wrong\"\n", key.strip_prefix("limits.")?))));
    let of_logins = ("sending_limits", "[sending_limits]\n\"*\" = { messages = [\"wrong\"] }\n".to_owned());
    for (key, wrong) in limits.chain([of_logins]) {
        let text = format!("hostname = \"mail.example.org\"\ndomains = [\"example.org\"]\n{wrong}");
        let problems = Config::parse(&text, Path::new("p"), || None).unwrap_err();
        let said = problems[0].to_string();
        let range = said.rsplit_once(", from ").unwrap_or_else(|| panic!("{said}")).1;
        let entry = page.split(&format!(".It Ic {key}\n")).nth(1).unwrap().split("\n.It ").next().unwrap();
        assert!(entry.replace('\n', " ").contains(&format!("From {range}.")), "{key}: no `From {range}.` in\n{entry}");
    }
}

#[test]
fn the_manual_lists_verbs_options_signals_and_exit_codes() {
    let page = manual("pillarbox.8");
    let verbs = items(&page, "VERBS", ".It Cm");
    for (verb, _) in VERBS {
        assert!(verbs.iter().any(|row| row.split(' ').next() == Some(verb)), "{verb}: {verbs:?}");
    }
    for row in &verbs {
        assert!(VERBS.iter().any(|(verb, _)| row.split(' ').next() == Some(*verb)), "{row} is no verb");
    }
    let options = items(&page, "OPTIONS", ".It Fl");
    for (short, long, ..) in OPTIONS {
        let want = if short.is_empty() { format!("-{long}") } else { format!("{short} , Fl -{long}") };
        assert!(options.iter().any(|row| row.starts_with(&want)), "{want}: {options:?}");
    }
    assert_eq!(options.len(), OPTIONS.len());
    let exits = [
        Exit::Ok,
        Exit::Refused,
        Exit::Usage,
        Exit::NoInput,
        Exit::Software,
        Exit::OsError,
        Exit::CantCreate,
        Exit::NoPermission,
        Exit::Config,
    ];
    let codes: Vec<String> = exits.iter().map(|exit| (*exit as i32).to_string()).collect();
    assert_eq!(items(&page, "EXIT STATUS", ".It Li"), codes);
    assert_eq!(items(&page, "SIGNALS", ".It Dv"), ["SIGTERM , SIGINT", "SIGHUP"]);
}

/// Every configuration that the documents show is one.
#[test]
fn every_example_is_a_configuration() {
    let own = || Some("mail.example.org".to_owned());
    let mut found = 0;
    let readme = read("README.md");
    // A later block of the README goes at the end of its first.
    let mut blocks = Vec::new();
    for block in readme.split("```toml\n").skip(1) {
        let block = block.split("```").next().unwrap();
        blocks.push(blocks.first().cloned().unwrap_or_default() + block);
    }
    assert!(blocks.len() > 1);
    let page = manual("pillarbox.toml.5");
    let section = &page[page.find(".Sh EXAMPLES").unwrap()..];
    let literal =
        section.split(".Bd -literal -offset indent\n").skip(1).map(|block| block.split("\n.Ed").next().unwrap().to_owned());
    // What is commented out in the sample is an example too.
    let sample = read("etc/pillarbox.toml");
    let whole: String = sample
        .lines()
        .map(|line| line.strip_prefix("# ").filter(|rest| is_toml(rest)).unwrap_or(line).to_owned() + "\n")
        .collect();
    assert_ne!(sample, whole);
    for text in blocks.into_iter().chain(literal).chain([sample, whole]) {
        if let Err(problems) = Config::parse(&text, Path::new("example"), own) {
            panic!("{problems:?}\n{text}");
        }
        found += 1;
    }
    assert!(found >= 5, "{found}");
}

/// A section or a key in a comment of the sample, not a sentence.
fn is_toml(line: &str) -> bool {
    line.starts_with(['[', '"']) || line.split_once(" = ").is_some_and(|(key, _)| !key.contains(' '))
}

/// Sections that not every host wants are shown in comments.
#[test]
fn the_sample_shows_every_key() {
    let text = read("etc/pillarbox.toml");
    let mut section = String::new();
    let mut shown = Vec::new();
    for line in text.lines().map(|line| line.strip_prefix("# ").unwrap_or(line)).filter(|line| is_toml(line)) {
        match line.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((name, _)) => {
                shown.push(name.to_owned());
                section = format!("{name}.").replace(".routes.provider.", ".routes.NAME.");
            }
            None => shown.push(format!("{section}{}", line.split(" = ").next().unwrap())),
        }
    }
    for (key, _) in KEYS.iter().filter(|(key, _)| *key != "outgoing.routes") {
        assert!(shown.iter().any(|one| one == key), "{key}: {shown:?}");
    }
    assert!(text.contains("[senders]"));
}

/// What etc/ has is in the Debian package; the scripts of the package itself are it.
#[test]
fn the_package_has_every_sample() {
    let cargo = read("Cargo.toml");
    let mut dirs = vec![root().join("etc")];
    while let Some(dir) = dirs.pop() {
        for path in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
            let name = path.strip_prefix(root()).unwrap().to_str().unwrap();
            if path.is_dir() {
                dirs.extend((name != "etc/debian").then_some(path));
                continue;
            }
            let all = format!("{}/*", name.rsplit_once('/').unwrap().0);
            assert!([name, &all].iter().any(|name| cargo.contains(&format!("[\"{name}\", "))), "{name} is no asset");
        }
    }
}

#[test]
fn files_stay_small() {
    for (file, text) in sources() {
        assert!(text.lines().count() <= 420, "{file}: look for the second thing inside");
    }
}

#[test]
fn functions_stay_small() {
    let mut longest = 0;
    for (file, text) in sources() {
        let lines: Vec<&str> = text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let code = line.trim_start();
            let indent = &line[..line.len() - code.len()];
            let Some((before, name)) = code.split_once("fn ") else { continue };
            let is_function = before.split_whitespace().all(|word| word.starts_with("pub") || word == "const");
            // One without a body, or in one line.
            let signature_ends = lines[at..].iter().position(|line| line.ends_with(['{', ';', '}'])).unwrap();
            if !is_function || !lines[at + signature_ends].ends_with('{') {
                continue;
            }
            let length = 1 + lines[at..].iter().position(|line| *line == format!("{indent}}}")).unwrap();
            longest = longest.max(length);
            // Its table of replies is one `match`.
            let is_table = file == "smtp/reply.rs" && name.starts_with("parts(");
            assert!(length <= 60 || is_table, "{file}: {length} lines of `{name}`: look for the second thing inside");
        }
    }
    assert!(longest > 50, "functions are found: {longest}");
}
