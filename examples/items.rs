//! The same answer made three ways, with what each cost in the response's headers.
//!
//! ```sh
//! cargo run --example items --features full             # serves, and prints what to try
//! cargo run --example items --features full -- --check  # tries it itself
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
use tower_memory::{Arena, MemoryHandle, MemoryLayer, RequestScope, TrackingAllocator};

#[global_allocator]
static ALLOC: TrackingAllocator = TrackingAllocator::system();

const TIMEOUT: Duration = Duration::from_millis(300);
const MAX_ITEMS: usize = 100_000;
const CHUNKS: usize = 5;

fn app() -> (Router, MemoryHandle) {
    let memory = MemoryLayer::with_timeout(TIMEOUT);
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
        .with_state(handle.clone());
    (app, handle)
}

/// Each text is a heap allocation of its own; the JSON is a few more, growing.
async fn vec(Path(n): Path<usize>) -> Result<Json<Vec<String>>, Refusal> {
    let n = at_most(MAX_ITEMS, n)?;
    Ok(Json((0..n).map(|i| format!("item-{i}")).collect()))
}

/// Texts, list and JSON in the request's arena, which comes from a pool.
async fn arena(scope: RequestScope, Path(n): Path<usize>) -> Result<Response, Refusal> {
    let n = at_most(MAX_ITEMS, n)?;
    let arena = scope.arena();
    let mut items = arena.vec_with_capacity(n);
    let mut cursor = arena.cursor(); // many small things in a row
    for i in 0..n {
        items.push(cursor.alloc_fmt(format_args!("item-{i}")));
    }
    drop(cursor); // gives back what it took in advance
    tokio::task::yield_now().await; // the texts may be held across an await
    Ok(arena.json(&items))
}

/// Written straight into the response's body, which is in the arena, too.
async fn buf(scope: RequestScope, Path(n): Path<usize>) -> Result<impl IntoResponse, Refusal> {
    let n = at_most(MAX_ITEMS, n)?;
    let mut body = scope.arena().buf_with_capacity(2 + n * 13);
    body.extend_from_slice(b"[");
    for i in 0..n {
        let comma = if i == 0 { "" } else { "," };
        write!(body, "{comma}\"item-{i}\"").expect("fails only if there is no memory");
    }
    body.extend_from_slice(b"]");
    Ok(([(CONTENT_TYPE, "application/json")], body.freeze()))
}

/// Never answers. The layer does, and tells the task that it is over.
async fn slow(scope: RequestScope) {
    let token = scope.child_token();
    let request = scope.clone();
    scope.spawn(async move {
        token.cancelled().await;
        let reason = request.reason().expect("the token is cancelled");
        println!("/slow: its task ends, because {reason}");
        check::SLOW_TASKS_ENDED.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    });
    std::future::pending().await
}

/// The timeout is for the head; a body may take its time. A chunk that was sent leaves its place in
/// the arena to the next one.
async fn stream(arena: Arena) -> Body {
    Body::from_stream(stream::unfold(0, move |i| {
        let arena = arena.clone();
        async move {
            if i == CHUNKS {
                return None;
            }
            tokio::time::sleep(TIMEOUT / 3).await;
            let mut chunk = arena.buf();
            writeln!(chunk, "chunk {i} of {CHUNKS}").expect("fails only if there is no memory");
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
    let text = format!("at most {limit} items can be had, and {asked} were asked for\n");
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
    let listener = TcpListener::bind(args.addr)
        .await
        .map_err(|error| format!("cannot listen on {}: {error}; try --port", args.addr))?;
    let addr = listener.local_addr()?;
    if args.check {
        tokio::spawn(axum::serve(listener, app).into_future());
        return check::run(addr, &handle).await;
    }
    print_what_to_try(addr);
    axum::serve(listener, app)
        .with_graceful_shutdown(async { _ = tokio::signal::ctrl_c().await })
        .await?;
    println!("\n{}", handle.snapshot());
    Ok(ExitCode::SUCCESS)
}

fn print_what_to_try(addr: SocketAddr) {
    println!(
        "Listening on http://{addr}; Ctrl-C ends it. In another terminal (the first request of a \
         kind warms up, repeat it):

# 1000 texts in a Vec<String>, then JSON; shows the headers
curl -sS -D- -o /dev/null http://{addr}/vec/1000
# the same in the request's arena
curl -sS -D- -o /dev/null http://{addr}/arena/1000
# the same, written straight into the body
curl -sS -D- -o /dev/null http://{addr}/buf/1000
# the body is the same every way
curl -sS http://{addr}/arena/3
# hangs until the timeout of {} ms: 504, and this terminal shows that its task ends
curl -i http://{addr}/slow
# a body in {CHUNKS} chunks, longer than the timeout
curl -iN http://{addr}/stream
# refused, with a reason
curl -i http://{addr}/arena/{}
# statistics of each route, and what is alive now
curl -sS http://{addr}/stats
",
        TIMEOUT.as_millis(),
        MAX_ITEMS + 1,
    );
}
