//! The deadline: who sets it, what it ends, and layers inside of layers. Time is paused.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Empty, Full};
use tokio::time::{Instant, sleep};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_memory::{
    MemoryLayer, Outcome, RequestScope,
    cancel::{CancelReason, DeadlineSource},
    middleware::ResponseBody,
};

use super::support::{
    Refused, Steps, Watch, answering, get, never_answering, poll_once, scope_of, use_everything,
    watched,
};

const SECOND: Duration = Duration::from_secs(1);

/// The 504 of a handler that never answers.
async fn timed_out() -> (Response<ResponseBody<Steps>>, Watch) {
    let (layer, watch) = watched(MemoryLayer::builder().timeout(SECOND));
    let response = layer
        .layer(never_answering())
        .oneshot(get("/"))
        .await
        .unwrap();
    assert_eq!(response.status(), 504);
    (response, watch)
}

type Noted = Arc<Mutex<Option<(Instant, Option<CancelReason>)>>>;

/// Notes when it is dropped, and why the scope it is dropped in was cancelled.
struct Tell(Noted);

impl Drop for Tell {
    fn drop(&mut self) {
        let reason = RequestScope::current().and_then(|scope| scope.reason());
        *self.0.lock().unwrap() = Some((Instant::now(), reason));
    }
}

#[tokio::test(start_paused = true)]
async fn the_deadline_comes_on_time_and_drops_the_handler_in_its_scope() {
    let start = Instant::now();
    let dropped = Noted::default();
    let (layer, watch) = watched(MemoryLayer::builder().timeout(SECOND));
    let mut service = layer.layer(service_fn({
        let dropped = Arc::clone(&dropped);
        move |_: Request<Empty<Bytes>>| {
            let tell = Tell(Arc::clone(&dropped));
            async move {
                let _tell = tell;
                std::future::pending::<Result<Response<Steps>, Refused>>().await
            }
        }
    }));
    let mut future = Box::pin(service.call(get("/")));
    let response = (&mut future).await.unwrap();
    let after = start.elapsed();
    assert!(
        (SECOND..SECOND + Duration::from_millis(2)).contains(&after),
        "{after:?}"
    );
    assert_eq!(response.status(), 504);
    // The future is still there.
    let reason = *response.extensions().get::<CancelReason>().unwrap();
    assert_eq!(reason.deadline_source(), Some(DeadlineSource::Layer));
    let noted = dropped.lock().unwrap().take();
    assert_eq!(noted, Some((Instant::now(), Some(reason))));
    drop(future);
    watch.assert_open();
    drop(response);
    assert_eq!(watch.outcome_now(), Outcome::DeadlineExceeded);
}

#[tokio::test(start_paused = true)]
async fn the_answer_to_the_deadline_read_to_its_end_is_one_frame_of_known_length() {
    let (response, watch) = timed_out().await;
    let mut body = response.into_body();
    let length = body.size_hint().exact().unwrap();
    assert!(!body.is_end_stream());
    let frame = body.frame().await.unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap().len() as u64, length);
    assert!(body.is_end_stream());
    assert_eq!(body.size_hint().exact(), Some(0));
    assert!(body.frame().await.is_none());
    assert_eq!(watch.outcome_now(), Outcome::DeadlineExceeded);
    assert!(body.frame().await.is_none());
    drop(body);
    assert_eq!(watch.outcome_now(), Outcome::DeadlineExceeded);
}

#[tokio::test(start_paused = true)]
async fn the_answer_to_the_deadline_dropped_unread_leaves_the_outcome_as_it_is() {
    let (response, watch) = timed_out().await;
    drop(response);
    let report = watch.report_now();
    assert_eq!(report.outcome, Outcome::DeadlineExceeded);
    assert_eq!(report.deadline_source, Some(DeadlineSource::Layer));
}

