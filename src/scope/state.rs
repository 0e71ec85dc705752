use std::{task::Waker, time::Duration};

use tokio::time::Instant;

use super::{
    annotations::Annotations,
    capture::Capture,
    label::{LabelSource, Moved, RouteWord},
    layer::LayerState,
    lifecycle::Lifecycle,
    report::{ArenaSource, ArenaUsage},
    shutdown::Exempt,
};
use crate::{
    account::Account,
    arena::{Arena, Buffers},
    cancel::{CancelReason, CancelState, Outcome},
    counted::Counted,
    deadline::{BodyKind, Limits},
    housekeeping::Key,
    limit::Claim,
    route::{KnownMethod, Route, RouteKey},
    sharded::Shard,
    slab::KeySlot,
    sync::{Arc, AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Mutex, OnceLock, Ordering, SetMut},
    task::{TaskGroup, TaskSpan},
};

/// Not yet, for a time in nanoseconds.
pub(super) const NEVER: u64 = u64::MAX;

/// Bits of the response head's word that hold the status. The others hold the time, which suffices for
/// 208 days.
pub(super) const STATUS_BITS: u32 = 10;

/// How many requests may be open in a row, each sent by the one before, that end one another. Each refers to the
/// one before, also after that one's end, and is asked for its reason by the next.
const MAX_DEPTH: u8 = 64;

// `docs/guide/placing.md` states it.
const _: () = assert!(MAX_DEPTH == 64);

/// The request is not spared by a shutdown.
const NOT_SPARED: usize = usize::MAX;

/// The state behind all handles of one scope, recycled when the last handle is dropped.
pub(crate) struct ScopeState {
    /// `None` only while the scope is recycled, without a handle.
    layer: Option<Arc<Shard<LayerState>>>,
    pub(super) account: Account,
    pub(super) arena: OnceLock<Arena>,
    pub(super) lifecycle: Lifecycle,
    pub(super) limits: Limits,
    pub(super) route: RouteWord,
    pub(super) cancel: CancelState,
    pub(super) method: KnownMethod,
    /// Nanoseconds from the start to the response head, and its status; or [`NEVER`].
    pub(super) head: AtomicU64,
    /// Nanoseconds from the start to the end, or [`NEVER`] if the scope closed as it ended.
    pub(super) end: AtomicU64,
    /// What the request has of the process's limit.
    pub(super) claim: Claim,
    /// The number of the request, or zero while it has none.
    pub(super) id: AtomicU64,
    /// The span that the layer was called in, if it records in spans.
    pub(super) span: TaskSpan,
    /// The place in the list of open requests, if the layer keeps one.
    pub(super) listed: KeySlot,
    /// Made when the first task is started, and kept for later requests.
    pub(super) tasks: OnceLock<Counted<TaskGroup>>,
    /// The number of tasks that were started. Written under the lock of their group.
    pub(super) spawned: AtomicU32,
    /// Whether the request may have listed in its group what is no task.
    pub(super) listed_waits: AtomicBool,
    /// Made when one of its parts is set.
    pub(super) rare: OnceLock<Box<Rare>>,
}

/// What most requests do not have, behind one pointer.
pub(super) struct Rare {
    /// The scope of the request that has sent this one, if that is not [too deep](MAX_DEPTH).
    pub(super) parent: Option<Counted<ScopeState>>,
    /// The number of requests before this one, as far as they refer to one another.
    depth: u8,
    /// The path of the parent, if the request was made of the parent's extensions.
    pub(super) parent_path: Option<String>,
    pub(super) annotations: Annotations,
    /// The place in the list of what a shutdown does not wait for, if the request came during the shutdown
    /// and is served nevertheless. Then the shutdown does not cancel it.
    pub(super) spared: AtomicUsize,
    /// The scheduled end of a scope whose holds are not taken up.
    pub(super) untaken: OnceLock<Key>,
    /// A test that waits for the report.
    pub(super) capture: Option<Capture>,
    /// Takes the response body away from the server.
    pub(super) body_taker: Mutex<Option<Waker>>,
    /// When the request has ended, for the tasks that were detached. Made with the first of them.
    pub(super) detached_from: OnceLock<Arc<OnceLock<Instant>>>,
    /// The place of the group of tasks among the dependents of the parent's, once it has one.
    pub(super) depends: OnceLock<usize>,
    /// The bytes of the frame of its body that the request may not read, or zero.
    pub(super) asked: AtomicU64,
}

