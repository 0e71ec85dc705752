//! The limit of the process, in a layer: who is admitted, answered and cancelled, and that nothing is left.
//!
//! The bytes in use are those of a closure, and what requests hold is real, with small sizes.

#[cfg(feature = "tracing")]
#[path = "support/collector.rs"]
mod collector;

use std::{
    convert::Infallible,
    future::{pending, ready},
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc,
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use tokio::sync::oneshot;
use tower::{Layer, ServiceExt, service_fn};
use tower_memory::{
    ArenaPool, ConfigError, Expose, MemoryLayer, Outcome, RequestScope, RoutePolicy,
    TrackingAllocator,
    housekeeping::ManualClock,
    limit::{LimitMode, Priority, ProcessLimit, ProcessLimitBuilder, Stage, Stages},
    middleware::{LimitContext, MemoryLayerBuilder},
};

#[cfg(feature = "tracing")]
use self::collector::Collector;

#[global_allocator]
static ALLOC: TrackingAllocator = TrackingAllocator::system();

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const LIMIT: u64 = 64 * MIB;

/// A limit whose use and clock the test sets.
struct Process {
    limit: ProcessLimit,
    used: Arc<AtomicU64>,
    clock: ManualClock,
}

impl Process {
    fn new() -> Self {
        Self::with(|builder| builder)
    }

    fn with(set: impl FnOnce(ProcessLimitBuilder) -> ProcessLimitBuilder) -> Self {
        let (used, clock) = (Arc::new(AtomicU64::new(MIB)), ManualClock::new());
        let source = {
            let used = Arc::clone(&used);
            move || Some(used.load(Relaxed))
        };
        let builder = ProcessLimit::builder()
            .bytes(LIMIT)
            .clock(&clock)
            .source(source);
        Self {
            limit: set(builder).build().unwrap(),
            used,
            clock,
        }
    }

    fn layer(&self) -> MemoryLayerBuilder {
        MemoryLayer::builder()
            .clock(&self.clock)
            .expose(Expose::Never)
            .process_limit(&self.limit)
    }

    /// The process uses so much, and the next request sees it.
    fn uses(&self, bytes: u64) {
        self.used.store(bytes, Relaxed);
        self.clock.advance(Duration::from_millis(10));
    }

    #[track_caller]
    fn is_empty(&self) {
        let snapshot = self.limit.snapshot();
        assert_eq!(
            (snapshot.reserved, snapshot.held),
            (0, Some(0)),
            "{snapshot}"
        );
    }
}

fn scope_of<B>(request: &Request<B>) -> RequestScope {
    request.extensions().get::<RequestScope>().unwrap().clone()
}

fn request(route: &str) -> Request<Empty<Bytes>> {
    Request::get(route).body(Empty::new()).unwrap()
}

type Answer = Result<Response<Full<Bytes>>, Infallible>;

/// Labels a request by its path, and has it hold as many KiB as its path says.
async fn hold(request: Request<Empty<Bytes>>) -> Answer {
    let scope = scope_of(&request);
    let path = request.uri().path().to_owned();
    scope.set_route(&path);
    let kib: usize = path.rsplit('/').next().unwrap().parse().unwrap();
    let held = vec![1_u8; kib << 10];
    tokio::task::yield_now().await;
    drop(held);
    Ok(Response::new(Full::default()))
}

#[tokio::test]
async fn what_does_not_fit_is_refused_and_what_is_smaller_still_fits() {
    let process = Process::new();
    let service = |label: &str| {
        let layer = process.layer().route(label).request_limit(LIMIT as usize);
        let service = layer.build().unwrap().layer(service_fn(hold));
        move |path: &'static str| service.clone().oneshot(request(path))
    };
    // Two layers with one limit; each learns what its route holds.
    let (large, small) = (service("/8192"), service("/16"));
    for _ in 0..3 {
        assert_eq!(large("/8192").await.unwrap().status(), 200);
        assert_eq!(small("/16").await.unwrap().status(), 200);
    }
    process.is_empty();
    // 0.90 of 64 MiB is 57.6 MiB.
    process.uses(50 * MIB);
    assert_eq!(large("/8192").await.unwrap().status(), 503);
    assert_eq!(small("/16").await.unwrap().status(), 200);
    process.uses(49 * MIB);
    assert_eq!(large("/8192").await.unwrap().status(), 200);
    let snapshot = process.limit.snapshot();
    assert_eq!(snapshot.refused, [1, 0, 0]);
    process.is_empty();
}

#[tokio::test]
async fn a_request_may_hold_an_eighth_of_the_process_unless_that_is_said() {
    let process = Process::new();
    let layer = process.layer().build().unwrap();
    let larger = process.layer().request_limit(16 << 20).build().unwrap();
    let status = |layer: &MemoryLayer, path| {
        let answered = layer.layer(service_fn(hold)).oneshot(request(path));
        async move { answered.await.unwrap().status().as_u16() }
    };
    // An eighth of 64 MiB is 8.
    assert_eq!(status(&layer, "/7168").await, 200);
    assert_eq!(status(&layer, "/9216").await, 500);
    assert_eq!(status(&larger, "/9216").await, 200);
    assert_eq!(status(&larger, "/17408").await, 500);
    let rows = layer.handle().snapshot().routes;
    let row = rows.iter().find(|row| row.route == "/9216").unwrap();
    assert_eq!(row.outcomes.get(Outcome::MemoryExceeded), 1);
    process.limit.set_bytes(2 * LIMIT).unwrap();
    assert_eq!(status(&layer, "/9216").await, 200, "an eighth of 128");
    process.is_empty();
}

#[tokio::test]
async fn observing_ends_no_request_that_holds_too_much_and_counts_it() {
    for mode in [LimitMode::Observe, LimitMode::Warn, LimitMode::Off] {
        let process = Process::with(|builder| builder.mode(mode));
        let layer = process.layer().request_limit(MIB as usize).build().unwrap();
        let call = |policy: RoutePolicy, path| {
            let service = layer.layer(policy.layer(service_fn(hold)));
            async move { service.oneshot(request(path)).await.unwrap().status() }
        };
        let tighter = RoutePolicy::new().request_limit(100 << 10);
        let looser = RoutePolicy::new().disable_request_limit();
        for (policy, path, would) in [
            (RoutePolicy::new(), "/2048", 1),
            (RoutePolicy::new(), "/512", 0),
            (tighter, "/256", 1),
            (tighter, "/64", 0),
            (looser, "/4096", 0),
        ] {
            assert_eq!(call(policy, path).await, 200, "{mode:?} {path}");
            let rows = layer.handle().snapshot().routes;
            let row = rows.iter().find(|row| row.route == path).unwrap();
            let would = if mode == LimitMode::Off { 0 } else { would };
            assert_eq!(row.would_exceed, would, "{mode:?} {path}");
            assert_eq!(
                (row.over_limit, row.outcomes.get(Outcome::Completed)),
                (0, 1)
            );
        }
        let total = if mode == LimitMode::Off { 0 } else { 2 };
        assert_eq!(process.limit.snapshot().would_exceed, total);
        process.limit.set_mode(LimitMode::Enforce);
        assert_eq!(call(RoutePolicy::new(), "/2048").await, 500);
        process.is_empty();
    }
}

#[tokio::test]
async fn a_limit_that_is_set_after_the_end_of_a_request_is_not_that_of_the_next() {
    let process = Process::with(|builder| builder.mode(LimitMode::Observe));
    let layer = process.layer().build().unwrap();
    let kept = Arc::new(Mutex::new(None));
    let keep = {
        let kept = Arc::clone(&kept);
        service_fn(move |request: Request<Empty<Bytes>>| {
            *kept.lock().unwrap() = Some(scope_of(&request));
            ready(Answer::Ok(Response::new(Full::default())))
        })
    };
    let response = layer.layer(keep).oneshot(request("/")).await.unwrap();
    response.into_body().collect().await.unwrap();
    let former = kept.lock().unwrap().take().unwrap();
    assert!(former.is_ended());
    former.apply_policy(&RoutePolicy::new().request_limit(100 << 10));
    drop(former);
    // The next request of this thread, without a limit.
    let unlimited = RoutePolicy::new().disable_request_limit();
    let next = unlimited.layer(layer.layer(service_fn(hold)));
    assert_eq!(next.oneshot(request("/512")).await.unwrap().status(), 200);
    assert_eq!(process.limit.snapshot().would_exceed, 0);
    process.is_empty();
}

#[tokio::test]
async fn a_layers_own_pool_keeps_an_eighth_of_the_process() {
    let process = Process::new();
    let layer = process.layer().build().unwrap();
    let pool = layer.handle().pool().clone();
    drop([(); 200].map(|()| pool.buf(100 << 10)));
    let waits = pool.stats().pooled_bytes as u64;
    assert!((LIMIT / 16..=LIMIT / 8).contains(&waits), "{waits}");
}

#[tokio::test]
async fn open_requests_reserve_their_routes_mean_and_hold_what_they_hold() {
    let process = Process::new();
    let layer = process.layer().route("/r").build().unwrap();
    let (release, released) = oneshot::channel::<()>();
    let released = Arc::new(Mutex::new(Some(released)));
    let service = layer.layer(service_fn(move |_: Request<Empty<Bytes>>| {
        let released = released.lock().unwrap().take();
        async move {
            let held = vec![1_u8; 2 << 20];
            if let Some(released) = released {
                released.await.unwrap();
            }
            drop(held);
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
        }
    }));
    let waiting = tokio::spawn(service.clone().oneshot(request("/")));
    tokio::task::yield_now().await;
    let snapshot = process.limit.snapshot();
    assert_eq!(
        snapshot.reserved,
        LIMIT / 64,
        "the route has no closed request"
    );
    let held = snapshot.held.unwrap();
    assert!((2 * MIB..2 * MIB + 64 * KIB).contains(&held), "{held}");
    release.send(()).unwrap();
    drop(waiting.await.unwrap());
    process.is_empty();
    let future = service.oneshot(request("/"));
    let reserved = process.limit.snapshot().reserved;
    assert_eq!(
        reserved, 0,
        "a future that was not polled has not called the layer"
    );
    drop(future);
}

/// Outside of a router the mean of all is reserved, until the label is known.
#[tokio::test]
async fn the_reservation_follows_the_label() {
    let process = Process::new();
    let layer = process.layer().build().unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let service = layer.layer(service_fn({
        let (limit, seen) = (process.limit.clone(), Arc::clone(&seen));
        move |request: Request<Empty<Bytes>>| {
            let before = limit.snapshot().reserved;
            let scope = scope_of(&request);
            let held = hold(request);
            let (limit, seen) = (limit.clone(), Arc::clone(&seen));
            async move {
                let answer = held.await;
                assert!(!scope.is_cancelled());
                seen.lock()
                    .unwrap()
                    .push((before, limit.snapshot().reserved));
                answer
            }
        }
    }));
    for path in ["/1024", "/1024", "/64", "/64", "/1024"] {
        service.clone().oneshot(request(path)).await.unwrap();
    }
    let seen = seen.lock().unwrap();
    let about = |bytes: u64, kib: u64| bytes.abs_diff(kib * KIB) < 4 * KIB;
    assert_eq!(seen[0], (LIMIT / 64, LIMIT / 64));
    assert!(about(seen[1].0, 1024) && about(seen[1].1, 1024), "{seen:?}");
    assert!(
        about(seen[3].0, (1024 + 1024 + 64) / 3) && about(seen[3].1, 64),
        "{seen:?}"
    );
    process.is_empty();
}

/// Whichever way a request ends, nothing is left.
#[tokio::test(start_paused = true)]
async fn nothing_is_left_however_a_request_ends() {
    let process = Process::new();
    let layer = process
        .layer()
        .timeout(Duration::from_secs(1))
        .build()
        .unwrap();
    let handle = layer.handle();
    type Stream = http_body_util::combinators::UnsyncBoxBody<Bytes, Infallible>;
    let full =
        |bytes: &'static [u8]| -> Stream { Full::new(Bytes::from_static(bytes)).boxed_unsync() };
    let service = layer.layer(service_fn(
        move |request: Request<Empty<Bytes>>| async move {
            let scope = scope_of(&request);
            let held = vec![1_u8; 100_000];
            let mut response = Response::new(full(b"text"));
            match request.uri().path() {
                "/error" => return Err("the service failed"),
                "/panic" => panic!("the handler panics"),
                "/late" => pending().await,
                "/cancel" => scope.cancel(),
                "/stream" => {
                    let frames =
                        futures_util::stream::pending::<Result<Frame<Bytes>, Infallible>>();
                    response = Response::new(StreamBody::new(frames).boxed_unsync());
                }
                "/task" => {
                    // Outlives the request, and works for it.
                    scope.spawn(async {
                        let kept = vec![1_u8; 1 << 20];
                        tokio::task::yield_now().await;
                        drop(kept);
                    });
                }
                "/forget" => {
                    // Never dropped, and no leak to AddressSanitizer.
                    static FORGOTTEN: Mutex<Vec<RequestScope>> = Mutex::new(Vec::new());
                    FORGOTTEN.lock().unwrap().push(scope.clone());
                }
                "/relabel" => scope.set_route("/other"),
                _ => {}
            }
            drop(held);
            Ok(response)
        },
    ));
    let send = |path: &'static str| {
        let service = service.clone();
        tokio::spawn(async move { service.oneshot(request(path)).await })
    };
    for path in [
        "/", "/error", "/panic", "/late", "/cancel", "/task", "/forget", "/relabel",
    ] {
        if let Ok(Ok(response)) = send(path).await {
            let _ = response.into_body().collect().await;
        }
        while handle.snapshot().in_flight > 0 {
            tokio::task::yield_now().await;
        }
        process.is_empty();
    }
    // Dropped by the server: the future, and an unread body.
    let waiting = send("/late");
    tokio::task::yield_now().await;
    assert!(process.limit.snapshot().reserved > 0);
    waiting.abort();
    let _ = waiting.await;
    process.is_empty();
    let stream = send("/stream").await.unwrap().unwrap();
    assert!(process.limit.snapshot().reserved > 0, "the body is open");
    drop(stream);
    process.is_empty();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let gone = service.clone();
    let limit = process.limit.clone();
    let ended = move || {
        runtime.block_on(async {
            tokio::spawn(gone.oneshot(request("/late")));
            tokio::task::yield_now().await;
        });
        assert!(limit.snapshot().reserved > 0);
        drop(runtime);
    };
    tokio::task::spawn_blocking(ended).await.unwrap();
    process.is_empty();
    assert_eq!(handle.snapshot().limit.unwrap().admitted, 11);
}

