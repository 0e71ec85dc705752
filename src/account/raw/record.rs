use std::{
    alloc::{Layout, System, handle_alloc_error},
    fmt,
    ops::Deref,
    ptr::NonNull,
};

use super::super::{
    counters::{LARGE, Writer},
    usage::{Counts, HeapUsage},
};
use crate::sync::{
    AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering, Ordering::Relaxed, fence,
};

/// What a `Bytes` allocates for its own bookkeeping, and takes along when it is handed on.
const BYTES_HEADER: i64 = 40;

/// Frames of fewer bytes were allocated for themselves, or not at all.
const SHORT_FRAME: usize = 1024;

/// How many sections may leave more small blocks behind than they found, before what they left is
/// taken for memory that others free.
const MOST_RISES: u32 = 128;

/// What an account has counted, and what it holds.
///
/// Figures of signed meaning are kept in `AtomicU64`s, by two's complement.
#[derive(Default)]
pub(in crate::account) struct Record {
    refs: AtomicUsize,
    /// Some allocations could not be counted.
    inexact: AtomicBool,
    /// Others free the small blocks of this account, so what it holds is not known.
    adrift: AtomicBool,
    /// Sections that left more small bytes than they found, minus those that left fewer, since there
    /// were none.
    rises: AtomicU32,
    /// Written by one owner at a time ([`Writer::Exclusive`]), with plain stores.
    exclusive: Counts<AtomicU64>,
    /// Written by any thread ([`Writer::Shared`]), with atomic additions.
    shared: Counts<AtomicU64>,
    /// Bytes of small blocks that sections of either kind have allocated and not freed. The sum is
    /// what the account holds in small blocks, and never stays below zero.
    small_exclusive: AtomicU64,
    small_shared: AtomicU64,
    /// Bytes of large blocks that the account owns.
    large: AtomicU64,
    /// Bytes of memory that was allocated earlier and lent to this account.
    lent: AtomicU64,
    /// The highest value of [`held`](Self::held) so far.
    peak: AtomicU64,
    /// The small bytes when the response body began, or fewer since.
    floor: AtomicU64,
}

// Relaxed throughout: counts, which publish no other memory. An exclusive owner sees the writes of the
// former one, since its use happens after (see `Writer`).
impl Record {
    /// Marks the counts as incomplete.
    #[cold]
    #[inline(never)]
    pub(in crate::account) fn missed(&self) {
        self.inexact.store(true, Relaxed);
    }

    pub(in crate::account) fn is_inexact(&self) -> bool {
        self.inexact.load(Relaxed)
    }

