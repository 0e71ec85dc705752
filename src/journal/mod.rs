//! What each thread has to add to the statistics (`observe`).
//!
//! A thread writes what happens to requests into a journal of its own, and any thread that holds the lock of
//! the statistics reads it. So recording takes no lock, and no locked instruction that another thread
//! has to wait for.
//!
//! # Invariants
//!
//! 1. One thread at a time pushes to a ring: the owner of the thread number that the journal belongs to
//!    ([`crate::thread_number`]), or the holder of the lock of the shared journal.
//! 2. One thread at a time drains a ring: the holder of the lock of the statistics.
//! 3. An entry is written before `pushed` says that it is there (`Release`), and read before `drained` says
//!    that its place is free. A place is written again only after that was read (`Acquire`).
//! 4. What is pushed after another push that its thread has seen is drained by every reader that drains
//!    the other one. So a reader that drains all closes, and then all opens, finds the open of each
//!    close.

mod entry;
mod ring;

pub(crate) use self::{
    entry::{
        ClosedEntry, HAS_USAGE, IS_LATENCY, OUTCOME, SOURCE, STATUS, UNKNOWN, WORDS, key_of,
        moved_from, place, place_of,
    },
    ring::Entry,
};

use self::ring::Ring;
use crate::{
    account::aside,
    route::RouteKey,
    sync::{AtomicUsize, Mutex, OnceLock, Ordering, fence, lock},
    thread_number::{self, thread_number},
};

/// Entries that a journal has room for, of each kind.
pub(crate) const ENTRIES: usize = 64;

/// What one thread has to add to the statistics of a layer.
///
/// Aligned so that two threads never share a cache line.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Journal {
    /// Requests that were opened or relabelled.
    pub(crate) opens: Ring<1, ENTRIES>,
    /// Requests that have closed.
    pub(crate) closes: Ring<WORDS, ENTRIES>,
    /// At so many entries it is emptied.
    full_at: AtomicUsize,
    /// How often it is still to be emptied after a single entry, so that a program that has just started
    /// makes its rows early.
    eager: AtomicUsize,
}

/// The first value of [`Journal::eager`].
const EAGER: usize = 16;

// `RouteSnapshot` states this bound.
const _: () = assert!(cfg!(tower_memory_loom) || size_of::<Journal>() <= 5 << 10);

impl Journal {
    fn new() -> Box<Self> {
        Box::new(Self {
            opens: Ring::new(),
            closes: Ring::new(),
            full_at: AtomicUsize::new(1),
            eager: AtomicUsize::new(EAGER),
        })
    }

    /// Whether so many entries are few enough to wait.
    #[inline]
    fn may_wait(&self, entries: usize) -> bool {
        // Relaxed, as below: only the one that writes the journal uses it.
        entries < self.full_at.load(Ordering::Relaxed)
    }

    /// The one that writes the journal has emptied it.
    pub(crate) fn emptied(&self) {
        let eager = self.eager.load(Ordering::Relaxed).saturating_sub(1);
        self.eager.store(eager, Ordering::Relaxed);
        if eager == 0 {
            self.full_at.store(ENTRIES / 2, Ordering::Relaxed);
        }
    }

    /// Adds an open request, in one order with the word of a shutdown; see [`Journals::fence`]. As all that
    /// follow, returns how many entries there are, or `None` if there is no room.
    #[inline]
    pub(crate) fn opened(&self, key: RouteKey) -> Option<usize> {
        self.opens
            .push_in_order(|words| words.set(0, entry::opened(key)))
    }

    /// Moves an open request to another route.
    pub(crate) fn moved(&self, from: RouteKey, to: usize) -> Option<usize> {
        self.opens
            .push_in_order(|words| words.set(0, entry::moved(from, to)))
    }

    /// Adds a closed request, by the [words](ClosedEntry::words) of its entry.
    #[inline]
    pub(crate) fn closed(&self, closed: [u64; WORDS]) -> Option<usize> {
        self.closes.push(|words| words.set_all(closed))
    }

    /// Adds the time from a cancellation to the end of the last task.
    pub(crate) fn latency(&self, key: RouteKey, nanos: u64) -> Option<usize> {
        self.closes
            .push(|words| entry::write_latency(words, key, nanos))
    }
}

/// The journals of a layer, by thread number.
#[derive(Debug)]
pub(crate) struct Journals {
    own: Box<[OnceLock<Box<Journal>>]>,
    /// That of threads without a number of their own.
    shared: OnceLock<Box<Journal>>,
    /// Held by the one that writes to it.
    writing: Mutex<()>,
}

impl Journals {
    pub(crate) fn new() -> Self {
        Self {
            own: std::iter::repeat_with(OnceLock::new)
                .take(thread_number::OWN)
                .collect(),
            shared: OnceLock::new(),
            writing: Mutex::new(()),
        }
    }

