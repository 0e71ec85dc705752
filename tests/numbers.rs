//! Numbers agree, each at its moment: a load that is known, over connections of HTTP/1.1 and HTTP/2, in headers,
//! trailers, reports, the snapshot, its JSON, the debug page, the text of Prometheus and the `metrics` facade.
//!
//! `TOWER_MEMORY_LOAD=100000` sends as many requests, 4000 by default.
#![cfg(all(
    feature = "debug",
    feature = "metrics",
    feature = "prometheus",
    feature = "serde"
))]
#![forbid(unsafe_code)]

#[path = "support/serve.rs"]
mod serve;

use std::{
    collections::BTreeMap,
    convert::Infallible,
    hint::black_box,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, header};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, StreamBody, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, client::conn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, SharedString, Unit};
use tokio::net::TcpStream;
use tower::{Layer, ServiceExt, service_fn};
use tower_memory::{
    Expose, MemoryHandle, MemoryLayer, RequestScope, ScopeReport, TrackingAllocator,
    debug::DebugPages,
    header::{X_ALLOC_BYTES, X_ALLOC_COUNT},
    housekeeping::ManualClock,
    observe::metrics_observer,
};

#[global_allocator]
static ALLOC: TrackingAllocator = TrackingAllocator::system();

const ROUTES: usize = 20;

/// Bytes of each of the two blocks that the body of a response makes.
const OF_BODY: u64 = 3000;

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// `/ROUTE/BLOCKS`: as many blocks of 100 times the route's number, and a body that makes two more.
async fn handler(request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let scope = request.extensions().get::<RequestScope>().unwrap();
    let mut numbers = request.uri().path()[1..].split('/');
    let mut next = || numbers.next().unwrap().parse::<usize>().unwrap();
    let (route, blocks) = (next(), next());
    scope.set_route(&format!("/items/{route:02}"));
    for _ in 0..blocks {
        drop(black_box(vec![1_u8; 100 * (route + 1)]));
    }
    let frames = (0..2).map(|_| {
        drop(black_box(vec![1_u8; OF_BODY as usize]));
        Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"part")))
    });
    let body = StreamBody::new(futures_util::stream::iter(frames));
    Ok(Response::new(body.boxed_unsync()))
}

/// A connection of one of the two protocols.
enum Client {
    One(conn::http1::SendRequest<Empty<Bytes>>),
    Two(conn::http2::SendRequest<Empty<Bytes>>),
}

impl Client {
    async fn connect(address: SocketAddr, two: bool) -> Self {
        let socket = TokioIo::new(TcpStream::connect(address).await.unwrap());
        if two {
            let (client, connection) = conn::http2::handshake(TokioExecutor::new(), socket)
                .await
                .unwrap();
            tokio::spawn(connection);
            return Self::Two(client);
        }
        let (client, connection) = conn::http1::handshake(socket).await.unwrap();
        tokio::spawn(connection);
        Self::One(client)
    }

    /// Returns headers and trailers.
    async fn get(&mut self, path: &str) -> [HeaderMap; 2] {
        let request = Request::get(format!("http://test{path}"))
            .header(header::HOST, "test")
            .header(header::TE, "trailers")
            .body(Empty::new())
            .unwrap();
        let response = match self {
            Self::One(client) => {
                client.ready().await.unwrap();
                client.send_request(request).await.unwrap()
            }
            Self::Two(client) => {
                client.ready().await.unwrap();
                client.send_request(request).await.unwrap()
            }
        };
        let (parts, body) = response.into_parts();
        let collected = body.collect().await.unwrap();
        let trailers = collected.trailers().expect("trailers").clone();
        assert_eq!(collected.to_bytes(), "partpart");
        [parts.headers, trailers]
    }
}

fn figures(headers: &HeaderMap) -> [u64; 2] {
    [X_ALLOC_BYTES, X_ALLOC_COUNT].map(|name| headers[name].to_str().unwrap().parse().unwrap())
}

/// A recorder of the `metrics` facade: count and sum by name and labels.
#[derive(Clone, Default)]
struct Recorded(Arc<Mutex<BTreeMap<String, (u64, f64)>>>);

struct Cell(Recorded, String);

impl Cell {
    fn of(recorded: &Recorded, key: &Key) -> Arc<Self> {
        let mut labels: Vec<_> = key
            .labels()
            .map(|label| format!("{}={:?}", label.key(), label.value()))
            .collect();
        labels.sort();
        let key = format!("{}{{{}}}", key.name(), labels.join(","));
        Arc::new(Self(recorded.clone(), key))
    }

    fn add(&self, count: u64, sum: f64) {
        let mut all = self.0.0.lock().unwrap();
        let cell = all.entry(self.1.clone()).or_default();
        *cell = (cell.0 + count, cell.1 + sum);
    }
}

