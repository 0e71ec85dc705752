//! What a scrape shows: names that the dashboard can rely on, whatever routes are called, and while much is open.
#![cfg(all(feature = "prometheus", feature = "serde"))]
#![forbid(unsafe_code)]

#[path = "support/serve.rs"]
mod serve;

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{Empty, StreamBody};
use prometheus_client::{encoding::text::encode, registry::Registry};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tower::{Layer, Service, service_fn};
use tower_memory::{
    Expose, MemoryHandle, MemoryLayer, RequestScope, TrackingAllocator, limit::ProcessLimit,
};

#[global_allocator]
static ALLOC: TrackingAllocator = TrackingAllocator::system();

fn scrape(handle: &MemoryHandle) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(handle.collector()));
    let mut text = String::new();
    encode(&mut text, &registry).unwrap();
    text
}

/// The parts of a sample: name, labels and value.
type Sample = (String, BTreeMap<String, String>, f64);

/// Reads a sample as the format is specified, not as it is written here.
fn sample(line: &str) -> Sample {
    let name: String = line
        .chars()
        .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
        .collect();
    let mut rest = &line[name.len()..];
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        while !rest.starts_with('}') {
            let (label, quoted) = rest.trim_start_matches(',').split_once("=\"").unwrap();
            let (mut value, mut chars) = (String::new(), quoted.char_indices());
            let end = loop {
                match chars.next().expect("a closing quote") {
                    (_, '\\') => value.push(match chars.next().unwrap().1 {
                        'n' => '\n',
                        other => other,
                    }),
                    (at, '"') => break at,
                    (_, other) => value.push(other),
                }
            };
            labels.insert(label.to_owned(), value);
            rest = &quoted[end + 1..];
        }
        rest = &rest[1..];
    }
    (name, labels, rest.trim().parse().expect("a number"))
}

fn samples(text: &str) -> Vec<Sample> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(sample).collect()
}

async fn send<S, R>(service: &mut S, route: &str) -> Response<R>
where
    S: Service<Request<String>, Response = Response<R>, Error = Infallible>,
{
    let called = service.call(Request::new(route.to_owned()));
    called.await.unwrap()
}

#[tokio::test]
async fn each_query_of_the_dashboard_names_what_is_exposed() {
    let limit = ProcessLimit::builder()
        .bytes(1 << 40)
        .source(|| Some(1 << 20))
        .build()
        .unwrap();
    let layer = MemoryLayer::builder()
        .process_limit(&limit)
        .build()
        .unwrap();
    let mut service = layer.layer(service_fn(|request: Request<String>| async move {
        let scope = request.extensions().get::<RequestScope>().unwrap();
        scope.set_route(request.body());
        scope.arena().alloc([0_u8; 64]);
        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
    }));
    drop(send(&mut service, "/a").await);

    let mut exposed = BTreeMap::<String, BTreeSet<String>>::new();
    for (name, labels, _) in samples(&scrape(&layer.handle())) {
        exposed.entry(name).or_default().extend(labels.into_keys());
    }
    let dashboard = include_str!("../docs/grafana/tower-memory.json");
    let dashboard: serde_json::Value = serde_json::from_str(dashboard).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels
        .iter()
        .filter_map(|panel| panel["targets"].as_array());
    let mut queries: Vec<_> = targets
        .flatten()
        .map(|target| target["expr"].as_str().unwrap())
        .collect();
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    queries.extend(
        variables
            .iter()
            .filter_map(|list| list["query"]["query"].as_str()),
    );
    assert!(queries.len() >= 20);

    let mut used = BTreeSet::new();
    for query in queries {
        let words = |text: &str| -> Vec<String> {
            text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                .map(str::to_owned)
                .collect()
        };
        let names = words(query);
        let names: Vec<_> = names
            .iter()
            .filter(|name| name.starts_with("tower_memory_"))
            .collect();
        assert!(!names.is_empty(), "{query}");
        for name in names {
            let labels = exposed
                .get(name)
                .unwrap_or_else(|| panic!("{name} in {query}"));
            // Of `by (..)` and of selectors.
            let mut asked = Vec::new();
            for part in query.split("by (").skip(1) {
                asked.extend(words(part.split(')').next().unwrap()));
            }
            for part in query.split('{').skip(1) {
                asked.extend(words(part.split(['=', '!']).next().unwrap()));
            }
            for label in asked.iter().filter(|label| !label.is_empty()) {
                assert!(labels.contains(label), "{label} of {name} in {query}");
            }
            used.insert(name.to_owned());
        }
    }
    // What is exposed by route is shown.
    for (name, labels) in &exposed {
        let base = name
            .trim_end_matches("_bucket")
            .trim_end_matches("_sum")
            .trim_end_matches("_count");
        let shown = used.iter().any(|used| used.starts_with(base));
        assert!(
            shown || !labels.contains("route"),
            "{name} is not in the dashboard"
        );
    }
}

