//! `layer/`: a whole request through an axum router, without a network.

use std::{
    convert::Infallible, future::poll_fn, hint::black_box, num::NonZero, task::Poll, thread,
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    http::{Request, Response, StatusCode, Uri, header},
    response::IntoResponse,
    routing::get,
};
use http_body_util::BodyExt;
use tokio::runtime::{Builder, Runtime};
use tower::{ServiceExt, layer::util::Identity};
use tower_http::timeout::TimeoutLayer;
use tower_memory::{
    Expose, MemoryLayer, RequestScope, account,
    header::HeaderFormat,
    middleware::MemoryLayerBuilder,
    trace::{self, TraceSettings},
};

use crate::{
    clock,
    harness::{Contest, Report, Samples, Target, measure},
    sides::Side,
};

const TIMEOUT: Duration = Duration::from_secs(5);

/// Pending once. Not `yield_now`, which would also make the runtime look for input.
async fn wait_once() {
    let mut waited = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut waited, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

async fn ready() -> &'static str {
    "hello"
}

async fn pending() -> &'static str {
    wait_once().await;
    "hello"
}

pub(crate) const ITEMS: usize = 1000;

pub(crate) async fn items_on_the_heap() -> Response<Body> {
    let items: Vec<String> = (0..ITEMS)
        .map(|i| format!("item-{}", black_box(i)))
        .collect();
    let body = serde_json::to_vec(&items).expect("strings are JSON");
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

pub(crate) async fn items_in_the_arena(scope: RequestScope) -> Response<Body> {
    let arena = scope.arena();
    let mut items = arena.vec_with_capacity(ITEMS);
    for i in 0..ITEMS {
        items.push(arena.alloc_fmt(format_args!("item-{}", black_box(i))));
    }
    arena.json(&items)
}

pub(crate) async fn items_into_a_buffer(scope: RequestScope) -> Response<Body> {
    let mut body = scope.arena().buf();
    let mut separator = '[';
    for i in 0..ITEMS {
        write!(body, "{separator}\"item-{}\"", black_box(i)).expect("memory");
        separator = ',';
    }
    body.extend_from_slice(b"]");
    ([(header::CONTENT_TYPE, "application/json")], body.freeze()).into_response()
}

/// One request, and its body to the end.
async fn exchange(app: &Router, uri: &Uri) -> Response<usize> {
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = uri.clone();
    let response: Result<_, Infallible> = app.clone().oneshot(request).await;
    let (parts, body) = response.expect("infallible").into_parts();
    let bytes = body.collect().await.expect("no body fails").to_bytes();
    Response::from_parts(parts, black_box(bytes).len())
}

async fn exchanges(app: Router, uri: Uri, n: u64) {
    for _ in 0..n {
        assert_eq!(exchange(&app, &uri).await.status(), StatusCode::OK);
        // As between two requests of a connection: the task's budget starts anew.
        wait_once().await;
    }
}

/// Where the requests run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// One thread, nothing else going on: a timer has to be announced to the driver.
    CurrentThread,
    /// One thread whose driver waits for an earlier timer already, as in a busy server.
    CurrentThreadArmed,
    /// Two tasks on two workers; processor time of the process.
    TwoWorkers,
    /// A task on each of as many workers as there are cores, with one layer; processor time of the process.
    AllCores,
}

