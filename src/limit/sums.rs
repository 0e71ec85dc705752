//! What open requests have reserved and hold, as sums that no thread waits for.
//!
//! # Invariants
//!
//! 1. `total` is the sum of all reservations that were not released, plus all credits. A reservation with
//!    a limit makes neither exceed it.
//! 2. A [`Part`] is in its sum with its last value until it is closed, and with zero from then on: each
//!    change is one compare-and-swap of the part, and the thread that made it adds the difference.
//! 3. One thread writes the counters of a shard below `own`: that with the shard's number. So it adds by a
//!    load and a store. A later thread with the number happens after it. Other shards are written by several
//!    threads, and credits of all shards by the thread that collects them: they change by read-modify-writes.

use std::{num::NonZero, thread::available_parallelism};

use crate::{
    sync::{AtomicU64, Ordering::Relaxed},
    thread_number::thread_number,
};

/// The credits of all shards together are at most this part of the limit.
const CREDITS: u64 = 64;

/// Shards of the threads whose numbers are too high for one of their own.
const SHARED: usize = 8;

/// The sums. Each thread writes to the shard of its number, so that threads seldom share a cache line.
pub(super) struct Sums {
    total: Padded,
    shards: Box<[Shard]>,
    /// The number of shards that one thread each writes to. They are the first ones.
    own: usize,
    /// The largest credit of a shard is the limit, shifted by this.
    credit_shift: u32,
}

/// Written often, so it shares no cache line with what all threads read.
#[repr(align(128))]
#[derive(Default)]
struct Padded(AtomicU64);

#[repr(align(128))]
#[derive(Default)]
struct Shard {
    /// Bytes reserved in the total for no request yet, so that most requests need not touch it.
    credit: AtomicU64,
    /// Reservations released so far; wraps.
    released: AtomicU64,
    /// Bytes held, as far as this shard's threads have changed them; wraps.
    held: AtomicU64,
    /// What of the reservations is a guess, in the same way.
    guessed: AtomicU64,
    admitted: AtomicU64,
    refused: AtomicU64,
}

// Relaxed throughout: sums, which publish no other memory.
impl Sums {
    pub(super) fn new() -> Self {
        // As many as there are usually threads: some run closures that block.
        let threads = available_parallelism().map_or(1, NonZero::get);
        Self::with_own((2 * threads).next_power_of_two().clamp(8, 64))
    }

    fn with_own(own: usize) -> Self {
        let shards: Box<[_]> = std::iter::repeat_with(Shard::default)
            .take(own + SHARED)
            .collect();
        Self {
            total: Padded::default(),
            own,
            credit_shift: CREDITS.ilog2() + shards.len().next_power_of_two().ilog2(),
            shards,
        }
    }

    /// The shard of the calling thread.
    #[inline]
    pub(super) fn here(&self) -> usize {
        let number = thread_number();
        if number < self.own {
            number
        } else {
            self.own + number % SHARED
        }
    }

    /// Adds to a counter of the calling thread's shard (invariant 3).
    #[inline]
    fn add(&self, shard: usize, of: impl Fn(&Shard) -> &AtomicU64, by: u64) {
        let counter = of(&self.shards[shard]);
        if shard < self.own {
            counter.store(counter.load(Relaxed).wrapping_add(by), Relaxed);
        } else {
            counter.fetch_add(by, Relaxed);
        }
    }

    /// The largest credit of a shard, for a limit.
    #[inline]
    const fn max_credit(&self, limit: u64) -> u64 {
        limit >> self.credit_shift
    }

