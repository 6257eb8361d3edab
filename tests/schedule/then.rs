//! A smarthost that rests, and the servers of the recipients' domains meanwhile: `then = "mx"`.

use std::collections::HashMap;

use pillarbox::queue::QueueId;
use pillarbox::queue::schedule::*;
use pillarbox::smtp::remote::Stage;

use super::world::*;

fn direct_meanwhile() -> Settings {
    let mut settings = settings();
    settings.routes[0].then = Some(Then::Mx);
    settings
}

/// A message of the smarthost to the first `count` recipients, each of a domain of its own.
fn to_many(world: &mut World, count: u16) -> QueueId {
    world.queue("shop", vec![Part { destination: provider(), recipients: (0..count).collect(), waits: 0, due: 0 }])
}

/// The jobs of a message: when, by which hop, to whom.
fn jobs(world: &World, id: QueueId) -> Vec<(u64, String, Vec<u16>)> {
    let job = |(time, action): &(u64, Action)| match action {
        Action::Send(job) if job.id == id => Some((*time, job.destination.name.to_string(), job.recipients.clone())),
        _ => None,
    };
    world.log.iter().filter_map(job).collect()
}

/// `then = "mx"`: a message to three domains goes to each by itself while the smarthost rests, and in one transaction after that.
#[test]
fn the_domains_servers_are_used_while_a_route_rests() {
    let mut world = World::new(direct_meanwhile(), 4, |asked| match (asked.hop.as_str(), asked.time) {
        ("provider", 0..HOUR) => (1, Reply::No(Stage::Connect, Trouble::Dropped)),
        _ => (1, Reply::Yes),
    });
    world.domain = |_, number| format!("d{}.example", number % 3);
    let first = to_many(&mut world, 6);
    world.run(MINUTE);
    let mut direct = jobs(&world, first);
    assert_eq!(direct.remove(0).1, "provider");
    direct.sort_by(|a, b| a.1.cmp(&b.1));
    let direct: Vec<(&str, &[u16])> = direct.iter().map(|(_, hop, to)| (hop.as_str(), &to[..])).collect();
    assert_eq!(direct, [("d0.example", &[0, 3][..]), ("d1.example", &[1, 4]), ("d2.example", &[2, 5])]);
    assert_eq!(world.sent[&first].1, 6);
    assert_eq!(world.schedule.counts().messages, 0);
    world.run(3 * HOUR);
    let second = to_many(&mut world, 6);
    world.run(2);
    let jobs = jobs(&world, second);
    assert_eq!((jobs.len(), jobs[0].1.as_str(), jobs[0].2.len()), (1, "provider", 6));
}

/// Port 25 is closed, or a domain greylists: what was not sent meanwhile is the smarthost's again as soon as that works, joined.
#[test]
fn what_the_domains_servers_have_not_taken_goes_back() {
    let mut world = World::new(direct_meanwhile(), 4, |asked| match (asked.hop.as_str(), asked.time) {
        ("provider", HOUR..) => (1, Reply::Yes),
        ("d2.example", _) => (1, Reply::Yes),
        ("d1.example", _) => (1, code(Stage::Recipient, 450)),
        _ => (1, Reply::No(Stage::Connect, Trouble::Dropped)),
    });
    let id = to_many(&mut world, 6);
    world.run(10 * MINUTE);
    assert_eq!(world.sent[&id].1, 1);
    let waits: Vec<Destination> = world.schedule.message(id).unwrap().parts.into_iter().map(|part| part.destination).collect();
    let domains = [0, 1, 3, 4, 5].map(|number| Destination::mx(&format!("d{number}.example")));
    assert_eq!(waits, domains);
    world.run(3 * HOUR);
    let last: Vec<Vec<u16>> =
        jobs(&world, id).into_iter().filter(|job| job.0 >= HOUR && job.1 == "provider").map(|job| job.2).collect();
    assert_eq!(last, [vec![0, 3, 4, 5], vec![1]], "{:?}", jobs(&world, id));
    assert_eq!((world.sent[&id].1, world.schedule.counts().pairs), (6, 0));
    assert_eq!(world.schedule.routes().len(), 1, "{:?}", world.schedule.routes());
}

