//! Work that repeats while there is something to do, and costs one load while it is scheduled.
//!
//! # Invariants
//!
//! 1. A job is scheduled at most once: only a compare-and-swap from another state to this process's
//!    makes it scheduled.
//! 2. No work is missed. A caller records its work and then reads the state; a job that ends writes
//!    the state and then looks for work. Both have a `SeqCst` fence in between, so at least one of
//!    the two sees the other.

use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::Weak,
    task::{Wake, Waker},
    time::{Duration, Instant},
};

use super::handle::{Housekeeping, Key};
use crate::{
    account::aside,
    sync::{Arc, AtomicU32, Mutex, Ordering, fence, lock},
};

/// The default of [`Job`]. No process has this id.
const IDLE: u32 = 0;

/// Least time to the next run of a chore that has panicked.
const AFTER_PANIC: Duration = Duration::from_millis(100);

/// Whether a [`Chore`] is scheduled.
#[derive(Debug, Default)]
pub(crate) struct Job {
    /// The id of the process that has scheduled it, or [`IDLE`]. A forked child inherits the state
    /// and not the schedule.
    state: AtomicU32,
    key: Mutex<Option<Key>>,
}

impl Job {
    /// Whether the job has to be started. The caller has recorded its work before.
    #[inline]
    pub(crate) fn needs_start(&self) -> bool {
        // Invariant 2.
        fence(Ordering::SeqCst);
        // Relaxed: `begin` checks it.
        self.state.load(Ordering::Relaxed) == IDLE
    }

    /// As [`needs_start`](Self::needs_start), also after a fork. It asks for the process's id.
    pub(crate) fn needs_start_here(&self) -> bool {
        fence(Ordering::SeqCst);
        self.state.load(Ordering::Relaxed) != std::process::id()
    }

    /// Ends a job that has nothing to do any more.
    pub(crate) fn cancel(&self, housekeeping: &Housekeeping) {
        let key = lock(&self.key).take();
        if let Some(key) = key {
            housekeeping.cancel(key);
        }
    }

    /// Makes the caller the one that schedules it.
    pub(crate) fn begin(&self) -> bool {
        let process = std::process::id();
        let now = self.state.load(Ordering::Relaxed);
        // Acquire: the job sees everything its former run did.
        now != process
            && self
                .state
                .compare_exchange(now, process, Ordering::Acquire, Ordering::Relaxed)
                .is_ok()
    }

    /// Ends the job, unless it is not idle after all. Returns whether it has ended; then the next
    /// caller with work starts it again.
    ///
    /// `is_idle` is a second look: work may have been recorded since the job found none.
    pub(crate) fn finish(&self, is_idle: impl FnOnce() -> bool) -> bool {
        // Release: pairs with `begin`.
        self.state.store(IDLE, Ordering::Release);
        // Invariant 2.
        fence(Ordering::SeqCst);
        is_idle() || !self.begin()
    }
}

/// Work that the housekeeping repeats.
pub(crate) trait Chore: Send + Sync + 'static {
    fn job(&self) -> &Job;

    fn housekeeping(&self) -> &Housekeeping;

    /// Does what is due. A panic is counted, and the chore goes on.
    fn run(&self);

    /// When to run next. `None` ends the job until it is started again.
    fn next(&self, now: Instant) -> Option<Instant>;
}

/// Schedules a chore for `at`, if it is not scheduled.
pub(crate) fn start<C: Chore>(chore: &Arc<C>, at: Instant) {
    if chore.job().begin() {
        // A job is not started a second time: its schedule must not be the parent's.
        chore.housekeeping().follow_fork();
        schedule(chore, at);
    }
}

fn schedule<C: Chore>(chore: &Arc<C>, at: Instant) {
    let weak = Arc::downgrade(chore);
    let run = aside(|| Waker::from(Arc::new(Run { chore: weak })));
    let housekeeping = chore.housekeeping();
    // Under the lock, so that a run that is due at once does not set the next key first.
    let mut key = lock(&chore.job().key);
    *key = Some(housekeeping.schedule(housekeeping.now(), at, &run));
}

/// A scheduled run.
struct Run<C> {
    chore: Weak<C>,
}

impl<C: Chore> Wake for Run<C> {
    fn wake(self: Arc<Self>) {
        let Some(chore) = self.chore.upgrade() else {
            return;
        };
        let done = catch_unwind(AssertUnwindSafe(|| chore.run()));
        let now = chore.housekeeping().now();
        let mut next = chore.next(now);
        if next.is_none() {
            let is_idle = || {
                next = chore.next(now);
                next.is_none()
            };
            if chore.job().finish(is_idle) {
                next = None;
            }
        }
        if let Some(at) = next {
            let pause = if done.is_err() {
                AFTER_PANIC
            } else {
                Duration::ZERO
            };
            schedule(&chore, at.max(now + pause));
        }
        if let Err(panic) = done {
            // Counted by the caller; the panic hook has been called already.
            resume_unwind(panic);
        }
    }
}

#[cfg(all(test, not(tower_memory_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_scheduled_once_and_started_again_after_its_end() {
        let job = Job::default();
        for _ in 0..2 {
            assert!(job.needs_start() && job.needs_start_here());
            assert!(job.begin());
            assert!(!job.needs_start() && !job.needs_start_here() && !job.begin());
            assert!(!job.finish(|| false), "there is work");
            assert!(!job.needs_start(), "so it goes on");
            assert!(job.finish(|| true));
        }
    }

    #[test]
    fn a_job_of_another_process_has_to_be_started_here() {
        let job = Job::default();
        job.state.store(u32::MAX, Ordering::Relaxed);
        assert!(!job.needs_start(), "not seen without asking");
        assert!(job.needs_start_here());
        assert!(job.begin() && !job.needs_start_here());
    }
}

#[cfg(all(test, tower_memory_loom))]
mod loom_models {
    use loom::thread;

    use super::*;
    use crate::sync::AtomicBool;

    /// Invariants 1 and 2: a job ends while two callers bring work.
    #[test]
    fn a_job_that_ends_goes_on_or_exactly_one_caller_starts_it() {
        loom::model(|| {
            let job = Arc::new(Job::default());
            let work = Arc::new(AtomicBool::new(false));
            assert!(job.begin());
            let ending = thread::spawn({
                let (job, work) = (Arc::clone(&job), Arc::clone(&work));
                move || !job.finish(|| !work.load(Ordering::Relaxed))
            });
            let bring = {
                let job = Arc::clone(&job);
                move || {
                    work.store(true, Ordering::Relaxed);
                    job.needs_start() && job.begin()
                }
            };
            let caller = thread::spawn(bring.clone());
            let scheduled = [
                bring(),
                caller.join().expect("no panic"),
                ending.join().expect("no panic"),
            ];
            let count = scheduled.iter().filter(|scheduled| **scheduled).count();
            assert_eq!(count, 1, "times that it is scheduled");
        });
    }

    /// Invariant 1, and what one run did is seen by the next.
    #[test]
    fn a_job_sees_what_its_former_run_did() {
        loom::model(|| {
            let job = Arc::new(Job::default());
            let done = Arc::new(loom::cell::UnsafeCell::new(0));
            let run = {
                let job = Arc::clone(&job);
                move || {
                    if job.begin() {
                        done.with_mut(|_| ());
                        job.finish(|| true);
                    }
                }
            };
            let other = thread::spawn(run.clone());
            run();
            other.join().expect("no panic");
        });
    }
}
