//! Whatever a route is called, each form of the response headers says so, or leaves the name out, and nothing else.

use std::{
    convert::Infallible,
    pin::pin,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::Empty;
use tower::{Layer, Service, service_fn};
use tower_memory::{Expose, MemoryLayer, RequestScope, header::HeaderFormat};

use super::figures::{of_dictionary, of_fields, of_server_timing};

/// Longer labels are cut.
const LONGEST: usize = 256;

/// Panics if something does not hold.
pub(crate) fn holds(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let end = (0..=LONGEST.min(text.len()))
        .rev()
        .find(|end| text.is_char_boundary(*end));
    let label = &text[..end.expect("zero is one")];

    let fields = headers(HeaderFormat::Fields, &text);
    let figures = of_fields(&fields);
    let shown = HeaderValue::from_bytes(label.as_bytes())
        .ok()
        .map(|_| label);
    assert_eq!(figures.get("alloc-route").map(String::as_str), shown);
    assert_eq!(figures["arena-bytes"], "100");
    let count = 2 + usize::from(shown.is_some());
    assert_eq!(
        (figures.len(), fields.len()),
        (count, count + 1),
        "{fields:?}"
    );

    let dictionary = headers(HeaderFormat::Dictionary, &text);
    let figures = of_dictionary(&dictionary);
    assert_eq!((figures.len(), dictionary.len()), (3, 2), "{dictionary:?}");
    assert_eq!(figures["alloc-route"], label);

    let timing = headers(HeaderFormat::ServerTiming, &text);
    let figures = of_server_timing(&timing);
    // A tab is not written into quotes.
    let shown = shown.filter(|label| !label.contains('\t'));
    assert_eq!(figures.get("alloc-route").map(String::as_str), shown);
    let count = 2 + usize::from(shown.is_some());
    assert_eq!((figures.len(), timing.len()), (count, 2), "{timing:?}");
}

/// The headers of a response to a request with this route label.
fn headers(format: HeaderFormat, label: &str) -> HeaderMap {
    let layer = MemoryLayer::builder()
        .expose(Expose::Always)
        .header_format(format)
        .build()
        .expect("valid settings");
    let mut service = layer.layer(service_fn(move |request: Request<()>| {
        let scope = request.extensions().get::<RequestScope>().expect("inside");
        scope.set_route(label);
        scope.arena().alloc_slice_copy(&[1_u8; 100]);
        let mut response = Response::new(Empty::<Bytes>::new());
        let timing = HeaderValue::from_static("db;dur=5.3");
        response.headers_mut().insert("server-timing", timing);
        std::future::ready(Ok::<_, Infallible>(response))
    }));
    let response = service.call(Request::new(()));
    match pin!(response).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Ok(response)) => response.headers().clone(),
        Poll::Ready(Err(never)) => match never {},
        Poll::Pending => panic!("the handler is ready"),
    }
}
