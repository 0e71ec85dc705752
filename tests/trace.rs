//! The flight recorder: what it records of requests, what it keeps by itself, and the format it writes.

#![expect(
    clippy::await_holding_lock,
    reason = "tests take turns, each on a runtime of its own"
)]

use std::{
    collections::BTreeMap,
    convert::Infallible,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use serde_json::Value;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_memory::{
    MemoryLayer, Outcome, RequestScope, ScopeReport, TrackingAllocator,
    middleware::MemoryLayerBuilder,
    trace::{self, IncidentKind, Poll, TraceSettings, TraceSnapshot},
};

#[global_allocator]
static ALLOC: TrackingAllocator = TrackingAllocator::system();

/// How long to wait for what must come. Only a failing test waits that long.
const BOUND: Duration = Duration::from_secs(10);

/// The recorder is the process's, so tests take turns.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until `find` finds something.
fn wait_for<T>(find: impl Fn() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = find() {
            return found;
        }
        assert!(start.elapsed() < BOUND, "it does not come");
        std::thread::yield_now();
    }
}

fn layer(build: impl FnOnce(MemoryLayerBuilder) -> MemoryLayerBuilder) -> MemoryLayer {
    build(MemoryLayer::builder()).build().expect("valid")
}

/// Sends one request, with its scope, to `handler` inside of `layer`, and reads the response.
async fn send<F: Future<Output = ()>>(layer: &MemoryLayer, handler: impl Fn(RequestScope) -> F) {
    let service = service_fn(|request: Request<()>| {
        let scope = request
            .extensions()
            .get::<RequestScope>()
            .expect("inside")
            .clone();
        let answer = handler(scope);
        async move {
            answer.await;
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"done"))))
        }
    });
    let response = layer
        .layer(service)
        .oneshot(Request::new(()))
        .await
        .expect("infallible");
    response.into_body().collect().await.expect("no error");
}

fn of_route<'a>(snapshot: &'a TraceSnapshot, route: &'a str) -> impl Iterator<Item = Poll> + 'a {
    snapshot
        .polls()
        .filter(move |poll| poll.route.as_deref() == Some(route))
}

#[tokio::test]
async fn polls_are_recorded_with_request_route_task_and_exact_bytes() {
    let _turn = turn();
    TraceSettings::new().start();
    let (sender, reports) = mpsc::channel();
    let layer = layer(|builder| {
        builder
            .route("/exact")
            .observe(move |report: &ScopeReport| {
                let _ = sender.send(report.clone());
            })
    });
    let ids = Arc::new(Mutex::new(Vec::new()));
    send(&layer, |scope| {
        let ids = Arc::clone(&ids);
        async move {
            ids.lock().unwrap().push(scope.id());
            drop(std::hint::black_box(vec![0_u8; 10_000]));
            tokio::task::yield_now().await;
            let task = scope.spawn(async { drop(std::hint::black_box(vec![0_u8; 3000])) });
            task.await.expect("no panic");
            scope.detach("audit", async {}).await.expect("no panic");
            scope.spawn_blocking(|| ()).await.expect("no panic");
        }
    })
    .await;
    layer.handle().flush_observers();
    let snapshot = trace::snapshot();
    trace::stop();

    let report = reports.try_recv().expect("closed");
    let polls: Vec<_> = of_route(&snapshot, "/exact").collect();
    let id = ids.lock().unwrap()[0];
    assert_eq!(report.id, Some(id));
    let of = |kind: &'static str| polls.iter().filter(move |poll| poll.kind == kind);
    // The call, and one poll for each time that it waits and goes on.
    assert!(of("request").count() >= 4, "{polls:?}");
    assert!(of("body").count() >= 1, "{polls:?}");
    for kind in ["request", "body", "task", "closure"] {
        assert!(
            of(kind).all(|poll| u64::from(poll.request) == id),
            "{polls:?}"
        );
    }
    let tasks: Vec<_> = of("task").chain(of("closure")).collect();
    assert!(!tasks.is_empty());
    assert!(tasks.iter().all(|poll| {
        poll.task
            .as_deref()
            .is_some_and(|task| task.starts_with(file!()))
    }));
    let detached = of("detached").next().expect("one");
    assert_eq!(
        (detached.task.as_deref(), detached.request),
        (Some("audit"), 0)
    );

    let marks = json(&snapshot);
    assert!(
        !events(&marks).any(|event| event["cat"] == "cancelled"),
        "it has completed: {marks}"
    );

    // What the account was credited with, poll by poll.
    let own = polls.iter().filter(|poll| poll.kind != "detached");
    let sum: u64 = own.map(|poll| poll.bytes.expect("installed")).sum();
    assert_eq!(
        sum,
        report.usage.expect("installed").bytes_allocated,
        "{polls:?}"
    );
    assert!(of("request").any(|poll| poll.bytes.is_some_and(|bytes| bytes >= 10_000)));
    assert!(of("task").any(|poll| {
        poll.bytes
            .is_some_and(|bytes| (3000..4000).contains(&bytes))
    }));
    assert!(
        polls
            .iter()
            .all(|poll| !poll.running && poll.duration <= poll.started_ago)
    );
}

