use std::ops::Sub;

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
/// assert_eq!(usage.peak_bytes, 100);
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Usage {
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
    /// The most bytes held at once while the account was entered.
    pub peak_bytes: u64,
}

/// Heap counters of the whole process, or of one thread, since its start.
///
/// Returned by [`process_usage`](super::process_usage) and [`thread_usage`](super::thread_usage). The
/// difference of two readings is what happened between them.
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

    /// Returns the counts since `start`.
    #[inline]
    pub(super) const fn since(&self, start: &Self) -> Self {
        Self {
            allocations: self.allocations.wrapping_sub(start.allocations),
            deallocations: self.deallocations.wrapping_sub(start.deallocations),
            reallocations: self.reallocations.wrapping_sub(start.reallocations),
            bytes_allocated: self.bytes_allocated.wrapping_sub(start.bytes_allocated),
            bytes_deallocated: self.bytes_deallocated.wrapping_sub(start.bytes_deallocated),
        }
    }

    /// Returns the sum of both.
    #[inline]
    pub(super) const fn plus(&self, other: &Self) -> Self {
        Self {
            allocations: self.allocations.wrapping_add(other.allocations),
            deallocations: self.deallocations.wrapping_add(other.deallocations),
            reallocations: self.reallocations.wrapping_add(other.reallocations),
            bytes_allocated: self.bytes_allocated.wrapping_add(other.bytes_allocated),
            bytes_deallocated: self.bytes_deallocated.wrapping_add(other.bytes_deallocated),
        }
    }
}

/// The counts between two readings of the same counters, with the earlier one on the right.
impl Sub for HeapUsage {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        self.since(&earlier)
    }
}

/// The counts of an account between two readings, with the earlier one on the right. The peak in
/// between is unknown, so the difference has none.
impl Sub for Usage {
    type Output = HeapUsage;

    fn sub(self, earlier: Self) -> HeapUsage {
        self.totals() - earlier.totals()
    }
}

impl Usage {
    const fn totals(&self) -> HeapUsage {
        HeapUsage {
            allocations: self.allocations,
            deallocations: self.deallocations,
            reallocations: self.reallocations,
            bytes_allocated: self.bytes_allocated,
            bytes_deallocated: self.bytes_deallocated,
        }
    }
}