    /// Reserves `bytes` on behalf of a thread of this shard, if all reservations stay within `room`.
    #[inline]
    pub(super) fn reserve(&self, shard: usize, bytes: u64, room: u64, limit: u64) -> bool {
        let credit = &self.shards[shard].credit;
        if self.total.0.load(Relaxed) <= room
            && credit
                .fetch_update(Relaxed, Relaxed, |credit| credit.checked_sub(bytes))
                .is_ok()
        {
            return true;
        }
        // Half of a full credit more, here and in `release`: a thread whose requests open and close in turn
        // stays in between, and does not touch the total.
        let half = self.max_credit(limit) / 2;
        for spare in [if bytes <= half { half } else { 0 }, 0] {
            let reserve = |total: u64| {
                let total = total.checked_add(bytes)?.checked_add(spare)?;
                (total <= room).then_some(total)
            };
            if self.total.0.fetch_update(Relaxed, Relaxed, reserve).is_ok() {
                if spare != 0 {
                    credit.fetch_add(spare, Relaxed);
                }
                return true;
            }
        }
        false
    }

    /// Reserves `bytes`, whether or not there is room.
    pub(super) fn force(&self, bytes: u64) {
        self.total.0.fetch_add(bytes, Relaxed);
    }

    /// Releases a reservation of `bytes`.
    #[inline]
    pub(super) fn release(&self, shard: usize, bytes: u64, limit: u64) {
        if bytes == 0 {
            return;
        }
        self.add(shard, |shard| &shard.released, bytes);
        let credit = &self.shards[shard].credit;
        let max = self.max_credit(limit);
        if bytes > max {
            self.total.0.fetch_sub(bytes, Relaxed);
            return;
        }
        let left = credit.fetch_add(bytes, Relaxed).wrapping_add(bytes);
        if left > max {
            self.shrink(credit, max / 2);
        }
    }

    /// Returns what a credit has above `keep` to the total.
    #[cold]
    fn shrink(&self, credit: &AtomicU64, keep: u64) {
        if let Ok(left) =
            credit.fetch_update(Relaxed, Relaxed, |left| (left > keep).then_some(keep))
        {
            self.total.0.fetch_sub(left - keep, Relaxed);
        }
    }

    /// Whether `bytes` might fit if there were no credits.
    pub(super) fn fits_without_credits(&self, bytes: u64, room: u64, limit: u64) -> bool {
        let total = self.total.0.load(Relaxed).saturating_sub(limit / CREDITS);
        total.saturating_add(bytes) <= room
    }

    /// Bytes by which a reservation of `bytes` exceeds the room.
    pub(super) fn missing(&self, bytes: u64, room: u64) -> u64 {
        let total = self.total.0.load(Relaxed).saturating_add(bytes);
        total.saturating_sub(room)
    }

    /// Returns all credits to the total.
    pub(super) fn collect_credits(&self) {
        for shard in &*self.shards {
            self.shrink(&shard.credit, 0);
        }
    }

    /// Returns all credits to the total if they are too large, as those of a higher limit are.
    pub(super) fn collect_credits_above(&self, limit: u64) {
        if self.sum(|shard| &shard.credit) > limit / CREDITS {
            self.collect_credits();
        }
    }

    /// The sum of the open requests' reservations.
    pub(super) fn reserved(&self) -> u64 {
        let total = self.total.0.load(Relaxed);
        total.saturating_sub(self.sum(|shard| &shard.credit))
    }

    /// Reservations released so far.
    pub(super) fn released(&self) -> u64 {
        self.sum(|shard| &shard.released)
    }

    /// What open requests hold.
    pub(super) fn held(&self) -> u64 {
        // A shard that others were faster than is negative for a moment.
        (self.sum(|shard| &shard.held) as i64).max(0) as u64
    }

    /// What of the reservations is a guess.
    pub(super) fn guessed(&self) -> u64 {
        (self.sum(|shard| &shard.guessed) as i64).max(0) as u64
    }

    /// What is a guess changed by `by`.
    pub(super) fn add_guessed(&self, shard: usize, by: u64) {
        self.add(shard, |shard| &shard.guessed, by);
    }

    /// The same, negative values included.
    #[cfg(all(test, not(tower_memory_loom)))]
    pub(super) fn exactly_guessed(&self) -> i64 {
        self.sum(|shard| &shard.guessed) as i64
    }

