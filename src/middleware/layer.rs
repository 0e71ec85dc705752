use tower_layer::Layer;

use super::{config::Config, expose::Expose, service::MemoryService};
use crate::{
    account::is_installed,
    observe::{MemoryHandle, layer_was_applied, warn_not_installed},
    sharded::{Sharded, ShardedRef},
    sync::Arc,
};

/// Gives each request its own arena, account and deadline, and ends the tasks it started.
///
/// Each request gets a [`RequestScope`](crate::RequestScope) in its extensions: a pooled arena, a
/// cancellation token, a deadline, and an account of what it allocates. The response gets headers with
/// the figures (see [`Expose`]), and the [handle](Self::handle) shows them per route.
///
/// A layer is fixed once it is made. All services made by it and its clones share its pool and
/// statistics. A layer inside another one shares the outer scope; its timeout is the limit of its call,
/// and it sets the route label.
///
/// A request that a handler sends through the same layer, or through another one with a clone of its own
/// extensions, gets a scope of its own. The deadline of the handler's request bounds it, and the end of
/// that request cancels it.
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
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let service = ServiceBuilder::new()
///     .layer(MemoryLayer::with_timeout(Duration::from_secs(5)))
///     .service(service_fn(|request: Request<()>| async move {
///         let scope = request.extensions().get::<RequestScope>().expect("the layer is there");
///         let mut body = scope.arena().buf();
///         body.extend_from_slice(b"hello");
///         Ok::<_, Infallible>(Response::new(Full::new(body.freeze())))
///     }));
///
/// let response = service.oneshot(Request::new(())).await?;
/// assert_eq!(response.headers()["x-arena-source"], "fresh");
/// # Ok(())
/// # }
/// ```
///
/// With axum, add it to the router, after the routes it covers:
///
#[cfg_attr(feature = "axum", doc = "```")]
#[cfg_attr(not(feature = "axum"), doc = "```text")]
/// use std::time::Duration;
///
/// use axum::{Router, routing::get};
/// use tower_memory::{MemoryLayer, RequestScope};
///
/// async fn route(scope: RequestScope) -> String {
///     scope.route().to_string() // "/items/{n}"
/// }
///
/// fn app() -> Router {
///     Router::new()
///         .route("/items/{n}", get(route))
///         .layer(MemoryLayer::with_timeout(Duration::from_secs(5)))
/// }
/// ```
///
/// Around a whole router it is slightly cheaper. Its responses have their own body type, so put the
/// result into a router again, which `axum::serve` accepts:
///
#[cfg_attr(feature = "axum", doc = "```no_run")]
#[cfg_attr(not(feature = "axum"), doc = "```text")]
/// use axum::{Router, routing::get};
/// use tower::Layer;
/// use tower_memory::{MemoryLayer, extract::RouteLabelLayer};
///
/// # async fn serve(listener: tokio::net::TcpListener) -> std::io::Result<()> {
/// let router = Router::new().route("/", get(async || "hello")).route_layer(RouteLabelLayer::new());
/// let app = Router::new().fallback_service(MemoryLayer::new().layer(router));
/// axum::serve(listener, app).await
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "a layer does nothing until it is applied to a service"]
pub struct MemoryLayer {
    config: Arc<Sharded<Config>>,
}

impl MemoryLayer {
    pub(super) fn built(config: Config) -> Self {
        Self {
            config: Arc::new(Sharded::new(Arc::new(config))),
        }
    }

    /// Returns a handle to the layer's statistics, its tasks and its shutdown.
    #[must_use]
    pub fn handle(&self) -> MemoryHandle {
        self.config.handle.clone()
    }
}

impl<S> Layer<S> for MemoryLayer {
    type Service = MemoryService<S>;

    fn layer(&self, inner: S) -> MemoryService<S> {
        if !is_installed() && !matches!(self.config.expose, Expose::Never) {
            warn_not_installed();
        }
        layer_was_applied();
        self.config.handle.applied_to::<S>();
        MemoryService::new(inner, ShardedRef::Owner(Arc::clone(&self.config)))
    }
}
