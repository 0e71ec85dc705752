use std::{fmt, time::Duration};

use bytes::Bytes;
use http::Response;

use super::deadline_context::DeadlineContext;
use crate::{
    sync::Arc,
    wire::{self, Protocol},
};

/// Answers requests whose deadline has passed.
///
/// Implemented for closures that take an [`&DeadlineContext`](DeadlineContext). Give it to
/// [`MemoryLayerBuilder::deadline_response`](crate::middleware::MemoryLayerBuilder::deadline_response).
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
pub trait ResponseForDeadline: Send + Sync + 'static {
    /// The response. Must not block.
    fn response_for_deadline(&self, expired: &DeadlineContext<'_>) -> Response<Bytes>;
}

impl<F> ResponseForDeadline for F
where
    F: Fn(&DeadlineContext<'_>) -> Response<Bytes> + Send + Sync + 'static,
{
    fn response_for_deadline(&self, expired: &DeadlineContext<'_>) -> Response<Bytes> {
        self(expired)
    }
}

/// A layer's settings for its answers. A layer with the default ones has none, so that its requests
/// change no reference count.
#[derive(Clone)]
pub(super) struct DeadlineResponses {
    pub(super) deadline: Option<Arc<dyn ResponseForDeadline>>,
    pub(super) retry_after: Option<Duration>,
}

impl DeadlineResponses {
    pub(super) const fn new() -> Self {
        Self {
            deadline: None,
            retry_after: None,
        }
    }

    /// Shared by the requests, or `None` if nothing is set.
    pub(super) fn into_shared(self) -> Option<Arc<Self>> {
        (self.deadline.is_some() || self.retry_after.is_some()).then(|| Arc::new(self))
    }
}

/// Answers a request whose deadline has passed, in the client's protocol and with the reason in the
/// extensions.
pub(super) fn deadline_response(
    mut context: DeadlineContext<'_>,
    protocol: Protocol,
    configured: Option<&DeadlineResponses>,
) -> Response<Bytes> {
    context.retry_after = configured.and_then(|configured| configured.retry_after);
    let custom = configured.and_then(|configured| configured.deadline.as_ref());
    let mut response = match (protocol.content_type(), custom) {
        (Some(content_type), _) => {
            wire::grpc_answer(content_type, wire::DEADLINE_EXCEEDED, &context.to_string())
        }
        (None, Some(custom)) => custom.response_for_deadline(&context),
        (None, None) => context.response(),
    };
    response.extensions_mut().insert(context.reason());
    response
}

impl fmt::Debug for DeadlineResponses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadlineResponses")
            .field("deadline", &self.deadline.is_some())
            .field("retry_after", &self.retry_after)
            .finish()
    }
}
