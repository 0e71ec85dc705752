use std::{error::Error, fmt, time::Duration};

use crate::cancel::{CancelReason, Outcome};

/// The error of an outgoing call: it was not sent, was cancelled, or failed.
///
/// # Examples
///
/// ```
/// use bytes::Bytes;
/// use http::{Request, Response, StatusCode};
/// use http_body_util::Empty;
/// use tower::{Layer, ServiceExt, service_fn};
/// use tower_memory::client::{CallError, CallErrorKind, PropagateDeadlineLayer};
/// use tower_memory::deadline_header::DeadlineHeader;
///
/// fn status(error: &CallError) -> StatusCode {
///     match error.kind() {
///         CallErrorKind::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
///         _ => StatusCode::BAD_GATEWAY,
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // Stands in for a real client.
/// let client = service_fn(async |_: Request<()>| {
///     Err::<Response<Empty<Bytes>>, _>(std::io::Error::other("refused"))
/// });
/// let client = PropagateDeadlineLayer::new(DeadlineHeader::GrpcTimeout).layer(client);
///
/// let error = client.oneshot(Request::new(())).await.unwrap_err();
/// assert_eq!((error.kind(), status(&error).as_u16()), (CallErrorKind::Service, 502));
/// assert_eq!(error.to_string(), "call failed");
/// let source = error.into_service_error().expect("the client's own error");
/// assert_eq!(source.to_string(), "refused");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct CallError {
    fault: Fault,
}

#[derive(Debug)]
enum Fault {
    Cancelled(CancelReason),
    NothingRemains { left: Duration, margin: Duration },
    Service(Box<dyn Error + Send + Sync>),
}

/// The kind of a [`CallError`].
///
/// # Examples
///
/// ```
/// use std::{convert::Infallible, time::Duration};
///
/// use http::{Request, Response};
/// use http_body_util::Empty;
/// use tower::{Layer, ServiceExt, service_fn};
/// use tower_memory::client::{CallErrorKind, PropagateDeadlineLayer};
/// use tower_memory::{MemoryLayer, RequestScope, deadline_header::DeadlineHeader};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // Stands in for a real client.
/// let client = service_fn(|_: Request<()>| async {
///     Ok::<_, Infallible>(Response::new(Empty::<bytes::Bytes>::new()))
/// });
/// let client = PropagateDeadlineLayer::new(DeadlineHeader::GrpcTimeout).layer(client);
/// let service = MemoryLayer::new().layer(service_fn(move |request: Request<()>| {
///     let scope = request.extensions().get::<RequestScope>().expect("the layer is there");
///     scope.shorten_deadline(Duration::ZERO);
///     client.clone().oneshot(Request::new(()))
/// }));
///
/// let error = service.oneshot(Request::new(())).await.unwrap_err();
/// assert_eq!(error.kind(), CallErrorKind::DeadlineExceeded);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CallErrorKind {
    /// The incoming request ended before the call was sent or before it was answered.
    Cancelled,
    /// The incoming request's deadline passed, or too little time was left to send the call.
    DeadlineExceeded,
    /// The inner service failed. Its error is the [`source`](std::error::Error::source).
    Service,
}

impl CallError {
    pub(super) const fn cancelled(reason: CancelReason) -> Self {
        Self {
            fault: Fault::Cancelled(reason),
        }
    }

    pub(super) const fn nothing_remains(left: Duration, margin: Duration) -> Self {
        Self {
            fault: Fault::NothingRemains { left, margin },
        }
    }

    pub(super) fn service(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self {
            fault: Fault::Service(error.into()),
        }
    }

    /// Returns the kind of this error.
    #[must_use]
    pub const fn kind(&self) -> CallErrorKind {
        match self.fault {
            Fault::Cancelled(reason) => match reason.outcome() {
                Outcome::DeadlineExceeded => CallErrorKind::DeadlineExceeded,
                _ => CallErrorKind::Cancelled,
            },
            Fault::NothingRemains { .. } => CallErrorKind::DeadlineExceeded,
            Fault::Service(_) => CallErrorKind::Service,
        }
    }

    /// Returns why the incoming request ended, if that is what stopped the call.
    #[must_use]
    pub const fn reason(&self) -> Option<CancelReason> {
        match self.fault {
            Fault::Cancelled(reason) => Some(reason),
            Fault::NothingRemains { .. } | Fault::Service(_) => None,
        }
    }

    /// Returns the inner service's error.
    ///
    /// # Errors
    ///
    /// Returns `self` unless [`kind`](Self::kind) is [`CallErrorKind::Service`].
    pub fn into_service_error(self) -> Result<Box<dyn Error + Send + Sync>, Self> {
        match self.fault {
            Fault::Service(error) => Ok(error),
            fault => Err(Self { fault }),
        }
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.fault {
            Fault::Cancelled(reason) => write!(f, "call cancelled: {reason}"),
            Fault::NothingRemains { left, margin } => write!(
                f,
                "call not sent: {left:.1?} left before the deadline, {margin:.1?} reserved"
            ),
            Fault::Service(_) => f.write_str("call failed"),
        }
    }
}

impl Error for CallError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.fault {
            Fault::Service(error) => Some(error.as_ref()),
            Fault::Cancelled(_) | Fault::NothingRemains { .. } => None,
        }
    }
}