#[tokio::test]
async fn a_refusal_is_a_problem_description_and_figures_are_for_those_who_may_see_them() {
    let process = Process::new();
    let layer = |expose| {
        let layer = process.layer().expose(expose).build().unwrap();
        let service = layer.layer(service_fn(|_: Request<Empty<Bytes>>| {
            ready(Ok::<_, Infallible>(Response::new(Full::<Bytes>::default())))
        }));
        (layer.handle(), service)
    };
    let (handle, service) = layer(Expose::Never);
    process.uses(LIMIT);
    let response = service.clone().oneshot(request("/")).await.unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(
        response.headers()[header::CONTENT_TYPE],
        "application/problem+json"
    );
    let seconds: u64 = response.headers()[header::RETRY_AFTER]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!((1..=75).contains(&seconds), "{seconds}");
    let reason = response
        .extensions()
        .get::<tower_memory::cancel::CancelReason>()
        .unwrap();
    assert_eq!(*reason, Outcome::Shed);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    let expected = serde_json::json!({
        "type": "about:blank", "title": "Service Unavailable", "status": 503,
        "detail": "the server is overloaded", "durability": "transient",
    });
    assert_eq!(body, expected);
    let snapshot = handle.snapshot();
    assert_eq!(snapshot.routes[0].outcomes.get(Outcome::Shed), 1);
    assert_eq!(snapshot.in_flight, 0);

    let (_, service) = layer(Expose::Always);
    let response = service.clone().oneshot(request("/")).await.unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(
        (&body["used"], &body["limit"], &body["asked"]),
        (&LIMIT.into(), &LIMIT.into(), &(LIMIT / 64).into())
    );

    let call = Request::post("/").header("content-type", "application/grpc");
    let response = service
        .oneshot(call.body(Empty::new()).unwrap())
        .await
        .unwrap();
    assert_eq!(
        (response.status(), &response.headers()["grpc-status"]),
        (StatusCode::OK, &"14".parse().unwrap())
    );
    process.is_empty();
}