impl Place {
    const fn name(self) -> &'static str {
        match self {
            Self::CurrentThread => "current_thread",
            Self::CurrentThreadArmed => "current_thread_timer_armed",
            Self::TwoWorkers => "two_workers",
            Self::AllCores => "all_cores",
        }
    }

    /// The number of tasks, and of threads if there are several.
    fn workers(self) -> u64 {
        match self {
            Self::CurrentThread | Self::CurrentThreadArmed => 1,
            Self::TwoWorkers => 2,
            Self::AllCores => thread::available_parallelism().map_or(1, NonZero::get) as u64,
        }
    }

    fn runtime(self) -> Runtime {
        let mut builder = match self {
            Self::CurrentThread | Self::CurrentThreadArmed => Builder::new_current_thread(),
            Self::TwoWorkers | Self::AllCores => Builder::new_multi_thread(),
        };
        let runtime = builder
            .worker_threads(self.workers() as usize)
            .enable_all()
            .build()
            .expect("a runtime");
        if self == Self::CurrentThreadArmed {
            runtime.spawn(async {
                loop {
                    tokio::time::sleep(TIMEOUT / 10).await;
                }
            });
            // Parks once, so that the driver knows the timer.
            runtime.block_on(async { tokio::time::sleep(Duration::from_millis(2)).await });
        }
        runtime
    }

    fn run(self, runtime: &Runtime, app: &Router, uri: &Uri, n: u64) -> f64 {
        let task = |n| runtime.spawn(exchanges(app.clone(), uri.clone(), n));
        match self {
            Self::CurrentThread | Self::CurrentThreadArmed => {
                let start = clock::thread();
                runtime.block_on(task(n)).expect("no panic");
                clock::thread() - start
            }
            Self::TwoWorkers | Self::AllCores => {
                let workers = self.workers();
                let each = n.div_ceil(workers);
                let start = clock::process();
                let tasks: Vec<_> = (0..workers).map(|_| task(each)).collect();
                runtime.block_on(async {
                    for task in tasks {
                        task.await.expect("no panic");
                    }
                });
                (clock::process() - start) * n as f64 / (workers * each) as f64
            }
        }
    }
}

/// The router as a server calls it. Without this, axum applies the layers anew to each request.
fn served(app: Router) -> Router {
    app.with_state(())
}

struct Apps {
    bare: Router,
    identity: Router,
    timeout: Router,
    exposed: Router,
    one_field: Router,
    silent: Router,
    uri: Uri,
}

impl Apps {
    fn new(pending_once: bool) -> Self {
        let bare = Router::new()
            .route("/ready", get(ready))
            .route("/pending", get(pending));
        let ours = |expose, format| {
            let layer = MemoryLayer::builder().timeout(TIMEOUT).expose(expose);
            layer.header_format(format).build().unwrap()
        };
        let identity = bare.clone().layer(Identity::new());
        let status = StatusCode::GATEWAY_TIMEOUT;
        let timeout = bare
            .clone()
            .layer(TimeoutLayer::with_status_code(status, TIMEOUT));
        let exposed = bare
            .clone()
            .layer(ours(Expose::Always, HeaderFormat::Fields));
        let one_field = bare
            .clone()
            .layer(ours(Expose::Always, HeaderFormat::Dictionary));
        let silent = bare
            .clone()
            .layer(ours(Expose::Never, HeaderFormat::Fields));
        Self {
            bare: served(bare),
            identity: served(identity),
            timeout: served(timeout),
            exposed: served(exposed),
            one_field: served(one_field),
            silent: served(silent),
            uri: Uri::from_static(if pending_once { "/pending" } else { "/ready" }),
        }
    }

    /// That each does what it is there for.
    fn check(&self, runtime: &Runtime) {
        let headers = |app: &Router| {
            let response = runtime.block_on(exchange(app, &self.uri));
            assert_eq!((response.status(), *response.body()), (StatusCode::OK, 5));
            let names = [
                "x-alloc-bytes",
                "x-alloc-route",
                "x-arena-source",
                "memory-usage",
            ];
            names.map(|name| response.headers().contains_key(name))
        };
        assert_eq!(headers(&self.exposed), [true, true, true, false]);
        assert_eq!(headers(&self.one_field), [false, false, false, true]);
        for app in [&self.bare, &self.identity, &self.timeout, &self.silent] {
            assert_eq!(headers(app), [false; 4]);
        }
    }
}

