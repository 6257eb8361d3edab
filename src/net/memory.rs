//! What the allocator keeps of the memory that ended threads have used, and how it is made to give that back.
//!
//! glibc trims a heap down to its highest piece in use, and only when a large piece is given back to it (malloc(3)). Nothing
//! here is needed for the server to be right; with another allocator it costs some threads that end at once.

use std::hint::black_box;
use std::thread;

/// Stack of a worker, in octets. Little of it is ever touched; the deepest use is a TLS handshake. glibc keeps 40 MiB of stacks
/// of ended threads, each with 24 KiB that were touched and with a piece of the heap: the larger they are, the fewer it keeps.
pub const STACK: usize = 1024 * 1024;

/// Lets the allocator hand free memory of this thread's heap back to the system. glibc joins small pieces and trims a heap only
/// when a piece of 64 KiB or more is given back to it (malloc(3), M_MXFAST); without that, threads that have ended leave 25 KiB
/// each for good.
pub fn give_back() {
    drop(black_box(Vec::<u8>::with_capacity(96 * 1024)));
}

/// The same in every heap: what a thread kept for itself gets back into its heap as the thread ends, when it cannot join the
/// pieces any more. glibc has eight heaps a core, and a new thread takes one that no thread uses, if there is one.
pub fn give_all_back() {
    let heaps = 8 * thread::available_parallelism().map_or(1, usize::from);
    let (ready, all_ready) = crossbeam_channel::bounded(heaps);
    let (go, wait) = crossbeam_channel::bounded::<()>(0);
    let begin = |_| {
        let (ready, wait) = (ready.clone(), wait.clone());
        let run = move || {
            // First of all: a small piece that it needed might be one of those that are to be joined.
            give_back();
            let _ = ready.send(());
            // No other takes its heap before all have had theirs.
            let _ = wait.recv();
        };
        thread::Builder::new().name("memory".into()).stack_size(STACK).spawn(run).ok()
    };
    let threads: Vec<_> = (0..heaps).filter_map(begin).collect();
    for _ in &threads {
        let _ = all_ready.recv();
    }
    drop(go);
    threads.into_iter().for_each(|thread| drop(thread.join()));
    // The first heap is the one of the thread that the program began with.
    give_back();
}
