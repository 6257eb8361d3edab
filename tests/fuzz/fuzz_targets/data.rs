//! Content means the same for every split, and ends at the first CR LF . CR LF.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pillarbox::smtp::data::{Decoder, Framing};

fuzz_target!(|input: (u8, &[u8])| {
    let (step, input) = (usize::from(input.0 % 16) + 1, input.1);
    for framing in [Framing::Dots, Framing::Chunks] {
        let (mut whole, mut out) = (Decoder::new(framing), Vec::new());
        let fed = whole.feed(input, &mut out);
        let (mut split, mut pieces, mut used, mut ended) = (Decoder::new(framing), Vec::new(), 0, false);
        for piece in input.chunks(step) {
            let one = split.feed(piece, &mut pieces);
            used += one.used;
            ended = one.ended;
            if ended {
                break;
            }
        }
        assert_eq!((fed.used, fed.ended, &out, whole.finish()), (used, ended, &pieces, split.finish()));
        if framing == Framing::Dots {
            let padded = [b"\r\n", input].concat();
            let end = padded.windows(5).position(|five| five == b"\r\n.\r\n").map(|at| at + 3);
            assert_eq!((end.is_some(), end.unwrap_or(input.len())), (fed.ended, fed.used));
        }
    }
});
