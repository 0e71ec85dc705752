use std::{
    task::{Wake, Waker},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    annotations::Annotations,
    layer::LayerState,
    lifecycle::{Lifecycle, Transition},
    report::{ArenaSource, ArenaUsage, Closed},
    shutdown::{Exempt, OpenRequest},
};
use crate::{
    account::{Account, Usage},
    arena::{Arena, Buffers},
    cancel::{CancelReason, CancelState, Outcome},
    deadline::{BodyKind, Limits},
    housekeeping::Key,
    route::{KnownMethod, Route, RouteKey, RouteLabel, UNMATCHED},
    slab::KeySlot,
    sync::{Arc, AtomicU64, AtomicUsize, OnceLock, Ordering},
    task::{TaskGroup, TaskOwner, TaskReport},
};

/// Bit of the route's number that is set when the scope has closed: the route is final.
const ROUTE_FIXED: usize = 1 << (usize::BITS - 1);

/// Not yet, for a time in nanoseconds.
const NEVER: u64 = u64::MAX;

/// Bits of the response head's word that hold the status. The others hold the time, which suffices for
/// 208 days.
const STATUS_BITS: u32 = 10;

/// The request is not spared by a shutdown.
const NOT_SPARED: usize = usize::MAX;

/// The state behind all handles of one scope, recycled when the last handle is dropped.
pub(crate) struct ScopeState {
    /// `None` only while the scope is recycled, without a handle.
    layer: Option<Arc<LayerState>>,
    /// The scope of the request that has sent this one.
    pub(super) parent: Option<Arc<Self>>,
    /// The path of the parent, if the request was made of the parent's extensions.
    pub(super) parent_path: Option<String>,
    /// Whether a layer has opened the scope, or else a policy.
    pub(super) by_layer: bool,
    pub(super) account: Account,
    pub(super) arena: OnceLock<Arena>,
    pub(super) lifecycle: Lifecycle,
    pub(super) limits: Limits,
    route: AtomicUsize,
    pub(super) cancel: CancelState,
    method: KnownMethod,
    pub(super) annotations: Annotations,
    /// Nanoseconds from the start to the response head, and its status; or [`NEVER`].
    head: AtomicU64,
    /// Nanoseconds from the start to the end, or [`NEVER`] if the scope closed as it ended.
    end: AtomicU64,
    /// The token in the layer's list.
    pub(super) token: KeySlot,
    /// The place in the list of what a shutdown does not wait for, if the request came during the shutdown
    /// and is served nevertheless. Then the shutdown does not cancel it.
    spared: AtomicUsize,
    /// The scheduled end of a scope whose holds are not taken up.
    untaken: OnceLock<Key>,
    /// Made when the first task is started.
    tasks: OnceLock<Arc<TaskGroup>>,
}

impl ScopeState {
    pub(super) fn new() -> Self {
        Self {
            layer: None,
            parent: None,
            parent_path: None,
            by_layer: true,
            account: Account::new(),
            arena: OnceLock::new(),
            lifecycle: Lifecycle::new(),
            limits: Limits::none(),
            route: AtomicUsize::new(UNMATCHED),
            cancel: CancelState::new(),
            method: KnownMethod::Other,
            annotations: Annotations::new(),
            head: AtomicU64::new(NEVER),
            end: AtomicU64::new(NEVER),
            token: KeySlot::empty(),
            spared: AtomicUsize::new(NOT_SPARED),
            untaken: OnceLock::new(),
            tasks: OnceLock::new(),
        }
    }

    /// Makes this the scope of a new request.
    pub(super) fn open(
        &mut self,
        layer: Arc<LayerState>,
        key: RouteKey,
        start: Instant,
        parent: Option<&Arc<Self>>,
    ) {
        layer.sink.opened(key);
        self.layer = Some(layer);
        self.method = key.method;
        // Relaxed: `&mut` excludes other threads.
        self.route.store(key.route, Ordering::Relaxed);
        self.limits.start = start;
        if let Some(parent) = parent {
            self.limits.bound(&parent.limits);
            self.parent = Some(Arc::clone(parent));
        }
    }

    /// Whether there is a response head.
    pub(super) fn has_head(&self) -> bool {
        self.head.load(Ordering::Relaxed) != NEVER
    }

