//! What each thread has to add to the statistics.
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

use crate::{
    account::aside,
    sync::{AtomicU64, AtomicUsize, Mutex, OnceLock, Ordering, fence, lock},
    thread_number::{self, thread_number},
};

/// A bounded queue of entries of some words, with one writer and one reader at a time.
#[derive(Debug)]
pub(super) struct Ring<const WORDS: usize, const ENTRIES: usize> {
    /// How many entries were ever pushed, and drained.
    pushed: AtomicUsize,
    drained: AtomicUsize,
    entries: [Entry<WORDS>; ENTRIES],
}

impl<const WORDS: usize, const ENTRIES: usize> Ring<WORDS, ENTRIES> {
    fn new() -> Self {
        const { assert!(ENTRIES.is_power_of_two()) };
        Self {
            pushed: AtomicUsize::new(0),
            drained: AtomicUsize::new(0),
            entries: std::array::from_fn(|_| Entry(std::array::from_fn(|_| AtomicU64::new(0)))),
        }
    }

    /// Has `write` fill an entry, and returns how many there are; `None` if there is no room. The caller is
    /// the one writer (invariant 1).
    #[inline]
    pub(super) fn push(&self, write: impl FnOnce(&Entry<WORDS>)) -> Option<usize> {
        self.push_with(write, |pushed| self.pushed.store(pushed, Ordering::Release))
    }

    /// As [`push`](Self::push), in one order with all `SeqCst` operations.
    #[inline]
    fn push_in_order(&self, write: impl FnOnce(&Entry<WORDS>)) -> Option<usize> {
        self.push_with(write, |pushed| {
            self.pushed.swap(pushed, Ordering::SeqCst);
        })
    }

    #[inline]
    fn push_with(
        &self,
        write: impl FnOnce(&Entry<WORDS>),
        publish: impl FnOnce(usize),
    ) -> Option<usize> {
        // Relaxed: only the caller writes it.
        let pushed = self.pushed.load(Ordering::Relaxed);
        // Acquire: invariant 3.
        let waiting = pushed.wrapping_sub(self.drained.load(Ordering::Acquire));
        if waiting >= ENTRIES {
            return None;
        }
        write(&self.entries[pushed % ENTRIES]);
        publish(pushed.wrapping_add(1));
        Some(waiting + 1)
    }

    /// Calls `f` with all entries. The caller is the one reader (invariant 2).
    pub(super) fn drain(&self, mut f: impl FnMut(&Entry<WORDS>)) {
        // Relaxed: only a holder of the lock writes it.
        let mut drained = self.drained.load(Ordering::Relaxed);
        // SeqCst: for opens, see `Journals::fence`. It includes the acquire of invariant 3.
        let pushed = self.pushed.load(Ordering::SeqCst);
        if drained == pushed {
            return;
        }
        while drained != pushed {
            f(&self.entries[drained % ENTRIES]);
            drained = drained.wrapping_add(1);
        }
        // Release: invariant 3.
        self.drained.store(drained, Ordering::Release);
    }
}

/// The words of an entry.
#[derive(Debug)]
pub(super) struct Entry<const WORDS: usize>([AtomicU64; WORDS]);

// Relaxed: `Ring::pushed` and `Ring::drained` order what is written and read.
impl<const WORDS: usize> Entry<WORDS> {
    #[inline]
    pub(super) fn set(&self, word: usize, value: u64) {
        self.0[word].store(value, Ordering::Relaxed);
    }

    #[inline]
    pub(super) fn get(&self, word: usize) -> u64 {
        self.0[word].load(Ordering::Relaxed)
    }
}

/// Entries that a journal has room for, of each kind.
pub(super) const ENTRIES: usize = 64;

/// Words of the entry of a closed request.
pub(super) const WORDS: usize = 8;

/// What one thread has to add to the statistics of a layer.
///
/// Aligned so that two threads never share a cache line.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct Journal {
    /// Requests that were opened or relabelled.
    pub(super) opens: Ring<1, ENTRIES>,
    /// Requests that have closed.
    pub(super) closes: Ring<WORDS, ENTRIES>,
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
            eager: AtomicUsize::new(EAGER),
        })
    }

    /// Whether so many entries are few enough to wait.
    #[inline]
    pub(super) fn may_wait(&self, entries: usize) -> bool {
        // Relaxed: only the one that writes the journal uses it.
        entries < ENTRIES / 2 && self.eager.load(Ordering::Relaxed) == 0
    }

    /// The one that writes the journal has emptied it.
    pub(super) fn emptied(&self) {
        let eager = self.eager.load(Ordering::Relaxed);
        self.eager.store(eager.saturating_sub(1), Ordering::Relaxed);
    }

    /// Adds an open request, in one order with the word of a shutdown; see [`Journals::fence`].
    #[inline]
    pub(super) fn open(&self, entry: u64) -> Option<usize> {
        self.opens.push_in_order(|words| words.set(0, entry))
    }
}

/// The journals of a layer, by thread number.
#[derive(Debug)]
pub(super) struct Journals {
    own: Box<[OnceLock<Box<Journal>>]>,
    /// That of threads without a number of their own.
    shared: OnceLock<Box<Journal>>,
    /// Held by the one that writes to it.
    writing: Mutex<()>,
}

impl Journals {
    pub(super) fn new() -> Self {
        Self {
            own: std::iter::repeat_with(OnceLock::new)
                .take(thread_number::OWN)
                .collect(),
            shared: OnceLock::new(),
            writing: Mutex::new(()),
        }
    }

    /// Calls `f` with the journal of the calling thread, which may push to it.
    #[inline]
    pub(super) fn with_own<R>(&self, f: impl FnOnce(&Journal) -> R) -> R {
        let Some(own) = self.own.get(thread_number()) else {
            return self.with_shared(f);
        };
        match own.get() {
            Some(journal) => f(journal),
            None => f(made(own)),
        }
    }

    #[cold]
    #[inline(never)]
    pub(super) fn with_shared<R>(&self, f: impl FnOnce(&Journal) -> R) -> R {
        let _writing = lock(&self.writing);
        let journal = self.shared.get_or_init(|| aside(Journal::new));
        fence(Ordering::SeqCst);
        f(journal)
    }

    /// Iterates over all journals.
    pub(super) fn all(&self) -> impl Iterator<Item = &Journal> {
        let own = self.own.iter().filter_map(OnceLock::get);
        own.chain(self.shared.get()).map(|journal| &**journal)
    }

    /// Orders a reader after the word of a shutdown that it has set.
    ///
    /// A request is pushed before it reads that word, and read after the word was set (both `SeqCst`). So
    /// the reader sees the request, or the request sees the shutdown. This fence, and that where a
    /// journal is made, say the same of the journal.
    pub(super) fn fence(&self) {
        fence(Ordering::SeqCst);
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
                ring.drain(|entry| {
                    assert_eq!(entry.get(0), entry.get(1), "torn");
                    seen.push(entry.get(0));
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
            parts.1.drain(|_| closed += 1);
            parts.0.drain(|_| opened += 1);
            assert!(opened >= closed);
            opener.join().expect("no panic");
            closer.join().expect("no panic");
        });
    }
}