#[tokio::test]
async fn a_route_whose_smallest_request_is_larger_than_the_process_fails_for_good_and_others_run_alone()
 {
    let process = Process::new();
    // Set later: other tests of the process hold some, too.
    process.limit.set_bytes(4 * MIB).unwrap();
    let service = |label: &str| {
        let layer = process.layer().route(label).build().unwrap();
        let unlimited = RoutePolicy::new().disable_request_limit();
        let service = layer.layer(unlimited.layer(service_fn(hold)));
        move |path: &'static str| service.clone().oneshot(request(path))
    };
    process.uses(MIB);
    let (huge, large) = (service("/8192"), service("/large"));
    assert_eq!(
        huge("/8192").await.unwrap().status(),
        200,
        "its route has no closed request"
    );
    let response = huge("/8192").await.unwrap();
    assert_eq!(response.status(), 500);
    assert!(!response.headers().contains_key("retry-after"));
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert!(
        String::from_utf8_lossy(&body).contains("\"durability\":\"permanent\""),
        "{body:?}"
    );
    assert_eq!(process.limit.snapshot().refused, [0, 0, 1]);
    let _ = large("/16").await;
    process.is_empty();

    // Its mean is larger than the process, its smallest request is not.
    let layer = process.layer().route("/r").build().unwrap();
    let unlimited = RoutePolicy::new().disable_request_limit();
    let mixed = layer.layer(
        unlimited.layer(service_fn(|request: Request<Empty<Bytes>>| {
            let kib: usize = request.uri().path()[1..].parse().unwrap();
            let held = vec![1_u8; kib << 10];
            async move {
                tokio::task::yield_now().await;
                drop(held);
                Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
            }
        })),
    );
    for path in ["/16", "/9000", "/9000", "/16"] {
        let status = mixed.clone().oneshot(request(path)).await.unwrap().status();
        assert_eq!(status, 200, "admitted alone");
    }
    let first = tokio::spawn(mixed.clone().oneshot(request("/16")));
    tokio::task::yield_now().await;
    let second = mixed
        .clone()
        .oneshot(request("/16"))
        .await
        .unwrap()
        .status();
    first.await.unwrap().unwrap();
    assert_eq!(second, 503, "not beside another one");
    process.is_empty();
}

#[tokio::test]
async fn the_request_that_holds_the_most_is_cancelled_and_answered_before_the_head() {
    let process = Process::new();
    let layer = process.layer().route("/r").build().unwrap();
    let handle = layer.handle();
    let dropped = Arc::new(AtomicU64::new(0));
    struct Guard(Arc<AtomicU64>);
    impl Drop for Guard {
        fn drop(&mut self) {
            self.0.fetch_add(1, Relaxed);
        }
    }
    let service = layer.layer(service_fn({
        let dropped = Arc::clone(&dropped);
        move |request: Request<Empty<Bytes>>| {
            let guard = Guard(Arc::clone(&dropped));
            let mib: usize = request.uri().path()[1..].parse().unwrap();
            async move {
                let held = vec![1_u8; mib << 20];
                pending::<()>().await;
                drop((held, guard));
                Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
            }
        }
    }));
    let send = |path| tokio::spawn(service.clone().oneshot(request(path)));
    let (small, large) = (send("/2"), send("/5"));
    tokio::task::yield_now().await;
    assert_eq!(process.limit.snapshot().stage, Stage::Normal);
    process.uses(LIMIT + 1);
    // Whoever looks: a request, or the housekeeping.
    let _ = process.limit.pressure();
    let response = large.await.unwrap().unwrap();
    assert_eq!(response.status(), 503);
    assert!(response.headers().contains_key("retry-after"));
    assert_eq!(dropped.load(Relaxed), 1, "its handler");
    let reason = response
        .extensions()
        .get::<tower_memory::cancel::CancelReason>()
        .unwrap();
    assert_eq!(*reason, Outcome::MemoryPressure);
    drop(response);
    process.uses(MIB);
    let _ = process.limit.pressure();
    assert!(!small.is_finished());
    small.abort();
    let _ = small.await;
    let snapshot = handle.snapshot();
    assert_eq!(snapshot.routes[0].outcomes.get(Outcome::MemoryPressure), 1);
    assert_eq!(snapshot.limit.unwrap().cancelled, 1);
    process.is_empty();
}

#[tokio::test]
async fn the_body_of_a_request_that_is_cancelled_after_its_head_fails() {
    for grpc in [false, true] {
        let process = Process::new();
        let layer = process.layer().route("/r").build().unwrap();
        let service = layer.layer(service_fn(move |_: Request<Empty<Bytes>>| async move {
            let held = vec![1_u8; 5 << 20];
            let frames = futures_util::stream::once(async move {
                pending::<()>().await;
                drop(held);
                Ok::<_, Infallible>(Frame::data(Bytes::new()))
            });
            let mut response = Response::new(StreamBody::new(frames));
            if grpc {
                let kind = "application/grpc".parse().unwrap();
                response.headers_mut().insert(header::CONTENT_TYPE, kind);
            }
            Ok::<_, Infallible>(response)
        }));
        let mut call = request("/");
        if grpc {
            call.headers_mut()
                .insert(header::CONTENT_TYPE, "application/grpc".parse().unwrap());
            *call.method_mut() = http::Method::POST;
        }
        let response = service.oneshot(call).await.unwrap();
        let reading = tokio::spawn(async move {
            let mut body = Box::pin(response.into_body());
            body.frame().await
        });
        tokio::task::yield_now().await;
        process.uses(LIMIT + 1);
        let _ = process.limit.pressure();
        let frame = reading.await.unwrap().unwrap();
        if grpc {
            let trailers = frame.unwrap().into_trailers().unwrap();
            assert_eq!(trailers["grpc-status"], "14");
        } else {
            let error = frame.unwrap_err();
            assert_eq!(
                error.to_string(),
                "the request was cancelled to free memory"
            );
        }
        process.is_empty();
    }
}

#[tokio::test]
async fn the_next_one_is_cancelled_while_the_first_takes_its_time_to_end() {
    for mode in [LimitMode::Enforce, LimitMode::Observe] {
        let process = Process::with(|builder| builder.mode(mode));
        let layer = process.layer().route("/r").build().unwrap();
        let handle = layer.handle();
        let service = layer.layer(service_fn(|request: Request<Empty<Bytes>>| async move {
            let mib: usize = request.uri().path()[1..].parse().unwrap();
            // A task that ignores the end keeps the memory, and the request open, for its grace period.
            let held = vec![1_u8; mib << 20];
            let _ignores = scope_of(&request).spawn(async move {
                pending::<()>().await;
                drop(held);
            });
            pending::<()>().await;
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
        }));
        let sent =
            ["/2", "/7", "/5"].map(|path| tokio::spawn(service.clone().oneshot(request(path))));
        tokio::task::yield_now().await;
        let counts = || {
            let snapshot = process.limit.snapshot();
            let routes = handle.snapshot().routes;
            let of_route = routes[0].would_cancel;
            (snapshot.cancelled, snapshot.would_cancel, of_route)
        };
        for expected in [1, 2, 3, 3, 3] {
            process.uses(LIMIT + 1);
            let _ = process.limit.pressure();
            tokio::task::yield_now().await;
            let expected = match mode {
                LimitMode::Enforce => (expected, 0, 0),
                _ => (0, expected, expected),
            };
            assert_eq!(counts(), expected);
        }
        for sent in sent {
            sent.abort();
            let _ = sent.await;
        }
        assert_eq!(handle.snapshot().in_flight, 3, "their tasks");
    }
}

