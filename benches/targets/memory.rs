//! `pool/kept_*` and `pool/learned_*`: the memory that a pool keeps after a burst, and the memory that it
//! still takes from the system once a route's size is known. Requests go through an axum router, without a
//! network. `layer/heap_of_a_request/*`: what an open request takes.

use std::{
    convert::Infallible,
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::Path,
    http::{Request, Response, StatusCode},
    response::IntoResponse,
    routing::get,
};
use http_body_util::{BodyExt, Full};
use tokio::{
    runtime::{Builder, Runtime},
    sync::Barrier,
    task::JoinSet,
};
use tower::{Layer, ServiceExt, service_fn};
use tower_memory::{ArenaBuf, ArenaPool, Expose, MemoryHandle, MemoryLayer, RequestScope, account};

use crate::harness::{Contest, Report};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Requests that are in flight at once in a burst, and the size of their bodies.
const BURST: usize = 1000;
const BURST_BODY: usize = MIB;

/// Time between the burst and the measurement.
const AFTERWARDS: Duration = Duration::from_secs(30);

/// Time between two requests in the meantime, and the size of their bodies.
const MEANWHILE: Duration = Duration::from_millis(20);
const MEANWHILE_BODY: usize = 4 * KIB;

/// A body of `length` bytes, written in small pieces to a buffer that begins empty.
async fn growing(scope: RequestScope, Path(length): Path<usize>) -> Response<Body> {
    written(scope.arena().buf(), length)
}

fn written(mut body: ArenaBuf, length: usize) -> Response<Body> {
    const PIECE: &[u8] = &[b'x'; 64];
    while body.len() < length {
        let piece = &PIECE[..PIECE.len().min(length - body.len())];
        body.extend_from_slice(black_box(piece));
    }
    body.freeze().into_response()
}

/// The routes, and one for each length of `sizes`.
fn app(layer: &MemoryLayer) -> Router {
    let together = Arc::new(Barrier::new(BURST));
    let burst = move |scope: RequestScope| {
        let together = Arc::clone(&together);
        async move {
            let body = written(scope.arena().buf_with_capacity(BURST_BODY), BURST_BODY);
            // All bodies exist before the first one is sent.
            together.wait().await;
            body
        }
    };
    Router::new()
        .route("/burst", get(burst))
        .route("/large/{length}", get(growing))
        .route("/small/{length}", get(growing))
        .layer(layer.clone())
        .with_state(())
}

/// Whether the response is correct to its last byte.
async fn succeeds(app: Router, path: String, length: usize) -> bool {
    let request = Request::get(path).body(Body::empty()).expect("a path");
    let response: Result<_, Infallible> = app.oneshot(request).await;
    let (head, body) = response.expect("infallible").into_parts();
    let body = body.collect().await.expect("no body fails").to_bytes();
    head.status == StatusCode::OK && body.len() == length && body.iter().all(|&byte| byte == b'x')
}

const WORKERS: usize = 2;

fn runtime() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .expect("a runtime")
}

fn live_heap() -> i64 {
    let usage = account::process_usage().expect("the allocator is installed");
    usage.live_bytes()
}

/// The memory of a burst, at its end and later.
struct Kept {
    pooled_at_once: usize,
    pooled: usize,
    /// Live heap of the process, in excess of the heap before the burst.
    heap: i64,
    failed: usize,
}

/// A burst, and then single requests until [`AFTERWARDS`] is over.
async fn burst(layer: MemoryLayer) -> Kept {
    let handle = layer.handle();
    let app = app(&layer);
    // Warms up, so that one-time allocations are not counted.
    let mut failed = usize::from(!succeeds(app.clone(), "/small/1".into(), 1).await);
    let before = live_heap();

    let mut requests = JoinSet::new();
    for _ in 0..BURST {
        requests.spawn(succeeds(app.clone(), "/burst".into(), BURST_BODY));
    }
    let results = requests.join_all().await;
    failed += results.iter().filter(|&&succeeded| !succeeded).count();
    let end = Instant::now();
    let pooled_at_once = handle.pool().stats().pooled_bytes;
    drop(results);

    while end.elapsed() < AFTERWARDS {
        let path = format!("/small/{MEANWHILE_BODY}");
        failed += usize::from(!succeeds(app.clone(), path, MEANWHILE_BODY).await);
        tokio::time::sleep(MEANWHILE).await;
    }
    Kept {
        pooled_at_once,
        pooled: handle.pool().stats().pooled_bytes,
        heap: live_heap() - before,
        failed,
    }
}

