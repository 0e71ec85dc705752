use std::time::Duration;

use tokio::{runtime::Handle, time::Instant};

use super::report::TaskReport;
use crate::sync::{AtomicU64, AtomicUsize, Mutex, Ordering, lock};

/// A moment that has not come.
const NEVER: u64 = u64::MAX;

/// Most tasks that a request's report names.
const MAX_NAMED: usize = 64;

// `ScopeReport::overruns` says so.
const _: () = assert!(MAX_NAMED == 64);

/// The request has closed.
const CLOSED: usize = 1;
/// How long the tasks took to end was told.
const MEASURED: usize = 1 << 1;
/// One task.
const TASK: usize = 1 << 2;

/// What the tasks of one request have in common; made when the first of them is started.
///
/// # Invariants
///
/// 1. Who makes the group then reads the request's state by read-modify-write, and who changes that
///    state looks for the group afterwards. So of "group made" and "request ended" (or
///    "cancelled") the later one sees the earlier, and notes it here.
/// 2. A task is taken off `life` before it lets its scope close. So if the scope closes with no
///    task on `life`, the last one's end is known; else the last one to go finds `CLOSED`.
/// 3. `MEASURED` is set once, by who tells how long it took.
///
/// `life` is changed by read-modify-writes that acquire and release, so who finds that no task is left
/// sees what each of them noted before it went.
#[derive(Debug)]
pub(in crate::scope) struct TaskGroup {
    start: Instant,
    grace: Duration,
    /// Where the tasks run; `None` if there is no runtime, and so no tasks.
    runtime: Option<Handle>,
    /// Moments, in nanoseconds since the start.
    cancelled: AtomicU64,
    ended: AtomicU64,
    last_end: AtomicU64,
    /// The request's route at its end.
    route: AtomicUsize,
    life: AtomicUsize,
    spawned: AtomicUsize,
    aborted: AtomicUsize,
    given_up: AtomicUsize,
    overruns: Mutex<Vec<TaskReport>>,
}

/// The figures of a group for the report of its request.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::scope) struct TaskCounts {
    pub(in crate::scope) spawned: usize,
    pub(in crate::scope) aborted: usize,
    pub(in crate::scope) given_up: usize,
}

impl TaskGroup {
    pub(in crate::scope) fn new(start: Instant, grace: Duration, runtime: Option<Handle>) -> Self {
        Self {
            start,
            grace,
            runtime,
            cancelled: AtomicU64::new(NEVER),
            ended: AtomicU64::new(NEVER),
            last_end: AtomicU64::new(NEVER),
            route: AtomicUsize::new(0),
            life: AtomicUsize::new(0),
            spawned: AtomicUsize::new(0),
            aborted: AtomicUsize::new(0),
            given_up: AtomicUsize::new(0),
            overruns: Mutex::new(Vec::new()),
        }
    }

    fn nanos(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.start);
        u64::try_from(since.as_nanos())
            .unwrap_or(NEVER)
            .min(NEVER - 1)
    }

    /// Sets a moment that has not come yet.
    fn note(&self, moment: &AtomicU64, at: Instant) {
        // SeqCst: see `Tasks::supervise`. The first one stays.
        let _ = moment.compare_exchange(NEVER, self.nanos(at), Ordering::SeqCst, Ordering::SeqCst);
    }

    /// The request was cancelled.
    pub(in crate::scope) fn request_cancelled(&self, at: Instant) {
        self.note(&self.cancelled, at);
    }

    /// The request's response is over.
    pub(in crate::scope) fn request_ended(&self, at: Instant, route: usize) {
        // Relaxed: released by noting the end.
        self.route.store(route, Ordering::Relaxed);
        self.note(&self.ended, at);
    }

    /// When the request ended, if it has.
    pub(super) fn ended(&self) -> Option<Instant> {
        // SeqCst: see `Tasks::supervise`. Also acquires the route.
        match self.ended.load(Ordering::SeqCst) {
            NEVER => None,
            nanos => self.start.checked_add(Duration::from_nanos(nanos)),
        }
    }

    /// When the tasks' grace is over, if the request has ended and it ever is.
    pub(super) fn due(&self) -> Option<Instant> {
        self.ended()?.checked_add(self.grace)
    }

    /// The route's number; of use when the request has ended.
    pub(super) fn route(&self) -> usize {
        // Relaxed: of use after `ended`, which acquires it.
        self.route.load(Ordering::Relaxed)
    }

    pub(in crate::scope) fn runtime(&self) -> Option<&Handle> {
        self.runtime.as_ref()
    }

    pub(super) fn task_started(&self) {
        // Relaxed, as the other counts: figures. The report reads them after the scope has closed,
        // which orders them.
        self.spawned.fetch_add(1, Ordering::Relaxed);
        self.life.fetch_add(TASK, Ordering::AcqRel);
    }

    /// Notes when a task of the cancelled request ended.
    pub(super) fn task_ended(&self, at: Instant) {
        let at = self.nanos(at);
        let later = |last| (last == NEVER || last < at).then_some(at);
        // Relaxed: read by who takes the last task off `life`, or finds none on it.
        let _ = self
            .last_end
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, later);
    }

    /// Takes a task off. If it was the last one of a closed request: how long after the cancel
    /// that was.
    pub(super) fn task_over(&self) -> Option<Duration> {
        let before = self.life.fetch_sub(TASK, Ordering::AcqRel);
        if before & CLOSED != 0 && before / TASK == 1 {
            self.measure()
        } else {
            None
        }
    }

    /// The request has closed. If no task is left: how long after the cancel the last one ended.
    pub(in crate::scope) fn request_closed(&self) -> Option<Duration> {
        let before = self.life.fetch_or(CLOSED, Ordering::AcqRel);
        if before / TASK == 0 {
            self.measure()
        } else {
            None
        }
    }

    fn measure(&self) -> Option<Duration> {
        if self.life.fetch_or(MEASURED, Ordering::AcqRel) & MEASURED != 0 {
            return None;
        }
        // What was noted before the last change of `life` is seen, in whatever order; SeqCst as where
        // it is written.
        let cancelled = self.cancelled.load(Ordering::SeqCst);
        let last = self.last_end.load(Ordering::Relaxed);
        // Without either, all tasks were over before the request was.
        if cancelled == NEVER || last == NEVER {
            return None;
        }
        last.checked_sub(cancelled).map(Duration::from_nanos)
    }

    /// Whether a task is alive.
    pub(in crate::scope) fn has_tasks(&self) -> bool {
        // Acquire: as at every look at `life`. A task is on it before it looks for the end (see
        // `Ticket::new`), so of "task started" and "request ended" one sees the other.
        self.life.load(Ordering::Acquire) >= TASK
    }

    /// A task still ran when its grace was over.
    pub(super) fn overran(&self, report: TaskReport) {
        let count = if report.running {
            &self.given_up
        } else {
            &self.aborted
        };
        count.fetch_add(1, Ordering::Relaxed);
        let mut overruns = lock(&self.overruns);
        if overruns.len() < MAX_NAMED {
            overruns.push(report);
        }
    }

    pub(in crate::scope) fn counts(&self) -> TaskCounts {
        TaskCounts {
            spawned: self.spawned.load(Ordering::Relaxed),
            aborted: self.aborted.load(Ordering::Relaxed),
            given_up: self.given_up.load(Ordering::Relaxed),
        }
    }

    pub(in crate::scope) fn overruns(&self) -> Vec<TaskReport> {
        lock(&self.overruns).clone()
    }
}

