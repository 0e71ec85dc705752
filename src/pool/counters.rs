use crate::sync::{AtomicU64, Ordering};

/// Whether one thread writes a counter, or several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Writer {
    Exclusive,
    Shared,
}

/// A thread's share of the pool's statistics about one kind of items. Counters only grow, so their sums miss nothing.
#[derive(Debug)]
pub(super) struct Counters {
    pub(super) hits: AtomicU64,
    pub(super) misses: AtomicU64,
    pub(super) returned: AtomicU64,
    /// Items that were freed, on return or while they waited.
    pub(super) freed: AtomicU64,
    pub(super) evicted_bytes: AtomicU64,
    /// Bytes that items took from the system.
    pub(super) grown_bytes: AtomicU64,
    /// Bytes of blocks taken minus bytes of blocks returned; wraps. Unused for arenas.
    pub(super) out_bytes: AtomicU64,
    writer: Writer,
}

impl Counters {
    pub(super) fn new(writer: Writer) -> Self {
        Self {
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            returned: AtomicU64::new(0),
            freed: AtomicU64::new(0),
            evicted_bytes: AtomicU64::new(0),
            grown_bytes: AtomicU64::new(0),
            out_bytes: AtomicU64::new(0),
            writer,
        }
    }

    /// Adds to one of the counters.
    #[inline]
    pub(super) fn add(&self, counter: &AtomicU64, by: u64) {
        // Relaxed: each counter is correct by itself.
        match self.writer {
            Writer::Exclusive => {
                let now = counter.load(Ordering::Relaxed);
                counter.store(now.wrapping_add(by), Ordering::Relaxed);
            }
            Writer::Shared => {
                counter.fetch_add(by, Ordering::Relaxed);
            }
        }
    }

    /// Counts a returned item; `returned` is the count so far. For an exclusive writer.
    #[inline]
    pub(super) fn count_return(&self, returned: u64) {
        // Release: a reader that sees the return sees the rent (`PoolStats::sum`).
        self.returned
            .store(returned.wrapping_add(1), Ordering::Release);
    }

    /// Counts a returned item.
    pub(super) fn add_return(&self) {
        match self.writer {
            Writer::Exclusive => self.count_return(self.returned.load(Ordering::Relaxed)),
            Writer::Shared => {
                // Release: as in `count_return`.
                self.returned.fetch_add(1, Ordering::Release);
            }
        }
    }

    /// Counts a hit, and returns how many there were before. For an exclusive writer.
    #[inline]
    pub(super) fn count_hit(&self) -> u64 {
        // Relaxed: as in `add`.
        let before = self.hits.load(Ordering::Relaxed);
        self.hits.store(before.wrapping_add(1), Ordering::Relaxed);
        before
    }
}
