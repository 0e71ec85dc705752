use std::{
    panic::Location,
    task::{RawWakerVTable, Waker},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    group::Group,
    look::RECHECK,
    report::{TaskKind, TaskReport},
    span::TaskSpan,
    supervision::Supervised,
};
use crate::{
    account::Account,
    counted::Counted,
    names::{RouteName, TaskName},
    route::RouteLabel,
    sync::{Arc, AtomicBool, AtomicU8, AtomicU32, AtomicUsize, OnceLock, Ordering, SetMut},
};

/// The request of a task.
pub(crate) trait TaskOwner: Send + Sync {
    /// The request's route.
    fn route(&self) -> RouteLabel;

    /// The request, for the flight recorder.
    #[cfg(feature = "trace")]
    fn traced(&self) -> crate::trace::Origin;

    /// The tasks of the request.
    fn group(&self) -> &TaskGroup;

    /// Whether the request is cancelled.
    fn is_cancelled(&self) -> bool;

    /// The time that its tasks have then.
    fn grace(&self) -> Duration;

    /// A task no longer keeps the request's scope open.
    fn release_task(&self);

    /// A task still ran when its grace period was over. It was given up, or else aborted.
    fn task_overran(&self, report: &TaskReport, given_up: bool);
}

/// What a task belongs to.
pub(crate) enum Origin {
    /// A request, whose scope it keeps open.
    Request(Counted<dyn TaskOwner>),
    /// Nothing: it was detached under a name, from a request on this route.
    Detached {
        name: &'static str,
        route: RouteLabel,
        /// The route in a profile.
        id: RouteName,
        /// When that request has ended.
        ended: Arc<OnceLock<Instant>>,
    },
}

/// Time between two looks at a task that waits to be polled.
const UNPOLLED_RECHECK: Duration = Duration::from_secs(1);

/// Looks after which a task that was not polled in between is given up. A very busy runtime may need
/// seconds to poll a task that was woken.
const UNPOLLED: u32 = 10;

/// The closure waits for a thread.
const WAITING: u8 = 0;
/// The closure runs, or has run.
const BEGUN: u8 = 1;
/// The closure waited for too long and must not run.
const WITHDRAWN: u8 = 2;

/// One task, from its start to the drop of its future.
pub(crate) struct TaskRecord {
    kind: TaskKind,
    location: &'static Location<'static>,
    started: Instant,
    /// The task's own figures. The scope's account is entered outside of it.
    pub(super) account: Account,
    /// `None` only while the record is recycled.
    origin: Option<Origin>,
    /// Where the task was started.
    pub(crate) span: TaskSpan,
    /// The waker that is listed in the group. Used by the task only.
    watched: [AtomicUsize; 2],
    /// Polls begun plus polls ended, so odd while the task runs. Written by the task only.
    polls: AtomicU32,
    /// The value of `polls` at the last look.
    seen: AtomicU32,
    /// Looks in a row between which a task that waits was not polled.
    unpolled: AtomicU32,
    /// The scope no longer waits for this task.
    released: AtomicBool,
    /// The task was reported as an overrun.
    reported: AtomicBool,
    /// The state of a closure: [`WAITING`], [`BEGUN`] or [`WITHDRAWN`].
    closure: AtomicU8,
}

/// The address of a waker that is listed, and that of its functions. The waker is alive while it is listed, so
/// another one differs.
pub(crate) type WakerId = [usize; 2];

pub(crate) fn waker_id(waker: &Waker) -> WakerId {
    let functions: *const RawWakerVTable = waker.vtable();
    [waker.data().addr(), functions.addr()]
}

/// The tasks of one request.
pub(crate) type TaskGroup = Group<TaskRecord>;

impl TaskRecord {
    /// For no task yet.
    #[cold]
    pub(super) fn unused() -> Self {
        Self {
            kind: TaskKind::Async,
            location: Location::caller(),
            started: Instant::now(),
            account: Account::owned(),
            origin: None,
            span: TaskSpan::none(),
            watched: [AtomicUsize::new(0), AtomicUsize::new(0)],
            polls: AtomicU32::new(0),
            seen: AtomicU32::new(0),
            unpolled: AtomicU32::new(0),
            released: AtomicBool::new(false),
            reported: AtomicBool::new(false),
            closure: AtomicU8::new(WAITING),
        }
    }

