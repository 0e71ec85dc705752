use std::sync::Weak;

use tokio::{
    runtime::Handle,
    task::{AbortHandle, unconstrained},
    time::sleep,
};

use super::state::PoolState;
use crate::sync::{Arc, AtomicUsize, Mutex, Ordering, fence, lock};

const STOPPED: usize = 0;
const RUNNING: usize = 1;
/// The runtime has no timers.
const IMPOSSIBLE: usize = 2;

/// The task that trims a pool, also when there is no traffic.
///
/// It runs while anything waits in the pool or is out, on the runtime on which it was started first,
/// and ends with the pool. If that runtime goes down first, it is started again on the next one.
#[derive(Debug)]
pub(super) struct Timer {
    state: AtomicUsize,
    task: Mutex<Option<AbortHandle>>,
}

impl Timer {
    pub(super) fn new() -> Self {
        Self {
            state: AtomicUsize::new(STOPPED),
            task: Mutex::new(None),
        }
    }

    /// Starts the task if it does not run. Not on the way back: it allocates.
    #[inline]
    pub(super) fn ensure(&self, pool: &Arc<PoolState>) {
        if self.is_stopped() {
            self.start(pool);
        }
    }

    #[inline]
    pub(super) fn is_stopped(&self) -> bool {
        // Relaxed: a guess. `start` checks that it is stopped; who must not miss that it is puts a fence
        // before.
        self.state.load(Ordering::Relaxed) == STOPPED
    }

    /// Whether the task may end, since nobody uses the pool. From then on the next to rent starts another
    /// one.
    pub(super) fn ends(&self, is_idle: impl FnOnce() -> bool) -> bool {
        self.state.store(STOPPED, Ordering::SeqCst);
        // Between the state and the look at the figures, as there is one between the figures and the look
        // at the state where an arena is rented.
        fence(Ordering::SeqCst);
        is_idle() || !self.begin()
    }

    #[cold]
    fn start(&self, pool: &Arc<PoolState>) {
        let Some(interval) = pool
            .settings
            .trim_interval
            .filter(|_| pool.settings.enabled)
        else {
            return;
        };
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        if !self.begin() {
            return;
        }
        let mut ends = Ends {
            pool: Arc::downgrade(pool),
            unforeseen: true,
            has_timers: false,
        };
        let task = runtime.spawn(async move {
            loop {
                let end = sleep(interval);
                ends.has_timers = true;
                unconstrained(end).await;
                let Some(pool) = ends.pool.upgrade() else {
                    return;
                };
                pool.tick();
                if pool.is_idle() && pool.timer.ends(|| pool.is_idle()) {
                    ends.foreseen();
                    return;
                }
            }
        });
        *lock(&self.task) = Some(task.abort_handle());
    }

    pub(super) fn begin(&self) -> bool {
        self.state
            .compare_exchange(STOPPED, RUNNING, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
    }

    /// Ends the task.
    pub(super) fn stop(&self) {
        // The guard goes first: who is aborted may look at the timer.
        let task = lock(&self.task).take();
        if let Some(task) = task {
            task.abort();
        }
    }
}

/// Lets another task be started when this one was dropped.
struct Ends {
    pool: Weak<PoolState>,
    /// Cleared by a task that ends by itself.
    unforeseen: bool,
    /// Whether the runtime is known to have timers.
    has_timers: bool,
}

impl Ends {
    fn foreseen(mut self) {
        self.unforeseen = false;
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        let Some(pool) = self.pool.upgrade().filter(|_| self.unforeseen) else {
            return;
        };
        // tokio panics where a runtime has no timers: then there is no use in trying again. (A runtime
        // that has some may be dropped by a panic, too.)
        let next = if std::thread::panicking() && !self.has_timers {
            IMPOSSIBLE
        } else {
            STOPPED
        };
        pool.timer.state.store(next, Ordering::SeqCst);
    }
}
