use super::super::{
    counters::{LARGE, Writer},
    usage::{Counts, HeapUsage, Totals},
};
use crate::names::Labels;
use crate::sync::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed, SetMut};

/// What a `Bytes` allocates for its own bookkeeping, and takes along when it is handed on.
const BYTES_HEADER: i64 = 40;

/// Frames of fewer bytes were allocated for themselves, or not at all.
pub(in crate::account) const SHORT_FRAME: usize = 1024;

/// How many sections may leave more small blocks behind than they found, before what they left is
/// taken for memory that others free.
const MOST_RISES: u32 = 128;

/// A threshold that is not set, and one that was crossed. No account holds as much.
const NONE: u64 = u64::MAX;
const CROSSED: u64 = u64::MAX - 1;

/// The least distance between two visits, however near a threshold is.
const LEAST_STEP: u64 = 1 << 10;

/// What the code inside of an account may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Budget {
    /// In bytes, at most [`Budget::MAX`].
    pub(crate) limit: u64,
    /// Whether it is that of a call, which ends before the account's request does.
    pub(crate) of_call: bool,
}

/// The bit of a budget's word that says that it is a call's.
const OF_CALL: u64 = 1 << 63;

impl Budget {
    /// The largest limit.
    pub(crate) const MAX: u64 = i64::MAX as u64 - 1;

    /// The word of a budget, or [`NONE`].
    fn word(budget: Option<Self>) -> u64 {
        budget.map_or(NONE, |budget| {
            budget.limit.min(Self::MAX) | if budget.of_call { OF_CALL } else { 0 }
        })
    }

    fn of_word(word: u64) -> Option<Self> {
        (word != NONE).then_some(Self {
            limit: word & !OF_CALL,
            of_call: word & OF_CALL != 0,
        })
    }
}

/// What an account has counted, and what it holds.
///
/// Figures of signed meaning are kept in `AtomicU64`s, by two's complement. What a section reads at
/// its start comes first.
#[repr(C)]
pub(in crate::account) struct Record {
    /// Bytes of small blocks that sections of either kind have allocated and not freed. The sum is
    /// what the account holds in small blocks, and never stays below zero.
    small_exclusive: AtomicU64,
    small_shared: AtomicU64,
    /// The held bytes at which the threshold is crossed, [`NONE`] or [`CROSSED`].
    threshold: AtomicU64,
    /// Bytes of large blocks that the account owns.
    large: AtomicU64,
    /// Bytes of memory that was allocated earlier and lent to this account.
    lent: AtomicU64,
    /// The highest value of [`held`](Self::held) so far, as writers of either kind saw it.
    peak_exclusive: AtomicU64,
    peak_shared: AtomicU64,
    /// Sections that left more small bytes than they found, minus those that left fewer, since there
    /// were none.
    rises: AtomicU32,
    /// Some allocations could not be counted.
    inexact: AtomicBool,
    /// Others free the small blocks of this account, so what it holds is not known.
    adrift: AtomicBool,
    /// A threshold was set. None is looked at before.
    limited: AtomicBool,
    /// Whether the account has an owner, which alone enters it with [`Writer::Exclusive`].
    pub(in crate::account) owned: bool,
    /// Whether the response body has begun.
    in_body: AtomicBool,
    /// Whether the section is over that calls the inner service. Stays `false` for tasks.
    called: AtomicBool,
    /// Whether the last section of each kind has counted anything: the call, a poll, and one in the body. Kept
    /// for the next request, as a guess.
    counted: [AtomicBool; 3],
    /// Written by one owner at a time ([`Writer::Exclusive`]), with plain stores.
    exclusive: Counts<AtomicU64>,
    pub(super) refs: AtomicUsize,
    /// Written by any thread ([`Writer::Shared`]), with atomic additions.
    shared: Counts<AtomicU64>,
    /// The small bytes when the response body began, or fewer since.
    floor: AtomicU64,
    /// Bytes in short frozen buffers that were neither dropped nor given to the server.
    short_frozen: AtomicU64,
    /// The [`Budget`] in force.
    budget: AtomicU64,
    /// What the profile's samples and the flight recorder's events are named by.
    pub(in crate::account) labels: Labels,
    /// The thread that the account is at home on, by an address that no other thread has; zero before the first
    /// one comes.
    home: AtomicUsize,
    /// Guards of that thread that were not dropped. It is the only one that writes this.
    guards: AtomicUsize,
}

