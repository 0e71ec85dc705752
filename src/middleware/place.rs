use std::task::Context;

use super::call::BoxedCall;
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
    Nested(BoxedCall),
}

impl Place {
    pub(super) fn scope(&self) -> &RequestScope {
        match self {
            Self::Outermost(open) => open.scope(),
            Self::Nested(call) => &call.scope,
        }
    }

    /// Whether a policy has made it, which leaves the answer to the layer around it.
    pub(super) fn is_policy(&self) -> bool {
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

#[cfg(all(test, not(tower_memory_loom)))]
mod tests {
    use super::{
        super::{body::ResponseBody, future::ResponseFuture},
        *,
    };

    /// They are moved several times on their way through tower and axum.
    #[test]
    fn what_each_request_moves_is_small() {
        const INNER: usize = 320;
        assert_eq!(size_of::<Option<Place>>(), 2 * size_of::<usize>());
        assert!(size_of::<ResponseFuture<[u64; INNER / 8]>>() <= INNER + 96);
        assert!(size_of::<ResponseBody<Box<dyn Send>>>() <= 112);
    }
}
