use std::io::{Read as _, Write as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::mail::dkim::Fields;
use crate::mail::durable::DeliveryStep;
use crate::smtp::address::{Address, ReversePath};
use crate::smtp::command::Body;
use crate::smtp::dsn::{Notify, Orcpt, Ret};
use crate::smtp::remote::Stage;

pub(in crate::queue) fn spool(path: &Path) -> Arc<Spool> {
    Arc::new(Spool::open(path, Faults::default()).unwrap().0)
}

fn recipient(address: &str) -> QueuedRecipient {
    QueuedRecipient { address: Address::parse(address).unwrap(), notify: None, orcpt: None }
}

pub(in crate::queue) fn envelope(to: &[&str]) -> Envelope {
    Envelope {
        reverse_path: ReversePath::Mailbox(Address::parse("alice@example.org").unwrap()),
        login: "alice@example.org".into(),
        session: "k3f9".into(),
        body: Some(Body::EightBitMime),
        utf8: false,
        ret: Some(Ret::Headers),
        envid: Some("QQ314159".into()),
        recipients: to.iter().map(|to| recipient(to)).collect(),
    }
}

pub(in crate::queue) fn put(spool: &Arc<Spool>, envelope: &Envelope, text: &str) -> Result<QueueId, StorageError> {
    let mut draft = spool.begin(envelope)?;
    draft.write_all(text.as_bytes())?;
    Ok(draft.commit()?.keep())
}

pub(super) fn text(spool: &Spool, id: QueueId) -> String {
    let mut text = String::new();
    spool.open_message(id).unwrap().read_to_string(&mut text).unwrap();
    text
}

pub(super) fn told(text: &str) -> Told {
    Told { stage: Stage::Dot, code: Some(250), status: Some((2, 0, 0)), text: text.into() }
}

pub(super) fn result(recipients: &[u16], verdict: Verdict) -> Record {
    let what = Happened::Result { recipients: recipients.to_vec(), verdict, told: told("ok") };
    Record { time: 1_700_000_124, what }
}

pub(super) fn begin(recipients: &[u16]) -> Record {
    let what = Happened::Begin { recipients: recipients.to_vec(), host: "mx.example[192.0.2.9]".into(), tls: Some("1.3".into()) };
    Record { time: 1_700_000_123, what }
}

pub(super) fn at(what: Happened) -> Record {
    Record { time: 1, what }
}

/// The file as a person reads it: its form, to the octet.
#[test]
fn the_form_of_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let spool = spool(&dir.path().join("spool"));
    let mut envelope = envelope(&["bob@gmail.example", "carol@example.net"]);
    envelope.recipients[0].notify = Notify::parse("FAILURE,DELAY");
    envelope.recipients[0].orcpt = Orcpt::parse("rfc822;bob+2B1@gmail.example");
    let mut draft = spool.begin(&envelope).unwrap();
    draft.write_all(b"Received: x\nSubject: y\n\nPillarbox-Log: 1 1 sent 250 2.0.0 forged;\n").unwrap();
    let signatures = [
        Signature { fields: Fields::All, text: "DKIM-Signature: v=1; a=rsa-sha256;\n\tb=xyz".into() },
        Signature { fields: Fields::WithoutId, text: "DKIM-Signature: v=1;\n b=x".into() },
    ];
    signatures.iter().for_each(|signature| draft.sign(signature.clone()));
    let committed = draft.commit().unwrap();
    assert_eq!(committed.octets, 66);
    let id = committed.keep();
    for record in [begin(&[1]), at(Happened::Dot { recipients: Vec::new() }), result(&[0], Verdict::Sent)] {
        spool.append(id, &record).unwrap();
    }
    let path = dir.path().join("spool/queue").join(id.to_string());
    let want = "Pillarbox-Queue: 1 envelope=0000000308 message=0000000066 lines=00000004\n\
        Pillarbox-From: <alice@example.org> login=alice@example.org session=k3f9 body=8bitmime ret=hdrs envid=QQ314159\n\
        Pillarbox-To: <bob@gmail.example> notify=failure,delay orcpt=rfc822;bob+2B1@gmail.example\n\
        Pillarbox-To: <carol@example.net>\n\
        Received: x\nSubject: y\n\nPillarbox-Log: 1 1 sent 250 2.0.0 forged;\n\n\
        Pillarbox-Sign: DKIM-Signature: v=1; a=rsa-sha256;\n\tb=xyz\n\
        Pillarbox-Sign-Without-Id: DKIM-Signature: v=1;\n b=x\n\
        Pillarbox-Log: 1700000123 begin 2 host=mx.example[192.0.2.9] tls=1.3;\n\
        Pillarbox-Log: 1 dot;\n\
        Pillarbox-Log: 1700000124 1 sent 250 2.0.0 ok;";
    assert_eq!(fs::read_to_string(&path).unwrap(), want);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    let message = spool.read(id).unwrap();
    assert_eq!(message.envelope, envelope);
    assert_eq!(message.signatures, signatures);
    assert_eq!(message.states(), [State::Sent { told: told("ok"), reported: false }, State::MayHaveArrived { waits: 0 },]);
    assert!(text(&spool, id).ends_with("forged;\n") && text(&spool, id).len() == 66);
    assert_eq!(fs::metadata(dir.path().join("spool")).unwrap().permissions().mode() & 0o7777, 0o700);
}

