//! What the postmaster and a login are told of a route: that it rests, that it works again, that mail is late because of it;
//! and of a limit of sending. Pure; plain mails with the sentences of [`super::explain`].
//!
//! While a route rests no message is at fault, so there is one notice instead of a report a message.

use std::fmt::Write as _;

use jiff::Zoned;

use super::explain::Cause;
use super::letter::{Letter, Letterhead, clean, date, wrap};
use crate::smtp::address::Address;
use crate::smtp::remote::RemoteReply;

/// A route that rests.
#[derive(Clone, Copy, Debug)]
pub struct Resting<'a> {
    /// The route's name.
    pub route: &'a str,
    /// The name of its server, if it has one.
    pub host: Option<&'a str>,
    /// Since when.
    pub since: &'a Zoned,
    /// Why.
    pub cause: Cause,
    /// What the server said, if it said anything.
    pub reply: Option<&'a RemoteReply>,
    /// When it is probed next; none where that waits for the operator.
    pub next: Option<&'a Zoned>,
    /// Of mail by MX: domains that were not reached, with what came of it.
    pub tried: &'a [String],
}

/// Mail of one login that is late because its route rests.
#[derive(Clone, Copy, Debug)]
pub struct Late<'a> {
    /// How many messages wait.
    pub messages: u64,
    /// When the oldest was handed in.
    pub oldest: &'a Zoned,
    /// When that one goes back to its sender, if it is not sent before.
    pub until: &'a Zoned,
    /// The postmaster has been told of the route, as is not done for a single domain by MX.
    pub postmaster_knows: bool,
}

/// Tells the postmaster that a route rests, with how many messages wait for it.
pub fn rests(head: Letterhead<'_>, to: &Address, resting: Resting<'_>, waiting: u64) -> Letter {
    let Resting { route, host, since, cause, reply, next, tried } = resting;
    let explanation = cause.explain();
    let mut text = String::new();
    let server = host.map_or(String::new(), |host| format!(" (server {host})"));
    wrap(&mut text, 0, &format!("The route `{route}`{server} does not work since {}. No mail is lost.", date(since)));
    text.push('\n');
    wrap(&mut text, 4, explanation.what);
    quote(&mut text, reply);
    if !tried.is_empty() {
        wrap(&mut text, 4, "None of the domains that were tried last was reached:");
        tried.iter().for_each(|domain| wrap(&mut text, 6, &clean(domain)));
    }
    wrap(&mut text, 4, &format!("What you can do: {}", explanation.operator_of(route)));
    text.push('\n');
    let next = match next {
        Some(next) => format!("It is tried again by itself, next at {}", date(next)),
        None => "It is tried again once the cause is put right".to_owned(),
    };
    wrap(&mut text, 0, &format!("{} {next}; `pillarbox routes try {route}` tries it at once.", waiting_for(waiting)));
    wrap(&mut text, 0, "You are told once more when it works again.");
    head.plain(to, &format!("Route {route} does not work"), &signed(head, text))
}

/// Tells the postmaster that a route works again.
pub fn well(head: Letterhead<'_>, to: &Address, route: &str, rested_since: &Zoned, waiting: u64) -> Letter {
    let mut text = String::new();
    let since = date(rested_since);
    wrap(&mut text, 0, &format!("The route `{route}`, which did not work since {since}, works again. {}", going_out(waiting)));
    head.plain(to, &format!("Route {route} works again"), &signed(head, text))
}

/// Tells the address of a login, once, that its mail is late.
pub fn late(head: Letterhead<'_>, to: &Address, late: Late<'_>, resting: Resting<'_>) -> Letter {
    let Late { messages, oldest, until, postmaster_knows } = late;
    let explanation = resting.cause.explain();
    let mut text = String::new();
    let oldest = date(oldest);
    let what = match messages {
        1 => format!("A message of yours has not been sent yet. It was handed in at {oldest}, and waits"),
        n => format!("{n} messages of yours have not been sent yet. The oldest was handed in at {oldest}. They wait"),
    };
    wrap(&mut text, 0, &format!("{what} for a server that does not take our mail at present:"));
    text.push('\n');
    wrap(&mut text, 4, explanation.what);
    wrap(&mut text, 4, explanation.side.sentence());
    quote(&mut text, resting.reply);
    text.push('\n');
    let advice = format!(
        "You need not do anything: all is sent by itself once that works again{}. What cannot be sent comes back to you, not \
         before {}. Don't send it again before, or it may arrive twice.",
        if postmaster_knows { ", and the postmaster of this server has been told" } else { "" },
        date(until)
    );
    wrap(&mut text, 0, &advice);
    let subject =
        if messages == 1 { "Late: a message of yours".to_owned() } else { format!("Late: {messages} messages of yours") };
    head.plain(to, &subject, &signed(head, text))
}

