//! All that the driver uses of the crate, so that another revision needs this file changed and no
//! other.

#![expect(unsafe_code, reason = "calls allocators directly")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    hint::black_box,
    sync::mpsc,
    task::{Context, Waker},
    thread,
    time::Duration,
};

use axum::{Router, body::Body, http::Response, routing::get};
use bytes::BytesMut;
use tower_memory::{
    Arena, ArenaPool, Expose, MemoryLayer, RequestScope, ScopeReport, TrackingAllocator,
    account::{self, Account},
    header::HeaderFormat,
    limit::ProcessLimit,
    middleware::MemoryLayerBuilder,
    trace::TraceSettings,
};

#[global_allocator]
static ALLOC: TrackingAllocator = TrackingAllocator::system();

/// How often the calling thread has allocated so far.
pub(crate) fn allocations() -> u64 {
    let usage = account::thread_usage().expect("the allocator is installed");
    usage.allocations
}

/// Puts the layer around an app, with settings that a case of the driver names.
pub(crate) fn wrap(app: Router, settings: &str) -> Router {
    let builder = builder();
    let builder = match settings {
        "headers_on" => builder.expose(Expose::Always),
        "trailers" => builder.expose(Expose::Always).expose_trailers(),
        "route_figures" => builder
            .expose(Expose::Always)
            .header_format(HeaderFormat::Dictionary)
            .expose_route_figures(),
        "dictionary" => builder
            .expose(Expose::Always)
            .header_format(HeaderFormat::Dictionary),
        "server_timing" => builder
            .expose(Expose::Always)
            .header_format(HeaderFormat::ServerTiming),
        // Callgrind also counts the thread that calls the observer.
        "observed" => builder.observe(|report: &ScopeReport| _ = black_box(report.status)),
        "listed" => builder.list_requests(),
        "traced" => {
            TraceSettings::new().start();
            builder
        }
        "budget" => builder.request_limit(32 << 20),
        "limited" => builder.process_limit(&limit(1 << 40, None)),
        "overloaded" => builder.process_limit(&limit(1 << 30, Some(1 << 30))),
        _ => builder,
    };
    let layer = builder.build().expect("valid settings");
    if settings == "refused" {
        let handle = layer.handle();
        tokio::spawn(async move { handle.shutdown(Duration::ZERO).await });
    }
    app.layer(layer)
}

/// A limit of `bytes` for a process that uses `used`, or what it does use.
fn limit(bytes: u64, used: Option<u64>) -> ProcessLimit {
    let limit = ProcessLimit::builder().bytes(bytes);
    let limit = match used {
        Some(used) => limit.source(move || Some(used)),
        None => limit,
    };
    limit.build().expect("valid settings")
}

fn builder() -> MemoryLayerBuilder {
    let timeout = Duration::from_secs(5);
    MemoryLayer::builder()
        .timeout(timeout)
        .expose(Expose::Never)
}

/// The routes whose handlers use the scope.
pub(crate) fn scoped(app: Router) -> Router {
    app.route(
        "/scope",
        get(|scope: RequestScope| async move { _ = black_box(scope) }),
    )
    .route(
        "/scope_hello",
        get(|scope: RequestScope| async move {
            drop(black_box(scope));
            "hello"
        }),
    )
    .route(
        "/token",
        get(|scope: RequestScope| async move { _ = black_box(scope.child_token()) }),
    )
    .route("/cancelled", get(cancelled))
    .route("/spawn_1", get(spawn))
    .route("/arena_10x40B", get(arena))
    .route("/json_100", get(json))
}

/// What a handler pays that waits for something and for its cancellation.
async fn cancelled(scope: RequestScope) {
    let waiting = std::pin::pin!(scope.cancelled());
    let mut cx = Context::from_waker(Waker::noop());
    assert!(black_box(waiting).poll(&mut cx).is_pending());
}