/// A record that was cut at any octet is no record, and the next one counts.
#[test]
fn a_torn_record_is_ignored_wherever_it_stands() {
    let dir = tempfile::tempdir().unwrap();
    let spool = spool(dir.path());
    let id = put(&spool, &envelope(&["bob@b.example", "carol@c.example"]), "Subject: x\n\nno end of line").unwrap();
    let path = dir.path().join("queue").join(id.to_string());
    let before = fs::read(&path).unwrap();
    let torn = result(&[0], Verdict::Failed).render();
    let unharmed = spool.read(id).unwrap();
    for end in 0..torn.len() {
        for zeros in [0, 5] {
            fs::write(&path, [&before, &torn.as_bytes()[..end], &vec![0; zeros]].concat()).unwrap();
            assert_eq!(spool.read(id).unwrap(), unharmed, "{end}");
            spool.append(id, &result(&[1], Verdict::Sent)).unwrap();
            let states = spool.read(id).unwrap().states();
            assert_eq!(states[0], State::Waits { waits: 0, told: None }, "{end}");
            assert!(matches!(states[1], State::Sent { .. }), "{end}");
            assert_eq!(text(&spool, id), "Subject: x\n\nno end of line");
        }
    }
}

#[test]
fn damaged_files_are_named_and_held() {
    let dir = tempfile::tempdir().unwrap();
    let spool = spool(dir.path());
    let id = put(&spool, &envelope(&["a@a.example"]), "Subject: x\n\nbody\n").unwrap();
    let path = dir.path().join("queue").join(id.to_string());
    let whole = fs::read_to_string(&path).unwrap();
    let rows = [
        ("", "0 octets"),
        ("Pillarbox-Queue: 1", "18 octets"),
        (&whole[..whole.len() - 1], "does not fit"),
        (&whole.replace("Queue: 1", "Queue: 2"), "first line"),
        (&whole.replace("message=0", "message=9"), "does not fit"),
        (&whole.replace("lines=00000003", "lines=00000999"), "does not fit"),
        (&whole.replace("<a@a.example>", "<a a.example>"), "no address"),
        (&whole.replace("<a@a.example>", "<a%a.example>"), "no address"),
        (&whole.replace("Pillarbox-To", "Pillarbox-Tu"), "Pillarbox-To"),
        (&whole.replace("login=", "logon="), "login"),
        (&whole.replace("ret=hdrs", "ret=some"), "ret"),
        (&whole.replace("ret=hdrs", "new=hdrs"), "not known"),
        (&whole.replace("session=k3f9", "session=k+0A"), "session"),
    ];
    for (content, want) in rows {
        fs::write(&path, content).unwrap();
        let Err(SpoolError::Damaged(why)) = spool.read(id) else { panic!("{content}") };
        assert!(why.to_string().contains(want), "{why}: {content}");
    }
    spool.hold(id, None).unwrap();
    assert!(dir.path().join("held").join(id.to_string()).exists() && !path.exists());
    let (elsewhere, link) = (dir.path().join("elsewhere"), QueueId::from_bits(9));
    fs::write(&elsewhere, &whole).unwrap();
    symlink(&elsewhere, dir.path().join("queue").join(link.to_string())).unwrap();
    assert!(matches!(spool.read(link), Err(SpoolError::Damaged(_))));
    assert!(matches!(spool.append(link, &begin(&[0])), Err(SpoolError::Damaged(_))));
    assert_eq!(fs::read_to_string(&elsewhere).unwrap(), whole);
    assert!(matches!(spool.read(QueueId::from_bits(1)), Err(SpoolError::Missing(_))));
}

