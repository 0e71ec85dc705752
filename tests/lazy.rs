//! What a request does not use costs it nothing: no allocation, no timer, no token. A body with limits costs
//! two allocations, since it lies where the housekeeping can reach it.
#![forbid(unsafe_code)]

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::Full;
use tower::{Layer, Service, service_fn};
use tower_memory::{
    Expose, MemoryLayer, RequestScope, RoutePolicy, TrackingAllocator,
    account::thread_usage,
    deadline_header::DeadlineHeader,
    middleware::MemoryLayerBuilder,
    middleware::{DeadlineContext, RequestBodyLayer},
};

#[global_allocator]
static ALLOC: TrackingAllocator = TrackingAllocator::system();

/// The box of a body with limits, and what its owner and the housekeeping share.
const LIMITED_BODY: u64 = 2;

const SECOND: Duration = Duration::from_secs(1);

/// As large as the extension that the layer inserts, and shared as that is.
#[derive(Clone)]
#[expect(dead_code, reason = "only its size counts")]
struct Extension(std::sync::Arc<()>);

fn request() -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    let headers = request.headers_mut();
    headers.insert("content-type", HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-timeout", HeaderValue::from_static("5S"));
    headers.insert("x-request-timeout-ms", HeaderValue::from_static("5000"));
    headers.insert("x-request-start", HeaderValue::from_static("t=99999999999"));
    request
}

/// Serves one request as a server does, without any runtime: a timer would panic. Returns how many
/// allocations that made, of those that are not the request's own.
fn allocations<S, B>(service: &mut S) -> u64
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible>,
    B: Body<Data = Bytes>,
{
    let mut cx = Context::from_waker(Waker::noop());
    let request = request();
    let before = thread_usage().unwrap().allocations;
    assert!(service.poll_ready(&mut cx).is_ready());
    let mut future = std::pin::pin!(service.call(request));
    let Poll::Ready(Ok(response)) = future.as_mut().poll(&mut cx) else {
        panic!("the handler is ready at once");
    };
    let mut body = std::pin::pin!(response.into_body());
    while let Poll::Ready(Some(frame)) = Pin::as_mut(&mut body).poll_frame(&mut cx) {
        assert!(frame.is_ok());
    }
    thread_usage().unwrap().allocations - before
}

/// The same of many requests, after some that warm up; all must be alike.
fn settled<S, B>(mut service: S) -> u64
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible>,
    B: Body<Data = Bytes>,
{
    for _ in 0..16 {
        allocations(&mut service);
    }
    let each = allocations(&mut service);
    for _ in 0..1000 {
        assert_eq!(allocations(&mut service), each);
    }
    each
}

fn ready<B>(
    check: impl Fn(&Request<B>) + Clone,
) -> impl Service<Request<B>, Response = Response<Full<Bytes>>, Error = Infallible, Future: Send> + Clone
{
    service_fn(move |request: Request<B>| {
        check(&request);
        let body = Full::new(Bytes::from_static(b"ready"));
        std::future::ready(Ok(Response::new(body)))
    })
}

