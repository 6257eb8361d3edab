//! Reads the aliases file: the syntax of aliases(5); entries that run programs or write files are refused.
//!
//! `name: target, target`, comments with `#`, continuation lines that begin with white space. A name is `name` (in every
//! domain), `name@domain`, or `@domain` (whatever else has no mailbox there). Targets are addresses or names. Pipes,
//! files and `:include:` are refused.

use std::collections::BTreeMap;

use crate::problem::{Problem, printable};
use crate::smtp::address::Address;

/// All aliases, by name in lower case.
#[derive(Clone, Debug, Default)]
pub struct Aliases {
    by_name: BTreeMap<String, Alias>,
}

/// One alias.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alias {
    /// The line it begins on, from 1.
    pub line: usize,
    targets: Vec<Target>,
}

/// Where an alias leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A whole address.
    Address(Address),
    /// A name without a domain, in lower case.
    Name(String),
}

impl Aliases {
    /// Reads a whole file, or names everything that is wrong with it.
    pub fn parse(text: &str) -> Result<Self, Vec<Problem>> {
        let mut aliases = Self::default();
        let mut errors = Vec::new();
        for (line, entry) in logical_lines(text) {
            match parse_entry(&entry) {
                Ok((name, targets)) => {
                    if let Some(first) = aliases.by_name.get(&name) {
                        let text = format!("alias `{name}` stands on line {} already; put all targets on one line", first.line);
                        errors.push(Problem::at(line, text));
                        continue;
                    }
                    aliases.by_name.insert(name, Alias { line, targets });
                }
                Err(text) => errors.push(Problem::at(line, text)),
            }
        }
        if errors.is_empty() { Ok(aliases) } else { Err(errors) }
    }

    /// The targets of `name@domain`, or of `name` in every domain; both in lower case.
    pub fn of(&self, name: &str, domain: &str) -> Option<&[Target]> {
        if name.is_empty() {
            return None;
        }
        let alias = self.by_name.get(&[name, "@", domain].concat()).or_else(|| self.by_name.get(name))?;
        Some(&alias.targets)
    }

    /// The targets of `@domain`.
    pub fn catch_all(&self, domain: &str) -> Option<&[Target]> {
        self.by_name.get(&["@", domain].concat()).map(|alias| alias.targets.as_slice())
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Alias)> {
        self.by_name.iter().map(|(name, alias)| (name.as_str(), alias))
    }
}

impl Target {
    /// As it was written, in essence.
    pub fn text(&self) -> String {
        match self {
            Self::Address(address) => address.to_string(),
            Self::Name(name) => name.clone(),
        }
    }
}

/// Lines with their continuations appended, without comments and empty ones.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let continues = line.starts_with([' ', '\t']);
        let content = line.trim();
        if content.is_empty() || content.starts_with('#') {
            continue;
        }
        match lines.last_mut() {
            Some((_, last)) if continues => {
                last.push(' ');
                last.push_str(content);
            }
            _ => lines.push((number, content.to_owned())),
        }
    }
    lines
}

fn parse_entry(entry: &str) -> Result<(String, Vec<Target>), String> {
    let (name, targets) = entry.split_once(':').ok_or_else(|| "no `:`; a line is `name: target, target`".to_owned())?;
    let name = unquoted(name.trim()).to_lowercase();
    let known = match name.strip_prefix('@') {
        Some(domain) => Address::parse(&format!("x@{domain}")).is_ok(),
        None => name_of(&name).is_some(),
    };
    if !known {
        return Err(format!("`{}` is no name, name@domain or @domain", printable(&name)));
    }
    let targets: Vec<Target> =
        targets.split(',').map(str::trim).filter(|target| !target.is_empty()).map(parse_target).collect::<Result<_, _>>()?;
    if targets.is_empty() {
        return Err(format!("alias `{name}` has no target; name one or remove the line"));
    }
    Ok((name, targets))
}

fn parse_target(text: &str) -> Result<Target, String> {
    let target = unquoted(text);
    if target.starts_with(['|', '/']) || target.to_ascii_lowercase().starts_with(":include:") {
        return Err(format!("target `{}`: pipes, files and :include: are not done here; name a mailbox", printable(target)));
    }
    name_of(target).ok_or_else(|| format!("target `{}` is neither an address nor a name", printable(target)))
}

/// An address, or a name that could stand before an `@`.
fn name_of(text: &str) -> Option<Target> {
    match text.contains('@') {
        true => Address::parse(text).ok().map(Target::Address),
        false => Address::parse(&format!("{text}@x")).ok().map(|_| Target::Name(text.to_lowercase())),
    }
}

fn unquoted(text: &str) -> &str {
    match text.contains('@') {
        true => text,
        false => text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_with_everything() {
        let text = "# people\nPostmaster: Alice\n\nsales:\talice,\n  bob@Example.ORG,\n\t# a comment\n\tcarol\n@example.net: alice\n\"x\": y\n";
        let aliases = Aliases::parse(text).unwrap();
        let names: Vec<_> = aliases.iter().map(|(name, alias)| (name, alias.line, alias.targets.len())).collect();
        assert_eq!(names, [("@example.net", 8, 1), ("postmaster", 2, 1), ("sales", 4, 3), ("x", 9, 1)]);
        assert!(aliases.of("postmaster", "any.example").is_some());
        assert!(aliases.catch_all("example.net").is_some() && aliases.of("", "example.net").is_none());
    }

    #[test]
    fn every_bad_line_is_named() {
        let text = "no colon\na: |/bin/cat\nb: /var/mail/b\nc: :include:/etc/list\nd:\ne: x y\nf@@g: x\nok: x\nok: y\n@: x\ng: \"|cmd\"\n";
        let errors = Aliases::parse(text).unwrap_err();
        assert_eq!(errors.iter().map(|error| error.line).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6, 7, 9, 10, 11], "{errors:?}");
    }
}
