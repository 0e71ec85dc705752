//! What requests allocate, in all the places that show it.

use std::{convert::Infallible, hint::black_box, sync::mpsc};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_memory::{
    MemoryHandle, MemoryLayer, Outcome, RequestScope, ScopeReport, TrackingAllocator,
    observe::{RouteSnapshot, Summary},
    scope::ArenaSource,
};

#[global_allocator]
static ALLOC: TrackingAllocator = TrackingAllocator::system();

const ROUTES: usize = 20;
const REQUESTS: usize = 5000;

/// What a request asks for.
#[derive(Clone, Copy)]
struct Load {
    route: usize,
    blocks: usize,
}

/// A request of each route makes blocks of 100 times its number of bytes.
async fn handler(request: Request<Load>) -> Result<Response<Empty<Bytes>>, Infallible> {
    let Load { route, blocks } = *request.body();
    let scope = request.extensions().get::<RequestScope>().unwrap();
    scope.set_route(["/0", "/1", "/2", "/3", "/4", "/5", "/6", "/7", "/8", "/9"][route % 10]);
    for _ in 0..blocks {
        drop(black_box(vec![1_u8; 100 * (route + 1)]));
    }
    scope.arena().alloc([0_u8; 64]);
    Ok(Response::new(Empty::new()))
}

/// Sends requests whose allocations are known, one after the other.
fn send(requests: usize) -> (MemoryHandle, Vec<ScopeReport>) {
    let (sender, reports) = mpsc::channel();
    let layer = MemoryLayer::builder()
        .observe(move |report: &ScopeReport| drop(sender.send(report.clone())))
        .build()
        .unwrap();
    let mut service = layer.layer(service_fn(handler));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(async {
        for n in 0..requests {
            let load = Load {
                route: n % ROUTES,
                blocks: n / ROUTES % 97,
            };
            let method = if n % ROUTES < 10 { "GET" } else { "POST" };
            let request = Request::builder().method(method).body(load).unwrap();
            let answer = service.ready().await.unwrap().call(request).await;
            drop(answer.unwrap());
            // The queue of reports is bounded.
            if n % 1000 == 0 {
                layer.handle().flush_observers();
            }
        }
    });
    layer.handle().flush_observers();
    (layer.handle(), reports.try_iter().collect())
}

/// The values of the requests of a row, in ascending order.
fn values(reports: &[ScopeReport], row: &RouteSnapshot, of: fn(&ScopeReport) -> u64) -> Vec<u64> {
    let of_row = |report: &&ScopeReport| report.route == row.route && report.method == row.method;
    let mut values: Vec<_> = reports.iter().filter(of_row).map(of).collect();
    values.sort_unstable();
    values
}

/// Exact in count, sum and maximum, and within 3 % in each percentile.
fn assert_agrees(summary: &Option<Summary>, values: &[u64]) {
    let summary = summary.as_ref().unwrap();
    let total = values.iter().sum();
    let exact = (values.len() as u64, total, *values.last().unwrap());
    assert_eq!((summary.count, summary.total, summary.max), exact);
    for hundredths in 1..=100 {
        let rank = (values.len() * hundredths).div_ceil(100).max(1);
        let exact = values[rank - 1];
        let found = summary.percentile(hundredths as f64 / 100.0);
        // A product of floating point may be in the next rank.
        let next = values[rank.min(values.len() - 1)];
        let is = |exact: u64| found.abs_diff(exact) as f64 <= 0.03 * exact as f64;
        assert!(is(exact) || is(next), "{found} for {exact}");
    }
}

