//! The walk through `[dkim]`: which keys sign for which domain.

use std::collections::BTreeMap;

use toml::de::{DeTable, DeValue};

use super::{Reader, Value};
use crate::config::DkimKey;
use crate::smtp::address;

/// What a domain's value looks like.
const FORM: &str = "write { selector = \"pb1\", key = \"/etc/pillarbox/dkim/example.org.pb1.pem\" }, or a list of such";

impl Reader<'_> {
    /// Reads `[dkim]`: each domain with one key or a list of them. What is wrong is left out, and noted.
    pub(super) fn dkim(&mut self, section: &DeTable<'_>) -> BTreeMap<String, Vec<DkimKey>> {
        let mut domains: BTreeMap<String, Vec<DkimKey>> = BTreeMap::new();
        for (domain, value) in section.iter() {
            let name = domain.get_ref().as_ref();
            let key = format!("dkim.{name:?}");
            if !address::is_domain(name, true) {
                self.problem(&domain.span(), &key, format!("`{name}` is no domain name; write that of From, without @"));
                continue;
            }
            let known = domains.entry(name.to_lowercase()).or_default();
            match value.get_ref() {
                DeValue::Array(list) => list.iter().for_each(|value| self.dkim_key(value, &key, known)),
                _ => self.dkim_key(value, &key, known),
            }
        }
        domains
    }

    fn dkim_key(&mut self, value: &Value<'_>, key: &str, known: &mut Vec<DkimKey>) {
        let Some(table) = value.get_ref().as_table() else {
            return self.problem(&value.span(), key, format!("is no key; {FORM}"));
        };
        for entry in table.keys().filter(|entry| !matches!(entry.get_ref().as_ref(), "selector" | "key")) {
            self.problem(&entry.span(), key, format!("`{}` is not known here; {FORM}", entry.get_ref()));
        }
        let selector = table.get("selector").and_then(|value| self.string(value, &format!("{key}.selector")));
        let path = self.path_of(table, &format!("{key}."), "key");
        if table.get("selector").is_none() || table.get("key").is_none() {
            self.problem(&value.span(), key, format!("needs both selector and key; {FORM}"));
        }
        let (Some(selector), Some(path)) = (selector, path) else { return };
        // RFC 6376 section 3.1: a selector is one label, or several with dots between.
        if !address::is_domain(&selector, false) {
            self.problem(&value.span(), key, format!("`{selector}` is no selector; write letters, digits and hyphens"));
        } else if known.iter().any(|one| one.selector == selector.to_ascii_lowercase()) {
            self.problem(&value.span(), key, format!("`{selector}` is there already; remove one"));
        } else {
            known.push(DkimKey { selector: selector.to_ascii_lowercase(), key: path });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;

    fn parse(text: &str) -> Result<Config, Vec<String>> {
        let text = format!("domains = [\"x.example\"]\n[dkim]\n{text}");
        Config::parse(&text, Path::new("p.toml"), || Some("own.example.org".to_owned()))
            .map_err(|problems| problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn one_key_or_several() {
        let config = parse(
            "\"X.example\" = { selector = \"PB1\", key = \"/k1\" }\n\
             \"y.example\" = [{ selector = \"a\", key = \"/k2\" }, { selector = \"b.c\", key = \"/k3\" }]\n\
             \"b\u{fc}cher.example\" = []\n",
        )
        .unwrap();
        let key = |selector: &str, path: &str| DkimKey { selector: selector.into(), key: path.into() };
        assert_eq!(config.dkim["x.example"], [key("pb1", "/k1")]);
        assert_eq!(config.dkim["y.example"], [key("a", "/k2"), key("b.c", "/k3")]);
        assert_eq!(config.dkim["b\u{fc}cher.example"], []);
        let paths: Vec<_> = config.dkim_files().iter().map(|path| path.display().to_string()).collect();
        assert_eq!(paths, ["/k1", "/k2", "/k3"]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let rows = [
            ("\"x.example\" = 1", "is no key; write { selector"),
            ("\"x.example\" = [\"/k\"]", "is no key; write { selector"),
            ("\"x.example\" = { key = \"/k\" }", "needs both selector and key"),
            ("\"x.example\" = { selector = \"a\" }", "needs both selector and key"),
            ("\"x.example\" = { selector = \"a\", key = \"k\" }", "must be an absolute path"),
            ("\"x.example\" = { selector = \"a_b\", key = \"/k\" }", "`a_b` is no selector"),
            ("\"x.example\" = { selector = \"\", key = \"/k\" }", "`` is no selector"),
            ("\"x.example\" = { selector = \"a\", key = \"/k\", domain = \"y\" }", "`domain` is not known here"),
            ("\"@x.example\" = { selector = \"a\", key = \"/k\" }", "`@x.example` is no domain name"),
            ("\"x.example\" = [{ selector = \"a\", key = \"/k\" }, { selector = \"A\", key = \"/l\" }]", "`A` is there already"),
        ];
        for (text, want) in rows {
            let problems = parse(text).unwrap_err();
            assert_eq!(problems.len(), 1, "{text}: {problems:?}");
            assert!(problems[0].starts_with("p.toml:3: dkim.") && problems[0].contains(want), "{text}: {problems:?}");
        }
    }
}
