//! Requests that are refused while clients do not take what earlier responses hold.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpStream, time::sleep};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_memory::{
    ArenaPool, Expose, MemoryLayer, Outcome,
    cancel::CancelReason,
    middleware::{MemoryLayerBuilder, ResponseBody},
};

use super::support::{Refused, Watch, get, scope_of, serve, watched};

const PART: usize = 64 * 1024;

/// A buffer of 64 KiB.
fn part<B>(request: &Request<B>) -> Bytes {
    let mut buf = scope_of(request).arena().buf_with_capacity(PART);
    buf.extend_from_slice(&[7; PART]);
    buf.freeze()
}

/// A service that answers with a part, and counts how often it runs.
fn parts(
    layer: &MemoryLayer,
    ran: &Arc<AtomicUsize>,
) -> impl Service<
    Request<Empty<Bytes>>,
    Response = Response<ResponseBody<Full<Bytes>>>,
    Error = Refused,
    Future: Send,
> + Clone
+ Send
+ use<> {
    let ran = Arc::clone(ran);
    layer.layer(service_fn(move |request: Request<Empty<Bytes>>| {
        ran.fetch_add(1, Ordering::Relaxed);
        std::future::ready(Ok::<_, Refused>(Response::new(Full::new(part(&request)))))
    }))
}

/// With a pool of its own.
fn own(layer: MemoryLayerBuilder) -> (MemoryLayer, Watch) {
    watched(layer.pool(ArenaPool::new()))
}

/// Reads a response that is ready at once.
async fn read(response: Response<ResponseBody<Full<Bytes>>>) -> Bytes {
    response.into_body().collect().await.unwrap().to_bytes()
}

#[tokio::test]
async fn requests_are_refused_from_the_limit_on_until_bytes_are_released() {
    let ran = Arc::default();
    let layer = MemoryLayer::builder()
        .max_unreleased_bytes(PART + 1)
        .expose(Expose::Always);
    let (layer, watch) = own(layer);
    let service = parts(&layer, &ran);
    let send = || service.clone().oneshot(get("/")).map(Result::unwrap);
    let mut kept = Vec::new();
    for _ in 0..2 {
        let response = send().await;
        assert_eq!(response.status(), StatusCode::OK);
        kept.push(read(response).await);
    }
    let used = watch.handle.pool().buffer_bytes();
    assert!(used >= 2 * PART);
    let refused = send().await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.headers()[header::RETRY_AFTER], "1");
    let problem = "application/problem+json";
    assert_eq!(refused.headers()[header::CONTENT_TYPE], problem);
    assert_eq!(refused.headers()["x-arena-bytes"], "0");
    let reason = refused.extensions().get::<CancelReason>().copied();
    assert!(reason.is_some_and(|reason| reason == Outcome::Shed));
    let said: serde_json::Value = serde_json::from_slice(&read(refused).await).unwrap();
    let limit = PART + 1;
    let expected = serde_json::json!({
        "type": "about:blank",
        "title": "Service Unavailable",
        "status": 503,
        "detail": "the server is overloaded",
        "durability": "transient",
        "limit": limit,
        "used": used,
    });
    assert_eq!(said, expected);
    assert_eq!(ran.load(Ordering::Relaxed), 2, "the handler did not run");
    kept.pop();
    assert_eq!(send().await.status(), StatusCode::OK);
    drop(kept);
    let outcomes: Vec<_> = watch.reports(4).await.iter().map(|r| r.outcome).collect();
    let shed = outcomes.iter().filter(|outcome| **outcome == Outcome::Shed);
    assert_eq!(shed.count(), 1);
}

#[tokio::test]
async fn a_client_that_sees_no_figures_sees_neither_limit_nor_use() {
    let ran = Arc::default();
    let layer = MemoryLayer::builder()
        .max_unreleased_bytes(0)
        .expose(Expose::Never);
    let (layer, watch) = own(layer);
    let service = parts(&layer, &ran);
    let refused = service.oneshot(get("/")).await.unwrap();
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    let said: serde_json::Value = serde_json::from_slice(&read(refused).await).unwrap();
    assert_eq!(said["detail"], "the server is overloaded");
    assert_eq!((said.get("limit"), said.get("used")), (None, None));
    assert_eq!(watch.report().await.outcome, Outcome::Shed);
}

