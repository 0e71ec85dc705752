//! The last events of one thread, and what it does now.
//!
//! # Invariants
//!
//! 1. One thread writes: `begin` and `push` are called by the thread that the ring belongs to. It writes to the slot
//!    at the head only: what runs there, and then the event.
//! 2. A reader that sees a word of the event at a position also sees that the head is at least that position:
//!    each word is stored with release, or after a release fence, that follows the store of that head, and the
//!    reader's acquire fence follows its loads of words.
//! 3. So an event is whole if the head, read after its words, is at most the position plus the capacity less one:
//!    the slot at the head may be half written.
//! 4. A reader that sees a head sees all events before it: the head is stored with release, and loaded with acquire.
//! 5. What runs is whole if the head and the word that says what it is are the same before and after its other words
//!    were read. That word has the flag [`RUNNING`] until the event is written. At one head, another begins only
//!    inside of the one before, so its word differs.

use crate::sync::{AtomicU64, Ordering, fence};

/// The words of an event: start, end, what it is, and whom it concerns.
pub(super) type Words = [u64; 4];

/// Set in the word that says what it is, until it has ended.
pub(super) const RUNNING: u64 = 1 << 7;

/// Events that are copied at a time before the reader looks what was overwritten meanwhile.
const CHUNK: u64 = 1024;

/// Half a line of the processor's cache.
#[repr(align(32))]
struct Slot {
    start: AtomicU64,
    end: AtomicU64,
    what: AtomicU64,
    origin: AtomicU64,
}

pub(super) struct Ring {
    /// How many events were pushed.
    head: AtomicU64,
    slots: Box<[Slot]>,
}

/// What runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Running {
    pub(super) start: u64,
    /// With the flag [`RUNNING`].
    pub(super) what: u64,
    pub(super) origin: u64,
}

/// Events that were read, oldest first, and how many of the ring's were overwritten meanwhile.
pub(super) struct Read {
    pub(super) events: Vec<Words>,
    pub(super) lost: u64,
}

impl Ring {
    /// `capacity` is a power of two.
    pub(super) fn new(capacity: usize) -> Self {
        debug_assert!(capacity.is_power_of_two(), "{capacity} is no power of two");
        let word = || AtomicU64::new(0);
        let slot = || Slot {
            start: word(),
            end: word(),
            what: word(),
            origin: word(),
        };
        Self {
            head: word(),
            slots: std::iter::repeat_with(slot).take(capacity).collect(),
        }
    }

    #[inline]
    fn slot(&self, at: u64) -> &Slot {
        // The cast drops bits that the mask drops as well.
        &self.slots[at as usize & (self.slots.len() - 1)]
    }

    /// Says what runs from now on, until the next [`push`](Self::push). Invariant 1.
    #[inline]
    pub(super) fn begin(&self, running: &Running) {
        let slot = self.slot(self.head.load(Ordering::Relaxed));
        // Invariants 2 and 5: it may be inside of another one.
        slot.what.store(0, Ordering::Release);
        fence(Ordering::Release);
        slot.start.store(running.start, Ordering::Relaxed);
        slot.origin.store(running.origin, Ordering::Relaxed);
        // Invariant 5.
        slot.what.store(running.what, Ordering::Release);
    }