    /// Begins for a task.
    pub(super) fn begin(
        &mut self,
        kind: TaskKind,
        location: &'static Location<'static>,
        origin: Origin,
    ) {
        self.kind = kind;
        self.location = location;
        self.started = Instant::now();
        // The account of a request's task is entered inside of the request's, which names the route.
        let (route, task) = match origin {
            Origin::Request(_) => (None, TaskName::at(location)),
            Origin::Detached { name, id, .. } => (Some(id), TaskName::named(name)),
        };
        self.account.set_labels(route, Some(task));
        self.origin = Some(origin);
        self.span.set_current();
    }

    /// Ends for the task, which is gone. Returns what it belonged to.
    pub(super) fn reset(&mut self) -> Option<Origin> {
        self.account.reset();
        self.span.clear();
        for address in &mut self.watched {
            address.set_mut(0);
        }
        for count in [&mut self.polls, &mut self.seen, &mut self.unpolled] {
            count.set_mut(0);
        }
        for flag in [&mut self.released, &mut self.reported] {
            flag.set_mut(false);
        }
        self.closure.set_mut(WAITING);
        self.origin.take()
    }

    fn origin(&self) -> &Origin {
        match &self.origin {
            Some(origin) => origin,
            None => unreachable!("a recycled record has no task"),
        }
    }

    /// When the request that it belongs, or belonged, to has ended.
    fn ended(&self) -> Option<Instant> {
        match self.origin() {
            Origin::Request(owner) => owner.group().ended(),
            Origin::Detached { ended, .. } => ended.get().copied(),
        }
    }

    /// Cancels the request if a shutdown, or the request that has sent it, asks for that. Then its tasks are
    /// woken.
    pub(crate) fn follow_shutdown(&self) {
        if let Origin::Request(owner) = self.origin() {
            let _ = owner.is_cancelled();
        }
    }

    /// Whether the request is cancelled. If not, `waker` is woken then. `index` is the task's number in the
    /// request's group.
    pub(crate) fn watch(&self, index: usize, waker: &Waker) -> bool {
        let Origin::Request(owner) = self.origin() else {
            return false;
        };
        let mut is_listed = true;
        for (listed, address) in self.watched.iter().zip(waker_id(waker)) {
            is_listed &= listed.load(Ordering::Relaxed) == address;
            listed.store(address, Ordering::Relaxed);
        }
        if !is_listed {
            owner.group().watch(index, waker);
        }
        owner.is_cancelled()
    }

    /// The grace period of the request's tasks.
    pub(crate) fn grace(&self) -> Duration {
        match self.origin() {
            Origin::Request(owner) => owner.grace(),
            Origin::Detached { .. } => Duration::MAX,
        }
    }

    /// The task, for the flight recorder.
    #[cfg(feature = "trace")]
    pub(super) fn traced(&self) -> crate::trace::Origin {
        let own = self.account.labels();
        match self.origin() {
            Origin::Request(owner) => owner.traced().in_task(own),
            Origin::Detached { .. } => crate::trace::Origin::new(0, own),
        }
    }

    #[cfg(feature = "trace")]
    pub(super) const fn traced_kind(&self) -> crate::trace::Kind {
        use crate::trace::Kind;

        match self.kind {
            TaskKind::Blocking => Kind::Closure,
            TaskKind::Detached => Kind::Detached,
            TaskKind::Async | TaskKind::Tracked => Kind::Task,
        }
    }

    /// Counts the begin or the end of a poll.
    #[inline]
    pub(super) fn count_poll(&self) {
        // Relaxed: a task is in one poll at a time, and each happens after the one before.
        let polls = self.polls.load(Ordering::Relaxed).wrapping_add(1);
        // Release: a thread that sees the count sees what the polls did.
        self.polls.store(polls, Ordering::Release);
    }

    fn is_running(&self) -> bool {
        // Acquire: see `count_poll`.
        self.polls.load(Ordering::Acquire) % 2 == 1
    }

