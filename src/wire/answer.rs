//! The responses that the middleware builds itself.

use std::{
    fmt::{self, Write},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body::Frame;

use super::{decimal::short_decimal, protocol::Protocol};
use crate::cancel::{CancelReason, Outcome};

/// `DEADLINE_EXCEEDED`
/// ([gRPC status codes](https://github.com/grpc/grpc/blob/master/doc/statuscodes.md)).
pub(crate) const DEADLINE_EXCEEDED: HeaderValue = HeaderValue::from_static("4");

/// `CANCELLED`.
pub(crate) const CANCELLED: HeaderValue = HeaderValue::from_static("1");

/// `UNAVAILABLE`: the call was not processed and may be retried.
pub(crate) const UNAVAILABLE: HeaderValue = HeaderValue::from_static("14");

/// `RESOURCE_EXHAUSTED`: the call needs more than there is.
pub(crate) const RESOURCE_EXHAUSTED: HeaderValue = HeaderValue::from_static("8");

// Made when this is compiled, so that no byte is looked at.
const PROBLEM: HeaderValue = HeaderValue::from_static("application/problem+json");
const CLOSE: HeaderValue = HeaderValue::from_static("close");

/// Builds a problem description ([RFC 9457](https://www.rfc-editor.org/rfc/rfc9457)). `detail` is
/// inserted into a JSON string unescaped.
pub(crate) fn problem(status: StatusCode, detail: &dyn fmt::Display) -> Response<Bytes> {
    problem_with(status, detail, format_args!(""))
}

/// As [`problem`], with further members, each after a comma.
pub(crate) fn problem_with(
    status: StatusCode,
    detail: &dyn fmt::Display,
    members: fmt::Arguments<'_>,
) -> Response<Bytes> {
    let mut body = String::with_capacity(PROBLEM_LEN);
    body.push_str("{\"type\":\"about:blank\",\"title\":\"");
    body.push_str(status.canonical_reason().unwrap_or("Error"));
    body.push_str("\",\"status\":");
    body.push_str(status.as_str());
    body.push_str(",\"detail\":\"");
    // Writing to a `String` cannot fail.
    let _ = write!(body, "{detail}\"{members}}}");
    described(status, Bytes::from(body))
}

/// Most problem descriptions are not longer.
const PROBLEM_LEN: usize = 256;

fn described(status: StatusCode, body: Bytes) -> Response<Bytes> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, PROBLEM);
    response
}

/// The value of `retry-after`: whole seconds
/// ([RFC 9110, 10.2.3](https://www.rfc-editor.org/rfc/rfc9110#section-10.2.3)), never too early.
pub(crate) fn retry_after(delay: Duration) -> HeaderValue {
    let seconds = delay.as_secs();
    let seconds = seconds.saturating_add(u64::from(delay.subsec_nanos() > 0));
    short_decimal(seconds).map_or_else(|| HeaderValue::from(seconds), HeaderValue::from_static)
}

/// Builds the response of a gRPC call that ends before its first message: status 200, and the trailers
/// in the head ("Trailers-Only" in
/// [gRPC over HTTP/2](https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md#responses)).
pub(crate) fn grpc_answer(
    content_type: HeaderValue,
    status: HeaderValue,
    message: &str,
) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.headers_mut() = grpc_trailers(status, message);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, content_type);
    response
}

/// Builds the trailers of a gRPC call that failed. `message` must be printable ASCII without `%`, so
/// that it is its own percent-encoding.
fn grpc_trailers(status: HeaderValue, message: &str) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(3);
    trailers.insert("grpc-status", status);
    if let Ok(message) = HeaderValue::from_str(message) {
        trailers.insert("grpc-message", message);
    }
    trailers
}

/// Builds the last frame of a body whose call failed: trailers, or in gRPC-Web data that holds them
/// ([gRPC-Web](https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-WEB.md)). `None` for plain HTTP.
/// `message` is as in [`grpc_trailers`].
pub(crate) fn last_frame(
    protocol: Protocol,
    status: HeaderValue,
    message: &str,
) -> Option<Frame<Bytes>> {
    let trailers = grpc_trailers(status, message);
    match protocol {
        Protocol::Plain => None,
        Protocol::Grpc => Some(Frame::trailers(trailers)),
        Protocol::GrpcWeb => Some(Frame::data(Bytes::from(web_trailers(&trailers)))),
        Protocol::GrpcWebText => Some(Frame::data(Bytes::from(base64(&web_trailers(&trailers))))),
    }
}

/// A length-prefixed message whose flag says that it holds trailers, as lines of HTTP/1.
fn web_trailers(trailers: &HeaderMap) -> Vec<u8> {
    const TRAILERS: u8 = 0x80;

    let mut lines = Vec::new();
    for (name, value) in trailers {
        lines.extend_from_slice(name.as_str().as_bytes());
        lines.push(b':');
        lines.extend_from_slice(value.as_bytes());
        lines.extend_from_slice(b"\r\n");
    }
    let mut frame = vec![TRAILERS];
    // Some hundred bytes.
    frame.extend_from_slice(&(lines.len() as u32).to_be_bytes());
    frame.extend_from_slice(&lines);
    frame
}

