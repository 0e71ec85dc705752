use std::{task::Waker, time::Duration};

use atomic_waker::AtomicWaker;
use tokio::time::Instant;

use super::{
    limit::Limit,
    rules::TimeRules,
    source::DeadlineSource,
    word::{Deadline, Former},
};
use crate::sync::{AtomicBool, AtomicU64, Ordering, SetMut};

/// The start of one request and its time limits, which count from there.
#[derive(Debug)]
pub(crate) struct Limits {
    pub(crate) start: Instant,
    pub(super) deadline: Deadline,
    body: Limit,
    pub(super) body_idle: Limit,
    pub(super) request_body_idle: Limit,
    /// Nanoseconds the request had waited before the service was called: in a queue, and for the
    /// service to be ready.
    queued: AtomicU64,
    /// When the handler began to wait for more of the request's body, in nanoseconds since the start
    /// plus one; zero if it does not wait.
    wants_body: AtomicU64,
    /// The task of the response future, while another task may move the deadline.
    waker: AtomicWaker,
    /// Whether a waker may be registered, for the future that has done that.
    registered: AtomicBool,
}

/// Times in the trusted headers of a request.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RequestTimes {
    /// Time spent in a queue.
    pub(crate) queued: Duration,
    /// The earliest deadline, counted from when the request was sent.
    pub(crate) deadline: Option<(Duration, DeadlineSource)>,
}

/// The limits of a call inside of a request, from its begin to its end.
#[derive(Debug)]
pub(crate) struct CallLimits {
    /// `None` once the call has a response or has ended.
    time: Option<Former>,
    /// The request's former limits for bodies, if the call sets some.
    bodies: Option<[u64; 3]>,
    /// Whether the call sets a limit for the request's body.
    limits_request_body: bool,
}

impl CallLimits {
    /// Whether limits of bodies are to be put back.
    pub(crate) const fn has_bodies(&self) -> bool {
        self.bodies.is_some()
    }
}

/// What a response head means for the deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyKind {
    /// No body that could be late: it is empty, or the connection is upgraded.
    None,
    /// A body with limits of its own.
    Plain,
    /// A body of a gRPC call, whose deadline covers it.
    WholeCall,
}

impl Limits {
    pub(crate) fn none() -> Self {
        Self {
            start: Instant::now(),
            deadline: Deadline::none(),
            body: Limit::none(),
            body_idle: Limit::none(),
            request_body_idle: Limit::none(),
            queued: AtomicU64::new(0),
            wants_body: AtomicU64::new(0),
            waker: AtomicWaker::new(),
            registered: AtomicBool::new(false),
        }
    }

    /// Removes all limits, between two requests.
    #[inline]
    pub(crate) fn clear(&mut self) {
        self.deadline.clear();
        self.body.clear();
        self.body_idle.clear();
        self.request_body_idle.clear();
        self.queued.set_mut(0);
        self.wants_body.set_mut(0);
    }

    /// Time since the request's start: when the service was called, or began to wait for being ready.
    #[inline]
    pub(crate) fn age(&self) -> Duration {
        // As `self.start.elapsed()`, in fewer steps.
        let now = Instant::now().into_std();
        now.saturating_duration_since(self.start.into_std())
    }

    /// The deadline in force for code inside of the request, and its source: the request's, or that of a
    /// call inside.
    pub(crate) fn visible_deadline(&self) -> Option<(Instant, DeadlineSource)> {
        earlier(self.deadline.of_call(self.start), self.deadline())
    }

    /// Bounds the deadline by another request's, for the whole time to the head.
    pub(crate) fn bound(&self, by: &Self) {
        if let Some((at, source)) = by.visible_deadline() {
            let after = at.saturating_duration_since(self.start);
            self.deadline.bound(after, source);
        }
    }

    /// The deadline of the request, and its source.
    #[inline]
    pub(crate) fn deadline(&self) -> Option<(Instant, DeadlineSource)> {
        self.deadline.at(self.start)
    }

    /// The source of the deadline, if it has passed.
    #[inline]
    pub(crate) fn expired(&self) -> Option<DeadlineSource> {
        let (at, source) = self.deadline()?;
        (at <= Instant::now()).then_some(source)
    }

    /// Sets the deadline to `timeout` from now if that is earlier, and wakes the response future.
    pub(crate) fn shorten(&self, timeout: Duration) {
        let after = self.age().saturating_add(timeout);
        self.deadline.tighten(after, DeadlineSource::Handler);
        self.waker.wake();
    }

    /// Sets the server's own deadline to `timeout` from now if that is later. Returns whether the
    /// request has that time now.
    pub(crate) fn extend(&self, timeout: Duration) -> bool {
        let after = self.age().saturating_add(timeout);
        // No wake: the armed timer checks the deadline again when it fires.
        self.deadline.extend(after, DeadlineSource::Handler);
        self.visible_deadline().is_none_or(|(at, _)| {
            let asked = self.start.checked_add(after);
            asked.is_some_and(|asked| asked <= at)
        })
    }

