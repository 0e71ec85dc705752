/// Figures of an [`ArenaPool`](super::ArenaPool), in the words of Kestrel's memory pool.
///
/// # Examples
///
/// ```
/// use tower_memory::ArenaPool;
///
/// let pool = ArenaPool::new();
/// pool.rent().alloc_str("takes one chunk");
/// let stats = pool.stats();
/// assert_eq!((stats.misses, stats.pooled), (1, 1));
/// assert_eq!(stats.allocated_bytes(), stats.pooled_bytes);
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolStats {
    /// Arenas that wait to be used again.
    pub pooled: usize,
    /// Bytes they keep.
    pub pooled_bytes: usize,
    /// Arenas in use.
    pub rented: usize,
    /// Bytes those have taken from the system.
    pub rented_bytes: usize,
    /// Bytes given back to the system so far: above what may be kept, or not used for a while.
    pub evicted_bytes: u64,
    /// How often an arena was taken from those waiting.
    pub hits: u64,
    /// How often none of a suitable size was waiting and a new one was made.
    pub misses: u64,
}

impl PoolStats {
    /// Bytes taken from the system, in use or waiting.
    #[must_use]
    pub const fn allocated_bytes(&self) -> usize {
        self.pooled_bytes.saturating_add(self.rented_bytes)
    }
}