// Relaxed throughout: counts, which publish no other memory. An exclusive owner sees the writes of the
// former one, since its use happens after (see `Writer`).
impl Record {
    /// A record with one reference, of an account with an owner or without one.
    pub(super) fn new(owned: bool) -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            small_exclusive: zero(),
            small_shared: zero(),
            threshold: AtomicU64::new(NONE),
            large: zero(),
            lent: zero(),
            peak_exclusive: zero(),
            peak_shared: zero(),
            rises: AtomicU32::new(0),
            inexact: AtomicBool::new(false),
            adrift: AtomicBool::new(false),
            limited: AtomicBool::new(false),
            owned,
            in_body: AtomicBool::new(false),
            called: AtomicBool::new(false),
            counted: [true, true, false].map(AtomicBool::new),
            exclusive: Counts::default(),
            refs: AtomicUsize::new(1),
            shared: Counts::default(),
            floor: zero(),
            short_frozen: zero(),
            budget: AtomicU64::new(NONE),
            labels: Labels::none(),
            home: AtomicUsize::new(0),
            guards: AtomicUsize::new(0),
        }
    }

    /// Counts a guard of `thread`, the calling one, unless those of another thread are counted here.
    #[inline]
    pub(super) fn add_guard(&self, thread: usize) -> bool {
        let counts = self.is_home(thread);
        if counts {
            self.guards
                .store(self.guards.load(Relaxed).wrapping_add(1), Relaxed);
        }
        counts
    }

    /// Whether the account is at home on `thread`, the calling one. It is on the first one that asks.
    #[inline]
    fn is_home(&self, thread: usize) -> bool {
        self.home.load(Relaxed) == thread || self.comes_home(thread)
    }

    #[cold]
    #[inline(never)]
    fn comes_home(&self, thread: usize) -> bool {
        let taken = self.home.compare_exchange(0, thread, Relaxed, Relaxed);
        taken.is_ok()
    }

    /// How a section on `thread`, the calling one, writes its counts, if it is not the owner's. Without an owner,
    /// the sections of one thread are the only exclusive ones.
    #[inline]
    pub(in crate::account) fn writer_on(&self, thread: usize) -> Writer {
        if !self.owned && self.is_home(thread) {
            Writer::Exclusive
        } else {
            Writer::Shared
        }
    }

    /// A guard that was counted here is dropped, by the same thread.
    #[inline]
    pub(super) fn remove_guard(&self) {
        self.guards
            .store(self.guards.load(Relaxed).wrapping_sub(1), Relaxed);
    }

    /// Whether a guard that was counted here was forgotten. For a caller that happens after the account was
    /// borrowed for the last time.
    pub(super) fn has_guards(&self) -> bool {
        self.guards.load(Relaxed) != 0
    }

    /// Marks the counts as incomplete.
    #[cold]
    #[inline(never)]
    pub(in crate::account) fn missed(&self) {
        self.inexact.store(true, Relaxed);
    }

    pub(in crate::account) fn is_inexact(&self) -> bool {
        self.inexact.load(Relaxed)
    }

    /// Whether the next section is likely to count anything.
    #[inline]
    pub(in crate::account) fn expects_counts(&self) -> bool {
        self.counted_here().load(Relaxed)
    }

    #[inline]
    pub(in crate::account) fn expect_counts(&self, counts: bool) {
        self.counted_here().store(counts, Relaxed);
    }

    /// The section that calls the inner service is over.
    #[inline]
    pub(in crate::account) fn called(&self) {
        self.called.store(true, Relaxed);
    }

    #[inline]
    fn counted_here(&self) -> &AtomicBool {
        let [call, poll, in_body] = &self.counted;
        if self.in_body.load(Relaxed) {
            in_body
        } else if self.called.load(Relaxed) {
            poll
        } else {
            call
        }
    }

    /// Adds what a section has counted.
    #[inline]
    pub(in crate::account) fn credit(&self, moved: &HeapUsage, writer: Writer) {
        match writer {
            Writer::Exclusive => self.exclusive.write(moved, |counter, by| {
                counter.store(counter.load(Relaxed).wrapping_add(by), Relaxed);
            }),
            // Unchanged counters are not written.
            Writer::Shared => self.shared.write(moved, |counter, by| {
                if by != 0 {
                    counter.fetch_add(by, Relaxed);
                }
            }),
        }
    }

    /// Returns what was credited so far.
    pub(in crate::account) fn credited(&self) -> HeapUsage {
        let read = |counts: &Counts<AtomicU64>| counts.read(|count| count.load(Relaxed));
        read(&self.exclusive).plus(&read(&self.shared))
    }

    /// What was credited by plain stores.
    #[cfg(all(test, not(tower_memory_loom)))]
    pub(in crate::account) fn credited_exclusively(&self) -> HeapUsage {
        self.exclusive.read(|count| count.load(Relaxed))
    }

    #[inline]
    pub(in crate::account) fn totals(&self) -> Totals {
        let sum = |count: fn(&Counts<AtomicU64>) -> &AtomicU64| {
            let exclusive = count(&self.exclusive).load(Relaxed);
            exclusive.wrapping_add(count(&self.shared).load(Relaxed))
        };
        Totals {
            allocations: sum(|counts| &counts.allocations),
            bytes_allocated: sum(|counts| &counts.bytes_allocated),
            peak_bytes: self.peak(),
        }
    }

    /// Returns the bytes held in small blocks.
    #[inline]
    pub(in crate::account) fn small(&self) -> i64 {
        self.small_sum().max(0)
    }

    /// Two threads that lower the small bytes at the same time may leave a negative value for a moment.
    #[inline]
    fn small_sum(&self) -> i64 {
        let exclusive = self.small_exclusive.load(Relaxed);
        exclusive.wrapping_add(self.small_shared.load(Relaxed)) as i64
    }

    #[inline]
    fn add_small(&self, by: i64, writer: Writer) {
        match writer {
            _ if by == 0 => {}
            Writer::Exclusive => {
                let before = self.small_exclusive.load(Relaxed);
                let after = before.wrapping_add(by as u64);
                self.small_exclusive.store(after, Relaxed);
            }
            Writer::Shared => {
                self.small_shared.fetch_add(by as u64, Relaxed);
            }
        }
    }

    /// Records that a section's small bytes rose by up to `rise`, and then were `net` more than at the
    /// time of the last call. Returns how far the account's small bytes moved.
    ///
    /// They do not fall below zero: what is freed beyond was allocated by others.
    #[inline(always)]
    pub(in crate::account) fn moved(&self, rise: i64, net: i64, writer: Writer) -> i64 {
        let before = self.small_sum();
        let by = before.max(0).wrapping_add(net).max(0).wrapping_sub(before);
        self.add_small(by, writer);
        if rise > 0 {
            // Read again: of two threads that add at the same time, the later one sees both.
            let small = self.small_sum().wrapping_sub(by).max(0).wrapping_add(rise);
            self.note(small, writer);
        }
        by
    }

    /// The account has held `small` bytes in small blocks, which is not negative.
    #[inline]
    fn note(&self, small: i64, writer: Writer) {
        let held = self.held_with(small);
        match writer {
            Writer::Exclusive => {
                if held > self.peak_exclusive.load(Relaxed) {
                    self.peak_exclusive.store(held, Relaxed);
                }
            }
            Writer::Shared => {
                if held > self.peak_shared.load(Relaxed) {
                    self.peak_shared.fetch_max(held, Relaxed);
                }
            }
        }
        // No less than what counts for the threshold.
        if held >= self.threshold.load(Relaxed) {
            self.cross(small);
        }
    }

    #[cold]
    #[inline(never)]
    fn cross(&self, small: i64) {
        let held = self.limited_with(small);
        let at = self.threshold.load(Relaxed);
        if held >= at && self.is_limited() {
            // If it fails, it was set anew, or another thread was first.
            let _ = self
                .threshold
                .compare_exchange(at, CROSSED, Relaxed, Relaxed);
        }
    }

    /// What counts for thresholds. Small blocks do not if others free them.
    fn limited_with(&self, small: i64) -> u64 {
        self.held_with(if self.adrift.load(Relaxed) { 0 } else { small })
    }

    /// Sets the threshold, or removes it, and forgets whether it was crossed.
    pub(in crate::account) fn set_threshold(&self, bytes: Option<u64>) {
        let bytes = bytes.map_or(NONE, |bytes| bytes.min(i64::MAX as u64));
        self.limited.store(true, Relaxed);
        // Not a store, so that a crossing of the former one is replaced or fails.
        self.threshold.swap(bytes, Relaxed);
        self.note(self.small(), Writer::Shared);
    }

    /// Whether the threshold was crossed since it was set.
    #[inline]
    pub(in crate::account) fn has_crossed(&self) -> bool {
        self.threshold.load(Relaxed) == CROSSED
    }

    /// Sets the budget, and the threshold that is crossed beyond it.
    pub(in crate::account) fn set_budget(&self, budget: Option<Budget>) {
        self.budget.store(Budget::word(budget), Relaxed);
        self.set_threshold(budget.map(threshold_of));
    }

    /// Sets the budget of an account that holds nothing and is not entered.
    #[inline]
    pub(in crate::account) fn begin_budget(&self, budget: Budget) {
        self.limited.store(true, Relaxed);
        self.budget.store(Budget::word(Some(budget)), Relaxed);
        self.threshold.store(threshold_of(budget), Relaxed);
    }

    /// The budget in force.
    #[inline]
    pub(in crate::account) fn budget(&self) -> Option<Budget> {
        Budget::of_word(self.budget.load(Relaxed))
    }

    /// Lets the account hold what it holds now and `more` bytes, if that is above its budget.
    pub(in crate::account) fn tolerate(&self, more: u64) {
        let Some(budget) = self.budget() else {
            return;
        };
        let held = self.limited_with(self.small()).saturating_add(more);
        let at = threshold_of(budget).max(held.min(i64::MAX as u64));
        self.move_threshold(at);
        self.note(self.small(), Writer::Shared);
    }

    /// Crosses the threshold of the budget, if there is one.
    pub(in crate::account) fn exhaust(&self) {
        self.move_threshold(CROSSED);
    }

    /// Sets the threshold, unless the budget was removed meanwhile.
    fn move_threshold(&self, to: u64) {
        let set = |now: u64| (now != NONE).then_some(to);
        let _ = self.threshold.fetch_update(Relaxed, Relaxed, set);
    }

    /// The most bytes that the account held, as far as they count for its budget.
    pub(in crate::account) fn most_held(&self) -> u64 {
        self.peak()
            .unwrap_or_else(|| self.limited_with(self.small()))
    }

    /// The bytes that may still be held; `None` without a budget.
    pub(in crate::account) fn budget_left(&self) -> Option<u64> {
        let budget = self.budget()?;
        Some(budget.limit.saturating_sub(self.limited_with(self.small())))
    }

    /// The held bytes and the budget, if `more` bytes would exceed it.
    pub(in crate::account) fn exceeded_by(&self, more: u64) -> Option<(u64, Budget)> {
        let budget = self.budget()?;
        let held = self.limited_with(self.small());
        (held.saturating_add(more) > budget.limit).then_some((held, budget))
    }

    /// Whether a threshold was set.
    #[inline]
    pub(in crate::account) fn is_limited(&self) -> bool {
        self.limited.load(Relaxed)
    }

    /// Returns after how many bytes allocated by one section the account is to be told of them, so that a
    /// threshold is not passed unseen.
    ///
    /// Half of what is left: other threads may be in the account, too.
    #[inline]
    pub(in crate::account) fn step(&self) -> u64 {
        const FAR: u64 = 2 * LARGE as u64;

        // No less than what counts for the threshold.
        let far = || {
            self.threshold
                .load(Relaxed)
                .wrapping_sub(self.held_with(self.small()))
        };
        if !self.is_limited() || (FAR..1 << 63).contains(&far()) {
            return LARGE as u64;
        }
        self.near_step()
    }

    #[inline(never)]
    fn near_step(&self) -> u64 {
        let held = self.limited_with(self.small());
        let left = self.threshold.load(Relaxed).saturating_sub(held);
        (left / 2).clamp(LEAST_STEP, LARGE as u64)
    }

    #[inline]
    fn held_with(&self, small: i64) -> u64 {
        let others = self
            .large
            .load(Relaxed)
            .wrapping_add(self.lent.load(Relaxed));
        others.wrapping_add(small as u64)
    }

    /// The account owns a large block more.
    pub(in crate::account) fn owns(&self, size: usize) {
        self.large.fetch_add(size as u64, Relaxed);
        self.note(self.small(), Writer::Shared);
    }

    /// The bytes of large blocks that the account owns.
    #[inline]
    pub(in crate::account) fn large(&self) -> u64 {
        self.large.load(Relaxed)
    }

    /// A large block of this account was freed.
    pub(in crate::account) fn lost(&self, size: usize) {
        self.large.fetch_sub(size as u64, Relaxed);
    }

    /// Sets the bytes lent to this account.
    pub(in crate::account) fn lend(&self, bytes: usize) {
        self.lent.store(bytes as u64, Relaxed);
        self.note(self.small(), Writer::Shared);
    }

    /// A section has ended, in which the small bytes moved by `by`.
    ///
    /// Two threads at the same time may count as one, which only delays the answer.
    #[inline]
    pub(in crate::account) fn left(&self, by: i64) {
        if by == 0 {
            return;
        }
        let rises = self.rises.load(Relaxed);
        if by < 0 {
            if rises != 0 {
                self.rises.store(rises - 1, Relaxed);
            }
            return;
        }
        let small = self.small();
        // It may have held nothing before.
        let rises = if small <= by {
            1
        } else {
            rises.saturating_add(1)
        };
        self.rises.store(rises, Relaxed);
        if rises > MOST_RISES && small > LARGE as i64 {
            self.adrift.store(true, Relaxed);
        }
    }

    /// The response body begins.
    #[inline]
    pub(in crate::account) fn body_began(&self) {
        self.floor.store(self.small() as u64, Relaxed);
        self.in_body.store(true, Relaxed);
    }

    /// A frame of `bytes` was given to the server, which frees it. Exclusive owner only. `is_unique` says
    /// that no other handle refers to its block.
    ///
    /// What was there before the body is no frame. So a body of static or cached data takes nothing. A
    /// short frame that is not unique is a frozen buffer, or else static, or a small part of a block that stays.
    pub(in crate::account) fn gave(&self, bytes: usize, is_unique: bool) {
        let small = self.small();
        let floor = (self.floor.load(Relaxed) as i64).min(small);
        self.floor.store(floor as u64, Relaxed);
        let grown = small.saturating_sub(floor);
        if grown == 0 || (bytes < SHORT_FRAME && !is_unique && !self.take_short_frozen(bytes)) {
            return;
        }
        // A large block has its owner, and is counted until it is freed.
        let small = if bytes < LARGE { bytes as i64 } else { 0 };
        let frame = small.saturating_add(BYTES_HEADER);
        self.add_small(grown.min(frame).wrapping_neg(), Writer::Exclusive);
        let rises = self.rises.load(Relaxed);
        self.rises.store(rises.saturating_sub(1), Relaxed);
    }

    /// A buffer of `bytes`, fewer than [`SHORT_FRAME`], was frozen.
    pub(in crate::account) fn froze_short(&self, bytes: usize) {
        self.short_frozen.fetch_add(bytes as u64, Relaxed);
    }

    /// A short frame may be a frozen buffer. Returns whether there were such.
    pub(in crate::account) fn take_short_frozen(&self, bytes: usize) -> bool {
        let take = |frozen: u64| frozen.checked_sub(bytes as u64);
        self.short_frozen
            .fetch_update(Relaxed, Relaxed, take)
            .is_ok()
    }

    /// All figures are zero again. For the only reference.
    #[inline]
    pub(super) fn begin_anew(&mut self) {
        if self.limited.load(Relaxed) {
            self.threshold.set_mut(NONE);
            self.budget.set_mut(NONE);
        }
        for flag in [
            &mut self.inexact,
            &mut self.adrift,
            &mut self.limited,
            &mut self.in_body,
            &mut self.called,
        ] {
            flag.set_mut(false);
        }
        self.rises.set_mut(0);
        self.labels.set(None, None);
        // In the order of their places.
        for figure in [
            &mut self.small_exclusive,
            &mut self.small_shared,
            &mut self.large,
            &mut self.lent,
            &mut self.peak_exclusive,
            &mut self.peak_shared,
        ] {
            figure.set_mut(0);
        }
        self.exclusive.each_mut(|count| count.set_mut(0));
        self.shared.each_mut(|count| count.set_mut(0));
        self.floor.set_mut(0);
        self.short_frozen.set_mut(0);
    }

    /// Returns what the account holds, if that is known.
    pub(in crate::account) fn held(&self) -> Option<u64> {
        (!self.adrift.load(Relaxed)).then(|| self.held_with(self.small()))
    }

    /// Whether the account has held as much as `bytes`, as far as is known.
    #[inline]
    pub(in crate::account) fn has_held(&self, bytes: u64) -> bool {
        self.peak_exclusive.load(Relaxed) >= bytes || self.peak_shared.load(Relaxed) >= bytes
    }

    /// Returns the most that the account held, if that is known.
    pub(in crate::account) fn peak(&self) -> Option<u64> {
        let peak = || {
            let exclusive = self.peak_exclusive.load(Relaxed);
            exclusive.max(self.peak_shared.load(Relaxed))
        };
        (!self.adrift.load(Relaxed)).then(peak)
    }
}