/// A limit of sending that a login nears or has reached.
#[derive(Clone, Copy, Debug)]
pub struct Limited<'a> {
    /// The login.
    pub login: &'a str,
    /// The labels of its passwords that were used, with commas between; may be empty.
    pub labels: &'a str,
    /// The addresses that it came from, with commas between.
    pub addresses: &'a str,
    /// What is counted: `messages` or `recipients`.
    pub unit: &'a str,
    /// How many are allowed.
    pub limit: u32,
    /// Within how long: `minute`, `hour` or `day`.
    pub period: &'a str,
    /// How many were counted.
    pub used: u32,
    /// How many messages were accepted lately, and how many subjects they have, in words.
    pub subjects: &'a str,
    /// True if no more is let through.
    pub is_stop: bool,
}

/// Tells the login's owner, or the postmaster, that a limit is reached or near.
pub fn limited(head: Letterhead<'_>, to: &Address, limited: Limited<'_>) -> Letter {
    let Limited { login, labels, addresses, unit, limit, period, used, subjects, is_stop } = limited;
    let login = clean(login);
    let mut text = String::new();
    let what = match is_stop {
        true => format!(
            "The login {login} has sent as much as it may: {limit} {unit} in one {period}. More is refused until time has passed."
        ),
        false => format!("The login {login} nears a limit: {used} of {limit} {unit} in one {period}. Nothing is refused yet."),
    };
    wrap(&mut text, 0, &what);
    text.push('\n');
    if !labels.is_empty() {
        wrap(&mut text, 4, &format!("Passwords used: {}", clean(labels)));
    }
    wrap(&mut text, 4, &format!("Sent from: {}", clean(addresses)));
    wrap(&mut text, 4, subjects);
    text.push('\n');
    wrap(
        &mut text,
        0,
        "If you expected this, do nothing, or raise the limit in [sending_limits]. If not, somebody else may know a password of this login. Then:",
    );
    text.push('\n');
    wrap(&mut text, 4, "Change the password; whoever uses the old one is thrown out at once:");
    let _ = writeln!(text, "        pillarbox user passwd {login}");
    wrap(&mut text, 4, "Stop what waits to be sent, look at it, and drop it:");
    for verb in ["hold", "drop"] {
        let _ = writeln!(text, "        pillarbox queue {verb} --from {login}");
    }
    let subject =
        if is_stop { format!("Stopped: {login} has sent too much") } else { format!("{login} nears a limit of sending") };
    head.plain(to, &subject, &signed(head, text))
}

fn quote(text: &mut String, reply: Option<&RemoteReply>) {
    if let Some(reply) = reply {
        wrap(text, 4, &clean(&format!("The server said: {reply}")));
    }
}

fn waiting_for(messages: u64) -> String {
    match messages {
        0 => "No message waits for it.".to_owned(),
        1 => "One message waits for it.".to_owned(),
        n => format!("{n} messages wait for it."),
    }
}

fn going_out(messages: u64) -> String {
    match messages {
        0 => "No message waits for it.".to_owned(),
        1 => "The message that waits is sent now.".to_owned(),
        n => format!("The {n} messages that wait are sent now."),
    }
}

