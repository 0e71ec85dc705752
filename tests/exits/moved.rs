//! Deadlines that are moved while the request runs. Time is paused.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body_util::{Empty, Full};
use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};
use tower::{Layer, ServiceExt, service_fn};
use tower_memory::{
    MemoryLayer, RequestScope, cancel::DeadlineSource, deadline_header::DeadlineHeader,
    middleware::MemoryLayerBuilder,
};

use super::support::{Refused, Steps, get, scope_of, use_everything, watched};

const SECOND: Duration = Duration::from_secs(1);

/// When a request ends on whose scope a task does this after a second, while the handler waits for
/// something else.
async fn ended_after(layer: MemoryLayerBuilder, act: fn(&RequestScope)) -> (u16, Duration) {
    let (layer, watch) = watched(layer);
    let service = layer.layer(service_fn(
        move |request: Request<Empty<Bytes>>| async move {
            let scope = scope_of(&request);
            use_everything(&scope);
            tokio::spawn({
                let scope = scope.clone();
                async move {
                    sleep(SECOND).await;
                    act(&scope);
                }
            });
            sleep(20 * SECOND).await;
            Ok::<_, Refused>(Response::new(Full::new(Bytes::new())))
        },
    ));
    let mut request = get("/");
    request.headers_mut().insert(
        DeadlineHeader::RequestTimeout.name(),
        HeaderValue::from_static("10000"),
    );
    let start = Instant::now();
    let response = service.oneshot(request).await.unwrap();
    let (status, after) = (response.status().as_u16(), start.elapsed());
    drop(response);
    watch.report().await;
    (status, Duration::from_secs(after.as_secs()))
}

#[tokio::test(start_paused = true)]
async fn a_deadline_tightened_by_a_task_ends_a_handler_that_waits() {
    let tighten = |scope: &RequestScope| scope.shorten_deadline(SECOND);
    // With a timer that was armed for later, and with none.
    for layer in [
        MemoryLayer::builder().timeout(15 * SECOND),
        MemoryLayer::builder(),
    ] {
        assert_eq!(ended_after(layer, tighten).await, (504, 2 * SECOND));
    }
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_is_extended_holds_later() {
    let layer = || MemoryLayer::builder().timeout(2 * SECOND);
    let extend = |scope: &RequestScope| assert!(scope.extend_deadline(5 * SECOND));
    assert_eq!(ended_after(layer(), extend).await, (504, 6 * SECOND));
    let not_earlier = |scope: &RequestScope| assert!(scope.extend_deadline(SECOND / 2));
    assert_eq!(ended_after(layer(), not_earlier).await, (504, 2 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn a_timeout_that_is_disabled_does_not_come() {
    let layer = || MemoryLayer::builder().timeout(2 * SECOND);
    let disable = RequestScope::clear_deadline;
    assert_eq!(ended_after(layer(), disable).await, (200, 20 * SECOND));
    let again = |scope: &RequestScope| {
        scope.clear_deadline();
        assert_eq!((scope.deadline(), scope.remaining()), (None, None));
        scope.shorten_deadline(3 * SECOND);
    };
    assert_eq!(ended_after(layer(), again).await, (504, 4 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn what_the_request_asks_for_is_neither_extended_nor_disabled() {
    let layer = || {
        MemoryLayer::builder()
            .timeout(2 * SECOND)
            .trust_deadline(DeadlineHeader::RequestTimeout)
    };
    let disable = RequestScope::clear_deadline;
    assert_eq!(ended_after(layer(), disable).await, (504, 10 * SECOND));
    let extend = |scope: &RequestScope| {
        assert!(scope.extend_deadline(5 * SECOND));
        assert!(
            !scope.extend_deadline(15 * SECOND),
            "9 s are left of the request's own"
        );
        assert!(!scope.extend_deadline(Duration::MAX));
    };
    assert_eq!(ended_after(layer(), extend).await, (504, 10 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_extended_after_the_deadline() {
    let (layer, watch) = watched(MemoryLayer::builder().timeout(SECOND));
    let kept = Arc::new(std::sync::Mutex::new(None));
    let service = layer.layer(service_fn({
        let kept = Arc::clone(&kept);
        move |request: Request<Empty<Bytes>>| {
            *kept.lock().unwrap() = Some(scope_of(&request));
            std::future::pending::<Result<Response<Steps>, Refused>>()
        }
    }));
    let response = service.oneshot(get("/")).await.unwrap();
    let scope = kept.lock().unwrap().take().unwrap();
    assert!(!scope.extend_deadline(10 * SECOND));
    drop((response, scope));
    let source = DeadlineSource::Layer;
    let report = watch.report_now();
    assert_eq!(report.deadline_source, Some(source));
}

/// A waker that was left in the scope would keep its task, a connection, for as long as a handle.
#[tokio::test(start_paused = true)]
async fn a_scope_that_outlives_its_response_does_not_keep_the_task_that_waited() {
    struct Flag(Notify);
    impl std::task::Wake for Flag {
        fn wake(self: Arc<Self>) {
            self.0.notify_one();
        }
    }

    for answers in [true, false] {
        let (layer, watch) = watched(MemoryLayer::builder());
        let kept = Arc::new(std::sync::Mutex::new(None));
        let release = Arc::new(Notify::new());
        let mut service = layer.layer(service_fn({
            let (kept, release) = (Arc::clone(&kept), Arc::clone(&release));
            move |request: Request<Empty<Bytes>>| {
                *kept.lock().unwrap() = Some(scope_of(&request));
                let release = Arc::clone(&release);
                async move {
                    release.notified().await;
                    Ok::<_, Refused>(Response::new(Full::<Bytes>::default()))
                }
            }
        }));
        let flag = Arc::new(Flag(Notify::new()));
        let waker = std::task::Waker::from(Arc::clone(&flag));
        let mut future = Box::pin(tower::Service::call(&mut service, get("/")));
        let mut cx = std::task::Context::from_waker(&waker);
        assert!(future.as_mut().poll(&mut cx).is_pending());
        if answers {
            release.notify_one();
            assert!(future.as_mut().poll(&mut cx).is_ready());
        }
        drop(future);
        drop(waker);
        assert_eq!(Arc::strong_count(&flag), 1, "answers: {answers}");
        assert!(kept.lock().unwrap().take().is_some());
        watch.report().await;
    }
}
