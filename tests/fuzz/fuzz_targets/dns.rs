//! Whatever a name server says, reading it ends, and gives records of the kind that was asked for, no more than there is room for.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pillarbox::relay::dns::{self, Data, Kind, Reading};

fuzz_target!(|octets: &[u8]| {
    let id = octets.first_chunk().map_or(0, |id| u16::from_be_bytes(*id));
    for kind in [Kind::A, Kind::Aaaa, Kind::Mx, Kind::Ptr, Kind::Txt] {
        match dns::read(octets, id, "a.example", kind, dns::ALIASES_MAX) {
            Reading::Answer(answer) => {
                assert!(answer.ttl <= dns::TTL_MAX && answer.records.len() <= octets.len() / 12);
                assert!(answer.exists || answer.records.is_empty());
                answer.records.iter().for_each(|record| check(record, kind, octets.len()));
            }
            Reading::Alias { target, steps, ttl, .. } => {
                assert!((1..=dns::ALIASES_MAX).contains(&steps) && target.len() <= dns::NAME_MAX && ttl <= dns::TTL_MAX);
                // What is asked next is a name again, or nothing.
                if let Some(query) = dns::query(id, &target, kind, true) {
                    assert!(matches!(dns::read(&query, id, &target, kind, 0), Reading::Foreign));
                }
            }
            Reading::Failed(_) | Reading::Foreign | Reading::NotUnderstood(_) | Reading::Truncated => {}
        }
    }
});

fn check(record: &Data, kind: Kind, room: usize) {
    let fits = match record {
        Data::Address(_) => matches!(kind, Kind::A | Kind::Aaaa),
        Data::Exchange(_, host) => kind == Kind::Mx && host.len() <= dns::NAME_MAX,
        Data::Name(name) => kind == Kind::Ptr && name.len() <= dns::NAME_MAX,
        Data::Text(text) => kind == Kind::Txt && text.len() <= room,
    };
    assert!(fits);
}
