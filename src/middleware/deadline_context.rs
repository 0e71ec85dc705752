use std::{fmt, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};

use super::request_info::RequestInfo;
use crate::{
    cancel::{CancelReason, DeadlineSource},
    scope::RequestScope,
    wire,
};

/// A request whose deadline passed before there was a response head.
///
/// Passed to the function of
/// [`MemoryLayerBuilder::deadline_response`](super::MemoryLayerBuilder::deadline_response).
///
/// # Examples
///
/// ```
/// use std::{convert::Infallible, time::Duration};
///
/// use http::{Request, Response};
/// use http_body_util::Empty;
/// use tower::{Layer, ServiceExt, service_fn};
/// use tower_memory::{MemoryLayer, cancel::DeadlineSource, middleware::DeadlineContext};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let layer = MemoryLayer::builder()
///     .timeout(Duration::from_millis(10))
///     .deadline_response(|expired: &DeadlineContext<'_>| {
///         assert_eq!(expired.deadline_source(), DeadlineSource::Layer);
///         assert!(expired.after() >= Duration::from_millis(10) && !expired.is_on_arrival());
///         assert!(expired.scope().is_cancelled());
///         assert!(expired.to_string().starts_with("the deadline set by the layer passed after "));
///         expired.response()
///     })
///     .build()?;
/// let service = layer.layer(service_fn(|_: Request<()>| {
///     std::future::pending::<Result<Response<Empty<bytes::Bytes>>, Infallible>>()
/// }));
/// let response = service.oneshot(Request::new(())).await?;
/// assert_eq!(response.status(), 504);
/// assert_eq!(response.headers()["content-type"], "application/problem+json");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct DeadlineContext<'a> {
    scope: &'a RequestScope,
    source: DeadlineSource,
    after: Duration,
    pub(super) on_arrival: bool,
    pub(super) wants_body: bool,
    /// Whether the connection has a header of its own (HTTP/1).
    http1: bool,
    pub(super) retry_after: Option<Duration>,
}

impl DeadlineContext<'_> {
    /// Returns the request's scope, which is cancelled already.
    #[must_use]
    pub const fn scope(&self) -> &RequestScope {
        self.scope
    }

    /// Returns the source of the deadline.
    #[must_use]
    pub const fn deadline_source(&self) -> DeadlineSource {
        self.source
    }

    /// Returns the source as a [`CancelReason`]. The scope may have an earlier reason, such as a
    /// shutdown.
    #[must_use]
    pub const fn reason(&self) -> CancelReason {
        CancelReason::deadline(self.source)
    }

    /// Returns the time since the service was called, or began to wait for being ready.
    #[must_use]
    pub const fn after(&self) -> Duration {
        self.after
    }

    /// Returns whether the deadline had passed before the service was called. Then the handler did not
    /// run.
    #[must_use]
    pub const fn is_on_arrival(&self) -> bool {
        self.on_arrival
    }

    /// Returns whether the handler was waiting for more of the request's body. Always `false` without
    /// a [`RequestBodyLayer`](super::RequestBodyLayer).
    #[must_use]
    pub const fn is_body_missing(&self) -> bool {
        self.wants_body
    }

    /// Returns the status of the default response: `408` if the request's body was not complete, else
    /// `504`.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        if self.wants_body {
            StatusCode::REQUEST_TIMEOUT
        } else {
            StatusCode::GATEWAY_TIMEOUT
        }
    }

    /// Returns when to try again, if the layer's `retry_after` is set and applies. It does not apply if
    /// the client was too slow (`408`), or if the request itself set the deadline.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        if self.wants_body || self.source.is_request() {
            None
        } else {
            self.retry_after
        }
    }

    /// Returns the default response.
    #[must_use]
    pub fn response(&self) -> Response<Bytes> {
        self.problem(self.status())
    }

    /// Returns the default response with another status: a problem description
    /// ([RFC 9457](https://www.rfc-editor.org/rfc/rfc9457)), with `retry-after` if that applies, and
    /// with `connection: close` if it is a `408` over HTTP/1
    /// ([RFC 9110, 15.5.9](https://www.rfc-editor.org/rfc/rfc9110#section-15.5.9)).
    #[must_use]
    pub fn problem(&self, status: StatusCode) -> Response<Bytes> {
        let mut response = wire::problem(status, self);
        let headers = response.headers_mut();
        if let Some(retry_after) = self.retry_after() {
            headers.insert(header::RETRY_AFTER, wire::retry_after(retry_after));
        }
        if self.http1 && status == StatusCode::REQUEST_TIMEOUT {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    /// The context of a request that had expired on arrival.
    pub(super) fn on_arrival(
        scope: &RequestScope,
        source: DeadlineSource,
        info: RequestInfo,
    ) -> DeadlineContext<'_> {
        DeadlineContext {
            scope,
            source,
            after: scope.limits().age(),
            on_arrival: true,
            wants_body: false,
            http1: info.http1,
            retry_after: None,
        }
    }
}

/// A sentence for the client, such as "the deadline set by the layer passed after 302 ms".
impl fmt::Display for DeadlineContext<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.on_arrival {
            write!(
                f,
                "the deadline set by {} had passed on arrival",
                self.source
            )?;
            let queued = self.scope.limits().queued();
            if !queued.is_zero() {
                write!(f, ", after {} ms in a queue", queued.as_millis())?;
            }
            return Ok(());
        }
        write!(f, "{} after {} ms", self.reason(), self.after.as_millis())?;
        if self.wants_body {
            f.write_str(", and the request body was not complete")?;
        }
        Ok(())
    }
}
