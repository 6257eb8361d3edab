//! A configuration is read, or every problem has a text.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use pillarbox::config::Config;

fuzz_target!(|text: &str| {
    match Config::parse(text, Path::new("f"), || Some("h".into())) {
        Ok(config) => {
            let path = config.maildir.of("user@example.org");
            assert!(path.is_absolute());
        }
        Err(problems) => assert!(!problems.is_empty() && problems.iter().all(|problem| !problem.text.is_empty())),
    }
});
