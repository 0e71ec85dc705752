use std::{error::Error, fmt, time::Duration};

use crate::cancel::{CancelReason, DeadlineSource};

/// A response body exceeded its time limit and was cut off.
///
/// [`ResponseBody`](super::ResponseBody) returns it to the server, which aborts the response, so that
/// the client sees it as incomplete. Downcast the body's error to find it.
///
/// # Examples
///
/// ```
/// use std::{convert::Infallible, time::Duration};
///
/// use bytes::Bytes;
/// use http::{Request, Response};
/// use http_body_util::{BodyExt, StreamBody};
/// use tower::{Layer, ServiceExt, service_fn};
/// use tower_memory::{MemoryLayer, cancel::DeadlineSource, middleware::BodyTimeoutError};
///
/// type Endless = futures_util::stream::Pending<Result<http_body::Frame<Bytes>, Infallible>>;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let layer = MemoryLayer::builder().body_idle_timeout(Duration::from_millis(10)).build()?;
/// let service = layer.layer(service_fn(|_: Request<()>| async {
///     let body: StreamBody<Endless> = StreamBody::new(futures_util::stream::pending());
///     Ok::<_, Infallible>(Response::new(body))
/// }));
///
/// let response = service.oneshot(Request::new(())).await?;
/// let error = response.into_body().collect().await.expect_err("cut off");
/// let error = error.downcast_ref::<BodyTimeoutError>().expect("by the layer");
/// assert_eq!(error.deadline_source(), DeadlineSource::BodyIdleTimeout);
/// assert!(error.after() >= Duration::from_millis(10));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyTimeoutError {
    pub(super) source: DeadlineSource,
    pub(super) after: Duration,
}

impl BodyTimeoutError {
    /// Returns the source of the limit that passed.
    #[must_use]
    pub const fn deadline_source(&self) -> DeadlineSource {
        self.source
    }

    /// Returns the time since the service was called.
    #[must_use]
    pub const fn after(&self) -> Duration {
        self.after
    }
}

impl fmt::Display for BodyTimeoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reason = CancelReason::deadline(self.source);
        write!(f, "{reason} after {} ms", self.after.as_millis())
    }
}

impl Error for BodyTimeoutError {}
