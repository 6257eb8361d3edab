//! What the allocator keeps of the memory that ended threads have used, and how it is made to give that back.
//!
//! glibc trims a heap down to its highest piece in use, and only when a large piece is given back to it (malloc(3)). In use are for
//! it also the pieces that a thread which lives on keeps at hand, seven of each size up to 1 KiB, and what belongs to the stacks of
//! ended threads, of which it keeps 40 MiB. Nothing here is needed for the server to be right; with another allocator it costs some
//! threads that end at once.

use std::hint::black_box;
use std::thread::{self, JoinHandle};

/// Stack of a worker, in octets. Little of it is ever touched; the deepest use is a TLS handshake.
pub const STACK: usize = 1024 * 1024;
/// Stack of a thread that does nothing but give memory back.
const STACK_SMALL: usize = 128 * 1024;
/// More than all the stacks that glibc keeps, so that it keeps none when a thread with this one ends: the oldest go first, each with
/// 24 KiB that were touched and a piece of the heap of the thread that started it. Of this one next to nothing is touched.
const STACK_LARGE: usize = 64 * 1024 * 1024;
/// glibc joins small pieces and trims a heap when a piece of 64 KiB or more is given back to it (M_MXFAST); what is larger than
/// 128 KiB may be mapped apart.
const PIECE: usize = 96 * 1024;
/// A heap is trimmed when 128 KiB are free at its end, or more once a larger piece that was mapped apart has been given back:
/// twice its size (M_MMAP_THRESHOLD). So many pieces are enough where it was not larger than 1 MiB.
const PIECES: usize = 22;
/// Sizes of which a thread keeps pieces at hand.
const SIZES: std::ops::Range<usize> = 24..1040;
/// How many pieces of each size are taken, to find some that lie low: glibc takes the gap that fits best, wherever it is.
const AT_HAND: usize = 32;
/// What lies low depends on what was let go of before.
const ROUNDS: usize = 3;

/// Lets the allocator hand free memory of this thread's heap back to the system; without that, threads that have ended leave
/// 25 KiB each for good.
pub fn give_back() {
    drop(black_box(Vec::<u8>::with_capacity(PIECE)));
}

/// The same for a thread that lives on, after many others have ended: the pieces that it keeps at hand are exchanged for those
/// that lie lowest. glibc also gives back the stacks that it keeps.
pub fn tidy() {
    // A thread that ends keeps nothing. What it was made of is at hand afterwards, and may lie anywhere.
    let at_hand: Vec<Vec<u8>> = SIZES.step_by(16).flat_map(pieces).collect();
    finish(STACK_LARGE, move || drop(at_hand));
    for _ in 0..ROUNDS {
        give_back();
        for size in SIZES.step_by(16) {
            let mut lowest: Vec<Vec<u8>> = pieces(size).collect();
            // Those that are freed first are kept.
            lowest.sort_unstable_by_key(|piece| piece.as_ptr().addr());
            lowest.into_iter().for_each(drop);
        }
    }
    grow_and_give_back();
}

fn pieces(size: usize) -> impl Iterator<Item = Vec<u8>> {
    (0..AT_HAND).map(move |_| black_box(Vec::with_capacity(size)))
}

/// The same in every heap. All but the last is done by threads that end, so that nothing of it stays where this thread keeps its
/// own.
pub fn give_all_back() {
    finish(STACK_SMALL, || finish(STACK_LARGE, || ()));
    finish(STACK_SMALL, give_back_in_every_heap);
    // The heap of this thread, which is the first one of all if the program began with it.
    tidy();
}

/// What a thread kept for itself gets back into its heap as the thread ends, when it cannot join the pieces any more. glibc has
/// eight heaps a core, and a new thread takes one that no thread uses, if there is one.
fn give_back_in_every_heap() {
    let heaps = 8 * thread::available_parallelism().map_or(1, usize::from);
    let (ready, all_ready) = crossbeam_channel::bounded(heaps);
    let (go, wait) = crossbeam_channel::bounded::<()>(0);
    let begin = |_| {
        let (ready, wait) = (ready.clone(), wait.clone());
        let run = move || {
            // First of all: a small piece that it needed might be one of those that are to be joined.
            give_back();
            grow_and_give_back();
            let _ = ready.send(());
            // No other takes its heap before all have had theirs.
            let _ = wait.recv();
        };
        spawn(STACK_SMALL, run)
    };
    let threads: Vec<_> = (0..heaps).filter_map(begin).collect();
    for _ in &threads {
        let _ = all_ready.recv();
    }
    drop(go);
    threads.into_iter().for_each(|thread| drop(thread.join()));
    grow_and_give_back();
}

/// Waits for a thread that does nothing but this. Does nothing where none can be started: memory is kept then.
fn finish(stack: usize, run: impl FnOnce() + Send + 'static) {
    spawn(stack, run).into_iter().for_each(|thread| drop(thread.join()));
}

fn spawn(stack: usize, run: impl FnOnce() + Send + 'static) -> Option<JoinHandle<()>> {
    thread::Builder::new().name("memory".into()).stack_size(stack).spawn(run).ok()
}

/// Lets the end of the heap grow, if nothing below is free, until it is certainly trimmed.
fn grow_and_give_back() {
    drop(black_box((0..PIECES).map(|_| Vec::with_capacity(PIECE)).collect::<Vec<Vec<u8>>>()));
}
