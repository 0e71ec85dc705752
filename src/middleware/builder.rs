use std::{fmt, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Response};

use super::{
    config::Config, deadline_context::DeadlineContext, deadline_response::DeadlineResponses,
    draining::Draining, expose::Expose, layer::MemoryLayer, trust::Trust,
};
use crate::{
    config::ConfigError,
    deadline::RoutePolicy,
    housekeeping::{Housekeeping, ManualClock},
    observe::{MemoryHandle, Observer, Recorder},
    pool::ArenaPool,
    route::{MAX_LABEL_BYTES, MAX_ROUTES, RouteRegistry, UNMATCHED},
    scope::{LayerState, ScopeReport},
    sync::Arc,
    wire::deadline_header::DeadlineHeader,
};

const GRACE: Duration = Duration::from_secs(5);

// `MemoryLayerBuilder::grace_period` and `RequestScope::spawn` state this default.
const _: () = assert!(GRACE.as_millis() == 5000);

const HOLD_TIMEOUT: Duration = Duration::from_secs(10);

// `MemoryLayerBuilder::hold_timeout` and `RequestScope::hold` state this default.
const _: () = assert!(HOLD_TIMEOUT.as_secs() == 10);

/// The largest `max_routes`: every route has a slot in several tables from the start.
const LARGEST_MAX_ROUTES: usize = 1 << 16;

// `MemoryLayerBuilder::max_routes` states this limit.
const _: () = assert!(LARGEST_MAX_ROUTES == 65_536);

/// Settings of a [`MemoryLayer`].
///
/// Made by [`MemoryLayer::builder`]. Nothing is shared or started before
/// [`build`](Self::build), so a clone of a builder makes an independent layer.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use tower_memory::{ArenaPool, Expose, MemoryLayer, ScopeReport};
///
/// let pool = ArenaPool::builder().max_total_bytes(16 << 20).build()?;
/// let memory = MemoryLayer::builder()
///     .timeout(Duration::from_secs(5))
///     .pool(pool)
///     .observe(|report: &ScopeReport| println!("{report}"))
///     .expose(Expose::when(|request| request.headers.contains_key("x-debug")))
///     .build()?;
///
/// let handle = memory.handle();
/// // let app = Router::new().layer(memory);
/// assert_eq!(handle.snapshot().in_flight, 0);
/// # Ok::<(), tower_memory::ConfigError>(())
/// ```
#[derive(Clone)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct MemoryLayerBuilder {
    pool: Option<ArenaPool>,
    housekeeping: Housekeeping,
    observers: Vec<Observer>,
    grace: Duration,
    max_routes: usize,
    route: Option<String>,
    limits: RoutePolicy,
    trust: Option<Trust>,
    responses: DeadlineResponses,
    expose: Expose,
    pub(super) draining: Draining,
    pub(super) hold_timeout: Duration,
}

impl MemoryLayer {
    /// Creates a layer with the default settings: no timeout, a pool of its own, and response headers in
    /// debug builds only ([`Expose::DebugBuilds`]).
    ///
    /// It needs no allocator to be installed: without
    /// [`TrackingAllocator`](crate::TrackingAllocator) the `x-alloc-*` figures are absent, and with
    /// the `tracing` feature one warning says why.
    pub fn new() -> Self {
        MemoryLayerBuilder::new().into_layer()
    }

    /// Creates a layer with this [timeout](MemoryLayerBuilder::timeout) and otherwise the default settings.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_memory::MemoryLayer;
    ///
    /// let layer = MemoryLayer::with_timeout(Duration::from_secs(5));
    /// assert_eq!(layer.handle().snapshot().in_flight, 0);
    /// ```
    pub fn with_timeout(timeout: Duration) -> Self {
        MemoryLayerBuilder::new().timeout(timeout).into_layer()
    }

    /// Starts a layer with other settings.
    pub const fn builder() -> MemoryLayerBuilder {
        MemoryLayerBuilder::new()
    }
}

