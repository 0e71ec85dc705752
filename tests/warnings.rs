//! Warnings as `tracing` events. A binary of its own: the subscriber is the process's.
#![cfg(feature = "tracing")]
#![forbid(unsafe_code)]

#[path = "support/collector.rs"]
mod collector;

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use tower::{Layer, ServiceExt, service_fn};
use tower_memory::{Expose, MemoryLayer, RequestScope, RoutePolicy};
use tracing::Level;

use self::collector::Collector;

#[tokio::test(start_paused = true)]
async fn a_place_whose_tasks_outlive_their_requests_is_warned_of_once() {
    let collector = Collector::default();
    tracing::subscriber::set_global_default(collector.clone()).unwrap();
    let layer = MemoryLayer::builder()
        .expose(Expose::Never)
        .grace_period(Duration::from_secs(1))
        .route("report")
        .build()
        .unwrap();
    let handle = layer.handle();
    let lines = Arc::new(Mutex::new(Vec::new()));
    let service = layer.layer(service_fn({
        let lines = Arc::clone(&lines);
        move |request: Request<()>| {
            let scope = request.extensions().get::<RequestScope>().unwrap();
            let tasks = [
                (scope.spawn(std::future::pending::<()>()), line!()),
                (scope.spawn(std::future::pending::<()>()), line!()),
                (scope.spawn(async {}), line!()),
            ];
            *lines.lock().unwrap() = tasks.iter().map(|(_, line)| *line).collect::<Vec<_>>();
            std::future::ready(Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())))
        }
    }));
    for _ in 0..5 {
        drop(service.clone().oneshot(Request::new(())).await.unwrap());
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    let lines = lines.lock().unwrap().clone();
    let events = collector.0.lock().unwrap().clone();
    assert_eq!(events.len(), 2, "{events:#?}");
    for ((level, text), line) in events.iter().zip(&lines) {
        assert_eq!(*level, Level::WARN);
        let place = format!("task.location={}:{line}:", file!());
        assert!(text.contains(&place), "{text}");
        assert!(text.contains("task.route=\"report\""), "{text}");
        assert!(text.contains("it was aborted"), "{text}");
    }
    // All of them are counted.
    let counts: Vec<_> = handle
        .task_overruns()
        .iter()
        .map(|place| (place.location.map(|at| at.line()), place.aborted))
        .collect();
    assert_eq!(counts, [(Some(lines[0]), 5), (Some(lines[1]), 5)]);
}

#[tokio::test]
async fn a_proxys_clock_that_is_wrong_is_warned_of_once() {
    let collector = Collector::default();
    let _default = tracing::subscriber::set_default(collector.clone());
    let layer = MemoryLayer::builder()
        .expose(Expose::Never)
        .timeout(Duration::from_secs(5))
        .trust_request_start()
        .build()
        .unwrap();
    let service = layer.layer(service_fn(|_: Request<()>| {
        std::future::ready(Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())))
    }));
    for _ in 0..3 {
        // In 2001.
        let request = Request::builder().header("x-request-start", "t=1000000000");
        let response = service.clone().oneshot(request.body(()).unwrap()).await;
        assert_eq!(response.unwrap().status(), 200);
    }
    assert_eq!(layer.handle().snapshot().implausible_request_starts, 3);
    let events = collector.0.lock().unwrap().clone();
    let [(level, text)] = &events[..] else {
        panic!("{events:#?}");
    };
    assert_eq!(*level, Level::WARN);
    for part in ["x-request-start", "max_queue_time", "ahead=0ns"] {
        assert!(text.contains(part), "{part} is missing in: {text}");
    }
}

fn quiet() -> MemoryLayer {
    MemoryLayer::builder()
        .expose(Expose::Never)
        .build()
        .unwrap()
}

/// The scope of a request that `layer` has served, and what `during` returns while it is open.
async fn ended<T>(during: impl FnOnce(&RequestScope) -> T) -> (RequestScope, T) {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let kept = Arc::new(Mutex::new(Some((sender, during))));
    let service = quiet().layer(service_fn(move |request: Request<()>| {
        let scope = request.extensions().get::<RequestScope>().unwrap().clone();
        let (sender, during) = kept.lock().unwrap().take().unwrap();
        let made = during(&scope);
        assert!(sender.send((scope, made)).is_ok());
        std::future::ready(Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())))
    }));
    drop(service.oneshot(Request::new(())).await.unwrap());
    receiver.await.unwrap()
}

