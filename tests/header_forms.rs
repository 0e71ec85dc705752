//! The figures in the headers of a response, in each form, read by parsers that are not the crate's.
#![forbid(unsafe_code)]

#[path = "support/figures.rs"]
mod figures;

use std::{convert::Infallible, hint::black_box};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::Empty;
use tower::{Layer, ServiceExt, service_fn};
use tower_memory::{Expose, MemoryLayer, RequestScope, TrackingAllocator, header::HeaderFormat};

use self::figures::{Figures, of_dictionary, of_fields, of_server_timing};

#[global_allocator]
static ALLOC: TrackingAllocator = TrackingAllocator::system();

/// The headers of a response to a request that allocates `bytes` and has this route label.
async fn headers(format: HeaderFormat, bytes: usize, label: &'static str) -> HeaderMap {
    let layer = MemoryLayer::builder()
        .expose(Expose::Always)
        .header_format(format)
        .build()
        .unwrap();
    let service = layer.layer(service_fn(move |request: Request<()>| async move {
        let scope = request.extensions().get::<RequestScope>().unwrap();
        scope.set_route(label);
        scope.arena().alloc_slice_copy(&[1_u8; 100]);
        drop(black_box(vec![1_u8; bytes]));
        let mut response = Response::new(Empty::<Bytes>::new());
        let timing = "db;dur=5.3".parse().unwrap();
        response.headers_mut().insert("server-timing", timing);
        Ok::<_, Infallible>(response)
    }));
    // The second request finds what the first one made.
    drop(service.clone().oneshot(Request::new(())).await.unwrap());
    let response = service.oneshot(Request::new(())).await.unwrap();
    response.headers().clone()
}

#[tokio::test]
async fn all_forms_tell_the_same_figures() {
    for bytes in [7, 9_990, 60_000, 100_000_000] {
        let fields = of_fields(&headers(HeaderFormat::Fields, bytes, "/items/{id}").await);
        let figure = |name: &str| fields[name].parse::<usize>().unwrap();
        assert_eq!(fields.len(), 6);
        assert!(
            (bytes..bytes + 2000).contains(&figure("alloc-bytes")),
            "{fields:?}"
        );
        assert_eq!(figure("arena-bytes"), 100);
        assert_eq!(fields["alloc-route"], "/items/{id}");
        for (format, read) in [
            (
                HeaderFormat::Dictionary,
                of_dictionary as fn(&HeaderMap) -> Figures,
            ),
            (HeaderFormat::ServerTiming, of_server_timing),
        ] {
            let headers = headers(format, bytes, "/items/{id}").await;
            assert_eq!(read(&headers), fields);
            assert_eq!(of_fields(&headers), Figures::new());
        }
    }
}

#[tokio::test]
async fn hostile_labels_stay_within_their_value() {
    for label in [
        "\", alloc-bytes=1, x=\"",
        "a\\",
        "\\\"",
        "f\u{fc}r 100%",
        "%22",
        "\u{1f980}",
    ] {
        let dictionary = of_dictionary(&headers(HeaderFormat::Dictionary, 10, label).await);
        assert_eq!(
            (dictionary.len(), dictionary["alloc-route"].as_str()),
            (6, label)
        );
        let metrics = of_server_timing(&headers(HeaderFormat::ServerTiming, 10, label).await);
        assert_eq!((metrics.len(), metrics["alloc-route"].as_str()), (6, label));
    }
    // No quoted string has control characters, and a Display String encodes them.
    for label in ["a\r\nb: c", "\u{7f}", "\0"] {
        let dictionary = of_dictionary(&headers(HeaderFormat::Dictionary, 10, label).await);
        assert_eq!(dictionary["alloc-route"], label);
        let metrics = of_server_timing(&headers(HeaderFormat::ServerTiming, 10, label).await);
        assert_eq!((metrics.len(), metrics.get("alloc-route")), (5, None));
    }
}
