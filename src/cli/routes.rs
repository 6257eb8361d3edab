//! `pillarbox routes`: shows how the next hops are, and probes one now.

use jiff::Timestamp;

use super::queue::{Spooled, json, plain};
use super::{Arguments, Exit, Failure, Outcome, nearest, say};
use crate::queue::control::{Answer, Request};
use crate::queue::listing::RouteRow;
use crate::queue::operate::span;

/// Shows the routes, or probes one.
pub(super) fn run(arguments: &Arguments) -> Outcome {
    let as_json = arguments.matches.opt_present("json");
    match arguments.words() {
        [] => list(&Spooled::open(arguments)?, as_json),
        [word, ..] if word == "try" && as_json => Err(Failure::usage("--json belongs to `routes`, not to `routes try`")),
        [word, name] if word == "try" => Spooled::open(arguments)?.ask(&Request::TryRoute(name.clone()), &mut |_| {}),
        [word, ..] if word == "try" => Err(Failure::usage("`routes try` takes one NAME")),
        [word, ..] => {
            let nearest = nearest(word, ["try"].into_iter());
            Err(Failure::usage(&format!(
                "unknown action `routes {word}`, the nearest known is `routes {nearest}`; `routes` alone lists"
            )))
        }
    }
}

fn list(spooled: &Spooled, as_json: bool) -> Outcome {
    let mut rows = Vec::new();
    let outcome = spooled.ask(&Request::Routes, &mut |answer| match answer {
        Answer::Route(row) if as_json => say(json(&row)),
        Answer::Route(row) => rows.push(row),
        _ => {}
    })?;
    if !as_json && outcome == Exit::Ok {
        lines(&rows, Timestamp::now()).iter().for_each(say);
    }
    Ok(outcome)
}

/// A line a route, aligned; a sentence where there is none, as by MX while nothing waits.
fn lines(rows: &[RouteRow], now: Timestamp) -> Vec<String> {
    if rows.is_empty() {
        return vec!["no mail waits, and no route rests".to_owned()];
    }
    let width = rows.iter().map(|row| plain(&row.name).chars().count()).max().unwrap_or(0);
    rows.iter()
        .map(|row| {
            let name = plain(&row.name);
            let waiting = match row.waiting {
                0 => "nothing waits".to_owned(),
                1 => "1 waits".to_owned(),
                more => format!("{more} wait"),
            };
            let line = format!("{name:<width$}  {:<7}  {waiting:<13}  {}", plain(&row.state), rest(row, now));
            line.trim_end().to_owned()
        })
        .collect()
}

/// Why it rests, since when, and when it is probed.
fn rest(row: &RouteRow, now: Timestamp) -> String {
    let Some(why) = &row.why else { return String::new() };
    let time = |text: &Option<String>| text.as_ref().and_then(|text| text.parse::<Timestamp>().ok());
    let seconds = |from: Timestamp, to: Timestamp| u64::try_from(to.as_second() - from.as_second()).unwrap_or_default();
    let since = time(&row.since).map(|since| format!(", since {}", span(seconds(since, now))));
    let next = time(&row.next).map(|next| match seconds(now, next) {
        0 => ", probed now".to_owned(),
        wait => format!(", probed in {}", span(wait)),
    });
    plain(&format!("{why}{}{}", since.unwrap_or_default(), next.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_a_route() {
        let now: Timestamp = "2026-11-25T12:00:00Z".parse().unwrap();
        let well = RouteRow { name: "mx".into(), state: "well".into(), waiting: 1, ..RouteRow::default() };
        let resting = RouteRow {
            name: "provider".into(),
            state: "resting".into(),
            why: Some("auth-refused\u{1b}".into()),
            since: Some("2026-11-25T11:18:00Z".into()),
            next: Some("2026-11-25T12:18:00Z".into()),
            waiting: 153,
            ..RouteRow::default()
        };
        let due = RouteRow { next: resting.since.clone(), waiting: 0, ..resting.clone() };
        let want = [
            "mx        well     1 waits",
            "provider  resting  153 wait       auth-refused , since 42m, probed in 18m",
            "provider  resting  nothing waits  auth-refused , since 42m, probed now",
        ];
        assert_eq!(lines(&[well, resting, due], now), want);
        assert_eq!(lines(&[], now), ["no mail waits, and no route rests"]);
    }
}
