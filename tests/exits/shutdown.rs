//! A layer that is told to shut down.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    routing::{any, get as on_get},
};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, sleep},
};
use tower::ServiceExt;
use tower_memory::{
    MemoryLayer, Outcome, RequestScope,
    cancel::CancelReason,
    middleware::MemoryLayerBuilder,
    observe::ShutdownReport,
    scope::{ScopeHold, TaskKind},
};

use super::support::{Client, Http, Watch, use_everything, watched};

const GRACE: Duration = Duration::from_secs(10);

/// An app whose `/` does as `f` says, and tells when it is there.
fn app<Fut>(
    layer: MemoryLayerBuilder,
    f: impl Fn(RequestScope) -> Fut + Clone + Send + Sync + 'static,
) -> (Router, Watch, Arc<Notify>)
where
    Fut: Future<Output = Response<Body>> + Send + 'static,
{
    let (layer, watch) = watched(layer);
    let called = Arc::new(Notify::new());
    let router = Router::new().route(
        "/",
        any({
            let called = Arc::clone(&called);
            async move |scope: RequestScope| {
                called.notify_one();
                f(scope).await
            }
        }),
    );
    (router.layer(layer), watch, called)
}

fn request() -> Request<Body> {
    Request::get("/").body(Body::empty()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn an_idle_layer_is_shut_down_at_once() {
    let (_, watch, _) = app(MemoryLayer::builder(), |_| async { Response::default() });
    assert!(!watch.handle.is_shutting_down());
    let report = watch.handle.shutdown(GRACE).await;
    assert!(watch.handle.is_shutting_down());
    assert!(report.is_clean());
    assert_eq!(report.elapsed, Duration::ZERO);
    // Again: nothing is left.
    assert!(watch.handle.shutdown(Duration::ZERO).await.is_clean());
}

#[tokio::test(start_paused = true)]
async fn open_requests_are_told_and_waited_for() {
    let (app, watch, called) = app(MemoryLayer::builder(), |scope| async move {
        use_everything(&scope);
        assert_eq!(scope.cancelled().await, Outcome::Shutdown);
        assert!(scope.child_token().is_cancelled());
        sleep(Duration::from_secs(2)).await;
        Response::new(Body::from("in time"))
    });
    let request = tokio::spawn(app.oneshot(request()));
    called.notified().await;
    let shutdown = tokio::spawn({
        let handle = watch.handle.clone();
        async move { handle.shutdown(GRACE).await }
    });
    let response = request.await.unwrap().unwrap();
    assert_eq!(response.status(), 200);
    sleep(Duration::from_secs(1)).await;
    assert!(!shutdown.is_finished(), "the body is not over");
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "in time");
    let report: ShutdownReport = shutdown.await.unwrap();
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.elapsed, Duration::from_secs(3));
    let report = watch.report_now();
    assert_eq!(report.outcome, Outcome::Shutdown);
    assert!(report.time_to_head.is_some());
    assert_eq!((report.tasks_spawned, report.tasks_aborted), (1, 0));
    assert_eq!(report.cancel_latency, Some(Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn what_does_not_stop_is_returned() {
    let layer = MemoryLayer::builder().grace_period(Duration::from_secs(60));
    let (app, watch, called) = app(layer, |scope| async move {
        scope.spawn(std::future::pending::<()>());
        scope.detach("audit", std::future::pending::<()>());
        std::future::pending().await
    });
    let request = tokio::spawn(app.oneshot(request()));
    called.notified().await;
    // The handler has begun, and its tasks are there.
    tokio::task::yield_now().await;
    let report = watch.handle.shutdown(GRACE).await;
    assert!(!report.is_clean());
    assert_eq!(report.elapsed, GRACE);
    assert_eq!(report.requests.len(), 1);
    let open = &report.requests[0];
    assert_eq!((open.route.as_str(), open.count), ("/", 1));
    let kinds: Vec<_> = report.tasks.iter().map(|task| task.kind).collect();
    assert_eq!(kinds.len(), 2);
    assert!(kinds.contains(&TaskKind::Async) && kinds.contains(&TaskKind::Detached));
    assert!(report.tasks.iter().all(|t| t.location.file() == file!()));
    let text = report.to_string();
    assert!(
        text.starts_with("still running after 10.0s:\n  GET /: 1 request open\n  "),
        "{text}"
    );
    assert!(
        text.contains("detached task \"audit\" started at "),
        "{text}"
    );
    request.abort();
    let _ = request.await;
    sleep(Duration::from_secs(60)).await;
    let report = watch.report().await;
    assert_eq!(
        (report.outcome, report.tasks_aborted),
        (Outcome::Shutdown, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn a_request_that_asks_for_its_token_later_finds_it_cancelled() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let go = Arc::new(Notify::new());
    let (app, watch, called) = app(MemoryLayer::builder(), {
        let (seen, go) = (Arc::clone(&seen), Arc::clone(&go));
        move |scope| {
            let (seen, go) = (Arc::clone(&seen), Arc::clone(&go));
            async move {
                go.notified().await;
                seen.lock().unwrap().push(scope.is_cancelled());
                seen.lock()
                    .unwrap()
                    .push(scope.child_token().is_cancelled());
                let told = scope.clone();
                scope
                    .spawn(async move { told.cancelled().await })
                    .await
                    .unwrap();
                Response::default()
            }
        }
    });
    let request = tokio::spawn(app.oneshot(request()));
    called.notified().await;
    let report = watch.handle.shutdown(Duration::ZERO).await;
    assert_eq!(report.requests.len(), 1);
    go.notify_one();
    drop(request.await.unwrap().unwrap());
    assert_eq!(*seen.lock().unwrap(), [true, true]);
    let report = watch.report_now();
    assert_eq!(report.outcome, Outcome::Shutdown);
    assert_eq!(report.tasks_spawned, 1);
}

#[tokio::test(start_paused = true)]
async fn a_hold_is_told_and_waited_for() {
    let kept = Arc::new(Mutex::new(None::<ScopeHold>));
    let (app, watch, _) = app(MemoryLayer::builder(), {
        let kept = Arc::clone(&kept);
        move |scope| {
            *kept.lock().unwrap() = Some(scope.hold());
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            async { response }
        }
    });
    drop(app.oneshot(request()).await.unwrap());
    let hold = kept.lock().unwrap().take().unwrap();
    let socket = tokio::spawn({
        let scope = hold.scope().clone();
        hold.run(async move {
            let reason = scope.cancelled().await;
            sleep(Duration::from_secs(1)).await; // says goodbye
            reason
        })
    });
    tokio::task::yield_now().await;
    watch.assert_open();
    let report = watch.handle.shutdown(GRACE).await;
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.elapsed, Duration::from_secs(1));
    assert_eq!(socket.await.unwrap(), Outcome::Shutdown);
    assert_eq!(watch.outcome_now(), Outcome::Shutdown);
}

#[tokio::test(start_paused = true)]
async fn detached_tasks_are_waited_for_and_not_told() {
    let (app, watch, _) = app(MemoryLayer::builder(), |scope| async move {
        scope.detach("audit", sleep(Duration::from_secs(3)));
        Response::default()
    });
    drop(app.oneshot(request()).await.unwrap());
    let start = Instant::now();
    let report = watch.handle.shutdown(GRACE).await;
    assert!(report.is_clean(), "{report}");
    let waited = start.elapsed().as_millis();
    assert!((3000..=3002).contains(&waited), "{waited} ms");
}

#[tokio::test]
async fn a_server_is_shut_down_gracefully_with_its_requests() {
    let (app, watch, called) = app(MemoryLayer::builder(), |scope| async move {
        use_everything(&scope);
        let reason = scope.cancelled().await;
        Response::new(Body::from(reason.to_string()))
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let server = axum::serve(listener, app).with_graceful_shutdown(async { _ = stopped.await });
    let server = tokio::spawn(server.into_future());

    let mut waiting = Vec::new();
    for http in [Http::One, Http::Two] {
        let mut client = Client::connect(http, address).await;
        waiting.push((client.get("/"), client));
    }
    let answers = tokio::spawn(async {
        let mut answers = Vec::new();
        for (answer, client) in waiting {
            let body = answer.await.unwrap().into_body();
            answers.push(body.collect().await.unwrap().to_bytes());
            drop(client);
        }
        answers
    });
    for _ in 0..2 {
        called.notified().await;
    }
    // Both are there: one permit may stand for two calls.
    while watch.handle.snapshot().in_flight < 2 {
        sleep(Duration::from_millis(1)).await;
    }

    stop.send(()).unwrap();
    let report = watch.handle.shutdown(GRACE).await;
    assert!(report.is_clean(), "{report}");
    assert_eq!(answers.await.unwrap(), ["the server is shutting down"; 2]);
    server.await.unwrap().unwrap();
    let reports = watch.reports(2).await;
    assert!(reports.iter().all(|r| r.outcome == Outcome::Shutdown));
}

#[tokio::test]
async fn a_streamed_body_that_watches_the_token_ends_with_the_server() {
    let (app, watch, called) = app(MemoryLayer::builder(), |scope| async move {
        let events = futures_util::stream::unfold(scope, |scope| async move {
            tokio::select! {
                _ = scope.cancelled() => None,
                () = sleep(Duration::from_millis(5)) => {
                    Some((Ok::<_, std::convert::Infallible>("data: tick\n\n"), scope))
                }
            }
        });
        Response::new(Body::from_stream(events))
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let server = axum::serve(listener, app).with_graceful_shutdown(async { _ = stopped.await });
    let server = tokio::spawn(server.into_future());
    let mut client = Client::connect(Http::One, address).await;
    let mut response = client.get("/").await.unwrap();
    called.notified().await;
    let first = response.body_mut().frame().await.unwrap().unwrap();
    assert_eq!(first.into_data().unwrap(), "data: tick\n\n");
    stop.send(()).unwrap();
    let report = watch.handle.shutdown(GRACE).await;
    assert!(report.is_clean(), "{report}");
    // To its proper end.
    response.into_body().collect().await.unwrap();
    server.await.unwrap().unwrap();
    assert_eq!(watch.outcome().await, Outcome::Shutdown);
}

#[test]
fn no_handler_runs_after_a_clean_shutdown() {
    for _ in 0..50 {
        let down = Arc::new(AtomicBool::new(false));
        let ran = Arc::new(AtomicUsize::new(0));
        let (layer, watch) = watched(MemoryLayer::builder());
        let app = Router::new()
            .route(
                "/",
                on_get({
                    let (down, ran) = (Arc::clone(&down), Arc::clone(&ran));
                    async move || {
                        ran.fetch_add(1, Ordering::SeqCst);
                        assert!(!down.load(Ordering::SeqCst), "a handler after the shutdown");
                        tokio::task::yield_now().await;
                        assert!(!down.load(Ordering::SeqCst), "a handler after the shutdown");
                    }
                }),
            )
            .layer(layer);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let clients: Vec<_> = (0..2)
            .map(|_| {
                let app = app.clone();
                runtime.spawn(async move {
                    let mut refused = 0;
                    while refused < 20 {
                        let response = app.clone().oneshot(request()).await.unwrap();
                        refused += usize::from(response.status() == 503);
                    }
                })
            })
            .collect();
        runtime.block_on(async {
            while ran.load(Ordering::SeqCst) < 100 {
                tokio::task::yield_now().await;
            }
            let report = watch.handle.shutdown(GRACE).await;
            down.store(true, Ordering::SeqCst);
            assert!(report.is_clean(), "{report}");
            for client in clients {
                client.await.unwrap();
            }
        });
    }
}

/// A layer that has been shut down, around a handler that must not run.
async fn shut_down() -> (Router, Watch) {
    let (app, watch, _) = app(MemoryLayer::builder(), |_| async { unreachable!() });
    assert!(watch.handle.shutdown(GRACE).await.is_clean());
    (app, watch)
}

#[tokio::test]
async fn a_request_that_comes_later_is_refused_without_asking_the_handler() {
    let (app, watch) = shut_down().await;
    let response = app.oneshot(request()).await.unwrap();
    assert_eq!(response.status(), 503);
    assert_eq!(
        response.headers()["content-type"],
        "application/problem+json"
    );
    assert_eq!(response.headers()["x-alloc-route"], "/");
    let reason = response.extensions().get::<CancelReason>();
    assert!(reason.is_some_and(|reason| *reason == Outcome::Shutdown));
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let problem: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(problem["status"], 503);
    assert_eq!(problem["detail"], "the server is shutting down");
    assert_eq!(watch.outcome_now(), Outcome::Shutdown);
}

#[tokio::test]
async fn a_refused_request_that_is_dropped_ends_its_scope() {
    let (app, watch) = shut_down().await;
    drop(app.oneshot(request()).await.unwrap());
    assert_eq!(watch.outcome_now(), Outcome::Shutdown);
    assert!(watch.handle.shutdown(GRACE).await.is_clean());
}

#[tokio::test]
async fn a_refused_grpc_call_has_the_status_unavailable() {
    let (app, watch) = shut_down().await;
    let mut request = request();
    *request.method_mut() = http::Method::POST;
    let grpc = http::HeaderValue::from_static("application/grpc");
    request.headers_mut().insert("content-type", grpc);
    let response = app.oneshot(request).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["grpc-status"], "14");
    assert!(
        response
            .into_body()
            .collect()
            .await
            .unwrap()
            .to_bytes()
            .is_empty()
    );
    assert_eq!(watch.outcome_now(), Outcome::Shutdown);
}

#[tokio::test]
async fn a_refused_http_1_client_is_told_to_leave_the_connection() {
    for (http, closes) in [(Http::One, true), (Http::Two, false)] {
        let (app, watch) = shut_down().await;
        let address = super::support::serve(app).await;
        let mut client = Client::connect(http, address).await;
        let response = client.get("/").await.unwrap();
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers().contains_key("connection"), closes);
        response.into_body().collect().await.unwrap();
        assert_eq!(watch.outcome().await, Outcome::Shutdown);
    }
}
