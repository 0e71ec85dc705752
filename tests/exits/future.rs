//! What can happen to the service and its future before there is a response.

use std::{
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use tokio::task::yield_now;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_memory::{MemoryLayer, MemoryService, Outcome, RequestScope};

use super::support::{
    Refused, Steps, answering, get, never_answering, poll_once, scope_of, use_everything, watched,
};

#[test]
fn dropping_the_response_future_unpolled_ends_the_scope_as_abandoned() {
    let (layer, watch) = watched(MemoryLayer::builder());
    let mut service = layer.layer(never_answering());
    let future = service.call(get("/"));
    watch.assert_open();
    drop(future);
    let report = watch.report_now();
    assert_eq!(report.outcome, Outcome::Abandoned);
    assert_eq!(report.time_to_head, None);
}

#[test]
fn dropping_a_future_that_would_be_ready_ends_the_scope_as_abandoned() {
    let (layer, watch) = watched(MemoryLayer::builder());
    drop(layer.layer(answering(Steps::default())).call(get("/")));
    assert_eq!(watch.outcome_now(), Outcome::Abandoned);
}

#[test]
fn dropping_the_response_future_ends_the_scope_as_abandoned() {
    let (layer, watch) = watched(MemoryLayer::builder());
    let mut future = Box::pin(layer.layer(never_answering()).call(get("/")));
    for _ in 0..3 {
        assert!(poll_once(&mut future).is_pending());
        watch.assert_open();
    }
    drop(future);
    assert_eq!(watch.outcome_now(), Outcome::Abandoned);
}

#[test]
fn the_handler_is_dropped_inside_its_scope_and_before_its_end() {
    struct Tell(Arc<Mutex<Option<bool>>>);
    impl Drop for Tell {
        fn drop(&mut self) {
            let scope = RequestScope::current();
            *self.0.lock().unwrap() = scope.map(|scope| scope.is_ended());
        }
    }
    let ended_at_drop = Arc::new(Mutex::new(None));
    let (layer, watch) = watched(MemoryLayer::builder());
    let mut service = layer.layer(service_fn({
        let ended_at_drop = Arc::clone(&ended_at_drop);
        move |_: Request<Empty<Bytes>>| {
            let tell = Tell(Arc::clone(&ended_at_drop));
            Box::pin(async move {
                let _tell = tell;
                std::future::pending::<Result<Response<Steps>, Refused>>().await
            })
        }
    }));
    drop(service.call(get("/")));
    assert_eq!(*ended_at_drop.lock().unwrap(), Some(false));
    assert_eq!(watch.outcome_now(), Outcome::Abandoned);
}

#[tokio::test]
async fn an_error_of_the_service_is_passed_on_and_ends_the_scope_as_service_error() {
    let (layer, watch) = watched(MemoryLayer::builder());
    let service = layer.layer(service_fn(async |request: Request<Empty<Bytes>>| {
        use_everything(&scope_of(&request));
        Err::<Response<Steps>, _>(Refused)
    }));
    let error = service.oneshot(get("/")).await.err();
    assert_eq!(error, Some(Refused));
    let report = watch.report().await;
    assert_eq!(report.outcome, Outcome::ServiceError);
}

/// Panics in `call`.
#[derive(Clone)]
struct PanicsInCall;

impl<B> Service<Request<B>> for PanicsInCall {
    type Response = Response<Steps>;
    type Error = Refused;
    type Future = std::future::Pending<Result<Response<Steps>, Refused>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Refused>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        scope_of(&request).arena().alloc_str("in the arena");
        panic!("`call` panics");
    }
}

#[test]
fn a_panic_in_call_ends_the_scope_as_panicked() {
    let (layer, watch) = watched(MemoryLayer::builder());
    let mut service = layer.layer(PanicsInCall);
    let caught = catch_unwind(AssertUnwindSafe(|| service.call(get("/"))));
    assert!(caught.is_err());
    assert_eq!(watch.outcome_now(), Outcome::Panicked);
    assert!(RequestScope::current().is_none());
}

/// A service that panics at its second poll, which gives its scope away first.
fn panicking_late() -> impl Service<
    Request<Empty<Bytes>>,
    Response = Response<Steps>,
    Error = Refused,
    Future: Send + Unpin + 'static,
> + Clone {
    service_fn(|request: Request<Empty<Bytes>>| {
        Box::pin(async move {
            scope_of(&request).arena().alloc_str("in the arena");
            yield_now().await;
            panic!("the handler panics");
        })
    })
}

