//! The queue in lines for people: id, age, from, to, next attempt, and why.

use jiff::Timestamp;

use super::ask::plain;
use crate::queue::listing::{MessageRow, RecipientRow};
use crate::queue::operate::span;

/// Columns of a line, where addresses leave enough of them.
const WIDTH: usize = 120;
/// Columns that are kept for why.
const WHY_MIN: usize = 20;
/// Columns of an address, at most; a longer one moves the rest of its line to the right.
const ADDRESS_MAX: usize = 36;

/// A line a message, aligned.
pub(super) fn lines(rows: &[MessageRow], now: Timestamp) -> Vec<String> {
    let cells: Vec<[String; 6]> = rows.iter().map(|row| cells(row, now)).collect();
    let width = |column: usize, most: usize| {
        cells.iter().map(|cells| length(&cells[column])).filter(|length| *length <= most).max().unwrap_or(0)
    };
    let widths = [width(0, WIDTH), width(1, WIDTH), width(2, ADDRESS_MAX), width(3, ADDRESS_MAX + 6), width(4, WIDTH)];
    cells.iter().map(|cells| line(cells, &widths)).collect()
}

fn line(cells: &[String; 6], widths: &[usize]) -> String {
    let mut line = String::new();
    for (cell, width) in cells.iter().zip(widths) {
        line += cell;
        line.extend(std::iter::repeat_n(' ', width.saturating_sub(length(cell)) + 2));
    }
    let room = WIDTH.saturating_sub(length(&line)).max(WHY_MIN);
    line += &cut(&cells[5], room);
    line.trim_end().to_owned()
}

fn cells(row: &MessageRow, now: Timestamp) -> [String; 6] {
    let waits: Vec<&RecipientRow> = row.to.iter().filter(|to| ["waits", "returned"].contains(&to.state.as_str())).collect();
    let shown = if waits.is_empty() { row.to.iter().collect() } else { waits };
    let to = match shown.as_slice() {
        [] => "-".to_owned(),
        [only] => plain(&only.address),
        [first, others @ ..] => format!("{} (+{})", plain(&first.address), others.len()),
    };
    let from = row.from.as_deref().unwrap_or(if row.to.is_empty() { "-" } else { "<>" });
    [row.id.clone(), age(&row.arrived, now), plain(from), to, next(row, now), plain(&why(row, &shown))]
}

fn next(row: &MessageRow, now: Timestamp) -> String {
    match (&row.held, row.next.parse::<Timestamp>()) {
        (Some(_), _) => "held".to_owned(),
        (None, Err(_)) => "-".to_owned(),
        (None, Ok(next)) => match next.as_second() - now.as_second() {
            wait if wait > 0 => format!("in {}", span(wait as u64)),
            _ => "now".to_owned(),
        },
    }
}

/// In a few words. What was said last of the first recipient that anything was said of.
fn why(row: &MessageRow, shown: &[&RecipientRow]) -> String {
    let mut why = Vec::new();
    match row.held.as_deref() {
        Some("operator") => why.push("by the operator".to_owned()),
        Some("may-have-arrived") | None => {}
        Some("no-report") => why.push("its report cannot be delivered".to_owned()),
        Some("no-result") => why.push("three attempts without a result".to_owned()),
        Some(word) => why.push(word.to_owned()),
    }
    if row.maybe_twice {
        why.push("may have arrived".to_owned());
    }
    let told = shown.iter().find(|to| to.text.is_some() || to.code.is_some());
    match told {
        Some(to) => {
            let words = [to.code.map(|code| code.to_string()), to.status.clone(), to.text.clone()];
            why.push(words.into_iter().flatten().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" "));
        }
        None if row.held.is_none() && shown.iter().all(|to| to.attempts == 0) => why.push("not tried yet".to_owned()),
        None => {}
    }
    why.join("; ")
}

fn age(arrived: &str, now: Timestamp) -> String {
    let arrived = arrived.parse::<Timestamp>().unwrap_or(now);
    span(u64::try_from(now.as_second() - arrived.as_second()).unwrap_or_default())
}

fn length(text: &str) -> usize {
    text.chars().count()
}

