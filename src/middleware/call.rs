use std::{
    ops::{Deref, DerefMut},
    task::Context,
};

use crate::{
    cancel::{CancelReason, Outcome},
    deadline::{CallLimits, DeadlineSource, DeadlineTimer},
    recycled::Recycled,
    scope::{CallBudget, RequestScope, RoutePolicy},
};

/// A call inside of a scope that an outer layer has opened.
///
/// Its limits end with it: those for its time at its response, those for bodies at the end of its
/// response's body, and all of them when it fails or is dropped.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) scope: RequestScope,
    limits: CallLimits,
    /// The limit of what the request holds, if the call changes it.
    budget: Option<CallBudget>,
    /// Whether a layer has made it, or else a policy. A layer answers by itself, and ends the call at the
    /// request's deadline too, since another task than the outer layer's may poll it.
    pub(super) by_layer: bool,
}

impl Call {
    /// Begins the call. Also returns the source of a limit that has passed already.
    pub(super) fn begin(
        scope: RequestScope,
        policy: &RoutePolicy,
        by_layer: bool,
    ) -> (BoxedCall, Option<DeadlineSource>) {
        let source = if by_layer {
            DeadlineSource::Layer
        } else {
            DeadlineSource::Policy
        };
        if let Some(priority) = policy.priority {
            scope.set_route_priority(priority);
        }
        let (limits, expired) = scope.limits().begin_call(&policy.times, source);
        let budget = scope.begin_call_budget(policy);
        let call = Self {
            scope,
            limits,
            budget,
            by_layer,
        };
        (BoxedCall::new(call), expired)
    }

    /// As [`Place::poll_limits`](super::place::Place::poll_limits).
    pub(super) fn poll_limits(
        &self,
        timer: &mut DeadlineTimer,
        cx: &mut Context<'_>,
    ) -> Option<CancelReason> {
        if self.scope.is_over_budget() && self.is_limited() {
            return Some(CancelReason::new(Outcome::MemoryExceeded));
        }
        let limits = self.scope.limits();
        let deadline = if self.by_layer {
            limits.inner_deadline()
        } else {
            limits.call_deadline(&self.limits)
        };
        timer.poll_call(cx, deadline).map(CancelReason::deadline)
    }

    /// Whether the call answers a request that holds too much.
    fn is_limited(&self) -> bool {
        self.by_layer || self.budget.as_ref().is_some_and(|budget| budget.is_limited)
    }

    /// The call has a response. Returns what its body keeps.
    pub(super) fn responded(mut this: BoxedCall) -> Option<BoxedCall> {
        if !this.limits.has_bodies() && this.budget.is_none() {
            return None;
        }
        let call = &mut *this;
        call.scope.end_call(&mut call.limits, true);
        Some(this)
    }
}

thread_local! {
    static KEPT: Recycled<Box<Option<Call>>> = const { Recycled::new() };
}

/// A call in a box that its thread uses again.
///
/// What holds it is moved several times and is mostly without a call, so it has one word for that.
#[derive(Debug)]
pub(super) struct BoxedCall(Option<Box<Option<Call>>>);

impl BoxedCall {
    fn new(call: Call) -> Self {
        let mut place = Recycled::take(&KEPT, || Box::new(None));
        *place = Some(call);
        Self(Some(place))
    }
}

impl Deref for BoxedCall {
    type Target = Call;

    fn deref(&self) -> &Call {
        match self.0.as_deref() {
            Some(Some(call)) => call,
            _ => unreachable!("a call is taken out by the drop"),
        }
    }
}

impl DerefMut for BoxedCall {
    fn deref_mut(&mut self) -> &mut Call {
        match self.0.as_deref_mut() {
            Some(Some(call)) => call,
            _ => unreachable!("a call is taken out by the drop"),
        }
    }
}

impl Drop for BoxedCall {
    fn drop(&mut self) {
        if let Some(mut place) = self.0.take() {
            *place = None;
            Recycled::put(&KEPT, place);
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.scope.end_call(&mut self.limits, false);
        if let Some(budget) = &self.budget {
            self.scope.end_call_budget(budget);
        }
    }
}
