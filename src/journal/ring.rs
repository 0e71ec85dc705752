//! A queue with one writer and one reader; see the invariants of the module.

use crate::sync::{AtomicU64, AtomicUsize, Ordering};

/// A bounded queue of entries of some words, with one writer and one reader at a time.
#[derive(Debug)]
pub(crate) struct Ring<const WORDS: usize, const ENTRIES: usize> {
    /// How many entries were ever pushed, and drained.
    pushed: AtomicUsize,
    drained: AtomicUsize,
    entries: [Entry<WORDS>; ENTRIES],
}

impl<const WORDS: usize, const ENTRIES: usize> Ring<WORDS, ENTRIES> {
    pub(super) fn new() -> Self {
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
    pub(super) fn push_in_order(&self, write: impl FnOnce(&Entry<WORDS>)) -> Option<usize> {
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

    /// Calls `f` with all entries in order, in up to two parts. The caller is the one reader (invariant 2).
    pub(crate) fn drain(&self, mut f: impl FnMut(&[Entry<WORDS>])) {
        // Relaxed: only a holder of the lock writes it.
        let drained = self.drained.load(Ordering::Relaxed);
        // SeqCst: for opens, see `Journals::fence`. It includes the acquire of invariant 3.
        let pushed = self.pushed.load(Ordering::SeqCst);
        if drained == pushed {
            return;
        }
        let (from, len) = (drained % ENTRIES, pushed.wrapping_sub(drained));
        let (before, after) = self.entries.split_at(from);
        let parts = match after.get(..len) {
            Some(after) => [after, &[]],
            None => [after, &before[..len - after.len()]],
        };
        parts.into_iter().for_each(&mut f);
        // Release: invariant 3.
        self.drained.store(pushed, Ordering::Release);
    }
}

/// The words of an entry.
#[derive(Debug)]
pub(crate) struct Entry<const WORDS: usize>([AtomicU64; WORDS]);

// Relaxed: `Ring::pushed` and `Ring::drained` order what is written and read.
impl<const WORDS: usize> Entry<WORDS> {
    #[inline]
    pub(super) fn set(&self, word: usize, value: u64) {
        self.0[word].store(value, Ordering::Relaxed);
    }

    #[inline]
    pub(super) fn set_all(&self, values: [u64; WORDS]) {
        for (word, value) in self.0.iter().zip(values) {
            word.store(value, Ordering::Relaxed);
        }
    }

    #[inline]
    pub(crate) fn get(&self, word: usize) -> u64 {
        self.0[word].load(Ordering::Relaxed)
    }

    /// Splits entries where a word changes.
    #[inline]
    pub(crate) fn runs(entries: &[Self], word: usize) -> impl Iterator<Item = &[Self]> {
        entries.chunk_by(move |one, next| one.get(word) == next.get(word))
    }
}
