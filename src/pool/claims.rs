use super::slots::Slots;
use crate::sync::{AtomicUsize, Ordering};

/// Most bytes that one thread may keep a claim to while it has no arena for them; all threads together
/// may do so for half of what the pool may keep.
const MAX_FLOAT: usize = 128 * 1024;

/// How many bytes a pool may keep, and who may keep them: what waits has claimed its bytes before.
///
/// # Invariant
///
/// 1. `granted` is the bytes of all waiting arenas and of all threads' floats, and never above `limit`.
pub(super) struct Claims {
    limit: usize,
    max_float: usize,
    granted: Apart,
}

/// Changes often, and so lies away from what every thread reads.
#[repr(align(128))]
struct Apart(AtomicUsize);

impl Claims {
    /// For a pool that keeps at most `limit` bytes, used by so many threads.
    pub(super) fn new(limit: usize, threads: usize) -> Self {
        Self {
            granted: Apart(AtomicUsize::new(0)),
            limit,
            max_float: MAX_FLOAT.min(limit / (2 * threads)),
        }
    }

    /// Claims the right to keep `bytes` more, out of a thread's float if it has any.
    #[inline]
    pub(super) fn claim(&self, own: Option<&Slots>, bytes: usize) -> bool {
        let float = own.map(|own| &own.figures.float);
        // Relaxed: one writer.
        let left = float.map_or(0, |float| float.load(Ordering::Relaxed));
        let rest = match bytes.checked_sub(left) {
            Some(rest) if rest > 0 => rest,
            _ => {
                if let Some(float) = float {
                    float.store(left - bytes, Ordering::Relaxed);
                }
                return true;
            }
        };
        // A thread that gets back more than it takes comes by once in a few arenas. Half of what it may
        // have, here and in `unclaim`, so that one that gives and takes in turn need not.
        let spare = own.map_or(0, |_| self.max_float / 2);
        let spare = [spare, 0]
            .into_iter()
            .find(|spare| self.grant(rest + spare));
        if let (Some(spare), Some(float)) = (spare, float) {
            float.store(spare, Ordering::Relaxed);
        }
        spare.is_some()
    }

    /// Adds `bytes` to what is granted, if that does not exceed the limit.
    fn grant(&self, bytes: usize) -> bool {
        // Relaxed: a sum, which orders nothing.
        self.granted
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |granted| {
                granted
                    .checked_add(bytes)
                    .filter(|&granted| granted <= self.limit)
            })
            .is_ok()
    }

    /// Gives a claim to `bytes` back, to the thread's float or to all.
    #[inline]
    pub(super) fn unclaim(&self, own: Option<&Slots>, bytes: usize) {
        // Relaxed: as in `claim`.
        let Some(float) = own.map(|own| &own.figures.float) else {
            self.granted.0.fetch_sub(bytes, Ordering::Relaxed);
            return;
        };
        let left = float.load(Ordering::Relaxed) + bytes;
        if left <= self.max_float {
            float.store(left, Ordering::Relaxed);
        } else {
            self.give(float, left - self.max_float / 2, left);
        }
    }

    /// Gives all of a thread's float to all.
    pub(super) fn unclaim_float(&self, own: &Slots) {
        // Relaxed: as in `claim`.
        let left = own.figures.float.load(Ordering::Relaxed);
        self.give(&own.figures.float, left, left);
    }

    /// Gives `bytes` of `left` to all.
    #[cold]
    #[inline(never)]
    fn give(&self, float: &AtomicUsize, bytes: usize, left: usize) {
        float.store(left - bytes, Ordering::Relaxed);
        self.granted.0.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Bytes granted, floats included.
    pub(super) fn granted(&self) -> usize {
        self.granted.0.load(Ordering::Relaxed)
    }
}

#[cfg(all(test, not(tower_memory_loom)))]
mod tests {
    use super::*;
    use crate::pool::slots::Writer;

    #[test]
    fn claims_and_floats_never_exceed_the_limit_and_all_of_it_can_be_claimed() {
        for (limit, bytes) in [(1 << 20, 16 << 10), (100_000, 999), (10, 1), (10, 20)] {
            let (claims, threads) = (Claims::new(limit, 2), [Writer::One; 2].map(Slots::new));
            let mut claimed = [0_usize; 2];
            let sum = |claimed: [usize; 2]| claimed.iter().sum::<usize>() * bytes;
            let floats = || -> usize {
                let float = |slots: &Slots| slots.figures.float.load(Ordering::Relaxed);
                threads.iter().map(float).sum()
            };
            for step in 0..2000 {
                let thread = step / 7 % 2;
                let own = Some(&threads[thread]);
                if step % 5 == 4 && claimed[thread] > 0 {
                    claims.unclaim(own, bytes);
                    claimed[thread] -= 1;
                } else if claims.claim(own, bytes) {
                    claimed[thread] += 1;
                }
                assert_eq!(claims.granted(), sum(claimed) + floats());
                assert!(claims.granted() <= limit);
            }
            let rest = limit - sum(claimed) - floats();
            assert!(rest < bytes, "{rest} of {limit} cannot be claimed");
            for (slots, claimed) in threads.iter().zip(claimed) {
                for _ in 0..claimed {
                    claims.unclaim(Some(slots), bytes);
                }
                claims.unclaim_float(slots);
            }
            assert_eq!((claims.granted(), floats()), (0, 0));
        }
    }
}
