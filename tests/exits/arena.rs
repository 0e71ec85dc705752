//! What requests do with their arena: bodies read into it, JSON written to it, and the size it has
//! from the start.

use std::collections::BTreeMap;

use axum::{
    Router,
    body::Body,
    extract::Path,
    response::IntoResponse,
    routing::{get, post},
};
use bytes::Bytes;
use http::{Request, StatusCode, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Full};
use tower::ServiceExt;
use tower_memory::{
    Arena, ArenaBuf, ArenaPool, MemoryLayer, RequestScope, extract::ArenaJson,
    housekeeping::ManualClock, json::SerializeError,
};

use super::support::{Step, Steps, data, poll_once, settled, trailers, watched};

#[tokio::test]
async fn a_body_is_read_into_the_arena_without_its_trailers() {
    let arena = Arena::new();
    let body = Steps::new([data("one"), data("two"), trailers()]);
    let read = arena.collect(body, 6).await.unwrap();
    assert_eq!(&*read, b"onetwo");
    assert!(arena.allocated_bytes() >= 6);
    assert_eq!(read.freeze(), "onetwo");
}

#[tokio::test]
async fn an_empty_body_takes_no_memory() {
    let arena = Arena::new();
    let read = arena.collect(Full::<Bytes>::default(), 0).await.unwrap();
    assert!(read.is_empty());
    assert_eq!(arena.capacity(), 0);
}

#[tokio::test]
async fn a_body_that_says_it_is_too_large_is_refused_unread() {
    let arena = Arena::new();
    let body = Steps::new([Step::Panic]).with_length(11);
    let error = arena.collect(body, 10).await.unwrap_err();
    assert_eq!((error.limit(), error.received()), (Some(10), 0));
    assert_eq!(error.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(
        error.to_string(),
        "body of at least 11 bytes exceeds the limit of 10"
    );
    assert_eq!(arena.capacity(), 0);
}

#[tokio::test]
async fn a_body_that_turns_out_too_large_is_refused_and_its_bytes_are_given_back() {
    let arena = Arena::new();
    let body = Steps::new([data("12345678"), data("9ab"), Step::Panic]);
    let error = arena.collect(body, 10).await.unwrap_err();
    assert_eq!((error.limit(), error.received()), (Some(10), 8));
    assert!(error.to_string().contains("at least 11 bytes"), "{error}");
    assert_eq!(arena.allocated_bytes(), 0);
}

#[tokio::test]
async fn a_body_that_fails_is_a_bad_request_with_its_own_error() {
    let arena = Arena::new();
    let body = Steps::new([data("1234"), Step::Fail]);
    let error = arena.collect(body, 10).await.unwrap_err();
    assert_eq!((error.limit(), error.received()), (None, 4));
    assert_eq!(error.status(), StatusCode::BAD_REQUEST);
    assert_eq!(error.to_string(), "body failed after 4 bytes");
    assert!(error.into_body_error().is_some());
}

#[test]
fn announcing_a_large_body_costs_the_client_more_than_the_server() {
    let arena = Arena::new();
    let body = Steps::new([Step::Stall]).with_length(50_000_000);
    let mut reading = Box::pin(arena.collect(body, 100_000_000));
    assert!(poll_once(&mut reading).is_pending());
    assert!(arena.capacity() <= 64 * 1024, "{}", arena.capacity());
}

async fn length(scope: RequestScope, body: Body) -> axum::response::Response {
    match scope.arena().collect(body, 1000).await {
        Ok(read) => read.len().to_string().into_response(),
        Err(error) => error.into_response(),
    }
}

#[tokio::test]
async fn in_axum_a_body_that_is_too_large_is_answered_with_413() {
    let (layer, watch) = watched(MemoryLayer::builder());
    let app = Router::new().route("/", post(length)).layer(layer);
    for (sent, status, answer) in [
        (1000, StatusCode::OK, "1000"),
        (
            1001,
            StatusCode::PAYLOAD_TOO_LARGE,
            "{\"type\":\"about:blank\",\"title\":\"Payload Too Large\",\"status\":413,\
             \"detail\":\"body of at least 1001 bytes exceeds the limit of 1000\"}",
        ),
    ] {
        let request = Request::post("/").body(Body::from(vec![b'x'; sent]));
        let response = app.clone().oneshot(request.unwrap()).await.unwrap();
        assert_eq!(response.status(), status);
        let is_problem = response.headers()[CONTENT_TYPE] == "application/problem+json";
        assert_eq!(is_problem, status != StatusCode::OK);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, answer);
    }
    assert_eq!(watch.reports(2).await.len(), 2);
    settled(&watch.handle).await;
}

