use super::{
    origins::HandedOut,
    settings::{OnTrim, Settings},
    state::PoolState,
    stats::PoolStats,
};
use crate::{
    arena::{Arena, ArenaBuf, ArenaError, BlockPool, RentedFor},
    housekeeping::Housekeeping,
    sync::Arc,
};

/// A pool of [`Arena`]s.
///
/// A clone is another handle to the same pool. Renting never fails: if no arena waits, the pool
/// makes a new one. An arena is returned when its last handle is dropped, on any thread. Returning
/// allocates nothing, and no thread waits for another. When the last handle of the pool is dropped,
/// the waiting arenas are freed; rented arenas are freed when they are returned.
///
/// Each thread caches a few arenas; the others wait in a cache that all threads share. Arenas that
/// are not used for a while are freed: see [`PoolBuilder::trim_interval`]. Each thread also keeps
/// one arena of at most 64 KiB, until it rents that arena again or ends. Once the pool has gone, the
/// thread frees that arena when it uses another pool. An idle thread keeps at most five of them.
///
/// The memory of buffers ([`ArenaBuf`]) is pooled beside the arenas in the same way, in blocks of 1,
/// 1.5, 2, 3, 4, ... KiB.
///
/// [`PoolBuilder::trim_interval`]: super::PoolBuilder::trim_interval
///
/// # Examples
///
/// ```
/// use tower_memory::ArenaPool;
///
/// let pool = ArenaPool::new();
/// let arena = pool.rent();
/// arena.alloc_str("used once");
/// assert_eq!(pool.stats().rented, 1);
/// drop(arena);
/// assert_eq!((pool.stats().rented, pool.stats().pooled), (0, 1));
///
/// let again = pool.rent();
/// assert_eq!(pool.stats().hits, 1);
/// assert_eq!(again.allocated_bytes(), 0);
/// ```
#[derive(Debug, Clone)]
pub struct ArenaPool {
    handle: Arc<Handle>,
}

/// Closes the pool when it is dropped.
#[derive(Debug)]
struct Handle {
    state: Arc<PoolState>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.state.close();
    }
}

impl ArenaPool {
    /// A pool with the default settings; see [`PoolBuilder`](super::PoolBuilder).
    #[must_use]
    pub fn new() -> Self {
        Self::looked_after(Housekeeping::Process, None)
    }

    /// A pool with the default settings, or one that keeps at most `most` bytes, trimmed by `housekeeping`.
    pub(crate) fn looked_after(housekeeping: Housekeeping, most: Option<usize>) -> Self {
        let mut settings = Settings::DEFAULT;
        if let Some(most) = most {
            settings.max_total_bytes = most;
            settings.max_arena_bytes = settings.max_arena_bytes.min(most);
        }
        Self::with_settings(settings, housekeeping, None)
    }

    pub(super) fn with_settings(
        settings: Settings,
        housekeeping: Housekeeping,
        on_trim: Option<OnTrim>,
    ) -> Self {
        Self {
            handle: Arc::new(Handle {
                state: Arc::new(PoolState::new(settings, housekeeping, on_trim)),
            }),
        }
    }

    #[cfg(all(test, not(tower_memory_loom)))]
    pub(super) fn state(&self) -> &Arc<PoolState> {
        &self.handle.state
    }

    /// Rents an arena: a waiting one, or a new one of the pool's initial size.
    #[must_use]
    #[inline]
    pub fn rent(&self) -> Arena {
        let state = &self.handle.state;
        let mut arena = state.rent(state.classes.any());
        arena.rent_for(RentedFor::default());
        arena.activate()
    }

    /// Rents an arena with room for `bytes` bytes, or for as many as the pool's arenas may keep.
    ///
    /// Arenas are classed by size, in steps of two. A waiting arena is used if it is of the needed
    /// class or of the next two, or of the initial size, so a small request does not pin the memory
    /// of a large one. A new arena allocates all of its room when it is first used.
    ///
    /// # Examples
    ///
    /// ```
    /// let pool = tower_memory::ArenaPool::new();
    /// let arena = pool.rent_with_capacity(100_000);
    /// arena.alloc_str("first");
    /// assert!(arena.capacity() >= 100_000);
    /// drop(arena);
    /// // A small request does not take the large arena.
    /// assert_eq!(pool.rent_with_capacity(1000).capacity(), 0);
    /// assert!(pool.rent_with_capacity(100_000).capacity() >= 100_000);
    /// ```
    #[must_use]
    pub fn rent_with_capacity(&self, bytes: usize) -> Arena {
        let state = &self.handle.state;
        let mut arena = state.rent(state.classes.holding(bytes));
        arena.rent_for(RentedFor::default());
        arena.activate()
    }