    /// Releases everything the request held, so that the scope can be recycled.
    pub(super) fn release(&mut self) {
        let Some(layer) = self.layer.take() else {
            return;
        };
        if let Some(key) = self.token.take() {
            drop(layer.tokens.remove(key));
        }
        self.account.reset();
        if let Some(arena) = self.arena.take() {
            arena.leave();
        }
        self.lifecycle.reset();
        self.limits.clear();
        self.cancel.reset();
        self.head.store(NEVER, Ordering::Relaxed);
        self.end.store(NEVER, Ordering::Relaxed);
        self.spared.store(NOT_SPARED, Ordering::Relaxed);
        self.untaken.take();
        self.tasks.take();
        drop(self.annotations.take());
        self.by_layer = true;
        self.parent_path.take();
        self.parent.take();
    }

    /// The state shared by the layer's scopes.
    #[inline]
    pub(super) fn layer(&self) -> &Arc<LayerState> {
        match &self.layer {
            Some(layer) => layer,
            None => unreachable!("a recycled scope has no handle"),
        }
    }

    /// The number of the route.
    fn route_number(&self) -> usize {
        // Relaxed: the registry orders what the number refers to.
        self.route.load(Ordering::Relaxed) & !ROUTE_FIXED
    }

    pub(super) fn route(&self) -> &Route {
        self.layer().routes.route(self.route_number())
    }

    /// Sets the route, unless the scope has closed.
    pub(super) fn set_route(&self, label: &str) {
        let layer = self.layer();
        let mut now = self.route.load(Ordering::Relaxed);
        if now & ROUTE_FIXED != 0 || layer.routes.is(now, label) {
            return;
        }
        let number = layer.routes.number(label);
        // Compare and swap, so that of two concurrent changes each reports its own, and none comes after
        // the close.
        while now & ROUTE_FIXED == 0 && now != number {
            match self
                .route
                .compare_exchange(now, number, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => {
                    let method = self.method;
                    layer
                        .sink
                        .relabelled(RouteKey { route: now, method }, number);
                    return;
                }
                Err(changed) => now = changed,
            }
        }
    }

    /// Takes an arena of the size that requests of this route and method need.
    pub(super) fn rent_arena(&self) -> Arena {
        let layer = self.layer();
        let (method, sizes) = (self.method.index(), &self.route().sizes);
        let whom = sizes.rented_for(method, || layer.pool.new_origin());
        let arena = layer.pool.rent_for(whom, sizes.arena_bytes(method));
        self.account.lend(lent_bytes(&arena));
        arena
    }

    pub(super) fn arena_usage(&self) -> ArenaUsage {
        self.arena.get().map_or(
            ArenaUsage {
                source: ArenaSource::Unused,
                bytes: 0,
                capacity: 0,
            },
            |arena| ArenaUsage {
                source: if arena.is_reused() {
                    ArenaSource::Pool
                } else {
                    ArenaSource::Fresh
                },
                bytes: arena.high_water() + arena.buffers().map_or(0, Buffers::peak),
                capacity: arena.capacity(),
            },
        )
    }

    /// What the tasks share. The first task makes it.
    pub(super) fn group(&self) -> &Arc<TaskGroup> {
        self.tasks.get_or_init(|| {
            let layer = self.layer();
            Arc::new(TaskGroup::new(
                self.limits.start,
                layer.grace,
                layer.housekeeping.clone(),
            ))
        })
    }

    /// Why the request was cancelled, if it was.
    #[inline]
    pub(super) fn reason(&self) -> Option<CancelReason> {
        if let Some(reason) = self.cancel.reason() {
            return Some(reason);
        }
        self.cancel_from_outside();
        self.cancel.reason()
    }

    /// Cancels for `reason`, unless there is one. A shutdown that has begun comes first, and then the
    /// reason of the parent.
    pub(super) fn cancel(&self, reason: CancelReason) {
        self.cancel_from_outside();
        self.set_reason(reason, None);
    }