#[test]
fn the_snapshot_has_the_figures_of_a_known_load() {
    let (handle, reports) = send(REQUESTS);
    assert_eq!(reports.len(), REQUESTS);
    let snapshot = handle.snapshot();
    assert_eq!((snapshot.routes.len(), snapshot.in_flight), (ROUTES, 0));
    // One after the other, so the first one makes the arena of all.
    let misses: u64 = snapshot.routes.iter().map(|row| row.arena_misses).sum();
    assert_eq!((snapshot.routes[0].arena_misses, misses), (1, 1));
    for row in &snapshot.routes {
        let count = (REQUESTS / ROUTES) as u64;
        assert_eq!((row.requests, row.outcomes.total()), (count, count));
        assert_eq!(row.outcomes.get(Outcome::Completed), count);
        assert_agrees(
            &row.bytes,
            &values(&reports, row, |r| r.usage.unwrap().bytes_allocated),
        );
        assert_agrees(
            &row.allocations,
            &values(&reports, row, |r| r.usage.unwrap().allocations),
        );
        assert_agrees(
            &row.peak_bytes,
            &values(&reports, row, |r| r.usage.unwrap().peak_bytes.unwrap()),
        );
        assert_agrees(
            &row.arena_bytes,
            &values(&reports, row, |r| r.arena.bytes as u64),
        );
        let from_pool = |r: &ScopeReport| u64::from(r.arena.source == ArenaSource::Pool);
        let hits: u64 = values(&reports, row, from_pool).iter().sum();
        assert_eq!((row.arena_hits, row.arena_misses), (hits, count - hits));
        let nanos = values(&reports, row, |r| r.total_time.as_nanos() as u64);
        let total = row.total_time.as_ref().unwrap();
        assert_eq!(
            (total.count, total.max.as_nanos() as u64),
            (count, *nanos.last().unwrap())
        );
        assert_eq!(total.total.as_nanos() as u64, nanos.iter().sum::<u64>());
        assert_eq!(row.time_to_head.as_ref().unwrap().count, count);
        // The load itself, apart from what the layer and the service add to each request.
        let size = 100 * (row.route.as_str()[1..].parse::<u64>().unwrap() + 1)
            + if row.method == "POST" { 1000 } else { 0 };
        let blocks = |n: u64| n % 97 * size;
        let known: u64 = (0..count).map(blocks).sum();
        let bytes = row.bytes.as_ref().unwrap();
        let own = bytes.total - known;
        assert!(
            own / count < 2000,
            "{own} bytes of {count} requests are not the handler's"
        );
    }
}

#[test]
fn a_difference_has_the_requests_in_between() {
    let layer = MemoryLayer::builder().route("one").build().unwrap();
    let mut service = layer.layer(service_fn(async |request: Request<usize>| {
        drop(black_box(vec![1_u8; *request.body()]));
        let scope = request.extensions().get::<RequestScope>().unwrap();
        scope.arena().alloc(*request.body());
        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
    }));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let mut send = |bytes: usize| {
        runtime.block_on(async {
            let answer = service
                .ready()
                .await
                .unwrap()
                .call(Request::new(bytes))
                .await;
            drop(answer.unwrap());
        });
    };
    let handle = layer.handle();
    for _ in 0..50 {
        send(1_000_000);
    }
    let earlier = handle.snapshot();
    for _ in 0..100 {
        send(10_000);
    }
    let since = handle.snapshot().since(&earlier);
    let row = &since.routes[0];
    let bytes = row.bytes.as_ref().unwrap();
    assert_eq!((row.requests, bytes.count), (100, 100));
    assert_eq!((row.arena_hits, row.arena_misses), (100, 0));
    let each = bytes.total / 100;
    assert!((10_000..12_000).contains(&each), "{each}");
    assert!(bytes.percentile(0.5).abs_diff(each) * 100 <= 3 * each);
    assert!(
        bytes.max >= each && bytes.max * 100 <= each * 106,
        "{}",
        bytes.max
    );
    send(3_000_000);
    let since = handle.snapshot().since(&earlier);
    let max = since.routes[0].bytes.as_ref().unwrap().max;
    assert!(
        (3_000_000..3_002_000).contains(&max),
        "exact, since it is the highest"
    );
    assert!(
        handle
            .snapshot()
            .since(&handle.snapshot())
            .routes
            .is_empty()
    );
}

