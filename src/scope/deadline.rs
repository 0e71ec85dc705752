use std::{pin::Pin, task::Context, time::Duration};

use tokio::time::Instant;

use super::handle::RequestScope;
use crate::deadline::{DeadlineSource, DeadlineTimer, RequestTimes, RoutePolicy};

impl RequestScope {
    /// When the response head is due or, once there is one, the end of its body. `None` without a
    /// limit.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline_and_source().map(|(at, _)| at)
    }

    /// The source of the [`deadline`](Self::deadline).
    #[must_use]
    pub fn deadline_source(&self) -> Option<DeadlineSource> {
        self.deadline_and_source().map(|(_, source)| source)
    }

    /// The time left until the [`deadline`](Self::deadline), zero if it has passed.
    #[must_use]
    pub fn remaining(&self) -> Option<Duration> {
        self.deadline()
            .map(|at| at.saturating_duration_since(Instant::now()))
    }

    /// Sets the deadline to `timeout` from now, unless there is an earlier one.
    ///
    /// It takes effect at once, also if a task sets it while the handler waits.
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
        self.state().limits.shorten(after, DeadlineSource::Handler);
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
        let state = self.state();
        let after = self.age().saturating_add(timeout);
        state.limits.extend(after, DeadlineSource::Handler);
        let asked = state.start.checked_add(after);
        let reached = match (self.deadline(), asked) {
            (None, _) => true,
            (Some(at), Some(asked)) => asked <= at,
            (Some(_), None) => false,
        };
        reached && !self.is_cancelled()
    }

    /// Removes the deadline, unless a trusted request header set it.
    ///
    /// For a handler that finds out late that it needs more time; for a whole route use
    /// [`RoutePolicy::disable_timeout`]. A deadline that is set later applies again. That of the body
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
        self.state().limits.clear_deadline();
    }

    /// Applies a policy to this request, from now on.
    ///
    /// As a [`RoutePolicy`] layer does, for services that choose by something other than a route. Limits
    /// of the body apply if there is no response head yet.
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
        self.apply(policy, DeadlineSource::Policy);
    }

    #[inline]
    fn deadline_and_source(&self) -> Option<(Instant, DeadlineSource)> {
        let state = self.state();
        state.limits.deadline(state.start)
    }

    /// The source of the deadline, if it has passed.
    #[inline]
    pub(crate) fn expired(&self) -> Option<DeadlineSource> {
        let state = self.state();
        state.limits.expired(state.start)
    }

    /// Polls the deadline for a future that is pending. Returns the source of one that has passed.
    pub(crate) fn poll_deadline(
        &self,
        timer: Pin<&mut DeadlineTimer>,
        cx: &mut Context<'_>,
    ) -> Option<DeadlineSource> {
        let state = self.state();
        timer.poll(&state.limits, state.start, cx)
    }

    /// Applies the limits of a new request: its headers, the policy around the layer, and the layer.
    /// Returns the source of a deadline that has passed already.
    pub(crate) fn begin(
        &self,
        times: Option<RequestTimes>,
        outer: Option<&RoutePolicy>,
        layer: &RoutePolicy,
    ) -> Option<DeadlineSource> {
        let limits = &self.state().limits;
        let now = Duration::ZERO;
        let times = times.and_then(|times| limits.apply_times(times, now));
        let outer =
            outer.and_then(|policy| limits.apply_policy(policy, now, DeadlineSource::Policy));
        let layer = limits.apply_policy(layer, now, DeadlineSource::Layer);
        times.or(outer).or(layer)
    }

    /// Applies the limits of a layer inside the one that opened the scope.
    pub(crate) fn begin_inner(
        &self,
        times: Option<RequestTimes>,
        layer: &RoutePolicy,
    ) -> Option<DeadlineSource> {
        let times = times.and_then(|times| self.state().limits.apply_times(times, self.age()));
        times.or(self.apply(layer, DeadlineSource::Layer))
    }

    /// Applies a policy from now on. Returns its source if the request had spent the time it allows in
    /// a queue.
    pub(crate) fn apply(
        &self,
        policy: &RoutePolicy,
        source: DeadlineSource,
    ) -> Option<DeadlineSource> {
        let limits = &self.state().limits;
        let passed = limits.apply_policy(policy, self.age(), source);
        limits.moved();
        passed
    }

    /// Time since the service was called.
    pub(crate) fn age(&self) -> Duration {
        self.state().start.elapsed()
    }

    /// Records whether the handler waits for more of the request's body.
    pub(crate) fn set_wants_body(&self, wants: bool) {
        self.state().limits.set_wants_body(wants);
    }

    pub(crate) fn wants_body(&self) -> bool {
        self.state().limits.wants_body()
    }
}
