//! A path is understood whole, means the same when it is shown and read again, or is refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pillarbox::smtp::address::{Address, ForwardPath, ReversePath};

fuzz_target!(|text: &str| {
    for utf8 in [false, true] {
        if let Ok(ReversePath::Mailbox(address)) = ReversePath::parse(text, utf8) {
            assert!(address.local().len() <= 64 && address.domain().to_string().len() <= 255 && text.len() <= 256);
            assert_eq!(Address::parse(&address.to_string()).map(|again| again.key()), Ok(address.key()));
        }
        let _ = ForwardPath::parse(text, utf8);
    }
});
