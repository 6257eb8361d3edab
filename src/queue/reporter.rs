//! Builds the letters of this server and has them delivered: notices of routes, and reports of mail in mailboxes here.
//!
//! What cannot be delivered to a sender goes to the postmaster. What cannot be delivered at all is logged.

use std::io::Read;
use std::sync::Arc;

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

use super::clerk::now;
use super::explain::Cause;
use super::letter::{Letter, Letterhead};
use super::notice::{self, Late, Resting};
use super::report::{self, Kind, Original, Outcome, RETURNED_MAX};
use super::spool::Envelope;
use crate::journal;
use crate::smtp::address::{Address, ReversePath};
use crate::smtp::remote::RemoteReply;

/// Where letters of this server go.
pub trait Mailer: Send + Sync {
    /// This server's name.
    fn hostname(&self) -> String;
    /// What stands in From.
    fn from(&self) -> Address;
    /// Makes a letter durable for this address, in its mailbox or in the queue; says where.
    fn deliver(&self, to: &Address, letter: &Letter) -> Result<String, String>;
    /// Who is told of routes, and of reports that cannot be delivered.
    fn postmaster(&self) -> Address;
    /// Where reports for a sender go: to an address that is local or proved to be the login's own, no other (backscatter).
    fn reports_to(&self, login: &str, sender: &Address) -> Address;
    /// The address of a login, if its notices have one.
    fn address_of(&self, login: &str) -> Option<Address>;
}

/// A route that rests or is well.
#[derive(Clone, Debug)]
pub struct RouteNews {
    /// Its name.
    pub name: String,
    /// The next hop, if it was reached.
    pub host: String,
    /// Why it rests; nothing when it is well.
    pub cause: Option<Cause>,
    /// What the next hop said.
    pub reply: Option<RemoteReply>,
    /// Seconds since 1970 since when.
    pub since: u64,
    /// Seconds since 1970 of the next probe.
    pub next: Option<u64>,
    /// Of mail by MX: domains that were not reached, with what came of it.
    pub tried: Vec<String>,
}

/// A message in mailboxes here whose sender wants to know that it is there.
#[derive(Debug)]
pub struct Delivered {
    /// Its id.
    pub id: String,
    /// Its envelope, with the recipients alone that are to be reported.
    pub envelope: Envelope,
    /// The message, as it is in a mailbox.
    pub file: Option<std::fs::File>,
}

/// See the module's description.
pub struct Reporter {
    pub(super) mailer: Arc<dyn Mailer>,
    zone: TimeZone,
}

impl Reporter {
    /// A reporter whose letters go there.
    pub fn new(mailer: Arc<dyn Mailer>) -> Self {
        Self { mailer, zone: TimeZone::system() }
    }

    /// Reports that a message is in mailboxes here. When this returns the report is durable, or the log says why it is not.
    pub fn delivered(&self, delivered: &Delivered) {
        let Delivered { id, envelope, file } = delivered;
        let ReversePath::Mailbox(sender) = &envelope.reverse_path else { return };
        let sender = &self.mailer.reports_to(&envelope.login, sender);
        let mut text = Vec::new();
        // Without the message itself the report is one all the same.
        let read = file.as_ref().map(|file| file.take(RETURNED_MAX as u64 + 1).read_to_end(&mut text));
        let whole = matches!(read, Some(Ok(octets)) if octets <= RETURNED_MAX);
        text.truncate(RETURNED_MAX);
        let kind = Kind::Delivered;
        let due = |notify| report::is_due(kind, &envelope.reverse_path, notify, &text);
        let now = self.zoned(now());
        let rows = envelope.recipients.iter().filter(|to| due(to.notify)).map(|to| Outcome {
            address: &to.address,
            orcpt: to.orcpt.as_ref(),
            cause: None,
            reply: None,
            host: None,
            attempted: Some(&now),
            expired: false,
            maybe_twice: false,
        });
        let rows: Vec<Outcome<'_>> = rows.collect();
        if rows.is_empty() {
            return;
        }
        let (ret, envid) = (envelope.ret, envelope.envid.as_deref());
        let original = Original { id, sender, arrived: &now, ret, envid, text: &text, whole };
        match self.deliver(sender, &self.with_head(|head| report::build(kind, head, original, &rows))) {
            Ok(place) => journal::queue::reported(id, place, kind.action()),
            Err(why) => journal::notice("report", format!("{id}: {why}")),
        }
    }

    /// To its address; if that fails, to the postmaster.
    pub(super) fn deliver(&self, to: &Address, letter: &Letter) -> Result<String, String> {
        self.mailer.deliver(to, letter).or_else(|why| match self.mailer.postmaster() {
            postmaster if postmaster == *to => Err(why),
            postmaster => self.mailer.deliver(&postmaster, letter).map_err(|second| format!("{why}; {second}")),
        })
    }

    pub(super) fn late_notice(&self, login: &str, route: &RouteNews, count: u64, (oldest, until): (u64, u64), told: bool) {
        let Some(to) = self.mailer.address_of(login) else { return };
        let (oldest, until) = (self.zoned(oldest), self.zoned(until));
        let letter = self.with_resting(route, |head, resting| {
            notice::late(head, &to, Late { messages: count, oldest: &oldest, until: &until, postmaster_knows: told }, resting)
        });
        match letter.map(|letter| self.deliver(&to, &letter)) {
            Some(Ok(place)) => journal::queue::reported("", place, "delayed"),
            Some(Err(why)) => journal::notice("report", why),
            None => {}
        }
    }

    /// Tells the postmaster of a route. When this succeeds the letter is durable.
    pub(super) fn tell(&self, news: &RouteNews, waiting: u64) -> Result<(), String> {
        let to = self.mailer.postmaster();
        let letter = match news.cause {
            Some(_) => self.with_resting(news, |head, resting| notice::rests(head, &to, resting, waiting)),
            None => {
                let since = self.zoned(news.since);
                Some(self.with_head(|head| notice::well(head, &to, &news.name, &since, waiting)))
            }
        };
        letter.map_or(Ok(()), |letter| self.mailer.deliver(&to, &letter).map(drop))
    }

    fn with_resting(&self, news: &RouteNews, build: impl FnOnce(Letterhead<'_>, Resting<'_>) -> Letter) -> Option<Letter> {
        let (since, next) = (self.zoned(news.since), news.next.map(|next| self.zoned(next)));
        let resting = Resting {
            route: &news.name,
            host: (!news.host.is_empty()).then(|| news.host.split('[').next().unwrap_or_default()),
            since: &since,
            cause: news.cause?,
            reply: news.reply.as_ref(),
            next: next.as_ref(),
            tried: &news.tried,
        };
        Some(self.with_head(|head| build(head, resting)))
    }

    pub(super) fn with_head<T>(&self, build: impl FnOnce(Letterhead<'_>) -> T) -> T {
        let (hostname, from) = (self.mailer.hostname(), self.mailer.from());
        let mut random = [0; 10];
        // Without randomness two letters of one second have one Message-ID.
        let _ = aws_lc_rs::rand::fill(&mut random);
        let id: String = random.iter().map(|octet| format!("{octet:02x}")).collect();
        let now = self.zoned(now());
        build(Letterhead { hostname: &hostname, from: &from, now: &now, id: &id })
    }

    pub(super) fn zoned(&self, unix: u64) -> Zoned {
        let seconds = i64::try_from(unix).unwrap_or_default();
        Timestamp::from_second(seconds).unwrap_or_default().to_zoned(self.zone.clone())
    }
}

#[cfg(test)]
pub(super) mod tests;