    /// Cancels if a shutdown has begun, or the parent is cancelled.
    #[inline]
    fn cancel_from_outside(&self) {
        if let Some(began) = self.layer().shutdown.began().filter(|_| !self.is_spared()) {
            self.set_reason(CancelReason::new(Outcome::Shutdown), Some(began));
        }
        if let Some(reason) = self.parent.as_ref().and_then(|parent| parent.reason()) {
            self.set_reason(reason.inherited(), None);
        }
    }

    /// Sets the reason if there is none, as of `at` or now.
    #[inline]
    fn set_reason(&self, reason: CancelReason, at: Option<Instant>) {
        // Before the tasks are woken, so that none ends before its request was cancelled.
        let at = at.or_else(|| self.tasks.get().map(|_| Instant::now()));
        if self.cancel.cancel(reason) {
            if let Some(group) = self.tasks.get() {
                group.request_cancelled(at.unwrap_or_else(Instant::now));
            }
        }
    }

    /// Serves a request that came during a shutdown, which neither cancels it nor waits for it.
    pub(super) fn spare(self: &Arc<Self>) {
        let exempt = Exempt::Request(Arc::clone(self) as _);
        let place = self.layer().shutdown.exempt(exempt);
        // Relaxed: the request is not shared yet.
        self.spared.store(place, Ordering::Relaxed);
    }

    /// Whether a shutdown does not cancel the request.
    pub(super) fn is_spared(&self) -> bool {
        self.spared.load(Ordering::Relaxed) != NOT_SPARED
    }

    /// Records the response head. From here on the deadline is the body's.
    pub(super) fn head(&self, status: u16, body: BodyKind) {
        let elapsed = self.limits.age();
        self.limits.start_body(elapsed, body);
        // A status has three digits, so the word is never `NEVER`.
        let head = nanos(elapsed).min(NEVER >> STATUS_BITS) << STATUS_BITS | u64::from(status);
        // Relaxed: read in `close`, which the lifecycle's word orders after this.
        self.head.store(head, Ordering::Relaxed);
        self.account.body_began();
    }

    /// The owner of the open scope is gone, for `reason`.
    pub(super) fn response_over(self: &Arc<Self>, reason: CancelReason) {
        let transition = if reason == Outcome::Completed {
            self.lifecycle.response_done()
        } else {
            self.lifecycle.end()
        };
        if transition == Transition::Nothing {
            self.await_upgrade();
        }
        self.advance(transition, reason);
    }

    /// Schedules the end of a scope whose holds may never be taken up.
    #[cold]
    fn await_upgrade(self: &Arc<Self>) {
        let layer = self.layer();
        let now = layer.housekeeping.now();
        let Some(at) = now.checked_add(layer.hold_timeout) else {
            return;
        };
        if !self.lifecycle.is_untaken() {
            return;
        }
        let end = Waker::from(Arc::new(EndUntaken(Arc::clone(self))));
        let key = layer.housekeeping.schedule(now, at, &end);
        self.untaken.get_or_init(|| key);
        // It may have been taken up, or released, meanwhile.
        if !self.lifecycle.is_untaken() {
            self.cancel_untaken();
        }
    }

    /// Cancels the scheduled end of a scope that is held: a hold was taken up, or all have been released.
    pub(super) fn cancel_untaken(&self) {
        if let Some(key) = self.untaken.get() {
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
                    self.close();
                }
            }
            Transition::EndAndClose => {
                self.cancel(reason);
                self.record_end();
                self.close();
            }
            Transition::Close => self.close(),
        }
    }

    /// Records the end for the tasks, if there are any, and has them supervised.
    #[inline]
    pub(super) fn record_end(&self) {
        let Some(group) = self.tasks.get() else {
            return;
        };
        group.request_ended(Instant::now());
    }

    fn close(&self) {
        let layer = self.layer();
        let Some(reason) = self.cancel.reason() else {
            unreachable!("a scope closes after it was cancelled");
        };
        // Relaxed: all threads agree on the order of one word's changes, so none comes after this one.
        let route = self.route.fetch_or(ROUTE_FIXED, Ordering::Relaxed);
        let entry = layer.routes.route(route);
        let head = Some(self.head.load(Ordering::Relaxed)).filter(|head| *head != NEVER);
        let end = Some(self.end.load(Ordering::Relaxed)).filter(|end| *end != NEVER);
        let total_time = self.limits.age();
        if let Some(arena) = self.arena.get() {
            let buffer = arena.buffers().map_or(0, Buffers::largest);
            // The last digits of a duration serve as a random number that costs nothing.
            let random = total_time.as_nanos() as u64;
            let method = self.method.index();
            entry
                .sizes
                .record(method, arena.high_water(), buffer, random);
        }
        layer.sink.closed(&Closed {
            key: RouteKey {
                route,
                method: self.method,
            },
            label: &entry.label,
            status: head.map(|head| head as u16 & ((1 << STATUS_BITS) - 1)),
            reason,
            usage: self.account.usage(),
            arena: self.arena_usage(),
            time_to_head: head.map(|head| Duration::from_nanos(head >> STATUS_BITS)),
            time_to_end: end.map_or(total_time, Duration::from_nanos),
            total_time,
            tasks: self.tasks.get().map(|tasks| &**tasks),
            annotations: &self.annotations,
        });
        self.cancel_untaken();
        // Only when the request no longer counts as open: see invariant 3 of `Shutdown`.
        let spared = self.spared.load(Ordering::Relaxed);
        if spared != NOT_SPARED {
            drop(layer.shutdown.remove_exempt(spared));
        }
        layer.shutdown.changed();
    }
}