#[tokio::test]
async fn hostile_route_names_stay_names() {
    let long = "x".repeat(10 << 10);
    let hostile = [
        "/\"quoted\"",
        "/back\\slash\\",
        "/two\nlines\r\nx-injected: 1",
        "/{}= ,\t\u{0}\u{7f}",
        "/f\u{fc}r \u{1f600}",
        "} 1\n# EOF\ntower_memory_tasks 7",
        long.as_str(),
    ];
    let layer = MemoryLayer::builder()
        .expose(Expose::Always)
        .build()
        .unwrap();
    let mut service = layer.layer(service_fn(|request: Request<String>| async move {
        let scope = request.extensions().get::<RequestScope>().unwrap();
        scope.set_route(request.body());
        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
    }));
    for route in hostile {
        let response = send(&mut service, route).await;
        assert!(!response.headers().contains_key("x-injected"));
    }
    let handle = layer.handle();
    let text = scrape(&handle);
    let ends = text.split('\n').filter(|line| line.starts_with("# EOF"));
    assert_eq!(ends.count(), 1, "{text}");
    assert!(text.ends_with("\n# EOF\n"));
    let samples = samples(&text);
    let requests: Vec<_> = samples
        .iter()
        .filter(|sample| sample.0 == "tower_memory_requests_total")
        .map(|sample| (sample.1["route"].as_str(), sample.2))
        .collect();
    let expected: Vec<_> = hostile
        .iter()
        .map(|route| (&route[..route.len().min(256)], 1.0))
        .collect();
    assert_eq!(requests, expected);
    let tasks: Vec<_> = samples
        .iter()
        .filter(|sample| sample.0 == "tower_memory_tasks")
        .collect();
    assert!(tasks.len() == 2 && tasks.iter().all(|sample| sample.2 == 0.0));

    let json = serde_json::to_string(&handle.snapshot()).unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let routes = json["routes"].as_array().unwrap().iter();
    let routes: Vec<_> = routes.map(|row| row["route"].as_str().unwrap()).collect();
    assert_eq!(routes, expected.iter().map(|row| row.0).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_clients_send_is_in_no_figure() {
    let layer = MemoryLayer::builder().list_requests().build().unwrap();
    let service = layer.layer(service_fn(|_: Request<hyper::body::Incoming>| async {
        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
    }));
    let address = serve::serve(service).await;
    let mut served = 0;
    for line in [
        &b"GET /\xff\xfe\x80secret HTTP/1.1"[..],
        b"SECRET /secret?secret HTTP/1.1",
        b"GET /%ff%00secret HTTP/1.1",
    ] {
        let mut socket = TcpStream::connect(address).await.unwrap();
        let mut request = line.to_vec();
        request.extend_from_slice(
            b"\r\nhost: secret\r\nx-secret: secret\r\nconnection: close\r\n\r\n",
        );
        socket.write_all(&request).await.unwrap();
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).await.unwrap();
        // Bytes that are not UTF-8 may be refused by the server.
        served += u64::from(answer.starts_with(b"HTTP/1.1 200"));
    }
    assert!(served >= 2);
    let handle = layer.handle();
    let snapshot = handle.snapshot();
    assert_eq!(
        snapshot.routes.iter().map(|row| row.requests).sum::<u64>(),
        served
    );
    let shown = [
        scrape(&handle),
        serde_json::to_string(&snapshot).unwrap(),
        serde_json::to_string(&handle.extremes()).unwrap(),
        snapshot.to_string(),
    ];
    for text in shown {
        assert!(text.contains("{unmatched}"));
        assert!(!text.to_lowercase().contains("secret"), "{text}");
    }
}

#[tokio::test]
async fn a_scrape_is_whole_while_ten_thousand_requests_of_512_routes_are_open() {
    let layer = MemoryLayer::new();
    let mut service = layer.layer(service_fn(|request: Request<String>| async move {
        let scope = request.extensions().get::<RequestScope>().unwrap();
        scope.set_route(request.body());
        let body = futures_util::stream::pending::<Result<http_body::Frame<Bytes>, Infallible>>();
        Ok::<_, Infallible>(Response::new(StreamBody::new(body)))
    }));
    let mut open = Vec::new();
    for n in 0..10_000 {
        open.push(send(&mut service, &format!("/{}", n % 520)).await);
    }
    let handle = layer.handle();
    let in_flight = |handle: &MemoryHandle| {
        let samples = samples(&scrape(handle)).into_iter();
        let rows = samples.filter(|sample| sample.0 == "tower_memory_requests_in_flight");
        let rows: Vec<_> = rows.map(|sample| sample.2).collect();
        (rows.len(), rows.iter().sum::<f64>())
    };
    let (rows, sum) = in_flight(&handle);
    // The table has 512 routes, and one for the others.
    assert!((512..=514).contains(&rows), "{rows}");
    assert_eq!(sum, 10_000.0);
    drop(open);
    assert_eq!(in_flight(&handle), (rows, 0.0));
}
