//! The last events of one thread.
//!
//! # Invariants
//!
//! 1. One thread writes: `push` and `set_current` are called by the thread that the ring belongs to.
//! 2. A reader that sees a word of the event at a position also sees that the head is at least that position:
//!    each word is stored after a release fence that follows the store of that head, and the reader's acquire fence
//!    follows its loads of words.
//! 3. So an event is whole if the head, read after its words, is at most the position plus the capacity less one:
//!    the slot at the head may be half written.
//! 4. A reader that sees a head sees all events before it: the head is stored with release, and loaded with acquire.

use crate::sync::{AtomicU64, Ordering, fence};

/// Words of an event.
pub(super) const WORDS: usize = 4;

/// Events that are copied at a time before the reader looks what was overwritten meanwhile.
const CHUNK: u64 = 1024;

pub(super) struct Ring {
    /// How many events were pushed.
    head: AtomicU64,
    slots: Box<[[AtomicU64; WORDS]]>,
    /// What runs now, with a sequence number that is odd while it is changed: start, bytes at the start, origin.
    sequence: AtomicU64,
    current: [AtomicU64; 3],
}

/// Events that were read, oldest first, and how many of the ring's were overwritten meanwhile.
pub(super) struct Read {
    pub(super) events: Vec<[u64; WORDS]>,
    pub(super) lost: u64,
}

impl Ring {
    /// `capacity` is a power of two.
    pub(super) fn new(capacity: usize) -> Self {
        debug_assert!(capacity.is_power_of_two(), "{capacity} is no power of two");
        let slot = || std::array::from_fn(|_| AtomicU64::new(0));
        Self {
            head: AtomicU64::new(0),
            slots: std::iter::repeat_with(slot).take(capacity).collect(),
            sequence: AtomicU64::new(0),
            current: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    fn slot(&self, at: u64) -> &[AtomicU64; WORDS] {
        // The cast drops bits that the mask drops as well.
        &self.slots[at as usize & (self.slots.len() - 1)]
    }

    /// Adds an event in place of the oldest one. Invariant 1.
    #[inline]
    pub(super) fn push(&self, words: [u64; WORDS]) {
        let at = self.head.load(Ordering::Relaxed);
        // Invariant 2.
        fence(Ordering::Release);
        for (slot, word) in self.slot(at).iter().zip(words) {
            slot.store(word, Ordering::Relaxed);
        }
        // Invariant 4.
        self.head.store(at + 1, Ordering::Release);
    }

    /// Reads the events that are there now, while the thread may go on.
    pub(super) fn read(&self) -> Read {
        // Invariant 4.
        let end = self.head.load(Ordering::Acquire);
        let capacity = self.slots.len() as u64;
        let mut at = end.saturating_sub(capacity);
        let mut read = Read {
            events: Vec::with_capacity((end - at) as usize),
            lost: 0,
        };
        while at < end {
            let stop = (at + CHUNK).min(end);
            let first = read.events.len();
            for position in at..stop {
                let words = self.slot(position);
                let words = std::array::from_fn(|n| words[n].load(Ordering::Relaxed));
                read.events.push(words);
            }
            // Invariants 2 and 3.
            fence(Ordering::Acquire);
            let head = self.head.load(Ordering::Relaxed);
            let whole = (head + 1).saturating_sub(capacity).clamp(at, stop);
            read.events.drain(first..first + (whole - at) as usize);
            read.lost += whole - at;
            at = stop;
        }
        read
    }

    /// Says what runs from now on: its start, the bytes at its start, and its origin. A start of zero is nothing.
    /// Invariant 1.
    #[inline]
    pub(super) fn set_current(&self, current: [u64; 3]) {
        let sequence = self.sequence.load(Ordering::Relaxed);
        self.sequence
            .store(sequence.wrapping_add(1), Ordering::Relaxed);
        // As invariant 2, of the sequence number.
        fence(Ordering::Release);
        for (slot, word) in self.current.iter().zip(current) {
            slot.store(word, Ordering::Relaxed);
        }
        self.sequence
            .store(sequence.wrapping_add(2), Ordering::Release);
    }

    /// What runs now. `None` if nothing does, or it changed at that moment.
    pub(super) fn current(&self) -> Option<[u64; 3]> {
        let sequence = self.sequence.load(Ordering::Acquire);
        let current: [u64; 3] = std::array::from_fn(|n| self.current[n].load(Ordering::Relaxed));
        fence(Ordering::Acquire);
        let is_whole = sequence % 2 == 0 && self.sequence.load(Ordering::Relaxed) == sequence;
        (is_whole && current[0] != 0).then_some(current)
    }
}

#[cfg(all(test, not(tower_memory_loom)))]
mod tests {
    use std::sync::atomic::AtomicBool;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against a list.
        #[test]
        fn a_ring_holds_the_last_events(bits in 0_u32..5, parts in prop::collection::vec(0_u64..50, 1..8)) {
            let capacity = 1 << bits;
            let ring = Ring::new(capacity);
            let mut model = Vec::new();
            for part in parts {
                for _ in 0..part {
                    let n = model.len() as u64;
                    ring.push([n; WORDS]);
                    model.push([n; WORDS]);
                }
                // The slot at the head counts as half written.
                let kept = if model.len() < capacity { model.len() } else { capacity - 1 };
                let read = ring.read();
                prop_assert_eq!(&read.events, &model[model.len() - kept..]);
                prop_assert_eq!(read.lost, (model.len().min(capacity) - kept) as u64);
            }
        }
    }

    #[test]
    fn a_reader_sees_whole_events_in_order_while_the_thread_writes() {
        let ring = Ring::new(4096);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut n = 1;
                while !stop.load(Ordering::Relaxed) {
                    ring.set_current([n, 2 * n, 3 * n]);
                    ring.push([n, 2 * n, 3 * n, 4 * n]);
                    n += 1;
                }
            });
            for _ in 0..300 {
                let mut last = 0;
                for [n, twice, thrice, four] in ring.read().events {
                    assert!([twice, thrice, four] == [2 * n, 3 * n, 4 * n] && n > last);
                    last = n;
                }
                if let Some([n, twice, thrice]) = ring.current() {
                    assert_eq!([twice, thrice], [2 * n, 3 * n]);
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
    }
}

#[cfg(all(test, tower_memory_loom))]
mod loom_models {
    use loom::{sync::Arc, thread};