async fn spawn(scope: RequestScope) -> &'static str {
    scope.spawn(async {}).await.expect("the task returns");
    "hello"
}

async fn arena(scope: RequestScope) -> &'static str {
    let arena = scope.arena();
    for i in 0..10_u64 {
        black_box(arena.alloc([i; 5]));
    }
    "hello"
}

async fn json(scope: RequestScope) -> Response<Body> {
    let arena = scope.arena();
    let mut items = arena.vec_with_capacity(100);
    for i in 0..100_u32 {
        items.push(arena.alloc_fmt(format_args!("item-{}", black_box(i))));
    }
    arena.json(&items)
}

/// `n` times what a case of the group `operation` names, without a request.
pub(crate) fn operation(name: &str, n: u64) {
    match name {
        "enter_leave" => {
            let account = Account::new();
            for _ in 0..n {
                drop(black_box(account.enter()));
            }
        }
        "malloc_free_64B" => Account::new().in_scope(|| grow(&ALLOC, 64, n)),
        "malloc_free_64B_uncounted" => grow(&System, 64, n),
        "realloc_64_to_4096B" => Account::new().in_scope(|| grow(&ALLOC, 4096, n)),
        "realloc_64_to_4096B_uncounted" => grow(&System, 4096, n),
        "rent_10x40B" => {
            let pool = ArenaPool::new();
            for _ in 0..n {
                let arena = pool.rent();
                for i in 0..10_u64 {
                    black_box(arena.alloc([i; 5]));
                }
            }
        }
        "rent_10x40B_elsewhere" => rent_elsewhere(n),
        "buffer_16KiB" => {
            let pool = ArenaPool::new();
            for _ in 0..n {
                let mut buffer = pool.rent().buf_with_capacity(16 << 10);
                buffer.extend_from_slice(black_box(&[1; 1024]));
                black_box(buffer.freeze());
            }
        }
        // What a buffer is compared with: one that is reused when its last bytes have gone.
        "bytes_mut_16KiB" => {
            let mut buffer = BytesMut::new();
            for _ in 0..n {
                buffer.reserve(16 << 10);
                buffer.extend_from_slice(black_box(&[1; 1024]));
                black_box(buffer.split().freeze());
            }
        }
        _ => panic!("no operation `{name}`"),
    }
}

/// One thread rents, the other one returns. They meet once in 64 arenas.
#[inline(never)]
fn rent_elsewhere(n: u64) {
    let pool = ArenaPool::new();
    let (full, to_return) = mpsc::sync_channel::<Vec<Arena>>(0);
    let (empty, to_fill) = mpsc::sync_channel(0);
    thread::scope(|threads| {
        threads.spawn(move || {
            for mut arenas in to_return {
                arenas.clear();
                if empty.send(arenas).is_err() {
                    return;
                }
            }
        });
        let mut arenas = Vec::with_capacity(64);
        for _ in 0..n / 64 {
            for _ in 0..64 {
                let arena = pool.rent();
                for i in 0..10_u64 {
                    black_box(arena.alloc([i; 5]));
                }
                arenas.push(arena);
            }
            full.send(arenas).expect("the other thread returns them");
            arenas = to_fill.recv().expect("as above");
        }
        drop(full);
    });
}

/// `n` times a block of 64 bytes that is doubled up to `bytes`, and freed.
fn grow(allocator: &impl GlobalAlloc, bytes: usize, n: u64) {
    for _ in 0..n {
        let mut layout = Layout::from_size_align(64, 1).expect("valid");
        // SAFETY: the layout has a size and is the block's, and the block is freed once.
        unsafe {
            let mut block = black_box(allocator.alloc(layout));
            while layout.size() < bytes {
                let size = 2 * layout.size();
                block = black_box(allocator.realloc(block, layout, size));
                assert!(!block.is_null());
                layout = Layout::from_size_align(size, 1).expect("valid");
            }
            allocator.dealloc(block, layout);
        }
    }
}
