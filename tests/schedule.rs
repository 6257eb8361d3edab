//! The schedule in a world where days pass at once.

#[path = "schedule/then.rs"]
mod then;
#[path = "schedule/world.rs"]
mod world;

use pillarbox::queue::QueueId;
use pillarbox::queue::schedule::*;
use pillarbox::smtp::remote::Stage;
use world::*;

fn live(name: &str) -> impl Fn(&Asked) -> (u64, Reply) + 'static {
    let name = name.to_owned();
    move |asked| if asked.hop == name { (1, Reply::Yes) } else { (30, Reply::No(Stage::Connect, Trouble::Dropped)) }
}

#[test]
fn a_message_is_sent_at_once_and_settled() {
    let mut world = World::new(settings(), 4, |_| (1, Reply::Yes));
    let id = world.accept("alice", &[provider(), Destination::mx("example.net")]);
    world.run(2);
    assert_eq!(world.begun(id), [0, 0]);
    assert_eq!(world.sent[&id], (1, 2));
    assert_eq!(world.count(|action| matches!(action, Action::Settled { .. })), 1);
    assert_eq!(world.schedule.counts(), Counts::default());
    assert_eq!(world.schedule.routes().len(), 1, "a domain is let go, a configured route is not");
}

/// 7 minutes, 20, 33 …, at most three hours, five per cent either way; warned once; returned at the fifth day.
#[test]
fn a_refused_recipient_waits_is_late_once_and_is_returned() {
    let mut world = World::new(settings(), 4, |_| (0, code(Stage::Recipient, 450)));
    let id = world.accept("alice", &[Destination::mx("example.net")]);
    world.run(6 * DAY);
    let begun = world.begun(id);
    let waits: Vec<u64> = begun.windows(2).map(|pair| pair[1] - pair[0]).collect();
    for (n, wait) in waits.iter().enumerate().take(waits.len() - 1) {
        let span = (400 * (2 * n as u64 + 1)).min(3 * HOUR);
        assert!(*wait >= span * 95 / 100 && *wait <= (span * 105 / 100 + 1).min(3 * HOUR), "{n}: {wait} for {span}");
    }
    assert_eq!(*begun.last().unwrap(), 5 * DAY, "the last attempt is made when the time is over");
    assert_eq!(world.times(|action| matches!(action, Action::Late { .. })), [4 * HOUR]);
    assert_eq!(world.times(|action| matches!(action, Action::Expire { .. })), [5 * DAY]);
    assert_eq!(world.count(|action| matches!(action, Action::Settled { .. })), 1);
}

#[test]
fn waits_of_messages_of_one_moment_are_spread() {
    let mut world = World::new(settings(), 50, |_| (0, code(Stage::Recipient, 450)));
    for n in 0..100 {
        world.accept("alice", &[Destination::mx(&format!("{n}.example"))]);
    }
    world.run(HOUR);
    let mut dues: Vec<u64> = world.times(|action| matches!(action, Action::Wait { waits: 2, .. })).into_iter().collect();
    dues.dedup();
    assert!(dues.len() > 20, "{dues:?}");
}

/// With A logins and k couriers a login's first message begins after at most ⌈A/k⌉+1 transactions.
#[test]
fn the_bound_of_the_turn_holds_for_a_new_login_at_a_new_destination() {
    let slow = 600;
    for couriers in [1, 2, 3, 8, 20] {
        let mut world = World::new(settings(), couriers, move |_| (slow, Reply::Yes));
        for n in 0..5000 {
            world.accept("news", &[Destination::mx(&format!("slow{n}.example"))]);
        }
        world.run(3 * slow + 100);
        let id = world.accept("shop", &[Destination::mx("new.example")]);
        let accepted = world.time();
        world.run(10 * slow);
        let bound = 2_u64.div_ceil(u64::from(couriers)) + 1;
        let waited = world.begun(id)[0] - accepted;
        assert!(waited <= bound * slow, "{couriers} couriers: {waited} s");
        assert!(couriers == 1 || waited == 0, "one login leaves half of {couriers} couriers: {waited}");
    }
}

#[test]
fn the_bound_of_the_turn_holds_for_many_logins() {
    for (logins, couriers) in [(1, 1), (5, 1), (7, 3), (20, 4), (50, 20), (100, 7)] {
        let mut world = World::new(settings(), couriers, |_| (10, Reply::Yes));
        world.run(1);
        for login in 0..logins {
            for n in 0..200_u64.min(6000 / logins) {
                world.accept(&format!("login{login}"), &[Destination::mx(&format!("{n}.{login}.example"))]);
            }
        }
        world.run(35);
        let id = world.accept("late", &[Destination::mx("new.example")]);
        let accepted = world.time();
        world.run(2 * 10 * (logins + 1));
        let bound = (logins + 1).div_ceil(u64::from(couriers)) + 1;
        assert!(world.begun(id)[0] - accepted <= 10 * bound, "{logins} logins, {couriers} couriers");
    }
}

/// At a smarthost its connections are what there is.
#[test]
fn ten_thousand_messages_of_one_login_do_not_delay_another_ones() {
    let mut world = World::new(settings(), 20, |_| (3, Reply::Yes));
    for _ in 0..10_000 {
        world.accept("news", &[provider()]);
    }
    world.run(3 * 50 + 1);
    assert_eq!(world.at_once["provider"].1, 4);
    let id = world.accept("shop", &[provider()]);
    let accepted = world.time();
    world.run(60);
    assert!(world.begun(id)[0] - accepted <= 2 * 3, "{}", world.begun(id)[0] - accepted);
}

/// A second connection opens for a second login or a full round, not for a few messages of one.
#[test]
fn further_connections_open_when_two_logins_or_a_round_wait() {
    let few = |logins: &[&str], messages| {
        let mut world = World::new(settings(), 8, |_| (10, Reply::Yes));
        for _ in 0..messages {
            for login in logins {
                world.accept(login, &[provider()]);
            }
        }
        world.run(1);
        world.at_once["provider"].1
    };
    assert_eq!(few(&["a"], 5), 1);
    assert_eq!(few(&["a", "b"], 1), 2);
    assert_eq!(few(&["a", "b", "c"], 1), 3);
    assert_eq!(few(&["a"], 30), 4, "a full round waits");
    let mut world = World::new(settings(), 8, |_| (10, Reply::Yes));
    for _ in 0..30 {
        world.accept("a", &[Destination::mx("example.net")]);
    }
    world.run(1);
    assert_eq!(world.at_once["example.net"].1, 2, "two for a domain");
}

/// A login holds at most as many couriers as stay free.
#[test]
fn one_login_never_holds_all_couriers() {
    let mut world = World::new(settings(), 10, |_| (100, Reply::Yes));
    for n in 0..100 {
        world.accept("news", &[Destination::mx(&format!("{n}.example"))]);
    }
    world.run(1);
    assert_eq!(world.schedule.counts().sending, 5);
}

/// A courier stays with its destination while no other login waits, and leaves it as soon as one does.
#[test]
fn a_courier_stays_while_no_other_login_waits() {
    let mut world = World::new(settings(), 1, |_| (1, Reply::Yes));
    for n in 0..6 {
        world.accept("a", &[Destination::mx(["x.example", "y.example"][n % 2])]);
    }
    world.run(100);
    let hops = |world: &World| -> Vec<(String, bool)> {
        let job = |action: &Action| match action {
            Action::Send(job) => Some((job.destination.name.to_string(), job.reuse)),
            _ => None,
        };
        world.log.iter().filter_map(|(_, action)| job(action)).collect()
    };
    let moves = hops(&world).windows(2).filter(|pair| pair[0].0 != pair[1].0).count();
    assert_eq!(moves, 1, "{:?}", hops(&world));
    assert_eq!(hops(&world).iter().filter(|(_, reuse)| *reuse).count(), 4);

    let mut world = World::new(settings(), 1, |_| (1, Reply::Yes));
    for _ in 0..10 {
        world.accept("a", &[Destination::mx("x.example")]);
    }
    let id = world.accept("b", &[Destination::mx("y.example")]);
    world.run(1);
    assert_eq!(world.begun(id), [1], "the next free moment is another login's");
}

/// Ten thousand for a route that is down: another goes on as if alone, and nothing is written for any message of the first.
#[test]
fn a_dead_route_costs_its_messages_nothing_and_others_no_time() {
    let mut settings = settings();
    settings.routes.push(RouteSettings::new("dead"));
    let mut world = World::new(settings, 8, live("provider"));
    let dead: Vec<QueueId> = (0..10_000).map(|_| world.accept("news", &[Destination::smarthost("dead")])).collect();
    world.run(10 * MINUTE);
    let mut waits = Vec::new();
    for _ in 0..200 {
        let id = world.accept("news", &[provider()]);
        let accepted = world.time();
        world.run(7);
        waits.push(world.begun(id)[0] - accepted);
    }
    assert!(waits.iter().all(|wait| *wait == 0), "{waits:?}");
    let first = dead[0].bits();
    let touched = world.count(|action| per_message(action).is_some_and(|id| id.bits() - first < 10_000));
    assert_eq!(touched, 0, "nothing is written for messages of the dead route");
    assert_eq!(world.count(|action| matches!(action, Action::RouteRests { .. })), 1);
    let told = world.times(|action| matches!(action, Action::Tell { .. }));
    assert_eq!(told, [30 + 15 * MINUTE]);
}

