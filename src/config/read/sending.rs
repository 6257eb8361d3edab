//! Reads `[sending_limits]`.

use std::collections::BTreeMap;

use toml::de::DeTable;

use super::Reader;
use crate::policy::sending::{Limit, SendingLimits, Unit};

/// The keys within the limits of a login.
const UNITS: [(&str, Unit); 2] = [("messages", Unit::Messages), ("recipients", Unit::Recipients)];

impl Reader<'_> {
    /// Reads the limits of each login and of all others, `*`.
    pub(super) fn sending_limits(&mut self, section: &DeTable<'_>) -> SendingLimits {
        let mut all = BTreeMap::new();
        for (login, value) in section.iter() {
            let key = format!("sending_limits.{:?}", login.get_ref().as_ref());
            let Some(table) = value.get_ref().as_table() else {
                self.problem(&value.span(), &key, "must be { messages = [\"200/h\"], recipients = [\"1000/d\"] }");
                continue;
            };
            for name in table.keys() {
                if UNITS.iter().all(|(known, _)| *known != name.get_ref().as_ref()) {
                    let text = "unknown key; the nearest known are `messages` and `recipients`";
                    self.problem(&name.span(), &format!("{key}.{}", name.get_ref()), text);
                }
            }
            let mut limits: Vec<Limit> = Vec::new();
            for (name, unit) in UNITS {
                let Some(list) = table.get(name) else { continue };
                let key = format!("{key}.{name}");
                for (span, text) in self.strings(list, &key) {
                    match Limit::parse(unit, &text) {
                        Some(limit) if limits.iter().any(|known| (known.unit, known.seconds) == (unit, limit.seconds)) => {
                            self.problem(&span, &key, format!("`{text}`: there is a limit for that time already; leave one"));
                        }
                        Some(limit) => limits.push(limit),
                        None => {
                            let most = u32::MAX;
                            let text =
                                format!("`{text}` is no limit such as \"20/m\", \"200/h\" or \"1000/d\", from 1 to {most}");
                            self.problem(&span, &key, text);
                        }
                    }
                }
            }
            all.insert(login.get_ref().to_lowercase(), limits);
        }
        SendingLimits(all)
    }
}
