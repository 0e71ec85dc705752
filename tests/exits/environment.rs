//! What surrounds a request fails: user code that panics while it is dropped, runtimes inside of
//! runtimes and runtimes that end, values as large as a header can be.

use std::{
    convert::Infallible,
    panic::AssertUnwindSafe,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty, Full};
use tokio::time::sleep;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_memory::{
    MemoryLayer, Outcome, RequestScope,
    deadline_header::{DeadlineHeader, RequestStart},
};

use super::support::{get, poll_once, scope_of, use_everything, watched};

/// Panics when it is dropped, but not during another panic, which would end the process.
struct PanicsInDrop;

impl Drop for PanicsInDrop {
    fn drop(&mut self) {
        assert!(std::thread::panicking(), "a user's drop panics");
    }
}

/// One frame, and something that panics when it goes.
struct Dangerous {
    left: usize,
    _value: PanicsInDrop,
}

impl Body for Dangerous {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.left.checked_sub(1).map(|left| {
            self.left = left;
            Ok(Frame::data(Bytes::from_static(b"hello")))
        }))
    }
}

fn panics(f: impl FnOnce()) -> bool {
    std::panic::catch_unwind(AssertUnwindSafe(f)).is_err()
}

#[tokio::test]
async fn a_handler_whose_drop_panics_gives_everything_back() {
    for foreign in [false, true] {
        let (layer, watch) = watched(MemoryLayer::builder());
        let service = layer.layer(service_fn(|request: Request<Empty<Bytes>>| {
            let scope = scope_of(&request);
            async move {
                use_everything(&scope);
                let _value = PanicsInDrop;
                std::future::pending::<Result<Response<Full<Bytes>>, Infallible>>().await
            }
        }));
        let mut response = Box::pin(service.oneshot(get("/")));
        assert!(poll_once(&mut response).is_pending());
        if foreign {
            let dropped = std::thread::spawn(move || drop(response)).join();
            assert!(dropped.is_err(), "on a thread without a runtime");
        } else {
            assert!(panics(|| drop(response)));
        }
        assert_eq!(watch.outcome().await, Outcome::Panicked);
        assert!(RequestScope::current().is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_whose_drop_panics_at_its_deadline_gives_everything_back() {
    let (layer, watch) = watched(MemoryLayer::builder().timeout(Duration::from_millis(20)));
    let service = layer.layer(service_fn(|request: Request<Empty<Bytes>>| {
        let scope = scope_of(&request);
        async move {
            use_everything(&scope);
            let _value = PanicsInDrop;
            std::future::pending::<Result<Response<Full<Bytes>>, Infallible>>().await
        }
    }));
    let answer = AssertUnwindSafe(service.oneshot(get("/"))).catch_unwind();
    assert!(answer.await.is_err(), "the panic is the user's to see");
    assert_eq!(watch.outcome().await, Outcome::DeadlineExceeded);
    assert!(RequestScope::current().is_none());
}

#[tokio::test]
async fn a_body_whose_drop_panics_gives_everything_back() {
    for frames in [0, 1] {
        let (layer, watch) = watched(MemoryLayer::builder());
        let service = layer.layer(service_fn(|request: Request<Empty<Bytes>>| {
            use_everything(&scope_of(&request));
            let body = Dangerous {
                left: 2,
                _value: PanicsInDrop,
            };
            std::future::ready(Ok::<_, Infallible>(Response::new(body)))
        }));
        let mut body = service.oneshot(get("/")).await.unwrap().into_body();
        for _ in 0..frames {
            body.frame().await.unwrap().unwrap();
        }
        assert!(panics(|| drop(body)), "after {frames} frames");
        let outcome = watch.outcome().await;
        assert_eq!(outcome, Outcome::Panicked, "after {frames} frames");
        assert!(RequestScope::current().is_none());
    }
}

#[tokio::test]
async fn tasks_whose_drops_panic_give_everything_back() {
    let (layer, watch) = watched(MemoryLayer::builder().grace_period(Duration::from_millis(20)));
    let service = layer.layer(service_fn(|request: Request<Empty<Bytes>>| {
        let scope = scope_of(&request);
        use_everything(&scope);
        let token = scope.child_token();
        scope.spawn(async move {
            let _value = PanicsInDrop;
            token.cancelled().await;
        });
        scope.spawn(async {
            let _value = PanicsInDrop;
            std::future::pending::<()>().await;
        });
        scope.spawn_blocking(|| drop(PanicsInDrop));
        scope.detach("detached", async { drop(PanicsInDrop) });
        std::future::ready(Ok::<_, Infallible>(Response::new(Full::<Bytes>::default())))
    }));
    drop(service.oneshot(get("/")).await.unwrap());
    let report = watch.report().await;
    assert_eq!(
        (report.outcome, report.tasks_spawned),
        (Outcome::Completed, 4)
    );
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

#[test]
fn a_request_on_a_runtime_inside_of_a_request_leaves_the_outer_one_as_it_was() {
    let (layer, watch) = watched(MemoryLayer::builder());
    let inner = layer.layer(service_fn(|request: Request<Empty<Bytes>>| {
        let scope = scope_of(&request);
        use_everything(&scope);
        async move { Ok::<_, Infallible>(Response::new(Full::from("inner"))) }
    }));
    let service = layer.layer(service_fn(move |request: Request<Empty<Bytes>>| {
        let (scope, inner) = (scope_of(&request), inner.clone());
        async move {
            let outer = scope.arena().alloc_str("outer");
            let blocking = scope.spawn_blocking(move || {
                assert!(RequestScope::current().is_some());
                let length = runtime().block_on(async {
                    let response = inner.oneshot(get("/")).await.unwrap();
                    response
                        .into_body()
                        .collect()
                        .await
                        .unwrap()
                        .to_bytes()
                        .len()
                });
                assert!(RequestScope::current().is_some(), "as before");
                length
            });
            let length = blocking.await.unwrap();
            Ok::<_, Infallible>(Response::new(Full::from(format!("{outer} {length}"))))
        }
    }));
    let runtime = runtime();
    for _ in 0..10 {
        let text = runtime.block_on(async {
            let response = service.clone().oneshot(get("/")).await.unwrap();
            response.into_body().collect().await.unwrap().to_bytes()
        });
        assert_eq!(text, "outer 5");
    }
    let reports = runtime.block_on(watch.reports(20));
    assert!(
        reports
            .iter()
            .all(|report| report.outcome == Outcome::Completed)
    );
}

#[test]
fn a_task_on_a_runtime_that_is_gone_keeps_no_request_open() {
    let (layer, watch) = watched(MemoryLayer::builder());
    let (here, other) = (runtime(), runtime());
    let entered = other.handle().clone();
    let mut service = layer.layer(service_fn(move |request: Request<Empty<Bytes>>| {
        let scope = scope_of(&request);
        let _entered = entered.enter();
        scope.spawn(std::future::pending::<()>());
        async move { Ok::<_, Infallible>(Response::new(Full::<Bytes>::default())) }
    }));
    drop(here.block_on(service.call(get("/"))).unwrap());
    drop(other);
    let report = here.block_on(watch.report());
    assert_eq!(
        (report.outcome, report.tasks_spawned),
        (Outcome::Completed, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn header_values_of_one_mebibyte_are_read_and_ignored() {
    let names = DeadlineHeader::ALL.iter().map(|header| header.name());
    let names: Vec<_> = names
        .chain([http::HeaderName::from_static("x-request-start")])
        .collect();
    for fill in [b'0', b'9', b'a', b'.', 0xff] {
        let mut layer = MemoryLayer::builder().trust_request_start();
        for &header in DeadlineHeader::ALL {
            layer = layer.trust_deadline(header);
        }
        let (layer, watch) = watched(layer.timeout(Duration::from_millis(20)));
        let service = layer.layer(service_fn(|_: Request<Empty<Bytes>>| async {
            sleep(Duration::from_millis(1)).await;
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
        }));
        let value = vec![fill; 1 << 20];
        assert_eq!(RequestStart::parse(&value), None);
        let mut request = get("/");
        for name in &names {
            // `0` in any number of digits is a deadline that has passed.
            if fill != b'0' || name == "x-request-start" || name == "grpc-timeout" {
                let value = HeaderValue::from_bytes(&value).unwrap();
                request.headers_mut().insert(name, value);
            }
        }
        let response = service.oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{fill}");
        drop(response);
        assert_eq!(watch.outcome().await, Outcome::Completed);
    }
}
