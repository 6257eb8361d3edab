//! What the strict grammar reads, the lenient one reads the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pillarbox::smtp::command::{Dialect, Grammar, Verb, parse};

fuzz_target!(|line: &str| {
    if let Some(verb) = Verb::of(line.as_bytes()) {
        for dsn in [false, true] {
            let lenient = parse(verb, line, Dialect { grammar: Grammar::Lenient, dsn });
            if let Ok(command) = parse(verb, line, Dialect { grammar: Grammar::Strict, dsn }) {
                assert_eq!(lenient, Ok(command));
            }
        }
    }
});
