use std::{mem::ManuallyDrop, task::Context, time::Duration};

use tokio::time::Instant;

use super::{
    current::{self, EnteredScope},
    handle::RequestScope,
    layer::LayerState,
    state::ScopeState,
};
use crate::{
    account::{Enter, Writer},
    cancel::{CancelReason, Outcome},
    deadline::{BodyKind, DeadlineSource, DeadlineTimer},
    route::RouteKey,
    sharded::Shard,
    sync::Arc,
};

/// The one owner of an open scope: first the response future, then the response body.
///
/// It is not `Clone`, and its drop ends the scope, so the end happens once. Dropped without
/// [`finish`](Self::finish), the response was abandoned.
#[derive(Debug)]
pub(crate) struct OpenScope {
    scope: RequestScope,
}

impl OpenScope {
    /// Opens the scope of a request that has `waited` for the service to be ready, and that the request
    /// of `parent` has sent. `own_label` says that a router has matched the request.
    #[inline]
    pub(crate) fn new(
        layer: &Arc<Shard<LayerState>>,
        key: RouteKey,
        own_label: bool,
        waited: Duration,
        parent: Option<&RequestScope>,
    ) -> Self {
        let now = Instant::now();
        let start = if waited.is_zero() {
            now
        } else {
            now.checked_sub(waited).unwrap_or(now)
        };
        Self::owning(RequestScope::open(layer, key, own_label, start, parent))
    }

    /// Opens the scope of a request that the request of `parent` has sent to a policy.
    pub(crate) fn by_policy(parent: &RequestScope, key: RouteKey, own_label: bool) -> Self {
        Self::owning(parent.open_by_policy(key, own_label, Instant::now()))
    }

    /// Records the path of the parent, if the request was made of the parent's extensions.
    #[inline]
    pub(crate) fn copied_from(&mut self, path: Option<String>) {
        if path.is_some() {
            self.scope.unshared().copied_from(path);
        }
    }

    const fn owning(scope: RequestScope) -> Self {
        Self { scope }
    }

    /// The handle for the extensions of the request that is passed on.
    #[inline]
    pub(crate) fn carried_handle(&mut self) -> RequestScope {
        let carried = self.scope.carried_handle();
        self.list();
        carried
    }

    #[inline]
    pub(crate) const fn scope(&self) -> &RequestScope {
        &self.scope
    }

    /// Polls the deadline for an owner whose future is pending. Returns the source of a deadline that
    /// has passed.
    pub(crate) fn poll_deadline(
        &self,
        timer: &mut DeadlineTimer,
        cx: &mut Context<'_>,
    ) -> Option<DeadlineSource> {
        self.register(cx);
        timer.poll(self.scope.limits(), cx)
    }

    /// As [`poll_deadline`](Self::poll_deadline), with the limits of a body that has been silent since
    /// `since`, or since now.
    pub(crate) fn poll_body_deadline(
        &self,
        timer: &mut Option<Box<DeadlineTimer>>,
        since: &mut Option<Instant>,
        cx: &mut Context<'_>,
    ) -> Option<DeadlineSource> {
        self.register(cx);
        DeadlineTimer::poll_body(timer, self.scope.limits(), since, cx)
    }

    /// Registers the waker before the deadline is read, so that a change in between wakes the task.
    /// With one handle no other task can change the deadline.
    fn register(&self, cx: &Context<'_>) {
        if !self.scope.is_only_handle() {
            self.scope.limits().register(cx.waker());
        }
    }

    /// Serves the request although the layer is shutting down.
    pub(crate) fn spare(&self) {
        ScopeState::spare(self.scope.state());
    }

    /// Records that the inner service was called.
    #[inline]
    pub(crate) fn called(&self) {
        self.scope.state().account.called();
    }

    /// Records the response head: its status, the kind of its body, and whether it upgrades the
    /// connection.
    #[inline]
    pub(crate) fn head(&self, status: u16, body: BodyKind, upgrade: bool) {
        let state = self.scope.state();
        state.limits.unregister();
        state.head(status, body);
        if upgrade {
            state.lifecycle.upgraded();
        }
    }

    /// A frame of `bytes` of the response body was given to the server. `is_unique` says that no other
    /// handle refers to its memory.
    #[inline]
    pub(crate) fn gave(&self, bytes: usize, is_unique: bool) {
        self.scope.state().account.gave(bytes, is_unique);
    }

    /// Ends the scope's part of the response, for `reason` unless the scope has one.
    #[inline]
    pub(crate) fn finish(self, reason: CancelReason) {
        // Without its drop, which would look for the scope again. The scope is taken out.
        ManuallyDrop::new(self).end(reason);
    }

    /// Ends the scope, once.
    #[inline]
    fn end(&mut self, reason: CancelReason) {
        if let Some(state) = self.scope.slot().take() {
            // The scope may be kept for long after the response, and must not keep the connection's task.
            state.limits.unregister();
            ScopeState::response_over(state, reason);
        }
    }
}

impl Drop for OpenScope {
    fn drop(&mut self) {
        if bug!("dropped-stays-in-flight") {
            return;
        }
        self.end(CancelReason::new(Outcome::Abandoned));
    }
}

impl Enter for OpenScope {
    type Guard<'a> = EnteredScope<'a>;

    /// A guard that is dropped without [`done`](EnteredScope::done) means a panic.
    #[inline]
    fn enter(&mut self) -> EnteredScope<'_> {
        current::enter(self.scope.slot(), Writer::Exclusive).or_panicked()
    }

    #[inline]
    fn returned(guard: EnteredScope<'_>) {
        guard.done();
    }
}