#[tokio::test]
async fn the_body_of_a_request_that_is_cancelled_while_its_handler_answers_is_taken_away() {
    let process = Process::new();
    let layer = process.layer().build().unwrap();
    let (told, dropped) = mpsc::channel();
    let told = Mutex::new(Some(Told(told)));
    let service = layer.layer(service_fn(|_: Request<Empty<Bytes>>| {
        let told = told.lock().unwrap().take();
        let process = &process;
        async move {
            let held = vec![1_u8; 5 << 20];
            tokio::task::yield_now().await;
            process.uses(LIMIT + 1);
            let _ = process.limit.pressure();
            assert_eq!(process.limit.snapshot().cancelled, 1, "this one");
            let frames = futures_util::stream::once(async move {
                pending::<()>().await;
                drop((held, told));
                Ok::<_, Infallible>(Frame::data(Bytes::new()))
            });
            Ok::<_, Infallible>(Response::new(StreamBody::new(frames)))
        }
    }));
    // The server keeps the body, and does not poll it. Other requests have the process look again.
    let kept = service.oneshot(request("/")).await.unwrap();
    process.uses(LIMIT + 2);
    let _ = process.limit.pressure();
    dropped.recv_timeout(Duration::from_secs(10)).unwrap();
    // The request closes after the drop, on the thread that drops.
    while layer.handle().snapshot().in_flight > 0 {
        std::thread::yield_now();
    }
    process.is_empty();
    drop(kept);
}

#[tokio::test]
async fn a_limit_that_is_lowered_leaves_nothing_reserved_by_the_former_one() {
    let process = Process::with(|builder| builder.bytes(1 << 36));
    let service = process.layer().build().unwrap().layer(service_fn(hold));
    let send = async || {
        process.uses(MIB);
        let response = service.clone().oneshot(request("/r/4")).await.unwrap();
        response.status()
    };
    for limit in [1 << 36, 16 * MIB, 2 * MIB] {
        // A thread reserves a small part of the limit in advance, which is more than all of the next limit.
        process.limit.set_bytes(limit).unwrap();
        for _ in 0..5 {
            assert_eq!(send().await, StatusCode::OK, "{}", process.limit.snapshot());
        }
        process.is_empty();
    }
}

/// Tells when it is dropped.
struct Told(mpsc::Sender<()>);

impl Drop for Told {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_nothing_polls_is_taken_from_its_server_when_its_request_is_cancelled() {
    for exact in [false, true] {
        let process = Process::new();
        let layer = process.layer().route("/r").build().unwrap();
        let (told, dropped) = mpsc::channel();
        let held = Mutex::new(Some((vec![1_u8; 5 << 20], Told(told))));
        let service = layer.layer(service_fn(|_: Request<Empty<Bytes>>| {
            let held = held.lock().unwrap().take();
            async move {
                // Seen when the first section ends.
                let own = vec![1_u8; 5 << 20];
                tokio::task::yield_now().await;
                let frames = futures_util::stream::repeat_with(move || {
                    let _kept = (&held, &own);
                    Ok::<_, Infallible>(Frame::data(Bytes::from_static(&[7; 1000])))
                });
                let mut response = Response::new(StreamBody::new(frames));
                if exact {
                    let length = header::HeaderValue::from_static("1000000000");
                    response
                        .headers_mut()
                        .insert(header::CONTENT_LENGTH, length);
                }
                Ok::<_, Infallible>(response)
            }
        }));
        let response = service.oneshot(request("/")).await.unwrap();
        let mut body = Box::pin(response.into_body());
        for _ in 0..3 {
            assert_eq!(
                body.frame()
                    .await
                    .unwrap()
                    .unwrap()
                    .into_data()
                    .unwrap()
                    .len(),
                1000
            );
        }
        process.uses(LIMIT + 1);
        let _ = process.limit.pressure();
        tokio::time::sleep(Duration::from_millis(200)).await;
        // On the thread for hooks, although the body is not polled.
        dropped.recv_timeout(Duration::from_secs(20)).unwrap();
        let error = body.frame().await.unwrap().unwrap_err();
        assert_eq!(
            error.to_string(),
            "the request was cancelled to free memory"
        );
        assert!(body.frame().await.is_none());
        let row = &layer.handle().snapshot().routes[0];
        assert_eq!(row.outcomes.get(Outcome::MemoryPressure), 1);
        process.is_empty();
    }
}

#[tokio::test(start_paused = true)]
async fn idle_bodies_have_down_to_a_quarter_of_their_time_while_memory_is_tight() {
    // Used, the time in seconds at which a body is still open, and one at which it has ended.
    for (percent, open, ended) in [
        (50, 39.9, 40.2),
        (79, 39.9, 40.2),
        (97, 9.9, 10.3),
        (98, 9.9, 10.3),
    ] {
        let process = Process::new();
        let idle = Duration::from_secs(40);
        let layer = process.layer().body_idle_timeout(idle).build().unwrap();
        let service = layer.layer(service_fn(|_: Request<Empty<Bytes>>| {
            let body = StreamBody::new(futures_util::stream::pending::<
                Result<Frame<Bytes>, Infallible>,
            >());
            ready(Ok::<_, Infallible>(Response::new(body)))
        }));
        let response = service.oneshot(request("/")).await.unwrap();
        process.uses(LIMIT / 100 * percent + LIMIT / 1000);
        let _ = process.limit.pressure();
        let in_flight = || layer.handle().snapshot().in_flight;
        tokio::time::sleep(Duration::from_secs_f64(open)).await;
        assert_eq!(in_flight(), 1, "{percent} % after {open} s");
        tokio::time::sleep(Duration::from_secs_f64(ended - open)).await;
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while in_flight() > 0 {
            assert!(
                std::time::Instant::now() < deadline,
                "{percent} % after {ended} s"
            );
            std::thread::yield_now();
        }
        let error = Box::pin(response.into_body())
            .frame()
            .await
            .unwrap()
            .unwrap_err();
        assert!(error.to_string().contains("idle"), "{error}");
        process.is_empty();
    }
}

#[tokio::test]
async fn a_held_connection_that_holds_too_much_is_dropped() {
    for (over_budget, outcome) in [
        (false, Outcome::MemoryPressure),
        (true, Outcome::MemoryExceeded),
    ] {
        let process = Process::new();
        let budget = if over_budget { 4 << 20 } else { 32 << 20 };
        let layer = process.layer().request_limit(budget).build().unwrap();
        let (told, dropped) = mpsc::channel();
        let told = Mutex::new(Some(Told(told)));
        let (go, gone) = oneshot::channel::<()>();
        let gone = Mutex::new(Some(gone));
        let service = layer.layer(service_fn(|request: Request<Empty<Bytes>>| {
            let (told, gone) = (told.lock().unwrap().take(), gone.lock().unwrap().take());
            let connection = async move {
                gone.unwrap().await.unwrap();
                let kept = (vec![1_u8; 5 << 20], told);
                pending::<()>().await;
                drop(kept);
            };
            tokio::spawn(scope_of(&request).hold().run(connection));
            let mut response = Response::new(Full::<Bytes>::default());
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            ready(Ok::<_, Infallible>(response))
        }));
        drop(service.oneshot(request("/")).await.unwrap());
        tokio::task::yield_now().await;
        assert_eq!(layer.handle().snapshot().in_flight, 1);
        go.send(()).unwrap();
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
        if !over_budget {
            assert!(dropped.try_recv().is_err());
            process.uses(LIMIT + 1);
            let _ = process.limit.pressure();
            tokio::task::yield_now().await;
        }
        dropped.try_recv().unwrap();
        let snapshot = layer.handle().snapshot();
        assert_eq!(
            (snapshot.in_flight, snapshot.routes[0].outcomes.get(outcome)),
            (0, 1)
        );
        process.is_empty();
    }
}

#[tokio::test]
async fn the_load_is_reported_to_those_who_may_know_it_also_with_a_refusal() {
    use tower_memory::header::ENDPOINT_LOAD_METRICS;

    let process = Process::new();
    let told = Expose::when(|request| request.headers.contains_key("x-proxy"));
    let layer = process.layer().report_load(told).build().unwrap();
    let silent = process.layer().build().unwrap();
    let unlimited = MemoryLayer::builder()
        .report_load(Expose::Always)
        .build()
        .unwrap();
    let report = |layer: &MemoryLayer, proxy: bool| {
        let mut call = request("/16");
        if proxy {
            call.headers_mut().insert("x-proxy", "1".parse().unwrap());
        }
        let answered = layer.layer(service_fn(hold)).oneshot(call);
        async move {
            let response = answered.await.unwrap();
            let report = response.headers().get(ENDPOINT_LOAD_METRICS);
            (
                response.status().as_u16(),
                report.map(|report| report.to_str().unwrap().to_owned()),
            )
        }
    };
    for (used, status, text) in [
        (
            32,
            200,
            "0.5000,mem_utilization=0.5000,named_metrics.memory_pressure=0.00",
        ),
        (
            64,
            503,
            "1.0000,mem_utilization=1.0000,named_metrics.memory_pressure=1.00",
        ),
    ] {
        process.uses(used * MIB);
        let text = format!("TEXT application_utilization={text}");
        assert_eq!(report(&layer, true).await, (status, Some(text)));
        assert_eq!(report(&layer, false).await, (status, None));
        assert_eq!(report(&silent, true).await, (status, None));
    }
    assert_eq!(
        report(&unlimited, true).await,
        (200, None),
        "without a limit there is no load"
    );
}

#[tokio::test]
async fn priorities_come_from_the_head_or_from_a_policy_around_the_layer() {
    let process = Process::new();
    let service = |layer: MemoryLayerBuilder| {
        layer
            .build()
            .unwrap()
            .layer(service_fn(|_: Request<Empty<Bytes>>| {
                ready(Ok::<_, Infallible>(Response::new(Full::<Bytes>::default())))
            }))
    };
    let by_head = service(
        process
            .layer()
            .priority_from(|request| match request.uri.path() {
                "/livez" => Priority::Critical,
                "/crawl" => Priority::Low,
                "/panic" => std::panic::resume_unwind(Box::new("the function panics")),
                _ => Priority::Normal,
            }),
    );
    let status = |path| {
        let service = by_head.clone();
        async move {
            service
                .oneshot(request(path))
                .await
                .unwrap()
                .status()
                .as_u16()
        }
    };
    process.uses(LIMIT / 100 * 80);
    let paths = ["/livez", "/", "/panic", "/crawl"];
    let mut statuses = Vec::new();
    for used in [80, 92, 98] {
        process.uses(LIMIT / 100 * used);
        for path in paths {
            statuses.push(status(path).await);
        }
    }
    assert_eq!(
        statuses,
        [200, 200, 200, 503, 200, 503, 503, 503, 503, 503, 503, 503]
    );

    let critical = RoutePolicy::new()
        .priority(Priority::Critical)
        .layer(service(process.layer()));
    process.uses(LIMIT / 100 * 50);
    process.clock.advance(Duration::from_secs(2));
    process.uses(LIMIT / 100 * 92);
    assert_eq!(critical.oneshot(request("/")).await.unwrap().status(), 200);
    process.is_empty();
}

#[tokio::test]
async fn a_response_function_is_used_and_may_panic() {
    let process = Process::new();
    let layer = process
        .layer()
        .limit_response(|exceeded: &LimitContext<'_>| {
            assert_eq!(exceeded.limit(), Some(LIMIT));
            if exceeded.scope().route() == "/panic" {
                std::panic::resume_unwind(Box::new("the function panics"));
            }
            exceeded.problem(StatusCode::TOO_MANY_REQUESTS)
        });
    process.uses(LIMIT);
    for (route, status) in [("/r", 429), ("/panic", 503)] {
        let service = layer
            .clone()
            .route(route)
            .build()
            .unwrap()
            .layer(service_fn(hold));
        let response = service.oneshot(request("/1")).await.unwrap();
        assert_eq!(response.status(), status);
        assert!(response.headers().contains_key("retry-after"));
    }
    process.is_empty();
}