fn cut(text: &str, most: usize) -> String {
    match length(text) > most {
        true => text.chars().take(most - 1).chain(['…']).collect(),
        false => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-11-25T12:00:00Z".parse().unwrap()
    }

    fn recipient(address: &str, code: Option<u16>, text: Option<&str>) -> RecipientRow {
        RecipientRow {
            address: address.into(),
            state: "waits".into(),
            attempts: u32::from(text.is_some()),
            status: code.map(|_| "4.7.1".into()),
            text: text.map(str::to_owned),
            code,
            ..RecipientRow::default()
        }
    }

    fn row() -> MessageRow {
        MessageRow {
            id: "06qz8x1c2v3b4".into(),
            arrived: "2026-11-25T09:48:00Z".into(),
            from: Some("alice@example.org".into()),
            next: "2026-11-25T12:05:59Z".into(),
            to: vec![recipient("bob@gmail.example", Some(451), Some("greylisted"))],
            ..MessageRow::default()
        }
    }

    #[test]
    fn a_line_says_why() {
        let with = |change: fn(&mut MessageRow)| {
            let mut row = row();
            change(&mut row);
            lines(&[row], now()).remove(0)
        };
        type Row = (fn(&mut MessageRow), &'static str);
        let rows: [Row; 12] = [
            (|_| {}, "alice@example.org  bob@gmail.example  in 5m  451 4.7.1 greylisted"),
            (|row| row.from = None, "<>  bob@gmail.example  in 5m  451 4.7.1 greylisted"),
            (|row| row.next = "2026-11-25T12:00:00Z".into(), "bob@gmail.example  now  451 4.7.1 greylisted"),
            (|row| row.next = String::new(), "bob@gmail.example  -  451 4.7.1 greylisted"),
            (|row| row.to.push(recipient("c@c.example", None, None)), "bob@gmail.example (+1)  in 5m  451 4.7.1 greylisted"),
            (|row| row.to[0].state = "sent".into(), "bob@gmail.example  in 5m  451 4.7.1 greylisted"),
            (|row| row.to = vec![recipient("c@c.example", None, None)], "c@c.example  in 5m  not tried yet"),
            (|row| row.to = vec![recipient("c@c.example", None, Some("route rests: dns"))], "in 5m  route rests: dns"),
            (|row| row.maybe_twice = true, "in 5m  may have arrived; 451 4.7.1 greylisted"),
            (|row| row.held = Some("operator".into()), "held  by the operator; 451 4.7.1 greylisted"),
            (
                |row| (row.held, row.maybe_twice) = (Some("may-have-arrived".into()), true),
                "held  may have arrived; 451 4.7.1 greylisted",
            ),
            (|row| (row.held, row.from, row.to) = (Some("damaged".into()), None, Vec::new()), "2h12m  -  -  held  damaged"),
        ];
        for (change, want) in rows {
            let line = with(change);
            assert!(line.ends_with(want), "{line}\n{want}");
            assert!(line.starts_with("06qz8x1c2v3b4  2h12m  "), "{line}");
        }
        let settled =
            MessageRow { to: vec![recipient("b@b.example", None, None), recipient("c@c.example", None, None)], ..row() };
        let mut settled = settled;
        settled.to[0].state = "sent".into();
        assert!(lines(&[settled], now())[0].contains("  c@c.example  "), "what is sent is not shown beside what waits");
    }

    #[test]
    fn lines_are_aligned_and_fit() {
        let long = MessageRow {
            from: Some(format!("{}@example.org", "a".repeat(60))),
            to: vec![recipient("carol@a-longer-domain.example.net", Some(451), Some(&"word ".repeat(60)))],
            ..row()
        };
        let other = MessageRow { next: "2026-11-27T15:00:00Z".into(), to: vec![recipient("c@d.example", None, None)], ..row() };
        let lines = lines(&[row(), other, long.clone(), MessageRow { from: row().from, ..long.clone() }], now());
        let column = |line: &str, word: &str| line.find(word).unwrap_or_else(|| panic!("{word}: {line}"));
        assert_eq!(column(&lines[0], "in 5m"), column(&lines[1], "in 2d3h"));
        assert_eq!(column(&lines[0], "451"), column(&lines[1], "not tried"));
        assert_eq!(length(&lines[3]), WIDTH, "{}", lines[3]);
        assert!(lines[3].ends_with('…'));
        // An address is whole, as it is wanted for a selector.
        assert!(lines[2].contains(long.from.as_ref().unwrap()) && lines[2].contains("carol@a-longer-domain.example.net"));
    }

    #[test]
    fn foreign_text_is_harmless() {
        let evil = MessageRow {
            from: Some("a\u{202e}b\u{9b}@x.example".into()),
            to: vec![recipient("b\u{1b}[2J@x.example", Some(451), Some("\u{1b}]0;x\u{7}\r\n\u{85}forged"))],
            held: Some("\u{1b}c".into()),
            ..row()
        };
        let line = lines(std::slice::from_ref(&evil), now()).remove(0);
        assert!(line.contains("forged") && !line.chars().any(|c| c.is_control() || c == '\u{202e}'), "{line:?}");
        let json = super::super::json(&evil);
        assert!(!json.chars().any(|c| c.is_control() || c == '\u{202e}'), "{json:?}");
        assert_eq!(serde_json::from_str::<MessageRow>(&json).unwrap(), evil, "and means the same");
    }
}
