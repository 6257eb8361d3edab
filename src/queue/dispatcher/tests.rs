use std::sync::atomic::AtomicBool;

use super::*;
use crate::queue::reporter::tests::Mailboxes;
use crate::queue::schedule::{Finished, Outcome, RecipientResult, RouteSettings, Trouble};
use crate::queue::spool::tests::{envelope, put};
use crate::smtp::remote::{RemoteReply, Stage};

/// A message.
const TEXT: &str = "Subject: x\n\ny\n";
/// How long something may take that is not measured.
const PATIENCE: Duration = Duration::from_secs(20);

/// A dispatcher with one courier, which is the test.
struct Bench {
    spool: Arc<Spool>,
    dispatcher: Dispatcher,
    tasks: Receiver<Task>,
    report: Box<dyn Fn(Report) + Send + Sync>,
    mailboxes: Arc<Mailboxes>,
    _dir: tempfile::TempDir,
}

fn settings() -> Settings {
    Settings { routes: ["old", "new"].map(RouteSettings::new).to_vec(), ..Settings::default() }
}

/// Every recipient there.
fn all_by(route: &'static str) -> Arc<Routing> {
    Arc::new(move |_, _| Some(Destination::smarthost(route)))
}

/// Every recipient by `old`, the first one when the gate is opened.
fn late(gate: Receiver<()>, asked: Sender<()>) -> Arc<Routing> {
    let first = AtomicBool::new(true);
    Arc::new(move |_, _| {
        if first.swap(false, Ordering::Relaxed) {
            let _ = asked.send(());
            let _ = gate.recv_timeout(PATIENCE);
        }
        Some(Destination::smarthost("old"))
    })
}

impl Bench {
    /// With a message for each of these in the spool.
    fn new(found: &[&str], routing: Arc<Routing>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("spool");
        let spool = Arc::new(Spool::open(&path, Default::default()).unwrap().0);
        let found = found.iter().map(|to| spool.find(put(&spool, &envelope(&[to]), TEXT).unwrap()).unwrap()).collect();
        let (mailboxes, (sender, tasks)) = (Arc::<Mailboxes>::default(), crossbeam_channel::unbounded());
        let mailer: Arc<dyn Mailer> = Arc::<Mailboxes>::clone(&mailboxes);
        let (spool_of, settings) = (Arc::clone(&spool), settings());
        let start = Start { spool: spool_of, found, settings, couriers: 1, queue_max: 1000, routing, mailer };
        let mut report: Option<Box<dyn Fn(Report) + Send + Sync>> = None;
        let dispatcher = Dispatcher::start(start, |way| {
            report = Some(way);
            Ok(vec![sender])
        });
        let (dispatcher, report) = (dispatcher.unwrap(), report.unwrap());
        Self { spool, dispatcher, tasks, report, mailboxes, _dir: dir }
    }

    fn queue(&self) -> &Arc<Queue> {
        self.dispatcher.queue()
    }

    fn accept(&self, to: &str) -> QueueId {
        let envelope = envelope(&[to]);
        let id = put(&self.spool, &envelope, TEXT).unwrap();
        self.queue().accepted(id, envelope, None);
        id
    }

    /// The next transaction, and by which route it is.
    fn next(&self) -> (QueueId, String) {
        match self.tasks.recv_timeout(PATIENCE) {
            Ok(Task::Send(job)) => (job.id, job.destination.name.to_string()),
            other => panic!("{other:?}"),
        }
    }

    /// The courier's only recipient waits: 451.
    fn defer(&self, id: QueueId) {
        self.answer(id, 451);
    }

    /// The first recipient has this reply; others go in the next transaction.
    fn answer(&self, id: QueueId, code: u16) {
        let reply = RemoteReply { code, status: Some(((code / 100) as u8, 1, 1)), text: "no".into() };
        let trouble = Trouble::Reply { code, status: reply.status };
        let outcome = Outcome::Trouble(Stage::Recipient, trouble);
        let attempt = Attempt { outcome, stage: Stage::Recipient, reply: Some(reply), ..Attempt::unreached(now()) };
        let results = vec![RecipientResult { number: 0, domain: 0, outcome }];
        let finished = Finished { courier: 0, results, others: None, parameters: false, accepted: false, open: true };
        let (attempts, begun, envelope, damaged) = (vec![(0, attempt)], vec![0], None, None);
        (self.report)(Report::Sent { id, finished, attempts, begun, envelope, damaged });
    }