#[tokio::test]
async fn arena_json_writes_into_the_arena_of_the_request() {
    let (layer, watch) = watched(MemoryLayer::builder());
    let handler = || async { ArenaJson(vec!["a", "b"]) };
    let app = Router::new().route("/", get(handler)).layer(layer);
    let request = Request::get("/").body(Body::empty()).unwrap();
    let response = app.oneshot(request).await.unwrap();
    assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
    assert_eq!(response.headers()["x-arena-bytes"], "9");
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, r#"["a","b"]"#);
    assert_eq!(
        watch.handle.pool().stats().rented,
        0,
        "few bytes are copied"
    );
    drop(body);
    settled(&watch.handle).await;
}

#[tokio::test]
async fn an_upload_that_was_read_and_dropped_is_in_the_figures() {
    async fn upload(scope: RequestScope, body: Body) -> StatusCode {
        let read = scope.arena().collect(body, 1 << 20).await;
        assert_eq!(read.unwrap().len(), 400_000);
        StatusCode::OK
    }
    let (layer, watch) = watched(MemoryLayer::builder());
    let app = Router::new().route("/", post(upload)).layer(layer);
    let request = Request::post("/").body(Body::from(vec![b'x'; 400_000]));
    let response = app.oneshot(request.unwrap()).await.unwrap();
    let shown: usize = response.headers()["x-arena-bytes"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!(shown >= 400_000, "{shown}");
    drop(response);
    assert!(watch.report_now().arena.bytes >= 400_000);
}

#[tokio::test]
async fn a_buffer_is_a_response() {
    async fn handler(arena: Arena) -> ArenaBuf {
        let mut body = arena.buf();
        write!(body, "{}", 7).unwrap();
        body
    }
    let app = Router::new()
        .route("/", get(handler))
        .layer(MemoryLayer::new());
    let response = app.oneshot(Request::new(Body::empty())).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()[CONTENT_TYPE], "application/octet-stream");
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "7");

    let body = Arena::new().buf().into_response().into_body();
    assert!(http_body::Body::is_end_stream(&body));
}

#[tokio::test]
async fn arena_json_needs_no_layer() {
    let app = Router::new().route("/", get(|| async { ArenaJson("text") }));
    let request = Request::get("/").body(Body::empty()).unwrap();
    let response = app.oneshot(request).await.unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "\"text\"");
}

#[tokio::test]
async fn arena_json_that_cannot_be_written_is_an_internal_error() {
    let (layer, watch) = watched(MemoryLayer::builder());
    // JSON has no maps whose keys are lists.
    let handler = || async { ArenaJson(BTreeMap::from([(vec![1], 2)])) };
    let app = Router::new().route("/", get(handler)).layer(layer);
    let request = Request::get("/").body(Body::empty()).unwrap();
    let response = app.oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
    let error = response.extensions().get::<SerializeError>().unwrap();
    assert_eq!(error.written(), 1, "the opening brace");
    drop(response);
    settled(&watch.handle).await;
}

async fn fill(arena: Arena, Path(bytes): Path<usize>) {
    arena.alloc_slice_copy(&vec![1_u8; bytes]);
}

