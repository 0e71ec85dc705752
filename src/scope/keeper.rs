use std::time::Duration;

use tokio::time::Instant;

use super::{
    config::ScopeConfig,
    current::{self, EnteredScope},
    handle::RequestScope,
    limits::BodyKind,
};
use crate::{
    account::Writer,
    cancel::{CancelReason, Outcome},
    sync::Arc,
};

/// The one owner of an open scope: first the response future, then the response body.
///
/// Not `Clone`, and consumed by [`finish`](Self::finish): that is what makes the end happen once.
/// Dropped unfinished, the client has gone away.
#[derive(Debug)]
pub(crate) struct Keeper {
    scope: Option<RequestScope>,
}

impl Keeper {
    pub(crate) fn open(config: &Arc<ScopeConfig>, route: usize) -> Self {
        Self {
            scope: Some(RequestScope::open(config, route, Instant::now())),
        }
    }

    pub(crate) fn scope(&self) -> Option<&RequestScope> {
        self.scope.as_ref()
    }

    /// Enters the scope for the owner's own work. Unless the guard is told that it is
    /// [`done`](EnteredScope::done), that work has panicked.
    pub(crate) fn enter(&mut self) -> EnteredScope<'_> {
        current::enter(&mut self.scope, Writer::Exclusive).or_panicked()
    }

    /// Notes that there is a response head, before what kind of body, and whether it makes the
    /// connection leave HTTP.
    pub(crate) fn head(&self, body: BodyKind, upgrade: bool) {
        if let Some(scope) = &self.scope {
            let inner = scope.inner();
            inner.head(body);
            if upgrade {
                inner.lifecycle.upgraded();
            }
        }
    }

    /// Ends the scope's part of the response, for `reason` unless there was one before.
    pub(crate) fn finish(mut self, reason: CancelReason) {
        self.end(reason);
    }

    fn end(&mut self, reason: CancelReason) {
        if let Some(scope) = self.scope.take() {
            scope.inner().response_over(reason);
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.end(CancelReason::new(Outcome::ClientGone));
    }
}

impl RequestScope {
    /// Cancels the request without ending its scope. Returns whether this was the first reason.
    pub(crate) fn cancel_for(&self, reason: CancelReason) -> bool {
        self.inner().cancel(reason)
    }

    /// Time since the service's call.
    pub(crate) fn age(&self) -> Duration {
        self.inner().start.elapsed()
    }
}
