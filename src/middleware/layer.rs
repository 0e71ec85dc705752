use std::time::Duration;

use http::HeaderValue;
use tower_layer::Layer;

use super::{
    expose::Expose,
    response_for::{Answers, ResponseForDeadline},
    service::MemoryService,
    trust::Trust,
};
use crate::{
    account::is_installed,
    config::ConfigError,
    observe::{MemoryHandle, Observer, Recorder, warn_not_installed},
    pool::ArenaPool,
    scope::{MAX_LABEL_BYTES, MAX_ROUTES, RoutePolicy, RouteRegistry, ScopeConfig, UNMATCHED},
    sync::Arc,
    wire::deadline_header::DeadlineHeader,
};

/// How long tasks may run on, unless something else is set.
const GRACE: Duration = Duration::from_secs(5);

// `MemoryLayer::grace` and `RequestScope::spawn` say so.
const _: () = assert!(GRACE.as_millis() == 5000);

/// The most routes that can be told apart: each takes a place in several tables from the start.
const LARGEST_MAX_ROUTES: usize = 1 << 16;

// `MemoryLayer::with_max_routes` says so.
const _: () = assert!(LARGEST_MAX_ROUTES == 65_536);

/// Gives each request its own memory, and takes it back with everything the request started.
///
/// Each request that passes gets a [`RequestScope`](crate::RequestScope) in its extensions: a
/// pooled arena, a token and a deadline, and an account of what it allocates. The response gets
/// headers with the figures (see [`Expose`]), and the layer keeps them per route (see
/// [`handle`](Self::handle)).
///
/// All services made by one layer, and by its clones, share its pool and statistics. A layer inside
/// another one opens no second scope: it makes the deadline shorter if its own is, and names the
/// route.
///
/// # Examples
///
/// ```
/// use std::{convert::Infallible, time::Duration};
///
/// use http::{Request, Response};
/// use http_body_util::Full;
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
/// use tower_memory::{MemoryLayer, RequestScope};
///
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
/// # runtime.block_on(async {
/// let service = ServiceBuilder::new()
///     .layer(MemoryLayer::new().timeout(Duration::from_secs(5)))
///     .service(service_fn(|request: Request<()>| async move {
///         let scope = request.extensions().get::<RequestScope>().expect("the layer is there");
///         let mut body = scope.arena().buf();
///         body.extend_from_slice(b"hello");
///         Ok::<_, Infallible>(Response::new(Full::new(body.freeze())))
///     }));
///
/// let response = service.oneshot(Request::new(())).await?;
/// assert_eq!(response.headers()["x-arena-source"], "fresh");
/// # Ok::<_, Infallible>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
#[must_use = "a layer does nothing until it is applied to a service"]
pub struct MemoryLayer {
    pool: ArenaPool,
    routes: Arc<RouteRegistry>,
    recorder: Recorder,
    grace: Duration,
    /// All that services need; made anew by setters, so that making a service is one reference:
    /// axum makes them for each connection, and in places for each request.
    config: Arc<Config>,
}

/// What all services of one layer share.
#[derive(Debug, Clone)]
pub(super) struct Config {
    pub(super) scope: Arc<ScopeConfig>,
    pub(super) limits: RoutePolicy,
    /// `None` without any, which saves looking.
    pub(super) trust: Option<Trust>,
    pub(super) answers: Option<Arc<Answers>>,
    pub(super) expose: Expose,
    /// The label of requests whose route is not known from elsewhere.
    pub(super) route: usize,
}

impl MemoryLayer {
    /// A layer with a pool of its own, no timeout, and headers for everybody.
    ///
    /// It needs no allocator to be installed: without
    /// [`TrackingAllocator`](crate::TrackingAllocator) the `x-alloc-*` figures are absent, and with
    /// the `tracing` feature one warning says why.
    pub fn new() -> Self {
        Self::with_routes(MAX_ROUTES)
    }

    fn with_routes(max_routes: usize) -> Self {
        let pool = ArenaPool::new();
        let routes = Arc::new(RouteRegistry::new(max_routes));
        let recorder = Recorder::new(routes.capacity());
        let scope = Arc::new(ScopeConfig::new(
            pool.clone(),
            Arc::clone(&routes),
            Arc::new(recorder.clone()),
            GRACE,
            Arc::default(),
        ));
        Self {
            pool,
            routes,
            recorder,
            grace: GRACE,
            config: Arc::new(Config {
                scope,
                limits: RoutePolicy::new(),
                trust: None,
                answers: None,
                expose: Expose::default(),
                route: UNMATCHED,
            }),
        }
    }

