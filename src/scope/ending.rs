//! How a scope ends and closes.

use std::{
    task::{Wake, Waker},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    lifecycle::Transition,
    live::LiveRequest,
    recycle,
    report::Closed,
    shutdown::OpenRequest,
    state::{NEVER, STATUS_BITS, ScopeState, nanos, status_of},
};
use crate::{
    account::{Totals, Usage},
    arena::Buffers,
    cancel::{CancelReason, Outcome},
    counted::Counted,
    journal::ClosedEntry,
    route::{RouteKey, RouteLabel},
    sync::{Arc, Ordering},
    task::{TaskFigures, TaskGroup, TaskOwner, TaskReport},
};

impl ScopeState {
    /// The owner of the open scope is gone, for `reason`, and passes its reference.
    #[inline(never)]
    pub(super) fn response_over(mut this: Counted<Self>, reason: CancelReason) {
        Self::unlist_last(&this);
        if let Some(state) = this.get_mut() {
            if state.is_plain(reason) {
                let route = state.route.number();
                let tasks = state.task_figures(true);
                if state.listed_waits.load(Ordering::Relaxed) {
                    state.finish_waits();
                }
                let heap = state.account.totals();
                state.close(reason, route, heap, tasks, true);
                state.release_plain();
                recycle::put(this);
                return;
            }
        }
        Self::response_over_shared(&this, reason);
        recycle::drop_handle(this);
    }

    /// Whether the scope ends for `reason` and closes as it is: it was not cancelled, and nothing but tokens waits
    /// for its end.
    #[inline]
    pub(super) fn is_plain(&self, reason: CancelReason) -> bool {
        self.lifecycle.is_quiet()
            && self.cancel.is_new()
            && self.rare.get().is_none()
            && (!self.layer().shutdown.has_begun() || self.is_refused(reason))
    }

    /// Whether a shutdown that has begun is the reason anyway.
    #[cold]
    fn is_refused(&self, reason: CancelReason) -> bool {
        let refused = reason == Outcome::Shutdown && !self.uses_group();
        #[cfg(feature = "trace")]
        if refused {
            self.trace_cancelled(reason);
        }
        refused
    }

    #[inline(never)]
    fn response_over_shared(this: &Counted<Self>, reason: CancelReason) {
        let (transition, reason) = if reason == Outcome::Completed {
            (this.lifecycle.response_done(), reason)
        } else if reason == Outcome::Abandoned {
            (this.lifecycle.end(), this.cancel.dropped())
        } else {
            (this.lifecycle.end(), reason)
        };
        if transition == Transition::Nothing {
            Self::await_upgrade(this);
        }
        this.advance(transition, reason);
    }

    /// Schedules the end of a scope whose holds may never be taken up.
    #[cold]
    fn await_upgrade(this: &Counted<Self>) {
        let layer = this.layer();
        let now = layer.housekeeping.now();
        let Some(at) = now.checked_add(layer.hold_timeout) else {
            return;
        };
        if !this.lifecycle.is_untaken() {
            return;
        }
        let end = Waker::from(Arc::new(EndUntaken(this.clone())));
        let key = layer.housekeeping.schedule(now, at, &end);
        this.rare().untaken.get_or_init(|| key);
        // It may have been taken up, or released, meanwhile.
        if !this.lifecycle.is_untaken() {
            this.cancel_untaken();
        }
    }

    /// Cancels the scheduled end of a scope that is held: a hold was taken up, or all have been released.
    pub(super) fn cancel_untaken(&self) {
        let rare = self.rare.get();
        if let Some(key) = rare.and_then(|rare| rare.untaken.get()) {
            self.layer().housekeeping.cancel(*key);
        }
    }