    /// What open requests hold, negative values included.
    #[cfg(test)]
    pub(super) fn exactly_held(&self) -> i64 {
        self.sum(|shard| &shard.held) as i64
    }

    /// What open requests hold changed by `by`.
    pub(super) fn add_held(&self, shard: usize, by: u64) {
        self.add(shard, |shard| &shard.held, by);
    }

    #[inline]
    pub(super) fn count_admitted(&self, shard: usize) {
        self.add(shard, |shard| &shard.admitted, 1);
    }

    pub(super) fn count_refused(&self, shard: usize) {
        self.add(shard, |shard| &shard.refused, 1);
    }

    /// Requests admitted and refused so far.
    pub(super) fn counts(&self) -> (u64, u64) {
        (
            self.sum(|shard| &shard.admitted),
            self.sum(|shard| &shard.refused),
        )
    }

    fn sum(&self, of: impl Fn(&Shard) -> &AtomicU64) -> u64 {
        let shards = self.shards.iter().map(|shard| of(shard).load(Relaxed));
        shards.fold(0, u64::wrapping_add)
    }
}

/// One request's part of a sum, and a mark.
#[derive(Debug)]
pub(super) struct Part(AtomicU64);

/// The last value of a [`Part`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Last {
    pub(super) value: u64,
    pub(super) marked: bool,
}

impl Part {
    const CLOSED: u64 = u64::MAX;
    const MARK: u64 = 1 << 63;
    /// The largest value.
    const LARGEST: u64 = Self::MARK - 2;

    pub(super) fn closed() -> Self {
        Self(AtomicU64::new(Self::CLOSED))
    }

    /// Begins with `value`, which is in the sum already. No other thread has the request yet.
    #[inline]
    pub(super) fn open(&self, value: u64, marked: bool) {
        let mark = if marked { Self::MARK } else { 0 };
        self.0.store(value.min(Self::LARGEST) | mark, Relaxed);
    }

    /// The value, or `None` once it is closed.
    #[inline]
    pub(super) fn get(&self) -> Option<u64> {
        let word = self.0.load(Relaxed);
        (word != Self::CLOSED).then_some(word & !Self::MARK)
    }

    /// Sets the value, and returns the former one, whose difference the caller adds to the sum. `None` if it
    /// is closed.
    pub(super) fn replace(&self, value: u64) -> Option<u64> {
        let value = value.min(Self::LARGEST);
        let set = |word: u64| (word != Self::CLOSED).then_some(word & Self::MARK | value);
        let former = self.0.fetch_update(Relaxed, Relaxed, set).ok()?;
        Some(former & !Self::MARK)
    }

    /// Sets the value and the mark, and returns the former ones. `None` if it is closed.
    pub(super) fn replace_marked(&self, value: u64, marked: bool) -> Option<Last> {
        let mark = if marked { Self::MARK } else { 0 };
        let word = value.min(Self::LARGEST) | mark;
        let set = |former: u64| (former != Self::CLOSED).then_some(word);
        let former = self.0.fetch_update(Relaxed, Relaxed, set).ok()?;
        Some(Last::of(former))
    }

    /// Marks it, unless it is closed or marked. Returns whether it did.
    pub(super) fn mark(&self) -> bool {
        // A closed word has the bit.
        let mark = |word: u64| (word & Self::MARK == 0).then_some(word | Self::MARK);
        self.0.fetch_update(Relaxed, Relaxed, mark).is_ok()
    }

    /// Whether it is open and marked.
    #[inline]
    pub(super) fn is_marked(&self) -> bool {
        let word = self.0.load(Relaxed);
        word != Self::CLOSED && word & Self::MARK != 0
    }

