//! Responses become credentials or an error, and are never shown.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pillarbox::smtp::sasl::{Exchange, Progress};

fuzz_target!(|input: (bool, &[u8], &[u8])| {
    let (plain, first, second) = input;
    let start = if plain { Exchange::Plain } else { Exchange::LoginUser };
    for progress in [start.clone().initial(first), start.respond(first)] {
        if let Ok(Progress::Continue(next)) = progress {
            let _ = next.respond(second);
        }
    }
});
