use std::time::Duration;

use crate::{
    deadline::{Rule, TimeRules},
    limit::Priority,
};

/// Limits for some requests of a layer: part of an application, a route, or one method of it.
///
/// A [`MemoryLayer`](crate::MemoryLayer) sets the limits of all its requests, and policies inside it
/// change them. An inner limit can only be shorter than an outer one, unless the policy disables the
/// outer one first. Deadlines from trusted request headers always stay.
///
/// The limits are those of the call inside of the policy, and end with it. A policy is a [`Layer`](tower_layer::Layer), around a route, a method, or any service inside a
/// `MemoryLayer`. Around a `MemoryLayer` it counts as an outer limit. Services that choose a policy
/// by other means use [`RequestScope::apply_policy`](crate::RequestScope::apply_policy).
///
/// # Examples
///
#[cfg_attr(feature = "axum", doc = "```")]
#[cfg_attr(not(feature = "axum"), doc = "```text")]
/// use std::time::Duration;
///
/// use axum::{Router, body::Body, handler::Handler, http::Request, routing::get};
/// use tower::ServiceExt;
/// use tower_memory::{MemoryLayer, RoutePolicy};
///
/// async fn search() {
///     tokio::time::sleep(Duration::from_secs(3)).await;
/// }
/// async fn upload() {
///     tokio::time::sleep(Duration::from_secs(30)).await;
/// }
/// async fn events() {}
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let second = Duration::from_secs(1);
/// // Shorter than the layer's timeout.
/// let quick = RoutePolicy::new().timeout(second);
/// // Longer, so the layer's timeout is disabled first.
/// let slow = RoutePolicy::new().disable_timeout().timeout(60 * second);
/// // A stream that may go on for ever, but not in silence.
/// let stream = RoutePolicy::new().disable_body_timeout().body_idle_timeout(30 * second);
///
/// let app: Router = Router::new()
///     .route("/search", get(search).layer(quick)) // each method of the route so far
///     .route("/files", get(search).post(upload.layer(slow))) // one method
///     .route("/events", get(events).layer(stream))
///     .layer(MemoryLayer::builder().timeout(5 * second).body_timeout(20 * second).build()?);
///
/// for (method, path, status) in [
///     ("GET", "/search", 504),
///     ("GET", "/files", 200),
///     ("POST", "/files", 200),
///     ("GET", "/events", 200),
/// ] {
///     let request = Request::builder().method(method).uri(path).body(Body::empty())?;
///     assert_eq!(app.clone().oneshot(request).await?.status(), status, "{method} {path}");
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[must_use = "a policy does nothing until it is applied"]
pub struct RoutePolicy {
    pub(crate) times: TimeRules,
    pub(crate) priority: Option<Priority>,
    pub(crate) request_limit: Rule<usize>,
}

impl RoutePolicy {
    /// Creates a policy that changes nothing.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_memory::RoutePolicy;
    ///
    /// assert_eq!(RoutePolicy::new(), RoutePolicy::default());
    /// ```
    pub const fn new() -> Self {
        Self {
            times: TimeRules::NOTHING,
            priority: None,
            request_limit: Rule::NOTHING,
        }
    }

    /// Ends requests that have no response head `timeout` after they reach the policy.
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.times.timeout.limit = Some(timeout);
        self
    }

    /// Disables the outer timeouts for the response head.
    pub const fn disable_timeout(mut self) -> Self {
        self.times.timeout.disable = true;
        self
    }

    /// Ends responses whose body is not complete `timeout` after their head.
    pub const fn body_timeout(mut self, timeout: Duration) -> Self {
        self.times.body_timeout.limit = Some(timeout);
        self
    }

    /// Disables the outer limits for whole bodies.
    pub const fn disable_body_timeout(mut self) -> Self {
        self.times.body_timeout.disable = true;
        self
    }

    /// Ends responses of whose body the server has taken no frame for `timeout`.
    pub const fn body_idle_timeout(mut self, timeout: Duration) -> Self {
        self.times.body_idle_timeout.limit = Some(timeout);
        self
    }

    /// Disables the outer limits for idle bodies.
    pub const fn disable_body_idle_timeout(mut self) -> Self {
        self.times.body_idle_timeout.disable = true;
        self
    }

    /// Ends requests for whose next frame of the request's body the handler has waited `timeout`. It
    /// needs a [`RequestBodyLayer`](crate::middleware::RequestBodyLayer).
    pub const fn request_body_idle_timeout(mut self, timeout: Duration) -> Self {
        self.times.request_body_idle_timeout.limit = Some(timeout);
        self
    }

    /// Sets the priority of requests when memory is tight
    /// ([`process_limit`](crate::middleware::MemoryLayerBuilder::process_limit)).
    ///
    /// Around a layer it holds for each request. Inside of one, a request has been admitted before it reaches
    /// the policy, so it is the priority of the route's later requests.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_memory::{RoutePolicy, limit::Priority};
    ///
    /// let reports = RoutePolicy::new().priority(Priority::Low);
    /// # let _ = reports;
    /// ```
    pub const fn priority(mut self, priority: Priority) -> Self {
        self.priority = Some(priority);
        self
    }

    /// Disables the outer limits for idle request bodies.
    pub const fn disable_request_body_idle_timeout(mut self) -> Self {
        self.times.request_body_idle_timeout.disable = true;
        self
    }

    /// Ends requests that hold more than `bytes` during the call, which includes its response's body.
    ///
    /// What the request held before the call counts. See
    /// [`MemoryLayerBuilder::request_limit`](crate::middleware::MemoryLayerBuilder::request_limit).
    pub const fn request_limit(mut self, bytes: usize) -> Self {
        self.request_limit.limit = Some(bytes);
        self
    }

    /// Disables the outer limits for what a request holds.
    pub const fn disable_request_limit(mut self) -> Self {
        self.request_limit.disable = true;
        self
    }

    /// This policy and an outer one combined.
    pub(crate) fn inside(self, outer: Self) -> Self {
        Self {
            times: self.times.inside(outer.times),
            priority: self.priority.or(outer.priority),
            request_limit: self.request_limit.inside(outer.request_limit),
        }
    }
}