/// One minute, doubling to one hour; then everything goes out, and postmaster is told once each.
#[test]
fn a_route_is_probed_with_longer_pauses_and_recovers() {
    let mut world = World::new(settings(), 4, |asked| {
        if asked.time < DAY { (0, Reply::No(Stage::Connect, Trouble::NameUnresolved)) } else { (1, Reply::Yes) }
    });
    let ids: Vec<QueueId> = (0..500).map(|_| world.accept("shop", &[provider()])).collect();
    world.run(DAY - 1);
    let probes = world.times(|action| matches!(action, Action::Probe { .. }));
    let pauses: Vec<u64> = probes.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(probes[0], 60);
    assert_eq!(pauses[..6], [120, 240, 480, 960, 1920, 3600]);
    assert!(pauses[6..].iter().all(|pause| *pause == 3600), "{pauses:?}");
    assert_eq!(world.count(|action| per_message(action).is_some()), 0);
    world.run(3 * HOUR);
    assert_eq!(world.sent.len(), ids.len());
    assert_eq!(world.count(|action| matches!(action, Action::RouteWell { .. })), 1);
    let told: Vec<Option<Reason>> = world
        .log
        .iter()
        .filter_map(|(_, action)| match action {
            Action::Tell { reason, .. } => Some(*reason),
            _ => None,
        })
        .collect();
    assert_eq!(told, [Some(Reason::Dns), None]);
}

/// A domain that does not answer is nothing to tell postmaster of.
#[test]
fn a_dead_domain_is_logged_and_not_told() {
    let mut world = World::new(settings(), 4, live("provider"));
    let id = world.accept("shop", &[Destination::mx("dead.example")]);
    world.run(5 * MINUTE);
    let waits_for = world.schedule.message(id).unwrap().parts[0].waits_for;
    let probes = world.count(|action| matches!(action, Action::Probe { .. })) as u32;
    assert!(
        matches!(waits_for, WaitsFor::Route { failures, .. } if probes > 0 && failures == probes + 1),
        "{waits_for:?} after {probes} probes"
    );
    world.run(DAY);
    assert_eq!(world.count(|action| matches!(action, Action::RouteRests { .. })), 1);
    assert_eq!(world.count(|action| matches!(action, Action::Tell { .. })), 0);
}

fn told_of_mx(world: &World) -> Vec<(u64, Option<Reason>, u32, usize)> {
    let told = world.log.iter().filter_map(|(time, action)| match action {
        Action::TellDirect { reason, waiting, domains, .. } => Some((*time, *reason, *waiting, domains.len())),
        _ => None,
    });
    told.collect()
}

/// Where no domain is reached that is this side's: postmaster is told once, and once more when one works.
#[test]
fn that_mail_by_mx_reaches_no_domain_is_told_once() {
    let mut world = World::new(settings(), 20, |asked| match (asked.hop.as_str(), asked.time) {
        ("provider", _) | (_, 172_800..) => (1, Reply::Yes),
        _ => (30, Reply::No(Stage::Connect, Trouble::Dropped)),
    });
    for n in 0..7 {
        world.accept("shop", &[Destination::mx(&format!("{n}.example")), provider()]);
    }
    world.run(2 * DAY);
    let told = told_of_mx(&world);
    assert!(matches!(told[..], [(900..=1800, Some(Reason::Connect), 7, 5)]), "{told:?}");
    // `mx` means every domain.
    let (now, before) = (world.now(), world.count(|action| matches!(action, Action::Probe { .. })));
    assert!(world.schedule.route_try("mx", now));
    world.run(HOUR);
    assert!(world.count(|action| matches!(action, Action::Probe { .. })) >= before + 7);
    let told = told_of_mx(&world);
    assert!(matches!(told[..], [_, (172_800..=172_860, None, 7, 0)]), "{told:?}");
    assert_eq!(world.sent.values().filter(|(_, recipients)| *recipients == 2).count(), 7);
    let now = world.now();
    assert!(!world.schedule.route_try("mx", now), "none rests");
}

#[test]
fn that_one_domain_is_reached_says_enough_of_mail_by_mx() {
    let mut world = World::new(settings(), 20, |asked| match asked.hop.as_str() {
        "lives.example" => (1, Reply::Yes),
        _ => (30, Reply::No(Stage::Connect, Trouble::Dropped)),
    });
    for n in 0..7 {
        world.accept("shop", &[Destination::mx(&format!("{n}.example"))]);
    }
    for _ in 0..50 {
        world.accept("shop", &[Destination::mx("lives.example")]);
        world.run(30 * MINUTE);
    }
    assert_eq!(told_of_mx(&world), []);
    // One dead domain is its own affair, however long; so are name servers that know that one does not exist.
    let mut world = World::new(settings(), 20, |asked| match asked.hop.as_str() {
        "gone.example" => (1, Reply::No(Stage::Connect, Trouble::NameUnknown)),
        _ => (30, Reply::No(Stage::Connect, Trouble::NameUnresolved)),
    });
    for n in 0..5 {
        world.accept("shop", &[Destination::mx(&format!("{n}.example"))]);
    }
    for _ in 0..200 {
        world.accept("shop", &[Destination::mx("gone.example")]);
        world.run(5 * MINUTE);
    }
    assert_eq!(told_of_mx(&world), []);
}

#[test]
fn a_source_that_is_not_ours_is_told_at_once() {
    let mut world = World::new(settings(), 4, |asked| match asked.time {
        0..300 => (1, Reply::No(Stage::Connect, Trouble::Source)),
        _ => (1, Reply::Yes),
    });
    world.accept("shop", &[Destination::mx("a.example"), Destination::mx("b.example")]);
    world.run(HOUR);
    let told: Vec<_> = told_of_mx(&world).into_iter().map(|(time, reason, ..)| (time, reason)).collect();
    assert_eq!(told, [(1, Some(Reason::Source)), (424, None)]);
}

/// A domain rests and then says for good that it takes nothing: every message that waited fails, whatever was the probe.
#[test]
fn a_domain_that_goes_while_it_rests_fails_its_messages() {
    let finals = [Trouble::NameUnknown, Trouble::NoMail, Trouble::Loop, Trouble::NotRoutable];
    let rests = [
        (Stage::Connect, Trouble::Dropped),
        (Stage::Connect, Trouble::NameUnresolved),
        (Stage::Mail, Trouble::Reply { code: 503, status: None }),
    ];
    for (gone, first) in finals.into_iter().flat_map(|gone| rests.map(|first| (gone, first))) {
        let mut world = World::new(settings(), 4, move |asked| {
            let (stage, trouble) = if asked.time < 10 * MINUTE { first } else { (Stage::Connect, gone) };
            (1, Reply::No(stage, trouble))
        });
        for _ in 0..20 {
            world.accept("shop", &[Destination::mx("gone.example")]);
        }
        world.run(10 * MINUTE);
        assert_eq!(world.count(|action| matches!(action, Action::Fail { .. })), 0, "{first:?}");
        world.run(2 * HOUR);
        assert_eq!(world.count(|action| matches!(action, Action::Fail { .. })), 20, "{first:?}, {gone:?}");
        assert_eq!(world.schedule.counts(), Counts::default(), "{first:?}, {gone:?}");
    }
    // The same of a smarthost is the operator's to mend.
    let mut world = World::new(settings(), 4, |_| (1, Reply::No(Stage::Connect, Trouble::NameUnknown)));
    world.accept("shop", &[provider()]);
    world.run(DAY);
    assert_eq!(world.count(|action| matches!(action, Action::Fail { .. })), 0);
}

