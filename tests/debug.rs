//! The debug pages as a client sees them.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{ConnectInfo, Path},
    response::Response,
    routing::get,
};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt;
use tower::ServiceExt;
use tower_memory::{
    MemoryHandle, MemoryLayer, RequestScope, TrackingAllocator,
    debug::DebugPages,
    housekeeping::ManualClock,
    middleware::MemoryLayerBuilder,
    profile::Profile,
    trace::{self, TraceSettings},
};

#[global_allocator]
static ALLOC: TrackingAllocator = TrackingAllocator::system();

/// What a browser may be sent.
const LARGEST: usize = 60 << 10;

struct App {
    router: Router,
    handle: MemoryHandle,
    clock: ManualClock,
}

/// Routes that allocate what their path says, and the pages under `/debug`.
fn app(build: impl FnOnce(MemoryLayerBuilder) -> MemoryLayerBuilder) -> App {
    let clock = ManualClock::new();
    let builder = build(MemoryLayer::builder().clock(&clock));
    let layer = builder.build().expect("valid");
    let handle = layer.handle();
    let pages = DebugPages::new(&handle).allow(|_| true);
    let router = Router::new()
        .route("/take/{bytes}", get(take))
        .route("/label", get(label))
        .route("/arena", get(arena))
        .layer(layer)
        .nest("/debug", pages.into_router());
    App {
        router,
        handle,
        clock,
    }
}

async fn take(Path(bytes): Path<usize>) -> String {
    drop(std::hint::black_box(vec![0_u8; bytes]));
    String::new()
}

/// Sets the route to what the header says: names that a program might make of anything.
async fn label(scope: RequestScope, headers: HeaderMap) {
    let name = headers.get("x-label").map(|name| name.as_bytes().to_vec());
    scope.set_route(&String::from_utf8_lossy(&name.unwrap_or_default()));
}

async fn arena(scope: RequestScope) {
    scope.arena().alloc([0_u8; 100]);
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
}

impl App {
    async fn send(&self, request: http::request::Builder) -> Answer {
        let request = request.body(Body::empty()).expect("valid");
        let response: Response = self
            .router
            .clone()
            .oneshot(request)
            .await
            .expect("infallible");
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.expect("no error").to_bytes();
        Answer {
            status: parts.status,
            headers: parts.headers,
            text: String::from_utf8(bytes.to_vec()).expect("UTF-8"),
        }
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(Request::get(path).header("host", "localhost"))
            .await
    }
}

#[tokio::test]
async fn every_page_refuses_everybody_without_a_rule() {
    let handle = MemoryLayer::new().handle();
    let router = DebugPages::new(&handle).into_router();
    let clock = ManualClock::new();
    let app = App {
        router,
        handle,
        clock,
    };
    let others = ["/", "/nothing", "/?sort=x"];
    for path in PAGES[1..].iter().chain(&others) {
        for method in [Method::GET, Method::POST, Method::HEAD] {
            let request = Request::builder()
                .method(method)
                .uri(*path)
                .header("host", "localhost");
            let peer = ConnectInfo(SocketAddr::from(([127, 0, 0, 1], 1)));
            let answer = app.send(request.extension(peer)).await;
            assert_eq!(answer.status, 403, "{path}");
            assert!(!answer.text.contains("<"), "{path}: {}", answer.text);
        }
    }
}

#[tokio::test]
async fn loopback_needs_the_peers_address_which_a_server_tells_if_it_is_asked_to() {
    let handle = MemoryLayer::new().handle();
    let pages = DebugPages::new(&handle).allow_loopback();
    let router: Router = Router::new().nest("/debug", pages.into_router());
    for (tells, expected) in [(true, "HTTP/1.1 200"), (false, "HTTP/1.1 403")] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("free");
        let addr = listener.local_addr().expect("bound");
        let router = router.clone();
        let server = tokio::spawn(async move {
            if tells {
                let service = router.into_make_service_with_connect_info::<SocketAddr>();
                axum::serve(listener, service).await
            } else {
                axum::serve(listener, router).await
            }
        });
        for (host, expected) in [("localhost", expected), ("evil.example", "HTTP/1.1 403")] {
            let head = format!("GET /debug HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
            let answer = exchange(addr, &head).await;
            assert!(answer.starts_with(expected), "{host}: {answer}");
        }
        server.abort();
    }
}

