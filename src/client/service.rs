use std::{
    error::Error,
    task::{Context, Poll},
};

use http::{HeaderMap, Request, Response};
use tower_layer::Layer;
use tower_service::Service;

use super::{
    body::CallBody, error::CallError, future::PropagateDeadlineFuture,
    layer::PropagateDeadlineLayer,
};
use crate::{scope::RequestScope, wire::Protocol};

/// The service made by [`PropagateDeadlineLayer`].
///
/// It is ready when the inner service is. A clone is as ready as a clone of the inner service.
///
/// # Examples
///
/// ```
/// use std::convert::Infallible;
///
/// use http::{Request, Response};
/// use http_body_util::Empty;
/// use tower::{Layer, ServiceExt, service_fn};
/// use tower_memory::{client::PropagateDeadlineLayer, deadline_header::DeadlineHeader};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // Stands in for a real client.
/// let client = service_fn(|call: Request<()>| async move {
///     // This call belongs to no incoming request, so it gets no header.
///     assert!(!call.headers().contains_key("grpc-timeout"));
///     Ok::<_, Infallible>(Response::new(Empty::<bytes::Bytes>::new()))
/// });
/// let client = PropagateDeadlineLayer::new(DeadlineHeader::GrpcTimeout).layer(client);
/// assert_eq!(client.oneshot(Request::new(())).await?.status(), 200);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct PropagateDeadline<S> {
    inner: S,
    layer: PropagateDeadlineLayer,
}

impl<S> Layer<S> for PropagateDeadlineLayer {
    type Service = PropagateDeadline<S>;

    fn layer(&self, inner: S) -> PropagateDeadline<S> {
        let layer = *self;
        PropagateDeadline { inner, layer }
    }
}

impl PropagateDeadlineLayer {
    /// Writes the remaining time into the headers of a call.
    fn set_header(&self, scope: &RequestScope, headers: &mut HeaderMap) -> Result<(), CallError> {
        if let Some(reason) = scope.reason() {
            return Err(CallError::cancelled(reason));
        }
        let Some(left) = scope.remaining() else {
            return Ok(());
        };
        let remaining = left.saturating_sub(self.margin);
        let Some(value) = self.header.value(remaining) else {
            return Err(CallError::nothing_remains(left, self.margin));
        };
        let shorter = |value: &http::HeaderValue| {
            let present = self.header.parse(value.as_bytes());
            present.is_some_and(|present| present <= remaining)
        };
        let mut present = headers.get_all(self.header.name()).iter();
        if !present.any(shorter) {
            headers.insert(self.header.name(), value);
        }
        Ok(())
    }
}

impl<S, B, R> Service<Request<B>> for PropagateDeadline<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
{
    type Response = Response<CallBody<R>>;
    type Error = CallError;
    type Future = PropagateDeadlineFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CallError>> {
        self.inner.poll_ready(cx).map_err(CallError::service)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let scope = request
            .extensions()
            .get::<RequestScope>()
            .cloned()
            .or_else(RequestScope::current);
        let protocol = Protocol::of(request.method(), request.headers());
        if let Some(scope) = &scope {
            if let Err(error) = self.layer.set_header(scope, request.headers_mut()) {
                return PropagateDeadlineFuture::refused(error, protocol);
            }
        }
        PropagateDeadlineFuture::calling(self.inner.call(request), scope, protocol)
    }
}
