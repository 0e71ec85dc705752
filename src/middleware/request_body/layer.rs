use tower_layer::Layer;

use super::service::RequestBodyService;

/// Watches the request's body arrive.
///
/// - A deadline that passes while the handler waits for the body is answered with `408` instead of
///   `504`.
/// - A body that is silent for longer than
///   [`request_body_idle_timeout`](crate::middleware::MemoryLayerBuilder::request_body_idle_timeout) ends the
///   request, with `408` if there is no response yet.
/// - A client whose connection ends within the body cancels the request with
///   [`Outcome::ClientGone`](crate::Outcome::ClientGone). That is known from an I/O error, and from a
///   body that is shorter than announced. Over HTTP/2 the error does not say so: there the request ends
///   as `ClientGone` if its response is dropped after its body has failed.
///
/// Put it directly inside a [`MemoryLayer`](crate::MemoryLayer): a layer between the two that decodes
/// the body may report a truncated encoding by the same error as a lost connection. The services inside
/// get a request whose body is a [`RequestBody`](super::RequestBody), which axum's routers and handlers
/// accept.
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
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let service = ServiceBuilder::new()
///     .layer(MemoryLayer::with_timeout(Duration::from_millis(10)))
///     .layer(RequestBodyLayer::new())
///     .service(service_fn(|request: Request<RequestBody<Upload>>| async move {
///         let body = request.into_body().collect().await.expect("nothing fails here").to_bytes();
///         Ok::<_, Infallible>(Response::new(Full::new(body)))
///     }));
///
/// let never_sent = StreamBody::new(futures_util::stream::pending());
/// let response = service.oneshot(Request::post("/").body(never_sent).unwrap()).await?;
/// assert_eq!(response.status(), 408);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, Default)]
#[must_use = "a layer does nothing until it is applied to a service"]
pub struct RequestBodyLayer {
    _private: (),
}

impl RequestBodyLayer {
    /// Creates the layer. It has no settings.
    pub const fn new() -> Self {
        Self { _private: () }
    }
}

impl<S> Layer<S> for RequestBodyLayer {
    type Service = RequestBodyService<S>;

    fn layer(&self, inner: S) -> RequestBodyService<S> {
        RequestBodyService { inner }
    }
}