async fn exchange(addr: SocketAddr, head: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let mut stream = tokio::net::TcpStream::connect(addr).await.expect("listens");
    stream.write_all(head.as_bytes()).await.expect("open");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("UTF-8");
    answer
}

#[tokio::test]
async fn get_is_the_only_method() {
    let app = app(|builder| builder);
    let others = [
        Method::POST,
        Method::PUT,
        Method::DELETE,
        Method::PATCH,
        Method::HEAD,
        Method::OPTIONS,
    ];
    for method in others {
        for path in PAGES.iter().chain(&["/nothing"]) {
            let request = Request::builder()
                .method(&method)
                .uri(format!("/debug{path}"));
            let answer = app.send(request.header("host", "localhost")).await;
            assert_eq!(answer.status, 405, "{method} {path}");
            assert_eq!(answer.headers["allow"], "GET");
        }
    }
}

impl Answer {
    /// The answer forbids scripts, frames, caches and other origins.
    #[track_caller]
    fn assert_protected(&self, what: &str) {
        let policies: Vec<_> = self
            .headers
            .get_all("content-security-policy")
            .iter()
            .map(|policy| policy.to_str().expect("text"))
            .collect();
        let [policy] = policies[..] else {
            panic!("{what}: {policies:?}");
        };
        assert!(
            policy.starts_with("default-src 'none'; style-src 'sha256-"),
            "{what}: {policy}"
        );
        assert!(
            policy.contains("; frame-ancestors 'none'")
                && policy.contains("; form-action 'none'")
                && policy.contains("; base-uri 'none'"),
            "{what}: {policy}"
        );
        assert!(
            !policy.contains("unsafe") && !policy.contains("script-src"),
            "{what}: {policy}"
        );
        for (name, value) in [
            ("cache-control", "no-store"),
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("referrer-policy", "no-referrer"),
            ("cross-origin-resource-policy", "same-origin"),
            ("cross-origin-opener-policy", "same-origin"),
        ] {
            let values: Vec<_> = self.headers.get_all(name).iter().collect();
            assert_eq!(values, [value], "{what}: {name}");
        }
        let content = self.headers["content-type"].to_str().expect("text");
        assert!(
            !content.starts_with("text/html") || self.status == 200,
            "{what}: a refusal is text"
        );
    }
}

/// The paths of all pages. That there are no others is what the links of the pages say.
const PAGES: [&str; 9] = [
    "",
    "/overview",
    "/requests",
    "/tasks",
    "/snapshot.json",
    "/metrics",
    "/trace",
    "/pprof/heap",
    "/pprof/allocs",
];

/// Beside these: `409`, and the recorder's and the profile's pages while they are on, in the test of those.
#[tokio::test]
async fn every_answer_forbids_scripts_frames_caches_and_other_origins() {
    let app = app(|builder| builder);
    for path in PAGES {
        let path = format!("/debug{path}");
        let is_capture = path.contains("trace") || path.contains("pprof");
        let local = |method: Method| {
            Request::builder()
                .method(method)
                .uri(&path)
                .header("host", "localhost")
        };
        let mut answers = vec![
            (None, app.send(local(Method::GET)).await),
            (Some(405), app.send(local(Method::POST)).await),
            (Some(405), app.send(local(Method::HEAD)).await),
            (
                Some(403),
                app.send(Request::get(&path).header("host", "evil.example"))
                    .await,
            ),
            (Some(403), app.send(Request::get(&path)).await),
            (
                Some(403),
                app.send(local(Method::GET).header("sec-fetch-site", "cross-site"))
                    .await,
            ),
        ];
        for query in ["x", "sort=%3Cscript%3E", "seconds=-1", "%00"] {
            let answer = app.get(&format!("{path}?{query}")).await;
            answers.push((Some(400), answer));
        }
        for (expected, answer) in answers {
            let status = answer.status.as_u16();
            match expected {
                Some(expected) => assert_eq!(status, expected, "{path}"),
                // Another test may have them on.
                None if is_capture => assert!([200, 404].contains(&status), "{path}: {status}"),
                None => assert_eq!(status, 200, "{path}"),
            }
            answer.assert_protected(&format!("{path}: {status}"));
        }
    }
    let nothing = app.get("/debug/nothing/at/all").await;
    assert_eq!(nothing.status, 404);
    nothing.assert_protected("404");
    let links = app.get("/debug/overview").await.text;
    let links = links.split_once("</nav>").expect("links").0;
    for link in links.split("href=\"./").skip(1) {
        let path = link.split(['"', '?']).next().expect("closed");
        assert!(PAGES.contains(&&*format!("/{path}")), "{path}");
    }

    // Without a rule, and with those that admit others only.
    for pages in [
        DebugPages::new(&app.handle),
        DebugPages::new(&app.handle).allow(|_| false),
        DebugPages::new(&app.handle).allow_loopback(),
    ] {
        let app = App {
            router: Router::new().nest("/debug", pages.into_router()),
            handle: app.handle.clone(),
            clock: app.clock.clone(),
        };
        for path in PAGES.iter().chain(&["/nothing"]) {
            let answer = app.get(&format!("/debug{path}")).await;
            assert_eq!(answer.status, 403, "{path}");
            answer.assert_protected(path);
        }
    }
}

