use std::io::Read as _;

use proptest::prelude::*;

use super::tests::{begin, put, spool};
use super::*;
use crate::smtp::address::{Address, ReversePath};
use crate::smtp::command::Body;
use crate::smtp::dsn::{Notify, Orcpt, Ret};
use crate::smtp::remote::Stage;

fn local_part() -> impl Strategy<Value = String> {
    // Atoms, and what has to be quoted: spaces, brackets, quotes, signs that the file uses, and UTF-8.
    prop_oneof!["[a-z+=;.]{1,20}", "[ -~]{1,30}", "[a-zäößπ雪<> +]{1,20}", Just("\"".to_owned()), Just("\\".to_owned())]
}

fn address() -> impl Strategy<Value = Address> {
    (local_part(), "[a-z]{1,10}\\.example").prop_filter_map("an address", |(local, domain)| {
        let quoted = local.replace('\\', "\\\\").replace('"', "\\\"");
        Address::parse(&format!("{local}@{domain}")).or_else(|_| Address::parse(&format!("\"{quoted}\"@{domain}"))).ok()
    })
}

fn any_envelope() -> impl Strategy<Value = Envelope> {
    let notify = proptest::option::of((any::<bool>(), any::<bool>(), any::<bool>()))
        .prop_map(|asked| asked.map(|(success, failure, delay)| Notify { success, failure, delay }));
    let orcpt = proptest::option::of(("[a-z0-9-]{1,8}", "[ -~äπ]{1,30}"))
        .prop_map(|orcpt| orcpt.map(|(kind, address)| Orcpt { kind, address }));
    let recipient = (address(), notify, orcpt).prop_map(|(address, notify, orcpt)| QueuedRecipient { address, notify, orcpt });
    let sender = proptest::option::of(address()).prop_map(|from| from.map_or(ReversePath::Null, ReversePath::Mailbox));
    let body = proptest::option::of(prop_oneof![Just(Body::EightBitMime), Just(Body::SevenBit)]);
    let ret = proptest::option::of(prop_oneof![Just(Ret::Full), Just(Ret::Headers)]);
    let rest = (body, any::<bool>(), ret, proptest::option::of("[ -~]{1,40}"));
    let recipients = proptest::collection::vec(recipient, 1..5);
    (sender, "[ -~ä]{0,20}", "[a-z0-9]{1,12}", rest, recipients).prop_map(
        |(reverse_path, login, session, (body, utf8, ret, envid), recipients)| Envelope {
            reverse_path,
            login,
            session,
            body,
            utf8,
            ret,
            envid,
            recipients,
        },
    )
}

fn any_record() -> impl Strategy<Value = Record> {
    let numbers = || proptest::collection::btree_set(any::<u16>(), 1..30).prop_map(|set| set.into_iter().collect::<Vec<u16>>());
    let verdict = prop_oneof![Just(Verdict::Failed), Just(Verdict::Sent), Just(Verdict::Wait)];
    let status = proptest::option::of((2..6u8, 0..1000u16, 0..1000u16));
    let stage = prop_oneof![Just(Stage::Dot), Just(Stage::Connect), Just(Stage::Recipient)];
    let told = (stage, proptest::option::of(200..600u16), status, "[ -:<-~]{0,100}")
        .prop_map(|(stage, code, status, text)| Told { stage, code, status, text });
    let what =
        prop_oneof![
            (numbers(), "[ -~ä]{1,60}", proptest::option::of("[0-9.]{1,5}"))
                .prop_map(|(recipients, host, tls)| Happened::Begin { recipients, host, tls }),
            numbers().prop_map(|recipients| Happened::Dot { recipients }),
            numbers().prop_map(|recipients| Happened::End { recipients }),
            "[a-z-]{1,20}".prop_map(Happened::Hold),
            Just(Happened::Release),
            Just(Happened::Return),
            (numbers(), "[a-z]{1,12}").prop_map(|(recipients, action)| Happened::Reported { recipients, action }),
            (numbers(), verdict, told).prop_map(|(recipients, verdict, told)| Happened::Result { recipients, verdict, told }),
        ];
    (any::<u64>(), what).prop_map(|(time, what)| Record { time, what })
}

proptest! {
    #[test]
    fn an_envelope_is_read_as_it_was_written(envelope in any_envelope()) {
        let text = envelope.render();
        prop_assert_eq!(text.matches('\n').count(), 1 + envelope.recipients.len());
        prop_assert!(text.is_ascii());
        prop_assert_eq!(Envelope::parse(&text), Ok(envelope));
    }

    #[test]
    fn a_record_is_read_as_it_was_written_and_never_when_it_was_cut(record in any_record()) {
        let text = record.render();
        prop_assert!(text.len() <= RECORD_MAX);
        let line = text.strip_prefix('\n').unwrap();
        prop_assert_eq!(Record::parse(line), Some(record));
        for end in 0..line.len() {
            prop_assert_eq!(Record::parse(&line[..end]), None);
        }
    }

    /// Whatever a disk or a person has made of a file: an answer, and no panic.
    #[test]
    fn a_file_of_anything(octets in proptest::collection::vec(any::<u8>(), 0..400), at in 0..400usize, mut wrong in any_envelope()) {
        let dir = tempfile::tempdir().unwrap();
        let spool = spool(dir.path());
        let path = |id: QueueId| dir.path().join("queue").join(id.to_string());
        let id = QueueId::from_bits(7);
        fs::write(path(id), &octets).unwrap();
        prop_assert!(matches!(spool.read(id), Err(SpoolError::Damaged(_))));
        prop_assert!(spool.open_message(id).is_err());
        // A whole one, of which some octets are others.
        wrong.recipients.truncate(1);
        let id = put(&spool, &wrong, "Subject: x\n\nbody\n").unwrap();
        spool.append(id, &begin(&[0])).unwrap();
        let mut content = fs::read(path(id)).unwrap();
        let at = at % content.len();
        let end = content.len().min(at + octets.len());
        content[at..end].copy_from_slice(&octets[..end - at]);
        content.truncate(content.len() - octets.len() % 3);
        fs::write(path(id), &content).unwrap();
        if let Ok(message) = spool.read(id) {
            message.states();
            let mut text = Vec::new();
            spool.open_message(id).unwrap().read_to_end(&mut text).unwrap();
            prop_assert_eq!(text.len() as u64, message.text.octets);
        }
    }
}
