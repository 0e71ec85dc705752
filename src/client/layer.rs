use std::time::Duration;

use tower_layer::Layer;

use super::service::PropagateDeadline;
use crate::wire::deadline_header::DeadlineHeader;

/// Sends what remains of a request's deadline with the calls made on its behalf.
///
/// The request is the one whose [`RequestScope`](crate::RequestScope) is in the outgoing request's
/// extensions, or else the [current](crate::RequestScope::current) one. Calls made on behalf of none,
/// and those of requests without a deadline, pass as they are.
///
/// - The header says what remains, minus the [margin](Self::margin). A shorter time that the
///   outgoing request says already stays.
/// - If nothing remains, or the request has ended, the call fails without being made.
/// - If the request ends during the call (its deadline passes, its client leaves), the call is
///   dropped.
///
/// # Examples
///
/// ```
/// use std::{convert::Infallible, time::Duration};
///
/// use bytes::Bytes;
/// use http::{Request, Response};
/// use http_body_util::Empty;
/// use tower::{Layer, ServiceExt, service_fn};
/// use tower_memory::{MemoryLayer, client::PropagateDeadlineLayer, deadline_header::DeadlineHeader};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // In the place of a real client.
/// let client = service_fn(async |call: Request<()>| {
///     let left: u64 = call.headers()["x-request-timeout-ms"].to_str().unwrap().parse().unwrap();
///     assert!(left <= 4_950);
///     Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
/// });
/// let propagate = PropagateDeadlineLayer::new(DeadlineHeader::RequestTimeout)
///     .margin(Duration::from_millis(50));
/// let client = propagate.layer(client);
///
/// let service = MemoryLayer::with_timeout(Duration::from_secs(5))
///     .layer(service_fn(move |_: Request<()>| client.clone().oneshot(Request::new(()))));
/// let response = service.oneshot(Request::new(())).await?;
/// assert_eq!(response.status(), 200);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy)]
#[must_use = "a layer does nothing until it is applied to a service"]
pub struct PropagateDeadlineLayer {
    header: DeadlineHeader,
    margin: Duration,
}

impl PropagateDeadlineLayer {
    /// A layer that says what remains in `header`, without a margin.
    pub const fn new(header: DeadlineHeader) -> Self {
        Self {
            header,
            margin: Duration::ZERO,
        }
    }

    /// Keeps `margin` of what remains for the way back and the own answer.
    pub const fn margin(mut self, margin: Duration) -> Self {
        self.margin = margin;
        self
    }
}

impl<S> Layer<S> for PropagateDeadlineLayer {
    type Service = PropagateDeadline<S>;

    fn layer(&self, inner: S) -> PropagateDeadline<S> {
        PropagateDeadline::new(inner, self.header, self.margin)
    }
}