#[tokio::test]
async fn a_bad_query_is_refused_and_what_was_sent_is_not_in_the_answer() {
    let app = app(|builder| builder);
    let bad = [
        "/debug?sort=<script>",
        "/debug?sort=bytes_p95&sort=route",
        "/debug?order=up",
        "/debug?from=-1",
        "/debug?from=1000001",
        "/debug?from=99999999999999999999999999",
        "/debug?from=",
        "/debug?evil=1",
        "/debug/tasks?evil",
        "/debug/snapshot.json?evil=%00",
        "/debug/metrics?evil",
    ];
    for path in bad {
        let path = path.replace('<', "%3C").replace('>', "%3E");
        let answer = app.get(&path).await;
        assert_eq!(answer.status, 400, "{path}");
        let (_, sent) = path.split_once('?').expect("a query");
        assert!(
            !answer.text.contains("evil") && !answer.text.contains(sent),
            "{}",
            answer.text
        );
        assert!(
            answer.text.ends_with('\n') && answer.text.len() < 200,
            "{}",
            answer.text
        );
    }
    // Beyond the last row there is nothing, which is no mistake.
    assert_eq!(app.get("/debug?from=1000000").await.status, 200);
}

#[tokio::test]
async fn page_json_and_metrics_show_the_same_figures_of_a_known_load() {
    let app = app(|builder| builder);
    for bytes in [1000, 2000, 4000, 64_000] {
        for _ in 0..25 {
            app.get(&format!("/take/{bytes}")).await;
        }
    }
    let page = app.get("/debug").await.text;
    let json: serde_json::Value =
        serde_json::from_str(&app.get("/debug/snapshot.json").await.text).expect("JSON");
    let metrics = app.get("/debug/metrics").await.text;
    let snapshot = app.handle.snapshot();
    let route = &snapshot.routes[0];
    let bytes = route.bytes.as_ref().expect("the allocator is installed");
    // What the router and the layer allocate is the same for each request of a route, and small.
    assert!((64_000..66_000).contains(&bytes.max), "{bytes:?}");
    assert_eq!((route.requests, bytes.count), (100, 100));

    let row = page
        .split("<tr>")
        .find(|row| row.contains("GET /take/{bytes}"))
        .expect("a row");
    let shown: Vec<u64> = row
        .split("title=\"")
        .skip(1)
        .filter_map(|part| part.split_once(" bytes")?.0.parse().ok())
        .collect();
    let arena = route.arena_bytes.as_ref().expect("closed").percentile(0.95);
    assert_eq!(
        shown,
        [
            bytes.percentile(0.5),
            bytes.percentile(0.95),
            bytes.max,
            arena
        ]
    );
    assert!(
        row.contains("<td>100</td>") && row.contains("completed 100"),
        "{row}"
    );

    let in_json = &json["routes"][0];
    assert_eq!(in_json["route"], "/take/{bytes}");
    assert_eq!(in_json["bytes"]["total"], bytes.total);
    assert_eq!(in_json["bytes"]["max"], bytes.max);
    let sum = format!(
        "tower_memory_request_allocated_bytes_sum{{method=\"GET\",route=\"/take/{{bytes}}\"}} {}.0\n",
        bytes.total
    );
    assert!(metrics.contains(&sum), "{sum}{metrics}");
}