impl Rare {
    fn new() -> Self {
        Self {
            parent: None,
            depth: 0,
            parent_path: None,
            annotations: Annotations::new(),
            spared: AtomicUsize::new(NOT_SPARED),
            untaken: OnceLock::new(),
            capture: None,
            body_taker: Mutex::new(None),
            detached_from: OnceLock::new(),
            depends: OnceLock::new(),
            asked: AtomicU64::new(0),
        }
    }
}

impl ScopeState {
    pub(super) fn new() -> Self {
        Self {
            layer: None,
            account: Account::owned(),
            arena: OnceLock::new(),
            lifecycle: Lifecycle::new(),
            limits: Limits::none(),
            route: RouteWord::new(),
            cancel: CancelState::new(),
            method: KnownMethod::Other,
            head: AtomicU64::new(NEVER),
            end: AtomicU64::new(NEVER),
            claim: Claim::closed(),
            id: AtomicU64::new(0),
            span: TaskSpan::none(),
            listed: KeySlot::empty(),
            tasks: OnceLock::new(),
            spawned: AtomicU32::new(0),
            listed_waits: AtomicBool::new(false),
            rare: OnceLock::new(),
        }
    }

    /// Makes this the scope of a new request. `own_label` says that a router has matched the request.
    #[inline]
    pub(super) fn open(
        &mut self,
        layer: Arc<Shard<LayerState>>,
        key: RouteKey,
        own_label: bool,
        start: Instant,
        parent: Option<&Counted<Self>>,
    ) {
        layer.value().record(move |journal| journal.opened(key));
        if layer.value().keeps_spans {
            self.span.set_current();
        }
        let route = layer.value().routes.route(key.route);
        self.account.set_labels(Some(route.id), None);
        self.layer = Some(layer);
        self.method = key.method;
        self.route.begin(key.route, own_label);
        self.limits.start = start;
        if let Some(parent) = parent {
            self.limits.bound(&parent.limits);
            let depth = parent.rare.get().map_or(0, |rare| rare.depth);
            if depth < MAX_DEPTH {
                let rare = self.rare_mut();
                rare.parent = Some(parent.clone());
                rare.depth = depth + 1;
            }
        }
        if let Some(capture) = Capture::take() {
            self.rare_mut().capture = Some(capture);
        }
    }

    pub(super) fn rare(&self) -> &Rare {
        self.rare.get_or_init(|| Box::new(Rare::new()))
    }

    /// Before the request is shared.
    pub(super) fn rare_mut(&mut self) -> &mut Rare {
        self.rare();
        match self.rare.get_mut() {
            Some(rare) => rare,
            None => unreachable!("it was made"),
        }
    }

    /// The status of the response, if there is a head.
    pub(super) fn status(&self) -> Option<u16> {
        // Relaxed: a figure, or ordered by the lifecycle's word.
        let head = Some(self.head.load(Ordering::Relaxed)).filter(|head| *head != NEVER);
        head.map(status_of)
    }

    /// Whether there is a response head.
    pub(super) fn has_head(&self) -> bool {
        self.head.load(Ordering::Relaxed) != NEVER
    }

    /// Releases everything the request held, so that the scope can be recycled.
    pub(super) fn release(&mut self) {
        let Some(_layer) = self.layer.take() else {
            return;
        };
        self.release_group();
        self.lifecycle.reset();
        self.cancel.reset(self.tasks.get().is_some());
        self.claim.reset();
        self.end.store(NEVER, Ordering::Relaxed);
        self.rare.take();
        self.reset();
    }

    /// The same after a [plain](Self::is_plain) end.
    #[inline]
    pub(super) fn release_plain(&mut self) {
        // What else was listed in the group was taken out as the scope closed.
        if self.uses_group() {
            self.keep_group();
        }
        self.reset();
        self.layer = None;
    }

    #[inline]
    fn reset(&mut self) {
        self.account.reset();
        if self.arena.get().is_some() {
            if let Some(arena) = self.arena.take() {
                arena.leave();
            }
        }
        self.limits.clear();
        self.head.set_mut(NEVER);
        self.id.set_mut(0);
        self.spawned.set_mut(0);
        self.listed_waits.set_mut(false);
        self.span.clear();
    }