    /// Adds an event in place of the oldest one. Nothing runs then. Invariant 1.
    #[inline]
    pub(super) fn push(&self, [start, end, what, origin]: Words) {
        let at = self.head.load(Ordering::Relaxed);
        let slot = self.slot(at);
        // Invariants 2 and 5: what a reader sees of the rest belongs to nothing that runs.
        slot.what.store(what, Ordering::Release);
        fence(Ordering::Release);
        slot.start.store(start, Ordering::Relaxed);
        slot.end.store(end, Ordering::Relaxed);
        slot.origin.store(origin, Ordering::Relaxed);
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
                let slot = self.slot(position);
                let words = [&slot.start, &slot.end, &slot.what, &slot.origin];
                read.events
                    .push(words.map(|word| word.load(Ordering::Relaxed)));
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

    /// What runs now. `None` if nothing does, or it changed at that moment.
    pub(super) fn running(&self) -> Option<Running> {
        let head = self.head.load(Ordering::Acquire);
        let slot = self.slot(head);
        // Invariant 5.
        let what = slot.what.load(Ordering::Acquire);
        let running = Running {
            start: slot.start.load(Ordering::Relaxed),
            what,
            origin: slot.origin.load(Ordering::Relaxed),
        };
        fence(Ordering::Acquire);
        // Acquire: if it is that of a later one, the head is, too.
        let is_whole =
            slot.what.load(Ordering::Acquire) == what && self.head.load(Ordering::Relaxed) == head;
        (is_whole && what & RUNNING != 0).then_some(running)
    }
}

#[cfg(all(test, not(tower_memory_loom)))]
mod tests {
    use std::sync::atomic::AtomicBool;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against a list and a stack.
        #[test]
        fn a_ring_holds_the_last_events_and_what_runs(
            bits in 0_u32..5,
            steps in prop::collection::vec(0_u8..3, 0..100),
        ) {
            let capacity = 1 << bits;
            let ring = Ring::new(capacity);
            let (mut model, mut open) = (Vec::new(), Vec::<Running>::new());
            for (n, step) in steps.into_iter().enumerate() {
                let n = n as u64 + 1;
                match step {
                    0 => {
                        let what = (open.len() as u64 + 1) << 8 | RUNNING;
                        open.push(Running { start: n, what, origin: 2 * n });
                        ring.begin(open.last().expect("pushed"));
                    }
                    // The innermost ends, or else something happens at a moment.
                    step => {
                        let ended = if step == 1 { open.pop() } else { None };
                        let start = ended.map_or(n, |ended| ended.start);
                        model.push([start, n, 3 << 8, 2 * start]);
                        ring.push([start, n, 3 << 8, 2 * start]);
                        if let Some(outer) = open.last() {
                            ring.begin(outer);
                        }
                    }
                }
                prop_assert_eq!(ring.running(), open.last().copied());
                // The slot at the head counts as half written.
                let kept = model.len().min(if model.len() < capacity { capacity } else { capacity - 1 });
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
        let running = |n, depth| Running {
            start: n,
            what: depth << 8 | RUNNING,
            origin: 3 * n + depth,
        };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut n = 1;
                while !stop.load(Ordering::Relaxed) {
                    ring.begin(&running(n, 1));
                    ring.begin(&running(n + 1, 2));
                    ring.push([n, 2 * n, n << 8, 4 * n]);
                    n += 2;
                }
            });
            for _ in 0..300 {
                let mut last = 0;
                for [n, twice, what, four] in ring.read().events {
                    assert!([twice, what, four] == [2 * n, n << 8, 4 * n] && n > last);
                    last = n;
                }
                if let Some(found) = ring.running() {
                    assert_eq!(found, running(found.start, found.what >> 8));
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

    /// An event, and what runs before it, of which all words are `n`.
    fn event(n: u64) -> Words {
        [n; 4]
    }

    fn running(n: u64) -> Running {
        Running {
            start: n,
            what: n << 8 | RUNNING,
            origin: n,
        }
    }

    fn model(capacity: usize, read: fn(&Ring), write: fn(&Ring)) {
        loom::model(move || {
            let ring = Arc::new(Ring::new(capacity));
            ring.push(event(1));
            // The reader is the spawned thread: loom explores more of its reads.
            let reader = thread::spawn({
                let ring = Arc::clone(&ring);
                move || read(&ring)
            });
            write(&ring);
            reader.join().expect("no panic");
        });
    }

    fn all_whole(ring: &Ring) {
        for words in ring.read().events {
            assert!(words.iter().all(|word| *word == words[0]), "torn {words:?}");
        }
    }

    fn running_whole(ring: &Ring) {
        if let Some(found) = ring.running() {
            assert_eq!(found, running(found.start), "torn");
        }
    }

    /// Invariants 2 and 3.
    #[test]
    fn an_event_that_is_read_is_whole() {
        model(2, all_whole, |ring| {
            ring.push(event(2));
            ring.push(event(3));
        });
    }

    /// Invariants 2 and 3.
    #[test]
    fn an_event_is_whole_while_the_next_one_begins() {
        model(2, all_whole, |ring| {
            ring.push(event(2));
            ring.begin(&running(3));
        });
    }

    /// Invariant 4.
    #[test]
    fn what_the_head_promises_is_there() {
        let read = |ring: &Ring| {
            for (n, words) in ring.read().events.iter().enumerate() {
                assert_eq!(words, &event(n as u64 + 1), "stale");
            }
        };
        model(4, read, |ring| {
            ring.push(event(2));
            ring.push(event(3));
        });
    }

    /// Invariant 5, of two that are inside of one another.
    #[test]
    fn what_runs_is_whole() {
        model(2, running_whole, |ring| {
            ring.begin(&running(1));
            ring.begin(&running(2));
        });
    }

    /// Invariant 5, of what happens at a moment.
    #[test]
    fn what_runs_is_whole_while_an_event_is_written() {
        model(2, running_whole, |ring| {
            ring.begin(&running(1));
            ring.push(event(2));
            ring.begin(&running(1));
        });
    }

    /// Invariant 5, of two that do not differ in what they are.
    #[test]
    fn what_runs_is_whole_when_the_slot_is_used_again() {
        let read = |ring: &Ring| {
            if let Some(found) = ring.running() {
                assert_eq!(found.start, found.origin, "torn");
            }
        };
        model(1, read, |ring| {
            let request = |n| Running {
                what: RUNNING,
                ..running(n)
            };
            ring.begin(&request(1));
            ring.push(event(2));
            ring.begin(&request(3));
        });
    }
}
