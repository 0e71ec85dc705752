use super::{buffers::Buffers, chunk::Chunk, reference::Arena, rented_for::RentedFor};
use crate::sync::Ordering;

impl Arena {
    fn sum(&self, figure: impl Fn(&Chunk) -> usize) -> usize {
        let mut next = self.current();
        let mut sum = 0_usize;
        while let Some(chunk) = next {
            // SAFETY: the chunks of a referenced arena are alive, and so are their predecessors
            // (invariants 1 and 4).
            let chunk = unsafe { chunk.as_ref() };
            sum = sum.saturating_add(figure(chunk));
            next = chunk.prev();
        }
        sum
    }

    /// Bytes in use, padding included, and the capacity of its buffers.
    ///
    /// A buffer that was frozen or dropped does not count any more.
    ///
    /// # Examples
    ///
    /// ```
    /// let arena = tower_memory::Arena::new();
    /// assert_eq!(arena.allocated_bytes(), 0);
    /// arena.alloc_str("four");
    /// assert_eq!(arena.allocated_bytes(), 4);
    /// ```
    #[must_use]
    pub fn allocated_bytes(&self) -> usize {
        self.sum(Chunk::used) + self.header().buffers.held()
    }

    /// The most bytes that were in use at the same time, without those of buffers.
    pub(crate) fn high_water(&self) -> usize {
        self.sum(Chunk::high_water)
    }

    /// What its buffers held; `None` if it had none since it was rented.
    pub(crate) fn buffers(&self) -> Option<&Buffers> {
        let header = self.header();
        header
            .has_buffers
            .load(Ordering::Relaxed)
            .then_some(&header.buffers)
    }

    /// Bytes taken from the global allocator or the pool for data, those of its buffers included.
    #[must_use]
    pub fn capacity(&self) -> usize {
        let header = self.header();
        header.capacity.load(Ordering::Relaxed) + header.buffers.held()
    }

    /// Whether some of its memory was used before and came from a pool.
    pub(crate) fn is_reused(&self) -> bool {
        let header = self.header();
        header.reused || header.buffers_reused.load(Ordering::Relaxed)
    }

    /// For whom the arena was rented.
    #[inline]
    pub(super) fn rented_for(&self) -> RentedFor {
        self.header().rented_for
    }

    /// Drops the handle of a request that is over. If there are others, the arena is counted as left
    /// behind until it comes back.
    pub(crate) fn leave(self) {
        if self.handle_count() > 1 {
            self.header().leave_behind();
        }
    }

    /// The number of handles to this memory, those of buffers included.
    ///
    /// Other threads may change it at any time.
    #[must_use]
    pub fn handle_count(&self) -> usize {
        self.header().refs.load(Ordering::Relaxed)
    }
}