#[tokio::test]
async fn nothing_is_recorded_before_the_start_and_after_the_stop_and_a_start_forgets() {
    let _turn = turn();
    trace::stop();
    let layer = layer(|builder| builder.route("/off"));
    send(&layer, |_| async {}).await;
    assert!(!trace::is_recording());
    assert_eq!(of_route(&trace::snapshot(), "/off").count(), 0);

    TraceSettings::new().start();
    assert!(trace::is_recording());
    send(&layer, |_| async {}).await;
    trace::stop();
    let recorded = of_route(&trace::snapshot(), "/off").count();
    assert!(recorded > 0);
    send(&layer, |_| async {}).await;
    assert_eq!(of_route(&trace::snapshot(), "/off").count(), recorded);
    TraceSettings::new().start();
    assert_eq!(of_route(&trace::snapshot(), "/off").count(), 0);
    trace::stop();
}

/// Both workers of the runtime are in a handler that does not return until the recorder has named it, so nothing of
/// the runtime can help.
#[test]
fn a_poll_that_never_ends_is_named_while_it_runs_although_all_workers_are_blocked() {
    let _turn = turn();
    TraceSettings::new()
        .slow_poll(Duration::from_millis(20))
        .start();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()
        .unwrap();
    let layer = layer(|builder| builder.route("/blocks"));
    let gate = Arc::new(Mutex::new(()));
    let closed = gate.lock().unwrap();
    let requests: Vec<_> = (0..2)
        .map(|_| {
            let (layer, gate) = (layer.clone(), Arc::clone(&gate));
            runtime.spawn(async move {
                send(&layer, |_| async { drop(gate.lock()) }).await;
            })
        })
        .collect();
    let named = wait_for(|| {
        let named: Vec<_> = trace::incidents()
            .into_iter()
            .filter(|one| one.trace.is_some())
            .collect();
        (named.len() == 2).then_some(named)
    });
    for incident in &named {
        assert_eq!(
            (incident.kind, incident.running),
            (IncidentKind::SlowPoll, true)
        );
        assert_eq!(incident.route.as_deref(), Some("/blocks"));
        assert!(
            incident
                .duration
                .is_some_and(|duration| duration >= Duration::from_millis(20))
        );
        let text = incident.to_string();
        assert!(
            text.contains("(/blocks) has blocked thread tokio-") && text.ends_with("so far"),
            "{text}"
        );
        // The recording shows the poll, which is in no ring.
        let trace = incident.trace.as_ref().expect("filtered");
        let running: Vec<_> = of_route(trace, "/blocks")
            .filter(|poll| poll.running)
            .collect();
        assert_eq!(running.len(), 2, "{running:?}");
        let json = json(trace);
        let open: Vec<_> = events(&json).filter(|event| event["ph"] == "B").collect();
        assert!(
            open.iter()
                .all(|event| event["name"] == "/blocks" && event["args"]["running"] == true)
        );
        assert_eq!(open.len(), 2);
    }
    assert_ne!(named[0].thread_id, named[1].thread_id);
    assert_ne!(named[0].request, named[1].request);

    drop(closed);
    for request in requests {
        runtime.block_on(request).expect("no panic");
    }
    let after = trace::incidents();
    trace::stop();
    assert_eq!(after.len(), 2, "a poll is told once: {after:?}");
    assert!(
        after
            .iter()
            .all(|one| !one.running && one.to_string().contains("(/blocks) blocked"))
    );
}

