//! The contract of `tower::Service`: a service is called once for each time it was ready, and never a
//! clone of the one that was.

use std::{
    convert::Infallible,
    fmt::Debug,
    future::{Ready, ready},
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::body::Body;
use http::{Request, Response, StatusCode};
use tower::{
    Layer, Service, ServiceBuilder, ServiceExt, buffer::BufferLayer, limit::ConcurrencyLimitLayer,
    load_shed::LoadShedLayer,
};
use tower_http::{
    catch_panic::CatchPanicLayer, compression::CompressionLayer, limit::RequestBodyLimitLayer,
    timeout::TimeoutLayer, trace::TraceLayer,
};
use tower_memory::{
    MemoryLayer, RoutePolicy, client::PropagateDeadlineLayer, deadline_header::DeadlineHeader,
    extract::RouteLabelLayer, middleware::RequestBodyLayer,
};

/// Answers everything, but only if it is called as the contract says.
#[derive(Debug, Default)]
struct Strict {
    /// Whether it is ready at the first poll, and not at every second one.
    prompt: bool,
    polls: usize,
    ready: bool,
    calls: Arc<AtomicUsize>,
}

impl Strict {
    fn prompt() -> Self {
        Self {
            prompt: true,
            ..Self::default()
        }
    }
}

impl Clone for Strict {
    fn clone(&self) -> Self {
        Self {
            prompt: self.prompt,
            polls: 0,
            ready: false,
            calls: Arc::clone(&self.calls),
        }
    }
}

impl<B> Service<Request<B>> for Strict {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.polls += 1;
        if self.polls % 2 == 1 && !self.ready && !self.prompt {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _request: Request<B>) -> Self::Future {
        assert!(self.ready, "called without having been ready");
        self.ready = false;
        self.calls.fetch_add(1, Ordering::SeqCst);
        ready(Ok(Response::new(Body::from("hello"))))
    }
}

fn request() -> Request<Body> {
    Request::new(Body::empty())
}

/// Calls a service three times, a clone of it, and one of a service that is ready.
async fn obeys<S>(service: impl FnOnce(Strict) -> S)
where
    S: Service<Request<Body>, Error: Debug> + Clone,
{
    obeys_around(Strict::default(), service).await;
}

async fn obeys_around<S>(strict: Strict, service: impl FnOnce(Strict) -> S)
where
    S: Service<Request<Body>, Error: Debug> + Clone,
{
    let calls = Arc::clone(&strict.calls);
    let mut service = service(strict);
    for _ in 0..3 {
        let response = service.ready().await.unwrap().call(request()).await;
        assert!(response.is_ok());
    }
    assert!(service.clone().oneshot(request()).await.is_ok());
    // Ready twice is ready once; a clone of it is not.
    service.ready().await.unwrap();
    let clone = service.clone();
    assert!(service.ready().await.unwrap().call(request()).await.is_ok());
    assert!(clone.oneshot(request()).await.is_ok());
    assert_eq!(calls.load(Ordering::SeqCst), 6, "each request reached it");
}

fn memory() -> MemoryLayer {
    MemoryLayer::with_timeout(Duration::from_secs(5))
}

#[tokio::test]
async fn every_layer_calls_only_the_service_that_it_has_polled_ready() {
    obeys(|strict| memory().layer(strict)).await;
    obeys(|strict| memory().layer(memory().layer(strict))).await;
    obeys(|strict| memory().layer(RequestBodyLayer::new().layer(strict))).await;
    obeys(|strict| memory().layer(RouteLabelLayer::new().layer(strict))).await;
    let policy = RoutePolicy::new().timeout(Duration::from_secs(1));
    obeys(|strict| memory().layer(policy.layer(strict))).await;
    obeys(|strict| policy.layer(memory().layer(strict))).await;
    obeys(|strict| PropagateDeadlineLayer::new(DeadlineHeader::RequestTimeout).layer(strict)).await;
}

/// Also shows that all of them compile, without boxes in between.
#[tokio::test]
async fn the_contract_holds_beside_each_other_layer_in_both_orders() {
    macro_rules! both_orders {
        ($($layer:expr,)*) => {$(
            // A service that is not ready at once is shed.
            obeys_around(Strict::prompt(), |strict| {
                ServiceBuilder::new().layer(memory()).layer($layer).service(strict)
            })
            .await;
            obeys_around(Strict::prompt(), |strict| {
                ServiceBuilder::new().layer($layer).layer(memory()).service(strict)
            })
            .await;
        )*};
    }
    both_orders!(
        CatchPanicLayer::new(),
        TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, Duration::from_secs(1)),
        CompressionLayer::new(),
        TraceLayer::new_for_http(),
        RequestBodyLimitLayer::new(1000),
        ConcurrencyLimitLayer::new(2),
        LoadShedLayer::new(),
        BufferLayer::new(2),
    );
}

#[tokio::test]
async fn the_strict_service_notices_a_call_that_was_not_ready() {
    let mut service = memory().layer(Strict::default());
    let call = std::panic::catch_unwind(AssertUnwindSafe(|| service.call(request())));
    assert!(call.is_err());
    let ready = ServiceExt::<Request<Body>>::ready(&mut service).await;
    let mut clone = ready.unwrap().clone();
    let call = std::panic::catch_unwind(AssertUnwindSafe(|| clone.call(request())));
    assert!(call.is_err());
}