/// The held bytes that exceed a budget.
fn threshold_of(budget: Budget) -> u64 {
    budget.limit.min(Budget::MAX) + 1
}

#[cfg(all(test, tower_memory_loom))]
mod loom_models {
    use loom::{sync::Arc, thread};

    use super::*;

    /// Whatever meets it, an account without a budget is not over one.
    #[test]
    fn a_budget_that_is_removed_stays_removed() {
        let budget = |limit| {
            Some(Budget {
                limit,
                of_call: false,
            })
        };
        let others: [fn(&Record); 3] = [
            |record| {
                record.moved(20, 20, Writer::Shared);
            },
            |record| record.exhaust(),
            |record| record.tolerate(5),
        ];
        for other in others {
            loom::model(move || {
                let record = Arc::new(Record::new(false));
                record.set_budget(budget(10));
                let thread = thread::spawn({
                    let record = Arc::clone(&record);
                    move || other(&record)
                });
                record.set_budget(None);
                thread.join().expect("no panic");
                // What comes later finds no threshold either.
                record.moved(50, 50, Writer::Shared);
                assert!(!record.has_crossed());
            });
        }
    }

    /// An end that is asked for is not lost to a threshold that moves at the same time.
    #[test]
    fn an_account_that_is_exhausted_while_it_grows_is_over_its_budget() {
        loom::model(|| {
            let record = Arc::new(Record::new(false));
            record.set_budget(Some(Budget {
                limit: 10,
                of_call: false,
            }));
            let other = thread::spawn({
                let record = Arc::clone(&record);
                move || record.moved(20, 20, Writer::Shared)
            });
            record.exhaust();
            other.join().expect("no panic");
            assert!(record.has_crossed());
        });
    }