/// A server with as many connections as may be open: looked for again after the same while each time, and nothing is said of
/// it anywhere but once to the operator.
#[test]
fn a_full_server_is_no_attempt_and_lengthens_nothing() {
    let full = || Reply::No(Stage::Connect, Trouble::ServerFull);
    let mut world = World::new(settings(), 4, move |asked| match asked.time {
        0..1000 => (5, full()),
        1000..2000 => (1, code(Stage::Recipient, 450)),
        _ => (1, Reply::Yes),
    });
    let id = world.accept("shop", &[Destination::mx("full.example")]);
    world.run(20);
    let state = world.schedule.message(id).unwrap().parts.remove(0);
    assert_eq!((state.waits, state.waits_for), (0, WaitsFor::Connection(world.unix + 15)));
    world.run(980);
    let pauses: Vec<u64> = world.begun(id).windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(pauses.len() > 20 && pauses.iter().all(|pause| *pause == 35), "{pauses:?}");
    assert_eq!(world.count(|action| per_message(action).is_some()), 0, "nothing is written");
    assert_eq!(world.count(|action| matches!(action, Action::RouteRests { .. })), 0);
    assert_eq!(world.count(|action| matches!(action, Action::ServerFull { .. })), 1, "said once");
    // Its first own wait is the first, and `try` does not wait for the pause.
    world.run(1000);
    assert!(world.count(|action| matches!(action, Action::Wait { waits: 1, .. })) == 1);
    world.run(HOUR);
    assert_eq!(world.sent[&id].1, 1);
    world.rule = Box::new(|_| (5, Reply::No(Stage::Connect, Trouble::ServerFull)));
    world.keeps_open = false;
    let id = world.accept("shop", &[Destination::mx("full.example")]);
    world.run(6);
    world.operator(Verb::Try, id);
    assert_eq!(world.begun(id).len(), 2);
    // Five days of it, and it has had no attempt: it is late, and not returned.
    world.run(6 * DAY);
    assert_eq!(world.count(|action| matches!(action, Action::Late { .. })), 1);
    assert_eq!(world.count(|action| matches!(action, Action::Expire { .. })), 0);
}

/// A connection that becomes free is taken at once, by the destination that it is free for.
#[test]
fn a_connection_that_becomes_free_is_taken_at_once() {
    let full = Destination::mx("full.example");
    let mut world = World::new(settings(), 4, |asked| match asked.time {
        0..12 => (5, Reply::No(Stage::Connect, Trouble::ServerFull)),
        _ => (1, Reply::Yes),
    });
    let (id, other) =
        (world.accept("shop", std::slice::from_ref(&full)), world.accept("shop", &[Destination::mx("other.example")]));
    world.run(12);
    let now = Now { unix: world.unix, boot: world.boot };
    world.schedule.freed(&Destination::mx("gone.example"), now);
    world.schedule.freed(&full, now);
    world.run(1);
    assert_eq!((world.begun(id), world.begun(other)), (vec![0, 12], vec![0]));
    world.run(HOUR);
    assert_eq!((world.sent[&id].1, world.begun(other)), (1, vec![0, 35]));
    // What waits for another reason waits on.
    world.rule = Box::new(|asked| (1, if asked.id.is_some() { Reply::No(Stage::Connect, Trouble::Stopped) } else { Reply::Yes }));
    world.keeps_open = false;
    let id = world.accept("shop", std::slice::from_ref(&full));
    world.run(2);
    world.schedule.freed(&full, Now { unix: world.unix, boot: world.boot });
    world.run(2);
    assert_eq!(world.begun(id).len(), 1);
}

/// Where connections are all taken, one of this destination that is open is used all the same.
#[test]
fn an_open_connection_serves_while_no_other_is_to_be_had() {
    let first = std::cell::Cell::new(None);
    let mut world = World::new(settings(), 4, move |asked| match (asked.id, first.get()) {
        (Some(id), None) => {
            first.set(Some(id));
            (10, code(Stage::Recipient, 550))
        }
        (Some(_), Some(_)) if asked.time < 10 => (5, Reply::No(Stage::Connect, Trouble::ServerFull)),
        _ => (1, Reply::Yes),
    });
    world.accept("a", &[Destination::mx("full.example")]);
    let id = world.accept("b", &[Destination::mx("full.example")]);
    world.run(HOUR);
    assert_eq!((world.begun(id), world.sent[&id].0), (vec![0, 10], 11));
}

/// What the end of the server cut short is no one's fault.
#[test]
fn a_stop_blames_no_route() {
    let mut world = World::new(settings(), 4, |asked| match asked.time {
        0..10 => (1, Reply::No(Stage::Connect, Trouble::Stopped)),
        _ => (1, Reply::Yes),
    });
    let id = world.accept("shop", &[provider()]);
    world.run(HOUR);
    assert_eq!((world.begun(id), world.sent[&id].1), (vec![0, 31], 1));
    assert_eq!(world.count(|action| matches!(action, Action::RouteRests { .. } | Action::Wait { .. })), 0);
}

/// A probe that had no place at the server has learnt nothing: no rest begins, and one that there is keeps its reason.
#[test]
fn a_probe_without_a_result_blames_no_domain() {
    let mut world = World::new(settings(), 4, |asked| match asked.id {
        Some(_) => (1, code(Stage::Mail, 421)),
        None => (1, Reply::No(Stage::Connect, Trouble::Internal)),
    });
    world.accept("shop", &[Destination::mx("full.example")]);
    world.run(HOUR);
    assert!(world.count(|action| matches!(action, Action::Probe { .. })) > 0);
    assert!(world.count(|action| matches!(action, Action::Wait { .. })) > 0);
    assert_eq!(world.count(|action| matches!(action, Action::RouteRests { .. })), 0);
    let mut world = World::new(settings(), 4, |asked| match asked.id {
        Some(_) => (1, Reply::No(Stage::Connect, Trouble::Dropped)),
        None => (1, Reply::No(Stage::Connect, Trouble::Internal)),
    });
    world.accept("shop", &[Destination::mx("full.example")]);
    world.run(HOUR);
    let reasons: Vec<_> = world.schedule.routes().into_iter().filter_map(|route| route.rest.map(|rest| rest.reason)).collect();
    assert_eq!(reasons, [Reason::Connect]);
}

/// Nor is the rest any longer for it, nor is a message returned as if its route had been tried.
#[test]
fn a_probe_without_a_result_lengthens_no_rest() {
    let connect = (Stage::Connect, Trouble::Dropped);
    // The probe is a message where the fault was that of a transaction; what a message meets by a defect is its own wait.
    let mail = (Stage::Mail, Trouble::Reply { code: 503, status: None });
    let rows = [
        (connect, Trouble::Internal),
        (connect, Trouble::ServerFull),
        (connect, Trouble::Stopped),
        (mail, Trouble::ServerFull),
        (mail, Trouble::Stopped),
    ];
    for ((stage, first), trouble) in rows {
        let mut world = World::new(settings(), 4, move |asked| match asked.time {
            1..300 => (1, Reply::No(Stage::Connect, trouble)),
            _ => (1, Reply::No(stage, first)),
        });
        world.accept("shop", &[Destination::mx("full.example")]);
        world.run(HOUR);
        let is_probe = |action: &Action| matches!(action, Action::Probe { .. } | Action::Send(_));
        let probes: Vec<u64> = world.times(is_probe).into_iter().filter(|time| *time > 1).collect();
        let pauses: Vec<u64> = probes.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let without = pauses.iter().take_while(|pause| **pause == 31).count();
        // The first rest was a minute, so that the next real failure makes it two.
        assert_eq!((probes[0], without, pauses[without]), (61, 8, 121), "{trouble:?} {stage:?}: {probes:?}");
    }
    let mut world = World::new(settings(), 4, |asked| match asked.time {
        0 => (1, Reply::No(Stage::Connect, Trouble::Dropped)),
        _ => (1, Reply::No(Stage::Connect, Trouble::ServerFull)),
    });
    world.accept("shop", &[Destination::mx("full.example")]);
    world.run(6 * DAY);
    assert_eq!(world.count(|action| matches!(action, Action::Expire { .. })), 0);
}

#[test]
fn a_wrong_password_is_tried_once_an_hour_or_when_it_has_changed() {
    let refused = || status(Stage::Auth, 535, (5, 7, 8));
    let mut world =
        World::new(settings(), 4, move |asked| if asked.time < 5 * HOUR + 100 { (1, refused()) } else { (1, Reply::Yes) });
    for _ in 0..50 {
        world.accept("shop", &[provider()]);
    }
    world.run(3 * HOUR + 100);
    let probes = world.times(|action| matches!(action, Action::Probe { .. }));
    assert_eq!(probes, [1 + HOUR, 2 + 2 * HOUR, 3 + 3 * HOUR]);
    assert_eq!(world.times(|action| matches!(action, Action::Tell { .. })), [1], "at once");
    // `queue try` is no reason for another AUTH; `routes try` and a new password are.
    let id = world.schedule.ids()[7];
    world.operator(Verb::Try, id);
    world.run(10);
    assert_eq!(world.count(|action| matches!(action, Action::Probe { .. })), 3);
    let now = world.now();
    assert!(world.schedule.route_try("provider", now));
    world.run(10);
    assert_eq!(world.count(|action| matches!(action, Action::Probe { .. })), 4);
    world.run(2 * HOUR);
    let now = world.now();
    world.schedule.credentials_changed("provider", now);
    world.run(100);
    assert_eq!(world.sent.len(), 50);
    assert_eq!(world.count(|action| matches!(action, Action::Fail { .. } | Action::Expire { .. } | Action::Wait { .. })), 0);
    assert_eq!(world.count(|action| matches!(action, Action::RouteRests { .. } | Action::RouteWell { .. })), 2);
}