impl metrics::CounterFn for Cell {
    fn increment(&self, value: u64) {
        self.add(value, 0.0);
    }

    fn absolute(&self, _: u64) {
        unreachable!("each request is counted");
    }
}

impl metrics::HistogramFn for Cell {
    fn record(&self, value: f64) {
        self.add(1, value);
    }
}

impl metrics::Recorder for Recorded {
    fn describe_counter(&self, name: KeyName, unit: Option<Unit>, _: SharedString) {
        assert!(name.as_str().ends_with("_total") && unit == Some(Unit::Count));
    }

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, name: KeyName, unit: Option<Unit>, _: SharedString) {
        let suffix = match unit {
            Some(Unit::Bytes) => "_bytes",
            Some(Unit::Seconds) => "_seconds",
            _ => "_allocations",
        };
        assert!(name.as_str().ends_with(suffix));
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(Cell::of(self, key))
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(Cell::of(self, key))
    }
}

/// The samples of the text of Prometheus.
fn scrape(handle: &MemoryHandle) -> BTreeMap<String, f64> {
    let mut registry = prometheus_client::registry::Registry::default();
    registry.register_collector(Box::new(handle.collector()));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    let samples = samples.map(|line| {
        let (name, value) = line.rsplit_once(' ').unwrap();
        (name.to_owned(), value.parse().unwrap())
    });
    samples.collect()
}

/// The rows of the routes on the debug page, by label: the number of requests, and the exact bytes of its cells.
async fn page(handle: &MemoryHandle) -> BTreeMap<String, (u64, Vec<u64>)> {
    let pages = DebugPages::new(handle).allow(|_| true).into_router();
    let request = Request::get("/").header(header::HOST, "localhost");
    let request = request.body(axum::body::Body::empty()).unwrap();
    let body = pages.oneshot(request).await.unwrap().into_body();
    let page = body.collect().await.unwrap().to_bytes();
    let page = String::from_utf8(page.to_vec()).unwrap();
    let rows = page.split("<code>GET ").skip(1).map(|row| {
        let row = row.split_once("</tr>").unwrap().0;
        let (route, row) = row.split_once("</code>").unwrap();
        let requests = row.split_once("<td>").unwrap().1.split_once("</td>");
        let digits: String = requests
            .unwrap()
            .0
            .chars()
            .filter(char::is_ascii_digit)
            .collect();
        let titles = row.split("title=\"").skip(1);
        let bytes = titles.filter_map(|title| title.split_once(" bytes")?.0.parse().ok());
        (route.to_owned(), (digits.parse().unwrap(), bytes.collect()))
    });
    rows.collect()
}

/// What the clients of a route have seen.
#[derive(Default, Debug, PartialEq)]
struct Sums {
    requests: u64,
    bytes: u64,
    allocations: u64,
}