/// One domain that rests does not hold up another one's mail, nor a first message another login's.
#[test]
fn a_dead_domain_holds_up_no_other_while_a_route_rests() {
    let mut world = World::new(direct_meanwhile(), 4, |asked| match asked.hop.as_str() {
        "provider" | "d0.example" => (30, Reply::No(Stage::Connect, Trouble::Dropped)),
        _ => (1, Reply::Yes),
    });
    let ids: Vec<QueueId> = (0..200).map(|_| to_many(&mut world, 2)).collect();
    world.run(5 * MINUTE);
    assert!(ids.iter().all(|id| world.sent.get(id).is_some_and(|sent| sent.1 == 1)), "{}", world.sent.len());
    world.domain = |_, _| "d9.example".to_owned();
    let other = world.accept("other", &[provider()]);
    world.run(5);
    assert_eq!(world.sent[&other].1, 1);
}

/// A route that refuses everything is probed by a message, though all others take mx; a second route between is used first.
#[test]
fn a_message_is_kept_for_the_probe_of_a_route() {
    let mut settings = direct_meanwhile();
    settings.routes[0].then = Some(Then::Route("other".to_owned()));
    settings.routes.push(RouteSettings { then: Some(Then::Mx), ..RouteSettings::new("other") });
    let mut world = World::new(settings, 4, |asked| match (asked.hop.as_str(), asked.time) {
        ("provider", 0..DAY) => (1, code(Stage::Mail, 550)),
        ("other", 0..=HOUR) => (1, Reply::Yes),
        ("other", _) => (1, Reply::No(Stage::Connect, Trouble::Dropped)),
        _ => (1, Reply::Yes),
    });
    let mut all: Vec<QueueId> = (0..5).map(|_| to_many(&mut world, 1)).collect();
    for _ in 0..2 * 24 * 6 {
        all.push(to_many(&mut world, 1));
        world.run(10 * MINUTE);
    }
    world.run(DAY);
    assert!(all.iter().all(|id| world.sent.get(id).is_some_and(|sent| sent.1 == 1)), "{}", world.sent.len());
    assert_eq!(world.count(|action| matches!(action, Action::Fail { .. } | Action::Expire { .. })), 0);
    let by = |hop: &str| world.times(|action| matches!(action, Action::Send(job) if *job.destination.name == *hop));
    let probes = by("provider").into_iter().filter(|time| (2 * HOUR..DAY).contains(time)).count();
    // One an hour, with the first message that comes after it.
    assert!((18..=22).contains(&probes), "{probes}");
    assert!(by("provider").iter().any(|time| *time > DAY + 2 * HOUR), "and is found well");
    assert!(by("other").iter().any(|time| *time < HOUR) && by("d0.example").iter().any(|time| (2 * HOUR..DAY).contains(time)));
}

