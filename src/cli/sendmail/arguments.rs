//! The command line of sendmail(8), as Postfix's sendmail(1) takes it: flags grouped, their values glued or apart, flags after
//! operands. Pure.
//!
//! A mail of cron's is never lost to a flag: what is not known is named in a warning, and the mail goes on. Only what could
//! mean something else than mail being sent (`-bd`), and values that would break a command (CR, LF, NUL), are errors.

use crate::smtp::dsn::{self, Notify, Ret};

/// What is to be done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// `-bm`: hand in a message from standard input.
    #[default]
    Message,
    /// `-bp`, mailq: list the queue.
    List,
    /// `-bi`, newaliases: nothing, since the aliases file is read as it is.
    Aliases,
    /// `-bs`: speak SMTP on standard input and output.
    Smtp,
    /// `-q`: try everything in the queue now.
    Flush,
}

/// A command line that was understood.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arguments {
    /// What is to be done.
    pub mode: Mode,
    /// `-f`, `-r`: the envelope sender; empty for the null sender.
    pub sender: Option<String>,
    /// `-F`: the name for a From field that is added.
    pub full_name: Option<String>,
    /// The operands.
    pub recipients: Vec<String>,
    /// `-t`: the header names recipients too.
    pub header_recipients: bool,
    /// `-i`, `-oi`: a line of one dot is content.
    pub ignore_dots: bool,
    /// `-N`.
    pub notify: Option<Notify>,
    /// `-R`.
    pub ret: Option<Ret>,
    /// `-V`.
    pub envid: Option<String>,
    /// What was not understood, for standard error.
    pub warnings: Vec<String>,
}

/// Flags with a value that may be glued or apart. What is not handled in [`Arguments::value`] is taken and means nothing here.
const WITH_VALUE: &str = "ABCFLNORVXbefhopr";
/// Flags whose value, if there is one, is glued.
const WITH_GLUED: &str = "dq";
/// Flags without a value that mean nothing here.
const WITHOUT_VALUE: &str = "GUcmnvx";

impl Arguments {
    /// Reads a command line without the program's name; `program` is the last part of that name.
    pub fn parse(program: &str, words: &[String]) -> Result<Self, String> {
        let mut arguments = Self::default();
        match program {
            "mailq" => arguments.mode = Mode::List,
            "newaliases" => arguments.mode = Mode::Aliases,
            _ => {}
        }
        if words.iter().any(|word| word.contains(['\r', '\n', '\0'])) {
            return Err("a line end or NUL within an argument".to_owned());
        }
        let mut words = words.iter().map(String::as_str);
        while let Some(word) = words.next() {
            match word.strip_prefix('-') {
                None | Some("") => arguments.recipients.push(word.to_owned()),
                Some("-") => arguments.recipients.extend(words.by_ref().map(str::to_owned)),
                Some(flags) => arguments.flags(flags, &mut words)?,
            }
        }
        Ok(arguments)
    }

    /// One word of flags, of which the last may take the next word.
    fn flags<'a>(&mut self, flags: &'a str, words: &mut impl Iterator<Item = &'a str>) -> Result<(), String> {
        let mut rest = flags.chars();
        while let Some(flag) = rest.next() {
            match flag {
                't' => self.header_recipients = true,
                'i' => self.ignore_dots = true,
                'I' => self.mode = Mode::Aliases,
                _ if WITHOUT_VALUE.contains(flag) => {}
                _ if WITH_GLUED.contains(flag) => {
                    if flag == 'q' {
                        self.mode = Mode::Flush;
                    }
                    return Ok(());
                }
                _ if WITH_VALUE.contains(flag) => {
                    let glued = rest.as_str();
                    let value = if glued.is_empty() { words.next() } else { Some(glued) };
                    return match value {
                        Some(value) => self.value(flag, value),
                        None => Err(format!("-{flag} needs a value")),
                    };
                }
                _ => self.warnings.push(format!("unknown flag -{flag} is ignored")),
            }
        }
        Ok(())
    }

    fn value(&mut self, flag: char, value: &str) -> Result<(), String> {
        let mut unless_known = |known: bool| {
            if !known {
                self.warnings.push(format!("-{flag} {value} is not understood and ignored"));
            }
        };
        match flag {
            'f' | 'r' => self.sender = Some(if value == "<>" { String::new() } else { value.to_owned() }),
            'F' => self.full_name = Some(value.to_owned()),
            'N' => {
                let notify = Notify::parse(value);
                unless_known(notify.is_some());
                self.notify = notify;
            }
            'R' => {
                let ret = Ret::parse(value);
                unless_known(ret.is_some());
                self.ret = ret;
            }
            'V' => {
                let fits = value.bytes().all(|octet| (b' '..=b'~').contains(&octet)) && !value.is_empty();
                let fits = fits && dsn::encode_xtext(value).len() <= dsn::ENVID_MAX;
                unless_known(fits);
                self.envid = fits.then(|| value.to_owned());
            }
            'o' if value.starts_with('i') => self.ignore_dots = true,
            'b' => self.mode = mode(value)?,
            _ => {}
        }
        Ok(())
    }
}

