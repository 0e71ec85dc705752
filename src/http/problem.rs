use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};

use crate::cancel::CancelReason;

/// The answer to a request whose deadline passed: `504` with a problem description
/// ([RFC 9457](https://www.rfc-editor.org/rfc/rfc9457)).
///
/// The reason is also in the response's extensions, for layers further out.
pub(crate) fn deadline_exceeded(reason: CancelReason, after: Duration) -> Response<Bytes> {
    let body = format!(
        "{{\"type\":\"about:blank\",\"title\":\"Gateway Timeout\",\"status\":504,\
         \"detail\":\"{reason} after {} ms\"}}",
        after.as_millis()
    );
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = StatusCode::GATEWAY_TIMEOUT;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/problem+json"),
    );
    response.extensions_mut().insert(reason);
    response
}