fn mib(bytes: f64) -> String {
    format!("{:.2} MiB", bytes / MIB as f64)
}

/// A pool with the default limits, and one that may keep the whole burst, so that only trimming frees it.
fn kept_after_burst() -> Contest {
    Contest::new(
        ["default_limits", "no_limits"]
            .map(|limits| format!("pool/kept_30s_after_{BURST}x1MiB/{limits}")),
        |report: &mut Report, [default_row, unlimited_row]| {
            let unlimited = ArenaPool::builder()
                .max_arena_bytes(4 * MIB)
                .max_total_bytes(4 * BURST * MIB)
                .build()
                .expect("sizes in order");
            for (row, pool) in [(default_row, ArenaPool::new()), (unlimited_row, unlimited)] {
                if !report.wants(row) {
                    continue;
                }
                let runtime = runtime();
                let layer = MemoryLayer::builder().pool(pool).build().unwrap();
                let kept = runtime
                    .block_on(runtime.spawn(burst(layer)))
                    .expect("no panic");
                let all = (BURST * BURST_BODY) as f64;
                let share = (kept.pooled as f64).max(kept.heap as f64) / all;
                report.line(
                    row,
                    &format!(
                        "{} pooled, heap {} above before, {} failed",
                        mib(kept.pooled as f64),
                        mib(kept.heap as f64),
                        kept.failed
                    ),
                    &format!(
                        "{} (burst), {} pooled at once",
                        mib(all),
                        mib(kept.pooled_at_once as f64)
                    ),
                    &format!("{:.2} %", share * 100.0),
                    "< 10 %, 0 failed",
                    Some(share < 0.1 && kept.failed == 0),
                );
            }
        },
    )
}

/// Bytes that the pool's arenas have taken from the system so far, freed bytes included. Each new chunk
/// adds to it.
fn taken(handle: &MemoryHandle) -> u64 {
    let stats = handle.pool().stats();
    (stats.pooled_bytes + stats.rented_bytes) as u64 + stats.evicted_bytes
}

/// Arenas that a thread rents until it keeps one of its own, also one that is not used: 64, and some more.
const BEGIN: usize = 100;

/// Lets each worker begin with the pool, and have buffers of all sizes while the other one has. Else requests that
/// meet a worker for the first time later, or are on both for the first time, need what is new.
async fn begin_on_each_worker(pool: &ArenaPool, sizes: impl Iterator<Item = usize>) {
    let (together, sizes) = (
        Arc::new(std::sync::Barrier::new(WORKERS)),
        Vec::from_iter(sizes),
    );
    let mut workers = JoinSet::new();
    for _ in 0..WORKERS {
        let (pool, together, sizes) = (pool.clone(), Arc::clone(&together), sizes.clone());
        workers.spawn(async move {
            // Blocks its thread, so that each of these runs on another one.
            together.wait();
            (0..BEGIN).for_each(|_| drop(pool.rent()));
            let bodies = sizes.iter().map(|&size| written(pool.buf(size), size));
            let bodies = Vec::from_iter(bodies);
            together.wait();
            drop(bodies);
        });
    }
    workers.join_all().await;
}

/// Requests until sizes are known, and requests that count.
const WARM_UP: usize = 600;
const COUNTED: usize = 1000;