#[tokio::test]
async fn a_panic_in_a_spawned_request_ends_the_scope_as_panicked() {
    let (layer, watch) = watched(MemoryLayer::builder());
    let mut service = layer.layer(panicking_late());
    let error = tokio::spawn(service.call(get("/"))).await.err();
    assert!(error.is_some_and(|error| error.is_panic()));
    assert_eq!(watch.outcome().await, Outcome::Panicked);
}

#[test]
fn a_caught_panic_cancels_at_once_and_the_drop_of_the_future_ends_the_scope() {
    let scope = Arc::new(Mutex::new(None));
    let (layer, watch) = watched(MemoryLayer::builder());
    let mut service = layer.layer(service_fn({
        let kept = Arc::clone(&scope);
        move |request: Request<Empty<Bytes>>| {
            *kept.lock().unwrap() = Some(scope_of(&request));
            std::future::poll_fn(|_| -> Poll<Result<Response<Steps>, Refused>> {
                panic!("the handler panics")
            })
        }
    }));
    let mut future = Box::pin(service.call(get("/")));
    let caught = catch_unwind(AssertUnwindSafe(|| poll_once(&mut future).is_ready()));
    assert!(caught.is_err());
    watch.assert_open();
    let scope = scope.lock().unwrap().take().unwrap();
    assert!(
        scope
            .reason()
            .is_some_and(|reason| reason == Outcome::Panicked)
    );
    assert!(scope.child_token().is_cancelled());
    assert!(!scope.is_ended());
    // Not unwinding any more: `std::thread::panicking` would not tell.
    drop(future);
    assert!(scope.is_ended());
    drop(scope);
    assert_eq!(watch.outcome_now(), Outcome::Panicked);
}

#[test]
fn a_panic_that_the_handler_catches_itself_is_none_of_the_request() {
    let (layer, watch) = watched(MemoryLayer::builder());
    let service = layer.layer(service_fn(async |_: Request<Empty<Bytes>>| {
        assert!(catch_unwind(|| panic!("caught further in")).is_err());
        Ok::<_, Refused>(Response::new(Full::new(Bytes::from_static(b"fine"))))
    }));
    let response = service.oneshot(get("/")).now_or_never().unwrap().unwrap();
    drop(
        response
            .into_body()
            .collect()
            .now_or_never()
            .unwrap()
            .unwrap(),
    );
    assert_eq!(watch.outcome_now(), Outcome::Completed);
}

/// Drops what it holds while a panic of somebody else unwinds.
fn drop_while_unwinding<T>(value: T) {
    let caught = catch_unwind(AssertUnwindSafe(|| {
        let _held = value;
        panic!("an outer panic");
    }));
    assert!(caught.is_err());
}

#[test]
fn a_future_dropped_by_an_outer_panic_is_no_panic_of_the_request() {
    let (layer, watch) = watched(MemoryLayer::builder());
    let mut future = Box::pin(layer.layer(never_answering()).call(get("/")));
    assert!(poll_once(&mut future).is_pending());
    drop_while_unwinding(future);
    assert_eq!(watch.outcome_now(), Outcome::Abandoned);
}

#[test]
fn a_body_dropped_by_an_outer_panic_ends_as_it_would_without() {
    for (bytes, outcome) in [("", Outcome::Completed), ("data", Outcome::Abandoned)] {
        let (layer, watch) = watched(MemoryLayer::builder());
        let service = layer.layer(answering(Full::new(Bytes::from_static(bytes.as_bytes()))));
        let response = service.oneshot(get("/")).now_or_never().unwrap().unwrap();
        watch.assert_open();
        drop_while_unwinding(response);
        assert_eq!(watch.outcome_now(), outcome);
    }
}

#[test]
fn a_panic_in_the_drop_of_the_handler_ends_the_scope_as_panicked() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("the drop panics");
        }
    }
    let (layer, watch) = watched(MemoryLayer::builder());
    let mut service = layer.layer(service_fn(|_: Request<Empty<Bytes>>| {
        let bomb = Bomb;
        async move {
            let _bomb = bomb;
            std::future::pending::<Result<Response<Steps>, Refused>>().await
        }
    }));
    let future = service.call(get("/"));
    assert!(catch_unwind(AssertUnwindSafe(|| drop(future))).is_err());
    assert_eq!(watch.outcome_now(), Outcome::Panicked);
}