    /// Takes an empty buffer with room for `capacity` bytes, for bytes that belong to no request.
    ///
    /// It needs no arena, and no request's figures count it. [`Arena::buf`] makes one for a request.
    ///
    /// # Panics
    ///
    /// If the global allocator has no memory.
    ///
    /// # Examples
    ///
    /// ```
    /// let pool = tower_memory::ArenaPool::new();
    /// let mut body = pool.buf(16 * 1024);
    /// body.extend_from_slice(&[7; 1000]);
    /// let bytes = body.freeze();
    /// assert_eq!((bytes.len(), pool.stats().buffer_bytes), (1000, 16 * 1024));
    /// drop(bytes);
    /// assert_eq!((pool.stats().buffers, pool.stats().pooled_buffers), (0, 1));
    /// ```
    #[must_use]
    #[inline]
    pub fn buf(&self, capacity: usize) -> ArenaBuf {
        let state = &self.handle.state;
        let pool = Arc::as_ptr(state).addr();
        let block = <PoolState as BlockPool>::take_block(capacity, pool)
            .or_else(|| Arc::clone(state).take_block_owned(capacity));
        match block {
            Some(block) => ArenaBuf::in_block(block),
            None => ArenaError::out_of_memory(capacity, 0).panic(),
        }
    }

    /// A new number under which blocks are counted that requests hand out, and arenas that they leave
    /// behind.
    pub(crate) fn new_origin(&self) -> u32 {
        self.handle.state.origins.create()
    }

    /// What was handed out on behalf of `origin` and has not come back.
    pub(crate) fn handed_out(&self, origin: u32) -> HandedOut {
        self.handle.state.origins.out(origin)
    }

    /// Rents an arena for a request: of that many bytes, if that is known.
    #[inline]
    pub(crate) fn rent_for(&self, whom: RentedFor, bytes: Option<usize>) -> Arena {
        let state = &self.handle.state;
        let mut arena = state.rent(match bytes {
            Some(bytes) => state.classes.holding(bytes),
            None => state.classes.any(),
        });
        arena.rent_for(whom);
        arena.activate()
    }

    /// Returns what is rented, what waits, and what was freed so far.
    ///
    /// Each thread counts for itself; this adds the counts up. While other threads rent and return,
    /// each number was correct at some moment of the call, but they need not be consistent with
    /// each other.
    #[must_use]
    pub fn stats(&self) -> PoolStats {
        self.handle.state.stats()
    }

    /// Lowers the limit of what waits to `most` bytes, or restores that of the settings.
    pub(crate) fn cap(&self, most: Option<usize>) {
        self.handle.state.budget.cap(most);
    }

    /// Frees what has waited since the last interval, as its end does.
    pub(crate) fn age(&self) {
        self.handle.state.tick();
    }

    /// Returns [`PoolStats::buffer_bytes`] alone, which is cheap enough to be read for each request.
    ///
    /// # Examples
    ///
    /// ```
    /// let pool = tower_memory::ArenaPool::new();
    /// let body = pool.buf(3000);
    /// assert_eq!(pool.buffer_bytes(), 3072);
    /// drop(body);
    /// assert_eq!(pool.buffer_bytes(), 0);
    /// ```
    #[must_use]
    pub fn buffer_bytes(&self) -> usize {
        self.handle.state.buffer_bytes()
    }

    /// Frees all waiting arenas and blocks, including those in other threads' caches, and returns their
    /// bytes.
    ///
    /// What is in use is not affected, nor are the small arena and block (at most 64 KiB each) that
    /// each other thread keeps for itself.
    #[expect(clippy::must_use_candidate, reason = "called for its effect")]
    pub fn trim(&self) -> usize {
        self.handle.state.trim()
    }
}

impl Default for ArenaPool {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(all(test, not(tower_memory_loom)))]
mod tests {
    use std::thread;

    use super::{super::local, *};
    use crate::sync::LOCKED;

    fn used(pool: &ArenaPool) -> Arena {
        let arena = pool.rent();
        arena.alloc_str("something");
        arena
    }

    /// Drops `values`, and returns how many locks the calling thread took for that.
    fn locks<T>(values: T) -> usize {
        let before = LOCKED.get();
        drop(values);
        LOCKED.get() - before
    }

    #[test]
    fn an_arena_comes_back_without_a_lock() {
        let pool = ArenaPool::new();
        // The first rent schedules trimming.
        drop(pool.rent());
        let before = LOCKED.get();
        let arenas: Vec<Arena> = (0..1100).map(|_| used(&pool)).collect();
        assert_eq!(LOCKED.get() - before, 1100, "one for each new chunk");
        let [first, second] = [used(&pool), used(&pool)];
        let large = used(&pool);
        large.alloc_slice_fill_iter((0..2 << 20).map(|_| 1_u8));
        // Into the thread cache, from there to the shared cache, and more than that can hold.
        assert_eq!(locks(arenas), 0);
        assert_eq!(locks(large), 0, "with chunks that are freed");
        // The first return on a thread, and its end.
        let other = thread::spawn(move || locks(first));
        assert_eq!(other.join().unwrap(), 0);
        drop(pool);
        assert_eq!(locks(second), 0, "to a pool that is closed");
    }

