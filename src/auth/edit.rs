//! Edits the text of a users file: comments, order and every field that is not meant stay as they are.

use super::users::canonical;

/// Adds a line after all others.
pub fn add(text: &str, login: &str, label: &str, hash: &str) -> String {
    let mut edited = text.to_owned();
    if !edited.is_empty() && !edited.ends_with('\n') {
        edited.push('\n');
    }
    edited.push_str(login);
    edited.push(':');
    edited.push_str(hash);
    if !label.is_empty() {
        edited.push_str(":::");
        edited.push_str(label);
        edited.push_str("::");
    }
    edited.push('\n');
    edited
}

/// Puts another hash into the lines of this login and label; gives how many there were.
pub fn replace(text: &str, login: &str, label: &str, hash: &str) -> (String, usize) {
    edit(text, |line| {
        if !is_of(line, login, Some(label)) {
            return Some(line.to_owned());
        }
        let mut fields: Vec<&str> = line.split(':').collect();
        match fields.get_mut(1) {
            Some(field) => *field = hash,
            None => fields.push(hash),
        }
        Some(fields.join(":"))
    })
}

/// Removes the lines of this login, all or those of one label; gives how many there were. Where nothing else is left a comment is:
/// a running server takes an empty file for a lost one and keeps the logins from before.
pub fn remove(text: &str, login: &str, label: Option<&str>) -> (String, usize) {
    let (mut edited, count) = edit(text, |line| (!is_of(line, login, label)).then(|| line.to_owned()));
    if count > 0 && edited.trim().is_empty() {
        edited = "# no login is left\n".to_owned();
    }
    (edited, count)
}

/// True if a line of the file is of this login, and of this label where one is named.
pub fn has(text: &str, login: &str, label: Option<&str>) -> bool {
    text.lines().any(|line| is_of(line, login, label))
}

/// The lines of a login, from 1, each with its label.
pub fn lines_of(text: &str, login: &str) -> Vec<(usize, String)> {
    let label = |line: &str| line.split(':').nth(4).unwrap_or("").to_owned();
    (1..).zip(text.lines()).filter(|(_, line)| is_of(line, login, None)).map(|(number, line)| (number, label(line))).collect()
}

/// A label must not end a field or a line.
pub fn is_label(label: &str) -> bool {
    label.len() <= 64 && !label.contains(':') && !label.chars().any(char::is_control)
}

fn is_of(line: &str, login: &str, label: Option<&str>) -> bool {
    let mut fields = line.split(':');
    let same = !line.starts_with('#') && fields.next().is_some_and(|field| canonical(field) == canonical(login));
    same && label.is_none_or(|label| fields.nth(3).unwrap_or("") == label)
}

/// Runs `each` over the lines; gives the text and how many lines were changed or dropped.
fn edit(text: &str, each: impl Fn(&str) -> Option<String>) -> (String, usize) {
    let mut edited = String::with_capacity(text.len());
    let mut count = 0;
    for whole in text.split_inclusive('\n') {
        let line = whole.strip_suffix('\n').unwrap_or(whole);
        let end = &whole[line.len()..];
        match each(line) {
            Some(same) if same == line => edited.push_str(whole),
            Some(other) => {
                edited.push_str(&other);
                edited.push_str(end);
                count += 1;
            }
            None => count += 1,
        }
    }
    (edited, count)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str =
        "# people\nalice@example.org:{X}h1\nAlice@example.org:{X}h2:1000:1000:phone:/home/a:/bin/sh:extra=1\n\nbob:{X}h3";

    #[test]
    fn everything_that_is_not_meant_stays() {
        let added = add(TEXT, "carol", "", "{X}h4");
        assert_eq!(added, format!("{TEXT}\ncarol:{{X}}h4\n"));
        assert_eq!(add("", "carol", "tablet", "{X}h"), "carol:{X}h:::tablet::\n");
        let (text, count) = replace(TEXT, "ALICE@example.org", "phone", "{X}new");
        assert_eq!((text, count), (TEXT.replace("{X}h2", "{X}new"), 1));
        let (text, count) = replace(TEXT, "alice@example.org", "", "{X}new");
        assert_eq!((text, count), (TEXT.replace("{X}h1", "{X}new"), 1));
        assert_eq!(remove(TEXT, "alice@example.org", None), ("# people\n\nbob:{X}h3".to_owned(), 2));
        assert_eq!(remove("bob:{X}h\n", "bob", None), ("# no login is left\n".to_owned(), 1));
        assert_eq!(remove(TEXT, "alice@example.org", Some("phone")).1, 1);
        assert_eq!(remove(TEXT, "nobody", None), (TEXT.to_owned(), 0));
        assert_eq!(lines_of(TEXT, "alice@example.org"), [(2, String::new()), (3, "phone".to_owned())]);
        assert!(has(TEXT, "bob", Some("")) && !has(TEXT, "# people", None) && !has(TEXT, "bob", Some("x")));
    }
}