#[tokio::test]
async fn what_an_open_request_sends_is_part_of_it() {
    let process = Process::new();
    let layer = process.layer().route("/r").build().unwrap();
    let inner = layer.layer(service_fn(hold));
    let outer = layer.layer(service_fn({
        let used = Arc::clone(&process.used);
        let clock = process.clock.clone();
        move |_: Request<Empty<Bytes>>| {
            let inner = inner.clone();
            used.store(LIMIT, Relaxed);
            clock.advance(Duration::from_millis(10));
            async move {
                let status = inner.oneshot(request("/16")).await?.status();
                assert_eq!(status, 200, "admitted with its parent");
                Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
            }
        }
    }));
    assert_eq!(outer.oneshot(request("/")).await.unwrap().status(), 200);
    assert_eq!(process.limit.snapshot().admitted, 1);
    process.is_empty();
}

#[tokio::test]
async fn a_pool_that_outlives_its_layer_keeps_arenas_again() {
    let process = Process::new();
    let pool = ArenaPool::builder().clock(&process.clock).build().unwrap();
    let layer = process.layer().pool(pool.clone()).build().unwrap();
    let fill = || {
        let arenas = [(); 20].map(|()| pool.rent_with_capacity(100_000));
        arenas.iter().for_each(|arena| *arena.alloc(0_u8) = 1);
        drop(arenas);
        pool.stats().pooled_bytes
    };
    let filled = fill();
    assert!(filled >= 2_000_000, "{filled}");
    process.uses(LIMIT);
    let _ = process.limit.pressure();
    process.clock.advance(Duration::from_millis(1));
    // A thread keeps what it has reserved in advance.
    assert!(fill() < 400_000, "memory is tight");
    drop(layer);
    assert!(fill() >= filled);
}

#[tokio::test]
async fn a_pool_gives_back_what_waits_stage_by_stage() {
    let process = Process::new();
    let pool = ArenaPool::builder().clock(&process.clock).build().unwrap();
    let layer = process.layer().pool(pool.clone()).build().unwrap();
    let waits = || pool.stats().pooled_bytes;
    let fill = || {
        drop(
            (0..20)
                .map(|_| {
                    let arena = pool.rent_with_capacity(100_000);
                    arena.alloc(1_u8);
                    arena
                })
                .collect::<Vec<_>>(),
        );
    };
    fill();
    let filled = waits();
    assert!(filled >= 2_000_000, "{filled}");
    process.uses(LIMIT / 100 * 75);
    let _ = process.limit.pressure();
    process.clock.advance(Duration::from_millis(10));
    assert_eq!(
        waits(),
        filled,
        "a generation has not waited for a whole interval"
    );
    process.used.store(LIMIT / 100 * 76, Relaxed);
    process.clock.advance(Duration::from_secs(1));
    assert!(waits() < 200_000, "{} wait", waits());
    fill();
    process.uses(LIMIT / 100 * 85);
    let _ = process.limit.pressure();
    process.clock.advance(Duration::from_millis(10));
    assert!(waits() < 200_000, "{} wait", waits());
    fill();
    assert!(waits() < 400_000, "and nothing is kept: {} wait", waits());
    process.uses(MIB);
    process.clock.advance(Duration::from_secs(2));
    fill();
    assert!(waits() >= filled, "{} wait again", waits());
    drop(layer);
}

#[test]
fn a_container_that_is_resized_has_another_limit_after_ten_seconds() {
    let root = std::env::temp_dir().join(format!("tower-memory-resized-{}", std::process::id()));
    let write = |path: &str, text: &str| {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("proc/self/cgroup", "0::/a\n");
    write("sys/fs/cgroup/a/memory.max", "1000000000\n");
    let clock = ManualClock::new();
    let limit = ProcessLimit::builder()
        .root(&root)
        .clock(&clock)
        .build()
        .unwrap();
    let snapshot = limit.snapshot();
    assert_eq!(
        (snapshot.limit, snapshot.limit_source),
        (900_000_000, "cgroup v2")
    );
    // While a request is open.
    let layer = MemoryLayer::builder()
        .process_limit(&limit)
        .build()
        .unwrap();
    let service = layer.layer(service_fn(|_: Request<Empty<Bytes>>| pending::<Answer>()));
    let mut open = tokio_test_task(service.oneshot(request("/")));
    assert!(open.poll());
    write("sys/fs/cgroup/a/memory.max", "500000000\n");
    clock.advance(Duration::from_secs(12));
    assert_eq!(limit.snapshot().limit, 450_000_000);
    // Below what is used: it refuses, and does not panic.
    write("sys/fs/cgroup/a/memory.max", "1\n");
    clock.advance(Duration::from_secs(12));
    assert_eq!(limit.pressure().stage, Stage::Cancel);
    std::fs::remove_dir_all(&root).unwrap();
    clock.advance(Duration::from_secs(12));
    assert_eq!(limit.snapshot().limit, 0, "the last one that was found");
    drop(open);
    clock.advance(Duration::from_secs(3));
}

/// A future that is polled by hand.
struct Polled<F>(std::pin::Pin<Box<F>>);

fn tokio_test_task<F: Future>(future: F) -> Polled<F> {
    Polled(Box::pin(future))
}

impl<F: Future> Polled<F> {
    /// Whether it is pending.
    fn poll(&mut self) -> bool {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        self.0.as_mut().poll(&mut context).is_pending()
    }
}

/// Figures that differ from one another.
#[cfg(any(feature = "prometheus", feature = "serde"))]
async fn figures() -> (Process, MemoryLayer) {
    let process = Process::new();
    let layer = process.layer().route("/r").build().unwrap();
    let status = |kib: &'static str| {
        let answered = layer.layer(service_fn(hold)).oneshot(request(kib));
        async move { answered.await.unwrap().status().as_u16() }
    };
    for _ in 0..3 {
        assert_eq!(status("/16").await, 200);
    }
    // 0.87 of the limit: in the middle of the brown-out, for three seconds.
    process.uses(LIMIT / 100 * 87);
    let _ = process.limit.pressure();
    process.clock.advance(Duration::from_secs(3));
    process.uses(LIMIT);
    assert_eq!(status("/16").await, 503);
    process.limit.set_mode(LimitMode::Observe);
    for _ in 0..2 {
        process.uses(LIMIT);
        assert_eq!(status("/16").await, 200);
    }
    process.uses(LIMIT / 2);
    (process, layer)
}