impl Default for MemoryLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryLayerBuilder {
    const fn new() -> Self {
        Self {
            pool: None,
            housekeeping: Housekeeping::Process,
            observers: Vec::new(),
            grace: GRACE,
            max_routes: MAX_ROUTES,
            route: None,
            limits: RoutePolicy::new(),
            trust: None,
            responses: DeadlineResponses::new(),
            expose: Expose::DebugBuilds,
            draining: Draining::new(),
            hold_timeout: HOLD_TIMEOUT,
        }
    }

    /// Ends requests that have no response head after `timeout` (no limit by default).
    ///
    /// The token is cancelled, the handler is dropped, and the client gets `504` with a problem
    /// description (see [`deadline_response`](Self::deadline_response)). A handler that is ready at
    /// its first poll is always in time. `Duration::MAX` is no limit.
    ///
    /// The limit covers the time to the head. Bodies have [limits](Self::body_timeout) of their own,
    /// upgraded connections have none. For other limits on some routes see [`RoutePolicy`].
    ///
    /// The [housekeeping](crate::housekeeping) watches the time, so no runtime needs its timers for it.
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.limits = self.limits.timeout(timeout);
        self
    }

    /// Ends responses whose body is not complete `timeout` after their head.
    ///
    /// The body is dropped, and the server aborts the response. A gRPC client gets the status
    /// `DEADLINE_EXCEEDED`. This needs no poll by the server: a client that reads nothing keeps no body, see
    /// [`ResponseBody`](super::ResponseBody). Upgraded connections and the layer's own responses have no
    /// limit. A body with limits takes two allocations.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_memory::MemoryLayer;
    ///
    /// let layer = MemoryLayer::builder()
    ///     .timeout(Duration::from_secs(5)) // until the head
    ///     .body_timeout(Duration::from_secs(60)) // from there to the end
    ///     .body_idle_timeout(Duration::from_secs(10)) // between two parts
    ///     .build()?;
    /// # let _ = layer;
    /// # Ok::<(), tower_memory::ConfigError>(())
    /// ```
    pub const fn body_timeout(mut self, timeout: Duration) -> Self {
        self.limits = self.limits.body_timeout(timeout);
        self
    }

    /// Ends responses of whose body the server has taken no part for `timeout`.
    ///
    /// Otherwise as [`body_timeout`](Self::body_timeout). A part is a frame of the body. The time counts from
    /// the head or the last part, whether the body is silent or the server asks for nothing because the client
    /// does not read. So a client must be able to receive a part within that time.
    pub const fn body_idle_timeout(mut self, timeout: Duration) -> Self {
        self.limits = self.limits.body_idle_timeout(timeout);
        self
    }

    /// Ends requests for whose next part of the request's body the handler has waited for `timeout`.
    ///
    /// The time counts from the handler's first wait after the last part. It needs a
    /// [`RequestBodyLayer`](super::RequestBodyLayer). The handler is dropped and the client gets `408`;
    /// if there is a response head already, the response's body is cut off as by
    /// [`body_timeout`](Self::body_timeout). So an upload may take as long as it
    /// needs, as long as it goes on:
    ///
    /// # Examples
    ///
    /// ```
    /// use std::{convert::Infallible, time::Duration};
    ///
    /// use bytes::Bytes;
    /// use http::{Request, Response};
    /// use http_body_util::{BodyExt, Full, StreamBody};
    /// use tower::{ServiceBuilder, ServiceExt, service_fn};
    /// use tower_memory::{MemoryLayer, middleware::{RequestBody, RequestBodyLayer}};
    ///
    /// type Upload = StreamBody<futures_util::stream::Pending<Result<http_body::Frame<Bytes>, Infallible>>>;
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let layer = MemoryLayer::builder().request_body_idle_timeout(Duration::from_secs(10)).build()?;
    /// let service = ServiceBuilder::new().layer(layer).layer(RequestBodyLayer::new()).service(service_fn(
    ///     |request: Request<RequestBody<Upload>>| async move {
    ///         let body = request.into_body().collect().await.expect("nothing fails here").to_bytes();
    ///         Ok::<_, Infallible>(Response::new(Full::new(body)))
    ///     },
    /// ));
    /// let silent = StreamBody::new(futures_util::stream::pending());
    /// let response = service.oneshot(Request::post("/").body(silent)?).await?;
    /// assert_eq!(response.status(), 408);
    /// # Ok(())
    /// # }
    /// ```
    pub const fn request_body_idle_timeout(mut self, timeout: Duration) -> Self {
        self.limits = self.limits.request_body_idle_timeout(timeout);
        self
    }

    /// Sets which clients see the response headers ([`Expose::DebugBuilds`] by default).
    pub fn expose(mut self, expose: Expose) -> Self {
        self.expose = expose;
        self
    }

    /// Takes arenas from this pool (by default from one of the layer's own, with default limits).
    ///
    /// Layers may share a pool.
    pub fn pool(mut self, pool: ArenaPool) -> Self {
        self.pool = Some(pool);
        self
    }

    /// Adds an observer: a function that is called once for each request, after its scope has closed.
    ///
    /// Observers do not delay requests. Reports wait in a queue, and within about 10 ms the
    /// [housekeeping](crate::housekeeping) thread calls the observers with them, in the order in which
    /// the scopes of the layer closed. At most 4096 reports wait; further ones are dropped and counted in
    /// [`Snapshot::dropped_reports`](crate::observe::Snapshot::dropped_reports). An observer may take some
    /// time, but the same thread trims pools and ends tasks: it must not wait for long. A
    /// [shutdown](crate::MemoryHandle::shutdown) and
    /// [`flush_observers`](crate::MemoryHandle::flush_observers) call observers with what waits; a
    /// program that ends without either loses that.
    ///
    /// # Panics
    ///
    /// A panic in an observer is caught and counted in [`Snapshot::observer_panics`](crate::observe::Snapshot::observer_panics). It
    /// affects neither the request nor other observers. With `panic = "abort"` it ends the process.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::{convert::Infallible, sync::{Arc, Mutex}};
    ///
    /// use http::{Request, Response};
    /// use http_body_util::Empty;
    /// use tower::{Layer, ServiceExt, service_fn};
    /// use tower_memory::{MemoryLayer, ScopeReport};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let log = Arc::new(Mutex::new(Vec::new()));
    /// let layer = MemoryLayer::builder().observe({
    ///     let log = Arc::clone(&log);
    ///     move |report: &ScopeReport| log.lock().unwrap().push(report.to_string())
    /// }).build()?;
    /// let service = layer.layer(service_fn(|_: Request<()>| async {
    ///     Ok::<_, Infallible>(Response::new(Empty::<bytes::Bytes>::new()))
    /// }));
    /// let response = service.oneshot(Request::new(())).await?;
    /// layer.handle().flush_observers();
    /// assert!(log.lock().unwrap().is_empty(), "the body has not ended");
    /// drop(response);
    /// layer.handle().flush_observers();
    /// assert!(log.lock().unwrap()[0].starts_with("GET {unmatched}: 200 completed after "));
    /// # Ok(())
    /// # }
    /// ```
    pub fn observe(mut self, observer: impl Fn(&ScopeReport) + Send + Sync + 'static) -> Self {
        self.observers.push(Arc::new(observer));
        self
    }

    /// Sets how long the tasks of a request may run after it has ended (5 s by default).
    pub const fn grace_period(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Sets the label of requests that no router has labelled (`{unmatched}` by default).
    ///
    /// For services without axum; with axum the label is the matched path.
    pub fn route(mut self, label: impl Into<String>) -> Self {
        self.route = Some(label.into());
        self
    }

    /// Sets how many routes are counted separately, from 1 to 65 536 (512 by default). The others share
    /// the label `{other}`.
    pub const fn max_routes(mut self, max_routes: usize) -> Self {
        self.max_routes = max_routes;
        self
    }

    /// Lets a header of the request make its deadline shorter.
    ///
    /// Trust a header only if every client may choose how long its requests run, or if a proxy in front
    /// of the service sets or removes the header. The earliest deadline of trusted headers, layer and
    /// policies applies, and the [reason](crate::cancel::CancelReason::deadline_source) records its
    /// source. If no time is left, the handler does not run. A value that cannot be parsed is ignored,
    /// and counted in
    /// [`Snapshot::unparsable_deadlines`](crate::observe::Snapshot::unparsable_deadlines).
    ///
    /// A gRPC deadline is for the whole call, so it also limits the response's body.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_memory::{MemoryLayer, deadline_header::DeadlineHeader};
    ///
    /// let layer = MemoryLayer::builder()
    ///     .timeout(Duration::from_secs(5)) // at most
    ///     .trust_deadline(DeadlineHeader::GrpcTimeout)
    ///     .deadline_margin(Duration::from_millis(10))
    ///     .build()?;
    /// # let _ = layer;
    /// # Ok::<(), tower_memory::ConfigError>(())
    /// ```
    pub fn trust_deadline(mut self, header: DeadlineHeader) -> Self {
        self.trust.get_or_insert_default().add(header);
        self
    }

    /// Subtracts `margin` from deadlines in trusted headers (zero by default), so that the response
    /// arrives before the client's own deadline.
    ///
    /// Clients, and tonic's server around all layers, end a call at that deadline without reading this
    /// response.
    pub fn deadline_margin(mut self, margin: Duration) -> Self {
        self.trust.get_or_insert_default().margin = margin;
        self
    }

    /// Trusts `x-request-start`, the time at which a proxy received the request, so that time in a
    /// queue counts towards the deadlines in trusted headers and the timeouts of this layer and of
    /// policies.
    ///
    /// The value comes from another machine's clock: see
    /// [`deadline_header`](crate::deadline_header#x-request-start).
    pub fn trust_request_start(mut self) -> Self {
        self.trust.get_or_insert_default().request_start = true;
        self
    }

    /// Sets the longest time in a queue that `x-request-start` is believed (60 s by default).
    ///
    /// A longer one means that a clock is wrong. Such a value is ignored, and counted in
    /// [`Snapshot::implausible_request_starts`](crate::observe::Snapshot::implausible_request_starts).
    /// Set it to the time after which the proxy itself gives up.
    pub fn max_queue_time(mut self, max: Duration) -> Self {
        self.trust.get_or_insert_default().max_queue_time = max;
        self
    }

    /// Sets the response to requests whose deadline has passed.
    ///
    /// By default it is `504` with a problem description, or `408` if the request's body was not
    /// complete (which needs a [`RequestBodyLayer`](super::RequestBodyLayer)). gRPC calls always get
    /// HTTP status 200 and `grpc-status` 4.
    ///
    /// The function must not block.
    ///
    /// # Panics
    ///
    /// A panic in it is a panic of the request: it reaches the server, as the handler's would.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::{convert::Infallible, time::Duration};
    ///
    /// use http::{Request, Response, StatusCode};
    /// use http_body_util::Empty;
    /// use tower::{Layer, ServiceExt, service_fn};
    /// use tower_memory::{MemoryLayer, middleware::DeadlineContext};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let layer = MemoryLayer::builder()
    ///     .timeout(Duration::from_millis(10))
    ///     .deadline_response(|expired: &DeadlineContext<'_>| {
    ///         if expired.is_body_missing() {
    ///             expired.response() // 408, as it would be
    ///         } else {
    ///             expired.problem(StatusCode::SERVICE_UNAVAILABLE)
    ///         }
    ///     })
    ///     .build()?;
    /// let service = layer.layer(service_fn(|_: Request<()>| {
    ///     std::future::pending::<Result<Response<Empty<bytes::Bytes>>, Infallible>>()
    /// }));
    /// assert_eq!(service.oneshot(Request::new(())).await?.status(), 503);
    /// # Ok(())
    /// # }
    /// ```
    pub fn deadline_response(
        mut self,
        response: impl Fn(&DeadlineContext<'_>) -> Response<Bytes> + Send + Sync + 'static,
    ) -> Self {
        self.responses.deadline = Some(Arc::new(response));
        self
    }

    /// Adds `retry-after` to the default deadline response, in whole seconds
    /// ([RFC 9110, 10.2.3](https://www.rfc-editor.org/rfc/rfc9110#section-10.2.3)); not by default.
    ///
    /// It is left out of a `408`, whose client may repeat the request at once, after a deadline that
    /// the request itself set, and in gRPC.
    pub const fn retry_after(mut self, delay: Duration) -> Self {
        self.responses.retry_after = Some(delay);
        self
    }

    /// Gives up on tasks that block their thread, and trims the layer's own pool, by a clock that a
    /// test moves. See [`ManualClock`].
    pub fn clock(mut self, clock: &ManualClock) -> Self {
        self.housekeeping = Housekeeping::Manual(clock.clone());
        self
    }

    /// Builds the layer, which cannot be changed afterwards.
    ///
    /// # Errors
    ///
    /// Returns an error if [`max_routes`](Self::max_routes) is 0 or above 65 536, or the label of
    /// [`route`](Self::route) is empty, longer than 256 bytes, or not a valid header value.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_memory::MemoryLayer;
    ///
    /// let error = MemoryLayer::builder().max_routes(0).build().unwrap_err();
    /// assert_eq!(error.to_string(), "max_routes of 0 is outside of 1 to 65536");
    /// ```
    pub fn build(self) -> Result<MemoryLayer, ConfigError> {
        if !(1..=LARGEST_MAX_ROUTES).contains(&self.max_routes) {
            return Err(ConfigError::MaxRoutes {
                asked: self.max_routes,
                limit: LARGEST_MAX_ROUTES,
            });
        }
        if let Some(label) = &self.route {
            let fits = (1..=MAX_LABEL_BYTES).contains(&label.len());
            if !fits || HeaderValue::from_str(label).is_err() {
                return Err(ConfigError::RouteLabel {
                    label: label.clone(),
                    limit: MAX_LABEL_BYTES,
                });
            }
        }
        Ok(self.into_layer())
    }

    /// As [`build`](Self::build), for settings that are known to be valid.
    fn into_layer(self) -> MemoryLayer {
        let routes = RouteRegistry::new(self.max_routes);
        let route = self.route.map_or(UNMATCHED, |label| routes.number(&label));
        let recorder = Arc::new(Recorder::new(
            routes.capacity(),
            self.observers,
            self.housekeeping.clone(),
        ));
        let pool = self
            .pool
            .unwrap_or_else(|| ArenaPool::looked_after(self.housekeeping.clone()));
        let sink = Arc::clone(&recorder) as _;
        let layer = LayerState::new(
            pool,
            routes,
            sink,
            self.grace,
            self.hold_timeout,
            self.housekeeping,
        );
        MemoryLayer::built(Config {
            handle: MemoryHandle::new(Arc::new(layer), recorder),
            limits: self.limits,
            trust: self.trust,
            responses: self.responses.into_shared(),
            expose: self.expose,
            draining: self.draining,
            route,
        })
    }
}

impl fmt::Debug for MemoryLayerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryLayerBuilder")
            .field("pool", &self.pool)
            .field("housekeeping", &self.housekeeping)
            .field("observers", &self.observers.len())
            .field("grace_period", &self.grace)
            .field("max_routes", &self.max_routes)
            .field("route", &self.route)
            .field("limits", &self.limits)
            .field("trust", &self.trust)
            .field("responses", &self.responses)
            .field("expose", &self.expose)
            .field("draining", &self.draining)
            .field("hold_timeout", &self.hold_timeout)
            .finish()
    }
}