    #[test]
    fn two_threads_that_cross_a_threshold_together_are_seen() {
        loom::model(|| {
            let record = Arc::new(Record::new(false));
            record.set_threshold(Some(10));
            let other = thread::spawn({
                let record = Arc::clone(&record);
                move || record.moved(6, 6, Writer::Shared)
            });
            record.moved(6, 6, Writer::Shared);
            other.join().expect("no panic");
            assert!(record.has_crossed());
            assert_eq!((record.held(), record.peak()), (Some(12), Some(12)));
        });
    }

    /// The exclusive writer stores what others add atomically.
    #[test]
    fn writers_of_both_kinds_lose_no_peak() {
        loom::model(|| {
            let record = Arc::new(Record::new(false));
            let other = thread::spawn({
                let record = Arc::clone(&record);
                move || {
                    record.moved(9, 5, Writer::Shared);
                    record.lend(100);
                }
            });
            record.moved(7, 7, Writer::Exclusive);
            other.join().expect("no panic");
            let peak = record.peak().expect("it is known");
            assert!((105..=112).contains(&peak), "{peak}");
            assert_eq!(record.held(), Some(112));
            record.moved(1, 1, Writer::Exclusive);
            assert_eq!(record.peak(), Some(113));
        });
    }

    /// One of the threads is at home in the account, and stores what the other one adds atomically.
    #[test]
    fn threads_that_count_in_an_account_without_an_owner_lose_nothing() {
        let counted = HeapUsage {
            allocations: 1,
            bytes_allocated: 6,
            ..HeapUsage::default()
        };
        let section = move |record: &Record, thread| {
            let writer = record.writer_on(thread);
            record.moved(6, 5, writer);
            record.credit(&counted, writer);
        };
        loom::model(move || {
            let record = Arc::new(Record::new(false));
            let other = thread::spawn({
                let record = Arc::clone(&record);
                move || section(&record, 1)
            });
            section(&record, 2);
            other.join().expect("no panic");
            // A thread that begins has the address of one that has ended.
            section(&record, 1);
            let credited = record.credited();
            assert_eq!((credited.allocations, credited.bytes_allocated), (3, 18));
            assert_eq!((record.held(), record.peak()), (Some(15), Some(16)));
        });
    }

    #[test]
    fn an_owner_has_the_exclusive_counts_for_itself() {
        loom::model(|| {
            let record = Arc::new(Record::new(true));
            let other = thread::spawn({
                let record = Arc::clone(&record);
                move || record.moved(6, 6, record.writer_on(1))
            });
            record.moved(7, 7, Writer::Exclusive);
            other.join().expect("no panic");
            assert_eq!(record.held(), Some(13));
        });
    }

    #[test]
    fn a_threshold_that_is_set_anew_is_not_crossed_by_what_crossed_the_former_one() {
        loom::model(|| {
            let record = Arc::new(Record::new(false));
            record.set_threshold(Some(5));
            let other = thread::spawn({
                let record = Arc::clone(&record);
                move || record.moved(6, 6, Writer::Exclusive)
            });
            record.set_threshold(Some(100));
            other.join().expect("no panic");
            assert!(!record.has_crossed());
            record.moved(100, 100, Writer::Exclusive);
            assert!(record.has_crossed());
        });
    }
}