    /// Removes the server's own deadline.
    pub(crate) fn clear_deadline(&self) {
        self.deadline.lift();
    }

    /// Applies the limits of a new request: its headers, the policy around the layer, and the layer.
    /// The request has `waited` since its start. Returns the source of a deadline that has passed already.
    pub(crate) fn begin(
        &self,
        mut times: Option<RequestTimes>,
        outer: Option<&TimeRules>,
        layer: &TimeRules,
        waited: Duration,
    ) -> Option<DeadlineSource> {
        if !waited.is_zero() {
            let times = times.get_or_insert_default();
            times.queued = times.queued.max(waited);
        }
        let times = times.and_then(|times| self.apply_times(times, waited, waited));
        let outer = outer.and_then(|rules| self.apply_rules(rules, waited, DeadlineSource::Policy));
        let layer = self.apply_rules(layer, waited, DeadlineSource::Layer);
        times.or(outer).or(layer)
    }

    /// Applies the headers that a layer inside of the scope trusts. They are the request's, and not only
    /// that call's. Returns the source of a deadline that has passed already.
    pub(crate) fn begin_inner(&self, times: Option<RequestTimes>) -> Option<DeadlineSource> {
        let passed = self.apply_times(times?, Duration::ZERO, self.age());
        self.waker.wake();
        passed
    }

    /// Begins a call with the limits of `rules`. Returns its source if the request had spent the time they
    /// allow in a queue.
    pub(crate) fn begin_call(
        &self,
        rules: &TimeRules,
        source: DeadlineSource,
    ) -> (CallLimits, Option<DeadlineSource>) {
        let bodies = rules
            .limits_bodies()
            .then(|| self.bodies().map(Limit::save));
        self.apply_bodies(rules);
        let queued = self.queued();
        let limit = rules.timeout.limit.map(|timeout| {
            let after = self.age().saturating_add(timeout).saturating_sub(queued);
            (after, source)
        });
        let limits = CallLimits {
            time: Some(self.deadline.begin_call(rules.timeout.disable, limit)),
            bodies,
            limits_request_body: rules.request_body_idle_timeout.limit.is_some(),
        };
        (limits, queued_out(rules, queued).then_some(source))
    }

    /// The deadline of a call, if its own limits are in force.
    pub(crate) fn call_deadline(&self, call: &CallLimits) -> Option<(Instant, DeadlineSource)> {
        let is_limited = call.time.is_some_and(|time| time.is_limited);
        let time = is_limited.then(|| self.deadline.of_call(self.start));
        let body = call
            .limits_request_body
            .then(|| self.request_body_deadline());
        earlier(time.flatten(), body.flatten())
    }

    /// The deadline of a call that also ends with the request.
    pub(crate) fn inner_deadline(&self) -> Option<(Instant, DeadlineSource)> {
        earlier(self.visible_deadline(), self.request_body_deadline())
    }

    /// The call has a response, or has ended. Unless the request has a response head, the deadline that
    /// the call had lifted is back, and wakes the response future.
    pub(crate) fn end_call_time(&self, call: &mut CallLimits, has_head: bool) {
        if let Some(time) = call.time.take() {
            if self.deadline.end_call(time, !has_head) {
                self.waker.wake();
            }
        }
    }

    /// The body of the call's response has ended, or the call has without one.
    pub(crate) fn end_call_bodies(&self, call: &mut CallLimits) {
        if let Some(saved) = call.bodies.take() {
            for (limit, saved) in self.bodies().into_iter().zip(saved) {
                limit.restore(saved);
            }
        }
    }

    /// Applies rules to the whole request from now on, and wakes the response future.
    pub(crate) fn apply(&self, rules: &TimeRules, source: DeadlineSource) {
        self.apply_rules(rules, self.age(), source);
        self.waker.wake();
    }

    /// Applies the trusted headers, `elapsed` after the start. Their times count from `queued` before
    /// `arrival`. Returns the source of a deadline that has passed already.
    fn apply_times(
        &self,
        times: RequestTimes,
        arrival: Duration,
        elapsed: Duration,
    ) -> Option<DeadlineSource> {
        if !times.queued.is_zero() {
            let nanos = u64::try_from(times.queued.as_nanos()).unwrap_or(u64::MAX);
            // Relaxed: read by inner layers, on the way to the handler.
            self.queued.store(nanos, Ordering::Relaxed);
        }
        let (timeout, source) = times.deadline?;
        let left = timeout.saturating_add(arrival).saturating_sub(times.queued);
        self.deadline.tighten(left, source);
        (left <= elapsed).then_some(source)
    }