#[cfg(feature = "prometheus")]
#[tokio::test]
async fn the_limit_is_among_the_metrics() {
    let (process, layer) = figures().await;
    let mut registry = prometheus_client::registry::Registry::default();
    registry.register_collector(Box::new(layer.handle().collector()));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    let snapshot = process.limit.snapshot();
    for (line, value) in [
        ("tower_memory_limit_bytes{kind=\"limit\"}", LIMIT),
        ("tower_memory_limit_bytes{kind=\"used\"}", LIMIT / 2),
        ("tower_memory_limit_bytes{kind=\"held\"}", 0),
        ("tower_memory_limit_bytes{kind=\"base\"}", LIMIT / 2),
        ("tower_memory_limit_bytes{kind=\"reserved\"}", 0),
        ("tower_memory_limit_admitted_total", 5),
        ("tower_memory_limit_refused_total{by=\"stage\"}", 1),
        ("tower_memory_limit_refused_total{by=\"size\"}", 0),
        ("tower_memory_limit_would_total{action=\"refuse\"}", 2),
        ("tower_memory_limit_would_total{action=\"cancel\"}", 0),
        ("tower_memory_limit_cancelled_total", 0),
        ("tower_memory_limit_failed_readings_total", 0),
        ("tower_memory_limit_reclaims_total", 0),
        (
            "tower_memory_held_after_close_bytes{method=\"GET\",route=\"/16\"}",
            0,
        ),
    ] {
        assert!(
            text.contains(&format!("\n{line} {value}\n")),
            "{line} {value} in {text}"
        );
    }
    let number = |line: &str| -> f64 {
        let found = text.lines().find_map(|it| it.strip_prefix(line));
        found
            .unwrap_or_else(|| panic!("{line} in {text}"))
            .trim()
            .parse()
            .unwrap()
    };
    let browned = number("tower_memory_limit_stage_seconds_total{stage=\"brown_out\"}");
    assert!((3.0..3.1).contains(&browned), "{browned}");
    assert_eq!(browned, snapshot.stage_times[2].as_secs_f64());
    // A stage is left later than its mark is passed.
    let pressure = layer.handle().pressure().unwrap();
    let level = number("tower_memory_limit_pressure_ratio");
    assert!(level > 0.0 && level == f64::from(pressure.level), "{level}");
}

#[cfg(feature = "serde")]
#[tokio::test]
async fn the_limit_is_in_the_snapshot_and_its_json() {
    let (_process, layer) = figures().await;
    let snapshot = layer.handle().snapshot();
    let json: serde_json::Value =
        serde_json::from_str(&serde_json::to_string(&snapshot).unwrap()).unwrap();
    let limit = &json["limit"];
    for (name, value) in [
        ("limit", LIMIT),
        ("used", LIMIT / 2),
        ("base", LIMIT / 2),
        ("held", 0),
        ("reserved", 0),
        ("admitted", 5),
        ("candidates", 0),
        ("would_refuse", 2),
        ("would_exceed", 0),
    ] {
        assert_eq!(limit[name], value, "{name} in {limit}");
    }
    assert_eq!(limit["refused"]["stage"], 1);
    assert_eq!(
        (&limit["mode"], &limit["source"]),
        (&"observe".into(), &"custom".into())
    );
    let row = &json["routes"].as_array().unwrap()[0];
    assert_eq!(
        (&row["would_refuse"], &row["held_after_close"]),
        (&2.into(), &0.into())
    );
}

/// A directory in place of the system's.
struct Root(std::path::PathBuf);

