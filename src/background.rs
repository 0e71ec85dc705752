//! A tokio task that ends when it has nothing to do, and is started again when there is work.
//!
//! # Invariants
//!
//! 1. At most one task runs: it holds the [`RestartGuard`], and only a compare-and-swap from
//!    `STOPPED` to `RUNNING` makes one.
//! 2. No work is missed. A caller records its work and then reads the state; a task that ends
//!    writes the state and then looks for work. Both have a `SeqCst` fence in between, so at least
//!    one of the two sees the other.

use std::future::Future;

use tokio::{runtime::Handle, task::AbortHandle};

use crate::sync::{Arc, AtomicU32, Mutex, Ordering, fence, lock};

/// The default of [`Background`].
const STOPPED: u32 = 0;
const RUNNING: u32 = 1;
/// The task cannot work here, and is not started again.
const IMPOSSIBLE: u32 = 2;

/// Starts the task, and knows whether it runs. See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Background {
    state: Arc<AtomicU32>,
    task: Mutex<Option<AbortHandle>>,
}

impl Background {
    /// Whether the task has to be started. The caller has recorded its work before.
    #[inline]
    pub(crate) fn needs_start(&self) -> bool {
        // Invariant 2.
        fence(Ordering::SeqCst);
        // Relaxed: `begin` checks it.
        self.state.load(Ordering::Relaxed) == STOPPED
    }

    /// Starts the task on `runtime`, if no other caller does so first.
    ///
    /// The task keeps the guard for as long as it runs.
    pub(crate) fn start<F>(&self, runtime: &Handle, task: impl FnOnce(RestartGuard) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        // The guard is made before the task is spawned: a runtime that shuts down drops the task
        // without polling it.
        if let Some(guard) = self.begin() {
            let handle = runtime.spawn(task(guard)).abort_handle();
            *lock(&self.task) = Some(handle);
        }
    }

    /// Makes the caller's task the running one. For [`start`](Self::start), and for models.
    pub(crate) fn begin(&self) -> Option<RestartGuard> {
        begin(&self.state).then(|| RestartGuard {
            state: Arc::clone(&self.state),
            on_drop: Some(STOPPED),
        })
    }

    /// Aborts the task.
    pub(crate) fn stop(&self) {
        // The lock is released first: the aborted task may own this value.
        let task = lock(&self.task).take();
        if let Some(task) = task {
            task.abort();
        }
    }
}

fn begin(state: &AtomicU32) -> bool {
    // Acquire: the task sees everything the former task did.
    state
        .compare_exchange(STOPPED, RUNNING, Ordering::Acquire, Ordering::Relaxed)
        .is_ok()
}

/// Held by the running task. Once it is dropped, the task can be started again.
#[derive(Debug)]
pub(crate) struct RestartGuard {
    state: Arc<AtomicU32>,
    /// The state to set; `None` once the task has finished.
    on_drop: Option<u32>,
}

impl RestartGuard {
    /// Whether the task may end, since it is idle. Then the next caller with work starts another
    /// one.
    ///
    /// `is_idle` is a second look: work may have been recorded since the task found none.
    pub(crate) fn finish(&mut self, is_idle: impl FnOnce() -> bool) -> bool {
        let on_drop = self.on_drop.take();
        // Release: pairs with `begin`.
        self.state.store(STOPPED, Ordering::Release);
        // Invariant 2.
        fence(Ordering::SeqCst);
        let ends = is_idle() || !begin(&self.state);
        if !ends {
            self.on_drop = on_drop;
        }
        ends
    }

    /// Calls `f`; if it panics, the task is not started again.
    pub(crate) fn or_never<R>(&mut self, f: impl FnOnce() -> R) -> R {
        let on_drop = self.on_drop.replace(IMPOSSIBLE);
        let result = f();
        self.on_drop = on_drop;
        result
    }
}

impl Drop for RestartGuard {
    fn drop(&mut self) {
        if let Some(state) = self.on_drop {
            // Release: pairs with `begin`.
            self.state.store(state, Ordering::Release);
        }
    }
}

#[cfg(all(test, not(tower_memory_loom)))]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

    use super::*;

    #[test]
    fn a_task_is_started_again_after_it_ended_in_any_way_but_an_impossible_one() {
        let background = Background::default();
        for _ in 0..2 {
            let mut guard = background.begin().unwrap();
            assert!(!background.needs_start() && background.begin().is_none());
            assert!(!guard.finish(|| false), "there is work");
            assert!(background.begin().is_none(), "so it goes on");
            assert!(guard.finish(|| true));
            let next = background.begin().unwrap();
            drop(guard);
            assert!(!background.needs_start(), "the next one runs");
            drop(next);
            assert!(background.needs_start(), "dropped with its runtime");
        }
        let mut guard = background.begin().unwrap();
        assert_eq!(guard.or_never(|| 1), 1);
        let impossible = catch_unwind(AssertUnwindSafe(move || {
            guard.or_never(|| resume_unwind(Box::new("no timers")))
        }));
        assert!(impossible.is_err() && !background.needs_start());
        assert!(background.begin().is_none());
    }
}

#[cfg(all(test, tower_memory_loom))]
mod loom_models {
    use loom::thread;

    use super::*;
    use crate::sync::AtomicBool;

    /// Invariants 1 and 2: a task ends while two callers bring work.
    #[test]
    fn a_task_that_ends_goes_on_or_exactly_one_caller_starts_another() {
        loom::model(|| {
            let background = Arc::new(Background::default());
            let work = Arc::new(AtomicBool::new(false));
            let mut guard = background.begin().expect("the first one");
            let task = thread::spawn({
                let work = Arc::clone(&work);
                move || {
                    let ended = guard.finish(|| !work.load(Ordering::Relaxed));
                    (!ended).then_some(guard)
                }
            });
            let bring = {
                let background = Arc::clone(&background);
                move || {
                    work.store(true, Ordering::Relaxed);
                    background.needs_start().then(|| background.begin())?
                }
            };
            let caller = thread::spawn(bring.clone());
            let guards = [
                bring(),
                caller.join().expect("no panic"),
                task.join().expect("no panic"),
            ];
            assert_eq!(guards.iter().flatten().count(), 1, "tasks that run");
        });
    }

    /// Invariant 1, and what one task did is seen by the next.
    #[test]
    fn a_task_sees_what_the_former_one_did() {
        loom::model(|| {
            let background = Arc::new(Background::default());
            let done = Arc::new(loom::cell::UnsafeCell::new(0));
            let run = {
                let background = Arc::clone(&background);
                move || {
                    let Some(mut guard) = background.begin() else {
                        return;
                    };
                    done.with_mut(|_| ());
                    guard.finish(|| true);
                }
            };
            let other = thread::spawn(run.clone());
            run();
            other.join().expect("no panic");
        });
    }
}