#[tokio::test]
async fn a_slow_poll_is_told_once_also_if_one_inside_of_it_is_slow_too() {
    let _turn = turn();
    let slow = Duration::from_millis(20);
    TraceSettings::new().slow_poll(slow).start();
    let layer = layer(|layer| layer.route("/outer"));
    let is_outer = |incident: &trace::Incident| incident.task.is_none();
    send(&layer, |scope| async move {
        // The outer poll is named while it runs, and then the inner one.
        let named = |outer: bool| {
            wait_for(|| {
                let incidents = trace::incidents();
                let mut found = incidents.iter().filter(|found| is_outer(found) == outer);
                found.next().map(|found| assert!(found.running))
            });
        };
        named(true);
        scope
            .track(async { named(false) })
            .await
            .expect("not aborted");
    })
    .await;
    trace::stop();
    let incidents = trace::incidents();
    let [outer, inner] = &incidents[..] else {
        panic!("two polls were slow: {incidents:?}");
    };
    assert!(is_outer(outer) && !is_outer(inner));
    assert!(!outer.running && !inner.running, "{outer}; {inner}");
    assert!(outer.duration >= inner.duration && inner.duration >= Some(slow));
}

#[tokio::test]
async fn a_closure_of_spawn_blocking_may_take_long() {
    let _turn = turn();
    TraceSettings::new()
        .slow_poll(Duration::from_millis(1))
        .start();
    let layer = layer(|builder| builder.route("/closure"));
    send(&layer, |scope| async move {
        scope
            .spawn_blocking(|| std::thread::sleep(Duration::from_millis(30)))
            .await
            .unwrap();
    })
    .await;
    let slow = trace::snapshot()
        .polls()
        .any(|poll| poll.kind == "closure" && poll.duration >= Duration::from_millis(30));
    let named = trace::incidents();
    trace::stop();
    assert!(slow, "it was recorded");
    assert!(!named.iter().any(|one| one.task.is_some()), "{named:?}");
}

#[tokio::test(start_paused = true)]
async fn a_deadline_is_marked_and_kept() {
    let _turn = turn();
    TraceSettings::new().deadlines().start();
    let layer = layer(|builder| builder.route("/late").timeout(Duration::from_secs(1)));
    send(&layer, |_| std::future::pending()).await;
    let kept = wait_for(|| {
        trace::incidents()
            .into_iter()
            .find(|one| one.trace.is_some())
    });
    trace::stop();
    assert_eq!(
        (kept.kind, kept.route.as_deref()),
        (IncidentKind::Deadline, Some("/late"))
    );
    assert!(
        kept.to_string().ends_with("(/late) exceeded its deadline"),
        "{kept}"
    );
    let json = json(kept.trace.as_ref().expect("filtered"));
    let mark = events(&json)
        .find(|event| event["cat"] == "cancelled")
        .expect("a mark");
    assert_eq!(mark["ph"], "i");
    assert_eq!(mark["name"], Outcome::DeadlineExceeded.as_str());
    assert_eq!(mark["args"]["route"], "/late");
}