/// Verbs, a file that cannot be read, and a configuration without the route, while mail is lent.
#[test]
fn verbs_on_mail_that_takes_mx_meanwhile() {
    let mut world = World::new(direct_meanwhile(), 4, |asked| match (asked.hop.as_str(), asked.time) {
        ("provider", HOUR..) => (1, Reply::Yes),
        _ => (1, Reply::No(Stage::Connect, Trouble::Dropped)),
    });
    let [held, dropped, returned] = [0; 3].map(|_| to_many(&mut world, 3));
    world.run(5 * MINUTE);
    assert_eq!(world.operator(Verb::Hold, held), Answer::Done);
    assert_eq!(world.operator(Verb::Drop, dropped), Answer::Done);
    assert_eq!(world.operator(Verb::Return, returned), Answer::Done);
    world.run(3 * HOUR);
    assert!(world.sent.is_empty());
    assert_eq!(world.operator(Verb::Release, held), Answer::Done);
    world.run(MINUTE);
    assert_eq!((world.sent[&held].1, world.begun(held).last().copied()), (3, Some(3 * HOUR + 5 * MINUTE)));
    assert_eq!(jobs(&world, held).last().unwrap().1, "provider");

    // Without an answer the recipients wait, as with a file that a courier cannot read.
    let mut world = World::new(direct_meanwhile(), 4, |_| (1, Reply::No(Stage::Connect, Trouble::Dropped)));
    world.blind = true;
    let id = to_many(&mut world, 3);
    world.run(5 * MINUTE);
    assert!(matches!(world.schedule.message(id).unwrap().parts[0].waits_for, WaitsFor::Time(_)));
    assert_eq!(world.count(|action| matches!(action, Action::Divide { .. })), 1);
    // The route goes: what it lent stays where it is.
    world.blind = false;
    world.run(HOUR);
    let now = world.now();
    world.schedule.configure(Settings::default(), now);
    world.rule = Box::new(|_| (1, Reply::Yes));
    world.run(3 * HOUR);
    assert_eq!((world.sent[&id].1, world.schedule.counts().pairs), (3, 0));
}

/// What is being sent when the route works again goes back after it, by whatever result; in the same state.
#[test]
fn what_is_being_sent_goes_back_after_its_result() {
    let each = |number: u16| (number, Some((Stage::Recipient, Trouble::Reply { code: 450 + number % 2, status: None })));
    let replies = [
        code(Stage::Mail, 450),
        Reply::No(Stage::Data, Trouble::Dropped),
        Reply::Each([0, 2].map(each).into()),
        Reply::Each(vec![(0, None), each(1)]),
    ];
    for (n, reply) in replies.into_iter().enumerate() {
        let mut world = World::new(direct_meanwhile(), 4, move |asked| match (asked.hop.as_str(), asked.time) {
            ("provider", 0..MINUTE) => (1, Reply::No(Stage::Connect, Trouble::Dropped)),
            ("provider", _) => (1, Reply::Yes),
            _ if asked.id.is_none() => (1, Reply::Yes),
            _ => (10 * MINUTE, reply.clone()),
        });
        world.domain = |_, _| "d.example".to_owned();
        let id = to_many(&mut world, 3);
        world.run(9 * MINUTE);
        assert!(world.schedule.message(id).is_some_and(|message| message.parts[0].waits_for == WaitsFor::Result), "{n}");
        world.run(2 * HOUR);
        let jobs = jobs(&world, id);
        assert_eq!(jobs.iter().filter(|job| job.1 == "d.example").count(), 1, "{n}: {jobs:?}");
        assert_eq!((world.sent.get(&id).map(|sent| sent.1), world.schedule.counts().pairs), (Some(3), 0), "{n}: {jobs:?}");
    }
}

/// Results that differ divide what is lent further; all of it is still the smarthost's.
#[test]
fn what_is_lent_is_lent_in_all_its_parts() {
    let mut world = World::new(direct_meanwhile(), 4, |asked| match (asked.hop.as_str(), asked.time) {
        ("provider", 0..HOUR) => (1, Reply::No(Stage::Connect, Trouble::Dropped)),
        ("provider", _) => (1, Reply::Yes),
        _ if asked.time < 10 => {
            let refused = Some((Stage::Recipient, Trouble::Reply { code: 450, status: None }));
            (1, Reply::Each(asked.recipients.iter().filter(|number| **number != 1).map(|number| (*number, refused)).collect()))
        }
        _ => (1, Reply::No(Stage::Connect, Trouble::Dropped)),
    });
    world.domain = |_, _| "d.example".to_owned();
    let id = to_many(&mut world, 3);
    world.run(3 * HOUR);
    let jobs = jobs(&world, id);
    assert!(jobs.iter().all(|job| job.0 < HOUR || job.1 == "provider") && jobs.last().unwrap().1 == "provider", "{jobs:?}");
    assert_eq!(world.sent[&id].1, 3);
}