impl Root {
    fn new(name: &str) -> Self {
        let name = format!("tower-memory-{name}-{}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.0.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[tokio::test]
async fn much_freed_memory_that_is_still_mapped_calls_the_reclaim_hook_each_ten_seconds() {
    let root = Root::new("reclaim");
    let resident = |mib: u64| root.write("proc/self/status", &format!("VmRSS: {} kB\n", mib << 10));
    resident(100);
    let clock = ManualClock::new();
    let calls = Arc::new(AtomicU64::new(0));
    let limit = ProcessLimit::builder()
        .bytes(1 << 30)
        .root(&root.0)
        .clock(&clock)
        .reclaim({
            let calls = Arc::clone(&calls);
            move || {
                // The first call panics, which changes nothing.
                if calls.fetch_add(1, Relaxed) == 0 {
                    std::panic::resume_unwind(Box::new("the hook panics"));
                }
            }
        })
        .build()
        .unwrap();
    let layer = MemoryLayer::builder()
        .clock(&clock)
        .process_limit(&limit)
        .build()
        .unwrap();
    // The housekeeping looks while a request is open.
    let service = layer.layer(service_fn(|_: Request<Empty<Bytes>>| pending::<Answer>()));
    let mut open = tokio_test_task(service.oneshot(request("/")));
    assert!(open.poll());
    clock.advance(Duration::from_secs(2));
    assert_eq!(calls.load(Relaxed), 0);
    // 900 MiB are mapped, and next to nothing is in use.
    resident(900);
    clock.advance(Duration::from_secs(2));
    assert_eq!(calls.load(Relaxed), 1);
    assert_eq!(layer.handle().snapshot().housekeeping_panics, 1);
    clock.advance(Duration::from_secs(5));
    assert_eq!(calls.load(Relaxed), 1, "not yet again");
    clock.advance(Duration::from_secs(7));
    assert_eq!((calls.load(Relaxed), limit.snapshot().reclaims), (2, 2));
    limit.set_mode(LimitMode::Observe);
    clock.advance(Duration::from_secs(30));
    assert_eq!(calls.load(Relaxed), 2, "observing calls nothing");
    drop(open);
}

#[cfg(feature = "tracing")]
#[tokio::test]
async fn a_stage_a_failed_source_and_another_limit_are_events_within_one_period() {
    let collector = Collector::default();
    let _collects = tracing::subscriber::set_default(collector.clone());
    let events = |of: &str| {
        let events = collector.0.lock().unwrap().clone();
        let of = events.into_iter().filter(|(_, text)| text.contains(of));
        of.map(|(level, text)| format!("{level} {text}"))
            .collect::<Vec<_>>()
    };
    let root = Root::new("events");
    root.write("proc/self/cgroup", "0::/a\n");
    root.write("sys/fs/cgroup/a/memory.max", "1000000000\n");
    let (clock, used) = (ManualClock::new(), Arc::new(AtomicU64::new(1)));
    let limit = ProcessLimit::builder()
        .root(&root.0)
        .clock(&clock)
        .source({
            let used = Arc::clone(&used);
            move || Some(used.load(Relaxed))
        })
        .build()
        .unwrap();
    let layer = MemoryLayer::builder()
        .clock(&clock)
        .process_limit(&limit)
        .build()
        .unwrap();
    let service = layer.layer(service_fn(|_: Request<Empty<Bytes>>| pending::<Answer>()));
    let mut open = tokio_test_task(service.oneshot(request("/")));
    assert!(open.poll());
    used.store(870_000_000, Relaxed);
    clock.advance(Duration::from_secs(1));
    let tighter = events("memory is tighter");
    assert_eq!(tighter.len(), 1, "{tighter:?}");
    assert!(tighter[0].starts_with("WARN"), "{tighter:?}");
    assert!(tighter[0].contains("from=normal"), "{tighter:?}");
    assert!(tighter[0].contains("used=870000000"), "{tighter:?}");
    used.store(1, Relaxed);
    clock.advance(Duration::from_secs(2));
    let calmer = events("memory is less tight");
    assert!(
        calmer
            .last()
            .is_some_and(|text| text.starts_with("INFO") && text.contains("to=normal")),
        "{calmer:?}"
    );
    used.store(0, Relaxed);
    clock.advance(Duration::from_secs(1));
    assert_eq!(events("could not be read").len(), 1);
    root.write("sys/fs/cgroup/a/memory.max", "500000000\n");
    clock.advance(Duration::from_secs(11));
    let resized = events("cgroup v2");
    assert_eq!(resized.len(), 1, "{resized:?}");
    assert!(resized[0].contains("450000000"), "{resized:?}");
    drop(open);
}

#[cfg(feature = "tracing")]
#[tokio::test]
async fn a_warning_names_the_route_once_a_minute() {
    let collector = Collector::default();
    let _collects = tracing::subscriber::set_default(collector.clone());
    let process = Process::with(|builder| builder.mode(LimitMode::Warn));
    let layer = process.layer().request_limit(MIB as usize).build().unwrap();
    let mut texts = Vec::new();
    for minutes in [0, 0, 1] {
        process.clock.advance(Duration::from_secs(60 * minutes));
        let service = layer.layer(service_fn(hold));
        service.oneshot(request("/2048")).await.unwrap();
        let events = collector.0.lock().unwrap();
        let held = events
            .iter()
            .filter(|(_, text)| text.contains("a request held more"));
        texts = held.map(|(_, text)| text.clone()).collect();
    }
    assert_eq!(texts.len(), 2, "{texts:?}");
    assert!(
        texts[0].contains("route=\"/2048\" method=\"GET\""),
        "{texts:?}"
    );
    // Nothing fits.
    process.uses(LIMIT);
    let service = layer.layer(service_fn(hold));
    service.oneshot(request("/1")).await.unwrap();
    let events = collector.0.lock().unwrap();
    let refused = events
        .iter()
        .find(|(_, text)| text.contains("would have been refused"));
    let (_, text) = refused.expect("a warning");
    assert!(text.contains("route=\"{unmatched}\""), "{text}");
}

/// As many sockets, without their clients.
#[tokio::test]
async fn a_hundred_thousand_held_connections_are_counted_and_leave_nothing() {
    const SOCKETS: usize = 100_000;
    let process = Process::with(|builder| builder.bytes(16 << 30));
    let layer = process.layer().route("/ws").build().unwrap();
    let kept = Mutex::new(Vec::with_capacity(SOCKETS));
    let service = layer.layer(service_fn(|request: Request<Empty<Bytes>>| {
        kept.lock().unwrap().push(scope_of(&request).hold());
        let mut response = Response::new(Full::<Bytes>::default());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        ready(Ok::<_, Infallible>(response))
    }));
    // A few come and go first, so that the route is known.
    for _ in 0..3 {
        drop(service.clone().oneshot(request("/")).await.unwrap());
        kept.lock().unwrap().clear();
    }
    for _ in 0..SOCKETS {
        let response = service.clone().oneshot(request("/")).await.unwrap();
        assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    }
    let snapshot = process.limit.snapshot();
    assert_eq!(layer.handle().snapshot().in_flight, SOCKETS);
    assert!(snapshot.reserved >= SOCKETS as u64, "{snapshot}");
    assert_eq!(
        (snapshot.admitted, snapshot.candidates),
        (SOCKETS as u64 + 3, 0)
    );
    let holds = std::mem::take(&mut *kept.lock().unwrap());
    holds.iter().for_each(|hold| hold.upgraded());
    drop(holds);
    assert_eq!(layer.handle().snapshot().in_flight, 0);
    process.is_empty();
}

#[test]
fn settings_that_cannot_work_are_errors() {
    let text = |builder: ProcessLimitBuilder| builder.build().unwrap_err().to_string();
    let builder = ProcessLimit::builder;
    assert_eq!(
        text(builder().bytes(0)),
        "process limit of 0 bytes is below the minimum of 1048576"
    );
    let kept = vec![1_u8; 3 << 20];
    let error = builder().bytes(2 * MIB).build().unwrap_err();
    assert!(
        matches!(error, ConfigError::LimitBelowUse { asked: 2_097_152, used, .. } if used > 3_000_000)
    );
    drop(kept);
    let stages = |trim, refuse, cancel| {
        let stages = Stages {
            trim,
            refuse,
            cancel,
            ..Stages::default()
        };
        builder().bytes(64 * LIMIT).stages(stages).build()
    };
    for (trim, refuse, cancel) in [
        (0.0, 0.97, 1.0),
        (-0.1, 0.97, 1.0),
        (0.85, 0.97, 1.0),
        (f64::NAN, 0.97, 1.0),
        (0.7, 0.97, f64::NAN),
        (0.7, 0.97, 1.01),
        (0.7, 1.0, 1.0),
        (0.7, 0.9, 1.0),
    ] {
        let error = stages(trim, refuse, cancel).unwrap_err();
        assert_eq!(
            error,
            ConfigError::StagesNotRising,
            "{trim} {refuse} {cancel}"
        );
    }
    stages(0.5, 0.95, 0.99).unwrap();
    let second = Duration::from_secs(1);
    assert_eq!(
        text(builder().bytes(LIMIT).retry_after(2 * second, second)),
        "retry_after has a minimum of 2s above its maximum of 1s"
    );
    let error = text(builder().root("/nonexistent"));
    assert!(
        error.ends_with("cgroup v2, cgroup v1, RLIMIT_DATA, RLIMIT_AS, machine"),
        "{error}"
    );
    let limit = builder().bytes(64 * LIMIT).build().unwrap();
    assert!(limit.set_bytes(MIB - 1).is_err());
    limit.set_bytes(MIB).unwrap();
    assert_eq!(limit.snapshot().limit_source, "set");
    let layer = |bytes| {
        MemoryLayer::builder()
            .process_limit(&limit)
            .request_limit(bytes)
            .build()
    };
    drop(layer(1 << 20).unwrap());
    assert_eq!(
        layer((1 << 20) + 1).unwrap_err().to_string(),
        "request_limit of 1048577 bytes exceeds the process limit of 1048576"
    );
}

#[test]
fn the_environment_sets_the_mode() {
    const INSIDE: &str = "TOWER_MEMORY_TEST_INSIDE";
    if std::env::var_os(INSIDE).is_some() {
        let limit = ProcessLimit::builder()
            .bytes(1 << 30)
            .mode(LimitMode::Warn)
            .build()
            .unwrap();
        println!("mode: {}", limit.mode().as_str());
        return;
    }
    for (word, mode) in [
        ("off", "off"),
        ("Observe", "observe"),
        ("enforce", "enforce"),
        ("on", "warn"),
        ("", "warn"),
    ] {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "the_environment_sets_the_mode", "--nocapture"])
            .env(INSIDE, "1")
            .env("TOWER_MEMORY_LIMIT", word)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            text.contains(&format!("mode: {mode}\n")),
            "{word:?}: {text}"
        );
    }
}

#[test]
fn the_heap_with_what_is_beside_it_is_what_is_used() {
    const ALONE: &str = "TOWER_MEMORY_TEST_ALONE";
    if std::env::var_os(ALONE).is_none() {
        // In a process of its own, since other tests use the heap, too.
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "the_heap_with_what_is_beside_it_is_what_is_used"])
            .env(ALONE, "1")
            .status()
            .unwrap();
        assert!(status.success());
        return;
    }
    let limit = ProcessLimit::builder().bytes(1 << 30).build().unwrap();
    let before = limit.snapshot();
    assert_eq!(before.source, Some("heap"));
    let kept = vec![1_u8; 32 << 20];
    std::thread::sleep(Duration::from_millis(6));
    let after = limit.snapshot();
    let grown = after.used.unwrap().saturating_sub(before.used.unwrap());
    assert!(grown.abs_diff(32 * MIB) < 4 * MIB, "{grown}");
    assert_eq!(after.base, after.used, "no request is open");
    drop(kept);
}

