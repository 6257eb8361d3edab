//! Aliases are read or named; following them ends, and ends in mailboxes.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use pillarbox::policy::Policy;
use pillarbox::policy::aliases::Aliases;
use pillarbox::smtp::address::{Address, ForwardPath};

fuzz_target!(|text: &str| {
    let Ok(aliases) = Aliases::parse(text) else { return };
    let names: Vec<String> = aliases.iter().take(20).map(|(name, _)| name.to_owned()).collect();
    let domains = ["a.example".to_owned(), "b.example".to_owned()];
    let policy = Policy::new(&domains, ["x@a.example", "y@b.example"].into_iter(), aliases, &BTreeMap::new());
    for name in names {
        for address in [name.clone(), format!("{name}@a.example"), format!("q{name}")] {
            if let Ok(address) = Address::parse(&address) {
                for to in policy.route(&ForwardPath::Mailbox(address)).destinations {
                    assert!(["x@a.example", "y@b.example"].contains(&to.mailbox.as_str()));
                }
            }
        }
    }
});
