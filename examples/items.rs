//! The same response built in three ways, with the cost of each in its headers.
//!
//! ```sh
//! cargo run --example items --features full             # serves, and prints commands to try
//! cargo run --example items --features full -- --check  # sends requests to itself
//! ```

#[path = "check/args.rs"]
mod args;
#[path = "check/items.rs"]
mod check;

use std::{convert::Infallible, net::SocketAddr, process::ExitCode, time::Duration};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{Path, State},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use futures_util::stream;
use tokio::net::TcpListener;
use tower_memory::{
    Arena, MemoryHandle, MemoryLayer, RequestScope, TrackingAllocator, debug::DebugPages,
    profile::Profile, trace::TraceSettings,
};

#[global_allocator]
static ALLOC: TrackingAllocator = TrackingAllocator::system();

/// Time for requests and their tasks to end after Ctrl-C.
const SHUTDOWN: Duration = Duration::from_secs(10);

const TIMEOUT: Duration = Duration::from_millis(300);
const MAX_ITEMS: usize = 100_000;
const CHUNKS: usize = 5;

fn app() -> (Router, MemoryHandle) {
    let memory = MemoryLayer::builder()
        .timeout(TIMEOUT)
        .list_requests() // for the debug pages
        .build()
        .expect("these settings work");
    let handle = memory.handle();
    let app = Router::new()
        .route("/vec/{n}", get(vec))
        .route("/arena/{n}", get(arena))
        .route("/buf/{n}", get(buf))
        .route("/slow", get(slow))
        .route("/stream", get(stream))
        .layer(memory)
        // Routes added after the layer are not covered by it.
        .route("/stats", get(stats))
        .nest(
            "/debug",
            DebugPages::new(&handle).allow_loopback().into_router(),
        )
        .with_state(handle.clone());
    (app, handle)
}

/// One heap allocation for each string, and a few more for the growing JSON.
async fn vec(Path(n): Path<usize>) -> Result<Json<Vec<String>>, Refusal> {
    let n = at_most(MAX_ITEMS, n)?;
    Ok(Json((0..n).map(|i| format!("item-{i}")).collect()))
}

/// Strings, list and JSON are in the request's pooled arena.
async fn arena(scope: RequestScope, Path(n): Path<usize>) -> Result<Response, Refusal> {
    let n = at_most(MAX_ITEMS, n)?;
    let arena = scope.arena();
    let mut items = arena.vec_with_capacity(n);
    let mut cursor = arena.cursor(); // many small allocations in a row
    for i in 0..n {
        items.push(cursor.alloc_fmt(format_args!("item-{i}")));
    }
    drop(cursor); // returns the unused part of its segment
    tokio::task::yield_now().await; // the strings live across an await
    Ok(arena.json(&items))
}

/// Writes straight into the response body, which is in the arena, too.
async fn buf(scope: RequestScope, Path(n): Path<usize>) -> Result<impl IntoResponse, Refusal> {
    let n = at_most(MAX_ITEMS, n)?;
    let mut body = scope.arena().buf_with_capacity(2 + n * 13);
    body.extend_from_slice(b"[");
    for i in 0..n {
        let comma = if i == 0 { "" } else { "," };
        write!(body, "{comma}\"item-{i}\"").expect("fails only without memory");
    }
    body.extend_from_slice(b"]");
    Ok(([(CONTENT_TYPE, "application/json")], body.freeze()))
}

/// Never responds. The layer responds at the deadline and cancels the token of the task.
async fn slow(scope: RequestScope) {
    let token = scope.child_token();
    let request = scope.clone();
    scope.spawn(async move {
        token.cancelled().await;
        let reason = request.reason().expect("the token is cancelled");
        println!("/slow: task ends, because {reason}");
        check::SLOW_TASKS_ENDED.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    });
    std::future::pending().await
}

/// The timeout covers the head only, so the body may take longer. A chunk reuses the arena space of the
/// one sent before.
async fn stream(arena: Arena) -> Body {
    Body::from_stream(stream::unfold(0, move |i| {
        let arena = arena.clone();
        async move {
            if i == CHUNKS {
                return None;
            }
            tokio::time::sleep(TIMEOUT / 3).await;
            let mut chunk = arena.buf();
            writeln!(chunk, "chunk {i} of {CHUNKS}").expect("fails only without memory");
            Some((Ok::<Bytes, Infallible>(chunk.freeze()), i + 1))
        }
    }))
}

async fn stats(State(handle): State<MemoryHandle>) -> String {
    format!("{}\n", handle.snapshot())
}

type Refusal = (StatusCode, String);

fn at_most(limit: usize, asked: usize) -> Result<usize, Refusal> {
    if asked <= limit {
        return Ok(asked);
    }
    let text = format!("{asked} items exceed the maximum of {limit}\n");
    Err((StatusCode::BAD_REQUEST, text))
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = args::Args::parse("items", 3000);
    match run(&args).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("items: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: &args::Args) -> Result<ExitCode, Box<dyn std::error::Error + Send + Sync>> {
    let (app, handle) = app();
    // The debug pages admit loopback peers only, so the server tells who the peer is.
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    let listener = TcpListener::bind(args.addr)
        .await
        .map_err(|error| format!("cannot listen on {}: {error}; try --port", args.addr))?;
    let addr = listener.local_addr()?;
    if args.check {
        tokio::spawn(axum::serve(listener, app).into_future());
        return check::run(addr, &handle).await;
    }
    // What blocks a thread, and what allocates: shown on the debug pages.
    TraceSettings::new()
        .slow_poll(Duration::from_millis(100))
        .deadlines()
        .start();
    Profile::start(Profile::DEFAULT_RATE);
    print_what_to_try(addr);
    let report = handle
        .serve_until(tokio::signal::ctrl_c(), SHUTDOWN, |stop| {
            axum::serve(listener, app).with_graceful_shutdown(stop)
        })
        .await?;
    println!("\n{}\n{report}", handle.snapshot());
    Ok(ExitCode::SUCCESS)
}

fn print_what_to_try(addr: SocketAddr) {
    println!(
        "Listening on http://{addr}. Press Ctrl-C to stop.
The first three requests of a route grow its arena, so repeat them. In another terminal:

# 1000 strings in a Vec<String>, then JSON; prints the headers
curl -sS -D- -o /dev/null http://{addr}/vec/1000
# the same in the request's arena
curl -sS -D- -o /dev/null http://{addr}/arena/1000
# the same, written straight into the body
curl -sS -D- -o /dev/null http://{addr}/buf/1000
# all three return the same body
curl -sS http://{addr}/arena/3
# waits for the timeout of {} ms: 504, and this terminal shows that its task ends
curl -i http://{addr}/slow
# a body in {CHUNKS} chunks, which takes longer than the timeout
curl -iN http://{addr}/stream
# refused, with a reason
curl -i http://{addr}/arena/{}
# statistics by route, and what is alive now
curl -sS http://{addr}/stats
# the same in a browser, with plots; this machine only
http://{addr}/debug
# the polls of the last seconds: open the file in https://ui.perfetto.dev
curl -sS -o trace.json http://{addr}/debug/trace
",
        TIMEOUT.as_millis(),
        MAX_ITEMS + 1,
    );
}