#[tokio::test]
async fn a_task_that_lost_its_scope_is_warned_of_once() {
    let collector = Collector::default();
    let _default = tracing::subscriber::set_default(collector.clone());
    let warnings = || collector.0.lock().unwrap().clone();
    let uses = |scope: &RequestScope| drop(scope.arena().clone());

    // The handler may wait for it.
    let open = quiet().layer(service_fn(async |request: Request<()>| {
        let scope = request.extensions().get::<RequestScope>().unwrap().clone();
        tokio::spawn(async move { drop(scope.arena().clone()) })
            .await
            .unwrap();
        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
    }));
    drop(open.oneshot(Request::new(())).await.unwrap());
    // Tasks that belong to the request, or are meant to outlive it.
    let (scope, tracked) = ended(|scope| {
        let (open, wake) = (scope.clone(), scope.child_token());
        tokio::spawn(scope.track(async move {
            wake.cancelled().await;
            assert!(open.is_cancelled());
            uses(&open);
        }))
    })
    .await;
    tracked.await.unwrap().unwrap();
    let inner = scope.clone();
    scope
        .detach("late", async move { uses(&inner) })
        .await
        .unwrap();
    // Blocking code of the request, in tokio's task.
    let (inner, subscriber) = (scope.clone(), collector.clone());
    let blocking = tokio::task::spawn_blocking(move || {
        tracing::subscriber::with_default(subscriber, || inner.in_scope(|| uses(&inner)));
    });
    blocking.await.unwrap();
    // No task at all.
    uses(&scope);
    // A hold, although it was given up.
    let (held, hold) = ended(RequestScope::hold).await;
    tokio::spawn(async move {
        uses(&held);
        drop(hold);
    })
    .await
    .unwrap();
    assert!(warnings().is_empty(), "{:#?}", warnings());

    let line = line!() + 3;
    for _ in 0..2 {
        let scope = scope.clone();
        let lost = async move { *scope.arena().alloc(7) };
        tokio::spawn(lost).await.unwrap();
    }
    let [(level, text)] = &warnings()[..] else {
        panic!("{:#?}", warnings());
    };
    assert_eq!(*level, Level::WARN);
    let place = format!("location={}:{line}:", file!());
    for part in [
        &place,
        "`tokio::spawn(scope.track(future))`",
        "`scope.hold()`",
    ] {
        assert!(text.contains(part), "{part} is missing in: {text}");
    }
}

#[tokio::test]
async fn a_policy_on_routes_beside_the_layer_is_warned_of_once() {
    let collector = Collector::default();
    let _default = tracing::subscriber::set_default(collector.clone());
    let inner = || {
        service_fn(|_: Request<()>| {
            std::future::ready(Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())))
        })
    };
    let policy = RoutePolicy::new().timeout(Duration::from_secs(1));
    // On another route.
    drop(
        quiet()
            .layer(inner())
            .oneshot(Request::new(()))
            .await
            .unwrap(),
    );
    let alone = policy.layer(inner());
    let send = async |method: &str| {
        let request = Request::builder().method(method).body(()).unwrap();
        drop(alone.clone().oneshot(request).await.unwrap());
        collector.0.lock().unwrap().clone()
    };
    for method in ["OPTIONS", "GET"] {
        for _ in 0..15 {
            // A layer in between could have answered these.
            assert!(send(method).await.is_empty());
        }
    }
    for _ in 0..3 {
        let [(level, text)] = &send("GET").await[..] else {
            panic!("one warning");
        };
        assert_eq!(*level, Level::WARN);
        assert!(text.contains("`.layer(MemoryLayer::new())`"), "{text}");
    }
}

#[cfg(feature = "axum")]
mod routers {
    use axum::{Router, body::Body, routing::get};

    use super::*;

    /// What is logged while `app` answers 20 requests for nothing.
    async fn not_found(app: Router, first: &str) -> Vec<(Level, String)> {
        let collector = Collector::default();
        let _default = tracing::subscriber::set_default(collector.clone());
        let lost = std::iter::repeat_n("/none", 20);
        for path in std::iter::once(first).chain(lost) {
            let request = Request::get(path).body(Body::empty()).unwrap();
            drop(app.clone().oneshot(request).await.unwrap());
        }
        collector.0.lock().unwrap().clone()
    }

    #[tokio::test]
    async fn a_layer_on_a_router_without_routes_is_warned_of_once() {
        let app = Router::new().layer(quiet()).route("/", get(async || {}));
        let events = not_found(app, "/").await;
        let [(level, text)] = &events[..] else {
            panic!("{events:#?}");
        };
        assert_eq!(*level, Level::WARN);
        for part in ["Router without routes", "`.layer(MemoryLayer::new())`"] {
            assert!(text.contains(part), "{part} is missing in: {text}");
        }
    }

    #[tokio::test]
    async fn a_layer_that_covers_routes_or_serves_is_not_warned_of() {
        use tower::Layer;

        let route = || Router::new().route("/", get(async || {}));
        // Scanned before its first client comes.
        let covered = route().layer(quiet());
        let around = Router::new().fallback_service(quiet().layer(route()));
        let fallback = Router::new().fallback(async || {}).layer(quiet());
        for app in [covered, around] {
            let events = not_found(app, "/none").await;
            assert!(events.is_empty(), "{events:#?}");
        }
        let events = not_found(fallback, "/").await;
        assert!(events.is_empty(), "{events:#?}");
    }
}