/// Encodes `bytes` in base64 with padding (RFC 4648).
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = chunk
            .iter()
            .zip([16, 8, 0])
            .fold(0, |group, (byte, shift)| group | u32::from(*byte) << shift);
        for (at, shift) in [18, 12, 6, 0].into_iter().enumerate() {
            let digit = DIGITS[(group >> shift & 63) as usize];
            text.push(if at > chunk.len() {
                '='
            } else {
                char::from(digit)
            });
        }
    }
    text
}

/// What [`problem`] says of a shutdown, made in advance: a refusal must cost little.
const SHUTTING_DOWN: &[u8] =
    b"{\"type\":\"about:blank\",\"title\":\"Service Unavailable\",\"status\":503,\
    \"detail\":\"the server is shutting down\"}";

/// Builds the response to a request that arrives during a shutdown: `503` with a problem description,
/// or gRPC's `UNAVAILABLE`. The handler did not run, so a client may retry any method elsewhere.
///
/// HTTP/1 clients are asked to close the connection. HTTP/2 has frames for that and forbids the header
/// ([RFC 9113, 8.2.2](https://www.rfc-editor.org/rfc/rfc9113#section-8.2.2)).
pub(crate) fn shutting_down(protocol: Protocol, http1: bool, delay: Duration) -> Response<Bytes> {
    const REASON: CancelReason = CancelReason::new(Outcome::Shutdown);

    let mut response = match protocol.content_type() {
        None => {
            let body = Bytes::from_static(SHUTTING_DOWN);
            let mut response = described(StatusCode::SERVICE_UNAVAILABLE, body);
            let headers = response.headers_mut();
            headers.insert(header::RETRY_AFTER, retry_after(delay));
            response
        }
        Some(content_type) => grpc_answer(content_type, UNAVAILABLE, &REASON.to_string()),
    };
    if http1 {
        response.headers_mut().insert(header::CONNECTION, CLOSE);
    }
    response.extensions_mut().insert(REASON);
    response
}

/// The problem description of a request that is refused because of the server's load, but for its
/// `retry-after`. The handler did not run, so a client may retry any method.
pub(crate) fn overloaded() -> Response<Bytes> {
    const BODY: &[u8] =
        b"{\"type\":\"about:blank\",\"title\":\"Service Unavailable\",\"status\":503,\
        \"detail\":\"the server is overloaded\",\"durability\":\"transient\"}";

    described(StatusCode::SERVICE_UNAVAILABLE, Bytes::from_static(BODY))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_made_in_advance_are_those_that_would_be_made() {
        let outcome = CancelReason::new(Outcome::Shutdown);
        let made = problem(StatusCode::SERVICE_UNAVAILABLE, &outcome);
        let refused = shutting_down(Protocol::Plain, false, Duration::ZERO);
        assert_eq!(refused.body(), made.body());
        assert_eq!(
            refused.headers()["content-type"],
            made.headers()["content-type"]
        );

        let shed = CancelReason::new(Outcome::Shed);
        let members = format_args!(",\"durability\":\"transient\"").to_string();
        let made = problem_with(
            StatusCode::SERVICE_UNAVAILABLE,
            &shed,
            format_args!("{members}"),
        );
        assert_eq!(overloaded().body(), made.body());
    }

    #[test]
    fn seconds_to_wait_are_rounded_up() {
        let text = |delay| {
            retry_after(delay)
                .to_str()
                .map(str::to_owned)
                .expect("text")
        };
        for seconds in (0..200).chain([u64::MAX / 2, u64::MAX]) {
            assert_eq!(text(Duration::from_secs(seconds)), seconds.to_string());
        }
        assert_eq!(text(Duration::from_nanos(1)), "1");
        assert_eq!(text(Duration::from_millis(9001)), "10");
        assert_eq!(text(Duration::MAX), u64::MAX.to_string());
    }

    #[test]
    fn base64_is_that_of_the_test_vectors() {
        // RFC 4648, section 10.
        for (plain, encoded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
        assert_eq!(base64(&[0xff, 0xef, 0xbe]), "/+++");
    }

    #[test]
    fn trailers_of_grpc_web_are_a_message_of_lines() {
        let frame = last_frame(Protocol::GrpcWeb, DEADLINE_EXCEEDED, "late").expect("gRPC");
        let data = frame.into_data().expect("in the body");
        let (flag, rest) = data.split_first().expect("not empty");
        assert_eq!(*flag, 0x80);
        assert_eq!(rest, b"\0\0\0\x22grpc-status:4\r\ngrpc-message:late\r\n");
        assert!(last_frame(Protocol::Plain, DEADLINE_EXCEEDED, "late").is_none());
    }
}