#[tokio::test]
async fn a_grpc_call_is_refused_with_the_status_unavailable() {
    let ran = Arc::default();
    let layer = MemoryLayer::builder()
        .max_unreleased_bytes(0)
        .expose(Expose::Always);
    let (layer, watch) = own(layer);
    let service = parts(&layer, &ran);
    let mut request = get("/");
    *request.method_mut() = Method::POST;
    let value = HeaderValue::from_static("application/grpc");
    request.headers_mut().insert(header::CONTENT_TYPE, value);
    let refused = service.oneshot(request).await.unwrap();
    assert_eq!(refused.status(), StatusCode::OK);
    assert_eq!(refused.headers()["grpc-status"], "14");
    assert_eq!(
        refused.headers()["grpc-message"],
        "the server is overloaded"
    );
    assert!(!refused.headers().contains_key(header::RETRY_AFTER));
    assert_eq!(watch.report().await.outcome, Outcome::Shed);
}

#[tokio::test]
async fn what_an_open_request_sends_is_served() {
    let layer = MemoryLayer::builder().max_unreleased_bytes(PART);
    let (layer, watch) = watched(layer.pool(ArenaPool::new()));
    let inner = layer.clone();
    let service = layer.layer(service_fn(move |request: Request<Empty<Bytes>>| {
        let kept = part(&request);
        let part = inner.layer(service_fn(async |_: Request<Empty<Bytes>>| {
            Ok::<_, Refused>(Response::new(Full::new(Bytes::new())))
        }));
        async move {
            let status = part.oneshot(get("/part")).await?.status();
            drop(kept);
            let mut response = Response::new(Full::<Bytes>::default());
            *response.status_mut() = status;
            Ok::<_, Refused>(response)
        }
    }));
    let response = service.oneshot(get("/")).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    drop(response);
    watch.reports(2).await;
}

/// Bodies of one frame, which the server takes at once and keeps.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_http_2_a_client_that_reads_nothing_pins_the_limit_and_no_more() {
    const LIMIT: usize = 16 * PART;
    const REQUESTS: usize = 100;

    let (layer, watch) = watched(
        MemoryLayer::builder()
            .pool(ArenaPool::new())
            .max_unreleased_bytes(LIMIT),
    );
    let service = layer.layer(service_fn(
        async |request: Request<hyper::body::Incoming>| {
            Ok::<_, Refused>(Response::new(Full::new(part(&request))))
        },
    ));
    let address = serve(service).await;
    let stream = TokioIo::new(TcpStream::connect(address).await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(0)
        .handshake(stream)
        .await
        .unwrap();
    let connection = tokio::spawn(connection);
    let mut responses = Vec::new();
    for _ in 0..REQUESTS {
        let response = sender.send_request(get("http://localhost/")).await;
        responses.push(response.unwrap());
    }
    let served = responses
        .iter()
        .filter(|response| response.status() == StatusCode::OK)
        .count();
    let pool = watch.handle.pool();
    let pinned = pool.buffer_bytes();
    // One at a time, so that none passes beside another.
    assert!((1..=LIMIT / PART).contains(&served), "{served} served");
    assert!((LIMIT..LIMIT + 2 * PART).contains(&pinned), "{pinned}");
    let reports = watch.reports(REQUESTS).await;
    let shed = reports.iter().filter(|r| r.outcome == Outcome::Shed);
    assert_eq!(shed.count(), REQUESTS - served);

    // The client goes, and others are served again.
    connection.abort();
    drop((sender, responses));
    while pool.buffer_bytes() > 0 {
        sleep(Duration::from_millis(1)).await;
    }
}
