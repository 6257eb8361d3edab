//! What many sessions have held goes back to the system when they have ended. Each measurement is a process of its own.

use std::hint::black_box;
use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use pillarbox::net::history::History;
use pillarbox::net::memory::{self, STACK};
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
fn in_use() -> usize {
    number("smaps_rollup", "Anonymous:")
}

/// Mappings of the size of a worker's stack.
fn stacks() -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let size = |line: &str| {
        let (begin, end) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
        usize::from_str_radix(end, 16).unwrap() - usize::from_str_radix(begin, 16).unwrap()
    };
    maps.lines().filter(|line| size(line) == STACK).count()
}

fn until(what: impl Fn() -> bool) {
    let begun = Instant::now();
    while !what() {
        assert!(begun.elapsed() < PATIENCE);
        thread::sleep(Duration::from_millis(5));
    }
}

/// What glibc keeps: 128 KiB of each heap, of which there are eight a core, all of one or two, and what threads have at hand.
fn floor() -> usize {
    4000 + 200 * 8 * thread::available_parallelism().map_or(1, usize::from)
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
    // Heaps are trimmed later from now on.
    drop(black_box(vec![1_u8; 900 * 1024]));
    let (before, own_threads) = (in_use(), number("status", "Threads:"));
    (0..sessions).for_each(|number| pool.offer(number));
    until(|| {
        pool.tick();
        pool.threads() == threads
    });
    all_hold.wait();
    let held = in_use() - before;
    all_measured.wait();
    until(|| pool.threads() == 0 && number("status", "Threads:") <= own_threads);
    pool.tick();
    println!("{before} before, {held} held, {} stacks, stays={}", stacks(), in_use().saturating_sub(before));
    assert!(stacks() < 3, "of threads that have ended");
}

/// Lets go of a tenth of many pieces, so that some of each size are at hand, which lie anywhere; another thread lets go of the
/// others. Prints what stays.
fn measure_at_hand() {
    let before = in_use();
    let pieces: Vec<Vec<u8>> = (0..8000).map(|piece| vec![1; 24 + piece % 1000]).collect();
    let held = in_use() - before;
    let (own, others): (Vec<_>, Vec<_>) = pieces.into_iter().enumerate().partition(|(at, _)| at % 10 == 0);
    drop(own);
    thread::spawn(move || drop(others)).join().unwrap();
    memory::give_back();
    let kept = in_use() - before;
    memory::tidy();
    println!("{before} before, {held} held, {kept} kept, stays={}", in_use().saturating_sub(before));
    assert!(kept > 3000, "those at hand keep it");
}

/// What stays in KiB, the median of so many processes: where the last pieces lie is chance.
fn stays(test: &str, processes: usize, measure: impl Fn()) -> usize {
    if std::env::var_os(APART).is_some() {
        measure();
        return 0;
    }
    let one = |_| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let output = command.args([test, "--exact", "--nocapture"]).env(APART, "1").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        print!("{text}");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let number = text.split_once("stays=").and_then(|(_, rest)| rest.split_whitespace().next()?.parse::<usize>().ok());
        number.expect("a figure")
    };
    let mut figures: Vec<usize> = (0..processes).map(one).collect();
    figures.sort_unstable();
    figures[processes / 2]
}

#[test]
fn little_stays_of_what_a_thousand_sessions_have_held() {
    let (stays, most) = (stays("little_stays_of_what_a_thousand_sessions_have_held", 5, || measure(1000, 0)), floor());
    assert!(stays < most, "{stays} KiB stay, {most} may");
}

#[test]
fn what_threads_keep_to_their_end_pins_few_heaps() {
    let (stays, most) = (stays("what_threads_keep_to_their_end_pins_few_heaps", 7, || measure(2000, 7)), floor() + 5000);
    assert!(stays < most, "{stays} KiB stay, {most} may");
}

#[test]
fn a_thread_that_lives_on_lets_go_of_what_it_has_at_hand() {
    let stays = stays("a_thread_that_lives_on_lets_go_of_what_it_has_at_hand", 3, measure_at_hand);
    assert!(stays < 1500, "{stays} KiB stay");
}
