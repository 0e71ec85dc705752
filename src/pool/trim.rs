//! What frees waiting arenas: the trimming task, [`ArenaPool::trim`](super::ArenaPool::trim), and
//! the end of the pool.

use tokio::{runtime::Handle, time::sleep};

use super::{local, state::PoolState};
use crate::sync::{Arc, Ordering};

impl PoolState {
    /// Starts the trimming task if it is not running. Starting allocates, so returning never does
    /// it.
    ///
    /// The task runs on the runtime that started it, while an arena waits or is rented. If that
    /// runtime shuts down first, a later rent starts the task on another one.
    #[inline]
    pub(super) fn ensure_trimming(self: &Arc<Self>) {
        if self.trimmer.needs_start() {
            self.start_trimming();
        }
    }

    #[cold]
    fn start_trimming(self: &Arc<Self>) {
        let settings = &self.settings;
        let Some(interval) = settings.trim_interval.filter(|_| settings.enabled) else {
            return;
        };
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let pool = Arc::downgrade(self);
        self.trimmer.start(&runtime, |mut guard| async move {
            loop {
                // tokio panics here on a runtime without timers.
                guard.or_never(|| sleep(interval)).await;
                let Some(pool) = pool.upgrade() else {
                    return;
                };
                pool.tick();
                if pool.is_idle() && guard.finish(|| pool.is_idle()) {
                    return;
                }
            }
        });
    }

    /// Frees all waiting arenas that the calling thread can reach, and returns their bytes.
    pub(super) fn trim(&self) -> usize {
        let pool = std::ptr::from_ref(self).addr();
        let hot = local::with(pool, |local| local.hot.take()).flatten();
        let bytes = hot.map_or(0, |hot| {
            let bytes = hot.capacity();
            drop(self.evict(None, hot));
            bytes
        });
        bytes + self.sweep(|_| true)
    }

    /// Closes the pool: its task ends, and no arena is kept from now on.
    pub(super) fn close(&self) {
        // See `has_closed`.
        self.closed.swap(true, Ordering::AcqRel);
        self.trimmer.stop();
        self.trim();
    }
}
