use std::time::Duration;

use tokio::time::Instant;

use super::{
    config::ScopeConfig,
    lifecycle::{Lifecycle, Step},
    limits::{BodyKind, Limits},
    report::{ArenaSource, ArenaUsage, Closed},
    route::UNMATCHED,
    shards::KeySlot,
    task::{TaskGroup, Tasks},
};
use crate::{
    account::Account,
    arena::Arena,
    cancel::{CancelReason, Outcome, Signal},
    sync::{Arc, AtomicU64, AtomicUsize, OnceLock, Ordering},
};

/// Bit of the route's number that is set when the scope has closed: the route stays as it is.
pub(super) const ROUTE_FIXED: usize = 1 << (usize::BITS - 1);

/// No response head yet.
const NO_HEAD: u64 = u64::MAX;

/// The state behind all handles of one scope; used again for a later request when the last handle
/// is dropped.
pub(crate) struct Inner {
    /// `None` only while this is a spare.
    pub(super) config: Option<Arc<ScopeConfig>>,
    pub(super) account: Account,
    pub(super) arena: OnceLock<Arena>,
    pub(super) lifecycle: Lifecycle,
    pub(super) limits: Limits,
    pub(super) route: AtomicUsize,
    pub(super) signal: Signal,
    pub(super) start: Instant,
    /// Nanoseconds from the start to the response head, or [`NO_HEAD`].
    head: AtomicU64,
    /// Where the token is in the layer's list.
    pub(super) token: KeySlot,
    /// Made when the first task is started.
    tasks: OnceLock<Arc<TaskGroup>>,
}

impl Inner {
    pub(super) fn new() -> Self {
        Self {
            config: None,
            account: Account::new(),
            arena: OnceLock::new(),
            lifecycle: Lifecycle::new(),
            limits: Limits::none(),
            route: AtomicUsize::new(UNMATCHED),
            signal: Signal::new(),
            start: Instant::now(),
            head: AtomicU64::new(NO_HEAD),
            token: KeySlot::empty(),
            tasks: OnceLock::new(),
        }
    }

    /// Makes this the scope of a new request.
    pub(super) fn open(&mut self, config: Arc<ScopeConfig>, route: usize, start: Instant) {
        config.sink.opened(route);
        self.config = Some(config);
        // Relaxed: nobody else is there.
        self.route.store(route, Ordering::Relaxed);
        self.start = start;
    }

    /// Lets go of everything, and is as new.
    pub(super) fn release(&mut self) {
        let Some(config) = self.config.take() else {
            return;
        };
        if let Some(key) = self.token.take() {
            drop(config.gauges.tokens.remove(key));
        }
        self.account = Account::new();
        self.arena.take();
        self.lifecycle.reset();
        self.limits.clear();
        self.signal.reset();
        self.head.store(NO_HEAD, Ordering::Relaxed);
        self.tasks.take();
    }

    /// What all scopes of the layer have in common.
    pub(super) const fn config(&self) -> Option<&Arc<ScopeConfig>> {
        self.config.as_ref()
    }

    /// What the tasks have in common; made now if there was no task before.
    pub(super) fn group(&self) -> &Arc<TaskGroup> {
        self.tasks.get_or_init(|| {
            let grace = self.config.as_ref().map_or(Duration::ZERO, |c| c.grace);
            let runtime = tokio::runtime::Handle::try_current().ok();
            Arc::new(TaskGroup::new(self.start, grace, runtime))
        })
    }

    /// When the layer's shutdown began, if it has.
    #[inline]
    fn shutdown_began(&self) -> Option<Instant> {
        self.config.as_ref()?.gauges.shutdown.began()
    }

    /// Why the request was cancelled, if it was.
    #[inline]
    pub(super) fn reason(&self) -> Option<CancelReason> {
        if let Some(reason) = self.signal.reason() {
            return Some(reason);
        }
        let began = self.shutdown_began()?;
        self.set_reason(CancelReason::new(Outcome::Shutdown), Some(began));
        self.signal.reason()
    }

    /// Cancels for `reason`, unless there was one before. Returns whether this was the first.
    pub(super) fn cancel(&self, reason: CancelReason) -> bool {
        if let Some(began) = self.shutdown_began() {
            self.set_reason(CancelReason::new(Outcome::Shutdown), Some(began));
        }
        self.set_reason(reason, None)
    }