    /// Does what a transition of the lifecycle asks for.
    pub(super) fn advance(&self, transition: Transition, reason: CancelReason) {
        match transition {
            Transition::Nothing => {}
            Transition::End => {
                self.cancel(reason);
                // Relaxed: read in `close`, which the lifecycle's word orders after this.
                self.end.store(nanos(self.limits.age()), Ordering::Relaxed);
                self.record_end();
                if self.lifecycle.task_ended() == Transition::Close {
                    self.close_ended();
                }
            }
            Transition::EndAndClose => {
                self.cancel(reason);
                self.record_end();
                self.close_ended();
            }
            Transition::Close => self.close_ended(),
        }
    }

    /// Records the end for the tasks, if there are any, and has them supervised.
    #[inline]
    pub(super) fn record_end(&self) {
        let rare = self.rare.get();
        let detached = rare.and_then(|rare| rare.detached_from.get());
        let group = self.noted_group();
        if detached.is_none() && group.is_none() {
            return;
        }
        let now = Instant::now();
        if let Some(ended) = detached {
            ended.get_or_init(|| now);
        }
        if let Some(group) = group {
            TaskGroup::request_ended(group, now, || self.terms());
        }
    }

    fn close_ended(&self) {
        let Some(reason) = self.cancel.reason() else {
            unreachable!("a scope closes after it was cancelled");
        };
        self.unlist();
        let tasks = self.task_figures(false);
        let heap = self.account.usage().map(Totals::from);
        self.close(reason, self.route.fix(), heap, tasks, false);
    }

    /// Records the figures. The route does not change any more. `is_alone` says that there is no other handle.
    #[inline]
    fn close(
        &self,
        reason: CancelReason,
        route: usize,
        heap: Option<Totals>,
        tasks: Option<TaskFigures>,
        is_alone: bool,
    ) {
        let layer = self.layer();
        let head = Some(self.head.load(Ordering::Relaxed)).filter(|head| *head != NEVER);
        let end = Some(self.end.load(Ordering::Relaxed)).filter(|end| *end != NEVER);
        let total_time = nanos(self.limits.age());
        if let Some(arena) = self.arena.get() {
            let buffer = arena.buffers().map_or(0, Buffers::largest);
            // The last digits of a duration serve as a random number that costs nothing.
            let method = self.method.index();
            let sizes = &layer.routes.route(route).sizes;
            sizes.record(method, arena.high_water(), buffer, total_time);
        }
        let key = RouteKey {
            route,
            method: self.method,
        };
        layer.leftovers.add(key, &self.account);
        if let Some(limit) = &layer.limit {
            let lost = match reason.outcome() {
                Outcome::Panicked => bug!("reservation-lost-on-panic"),
                Outcome::Abandoned => bug!("reservation-lost-on-client-gone"),
                _ => false,
            };
            if !lost {
                self.claim_closed(limit, key, heap.as_ref(), is_alone, total_time);
            }
        }
        #[cfg(feature = "trace")]
        self.trace_closed(heap.as_ref());
        let arena = self.arena_usage();
        let closed = ClosedEntry {
            key,
            status: head.map(status_of),
            outcome: reason.outcome(),
            heap,
            arena_source: arena.source.index(),
            arena_bytes: arena.bytes,
            time_to_head: head.map(|head| head >> STATUS_BITS),
            time_to_end: end.unwrap_or(total_time),
            total_time,
        };
        let words = closed.words();
        layer.record(move |journal| journal.closed(words));
        if let Some(latency) = tasks.as_ref().and_then(|tasks| tasks.cancel_latency) {
            self.tasks_closed(key, latency);
        }
        let rare = self.rare.get();
        // Relaxed: what it is set for has happened before, or is a figure.
        if layer.reports_closed.load(Ordering::Relaxed) || rare.is_some() {
            self.report(reason, &closed, tasks);
        }
        if rare.is_some() {
            self.cancel_untaken();
            // Only when the request no longer counts as open: see invariant 3 of `Shutdown`.
            if let Some(place) = self.spared_place() {
                drop(layer.shutdown.remove_exempt(place));
            }
        }
        layer.shutdown.changed();
    }

