//! Requests that a request's handler sends, and calls inside of one request. Time is paused.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::State,
    http::request::Parts,
    middleware::{Next, from_fn},
    routing::get,
};
use bytes::Bytes;
use futures_util::{FutureExt, future::join_all};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full};
use tokio::time::{Instant, sleep, timeout};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_memory::{
    MemoryLayer, Outcome, RequestScope, RoutePolicy, ScopeReport, cancel::DeadlineSource,
    extract::RouteLabelLayer, middleware::DeadlineContext,
};

use super::support::{
    Refused, get as request, never_answering, poll_once, scope_of, use_everything, watched,
};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

const QUICK: RoutePolicy = RoutePolicy::new().timeout(Duration::from_millis(100));

/// A request to `path` made of the parts of the one that is served.
fn copy(parts: &Parts, path: &str) -> Request<Body> {
    let mut sub = Request::from_parts(parts.clone(), Body::empty());
    *sub.uri_mut() = path.parse().unwrap();
    sub
}

fn call(path: &str) -> Request<Body> {
    Request::get(path).body(Body::empty()).unwrap()
}

/// Routes for sub-requests.
fn api() -> Router {
    Router::new()
        .route("/quick", get(async || "quick").layer(QUICK))
        .route("/late", get(never).layer(QUICK))
        .route("/slow", get(never).layer(slow()))
        .route("/plain", get(async |_: RequestScope| "plain"))
        .route("/panics", get(panics))
        .route("/never", get(never))
}

const fn slow() -> RoutePolicy {
    RoutePolicy::new()
        .disable_timeout()
        .timeout(Duration::from_secs(60))
}

async fn panics() {
    panic!("the sub-request panics");
}

async fn never(scope: RequestScope) {
    use_everything(&scope);
    std::future::pending().await
}

/// Route, outcome and source of each report, sorted.
fn told(reports: &[ScopeReport]) -> Vec<(String, Outcome, Option<DeadlineSource>)> {
    let mut told: Vec<_> = reports
        .iter()
        .map(|report| {
            (
                report.route.to_string(),
                report.outcome,
                report.deadline_source,
            )
        })
        .collect();
    told.sort_by(|a, b| a.0.cmp(&b.0));
    told
}

/// Where the sub-requests' routes are layered.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Set {
    /// By the layer of the request that sends them.
    Same,
    /// By another one.
    Other,
    /// Not at all.
    Unlayered,
}

