use std::{
    fmt,
    time::{Duration, Instant},
};

use super::keeper::Keeper;
use crate::sync::{Arc, Mutex, lock};

/// A clock that a test moves, in place of the housekeeping threads.
///
/// A pool or a layer with such a clock is looked after during [`advance`](Self::advance), on the
/// calling thread, and at no other time. So a test of trimming needs neither a runtime nor a sleep.
/// Clones are the same clock.
///
/// It moves what the housekeeping does: trimming, giving up on tasks that block their thread, and calls of
/// observers and hooks, in the order of their times.
/// Deadlines and grace periods of tasks follow tokio's clock where that is paused.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use tower_memory::{ArenaPool, housekeeping::ManualClock};
///
/// let clock = ManualClock::new();
/// let pool = ArenaPool::builder()
///     .trim_interval(Duration::from_secs(10))
///     .clock(&clock)
///     .build()?;
/// drop([pool.rent().alloc(1_u8), pool.rent().alloc(2)]);
/// assert!(pool.stats().pooled > 0);
/// clock.advance(Duration::from_secs(25));
/// assert_eq!(pool.stats().pooled, 0);
/// # Ok::<(), tower_memory::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct ManualClock {
    inner: Arc<Inner>,
}

struct Inner {
    keeper: Keeper,
    now: Mutex<Instant>,
}

impl ManualClock {
    /// Creates a clock that stands still.
    #[must_use]
    pub fn new() -> Self {
        let now = Instant::now();
        Self {
            inner: Arc::new(Inner {
                keeper: Keeper::new(now),
                now: Mutex::new(now),
            }),
        }
    }

    /// Moves the clock, and does what is due on the way, in order and each at its time.
    pub fn advance(&self, by: Duration) {
        let Inner { keeper, now } = &*self.inner;
        let end = self.now() + by;
        while let Some(at) = keeper.next().filter(|at| *at <= end) {
            let at = {
                let mut now = lock(now);
                *now = at.max(*now);
                *now
            };
            keeper.fire(at);
        }
        *lock(now) = end;
    }

    pub(super) fn now(&self) -> Instant {
        *lock(&self.inner.now)
    }

    pub(super) fn keeper(&self) -> &Keeper {
        &self.inner.keeper
    }

    /// Entries that wait.
    #[cfg(test)]
    pub(crate) fn scheduled(&self) -> usize {
        self.inner.keeper.len()
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for ManualClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ManualClock").finish_non_exhaustive()
    }
}
