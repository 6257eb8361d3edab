//! Whatever a name server says, reading it ends, and gives records of the kind that was asked for, no more than there is room for.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pillarbox::relay::dns::{self, Data, Kind, Reading};

fuzz_target!(|octets: &[u8]| {
    let id = octets.first_chunk().map_or(0, |id| u16::from_be_bytes(*id));
    for kind in [Kind::A, Kind::Aaaa, Kind::Mx, Kind::Ptr, Kind::Txt] {
        if let Reading::Answer(answer) = dns::read(octets, id, "a.example", kind, dns::ALIASES_MAX) {
            assert!(answer.ttl <= dns::TTL_MAX && answer.records.len() <= octets.len());
            for record in answer.records {
                let fits = match record {
                    Data::Address(_) => matches!(kind, Kind::A | Kind::Aaaa),
                    Data::Exchange(_, host) => kind == Kind::Mx && host.len() <= 1024,
                    Data::Name(name) => kind == Kind::Ptr && name.len() <= 1024,
                    Data::Text(text) => kind == Kind::Txt && text.len() <= octets.len(),
                };
                assert!(fits);
            }
        }
    }
});
