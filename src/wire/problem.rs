use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// `DEADLINE_EXCEEDED`
/// ([gRPC status codes](https://github.com/grpc/grpc/blob/master/doc/statuscodes.md)).
const DEADLINE_EXCEEDED: HeaderValue = HeaderValue::from_static("4");

/// Builds a problem description ([RFC 9457](https://www.rfc-editor.org/rfc/rfc9457)). `detail` is
/// inserted into a JSON string unescaped.
pub(crate) fn problem(status: StatusCode, detail: &str) -> Response<Bytes> {
    let title = status.canonical_reason().unwrap_or("Error");
    let body = format!(
        "{{\"type\":\"about:blank\",\"title\":\"{title}\",\"status\":{},\"detail\":\"{detail}\"}}",
        status.as_u16()
    );
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/problem+json"),
    );
    response
}

/// Builds the response of a gRPC call that ends before its first message: status 200, and the trailers
/// in the head ("Trailers-Only" in
/// [gRPC over HTTP/2](https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md#responses)).
pub(crate) fn grpc_deadline_exceeded(content_type: HeaderValue, message: &str) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.headers_mut() = grpc_trailers(message);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, content_type);
    response
}

/// Builds the trailers of a gRPC call whose deadline has passed. `message` must be printable ASCII
/// without `%`, so that it is its own percent-encoding.
pub(crate) fn grpc_trailers(message: &str) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(3);
    trailers.insert(GRPC_STATUS, DEADLINE_EXCEEDED);
    if let Ok(message) = HeaderValue::from_str(message) {
        trailers.insert(GRPC_MESSAGE, message);
    }
    trailers
}
