//! Policies: per route, per method, nested, around the layer. Time is paused.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::{Router, body::Body, handler::Handler, routing::get};
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use tokio::time::Instant;
use tower::{Layer, ServiceExt};
use tower_memory::{MemoryLayer, Outcome, RequestScope, RoutePolicy, cancel::DeadlineSource};

use super::support::{Refused, Steps, get as request, never_answering, scope_of, watched};

const SECOND: Duration = Duration::from_secs(1);

async fn forever(_scope: RequestScope) {
    tokio::time::sleep(1000 * SECOND).await;
}

const fn within(seconds: u64) -> RoutePolicy {
    RoutePolicy::new().timeout(Duration::from_secs(seconds))
}

const fn without() -> RoutePolicy {
    RoutePolicy::new().disable_timeout()
}

#[tokio::test(start_paused = true)]
async fn each_route_and_each_method_has_its_own_policy() {
    let (layer, watch) = watched(MemoryLayer::builder().timeout(5 * SECOND));
    let app = Router::new()
        .route("/plain", get(forever))
        .route("/quick", get(forever).layer(within(1)))
        .route("/longer", get(forever).layer(within(60)))
        .route("/slow", get(forever).layer(without().timeout(60 * SECOND)))
        .route("/endless", get(forever).layer(without()))
        .route(
            "/methods",
            get(forever.layer(within(2)))
                .post(forever.layer(without().timeout(30 * SECOND)))
                .put(forever),
        )
        .layer(layer);
    let mut requests = 0;
    for (method, path, seconds, source) in [
        (Method::GET, "/plain", 5, Some(DeadlineSource::Layer)),
        (Method::GET, "/quick", 1, Some(DeadlineSource::Policy)),
        (Method::GET, "/longer", 5, Some(DeadlineSource::Layer)),
        (Method::GET, "/slow", 60, Some(DeadlineSource::Policy)),
        (Method::GET, "/endless", 1000, None),
        (Method::GET, "/methods", 2, Some(DeadlineSource::Policy)),
        (Method::POST, "/methods", 30, Some(DeadlineSource::Policy)),
        (Method::PUT, "/methods", 5, Some(DeadlineSource::Layer)),
    ] {
        let call = Request::builder().method(&method).uri(path);
        let start = Instant::now();
        let response = app.clone().oneshot(call.body(Body::empty()).unwrap());
        drop(response.await.unwrap());
        assert_eq!(start.elapsed().as_secs(), seconds, "{method} {path}");
        requests += 1;
        let report = watch.reports(requests).await.pop().unwrap();
        assert_eq!(report.deadline_source, source, "{method} {path}");
        let completed = source.is_none();
        assert_eq!(
            report.outcome == Outcome::Completed,
            completed,
            "{method} {path}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn of_nested_policies_the_nearest_has_the_last_word() {
    for (outer, inner, seconds) in [
        (within(2), within(3), 2),
        (within(3), within(2), 2),
        (within(2), without(), 1000),
        (without(), within(2), 2),
        (within(2), without().timeout(4 * SECOND), 4),
        (without().timeout(8 * SECOND), within(9), 8),
        (without(), RoutePolicy::new(), 1000),
        (RoutePolicy::new(), RoutePolicy::new(), 5),
    ] {
        let (layer, watch) = watched(MemoryLayer::builder().timeout(5 * SECOND));
        let app = Router::new()
            .route("/", get(forever.layer(inner)))
            .layer(outer)
            .layer(layer);
        let start = Instant::now();
        let call = Request::get("/").body(Body::empty()).unwrap();
        drop(app.oneshot(call).await.unwrap());
        assert_eq!(start.elapsed().as_secs(), seconds, "{outer:?} {inner:?}");
        watch.report().await;
    }
}

#[tokio::test(start_paused = true)]
async fn around_the_layer_a_policy_is_further_out_than_its_timeout() {
    for (policy, seconds) in [(within(2), 2), (within(9), 5), (without(), 5)] {
        let (layer, watch) = watched(MemoryLayer::builder().timeout(5 * SECOND));
        let service = policy.layer(layer.layer(never_answering()));
        let start = Instant::now();
        drop(service.oneshot(request("/")).await.unwrap());
        assert_eq!(start.elapsed().as_secs(), seconds, "{policy:?}");
        watch.report_now();
    }
    // Two of them, and one that was put into the extensions by hand.
    for (policies, seconds) in [
        ([within(3), within(2)], 2),
        ([within(2), within(3)], 2),
        ([within(1), without().timeout(3 * SECOND)], 3),
    ] {
        let (layer, watch) = watched(MemoryLayer::builder().timeout(5 * SECOND));
        let [outer, inner] = policies;
        let service = inner.layer(layer.layer(never_answering()));
        let mut by_hand = request("/");
        by_hand.extensions_mut().insert(outer);
        for call in [by_hand, request("/")] {
            let by_hand = call.extensions().get::<RoutePolicy>().is_some();
            let start = Instant::now();
            if by_hand {
                drop(service.clone().oneshot(call).await.unwrap());
            } else {
                let service = outer.layer(service.clone());
                drop(service.oneshot(call).await.unwrap());
            }
            assert_eq!(start.elapsed().as_secs(), seconds, "{policies:?} {by_hand}");
        }
        watch.reports(2).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_may_choose_a_policy_by_itself() {
    let (layer, watch) = watched(MemoryLayer::builder().timeout(5 * SECOND));
    let service = layer.layer(tower::service_fn(async |call: Request<Empty<Bytes>>| {
        let policy = match call.uri().path() {
            "/reports" => without().timeout(60 * SECOND),
            _ => within(1),
        };
        scope_of(&call).apply_policy(&policy);
        std::future::pending::<Result<Response<Steps>, Refused>>().await
    }));
    for (path, seconds) in [("/reports", 60), ("/other", 1)] {
        let start = Instant::now();
        drop(service.clone().oneshot(request(path)).await.unwrap());
        assert_eq!(start.elapsed().as_secs(), seconds, "{path}");
    }
    watch.reports(2).await;
}

#[tokio::test(start_paused = true)]
async fn without_any_layer_a_policy_changes_nothing() {
    let service = within(0).layer(tower::service_fn(async |call: Request<Empty<Bytes>>| {
        tokio::time::sleep(SECOND).await;
        Ok::<_, Refused>(Response::new(Full::new(Bytes::from(
            call.uri().path().to_owned(),
        ))))
    }));
    let response = service.oneshot(request("/abc")).await.unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "/abc");
}

/// A layer in between that polls the inner future on a task of its own, as a buffer does.
#[tokio::test(start_paused = true)]
async fn a_request_that_a_policy_finds_expired_is_answered_on_any_task() {
    let start = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() - SECOND;
    let request = Request::builder().header("x-request-start", format!("t={}.0", start.as_secs()));
    let request = request.body(Empty::<Bytes>::new()).unwrap();
    let (layer, watch) = watched(MemoryLayer::builder().trust_request_start());
    let inner = RoutePolicy::new()
        .timeout(Duration::from_millis(10))
        .layer(never_answering());
    let between = tower::service_fn(move |request: Request<Empty<Bytes>>| {
        let task = tokio::spawn(inner.clone().oneshot(request));
        async move { task.await.expect("the task ends by itself") }
    });
    let response = layer.layer(between).oneshot(request).await.unwrap();
    assert_eq!(response.status(), 504);
    assert_eq!(
        response.headers()["content-type"],
        "application/problem+json"
    );
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let detail = "the deadline set by the route's policy had passed on arrival";
    assert!(String::from_utf8_lossy(&body).contains(detail), "{body:?}");
    let report = watch.report().await;
    assert_eq!(report.outcome, Outcome::DeadlineExceeded);
    assert_eq!(report.deadline_source, Some(DeadlineSource::Policy));
}
