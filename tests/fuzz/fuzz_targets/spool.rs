//! Whatever stands in a file of the spool, reading it ends; what is read says the same when it is written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pillarbox::queue::spool::{Envelope, RECORD_MAX, Record};

fuzz_target!(|text: &str| {
    if let Ok(envelope) = Envelope::parse(text) {
        assert_eq!(Envelope::parse(&envelope.render()).as_ref(), Ok(&envelope));
    }
    for line in text.split('\n') {
        if let Some(record) = Record::parse(line) {
            // Long lists and texts are cut when they are written, and stay as they are then.
            let written = record.render();
            assert!(written.len() <= RECORD_MAX && written.starts_with('\n') && !written[1..].contains('\n'));
            let again = Record::parse(&written[1..]).expect("a record that was written");
            assert_eq!(Record::parse(&again.render()[1..]), Some(again));
        }
    }
});
