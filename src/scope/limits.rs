use std::{task::Waker, time::Duration};

use atomic_waker::AtomicWaker;

use super::{handle::RequestScope, policy::RoutePolicy};
use crate::{
    cancel::{Deadline, DeadlineSource, Limit},
    sync::{AtomicBool, AtomicU64, Ordering},
};

/// The times a request is given, and who is to be told when the first of them changes.
#[derive(Debug)]
pub(super) struct Limits {
    pub(super) deadline: Deadline,
    body: Limit,
    body_idle: Limit,
    /// Nanoseconds that the request had waited elsewhere before the service was called.
    queued: AtomicU64,
    /// Whether the handler waits for more of the request's body.
    wants_body: AtomicBool,
    /// The response future's task, as long as somebody else may move the deadline.
    task: AtomicWaker,
}

/// What a request's headers say of its time, as far as they are trusted.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Arrival {
    /// How long it has waited elsewhere.
    pub(crate) queued: Duration,
    /// The shortest deadline, counted from when it was sent; zero if nothing of it is left.
    pub(crate) deadline: Option<(Duration, DeadlineSource)>,
}

/// What a response head means for the deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyKind {
    /// There is none that could be late: it is empty, or the connection leaves HTTP.
    None,
    /// It has its own limits alone.
    Plain,
    /// It belongs to a call whose deadline is for the body, too.
    WholeCall,
}

impl Limits {
    pub(super) fn none() -> Self {
        Self {
            deadline: Deadline::none(),
            body: Limit::none(),
            body_idle: Limit::none(),
            queued: AtomicU64::new(0),
            wants_body: AtomicBool::new(false),
            task: AtomicWaker::new(),
        }
    }

    /// As new. `&mut`: only between two requests.
    pub(super) fn clear(&mut self) {
        self.deadline.clear();
        self.body.lift();
        self.body_idle.lift();
        // Relaxed: nobody else is there.
        self.queued.store(0, Ordering::Relaxed);
        self.wants_body.store(false, Ordering::Relaxed);
    }

    fn queued(&self) -> Duration {
        // Relaxed: set when the request arrives, before anybody else knows the scope, or by an inner
        // layer on the way to the handler.
        Duration::from_nanos(self.queued.load(Ordering::Relaxed))
    }

    /// Takes over what the headers say, `elapsed` after the start. Returns who set the deadline that
    /// has passed already.
    fn arrived(&self, arrival: Arrival, elapsed: Duration) -> Option<DeadlineSource> {
        if !arrival.queued.is_zero() {
            let nanos = u64::try_from(arrival.queued.as_nanos()).unwrap_or(u64::MAX);
            self.queued.store(nanos, Ordering::Relaxed);
        }
        let (timeout, source) = arrival.deadline?;
        let left = timeout.saturating_sub(arrival.queued);
        self.deadline.tighten(left, source);
        (left <= elapsed).then_some(source)
    }

    /// Applies a policy that is reached `elapsed` after the start. Returns its source if the time
    /// that it allows had passed before the service was called.
    fn apply(
        &self,
        policy: &RoutePolicy,
        elapsed: Duration,
        source: DeadlineSource,
    ) -> Option<DeadlineSource> {
        for (rule, limit) in [
            (policy.body_timeout, &self.body),
            (policy.body_idle_timeout, &self.body_idle),
        ] {
            if rule.disable {
                limit.lift();
            }
            if let Some(shorter) = rule.limit {
                limit.tighten(shorter);
            }
        }
        if policy.timeout.disable {
            self.deadline.lift();
        }
        let timeout = policy.timeout.limit?;
        let queued = self.queued();
        let after = elapsed.saturating_add(timeout).saturating_sub(queued);
        self.deadline.tighten(after, source);
        // A timeout of zero alone ends only what has to wait.
        (!queued.is_zero() && timeout <= queued).then_some(source)
    }

    /// There is a response head, `elapsed` after the start: from here on the deadline is the body's.
    pub(super) fn head(&self, elapsed: Duration, body: BodyKind) {
        let limit = match body {
            BodyKind::None => None,
            BodyKind::Plain | BodyKind::WholeCall => self.body.get(),
        };
        let deadline =
            limit.map(|limit| (elapsed.saturating_add(limit), DeadlineSource::BodyTimeout));
        self.deadline.restart(deadline, body == BodyKind::WholeCall);
    }
}

impl RequestScope {
    /// Takes over what the request's headers say, and then the layer's limits. Returns who set a
    /// deadline that has passed already.
    pub(crate) fn begin(
        &self,
        arrival: Option<Arrival>,
        outer: Option<&RoutePolicy>,
        layer: &RoutePolicy,
    ) -> Option<DeadlineSource> {
        let limits = &self.inner().limits;
        let arrived = arrival.and_then(|arrival| limits.arrived(arrival, Duration::ZERO));
        let outer =
            outer.and_then(|policy| limits.apply(policy, Duration::ZERO, DeadlineSource::Policy));
        let layer = limits.apply(layer, Duration::ZERO, DeadlineSource::Layer);
        arrived.or(outer).or(layer)
    }

    /// The same for a layer inside of the one that opened the scope.
    pub(crate) fn tighten(
        &self,
        arrival: Option<Arrival>,
        layer: &RoutePolicy,
    ) -> Option<DeadlineSource> {
        let arrived = arrival.and_then(|arrival| self.inner().limits.arrived(arrival, self.age()));
        arrived.or(self.apply(layer, DeadlineSource::Layer))
    }

    pub(crate) fn apply(
        &self,
        policy: &RoutePolicy,
        source: DeadlineSource,
    ) -> Option<DeadlineSource> {
        let passed = self.inner().limits.apply(policy, self.age(), source);
        self.deadline_moved();
        passed
    }

    /// Wakes the response future, if it waits and the deadline was moved elsewhere.
    pub(super) fn deadline_moved(&self) {
        self.inner().limits.task.wake();
    }

    /// Asks for `task` to be woken when the deadline is moved. Returns whether it has been noted: it
    /// is not if nobody else has a handle, and so nobody can move the deadline.
    ///
    /// Only the one future that opened the scope calls this.
    pub(crate) fn wake_when_moved(&self, task: &Waker) -> bool {
        if self.is_only_handle() {
            return false;
        }
        self.inner().limits.task.register(task);
        true
    }

    /// Forgets the task.
    pub(crate) fn wake_no_more(&self) {
        drop(self.inner().limits.task.take());
    }

    /// Notes whether the handler waits for more of the request's body.
    pub(crate) fn set_wants_body(&self, wants: bool) {
        // Relaxed: read by the future that polls the handler, or a task that it has heard from.
        self.inner()
            .limits
            .wants_body
            .store(wants, Ordering::Relaxed);
    }

    pub(crate) fn wants_body(&self) -> bool {
        // Relaxed: see `set_wants_body`.
        self.inner().limits.wants_body.load(Ordering::Relaxed)
    }

    /// The longest time that the server may have to wait for the next part of the body.
    pub(crate) fn body_idle_limit(&self) -> Option<Duration> {
        self.inner().limits.body_idle.get()
    }
}
