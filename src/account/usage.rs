use std::ops::{Deref, Sub};

/// What the statistics have of an account that is over.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Totals {
    pub(crate) allocations: u64,
    pub(crate) bytes_allocated: u64,
    pub(crate) peak_bytes: Option<u64>,
}

impl From<Usage> for Totals {
    fn from(usage: Usage) -> Self {
        Self {
            allocations: usage.allocations,
            bytes_allocated: usage.bytes_allocated,
            peak_bytes: usage.peak_bytes,
        }
    }
}

/// Counts of the allocations credited to an [`Account`](super::Account).
///
/// Bytes are the requested sizes (`Layout::size`), without the allocator's rounding and bookkeeping.
///
/// `bytes_allocated` minus `bytes_deallocated` does **not** measure leaks. Memory is often freed
/// outside of the account that allocated it: a server frees response bodies in its connection task.
///
/// # Examples
///
/// ```
/// use tower_memory::account::{Account, TrackingAllocator};
///
/// #[global_allocator]
/// static ALLOC: TrackingAllocator = TrackingAllocator::system();
///
/// let account = Account::new();
/// account.in_scope(|| drop(Vec::<u8>::with_capacity(100)));
///
/// let usage = account.usage().expect("the allocator is installed");
/// assert_eq!(usage.allocations, 1);
/// assert_eq!(usage.bytes_allocated, 100);
/// assert_eq!(usage.bytes_deallocated, 100);
/// assert_eq!((usage.held_bytes, usage.peak_bytes), (Some(0), Some(100)));
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Usage {
    /// What was allocated and freed. `Usage` dereferences to it.
    pub heap: HeapUsage,
    /// The bytes that the account holds now; `None` if that is not known.
    ///
    /// - **A block of 64 KiB or more** is held by the account that allocated or last resized it, until
    ///   it is freed, on whatever thread.
    /// - **Smaller blocks** have no owner. What is held of them is what was allocated minus what was
    ///   freed while the account was entered, and never below zero: the rest was memory of others.
    /// - **A frame of a response body** is no longer held once the server has it, unless it is a block
    ///   with an owner.
    /// - **The request's arena** is held with its whole capacity.
    ///
    /// If others free small blocks of this account again and again, the figure is `None` from then on:
    /// after more than 128 polls that each left some behind, and 64 KiB in sum. A task or a
    /// WebSocket that sends its small messages to others does that.
    ///
    /// Other threads that are inside the account at the same time are included up to the last 64 KiB of
    /// small blocks that each of them has allocated.
    pub held_bytes: Option<u64>,
    /// The highest value of `held_bytes` so far, within polls too; `None` if it is not known.
    pub peak_bytes: Option<u64>,
}

impl Deref for Usage {
    type Target = HeapUsage;

    fn deref(&self) -> &HeapUsage {
        &self.heap
    }
}

/// Heap counters of the whole process or of one thread since its start, or of an account.
///
/// Returned by [`process_usage`](super::process_usage) and [`thread_usage`](super::thread_usage), and
/// part of [`Usage`]. The difference of two readings is what happened between them.
///
/// # Examples
///
/// ```
/// use tower_memory::account::{TrackingAllocator, thread_usage};
///
/// #[global_allocator]
/// static ALLOC: TrackingAllocator = TrackingAllocator::system();
///
/// let before = thread_usage().expect("the allocator is installed");
/// let kept = Vec::<u8>::with_capacity(100);
/// let made = thread_usage().expect("the allocator is installed") - before;
/// assert_eq!((made.allocations, made.live_bytes()), (1, 100));
/// # drop(kept);
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HeapUsage {
    /// Blocks allocated: successful calls of `alloc` and `alloc_zeroed`.
    pub allocations: u64,
    /// Blocks freed.
    pub deallocations: u64,
    /// Blocks resized: successful calls of `realloc`, not included in `allocations`.
    pub reallocations: u64,
    /// Bytes allocated, by new blocks and by growing existing ones.
    pub bytes_allocated: u64,
    /// Bytes freed, by freeing blocks and by shrinking existing ones.
    pub bytes_deallocated: u64,
}

impl HeapUsage {
    /// Returns the bytes allocated minus the bytes freed.
    ///
    /// For the process this is the live heap. For one thread it may be negative, since a thread may
    /// free memory that others allocated.
    #[must_use]
    pub const fn live_bytes(&self) -> i64 {
        self.bytes_allocated.wrapping_sub(self.bytes_deallocated) as i64
    }

    /// Whether anything was counted. Bytes never change without a count.
    #[inline]
    pub(super) const fn is_any(&self) -> bool {
        self.allocations | self.deallocations | self.reallocations != 0
    }

    /// Returns the sum of both.
    #[inline]
    pub(super) fn plus(&self, other: &Self) -> Self {
        self.zip(other, u64::wrapping_add)
    }

    #[inline]
    fn zip(&self, other: &Self, f: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            allocations: f(self.allocations, other.allocations),
            deallocations: f(self.deallocations, other.deallocations),
            reallocations: f(self.reallocations, other.reallocations),
            bytes_allocated: f(self.bytes_allocated, other.bytes_allocated),
            bytes_deallocated: f(self.bytes_deallocated, other.bytes_deallocated),
        }
    }
}

/// The counts between two readings of the same counters, with the earlier one on the right.
impl Sub for HeapUsage {
    type Output = Self;

    #[inline]
    fn sub(self, earlier: Self) -> Self {
        self.zip(&earlier, u64::wrapping_sub)
    }
}

/// The counts between two readings of an account, with the earlier one on the right. The peak between
/// them is not known, so the difference has none.
impl Sub for Usage {
    type Output = HeapUsage;

    fn sub(self, earlier: Self) -> HeapUsage {
        self.heap - earlier.heap
    }
}

/// The counts of a [`HeapUsage`], each in a cell of its own.
///
/// A copy of all of them would read larger pieces than were just written, which stalls the
/// processor's store forwarding.
#[derive(Default)]
pub(super) struct Counts<C> {
    pub(super) allocations: C,
    pub(super) deallocations: C,
    pub(super) reallocations: C,
    pub(super) bytes_allocated: C,
    pub(super) bytes_deallocated: C,
}

impl<C> Counts<C> {
    #[inline]
    pub(super) fn read(&self, get: impl Fn(&C) -> u64) -> HeapUsage {
        HeapUsage {
            allocations: get(&self.allocations),
            deallocations: get(&self.deallocations),
            reallocations: get(&self.reallocations),
            bytes_allocated: get(&self.bytes_allocated),
            bytes_deallocated: get(&self.bytes_deallocated),
        }
    }

    #[inline]
    pub(super) fn each_mut(&mut self, f: impl Fn(&mut C)) {
        f(&mut self.allocations);
        f(&mut self.deallocations);
        f(&mut self.reallocations);
        f(&mut self.bytes_allocated);
        f(&mut self.bytes_deallocated);
    }

    /// Calls `write` with each cell and its part of `usage`.
    #[inline]
    pub(super) fn write(&self, usage: &HeapUsage, write: impl Fn(&C, u64)) {
        write(&self.allocations, usage.allocations);
        write(&self.deallocations, usage.deallocations);
        write(&self.reallocations, usage.reallocations);
        write(&self.bytes_allocated, usage.bytes_allocated);
        write(&self.bytes_deallocated, usage.bytes_deallocated);
    }
}