/// A handler that is ready after a second, in a layer with this timeout.
async fn ready_after_a_second(timeout: Duration) -> (u16, Outcome) {
    let (layer, watch) = watched(MemoryLayer::builder().timeout(timeout));
    let service = layer.layer(service_fn(async |_: Request<Empty<Bytes>>| {
        sleep(SECOND).await;
        Ok::<_, Refused>(Response::new(Full::new(Bytes::from_static(b"data"))))
    }));
    let response = service.oneshot(get("/")).await.unwrap();
    let status = response.status().as_u16();
    response.into_body().collect().await.unwrap();
    (status, watch.outcome_now())
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_is_ready_at_its_deadline_is_in_time() {
    let in_time = (200, Outcome::Completed);
    assert_eq!(ready_after_a_second(SECOND).await, in_time);
    let late = (504, Outcome::DeadlineExceeded);
    let before = SECOND - Duration::from_millis(2);
    assert_eq!(ready_after_a_second(before).await, late);
}

#[tokio::test(start_paused = true)]
async fn timeouts_without_end_are_none() {
    for timeout in [
        Duration::MAX,
        Duration::from_nanos(u64::MAX),
        Duration::from_nanos(u64::MAX - 15),
        Duration::from_nanos(u64::MAX - 16),
        Duration::from_secs(u64::from(u32::MAX)),
    ] {
        let outcome = ready_after_a_second(timeout).await;
        assert_eq!(outcome, (200, Outcome::Completed), "{timeout:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_timeout_of_zero_ends_only_what_has_to_wait() {
    let (layer, watch) = watched(MemoryLayer::builder().timeout(Duration::ZERO));
    let service = layer.layer(answering(Full::new(Bytes::from_static(b"data"))));
    let response = service.oneshot(get("/")).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(
        response.into_body().collect().await.unwrap().to_bytes(),
        "data"
    );
    assert_eq!(watch.outcome_now(), Outcome::Completed);

    assert_eq!(
        ready_after_a_second(Duration::ZERO).await,
        (504, Outcome::DeadlineExceeded)
    );
}

#[tokio::test(start_paused = true)]
async fn a_body_is_not_limited_by_the_deadline() {
    let (layer, watch) = watched(MemoryLayer::builder().timeout(SECOND));
    let service = layer.layer(answering(Steps::data(["data"])));
    let response = service.oneshot(get("/")).await.unwrap();
    sleep(10 * SECOND).await;
    watch.assert_open();
    assert_eq!(
        response.into_body().collect().await.unwrap().to_bytes(),
        "data"
    );
    assert_eq!(watch.outcome_now(), Outcome::Completed);
}

#[tokio::test(start_paused = true)]
async fn a_future_dropped_after_its_deadline_but_not_polled_then_is_a_client_that_left() {
    let (layer, watch) = watched(MemoryLayer::builder().timeout(SECOND));
    let mut future = Box::pin(layer.layer(never_answering()).call(get("/")));
    assert!(poll_once(&mut future).is_pending());
    sleep(2 * SECOND).await;
    drop(future);
    assert_eq!(watch.outcome_now(), Outcome::Abandoned);
}

#[tokio::test(start_paused = true)]
async fn the_handler_can_tighten_its_deadline_and_not_widen_it() {
    for (tightened, expected, source) in [
        (SECOND, SECOND, DeadlineSource::Handler),
        (20 * SECOND, 10 * SECOND, DeadlineSource::Layer),
        (Duration::MAX, 10 * SECOND, DeadlineSource::Layer),
        (Duration::ZERO, Duration::ZERO, DeadlineSource::Handler),
    ] {
        let (layer, watch) = watched(MemoryLayer::builder().timeout(10 * SECOND));
        let service = layer.layer(service_fn(
            move |request: Request<Empty<Bytes>>| async move {
                let scope = scope_of(&request);
                assert_eq!(scope.remaining(), Some(10 * SECOND));
                scope.shorten_deadline(tightened);
                assert_eq!(scope.remaining(), Some(expected));
                use_everything(&scope);
                std::future::pending::<Result<Response<Steps>, Refused>>().await
            },
        ));
        let start = Instant::now();
        let response = service.oneshot(get("/")).await.unwrap();
        assert_eq!(response.status(), 504);
        // Timers tick in milliseconds.
        assert!(start.elapsed() - expected <= Duration::from_millis(1));
        drop(response);
        assert_eq!(watch.report().await.deadline_source, Some(source));
    }
}

#[tokio::test(start_paused = true)]
async fn a_deadline_tightened_after_the_first_poll_is_kept() {
    for timeout in [None, Some(10 * SECOND)] {
        let layer =
            timeout.map_or_else(MemoryLayer::builder, |t| MemoryLayer::builder().timeout(t));
        let (layer, watch) = watched(layer);
        let service = layer.layer(service_fn(async |request: Request<Empty<Bytes>>| {
            let scope = scope_of(&request);
            sleep(SECOND).await;
            scope.shorten_deadline(SECOND);
            std::future::pending::<Result<Response<Steps>, Refused>>().await
        }));
        let start = Instant::now();
        let response = service.oneshot(get("/")).await.unwrap();
        assert_eq!(response.status(), 504);
        assert!(start.elapsed() - 2 * SECOND <= Duration::from_millis(2));
        drop(response);
        assert_eq!(
            watch.report().await.deadline_source,
            Some(DeadlineSource::Handler)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn tasks_are_cancelled_at_the_deadline_and_not_only_when_the_answer_is_read() {
    let ended = Arc::new(Mutex::new(None));
    let (layer, watch) = watched(MemoryLayer::builder().timeout(SECOND));
    let service = layer.layer(service_fn({
        let ended = Arc::clone(&ended);
        move |request: Request<Empty<Bytes>>| {
            let (scope, ended) = (scope_of(&request), Arc::clone(&ended));
            async move {
                scope.spawn({
                    let scope = scope.clone();
                    async move {
                        let reason = scope.cancelled().await;
                        *ended.lock().unwrap() = Some((reason, Instant::now()));
                    }
                });
                std::future::pending::<Result<Response<Steps>, Refused>>().await
            }
        }
    }));
    let response = service.oneshot(get("/")).await.unwrap();
    let deadline = Instant::now();
    sleep(3 * SECOND).await;
    let (reason, at) = ended.lock().unwrap().take().unwrap();
    assert_eq!(reason.deadline_source(), Some(DeadlineSource::Layer));
    assert_eq!(at, deadline);
    watch.assert_open();
    drop(response);
    assert_eq!(watch.report().await.outcome, Outcome::DeadlineExceeded);
}

#[tokio::test(start_paused = true)]
async fn of_two_layers_the_shorter_timeout_holds_and_there_is_one_scope() {
    for (outer, inner) in [
        (Some(SECOND), Some(5 * SECOND)),
        (Some(5 * SECOND), Some(SECOND)),
        (None, Some(SECOND)),
        (Some(SECOND), None),
    ] {
        let layer = |timeout: Option<Duration>| {
            watched(
                timeout.map_or_else(MemoryLayer::builder, |t| MemoryLayer::builder().timeout(t)),
            )
        };
        let ((outer, watch), (inner, inner_watch)) = (layer(outer), layer(inner));
        let service = outer.layer(inner.layer(never_answering()));
        let start = Instant::now();
        let response = service.oneshot(get("/")).await.unwrap();
        assert!(start.elapsed() - SECOND <= Duration::from_millis(1));
        assert_eq!(response.status(), 504);
        assert_eq!(
            response.headers().get_all("x-arena-source").iter().count(),
            1
        );
        response.into_body().collect().await.unwrap();
        assert_eq!(
            watch.report_now().deadline_source,
            Some(DeadlineSource::Layer)
        );
        assert!(inner_watch.reports(0).await.is_empty());
        assert!(inner_watch.handle.snapshot().routes.is_empty());
    }
}

#[test]
fn an_inner_layer_passes_the_body_on_and_leaves_the_end_to_the_outer_one() {
    let (outer, watch) = watched(MemoryLayer::builder().route("outer"));
    let (inner, inner_watch) = watched(MemoryLayer::builder().route("inner"));
    let service = outer.layer(inner.layer(answering(Steps::data(["data"]).with_length(4))));
    let response = service
        .clone()
        .oneshot(get("/"))
        .now_or_never()
        .unwrap()
        .unwrap();
    assert_eq!(response.headers()["x-alloc-route"], "inner");
    assert_eq!(response.body().size_hint().exact(), Some(4));
    watch.assert_open();
    let body = response
        .into_body()
        .collect()
        .now_or_never()
        .unwrap()
        .unwrap();
    assert_eq!(body.to_bytes(), "data");
    let report = watch.report_now();
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!(report.route.as_str(), "inner");
    assert!(inner_watch.handle.snapshot().routes.is_empty());
}

#[test]
fn exits_inside_of_two_layers_are_reported_once_by_the_outer_one() {
    let nested = || {
        let (outer, watch) = watched(MemoryLayer::builder());
        let inner = MemoryLayer::new();
        (outer, inner, watch)
    };
    let (outer, inner, watch) = nested();
    let mut future = Box::pin(outer.layer(inner.layer(never_answering())).call(get("/")));
    assert!(poll_once(&mut future).is_pending());
    drop(future);
    assert_eq!(watch.outcome_now(), Outcome::Abandoned);

    let (outer, inner, watch) = nested();
    let service = outer.layer(inner.layer(answering(Steps::data(["data"]))));
    drop(service.oneshot(get("/")).now_or_never().unwrap().unwrap());
    assert_eq!(watch.outcome_now(), Outcome::Abandoned);

    let (outer, inner, watch) = nested();
    let service = outer.layer(inner.layer(service_fn(async |_: Request<Empty<Bytes>>| {
        Err::<Response<Steps>, _>(Refused)
    })));
    assert!(service.oneshot(get("/")).now_or_never().unwrap().is_err());
    assert_eq!(watch.outcome_now(), Outcome::ServiceError);
}

#[test]
fn a_scope_that_is_over_is_not_taken_for_an_outer_one() {
    let kept = Arc::new(Mutex::new(None::<RequestScope>));
    let (layer, watch) = watched(MemoryLayer::builder());
    let service = layer.layer(service_fn({
        let kept = Arc::clone(&kept);
        move |request: Request<Empty<Bytes>>| {
            let former = kept.lock().unwrap().replace(scope_of(&request));
            assert!(former.is_none_or(|former| former.is_ended()));
            std::future::ready(Ok::<_, Refused>(Response::new(Full::<Bytes>::default())))
        }
    }));
    for _ in 0..2 {
        let mut request = get("/");
        if let Some(former) = &*kept.lock().unwrap() {
            request.extensions_mut().insert(former.clone());
        }
        drop(
            service
                .clone()
                .oneshot(request)
                .now_or_never()
                .unwrap()
                .unwrap(),
        );
    }
    kept.lock().unwrap().take();
    let requests = watch.handle.snapshot().routes[0].requests;
    assert_eq!(requests, 2, "the second request got a scope of its own");
}

#[tokio::test]
async fn an_inner_layer_polled_by_a_task_of_its_own_works_for_the_outer_scope() {
    let (outer, watch) = watched(MemoryLayer::builder().route("outer"));
    let handler = MemoryLayer::new().layer(service_fn(async |_: Request<Empty<Bytes>>| {
        tokio::task::yield_now().await;
        let route = RequestScope::current().map(|scope| scope.route().to_string());
        Ok::<_, Refused>(Response::new(Full::new(Bytes::from(
            route.unwrap_or_default(),
        ))))
    }));
    let service = outer.layer(service_fn(move |request: Request<Empty<Bytes>>| {
        let answer = tokio::spawn(handler.clone().oneshot(request));
        async move { answer.await.unwrap() }
    }));
    let response = service.oneshot(get("/")).await.unwrap();
    let body = response.into_body().collect().await.unwrap();
    assert_eq!(body.to_bytes(), "outer");
    assert_eq!(watch.outcome().await, Outcome::Completed);
}

/// Never ends, and uses up what tokio lets a task do in one poll.
async fn greedy<T>() -> T {
    loop {
        tokio::task::consume_budget().await;
    }
}

/// In real time, since paused time goes on only when nobody has anything to do.
#[tokio::test]
async fn a_greedy_handler_has_its_deadline_and_greedy_tasks_their_grace() {
    let layer = MemoryLayer::builder()
        .timeout(Duration::from_millis(20))
        .grace_period(Duration::from_millis(20));
    let (layer, watch) = watched(layer);
    let service = layer.layer(service_fn(async |request: Request<Empty<Bytes>>| {
        scope_of(&request).spawn(greedy::<()>());
        greedy::<Result<Response<Steps>, Refused>>().await
    }));
    let answered = tokio::time::timeout(Duration::from_secs(30), service.oneshot(get("/")));
    let response = answered.await.expect("the deadline").unwrap();
    assert_eq!(response.status(), 504);
    drop(response);
    let report = watch.report().await;
    assert_eq!(report.outcome, Outcome::DeadlineExceeded);
    assert_eq!((report.tasks_spawned, report.tasks_aborted), (1, 1));
}