#[tokio::test]
async fn headers_trailers_snapshot_json_page_prometheus_and_metrics_agree_on_a_known_load() {
    let load = std::env::var("TOWER_MEMORY_LOAD").ok();
    let load: usize = load.map_or(4000, |load| load.parse().expect("a number"));
    let metrics = Recorded::default();
    let reports = Arc::new(Mutex::new(BTreeMap::<String, Sums>::new()));
    let layer = MemoryLayer::builder()
        .expose(Expose::Always)
        .expose_trailers()
        .list_requests()
        .clock(&ManualClock::new())
        .observe(metrics_observer())
        .observe({
            let reports = Arc::clone(&reports);
            move |report: &ScopeReport| {
                let mut reports = reports.lock().unwrap();
                let sums = reports.entry(report.route.to_string()).or_default();
                let usage = report.usage.unwrap();
                sums.requests += 1;
                sums.bytes += usage.bytes_allocated;
                sums.allocations += usage.allocations;
            }
        })
        .build()
        .unwrap();
    let handle = layer.handle();
    let address = serve::serve(layer.layer(service_fn(handler))).await;
    let mut clients = [
        Client::connect(address, false).await,
        Client::connect(address, true).await,
    ];
    let flush = || metrics::with_local_recorder(&metrics, || handle.flush_observers());

    let mut seen = BTreeMap::<String, Sums>::new();
    let mut each = BTreeMap::<String, Vec<u64>>::new();
    // What a request allocates beside the blocks, by protocol and moment.
    let mut beside = BTreeMap::<(usize, &str), [u64; 2]>::new();
    for n in 0..load {
        let (route, blocks, two) = (n % ROUTES, n / ROUTES % 7, n / 3 % 2);
        let [head, end] = clients[two].get(&format!("/{route}/{blocks}")).await;
        let [head, end] = [head, end].map(|headers| figures(&headers));
        let label = format!("/items/{route:02}");
        each.entry(label.clone()).or_default().push(end[0]);
        let sums = seen.entry(label).or_default();
        sums.requests += 1;
        sums.bytes += end[0];
        sums.allocations += end[1];

        let known = |bytes: u64| bytes + (blocks * 100 * (route + 1)) as u64;
        for (moment, figures, own) in [("head", head, 0), ("end", end, 2 * OF_BODY)] {
            let other = [
                figures[0] - known(own),
                figures[1] - blocks as u64 - own / OF_BODY,
            ];
            // The first requests make what later ones use again.
            if n >= 10 * ROUTES {
                let first = *beside.entry((two, moment)).or_insert(other);
                assert_eq!(other, first, "request {n} at its {moment}");
            }
        }
        // The queue of reports is bounded.
        if n % 1000 == 0 {
            flush();
        }
    }
    while handle.snapshot().in_flight > 0 {
        tokio::task::yield_now().await;
    }
    flush();
    assert_eq!(handle.requests(), Some(Vec::new()));

    let snapshot = handle.snapshot();
    let json = serde_json::to_value(&snapshot).unwrap();
    let scraped = scrape(&handle);
    let page = page(&handle).await;
    let metrics = metrics.0.lock().unwrap();
    assert_eq!(*reports.lock().unwrap(), seen);
    assert_eq!((seen.len(), snapshot.routes.len()), (ROUTES, ROUTES));
    assert_eq!(snapshot.dropped_reports, 0);
    for (row, json) in snapshot
        .routes
        .iter()
        .zip(json["routes"].as_array().unwrap())
    {
        let route = row.route.as_str();
        let expected = &seen[route];
        let (bytes, count) = (
            row.bytes.as_ref().unwrap(),
            row.allocations.as_ref().unwrap(),
        );
        let of_snapshot = Sums {
            requests: row.outcomes.total(),
            bytes: bytes.total,
            allocations: count.total,
        };
        assert_eq!(of_snapshot, *expected, "{route}");
        let number = |value: &serde_json::Value| value.as_u64().unwrap();
        let of_json = Sums {
            requests: number(&json["outcomes"]["completed"]),
            bytes: number(&json["bytes"]["total"]),
            allocations: number(&json["allocations"]["total"]),
        };
        assert_eq!(
            (json["route"].as_str(), of_json),
            (Some(route), of_snapshot)
        );

        // Within the stated error of what clients have read.
        let each = each.get_mut(route).unwrap();
        each.sort_unstable();
        for q in [0.5, 0.9, 0.95, 0.99] {
            let exact = each[(each.len() as f64 * q).ceil() as usize - 1];
            let found = bytes.percentile(q);
            assert!(found.abs_diff(exact) * 100 <= 3 * exact, "{found} {exact}");
        }
        assert_eq!(Some(&bytes.max), each.last());
        for (name, q) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99)] {
            assert_eq!(number(&json["bytes"][name]), bytes.percentile(q));
        }
        let shown = [bytes.percentile(0.5), bytes.percentile(0.95), bytes.max, 0];
        assert_eq!(page[route], (expected.requests, shown.to_vec()), "{route}");

        let labels = format!("method=\"GET\",route=\"{route}\"");
        let sample = |name: &str, more: &str| scraped[&format!("{name}{{{labels}{more}}}")] as u64;
        let allocated = "tower_memory_request_allocated_bytes";
        let of_prometheus = Sums {
            requests: sample("tower_memory_requests_total", ",outcome=\"completed\""),
            bytes: sample(&format!("{allocated}_sum"), ""),
            allocations: sample("tower_memory_request_allocations_sum", ""),
        };
        assert_eq!(of_prometheus, *expected, "{route}");
        assert_eq!(sample(&format!("{allocated}_count"), ""), expected.requests);
        let all = format!("{allocated}_bucket{{le=\"+Inf\",{labels}}}");
        assert_eq!(scraped[&all] as u64, expected.requests);

        let metric = |name: &str, labels: &str| metrics[&format!("{name}{{{labels}}}")];
        let of_metrics = Sums {
            requests: metric(
                "tower_memory_requests_total",
                &format!("method=\"GET\",outcome=\"completed\",route=\"{route}\""),
            )
            .0,
            bytes: metric(allocated, &labels).1 as u64,
            allocations: metric("tower_memory_request_allocations", &labels).1 as u64,
        };
        assert_eq!(of_metrics, *expected, "{route}");
        assert_eq!(
            metric("tower_memory_request_duration_seconds", &labels).0,
            expected.requests
        );
    }
}