#[tokio::test]
async fn hostile_route_names_are_text_and_the_page_stays_small() {
    let app = app(|builder| builder.max_routes(700));
    let script = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>&amp;";
    for n in 0..600 {
        let name = format!("/{n}/{script}{}", "\u{e9}<\"".repeat(3000));
        let request = Request::get("/label").header("x-label", name.as_bytes());
        app.send(request).await;
    }
    let mut seen = 0;
    for from in (0..600).step_by(40) {
        let page = app.get(&format!("/debug?sort=route&from={from}")).await;
        assert_eq!(page.status, 200);
        assert!(page.text.len() < LARGEST, "{} bytes", page.text.len());
        assert!(
            !page.text.contains("<script") && !page.text.contains("<img"),
            "{}",
            page.text
        );
        seen += page.text.matches("&lt;script&gt;alert(1)").count();
    }
    assert_eq!(seen, 600, "each route is shown on one of the pages");
    assert!(app.get("/debug/tasks").await.text.len() < LARGEST);
}

#[tokio::test]
async fn the_table_is_sorted_by_what_the_link_says() {
    let app = app(|builder| builder);
    for (name, times) in [("b", 3), ("a", 1), ("c", 2)] {
        for _ in 0..times {
            app.send(Request::get("/label").header("x-label", name))
                .await;
        }
    }
    let order = async |query: &str| {
        let page = app.get(&format!("/debug{query}")).await.text;
        let names = page.split("<code>GET ").skip(1);
        names.map(|name| name[..1].to_owned()).collect::<String>()
    };
    assert_eq!(order("?sort=requests&order=desc").await, "bca");
    assert_eq!(order("?sort=requests&order=asc").await, "acb");
    assert_eq!(order("?sort=route&order=asc").await, "abc");
    assert_eq!(order("?sort=route&order=desc").await, "cba");
    let page = app.get("/debug?sort=requests&order=asc").await.text;
    assert!(page.contains("aria-sort=\"ascending\""));
    assert!(
        page.contains("href=\"?sort=requests&amp;order=desc#routes\""),
        "again is the other way"
    );
}

#[tokio::test]
async fn the_hit_rate_of_the_pool_is_shown_by_route() {
    let app = app(|builder| builder);
    // The first one makes the arena.
    for _ in 0..8 {
        app.get("/arena").await;
    }
    app.get("/take/1").await;
    let page = app.get("/debug?sort=hits&order=desc").await.text;
    let rows: Vec<_> = page.split("<tr>").collect();
    let row = |name: &str| rows.iter().position(|row| row.contains(name)).expect(name);
    let (with, without) = (row("GET /arena<"), row("GET /take/{bytes}<"));
    assert!(rows[with].contains("<td>87.5 %</td>"), "{}", rows[with]);
    assert!(!rows[without].contains(" %"), "{}", rows[without]);
    assert!(with < without, "what is not known comes last");
}

#[tokio::test]
async fn the_plots_go_back_ten_minutes() {
    let app = app(|builder| builder);
    app.clock.advance(Duration::from_secs(900));
    let page = app.get("/debug").await.text;
    let line = page.split("class=\"line l0\" d=\"").nth(1).expect("a line");
    let path = line.split('"').next().expect("closed");
    let points = path.matches(['M', 'L']).count();
    assert!((120..=122).contains(&points), "{points} points: {path}");
    assert!(
        path.starts_with("M84 "),
        "the oldest is at the left end: {path}"
    );
    assert!(
        path.rsplit('L')
            .next()
            .is_some_and(|last| last.starts_with("644 ")),
        "{path}"
    );
    assert_eq!(page.matches("<svg").count(), 2);
}