#[test]
fn held_released_removed_and_found_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let first = spool(dir.path());
    let ids: Vec<QueueId> = (0..3).map(|_| put(&first, &envelope(&["a@a.example"]), "x\n").unwrap()).collect();
    assert!(ids.is_sorted());
    first.hold(ids[1], Some(&at(Happened::Hold("operator".into())))).unwrap();
    assert_eq!(first.read(ids[1]).unwrap().held(), Some("operator"));
    first.set_due(ids[0], 2_000_000_000).unwrap();
    first.set_due(ids[1], 5).unwrap();
    first.remove(ids[2]).unwrap();
    assert!(first.needs_sweep());
    first.sweep().unwrap();
    assert!(!first.needs_sweep());
    for part in ["queue", "tmp"] {
        fs::write(dir.path().join(part).join("left"), "").unwrap();
    }
    assert!(matches!(Spool::open(dir.path(), Faults::default()), Err(SpoolError::Locked(_))), "one process a spool");
    drop(first);
    let (second, found, strange) = Spool::open(dir.path(), Faults::default()).unwrap();
    let facts: Vec<(QueueId, bool, u64)> = found.iter().map(|file| (file.id, file.held, file.due)).collect();
    assert_eq!(facts, [(ids[0], false, 2_000_000_000), (ids[1], true, 5)]);
    assert_eq!(strange, [dir.path().join("queue/left")]);
    assert_eq!(fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
    second.release(ids[1], &at(Happened::Release)).unwrap();
    assert_eq!(second.read(ids[1]).unwrap().held(), None);
    assert!(dir.path().join("queue").join(ids[1].to_string()).exists());
    // A power cut in the middle of a move.
    fs::hard_link(dir.path().join("queue").join(ids[0].to_string()), dir.path().join("held").join(ids[0].to_string())).unwrap();
    drop(second);
    let (third, found, _) = Spool::open(dir.path(), Faults::default()).unwrap();
    let third = Arc::new(third);
    assert_eq!(found.iter().map(|file| (file.id, file.held)).collect::<Vec<_>>(), [(ids[0], true), (ids[1], false)]);
    assert!(!dir.path().join("queue").join(ids[0].to_string()).exists());
    assert!(put(&third, &envelope(&["a@a.example"]), "x\n").unwrap() > ids[2], "ids go on");
}

#[test]
fn ids_of_files_come_before_those_to_come() {
    let dir = tempfile::tempdir().unwrap();
    let first = spool(dir.path());
    let id = put(&first, &envelope(&["a@a.example"]), "x\n").unwrap();
    drop(first);
    let future = QueueId::from_bits(u64::MAX - 10);
    let queue = dir.path().join("queue");
    fs::rename(queue.join(id.to_string()), queue.join(future.to_string())).unwrap();
    assert_eq!(spool(dir.path()).ids.fresh(), QueueId::from_bits(u64::MAX - 9), "though the clock was set back");
}