fn mode(value: &str) -> Result<Mode, String> {
    match value.chars().next() {
        Some('m') => Ok(Mode::Message),
        Some('p') => Ok(Mode::List),
        Some('i') => Ok(Mode::Aliases),
        Some('s') => Ok(Mode::Smtp),
        Some('d' | 'l') => Err(format!("-b{value}: the server is started by `pillarbox serve`")),
        _ => Err(format!("-b{value}: no such mode; there are -bm, -bs, -bp and -bi")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &[&str]) -> Result<Arguments, String> {
        Arguments::parse("sendmail", &line.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
    }

    /// What programs call it with; each row what is not the default.
    #[test]
    fn command_lines() {
        let to = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let base = Arguments::default;
        let some = |text: &str| Some(text.to_owned());
        let notify = Notify::parse("success,failure");
        let rows: Vec<(&str, &[&str], Arguments)> = vec![
            (
                "cron of Debian",
                &["-i", "-FCronDaemon", "-B8BITMIME", "-oem", "root"],
                Arguments { ignore_dots: true, full_name: some("CronDaemon"), recipients: to(&["root"]), ..base() },
            ),
            (
                "anacron",
                &["-FAnacron", "-odi", "root"],
                Arguments { full_name: some("Anacron"), recipients: to(&["root"]), ..base() },
            ),
            ("at", &["-i", "www-data"], Arguments { ignore_dots: true, recipients: to(&["www-data"]), ..base() }),
            ("mdadm", &["-t"], Arguments { header_recipients: true, ..base() }),
            ("PHP's default", &["-t", "-i"], Arguments { header_recipients: true, ignore_dots: true, ..base() }),
            (
                "PHP with -f",
                &["-t", "-i", "-fshop@example.org"],
                Arguments { header_recipients: true, ignore_dots: true, sender: some("shop@example.org"), ..base() },
            ),
            ("grouped", &["-ti"], Arguments { header_recipients: true, ignore_dots: true, ..base() }),
            (
                "grouped with a value",
                &["-tif", "a@b.example"],
                Arguments { header_recipients: true, ignore_dots: true, sender: some("a@b.example"), ..base() },
            ),
            ("-oi", &["-oi", "x"], Arguments { ignore_dots: true, recipients: to(&["x"]), ..base() }),
            ("-o i", &["-o", "i", "x"], Arguments { ignore_dots: true, recipients: to(&["x"]), ..base() }),
            (
                "mutt",
                &["-oem", "-oi", "-f", "a@b.example", "--", "c@d.example"],
                Arguments { ignore_dots: true, sender: some("a@b.example"), recipients: to(&["c@d.example"]), ..base() },
            ),
            ("bsd-mailx", &["-i", "-m", "root"], Arguments { ignore_dots: true, recipients: to(&["root"]), ..base() }),
            (
                "s-nail",
                &["-i", "-r", "a@b.example", "c@d.example"],
                Arguments { ignore_dots: true, sender: some("a@b.example"), recipients: to(&["c@d.example"]), ..base() },
            ),
            (
                "git send-email",
                &["-f", "a@b.example", "-i", "c@d.example", "e@f.example"],
                Arguments {
                    ignore_dots: true,
                    sender: some("a@b.example"),
                    recipients: to(&["c@d.example", "e@f.example"]),
                    ..base()
                },
            ),
            ("symfony", &["-bs"], Arguments { mode: Mode::Smtp, ..base() }),
            (
                "flags after operands",
                &["root", "-i", "-f", ""],
                Arguments { ignore_dots: true, sender: some(""), recipients: to(&["root"]), ..base() },
            ),
            ("the null sender", &["-f<>", "x"], Arguments { sender: some(""), recipients: to(&["x"]), ..base() }),
            (
                "DSN",
                &["-N", "success,failure", "-R", "hdrs", "-V", "id 1", "x"],
                Arguments { notify, ret: Some(Ret::Headers), envid: some("id 1"), recipients: to(&["x"]), ..base() },
            ),
            ("mailq", &["-bp"], Arguments { mode: Mode::List, ..base() }),
            ("flush", &["-q"], Arguments { mode: Mode::Flush, ..base() }),
            ("flush with a time", &["-q30m"], Arguments { mode: Mode::Flush, ..base() }),
            ("newaliases", &["-bi"], Arguments { mode: Mode::Aliases, ..base() }),
            (
                "all that means nothing",
                &["-G", "-U", "-n", "-v", "-x", "-h", "3", "-L", "tag", "-O", "a=b", "-X", "f", "-A", "c", "-d0", "-em", "y"],
                Arguments { recipients: to(&["y"]), ..base() },
            ),
            (
                "a name that begins with a dash",
                &["--", "-x@y.example"],
                Arguments { recipients: to(&["-x@y.example"]), ..base() },
            ),
        ];
        for (what, line, want) in rows {
            assert_eq!(parse(line), Ok(want), "{what}: {line:?}");
        }
    }

    #[test]
    fn warnings_and_errors() {
        let unknown = parse(&["-Z", "-N", "whenever", "-R", "none", "-V", "\u{f6}", "root"]).unwrap();
        assert_eq!((unknown.warnings.len(), &unknown.recipients[..]), (4, &["root".to_owned()][..]));
        for line in [&["-bd"][..], &["-bD"], &["-f"], &["-f", "a\r\nRCPT TO:<x>"], &["a\0b"], &["-F", "x\ny"]] {
            assert!(parse(line).is_err(), "{line:?}");
        }
        assert_eq!(Arguments::parse("mailq", &[]).unwrap().mode, Mode::List);
        assert_eq!(Arguments::parse("newaliases", &[]).unwrap().mode, Mode::Aliases);
    }
}
