//! Takes the argument of MAIL or RCPT apart: `FROM:<path> NAME=VALUE …`.

use std::borrow::Cow;

use super::Grammar;
use crate::smtp::address;

pub(super) type Parameter<'a> = (&'a str, Option<&'a str>);

/// Takes `FROM:<path> NAME=VALUE …` apart. A path that the grammar wants in brackets is given as it is, for the address to be
/// refused; another has them when it is given.
pub(super) fn split_path<'a>(
    args: &'a str,
    keyword: &str,
    grammar: Grammar,
) -> Option<(Cow<'a, str>, impl Iterator<Item = Parameter<'a>>)> {
    let head = args.get(..keyword.len())?;
    if !head.eq_ignore_ascii_case(keyword) {
        return None;
    }
    let rest = args[keyword.len()..].trim_start_matches(' ');
    let end = match (rest.starts_with('<'), grammar) {
        (true, _) => address::path_len(rest).unwrap_or(rest.len()),
        (false, Grammar::Transfer) => address::word_len(rest),
        (false, Grammar::Submission) => rest.len(),
    };
    let (path, tail) = rest.split_at(end);
    let (path, tail) = if tail.is_empty() || tail.starts_with(' ') { (path, tail) } else { (rest, "") };
    let path = if grammar == Grammar::Transfer { bracketed(path) } else { path.into() };
    Some((path, tail.split_ascii_whitespace().map(split_parameter)))
}

/// A path with brackets where it has none, and without spaces next to them. No path at all stays none: only `<>` is the null sender.
fn bracketed(path: &str) -> Cow<'_, str> {
    match path.strip_prefix('<').map(|rest| rest.strip_suffix('>')) {
        None if path.is_empty() => path.into(),
        None => format!("<{path}>").into(),
        Some(Some(inner)) if inner.starts_with(' ') || inner.ends_with(' ') => format!("<{}>", inner.trim_matches(' ')).into(),
        Some(_) => path.into(),
    }
}

fn split_parameter(word: &str) -> Parameter<'_> {
    match word.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (word, None),
    }
}
