use std::task::Context;

use crate::{
    deadline::{CallLimits, DeadlineSource, DeadlineTimer, RoutePolicy},
    scope::RequestScope,
};

/// A call inside of a scope that an outer layer has opened.
///
/// Its limits end with it: those for its time at its response, those for bodies at the end of its
/// response's body, and all of them when it fails or is dropped.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) scope: RequestScope,
    limits: CallLimits,
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
        let (limits, expired) = scope.limits().begin_call(policy, source);
        let call = Self {
            scope,
            limits,
            by_layer,
        };
        (call, expired)
    }

    pub(super) fn poll_deadline(
        &self,
        timer: &mut DeadlineTimer,
        cx: &mut Context<'_>,
    ) -> Option<DeadlineSource> {
        let limits = self.scope.limits();
        let deadline = if self.by_layer {
            limits.inner_deadline()
        } else {
            limits.call_deadline(&self.limits)
        };
        timer.poll_call(cx, deadline)
    }

    /// The call has a response. Returns what its body keeps.
    pub(super) fn responded(mut self) -> Option<Self> {
        if !self.limits.has_bodies() {
            return None;
        }
        self.scope.end_call(&mut self.limits, true);
        Some(self)
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.scope.end_call(&mut self.limits, false);
    }
}