    /// Applies rules, `elapsed` after the start. Returns its source if the request had spent the
    /// time they allow in a queue.
    fn apply_rules(
        &self,
        rules: &TimeRules,
        elapsed: Duration,
        source: DeadlineSource,
    ) -> Option<DeadlineSource> {
        self.apply_bodies(rules);
        if rules.timeout.disable {
            self.deadline.lift();
        }
        let timeout = rules.timeout.limit?;
        let queued = self.queued();
        let after = elapsed.saturating_add(timeout).saturating_sub(queued);
        self.deadline.tighten(after, source);
        queued_out(rules, queued).then_some(source)
    }

    pub(super) const fn bodies(&self) -> [&Limit; 3] {
        [&self.body, &self.body_idle, &self.request_body_idle]
    }

    fn apply_bodies(&self, rules: &TimeRules) {
        for (rule, limit) in rules.bodies().into_iter().zip(self.bodies()) {
            if rule.disable {
                limit.lift();
            }
            if let Some(shorter) = rule.limit {
                limit.tighten(shorter);
            }
        }
    }

    /// Replaces the deadline by the body's, at a response head `elapsed` after the start.
    #[inline]
    pub(crate) fn start_body(&self, elapsed: Duration, body: BodyKind) {
        let limit = match body {
            BodyKind::None => None,
            BodyKind::Plain | BodyKind::WholeCall => self.body.get(),
        };
        let deadline =
            limit.map(|limit| (elapsed.saturating_add(limit), DeadlineSource::BodyTimeout));
        self.deadline.restart(deadline, body == BodyKind::WholeCall);
    }

    /// How long the request had waited before the service was called.
    pub(crate) fn queued(&self) -> Duration {
        // Relaxed: as in `apply_times`.
        Duration::from_nanos(self.queued.load(Ordering::Relaxed))
    }

    /// Maximum time between two frames of the body.
    pub(crate) fn body_idle(&self) -> Option<Duration> {
        self.body_idle.get()
    }

    /// Has `waker` woken when the deadline moves. One future at a time registers itself.
    pub(crate) fn register(&self, waker: &Waker) {
        self.waker.register(waker);
        // Relaxed: the same owner reads it.
        self.registered.store(true, Ordering::Relaxed);
    }

    /// Wakes the registered future.
    pub(crate) fn wake(&self) {
        self.waker.wake();
    }

    /// Drops the registered waker, if there is one.
    #[inline]
    pub(crate) fn unregister(&self) {
        if self.registered.load(Ordering::Relaxed) {
            self.registered.store(false, Ordering::Relaxed);
            drop(self.waker.take());
        }
    }

    /// Records whether the handler waits for more of the request's body.
    pub(crate) fn set_wants_body(&self, wants: bool) {
        let since = if wants {
            u64::try_from(self.age().as_nanos()).map_or(u64::MAX, |nanos| nanos.saturating_add(1))
        } else {
            0
        };
        // Relaxed: read by the task that polls the handler, or one that it has communicated with.
        self.wants_body.store(since, Ordering::Relaxed);
        // The task that reads the body may be another one than the response future's, which keeps the
        // time.
        if wants && self.request_body_idle.get().is_some() {
            self.waker.wake();
        }
    }

    pub(crate) fn wants_body(&self) -> bool {
        // Relaxed: see `set_wants_body`.
        self.wants_body.load(Ordering::Relaxed) != 0
    }

    /// When the next frame of the request's body is due.
    fn request_body_deadline(&self) -> Option<(Instant, DeadlineSource)> {
        let idle = self.request_body_idle.get()?;
        // Relaxed: see `set_wants_body`.
        let since = self.wants_body.load(Ordering::Relaxed).checked_sub(1)?;
        let after = Duration::from_nanos(since).saturating_add(idle);
        let at = self.start.checked_add(after)?;
        Some((at, DeadlineSource::RequestBodyIdleTimeout))
    }

    /// The earlier of the deadline and that of the request's body.
    pub(crate) fn next_deadline(&self) -> Option<(Instant, DeadlineSource)> {
        earlier(self.deadline(), self.request_body_deadline())
    }

    /// The earlier of that and the one of a body that has been silent since `since`.
    pub(crate) fn body_deadline(
        &self,
        since: Option<Instant>,
    ) -> Option<(Instant, DeadlineSource)> {
        let idle = since.and_then(|since| {
            let at = since.checked_add(self.body_idle()?)?;
            Some((at, DeadlineSource::BodyIdleTimeout))
        });
        earlier(self.next_deadline(), idle)
    }
}

/// Whether the request had spent the time that `rules` allow in a queue. A timeout of zero ends only
/// requests that have to wait.
fn queued_out(rules: &TimeRules, queued: Duration) -> bool {
    !queued.is_zero() && rules.timeout.limit.is_some_and(|timeout| timeout <= queued)
}

/// The earlier of two deadlines; the first one of two at the same time.
fn earlier(
    first: Option<(Instant, DeadlineSource)>,
    second: Option<(Instant, DeadlineSource)>,
) -> Option<(Instant, DeadlineSource)> {
    match (first, second) {
        (Some(first), Some(second)) if second.0 < first.0 => Some(second),
        (first, second) => first.or(second),
    }
}
