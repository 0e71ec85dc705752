//! Calls the observers off the requests' path.
//!
//! A request that has closed puts its report into a bounded queue. A moment later the thread for
//! hooks takes all reports at once, and calls the observers; so many requests wake it once.
//!
//! # Invariants
//!
//! 1. Observers are called under the lock of `calling`, and reports are taken from `waiting` only
//!    under it. So one thread at a time calls them, in the order of the queue, and a flush returns
//!    after the calls that another thread had begun.
//! 2. A report is in the queue, and counted in `unseen`, before the job is started
//!    ([`Job::needs_start`]).

use std::{
    cell::Cell,
    collections::VecDeque,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use crate::{
    account::aside,
    housekeeping::{self, Chore, Housekeeping, Job},
    scope::ScopeReport,
    sync::{Arc, AtomicU64, AtomicUsize, Mutex, MutexGuard, Ordering, lock, try_lock},
};

/// Is passed a report of each request.
pub(crate) type Observer = Arc<dyn Fn(&ScopeReport) + Send + Sync>;

/// Maximum number of reports that wait. Those that do not fit are dropped and counted.
const MAX_WAITING: usize = 4096;

/// How long the thread waits for further reports.
const DELAY: Duration = Duration::from_millis(10);

/// How long the thread calls the observers of one layer before it calls others, and hooks.
const TURN: Duration = Duration::from_millis(5);

/// One in this many reports checks whether the job belongs to this process, and not to a parent.
const CHECK_FORK: usize = 64;

/// Reports for which an idle queue keeps memory.
const KEPT: usize = 256;

// `MemoryLayerBuilder::observe` states these.
const _: () = assert!(MAX_WAITING == 4096 && DELAY.as_millis() == 10);

thread_local! {
    /// Whether the thread is calling observers, of any layer.
    static CALLING: Cell<bool> = const { Cell::new(false) };
}

/// The observers of a layer, and the reports they have not seen.
pub(super) struct Observers {
    observers: Vec<Observer>,
    waiting: Mutex<VecDeque<ScopeReport>>,
    /// Empty except while observers are called. Both queues keep their memory.
    calling: Mutex<VecDeque<ScopeReport>>,
    /// Reports whose observers have not all returned.
    unseen: AtomicUsize,
    pub(super) panics: AtomicU64,
    pub(super) dropped: AtomicU64,
    job: Job,
    housekeeping: Housekeeping,
}

impl Observers {
    pub(super) fn new(observers: Vec<Observer>, housekeeping: &Housekeeping) -> Arc<Self> {
        Arc::new(Self {
            observers,
            waiting: Mutex::default(),
            calling: Mutex::default(),
            unseen: AtomicUsize::new(0),
            panics: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            job: Job::default(),
            housekeeping: housekeeping.hooks(),
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.observers.is_empty()
    }

    /// Whether all reports have been seen.
    pub(super) fn is_idle(&self) -> bool {
        // Acquire: what the observers did is seen.
        self.unseen.load(Ordering::Acquire) == 0
    }

    /// Has the observers called with `report`, soon.
    pub(super) fn push(self: &Arc<Self>, report: ScopeReport) {
        // Relaxed: the lock publishes the report, and invariant 2 needs no more than this order.
        let before = self.unseen.fetch_add(1, Ordering::Relaxed);
        if before >= MAX_WAITING {
            self.unseen.fetch_sub(1, Ordering::Relaxed);
            // Relaxed: a counter.
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        {
            let mut waiting = lock(&self.waiting);
            if waiting.len() == waiting.capacity() {
                aside(|| waiting.reserve(1));
            }
            waiting.push_back(report);
        }
        // Invariant 2.
        if self.job.needs_start() || before % CHECK_FORK == CHECK_FORK - 1 {
            self.start();
        }
    }

    #[cold]
    fn start(self: &Arc<Self>) {
        if self.job.needs_start_here() {
            housekeeping::start(self, self.housekeeping.now() + DELAY);
        }
    }

    /// Calls the observers with all reports that wait. Does nothing within an observer.
    pub(super) fn flush(&self) {
        self.enter(|| self.call_all(lock(&self.calling), None));
    }

    /// Runs `f`, unless the thread is calling observers already.
    fn enter(&self, f: impl FnOnce()) {
        if CALLING.try_with(|calling| calling.replace(true)) == Ok(false) {
            f();
            let _ = CALLING.try_with(|calling| calling.set(false));
        }
    }

    /// Calls the observers with the reports that wait, for at least one report and then until `end`.
    fn call_all(&self, mut reports: MutexGuard<'_, VecDeque<ScopeReport>>, end: Option<Instant>) {
        // Invariant 1.
        loop {
            if reports.is_empty() {
                reports.shrink_to(KEPT);
                std::mem::swap(&mut *lock(&self.waiting), &mut *reports);
            }
            let Some(report) = reports.pop_front() else {
                return;
            };
            self.call(&report);
            // Release: pairs with `is_idle`.
            self.unseen.fetch_sub(1, Ordering::Release);
            if end.is_some_and(|end| self.housekeeping.now() >= end) {
                return;
            }
        }
    }

    fn call(&self, report: &ScopeReport) {
        for observer in &self.observers {
            // Unwind safe: the report is only read, and an observer in a broken state only receives
            // the next report.
            let result = catch_unwind(AssertUnwindSafe(|| observer(report)));
            if let Err(payload) = result {
                // Dropping the payload may panic, too. That second payload is leaked instead of
                // dropped.
                let dropped = catch_unwind(AssertUnwindSafe(|| drop(payload)));
                let _ = dropped.map_err(std::mem::forget);
                // Relaxed: a counter.
                self.panics.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

impl Chore for Observers {
    fn job(&self) -> &Job {
        &self.job
    }

    fn housekeeping(&self) -> &Housekeeping {
        &self.housekeeping
    }

    fn run(&self) {
        // A thread that flushes calls with all of them.
        if let Some(reports) = try_lock(&self.calling) {
            let end = self.housekeeping.now() + TURN;
            self.enter(|| self.call_all(reports, Some(end)));
        }
    }

    fn next(&self, now: Instant) -> Option<Instant> {
        if self.is_idle() {
            return None;
        }
        // The turn is over, or a thread flushes, or there are new reports.
        let is_behind = try_lock(&self.calling).is_some_and(|reports| !reports.is_empty());
        Some(if is_behind { now } else { now + DELAY })
    }
}

/// The layer is gone, and with it the housekeeping's reference. What waits is told here.
impl Drop for Observers {
    fn drop(&mut self) {
        self.job.cancel(&self.housekeeping);
        self.flush();
    }
}

impl fmt::Debug for Observers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observers")
            .field("observers", &self.observers.len())
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(tower_memory_loom)))]
mod tests {
    use super::*;
    use crate::{housekeeping::ManualClock, scope::report_for_tests};

    #[test]
    fn a_turn_of_a_layers_observers_ends_after_a_while_and_the_next_one_goes_on_at_once() {
        let clock = ManualClock::new();
        let slow: Observer = Arc::new({
            let clock = clock.clone();
            // Less than `DELAY`, so the job is not due.
            move |_: &ScopeReport| clock.advance(TURN / 2)
        });
        let housekeeping = Housekeeping::Manual(clock.clone());
        let observers = Observers::new(vec![slow], &housekeeping);
        for _ in 0..3 {
            observers.push(report_for_tests());
        }
        observers.run();
        assert_eq!(observers.unseen.load(Ordering::Relaxed), 1, "two in a turn");
        let now = observers.housekeeping.now();
        assert_eq!(observers.next(now), Some(now));
        observers.run();
        assert!(observers.is_idle() && observers.next(now).is_none());
        observers.push(report_for_tests());
        assert_eq!(observers.next(now), Some(now + DELAY));
    }

    #[test]
    fn a_queue_keeps_no_more_than_a_little_memory_after_a_burst() {
        let housekeeping = Housekeeping::Manual(ManualClock::new());
        let observers = Observers::new(vec![Arc::new(|_: &ScopeReport| {})], &housekeeping);
        for _ in 0..2 {
            for _ in 0..MAX_WAITING {
                observers.push(report_for_tests());
            }
            observers.flush();
        }
        for _ in 0..2 {
            observers.push(report_for_tests());
            observers.flush();
        }
        for queue in [&observers.waiting, &observers.calling] {
            assert!(lock(queue).capacity() <= KEPT);
        }
    }
}