    /// Records how long the tasks have taken to end.
    #[inline(never)]
    fn tasks_closed(&self, key: RouteKey, latency: Duration) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.layer().record(|journal| journal.latency(key, nanos));
    }

    /// Makes the report, if anything wants it.
    #[inline(never)]
    fn report(&self, reason: CancelReason, entry: &ClosedEntry, tasks: Option<TaskFigures>) {
        let layer = self.layer();
        let usage = self.account.usage();
        let rare = self.rare.get();
        let closed = Closed {
            key: entry.key,
            label: &layer.routes.route(entry.key.route).label,
            id: self.id.load(Ordering::Relaxed),
            start: self.limits.start,
            span: &self.span,
            status: entry.status,
            reason,
            usage: usage.as_ref(),
            arena: self.arena_usage(),
            time_to_head: entry.time_to_head,
            time_to_end: entry.time_to_end,
            total_time: entry.total_time,
            tasks,
            annotations: rare.map(|rare| &rare.annotations),
        };
        if layer.reports_closed.load(Ordering::Relaxed) && !layer.sink.closed(&closed) {
            layer.reports_closed.store(false, Ordering::Relaxed);
        }
        if let Some(capture) = rare.and_then(|rare| rare.capture.as_ref()) {
            capture.closed(&closed);
        }
    }
}

/// Ends a scope if none of its holds was taken up.
struct EndUntaken(Counted<ScopeState>);

impl Wake for EndUntaken {
    fn wake(self: Arc<Self>) {
        let transition = self.0.lifecycle.end_untaken();
        let reason = CancelReason::new(Outcome::NotUpgraded);
        self.0.advance(transition, reason);
    }
}

impl OpenRequest for ScopeState {
    fn cut_off(&self, held: bool) -> bool {
        let transition = if held {
            self.lifecycle.end_held()
        } else {
            self.lifecycle.end()
        };
        self.advance(transition, CancelReason::new(Outcome::Shutdown));
        transition != Transition::Nothing
    }

    fn is_open(&self) -> bool {
        !self.lifecycle.is_closed()
    }

    fn usage(&self) -> Option<Usage> {
        self.account.usage()
    }

    fn live(&self, now: Instant) -> LiveRequest {
        self.describe(now)
    }

    fn key(&self) -> RouteKey {
        RouteKey {
            route: self.route.number(),
            method: self.method,
        }
    }
}

impl TaskOwner for ScopeState {
    fn route(&self) -> RouteLabel {
        self.route().label.clone()
    }

    #[cfg(feature = "trace")]
    fn traced(&self) -> crate::trace::Origin {
        self.traced()
    }

    fn group(&self) -> &TaskGroup {
        self.group()
    }

    fn is_cancelled(&self) -> bool {
        self.reason().is_some()
    }

    fn grace(&self) -> Duration {
        // A task that holds too much would only take more.
        if self
            .cancel
            .reason()
            .is_some_and(|reason| reason == Outcome::MemoryExceeded)
        {
            return Duration::ZERO;
        }
        self.layer().grace
    }

    fn release_task(&self) {
        let ended = self.lifecycle.task_ended();
        self.advance(ended, CancelReason::new(Outcome::Completed));
    }

    fn task_overran(&self, report: &TaskReport, given_up: bool) {
        self.layer().sink.overran(report, given_up);
    }
}

#[cfg(all(test, tower_memory_loom))]
mod loom_models {
    use loom::{sync::Arc, thread};

    use super::*;
    use crate::{
        cancel::CancelState,
        housekeeping::test_waker::woken,
        scope::lifecycle::Lifecycle,
        sync::{AtomicBool, AtomicU32, Mutex, OnceLock, lock},
        task::{
            Group, User,
            models::{Task, USER, terms},
        },
    };

    type Tasks = Group<Task>;

    /// The parts of a scope that take part.
    struct Parts {
        lifecycle: Lifecycle,
        cancel: CancelState,
        group: OnceLock<Counted<Tasks>>,
        spawned: AtomicU32,
        start: Instant,
    }

    impl Parts {
        /// As `ScopeState::group` does.
        fn group(&self) -> &Counted<Tasks> {
            self.noted_group().unwrap_or_else(|| {
                let group = self.group.get_or_init(Tasks::new_unlisted);
                self.cancel.note_group();
                group
            })
        }