/// The endpoint of the public complaint, in each set-up: a batch whose own work takes longer than the
/// policy of the route that it calls.
#[tokio::test(start_paused = true)]
async fn a_sub_request_leaves_the_deadline_and_the_label_of_its_batch_alone() {
    async fn handler(State(api): State<Router>, request: Request<Body>) -> String {
        let scope = scope_of(&request);
        let before = (scope.route(), scope.deadline());
        let (parts, _) = request.into_parts();
        let response = api.oneshot(copy(&parts, "/quick")).await.unwrap();
        assert_eq!(response.status(), 200);
        drop(response);
        assert_eq!((scope.route(), scope.deadline()), before);
        assert_eq!(before.0.as_str(), "/batch");
        sleep(300 * MS).await;
        "batch done".into()
    }

    for set in [Set::Same, Set::Other, Set::Unlayered] {
        let (layer, watch) = watched(MemoryLayer::builder().timeout(5 * SECOND));
        let (other, other_watch) = watched(MemoryLayer::builder().timeout(SECOND));
        let api = match set {
            Set::Same => api().layer(layer.clone()),
            Set::Other => api().layer(other),
            Set::Unlayered => api(),
        };
        let app = Router::new()
            .route("/batch", get(handler))
            .with_state(api)
            .layer(layer);
        let response = app.oneshot(call("/batch")).await.unwrap();
        assert_eq!(response.status(), 200, "{set:?}");
        assert_eq!(response.headers()["x-alloc-route"], "/batch");
        response.into_body().collect().await.unwrap();
        let batch = ("/batch".to_owned(), Outcome::Completed, None);
        let quick = ("/quick".to_owned(), Outcome::Abandoned, None);
        // The body of the sub-request was not read.
        if set == Set::Other {
            assert_eq!(told(&watch.reports(1).await), [batch]);
            assert_eq!(told(&other_watch.reports(1).await), [quick]);
        } else {
            assert_eq!(told(&watch.reports(2).await), [batch, quick], "{set:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn sub_requests_at_the_same_time_end_each_by_their_own_limits() {
    async fn handler(State(api): State<Router>, request: Request<Body>) -> String {
        let scope = scope_of(&request);
        let deadline = scope.deadline();
        let (parts, _) = request.into_parts();
        let start = Instant::now();
        let paths = ["/late", "/quick", "/late", "/plain", "/slow"];
        let calls = paths.map(|path| {
            let call = api.clone().oneshot(copy(&parts, path));
            async move {
                let status = call.await.unwrap().status().as_u16();
                format!("{status} {}", start.elapsed().as_millis() / 10 * 10)
            }
        });
        let answers = join_all(calls).await.join(", ");
        assert_eq!(scope.deadline(), deadline);
        answers
    }

    for set in [Set::Same, Set::Unlayered] {
        let (layer, watch) = watched(MemoryLayer::builder().timeout(5 * SECOND));
        let layered = set == Set::Same;
        let api = if layered {
            api().layer(layer.clone())
        } else {
            api()
        };
        let app = Router::new()
            .route("/batch", get(handler))
            .with_state(api)
            .layer(layer);
        let response = app.oneshot(call("/batch")).await.unwrap();
        assert_eq!(response.status(), 200);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        // `/slow` lifts the limits outside of it, but not those of the request that sent it.
        let expected = "504 100, 200 0, 504 100, 200 0, 504 5000";
        assert_eq!(body, expected, "{set:?}");
        // Without a layer `/plain` works for the batch.
        let reports = told(&watch.reports(if layered { 6 } else { 5 }).await);
        assert_eq!(reports[0], ("/batch".into(), Outcome::Completed, None));
        let late = |report: &&(String, Outcome, Option<DeadlineSource>)| {
            report.0 == "/late" && report.1 == Outcome::DeadlineExceeded
        };
        assert_eq!(reports.iter().filter(late).count(), 2);
        let slow = reports.iter().find(|report| report.0 == "/slow").unwrap();
        assert_eq!(slow.2, Some(DeadlineSource::Layer));
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_built_anew_is_bounded_by_the_request_that_sends_it() {
    let (layer, watch) = watched(MemoryLayer::builder().timeout(SECOND));
    let api = api().layer(layer.clone());
    let app = Router::new()
        .route(
            "/batch",
            get(async move || {
                let answer = api.oneshot(call("/slow")).await.unwrap();
                answer.status().to_string()
            }),
        )
        .layer(layer);
    let start = Instant::now();
    let response = app.oneshot(call("/batch")).await.unwrap();
    assert_eq!(start.elapsed().as_millis() / 10 * 10, 1000);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "504 Gateway Timeout");
    let reports = told(&watch.reports(2).await);
    assert_eq!(reports[0].1, Outcome::Completed);
    let slow = (
        "/slow".to_owned(),
        Outcome::DeadlineExceeded,
        Some(DeadlineSource::Layer),
    );
    assert_eq!(reports[1], slow);
}

/// Runs `handler` as `/batch`, in a layer whose sub-requests' routes are `api`.
fn batch<F>(
    layer: &MemoryLayer,
    api: &Router,
    handler: impl Fn(Router, RequestScope, Parts) -> F + Clone + Send + Sync + 'static,
) -> Router
where
    F: Future<Output = StatusCode> + Send + 'static,
{
    let api = api.clone().layer(layer.clone());
    let handler = async move |request: Request<Body>| {
        let scope = scope_of(&request);
        handler(api, scope, request.into_parts().0).await
    };
    Router::new()
        .route("/batch", get(handler))
        .layer(layer.clone())
}

#[tokio::test(start_paused = true)]
async fn a_sub_request_is_cancelled_with_the_request_that_sent_it_and_for_its_reason() {
    type Act = fn(&RequestScope);
    for (act, outcome, source) in [
        (
            RequestScope::cancel as Act,
            Outcome::Cancelled,
            None::<DeadlineSource>,
        ),
        (
            |scope| scope.shorten_deadline(Duration::ZERO),
            Outcome::DeadlineExceeded,
            Some(DeadlineSource::Handler),
        ),
    ] {
        let (layer, watch) = watched(MemoryLayer::builder().timeout(5 * SECOND));
        let seen = Arc::new(Mutex::new(None));
        let sub = {
            let seen = Arc::clone(&seen);
            async move |scope: RequestScope| {
                let token = scope.child_token();
                tokio::spawn(async move {
                    token.cancelled().await;
                    *seen.lock().unwrap() = Some(scope.cancelled().await);
                });
                std::future::pending::<()>().await;
            }
        };
        let api = Router::new().route("/sub", get(sub));
        let app = batch(&layer, &api, move |api, scope, parts| async move {
            let sub = tokio::spawn(api.oneshot(copy(&parts, "/sub")));
            tokio::spawn(async move {
                sleep(2 * SECOND).await;
                sub.abort();
            });
            sleep(SECOND).await;
            act(&scope);
            sleep(SECOND).await;
            StatusCode::OK
        });
        let response = app.oneshot(call("/batch")).await.unwrap();
        drop(response);
        let reports = told(&watch.reports(2).await);
        let reason = seen.lock().unwrap().take().expect("cancelled");
        assert_eq!(
            (reason.outcome(), reason.deadline_source()),
            (outcome, source)
        );
        for report in &reports {
            assert_eq!((report.1, report.2), (outcome, source), "{}", report.0);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_tasks_of_a_sub_request_that_still_runs_get_their_grace_period_when_its_parent_is_cancelled()
 {
    let grace = 2 * SECOND;
    let (layer, watch) = watched(
        MemoryLayer::builder()
            .timeout(60 * SECOND)
            .grace_period(grace),
    );
    let ended = Arc::new(Mutex::new(None));
    let sub = {
        let ended = Arc::clone(&ended);
        async move |scope: RequestScope| {
            // It has neither a token nor a timer, so that only the request can wake it.
            let task = scope.spawn(std::future::pending::<()>());
            let error = task.await.expect_err("it never returns");
            *ended.lock().unwrap() = Some((Instant::now(), error.is_grace_exceeded()));
        }
    };
    let api = Router::new().route("/sub", get(sub));
    let app = batch(&layer, &api, move |api, scope, parts| async move {
        let sub = tokio::spawn(api.oneshot(copy(&parts, "/sub")));
        sleep(SECOND).await;
        scope.cancel();
        sub.await.unwrap().unwrap();
        StatusCode::OK
    });
    let start = Instant::now();
    drop(app.oneshot(call("/batch")).await.unwrap());
    let (at, is_grace_exceeded) = ended.lock().unwrap().take().expect("it was dropped");
    assert!(is_grace_exceeded);
    let after = at - start;
    assert!(
        SECOND + grace <= after && after < 2 * SECOND + grace,
        "{after:?}"
    );
    watch.reports(2).await;
}

#[tokio::test(start_paused = true)]
async fn a_sub_request_that_is_dropped_half_way_panics_or_comes_late_changes_its_batch_in_nothing()
{
    let (layer, watch) = watched(MemoryLayer::builder().timeout(5 * SECOND));
    let app = batch(&layer, &api(), |api, scope, parts| async move {
        let deadline = scope.deadline();
        let dropped = timeout(50 * MS, api.clone().oneshot(copy(&parts, "/late"))).await;
        assert!(dropped.is_err());
        let panics = api.oneshot(copy(&parts, "/panics"));
        assert!(
            std::panic::AssertUnwindSafe(panics)
                .catch_unwind()
                .await
                .is_err()
        );
        assert_eq!((scope.deadline(), scope.reason()), (deadline, None));
        assert_eq!(scope.route().as_str(), "/batch");
        StatusCode::OK
    });
    let response = app.oneshot(call("/batch")).await.unwrap();
    assert_eq!(response.status(), 200);
    response.into_body().collect().await.unwrap();
    let expected = [
        ("/batch".to_owned(), Outcome::Completed, None),
        ("/late".to_owned(), Outcome::Abandoned, None),
        ("/panics".to_owned(), Outcome::Panicked, None),
    ];
    assert_eq!(told(&watch.reports(3).await), expected);
}

#[tokio::test(start_paused = true)]
async fn a_sub_request_may_outlive_the_request_that_sent_it() {
    let (layer, watch) = watched(MemoryLayer::builder().timeout(5 * SECOND));
    let answers = Arc::new(Mutex::new(Vec::new()));
    let app = {
        let answers = Arc::clone(&answers);
        batch(&layer, &api(), move |api, _scope, parts| {
            let answers = Arc::clone(&answers);
            async move {
                // One that is on its way when the request ends, and one that is sent afterwards.
                let (during, after) = (copy(&parts, "/late"), copy(&parts, "/late"));
                tokio::spawn({
                    let (api, answers) = (api.clone(), Arc::clone(&answers));
                    async move {
                        let response = api.oneshot(during).await.unwrap();
                        answers.lock().unwrap().push(response.status().as_u16());
                    }
                });
                tokio::spawn(async move {
                    sleep(SECOND).await;
                    let response = api.oneshot(after).await.unwrap();
                    answers.lock().unwrap().push(response.status().as_u16());
                });
                tokio::task::yield_now().await;
                StatusCode::OK
            }
        })
    };
    let response = app.oneshot(call("/batch")).await.unwrap();
    response.into_body().collect().await.unwrap();
    let reports = told(&watch.reports(3).await);
    assert_eq!(*answers.lock().unwrap(), [504, 504]);
    let policy = Some(DeadlineSource::Policy);
    let expected = [
        ("/batch".to_owned(), Outcome::Completed, None),
        // It was told that nobody needs it.
        ("/late".to_owned(), Outcome::Cancelled, None),
        ("/late".to_owned(), Outcome::DeadlineExceeded, policy),
    ];
    assert_eq!(reports, expected);
}

#[tokio::test(start_paused = true)]
async fn sub_requests_of_an_open_request_are_served_during_a_shutdown() {
    let (layer, watch) = watched(MemoryLayer::builder());
    let handle = layer.handle();
    let app = batch(&layer, &api(), move |api, _scope, parts| {
        let handle = handle.clone();
        async move {
            tokio::spawn(async move { handle.shutdown(10 * SECOND).await });
            sleep(SECOND).await;
            let copied = api.clone().oneshot(copy(&parts, "/quick")).await.unwrap();
            let anew = api.oneshot(call("/quick")).await.unwrap();
            assert_eq!(
                (copied.status(), anew.status()),
                (StatusCode::OK, StatusCode::OK)
            );
            StatusCode::OK
        }
    });
    assert_eq!(
        app.clone().oneshot(call("/batch")).await.unwrap().status(),
        200
    );
    assert_eq!(app.oneshot(call("/batch")).await.unwrap().status(), 503);
    for report in watch.reports(4).await {
        assert_eq!(report.outcome, Outcome::Shutdown);
    }
}

/// Something between the layer and a policy, or another layer, that goes on after the call inside.
#[tokio::test(start_paused = true)]
async fn the_limit_of_a_call_ends_with_the_call_however_that_ends() {
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum End {
        Expired,
        Answered,
        Failed,
        Dropped,
    }

    for by_layer in [false, true] {
        for end in [End::Expired, End::Answered, End::Failed, End::Dropped] {
            let (layer, watch) = watched(MemoryLayer::builder().timeout(5 * SECOND));
            let handler = service_fn(move |request: Request<Empty<Bytes>>| async move {
                // In force for code inside.
                let left = scope_of(&request).remaining().unwrap();
                assert!(left <= SECOND, "{left:?}");
                match end {
                    End::Answered => Ok(Response::new(Full::new(Bytes::new()))),
                    End::Failed => Err(Refused),
                    End::Expired | End::Dropped => std::future::pending().await,
                }
            });
            let policy = RoutePolicy::new().timeout(SECOND).body_timeout(SECOND);
            let inner = MemoryLayer::builder().timeout(SECOND).body_timeout(SECOND);
            let inner = inner.build().unwrap();
            let between = service_fn(move |request: Request<Empty<Bytes>>| {
                let (policy, inner) = (policy.layer(handler), inner.layer(handler));
                async move {
                    let scope = scope_of(&request);
                    let deadline = scope.deadline();
                    let call = async {
                        if by_layer {
                            inner.oneshot(request).await
                        } else {
                            policy.oneshot(request).await
                        }
                    };
                    let ended = timeout(if end == End::Dropped { MS } else { 9 * SECOND }, call);
                    let status = match ended.await {
                        Ok(Ok(response)) => Some(response.status().as_u16()),
                        Ok(Err(Refused)) | Err(_) => None,
                    };
                    let expected = match end {
                        End::Expired => Some(504),
                        End::Answered => Some(200),
                        End::Failed | End::Dropped => None,
                    };
                    assert_eq!(status, expected);
                    assert_eq!((scope.deadline(), scope.reason()), (deadline, None));
                    sleep(2 * SECOND).await;
                    // A body of its own, for which no call sets a limit.
                    let body = futures_util::stream::once(async {
                        sleep(4 * SECOND).await;
                        Ok::<_, Infallible>(http_body::Frame::data(Bytes::from_static(b"done")))
                    });
                    Ok::<_, Refused>(Response::new(Body::new(http_body_util::StreamBody::new(
                        Box::pin(body),
                    ))))
                }
            });
            let response = layer.layer(between).oneshot(request("/")).await.unwrap();
            assert_eq!(response.status(), 200, "{by_layer} {end:?}");
            let body = response.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(body, "done");
            assert_eq!(
                watch.outcome_now(),
                Outcome::Completed,
                "{by_layer} {end:?}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_a_call_lifted_is_back_after_it() {
    let (layer, watch) = watched(MemoryLayer::builder().timeout(5 * SECOND));
    let lifts = slow().layer(service_fn(async |request: Request<Empty<Bytes>>| {
        assert!(scope_of(&request).remaining().unwrap() > 50 * SECOND);
        sleep(3 * SECOND).await;
        Ok::<_, Refused>(Response::new(Full::<Bytes>::default()))
    }));
    let between = service_fn(move |request: Request<Empty<Bytes>>| {
        let lifts = lifts.clone();
        async move {
            drop(lifts.oneshot(request).await.unwrap());
            std::future::pending::<Result<Response<Full<Bytes>>, Refused>>().await
        }
    });
    let start = Instant::now();
    let response = layer.layer(between).oneshot(request("/")).await.unwrap();
    assert_eq!(response.status(), 504);
    assert_eq!(start.elapsed().as_millis() / 10 * 10, 5000);
    drop(response);
    let source = Some(DeadlineSource::Layer);
    assert_eq!(watch.report_now().deadline_source, source);
}

/// The response of a call that is the request's.
#[tokio::test(start_paused = true)]
async fn a_call_whose_response_is_the_requests_is_answered_by_the_nearest_layer() {
    let answering = |text: &'static str| {
        MemoryLayer::builder()
            .deadline_response(move |_| Response::new(Bytes::from_static(text.as_bytes())))
    };
    // By the inner layer's timeout, by a policy inside of both, and by the outer layer's timeout.
    for (inner, policy, outer, source, expected) in [
        (1, 9, 5, DeadlineSource::Layer, "inner"),
        (3, 1, 5, DeadlineSource::Policy, "inner"),
    ] {
        let (layer, watch) = watched(answering("outer").timeout(outer * SECOND));
        let inside = answering("inner").timeout(inner * SECOND).build().unwrap();
        let policy = RoutePolicy::new().timeout(policy * SECOND);
        let service = layer.layer(inside.layer(policy.layer(never_answering())));
        let start = Instant::now();
        let response = service.oneshot(request("/")).await.unwrap();
        assert_eq!(start.elapsed().as_millis() / 10 * 10, 1000);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, expected);
        let report = watch.report_now();
        assert_eq!(report.outcome, Outcome::DeadlineExceeded);
        assert_eq!(report.deadline_source, Some(source));
    }
}

/// Layers of axum between a layer and a policy see its answer, and may replace it.
#[tokio::test(start_paused = true)]
async fn a_middleware_may_answer_instead_of_a_call_that_has_expired() {
    async fn fallback(request: axum::extract::Request, next: Next) -> axum::response::Response {
        let response = next.run(request).await;
        if response.status() == 504 {
            return axum::response::IntoResponse::into_response("from a cache");
        }
        response
    }

    let (layer, watch) = watched(MemoryLayer::builder().timeout(5 * SECOND));
    let app = api().layer(from_fn(fallback)).layer(layer);
    let response = app.oneshot(call("/late")).await.unwrap();
    assert_eq!(response.status(), 200);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "from a cache");
    let report = watch.report().await;
    assert_eq!(
        (report.route.as_str(), report.outcome),
        ("/late", Outcome::Completed)
    );
}

#[tokio::test(start_paused = true)]
async fn a_layer_around_the_router_is_labelled_by_its_own_request_only() {
    let (layer, watch) = watched(MemoryLayer::builder());
    let handler = async |State(api): State<Router>, request: Request<Body>| {
        let (parts, _) = request.into_parts();
        api.oneshot(copy(&parts, "/plain")).await.unwrap()
    };
    for labels in [true, false] {
        let app: Router = Router::new()
            .route("/batch", get(handler))
            .with_state(api());
        let app = if labels {
            app.route_layer(RouteLabelLayer::new())
        } else {
            app
        };
        let response = layer.layer(app).oneshot(call("/batch")).await.unwrap();
        response.into_body().collect().await.unwrap();
    }
    let routes: Vec<_> = watch
        .reports(2)
        .await
        .iter()
        .map(|report| report.route.to_string())
        .collect();
    assert_eq!(routes, ["/batch", "{unmatched}"]);
}

/// A policy around the routes of a sub-request, with the layer inside of it, is part of one request.
#[tokio::test(start_paused = true)]
async fn a_policy_and_a_layer_that_a_sub_request_passes_make_one_scope() {
    let (layer, watch) = watched(MemoryLayer::builder());
    let inner = layer.clone();
    let service = layer.layer(service_fn(move |request: Request<Empty<Bytes>>| {
        let (parts, body) = request.into_parts();
        let sub = Request::from_parts(parts.clone(), body);
        let service = QUICK.layer(inner.layer(never_answering()));
        async move {
            let response = service.oneshot(sub).await?;
            let status = response.status();
            let mut answer = Response::new(Full::<Bytes>::default());
            *answer.status_mut() = status;
            drop(parts);
            Ok::<_, Refused>(answer)
        }
    }));
    let response = service.oneshot(request("/")).await.unwrap();
    assert_eq!(response.status(), 504);
    drop(response);
    let outcomes: Vec<_> = watch.reports(2).await.iter().map(|r| r.outcome).collect();
    // The sub-request ends first.
    assert_eq!(outcomes, [Outcome::DeadlineExceeded, Outcome::Completed]);
}

/// The field's own app: a router that carries the layer already, merged into one with the layer around it.
#[tokio::test(start_paused = true)]
async fn a_request_that_meets_the_same_layer_again_is_the_same_request() {
    let handler = async |scope: RequestScope| scope.route().to_string();
    for merged in [false, true] {
        let (layer, watch) = watched(MemoryLayer::builder().timeout(5 * SECOND));
        let inner: Router = Router::new()
            .route("/a", get(handler).layer(QUICK))
            .layer(layer.clone());
        let app = if merged {
            Router::new().route("/b", get(handler)).merge(inner)
        } else {
            inner
        };
        let response = app.layer(layer).oneshot(call("/a")).await.unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "/a", "merged: {merged}");
        let report = watch.report_now();
        let told = (report.route.as_str(), report.outcome);
        assert_eq!(told, ("/a", Outcome::Completed));
    }
}

/// Where the label of the request that is moved comes from.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Labelled {
    /// The router matches it before the layer.
    Matched,
    /// The layer is around the router.
    ByExtractor,
    ByRouteLayer,
    /// Its code sets the label.
    ByCode,
    Never,
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_moved_into_a_sub_request_keeps_the_label_that_it_has() {
    async fn handler(
        State((api, path)): State<(Router, &'static str)>,
        sub: Request<Body>,
    ) -> Response<Body> {
        let (parts, _) = sub.into_parts();
        let mut sub = Request::from_parts(parts, Body::empty());
        *sub.uri_mut() = path.parse().unwrap();
        api.oneshot(sub).await.unwrap()
    }
    async fn with_scope(
        _: RequestScope,
        state: State<(Router, &'static str)>,
        sub: Request<Body>,
    ) -> Response<Body> {
        handler(state, sub).await
    }
    async fn with_label(
        scope: RequestScope,
        state: State<(Router, &'static str)>,
        sub: Request<Body>,
    ) -> Response<Body> {
        scope.set_route("label");
        handler(state, sub).await
    }

    for set in [Set::Same, Set::Other, Set::Unlayered] {
        for labelled in [
            Labelled::Matched,
            Labelled::ByExtractor,
            Labelled::ByRouteLayer,
            Labelled::ByCode,
            Labelled::Never,
        ] {
            for path in ["/quick", "/plain"] {
                let (layer, watch) = watched(MemoryLayer::builder().timeout(5 * SECOND));
                let api = match set {
                    Set::Same => api().layer(layer.clone()),
                    Set::Other => api().layer(MemoryLayer::new()),
                    Set::Unlayered => api(),
                };
                let route = match labelled {
                    Labelled::ByExtractor => get(with_scope),
                    Labelled::ByCode => get(with_label),
                    _ => get(handler),
                };
                let app = Router::new().route("/batch", route).with_state((api, path));
                let response = match labelled {
                    Labelled::Matched => app.layer(layer).oneshot(call("/batch")).await,
                    Labelled::ByRouteLayer => {
                        let app = app.route_layer(RouteLabelLayer::new());
                        layer
                            .layer(app)
                            .oneshot(call("/batch"))
                            .await
                            .map(|r| r.map(Body::new))
                    }
                    _ => layer
                        .layer(app)
                        .oneshot(call("/batch"))
                        .await
                        .map(|r| r.map(Body::new)),
                };
                let response = response.unwrap();
                assert_eq!(response.status(), 200);
                response.into_body().collect().await.unwrap();
                let report = watch.report().await;
                let expected = match labelled {
                    Labelled::ByCode => "label",
                    // The first that sees a path is the part.
                    Labelled::Never if set != Set::Unlayered || path == "/plain" => {
                        if path == "/plain" {
                            "/batch/plain"
                        } else {
                            "/batch/quick"
                        }
                    }
                    Labelled::Never => "{unmatched}",
                    _ => "/batch",
                };
                assert_eq!(
                    report.route.as_str(),
                    expected,
                    "{set:?} {labelled:?} {path}"
                );
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_copy_of_the_request_within_its_own_route_is_counted_as_that_route() {
    async fn copies(request: axum::extract::Request, next: Next) -> axum::response::Response {
        let (parts, body) = request.into_parts();
        let mut new = Request::new(body);
        *new.uri_mut() = parts.uri.clone();
        *new.extensions_mut() = parts.extensions.clone();
        next.run(new).await
    }
    // Twice, so that a copy of a copy is no different.
    for times in [1, 2] {
        let (layer, watch) = watched(MemoryLayer::builder().timeout(5 * SECOND));
        let mut app = Router::new().route(
            "/a",
            get(async |scope: RequestScope| scope.route().to_string()).layer(QUICK),
        );
        for _ in 0..times {
            app = app.layer(QUICK).layer(from_fn(copies));
        }
        let response = app.layer(layer).oneshot(call("/a")).await.unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "/a");
        let report = ("/a".to_owned(), Outcome::Completed, None);
        assert_eq!(
            told(&watch.reports(times + 1).await),
            vec![report; times + 1]
        );
    }
}

/// A service that never answers, and leaves the head of the last request there.
fn leaving_its_head(
    layer: &MemoryLayer,
) -> (
    impl Service<Request<Body>, Response: Sized, Error = Infallible, Future: Sized>,
    Arc<Mutex<Option<Parts>>>,
) {
    let head = Arc::new(Mutex::new(None));
    let service = layer.layer(service_fn({
        let head = Arc::clone(&head);
        move |request: Request<Body>| {
            scope_of(&request).arena().alloc_str("as long as the scope");
            *head.lock().unwrap() = Some(request.into_parts().0);
            std::future::pending::<Result<Response<Full<Bytes>>, Infallible>>()
        }
    }));
    (service, head)
}

/// As one that looks for something, and sends itself again before it ends.
#[tokio::test(start_paused = true)]
async fn a_request_that_sends_itself_again_for_ever_keeps_no_more_than_a_few_of_those_before() {
    let (layer, watch) = watched(MemoryLayer::builder());
    let (mut service, head) = leaving_its_head(&layer);
    let mut open = Box::pin(service.call(call("/")));
    for _ in 0..1000 {
        assert!(poll_once(&mut open).is_pending());
        let next = copy(&head.lock().unwrap().take().unwrap(), "/");
        // The one before is dropped when this one is open.
        open = Box::pin(service.call(next));
    }
    let now = watch.handle.snapshot();
    assert_eq!(now.in_flight, 1);
    assert!(now.pool.rented <= 65, "{} arenas", now.pool.rented);
    drop((open, head.lock().unwrap().take()));
    watch.reports(1001).await;
}

#[tokio::test(start_paused = true)]
async fn of_many_requests_in_a_row_the_deadline_bounds_all_and_the_end_cancels_the_next_64() {
    let (layer, watch) = watched(MemoryLayer::builder().timeout(60 * SECOND));
    let (mut service, head) = leaving_its_head(&layer);
    let (mut open, mut scopes) = (Vec::new(), Vec::new());
    let mut next = call("/");
    for _ in 0..1000 {
        let mut response = Box::pin(service.call(next));
        assert!(poll_once(&mut response).is_pending());
        open.push(response);
        let parts = head.lock().unwrap().take().unwrap();
        let scope = parts.extensions.get::<RequestScope>().unwrap().clone();
        if scopes.is_empty() {
            scope.shorten_deadline(SECOND);
        }
        scopes.push(scope);
        next = copy(&parts, "/");
    }
    let deadline = scopes[0].deadline();
    assert!(scopes.iter().all(|scope| scope.deadline() == deadline));
    scopes[0].cancel();
    let cancelled = scopes.iter().take_while(|scope| scope.is_cancelled());
    assert_eq!(cancelled.count(), 65);
    assert!(scopes[65..].iter().all(|scope| !scope.is_cancelled()));
    drop((open, scopes, next));
    watch.reports(1000).await;
}

/// The layer is around the sub-requests' router, which matches the path inside of it.
#[tokio::test(start_paused = true)]
async fn a_sub_request_that_is_matched_inside_of_its_layer_has_its_own_part_of_the_path() {
    let (layer, watch) = watched(MemoryLayer::builder());
    let api = layer.layer(api());
    let batch = async move |request: Request<Body>| {
        let (parts, _) = request.into_parts();
        let response = api.clone().oneshot(copy(&parts, "/plain")).await.unwrap();
        response.into_body().collect().await.unwrap().to_bytes()
    };
    let app = Router::new().route("/batch", get(batch)).layer(layer);
    let response = app.oneshot(call("/batch")).await.unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "plain");
    let told = told(&watch.reports(2).await);
    let routes: Vec<_> = told.iter().map(|(route, ..)| route.as_str()).collect();
    assert_eq!(routes, ["/batch", "/plain"]);
}

#[tokio::test(start_paused = true)]
async fn of_three_layers_in_one_another_the_one_whose_limit_ends_a_call_answers() {
    let answers = |status: StatusCode| {
        let answer = move |expired: &DeadlineContext<'_>| expired.problem(status);
        MemoryLayer::builder().deadline_response(answer)
    };
    let (outer, watch) = watched(answers(StatusCode::INTERNAL_SERVER_ERROR));
    let middle = answers(StatusCode::NOT_IMPLEMENTED).build().unwrap();
    let inner = answers(StatusCode::BAD_GATEWAY).timeout(20 * MS);
    let service = inner.build().unwrap().layer(never_answering());
    let service = outer.layer(middle.layer(service));
    let response = service.oneshot(request("/")).await.unwrap();
    assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
    drop(response);
    assert_eq!(watch.outcome().await, Outcome::DeadlineExceeded);
}
