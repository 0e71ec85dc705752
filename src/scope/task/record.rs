use std::panic::Location;

use tokio::time::Instant;

use super::{
    group::TaskGroup,
    names::Name,
    report::{TaskKind, TaskReport},
};
use crate::{
    account::{Account, Entry, Writer},
    cancel::{CancelReason, Outcome},
    scope::{RequestScope, RouteRegistry},
    sync::{Arc, AtomicBool, AtomicUsize, Ordering},
};

/// It waits for a thread.
const WAITING: usize = 0;
/// It runs, or has run.
const BEGUN: usize = 1;
/// It waited for too long, and may not run any more.
const WITHDRAWN: usize = 2;

/// One task, from its start to the drop of its future.
#[derive(Debug)]
pub(super) struct TaskRecord {
    pub(super) kind: TaskKind,
    location: &'static Location<'static>,
    started: Instant,
    /// Its own figures; the scope's account is entered further out.
    account: Account,
    pub(super) group: Arc<TaskGroup>,
    /// `None` if it is detached: it keeps nothing of the request.
    scope: Option<RequestScope>,
    /// Of a detached task.
    pub(super) name: Option<Arc<Name>>,
    /// Polls begun plus polls ended: odd while it runs.
    polls: AtomicUsize,
    /// What `polls` was when the sweeper looked last.
    seen: AtomicUsize,
    /// Its scope waits for it no longer.
    released: AtomicBool,
    /// It was reported as an overrun.
    reported: AtomicBool,
    /// Of a closure: one of [`WAITING`], [`BEGUN`] and [`WITHDRAWN`].
    closure: AtomicUsize,
}

impl TaskRecord {
    pub(super) fn new(
        kind: TaskKind,
        location: &'static Location<'static>,
        group: Arc<TaskGroup>,
        scope: Option<RequestScope>,
        name: Option<Arc<Name>>,
    ) -> Self {
        Self {
            kind,
            location,
            started: Instant::now(),
            account: Account::new(),
            group,
            scope,
            name,
            polls: AtomicUsize::new(0),
            seen: AtomicUsize::new(0),
            released: AtomicBool::new(false),
            reported: AtomicBool::new(false),
            closure: AtomicUsize::new(WAITING),
        }
    }

    pub(super) const fn scope(&self) -> Option<&RequestScope> {
        self.scope.as_ref()
    }

    /// Enters the task's account until the guard is dropped.
    pub(super) fn enter(&self) -> EnteredTask<'_> {
        // Release, as at the end: who sees the count sees what was counted.
        self.polls.fetch_add(1, Ordering::Release);
        EnteredTask {
            record: self,
            entry: self.account.begin(),
        }
    }

    fn is_running(&self) -> bool {
        // Acquire: see `enter`.
        self.polls.load(Ordering::Acquire) % 2 == 1
    }

    pub(super) fn bytes(&self) -> Option<u64> {
        self.account.usage().map(|usage| usage.bytes_allocated)
    }

    /// Whether a closure that has found its thread may run.
    pub(super) fn begin_closure(&self) -> bool {
        self.leave_waiting(BEGUN)
    }

    fn leave_waiting(&self, to: usize) -> bool {
        // AcqRel, though nothing else hangs on it: one of two leaves, the other sees that.
        self.closure
            .compare_exchange(WAITING, to, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// Lets the scope close, as far as this task is concerned. Happens once.
    pub(super) fn release(&self) {
        // AcqRel: one of two comes first, and the scope is its.
        if self.released.swap(true, Ordering::AcqRel) {
            return;
        }
        if let Some(scope) = &self.scope {
            let inner = scope.inner();
            inner.step(
                inner.lifecycle.task_ended(),
                CancelReason::new(Outcome::Completed),
            );
        }
    }

    pub(super) fn is_released(&self) -> bool {
        // Acquire, as in `release`. It only spares work: who releases after all looks again.
        self.released.load(Ordering::Acquire)
    }

    pub(super) fn report(&self, routes: &RouteRegistry, now: Instant) -> TaskReport {
        let running = self.is_running();
        let ended = self.group.ended();
        let route = match &self.scope {
            Some(scope) => scope.route(),
            None => routes.label(self.group.route()).clone(),
        };
        TaskReport {
            kind: self.kind,
            name: self.name.as_ref().map(|name| name.name),
            location: self.location,
            route,
            age: now.saturating_duration_since(self.started),
            since_end: ended.map(|at| now.saturating_duration_since(at)),
            // A closure's whole stretch is counted when it returns.
            usage: match self.kind {
                TaskKind::Blocking if running => None,
                _ => self.account.usage(),
            },
            running,
        }
    }

    /// Reports, once, that the task still ran when its grace was over.
    pub(super) fn overran(&self, running: bool) {
        // AcqRel, though nothing else hangs on it: one of two comes first, and the report is its.
        if self.reported.swap(true, Ordering::AcqRel) {
            return;
        }
        let config = self.scope.as_ref().and_then(|scope| scope.inner().config());
        let Some(config) = config else {
            return;
        };
        let mut report = self.report(&config.routes, Instant::now());
        // As it was judged: it may have returned since.
        report.running = running;
        config.sink.overran(&report);
        self.group.overran(report);
    }

    /// Looks at a task whose grace is over. Returns whether to look again soon.
    pub(super) fn overdue(&self) -> bool {
        // Acquire: see `enter`. If it runs, its figures up to this poll are seen.
        let polls = self.polls.load(Ordering::Acquire);
        let running = polls % 2 == 1;
        let overran = match self.kind {
            TaskKind::Async => {
                // In the same poll as last time. Otherwise it drops itself. Relaxed: one sweeper at a
                // time, and each look happens after the former.
                let before = self.seen.swap(polls, Ordering::Relaxed);
                running && before == polls
            }
            // Its runtime keeps a closure that was withdrawn until there is a thread to drop it.
            TaskKind::Blocking => running || self.leave_waiting(WITHDRAWN),
            TaskKind::Detached => return false,
        };
        if overran {
            self.overran(running);
            self.release();
        }
        // Else it is just beginning, or has just returned, or its timer is late.
        !overran
    }
}

/// Guard of [`TaskRecord::enter`].
pub(super) struct EnteredTask<'a> {
    record: &'a TaskRecord,
    entry: Entry,
}

impl Drop for EnteredTask<'_> {
    fn drop(&mut self) {
        // Exclusive: a task is in one poll at a time, and each happens after the former.
        self.record.account.leave(self.entry, Writer::Exclusive);
        // Release: see `TaskRecord::enter`.
        self.record.polls.fetch_add(1, Ordering::Release);
    }
}