    /// Adds what a section has counted.
    #[inline]
    pub(in crate::account) fn credit(&self, moved: &HeapUsage, writer: Writer) {
        // Unchanged counters are not written.
        match writer {
            Writer::Exclusive => self.exclusive.write(moved, |counter, by| {
                if by != 0 {
                    counter.store(counter.load(Relaxed).wrapping_add(by), Relaxed);
                }
            }),
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

    /// Returns the bytes held in small blocks. Two threads that lower them at the same time may leave a
    /// negative value for a moment.
    #[inline]
    pub(in crate::account) fn small(&self) -> i64 {
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
    #[inline]
    pub(in crate::account) fn moved(&self, rise: i64, net: i64, writer: Writer) -> i64 {
        let before = self.small();
        let small = before.max(0);
        if rise > 0 {
            self.note_peak(small.wrapping_add(rise));
        }
        let by = small.wrapping_add(net).max(0).wrapping_sub(before);
        self.add_small(by, writer);
        by
    }

    /// `small` is not negative, here and below.
    #[inline]
    fn note_peak(&self, small: i64) {
        let held = self.held_with(small);
        if held > self.peak.load(Relaxed) {
            self.peak.fetch_max(held, Relaxed);
        }
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
        self.note_peak(self.small().max(0));
    }

    /// A large block of this account was freed.
    pub(in crate::account) fn lost(&self, size: usize) {
        self.large.fetch_sub(size as u64, Relaxed);
    }

    /// Sets the bytes lent to this account.
    pub(in crate::account) fn lend(&self, bytes: usize) {
        self.lent.store(bytes as u64, Relaxed);
        self.note_peak(self.small().max(0));
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
        self.floor.store(self.small().max(0) as u64, Relaxed);
    }

    /// A frame of `bytes` was given to the server, which frees it. Exclusive owner only. `is_unique` says
    /// that no other handle refers to its block.
    ///
    /// What was there before the body is no frame. So a body of static or cached data takes nothing. A
    /// short frame that is not unique is static, or a small part of a block that stays.
    pub(in crate::account) fn gave(&self, bytes: usize, is_unique: bool) {
        let small = self.small().max(0);
        let floor = (self.floor.load(Relaxed) as i64).min(small);
        self.floor.store(floor as u64, Relaxed);
        let grown = small.saturating_sub(floor);
        // A larger block has its owner, and is counted until it is freed.
        if bytes >= LARGE || grown == 0 || (bytes < SHORT_FRAME && !is_unique) {
            return;
        }
        let frame = (bytes as i64).saturating_add(BYTES_HEADER);
        self.add_small(grown.min(frame).wrapping_neg(), Writer::Exclusive);
        let rises = self.rises.load(Relaxed);
        self.rises.store(rises.saturating_sub(1), Relaxed);
    }

    /// Returns what the account holds, if that is known.
    pub(in crate::account) fn held(&self) -> Option<u64> {
        (!self.adrift.load(Relaxed)).then(|| self.held_with(self.small().max(0)))
    }

    /// Returns the most that the account held, if that is known.
    pub(in crate::account) fn peak(&self) -> Option<u64> {
        (!self.adrift.load(Relaxed)).then(|| self.peak.load(Relaxed))
    }
}

/// A counted reference to a [`Record`].
pub(in crate::account) struct RecordRef(NonNull<Record>);

// SAFETY: a record is made of atomics, and stays until its last reference is dropped (invariant 1).
unsafe impl Send for RecordRef {}
// SAFETY: as above (invariant 1).
unsafe impl Sync for RecordRef {}

impl RecordRef {
    /// Makes a record.
    ///
    /// Its memory comes from the system allocator, since the last reference may be dropped by the global
    /// one.
    pub(in crate::account) fn new() -> Self {
        let layout = Layout::new::<Record>();
        // SAFETY: a record is not zero-sized; the memory is ours until the last reference is dropped
        // (invariant 1).
        let record = unsafe { std::alloc::GlobalAlloc::alloc(&System, layout) }.cast::<Record>();
        let Some(record) = NonNull::new(record) else {
            handle_alloc_error(layout);
        };
        let fresh = Record {
            refs: AtomicUsize::new(1),
            ..Record::default()
        };
        // SAFETY: `record` was allocated with this layout, and is not shared yet (invariant 1).
        unsafe { record.write(fresh) };
        Self(record)
    }

    /// Begins anew, with a record that nothing else refers to.
    pub(in crate::account) fn reset(&mut self) {
        // Acquire: pairs with the release in `drop`, so the writes of others come before those below.
        if self.refs.load(Ordering::Acquire) != 1 {
            *self = Self::new();
            return;
        }
        // No other thread can get a reference from `&mut self`.
        let record: &Record = self;
        record.inexact.store(false, Relaxed);
        record.adrift.store(false, Relaxed);
        record.rises.store(0, Relaxed);
        let zero = |counter: &AtomicU64| counter.store(0, Relaxed);
        for counts in [&record.exclusive, &record.shared] {
            counts.write(&HeapUsage::default(), |counter, _| zero(counter));
        }
        zero(&record.small_exclusive);
        zero(&record.small_shared);
        zero(&record.large);
        zero(&record.lent);
        zero(&record.peak);
        zero(&record.floor);
    }

    /// The record, for a section that borrows the account or keeps a reference (invariant 2).
    #[inline]
    pub(in crate::account) const fn pin(&self) -> Pinned {
        Pinned(self.0)
    }

    /// Gives the reference up, for [`from_raw`](Self::from_raw).
    pub(super) fn into_raw(self) -> *mut Record {
        let raw = self.0.as_ptr();
        #[expect(clippy::mem_forget, reason = "the pointer is the reference now")]
        std::mem::forget(self);
        raw
    }

    /// # Safety
    ///
    /// `raw` comes from [`into_raw`](Self::into_raw), and is used once.
    pub(super) unsafe fn from_raw(raw: *mut Record) -> Option<Self> {
        NonNull::new(raw).map(Self)
    }
}

impl Default for RecordRef {
    fn default() -> Self {
        Self::new()
    }
}

impl Deref for RecordRef {
    type Target = Record;

    #[inline]
    fn deref(&self) -> &Record {
        // SAFETY: this is a reference to it (invariant 1).
        unsafe { self.0.as_ref() }
    }
}

impl Clone for RecordRef {
    fn clone(&self) -> Self {
        // Relaxed: a new reference is made from one that exists.
        self.refs.fetch_add(1, Relaxed);
        Self(self.0)
    }
}

impl Drop for RecordRef {
    fn drop(&mut self) {
        // Release: what this reference was used for comes before the record is freed or reset.
        if self.refs.fetch_sub(1, Ordering::Release) != 1 {
            return;
        }
        // Acquire: pairs with the releases of the other references.
        fence(Ordering::Acquire);
        // SAFETY: this was the last reference (invariant 1).
        unsafe {
            self.0.drop_in_place();
            std::alloc::GlobalAlloc::dealloc(
                &System,
                self.0.as_ptr().cast(),
                Layout::new::<Record>(),
            );
        }
    }
}

impl fmt::Debug for RecordRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RecordRef").field(&self.0).finish()
    }
}

/// A record that a section on this thread's stack refers to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::account) struct Pinned(NonNull<Record>);

impl Pinned {
    /// Returns another reference to the record.
    pub(in crate::account) fn to_ref(self) -> RecordRef {
        // SAFETY: a pinned record is alive (invariant 2), and the count is raised for the reference.
        unsafe { self.0.as_ref() }.refs.fetch_add(1, Relaxed);
        RecordRef(self.0)
    }

    /// Calls `f` with the record.
    #[inline]
    pub(in crate::account) fn with<R>(self, f: impl FnOnce(&Record) -> R) -> R {
        // SAFETY: a pinned record is alive (invariant 2).
        f(unsafe { self.0.as_ref() })
    }
}