    /// A new layer that tells `max_routes` routes apart instead of 512; the rest share `{other}`.
    ///
    /// # Errors
    ///
    /// If it is zero or above 65 536.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_memory::MemoryLayer;
    ///
    /// assert!(MemoryLayer::with_max_routes(2048).is_ok());
    /// assert!(MemoryLayer::with_max_routes(0).is_err());
    /// ```
    pub fn with_max_routes(max_routes: usize) -> Result<Self, ConfigError> {
        let limit = LARGEST_MAX_ROUTES;
        if (1..=limit).contains(&max_routes) {
            Ok(Self::with_routes(max_routes))
        } else {
            Err(ConfigError::MaxRoutes {
                asked: max_routes,
                limit,
            })
        }
    }

    /// Ends requests that have no response head after `timeout`.
    ///
    /// The token is cancelled, the handler is dropped, and the client gets `504` with a problem
    /// description (see [`deadline_response`](Self::deadline_response)). The body of a response that
    /// has begun is not limited (see [`body_timeout`](Self::body_timeout)), nor is a connection that
    /// was upgraded. A handler that is ready at its first poll is in time whatever the timeout;
    /// `Duration::MAX` is none.
    ///
    /// For some routes only, or longer for some: [`RoutePolicy`].
    ///
    /// # Panics
    ///
    /// The response future needs a tokio runtime with its time driver when the handler has to
    /// wait, as everything in `tokio::time`, and panics without one.
    pub fn timeout(self, timeout: Duration) -> Self {
        self.limits(|limits| limits.timeout(timeout))
    }

    /// Ends responses whose body is not complete `timeout` after their head.
    ///
    /// The body is dropped, and the server breaks the response off; a gRPC client gets the status
    /// `DEADLINE_EXCEEDED`. See [`ResponseBody`](super::ResponseBody) for what a body's limits do
    /// not see. Upgraded connections and the layer's own answers have no limit.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_memory::MemoryLayer;
    ///
    /// let layer = MemoryLayer::new()
    ///     .timeout(Duration::from_secs(5)) // until the head
    ///     .body_timeout(Duration::from_secs(60)) // from there to the end
    ///     .body_idle_timeout(Duration::from_secs(10)); // between two parts
    /// # let _ = layer;
    /// ```
    pub fn body_timeout(self, timeout: Duration) -> Self {
        self.limits(|limits| limits.body_timeout(timeout))
    }

    /// Ends responses for whose next part the server has waited for `timeout`.
    ///
    /// Otherwise as [`body_timeout`](Self::body_timeout). A part is a frame of the body; the time in
    /// which the server does not ask for one does not count.
    pub fn body_idle_timeout(self, timeout: Duration) -> Self {
        self.limits(|limits| limits.body_idle_timeout(timeout))
    }

    fn limits(mut self, set: impl FnOnce(RoutePolicy) -> RoutePolicy) -> Self {
        let config = Arc::make_mut(&mut self.config);
        config.limits = set(config.limits);
        self
    }

    /// Lets a header of the request make its deadline shorter.
    ///
    /// Trust a header only if whoever can reach the service may choose how long its requests run, or
    /// a proxy in front of it sets or removes the header. The deadline is the shortest of those that
    /// trusted headers, the layer and policies set; which one it was is part of the
    /// [reason](crate::cancel::CancelReason::DeadlineExceeded). If nothing is left of a header's time
    /// the handler is not run. A value that cannot be read is ignored, and counted in
    /// [`Snapshot::unparsable_deadlines`](crate::observe::Snapshot::unparsable_deadlines).
    ///
    /// In gRPC the deadline is for the whole call, so it limits the response's body, too.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_memory::{MemoryLayer, deadline_header::DeadlineHeader};
    ///
    /// let layer = MemoryLayer::new()
    ///     .timeout(Duration::from_secs(5)) // at most
    ///     .trust_deadline(DeadlineHeader::GrpcTimeout)
    ///     .deadline_margin(Duration::from_millis(10));
    /// # let _ = layer;
    /// ```
    pub fn trust_deadline(self, header: DeadlineHeader) -> Self {
        self.trust(|trust| trust.add(header))
    }

    /// Lets the header `x-request-start` say when the request came in, so that the time it has spent
    /// in a queue is taken off: off the deadlines in trusted headers, and off the timeouts of this
    /// layer and of policies.
    ///
    /// A start in the future counts as now. The value comes from another machine's clock: see
    /// [`RequestStart`](crate::deadline_header::RequestStart). Otherwise as
    /// [`trust_deadline`](Self::trust_deadline).
    pub fn trust_request_start(self) -> Self {
        self.trust(Trust::add_request_start)
    }