/// Once sizes are known, no request needs a new chunk: for one route, for two routes of different sizes in
/// turn, and with several requests in flight.
fn learned() -> Contest {
    Contest::new(
        [
            "100KiB",
            "100KiB_and_1KiB",
            "100KiB_and_1KiB_8_in_flight",
            "100KiB_pool_disabled",
        ]
        .map(|name| format!("pool/learned_size_steady_state/{name}")),
        |report: &mut Report, rows| {
            let (large, small) = (("large", 100 * KIB), ("small", KIB));
            for (row, routes, in_flight, pooled) in [
                (rows[0], &[large][..], 1, true),
                (rows[1], &[large, small], 1, true),
                (rows[2], &[large, small], 8, true),
                // One chunk for each request, which shows that they are counted.
                (rows[3], &[large], 1, false),
            ] {
                if !report.wants(row) {
                    continue;
                }
                let pool = ArenaPool::builder().enabled(pooled).build();
                let layer = MemoryLayer::builder()
                    .pool(pool.expect("sizes in order"))
                    .build()
                    .unwrap();
                let handle = layer.handle();
                let app = app(&layer);
                let serve = |requests: usize| {
                    let (app, routes) = (app.clone(), routes.to_vec());
                    async move {
                        let mut running: JoinSet<bool> = JoinSet::new();
                        for (route, length) in routes.into_iter().cycle().take(requests) {
                            if running.len() == in_flight {
                                assert!(
                                    running
                                        .join_next()
                                        .await
                                        .expect("one runs")
                                        .expect("no panic")
                                );
                            }
                            let path = format!("/{route}/{length}");
                            running.spawn(succeeds(app.clone(), path, length));
                        }
                        assert!(
                            running
                                .join_all()
                                .await
                                .into_iter()
                                .all(|succeeded| succeeded)
                        );
                    }
                };
                let runtime = runtime();
                let first = taken(&handle);
                runtime.block_on(serve(WARM_UP));
                let sizes = routes.iter().map(|(_, length)| *length);
                runtime.block_on(begin_on_each_worker(handle.pool(), sizes));
                let (before, misses) = (taken(&handle), handle.pool().stats().misses);
                runtime.block_on(serve(COUNTED));
                let more = taken(&handle) - before;
                let misses = handle.pool().stats().misses - misses;
                let learned = handle
                    .snapshot()
                    .routes
                    .iter()
                    .filter_map(|route| route.learned_buffer_bytes)
                    .max();
                report.line(
                    row,
                    &format!("{misses} new arenas, {more} B of chunks in {COUNTED} requests"),
                    &format!(
                        "{} B while learning {} B",
                        before - first,
                        learned.expect("requests had buffers")
                    ),
                    "-",
                    if pooled { "0" } else { "-" },
                    pooled.then_some(misses == 0 && more == 0),
                );
            }
        },
    )
}

/// Requests that are open at once.
const OPEN: usize = 10_000;

/// What an open request keeps: its response is there, and nobody has read it.
#[derive(Clone, Copy)]
enum Keeps {
    Nothing,
    /// What is left when the handler has dropped its token.
    Token,
    /// A task that waits for the cancellation with a handle of the scope.
    WaitingTask,
    /// The same task of tokio's own, with the handle.
    TokioTask,
}

/// Live heap of the process for each open request.
async fn heap_of_a_request(keeps: Keeps) -> f64 {
    let layer = MemoryLayer::builder().expose(Expose::Never).build();
    let layer = layer.expect("valid settings");
    let service = layer.layer(service_fn(move |request: Request<()>| async move {
        let scope = request.extensions().get::<RequestScope>();
        let scope = scope.expect("inside of the layer").clone();
        let wait = |scope: RequestScope| async move { _ = scope.cancelled().await };
        match keeps {
            Keeps::Nothing => {}
            Keeps::Token => drop(scope.child_token()),
            Keeps::WaitingTask => drop(scope.spawn(wait(scope.clone()))),
            Keeps::TokioTask => drop(tokio::spawn(wait(scope))),
        }
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"hello"))))
    }));
    let open = || async {
        let response = service.clone().oneshot(Request::new(())).await;
        response.expect("infallible")
    };
    // Of the list that the test keeps nothing is counted.
    let mut kept = Vec::with_capacity(OPEN);
    let mut before = 0;
    for round in 0..2 {
        kept.clear();
        // Lets tasks run to their first wait, or to their end.
        for _ in 0..4 {
            tokio::task::yield_now().await;
        }
        before = live_heap();
        let number = if round == 0 { 100 } else { OPEN };
        for _ in 0..number {
            kept.push(open().await);
        }
        tokio::task::yield_now().await;
    }
    (live_heap() - before) as f64 / OPEN as f64
}

fn open_requests() -> Contest {
    Contest::new(
        ["plain", "token", "waiting_task", "waiting_tokio_task"]
            .map(|name| format!("layer/heap_of_a_request/{name}")),
        |report: &mut Report, rows| {
            for (row, keeps, most) in [
                (rows[0], Keeps::Nothing, Some(296.0)),
                (rows[1], Keeps::Token, Some(429.0)),
                (rows[2], Keeps::WaitingTask, Some(900.0)),
                (rows[3], Keeps::TokioTask, None),
            ] {
                if !report.wants(row) {
                    continue;
                }
                let runtime = Builder::new_current_thread().enable_all().build();
                let bytes = runtime
                    .expect("a runtime")
                    .block_on(heap_of_a_request(keeps));
                report.line(
                    row,
                    &format!("{bytes:.0} B each"),
                    &format!("{OPEN} open requests"),
                    "-",
                    &most.map_or_else(|| "-".into(), |most| format!("<= {most} B")),
                    most.map(|most| bytes <= most),
                );
            }
        },
    )
}

pub(crate) fn add(contests: &mut Vec<Contest>) {
    contests.extend([open_requests(), learned(), kept_after_burst()]);
}