/// While every courier is at work nothing is asked for, nothing is too old, and a late message is told of as one that has its turn
/// to come.
#[test]
fn what_has_its_turn_to_come_does_not_wait_for_the_route() {
    let mut world = World::new(direct_meanwhile(), 2, |asked| match asked.hop.as_str() {
        "provider" => (1, Reply::No(Stage::Connect, Trouble::Dropped)),
        _ => (HOUR, Reply::Yes),
    });
    world.domain = |id, _| format!("d{}.example", id.bits() % 50);
    for n in 0..12 {
        let (id, part) = (QueueId::from_bits(n + 1), Part { destination: provider(), recipients: vec![0], waits: 0, due: 0 });
        let (since, login) = (world.unix - 6 * DAY, "shop".into());
        let queued = Queued { id, login, since, scanned: true, asks_delay: false, warned: true, held: None, parts: vec![part] };
        let now = world.now();
        world.schedule.accepted(&queued, now);
    }
    let late = to_many(&mut world, 1);
    world.run(30 * MINUTE);
    let asked = world.count(|action| matches!(action, Action::Divide { .. }));
    assert!((1..=3).contains(&asked), "{asked}");
    world.run(DAY);
    assert_eq!((world.sent.len(), world.count(|action| matches!(action, Action::Expire { .. }))), (13, 0));
    assert_eq!(world.count(|action| matches!(action, Action::LateNotice { .. })), 0);
    assert_eq!(world.count(|action| matches!(action, Action::Late { id, reason: None, .. } if *id == late)), 1);
}

/// One question of a login at a time; an answer for a message that is gone asks for the next.
#[test]
fn one_message_of_a_login_is_divided_at_a_time() {
    let mut world = World::new(direct_meanwhile(), 8, |asked| match asked.hop.as_str() {
        "provider" => (1, Reply::No(Stage::Connect, Trouble::Dropped)),
        _ => (1, Reply::Yes),
    });
    world.silent = true;
    let [first, second] = [0; 2].map(|_| to_many(&mut world, 1));
    world.run(MINUTE);
    world.accept("other", &[provider()]);
    world.run(MINUTE);
    let asked = |world: &World| {
        let asked =
            world.log.iter().filter_map(|(_, action)| if let Action::Divide { id, .. } = action { Some(*id) } else { None });
        asked.collect::<Vec<QueueId>>()
    };
    assert!(asked(&world).len() == 2 && asked(&world)[0] == first, "{:?}", asked(&world));
    assert_eq!(world.operator(Verb::Drop, first), Answer::Done);
    let now = world.now();
    world.schedule.divided(first, &[(0, "d0.example".into())], now);
    world.run(1);
    assert!(asked(&world).len() == 3 && asked(&world)[2] == second, "{:?}", asked(&world));
}

/// That one server does not take parameters says nothing of another.
#[test]
fn parameters_are_tried_again_with_other_servers() {
    let mut world = World::new(direct_meanwhile(), 2, |asked| match (asked.hop.as_str(), asked.plain) {
        ("provider", false) => (1, code(Stage::Mail, 501)),
        ("provider", true) => (1, Reply::No(Stage::Connect, Trouble::Dropped)),
        _ => (1, Reply::Yes),
    });
    let id = to_many(&mut world, 1);
    world.run(MINUTE);
    let plain: Vec<bool> =
        world.log.iter().filter_map(|(_, action)| if let Action::Send(job) = action { Some(job.plain) } else { None }).collect();
    assert_eq!((plain, world.sent[&id].1), (vec![false, true, false], 1));
}