#[tokio::test]
async fn suggestions_need_a_hundred_requests_and_say_whether_all_have_fit() {
    let process = Process::with(|builder| builder.mode(LimitMode::Observe));
    let layer = process.layer().build().unwrap();
    let service = layer.layer(service_fn(hold));
    let handle = layer.handle();
    for _ in 0..99 {
        let _ = service.clone().oneshot(request("/100")).await;
    }
    let few = handle.suggest();
    assert_eq!(
        (few.routes.len(), few.unknown, few.fits),
        (0, 1, Some(true))
    );
    let _ = service.clone().oneshot(request("/100")).await;
    process.uses(LIMIT);
    let _ = service.clone().oneshot(request("/1")).await;
    let suggestions = handle.suggest();
    let [route] = &suggestions.routes[..] else {
        panic!("{suggestions}");
    };
    assert_eq!((route.requests, route.route.as_str()), (100, "/100"));
    assert!((100 * KIB..110 * KIB).contains(&route.p99), "{suggestions}");
    assert_eq!(route.request_limit, 256 * KIB);
    assert_eq!((suggestions.unknown, suggestions.fits), (1, Some(false)));
    let text = suggestions.to_string();
    assert!(
        text.ends_with("process limit 64 MiB (set): not all requests have fit"),
        "{text}"
    );
}

#[cfg(feature = "axum")]
#[tokio::test]
async fn pressure_is_an_extractor_and_none_without_a_limit() {
    use axum::{Router, body::Body, routing::get};
    use tower_memory::limit::Pressure;

    async fn stage(pressure: Option<Pressure>) -> String {
        pressure.map_or("none".to_owned(), |it| {
            format!("{} {:.2}", it.stage, it.level)
        })
    }
    let process = Process::new();
    let with = |layer: MemoryLayerBuilder| {
        let app = Router::new()
            .route("/", get(stage))
            .layer(layer.build().unwrap());
        async {
            let response = app.oneshot(Request::new(Body::empty())).await.unwrap();
            let body = response.into_body().collect().await.unwrap().to_bytes();
            String::from_utf8(body.to_vec()).unwrap()
        }
    };
    assert_eq!(with(MemoryLayer::builder()).await, "none");
    assert_eq!(with(process.layer()).await, "normal 0.00");
    process.uses(LIMIT / 1000 * 860);
    assert_eq!(with(process.layer()).await, "brown_out 0.35");
}

/// Processors are limited by tower's layers, on either side.
#[tokio::test]
async fn a_concurrency_limit_works_on_both_sides() {
    use tower::{ServiceBuilder, limit::ConcurrencyLimitLayer};

    let process = Process::new();
    let handler = || {
        service_fn(|request: Request<Empty<Bytes>>| async move {
            tokio::task::yield_now().await;
            hold(request).await
        })
    };
    let inside = ServiceBuilder::new()
        .layer(process.layer().build().unwrap())
        .layer(ConcurrencyLimitLayer::new(1))
        .service(handler());
    let outside = ServiceBuilder::new()
        .layer(ConcurrencyLimitLayer::new(1))
        .layer(process.layer().build().unwrap())
        .service(handler());
    let (a, b) = tokio::join!(
        inside.clone().oneshot(request("/1")),
        inside.oneshot(request("/1"))
    );
    assert_eq!([a.unwrap().status(), b.unwrap().status()], [200, 200]);
    let (a, b) = tokio::join!(
        outside.clone().oneshot(request("/1")),
        outside.clone().oneshot(request("/1"))
    );
    assert_eq!([a.unwrap().status(), b.unwrap().status()], [200, 200]);
    process.uses(LIMIT);
    assert_eq!(outside.oneshot(request("/1")).await.unwrap().status(), 503);
    process.is_empty();
}

/// Inside of the layer, what is shed is a request that fails. Outside, the layer never sees it.
#[tokio::test]
async fn load_is_shed_on_both_sides() {
    use tower::{ServiceBuilder, limit::ConcurrencyLimitLayer, load_shed::LoadShedLayer};

    let process = Process::new();
    let handler = || {
        service_fn(|request: Request<Empty<Bytes>>| async move {
            tokio::task::yield_now().await;
            hold(request).await
        })
    };
    let layer = || process.layer().route("/1").build().unwrap();
    let (inner, outer) = (layer(), layer());
    let inside = ServiceBuilder::new()
        .layer(inner.clone())
        .layer(LoadShedLayer::new())
        .layer(ConcurrencyLimitLayer::new(1))
        .service(handler());
    let outside = ServiceBuilder::new()
        .layer(LoadShedLayer::new())
        .layer(ConcurrencyLimitLayer::new(1))
        .layer(outer.clone())
        .service(handler());
    let (a, b) = tokio::join!(
        inside.clone().oneshot(request("/1")),
        inside.clone().oneshot(request("/1"))
    );
    assert_eq!(a.unwrap().status(), 200);
    let shed = b.unwrap_err();
    assert!(shed.is::<tower::load_shed::error::Overloaded>(), "{shed}");
    let (a, b) = tokio::join!(
        outside.clone().oneshot(request("/1")),
        outside.clone().oneshot(request("/1"))
    );
    assert_eq!(a.unwrap().status(), 200);
    let shed = b.unwrap_err();
    assert!(shed.is::<tower::load_shed::error::Overloaded>(), "{shed}");
    let outcomes = |layer: &MemoryLayer| {
        let row = layer.handle().snapshot().routes.remove(0);
        [Outcome::Completed, Outcome::ServiceError].map(|outcome| row.outcomes.get(outcome))
    };
    assert_eq!((outcomes(&inner), outcomes(&outer)), ([1, 1], [1, 0]));
    process.is_empty();
    // Memory that is tight refuses first, on both sides.
    process.uses(LIMIT);
    for service in [
        tower::util::BoxCloneService::new(inside),
        tower::util::BoxCloneService::new(outside),
    ] {
        let response = service.oneshot(request("/1")).await.unwrap();
        assert_eq!(response.status(), 503);
    }
    process.is_empty();
}

/// Each that is admitted reserves 1/64 of the limit, and those beyond the bound of routes learn together.
#[cfg(feature = "axum")]
#[tokio::test]
async fn ten_thousand_unknown_routes_at_once_reserve_no_more_than_there_is() {
    use axum::{Router, routing::get};

    const ROUTES: usize = 10_000;
    const SHARE: u64 = LIMIT / 64;

    let process = Process::new();
    let layer = process.layer().build().unwrap();
    let mut app = Router::new();
    for n in 0..ROUTES {
        app = app.route(&format!("/{n}"), get(pending::<()>));
    }
    let app = app.layer(layer.clone()).with_state(());
    let all = |routes: std::ops::Range<usize>| {
        let mut open = Vec::new();
        for n in routes {
            let mut request = tokio_test_task(app.clone().oneshot(request(&format!("/{n}"))));
            if request.poll() {
                open.push(request);
            }
        }
        open
    };
    let open = all(0..ROUTES);
    let snapshot = process.limit.snapshot();
    assert_eq!(
        (open.len(), snapshot.reserved),
        (56, 56 * SHARE),
        "1 MiB is used, and 90 % are for requests: {snapshot}"
    );
    assert_eq!(snapshot.refused, [(ROUTES - 56) as u64, 0, 0]);
    assert_eq!(layer.handle().snapshot().in_flight, 56);
    drop(open);
    process.is_empty();
    // One request of a route beyond the bound has closed: all of these are known.
    drop(all(ROUTES - 1..ROUTES));
    process.uses(MIB);
    let open = all(ROUTES / 2..ROUTES);
    let snapshot = process.limit.snapshot();
    assert!(open.len() > 1000, "{}: {snapshot}", open.len());
    assert!(snapshot.reserved < LIMIT / 10 * 9, "{snapshot}");
    drop(open);
    process.is_empty();
}
