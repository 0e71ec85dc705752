//! When a response body counts as complete.

use std::{
    convert::Infallible,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::atomic::{AtomicUsize, Ordering},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Method, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{Empty, Full};
use tower::{Layer, ServiceExt, service_fn};
use tower_memory::{MemoryLayer, Outcome, middleware::ResponseBody};

use super::support::{
    Refused, Step, Steps, Watch, answering, data, get, next_data, poll_body, scope_of, trailers,
    use_everything, watched,
};

/// A response's body whose scope is open.
fn open<B>(body: B) -> (ResponseBody<B>, Watch)
where
    B: Body + Clone + Send + 'static,
{
    let (layer, watch) = watched(MemoryLayer::builder());
    let service = layer.layer(answering(body));
    let response = service.oneshot(get("/")).now_or_never().unwrap();
    watch.assert_open();
    let Ok(response) = response;
    (response.into_body(), watch)
}

/// The body of a response with this method, status and head.
fn open_as(
    method: Method,
    status: StatusCode,
    length: Option<u64>,
    body: &Steps,
) -> (ResponseBody<Steps>, Watch) {
    let (layer, watch) = watched(MemoryLayer::builder());
    let service = layer.layer(service_fn(|request: Request<Empty<Bytes>>| {
        scope_of(&request).arena().alloc_str("in the arena");
        let mut response = Response::builder().status(status);
        if let Some(length) = length {
            response = response.header("content-length", length);
        }
        std::future::ready(Ok::<_, Refused>(response.body(body.clone()).unwrap()))
    }));
    let request = Request::builder()
        .method(method)
        .body(Empty::new())
        .unwrap();
    let response = service.oneshot(request).now_or_never().unwrap().unwrap();
    watch.assert_open();
    (response.into_body(), watch)
}

#[test]
fn a_body_polled_to_its_end_is_completed_there() {
    let (mut body, watch) = open(Steps::data(["one", "two"]));
    assert_eq!(next_data(&mut body), "one");
    assert_eq!(next_data(&mut body), "two");
    watch.assert_open();
    assert!(matches!(poll_body(&mut body), Poll::Ready(None)));
    // Before the drop.
    assert_eq!(watch.outcome_now(), Outcome::Completed);
    assert!(matches!(poll_body(&mut body), Poll::Ready(None)));
    assert!(body.is_end_stream());
    drop(body);
    assert_eq!(watch.outcome_now(), Outcome::Completed);
}

#[test]
fn a_body_dropped_unpolled_is_abandoned() {
    for steps in [Steps::data(["data"]), Steps::data(["data"]).with_length(4)] {
        let (body, watch) = open(steps);
        drop(body);
        assert_eq!(watch.outcome_now(), Outcome::Abandoned);
    }
    let (body, watch) = open(Full::new(Bytes::from_static(b"data")));
    drop(body);
    assert_eq!(watch.outcome_now(), Outcome::Abandoned);
}

#[test]
fn an_empty_body_dropped_unpolled_is_completed() {
    let (body, watch) = open(Full::new(Bytes::new()));
    drop(body);
    assert_eq!(watch.outcome_now(), Outcome::Completed);
    let (body, watch) = open(Empty::<Bytes>::new());
    drop(body);
    assert_eq!(watch.outcome_now(), Outcome::Completed);
    for steps in [
        Steps::data([]).with_length(0),
        Steps::data([]).telling_its_end(),
    ] {
        let (body, watch) = open(steps);
        drop(body);
        assert_eq!(watch.outcome_now(), Outcome::Completed);
    }
    // One that tells nothing may have anything to come.
    let (body, watch) = open(Steps::data([]));
    drop(body);
    assert_eq!(watch.outcome_now(), Outcome::Abandoned);
}

#[test]
fn a_body_dropped_after_all_its_bytes_is_completed() {
    let (mut body, watch) = open(Steps::data(["one", "two"]).with_length(6));
    next_data(&mut body);
    next_data(&mut body);
    watch.assert_open();
    drop(body);
    assert_eq!(watch.outcome_now(), Outcome::Completed);
}

#[test]
fn a_body_dropped_before_its_last_byte_is_not_completed() {
    let (mut body, watch) = open(Steps::data(["one", "two"]).with_length(6));
    next_data(&mut body);
    drop(body);
    assert_eq!(watch.outcome_now(), Outcome::Abandoned);
}

#[test]
fn a_content_length_header_is_a_promise_too() {
    let steps = Steps::data(["one", "two"]);
    for (polls, outcome) in [(1, Outcome::Abandoned), (2, Outcome::Completed)] {
        let (mut body, watch) = open_as(Method::GET, StatusCode::OK, Some(6), &steps);
        for _ in 0..polls {
            next_data(&mut body);
        }
        drop(body);
        assert_eq!(watch.outcome_now(), outcome);
    }
    let (body, watch) = open_as(Method::GET, StatusCode::OK, Some(0), &Steps::data([]));
    drop(body);
    assert_eq!(watch.outcome_now(), Outcome::Completed);
}

#[test]
fn a_body_that_tells_its_end_with_the_last_data_is_completed() {
    let (mut body, watch) = open(Steps::data(["one", "two"]).telling_its_end());
    next_data(&mut body);
    assert!(!body.is_end_stream());
    next_data(&mut body);
    assert!(body.is_end_stream());
    // Before the drop.
    assert_eq!(watch.outcome_now(), Outcome::Completed);
    drop(body);
    assert_eq!(watch.outcome_now(), Outcome::Completed);

    let (mut body, watch) = open(Steps::data(["one", "two"]).telling_its_end());
    next_data(&mut body);
    drop(body);
    assert_eq!(watch.outcome_now(), Outcome::Abandoned);
}

#[test]
fn a_body_dropped_after_its_trailers_is_completed() {
    let (mut body, watch) = open(Steps::new([data("data"), trailers()]));
    next_data(&mut body);
    let Poll::Ready(Some(Ok(frame))) = poll_body(&mut body) else {
        panic!("no trailers");
    };
    assert_eq!(frame.into_trailers().unwrap()["x-sum"], "42");
    assert_eq!(watch.outcome_now(), Outcome::Completed);
    drop(body);
    assert_eq!(watch.outcome_now(), Outcome::Completed);
}

#[test]
fn a_body_that_fails_is_a_service_error_there() {
    let (mut body, watch) = open(Steps::new([data("data"), Step::Fail]));
    next_data(&mut body);
    let Poll::Ready(Some(Err(error))) = poll_body(&mut body) else {
        panic!("no error");
    };
    assert!(error.is::<Refused>(), "the body's own error: {error:?}");
    assert_eq!(watch.outcome_now(), Outcome::ServiceError);
    assert!(matches!(poll_body(&mut body), Poll::Ready(None)));
    drop(body);
    assert_eq!(watch.outcome_now(), Outcome::ServiceError);
}

#[test]
fn a_body_that_panics_is_panicked_even_if_that_is_caught() {
    let (mut body, watch) = open(Steps::new([data("data"), Step::Panic]));
    next_data(&mut body);
    assert!(catch_unwind(AssertUnwindSafe(|| poll_body(&mut body).is_ready())).is_err());
    watch.assert_open();
    drop(body);
    assert_eq!(watch.outcome_now(), Outcome::Panicked);
}

#[test]
fn a_panic_in_the_drop_of_a_body_is_panicked() {
    #[derive(Clone)]
    struct Bomb(Steps);
    impl Drop for Bomb {
        fn drop(&mut self) {
            // Only the one that is the response's: it was made without anything to give out.
            if self.0.is_end_stream() && tower_memory::RequestScope::current().is_some() {
                panic!("the drop panics");
            }
        }
    }
    impl Body for Bomb {
        type Data = Bytes;
        type Error = Refused;
        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Refused>>> {
            Pin::new(&mut self.0).poll_frame(cx)
        }
    }
    let (body, watch) = open(Bomb(Steps::data([]).telling_its_end()));
    assert!(catch_unwind(AssertUnwindSafe(|| drop(body))).is_err());
    assert_eq!(watch.outcome_now(), Outcome::Panicked);
}

#[test]
fn a_body_that_panics_when_it_is_asked_for_its_size_is_panicked() {
    #[derive(Clone)]
    struct Unsure;
    impl Body for Unsure {
        type Data = Bytes;
        type Error = Refused;
        fn poll_frame(
            self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Refused>>> {
            Poll::Ready(None)
        }
        fn size_hint(&self) -> SizeHint {
            panic!("the size hint panics")
        }
    }
    let (layer, watch) = watched(MemoryLayer::builder());
    let service = layer.layer(answering(Unsure));
    let asked = catch_unwind(AssertUnwindSafe(|| {
        service.oneshot(get("/")).now_or_never()
    }));
    assert!(asked.is_err());
    assert_eq!(watch.outcome_now(), Outcome::Panicked);
}

#[test]
fn a_stalled_body_that_is_dropped_is_abandoned() {
    let (mut body, watch) = open(Steps::new([data("data"), Step::Stall]));
    next_data(&mut body);
    assert!(poll_body(&mut body).is_pending());
    assert!(poll_body(&mut body).is_pending());
    watch.assert_open();
    drop(body);
    assert_eq!(watch.outcome_now(), Outcome::Abandoned);
}

#[test]
fn responses_without_a_body_by_the_rules_of_http_are_completed_unpolled() {
    let steps = Steps::new([data("never sent"), Step::Stall]);
    for (method, status) in [
        (Method::HEAD, StatusCode::OK),
        (Method::HEAD, StatusCode::NOT_FOUND),
        (Method::GET, StatusCode::NO_CONTENT),
        (Method::GET, StatusCode::NOT_MODIFIED),
        (Method::GET, StatusCode::SWITCHING_PROTOCOLS),
        (Method::GET, StatusCode::CONTINUE),
        (Method::CONNECT, StatusCode::OK),
    ] {
        let (body, watch) = open_as(method.clone(), status, None, &steps);
        drop(body);
        assert_eq!(watch.outcome_now(), Outcome::Completed, "{method} {status}");
    }
    for (method, status) in [
        (Method::GET, StatusCode::OK),
        (Method::POST, StatusCode::INTERNAL_SERVER_ERROR),
        (Method::CONNECT, StatusCode::FORBIDDEN),
    ] {
        let (body, watch) = open_as(method.clone(), status, None, &steps);
        drop(body);
        assert_eq!(watch.outcome_now(), Outcome::Abandoned, "{method} {status}");
    }
}

#[test]
fn hints_are_the_inner_bodys() {
    let (mut body, _watch) = open(Steps::data(["one", "two"]).with_length(6));
    assert_eq!(body.size_hint().exact(), Some(6));
    next_data(&mut body);
    assert_eq!(body.size_hint().exact(), Some(3));

    let (body, _watch) = open(Steps::data(["one"]));
    assert_eq!(
        (body.size_hint().lower(), body.size_hint().upper()),
        (0, None)
    );
    assert!(!body.is_end_stream());
    let (body, _watch) = open(Steps::data([]).telling_its_end());
    assert!(body.is_end_stream());
}

#[test]
fn bytes_of_a_buffer_keep_its_block_out_after_the_scope_has_closed() {
    let (layer, watch) = watched(MemoryLayer::builder());
    let service = layer.layer(service_fn(async |request: Request<Empty<Bytes>>| {
        let bytes = super::support::arena_bytes(&scope_of(&request), &"data".repeat(100));
        Ok::<_, Refused>(Response::new(Full::new(bytes)))
    }));
    let response = service.oneshot(get("/")).now_or_never().unwrap().unwrap();
    let mut body = response.into_body();
    let bytes = next_data(&mut body);
    drop(body);
    let snapshot = watch.handle.snapshot();
    assert_eq!((snapshot.in_flight, snapshot.pool.buffers), (0, 1));
    assert_eq!(bytes, "data".repeat(100));
    drop(bytes);
    let report = watch.report_now();
    assert_eq!(report.outcome, Outcome::Completed);
    let pool = watch.handle.snapshot().pool;
    assert_eq!((pool.rented, pool.buffers, pool.pooled_buffers), (0, 0, 1));
}

#[test]
fn the_default_body_is_the_inner_default_and_of_no_scope() {
    let body = ResponseBody::<Full<Bytes>>::default();
    assert!(body.is_end_stream());
    assert_eq!(body.size_hint().exact(), Some(0));
}

/// A body that panics when it is asked something after its head.
struct Unasked {
    asked: AtomicUsize,
    about_its_end: bool,
}

impl Unasked {
    /// The layer asks once, for the head.
    fn asked(&self, about_its_end: bool) {
        if about_its_end == self.about_its_end {
            assert_eq!(self.asked.fetch_add(1, Ordering::Relaxed), 0);
        }
    }
}

impl Body for Unasked {
    type Data = Bytes;
    type Error = Refused;

    fn poll_frame(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Refused>>> {
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        self.asked(true);
        false
    }

    fn size_hint(&self) -> SizeHint {
        self.asked(false);
        SizeHint::default()
    }
}

#[tokio::test]
async fn a_body_that_panics_when_a_server_asks_it_something_has_panicked() {
    for about_its_end in [true, false] {
        for limited in [true, false] {
            let mut layer = MemoryLayer::builder();
            if limited {
                layer = layer.body_timeout(Duration::from_secs(60));
            }
            let (layer, watch) = watched(layer);
            let service = layer.layer(service_fn(move |request: Request<Empty<Bytes>>| {
                use_everything(&scope_of(&request));
                let asked = AtomicUsize::new(0);
                std::future::ready(Ok::<_, Infallible>(Response::new(Unasked {
                    asked,
                    about_its_end,
                })))
            }));
            let body = service.oneshot(get("/")).await.unwrap().into_body();
            let asks = || {
                let body = body;
                if about_its_end {
                    body.is_end_stream();
                } else {
                    body.size_hint();
                }
            };
            assert!(catch_unwind(AssertUnwindSafe(asks)).is_err());
            assert_eq!(watch.outcome().await, Outcome::Panicked);
        }
    }
}
