//! What people and scripts are shown of the queue: a row a message, a row a route, and which messages a command means.
//!
//! The rows are the objects of `pillarbox queue --json` and `pillarbox routes --json`; their keys are fixed, `v` counts
//! changes to them. Times are RFC 3339, in UTC.

use serde::{Deserialize, Serialize};

/// One message of the queue.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageRow {
    /// The version of this form.
    pub v: u8,
    /// The queue id.
    pub id: String,
    /// When it was accepted.
    pub arrived: String,
    /// Octets of the message.
    pub size: u64,
    /// The login that handed it in; empty for reports.
    pub login: String,
    /// The envelope sender; none for the null sender.
    pub from: Option<String>,
    /// When it is tried next; empty while it is held.
    pub next: String,
    /// Why it is held, if it is.
    pub held: Option<String>,
    /// True if it may have arrived at a next hop without its reply.
    pub maybe_twice: bool,
    /// The recipients.
    pub to: Vec<RecipientRow>,
}

/// One recipient of a message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecipientRow {
    /// The address.
    pub address: String,
    /// The route that it takes.
    pub route: String,
    /// `waits`, `sent`, `failed` or `returned`.
    pub state: String,
    /// Attempts so far.
    pub attempts: u32,
    /// The code of the last reply.
    pub code: Option<u16>,
    /// Its enhanced status code.
    pub status: Option<String>,
    /// Its text, or what happened without a reply.
    pub text: Option<String>,
    /// When that was.
    pub last: Option<String>,
}

/// One next hop.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteRow {
    /// The version of this form.
    pub v: u8,
    /// The route's name, or the domain.
    pub name: String,
    /// `well` or `resting`.
    pub state: String,
    /// Why it rests.
    pub why: Option<String>,
    /// Since when it rests.
    pub since: Option<String>,
    /// When it is probed next.
    pub next: Option<String>,
    /// Recipients that wait there.
    pub waiting: u64,
}

/// Which messages are meant: those that all of the given words fit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selectors {
    /// Queue ids.
    pub ids: Vec<String>,
    /// The envelope sender; `<>` for the null sender.
    pub from: Option<String>,
    /// A recipient.
    pub to: Option<String>,
    /// A recipient's domain.
    pub to_domain: Option<String>,
    /// The login.
    pub login: Option<String>,
    /// A route.
    pub route: Option<String>,
    /// Every message.
    pub all: bool,
}

/// The version of the rows.
pub const VERSION: u8 = 1;

impl MessageRow {
    /// True if the selectors mean this message. Recipients that are settled count as well.
    pub fn fits(&self, selectors: &Selectors) -> bool {
        let Selectors { ids, from, to, to_domain, login, route, all: _ } = selectors;
        let same = |wanted: &str, own: &str| wanted.trim_matches(['<', '>']).eq_ignore_ascii_case(own);
        let any = |test: &dyn Fn(&RecipientRow) -> bool| self.to.iter().any(test);
        (ids.is_empty() || ids.iter().any(|id| id.eq_ignore_ascii_case(&self.id)))
            && from.as_ref().is_none_or(|from| same(from, self.from.as_deref().unwrap_or("")))
            && to.as_ref().is_none_or(|to| any(&|row| same(to, &row.address)))
            && to_domain.as_ref().is_none_or(|domain| any(&|row| has_domain(&row.address, domain)))
            && login.as_ref().is_none_or(|login| same(login, &self.login))
            && route.as_ref().is_none_or(|route| any(&|row| row.route == *route))
    }
}

impl Selectors {
    /// True if nothing was given: for a listing that means everything, for a verb it means nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The ids that are not those of these messages.
    pub fn unknown_ids(&self, rows: &[MessageRow]) -> Vec<&str> {
        let known = |id: &&String| !rows.iter().any(|row| row.id.eq_ignore_ascii_case(id));
        self.ids.iter().filter(known).map(String::as_str).collect()
    }
}

fn has_domain(address: &str, domain: &str) -> bool {
    address.rsplit_once('@').is_some_and(|(_, own)| own.eq_ignore_ascii_case(domain.trim_start_matches('@')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> MessageRow {
        let to = |address: &str, route: &str| RecipientRow { address: address.into(), route: route.into(), ..Default::default() };
        MessageRow {
            v: VERSION,
            id: "0abc".into(),
            login: "alice@example.org".into(),
            from: Some("alice@example.org".into()),
            to: vec![to("bob@one.example", "provider"), to("carol@two.example", "other")],
            ..Default::default()
        }
    }

    #[test]
    fn selectors() {
        let with = |set: fn(&mut Selectors)| {
            let mut selectors = Selectors::default();
            set(&mut selectors);
            selectors
        };
        type Row = (fn(&mut Selectors), bool);
        let rows: [Row; 17] = [
            (|_| {}, true),
            (|s| s.ids = vec!["0ABC".into()], true),
            (|s| s.ids = vec!["0abd".into()], false),
            (|s| s.from = Some("Alice@example.org".into()), true),
            (|s| s.from = Some("<alice@example.org>".into()), true),
            (|s| s.from = Some("<>".into()), false),
            (|s| s.to = Some("carol@two.example".into()), true),
            (|s| s.to = Some("carol@one.example".into()), false),
            (|s| s.to_domain = Some("ONE.example".into()), true),
            (|s| s.to_domain = Some("@one.example".into()), true),
            (|s| s.to_domain = Some("example".into()), false),
            (|s| s.login = Some("alice@example.org".into()), true),
            (|s| s.login = Some("bob@example.org".into()), false),
            (|s| s.route = Some("other".into()), true),
            (|s| s.route = Some("mx".into()), false),
            (|s| (s.route, s.to) = (Some("other".into()), Some("x@y".into())), false),
            (|s| s.all = true, true),
        ];
        for (number, (set, want)) in rows.into_iter().enumerate() {
            assert_eq!(row().fits(&with(set)), want, "row {number}");
        }
        let null = MessageRow { from: None, ..row() };
        assert!(null.fits(&with(|s| s.from = Some("<>".into()))));
        assert_eq!(with(|s| s.ids = vec!["0abc".into(), "0abd".into()]).unknown_ids(&[row()]), ["0abd"]);
    }

    /// The keys that scripts rely on.
    #[test]
    fn keys_of_the_json() {
        let text = serde_json::to_string(&row()).unwrap();
        for key in ["v", "id", "arrived", "size", "login", "from", "next", "held", "maybe_twice", "to"] {
            assert!(text.contains(&format!("\"{key}\":")), "{key}: {text}");
        }
        for key in ["address", "route", "state", "attempts", "code", "status", "text", "last"] {
            assert!(text.contains(&format!("\"{key}\":")), "{key}: {text}");
        }
        assert_eq!(serde_json::from_str::<MessageRow>(&text).unwrap(), row());
    }
}
