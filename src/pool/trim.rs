use tokio::{runtime::Handle, time::sleep};

use super::state::PoolState;
use crate::sync::Arc;

impl PoolState {
    /// Starts the task that trims the pool if it is not running. It allocates, so only renting does it.
    ///
    /// The task runs on the runtime that started it, while an arena waits or is rented. If that runtime
    /// shuts down first, a later rent starts the task on another one.
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
}
