//! The figures of the page.

use serde::Serialize;
use tower_memory::account;

use crate::{
    catalogue,
    problem::Problem,
    routes::App,
    store::{Stock, Store},
};

#[derive(Serialize)]
pub(crate) struct Figures {
    stock: Vec<(&'static str, Stock)>,
    /// Bytes of the process in memory; absent where the system does not tell.
    rss: Option<u64>,
    /// Bytes that were allocated and not freed.
    heap: Option<i64>,
    /// Heap blocks and bytes of the process since its start.
    allocated: Option<(u64, u64)>,
    pool: Pool,
    in_flight: usize,
    routes: Vec<Route>,
}

#[derive(Serialize)]
struct Pool {
    waiting: usize,
    arenas: usize,
    buffers: usize,
}

#[derive(Serialize)]
struct Route {
    name: String,
    requests: u64,
    /// Means of a request: heap bytes, heap blocks, bytes of the arena.
    bytes: Option<f64>,
    allocations: Option<f64>,
    arena: Option<f64>,
    /// Time to the response head, in microseconds.
    p50: Option<u128>,
    p99: Option<u128>,
}

impl Figures {
    pub(crate) fn of<S: Store>(app: &App<S>) -> Result<Self, Problem> {
        let mut stock = Vec::with_capacity(catalogue::ITEMS);
        app.store.stock(|each| stock.push(each))?;
        let skus = catalogue::items().iter().map(|item| &*item.sku);
        let (now, usage) = (app.memory.snapshot(), account::process_usage());
        let routes = now.routes.iter().map(|route| Route {
            name: format!("{} {}", route.method, route.route.as_str()),
            requests: route.requests,
            bytes: route.bytes.as_ref().map(|all| all.mean()),
            allocations: route.allocations.as_ref().map(|all| all.mean()),
            arena: route.arena_bytes.as_ref().map(|all| all.mean()),
            p50: route
                .time_to_head
                .as_ref()
                .map(|time| time.percentile(0.5).as_micros()),
            p99: route
                .time_to_head
                .as_ref()
                .map(|time| time.percentile(0.99).as_micros()),
        });
        Ok(Self {
            stock: skus.zip(stock).collect(),
            rss: rss(),
            heap: usage.map(|usage| usage.live_bytes()),
            allocated: usage.map(|usage| (usage.allocations, usage.bytes_allocated)),
            pool: Pool {
                waiting: now.pool.pooled_bytes,
                arenas: now.pool.rented_bytes,
                buffers: now.pool.buffer_bytes,
            },
            in_flight: now.in_flight,
            routes: routes.collect(),
        })
    }
}

fn rss() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().ok()?;
    Some(kib * 1024)
}