    /// Takes the value out of the sum for good, which the caller does. Zero if it was closed.
    ///
    /// `is_alone` says that no other thread has the request.
    #[inline]
    pub(super) fn close(&self, is_alone: bool) -> Last {
        let word = if is_alone {
            let word = self.0.load(Relaxed);
            self.0.store(Self::CLOSED, Relaxed);
            word
        } else {
            self.0.swap(Self::CLOSED, Relaxed)
        };
        if word == Self::CLOSED {
            return Last {
                value: 0,
                marked: false,
            };
        }
        Last::of(word)
    }
}

impl Last {
    /// Of a word that is not closed.
    const fn of(word: u64) -> Self {
        Self {
            value: word & !Part::MARK,
            marked: word & Part::MARK != 0,
        }
    }
}

#[cfg(all(test, not(tower_memory_loom)))]
mod tests {
    use super::*;

    const LIMIT: u64 = 1 << 30;

    #[test]
    fn reservations_stay_within_the_room_and_all_of_it_can_be_reserved() {
        for bytes in [1, 1000, 100_000, 50 << 20] {
            let sums = Sums::new();
            let room = LIMIT / 10 * 9;
            let mut open = 0;
            for step in 0_u64..20_000 {
                let shard = step as usize % 3;
                if step % 7 == 6 && open > 0 {
                    sums.release(shard, bytes, LIMIT);
                    open -= 1;
                } else if sums.reserve(shard, bytes, room, LIMIT) {
                    open += 1;
                }
                assert_eq!(sums.reserved(), open * bytes);
                assert!(sums.total.0.load(Relaxed) <= room);
            }
            if sums.reserve(0, room - open * bytes, room, LIMIT) {
                sums.release(0, room - open * bytes, LIMIT);
            } else {
                let credits = sums.sum(|shard| &shard.credit);
                assert!(credits <= LIMIT / CREDITS, "{credits} in credits");
                sums.collect_credits();
                assert!(sums.reserve(0, room - open * bytes, room, LIMIT));
                sums.release(0, room - open * bytes, LIMIT);
            }
            for _ in 0..open {
                sums.release(0, bytes, LIMIT);
            }
            assert_eq!(sums.reserved(), 0);
            sums.collect_credits();
            assert_eq!(sums.total.0.load(Relaxed), 0);
        }
    }

    #[test]
    fn credits_of_a_higher_limit_are_returned_and_others_are_kept() {
        let sums = Sums::new();
        for _ in 0..3 {
            assert!(sums.reserve(0, 10, u64::MAX, LIMIT << 6));
            sums.release(0, 10, LIMIT << 6);
        }
        let total = || sums.total.0.load(Relaxed);
        let before = total();
        assert!(before > LIMIT / CREDITS);
        sums.collect_credits_above(LIMIT << 6);
        assert_eq!(total(), before);
        sums.collect_credits_above(LIMIT);
        assert_eq!((total(), sums.reserved()), (0, 0));
    }

    #[test]
    fn a_forced_reservation_needs_no_room_and_no_credit_is_used_without_room() {
        let sums = Sums::new();
        assert!(sums.reserve(0, 10, LIMIT, LIMIT));
        sums.force(LIMIT);
        assert_eq!(sums.reserved(), LIMIT + 10);
        assert!(!sums.reserve(0, 1, LIMIT, LIMIT), "from the credit");
        sums.release(1, LIMIT, LIMIT);
        sums.release(1, 10, LIMIT);
        assert_eq!((sums.reserved(), sums.released()), (0, LIMIT + 10));
    }

    #[test]
    fn a_part_that_is_closed_stays_closed() {
        let last = |value, marked| Last { value, marked };
        let part = Part::closed();
        assert_eq!(
            (part.get(), part.replace(1), part.mark()),
            (None, None, false)
        );
        assert_eq!(part.close(false), last(0, false));
        part.open(5, false);
        assert_eq!((part.get(), part.replace(7)), (Some(5), Some(5)));
        assert!(!part.is_marked());
        assert!(part.mark() && !part.mark() && part.is_marked());
        assert_eq!((part.get(), part.replace(8)), (Some(7), Some(7)));
        assert_eq!(part.close(true), last(8, true));
        assert!(!part.is_marked());
        assert_eq!((part.close(true), part.replace(1)), (last(0, false), None));
        part.open(u64::MAX, false);
        assert_eq!(part.get(), Some(Part::LARGEST));
    }
}

