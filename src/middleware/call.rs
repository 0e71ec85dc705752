use std::task::Context;

use crate::{
    cancel::{CancelReason, Outcome},
    deadline::{CallLimits, DeadlineSource, DeadlineTimer},
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
    ) -> (Self, Option<DeadlineSource>) {
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
        (call, expired)
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
    pub(super) fn responded(mut self) -> Option<Self> {
        if !self.limits.has_bodies() && self.budget.is_none() {
            return None;
        }
        self.scope.end_call(&mut self.limits, true);
        Some(self)
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
