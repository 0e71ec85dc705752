//! Eight routes whose memory is freed elsewhere, and one of which leaks, served over TCP.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{Mutex, OnceLock},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{Path, Request},
    routing::{get, post},
};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tokio::sync::{mpsc, oneshot};
use tower_memory::{MemoryHandle, MemoryLayer, RequestScope, observe::Snapshot, profile::Profile};

use super::{Stacks, Value, turn};

const REQUESTS: usize = 200;

static LEAKED: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());
static CACHE: OnceLock<Mutex<HashMap<usize, Vec<u8>>>> = OnceLock::new();

#[inline(never)]
fn leak_a_session() {
    LEAKED.lock().expect("no panic").push(vec![7; 4096]);
}

/// Makes rows for others.
async fn rows(mut orders: mpsc::Receiver<oneshot::Sender<Vec<String>>>) {
    while let Some(order) = orders.recv().await {
        let rows = (0..100).map(|n| format!("row number {n:20}")).collect();
        let _ = order.send(rows);
    }
}

async fn serve(app: Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move { axum::serve(listener, app).await });
    format!("http://{address}")
}

fn app() -> (Router, MemoryHandle) {
    let memory = MemoryLayer::new();
    let handle = memory.handle();
    let (orders, others) = mpsc::channel(8);
    tokio::spawn(rows(others));
    let app = Router::new()
        .route("/body", get(|| async { vec![1_u8; 1 << 20] }))
        .route(
            "/json",
            get(|| async { axum::Json((0..200).map(|n| format!("item-{n}")).collect::<Vec<_>>()) }),
        )
        .route(
            "/stream",
            get(|| async {
                let parts = (0..64).map(|_| Ok::<_, Infallible>(Bytes::from(vec![2_u8; 16 << 10])));
                Body::from_stream(futures_util::stream::iter(parts))
            }),
        )
        .route(
            "/rows",
            get(|| async move {
                let (order, made) = oneshot::channel();
                orders.send(order).await.expect("the task waits");
                made.await.expect("it answers").concat()
            }),
        )
        .route(
            "/upload",
            post(|body: Bytes| async move { body.len().to_string() }),
        )
        .route(
            "/child",
            get(|scope: RequestScope| async move {
                let child = scope.spawn(async { vec![3_u8; 256 << 10] });
                child.await.expect("no panic").len().to_string()
            }),
        )
        .route("/leak/{id}", get(|| async { leak_a_session() }))
        .route(
            "/cache/{id}",
            get(|Path(id): Path<usize>| async move {
                let mut cache = CACHE.get_or_init(Mutex::default).lock().expect("no panic");
                cache
                    .entry(id % 16)
                    .or_insert_with(|| vec![4; 4096])
                    .len()
                    .to_string()
            }),
        )
        .layer(memory);
    (app, handle)
}

/// What each request allocates in its handler, its body and its tasks. The server, the client and tasks of others
/// allocate more, which is of no route.
const ALLOCATED: [(&str, u64); 8] = [
    ("/body", 1 << 20),
    // 200 strings of 5 to 8 bytes, their list, and as much text with quotes and commas.
    ("/json", 200 * 24 + 1490 + 2091),
    ("/stream", 64 * (16 << 10)),
    // The rows are their maker's.
    ("/rows", 100 * 31),
    ("/upload", 256 << 10),
    ("/child", 256 << 10),
    ("/leak/{id}", 4096),
    // It was full before.
    ("/cache/{id}", 0),
];

/// What a request may allocate beyond it: parts of the request and the response, and room that a text does not use.
const OVERHEAD: u64 = 6 << 10;

/// Checks what the requests of each route have allocated.
fn check_allocated(requests: &Snapshot) {
    for (route, bytes) in ALLOCATED {
        let found = requests
            .routes
            .iter()
            .find(|row| row.route.as_str() == route);
        let found = found.expect("it had requests").bytes.clone();
        let found = found.expect("the allocator is installed");
        assert_eq!(found.count, REQUESTS as u64, "{route}");
        let mean = found.total / REQUESTS as u64;
        assert!(
            (bytes..=bytes + OVERHEAD).contains(&mean),
            "{route}: {mean} bytes where {bytes} were allocated"
        );
    }
}

#[test]
fn growth_in_use_names_the_route_and_the_stack_that_leak_and_no_other() {
    let _turn = turn(4096);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let (before, after, requests) = runtime.block_on(async {
        let (app, handle) = app();
        let server = serve(app).await;
        let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
        let round = async |requests: usize| {
            for n in 0..requests {
                let paths = ["/body", "/json", "/stream", "/rows", "/upload", "/child"];
                let others = [format!("/leak/{n}"), format!("/cache/{n}")];
                for path in paths.map(str::to_owned).into_iter().chain(others) {
                    let method = if path == "/upload" { "POST" } else { "GET" };
                    let body = if path == "/upload" {
                        vec![5; 256 << 10]
                    } else {
                        Vec::new()
                    };
                    let request = Request::builder()
                        .method(method)
                        .uri(format!("{server}{path}"))
                        .body(Full::new(Bytes::from(body)))
                        .expect("a request");
                    let response = client.request(request).await.expect("served");
                    assert!(response.status().is_success(), "{path}");
                    response.into_body().collect().await.expect("a body");
                }
            }
        };
        // Connections, caches and the scopes that threads keep.
        round(20).await;
        let (before, requests) = (Profile::snapshot(), handle.snapshot());
        round(REQUESTS).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        let requests = handle.snapshot().since(&requests);
        (before, Profile::snapshot(), requests)
    });
    check_allocated(&requests);
    let growth = after.since(&before).resolve();

    let truth = (REQUESTS * 4096) as i64;
    let leaked: Vec<_> = growth
        .rows()
        .iter()
        .filter(|row| row.route() == Some("/leak/{id}"))
        .collect();
    let bytes: i64 = leaked.iter().map(|row| row.in_use.bytes).sum();
    // Each block is a sample with a probability of 0.63: five deviations are 27 %.
    assert!((bytes - truth).abs() < truth / 3, "{bytes} of {truth}");
    if growth.stacks() == Stacks::FramePointers {
        let most = leaked[0];
        let mut functions = most.functions();
        assert!(functions.any(|name| name.contains("leak_a_session")));
        assert!(most.in_use.bytes > truth / 2, "{}", most.in_use.bytes);
    }
    for route in [
        "/body",
        "/json",
        "/stream",
        "/rows",
        "/upload",
        "/child",
        "/cache/{id}",
    ] {
        let [_, allocated, _, in_use] = super::of_route(&growth, route);
        assert!(in_use < truth / 10, "{route}: {in_use} bytes in use");
        // What the route allocates itself. The body of an upload comes from the connection's task.
        let least: usize = match route {
            "/body" => REQUESTS << 20,
            "/stream" => REQUESTS << 20,
            "/child" => REQUESTS * (256 << 10),
            _ => 1,
        };
        let least = least as i64;
        assert!(
            allocated >= least * 9 / 10,
            "{route}: {allocated} of {least} bytes allocated"
        );
    }
    // The child's block is its task's, which has the place where it was started as its name.
    let task = growth.rows().iter().find(|row| {
        row.route() == Some("/child")
            && row.task().is_some()
            && row.value(Value::AllocatedBytes) > 1 << 20
    });
    let task = task.and_then(|row| row.task()).expect("the task");
    assert!(task.starts_with("tests/profile/drift.rs:"), "{task}");
    // The rows are of no request.
    assert!(growth.rows().iter().any(|row| row.route().is_none()));
}
