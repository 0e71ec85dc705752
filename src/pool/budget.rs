use super::thread_cache::ThreadCache;
use crate::sync::{AtomicUsize, Ordering};

/// The most credit one thread may hold. All threads together hold at most half of the limit.
const MAX_CREDIT: usize = 128 * 1024;

/// Limits the bytes of all waiting arenas together.
///
/// A thread reserves an arena's bytes when the arena is returned, and releases them when it is
/// taken. It keeps some released bytes as its credit, so that most returns need not touch the
/// shared sum.
///
/// # Invariants
///
/// 1. `reserved` is the bytes of all waiting arenas plus all threads' credits. A reservation does not make it
///    exceed `limit`.
pub(super) struct ByteBudget {
    /// The limit of the settings.
    configured: usize,
    /// The limit now, which may be lower while memory is tight.
    limit: AtomicUsize,
    max_credit: usize,
    reserved: CachePadded,
}

/// Written often, so it shares no cache line with what all threads read.
#[repr(align(128))]
struct CachePadded(AtomicUsize);

impl ByteBudget {
    /// A budget of `limit` bytes, for at most so many threads with a credit.
    pub(super) fn new(limit: usize, threads: usize) -> Self {
        Self {
            reserved: CachePadded(AtomicUsize::new(0)),
            configured: limit,
            limit: AtomicUsize::new(limit),
            max_credit: MAX_CREDIT.min(limit / (2 * threads)),
        }
    }

    /// Reserves `bytes`, from the thread's credit as far as it suffices. Returns `false` at the
    /// limit.
    #[inline]
    pub(super) fn reserve(&self, cache: Option<&ThreadCache>, bytes: usize) -> bool {
        let Some(ThreadCache { credit, .. }) = cache else {
            return self.reserve_shared(bytes);
        };
        // Relaxed: one writer.
        let left = credit.load(Ordering::Relaxed);
        if let Some(left) = left.checked_sub(bytes) {
            credit.store(left, Ordering::Relaxed);
            return true;
        }
        // The credit is filled up to half of its maximum, here and in `release`: a thread that
        // returns and rents in turn stays in between and does not touch the sum.
        for spare in [self.max_credit / 2, 0] {
            if self.reserve_shared(bytes - left + spare) {
                credit.store(spare, Ordering::Relaxed);
                return true;
            }
        }
        false
    }

    /// Adds `bytes` to the sum, if that does not exceed the limit.
    fn reserve_shared(&self, bytes: usize) -> bool {
        // Relaxed: a sum and a limit; they order nothing.
        let limit = self.limit.load(Ordering::Relaxed);
        self.reserved
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |reserved| {
                reserved
                    .checked_add(bytes)
                    .filter(|&reserved| reserved <= limit || bug!("budget-ignored"))
            })
            .is_ok()
    }

    /// Releases `bytes`: to the thread's credit, or to the sum.
    #[inline]
    pub(super) fn release(&self, cache: Option<&ThreadCache>, bytes: usize) {
        // Relaxed: as in `reserve`.
        let Some(ThreadCache { credit, .. }) = cache else {
            self.reserved.0.fetch_sub(bytes, Ordering::Relaxed);
            return;
        };
        let left = credit.load(Ordering::Relaxed) + bytes;
        if left <= self.max_credit {
            credit.store(left, Ordering::Relaxed);
        } else {
            self.release_shared(credit, left - self.max_credit / 2, left);
        }
    }

    /// Releases all of a thread's credit to the sum.
    pub(super) fn release_credit(&self, cache: &ThreadCache) {
        // Relaxed: as in `reserve`.
        let left = cache.credit.load(Ordering::Relaxed);
        self.release_shared(&cache.credit, left, left);
    }

    /// Releases `bytes` of a credit of `left` bytes to the sum.
    #[cold]
    #[inline(never)]
    fn release_shared(&self, credit: &AtomicUsize, bytes: usize, left: usize) {
        credit.store(left - bytes, Ordering::Relaxed);
        self.reserved.0.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Lowers the limit to `most` bytes, or restores it. What is reserved stays.
    pub(super) fn cap(&self, most: Option<usize>) {
        let limit = most.map_or(self.configured, |most| most.min(self.configured));
        // Relaxed: see `reserve_shared`.
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// Bytes reserved, credits included.
    pub(super) fn reserved(&self) -> usize {
        self.reserved.0.load(Ordering::Relaxed)
    }
}

#[cfg(all(test, not(tower_memory_loom)))]
mod tests {
    use super::*;
    use crate::pool::counters::Writer;

    #[test]
    fn reservations_and_credits_never_exceed_the_limit_and_all_of_it_can_be_reserved() {
        for (limit, bytes) in [(1 << 20, 16 << 10), (100_000, 999), (10, 1), (10, 20)] {
            let (budget, threads) = (
                ByteBudget::new(limit, 2),
                [Writer::Exclusive; 2].map(ThreadCache::new),
            );
            let mut held = [0_usize; 2];
            let sum = |held: [usize; 2]| held.iter().sum::<usize>() * bytes;
            let credits = || -> usize {
                let credit = |cache: &ThreadCache| cache.credit.load(Ordering::Relaxed);
                threads.iter().map(credit).sum()
            };
            for step in 0..2000 {
                let thread = step / 7 % 2;
                let cache = Some(&threads[thread]);
                if step % 5 == 4 && held[thread] > 0 {
                    budget.release(cache, bytes);
                    held[thread] -= 1;
                } else if budget.reserve(cache, bytes) {
                    held[thread] += 1;
                }
                assert_eq!(budget.reserved(), sum(held) + credits());
                assert!(budget.reserved() <= limit);
            }
            let rest = limit - sum(held) - credits();
            assert!(rest < bytes, "{rest} of {limit} cannot be reserved");
            for (cache, held) in threads.iter().zip(held) {
                for _ in 0..held {
                    budget.release(Some(cache), bytes);
                }
                budget.release_credit(cache);
            }
            assert_eq!((budget.reserved(), credits()), (0, 0));
        }
    }
}