    #[test]
    fn a_closed_pool_is_not_kept_by_a_thread_that_returns_to_it() {
        // Rented by a thread that has ended, so that no other thread keeps the pool.
        let renter = thread::spawn(|| {
            let pool = ArenaPool::new();
            let arena = used(&pool);
            (Arc::downgrade(&pool.handle.state), pool, arena)
        });
        let (shared, pool, arena) = renter.join().unwrap();
        drop(pool);
        assert!(shared.upgrade().is_some(), "kept by the rented arena");
        drop(arena);
        assert!(shared.upgrade().is_none());
    }

    #[test]
    fn an_arena_waits_under_the_class_of_its_capacity() {
        for bytes in [1, 5000, 16 << 10, 40 << 10, 64 << 10, 200 << 10, 1 << 20] {
            let pool = ArenaPool::new();
            let state = &pool.handle.state;
            // When it was made, when it has grown, and unchanged.
            for used in [1, 3 * bytes, 1] {
                let arena = pool.rent_with_capacity(bytes);
                arena.alloc_slice_fill_iter((0..used).map(|_| 1_u8));
                drop(arena);
                let noted = local::with_any(state, |local| {
                    let (arena, tag) = local.cache.arenas.take_with_tag().expect("it waits there");
                    let classes = [tag.class(), arena.hint().class.into()];
                    let capacity = arena.capacity();
                    assert!(local.cache.arenas.put(arena, tag).is_none());
                    (capacity, classes)
                });
                let (capacity, classes) = noted.expect("the thread has a cache");
                for class in classes {
                    assert!(
                        state.classes.size(class) <= capacity,
                        "{class}: {capacity} bytes"
                    );
                    let next = state.classes.size(class + 1);
                    let is_top = next == state.classes.size(class);
                    assert!(is_top || capacity < next, "{class}: {capacity} bytes");
                }
            }
        }
    }

    /// Makes the calling thread keep a hot arena.
    fn warm(pool: &ArenaPool) {
        (0..200).for_each(|_| drop(used(pool)));
        assert_eq!(pool.stats().pooled, 1);
    }

    /// `breaker/pools`: what a thread keeps of pools that others close.
    #[test]
    fn a_thread_that_uses_another_pool_keeps_nothing_of_closed_ones() {
        let live = ArenaPool::new();
        let first = ArenaPool::new();
        let others: Vec<ArenaPool> = (0..3).map(|_| ArenaPool::new()).collect();
        let state = Arc::clone(&first.handle.state);
        let weak: Vec<_> = others
            .iter()
            .map(|pool| Arc::downgrade(&pool.handle.state))
            .collect();
        let (close, closed) = std::sync::mpsc::channel::<()>();
        let (ready, warmed) = std::sync::mpsc::channel();
        let thread = thread::spawn({
            let (live, first, others) = (live.clone(), first.clone(), others.clone());
            move || {
                [&first].into_iter().chain(&others).for_each(warm);
                drop((first, others));
                ready.send(()).unwrap();
                closed.recv().unwrap();
                drop(used(&live));
                ready.send(()).unwrap();
                closed.recv().unwrap_err();
            }
        });
        warmed.recv().unwrap();
        drop((first, others));
        assert_eq!(state.stats().pooled, 1, "hot, out of reach");
        close.send(()).unwrap();
        warmed.recv().unwrap();
        assert_eq!(state.stats().pooled, 0);
        assert!(weak.iter().all(|pool| pool.upgrade().is_none()));
        drop(close);
        thread.join().unwrap();
    }

    #[test]
    fn a_thread_that_only_uses_its_first_pool_leaves_closed_ones_within_256_hits() {
        let [first, other] = [(); 2].map(|()| ArenaPool::new());
        let weak = Arc::downgrade(&other.handle.state);
        let (done, closed) = std::sync::mpsc::channel::<()>();
        let (ready, warmed) = std::sync::mpsc::channel();
        let thread = thread::spawn({
            let (first, other, weak) = (first.clone(), other.clone(), weak.clone());
            move || {
                warm(&first);
                warm(&other);
                drop(other);
                ready.send(()).unwrap();
                closed.recv().unwrap();
                assert!(weak.upgrade().is_some());
                (0..256).for_each(|_| drop(used(&first)));
                assert!(weak.upgrade().is_none());
            }
        });
        warmed.recv().unwrap();
        drop(other);
        done.send(()).unwrap();
        thread.join().unwrap();
    }
}