fn added_cpu(handler: &'static str, place: Place) -> Contest {
    let name = |what: &str| format!("layer/{what}/{handler}/{}", place.name());
    Contest::new(
        [
            name("added_cpu"),
            name("added_cpu_headers_off"),
            name("request_cpu"),
            name("request_cpu_one_field"),
            name("request_cpu_headers_off"),
            name("request_cpu_bare"),
        ],
        move |report: &mut Report, [added, added_off, whole, whole_one, whole_off, whole_bare]| {
            let runtime = place.runtime();
            let apps = Apps::new(handler == "pending");
            apps.check(&runtime);
            let (runtime, apps) = (&runtime, &apps);
            let side = |label, app: &'static str| {
                let app = match app {
                    "bare" => &apps.bare,
                    "identity" => &apps.identity,
                    "timeout" => &apps.timeout,
                    "exposed" => &apps.exposed,
                    "one_field" => &apps.one_field,
                    _ => &apps.silent,
                };
                Side::new(label, move |n| place.run(runtime, app, &apps.uri, n))
            };
            let [on, one, off, timeout, identity, bare] = measure([
                side("ours", "exposed"),
                side("ours, one field", "one_field"),
                side("ours", "silent"),
                side("TimeoutLayer", "timeout"),
                side("layer(Identity)", "identity"),
                side("bare Router", "bare"),
            ]);
            report.compare_added(added, (&on, &timeout, &identity), Target::None);
            report.compare_added(added_off, (&off, &timeout, &identity), Target::None);
            // Not as a ratio: how much a timer takes depends on whether it wakes the driver.
            let most = match (place, handler) {
                (Place::CurrentThread, "ready") => [Some(420.0), Some(330.0), Some(250.0)],
                (Place::CurrentThread, _) => [None, None, Some(400.0)],
                _ => [None; 3],
            };
            for ((row, ours), most) in [(whole, &on), (whole_one, &one), (whole_off, &off)]
                .into_iter()
                .zip(most)
            {
                report.added(row, ours, &identity, most);
            }
            report.compare(whole_bare, &on, &bare, Target::None);
        },
    )
}

/// What it takes to find one of as many routes as have figures of their own.
fn routes() -> Contest {
    Contest::new(
        ["layer/request_cpu_headers_off/routes_512/current_thread".to_owned()],
        |report: &mut Report, [row]| {
            let runtime = &Place::CurrentThread.runtime();
            let uris: Vec<Uri> = (0..512)
                .map(|n| format!("/{n}").parse().expect("a path"))
                .collect();
            let router = uris.iter().fold(Router::new(), |router, uri| {
                router.route(uri.path(), get(ready))
            });
            let ours = MemoryLayer::builder().expose(Expose::Never);
            let ours = ours.max_routes(512);
            let ours = served(router.clone().layer(ours.build().expect("valid")));
            let identity = served(router.layer(Identity::new()));
            let side = |label, app, uris| {
                Side::new(label, move |n| {
                    let start = clock::thread();
                    runtime.block_on(in_turn(app, uris, n));
                    clock::thread() - start
                })
            };
            let (all, one) = (&uris[..], &uris[..1]);
            let [all_ours, all_base, one_ours, one_base] = measure([
                side("512 routes", &ours, all),
                side("512 routes, layer(Identity)", &identity, all),
                side("one route", &ours, one),
                side("one route, layer(Identity)", &identity, one),
            ]);
            let (all, one) = (all_ours.above(&all_base), one_ours.above(&one_base));
            report.added(row, &all, &one, Some(40.0));
        },
    )
}

/// Requests for `uris`, one after the other.
async fn in_turn(app: &Router, uris: &[Uri], n: u64) {
    for uri in uris.iter().cycle().take(n as usize) {
        assert_eq!(exchange(app, uri).await.status(), StatusCode::OK);
        wait_once().await;
    }
}