/// Nanoseconds below [`NEVER`].
fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).map_or(NEVER - 1, |nanos| nanos.min(NEVER - 1))
}

/// Ends a scope if none of its holds was taken up.
struct EndUntaken(Arc<ScopeState>);

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

    fn key(&self) -> RouteKey {
        RouteKey {
            route: self.route_number(),
            method: self.method,
        }
    }
}

/// What the pool lends with an arena: memory that no allocation of this request has counted. Chunks
/// that the request makes are in its account, as other blocks are.
fn lent_bytes(arena: &Arena) -> usize {
    if arena.is_reused() {
        arena.capacity()
    } else {
        0
    }
}

impl TaskOwner for ScopeState {
    fn route(&self) -> RouteLabel {
        self.route().label.clone()
    }

    fn release_task(&self) {
        let ended = self.lifecycle.task_ended();
        self.advance(ended, CancelReason::new(Outcome::Completed));
    }

    fn task_overran(&self, report: &TaskReport, given_up: bool) {
        self.layer().sink.overran(report, given_up);
    }
}

impl Drop for ScopeState {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(all(test, tower_memory_loom))]
mod loom_models {
    use loom::{sync::Arc, thread};

    use super::*;
    use crate::housekeeping::Housekeeping;

    /// The parts of a scope that take part.
    struct Parts {
        lifecycle: Lifecycle,
        cancel: CancelState,
        group: OnceLock<crate::sync::Arc<TaskGroup>>,
        start: Instant,
    }

    impl Parts {
        /// As `TaskGuard::new` does.
        fn start_task(&self) -> &crate::sync::Arc<TaskGroup> {
            let start = self.start;
            let group = self.group.get_or_init(|| {
                crate::sync::Arc::new(TaskGroup::new(start, Duration::ZERO, Housekeeping::Process))
            });
            if self.cancel.is_cancelled_now() {
                group.request_cancelled(self.start);
            }
            group.task_started();
            if self.lifecycle.task_started() {
                group.request_ended(self.start);
            }
            group
        }

        /// As `ScopeState::advance` does.
        fn end(&self) {
            let _ = self.lifecycle.end();
            self.cancel.cancel(CancelReason::new(Outcome::Abandoned));
            if let Some(group) = self.group.get() {
                group.request_cancelled(self.start);
            }
            if let Some(group) = self.group.get() {
                group.request_ended(self.start);
            }
        }
    }

    /// Invariant 1 of `TaskGroup`.
    #[test]
    fn a_group_made_while_the_request_ends_is_told() {
        loom::model(|| {
            let start = Instant::now();
            let parts = Arc::new(Parts {
                lifecycle: Lifecycle::new(),
                cancel: CancelState::new(),
                group: OnceLock::new(),
                start,
            });
            let ending = thread::spawn({
                let parts = Arc::clone(&parts);
                move || parts.end()
            });
            let group = parts.start_task();
            ending.join().expect("no panic");
            assert!(group.is_told());
        });
    }
}