#[tokio::test]
async fn tasks_that_outlive_their_request_are_listed_with_their_name_and_not_more_than_fit() {
    let clock = ManualClock::new();
    let layer = MemoryLayer::builder().clock(&clock).build().expect("valid");
    let handle = layer.handle();
    let stop = Arc::new(tokio::sync::Notify::new());
    let router = Router::new()
        .route(
            "/leave/{secret}",
            get({
                let stop = Arc::clone(&stop);
                move |scope: RequestScope| async move {
                    scope.detach("<audit>", async move { stop.notified().await });
                }
            }),
        )
        .layer(layer)
        .merge(DebugPages::new(&handle).allow(|_| true).into_router());
    let app = App {
        router,
        handle,
        clock,
    };
    for n in 0..12 {
        app.get(&format!("/leave/secret-{n}?token=secret")).await;
    }
    let page = app.get("/").await.text;
    assert_eq!(page.matches("<code>&lt;audit&gt;</code>").count(), 10);
    assert!(
        page.contains("The oldest 10 of 12.") && page.contains("href=\"./tasks\""),
        "{page}"
    );
    assert!(page.contains(&format!("<code>{}:", file!())), "{page}");
    let all = app.get("/tasks").await.text;
    assert_eq!(all.matches("<code>/leave/{secret}</code>").count(), 12);
    for page in [
        page,
        all,
        app.get("/snapshot.json").await.text,
        app.get("/metrics").await.text,
    ] {
        assert!(
            !page.contains("secret-") && !page.contains("token="),
            "{page}"
        );
    }
}

#[tokio::test]
async fn open_requests_and_the_largest_and_slowest_are_shown_if_they_are_listed() {
    let shown = app(|builder| builder);
    let page = shown.get("/debug").await.text;
    assert!(
        page.contains("Not listed: the layer was built without"),
        "{page}"
    );

    let listing = app(|builder| builder.list_requests());
    assert!(
        listing
            .get("/debug")
            .await
            .text
            .contains("<h2>Open requests</h2><p>None.</p>")
    );
    let mut held = Vec::new();
    for n in 0..12 {
        let path = format!("/take/{}?token=secret", 1000 * n);
        let request = Request::get(path).body(Body::empty()).expect("valid");
        held.push(
            listing
                .router
                .clone()
                .oneshot(request)
                .await
                .expect("infallible"),
        );
    }
    let page = listing.get("/debug").await.text;
    let row = "<code>GET /take/{bytes}</code>";
    let open = page.split("<h2>Open requests</h2>").nth(1).expect("a list");
    assert_eq!(open.matches(row).count(), 10);
    assert!(
        open.contains("The oldest 10 of 12.") && open.contains("./debug/requests"),
        "{open}"
    );
    let all = listing.get("/debug/requests").await.text;
    assert_eq!(all.matches(row).count(), 12);
    for request in listing.handle.requests().expect("listed") {
        assert!(
            all.contains(&format!("<td>{}</td>", request.id)),
            "{request:?}"
        );
        let bytes = request.bytes.expect("the allocator is installed");
        assert!(
            all.contains(&format!("title=\"{bytes} bytes\"")),
            "{request:?}"
        );
    }
    drop(held);
    let past = listing.get("/debug/requests").await.text;
    assert!(
        past.contains("<h2>Open requests</h2><p>None.</p>"),
        "{past}"
    );
    let largest = past
        .split("<h2>")
        .find(|part| part.starts_with("Largest"))
        .expect("a list");
    // Bytes, peak and arena of each.
    let sizes: Vec<u64> = largest
        .split("title=\"")
        .filter_map(|part| part.split_once(" bytes\"")?.0.parse().ok())
        .collect();
    assert!(sizes[0] > 11_000 && sizes[0] > sizes[3], "{sizes:?}");
    assert!((11_000..12_000).contains(&sizes[1]), "{sizes:?}");
    assert_eq!(
        largest.matches(row).count(),
        8,
        "so many are kept for a route"
    );
    assert!(past.contains("<h2>Slowest"), "{past}");
    assert!(
        !all.contains("secret") && !past.contains("secret"),
        "{past}"
    );
}

#[tokio::test]
async fn links_lead_to_the_other_pages_with_and_without_a_slash_at_the_end() {
    let app = app(|builder| builder);
    let without = app.get("/debug").await;
    assert!(
        without.text.contains("href=\"./debug/tasks\""),
        "{}",
        without.text
    );
    let other = app.get("/debug/tasks").await;
    assert!(other.text.contains("href=\"./overview\""), "{}", other.text);
    assert!(
        app.get("/debug/overview")
            .await
            .text
            .contains("href=\"./tasks\"")
    );
    assert!(
        other.text.contains("href=\"./snapshot.json\""),
        "{}",
        other.text
    );
    let pages = DebugPages::new(&app.handle).allow(|_| true);
    let app = App {
        router: Router::new().nest("/ops/", pages.into_router()),
        ..app
    };
    let with = app.get("/ops/").await;
    assert!(with.text.contains("href=\"./tasks\""), "{}", with.text);
}

