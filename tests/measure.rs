//! The test kit, as a project's tests use it.

use std::{convert::Infallible, time::Duration};

use axum::{
    Json, Router, body::Body, extract::Path, http::Request, response::Response, routing::get,
};
use bytes::Bytes;
use http_body_util::BodyExt;
use tower::{ServiceExt, service_fn};
use tower_memory::{
    Arena, MemoryLayer, Outcome, RequestScope, TrackingAllocator, account, assert_allocations,
    scope::ArenaSource,
    test_util::{Measured, Thresholds, measure},
};

#[global_allocator]
static ALLOC: TrackingAllocator = TrackingAllocator::system();

fn app() -> Router {
    Router::new()
        .route(
            "/text/{n}",
            get(|Path(n): Path<usize>| async move { "x".repeat(n) }),
        )
        .route(
            "/json",
            get(|| async { Json((0..50).map(|n| format!("item-{n}")).collect::<Vec<_>>()) }),
        )
        .route(
            "/arena",
            get(|arena: Arena| async move {
                let mut list = arena.vec::<&str>();
                for n in 0..100 {
                    list.push(arena.alloc_str(&format!("{n}")));
                }
                tokio::task::yield_now().await;
                list.len().to_string()
            }),
        )
        .route(
            "/task",
            get(|scope: RequestScope| async move {
                scope.spawn(async {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    drop(vec![0_u8; 5000]);
                });
                "started"
            }),
        )
        .route(
            "/stream",
            get(|| async {
                let parts = (0..3).map(|_| Ok::<_, Infallible>(Bytes::from(vec![1_u8; 100])));
                Body::from_stream(futures_util::stream::iter(parts))
            }),
        )
        .route(
            "/fails",
            get(|| async {
                let parts = [Ok(Bytes::from_static(b"part")), Err("broken")];
                Body::from_stream(futures_util::stream::iter(parts))
            }),
        )
        .layer(MemoryLayer::with_timeout(Duration::from_secs(5)))
}

async fn send(app: &Router, path: &str) -> Measured {
    let request = Request::get(path).body(Body::empty()).expect("a request");
    measure(app.clone().oneshot(request)).await
}

fn figures(measured: &Measured) -> (u64, u64) {
    let usage = measured.report.usage.expect("installed");
    (usage.allocations, usage.bytes_allocated)
}

#[tokio::test(start_paused = true)]
async fn a_response_comes_with_the_report_of_its_request() {
    let app = app();
    let measured = send(&app, "/text/1000").await;
    assert_eq!(measured.response.status(), 200);
    assert_eq!(measured.response.body().len(), 1000);
    let report = &measured.report;
    assert_eq!((report.method, report.route.as_str()), ("GET", "/text/{n}"));
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!(report.arena.source, ArenaSource::Unused);
    let (allocations, bytes) = figures(&measured);
    assert!(
        allocations >= 1 && (1000..3000).contains(&bytes),
        "{allocations}, {bytes}"
    );
    let arena = send(&app, "/arena").await.report.arena;
    assert_eq!(arena.source, ArenaSource::Fresh);
    assert!(arena.bytes > 100);
}

#[tokio::test(start_paused = true)]
async fn a_report_waits_for_the_body_and_for_tasks() {
    let app = app();
    let stream = send(&app, "/stream").await;
    assert_eq!(stream.response.body().len(), 300);
    assert!(figures(&stream).1 >= 300);
    let task = send(&app, "/task").await;
    assert_eq!(task.response.body(), "started");
    assert_eq!(task.report.tasks_spawned, 1);
    assert!(figures(&task).1 >= 5000, "{:?}", task.report.usage);
}

#[tokio::test]
async fn a_body_that_fails_shows_what_came_and_how_it_ended() {
    let measured = send(&app(), "/fails").await;
    assert_eq!(measured.response.body(), "part");
    assert_eq!(measured.report.outcome, Outcome::ServiceError);
}

#[tokio::test(start_paused = true)]
async fn the_same_request_allocates_the_same_from_the_second_one_on() {
    let app = app();
    for path in ["/text/1000", "/json", "/arena", "/task", "/stream"] {
        send(&app, path).await;
        let second = figures(&send(&app, path).await);
        for n in 0..200 {
            assert_eq!(
                figures(&send(&app, path).await),
                second,
                "request {n} of {path}"
            );
        }
    }
}

#[tokio::test]
async fn requests_that_are_measured_in_one_another_have_reports_of_their_own() {
    let inner = app();
    let outer = Router::new()
        .route(
            "/outer",
            get(move || async move {
                let inner = send(&inner, "/text/10").await;
                assert_eq!(inner.report.route, "/text/{n}");
                "outer"
            }),
        )
        .layer(MemoryLayer::new());
    let measured = send(&outer, "/outer").await;
    assert_eq!(measured.report.route, "/outer");
}

#[tokio::test]
#[should_panic(expected = "no MemoryLayer")]
async fn a_future_without_a_layer_is_a_mistake() {
    let service =
        service_fn(|_: Request<Body>| async { Ok::<_, Infallible>(Response::new(Body::empty())) });
    measure(service.oneshot(Request::new(Body::empty()))).await;
}

#[tokio::test]
async fn thresholds_hold_a_route_to_its_line() {
    let path =
        std::env::temp_dir().join(format!("tower-memory-measure-{}.txt", std::process::id()));
    let app = app();
    send(&app, "/text/1000").await;
    let measured = send(&app, "/text/1000").await;
    let (allocations, bytes) = figures(&measured);
    for (most, is_enough) in [(bytes, true), (bytes - 1, false)] {
        std::fs::write(&path, format!("{allocations} {most} GET /text/{{n}}\n")).expect("written");
        let mut thresholds = Thresholds::open(&path).expect("valid");
        thresholds.check(&measured);
        let finish = std::panic::AssertUnwindSafe(|| thresholds.finish());
        let result = std::panic::catch_unwind(finish);
        assert_eq!(result.is_ok(), is_enough);
    }
    std::fs::remove_file(path).expect("removed");
}

#[test]
fn allocations_of_code_are_compared_without_untracked_sections() {
    let value = assert_allocations!(== 2, {
        let cached = account::untracked(|| vec![0_u8; 10]);
        (vec![1_u8; 20], vec![2_u8; 30], cached)
    });
    assert_eq!(value.2.len(), 10);
    let result = std::panic::catch_unwind(|| assert_allocations!(<= 1, (vec![1_u8], vec![2_u8])));
    let message = *result
        .expect_err("two")
        .downcast::<String>()
        .expect("a text");
    assert!(
        message.contains("made 2 allocations (2 bytes), expected <= 1"),
        "{message}"
    );
}

#[tokio::test]
async fn an_untracked_section_of_a_handler_is_not_in_its_report() {
    let app = Router::new()
        .route(
            "/",
            get(|| async {
                account::untracked(|| drop(vec![0_u8; 100_000]));
                "done"
            }),
        )
        .layer(MemoryLayer::new());
    let (_, bytes) = figures(&send(&app, "/").await);
    assert!(bytes < 5000, "{bytes}");
}

#[tokio::test]
async fn a_response_that_is_not_measured_reports_to_nobody() {
    let app = app();
    let request = Request::get("/text/1")
        .body(Body::empty())
        .expect("a request");
    let response = app.oneshot(request).await.expect("infallible");
    assert_eq!(
        response
            .into_body()
            .collect()
            .await
            .expect("a body")
            .to_bytes(),
        "x"
    );
}
