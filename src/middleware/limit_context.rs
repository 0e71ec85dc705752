use std::{fmt, time::Duration};

use bytes::Bytes;
use http::{Response, StatusCode, header};

use super::ended_inside::EndedInside;
use crate::{
    cancel::{CancelReason, Outcome},
    limit::{Refusal, RefusedBy},
    scope::RequestScope,
    wire,
};

/// A request that is refused or cancelled because of memory.
///
/// Passed to the function of
/// [`MemoryLayerBuilder::limit_response`](super::MemoryLayerBuilder::limit_response).
///
/// # Examples
///
/// ```
/// use std::convert::Infallible;
///
/// use http::{Request, Response};
/// use http_body_util::Empty;
/// use tower::{Layer, ServiceExt, service_fn};
/// use tower_memory::{MemoryLayer, Outcome, limit::ProcessLimit, middleware::LimitContext};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let limit = ProcessLimit::builder().bytes(100 << 20).source(|| Some(99 << 20)).build()?;
/// let layer = MemoryLayer::builder()
///     .process_limit(&limit)
///     .limit_response(|exceeded: &LimitContext<'_>| {
///         assert_eq!(exceeded.reason().outcome(), Outcome::Shed);
///         assert_eq!((exceeded.used(), exceeded.limit()), (Some(99 << 20), Some(100 << 20)));
///         assert!(!exceeded.is_permanent());
///         exceeded.response()
///     })
///     .build()?;
/// let service = layer.layer(service_fn(|_: Request<()>| async {
///     Ok::<_, Infallible>(Response::new(Empty::<bytes::Bytes>::new()))
/// }));
/// let response = service.oneshot(Request::new(())).await?;
/// assert_eq!(response.status(), 503);
/// assert_eq!(response.headers()["content-type"], "application/problem+json");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct LimitContext<'a> {
    scope: &'a RequestScope,
    reason: CancelReason,
    asked: Option<u64>,
    used: Option<u64>,
    limit: Option<u64>,
    pub(super) retry_after: Option<Duration>,
    pub(super) permanent: bool,
    /// Whether the handler was reading the request's body.
    body_read: bool,
    /// Whether the client may see figures.
    pub(super) exposed: bool,
}

/// When to try again if nothing is known.
const RETRY_AFTER: Duration = Duration::from_secs(1);

impl<'a> LimitContext<'a> {
    /// Of a request that is not admitted.
    pub(super) fn refused(scope: &'a RequestScope, refusal: Refusal) -> Self {
        let permanent = refusal.by == RefusedBy::Size;
        Self {
            scope,
            reason: CancelReason::new(Outcome::Shed),
            asked: Some(refusal.asked),
            used: refusal.used,
            limit: Some(refusal.limit),
            retry_after: (!permanent).then_some(refusal.retry_after),
            permanent,
            body_read: false,
            exposed: false,
        }
    }

    /// Of a request that is refused since too much is not released.
    pub(super) const fn unreleased(scope: &'a RequestScope, limit: usize, used: usize) -> Self {
        Self {
            scope,
            reason: CancelReason::new(Outcome::Shed),
            asked: None,
            used: Some(used as u64),
            limit: Some(limit as u64),
            retry_after: Some(RETRY_AFTER),
            permanent: false,
            body_read: false,
            exposed: false,
        }
    }

    /// Of a request, or a call, that a limit has ended.
    pub(super) fn cancelled(scope: &'a RequestScope, ended: EndedInside) -> Self {
        let reason = ended.cause.reason();
        if reason == Outcome::MemoryExceeded {
            return Self {
                scope,
                reason,
                asked: ended.cause.asked(),
                used: ended.cause.used(),
                limit: ended.cause.limit(),
                retry_after: None,
                permanent: true,
                body_read: ended.wants_body,
                exposed: false,
            };
        }
        let pressure = scope.pressure();
        Self {
            scope,
            reason,
            asked: None,
            used: pressure.and_then(|pressure| pressure.used),
            limit: pressure.map(|pressure| pressure.limit),
            retry_after: Some(RETRY_AFTER),
            permanent: false,
            body_read: false,
            exposed: false,
        }
    }
}

