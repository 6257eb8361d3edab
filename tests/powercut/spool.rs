//! The half of the spool's test that is recorded, and what must be true after a cut.

use std::fmt::Display;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::thread;

use pillarbox::mail::durable::Faults;
use pillarbox::mail::maildir::Store;
use pillarbox::queue::QueueId;
use pillarbox::queue::spool::{Envelope, Happened, QueuedRecipient, Record, Spool, Told, Verdict};
use pillarbox::smtp::address::{Address, ReversePath};
use pillarbox::smtp::remote::Stage;

use crate::replay::AfterCut;

/// Uses a spool below `root`, and says what is promised on standard error, each time after it has become true.
pub fn record(root: &Path) {
    let spool = Arc::new(Spool::open(&root.join("spool"), Faults::default()).unwrap().0);
    let store = Store::new("mx.example.org", Faults::default());
    let maildir = [root.join("mail/example.org/bob")];
    let accept = |recipients: u16| {
        let recipients = (0..recipients).map(|to| QueuedRecipient {
            address: Address::parse(&format!("{to}@elsewhere.example")).unwrap(),
            notify: None,
            orcpt: None,
        });
        let envelope = Envelope {
            reverse_path: ReversePath::Null,
            login: String::new(),
            session: "recorded".into(),
            body: None,
            utf8: false,
            ret: None,
            envid: None,
            recipients: recipients.collect(),
        };
        let mut local = store.begin(&maildir[0]).unwrap();
        let mut queued = spool.begin(&envelope).unwrap();
        let text = text_of(&queued.id().to_string());
        local.write_all(text.as_bytes()).unwrap();
        queued.write_all(text.as_bytes()).unwrap();
        let delivered = store.deliver(local, &maildir).unwrap();
        let id = queued.commit().unwrap().keep();
        delivered.keep();
        say("ACCEPTED", &id);
        id
    };
    thread::scope(|scope| {
        for worker in 1..4 {
            let (accept, spool) = (&accept, &spool);
            scope.spawn(move || {
                let ids: Vec<QueueId> = (0..4).map(|n| accept(worker + n)).collect();
                spool.append(ids[0], &result(Verdict::Failed)).unwrap();
                say("FAILED", &ids[0]);
                spool.hold(ids[1], Some(&Record { time: 1, what: Happened::Hold("operator".into()) })).unwrap();
                say("HELD", &ids[1]);
                spool.append(ids[2], &result(Verdict::Sent)).unwrap();
                say("REMOVING", &ids[3]);
                spool.remove(ids[3]).unwrap();
            });
        }
    });
    let last = accept(1);
    say("REMOVING", &last);
    spool.remove(last).unwrap();
    spool.sweep().unwrap();
    say("SWEPT", &"all");
}

fn result(verdict: Verdict) -> Record {
    let told = Told { stage: Stage::Dot, code: Some(550), status: None, text: "told".into() };
    Record { time: 1, what: Happened::Result { recipients: vec![0], verdict, told } }
}

/// Past the test's own standard error, which may be kept back.
fn say(promise: &str, what: &dyn Display) {
    io::stderr().write_all(format!("{promise} {what}\n").as_bytes()).unwrap();
}

fn text_of(id: &str) -> String {
    format!("Subject: {id}\n\n{}", format!("{id} 0123456789\n").repeat(5))
}

/// What must be true of the spool, and of the mailbox of the same messages, after a cut.
pub fn check(cut: &AfterCut<'_>, root: &Path) -> Result<(), String> {
    let said: Vec<(&str, &str)> = cut.said.iter().filter_map(|said| said.trim_end().split_once(' ')).collect();
    let is_said = |promise: &str, id: &str| said.contains(&(promise, id));
    let swept = is_said("SWEPT", "all");
    for (path, content) in &cut.files {
        let name = path.file_name().unwrap().to_str().unwrap();
        let place = path.parent().and_then(Path::file_name).unwrap();
        let text = String::from_utf8_lossy(content);
        let number = |key: &str| text.split_once(key).and_then(|(_, rest)| rest.get(..10)?.parse::<usize>().ok());
        let torn = || format!("{} is torn: {text:?}", path.display());
        if place == "new" {
            let id = text.lines().next().and_then(|line| line.strip_prefix("Subject: ")).ok_or_else(torn)?;
            if text != text_of(id) {
                return Err(torn());
            }
        } else if place == "queue" || place == "held" {
            let (Some(envelope), Some(octets)) = (number(" envelope="), number(" message=")) else { return Err(torn()) };
            if text.get(envelope..envelope + octets) != Some(&text_of(name)) {
                return Err(torn());
            }
            if swept && is_said("REMOVING", name) {
                return Err(format!("{name} is back"));
            }
        }
    }
    let has = |place: &str, id: &str| cut.files.get(&root.join("spool").join(place).join(id));
    for (promise, id) in &said {
        let file = has("queue", id).or(has("held", id)).map(|content| String::from_utf8_lossy(content).into_owned());
        let locally = cut.files.iter().filter(|(path, content)| {
            path.parent().is_some_and(|new| new.ends_with("bob/new")) && **content == text_of(id).into_bytes()
        });
        let kept = match *promise {
            "ACCEPTED" => (is_said("REMOVING", id) || file.is_some()) && locally.count() == 1,
            "FAILED" => file.is_some_and(|text| text.ends_with("Pillarbox-Log: 1 1 failed 550 - told;")),
            "HELD" => has("held", id).is_some(),
            "SWEPT" => {
                cut.files.values().filter(|content| content.ends_with(b"Pillarbox-Log: 1 1 sent 550 - told;")).count() == 3
            }
            _ => true,
        };
        if !kept {
            return Err(format!("{promise} {id} was said"));
        }
    }
    Ok(())
}
