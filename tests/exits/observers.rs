//! Observers are called off the requests' path, in order, and with all reports or a count of the rest.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::Duration,
};

use axum::{Router, body::Body, routing::get};
use bytes::Bytes;
use futures_util::{FutureExt, stream};
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_memory::{MemoryHandle, MemoryLayer, ScopeReport, housekeeping::ManualClock};

use super::support::{Client, Http, Refused, answering, scope_of, serve};

/// The most reports that wait.
const MAX_WAITING: usize = 4096;

/// An observer that waits for the sender before each report, and counts those it has seen.
fn gated() -> (
    impl Fn(&ScopeReport) + Send + Sync,
    mpsc::Sender<()>,
    Arc<AtomicUsize>,
) {
    let (open, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let seen = Arc::new(AtomicUsize::new(0));
    let observer = {
        let seen = Arc::clone(&seen);
        move |_: &ScopeReport| {
            // An error once the sender is dropped: then all may pass.
            let _ = gate.lock().unwrap().recv();
            seen.fetch_add(1, Ordering::SeqCst);
        }
    };
    (observer, open, seen)
}

/// A layer with this observer that only its clock and flushes look after.
fn manual(observer: impl Fn(&ScopeReport) + Send + Sync + 'static) -> (MemoryLayer, ManualClock) {
    let clock = ManualClock::new();
    let layer = MemoryLayer::builder().clock(&clock).observe(observer);
    (layer.build().unwrap(), clock)
}

fn counting() -> (impl Fn(&ScopeReport) + Send + Sync, Arc<AtomicUsize>) {
    let seen = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&seen);
    (
        move |_: &ScopeReport| {
            count.fetch_add(1, Ordering::SeqCst);
        },
        seen,
    )
}

fn send(layer: &MemoryLayer, requests: usize) {
    let mut service = layer.layer(answering(Full::<Bytes>::default()));
    for _ in 0..requests {
        let response = service.call(Request::new(Empty::new()));
        drop(response.now_or_never().unwrap().unwrap());
    }
}

/// The field/34: an observer that has not returned delays neither the first byte nor the last.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_response_does_not_wait_for_an_observer() {
    let (observer, open, seen) = gated();
    let layer = MemoryLayer::builder().observe(observer).build().unwrap();
    let handle = layer.handle();
    let app = Router::new()
        .route("/full", get(async || "a short text"))
        .route(
            "/stream",
            get(async || {
                let parts =
                    ["a short", " ", "text"].map(|part| Ok::<_, Refused>(Bytes::from(part)));
                Body::from_stream(stream::iter(parts))
            }),
        )
        .layer(layer);
    let address = serve(app).await;
    for http in [Http::One, Http::Two] {
        for path in ["/full", "/stream"] {
            let mut client = Client::connect(http, address).await;
            let response = client.get(path).await.unwrap();
            let read = response.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(read, "a short text");
        }
    }
    assert_eq!(seen.load(Ordering::SeqCst), 0, "the observer waits");
    drop(open);
    while handle.snapshot().in_flight > 0 {
        tokio::task::yield_now().await;
    }
    handle.flush_observers();
    assert_eq!(seen.load(Ordering::SeqCst), 4);
}

#[test]
fn reports_come_in_the_order_in_which_scopes_closed() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (layer, clock) = manual({
        let seen = Arc::clone(&seen);
        move |report: &ScopeReport| {
            let n: usize = report.annotations[0].1.parse().unwrap();
            seen.lock().unwrap().push(n);
        }
    });
    let mut service = layer.layer(service_fn(|request: Request<usize>| {
        let scope = request.extensions().get::<tower_memory::RequestScope>();
        scope.unwrap().annotate("n", request.body());
        std::future::ready(Ok::<_, Refused>(Response::new(Full::<Bytes>::default())))
    }));
    for n in 0..1000 {
        drop(service.call(Request::new(n)).now_or_never().unwrap());
        // By the housekeeping and by flushes, in turns.
        match n {
            300 => layer.handle().flush_observers(),
            600 => clock.advance(Duration::from_millis(10)),
            _ => {}
        }
    }
    layer.handle().flush_observers();
    assert!(seen.lock().unwrap().iter().copied().eq(0..1000));
}

#[test]
fn what_does_not_fit_the_queue_is_dropped_and_counted() {
    let (observer, seen) = counting();
    let (layer, clock) = manual(observer);
    send(&layer, MAX_WAITING + 100);
    let handle = layer.handle();
    assert_eq!(handle.snapshot().dropped_reports, 100);
    assert_eq!(seen.load(Ordering::SeqCst), 0);
    clock.advance(Duration::from_secs(1));
    assert_eq!(seen.load(Ordering::SeqCst), MAX_WAITING);
    // There is room again.
    send(&layer, 10);
    handle.flush_observers();
    assert_eq!(seen.load(Ordering::SeqCst), MAX_WAITING + 10);
    assert_eq!(handle.snapshot().dropped_reports, 100);
    let counted = handle.snapshot().routes[0].outcomes.total();
    assert_eq!(counted, MAX_WAITING as u64 + 110, "statistics miss none");
}