impl LimitContext<'_> {
    /// Returns the request's scope.
    #[must_use]
    pub const fn scope(&self) -> &RequestScope {
        self.scope
    }

    /// Returns why the request ends: [`Outcome::Shed`] if its handler did not run,
    /// [`Outcome::MemoryExceeded`] if it held more than its own limit, or [`Outcome::MemoryPressure`].
    #[must_use]
    pub const fn reason(&self) -> CancelReason {
        self.reason
    }

    /// Returns the bytes that the request is expected to hold, if it was refused for that, or the size of the frame
    /// that was not read, if it was ended since that frame of its body would have exceeded its limit.
    #[must_use]
    pub const fn asked(&self) -> Option<u64> {
        self.asked
    }

    /// Returns the bytes in use, if that is known: those of the process, or the most that the request has held if
    /// it exceeded its own limit.
    #[must_use]
    pub const fn used(&self) -> Option<u64> {
        self.used
    }

    /// Returns the limit, in bytes.
    #[must_use]
    pub const fn limit(&self) -> Option<u64> {
        self.limit
    }

    /// Returns whether the same request would fail again, however empty the process is.
    #[must_use]
    pub const fn is_permanent(&self) -> bool {
        self.permanent
    }

    /// Returns whether the request exceeded its own limit while its handler was reading the request's body.
    /// Always `false` without a [`RequestBodyLayer`](super::RequestBodyLayer).
    #[must_use]
    pub const fn is_body_read(&self) -> bool {
        self.body_read
    }

    /// Returns when to try again. `None` if a retry would fail as well.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// Returns the status of the default response: `503`, or if a retry would fail as well `413` for a body
    /// that was [being read](Self::is_body_read) and else `500`.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        if self.body_read {
            StatusCode::PAYLOAD_TOO_LARGE
        } else if self.permanent {
            StatusCode::INTERNAL_SERVER_ERROR
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        }
    }

    /// Returns the default response.
    #[must_use]
    pub fn response(&self) -> Response<Bytes> {
        self.problem(self.status())
    }

    /// Returns the default response with another status: a problem description
    /// ([RFC 9457](https://www.rfc-editor.org/rfc/rfc9457)), with `retry-after` if that applies.
    ///
    /// Its member `durability` is `transient` or `permanent`. For clients that see figures
    /// ([`Expose`](crate::Expose)) it also has `asked`, `used` and `limit`, in bytes, as far as they are
    /// known: they tell what other requests do.
    #[must_use]
    pub fn problem(&self, status: StatusCode) -> Response<Bytes> {
        let mut response = if self.is_common(status) {
            wire::overloaded()
        } else {
            self.described(status)
        };
        if let Some(retry_after) = self.retry_after {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, wire::retry_after(retry_after));
        }
        response
    }

    /// Whether the text is that of nearly all refusals, which is there already: a refusal must cost little.
    fn is_common(&self, status: StatusCode) -> bool {
        status == StatusCode::SERVICE_UNAVAILABLE
            && !self.exposed
            && !self.permanent
            && self.reason == Outcome::Shed
    }

    #[cold]
    fn described(&self, status: StatusCode) -> Response<Bytes> {
        use fmt::Write;

        let durability = if self.permanent {
            "permanent"
        } else {
            "transient"
        };
        let mut members = format!(",\"durability\":\"{durability}\"");
        if self.exposed {
            let figures = [
                ("asked", self.asked),
                ("used", self.used),
                ("limit", self.limit),
            ];
            for (name, bytes) in figures {
                if let Some(bytes) = bytes {
                    // Writing to a `String` cannot fail.
                    let _ = write!(members, ",\"{name}\":{bytes}");
                }
            }
        }
        wire::problem_with(status, self, format_args!("{members}"))
    }
}

/// A sentence for the client, such as "the server is overloaded".
impl fmt::Display for LimitContext<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.reason == Outcome::Shed && self.permanent {
            return f.write_str("the request needs more memory than the server has");
        }
        self.reason.fmt(f)?;
        if self.body_read {
            f.write_str(" while its body was read")?;
        }
        Ok(())
    }
}
