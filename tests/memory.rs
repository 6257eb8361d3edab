//! What many sessions have held goes back to the system when they have ended. Each measurement is a process of its own.

use std::hint::black_box;
use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use pillarbox::net::history::History;
use pillarbox::net::network::Network;
use pillarbox::net::pool::{Pool, PoolConfig};

const PATIENCE: Duration = Duration::from_secs(60);
/// Set in the process that is measured.
const APART: &str = "PILLARBOX_MEASURED";

/// A number that the system gives of this process.
fn number(file: &str, field: &str) -> usize {
    let text = std::fs::read_to_string(format!("/proc/self/{file}")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Memory that no file stands for, in KiB.
fn memory() -> usize {
    number("smaps_rollup", "Anonymous:")
}

fn until(what: impl Fn() -> bool) {
    let begun = Instant::now();
    while !what() {
        assert!(begun.elapsed() < PATIENCE);
        thread::sleep(Duration::from_millis(5));
    }
}

/// What glibc keeps at least: 128 KiB of each heap, of which there are eight a core, and 40 MiB of stacks, of each six pages.
fn floor() -> usize {
    2300 + 200 * 8 * thread::available_parallelism().map_or(1, usize::from)
}

/// Holds so many sessions at once and ends them, then prints what stays, in KiB. Each also makes so many strings that another lets
/// go of, as with tables that all share.
fn measure(sessions: u32, exchange: usize) {
    let threads = sessions as usize;
    let (all_hold, all_measured) = (Arc::new(Barrier::new(threads + 1)), Arc::new(Barrier::new(threads + 1)));
    let history = Arc::new(History::default());
    let work = {
        let names = Mutex::new(Vec::<String>::with_capacity(exchange * threads));
        let (all_hold, all_measured, history) = (Arc::clone(&all_hold), Arc::clone(&all_measured), Arc::clone(&history));
        move |number: u32| {
            let held: Vec<Vec<u8>> = (0..40).map(|piece| vec![1; 20 + 25 * piece]).collect();
            let own = (0..exchange).map(|_| String::with_capacity(24));
            names.lock().unwrap().extend(own);
            history.logged_in(Network::of(Ipv4Addr::from_bits(0x7f05_0000 + number).into()), SystemTime::now());
            black_box(&held);
            all_hold.wait();
            all_measured.wait();
            let others: Vec<String> = names.lock().unwrap().drain(..exchange).collect();
            drop(others);
        }
    };
    let idle = Duration::from_millis(300);
    let pool = Pool::start(PoolConfig { threads, idle, work: Box::new(work), spawn_failed: Box::new(|error| panic!("{error}")) });
    let pool = pool.unwrap();
    let (before, own_threads) = (memory(), number("status", "Threads:"));
    (0..sessions).for_each(|number| pool.offer(number));
    until(|| {
        pool.tick();
        pool.threads() == threads
    });
    all_hold.wait();
    let held = memory() - before;
    all_measured.wait();
    until(|| pool.threads() == 0 && number("status", "Threads:") <= own_threads);
    pool.tick();
    println!("{before} before, {held} held, stays={}", memory().saturating_sub(before));
}

/// What stays in KiB, the median of so many processes: where the last pieces lie is chance.
fn stays(test: &str, processes: usize, (sessions, exchange): (u32, usize)) -> usize {
    if std::env::var_os(APART).is_some() {
        measure(sessions, exchange);
        return 0;
    }
    let one = |_| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let output = command.args([test, "--exact", "--nocapture"]).env(APART, "1").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        print!("{text}");
        let number = text.split_once("stays=").and_then(|(_, rest)| rest.split_whitespace().next()?.parse::<usize>().ok());
        number.expect("a figure")
    };
    let mut figures: Vec<usize> = (0..processes).map(one).collect();
    figures.sort_unstable();
    figures[processes / 2]
}

#[test]
fn little_stays_of_what_a_thousand_sessions_have_held() {
    let (stays, most) = (stays("little_stays_of_what_a_thousand_sessions_have_held", 5, (1000, 0)), floor());
    assert!(stays < most, "{stays} KiB stay, {most} may");
}

#[test]
fn what_threads_keep_to_their_end_pins_few_heaps() {
    let (stays, most) = (stays("what_threads_keep_to_their_end_pins_few_heaps", 7, (2000, 7)), floor() + 7000);
    assert!(stays < most, "{stays} KiB stay, {most} may");
}