#[tokio::test]
async fn a_request_that_allocates_much_is_kept_and_another_is_not() {
    let _turn = turn();
    TraceSettings::new().bytes(1 << 20).start();
    for (route, bytes) in [("/small", 1000), ("/large", 1 << 20)] {
        let layer = layer(|builder| builder.route(route));
        send(&layer, |_| async move {
            drop(std::hint::black_box(vec![0_u8; bytes]))
        })
        .await;
    }
    let kept = trace::incidents();
    trace::stop();
    assert_eq!(kept.len(), 1, "{kept:?}");
    assert_eq!(
        (kept[0].kind, kept[0].route.as_deref()),
        (IncidentKind::Bytes, Some("/large"))
    );
    assert!(kept[0].bytes.is_some_and(|bytes| bytes >= 1 << 20));
}

#[tokio::test]
async fn a_chunk_that_an_arena_takes_is_a_mark() {
    let _turn = turn();
    TraceSettings::new().start();
    let layer = layer(|builder| builder.route("/grows"));
    send(&layer, |scope| async move {
        scope.arena().alloc_slice_copy(&[1_u8; 100_000]);
    })
    .await;
    let snapshot = trace::snapshot();
    trace::stop();
    let json = json(&snapshot);
    let mark = events(&json)
        .find(|event| event["cat"] == "arena growth")
        .expect("a mark");
    assert!(
        mark["args"]["bytes"]
            .as_u64()
            .is_some_and(|bytes| bytes >= 100_000),
        "{mark}"
    );
    assert_eq!(mark["args"]["route"], "/grows");
}

#[tokio::test]
async fn a_poll_that_panics_is_over() {
    let _turn = turn();
    TraceSettings::new().start();
    let layer = layer(|builder| builder.route("/panics"));
    let sent = AssertUnwindSafe(send(&layer, |_| async { panic!("on purpose") }));
    assert!(sent.catch_unwind().await.is_err());
    let snapshot = trace::snapshot();
    trace::stop();
    let polls: Vec<_> = of_route(&snapshot, "/panics").collect();
    assert!(
        !polls.is_empty() && polls.iter().all(|poll| !poll.running),
        "{polls:?}"
    );
}

/// Routes with names that a text format has to take care of.
const HOSTILE: [&str; 4] = [
    "/\"quoted\"",
    "/back\\slash\n\r\t\u{0}\u{7f}\u{85}",
    "</script><b>",
    "/é\u{1f980}\u{2028}",
];

#[test]
fn the_trace_follows_the_format_while_threads_write() {
    let _turn = turn();
    TraceSettings::new().events_per_thread(256).start();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(3)
        .build()
        .unwrap();
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let loads: Vec<_> = HOSTILE
        .into_iter()
        .map(|route| {
            let stop = Arc::clone(&stop);
            runtime.spawn(async move {
                let layer = MemoryLayer::new();
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    send(&layer, |scope| async move {
                        scope.set_route(route);
                        // Inside of the request's poll.
                        scope.in_scope(|| ());
                        let inner = scope.track(async { tokio::task::yield_now().await });
                        inner.await.expect("no panic");
                        scope.spawn(async {}).await.expect("no panic");
                    })
                    .await;
                }
            })
        })
        .collect();
    let mut names = std::collections::BTreeSet::new();
    let (start, mut nested, mut rounds) = (Instant::now(), 0, 0);
    while rounds < 5 || names.len() < HOSTILE.len() || nested == 0 {
        let json = json(&trace::snapshot());
        nested += check(&json);
        let routes = events(&json).filter_map(|event| event["args"]["route"].as_str());
        // Until the handler has set its route.
        names.extend(
            routes
                .filter(|route| *route != "{unmatched}")
                .map(str::to_owned),
        );
        rounds += 1;
        assert!(start.elapsed() < BOUND, "{names:?} {nested}");
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    for load in loads {
        runtime.block_on(load).expect("no panic");
    }
    trace::stop();
    assert_eq!(names, HOSTILE.into_iter().map(str::to_owned).collect());
}