/// Five days of a smarthost that comes and goes, with domains of every kind: every recipient has one end, none two.
#[test]
fn five_days_of_a_route_that_comes_and_goes_pass() {
    let messages = 4000;
    let mut settings = direct_meanwhile();
    settings.routes[0].connections = 8;
    let mut world = World::new(settings, 20, |asked| {
        let number = asked.id.map_or(0, |id| id.bits());
        match asked.hop.as_bytes()[0] {
            b'p' if asked.time / (3 * HOUR) % 3 == 1 => (5, Reply::No(Stage::Connect, Trouble::Dropped)),
            b'p' if asked.time / (5 * HOUR) % 4 == 2 => (1, code(Stage::Mail, 451)),
            b'p' if asked.time / DAY == 3 => (1, code(Stage::Mail, 550)),
            b'd' => (30, Reply::No(Stage::Connect, Trouble::Dropped)),
            b'g' if asked.time / 600 % 2 == 0 => (1, code(Stage::Recipient, 450)),
            b'c' if number % 10 == 3 => (1, Reply::No(Stage::Data, Trouble::Dropped)),
            b'f' => (1, code(Stage::Recipient, 550)),
            b's' => {
                let each = |number: &u16| {
                    (*number, (number % 2 == 1).then_some((Stage::Recipient, Trouble::Reply { code: 452, status: None })))
                };
                (60, Reply::Each(asked.recipients.iter().map(each).collect()))
            }
            _ => (1, Reply::Yes),
        }
    });
    world.domain = |id, number| {
        let kinds = ["dead", "grey", "cut", "fails", "slow", "works", "works", "works"];
        let kind = kinds[(id.bits() + u64::from(number) * 3) as usize % kinds.len()];
        format!("{kind}{}.example", id.bits() % 5)
    };
    let mut wanted = 0;
    for n in 0..messages {
        let count = (n % 7 + 1) as u16;
        wanted += u64::from(count);
        let part = Part { destination: provider(), recipients: (0..count).collect(), waits: 0, due: 0 };
        world.queue(&format!("login{}", n % 13), vec![part]);
        world.run(5 * DAY / messages);
    }
    world.run(8 * DAY);
    let mut ends: HashMap<(QueueId, u16), u32> = HashMap::new();
    for (_, action) in &world.log {
        if let Action::Sent { id, recipients } | Action::Fail { id, recipients } | Action::Expire { id, recipients, .. } = action
        {
            recipients.iter().for_each(|number| *ends.entry((*id, *number)).or_default() += 1);
        }
    }
    assert_eq!(ends.len() as u64, wanted, "{:?}", world.schedule.counts());
    assert!(ends.values().all(|times| *times == 1));
    assert_eq!(world.count(|action| matches!(action, Action::Settled { .. })) as u64, messages);
    assert_eq!((world.schedule.counts().messages, world.schedule.counts().pairs), (0, 0));
    let direct = world.count(|action| matches!(action, Action::Send(job) if job.destination != provider()));
    let back = world.count(|action| matches!(action, Action::Send(job) if job.destination == provider()));
    assert!(direct > 1000 && back > 1000, "{direct} {back}");
    assert_eq!(world.schedule.routes().len(), 1, "destinations are let go: {:?}", world.schedule.routes());
}

/// A route with very much mail, of which each domain takes little: what is lent and given back costs each message the same, however
/// much there is.
#[test]
fn a_hundred_thousand_are_lent_and_given_back() {
    let mut world = World::new(direct_meanwhile(), 20, |asked| match (asked.hop.as_str(), asked.time) {
        ("provider", HOUR..) => (1, Reply::Yes),
        _ => (1, Reply::No(Stage::Connect, Trouble::Dropped)),
    });
    world.domain = |id, _| format!("d{}.example", id.bits() % 200);
    for _ in 0..100_000 {
        world.accept("shop", &[provider()]);
    }
    world.run(50 * MINUTE);
    let lent = |world: &World| {
        world.schedule.routes().iter().filter(|row| row.destination != provider()).map(|row| row.pairs).sum::<u32>()
    };
    assert_eq!(lent(&world), 100_000);
    world.run(2 * HOUR);
    assert_eq!((lent(&world), world.schedule.counts().pairs as usize + world.sent.len()), (0, 100_000));
    assert!(world.sent.len() > 10_000, "{}", world.sent.len());
}