    /// Takes `margin` off the deadlines that trusted headers say (zero unless set), so that the
    /// answer arrives before the client gives up.
    ///
    /// Clients, and tonic's server around all layers, end a call at the same deadline and without
    /// this answer.
    pub fn deadline_margin(self, margin: Duration) -> Self {
        self.trust(|trust| trust.set_margin(margin))
    }

    fn trust(mut self, set: impl FnOnce(&mut Trust)) -> Self {
        let config = Arc::make_mut(&mut self.config);
        set(config.trust.get_or_insert_default());
        self
    }

    /// How to answer requests whose deadline has passed.
    ///
    /// Unless set: `504`, or `408` if the request's body had not been received (which a
    /// [`RequestBodyLayer`](super::RequestBodyLayer) finds out), with a problem description. Calls of
    /// gRPC are always answered as gRPC has it: HTTP status 200, and `grpc-status` 4.
    pub fn deadline_response(self, response: impl ResponseForDeadline) -> Self {
        self.answers(|answers| answers.deadline = Some(Arc::new(response)))
    }

    /// Tells clients when to try again: `retry-after` in the default answer, in whole seconds
    /// ([RFC 9110, 10.2.3](https://www.rfc-editor.org/rfc/rfc9110#section-10.2.3)).
    ///
    /// Not where it does not apply: to a `408`, whose client may repeat the request at once, to a
    /// deadline that the request itself had set, and in gRPC.
    pub fn retry_after(self, delay: Duration) -> Self {
        self.answers(|answers| answers.retry_after = Some(delay))
    }

    fn answers(mut self, set: impl FnOnce(&mut Answers)) -> Self {
        let config = Arc::make_mut(&mut self.config);
        set(Arc::make_mut(config.answers.get_or_insert_default()));
        self
    }

    /// Who sees the response headers ([`Expose::Always`] unless set).
    pub fn expose(mut self, expose: Expose) -> Self {
        Arc::make_mut(&mut self.config).expose = expose;
        self
    }

    /// The pool that arenas come from (one with default limits unless set).
    ///
    /// Layers may share a pool.
    pub fn pool(mut self, pool: ArenaPool) -> Self {
        self.pool = pool;
        self.rebuilt()
    }

    /// How long tasks of a request may run on after it has ended (5 s unless set).
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self.rebuilt()
    }

    /// Also tells `observer` of each request that is over.
    pub fn observe(mut self, observer: impl Observer) -> Self {
        self.recorder.add(observer);
        self.rebuilt()
    }

    /// The route of requests that no router has named, instead of `{unmatched}`.
    ///
    /// For services without axum; there the matched path is found by itself.
    ///
    /// # Errors
    ///
    /// If the label is empty, longer than 256 bytes, or has characters that a header value may not
    /// have.
    pub fn route(mut self, label: &str) -> Result<Self, ConfigError> {
        let fits = (1..=MAX_LABEL_BYTES).contains(&label.len());
        if !fits || HeaderValue::from_str(label).is_err() {
            return Err(ConfigError::RouteLabel {
                label: label.to_owned(),
                limit: MAX_LABEL_BYTES,
            });
        }
        Arc::make_mut(&mut self.config).route = self.routes.number(label);
        Ok(self)
    }

    /// A handle to the layer's statistics.
    ///
    /// Take it after the last setter: a pool, grace or observer set later is not seen through it.
    #[must_use]
    pub fn handle(&self) -> MemoryHandle {
        MemoryHandle::new(Arc::clone(&self.config.scope), self.recorder.clone())
    }

    /// Makes what the scopes share anew, with the same statistics.
    fn rebuilt(mut self) -> Self {
        let gauges = Arc::clone(&self.config.scope.gauges);
        Arc::make_mut(&mut self.config).scope = Arc::new(ScopeConfig::new(
            self.pool.clone(),
            Arc::clone(&self.routes),
            Arc::new(self.recorder.clone()),
            self.grace,
            gauges,
        ));
        self
    }
}

impl Default for MemoryLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for MemoryLayer {
    type Service = MemoryService<S>;

    fn layer(&self, inner: S) -> MemoryService<S> {
        if !is_installed() && !matches!(self.config.expose, Expose::Never) {
            warn_not_installed();
        }
        MemoryService::new(inner, Arc::clone(&self.config))
    }
}