#[test]
fn a_connection_in_work_does_not_end_the_rest_after_a_refused_login() {
    // The first connection logged in before the password was withdrawn, and its message takes long.
    let mut world = World::new(settings(), 4, |asked| match asked.time {
        0 => (100, Reply::Yes),
        _ => (1, status(Stage::Auth, 535, (5, 7, 8))),
    });
    world.accept("a", &[provider()]);
    world.run(1);
    world.accept("b", &[provider()]);
    world.run(30 * MINUTE);
    assert_eq!(world.count(|action| matches!(action, Action::RouteWell { .. } | Action::Probe { .. })), 0);
}

#[test]
fn an_expired_certificate_is_told_at_once() {
    let mut world = World::new(settings(), 4, |asked| {
        if asked.time < HOUR { (1, Reply::No(Stage::Tls, Trouble::Certificate)) } else { (1, Reply::Yes) }
    });
    for _ in 0..50 {
        world.accept("shop", &[provider()]);
    }
    world.run(3 * HOUR);
    assert_eq!(world.times(|action| matches!(action, Action::Tell { reason: Some(Reason::Certificate), .. })), [1]);
    assert_eq!((world.sent.len(), world.count(|action| matches!(action, Action::Fail { .. }))), (50, 0));
}

/// A provider that refuses everything, a quota that is used up: nothing bounces, and all go out after it.
#[test]
fn a_quota_bounces_nothing() {
    let rules: [fn() -> Reply; 5] = [
        || code(Stage::Mail, 550),
        || status(Stage::Dot, 554, (5, 7, 1)),
        || status(Stage::Mail, 550, (5, 4, 5)),
        || code(Stage::Data, 554),
        || status(Stage::Mail, 530, (5, 7, 0)),
    ];
    for (n, no) in rules.into_iter().enumerate() {
        let mut world = World::new(settings(), 4, move |asked| {
            if asked.time > 100 && asked.time < DAY && asked.id.is_some() { (1, no()) } else { (1, Reply::Yes) }
        });
        world.accept("shop", &[provider()]);
        world.run(101);
        for _ in 0..300 {
            world.accept("shop", &[provider()]);
        }
        world.run(DAY);
        assert!(world.count(|action| matches!(action, Action::Send(_))) < 60, "{n}: few attempts while it rests");
        world.run(DAY);
        assert_eq!(world.count(|action| matches!(action, Action::Fail { .. } | Action::Expire { .. })), 0, "{n}");
        assert_eq!(world.sent.len(), 301, "{n}");
        assert_eq!(world.count(|action| matches!(action, Action::Tell { .. })), 2, "{n}");
        assert_eq!(world.count(|action| matches!(action, Action::RouteRests { .. })), 1, "{n}");
    }
}

/// A provider that refuses everything is asked with one message an hour, each time with another.
#[test]
fn one_message_an_hour_probes_what_refuses_everything() {
    let mut world = World::new(settings(), 4, |_| (1, code(Stage::Mail, 550)));
    for _ in 0..300 {
        world.accept("shop", &[provider()]);
    }
    world.run(DAY);
    let begun = world.times(|action| matches!(action, Action::Send(_)));
    let after: Vec<u64> = begun.iter().copied().filter(|time| *time > 60).collect();
    assert!(after.windows(2).all(|pair| pair[1] - pair[0] >= HOUR), "{after:?}");
    assert!(after.len() > 20, "{after:?}");
    let kept = world.count(|action| matches!(action, Action::Keep { .. }));
    assert_eq!(kept, 4, "until the fifth it was open");
    assert_eq!(world.count(|action| matches!(action, Action::Fail { .. })), 0);
}

/// A refusal stands: at once where the same server accepts another message, soon where nothing else is sent.
#[test]
fn a_single_refusal_stands() {
    let bad = |asked: &Asked| asked.id.is_some_and(|id| id.bits() % 5 == 0);
    let mut world = World::new(settings(), 1, move |asked| if bad(asked) { (1, code(Stage::Dot, 554)) } else { (1, Reply::Yes) });
    for _ in 0..100 {
        world.accept("shop", &[provider()]);
    }
    world.run(150);
    assert_eq!(world.count(|action| matches!(action, Action::Fail { .. })), 20);
    assert_eq!((world.sent.len(), world.schedule.counts().messages), (80, 0));
    assert_eq!(world.count(|action| matches!(action, Action::RouteRests { .. })), 0);

    let mut world = World::new(settings(), 4, |_| (1, code(Stage::Dot, 554)));
    let start = world.time();
    world.accept("shop", &[provider()]);
    world.run(HOUR);
    assert_eq!(world.times(|action| matches!(action, Action::Fail { .. })), [start + 21]);
    // The next one in a row waits longer for an acceptance that would show that it was the message.
    world.accept("shop", &[provider()]);
    world.run(30 * MINUTE);
    assert_eq!(world.count(|action| matches!(action, Action::Fail { .. })), 1);
    world.rule = Box::new(|_| (1, Reply::Yes));
    world.accept("shop", &[provider()]);
    world.run(2);
    assert_eq!(world.count(|action| matches!(action, Action::Fail { .. })), 2);
}

/// Addresses that do not exist say nothing about a smarthost; nor do refusals of one domain's recipients.
#[test]
fn bad_addresses_do_not_trip_the_breaker() {
    let mut world = World::new(settings(), 4, |_| (1, status(Stage::Recipient, 550, (5, 1, 1))));
    for _ in 0..50 {
        world.accept("shop", &[provider()]);
    }
    world.run(100);
    assert_eq!(world.count(|action| matches!(action, Action::Fail { .. })), 50);
    let same = |number| Reply::Each(vec![(number, Some((Stage::Recipient, Trouble::Reply { code: 550, status: None })))]);
    let mut world = World::new(settings(), 4, move |asked| (1, same(asked.recipients[0])));
    for _ in 0..50 {
        world.accept("shop", &[provider()]);
    }
    world.run(100);
    assert_eq!(world.count(|action| matches!(action, Action::Fail { .. })), 50);
    assert_eq!(world.count(|action| matches!(action, Action::RouteRests { .. })), 0);
    // Recipients of five domains: everything is refused.
    let mut world = World::new(settings(), 1, move |asked| (1, same(asked.recipients[0])));
    for number in 0..5 {
        let part = Part { destination: provider(), recipients: vec![number], waits: 0, due: 0 };
        world.queue("shop", vec![part]);
    }
    world.run(100);
    assert_eq!(world.count(|action| matches!(action, Action::Fail { .. })), 0);
    assert_eq!(world.schedule.routes()[0].rest.unwrap().reason, Reason::RefusesEverything);
}

/// Three temporary refusals in a row: a rest of 10 s that doubles to 15 min, then one courier.
#[test]
fn temporary_refusals_slow_a_smarthost_down() {
    let mut world =
        World::new(settings(), 4, |asked| if asked.time < 4 * HOUR { (0, code(Stage::Mail, 451)) } else { (1, Reply::Yes) });
    for _ in 0..200 {
        world.accept("shop", &[provider()]);
    }
    world.run(4 * HOUR - 1);
    let begun = world.times(|action| matches!(action, Action::Send(_)));
    assert!(begun.iter().filter(|time| **time == 0).count() <= 4, "{begun:?}");
    let later: Vec<u64> = begun.iter().copied().filter(|time| *time > 0).collect();
    assert_eq!(later[..7], [10, 30, 70, 150, 310, 630, 1270]);
    assert!(later[7..].windows(2).all(|pair| pair[1] - pair[0] == 15 * MINUTE), "{later:?}");
    world.run(6 * HOUR);
    assert_eq!(world.sent.len(), 200);
    assert_eq!(world.count(|action| matches!(action, Action::Expire { .. } | Action::Fail { .. })), 0);
}

/// An extra connection that is refused while another works: no rest, only fewer connections.
#[test]
fn a_refused_extra_connection_only_lowers_the_number() {
    let open = std::rc::Rc::new(std::cell::Cell::new(0));
    let counter = std::rc::Rc::clone(&open);
    let mut world = World::new(settings(), 8, move |_| {
        // One connection is allowed: the second is refused at the greeting.
        counter.set(counter.get() + 1);
        if counter.get() > 3 && counter.get() % 10 == 4 { (0, code(Stage::Greeting, 421)) } else { (10, Reply::Yes) }
    });
    world.accept("a", &[provider()]);
    world.accept("a", &[provider()]);
    world.run(11);
    world.accept("b", &[provider()]);
    world.accept("c", &[provider()]);
    world.run(1);
    assert_eq!(world.count(|action| matches!(action, Action::RouteRests { .. })), 0);
    assert!(world.schedule.routes()[0].connections < 4, "{:?}", world.schedule.routes());
    for _ in 0..300 {
        world.accept("a", &[provider()]);
    }
    world.rule = Box::new(|_| (1, Reply::Yes));
    world.drain(HOUR);
    assert_eq!(world.schedule.routes()[0].connections, 4, "and after many acceptances the number rises again");
}

