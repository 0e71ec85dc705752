use std::time::Duration;

use tokio::time::Instant;

use super::{handle::RequestScope, policy::RoutePolicy};
use crate::cancel::DeadlineSource;

impl RequestScope {
    /// When the request must have its response head or, once there is one, its whole body; `None`
    /// without a limit.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline_and_source().map(|(at, _)| at)
    }

    /// Who has set the [`deadline`](Self::deadline) that is in force.
    #[must_use]
    pub fn deadline_source(&self) -> Option<DeadlineSource> {
        self.deadline_and_source().map(|(_, source)| source)
    }

    /// Time left until the [`deadline`](Self::deadline); zero if it has passed.
    #[must_use]
    pub fn remaining(&self) -> Option<Duration> {
        self.deadline()
            .map(|at| at.saturating_duration_since(Instant::now()))
    }

    /// Sets the deadline to `timeout` from now, unless there is an earlier one.
    ///
    /// It holds at once, also if it is set elsewhere than in the handler (in a task) while the
    /// handler waits for something else.
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
        let after = self.age().saturating_add(timeout);
        let deadline = &self.inner().limits.deadline;
        deadline.tighten(after, DeadlineSource::Handler);
        self.deadline_moved();
    }

    /// Sets the deadline to `timeout` from now, if there is an earlier one.
    ///
    /// For work that may go on as long as it gets ahead. Not beyond what the request itself asks
    /// for: a deadline that a trusted request header has set stays. Returns whether the handler has
    /// `timeout` from now on; `false` if such a header says otherwise, or the request has been
    /// cancelled already.
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
    /// # let _ = copy;
    /// ```
    #[expect(clippy::must_use_candidate, reason = "called for what it does")]
    pub fn extend_deadline(&self, timeout: Duration) -> bool {
        let inner = self.inner();
        let after = self.age().saturating_add(timeout);
        let deadline = &inner.limits.deadline;
        // No wake: the timer that is armed looks again when it fires.
        deadline.extend(after, DeadlineSource::Handler);
        let asked = inner.start.checked_add(after);
        let reached = match (deadline.at(inner.start), asked) {
            (None, _) => true,
            (Some((at, _)), Some(asked)) => asked <= at,
            (Some(_), None) => false,
        };
        reached && !self.is_cancelled()
    }

    /// Lifts the deadline, except what a trusted request header has set.
    ///
    /// For a handler that finds out late that it will take its time; for a whole route there is
    /// [`RoutePolicy::disable_timeout`]. A deadline that is set later holds again: that of the body
    /// begins with the response head, and is lifted while the body is made.
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
        self.inner().limits.deadline.lift();
    }

    /// Applies the limits of a policy to this request, from now on.
    ///
    /// The same as a [`RoutePolicy`] layer that is reached now, for services that choose by
    /// something else than a route. Limits of the body hold if there is no response head yet.
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
    /// # let _ = choose::<()>;
    /// ```
    pub fn apply_policy(&self, policy: &RoutePolicy) {
        self.apply(policy, DeadlineSource::Policy);
    }

    #[inline]
    pub(crate) fn deadline_and_source(&self) -> Option<(Instant, DeadlineSource)> {
        let inner = self.inner();
        inner.limits.deadline.at(inner.start)
    }
}
