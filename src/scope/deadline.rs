use std::time::Duration;

use tokio::time::Instant;

use super::handle::RequestScope;
use super::policy::RoutePolicy;
use crate::deadline::{DeadlineSource, Limits};

impl RequestScope {
    /// Returns when the response head, or the response of a call with a shorter limit, is due or, once there is one, the end of its body. `None` if
    /// there is no limit.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.limits().visible_deadline().map(|(at, _)| at)
    }

    /// Returns the source of the [`deadline`](Self::deadline).
    #[must_use]
    pub fn deadline_source(&self) -> Option<DeadlineSource> {
        self.limits().visible_deadline().map(|(_, source)| source)
    }

    /// Returns the time left until the [`deadline`](Self::deadline), zero if it has passed.
    #[must_use]
    pub fn remaining(&self) -> Option<Duration> {
        self.deadline()
            .map(|at| at.saturating_duration_since(Instant::now()))
    }

    /// Sets the deadline to `timeout` from now, unless there is an earlier one.
    ///
    /// It takes effect at once, even if a task sets it while the handler waits.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_memory::RequestScope;
    ///
    /// async fn handler(scope: RequestScope) {
    ///     scope.shorten_deadline(Duration::from_millis(200));
    ///     assert!(scope.remaining() <= Some(Duration::from_millis(200)));
    /// }
    /// ```
    pub fn shorten_deadline(&self, timeout: Duration) {
        self.limits().shorten(timeout);
    }

    /// Sets the deadline to `timeout` from now, if there is an earlier one.
    ///
    /// For work that may go on as long as it makes progress. A deadline from a trusted request header
    /// is not extended. Returns whether the handler has `timeout` from now on: `false` if such a
    /// header allows less, or the request is cancelled.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_memory::RequestScope;
    ///
    /// async fn copy(scope: RequestScope, chunks: Vec<Vec<u8>>) {
    ///     for chunk in chunks {
    ///         if !scope.extend_deadline(Duration::from_secs(5)) {
    ///             return; // the client will not wait for it
    ///         }
    ///         drop(chunk); // write it somewhere
    ///     }
    /// }
    /// ```
    #[expect(clippy::must_use_candidate, reason = "called for what it does")]
    pub fn extend_deadline(&self, timeout: Duration) -> bool {
        self.limits().extend(timeout) && !self.is_cancelled()
    }

    /// Removes the deadline, unless a trusted request header set it.
    ///
    /// For a handler that finds out late that it needs more time. For a whole route use
    /// [`RoutePolicy::disable_timeout`]. A deadline that is set later applies. The deadline of the body
    /// starts with the response head, and can be removed while the body is produced.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_memory::RequestScope;
    ///
    /// async fn handler(scope: RequestScope) {
    ///     scope.clear_deadline();
    ///     assert_eq!(scope.deadline(), None);
    /// }
    /// ```
    pub fn clear_deadline(&self) {
        self.limits().clear_deadline();
    }

    /// Applies a policy to this request, from now on.
    ///
    /// Does what a [`RoutePolicy`] layer does, for services that choose by something other than a route.
    /// Limits of the body apply if there is no response head yet.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_memory::{RoutePolicy, RequestScope};
    ///
    /// const REPORT: RoutePolicy = RoutePolicy::new()
    ///     .disable_timeout()
    ///     .timeout(Duration::from_secs(60));
    ///
    /// fn choose<B>(request: http::Request<B>) -> http::Request<B> {
    ///     if let Some(scope) = request.extensions().get::<RequestScope>() {
    ///         if request.uri().path() == "/reports.Reports/Make" {
    ///             scope.apply_policy(&REPORT);
    ///         }
    ///     }
    ///     request
    /// }
    /// ```
    pub fn apply_policy(&self, policy: &RoutePolicy) {
        if let Some(priority) = policy.priority {
            self.set_route_priority(priority);
        }
        self.apply_budget(policy);
        self.limits().apply(&policy.times, DeadlineSource::Policy);
    }

    /// The request's start and limits.
    #[inline]
    pub(crate) fn limits(&self) -> &Limits {
        &self.state().limits
    }
}