    /// Heap bytes the task has allocated; `None` if that is not known.
    pub(crate) fn bytes(&self) -> Option<u64> {
        self.account.usage().map(|usage| usage.bytes_allocated)
    }

    /// Returns whether a closure that has found its thread may run.
    pub(crate) fn begin_closure(&self) -> bool {
        self.leave_waiting(BEGUN)
    }

    fn leave_waiting(&self, to: u8) -> bool {
        // AcqRel, though no other memory depends on it: one of two threads changes the state.
        self.closure
            .compare_exchange(WAITING, to, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// Lets the scope close, once, as far as this task is concerned.
    fn release(&self) {
        if !self.note_release() {
            return;
        }
        if let Origin::Request(owner) = self.origin() {
            owner.release_task();
        }
    }

    /// Notes that the scope is released. Returns whether it was not before.
    pub(super) fn note_release(&self) -> bool {
        // AcqRel: of two threads the first releases the scope.
        !self.released.swap(true, Ordering::AcqRel)
    }

    /// As [`note_release`](Self::note_release), for a record that only its task refers to.
    pub(super) fn is_unreleased(&mut self) -> bool {
        // Relaxed: `&mut` excludes other threads.
        !self.released.load(Ordering::Relaxed)
    }

    /// Whether the request has ended.
    pub(super) fn outlives(&self) -> bool {
        self.ended().is_some()
    }

    pub(super) fn report(&self, now: Instant) -> TaskReport {
        let running = self.is_running();
        let (name, route) = match self.origin() {
            Origin::Request(owner) => (None, owner.route()),
            Origin::Detached { name, route, .. } => (Some(*name), route.clone()),
        };
        TaskReport {
            kind: self.kind,
            name,
            location: self.location,
            route,
            age: now.saturating_duration_since(self.started),
            since_end: self.ended().map(|at| now.saturating_duration_since(at)),
            // A closure is credited when it returns.
            usage: match self.kind {
                TaskKind::Blocking if running => None,
                _ => self.account.usage(),
            },
            running,
        }
    }

    /// Reports, once, that the task still ran when its grace period was over.
    pub(crate) fn overran(&self, running: bool, given_up: bool) {
        let Origin::Request(owner) = self.origin() else {
            return;
        };
        // AcqRel, though no other memory depends on it: of two threads the first reports.
        if self.reported.swap(true, Ordering::AcqRel) {
            return;
        }
        let mut report = self.report(Instant::now());
        // As it was judged: the task may have returned since.
        report.running = running;
        owner.task_overran(&report, given_up);
        owner.group().overran(report, given_up);
    }
}

impl Supervised for TaskRecord {
    fn is_released(&self) -> bool {
        // Acquire, as in `release`, which checks again. This only saves work.
        self.released.load(Ordering::Acquire)
    }

    fn overdue(&self) -> Option<Duration> {
        // Acquire: see `count_poll`. If it runs, its figures up to this poll are seen.
        let polls = self.polls.load(Ordering::Acquire);
        let running = polls % 2 == 1;
        let (overran, given_up) = match self.kind {
            TaskKind::Async | TaskKind::Tracked => {
                // Relaxed, as below: each look happens after the one before.
                let polled = self.seen.swap(polls, Ordering::Relaxed) != polls;
                let unpolled = match polled || running {
                    true => 0,
                    false => self.unpolled.load(Ordering::Relaxed) + 1,
                };
                self.unpolled.store(unpolled, Ordering::Relaxed);
                // In the same poll as last time. Otherwise the task drops itself when it is polled,
                // unless its runtime is not driven, or what should poll it has forgotten it.
                (!polled && running || unpolled >= UNPOLLED, true)
            }
            // The runtime keeps a withdrawn closure until a thread is free to drop it.
            TaskKind::Blocking => (running || self.leave_waiting(WITHDRAWN), running),
            TaskKind::Detached => return None,
        };
        if overran {
            self.overran(running, given_up);
            self.release();
        }
        if overran {
            None
        } else if running || self.kind == TaskKind::Blocking {
            Some(RECHECK)
        } else {
            Some(UNPOLLED_RECHECK)
        }
    }
}
