//! A shutdown that is awaited from inside a request, and requests that are served during one.

use std::time::Duration;

use axum::{
    Router,
    body::Body,
    extract::{Path, State},
    http::StatusCode,
    routing::get as on_get,
};
use http::{Request, Response};
use http_body_util::BodyExt;
use tokio::time::{Instant, sleep};
use tower::ServiceExt;
use tower_memory::{
    MemoryHandle, MemoryLayer, Outcome, RequestScope, middleware::MemoryLayerBuilder,
};

use super::support::{Watch, watched};

const GRACE: Duration = Duration::from_secs(30);
const SECOND: Duration = Duration::from_secs(1);

/// Awaits the shutdown from some place of the request. Answers with its report.
async fn drain(
    scope: RequestScope,
    State(handle): State<MemoryHandle>,
    Path(place): Path<String>,
) -> String {
    // Another request may do the same before the shutdown begins.
    tokio::task::yield_now().await;
    let shutdown = async move { handle.shutdown(GRACE).await };
    let report = match place.as_str() {
        "handler" => shutdown.await,
        "task" => scope.spawn(shutdown).await.unwrap(),
        "tracked" => tokio::spawn(scope.track(shutdown)).await.unwrap().unwrap(),
        "detached" => scope.detach("drain", shutdown).await.unwrap(),
        "hold" => scope.hold().run(shutdown).await,
        "closure" => {
            let runtime = tokio::runtime::Handle::current();
            let closure = move || runtime.block_on(shutdown);
            scope.spawn_blocking(closure).await.unwrap()
        }
        _ => unreachable!("{place}"),
    };
    format!("{} exempt: {report}", report.exempt)
}

async fn slow(Path(seconds): Path<u32>) {
    sleep(SECOND * seconds).await;
}

fn app(layer: MemoryLayerBuilder) -> (Router, Watch) {
    let (layer, watch) = watched(layer);
    let app = Router::new()
        .route("/drain/{place}", on_get(drain))
        .route("/slow/{seconds}", on_get(slow))
        .route("/livez", on_get(livez))
        .with_state(watch.handle.clone())
        .layer(layer);
    (app, watch)
}

async fn send(app: &Router, path: &str) -> Response<Body> {
    let request = Request::get(path).body(Body::empty()).unwrap();
    app.clone().oneshot(request).await.unwrap()
}