#[test]
fn the_housekeeping_calls_observers_within_ten_milliseconds_and_again_for_later_reports() {
    let (observer, seen) = counting();
    let (layer, clock) = manual(observer);
    for round in 1..4 {
        send(&layer, 5);
        assert_eq!(seen.load(Ordering::SeqCst), 5 * (round - 1));
        clock.advance(Duration::from_millis(10));
        assert_eq!(seen.load(Ordering::SeqCst), 5 * round);
        clock.advance(Duration::from_secs(1));
    }
}

#[test]
fn the_process_calls_observers_without_a_flush_or_a_runtime() {
    let (told, tells) = mpsc::channel();
    let layer = MemoryLayer::builder()
        .observe(move |_: &ScopeReport| {
            let thread = std::thread::current();
            told.send(thread.name().map(str::to_owned)).unwrap();
        })
        .build()
        .unwrap();
    send(&layer, 1);
    let name = tells.recv_timeout(Duration::from_secs(30)).unwrap();
    assert_eq!(name.as_deref(), Some("tower-mem-hooks"));
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_and_the_end_of_the_layer_call_observers_with_what_waits() {
    let (observer, seen) = counting();
    let (layer, _clock) = manual(observer);
    send(&layer, 3);
    assert_eq!(seen.load(Ordering::SeqCst), 0);
    let report = layer.handle().shutdown(Duration::from_secs(10)).await;
    assert!(report.is_clean());
    assert_eq!(seen.load(Ordering::SeqCst), 3);

    let (observer, seen) = counting();
    let (layer, _clock) = manual(observer);
    send(&layer, 3);
    drop(layer);
    assert_eq!(seen.load(Ordering::SeqCst), 3);
}

/// A shutdown waits for a slow observer no longer than it may.
#[tokio::test]
async fn a_shutdown_does_not_wait_for_an_observer_beyond_its_limit() {
    let (observer, open, seen) = gated();
    let (layer, _clock) = manual(observer);
    send(&layer, 1);
    let report = layer.handle().shutdown(Duration::from_millis(50)).await;
    assert!(report.is_clean());
    assert_eq!(seen.load(Ordering::SeqCst), 0);
    drop(open);
    layer.handle().flush_observers();
    assert_eq!(seen.load(Ordering::SeqCst), 1);
}

#[test]
fn an_observer_that_flushes_and_serves_a_request_of_its_own_layer_does_not_wait_for_itself() {
    let handle = Arc::new(Mutex::new(None::<(MemoryHandle, MemoryLayer)>));
    let seen = Arc::new(AtomicUsize::new(0));
    let (layer, _clock) = manual({
        let (handle, seen) = (Arc::clone(&handle), Arc::clone(&seen));
        move |_: &ScopeReport| {
            let (handle, layer) = handle.lock().unwrap().clone().unwrap();
            if seen.fetch_add(1, Ordering::SeqCst) == 0 {
                send(&layer, 1);
            }
            handle.flush_observers();
        }
    });
    *handle.lock().unwrap() = Some((layer.handle(), layer.clone()));
    send(&layer, 1);
    layer.handle().flush_observers();
    assert_eq!(seen.load(Ordering::SeqCst), 2);
    // The observer owns its layer.
    handle.lock().unwrap().take();
}

/// What a service adds to a report comes with it, from any clone of the scope.
#[test]
fn annotations_come_with_the_report_and_are_not_left_to_the_next_request() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (layer, _clock) = manual({
        let seen = Arc::clone(&seen);
        move |report: &ScopeReport| seen.lock().unwrap().push(report.annotations.clone())
    });
    let service = layer.layer(service_fn(|request: Request<Empty<Bytes>>| {
        let scope = scope_of(&request);
        if request.uri().path() == "/annotated" {
            scope.annotate("user", "alice");
            scope.clone().annotate("user", "bob");
            scope.annotate("rows", 3);
        }
        std::future::ready(Ok::<_, Refused>(Response::new(Full::<Bytes>::default())))
    }));
    for path in ["/annotated", "/plain"] {
        let request = Request::get(path).body(Empty::new()).unwrap();
        drop(service.clone().oneshot(request).now_or_never().unwrap());
    }
    layer.handle().flush_observers();
    let annotated = vec![("user", "bob".to_owned()), ("rows", "3".to_owned())];
    assert_eq!(*seen.lock().unwrap(), [annotated, Vec::new()]);
}
