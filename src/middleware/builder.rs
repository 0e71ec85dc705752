use std::{fmt, time::Duration};

use http::HeaderValue;

use super::{
    config::Config, deadline_response::DeadlineResponses, draining::Draining, expose::Expose,
    exposed::Exposed, layer::MemoryLayer, load::Load, trust::Trust,
};
use crate::{
    config::ConfigError,
    deadline::FirstLimits,
    housekeeping::{Housekeeping, ManualClock},
    observe::{MemoryHandle, Observer, Recorder},
    pool::ArenaPool,
    route::{MAX_LABEL_BYTES, MAX_ROUTES, RouteRegistry, UNMATCHED},
    scope::{LayerState, PoolRelief, RoutePolicy, ScopeReport},
    sharded::Sharded,
    sync::Arc,
    wire::header::HeaderFormat,
};

const GRACE: Duration = Duration::from_secs(5);

// `MemoryLayerBuilder::grace_period` and `RequestScope::spawn` state this default.
const _: () = assert!(GRACE.as_millis() == 5000);

const HOLD_TIMEOUT: Duration = Duration::from_secs(10);

// `MemoryLayerBuilder::hold_timeout` and `RequestScope::hold` state this default.
const _: () = assert!(HOLD_TIMEOUT.as_secs() == 10);

#[cfg(feature = "tracing")]
use crate::observe::RequestLog;

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
    pub(super) limits: RoutePolicy,
    pub(super) trust: Option<Trust>,
    pub(super) responses: DeadlineResponses,
    expose: Expose,
    pub(super) exposed: Exposed,
    pub(super) lists_requests: bool,
    #[cfg(feature = "tracing")]
    pub(super) log: Option<RequestLog>,
    pub(super) draining: Draining,
    pub(super) hold_timeout: Duration,
    pub(super) load: Load,
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
            exposed: Exposed {
                format: HeaderFormat::Fields,
                route_figures: false,
                trailers: false,
            },
            lists_requests: false,
            #[cfg(feature = "tracing")]
            log: None,
            draining: Draining::new(),
            hold_timeout: HOLD_TIMEOUT,
            load: Load::new(),
        }
    }

    /// Sets which clients see the response headers ([`Expose::DebugBuilds`] by default).
    pub fn expose(mut self, expose: Expose) -> Self {
        self.expose = expose;
        self
    }

    /// Sets how the figures are written into the response headers ([`HeaderFormat::Fields`] by default).
    pub const fn header_format(mut self, format: HeaderFormat) -> Self {
        self.exposed.format = format;
        self
    }

    /// Takes arenas from this pool (by default from one of the layer's own, with default limits; with a
    /// [`process_limit`](Self::process_limit) it keeps at most an eighth of that).
    ///
    /// Layers may share a pool.
    pub fn pool(mut self, pool: ArenaPool) -> Self {
        self.pool = Some(pool);
        self
    }

    /// Adds an observer: a function that is called once for each request, after its scope has closed.
    ///
    /// Observers do not delay requests. Reports wait in a queue, and within about 10 ms a
    /// [thread for hooks](crate::housekeeping) calls the observers with them, in the order in which
    /// the scopes of the layer closed. At most 4096 reports wait; further ones are dropped and counted in
    /// [`Snapshot::dropped_reports`](crate::observe::Snapshot::dropped_reports). An observer may take some
    /// time: that delays other observers and hooks of the process, and nothing else. A
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
    /// [`route`](Self::route) is empty, longer than 256 bytes, or not a valid header value, or
    /// [`request_limit`](Self::request_limit) is 0, above `isize::MAX`, or above the limit of the process.
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
        self.check_request_limit()?;
        Ok(self.into_layer())
    }

    /// As [`build`](Self::build), for settings that are known to be valid.
    fn into_layer(self) -> MemoryLayer {
        let routes = RouteRegistry::new(self.max_routes);
        let route = self.route.map_or(UNMATCHED, |label| routes.number(&label));
        let mut recorder = Recorder::new(self.observers, &self.housekeeping);
        if self.lists_requests {
            recorder.remember_extremes(routes.capacity());
        }
        if self.exposed.route_figures {
            recorder.show_averages(routes.capacity());
        }
        #[cfg(feature = "tracing")]
        let keeps_spans = self.log.is_some();
        #[cfg(feature = "tracing")]
        if let Some(log) = self.log {
            recorder.log_requests(log);
        }
        let recorder = Arc::new(recorder);
        let process = self.load.process.as_ref();
        let pool = self.pool.unwrap_or_else(|| {
            let most = process.map(|limit| PoolRelief::most(limit.snapshot().limit));
            ArenaPool::looked_after(self.housekeeping.clone(), most)
        });
        let sink = Arc::clone(&recorder) as _;
        let relief = Arc::new(PoolRelief(pool.clone()));
        let limit = self.load.process.as_ref().map(|limit| {
            let limit = limit.for_layer(routes.capacity());
            limit.add_relief(Arc::downgrade(&relief) as _);
            limit
        });
        let mut layer = LayerState::new(
            pool,
            routes,
            sink,
            self.grace,
            self.hold_timeout,
            self.housekeeping,
            limit,
        );
        if self.lists_requests {
            layer.list_requests();
        }
        #[cfg(feature = "tracing")]
        {
            layer.keeps_spans = keeps_spans;
        }
        let layer = Arc::new(layer);
        let request_limit = self.limits.request_limit;
        MemoryLayer::built(Config {
            tells: self.expose.includes_some() || self.load.report.includes_some(),
            limits_memory: self.load.looks()
                || request_limit.disable
                || request_limit.limit.is_some(),
            handle: MemoryHandle::new(Arc::clone(&layer), recorder),
            layer: Sharded::new(layer),
            limits: self.limits,
            first: FirstLimits::of(&self.limits.times),
            trust: self.trust,
            responses: self.responses.into_shared(),
            expose: self.expose,
            exposed: self.exposed,
            draining: self.draining,
            load: self.load,
            _relief: relief,
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
            .field("exposed", &self.exposed)
            .field("list_requests", &self.lists_requests)
            .field("draining", &self.draining)
            .field("hold_timeout", &self.hold_timeout)
            .field("load", &self.load)
            .finish()
    }
}
