use std::time::Duration;

use crate::wire::deadline_header::DeadlineHeader;

/// Passes the remaining time of an incoming request on to the calls its handler makes.
///
/// The incoming request is the one whose [`RequestScope`](crate::RequestScope) is in the outgoing
/// request's extensions, or else the [current](crate::RequestScope::current) one.
///
/// - Each call carries a header with the remaining time minus the [margin](Self::margin). A header
///   that the call already has is kept if its time is shorter.
/// - If no time remains, or the incoming request has ended, the call fails without being sent. A gRPC
///   call gets the status `DEADLINE_EXCEEDED` or `CANCELLED`, others a [`CallError`](super::CallError).
/// - If the incoming request ends during the call, because its deadline passes or its client
///   disconnects, the call is dropped.
/// - A call outside of any request, or for a request without a deadline, is sent unchanged.
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
/// // Stands in for a real client.
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
    pub(super) header: DeadlineHeader,
    pub(super) margin: Duration,
}

impl PropagateDeadlineLayer {
    /// Creates a layer that writes the remaining time into `header`, without a margin.
    pub const fn new(header: DeadlineHeader) -> Self {
        Self {
            header,
            margin: Duration::ZERO,
        }
    }

    /// Reserves `margin` of the remaining time for the network and this server's own response.
    ///
    /// The default is zero.
    pub const fn margin(mut self, margin: Duration) -> Self {
        self.margin = margin;
        self
    }
}