/// What each form of the response headers takes.
fn forms(place: Place) -> Contest {
    let forms = [
        "off",
        "fields",
        "dictionary",
        "dictionary_with_route",
        "server_timing",
    ];
    Contest::new(
        forms.map(|form| format!("layer/forms/{form}/{}", place.name())),
        move |report: &mut Report, rows| {
            let runtime = &place.runtime();
            let uri = &Uri::from_static("/ready");
            let app = |build: fn(MemoryLayerBuilder) -> MemoryLayerBuilder| {
                let layer = build(MemoryLayer::builder().expose(Expose::Always));
                let layer = layer.build().expect("valid");
                served(Router::new().route("/ready", get(ready)).layer(layer))
            };
            let apps = [
                app(|builder| builder.expose(Expose::Never)),
                app(|builder| builder),
                app(|builder| builder.header_format(HeaderFormat::Dictionary)),
                app(|builder| {
                    let builder = builder.header_format(HeaderFormat::Dictionary);
                    builder.expose_route_figures()
                }),
                app(|builder| builder.header_format(HeaderFormat::ServerTiming)),
            ];
            let identity = served(
                Router::new()
                    .route("/ready", get(ready))
                    .layer(Identity::new()),
            );
            let side = |label, app| Side::new(label, move |n| place.run(runtime, app, uri, n));
            let [off, fields, dictionary, route, timing, identity] = measure([
                side("headers off", &apps[0]),
                side("fields", &apps[1]),
                side("dictionary", &apps[2]),
                side("dictionary with the route's", &apps[3]),
                side("Server-Timing", &apps[4]),
                side("layer(Identity)", &identity),
            ]);
            for (row, form) in rows
                .iter()
                .zip([&off, &fields, &dictionary, &route, &timing])
            {
                report.compare_added(row, (form, &fields, &identity), Target::AtMost(1.0));
            }
        },
    )
}

/// What the flight recorder takes of a request.
fn recorder(handler: &'static str, place: Place) -> Contest {
    Contest::new(
        [format!("layer/recorder/{handler}/{}", place.name())],
        move |report: &mut Report, [row]| {
            let runtime = place.runtime();
            let apps = Apps::new(handler == "pending");
            let run = |n| place.run(&runtime, &apps.silent, &apps.uri, n);
            let [on, off] = measure([
                Side::new("recorder on", |n| {
                    if !trace::is_recording() {
                        TraceSettings::new().start();
                    }
                    run(n)
                }),
                Side::new("recorder off", |n| {
                    trace::stop();
                    run(n)
                }),
            ]);
            trace::stop();
            report.compare(row, &on, &off, Target::None);
        },
    )
}

/// Heap allocations, and blocks grown or shrunk, per request.
#[derive(Clone, Copy)]
struct Heap {
    allocations: f64,
    reallocations: f64,
}

impl std::fmt::Display for Heap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.2}", self.allocations)?;
        if self.reallocations > 0.0 {
            write!(f, " and {:.2} realloc", self.reallocations)?;
        }
        Ok(())
    }
}

fn heap(runtime: &Runtime, app: &Router, uri: &Uri) -> Heap {
    const N: u64 = 4096;
    let usage = || account::thread_usage().expect("the allocator is installed");
    runtime.block_on(exchanges(app.clone(), uri.clone(), 256));
    let (app, uri) = (app.clone(), uri.clone());
    let work = std::pin::pin!(exchanges(app, uri, N));
    let (before, after) = runtime.block_on(async {
        let before = usage();
        work.await;
        (before, usage())
    });
    let per_request = |from: u64, to: u64| (to - from) as f64 / N as f64;
    Heap {
        allocations: per_request(before.allocations, after.allocations),
        reallocations: per_request(before.reallocations, after.reallocations),
    }
}