/// A line cut after MAIL rests the pair; an empty probe shows that the route is well, so the message waits.
#[test]
fn a_cut_line_after_mail_rests_the_pair_and_asks_for_a_probe() {
    let poison = std::rc::Rc::new(std::cell::Cell::new(QueueId::from_bits(0)));
    let seen = std::rc::Rc::clone(&poison);
    let mut world = World::new(settings(), 4, move |asked| {
        if asked.id == Some(seen.get()) { (1, Reply::No(Stage::Data, Trouble::Dropped)) } else { (1, Reply::Yes) }
    });
    poison.set(QueueId::from_bits((1_700_000_000 << 20) + 1));
    assert_eq!(world.accept("a", &[provider()]), poison.get());
    let other = world.accept("a", &[provider()]);
    world.run(3);
    assert_eq!(world.count(|action| matches!(action, Action::Probe { .. })), 1);
    assert_eq!(world.count(|action| matches!(action, Action::Wait { id, .. } if *id == poison.get())), 1);
    let elsewhere = world.accept("b", &[provider()]);
    world.run(2);
    assert!(world.sent.contains_key(&elsewhere), "another login is not concerned");
    assert!(!world.sent.contains_key(&other), "the pair rests");
    world.run(2 * MINUTE);
    assert!(world.sent.contains_key(&other));
    assert_eq!(world.count(|action| matches!(action, Action::RouteRests { .. })), 0);
    // The route itself is down: the message has not waited.
    let mut world = World::new(settings(), 4, |asked| match asked.id {
        Some(_) => (1, code(Stage::Mail, 421)),
        None => (1, Reply::No(Stage::Connect, Trouble::Dropped)),
    });
    world.accept("a", &[provider()]);
    world.run(HOUR);
    assert_eq!(world.count(|action| per_message(action).is_some()), 0);
    assert_eq!(world.count(|action| matches!(action, Action::RouteRests { .. })), 1);
}

#[test]
fn what_may_have_arrived_is_sent_again_or_held() {
    for hold in [false, true] {
        let settings = Settings { hold_unanswered: hold, ..settings() };
        let mut world = World::new(settings, 4, |asked| match (asked.id, asked.time) {
            (Some(_), 0) => (1, Reply::No(Stage::Dot, Trouble::Unanswered)),
            _ => (1, Reply::Yes),
        });
        let id = world.accept("a", &[provider()]);
        world.run(HOUR);
        let held = world.count(|action| matches!(action, Action::Hold { why: HeldWhy::MayHaveArrived, .. }));
        assert_eq!((held, world.sent.len()), if hold { (1, 0) } else { (0, 1) });
        if hold {
            assert_eq!(world.operator(Verb::Release, id), Answer::Done);
            world.run(100);
            assert_eq!(world.sent.len(), 1);
        }
    }
}

#[test]
fn recipients_have_results_of_their_own() {
    let no = |number: u16, code| (number, Some((Stage::Recipient, Trouble::Reply { code, status: None })));
    let mut world = World::new(settings(), 4, move |asked| {
        if asked.time > 0 && asked.recipients.len() < 3 {
            return (1, Reply::Yes);
        }
        // Two are taken, the fifth is bad, the sixth waits, and after these there are too many.
        let each = asked.recipients.iter().map(|number| match number {
            5 | 7 => (*number, None),
            9 => no(9, 550),
            10 => no(10, 451),
            other => no(*other, 452),
        });
        (1, Reply::Each(each.collect()))
    });
    let recipients = vec![5, 7, 9, 10, 20, 21];
    let id = world.queue("shop", vec![Part { destination: provider(), recipients, waits: 0, due: 0 }]);
    world.run(3);
    let wanted = [
        Action::Sent { id, recipients: vec![5, 7] },
        Action::Fail { id, recipients: vec![9] },
        Action::Sent { id, recipients: vec![20, 21] },
    ];
    let got: Vec<&Action> = world.log.iter().map(|(_, action)| action).filter(|action| wanted.contains(action)).collect();
    assert_eq!(got, wanted.iter().collect::<Vec<_>>());
    let state = world.schedule.message(id).unwrap();
    assert_eq!(state.parts.len(), 1);
    assert_eq!((state.parts[0].recipients.clone(), state.parts[0].waits), (vec![10], 1));
    assert!(matches!(state.parts[0].waits_for, WaitsFor::Time(_)));
    world.run(HOUR);
    assert_eq!(world.sent[&id].1, 5);
}

#[test]
fn once_more_without_parameters_and_no_more() {
    let mut world = World::new(settings(), 4, |asked| if asked.plain { (1, Reply::Yes) } else { (1, code(Stage::Mail, 555)) });
    let id = world.accept("a", &[Destination::mx("example.net")]);
    world.run(2);
    assert_eq!(world.begun(id), [0, 1]);
    assert_eq!(world.sent.len(), 1);
    let mut world = World::new(settings(), 4, |_| (1, code(Stage::Mail, 555)));
    let id = world.accept("a", &[Destination::mx("example.net")]);
    world.run(10);
    assert_eq!(world.begun(id).len(), 2);
    assert_eq!(world.count(|action| matches!(action, Action::Fail { .. })), 1);
}

/// A transaction without a result for any recipient is not repeated at once for ever.
#[test]
fn an_attempt_without_any_result_waits() {
    let mut world = World::new(settings(), 4, |_| (0, Reply::Each(Vec::new())));
    let id = world.accept("a", &[provider()]);
    world.run(MINUTE);
    assert_eq!(world.begun(id).len(), 1);
    assert_eq!(world.count(|action| matches!(action, Action::Wait { .. })), 1);
}

#[test]
fn a_rate_is_kept() {
    for (rate, seconds, most) in [(Rate { count: 10, seconds: 1 }, 100, 1000), (Rate { count: 20, seconds: 60 }, 600, 200)] {
        let mut settings = settings();
        settings.routes[0].rate = Some(rate);
        settings.routes[0].connections = 50;
        let mut world = World::new(settings, 100, |_| (0, Reply::Yes));
        // What is not used is not saved up.
        world.run(1000);
        for n in 0..3000 {
            world.accept(&format!("login{}", n % 7), &[provider()]);
        }
        world.run(seconds - 1);
        let begun = world.times(|action| matches!(action, Action::Send(_)));
        let begun: Vec<u64> = begun.into_iter().map(|time| time - 1000).collect();
        assert!(begun.len() <= most && begun.len() + most / 20 >= most, "{rate:?}: {}", begun.len());
        for start in 0..seconds - u64::from(rate.seconds) {
            let inside = begun.iter().filter(|time| (start..start + u64::from(rate.seconds)).contains(time)).count();
            assert!(inside <= rate.count as usize, "{rate:?}: {inside} from {start}");
        }
    }
}

/// `then` is used while the first one rests, and no longer.
#[test]
fn another_route_is_used_while_one_rests() {
    let mut settings = settings();
    settings.routes[0].then = Some(Then::Route("other".to_owned()));
    settings.routes.push(RouteSettings::new("other"));
    let mut world = World::new(settings, 4, |asked| match (asked.hop.as_str(), asked.time) {
        ("provider", 0..HOUR) => (1, Reply::No(Stage::Connect, Trouble::Dropped)),
        _ => (1, Reply::Yes),
    });
    for _ in 0..20 {
        world.accept("shop", &[provider()]);
    }
    world.run(MINUTE);
    assert_eq!(world.sent.len(), 20);
    let by = |world: &World| {
        let last = world.log.iter().rev().find_map(|(_, action)| match action {
            Action::Send(job) => Some(job.destination.name.to_string()),
            _ => None,
        });
        last.unwrap()
    };
    assert_eq!(by(&world), "other");
    world.run(3 * HOUR);
    world.accept("shop", &[provider()]);
    world.run(2);
    assert_eq!(by(&world), "provider");
}

