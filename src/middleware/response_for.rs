use std::{fmt, time::Duration};

use bytes::Bytes;
use http::Response;

use super::expired::Expired;
use crate::sync::Arc;

/// Answers requests whose deadline has passed.
///
/// Implemented for closures that take an [`&Expired`](Expired). Give it to
/// [`MemoryLayer::deadline_response`](crate::MemoryLayer::deadline_response).
///
/// # Panics
///
/// A panic in it is one of the request's: it reaches the server, as the handler's would.
///
/// # Examples
///
/// ```
/// use std::{convert::Infallible, time::Duration};
///
/// use http::{Request, Response, StatusCode};
/// use http_body_util::Empty;
/// use tower::{Layer, ServiceExt, service_fn};
/// use tower_memory::{MemoryLayer, middleware::Expired};
///
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
/// # runtime.block_on(async {
/// let layer = MemoryLayer::new()
///     .timeout(Duration::from_millis(10))
///     .deadline_response(|expired: &Expired<'_>| {
///         if expired.is_body_missing() {
///             expired.response() // 408, as it would be
///         } else {
///             expired.problem(StatusCode::SERVICE_UNAVAILABLE)
///         }
///     });
/// let service = layer.layer(service_fn(|_: Request<()>| {
///     std::future::pending::<Result<Response<Empty<bytes::Bytes>>, Infallible>>()
/// }));
/// assert_eq!(service.oneshot(Request::new(())).await?.status(), 503);
/// # Ok::<_, Infallible>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait ResponseForDeadline: Send + Sync + 'static {
    /// The response. Must not block.
    fn response_for_deadline(&self, expired: &Expired<'_>) -> Response<Bytes>;
}

impl<F> ResponseForDeadline for F
where
    F: Fn(&Expired<'_>) -> Response<Bytes> + Send + Sync + 'static,
{
    fn response_for_deadline(&self, expired: &Expired<'_>) -> Response<Bytes> {
        self(expired)
    }
}

/// What a layer says about its answers. Layers that say nothing have none, so that their requests
/// touch no reference count.
#[derive(Clone, Default)]
pub(super) struct Answers {
    pub(super) deadline: Option<Arc<dyn ResponseForDeadline>>,
    pub(super) retry_after: Option<Duration>,
}

impl Answers {
    pub(super) fn plain(&self, expired: &Expired<'_>) -> Response<Bytes> {
        match &self.deadline {
            Some(deadline) => deadline.response_for_deadline(expired),
            None => expired.response(),
        }
    }
}

impl fmt::Debug for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answers")
            .field("deadline", &self.deadline.is_some())
            .field("retry_after", &self.retry_after)
            .finish()
    }
}