fn heap_allocations(handler: &'static str) -> Contest {
    let name = |what: &str| format!("layer/heap_allocations/{handler}/{what}");
    Contest::new(
        [
            name("headers_on"),
            name("headers_off"),
            name("TimeoutLayer"),
        ],
        move |report: &mut Report, [on_row, off_row, timeout_row]| {
            let runtime = Place::CurrentThread.runtime();
            let apps = Apps::new(handler == "pending");
            apps.check(&runtime);
            let identity = heap(&runtime, &apps.identity, &apps.uri);
            for (row, app, judged) in [
                (on_row, &apps.exposed, true),
                (off_row, &apps.silent, true),
                (timeout_row, &apps.timeout, false),
            ] {
                let ours = heap(&runtime, app, &apps.uri);
                let more = ours.allocations - identity.allocations;
                report.line(
                    row,
                    &ours.to_string(),
                    &format!("{identity} (layer(Identity))"),
                    &format!("{more:+.2}"),
                    if judged { "<= +4 (DESIGN: +2)" } else { "-" },
                    // The block that header values are cut from is a fraction of an allocation.
                    judged.then_some(more < 4.5),
                );
            }
        },
    )
}

/// The route of 1000 strings: on the heap without any layer, and in the arena under ours.
fn json_route() -> Contest {
    Contest::new(
        [
            "layer/json_1000/arena.json/cpu",
            "layer/json_1000/ArenaBuf/cpu",
            "layer/json_1000/arena.json/heap_allocations",
            "layer/json_1000/ArenaBuf/heap_allocations",
        ]
        .map(str::to_owned),
        |report: &mut Report, [arena_row, buffer_row, arena_heap_row, buffer_heap_row]| {
            let place = Place::CurrentThread;
            let runtime = &place.runtime();
            let uri = Uri::from_static("/items");
            let ours = MemoryLayer::builder()
                .timeout(TIMEOUT)
                .expose(Expose::Always);
            let ours = ours.build().unwrap();
            let heap_app = Router::new()
                .route("/items", get(items_on_the_heap))
                .layer(Identity::new());
            let arena_app = Router::new()
                .route("/items", get(items_in_the_arena))
                .layer(ours.clone());
            let buffer_app = Router::new()
                .route("/items", get(items_into_a_buffer))
                .layer(ours);
            let [heap_app, arena_app, buffer_app] = [heap_app, arena_app, buffer_app].map(served);
            let length = |app: &Router| *runtime.block_on(exchange(app, &uri)).body();
            assert_eq!(length(&heap_app), length(&arena_app));
            assert_eq!(length(&heap_app), length(&buffer_app));

            let uri = &uri;
            let side = |label, app| Side::new(label, move |n| place.run(runtime, app, uri, n));
            let [arena, buffer, on_heap]: [Samples; 3] = measure([
                side("arena.json", &arena_app),
                side("ArenaBuf", &buffer_app),
                side("Vec<String>, no layer", &heap_app),
            ]);
            report.compare(arena_row, &arena, &on_heap, Target::Below(1.0));
            report.compare(buffer_row, &buffer, &on_heap, Target::Below(1.0));

            let peer = heap(runtime, &heap_app, uri);
            for (row, app) in [(arena_heap_row, &arena_app), (buffer_heap_row, &buffer_app)] {
                let ours = heap(runtime, app, uri);
                let ratio = ours.allocations / peer.allocations;
                report.line(
                    row,
                    &ours.to_string(),
                    &format!("{peer} (Vec<String>, no layer)"),
                    &format!("1/{:.1}", 1.0 / ratio),
                    "<= 1/50",
                    Some(ratio <= 1.0 / 50.0),
                );
            }
        },
    )
}

pub(crate) fn add(contests: &mut Vec<Contest>) {
    for handler in ["ready", "pending"] {
        for place in [
            Place::CurrentThread,
            Place::CurrentThreadArmed,
            Place::TwoWorkers,
            Place::AllCores,
        ] {
            contests.push(added_cpu(handler, place));
        }
        contests.push(heap_allocations(handler));
        contests.extend(
            [Place::CurrentThread, Place::TwoWorkers].map(|place| recorder(handler, place)),
        );
    }
    contests.push(routes());
    contests.extend([Place::CurrentThread, Place::TwoWorkers].map(forms));
    contests.push(json_route());
}
