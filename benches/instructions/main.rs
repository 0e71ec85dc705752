//! The program that `ci/instructions` counts the instructions of: requests in process, on one
//! thread.
//!
//! `instructions --list` prints the cases. `instructions CASE N` sends N requests after a warm-up
//! and prints the heap allocations per request.

mod api;

use std::{convert::Infallible, future::poll_fn, hint::black_box, process::ExitCode, task::Poll};

use axum::{
    Router,
    body::{Body, Bytes},
    http::{Request, StatusCode, Uri},
    routing::get,
};
use futures_util::stream;
use http_body_util::BodyExt;
use tokio::runtime::Builder;
use tower::{ServiceExt, layer::util::Identity};

/// Requests before the counted ones: sizes are learned, memory is in its pools.
const WARM_UP: u64 = 1000;

const CASES: [&str; 16] = [
    "identity/ready",
    "identity/pending",
    "identity/stream_4",
    "headers_off/ready",
    "headers_off/pending",
    "headers_off/stream_4",
    "headers_off/spawn_1",
    "headers_off/arena_10x40B",
    "headers_off/json_100",
    "headers_on/ready",
    "headers_on/pending",
    "headers_on/stream_4",
    "headers_on/spawn_1",
    "headers_on/arena_10x40B",
    "headers_on/json_100",
    "observed/ready",
];

/// Pending once. Not `yield_now`, which also makes the runtime look for input.
async fn wait_once() {
    let mut waited = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut waited, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

async fn ready() -> &'static str {
    "hello"
}

async fn pending() -> &'static str {
    wait_once().await;
    "hello"
}

async fn stream_4() -> Body {
    let frame = || Ok::<_, Infallible>(Bytes::from_static(b"a frame of the body"));
    Body::from_stream(stream::iter([frame(), frame(), frame(), frame()]))
}

fn app(layer: &str) -> Router {
    let plain = Router::new()
        .route("/ready", get(ready))
        .route("/pending", get(pending))
        .route("/stream_4", get(stream_4));
    let scoped = || {
        plain
            .clone()
            .route("/spawn_1", get(api::spawn))
            .route("/arena_10x40B", get(api::arena))
            .route("/json_100", get(api::json))
    };
    let app = match layer {
        "headers_off" => scoped().layer(api::layer(false)),
        "headers_on" => scoped().layer(api::layer(true)),
        "observed" => scoped().layer(api::observed()),
        _ => plain.layer(Identity::new()),
    };
    // As a server calls it. Without this, axum applies the layer anew to each request.
    app.with_state(())
}

async fn exchange(app: &Router, uri: &Uri) {
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = uri.clone();
    let response: Result<_, Infallible> = app.clone().oneshot(request).await;
    let response = response.expect("infallible");
    assert_eq!(response.status(), StatusCode::OK);
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        black_box(frame.expect("no body fails"));
    }
}

async fn exchanges(app: Router, uri: Uri, n: u64) -> u64 {
    let before = api::allocations();
    for _ in 0..n {
        exchange(&app, &uri).await;
        // As between two requests of a connection: the task's budget starts anew.
        wait_once().await;
    }
    api::allocations() - before
}

fn run(case: &str, n: u64) -> f64 {
    let (layer, route) = case.split_once('/').expect("a case is LAYER/ROUTE");
    let uri: Uri = format!("/{route}").parse().expect("a path");
    let app = app(layer);
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let send = |n| {
        let task = runtime.spawn(exchanges(app.clone(), uri.clone(), n));
        runtime.block_on(task).expect("no panic")
    };
    send(WARM_UP);
    send(n) as f64 / n as f64
}

fn main() -> ExitCode {
    // `cargo bench` adds `--bench`.
    let args: Vec<String> = std::env::args()
        .skip(1)
        .filter(|arg| arg != "--bench")
        .collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] | ["--list"] => {
            println!("{}", CASES.join("\n"));
            ExitCode::SUCCESS
        }
        [case, n] if CASES.contains(&case) && n.parse().is_ok_and(|n: u64| n > 0) => {
            println!("{:.2}", run(case, n.parse().expect("checked")));
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("usage: instructions --list | instructions CASE REQUESTS");
            ExitCode::from(2)
        }
    }
}
