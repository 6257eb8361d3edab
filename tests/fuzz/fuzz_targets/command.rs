//! What the strict grammar reads, the lenient one reads the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pillarbox::smtp::command::{Grammar, Verb, parse};

fuzz_target!(|line: &str| {
    if let Some(verb) = Verb::of(line.as_bytes()) {
        let lenient = parse(verb, line, Grammar::Lenient);
        if let Ok(command) = parse(verb, line, Grammar::Strict) {
            assert_eq!(lenient, Ok(command));
        }
    }
});
