use std::task::Context;

use super::call::Call;
use crate::{
    account::Enter,
    cancel::CancelReason,
    deadline::DeadlineTimer,
    scope::{EnteredScope, OpenScope, RequestScope},
};

/// The scope that an inner future runs in.
#[derive(Debug)]
pub(super) enum Place {
    /// This layer has opened the scope and ends it.
    Outermost(OpenScope),
    /// An outer layer has opened the scope. Another task than that layer's may poll this future.
    Nested(Call),
}

impl Place {
    pub(super) const fn scope(&self) -> &RequestScope {
        match self {
            Self::Outermost(open) => open.scope(),
            Self::Nested(call) => &call.scope,
        }
    }

    /// Whether a policy has made it, which leaves the answer to the layer around it.
    pub(super) const fn is_policy(&self) -> bool {
        matches!(self, Self::Nested(call) if !call.by_layer)
    }

    /// Why the request, or the call, whose future is pending, has to end: a limit of its time, or of what
    /// the request holds.
    pub(super) fn poll_limits(
        &mut self,
        timer: &mut DeadlineTimer,
        cx: &mut Context<'_>,
    ) -> Option<CancelReason> {
        match self {
            Self::Outermost(open) => {
                let deadline = open.poll_deadline(timer, cx);
                // After the waker was registered.
                open.scope()
                    .exceeded()
                    .or(deadline.map(CancelReason::deadline))
            }
            Self::Nested(call) => call.poll_limits(timer, cx),
        }
    }
}

impl Enter for Place {
    type Guard<'a> = EnteredScope<'a>;

    #[inline]
    fn enter(&mut self) -> EnteredScope<'_> {
        match self {
            Self::Outermost(open) => open.enter(),
            Self::Nested(call) => call.scope.enter(),
        }
    }

    #[inline]
    fn returned(guard: EnteredScope<'_>) {
        guard.done();
    }
}