fn signed(head: Letterhead<'_>, mut text: String) -> String {
    let _ = write!(text, "\n-- \nThe mail server {}\n", head.hostname);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::schedule::{Reason, Trouble};
    use crate::smtp::remote::Stage;

    #[test]
    fn what_the_postmaster_and_a_login_read() {
        let (from, to) = (Address::parse("postmaster@example.org").unwrap(), Address::parse("me@elsewhere.example").unwrap());
        let time = |text: &str| -> Zoned { text.parse().unwrap() };
        let now = time("2026-11-24T12:05:00+00:00[UTC]");
        let (since, next) = (time("2026-11-24T11:00:00+00:00[UTC]"), time("2026-11-24T13:00:00+00:00[UTC]"));
        let head = Letterhead { hostname: "mx.example.org", from: &from, now: &now, id: "n1" };
        let reply = RemoteReply { code: 535, status: Some((5, 7, 8)), text: "wrong\r\npassword".into() };
        let resting = Resting {
            route: "provider",
            host: Some("smtp.relay.example"),
            since: &since,
            cause: Cause::Trouble(Stage::Auth, Trouble::from(&reply)),
            reply: Some(&reply),
            next: Some(&next),
            tried: &[],
        };
        let show = |letter: Letter| {
            assert!(!letter.eight_bit && !letter.utf8);
            String::from_utf8(letter.text).unwrap()
        };
        let want = "From: Mail Delivery System <postmaster@example.org>
To: <me@elsewhere.example>
Subject: Route provider does not work
Date: Tue, 24 Nov 2026 12:05:00 +0000
Message-ID: <n1@mx.example.org>
Auto-Submitted: auto-generated
MIME-Version: 1.0
Content-Type: text/plain; charset=us-ascii
Content-Transfer-Encoding: 7bit

The route `provider` (server smtp.relay.example) does not work since Tue, 24
Nov 2026 11:00:00 +0000. No mail is lost.

    The server that takes our mail refuses our login.
    The server said: 535 5.7.8 wrong password
    What you can do: Correct `login` or the password file of the route, then
    `pillarbox routes try NAME`; or look at your account at the provider.

3 messages wait for it. It is tried again by itself, next at Tue, 24 Nov 2026
13:00:00 +0000; `pillarbox routes try provider` tries it at once.
You are told once more when it works again.

-- 
The mail server mx.example.org
";
        assert_eq!(show(rests(head, &to, resting, 3)), want);
        let operator = show(rests(head, &to, Resting { next: None, ..resting }, 0));
        assert!(operator.contains("No message waits for it. It is tried again once the cause is put right;"), "{operator}");
        let tried = ["a.example: no answer in time (a.example[192.0.2.9])".to_owned(), "b.example: no\r\n".to_owned()];
        let direct = show(rests(head, &to, Resting { route: "mx", host: None, reply: None, tried: &tried, ..resting }, 2));
        let want = "    None of the domains that were tried last was reached:
      a.example: no answer in time (a.example[192.0.2.9])
      b.example: no
    What you can do: ";
        assert!(direct.contains(want) && direct.contains("`pillarbox routes try mx` tries it at once"), "{direct}");
        let senseless = Resting { route: "mx", cause: Cause::Rests(Reason::Protocol), ..resting };
        let by_mx = show(rests(head, &to, senseless, 2));
        assert!(by_mx.contains("What you can do: Ask the server's operator.") && !by_mx.contains("url"), "{by_mx}");
        let again = show(well(head, &to, "provider", &since, 3));
        assert!(
            again.contains("Subject: Route provider works again\n") && again.contains("The 3 messages that wait are"),
            "{again}"
        );
        let silent = Resting { cause: Cause::Rests(Reason::Connect), reply: None, ..resting };
        for (messages, want) in [(1, "Subject: Late: a message of yours\n"), (7, "Subject: Late: 7 messages of yours\n")] {
            for postmaster_knows in [true, false] {
                let mail = Late { messages, oldest: &since, until: &next, postmaster_knows };
                let text = show(late(head, &to, mail, silent));
                assert!(text.contains(want) && text.contains("No connection to the server could be made."), "{text}");
                assert!(text.lines().all(|line| line.len() <= 78), "{text}");
                let words = text.split_once("\n\n").unwrap().1.replace('\n', " ");
                assert_eq!(
                    words.contains("works again, and the postmaster of this server has been told. What"),
                    postmaster_knows
                );
                assert_eq!(words.contains("works again. What"), !postmaster_knows, "{text}");
                assert_eq!(words.contains("postmaster"), postmaster_knows, "{text}");
            }
        }
    }

    #[test]
    fn what_is_said_of_a_limit() {
        let (from, to) = (Address::parse("postmaster@example.org").unwrap(), Address::parse("alice@example.org").unwrap());
        let now: Zoned = "2026-11-24T12:05:00+00:00[UTC]".parse().unwrap();
        let head = Letterhead { hostname: "mx.example.org", from: &from, now: &now, id: "n1" };
        let stop = Limited {
            login: "alice@example.org",
            labels: "phone",
            addresses: "192.0.2.7, 192.0.2.8",
            unit: "messages",
            limit: 200,
            period: "hour",
            used: 200,
            subjects: "200 messages with one subject.",
            is_stop: true,
        };
        let text = String::from_utf8(limited(head, &to, stop).text).unwrap();
        for want in [
            "Subject: Stopped: alice@example.org has sent too much\n",
            "200 messages\nin one hour",
            "    Passwords used: phone\n",
            "    Sent from: 192.0.2.7, 192.0.2.8\n",
            "    200 messages with one subject.\n",
            "        pillarbox user passwd alice@example.org\n",
            "        pillarbox queue hold --from alice@example.org\n",
            "        pillarbox queue drop --from alice@example.org\n",
        ] {
            assert!(text.contains(want) || text.replace('\n', " ").contains(&want.replace('\n', " ")), "{want}\n{text}");
        }
        let near = Limited { used: 160, labels: "", is_stop: false, ..stop };
        let text = String::from_utf8(limited(head, &to, near).text).unwrap();
        assert!(text.contains("160 of 200 messages") && !text.contains("Passwords used"), "{text}");
        assert!(text.lines().all(|line| line.len() <= 78), "{text}");
    }
}
