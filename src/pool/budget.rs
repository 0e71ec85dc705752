use super::thread_cache::ThreadCache;
use crate::sync::{AtomicUsize, Ordering};

/// Most bytes that one thread may keep a claim to while it has no arena for them; all threads together
/// may do so for half of what the pool may keep.
const MAX_CREDIT: usize = 128 * 1024;

/// How many bytes a pool may keep, and who may keep them: what waits has claimed its bytes before.
///
/// # Invariant
///
/// 1. `granted` is the bytes of all waiting arenas and of all threads' floats, and never above `limit`.
pub(super) struct ByteBudget {
    limit: usize,
    max_credit: usize,
    reserved: CachePadded,
}

/// Changes often, and so lies away from what every thread reads.
#[repr(align(128))]
struct CachePadded(AtomicUsize);

impl ByteBudget {
    /// For a pool that keeps at most `limit` bytes, used by so many threads.
    pub(super) fn new(limit: usize, threads: usize) -> Self {
        Self {
            reserved: CachePadded(AtomicUsize::new(0)),
            limit,
            max_credit: MAX_CREDIT.min(limit / (2 * threads)),
        }
    }

    /// ByteBudget the right to keep `bytes` more, out of a thread's float if it has any.
    #[inline]
    pub(super) fn reserve(&self, cache: Option<&ThreadCache>, bytes: usize) -> bool {
        let credit = cache.map(|cache| &cache.credit);
        // Relaxed: one writer.
        let left = credit.map_or(0, |credit| credit.load(Ordering::Relaxed));
        let rest = match bytes.checked_sub(left) {
            Some(rest) if rest > 0 => rest,
            _ => {
                if let Some(credit) = credit {
                    credit.store(left - bytes, Ordering::Relaxed);
                }
                return true;
            }
        };
        // A thread that gets back more than it takes comes by once in a few arenas. Half of what it may
        // have, here and in `unclaim`, so that one that gives and takes in turn need not.
        let spare = cache.map_or(0, |_| self.max_credit / 2);
        let spare = [spare, 0]
            .into_iter()
            .find(|spare| self.reserve_shared(rest + spare));
        if let (Some(spare), Some(credit)) = (spare, credit) {
            credit.store(spare, Ordering::Relaxed);
        }
        spare.is_some()
    }

    /// Adds `bytes` to what is granted, if that does not exceed the limit.
    fn reserve_shared(&self, bytes: usize) -> bool {
        // Relaxed: a sum, which orders nothing.
        self.reserved
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |reserved| {
                reserved
                    .checked_add(bytes)
                    .filter(|&reserved| reserved <= self.limit)
            })
            .is_ok()
    }

    /// Gives a claim to `bytes` back, to the thread's float or to all.
    #[inline]
    pub(super) fn release(&self, cache: Option<&ThreadCache>, bytes: usize) {
        // Relaxed: as in `claim`.
        let Some(credit) = cache.map(|cache| &cache.credit) else {
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

    /// Gives all of a thread's float to all.
    pub(super) fn release_credit(&self, cache: &ThreadCache) {
        // Relaxed: as in `claim`.
        let left = cache.credit.load(Ordering::Relaxed);
        self.release_shared(&cache.credit, left, left);
    }

    /// Gives `bytes` of `left` to all.
    #[cold]
    #[inline(never)]
    fn release_shared(&self, credit: &AtomicUsize, bytes: usize, left: usize) {
        credit.store(left - bytes, Ordering::Relaxed);
        self.reserved.0.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Bytes granted, floats included.
    pub(super) fn reserved(&self) -> usize {
        self.reserved.0.load(Ordering::Relaxed)
    }
}

#[cfg(all(test, not(tower_memory_loom)))]
mod tests {
    use super::*;
    use crate::pool::counters::Writer;

    #[test]
    fn claims_and_floats_never_exceed_the_limit_and_all_of_it_can_be_claimed() {
        for (limit, bytes) in [(1 << 20, 16 << 10), (100_000, 999), (10, 1), (10, 20)] {
            let (budget, threads) = (
                ByteBudget::new(limit, 2),
                [Writer::Exclusive; 2].map(ThreadCache::new),
            );
            let mut claimed = [0_usize; 2];
            let sum = |claimed: [usize; 2]| claimed.iter().sum::<usize>() * bytes;
            let credits = || -> usize {
                let credit = |cache: &ThreadCache| cache.credit.load(Ordering::Relaxed);
                threads.iter().map(credit).sum()
            };
            for step in 0..2000 {
                let thread = step / 7 % 2;
                let cache = Some(&threads[thread]);
                if step % 5 == 4 && claimed[thread] > 0 {
                    budget.release(cache, bytes);
                    claimed[thread] -= 1;
                } else if budget.reserve(cache, bytes) {
                    claimed[thread] += 1;
                }
                assert_eq!(budget.reserved(), sum(claimed) + credits());
                assert!(budget.reserved() <= limit);
            }
            let rest = limit - sum(claimed) - credits();
            assert!(rest < bytes, "{rest} of {limit} cannot be claimed");
            for (cache, claimed) in threads.iter().zip(claimed) {
                for _ in 0..claimed {
                    budget.release(Some(cache), bytes);
                }
                budget.release_credit(cache);
            }
            assert_eq!((budget.reserved(), credits()), (0, 0));
        }
    }
}
