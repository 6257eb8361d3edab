use std::fs;
use std::io::Error;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::mail::durable::{DeliveryStep, Faults};
use crate::queue::reporter::Mailer;
use crate::queue::reporter::tests::Mailboxes;
use crate::queue::schedule::Reason;
use crate::queue::spool::tests::{envelope, put};

/// A clerk with one message, of which a recipient was refused.
struct Desk {
    clerk: Clerk,
    id: QueueId,
    mailboxes: Arc<Mailboxes>,
    /// The disk takes nothing.
    is_full: Arc<AtomicBool>,
    dir: tempfile::TempDir,
}

impl Desk {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let is_full = Arc::new(AtomicBool::new(false));
        let full = Arc::clone(&is_full);
        let faults = Faults::new(move |step| match step {
            DeliveryStep::Write if full.load(Ordering::Relaxed) => Err(Error::from(nix::errno::Errno::EROFS)),
            _ => Ok(()),
        });
        let spool = Arc::new(Spool::open(dir.path(), faults).unwrap().0);
        let id = put(&spool, &envelope(&["bob@b.example"]), "Subject: x\n\ny\n").unwrap();
        let mailboxes = Arc::<Mailboxes>::default();
        let mailer: Arc<dyn Mailer> = Arc::<Mailboxes>::clone(&mailboxes);
        Self { clerk: Clerk::new(spool, Arc::new(Reporter::new(mailer))), id, mailboxes, is_full, dir }
    }

    fn act(&mut self, deeds: impl IntoIterator<Item = Deed>) {
        deeds.into_iter().for_each(|deed| self.clerk.act(deed));
    }

    fn letters(&self) -> usize {
        self.mailboxes.letters.lock().unwrap().len()
    }

    fn file(&self, part: &str) -> PathBuf {
        self.dir.path().join(part).join(self.id.to_string())
    }
}

fn refused() -> Vec<(u16, Failed)> {
    let told = Told { stage: Stage::Recipient, code: Some(550), status: Some((5, 1, 1)), text: "no such mailbox".into() };
    let reply = reply_of(&told);
    vec![(0, Failed { told, cause: None, reply, host: "mx.b.example".into(), attempted: Some(now()), expired: false })]
}

/// The disk becomes read-only after a report was delivered: the record of it is what is done again, not the report.
#[test]
fn a_report_is_made_once_though_it_cannot_be_recorded() {
    let make: [fn(QueueId) -> Deed; 2] =
        [|id| Deed::Fail { id, recipients: refused(), record: false }, |id| Deed::Late(id, vec![(0, None)], now() + 60)];
    for make in make {
        let mut desk = Desk::new();
        let id = desk.id;
        desk.is_full.store(true, Ordering::Relaxed);
        desk.act([make(id), Deed::Remove(id)]);
        for _ in 0..3 {
            desk.clerk.do_again();
        }
        assert_eq!(desk.letters(), 1);
        assert!(desk.file("queue").exists(), "what comes after it waits for it");
        desk.is_full.store(false, Ordering::Relaxed);
        desk.clerk.do_again();
        assert!(desk.letters() == 1 && !desk.file("queue").exists());
    }
}

/// Neither sent nor reported, so it is not unlinked.
#[test]
fn a_message_that_cannot_be_read_is_kept() {
    let mut desk = Desk::new();
    let id = desk.id;
    let text = fs::read_to_string(desk.file("queue")).unwrap();
    fs::write(desk.file("queue"), text.replacen("Pillarbox-Queue", "Pillarbox-Ouch!", 1)).unwrap();
    desk.act([Deed::Record(id, refused()), Deed::Fail { id, recipients: refused(), record: false }, Deed::Remove(id)]);
    assert!(desk.file("held").exists() && !desk.file("queue").exists() && desk.letters() == 0);
    desk.clerk.tick(Instant::now() + REPORT_AGAIN);
    assert!(desk.file("held").exists());
}

/// Held while its report has no place, and gone when that is delivered.
#[test]
fn a_report_that_could_not_be_delivered_is_tried_again() {
    let mut desk = Desk::new();
    let id = desk.id;
    desk.mailboxes.are_full.store(true, Ordering::Relaxed);
    desk.act([Deed::Record(id, refused()), Deed::Fail { id, recipients: refused(), record: false }, Deed::Remove(id)]);
    assert!(desk.file("held").exists());
    let octets = fs::metadata(desk.file("held")).unwrap().len();
    let mut now = Instant::now() + REPORT_AGAIN;
    for _ in 0..3 {
        desk.clerk.tick(now);
        now += REPORT_AGAIN;
    }
    assert_eq!(fs::metadata(desk.file("held")).unwrap().len(), octets, "nothing is written of it");
    desk.mailboxes.are_full.store(false, Ordering::Relaxed);
    desk.clerk.tick(now - AGAIN);
    assert!(desk.file("held").exists(), "not as often as the rest");
    desk.clerk.tick(now);
    assert!(!desk.file("held").exists() && desk.letters() == 1);
    assert!(desk.mailboxes.letters.lock().unwrap()[0].contains("no such mailbox"));
}

fn news(cause: Option<Cause>) -> RouteNews {
    let (host, since) = (String::new(), now());
    RouteNews { name: "provider".into(), host, cause, reply: None, since, next: None, tried: Vec::new() }
}

/// A login reads that the postmaster knows only where the letter of that was stored, and it is tried again until it is.
#[test]
fn the_postmaster_is_said_to_know_once_the_letter_is_stored() {
    let rests = Some(Cause::Rests(Reason::Connect));
    let late = |to_postmaster| Deed::LateNotice {
        login: "alice@example.org".into(),
        route: news(rests),
        count: 1,
        oldest: (now(), now() + 60),
        told: to_postmaster,
    };
    let last = |desk: &Desk| desk.mailboxes.letters.lock().unwrap().last().cloned().unwrap_or_default();
    let vouched = |desk: &Desk| last(desk).replace('\n', " ").contains("the postmaster of this server has been told");
    let fill = |desk: &Desk, is_full| desk.mailboxes.are_full.store(is_full, Ordering::Relaxed);

    let mut desk = Desk::new();
    desk.act([Deed::Tell(news(rests), 1), late(true)]);
    assert!(desk.letters() == 2 && vouched(&desk), "{}", last(&desk));

    let mut desk = Desk::new();
    fill(&desk, true);
    desk.act([Deed::Tell(news(rests), 1)]);
    fill(&desk, false);
    desk.act([late(true)]);
    assert!(desk.letters() == 1 && !vouched(&desk), "{}", last(&desk));
    desk.clerk.tick(Instant::now());
    assert_eq!(desk.letters(), 1, "not as often as the rest");
    desk.clerk.tick(Instant::now() + REPORT_AGAIN);
    assert!(last(&desk).contains("Subject: Route provider does not work\n"), "{}", last(&desk));
    desk.act([late(true)]);
    assert!(vouched(&desk), "{}", last(&desk));
    desk.clerk.tick(Instant::now() + 3 * REPORT_AGAIN);
    assert_eq!(desk.letters(), 3, "told once");

    // What is over by then is not told any more.
    fill(&desk, true);
    desk.act([Deed::Tell(news(rests), 1), Deed::Tell(news(None), 1)]);
    fill(&desk, false);
    desk.clerk.tick(Instant::now() + 5 * REPORT_AGAIN);
    assert!(desk.letters() == 4 && last(&desk).contains("Subject: Route provider works again\n"), "{}", last(&desk));
}
