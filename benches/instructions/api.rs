//! All that the driver uses of the crate, so that another revision needs this file changed and no
//! other.

use std::{hint::black_box, time::Duration};

use axum::{body::Body, http::Response};
use tower_memory::{
    Expose, MemoryLayer, RequestScope, ScopeReport, TrackingAllocator, account,
    middleware::MemoryLayerBuilder,
};

#[global_allocator]
static ALLOC: TrackingAllocator = TrackingAllocator::system();

/// How often the calling thread has allocated so far.
pub(crate) fn allocations() -> u64 {
    let usage = account::thread_usage().expect("the allocator is installed");
    usage.allocations
}

/// The layer with a timeout that never passes.
pub(crate) fn layer(headers: bool) -> MemoryLayer {
    builder(headers).build().expect("valid settings")
}

/// The same without headers, and with an observer. Callgrind also counts the thread that calls it.
pub(crate) fn observed() -> MemoryLayer {
    let layer = builder(false).observe(|report: &ScopeReport| _ = black_box(report.status));
    layer.build().expect("valid settings")
}

fn builder(headers: bool) -> MemoryLayerBuilder {
    let expose = if headers {
        Expose::Always
    } else {
        Expose::Never
    };
    let timeout = Duration::from_secs(5);
    MemoryLayer::builder().timeout(timeout).expose(expose)
}

pub(crate) async fn spawn(scope: RequestScope) -> &'static str {
    scope.spawn(async {}).await.expect("the task returns");
    "hello"
}

pub(crate) async fn arena(scope: RequestScope) -> &'static str {
    let arena = scope.arena();
    for i in 0..10_u64 {
        black_box(arena.alloc([i; 5]));
    }
    "hello"
}

pub(crate) async fn json(scope: RequestScope) -> Response<Body> {
    let arena = scope.arena();
    let mut items = arena.vec_with_capacity(100);
    for i in 0..100_u32 {
        items.push(arena.alloc_fmt(format_args!("item-{}", black_box(i))));
    }
    arena.json(&items)
}