#[test]
fn a_handler_that_is_ready_at_once_needs_no_runtime() {
    for timeout in [None, Some(Duration::ZERO), Some(Duration::from_secs(1))] {
        let layer = timeout.map_or_else(MemoryLayer::builder, |timeout| {
            MemoryLayer::builder().timeout(timeout)
        });
        let (layer, watch) = watched(layer);
        let service = layer.layer(answering(Full::new(Bytes::from_static(b"data"))));
        let response = service.oneshot(get("/")).now_or_never().unwrap().unwrap();
        assert_eq!(response.status(), 200);
        let body = response
            .into_body()
            .collect()
            .now_or_never()
            .unwrap()
            .unwrap();
        assert_eq!(body.to_bytes(), "data");
        assert_eq!(watch.outcome_now(), Outcome::Completed);
    }
}

#[test]
fn a_pending_handler_without_a_deadline_needs_no_runtime() {
    let (layer, watch) = watched(MemoryLayer::builder());
    let mut service = layer.layer(service_fn(|request: Request<Empty<Bytes>>| {
        let polls = Cell::new(0);
        let scope = scope_of(&request);
        std::future::poll_fn(move |_| {
            polls.set(polls.get() + 1);
            scope.arena().alloc_str("in the arena");
            if polls.get() < 3 {
                return Poll::Pending;
            }
            Poll::Ready(Ok::<_, Refused>(Response::new(
                Steps::default().with_length(0),
            )))
        })
    }));
    let mut future = Box::pin(service.call(get("/")));
    assert!(poll_once(&mut future).is_pending());
    assert!(poll_once(&mut future).is_pending());
    assert!(poll_once(&mut future).is_ready());
    drop(future);
    assert_eq!(watch.outcome_now(), Outcome::Completed);
}

#[test]
fn polling_after_completion_panics_and_reports_nothing_more() {
    let (layer, watch) = watched(MemoryLayer::builder());
    let mut future = Box::pin(layer.layer(answering(Steps::data([]))).call(get("/")));
    let Poll::Ready(Ok(response)) = poll_once(&mut future) else {
        panic!("not ready");
    };
    assert!(catch_unwind(AssertUnwindSafe(|| poll_once(&mut future).is_ready())).is_err());
    drop((future, response));
    assert_eq!(watch.outcome_now(), Outcome::Abandoned);
}

#[tokio::test]
async fn readiness_is_the_inner_services() {
    let (layer, watch) = watched(MemoryLayer::builder());
    let (mut service, mut handle) =
        tower_test::mock::spawn_layer::<Request<Empty<Bytes>>, Response<Full<Bytes>>, MemoryLayer>(
            layer,
        );
    handle.allow(0);
    assert!(service.poll_ready::<Request<Empty<Bytes>>>().is_pending());
    assert!(service.poll_ready::<Request<Empty<Bytes>>>().is_pending());
    handle.allow(1);
    assert!(service.is_woken());
    assert!(matches!(
        service.poll_ready::<Request<Empty<Bytes>>>(),
        Poll::Ready(Ok(()))
    ));
    assert!(
        watch.handle.snapshot().routes.is_empty(),
        "nothing is taken before the call"
    );

    let response = tokio::spawn(service.call(get("/")));
    let (_, answer) = handle.next_request().await.unwrap();
    answer.send_response(Response::new(Full::default()));
    drop(response.await.unwrap().unwrap());
    assert_eq!(watch.outcome().await, Outcome::Completed);

    assert!(service.poll_ready::<Request<Empty<Bytes>>>().is_pending());
    handle.send_error(Refused);
    let Poll::Ready(Err(error)) = service.poll_ready::<Request<Empty<Bytes>>>() else {
        panic!("no error");
    };
    assert!(
        std::error::Error::source(&*error).is_some_and(|source| source.is::<Refused>())
            || error.is::<Refused>()
    );
}

#[test]
fn the_error_type_is_the_inner_services() {
    /// Is ready never.
    struct NeverReady;
    impl Service<Request<()>> for NeverReady {
        type Response = Response<Steps>;
        type Error = Refused;
        type Future = std::future::Pending<Result<Response<Steps>, Refused>>;

        fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Refused>> {
            Poll::Ready(Err(Refused))
        }

        fn call(&mut self, _request: Request<()>) -> Self::Future {
            unreachable!("it is never ready")
        }
    }
    let mut service: MemoryService<NeverReady> = MemoryLayer::new().layer(NeverReady);
    let ready: Poll<Result<(), Refused>> =
        service.poll_ready(&mut Context::from_waker(Waker::noop()));
    assert_eq!(ready, Poll::Ready(Err(Refused)));
}