/// Each step of accepting, each time that it is done, on both ways: an error, and nothing is there.
#[test]
fn each_step_that_fails_leaves_nothing() {
    for unnamed in [true, false] {
        for step in
            [DeliveryStep::Create, DeliveryStep::Write, DeliveryStep::SyncFile, DeliveryStep::Link, DeliveryStep::SyncDirectory]
        {
            let mut nth = 0;
            loop {
                let (count, armed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
                let (counted, is_armed) = (Arc::clone(&count), Arc::clone(&armed));
                let faults = Faults::new(move |at| {
                    let hit = at == step && is_armed.load(Ordering::SeqCst) == 1 && counted.fetch_add(1, Ordering::SeqCst) == nth;
                    if hit { Err(Errno::EIO.into()) } else { Ok(()) }
                });
                let dir = tempfile::tempdir().unwrap();
                let durable = Durable::new(faults);
                let durable = if unnamed { durable } else { durable.without_unnamed_files() };
                let spool = Arc::new(Spool::over(dir.path(), durable, true).unwrap().0);
                armed.store(1, Ordering::SeqCst);
                let outcome = put(&spool, &envelope(&["a@a.example"]), "Subject: x\n");
                if count.load(Ordering::SeqCst) <= nth {
                    outcome.unwrap();
                    break;
                }
                assert!(outcome.is_err(), "{step:?} {nth}");
                let left = |part| fs::read_dir(dir.path().join(part)).unwrap().count();
                assert_eq!((left("queue"), left("tmp")), (0, 0), "{step:?} {nth} unnamed: {unnamed}");
                nth += 1;
            }
            assert!(nth > 0, "{step:?} is never done");
        }
    }
}

#[test]
fn a_message_that_is_not_kept_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let spool = spool(dir.path());
    let mut draft = spool.begin(&envelope(&["a@a.example"])).unwrap();
    draft.write_all(b"x\n").unwrap();
    let committed = draft.commit().unwrap();
    let path = dir.path().join("queue").join(committed.id.to_string());
    assert!(path.exists());
    drop(committed);
    assert!(!path.exists());
}

/// A disk that is full in the middle of a record: an error, and the record is none.
#[test]
fn no_space_in_the_middle_of_a_record() {
    let dir = tempfile::tempdir().unwrap();
    let mounted = std::process::Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"]).arg(dir.path()).status();
    if !mounted.is_ok_and(|status| status.success()) {
        return crate::skipped("a file system of 64 KiB needs root");
    }
    let outcome = std::panic::catch_unwind(|| {
        let spool = spool(dir.path());
        let id = put(&spool, &envelope(&["a@a.example"]), "x\n").unwrap();
        fs::write(dir.path().join("ballast"), vec![0; 40 * 1024]).unwrap();
        let mut written = 0;
        while spool.append(id, &result(&[0], Verdict::Wait)).is_ok() {
            written += 1;
            assert!(written < 10_000);
        }
        fs::remove_file(dir.path().join("ballast")).unwrap();
        let message = spool.read(id).unwrap();
        assert_eq!(message.log.len(), written, "the torn one is none");
        spool.append(id, &result(&[0], Verdict::Sent)).unwrap();
        let message = spool.read(id).unwrap();
        assert_eq!(message.log.len(), written + 1);
        assert!(message.is_settled());
    });
    let unmounted = std::process::Command::new("umount").arg(dir.path()).status();
    assert!(unmounted.is_ok_and(|status| status.success()));
    outcome.unwrap();
}

/// A message that is sent and unlinked between two calls costs no fsync of its own.
#[test]
fn a_dot_is_swept_at_the_second_call_and_a_begin_never() {
    let dir = tempfile::tempdir().unwrap();
    let spool = spool(dir.path());
    let ids: Vec<QueueId> = (0..2).map(|_| put(&spool, &envelope(&["a@a.example"]), "x\n").unwrap()).collect();
    spool.append(ids[0], &begin(&[0])).unwrap();
    assert!(!spool.needs_sweep());
    spool.append(ids[0], &Record { time: 1, what: Happened::Dot { recipients: vec![0] } }).unwrap();
    spool.sweep_older().unwrap();
    assert!(spool.needs_sweep(), "made durable at once");
    spool.sweep_older().unwrap();
    assert!(!spool.needs_sweep());
    spool.append(ids[1], &Record { time: 1, what: Happened::Dot { recipients: vec![0] } }).unwrap();
    spool.sweep_older().unwrap();
    spool.remove(ids[1]).unwrap();
    spool.append(ids[0], &Record { time: 1, what: Happened::Dot { recipients: vec![0] } }).unwrap();
    spool.sweep().unwrap();
    assert!(!spool.needs_sweep(), "all of them");
}