    fn wait(&self, what: &str, is_so: impl Fn() -> bool) {
        let until = Instant::now() + PATIENCE;
        while !is_so() {
            assert!(Instant::now() < until, "{what}: {:?}", lock(&self.mailboxes.letters));
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// What waits now, by which route.
    fn waits_by(&self, id: QueueId) -> Option<String> {
        let state = self.queue().schedule().message(id)?;
        Some(state.parts.first()?.destination.name.to_string())
    }
}

/// A session takes a recipient by the routes that it knows; those of the queue may refuse it by now.
#[test]
fn accepted_when_its_route_is_gone() {
    let bench = Bench::new(&[], all_by("old"));
    bench.queue().configure(settings(), 1000, Arc::new(|_, _| None));
    let id = bench.accept("x@never.example");
    bench.wait("it is reported", || lock(&bench.mailboxes.letters).iter().any(|letter| letter.contains("x@never.example")));
    bench.wait("it is gone", || bench.spool.find(id).is_err());
    assert!(bench.queue().schedule().message(id).is_none() && bench.tasks.is_empty());
}

/// The routes change while the dispatcher sorts the recipients of a message by those of before.
#[test]
fn accepted_while_the_routes_change() {
    let ((open, gate), (asked, was_asked)) = (crossbeam_channel::bounded(1), crossbeam_channel::unbounded());
    let first = AtomicBool::new(true);
    // The first message keeps the courier busy.
    let slow = late(gate, asked);
    let routing: Arc<Routing> = Arc::new(move |envelope, at| match first.swap(false, Ordering::Relaxed) {
        true => Some(Destination::smarthost("old")),
        false => slow(envelope, at),
    });
    let bench = Bench::new(&[], routing);
    let busy = bench.accept("a@there.example");
    assert_eq!(bench.next(), (busy, "old".to_owned()));
    let id = bench.accept("b@there.example");
    was_asked.recv_timeout(PATIENCE).unwrap();
    let (looked, was_looked) = crossbeam_channel::unbounded();
    let changed: Arc<Routing> = Arc::new(move |_, _| {
        let _ = looked.send(());
        Some(Destination::smarthost("new"))
    });
    bench.queue().configure(settings(), 1000, changed);
    // If something looks through the queue before the message is in it, this has happened by then.
    let _ = was_looked.recv_timeout(Duration::from_millis(500));
    open.send(()).unwrap();
    bench.wait("it takes the new route", || bench.waits_by(id).as_deref() == Some("new"));
}

/// The routes change while the files of the start are read.
#[test]
fn found_while_the_routes_change() {
    let ((open, gate), (asked, was_asked)) = (crossbeam_channel::bounded(1), crossbeam_channel::unbounded());
    let bench = Bench::new(&["a@there.example"], late(gate, asked));
    was_asked.recv_timeout(PATIENCE).unwrap();
    bench.queue().configure(Settings { warn: 77, ..settings() }, 1000, all_by("new"));
    bench.wait("the settings are taken up", || bench.queue().schedule().settings().warn == 77);
    // As above.
    thread::sleep(Duration::from_millis(100));
    open.send(()).unwrap();
    assert_eq!(bench.next().1, "new");
}

/// What is being sent when the routes change takes its new one when it has to wait.
#[test]
fn sent_while_the_routes_change() {
    let bench = Bench::new(&[], all_by("old"));
    let id = bench.accept("a@there.example");
    assert_eq!(bench.next(), (id, "old".to_owned()));
    let (looked, was_looked) = crossbeam_channel::unbounded();
    let changed: Arc<Routing> = Arc::new(move |_, _| {
        let _ = looked.send(());
        Some(Destination::smarthost("new"))
    });
    bench.queue().configure(settings(), 1000, changed);
    was_looked.recv_timeout(PATIENCE).unwrap();
    // The dispatcher has been told of what was found different.
    thread::sleep(Duration::from_millis(100));
    assert_eq!(bench.waits_by(id).as_deref(), Some("old"));
    bench.defer(id);
    bench.wait("it takes the new route", || bench.waits_by(id).as_deref() == Some("new"));
    let state = bench.queue().schedule().message(id).unwrap();
    assert_eq!(state.parts[0].waits, 1, "{state:?}");
    assert_eq!(bench.queue().operate(Verb::Try, &[id]), [Answer::Done]);
    assert_eq!(bench.next(), (id, "new".to_owned()));
}

/// A recipient has failed, and the routes leave none for the rest of its message: the sender is told of both.
#[test]
fn refused_between_two_transactions() {
    let bench = Bench::new(&[], all_by("old"));
    let envelope = envelope(&["a@there.example", "b@gone.example"]);
    let id = put(&bench.spool, &envelope, TEXT).unwrap();
    bench.queue().accepted(id, envelope, None);
    assert_eq!(bench.next(), (id, "old".to_owned()));
    // Another login's, which has its turn before the next transaction.
    let other = Envelope { login: "bob@example.org".into(), ..self::envelope(&["c@there.example"]) };
    let other_id = put(&bench.spool, &other, TEXT).unwrap();
    bench.queue().accepted(other_id, other, None);
    let (looked, was_looked) = crossbeam_channel::unbounded();
    let changed: Arc<Routing> = Arc::new(move |envelope, at| {
        let is_gone = envelope.recipients[at].address.to_string().ends_with("@gone.example");
        let _ = is_gone.then(|| looked.send(()));
        (!is_gone).then(|| Destination::smarthost("old"))
    });
    bench.queue().configure(settings(), 1000, changed);
    was_looked.recv_timeout(PATIENCE).unwrap();
    // The dispatcher has been told of what was found different.
    thread::sleep(Duration::from_millis(100));
    bench.answer(id, 550);
    assert_eq!(bench.next().0, other_id);
    for to in ["a@there.example", "b@gone.example"] {
        bench.wait("both are reported", || {
            lock(&bench.mailboxes.letters).iter().any(|letter| letter.contains(&format!("Final-Recipient: rfc822; {to}")))
        });
    }
    bench.wait("it is gone", || bench.spool.find(id).is_err());
}

/// A message whose file is damaged during its last attempt: its sender cannot be told, so a person has it.
#[test]
fn refused_while_its_file_cannot_be_read() {
    let bench = Bench::new(&[], all_by("old"));
    let id = bench.accept("a@there.example");
    assert_eq!(bench.next(), (id, "old".to_owned()));
    let file = bench.spool.path().join("queue").join(id.to_string());
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replacen("Pillarbox-From", "Pillarbox-Ouch", 1)).unwrap();
    bench.answer(id, 550);
    bench.wait("it is held", || bench.spool.held().unwrap() == [id]);
    bench.wait("it is done with", || bench.queue().schedule().message(id).is_none());
    thread::sleep(Duration::from_millis(200));
    assert!(bench.spool.held().unwrap() == [id] && lock(&bench.mailboxes.letters).is_empty());
}