    /// The reference of this scope, which is counted in a shard.
    #[inline]
    pub(super) fn layer_shard(&self) -> &Arc<Shard<LayerState>> {
        match &self.layer {
            Some(layer) => layer,
            None => unreachable!("a recycled scope has no handle"),
        }
    }

    /// The state shared by the layer's scopes.
    #[inline]
    pub(super) fn layer(&self) -> &Arc<LayerState> {
        self.layer_shard().value()
    }

    pub(super) fn route(&self) -> &Route {
        self.layer().routes.route(self.route.number())
    }

    /// Sets the route, unless it must stay.
    pub(super) fn set_route(&self, label: &str, source: LabelSource) {
        let layer = self.layer();
        if let Some(Moved { from, to }) = self.route.set(&layer.routes, label, source) {
            let key = RouteKey {
                route: from,
                method: self.method,
            };
            layer.record(|journal| journal.moved(key, to));
            let route = layer.routes.route(to);
            self.account.set_labels(Some(route.id), None);
            self.claim_moved(to);
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

    /// Why the request was cancelled, if it was.
    #[inline]
    pub(super) fn reason(&self) -> Option<CancelReason> {
        if let Some(reason) = self.cancel.reason() {
            return Some(reason);
        }
        self.cancel_from_outside();
        if self.account.is_over_budget() {
            self.cancel_over_budget();
        }
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
        if let Some(reason) = self.parent().and_then(|parent| parent.reason()) {
            self.set_reason(reason.inherited(), None);
        }
    }

    /// Sets the reason if there is none, as of `at` or now.
    #[inline]
    pub(super) fn set_reason(&self, reason: CancelReason, at: Option<Instant>) {
        // Before the tasks are woken, so that none ends before its request was cancelled.
        let at = at.or_else(|| self.cancel.has_group().then(Instant::now));
        if self.cancel.cancel(reason) {
            #[cfg(feature = "trace")]
            self.trace_cancelled(reason);
            if let Some(group) = self.noted_group() {
                // What is listed from now on looks for the reason afterwards (invariant 3 of `TaskGroup`).
                group.cancel(Some(at.unwrap_or_else(Instant::now)));
            }
        }
    }

    /// Whether the request has used the group of tasks. For a scope with a single handle.
    #[inline]
    pub(super) fn uses_group(&self) -> bool {
        // Relaxed: written by threads that have had a handle.
        self.spawned.load(Ordering::Relaxed) != 0 || self.listed_waits.load(Ordering::Relaxed)
    }

    /// Serves a request that came during a shutdown, which neither cancels it nor waits for it.
    pub(super) fn spare(this: &Counted<Self>) {
        let exempt = Exempt::Request(this.clone().into_request());
        let place = this.layer().shutdown.exempt(exempt);
        // Relaxed: the request is not shared yet.
        this.rare().spared.store(place, Ordering::Relaxed);
    }

    /// Whether a shutdown does not cancel the request.
    pub(super) fn is_spared(&self) -> bool {
        self.spared_place().is_some()
    }

    /// The place in the list of what a shutdown does not wait for.
    #[inline]
    pub(super) fn spared_place(&self) -> Option<usize> {
        let place = self.rare.get()?.spared.load(Ordering::Relaxed);
        (place != NOT_SPARED).then_some(place)
    }

    /// Records the response head. From here on the deadline is the body's.
    #[inline]
    pub(super) fn head(&self, status: u16, body: BodyKind) {
        let elapsed = self.limits.age();
        self.limits.start_body(elapsed, body);
        // A status has three digits, so the word is never `NEVER`.
        let head = nanos(elapsed).min(NEVER >> STATUS_BITS) << STATUS_BITS | u64::from(status);
        // Relaxed: read in `close`, which the lifecycle's word orders after this.
        self.head.store(head, Ordering::Relaxed);
        self.account.body_began();
        if self.account.is_over_budget() {
            self.answered_over_budget();
        }
    }
}

/// The status in the response head's word.
#[inline]
pub(super) const fn status_of(head: u64) -> u16 {
    head as u16 & ((1 << STATUS_BITS) - 1)
}

/// Nanoseconds below [`NEVER`].
#[inline]
pub(super) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).map_or(NEVER - 1, |nanos| nanos.min(NEVER - 1))
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

impl Drop for ScopeState {
    fn drop(&mut self) {
        self.release();
        if self.tasks.get().is_some() {
            self.forget_group();
        }
    }
}
