//! Which route leaks, and where: an allocation profile of a service while it runs.
//!
//! Five routes allocate, and one of them keeps 4 KiB of each request for ever. Two snapshots of the profile,
//! before and after some load, name it.
//!
//! ```sh
//! RUSTFLAGS="-C force-frame-pointers=yes" cargo run -p tower-memory-leak -- --check heap.pb.gz
//! go tool pprof -top heap.pb.gz
//! go tool pprof -top -tagfocus='route=/sessions/{id}' heap.pb.gz
//! ```
//!
//! Without `--check` it serves on port 3000 and prints what has grown every ten seconds.

use std::{
    fs::File,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use axum::{Router, extract::Path, http::Request, routing::get};
use http_body_util::BodyExt;
use tower::ServiceExt;
use tower_memory::{
    MemoryLayer, RequestScope, TrackingAllocator,
    profile::{Profile, Stacks, Value},
};

#[global_allocator]
static ALLOC: TrackingAllocator = TrackingAllocator::system();

/// Of the default 512 KiB, a demonstration of some seconds would see little.
const RATE: u64 = 16 << 10;
const REQUESTS: usize = 500;

/// Sessions are added, and never removed.
static SESSIONS: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());
/// At most 16 entries.
static CACHE: Mutex<[Vec<u8>; 16]> = Mutex::new([const { Vec::new() }; 16]);

#[inline(never)]
fn open_session() {
    let mut sessions = SESSIONS.lock().unwrap_or_else(PoisonError::into_inner);
    sessions.push(vec![7; 4096]);
}

async fn cached(Path(id): Path<usize>) -> String {
    let mut cache = CACHE.lock().unwrap_or_else(PoisonError::into_inner);
    let entry = &mut cache[id % 16];
    if entry.is_empty() {
        *entry = vec![1; 4096];
    }
    entry.len().to_string()
}

async fn child(scope: RequestScope) -> String {
    let child = scope.spawn(async { vec![3_u8; 64 << 10] });
    child.await.map_or(0, |bytes| bytes.len()).to_string()
}

fn app() -> Router {
    Router::new()
        .route("/body", get(|| async { vec![1_u8; 64 << 10] }))
        .route(
            "/items/{n}",
            get(|Path(n): Path<usize>| async move { "item ".repeat(n) }),
        )
        .route("/child", get(child))
        .route("/cache/{id}", get(cached))
        .route("/sessions/{id}", get(|| async { open_session() }))
        .layer(MemoryLayer::new())
}

async fn load(app: &Router) {
    for n in 0..REQUESTS {
        for path in ["/body", "/items/200", "/child", "/cache/", "/sessions/"] {
            let id = if path.ends_with('/') {
                n.to_string()
            } else {
                String::new()
            };
            let request = Request::get(format!("{path}{id}"));
            let request = request.body(axum::body::Body::empty()).expect("a request");
            let response = app.clone().oneshot(request).await.expect("infallible");
            response.into_body().collect().await.expect("a body");
        }
    }
}

fn print(growth: &Profile) {
    println!("{:>12} {:>12}  route: function", "grown", "allocated");
    for row in growth.rows().iter().take(6) {
        let function = row.functions().next().unwrap_or("(no stack)");
        let route = row.route().unwrap_or("(no route)");
        let (grown, allocated) = (row.in_use.bytes, row.allocated.bytes);
        println!("{grown:>12} {allocated:>12}  {route}: {function}");
    }
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let mut args = std::env::args().skip(1);
    let check = args.next().is_some_and(|arg| arg == "--check");
    let stacks = Profile::start(RATE).expect("the allocator is installed");
    println!("stacks: {stacks:?}");
    let app = app();
    if !check {
        tokio::spawn(async {
            loop {
                let before = Profile::snapshot();
                tokio::time::sleep(Duration::from_secs(10)).await;
                let growth = Profile::snapshot().since(&before);
                // It reads debug information.
                let growth = tokio::task::spawn_blocking(|| growth.resolve()).await;
                print(&growth.expect("no panic"));
            }
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
        return axum::serve(listener, app).await;
    }

    load(&app).await;
    let before = Profile::snapshot();
    load(&app).await;
    let growth = Profile::snapshot().since(&before).resolve();
    print(&growth);

    let most = growth.rows().first().expect("samples");
    assert_eq!(most.route(), Some("/sessions/{id}"));
    if stacks == Stacks::FramePointers {
        assert!(most.functions().any(|name| name.contains("open_session")));
    }
    for (route, limit) in [
        ("/body", 64 << 10),
        ("/items/{n}", 64 << 10),
        ("/cache/{id}", 64 << 10),
    ] {
        let rows = growth
            .rows()
            .iter()
            .filter(|row| row.route() == Some(route));
        let grown: i64 = rows.map(|row| row.in_use.bytes).sum();
        assert!(grown.abs() <= limit, "{route} has grown by {grown} bytes");
    }
    if let Some(path) = args.next() {
        growth.write_pprof(Value::InUseBytes, File::create(path)?)?;
    }
    println!("the leak is named");
    Ok(())
}