    use super::*;

    /// Invariants 2 and 3. The reader is the spawned thread: loom explores more of its reads.
    #[test]
    fn an_event_that_is_read_is_whole() {
        loom::model(|| {
            let ring = Arc::new(Ring::new(2));
            ring.push([1; WORDS]);
            let reader = thread::spawn({
                let ring = Arc::clone(&ring);
                move || {
                    for words in ring.read().events {
                        assert!(words.iter().all(|word| *word == words[0]), "torn {words:?}");
                    }
                }
            });
            ring.push([2; WORDS]);
            ring.push([3; WORDS]);
            reader.join().expect("no panic");
        });
    }

    /// Invariant 4.
    #[test]
    fn what_the_head_promises_is_there() {
        loom::model(|| {
            let ring = Arc::new(Ring::new(4));
            let reader = thread::spawn({
                let ring = Arc::clone(&ring);
                move || {
                    let read = ring.read();
                    for (n, words) in read.events.iter().enumerate() {
                        assert_eq!(words, &[n as u64 + 1; WORDS], "stale");
                    }
                }
            });
            ring.push([1; WORDS]);
            ring.push([2; WORDS]);
            reader.join().expect("no panic");
        });
    }

    #[test]
    fn what_runs_is_whole() {
        loom::model(|| {
            let ring = Arc::new(Ring::new(2));
            let reader = thread::spawn({
                let ring = Arc::clone(&ring);
                move || {
                    if let Some([start, bytes, origin]) = ring.current() {
                        assert!(
                            start == bytes && bytes == origin,
                            "torn {start} {bytes} {origin}"
                        );
                    }
                }
            });
            ring.set_current([1; 3]);
            ring.set_current([2; 3]);
            reader.join().expect("no panic");
        });
    }
}
