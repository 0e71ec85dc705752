use std::ops::Sub;

/// What an [`Account`](super::Account) has been credited with.
///
/// Bytes are those asked for by the program (`Layout::size`), without the allocator's rounding
/// and bookkeeping.
///
/// `bytes_allocated` minus `bytes_deallocated` is **not** a leak figure: memory is often freed by
/// somebody else than the one who allocated it (a server frees response bodies in its connection
/// task).
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
    /// Blocks obtained (`alloc` and `alloc_zeroed` calls that succeeded).
    pub allocations: u64,
    /// Blocks given back.
    pub deallocations: u64,
    /// Blocks resized (`realloc` calls that succeeded); not contained in `allocations`.
    pub reallocations: u64,
    /// Bytes obtained, by new blocks and by growing existing ones.
    pub bytes_allocated: u64,
    /// Bytes given back, by freeing blocks and by shrinking existing ones.
    pub bytes_deallocated: u64,
    /// The highest number of bytes held at once, counted while the account was entered.
    pub peak_bytes: u64,
}

/// The heap of the whole process, or of one thread, since it started.
///
/// See [`process_usage`](super::process_usage) and [`thread_usage`](super::thread_usage).
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
    /// Blocks obtained (`alloc` and `alloc_zeroed` calls that succeeded).
    pub allocations: u64,
    /// Blocks given back.
    pub deallocations: u64,
    /// Blocks resized (`realloc` calls that succeeded); not contained in `allocations`.
    pub reallocations: u64,
    /// Bytes obtained, by new blocks and by growing existing ones.
    pub bytes_allocated: u64,
    /// Bytes given back, by freeing blocks and by shrinking existing ones.
    pub bytes_deallocated: u64,
}

impl HeapUsage {
    /// Bytes obtained and not given back.
    ///
    /// For the process this is the live heap. For one thread it may be negative: a thread may free
    /// what others allocated.
    #[must_use]
    pub const fn live_bytes(&self) -> i64 {
        self.bytes_allocated.wrapping_sub(self.bytes_deallocated) as i64
    }

    /// What was counted between `start` and this.
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

    /// Both together.
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

/// What was counted between two readings of the same counters, the earlier one on the right.
impl Sub for HeapUsage {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        self.since(&earlier)
    }
}

/// What an account was credited with between two readings, the earlier one on the right. The peak
/// between them is not known, so the difference has none.
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