    /// Has the calling thread's journal write an entry. Now and then `empty` is called with the journal, and
    /// with whether it is full: then it must be emptied.
    #[inline]
    pub(crate) fn record(
        &self,
        push: impl Fn(&Journal) -> Option<usize>,
        empty: impl Fn(&Journal, bool),
    ) {
        // What is rare takes `push` by value, so that what it writes need not be in memory before.
        let own = self.own.get(thread_number()).and_then(OnceLock::get);
        let Some(journal) = own else {
            return self.record_elsewhere(push, empty);
        };
        match push(journal) {
            Some(waiting) if journal.may_wait(waiting) => {}
            waiting => emptied(journal, waiting, push, empty),
        }
    }

    /// As [`record`](Self::record), for a thread that has no journal yet, or none of its own.
    #[cold]
    #[inline(never)]
    fn record_elsewhere(
        &self,
        push: impl Fn(&Journal) -> Option<usize>,
        empty: impl Fn(&Journal, bool),
    ) {
        let record = |journal: &Journal| emptied(journal, push(journal), &push, &empty);
        match self.own.get(thread_number()) {
            Some(own) => record(made(own)),
            None => self.with_shared(record),
        }
    }

    #[cold]
    #[inline(never)]
    pub(crate) fn with_shared<R>(&self, f: impl FnOnce(&Journal) -> R) -> R {
        let _writing = lock(&self.writing);
        let journal = self.shared.get_or_init(|| aside(Journal::new));
        fence(Ordering::SeqCst);
        f(journal)
    }

    /// Iterates over all journals.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Journal> {
        let own = self.own.iter().filter_map(OnceLock::get);
        own.chain(self.shared.get()).map(|journal| &**journal)
    }

    /// Orders a reader after the word of a shutdown that it has set.
    ///
    /// A request is pushed before it reads that word, and read after the word was set (both `SeqCst`). So
    /// the reader sees the request, or the request sees the shutdown. This fence, and that where a
    /// journal is made, say the same of the journal.
    pub(crate) fn fence(&self) {
        fence(Ordering::SeqCst);
    }
}

#[cold]
#[inline(never)]
fn emptied(
    journal: &Journal,
    waiting: Option<usize>,
    push: impl Fn(&Journal) -> Option<usize>,
    empty: impl Fn(&Journal, bool),
) {
    if waiting.is_some_and(|waiting| journal.may_wait(waiting)) {
        return;
    }
    empty(journal, waiting.is_none());
    if waiting.is_none() {
        let pushed = push(journal);
        debug_assert!(
            pushed.is_some(),
            "emptied above, and only this thread writes"
        );
    }
}

/// Makes the journal of a thread.
#[cold]
#[inline(never)]
fn made(own: &OnceLock<Box<Journal>>) -> &Journal {
    let journal = own.get_or_init(|| aside(Journal::new));
    // See `Journals::fence`.
    fence(Ordering::SeqCst);
    journal
}

#[cfg(all(test, tower_memory_loom))]
mod loom_models {
    use loom::{sync::Arc, thread};

    use super::*;
    use crate::sync::try_lock;

    type Small = Ring<2, 2>;

    fn both(number: u64) -> impl FnOnce(&Entry<2>) {
        move |entry| [0, 1].into_iter().for_each(|word| entry.set(word, number))
    }

    /// Invariants 1 to 3: entries arrive whole, once and in order, on whichever thread drains them.
    #[test]
    fn an_entry_arrives_once_and_whole() {
        loom::model(|| {
            let ring = Arc::new((Small::new(), Mutex::new(Vec::new())));
            let drain = |ring: &Small, seen: &mut Vec<u64>| {
                ring.drain(|entries| {
                    for entry in entries {
                        assert_eq!(entry.get(0), entry.get(1), "torn");
                        seen.push(entry.get(0));
                    }
                });
            };
            let reader = thread::spawn({
                let ring = Arc::clone(&ring);
                move || drain(&ring.0, &mut lock(&ring.1))
            });
            for number in 1..=3 {
                while ring.0.push(both(number)).is_none() {
                    drain(&ring.0, &mut lock(&ring.1));
                }
                if number == 2 {
                    if let Some(mut seen) = try_lock(&ring.1) {
                        drain(&ring.0, &mut seen);
                    }
                }
            }
            reader.join().expect("no panic");
            drain(&ring.0, &mut lock(&ring.1));
            assert_eq!(*lock(&ring.1), [1, 2, 3]);
        });
    }

    /// Invariant 4.
    #[test]
    fn a_reader_finds_the_open_of_each_close() {
        loom::model(|| {
            // One thread opens a request, and another one closes it.
            let parts = Arc::new((Small::new(), Small::new(), OnceLock::new()));
            let opener = thread::spawn({
                let parts = Arc::clone(&parts);
                move || {
                    parts.0.push_in_order(both(1)).expect("room");
                    parts.2.get_or_init(|| ());
                }
            });
            let closer = thread::spawn({
                let parts = Arc::clone(&parts);
                move || {
                    if parts.2.get().is_some() {
                        parts.1.push(both(1)).expect("room");
                    }
                }
            });
            let (mut opened, mut closed) = (0, 0);
            parts.1.drain(|entries| closed += entries.len());
            parts.0.drain(|entries| opened += entries.len());
            assert!(opened >= closed);
            opener.join().expect("no panic");
            closer.join().expect("no panic");
        });
    }
}
