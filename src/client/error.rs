use std::{error::Error, fmt, time::Duration};

use http::Response;

use super::body::CallBody;
use crate::{
    cancel::{CancelReason, Outcome},
    wire::{self, Protocol},
};

/// The error of an outgoing call: it was not sent, was cancelled, or failed.
///
/// # Examples
///
/// ```
/// use bytes::Bytes;
/// use http::{Request, Response, StatusCode};
/// use http_body_util::Empty;
/// use tower::{Layer, ServiceExt, service_fn};
/// use tower_memory::client::{CallError, PropagateDeadlineLayer};
/// use tower_memory::deadline_header::DeadlineHeader;
///
/// fn status(error: &CallError) -> StatusCode {
///     if error.is_deadline_exceeded() {
///         StatusCode::GATEWAY_TIMEOUT
///     } else {
///         StatusCode::BAD_GATEWAY
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
/// assert_eq!((error.reason(), status(&error).as_u16()), (None, 502));
/// assert_eq!(error.to_string(), "call failed");
/// let source = error.into_service_error().expect("the client's own error");
/// assert_eq!(source.to_string(), "refused");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct CallError(Fault);

#[derive(Debug)]
enum Fault {
    Cancelled(CancelReason),
    NothingRemains { left: Duration, margin: Duration },
    Service(Box<dyn Error + Send + Sync>),
}

impl CallError {
    pub(super) const fn cancelled(reason: CancelReason) -> Self {
        Self(Fault::Cancelled(reason))
    }

    pub(super) const fn nothing_remains(left: Duration, margin: Duration) -> Self {
        Self(Fault::NothingRemains { left, margin })
    }

    pub(super) fn service(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(Fault::Service(error.into()))
    }

    /// The result of a call that was not sent, or was dropped. A gRPC client expects a status, so in gRPC it is
    /// a response without a message.
    pub(super) fn into_response<B>(
        self,
        protocol: Protocol,
    ) -> Result<Response<CallBody<B>>, Self> {
        let Some(content_type) = protocol.content_type() else {
            return Err(self);
        };
        let status = if self.is_deadline_exceeded() {
            wire::DEADLINE_EXCEEDED
        } else {
            wire::CANCELLED
        };
        // The message must be ASCII.
        let message = self.to_string().replace('\u{b5}', "u");
        let response = wire::grpc_answer(content_type, status, &message);
        Ok(response.map(|_| CallBody::none()))
    }

    /// Returns whether the incoming request's deadline passed, or left too little time to send the
    /// call.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::{convert::Infallible, time::Duration};
    ///
    /// use http::{Request, Response};
    /// use http_body_util::Empty;
    /// use tower::{Layer, ServiceExt, service_fn};
    /// use tower_memory::client::PropagateDeadlineLayer;
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
    /// assert!(error.is_deadline_exceeded());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn is_deadline_exceeded(&self) -> bool {
        match self.0 {
            Fault::Cancelled(reason) => reason == Outcome::DeadlineExceeded,
            Fault::NothingRemains { .. } => true,
            Fault::Service(_) => false,
        }
    }

    /// Returns why the incoming request ended, if that is what stopped the call.
    #[must_use]
    pub const fn reason(&self) -> Option<CancelReason> {
        match self.0 {
            Fault::Cancelled(reason) => Some(reason),
            Fault::NothingRemains { .. } | Fault::Service(_) => None,
        }
    }

    /// Returns the inner service's error.
    ///
    /// # Errors
    ///
    /// Returns `self` if the call was not sent, or was cancelled.
    pub fn into_service_error(self) -> Result<Box<dyn Error + Send + Sync>, Self> {
        match self.0 {
            Fault::Service(error) => Ok(error),
            fault => Err(Self(fault)),
        }
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
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
        match &self.0 {
            Fault::Service(error) => Some(error.as_ref()),
            Fault::Cancelled(_) | Fault::NothingRemains { .. } => None,
        }
    }
}