/// Of a smarthost that rests, and of mail by MX that reaches nothing, postmaster knows; of one domain it does not.
#[test]
fn a_notice_tells_whether_postmaster_knows() {
    let told = |destinations: &[Destination]| -> Vec<bool> {
        let mut world = World::new(settings(), 4, |_| (1, Reply::No(Stage::Connect, Trouble::Dropped)));
        for destination in destinations {
            world.accept("shop", std::slice::from_ref(destination));
        }
        world.run(6 * HOUR);
        let notice = |(_, action): &(u64, Action)| match action {
            Action::LateNotice { told, .. } => Some(*told),
            _ => None,
        };
        world.log.iter().filter_map(notice).collect()
    };
    let domains: Vec<Destination> = (0..6).map(|n| Destination::mx(&format!("{n}.example"))).collect();
    assert_eq!(told(&[provider()]), [true]);
    assert_eq!(told(&domains[..1]), [false]);
    assert_eq!(told(&domains[..4]), [false; 4]);
    assert_eq!(told(&domains), [true; 6]);
}

/// While a route rests, one notice a login; a report of its own only for a message that asked for it.
#[test]
fn late_messages_of_a_resting_route_are_one_notice_a_login() {
    let mut world = World::new(settings(), 4, |_| (1, Reply::No(Stage::Connect, Trouble::Dropped)));
    for n in 0..200 {
        world.accept(["shop", "news"][n % 2], &[provider()]);
        world.run(10);
    }
    world.run(6 * HOUR);
    let notices: Vec<(&str, u32)> = world
        .log
        .iter()
        .filter_map(|(_, action)| match action {
            Action::LateNotice { login, count, .. } => Some((&**login, *count)),
            _ => None,
        })
        .collect();
    assert_eq!(notices, [("shop", 100), ("news", 100)]);
    assert_eq!(world.count(|action| per_message(action).is_some()), 0);
    let part = Part { destination: provider(), recipients: vec![0], waits: 0, due: 0 };
    let id = QueueId::from_bits(5);
    let since = world.unix;
    let queued = Queued {
        id,
        login: "shop".into(),
        since,
        scanned: false,
        asks_delay: true,
        warned: false,
        held: None,
        parts: vec![part],
    };
    let now = world.now();
    assert!(world.schedule.accepted(&queued, now));
    world.run(5 * HOUR);
    assert_eq!(world.count(|action| matches!(action, Action::Late { id: late, reason: Some(_), .. } if *late == id)), 1);
}

/// Messages of a route that is down are returned at the end, at a bounded rate, and only while probes are being made.
#[test]
fn what_waits_for_a_resting_route_is_returned_at_a_bounded_rate() {
    let mut world = World::new(settings(), 4, |_| (1, Reply::No(Stage::Connect, Trouble::Dropped)));
    for _ in 0..600 {
        world.accept("shop", &[provider()]);
    }
    world.run(5 * DAY - 1);
    assert_eq!(world.count(|action| matches!(action, Action::Expire { .. })), 0);
    world.run(2 * HOUR);
    let over = world.times(|action| matches!(action, Action::Expire { reason: Some(Reason::Connect), .. }));
    assert_eq!(over.len(), 600);
    let probes = world.times(|action| matches!(action, Action::Probe { .. }));
    for time in &over {
        assert!(over.iter().filter(|other| *other == time).count() <= 10, "{over:?}");
        assert!(probes.iter().any(|probe| probe <= time && probe + HOUR + 2 >= *time), "{time}: no probe in the hour before");
    }
    assert_eq!(world.schedule.counts().messages, 0);
}

/// A probe that takes very long: nothing is returned before it has answered.
#[test]
fn nothing_is_returned_without_a_probe_in_the_hour_before() {
    let mut world = World::new(settings(), 4, |asked| {
        let slow = if asked.time > 4 * DAY { 6 * HOUR } else { 1 };
        (slow, Reply::No(Stage::Connect, Trouble::Dropped))
    });
    for _ in 0..20 {
        world.accept("shop", &[provider()]);
    }
    world.run(6 * DAY);
    let probes = world.times(|action| matches!(action, Action::Probe { .. }));
    let over = world.times(|action| matches!(action, Action::Expire { .. }));
    assert_eq!(over.len(), 20);
    for time in over {
        let answered = probes.iter().map(|begun| if *begun > 4 * DAY { begun + 6 * HOUR } else { begun + 1 });
        assert!(answered.into_iter().any(|end| end <= time && end + HOUR >= time), "{time}");
    }
}

fn scanned(world: &mut World, id: u64, since: u64, due: u64) -> QueueId {
    let id = QueueId::from_bits(id);
    let part = Part { destination: Destination::mx("example.net"), recipients: vec![0], waits: 9, due };
    let queued =
        Queued { id, login: "shop".into(), since, scanned: true, asks_delay: false, warned: true, held: None, parts: vec![part] };
    let now = world.now();
    assert!(world.schedule.accepted(&queued, now));
    id
}

/// The clock jumps ahead: what was read from the disk seems old, and is not returned within the hour.
#[test]
fn a_clock_that_jumps_ahead_returns_nothing_for_an_hour() {
    for jump in [HOUR, 30 * DAY] {
        let mut world = World::new(settings(), 4, |_| (1, code(Stage::Recipient, 450)));
        let (since, due) = (world.unix - DAY, world.unix);
        scanned(&mut world, 1, since, due);
        let fresh = world.accept("shop", &[Destination::mx("example.org")]);
        world.run(MINUTE);
        world.unix += jump;
        let at = world.time();
        // Attempts go on meanwhile.
        for _ in 0..5 {
            world.operator(Verb::Try, QueueId::from_bits(1));
            world.run(10 * MINUTE);
        }
        assert_eq!(world.count(|action| matches!(action, Action::Expire { .. })), 0, "{jump}");
        world.run(4 * DAY);
        let over = world.times(|action| matches!(action, Action::Expire { id, .. } if id.bits() == 1));
        assert!(!over.is_empty(), "{jump}");
        assert!(jump == HOUR || over[0] >= at + HOUR && over[0] <= at + 5 * HOUR, "{jump}: {over:?}");
        // What was accepted in this life of the server is as old as it is.
        assert_eq!(world.count(|action| matches!(action, Action::Expire { id, .. } if *id == fresh)), 0);
        world.run(2 * DAY);
        assert_eq!(world.times(|action| matches!(action, Action::Expire { id, .. } if *id == fresh)).len(), 1);
    }
}

/// The clock jumps back: nothing waits for days for a time stamp.
#[test]
fn a_clock_that_jumps_back_holds_nothing_up() {
    let mut world =
        World::new(settings(), 4, |asked| if asked.time < HOUR { (1, code(Stage::Recipient, 450)) } else { (1, Reply::Yes) });
    let id = world.accept("shop", &[Destination::mx("example.net")]);
    world.run(30 * MINUTE);
    world.unix -= 20 * DAY;
    world.run(4 * HOUR);
    assert!(world.sent.contains_key(&id));
    // A time stamp far ahead, from the clock before.
    let (since, due) = (world.unix, world.unix + 20 * DAY);
    let id = scanned(&mut world, 7, since, due);
    world.run(4 * HOUR);
    assert!(world.sent.contains_key(&id));
}

#[test]
fn verbs_on_a_message_that_waits() {
    let wait =
        || World::new(settings(), 4, |asked| if asked.time < 100 { (1, code(Stage::Recipient, 450)) } else { (10, Reply::Yes) });
    let mut world = wait();
    let id = world.accept("a", &[Destination::mx("example.net"), Destination::mx("example.org")]);
    world.run(200);
    assert_eq!(world.operator(Verb::Release, id), Answer::Nothing);
    assert_eq!(world.operator(Verb::Try, id), Answer::Done);
    world.run(20);
    assert_eq!(world.sent[&id], (210, 2));
    assert_eq!(world.operator(Verb::Try, id), Answer::Unknown);

    let mut world = wait();
    let id = world.accept("a", &[Destination::mx("example.net")]);
    world.run(200);
    assert_eq!(world.operator(Verb::Hold, id), Answer::Done);
    assert_eq!(world.operator(Verb::Hold, id), Answer::Nothing);
    assert_eq!(world.operator(Verb::Try, id), Answer::Nothing);
    world.run(10 * DAY);
    assert_eq!(world.begun(id).len(), 1, "held: neither sent nor returned nor late");
    assert_eq!(world.count(|action| matches!(action, Action::Expire { .. } | Action::Late { .. })), 0);
    assert_eq!(world.schedule.message(id).unwrap().parts[0].waits_for, WaitsFor::Person);
    world.rule = Box::new(|_| (1, code(Stage::Recipient, 450)));
    assert_eq!(world.operator(Verb::Release, id), Answer::Done);
    world.run(4 * DAY);
    assert_eq!(world.count(|action| matches!(action, Action::Expire { .. })), 0, "the age counts from the release");
    world.run(2 * DAY);
    assert_eq!(world.count(|action| matches!(action, Action::Expire { .. })), 1);

    for verb in [Verb::Return, Verb::Drop] {
        let mut world = wait();
        let id = world.accept("a", &[Destination::mx("example.net"), provider()]);
        world.run(50);
        assert_eq!(world.operator(verb, id), Answer::Done);
        let last: Vec<&Action> = world.log.iter().rev().take(2).map(|(_, action)| action).collect();
        assert_eq!(last[0], &Action::Settled { id });
        let wanted = if verb == Verb::Drop { Action::Drop { id } } else { Action::Return { id, recipients: vec![0, 1] } };
        assert_eq!(last[1], &wanted);
        assert_eq!(world.schedule.counts(), Counts { resting: world.schedule.counts().resting, ..Counts::default() });
        world.run(DAY);
    }
}