fn json(snapshot: &TraceSnapshot) -> Value {
    let mut text = Vec::new();
    snapshot.write_json(&mut text).expect("a list takes all");
    serde_json::from_slice(&text).expect("JSON")
}

fn events(json: &Value) -> impl Iterator<Item = &Value> {
    json["traceEvents"].as_array().expect("a list").iter()
}

/// Checks the trace-event format: what each phase must have, a name for each thread, and slices that are inside of
/// one another or apart. Returns how many are inside of another one.
fn check(json: &Value) -> usize {
    let mut slices: BTreeMap<u64, Vec<(u64, u64)>> = BTreeMap::new();
    let mut named = Vec::new();
    // Microseconds with three digits are exact in nanoseconds.
    let nanos = |value: &Value| (value.as_f64().expect("a time") * 1000.0).round() as u64;
    assert_eq!(json["displayTimeUnit"], "ms");
    for event in events(json) {
        let fields = event.as_object().expect("an object");
        assert!(
            event["name"].as_str().is_some_and(|name| !name.is_empty()),
            "{event}"
        );
        assert!(
            event["pid"].is_u64() && event["tid"].is_u64() && event["args"].is_object(),
            "{event}"
        );
        let tid = event["tid"].as_u64().expect("checked");
        let expected: &[&str] = match event["ph"].as_str().expect("a phase") {
            "M" => {
                assert!(event["args"]["name"].is_string(), "{event}");
                if event["name"] == "thread_name" {
                    named.push(tid);
                }
                &["ph", "name", "pid", "tid", "args"]
            }
            "X" => {
                assert!(
                    event["args"]["request"].is_u64() && event["args"]["bytes"].is_u64(),
                    "{event}"
                );
                let start = nanos(&event["ts"]);
                slices
                    .entry(tid)
                    .or_default()
                    .push((start, start + nanos(&event["dur"])));
                &["ph", "name", "cat", "pid", "tid", "ts", "dur", "args"]
            }
            "i" => {
                assert_eq!(event["s"], "t");
                &["ph", "name", "cat", "pid", "tid", "ts", "s", "args"]
            }
            "B" => &["ph", "name", "cat", "pid", "tid", "ts", "args"],
            other => panic!("no phase of ours: {other}"),
        };
        let mut found: Vec<&str> = fields.keys().map(String::as_str).collect();
        let mut expected = expected.to_vec();
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found, expected);
    }
    let mut nested = 0;
    for (tid, slices) in slices {
        assert!(named.contains(&tid), "thread {tid} has no name");
        let mut open: Vec<(u64, u64)> = Vec::new();
        for (start, end) in slices {
            open.retain(|outer| outer.1 > start || outer.1 >= end && outer.0 == start);
            assert!(
                open.iter().all(|outer| end <= outer.1),
                "{start} to {end} sticks out of {open:?}"
            );
            nested += usize::from(!open.is_empty());
            open.push((start, end));
        }
    }
    nested
}

#[tokio::test]
async fn an_inner_service_that_is_called_by_another_task_is_recorded_there() {
    let _turn = turn();
    TraceSettings::new().start();
    let inner = layer(|builder| builder.route("/inner"));
    let service = inner.layer(service_fn(|_: Request<()>| async {
        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
    }));
    let mut buffered =
        layer(|builder| builder.route("/outer")).layer(tower::buffer::Buffer::new(service, 1));
    drop(
        buffered
            .ready()
            .await
            .expect("open")
            .call(Request::new(()))
            .await
            .expect("open"),
    );
    let polls: Vec<_> = trace::snapshot().polls().collect();
    trace::stop();
    let routes: Vec<_> = polls
        .iter()
        .filter_map(|poll| poll.route.as_deref())
        .collect();
    assert!(
        routes.contains(&"/outer") || routes.contains(&"/inner"),
        "{routes:?}"
    );
    let ids: std::collections::BTreeSet<_> = polls.iter().map(|poll| poll.request).collect();
    assert_eq!(ids.len(), 1, "one request: {polls:?}");
}