fn everything() -> MemoryLayerBuilder {
    DeadlineHeader::ALL
        .iter()
        .copied()
        .fold(MemoryLayer::builder(), MemoryLayerBuilder::trust_deadline)
        .trust_request_start()
        .deadline_margin(SECOND)
        .timeout(5 * SECOND)
        .body_timeout(5 * SECOND)
        .body_idle_timeout(5 * SECOND)
        .retry_after(SECOND)
        .deadline_response(|e: &DeadlineContext<'_>| e.problem(StatusCode::BAD_GATEWAY))
        .expose(Expose::Never)
}

#[test]
fn deadlines_of_a_handler_that_is_ready_at_once_allocate_nothing_but_for_the_body() {
    let extension = settled(tower::util::MapRequest::new(
        ready(|_: &Request<()>| {}),
        |mut request: Request<()>| {
            let extension = Extension(std::sync::Arc::default());
            request.extensions_mut().insert(extension);
            request
        },
    ));
    // What an extension costs, less the `Arc` that was made here: a scope is used again.
    let least = extension - 1;

    let layer = MemoryLayer::builder()
        .expose(Expose::Never)
        .build()
        .unwrap();
    assert_eq!(settled(layer.layer(ready(|_: &Request<()>| {}))), least);

    let bare = || ready(|_: &Request<()>| {});
    // The deadline of a gRPC call limits its body.
    let least = least + LIMITED_BODY;
    assert_eq!(
        settled(everything().build().unwrap().layer(bare())),
        least,
        "everything"
    );
    let policy = RoutePolicy::new()
        .disable_timeout()
        .timeout(SECOND)
        .body_timeout(SECOND);
    let policies = everything()
        .build()
        .unwrap()
        .layer(policy.layer(policy.layer(bare())));
    assert_eq!(settled(policies), least, "policies");
    let nested = everything()
        .build()
        .unwrap()
        .layer(everything().build().unwrap().layer(bare()));
    assert_eq!(settled(nested), least, "a layer inside");
    let observed = RequestBodyLayer::new().layer(ready(|_| {}));
    assert_eq!(
        settled(everything().build().unwrap().layer(observed)),
        least,
        "observed body"
    );
}

#[test]
fn a_body_without_limits_has_no_box() {
    let plain = |layer: MemoryLayerBuilder| {
        let layer = layer.expose(Expose::Never).build().unwrap();
        let service = layer.layer(ready(|_: &Request<()>| {}));
        settled(tower::util::MapRequest::new(service, |_| Request::new(())))
    };
    let new = || MemoryLayer::builder().timeout(5 * SECOND);
    let unlimited = plain(new());
    assert_eq!(unlimited, plain(MemoryLayer::builder()));
    for limited in [
        new().body_timeout(5 * SECOND),
        new().body_idle_timeout(5 * SECOND),
        new().body_timeout(5 * SECOND).body_idle_timeout(5 * SECOND),
    ] {
        assert_eq!(plain(limited), unlimited + LIMITED_BODY);
    }
}

#[test]
fn a_deadline_alone_makes_no_token() {
    let layer = everything().build().unwrap();
    let handle = layer.handle();
    let mut service = layer.layer(ready({
        let handle = handle.clone();
        move |request: &Request<()>| {
            let scope = request.extensions().get::<RequestScope>().unwrap();
            assert!(scope.remaining().is_some_and(|left| left <= 4 * SECOND));
            let now = handle.snapshot();
            assert_eq!((now.in_flight, now.tokens), (1, 0));
        }
    }));
    allocations(&mut service);
    let now = handle.snapshot();
    assert_eq!((now.in_flight, now.tokens), (0, 0));
    assert_eq!(now.unparsable_deadlines, 0);
}

/// Values that are refused cost no more than those that are taken.
#[test]
fn headers_that_cannot_be_read_allocate_nothing() {
    let values = [
        &b""[..],
        b"1 S",
        b"123456789S",
        b"99999999999999999999",
        b"\xff",
        b"t=now",
    ];
    for value in values {
        let before = thread_usage().unwrap().allocations;
        for &header in DeadlineHeader::ALL {
            assert!(header.parse(value).is_none());
        }
        assert!(tower_memory::deadline_header::RequestStart::parse(value).is_none());
        assert_eq!(thread_usage().unwrap().allocations, before);
    }
}

/// The heap of the thread, for each request that is open and has its response, and whose handler did `f`.
fn heap_of_a_request(f: fn(&RequestScope)) -> i64 {
    const OPEN: usize = 1000;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let layer = MemoryLayer::builder().expose(Expose::Never);
    let mut service = layer
        .build()
        .unwrap()
        .layer(service_fn(move |request: Request<()>| {
            f(request.extensions().get::<RequestScope>().unwrap());
            async { Ok::<_, Infallible>(Response::new(Full::new(Bytes::new()))) }
        }));
    let live = || thread_usage().unwrap().live_bytes();
    let mut before = 0;
    let mut open = Vec::with_capacity(OPEN);
    runtime.block_on(async {
        // The first round makes what is kept.
        for _ in 0..2 {
            open.clear();
            tokio::task::yield_now().await;
            before = live();
            for _ in 0..OPEN {
                open.push(service.call(Request::new(())).await.unwrap());
            }
            tokio::task::yield_now().await;
        }
        (live() - before) / OPEN as i64
    })
}

#[test]
fn an_open_request_takes_at_most_289_bytes_with_a_token_472_and_with_a_waiting_task_853() {
    let plain = heap_of_a_request(|_| ());
    let token = heap_of_a_request(|scope| drop(scope.child_token()));
    let task = heap_of_a_request(|scope| {
        let waiting = scope.clone();
        drop(scope.spawn(async move { waiting.cancelled().await }));
    });
    // The list of requests that the first round left to the thread serves some of the second.
    assert!((250..=289).contains(&plain), "{plain} bytes");
    assert!((plain..=472).contains(&token), "{token} bytes with a token");
    assert!((token..=853).contains(&task), "{task} bytes with a task");
}