/// A verb on a message that is being sent takes effect when the attempt is finished.
#[test]
fn verbs_on_a_message_that_is_being_sent() {
    let deferred = || World::new(settings(), 4, |_| (100, code(Stage::Recipient, 450)));
    for verb in [Verb::Hold, Verb::Return, Verb::Drop, Verb::Try] {
        let mut world = deferred();
        let id = world.accept("a", &[Destination::mx("example.net")]);
        world.run(10);
        assert_eq!(world.operator(verb, id), Answer::Later);
        assert!(world.schedule.message(id).unwrap().verbs_wait);
        assert_eq!(world.count(|action| per_message(action).is_some()), 0, "{verb:?} while it is being sent");
        world.run(100);
        let done = |world: &World| {
            world.times(|action| match verb {
                Verb::Hold => matches!(action, Action::Hold { .. }),
                Verb::Return => matches!(action, Action::Return { .. }),
                Verb::Drop => matches!(action, Action::Drop { .. }),
                Verb::Try | Verb::Release => matches!(action, Action::Send(_)),
            })
        };
        assert_eq!(done(&world).last(), Some(&100), "{verb:?}");
    }
    // A held one again, in one go.
    let mut world = deferred();
    let id = world.accept("a", &[Destination::mx("example.net")]);
    world.run(10);
    assert_eq!(world.operator(Verb::Hold, id), Answer::Later);
    assert_eq!(world.operator(Verb::Release, id), Answer::Later);
    world.run(95);
    assert_eq!(world.count(|action| matches!(action, Action::Release { .. })), 1);
    assert_eq!(world.begun(id), [0, 100]);
    // Sent meanwhile: the verb has nothing to do.
    let mut world = World::new(settings(), 4, |_| (100, Reply::Yes));
    let id = world.accept("a", &[Destination::mx("example.net")]);
    assert_eq!(world.operator(Verb::Return, id), Answer::Later);
    world.run(200);
    assert_eq!(world.count(|action| matches!(action, Action::Return { .. })), 0);
    assert!(world.sent.contains_key(&id));
}

/// Below 100 octets a pair, by the capacities of everything that grows with them.
#[test]
fn a_pair_takes_less_than_a_hundred_octets() {
    for (logins, domains) in [(1, 1), (10, 1), (10, 50)] {
        let mut world = World::new(settings(), 20, |_| (1, Reply::No(Stage::Connect, Trouble::Dropped)));
        for n in 0..100_000_u32 {
            let domain = n / logins % domains;
            let hop = if domains == 1 { provider() } else { Destination::mx(&format!("{domain}.example")) };
            world.accept(&format!("login{}", n % logins), &[hop]);
            if [1_000, 10_007, 57_000, 99_999].contains(&n) {
                let octets = world.schedule.octets() / (n as usize + 1);
                assert!(octets < 100, "{octets} octets a pair of {n}, {logins} logins, {domains} domains");
            }
        }
    }
}

/// Five days of mail for good, slow, greylisting, unreachable and refusing destinations: every message has one end.
#[test]
fn five_days_pass() {
    let messages = std::env::var("PILLARBOX_SCHEDULE_MESSAGES").ok().and_then(|text| text.parse().ok()).unwrap_or(20_000);
    let mut settings = settings();
    settings.routes[0].connections = 8;
    let mut world = World::new(settings, 20, |asked| {
        let kind = asked.hop.bytes().next();
        let number = asked.id.map_or(0, |id| id.bits());
        match kind {
            Some(b'd') => (30, Reply::No(Stage::Connect, Trouble::Dropped)),
            Some(b'g') if asked.time / 600 % 2 == 0 => (1, code(Stage::Recipient, 450)),
            Some(b's') => (60, Reply::Yes),
            Some(b'p') if asked.time / DAY == 2 => (1, status(Stage::Auth, 535, (5, 7, 8))),
            Some(b'p') if number % 100 == 7 => (1, code(Stage::Dot, 554)),
            Some(b'c') if number % 10 == 3 => (1, Reply::No(Stage::Data, Trouble::Dropped)),
            _ => (1, Reply::Yes),
        }
    });
    for n in 0..messages {
        let hop = match n % 20 {
            0 => Destination::mx(&format!("dead{}.example", n % 60)),
            1 => Destination::mx(&format!("grey{}.example", n % 400)),
            2 if n % 200 == 2 => Destination::mx(&format!("slow{}.example", n % 7)),
            3 => Destination::mx(&format!("cut{}.example", n % 40)),
            _ => provider(),
        };
        world.accept(&format!("login{}", n % 13), &[hop]);
        if n * 5 * DAY / messages != (n + 1) * 5 * DAY / messages {
            world.run((n + 1) * 5 * DAY / messages - n * 5 * DAY / messages);
        }
    }
    world.run(6 * DAY);
    let ends = world.count(|action| matches!(action, Action::Sent { .. } | Action::Fail { .. } | Action::Expire { .. }));
    assert_eq!(ends as u64, messages, "{:?}", world.schedule.counts());
    assert_eq!(world.count(|action| matches!(action, Action::Settled { .. })) as u64, messages);
    assert_eq!((world.schedule.counts().messages, world.schedule.counts().pairs), (0, 0));
    assert_eq!(world.schedule.routes().len(), 1, "destinations are let go: {:?}", world.schedule.routes());
}

/// Probes of destinations that are down hold few couriers, and never two turns in a row while a login waits.
#[test]
fn probes_leave_the_couriers_to_mail() {
    for (couriers, most) in [(1, 1), (8, 2)] {
        let mut world = World::new(settings(), couriers, live("provider"));
        for n in 0..100 {
            world.accept(&format!("login{n}"), &[Destination::mx(&format!("dead{n}.example"))]);
        }
        world.run(2 * HOUR);
        let probes = world.times(|action| matches!(action, Action::Probe { .. }));
        for start in &probes {
            let inside = probes.iter().filter(|time| (*start..start + 30).contains(time)).count();
            assert!(inside <= most, "{couriers} couriers, {inside} probes at once");
        }
        for _ in 0..10 {
            world.accept("shop", &[provider()]);
        }
        let accepted = world.time();
        world.run(20 * MINUTE);
        let begun: Vec<u64> = world.times(|action| matches!(action, Action::Send(job) if job.destination == provider()));
        assert!(begun[0] - accepted <= 30 && begun[9] - accepted <= 10 * 31, "{couriers}: {accepted} {begun:?}");
    }
}

/// One login with endless mail does not keep the only courier from a probe that is due.
#[test]
fn a_courier_does_not_stay_when_a_probe_is_due() {
    let mut world = World::new(settings(), 1, live("example.net"));
    world.accept("shop", &[provider()]);
    world.run(31);
    for _ in 0..500 {
        world.accept("news", &[Destination::mx("example.net")]);
    }
    world.run(100);
    assert_eq!(world.times(|action| matches!(action, Action::Probe { .. })).len(), 1);
}

/// Within a login the destination that was not served for the longest time comes next.
#[test]
fn destinations_of_a_login_take_turns() {
    let mut world = World::new(settings(), 1, |_| (1, Reply::Yes));
    for _ in 0..20 {
        world.accept("other", &[Destination::mx("other.example")]);
    }
    for n in 0..20 {
        world.accept("shop", &[Destination::mx(["x.example", "y.example"][n / 10])]);
    }
    world.run(30);
    let hops: Vec<String> = world
        .log
        .iter()
        .filter_map(|(_, action)| match action {
            Action::Send(job) if &*job.destination.name != "other.example" => Some(job.destination.name.to_string()),
            _ => None,
        })
        .collect();
    assert!(hops.len() > 10 && hops.windows(2).all(|pair| pair[0] != pair[1]), "{hops:?}");
}

/// What waits by itself is due too when its route is well again.
#[test]
fn a_route_that_is_well_again_makes_its_messages_due() {
    let mut world = World::new(settings(), 4, |asked| match asked.time {
        0..10 => (1, status(Stage::Recipient, 452, (4, 2, 2))),
        10..60 => (1, Reply::No(Stage::Connect, Trouble::Dropped)),
        _ => (1, Reply::Yes),
    });
    let id = world.accept("shop", &[provider()]);
    world.run(10);
    world.accept("shop", &[provider()]);
    world.run(100);
    assert_eq!(world.begun(id), [0, 72], "its own wait would have been 400 s");
}

