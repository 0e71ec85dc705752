use std::{fmt, future::poll_fn, pin::pin};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::Response;
use http_body::Body;

use crate::scope::{Capture, ScopeReport};

/// A request that [`measure`] has sent.
#[derive(Debug)]
#[non_exhaustive]
pub struct Measured {
    /// The response, with its whole body; or with what came of it, if it failed.
    pub response: Response<Bytes>,
    /// What the request has allocated, its arena, and how it ended.
    pub report: ScopeReport,
}

/// Sends a request through a [`MemoryLayer`](crate::MemoryLayer), reads the body of its response, and waits
/// until its scope has closed: for its tasks, too.
///
/// The report is that of the first request that the layer opens in `future`. What a server or a client allocates is
/// no part of it; so call the service, with `oneshot` for instance, and not over a socket. Send one request
/// before the one that counts: [what is deterministic](crate::test_util#what-is-deterministic).
///
/// # Panics
///
/// Panics if the service fails, and if no `MemoryLayer` has opened a request in `future`.
///
/// # Cancel safety
///
/// If it is dropped, so is the response: the request ends as [`Abandoned`](crate::Outcome::Abandoned).
///
/// # Examples
///
/// ```
/// use std::convert::Infallible;
///
/// use http::{Request, Response};
/// use http_body_util::Full;
/// use tower::{Layer, ServiceExt, service_fn};
/// use tower_memory::{MemoryLayer, Outcome, TrackingAllocator, test_util::measure};
///
/// #[global_allocator]
/// static ALLOC: TrackingAllocator = TrackingAllocator::system();
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let app = MemoryLayer::new().layer(service_fn(|_: Request<()>| async {
///     let greeting = String::from("hello");
///     Ok::<_, Infallible>(Response::new(Full::<bytes::Bytes>::from(greeting)))
/// }));
/// let _warm = measure(app.clone().oneshot(Request::new(()))).await;
/// let measured = measure(app.oneshot(Request::new(()))).await;
///
/// assert_eq!(measured.response.body(), "hello");
/// assert_eq!(measured.report.outcome, Outcome::Completed);
/// let usage = measured.report.usage.expect("installed");
/// assert!(usage.allocations <= 8, "{usage:?}");
/// # }
/// ```
pub async fn measure<F, B, E>(future: F) -> Measured
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body,
    E: fmt::Debug,
{
    let capture = Capture::new();
    let response = match capture.of(future).await {
        Ok(response) => response,
        Err(error) => panic!("the service failed: {error:?}"),
    };
    let (parts, body) = response.into_parts();
    let bytes = collect(body).await;
    let Some(report) = poll_fn(|cx| capture.poll_report(cx)).await else {
        panic!("no MemoryLayer has opened a request in this future");
    };
    Measured {
        response: Response::from_parts(parts, bytes),
        report,
    }
}

/// Reads a body to its end, or to its first error, which the outcome tells.
async fn collect(body: impl Body) -> Bytes {
    let mut body = pin!(body);
    let mut all = BytesMut::new();
    while let Some(Ok(frame)) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        if let Ok(mut data) = frame.into_data() {
            while data.has_remaining() {
                let chunk = data.chunk();
                let len = chunk.len();
                all.put_slice(chunk);
                data.advance(len);
            }
        }
    }
    all.freeze()
}
