use std::task::{Context, Poll};

use http::Request;
use tower_layer::Layer;
use tower_service::Service;

use crate::{observe::warn_label_alone, scope::RequestScope, wire::matched_path};

/// Sets the route label of each request, for a [`MemoryLayer`](crate::MemoryLayer) around the router.
///
/// A layer around a router runs before the route is known. The extractors [`RequestScope`] and
/// [`Arena`](crate::Arena) set the label later. For handlers that use neither, add this layer with
/// `Router::route_layer`. Routers in `nest_service` and `fallback_service` need it too.
///
/// # Examples
///
/// ```
/// use axum::{Router, body::Body, routing::get};
/// use http::Request;
/// use tower::{Layer, ServiceExt};
/// use tower_memory::{MemoryLayer, extract::RouteLabelLayer};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let router: Router = Router::new()
///     .route("/items/{n}", get(|| async { "item" }))
///     .route_layer(RouteLabelLayer::new());
/// let app = MemoryLayer::new().layer(router);
///
/// let request = Request::get("/items/7").body(Body::empty())?;
/// let response = app.oneshot(request).await?;
/// assert_eq!(response.headers()["x-alloc-route"], "/items/{n}");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, Default)]
#[must_use = "a layer does nothing until it is applied to a service"]
pub struct RouteLabelLayer {
    _private: (),
}

impl RouteLabelLayer {
    /// Creates the layer. It has no settings.
    pub const fn new() -> Self {
        Self { _private: () }
    }
}

impl<S> Layer<S> for RouteLabelLayer {
    type Service = RouteLabelService<S>;

    fn layer(&self, inner: S) -> RouteLabelService<S> {
        RouteLabelService { inner }
    }
}

/// The service made by [`RouteLabelLayer`].
#[derive(Debug, Clone)]
pub struct RouteLabelService<S> {
    inner: S,
}

impl<S, B> Service<Request<B>> for RouteLabelService<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> S::Future {
        let extensions = request.extensions();
        match (extensions.get::<RequestScope>(), matched_path(extensions)) {
            (Some(scope), Some(path)) => scope.set_matched_path(path),
            (None, _) => warn_label_alone(),
            (Some(_), None) => {}
        }
        self.inner.call(request)
    }
}
