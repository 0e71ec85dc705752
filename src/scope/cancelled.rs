//! Waiting for the cancellation of a request, without a token.

use std::{
    borrow::Borrow,
    fmt,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use super::{handle::RequestScope, state::ScopeState};
use crate::{
    cancel::CancelReason,
    task::{WakerId, waker_id},
};

impl RequestScope {
    /// Waits until the request is cancelled, and returns the reason.
    ///
    /// A request is cancelled when it ends, at its deadline, or by [`cancel`](Self::cancel). Waiting needs no
    /// token and, for the first two that wait in a request, no memory.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: dropping it has no effect.
    pub async fn cancelled(&self) -> CancelReason {
        UntilCancelled::new(self).await
    }
}

/// The future of [`RequestScope::cancelled`], with a handle or a borrowed one.
///
/// Its waker is listed with those of the request's tasks, until the future is dropped.
pub(crate) struct UntilCancelled<S: Borrow<RequestScope>> {
    scope: S,
    /// Its number in the request's group, once it waits, and the waker that is listed there.
    listed: Option<(usize, WakerId)>,
}

impl<S: Borrow<RequestScope>> UntilCancelled<S> {
    pub(crate) const fn new(scope: S) -> Self {
        Self {
            scope,
            listed: None,
        }
    }
}

impl<S: Borrow<RequestScope> + Unpin> Future for UntilCancelled<S> {
    type Output = CancelReason;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<CancelReason> {
        let this = self.get_mut();
        let scope = this.scope.borrow();
        if let Some(reason) = scope.reason() {
            return Poll::Ready(reason);
        }
        let id = waker_id(cx.waker());
        let place = match this.listed {
            Some((_, listed)) if listed == id => return Poll::Pending,
            Some((place, _)) => Some(place),
            None => None,
        };
        this.listed = Some((scope.state().wait(place, cx.waker()), id));
        // Invariant 3 of `TaskGroup`.
        scope.reason().map_or(Poll::Pending, Poll::Ready)
    }
}

impl<S: Borrow<RequestScope>> Drop for UntilCancelled<S> {
    fn drop(&mut self) {
        if let Some((place, _)) = self.listed {
            drop(self.scope.borrow().state().group().remove(place, None));
        }
    }
}

impl<S: Borrow<RequestScope>> fmt::Debug for UntilCancelled<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UntilCancelled").finish_non_exhaustive()
    }
}

impl ScopeState {
    /// Has `waker` woken when the request is cancelled, at a place of the group or at a new one. The caller
    /// looks afterwards whether it is.
    fn wait(&self, place: Option<usize>, waker: &Waker) -> usize {
        let group = self.group_to_wait();
        match place {
            Some(place) => {
                group.watch(place, waker);
                place
            }
            None => group.wait(waker, self.user()),
        }
    }
}