/// The recorder and the profile are the process's, so this is one test.
#[tokio::test(start_paused = true)]
async fn recorder_and_profile_are_shown_while_they_are_on_and_one_at_a_time_waits() {
    let app = app(|builder| builder);
    for (path, why) in [
        (
            "/debug/trace",
            "the flight recorder is off: see TraceSettings::start\n",
        ),
        (
            "/debug/pprof/heap",
            "the allocation profile is off: see Profile::start\n",
        ),
        (
            "/debug/pprof/allocs?debug=1",
            "the allocation profile is off: see Profile::start\n",
        ),
    ] {
        let answer = app.get(path).await;
        assert_eq!((answer.status.as_u16(), answer.text.as_str()), (404, why));
        answer.assert_protected(path);
    }
    let bad = [
        "trace?seconds=-1",
        "trace?seconds=0",
        "trace?seconds=61",
        "trace?seconds=1e9",
        "trace?debug=1",
        "trace?seconds=99999999999999999999",
        "pprof/heap?seconds=",
        "pprof/allocs?debug=2",
        "pprof/heap?gc=1",
        "pprof/allocs?seconds=1&seconds=1",
    ];
    for path in bad {
        let answer = app.get(&format!("/debug/{path}")).await;
        assert_eq!(answer.status, 400, "{path}");
    }

    TraceSettings::new().start();
    Profile::start(1).expect("the allocator is installed");
    app.get("/take/50000").await;
    let json: serde_json::Value =
        serde_json::from_str(&app.get("/debug/trace").await.text).expect("JSON");
    let routes = json["traceEvents"].as_array().expect("a list").iter();
    assert!(
        routes
            .clone()
            .any(|event| event["args"]["route"] == "/take/{bytes}"),
        "{json}"
    );
    let text = app.get("/debug/pprof/allocs?debug=1").await.text;
    let (samples, bytes) = Profile::snapshot().dropped();
    let dropped = format!("{samples} samples for {bytes} bytes dropped");
    assert!(text.contains(&dropped), "{text}");
    assert!(text.contains(", route /take/{bytes}\n"), "{text}");
    for (path, name) in [("heap", "heap.pb.gz"), ("allocs", "allocs.pb.gz")] {
        let request = Request::get(format!("/debug/pprof/{path}")).header("host", "localhost");
        let request = request.body(Body::empty()).expect("valid");
        let response = app
            .router
            .clone()
            .oneshot(request)
            .await
            .expect("infallible");
        assert!(
            response.headers()["content-disposition"]
                .to_str()
                .is_ok_and(|value| value.contains(name))
        );
        let (parts, body) = response.into_parts();
        let gzipped = body.collect().await.expect("no error").to_bytes();
        let answer = Answer {
            status: parts.status,
            headers: parts.headers,
            text: String::new(),
        };
        answer.assert_protected(path);
        assert_eq!(gzipped[..2], [0x1f, 0x8b], "gzip");
    }

    // The clock is paused: five seconds pass at once, when all wait.
    let start = tokio::time::Instant::now();
    let (first, second, now) = tokio::join!(
        app.get("/debug/trace?seconds=5"),
        app.get("/debug/pprof/allocs?seconds=5"),
        app.get("/debug/trace"),
    );
    assert_eq!(first.status, 200);
    assert_eq!(
        (
            second.status.as_u16(),
            second.headers["retry-after"].as_bytes()
        ),
        (409, &b"5"[..])
    );
    assert_eq!(now.status, 200, "without seconds it does not wait");
    for answer in [first, second, now] {
        answer.assert_protected("a capture");
    }
    assert!(start.elapsed() >= Duration::from_secs(5));

    // A client that goes away makes room.
    let gone = tokio::time::timeout(Duration::from_secs(1), app.get("/debug/trace?seconds=60"));
    assert!(gone.await.is_err());
    let (delta, ()) = tokio::join!(app.get("/debug/pprof/allocs?seconds=2&debug=1"), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        app.get("/take/7000").await;
    });
    assert_eq!(delta.status, 200);
    delta.assert_protected("a text");
    assert!(
        delta.text.contains(", route /take/{bytes}\n"),
        "{}",
        delta.text
    );
    let last = app.get("/debug/trace?seconds=1").await;
    trace::stop();
    Profile::stop();
    assert_eq!(last.status, 200);
}