        /// As `ScopeState::noted_group` does.
        fn noted_group(&self) -> Option<&Counted<Tasks>> {
            if self.cancel.has_group() {
                self.group.get()
            } else {
                None
            }
        }

        /// As `TaskGuard::new` does.
        fn start_task(&self) -> (&Counted<Tasks>, usize) {
            let group = self.group();
            let ended = self.lifecycle.task_started();
            let index = Tasks::add(group, Counted::new(Task), &self.spawned, USER, terms);
            if self.cancel.reason().is_some() {
                group.request_cancelled(self.start);
            }
            if ended {
                Tasks::request_ended(group, self.start, terms);
            }
            (group, index)
        }

        /// As `ScopeState::set_reason` does.
        fn cancel(&self, outcome: Outcome) {
            if self.cancel.cancel(CancelReason::new(outcome)) {
                if let Some(group) = self.noted_group() {
                    group.cancel(Some(self.start));
                }
            }
        }

        /// As `ScopeState::advance` does.
        fn end(&self) {
            let _ = self.lifecycle.end();
            self.cancel(Outcome::Abandoned);
            if let Some(group) = self.noted_group() {
                Tasks::request_ended(group, self.start, terms);
            }
        }

        fn new() -> Arc<Self> {
            Arc::new(Self {
                lifecycle: Lifecycle::new(),
                cancel: CancelState::new(),
                group: OnceLock::new(),
                spawned: AtomicU32::new(0),
                start: Instant::now(),
            })
        }
    }

    /// A task is started while a request ends that `before` is about.
    fn the_group_is_told(before: fn(&Parts)) {
        loom::model(move || {
            let parts = Parts::new();
            before(&parts);
            let ending = thread::spawn({
                let parts = Arc::clone(&parts);
                move || parts.end()
            });
            let (group, _) = parts.start_task();
            ending.join().expect("no panic");
            assert!(group.is_told());
        });
    }

    /// Invariants 1 and 3 of `TaskGroup`, for a group that the task makes, and one that the scope has kept.
    #[test]
    fn a_group_made_while_the_request_ends_is_told() {
        the_group_is_told(|_| {});
        the_group_is_told(|parts| {
            parts.group();
        });
    }

    /// The same for a request that was cancelled before it ends, and had no group then.
    #[test]
    fn a_task_started_while_a_cancelled_request_ends_is_told() {
        the_group_is_told(|parts| parts.cancel(Outcome::Cancelled));
    }

    /// Invariants 1 and 3 of `TaskGroup`.
    #[test]
    fn a_task_that_waits_while_the_request_is_cancelled_is_woken_or_sees_it() {
        loom::model(|| {
            let parts = Parts::new();
            let cancelling = thread::spawn({
                let parts = Arc::clone(&parts);
                move || parts.cancel(Outcome::Cancelled)
            });
            let (group, index) = parts.start_task();
            let (woken, waker) = woken();
            group.watch(index, &waker);
            let seen = parts.cancel.reason().is_some();
            cancelling.join().expect("no panic");
            assert!(woken.is_woken() || seen);
        });
    }

    /// Waits as `UntilCancelled` does. Returns whether it sees the reason, or is woken.
    fn wait(parts: &Parts) -> impl FnOnce() -> bool {
        let (woken, waker) = woken();
        parts.group().wait(&waker, USER);
        let seen = parts.cancel.reason().is_some();
        move || seen || woken.is_woken()
    }

    /// Invariants 1 and 3 of `TaskGroup`, for what is no task and makes the group.
    #[test]
    fn what_begins_to_wait_while_the_request_is_cancelled_is_woken_or_sees_it() {
        loom::model(|| {
            let parts = Parts::new();
            let cancelling = thread::spawn({
                let parts = Arc::clone(&parts);
                move || parts.cancel(Outcome::Cancelled)
            });
            let is_told = wait(&parts);
            cancelling.join().expect("no panic");
            assert!(is_told());
        });
    }

