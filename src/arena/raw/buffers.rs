use super::chunk::Access;
use crate::sync::{AtomicUsize, Ordering};

/// What an arena's buffers hold. Statistics: each figure is correct by itself.
pub(crate) struct Buffers {
    /// Capacity of all buffers that are neither frozen nor dropped.
    held: AtomicUsize,
    peak: AtomicUsize,
    largest: AtomicUsize,
}

impl Buffers {
    pub(super) fn new() -> Self {
        Self {
            held: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            largest: AtomicUsize::new(0),
        }
    }

    /// For a rented arena, which has no buffers.
    #[inline]
    pub(super) fn reset(&self) {
        self.peak.store(0, Ordering::Relaxed);
        self.largest.store(0, Ordering::Relaxed);
    }

    /// Capacity of all buffers that are neither frozen nor dropped.
    #[inline]
    pub(super) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// The most bytes that buffers held at the same time: what one had written when it ended, and the
    /// capacity of the others at that time.
    pub(crate) fn peak(&self) -> usize {
        self.peak.load(Ordering::Relaxed).max(self.held())
    }

    /// The most bytes that one buffer had written when it ended; zero if none has.
    pub(crate) fn largest(&self) -> usize {
        self.largest.load(Ordering::Relaxed)
    }

    /// A buffer has taken memory. `access` says whether another one may do so at the same time.
    #[inline]
    pub(super) fn took(&self, bytes: usize, access: Access) {
        match access {
            Access::Exclusive => self
                .held
                .store(self.held().wrapping_add(bytes), Ordering::Relaxed),
            Access::Shared => {
                self.held.fetch_add(bytes, Ordering::Relaxed);
            }
        }
    }

    /// A buffer gives up memory for other memory, or its memory has another owner.
    #[inline]
    pub(super) fn left(&self, bytes: usize, access: Access) {
        self.took(bytes.wrapping_neg(), access);
    }

    /// A buffer ends of which `written` bytes of `capacity` are in use.
    #[inline]
    pub(super) fn ended(&self, written: usize, capacity: usize, access: Access) {
        let most = self.held().saturating_sub(capacity) + written;
        for (figure, now) in [(&self.peak, most), (&self.largest, written)] {
            if figure.load(Ordering::Relaxed) < now {
                match access {
                    Access::Exclusive => figure.store(now, Ordering::Relaxed),
                    Access::Shared => {
                        figure.fetch_max(now, Ordering::Relaxed);
                    }
                }
            }
        }
        self.left(capacity, access);
    }
}
