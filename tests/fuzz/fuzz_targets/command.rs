//! What is read from mail programs and from other servers means the same from both.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pillarbox::smtp::command::{Dialect, Grammar, Verb, parse};

fuzz_target!(|line: &str| {
    if let Some(verb) = Verb::of(line.as_bytes()) {
        for dsn in [false, true] {
            let read = |grammar| parse(verb, line, Dialect { grammar, dsn });
            if let (Ok(one), Ok(other)) = (read(Grammar::Submission), read(Grammar::Transfer)) {
                assert_eq!(one, other);
            }
        }
    }
});