async fn text(app: &Router, path: &str) -> String {
    let body = send(app, path).await.into_body();
    String::from_utf8(body.collect().await.unwrap().to_bytes().into()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_request_that_awaits_the_shutdown_does_not_wait_for_itself() {
    for (place, exempt) in [("handler", 1), ("task", 2), ("tracked", 2), ("hold", 1)] {
        let (app, watch) = app(MemoryLayer::builder());
        let start = Instant::now();
        let answer = text(&app, &format!("/drain/{place}")).await;
        let expected =
            format!("{exempt} exempt: all stopped within 0.0ns, not counting {exempt} exempt");
        assert_eq!(answer, expected, "{place}");
        assert!(start.elapsed() < SECOND, "{place}");
        assert_eq!(watch.report().await.outcome, Outcome::Shutdown);
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_another_one_has_sent_may_await_the_shutdown() {
    let (layer, watch) = watched(MemoryLayer::builder());
    let inner: Router = Router::new()
        .route("/drain/{place}", on_get(drain))
        .with_state(watch.handle.clone())
        .layer(layer.clone());
    let outer = Router::new().route(
        "/batch",
        on_get(async move || text(&inner, "/drain/handler").await),
    );
    assert_eq!(
        text(&outer.layer(layer), "/batch").await,
        "2 exempt: all stopped within 0.0ns, not counting 2 exempt"
    );
    assert_eq!(watch.reports(2).await.len(), 2);
}

#[tokio::test]
async fn a_closure_that_awaits_the_shutdown_does_not_wait_for_itself() {
    let (app, watch) = app(MemoryLayer::builder());
    let start = Instant::now();
    let answer = text(&app, "/drain/closure").await;
    assert!(answer.starts_with("2 exempt: all stopped"), "{answer}");
    assert!(start.elapsed() < GRACE / 2);
    assert_eq!(watch.report().await.outcome, Outcome::Shutdown);
}

#[tokio::test(start_paused = true)]
async fn a_detached_task_that_awaits_the_shutdown_does_not_wait_for_itself() {
    let (layer, watch) = watched(MemoryLayer::builder());
    let (sender, task) = tokio::sync::oneshot::channel();
    let sender = std::sync::Mutex::new(Some(sender));
    let handle = watch.handle.clone();
    let service = tower::Layer::layer(
        &layer,
        tower::service_fn(move |request: Request<Body>| {
            let scope = super::support::scope_of(&request);
            let handle = handle.clone();
            let task = scope.detach("drain", async move { handle.shutdown(GRACE).await });
            let _ = sender.lock().unwrap().take().unwrap().send(task);
            std::future::ready(Ok::<_, std::convert::Infallible>(Response::new(
                Body::empty(),
            )))
        }),
    );
    drop(service.oneshot(Request::default()).await.unwrap());
    let report = task.await.unwrap().await.unwrap();
    assert!(report.is_clean(), "{report}");
    assert_eq!((report.elapsed, report.exempt), (Duration::ZERO, 1));
}

#[tokio::test(start_paused = true)]
async fn two_requests_that_await_the_shutdown_wait_for_neither_and_for_all_others() {
    let (app, watch) = app(MemoryLayer::builder());
    let others = [app.clone(), app.clone()];
    let others = others.map(|app| tokio::spawn(async move { text(&app, "/slow/2").await }));
    tokio::task::yield_now().await;
    let start = Instant::now();
    let (one, other, outside) = tokio::join!(
        text(&app, "/drain/handler"),
        text(&app, "/drain/task"),
        async {
            tokio::task::yield_now().await;
            watch.handle.shutdown(GRACE).await
        }
    );
    assert_eq!(start.elapsed(), 2 * SECOND);
    let expected = "3 exempt: all stopped within 2.0s, not counting 3 exempt";
    assert!(one == expected || other == expected, "{one} {other}");
    assert!(outside.is_clean(), "{outside}");
    for other in others {
        assert_eq!(other.await.unwrap(), "");
    }
    assert_eq!(watch.reports(4).await.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn what_is_still_running_is_listed_without_the_request_that_waits() {
    let (app, watch) = app(MemoryLayer::builder());
    let other = tokio::spawn({
        let app = app.clone();
        async move { text(&app, "/slow/40").await }
    });
    tokio::task::yield_now().await;
    let answer = text(&app, "/drain/handler").await;
    assert_eq!(
        answer,
        "1 exempt: still running after 30.0s, not counting 1 exempt:\n  GET /slow/{seconds}: 1 request open"
    );
    other.await.unwrap();
    assert_eq!(watch.reports(2).await.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_request_of_another_layer_that_awaits_the_shutdown_is_none_of_its_own() {
    let (inner, watch) = app(MemoryLayer::builder());
    let other = tokio::spawn(async move { text(&inner, "/slow/2").await });
    tokio::task::yield_now().await;
    let (layer, _) = watched(MemoryLayer::builder());
    let outer: Router = Router::new()
        .route("/drain/{place}", on_get(drain))
        .with_state(watch.handle.clone())
        .layer(layer);
    assert_eq!(
        text(&outer, "/drain/task").await,
        "0 exempt: all stopped within 2.0s"
    );
    other.await.unwrap();
}

/// A probe that looks at its scope, and takes as long as the path of another route.
async fn livez(scope: RequestScope) -> StatusCode {
    let task = scope.spawn(async { RequestScope::current().unwrap().is_cancelled() });
    let cancelled = task.await.unwrap() || scope.child_token().is_cancelled();
    if cancelled || scope.reason().is_some() {
        StatusCode::INTERNAL_SERVER_ERROR
    } else {
        StatusCode::OK
    }
}

fn serving_probes() -> MemoryLayerBuilder {
    MemoryLayer::builder().serve_while_draining(|request| request.uri.path() == "/livez")
}

#[tokio::test(start_paused = true)]
async fn probes_are_served_during_a_shutdown_and_others_are_told_when_to_retry() {
    let layer = serving_probes().shutdown_retry_after(Duration::from_millis(4100));
    let (app, watch) = app(layer);
    assert_eq!(send(&app, "/livez").await.status(), 200);
    let slow = tokio::spawn({
        let app = app.clone();
        async move { send(&app, "/slow/2").await.status() }
    });
    let during = async {
        sleep(SECOND).await;
        let refused = send(&app, "/slow/2").await;
        assert_eq!(refused.status(), 503);
        assert_eq!(refused.headers()["retry-after"], "5");
        send(&app, "/livez").await.status()
    };
    tokio::task::yield_now().await;
    let (report, probe) = tokio::join!(watch.handle.shutdown(GRACE), during);
    assert_eq!(probe, 200);
    assert!(
        report.is_clean() && report.elapsed == 2 * SECOND,
        "{report}"
    );
    assert_eq!(send(&app, "/livez").await.status(), 200, "afterwards, too");
    assert_eq!(slow.await.unwrap(), 200);
    let reports = watch.reports(5).await;
    for report in reports {
        let expected = if report.route.as_str() == "/livez" {
            Outcome::Completed
        } else {
            Outcome::Shutdown
        };
        assert_eq!(report.outcome, expected, "{report}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_does_not_end_is_not_waited_for() {
    let (app, watch) = app(serving_probes());
    assert!(watch.handle.shutdown(GRACE).await.is_clean());
    // Its body keeps it open.
    let probe = send(&app, "/livez").await;
    let report = watch.handle.shutdown(GRACE).await;
    assert!(report.is_clean(), "{report}");
    assert_eq!((report.elapsed, report.exempt), (Duration::ZERO, 1));
    drop(probe);
    let report = watch.handle.shutdown(GRACE).await;
    assert_eq!((report.is_clean(), report.exempt), (true, 0));
    assert_eq!(watch.outcome_now(), Outcome::Completed);
}

#[tokio::test(start_paused = true)]
async fn a_refused_request_is_told_to_retry_after_a_second_by_default() {
    let (app, watch) = app(MemoryLayer::builder());
    watch.handle.shutdown(GRACE).await;
    let refused = send(&app, "/livez").await;
    assert_eq!(refused.status(), 503);
    assert_eq!(refused.headers()["retry-after"], "1");
}