async fn request_of(app: &Router, path: &str) {
    let request = Request::get(path).body(Body::empty()).unwrap();
    let response = app.clone().oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_route_whose_size_is_learned_takes_no_chunk_per_request() {
    // Not trimmed, however long it takes.
    let (layer, watch) = watched(MemoryLayer::builder().clock(&ManualClock::new()));
    let app = Router::new().route("/{bytes}", get(fill)).layer(layer);
    for _ in 0..3 {
        request_of(&app, "/100000").await;
    }
    let warm = watch.handle.pool().stats();
    for _ in 0..1000 {
        request_of(&app, "/100000").await;
    }
    let stats = watch.handle.pool().stats();
    assert_eq!((stats.misses, stats.hits), (warm.misses, warm.hits + 1000));
    // A chunk that is taken is allocated, and one that is given back is evicted.
    assert_eq!(
        stats.pooled_bytes + stats.rented_bytes,
        warm.pooled_bytes + warm.rented_bytes
    );
    assert_eq!(stats.evicted_bytes, warm.evicted_bytes);
    let learned = watch.handle.snapshot().routes[0].learned_arena_bytes;
    assert!(
        (100_000..=112_500).contains(&learned.unwrap()),
        "{learned:?}"
    );
}

#[tokio::test]
async fn the_first_request_of_a_learned_route_takes_its_memory_at_once() {
    let (layer, watch) = watched(MemoryLayer::builder().pool(
        // Nothing is kept: each arena is new.
        ArenaPool::builder().enabled(false).build().unwrap(),
    ));
    let capacities = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let handler = {
        let capacities = std::sync::Arc::clone(&capacities);
        async move |arena: Arena| {
            arena.alloc(1_u8);
            capacities.lock().unwrap().push(arena.capacity());
            arena.alloc_slice_fill_iter((0..99_999).map(|_| 1_u8));
        }
    };
    let app = Router::new().route("/", get(handler)).layer(layer);
    for _ in 0..3 {
        request_of(&app, "/").await;
    }
    let capacities = capacities.lock().unwrap().clone();
    assert_eq!(capacities[0], 16 * 1024, "the pool's initial size");
    assert!(
        capacities[1..].iter().all(|&bytes| bytes >= 100_000),
        "{capacities:?}"
    );
    settled(&watch.handle).await;
}

#[tokio::test]
async fn routes_are_learned_apart_and_shown_in_the_snapshot() {
    let (layer, watch) = watched(MemoryLayer::builder());
    let app = Router::new()
        .route(
            "/small",
            get(async |arena: Arena| _ = arena.alloc([1_u8; 500])),
        )
        .route(
            "/large",
            get(async |arena: Arena| _ = arena.alloc([1_u8; 60_000])),
        )
        .route("/none", get(async || {}))
        .layer(layer);
    for path in ["/small", "/large", "/none", "/small", "/large"] {
        request_of(&app, path).await;
    }
    let snapshot = watch.handle.snapshot();
    let learned = |path: &str| {
        let route = snapshot.routes.iter().find(|r| r.route.as_str() == path);
        route.unwrap().learned_arena_bytes
    };
    assert!((500..=562).contains(&learned("/small").unwrap()));
    assert!((60_000..=67_500).contains(&learned("/large").unwrap()));
    assert_eq!(learned("/none"), None);
    let table = snapshot.to_string();
    assert!(table.contains("learned"), "{table}");
    assert!(
        table.contains(&learned("/large").unwrap().to_string()),
        "{table}"
    );
}

/// Sends a request and reads the response to its end.
async fn read(app: &Router, path: &str) -> Bytes {
    let request = Request::get(path).body(Body::empty()).unwrap();
    let response = app.clone().oneshot(request).await.unwrap();
    response.into_body().collect().await.unwrap().to_bytes()
}

/// A response of so many bytes, written 64 bytes at a time.
async fn grown(scope: RequestScope, Path(bytes): Path<usize>) -> Body {
    let mut body = scope.arena().buf();
    while body.len() < bytes {
        body.extend_from_slice(&[1; 64]);
    }
    Body::from(body.freeze())
}

#[tokio::test]
async fn bytes_that_somebody_keeps_have_the_name_of_their_route() {
    use std::sync::{Arc, Mutex};
    let kept = Arc::new(Mutex::new(Vec::new()));
    let (layer, watch) = watched(MemoryLayer::builder());
    let cache = Arc::clone(&kept);
    let leaky = async move |scope: RequestScope| {
        let mut body = scope.arena().buf();
        body.extend_from_slice(&[1; 60_000]);
        let body = body.freeze();
        cache.lock().unwrap().push(body.slice(..16));
        body
    };
    let app = Router::new()
        .route("/leaky", get(leaky))
        .route("/innocent/{bytes}", get(grown))
        .layer(layer);
    for n in 0..300 {
        drop(
            read(
                &app,
                if n % 10 == 0 {
                    "/leaky"
                } else {
                    "/innocent/3000"
                },
            )
            .await,
        );
    }
    settled(&watch.handle).await;
    let out = |path: &str| {
        let routes = watch.handle.snapshot().routes;
        let route = routes
            .into_iter()
            .find(|route| route.route == path)
            .unwrap();
        (
            route.unreleased_buffers.unwrap(),
            route.unreleased_bytes.unwrap(),
        )
    };
    assert_eq!(out("/leaky"), (30, 30 * 64 * 1024));
    assert_eq!(out("/innocent/{bytes}"), (0, 0));
    let table = watch.handle.snapshot().to_string();
    assert!(
        table.contains("unreleased buffers 30 (1966080 bytes)"),
        "{table}"
    );
    assert_eq!(watch.handle.pool().buffer_bytes(), 30 * 64 * 1024);
    kept.lock().unwrap().clear();
    assert_eq!(
        (out("/leaky"), watch.handle.pool().buffer_bytes()),
        ((0, 0), 0)
    );
}

#[tokio::test]
async fn arenas_that_never_come_back_have_the_name_of_their_route() {
    let (kept, keeps) = std::sync::mpsc::channel();
    let (layer, watch) = watched(MemoryLayer::builder());
    let app = Router::new()
        .route(
            "/keeps",
            get(async move |scope: RequestScope| kept.send(scope.arena().clone()).unwrap()),
        )
        .route("/innocent/{bytes}", get(grown))
        .route("/without", get(async || ""))
        .layer(layer);
    for path in ["/keeps", "/keeps", "/innocent/3", "/without"] {
        drop(read(&app, path).await);
    }
    let left = || -> Vec<_> {
        let routes = watch.handle.snapshot().routes;
        routes.iter().map(|route| route.arenas_left).collect()
    };
    assert_eq!(left(), [Some(2), Some(0), None]);
    let table = watch.handle.snapshot().to_string();
    assert!(table.contains("arenas left 2"), "{table}");
    drop(keeps);
    assert_eq!(left(), [Some(0), Some(0), None]);
    settled(&watch.handle).await;
}

#[tokio::test]
async fn a_response_of_64_kib_takes_64_kib() {
    let (layer, watch) = watched(MemoryLayer::builder());
    let app = Router::new().route("/{bytes}", get(grown)).layer(layer);
    for _ in 0..3 {
        let body = read(&app, "/65536").await;
        assert_eq!(watch.handle.pool().buffer_bytes(), 65_536);
        drop(body);
    }
    let route = watch.handle.snapshot().routes.remove(0);
    assert_eq!(route.learned_buffer_bytes, Some(65_536));
    assert_eq!(route.learned_arena_bytes, None, "nothing but the buffer");
}

#[tokio::test]
async fn the_second_request_of_a_kind_takes_all_of_its_memory_from_the_pool() {
    for bytes in [700, 34_891, 65_536, 70_000, 300_000, 700_000] {
        let (layer, watch) = watched(MemoryLayer::builder());
        let app = Router::new().route("/{bytes}", get(grown)).layer(layer);
        let path = format!("/{bytes}");
        drop(read(&app, &path).await);
        let first = watch.handle.pool().stats();
        assert!(first.buffer_misses > 0);
        for _ in 0..3 {
            drop(read(&app, &path).await);
            let stats = watch.handle.pool().stats();
            assert_eq!(stats.buffer_misses, first.buffer_misses, "{bytes} bytes");
        }
    }
}

#[tokio::test]
async fn a_few_large_responses_and_the_many_small_ones_all_come_from_the_pool() {
    for one_in in [200, 100, 50] {
        let (layer, watch) = watched(MemoryLayer::builder());
        let app = Router::new().route("/{bytes}", get(grown)).layer(layer);
        let mut warm = None;
        for n in 0..4 * one_in {
            let large = n % one_in == one_in - 1;
            let taken = read(&app, if large { "/960000" } else { "/6400" }).await;
            let stats = watch.handle.pool().stats();
            // A small one holds what it needs.
            assert!(large || stats.buffer_bytes <= 16 * 1024, "{stats:?}");
            drop(taken);
            if n == one_in {
                warm = Some(stats.buffer_misses);
            }
        }
        let stats = watch.handle.pool().stats();
        assert_eq!(
            Some(stats.buffer_misses),
            warm,
            "one in {one_in}: {stats:?}"
        );
        assert!(stats.pooled_bytes < 3 << 20, "{stats:?}");
    }
}

#[tokio::test]
async fn a_few_large_arenas_do_not_fill_the_pool_for_the_many_small_ones() {
    async fn scratch(scope: RequestScope, Path(bytes): Path<usize>) -> StatusCode {
        scope.arena().alloc_slice_copy(&vec![1_u8; bytes]);
        StatusCode::OK
    }
    for one_in in [100, 10] {
        let (layer, watch) = watched(MemoryLayer::builder());
        let app = Router::new().route("/{bytes}", get(scratch)).layer(layer);
        for n in 0..400 {
            let large = n % one_in == one_in - 1;
            drop(read(&app, if large { "/500000" } else { "/500" }).await);
        }
        let stats = watch.handle.pool().stats();
        let route = watch.handle.snapshot().routes.remove(0);
        assert!(route.learned_arena_bytes.unwrap() < 600, "{route:?}");
        assert!(stats.pooled_bytes <= 128 * 1024, "{stats:?}");
        assert!(stats.misses <= 2, "{stats:?}");
    }
}