#[cfg(all(test, tower_memory_loom))]
mod loom_models {
    use loom::{sync::Arc, thread};

    use super::*;

    const LIMIT: u64 = 1 << 20;

    /// Invariant 1.
    #[test]
    fn what_two_threads_reserve_stays_within_the_room_and_ends_at_zero() {
        loom::model(|| {
            let sums = Arc::new(Sums::with_own(2));
            let work = {
                let sums = Arc::clone(&sums);
                move |shard: usize| {
                    if sums.reserve(shard, 600, 1000, LIMIT) {
                        assert!(sums.total.0.load(Relaxed) <= 1000);
                        sums.release(shard, 600, LIMIT);
                        true
                    } else {
                        false
                    }
                }
            };
            let other = thread::spawn({
                let work = work.clone();
                move || work(1)
            });
            let mine = work(0);
            let others = other.join().expect("no panic");
            assert!(mine || others, "one of them fits at any time");
            assert_eq!(sums.reserved(), 0);
            sums.collect_credits();
            assert_eq!(sums.total.0.load(Relaxed), 0);
        });
    }

    /// Two threads of one shard use one credit, while a third reads.
    #[test]
    fn a_credit_is_spent_once() {
        loom::model(|| {
            let sums = Arc::new(Sums::with_own(0));
            // A credit of 1024 is left, which is enough for one of them.
            assert!(sums.reserve(0, 1, u64::MAX, LIMIT));
            let other = thread::spawn({
                let sums = Arc::clone(&sums);
                move || sums.reserve(0, 800, u64::MAX, LIMIT)
            });
            assert!(sums.reserve(0, 800, u64::MAX, LIMIT));
            assert!(other.join().expect("no panic"));
            assert_eq!(sums.reserved(), 1601);
        });
    }

    /// Invariant 3: each thread has a shard, another one collects their credits, and no count is lost.
    #[test]
    fn a_shard_of_one_thread_loses_nothing_while_its_credit_is_collected() {
        loom::model(|| {
            let sums = Arc::new(Sums::with_own(1));
            let other = thread::spawn({
                let sums = Arc::clone(&sums);
                move || {
                    for held in [300, 40] {
                        assert!(sums.reserve(0, held, u64::MAX, LIMIT));
                        sums.count_admitted(0);
                        sums.add_held(0, held);
                        sums.add_held(0, held.wrapping_neg());
                        sums.release(0, held, LIMIT);
                    }
                }
            });
            sums.collect_credits();
            assert!(sums.counts().0 <= 2);
            other.join().expect("no panic");
            sums.collect_credits();
            assert_eq!((sums.reserved(), sums.total.0.load(Relaxed)), (0, 0));
            assert_eq!((sums.released(), sums.exactly_held()), (340, 0));
            assert_eq!(sums.counts(), (2, 0));
        });
    }

    /// Invariant 2: a value that changes while the request closes is not left in the sum.
    #[test]
    fn a_part_that_closes_leaves_nothing_in_the_sum() {
        loom::model(|| {
            let state = Arc::new((Sums::with_own(1), Part::closed()));
            // Of several threads.
            let shard = 1;
            state.1.open(0, false);
            let set = |value: u64| {
                let state = Arc::clone(&state);
                move || {
                    let (sums, part) = &*state;
                    if let Some(former) = part.replace(value) {
                        sums.add_held(shard, value.wrapping_sub(former));
                    }
                }
            };
            let (first, second) = (thread::spawn(set(100)), thread::spawn(set(30)));
            let (sums, part) = &*state;
            sums.add_held(shard, part.close(false).value.wrapping_neg());
            first.join().expect("no panic");
            second.join().expect("no panic");
            assert_eq!(sums.exactly_held(), 0);
        });
    }
}