#[test]
fn names_alone_are_the_same_messages() {
    let dir = tempfile::tempdir().unwrap();
    let first = spool(dir.path());
    let ids: Vec<QueueId> = (0..3).map(|_| put(&first, &envelope(&["a@a.example"]), "x\n").unwrap()).collect();
    first.set_due(ids[1], 77).unwrap();
    first.hold(ids[2], None).unwrap();
    drop(first);
    symlink("nowhere", dir.path().join("queue").join(QueueId::from_bits(9).to_string())).unwrap();
    let (whole, found, strange) = Spool::open(dir.path(), Faults::default()).unwrap();
    drop(whole);
    let (spool, names, strange_names) = Spool::open_names(dir.path(), Faults::default()).unwrap();
    assert_eq!((strange.len(), strange), (1, strange_names));
    assert!(names.iter().all(|file| (file.due, file.octets) == (0, 0)));
    let looked_up: Vec<Found> = names.iter().map(|file| spool.find(file.id).unwrap()).collect();
    assert_eq!(looked_up, found);
    assert!(found[1].due == 77 && found[2].held);
    let fresh = put(&Arc::new(spool), &envelope(&["a@a.example"]), "x\n").unwrap();
    assert!(fresh > ids[2], "an id is not given twice");
}

/// What a person has put there ends neither the start nor what is done for the other messages.
#[test]
fn what_is_no_file_stands_in_nothings_way() {
    let dir = tempfile::tempdir().unwrap();
    let spool = spool(dir.path());
    let [id, other] = [0, 1].map(|_| put(&spool, &envelope(&["bob@b.example"]), "x\n").unwrap());
    spool.append(id, &at(Happened::Dot { recipients: vec![0] })).unwrap();
    fs::remove_file(dir.path().join("queue").join(id.to_string())).unwrap();
    fs::create_dir(dir.path().join("queue").join(id.to_string())).unwrap();
    spool.remove(other).unwrap();
    spool.sweep().unwrap();
    assert!(!spool.needs_sweep());
    drop(spool);
    let below = dir.path().join("tmp").join("below");
    fs::create_dir(&below).unwrap();
    symlink("/nowhere", dir.path().join("tmp").join("link")).unwrap();
    let (_, found, strange) = Spool::open(dir.path(), Faults::default()).unwrap();
    assert!(found.is_empty());
    assert_eq!(strange, [below, dir.path().join("queue").join(id.to_string())]);
    assert_eq!(fs::read_dir(dir.path().join("tmp")).unwrap().count(), 1);
}

/// A file of which the records cannot be made durable: unlinks are, and it is done again.
#[test]
fn one_file_does_not_keep_the_others_from_being_durable() {
    let dir = tempfile::tempdir().unwrap();
    let (fails, names) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (failing, counted) = (Arc::clone(&fails), Arc::clone(&names));
    let faults = Faults::new(move |step| match step {
        DeliveryStep::SyncFile if failing.load(Ordering::Relaxed) > 0 => Err(Errno::EIO.into()),
        DeliveryStep::SyncDirectory => {
            counted.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
        _ => Ok(()),
    });
    let spool = Arc::new(Spool::open(dir.path(), faults).unwrap().0);
    let [id, other] = [0, 1].map(|_| put(&spool, &envelope(&["bob@b.example"]), "x\n").unwrap());
    spool.append(id, &at(Happened::Dot { recipients: vec![0] })).unwrap();
    spool.remove(other).unwrap();
    fails.store(1, Ordering::Relaxed);
    let before = names.load(Ordering::Relaxed);
    assert!(spool.sweep().is_err() && spool.needs_sweep());
    assert_eq!(names.load(Ordering::Relaxed), before + 1);
    fails.store(0, Ordering::Relaxed);
    spool.sweep().unwrap();
    assert!(!spool.needs_sweep());
}

/// A message is moved back to `queue/` while another thread has looked there in vain, and not yet in `held/`.
#[test]
fn found_while_it_is_moved() {
    let dir = tempfile::tempdir().unwrap();
    let spool = spool(dir.path());
    let id = put(&spool, &envelope(&["bob@example.net"]), "Subject: x\n\ny\n").unwrap();
    spool.hold(id, None).unwrap();
    let name = id.to_string();
    let mut looks = 0;
    let (held, _) = spool
        .in_either(|directory| {
            let found = fstatat(directory.file(), name.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW);
            looks += 1;
            if looks == 1 {
                spool.release(id, &at(Happened::Release)).unwrap();
            }
            found
        })
        .unwrap();
    assert!(!held && !spool.find(id).unwrap().held);
    spool.hold(id, None).unwrap();
    assert!(spool.find(id).unwrap().held);
    spool.remove(id).unwrap();
    assert!(matches!(spool.find(id), Err(SpoolError::Missing(_))));
}
