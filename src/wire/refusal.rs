use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};

use super::{problem::problem, protocol::Protocol};
use crate::cancel::{CancelReason, Outcome};

/// `UNAVAILABLE`: the call was not processed and may be retried
/// ([gRPC status codes](https://github.com/grpc/grpc/blob/master/doc/statuscodes.md)).
const UNAVAILABLE: HeaderValue = HeaderValue::from_static("14");

/// Builds the response to a request that arrives during a shutdown: `503` with a problem description,
/// or gRPC's `UNAVAILABLE`. The handler did not run, so a client may retry any method elsewhere.
///
/// HTTP/1 clients are asked to close the connection. HTTP/2 has frames for that and forbids the header
/// ([RFC 9113, 8.2.2](https://www.rfc-editor.org/rfc/rfc9113#section-8.2.2)).
pub(crate) fn shutting_down(protocol: Protocol, http1: bool) -> Response<Bytes> {
    const REASON: CancelReason = CancelReason::new(Outcome::Shutdown);

    let mut response = match protocol.content_type() {
        None => problem(StatusCode::SERVICE_UNAVAILABLE, &REASON.to_string()),
        Some(content_type) => {
            let mut response = Response::new(Bytes::new());
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_TYPE, content_type);
            headers.insert("grpc-status", UNAVAILABLE);
            if let Ok(message) = HeaderValue::from_str(&REASON.to_string()) {
                headers.insert("grpc-message", message);
            }
            response
        }
    };
    if http1 {
        response
            .headers_mut()
            .insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response.extensions_mut().insert(REASON);
    response
}
