use std::time::Duration;

use http::HeaderValue;
use tower_layer::Layer;

use super::{expose::Expose, service::MemoryService};
use crate::{
    account::is_installed,
    observe::{MemoryHandle, Observer, Recorder, warn_not_installed},
    pool::{ArenaPool, ConfigError},
    scope::{MAX_LABEL_BYTES, MAX_ROUTES, RouteRegistry, ScopeConfig, UNMATCHED},
    sync::Arc,
};

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
    pub(super) timeout: Option<Duration>,
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
        let grace = Duration::from_secs(5);
        let scope = Arc::new(ScopeConfig::new(
            pool.clone(),
            Arc::clone(&routes),
            Arc::new(recorder.clone()),
            grace,
            Arc::default(),
        ));
        Self {
            pool,
            routes,
            recorder,
            grace,
            config: Arc::new(Config {
                scope,
                timeout: None,
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
        let limit = 65_536;
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
    /// description. The body of a response that has begun is not limited. A handler that is ready
    /// at its first poll is in time whatever the timeout; `Duration::MAX` is none.
    ///
    /// # Panics
    ///
    /// The response future needs a tokio runtime with its time driver when the handler has to
    /// wait, as everything in `tokio::time`, and panics without one.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        Arc::make_mut(&mut self.config).timeout = Some(timeout);
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
