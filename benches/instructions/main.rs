//! The program that `ci/instructions` counts the instructions of: requests in process, on one
//! thread, and single operations.
//!
//! `instructions --list` prints the cases. `instructions CASE N` sends N requests, or does N
//! operations, after a warm-up, and prints the heap allocations of each.

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
const WARM_UP: u64 = 1024;

/// As many as the layer tells apart by default. `routes_512` sends to each of them in turn.
const ROUTES: usize = 512;

/// Requests are `SETTINGS/ROUTE`: how the layer is set, and what the handler does. `identity` has
/// no layer, and its `spawn_1` is tokio's.
const CASES: [&str; 48] = [
    "identity/ready",
    "identity/routes_512",
    "identity/pending",
    "identity/pending_4",
    "identity/stream_4",
    "identity/spawn_1",
    "headers_off/ready",
    "headers_off/routes_512",
    "headers_off/pending",
    "headers_off/pending_4",
    "headers_off/stream_4",
    "headers_off/scope",
    "headers_off/scope_hello",
    "headers_off/token",
    "headers_off/cancelled",
    "headers_off/spawn_1",
    "headers_off/tokio_spawn_1",
    "headers_off/arena_10x40B",
    "headers_off/json_100",
    "headers_on/ready",
    "headers_on/pending",
    "headers_on/stream_4",
    "headers_on/spawn_1",
    "headers_on/arena_10x40B",
    "headers_on/json_100",
    "dictionary/ready",
    "route_figures/ready",
    "server_timing/ready",
    "observed/ready",
    "listed/ready",
    "listed/pending",
    "traced/ready",
    "traced/pending_4",
    "refused/ready",
    "budget/ready",
    "budget/pending",
    "limited/ready",
    "limited/pending",
    "overloaded/ready",
    "operation/enter_leave",
    "operation/malloc_free_64B",
    "operation/malloc_free_64B_uncounted",
    "operation/realloc_64_to_4096B",
    "operation/realloc_64_to_4096B_uncounted",
    "operation/rent_10x40B",
    "operation/rent_10x40B_elsewhere",
    "operation/buffer_16KiB",
    "operation/bytes_mut_16KiB",
];

/// Pending `n` times. Not `yield_now`, which also makes the runtime look for input.
async fn wait(mut n: u32) {
    poll_fn(|cx| {
        if n == 0 {
            return Poll::Ready(());
        }
        n -= 1;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

async fn ready() -> &'static str {
    "hello"
}

async fn pending() -> &'static str {
    wait(1).await;
    "hello"
}

async fn pending_4() -> &'static str {
    wait(4).await;
    "hello"
}

async fn tokio_spawn() -> &'static str {
    tokio::spawn(async {}).await.expect("the task returns");
    "hello"
}

async fn stream_4() -> Body {
    let frame = || Ok::<_, Infallible>(Bytes::from_static(b"a frame of the body"));
    Body::from_stream(stream::iter([frame(), frame(), frame(), frame()]))
}

fn app(settings: &str) -> Router {
    let mut plain = Router::new()
        .route("/ready", get(ready))
        .route("/pending", get(pending))
        .route("/pending_4", get(pending_4))
        .route("/stream_4", get(stream_4));
    for i in 0..ROUTES {
        plain = plain.route(&format!("/routes/{i}"), get(ready));
    }
    let app = if settings == "identity" {
        plain
            .route("/spawn_1", get(tokio_spawn))
            .layer(Identity::new())
    } else {
        api::wrap(
            api::scoped(plain).route("/tokio_spawn_1", get(tokio_spawn)),
            settings,
        )
    };
    // As a server calls it. Without this, axum applies the layer anew to each request.
    app.with_state(())
}

async fn exchange(app: &Router, uri: &Uri, status: StatusCode) {
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = uri.clone();
    let response: Result<_, Infallible> = app.clone().oneshot(request).await;
    let response = response.expect("infallible");
    assert_eq!(response.status(), status);
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        black_box(frame.expect("no body fails"));
    }
}

async fn exchanges(app: Router, uris: Vec<Uri>, status: StatusCode, n: u64) -> u64 {
    let before = api::allocations();
    for uri in uris.iter().cycle().take(n as usize) {
        exchange(&app, uri, status).await;
        // As between two requests of a connection: the task's budget starts anew.
        wait(1).await;
    }
    api::allocations() - before
}

fn uris(route: &str) -> Vec<Uri> {
    let paths = match route {
        "routes_512" => (0..ROUTES).map(|i| format!("/routes/{i}")).collect(),
        route => vec![format!("/{route}")],
    };
    paths
        .iter()
        .map(|path| path.parse().expect("a path"))
        .collect()
}

fn requests(settings: &str, route: &str, n: u64) -> u64 {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let app = runtime.block_on(async { app(settings) });
    let status = match settings {
        "refused" | "overloaded" => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::OK,
    };
    let send = |n| {
        let task = runtime.spawn(exchanges(app.clone(), uris(route), status, n));
        runtime.block_on(task).expect("no panic")
    };
    send(WARM_UP);
    send(n)
}

fn operations(name: &str, n: u64) -> u64 {
    api::operation(name, WARM_UP);
    let before = api::allocations();
    api::operation(name, n);
    api::allocations() - before
}

fn run(case: &str, n: u64) -> f64 {
    let allocations = match case.split_once('/').expect("a case has a group") {
        ("operation", name) => operations(name, n),
        (settings, route) => requests(settings, route, n),
    };
    allocations as f64 / n as f64
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
