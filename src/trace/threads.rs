//! The rings of all threads.

use std::{
    cell::Cell,
    sync::{Mutex, PoisonError, atomic::AtomicU64},
    thread,
};

use super::ring::Ring;
use crate::sync::Arc;

/// Threads that have a ring at the same time. Further ones record nothing.
const MOST: usize = 128;

/// A thread that records.
pub(super) struct Thread {
    pub(super) ring: Ring,
    /// Its name, and its number as the system gives it, or as they came.
    pub(super) name: String,
    pub(super) id: u64,
    /// The start of the slow poll that was told last, in case that it is no longer kept.
    pub(super) told: AtomicU64,
}

static THREADS: Mutex<Threads> = Mutex::new(Threads {
    all: Vec::new(),
    recording: 0,
    capacity: 0,
    joined: 0,
    missed: 0,
});

struct Threads {
    all: Vec<Arc<Thread>>,
    /// The number of the recording. Rings of an older one are not used any more.
    recording: u64,
    capacity: usize,
    joined: u64,
    missed: u64,
}

fn threads<R>(f: impl FnOnce(&mut Threads) -> R) -> R {
    f(&mut THREADS.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Begins a recording without events, and returns its number, which is not zero. Rings have `capacity` events each.
pub(super) fn begin(capacity: usize) -> u64 {
    threads(|threads| {
        threads.all.clear();
        threads.capacity = capacity;
        threads.missed = 0;
        threads.recording += 1;
        threads.recording
    })
}

thread_local! {
    /// The recording in which the thread got no ring.
    static MISSED: Cell<u64> = const { Cell::new(0) };
}

/// Gives the calling thread a ring of this recording, if there are not too many. It asks once in a recording.
pub(super) fn join(recording: u64) -> Option<Arc<Thread>> {
    if MISSED.try_with(|missed| missed.replace(recording)) == Ok(recording) {
        return None;
    }
    let system_id = thread_id();
    threads(|threads| {
        if threads.recording != recording {
            return None;
        }
        if threads.all.len() >= MOST {
            // The ring of a thread that has ended is in this list only.
            let ended = threads
                .all
                .iter()
                .position(|thread| Arc::strong_count(thread) == 1);
            match ended {
                Some(ended) => drop(threads.all.remove(ended)),
                None => {
                    threads.missed += 1;
                    return None;
                }
            }
        }
        threads.joined += 1;
        let thread = Arc::new(Thread {
            ring: Ring::new(threads.capacity),
            name: thread::current().name().unwrap_or("thread").to_owned(),
            id: system_id.unwrap_or(threads.joined),
            told: AtomicU64::new(u64::MAX),
        });
        threads.all.push(Arc::clone(&thread));
        let _ = MISSED.try_with(|missed| missed.set(0));
        Some(thread)
    })
}

/// The number by which tools of the system know the thread, such as `gdb -p`.
fn thread_id() -> Option<u64> {
    let link = std::fs::read_link("/proc/thread-self").ok()?;
    link.file_name()?.to_str()?.parse().ok()
}

/// All threads that have a ring, in the order in which they came, and how often one got none.
pub(super) fn all() -> (Vec<Arc<Thread>>, u64) {
    threads(|threads| (threads.all.clone(), threads.missed))
}