#[cfg(feature = "serde")]
#[test]
fn serialized_data_has_the_figures_of_the_snapshot() {
    let (handle, _) = send(200);
    let snapshot = handle.snapshot();
    let json = serde_json::to_value(&snapshot).unwrap();
    assert_eq!(json["in_flight"], 0);
    assert_eq!(json["pool"]["misses"], snapshot.pool.misses);
    let rows = json["routes"].as_array().unwrap();
    assert_eq!(rows.len(), snapshot.routes.len());
    for (json, row) in rows.iter().zip(&snapshot.routes) {
        assert_eq!(json["method"], row.method);
        assert_eq!(json["route"], row.route.as_str());
        assert_eq!(json["requests"], row.requests);
        assert_eq!(json["outcomes"]["completed"], row.requests);
        assert_eq!(json["statuses"][2], row.requests);
        assert_eq!(json["arena_hits"], row.arena_hits);
        assert_eq!(json["arena_misses"], row.requests - row.arena_hits);
        let bytes = row.bytes.as_ref().unwrap();
        assert_eq!(json["bytes"]["count"], bytes.count);
        assert_eq!(json["bytes"]["total"], bytes.total);
        assert_eq!(json["bytes"]["max"], bytes.max);
        assert_eq!(json["bytes"]["mean"], bytes.mean());
        assert_eq!(json["bytes"]["p99"], bytes.percentile(0.99));
        let total = row.total_time.as_ref().unwrap();
        let p50 = total.percentile(0.5).as_nanos() as u64;
        assert_eq!(json["total_time"]["p50"], p50);
        assert!(json["open_bytes"].is_null(), "unknown is not zero");
    }
}

#[cfg(feature = "prometheus")]
#[test]
fn metrics_have_the_figures_of_the_snapshot() {
    use prometheus_client::{encoding::text::encode, registry::Registry};

    let (handle, reports) = send(400);
    let mut registry = Registry::default();
    registry.register_collector(Box::new(handle.collector()));
    let mut text = String::new();
    encode(&mut text, &registry).unwrap();
    let value = |line: &str| -> f64 {
        let mut lines = text.lines();
        let found = lines.find_map(|l| l.strip_prefix(line)?.strip_prefix(' '));
        let found = found.unwrap_or_else(|| panic!("no {line} in:\n{text}"));
        found.parse().unwrap()
    };
    for row in &handle.snapshot().routes {
        let of = format!("method=\"{}\",route=\"{}\"", row.method, row.route);
        let one = |name: &str| value(&format!("tower_memory_{name}{{{of}}}"));
        let with = |name: &str, label: &str, text: &str| {
            value(&format!("tower_memory_{name}{{{of},{label}=\"{text}\"}}"))
        };
        assert_eq!(
            with("requests_total", "outcome", "completed"),
            row.requests as f64
        );
        assert_eq!(
            with("responses_total", "status_class", "2xx"),
            row.requests as f64
        );
        for (result, arenas) in [("hit", row.arena_hits), ("miss", row.arena_misses)] {
            assert_eq!(
                with("request_arenas_total", "result", result),
                arenas as f64
            );
        }
        assert_eq!(one("requests_in_flight"), 0.0);
        for (name, summary) in [
            ("request_allocated_bytes", &row.bytes),
            ("request_allocations", &row.allocations),
            ("request_peak_bytes", &row.peak_bytes),
            ("request_arena_bytes", &row.arena_bytes),
        ] {
            let summary = summary.as_ref().unwrap();
            assert_eq!(one(&format!("{name}_sum")), summary.total as f64);
            assert_eq!(one(&format!("{name}_count")), summary.count as f64);
        }
        // A bound is exact: no request is counted on the wrong side of it.
        let bytes = values(&reports, row, |r| r.usage.unwrap().bytes_allocated);
        for bound in [1024_u64, 4096, 16_384, 65_536] {
            let label = format!("{bound}.0");
            // `le` stands first or last, as the library likes.
            let line =
                format!("tower_memory_request_allocated_bytes_bucket{{le=\"{label}\",{of}}}");
            let at_most = bytes.iter().filter(|bytes| **bytes <= bound).count();
            assert_eq!(value(&line), at_most as f64, "{bound}");
        }
        let total = row.total_time.as_ref().unwrap();
        let seconds = one("request_duration_seconds_sum");
        assert!((seconds - total.total.as_secs_f64()).abs() < 1e-9);
    }
    assert_eq!(
        value("tower_memory_pool_rents_total{kind=\"arena\",result=\"miss\"}"),
        1.0
    );
    assert!(text.ends_with("# EOF\n"));
}