    /// Sets the reason if there is none, as of `at` or now.
    #[inline]
    fn set_reason(&self, reason: CancelReason, at: Option<Instant>) -> bool {
        // Before the tasks hear of it, so that none ends before its request was cancelled.
        let at = at.or_else(|| self.tasks.get().map(|_| Instant::now()));
        let first = self.signal.cancel(reason);
        if first {
            if let Some(group) = self.tasks.get() {
                group.request_cancelled(at.unwrap_or_else(Instant::now));
            }
        }
        first
    }

    /// Tells the tasks, those to come and those there are, that the request has ended.
    #[inline]
    pub(super) fn note_end(&self) {
        let (Some(group), Some(config)) = (self.tasks.get(), &self.config) else {
            return;
        };
        // Relaxed: the number of a label, which the registry publishes itself.
        let route = self.route.load(Ordering::Relaxed) & !ROUTE_FIXED;
        group.request_ended(Instant::now(), route);
        if let (true, Some(runtime)) = (group.has_tasks(), group.runtime()) {
            Tasks::supervise(&config.gauges, runtime);
        }
    }

    /// Notes that there is a response head, before a body of this kind.
    pub(super) fn head(&self, body: BodyKind) {
        let elapsed = self.start.elapsed();
        self.limits.head(elapsed, body);
        let nanos = u64::try_from(elapsed.as_nanos()).unwrap_or(NO_HEAD - 1);
        // Relaxed: read in `close`, which the lifecycle's word orders after this.
        self.head.store(nanos.min(NO_HEAD - 1), Ordering::Relaxed);
    }

    pub(super) fn arena_usage(&self) -> ArenaUsage {
        self.arena.get().map_or(
            ArenaUsage {
                source: ArenaSource::Unused,
                bytes: 0,
                capacity: 0,
            },
            |arena| ArenaUsage {
                source: if arena.raw().is_reused() {
                    ArenaSource::Pool
                } else {
                    ArenaSource::Fresh
                },
                bytes: arena.allocated_bytes(),
                capacity: arena.capacity(),
            },
        )
    }

    /// The response is over, for `reason`.
    pub(super) fn response_over(&self, reason: CancelReason) {
        let step = if reason == CancelReason::new(Outcome::Completed) {
            self.lifecycle.response_done()
        } else {
            self.lifecycle.end()
        };
        self.step(step, reason);
    }

    /// Does what the lifecycle asks for; `reason` is why, if it is the end and the first one.
    pub(super) fn step(&self, step: Step, reason: CancelReason) {
        match step {
            Step::Nothing => {}
            Step::End => {
                self.cancel(reason);
                self.note_end();
                if self.lifecycle.task_ended() == Step::Close {
                    self.close();
                }
            }
            Step::EndAndClose => {
                self.cancel(reason);
                self.note_end();
                self.close();
            }
            Step::Close => self.close(),
        }
    }

    fn close(&self) {
        let Some(config) = &self.config else {
            return;
        };
        // A scope only closes after it was cancelled with a reason (see `Lifecycle`).
        let reason = self
            .signal
            .reason()
            .unwrap_or(CancelReason::new(Outcome::Completed));
        // Relaxed: of one word's changes all threads see one order, so none comes after this one.
        let route = self.route.fetch_or(ROUTE_FIXED, Ordering::Relaxed);
        let tasks = self.tasks.get();
        let cancel_latency = tasks.and_then(|tasks| tasks.request_closed());
        if let Some(after) = cancel_latency {
            config.sink.tasks_over(route, after);
        }
        let head = self.head.load(Ordering::Relaxed);
        let total_time = self.start.elapsed();
        if let Some(used) = self.arena.get().map(|arena| arena.raw().high_water()) {
            if used > 0 {
                // The last digits of a duration are as good as a random number, and cost nothing.
                config
                    .routes
                    .sizes
                    .record(route, used, total_time.as_nanos() as u64);
            }
        }
        config.sink.closed(&Closed {
            route,
            label: config.routes.label(route),
            reason,
            usage: self.account.usage(),
            arena: self.arena_usage(),
            time_to_head: (head != NO_HEAD).then(|| Duration::from_nanos(head)),
            total_time,
            tasks: tasks.map(|tasks| &**tasks),
            cancel_latency,
        });
        config.gauges.shutdown.changed();
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.release();
    }
}