    /// The same, for a group that another thread makes meanwhile.
    #[test]
    fn of_two_that_begin_to_wait_while_the_request_is_cancelled_each_is_woken_or_sees_it() {
        loom::model(|| {
            let parts = Parts::new();
            let run = |f: fn(&Parts)| {
                let parts = Arc::clone(&parts);
                thread::spawn(move || f(&parts))
            };
            let cancelling = run(|parts| parts.cancel(Outcome::Cancelled));
            let making = run(|parts| drop(wait(parts)));
            let is_told = wait(&parts);
            for thread in [cancelling, making] {
                thread.join().expect("no panic");
            }
            assert!(is_told());
        });
    }

    /// Invariant 5 of `TaskGroup`: the list has the group, or gets it meanwhile.
    #[test]
    fn what_begins_to_wait_while_a_shutdown_begins_is_woken_or_sees_it() {
        struct Layer {
            began: AtomicBool,
            groups: Mutex<Vec<Counted<Tasks>>>,
        }

        impl Layer {
            /// Returns whether the shutdown was seen. If so, the request is cancelled.
            fn wait(&self, group: &Counted<Tasks>, waker: &Waker) -> bool {
                group.wait(waker, USER);
                self.began.load(Ordering::SeqCst)
            }

            fn shut_down(&self) {
                self.began.store(true, Ordering::SeqCst);
                let groups: Vec<_> = lock(&self.groups).iter().map(Counted::clone).collect();
                for group in groups {
                    group.follow_shutdown(USER.layer);
                }
            }
        }

        for is_listed in [true, false] {
            loom::model(move || {
                let group = Tasks::new_unlisted();
                let layer = Arc::new(Layer {
                    began: AtomicBool::new(false),
                    groups: Mutex::new(Vec::new()),
                });
                if is_listed {
                    lock(&layer.groups).push(group.clone());
                }
                let stopping = thread::spawn({
                    let layer = Arc::clone(&layer);
                    move || layer.shut_down()
                });
                if !is_listed {
                    lock(&layer.groups).push(group.clone());
                }
                let (woken, waker) = woken();
                let seen = layer.wait(&group, &waker);
                stopping.join().expect("no panic");
                assert!(seen || woken.is_woken());
            });
        }
    }

    /// Invariant 6 of `TaskGroup`: a group that a shutdown is about to wake is used by a request of another layer.
    #[test]
    fn a_shutdown_does_not_cancel_the_token_of_a_later_request() {
        loom::model(|| {
            let group = Tasks::new_unlisted();
            let listed = group.clone();
            // Of a task, which has ended, nothing but the layer is left.
            let spawned = AtomicU32::new(0);
            let index = Tasks::add(&group, Counted::new(Task), &spawned, USER, terms);
            group.remove(index, None);
            let stopping = thread::spawn(move || {
                if let Some(found) = Tasks::following_shutdown(&listed, USER.layer) {
                    found.follow_shutdown(USER.layer);
                }
                listed
            });
            let token = group.token(User { layer: 2, ..USER });
            drop(stopping.join().expect("no panic"));
            assert!(!token.is_cancelled());
        });
    }

    /// Invariant 4 of `TaskGroup`.
    #[test]
    fn a_dependent_added_while_the_parent_is_cancelled_is_woken_or_sees_it() {
        loom::model(|| {
            let parent = Parts::new();
            let cancelling = thread::spawn({
                let parent = Arc::clone(&parent);
                move || parent.cancel(Outcome::Cancelled)
            });
            // As `ScopeState::depend` does for the group, and `UntilCancelled` for what waits in it.
            let own = Tasks::new_unlisted();
            let group = parent.group();
            let place = group.add_dependent(&own, USER);
            let (woken, waker) = woken();
            own.wait(&waker, USER);
            let seen = parent.cancel.reason().is_some();
            cancelling.join().expect("no panic");
            assert!(woken.is_woken() || seen);
            group.remove_dependent(place, &own);
        });
    }
}