/// After a recovery a rest begins with the shortest pause; and each kind of rest with its own.
#[test]
fn pauses_begin_anew_after_an_acceptance_and_for_another_kind() {
    let mut world = World::new(settings(), 4, |asked| match asked.time {
        0..1000 | 10_000..20_000 => (0, Reply::No(Stage::Connect, Trouble::Dropped)),
        20_000..30_000 if asked.id.is_some() => (0, code(Stage::Mail, 451)),
        _ => (0, Reply::Yes),
    });
    world.accept("shop", &[provider()]);
    world.run(10_000);
    world.accept("shop", &[provider()]);
    world.run(10_000);
    for _ in 0..20 {
        world.accept("shop", &[provider()]);
    }
    world.run(5000);
    let rests: Vec<(Reason, u64)> = world
        .log
        .iter()
        .filter_map(|(time, action)| match action {
            Action::RouteRests { reason, next, .. } => Some((*reason, next - 1_700_000_000 - time)),
            _ => None,
        })
        .collect();
    // Between the last two there was no acceptance: the probe was empty.
    assert_eq!(rests, [(Reason::Connect, 60), (Reason::Connect, 60), (Reason::Temporary, 10)]);
}

/// Several in work when the rest begins: that is one step, not one each.
#[test]
fn refusals_of_one_moment_are_one_step() {
    let mut settings = settings();
    settings.routes[0].connections = 20;
    let mut world = World::new(settings, 40, |_| (1, code(Stage::Mail, 451)));
    for n in 0..100 {
        world.accept(&format!("login{}", n % 20), &[provider()]);
    }
    world.run(8);
    assert_eq!(world.schedule.routes()[0].rest.unwrap().next, 1_700_000_000 + 11);
    // A domain that refuses for the moment is no smarthost: every message has its own attempt.
    let mut world = World::new(self::settings(), 40, |_| (1, code(Stage::Mail, 451)));
    for n in 0..20 {
        world.accept(&format!("login{n}"), &[Destination::mx("example.net")]);
    }
    world.run(MINUTE);
    assert_eq!(world.count(|action| matches!(action, Action::Send(_))), 20);
}

/// The probes of a smarthost that refuses everything come from one login after the other.
#[test]
fn probing_messages_are_of_all_logins() {
    let mut world = World::new(settings(), 1, |_| (1, code(Stage::Mail, 550)));
    for n in 0..90 {
        world.accept(["a", "b", "c"][n / 30], &[provider()]);
    }
    world.run(DAY);
    let owner = |id: QueueId| (id.bits() - (1_700_000_000 << 20) - 1) / 30;
    let owners: Vec<u64> = world
        .log
        .iter()
        .filter_map(|(time, action)| match action {
            Action::Send(job) if *time > MINUTE => Some(owner(job.id)),
            _ => None,
        })
        .collect();
    assert!(owners.len() > 15 && owners.windows(3).all(|three| three[0] != three[1] && three[1] != three[2]), "{owners:?}");
}

/// A refusal is not decided by time while something else is sent that will show whose fault it was.
#[test]
fn a_refusal_waits_for_what_is_being_sent() {
    let mut world = World::new(settings(), 4, |asked| match asked.time {
        0 => (100, Reply::Yes),
        _ => (1, code(Stage::Dot, 554)),
    });
    world.accept("a", &[provider()]);
    world.run(1);
    world.accept("b", &[provider()]);
    world.run(HOUR);
    assert_eq!(world.times(|action| matches!(action, Action::Fail { .. })), [100]);
}

/// A courier that says MAIL had parameters although it was told to send none: no endless repetition.
#[test]
fn without_parameters_is_tried_once_whatever_the_courier_says() {
    let now = Now { unix: 1_700_000_000, boot: 5 };
    let mut schedule = Schedule::new(settings(), 1, now);
    let part = Part { destination: Destination::mx("example.net"), recipients: vec![0], waits: 0, due: 0 };
    let id = QueueId::from_bits(1);
    let (since, login) = (now.unix, "a".into());
    let queued = Queued { id, login, since, scanned: false, asks_delay: false, warned: false, held: None, parts: vec![part] };
    assert!(schedule.accepted(&queued, now));
    assert!(!schedule.accepted(&queued, now), "known already");
    let mut sends = 0;
    while let Some(action) = schedule.action() {
        if let Action::Send(Job { courier, .. }) = action {
            sends += 1;
            let trouble = Trouble::Reply { code: 501, status: None };
            let others = Some((Stage::Mail, trouble));
            let done = Finished { courier, results: Vec::new(), others, parameters: true, accepted: false, open: true };
            schedule.finished(&done, now);
        }
    }
    assert_eq!((sends, schedule.counts().messages), (2, 0));
}

/// Late while it is being sent: told when the attempt is over, if it still waits.
#[test]
fn what_becomes_late_while_it_is_sent_is_told_after_it() {
    for last in [Reply::Yes, code(Stage::Recipient, 450)] {
        let mut world = World::new(settings(), 4, move |asked| match asked.time {
            0..HOUR => (1, code(Stage::Recipient, 450)),
            _ => (5 * HOUR, last.clone()),
        });
        let id = world.accept("a", &[Destination::mx("example.net")]);
        world.run(10 * HOUR);
        let late = world.times(|action| matches!(action, Action::Late { .. }));
        if world.sent.contains_key(&id) {
            assert!(late.is_empty(), "{late:?}");
        } else {
            let begun = world.begun(id).into_iter().find(|time| *time >= HOUR);
            assert_eq!(late, [begun.unwrap() + 5 * HOUR]);
        }
    }
}

/// A pair whose line is cut again and again rests longer each time.
#[test]
fn a_pair_rests_longer_each_time() {
    let mut world = World::new(settings(), 4, |asked| match asked.id {
        Some(_) => (0, Reply::No(Stage::Data, Trouble::Dropped)),
        None => (0, Reply::Yes),
    });
    for _ in 0..200 {
        world.accept("a", &[provider()]);
    }
    world.run(4 * HOUR);
    let begun = world.times(|action| matches!(action, Action::Send(_)));
    let pauses: Vec<u64> = begun.windows(2).map(|pair| pair[1] - pair[0]).filter(|pause| *pause > 0).collect();
    assert_eq!(pauses[..6], [60, 120, 240, 480, 960, 1920]);
}

/// May have arrived, while another part of the message is being sent: held after that.
#[test]
fn what_may_have_arrived_is_held_when_nothing_of_it_is_being_sent() {
    let settings = Settings { hold_unanswered: true, ..settings() };
    let mut world = World::new(settings, 4, |asked| match asked.hop.as_str() {
        "provider" => (1, Reply::No(Stage::Dot, Trouble::Unanswered)),
        _ => (100, code(Stage::Recipient, 450)),
    });
    world.accept("a", &[provider(), Destination::mx("example.net")]);
    world.run(DAY);
    assert_eq!(world.times(|action| matches!(action, Action::Hold { .. })), [100]);
    assert_eq!(world.count(|action| matches!(action, Action::Send(_))), 2);
}

/// Old messages of a resting route: not after a jump of the clock, and not while another route sends them.
#[test]
fn old_messages_of_a_resting_route_are_returned_with_care() {
    let mut world = World::new(settings(), 4, |_| (1, Reply::No(Stage::Connect, Trouble::Dropped)));
    let (since, due) = (world.unix - DAY, world.unix);
    scanned(&mut world, 1, since, due);
    world.run(10 * HOUR);
    world.unix += 30 * DAY;
    let at = world.time();
    world.run(5 * HOUR);
    let over = world.times(|action| matches!(action, Action::Expire { .. }));
    assert!(over.len() == 1 && over[0] >= at + HOUR, "{at} {over:?}");

    let mut settings = settings();
    settings.routes[0].then = Some(Then::Route("other".to_owned()));
    settings.routes.push(RouteSettings { connections: 1, ..RouteSettings::new("other") });
    let mut world = World::new(settings, 4, |asked| match asked.hop.as_str() {
        "provider" => (1, Reply::No(Stage::Connect, Trouble::Dropped)),
        _ => (100, Reply::Yes),
    });
    for n in 0..50 {
        let (id, part) = (QueueId::from_bits(n + 1), Part { destination: provider(), recipients: vec![0], waits: 0, due: 0 });
        let (since, login) = (world.unix - 6 * DAY, "shop".into());
        let queued = Queued { id, login, since, scanned: true, asks_delay: false, warned: true, held: None, parts: vec![part] };
        let now = world.now();
        world.schedule.accepted(&queued, now);
    }
    world.run(3 * HOUR);
    assert_eq!((world.sent.len(), world.count(|action| matches!(action, Action::Expire { .. }))), (50, 0));
}
