//! What records say of a message and its recipients.

use super::*;

#[test]
fn the_state_is_the_last_record() {
    let dir = tempfile::tempdir().unwrap();
    let spool = spool(dir.path());
    let id = put(&spool, &envelope(&["a@a.example", "b@b.example", "c@c.example"]), "x\n").unwrap();
    let waits = |waits| State::Waits { waits, told: Some(told("ok")) };
    let unknown = State::MayHaveArrived { waits: 1 };
    let failed = |reported| State::Failed { told: told("ok"), reported };
    let fresh = State::Waits { waits: 0, told: None };
    let rows: [(Record, [State; 3]); 10] = [
        (begin(&[0, 1, 2]), [fresh.clone(), fresh.clone(), fresh.clone()]),
        (result(&[0, 1], Verdict::Wait), [waits(1), waits(1), fresh.clone()]),
        (result(&[2], Verdict::Failed), [waits(1), waits(1), failed(false)]),
        (begin(&[0]), [waits(1), waits(1), failed(false)]),
        (at(Happened::Dot { recipients: Vec::new() }), [unknown.clone(), waits(1), failed(false)]),
        (at(Happened::Reported { recipients: vec![2], action: "failed".into() }), [unknown, waits(1), failed(true)]),
        (begin(&[0]), [State::Waits { waits: 1, told: None }, waits(1), failed(true)]),
        (at(Happened::Dot { recipients: Vec::new() }), [State::MayHaveArrived { waits: 1 }, waits(1), failed(true)]),
        (result(&[0], Verdict::Wait), [waits(2), waits(1), failed(true)]),
        (at(Happened::Release), [fresh.clone(), fresh.clone(), failed(true)]),
    ];
    for (record, want) in rows {
        spool.append(id, &record).unwrap();
        let message = spool.read(id).unwrap();
        assert_eq!(message.states(), want, "{record:?}");
        assert!(!message.is_settled());
    }
    assert_eq!(spool.read(id).unwrap().released(), Some(1));
    spool.append(id, &result(&[0, 1], Verdict::Sent)).unwrap();
    assert!(spool.read(id).unwrap().is_settled());
}

/// The place counts where there is no record; a return is taken back by what comes later.
#[test]
fn held_and_returned_by_records_and_place() {
    let dir = tempfile::tempdir().unwrap();
    let spool = spool(dir.path());
    let id = put(&spool, &envelope(&["a@a.example"]), "x\n").unwrap();
    let held = |in_held| spool.read(id).unwrap().held_at(in_held).map(str::to_owned);
    let operator = Some("operator".to_owned());
    assert_eq!((held(false), held(true)), (None, operator.clone()), "a person has moved it");
    let hold = || Happened::Hold("no-result".into());
    let rows = [
        (hold(), Some("no-result".to_owned()), false),
        (Happened::Return, None, true),
        (begin(&[0]).what, None, true),
        (hold(), Some("no-result".to_owned()), false),
        (Happened::Return, None, true),
        (Happened::Release, None, false),
    ];
    for (what, want, returned) in rows {
        spool.append(id, &at(what.clone())).unwrap();
        assert_eq!((held(false), held(true)), (want.clone(), want), "{what:?}");
        assert_eq!(spool.read(id).unwrap().is_to_be_returned(), returned, "{what:?}");
    }
    let found = spool.find(id).unwrap();
    spool.set_due(id, 2_000_000_000).unwrap();
    assert_eq!(spool.find(id).unwrap(), Found { due: 2_000_000_000, ..found });
    assert!(!found.held && spool.held().unwrap().is_empty());
    spool.hold(id, None).unwrap();
    assert!(spool.find(id).unwrap().held && spool.held().unwrap() == [id]);
    assert!(matches!(spool.find(QueueId::from_bits(1)), Err(SpoolError::Missing(_))));
}

#[test]
fn a_message_that_ends_the_process_is_known_at_its_third_attempt() {
    let dir = tempfile::tempdir().unwrap();
    let spool = spool(dir.path());
    let id = put(&spool, &envelope(&["a@a.example"]), "x\n").unwrap();
    let rows = [
        (begin(&[0]), false),
        (begin(&[0]), false),
        (result(&[0], Verdict::Wait), false),
        (begin(&[0]), false),
        (at(Happened::Dot { recipients: Vec::new() }), false),
        (begin(&[0]), false),
        (begin(&[0]), true),
        (at(Happened::Release), false),
    ];
    for (record, want) in rows {
        spool.append(id, &record).unwrap();
        assert_eq!(spool.read(id).unwrap().ends_the_process(), want, "{record:?}");
    }
}

#[test]
fn long_records_are_cut_and_many_numbers_become_a_range() {
    let numbers: Vec<u16> = (0..=u16::MAX).step_by(2).collect();
    let begin = Happened::Begin { recipients: numbers.clone(), host: "ö".repeat(900), tls: Some("x".repeat(900)) };
    let told = Told { stage: Stage::StartTls, code: Some(550), status: Some((5, 999, 999)), text: "a;\r\n\0ö".repeat(900) };
    let result = Happened::Result { recipients: numbers, verdict: Verdict::Failed, told };
    for what in [begin, result] {
        let text = Record { time: u64::MAX, what }.render();
        assert!(text.len() <= RECORD_MAX, "{}", text.len());
        assert!(text.bytes().skip(1).all(|b| (b' '..=b'~').contains(&b)) && text.matches(';').count() == 1, "{text}");
        let read = Record::parse(&text[1..]).unwrap();
        let (Happened::Begin { recipients, .. } | Happened::Result { recipients, .. }) = read.what else { panic!("{text}") };
        assert_eq!((recipients[0], recipients.len()), (0, 65_535));
    }
}

/// What is read can be written and read again.
#[test]
fn reply_codes_that_are_none() {
    for code in ["+51", "051", "000", "45", "4510", "4x1"] {
        let line = format!("Pillarbox-Log: 1700000123 2 wait at=rcpt {code} 4.7.1 greylisted;");
        assert_eq!(Record::parse(&line), None, "{line}");
    }
    assert!(Record::parse("Pillarbox-Log: 1700000123 2 wait at=rcpt 451 4.7.1 greylisted;").is_some());
}

/// Two couriers have parts of one message: what one of them does says nothing about the other's recipients.
#[test]
fn attempts_at_the_same_time_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let spool = spool(&dir.path().join("spool"));
    let id = put(&spool, &envelope(&["a@one.example", "b@two.example"]), "x\n").unwrap();
    for record in [begin(&[0]), begin(&[1]), at(Happened::Dot { recipients: vec![0] })] {
        spool.append(id, &record).unwrap();
    }
    let message = spool.read(id).unwrap();
    assert!(matches!(message.states()[..2], [State::MayHaveArrived { .. }, State::Waits { .. }]), "{:?}", message.states());
    assert_eq!(message.doubts(false), [0]);
    spool.append(id, &Record { time: 2, what: Happened::End { recipients: vec![0] } }).unwrap();
    let message = spool.read(id).unwrap();
    assert!(message.states().iter().all(|state| matches!(state, State::Waits { .. })) && message.doubts(false).is_empty());
    for _ in 0..2 {
        spool.append(id, &begin(&[1])).unwrap();
    }
    assert!(spool.read(id).unwrap().ends_the_process(), "three attempts for one recipient");
    spool.append(id, &Record { time: 4, what: Happened::End { recipients: vec![1] } }).unwrap();
    assert!(!spool.read(id).unwrap().ends_the_process());
}