#[cfg(all(test, tower_memory_loom))]
mod loom_models {
    use loom::{
        sync::{
            Arc,
            atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
        },
        thread,
    };

    use super::*;
    use crate::{
        cancel::{CancelReason, Outcome, Signal},
        scope::lifecycle::Lifecycle,
    };

    /// What of a scope takes part.
    struct Scope {
        life: Lifecycle,
        signal: Signal,
        group: TaskGroup,
        /// Stands for the `OnceLock` that the group is in: loom has no twin of it.
        made: AtomicBool,
        start: Instant,
        told: AtomicUsize,
    }

    impl Scope {
        fn new() -> Arc<Self> {
            let start = Instant::now();
            Arc::new(Self {
                life: Lifecycle::new(),
                signal: Signal::new(),
                group: TaskGroup::new(start, Duration::ZERO, None),
                made: AtomicBool::new(false),
                start,
                told: AtomicUsize::new(0),
            })
        }

        fn made(&self) -> Option<&TaskGroup> {
            self.made.load(Ordering::Acquire).then_some(&self.group)
        }

        /// As `Ticket::new` does.
        fn start_task(&self) -> &TaskGroup {
            let group = &self.group;
            self.made.store(true, Ordering::Release);
            if self.signal.is_cancelled_now() {
                group.request_cancelled(self.start);
            }
            group.task_started();
            if self.life.task_started() {
                group.request_ended(self.start, 7);
            }
            group
        }

        /// As `Inner::step` does.
        fn end(&self) {
            let _ = self.life.end();
            self.signal.cancel(CancelReason::new(Outcome::ClientGone));
            if let Some(group) = self.made() {
                group.request_cancelled(self.start);
            }
            if let Some(group) = self.made() {
                group.request_ended(self.start, 7);
            }
        }

        fn tell(&self, measured: Option<Duration>) {
            self.told
                .fetch_add(usize::from(measured.is_some()), Relaxed);
        }
    }

    /// Invariant 1.
    #[test]
    fn a_group_made_while_the_request_ends_is_told() {
        loom::model(|| {
            let scope = Scope::new();
            let ending = thread::spawn({
                let scope = Arc::clone(&scope);
                move || scope.end()
            });
            let group = scope.start_task();
            ending.join().expect("no panic");
            assert!(group.ended().is_some());
            assert_eq!(group.route(), 7);
            assert_ne!(group.cancelled.load(Ordering::SeqCst), NEVER);
        });
    }

    /// Invariants 2 and 3.
    #[test]
    fn two_tasks_and_the_close_tell_the_latency_once() {
        loom::model(|| {
            let scope = Scope::new();
            let group = &scope.group;
            group.task_started();
            group.task_started();
            group.request_cancelled(scope.start);
            let tasks: Vec<_> = (0..2)
                .map(|_| {
                    let scope = Arc::clone(&scope);
                    thread::spawn(move || {
                        let group = &scope.group;
                        group.task_ended(scope.start);
                        scope.tell(group.task_over());
                    })
                })
                .collect();
            scope.tell(group.request_closed());
            for task in tasks {
                task.join().expect("no panic");
            }
            assert_eq!(scope.told.load(Relaxed), 1);
        });
    }
}
