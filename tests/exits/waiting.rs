//! Time that passes before the service is called, because it is not ready. Time is paused.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use tokio::time::{Instant, sleep};
use tower::{
    Layer, Service, ServiceBuilder, ServiceExt, limit::GlobalConcurrencyLimitLayer, service_fn,
};
use tower_memory::{MemoryLayer, Outcome, cancel::DeadlineSource, deadline_header::DeadlineHeader};

use super::support::{Watch, get, watched};

const MS: Duration = Duration::from_millis(1);

/// A handler that takes 200 ms, and counts how often it ran.
fn slow(
    ran: &Arc<AtomicUsize>,
) -> impl Service<
    Request<Empty<Bytes>>,
    Response = Response<Full<Bytes>>,
    Error = Infallible,
    Future: Send,
> + Clone
+ Send
+ 'static {
    let ran = Arc::clone(ran);
    service_fn(move |_: Request<Empty<Bytes>>| {
        ran.fetch_add(1, Ordering::Relaxed);
        async {
            sleep(200 * MS).await;
            Ok::<_, Infallible>(Response::new(Full::default()))
        }
    })
}

/// Eight requests at once: status and time of each, in the order of their ends, and how many ran.
async fn eight<S, B>(service: S, ran: &AtomicUsize, watch: &Watch) -> (Vec<(u16, u128)>, usize)
where
    S: Service<Request<Empty<Bytes>>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: std::fmt::Debug + Send,
    B: Send + 'static,
{
    let start = Instant::now();
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let call = service.clone().oneshot(get("/"));
        calls.spawn(async move {
            let status = call.await.unwrap().status().as_u16();
            (status, start.elapsed().as_millis() / 10 * 10)
        });
    }
    let mut ended = Vec::new();
    while let Some(call) = calls.join_next().await {
        ended.push(call.unwrap());
    }
    watch.reports(8).await;
    (ended, ran.load(Ordering::Relaxed))
}

#[tokio::test(start_paused = true)]
async fn eight_requests_for_one_place_all_end_by_their_deadline() {
    let ran = Arc::new(AtomicUsize::new(0));
    let (layer, watch) = watched(MemoryLayer::builder().timeout(300 * MS));
    let service = ServiceBuilder::new()
        .layer(layer)
        .layer(GlobalConcurrencyLimitLayer::new(1))
        .service(slow(&ran));
    let (ended, ran) = eight(service, &ran, &watch).await;
    let mut expected = vec![(504, 300); 8];
    expected[0] = (200, 200);
    assert_eq!(ended, expected);
    assert_eq!(ran, 2, "the others had expired when they were ready");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_expired_while_it_waited_is_answered_and_says_how_long_it_had_waited() {
    let ran = Arc::new(AtomicUsize::new(0));
    let (layer, watch) = watched(MemoryLayer::builder().timeout(300 * MS));
    let limit = GlobalConcurrencyLimitLayer::new(1);
    let service = ServiceBuilder::new()
        .layer(layer)
        .layer(limit.clone())
        .service(slow(&ran));
    // Holds the place for 500 ms.
    let mut holder = limit.layer(slow(&ran));
    holder.ready().await.unwrap();
    tokio::spawn(async move {
        sleep(500 * MS).await;
        drop(holder);
    });
    let response = service.oneshot(get("/")).await.unwrap();
    assert_eq!(response.status(), 504);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let body = String::from_utf8_lossy(&body);
    assert!(body.contains("passed on arrival, after 50"), "{body}");
    assert!(body.contains(" ms in a queue"), "{body}");
    let report = watch.report().await;
    assert_eq!(report.outcome, Outcome::DeadlineExceeded);
    assert_eq!(report.deadline_source, Some(DeadlineSource::Layer));
    assert!(report.total_time >= 500 * MS, "{:?}", report.total_time);
    assert_eq!(ran.load(Ordering::Relaxed), 0);
}

/// Ready when told to be, and then not before it is told again.
#[derive(Clone, Default)]
struct Gate {
    open: Arc<AtomicUsize>,
}

impl Service<Request<Empty<Bytes>>> for Gate {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = std::future::Pending<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        if self.open.load(Ordering::Relaxed) == 0 {
            Poll::Pending
        } else {
            Poll::Ready(Ok(()))
        }
    }

    fn call(&mut self, _request: Request<Empty<Bytes>>) -> Self::Future {
        std::future::pending()
    }
}

/// Polls for readiness as the task of this waker.
fn ready_as<S: Service<Request<Empty<Bytes>>>>(service: &mut S, waker: &Waker) -> bool {
    service
        .poll_ready(&mut Context::from_waker(waker))
        .is_ready()
}

struct OtherTask;

impl std::task::Wake for OtherTask {
    fn wake(self: Arc<Self>) {}
}

#[tokio::test(start_paused = true)]
async fn a_wait_is_of_the_request_that_waited_and_of_no_other() {
    let one = Waker::noop();
    let other = Waker::from(Arc::new(OtherTask));
    // How a request that is called after a pending readiness came to its call, and when it ends then.
    type Way = fn(&mut dyn FnMut(bool, bool) -> bool);
    for (name, expected, way) in [
        ("waited", 100, (|ready| _ = ready(true, false)) as Way),
        ("called without asking", 300, |_| {}),
        ("ready twice", 300, |ready| {
            ready(true, false);
            ready(true, false);
        }),
        ("another task", 300, |ready| _ = ready(true, true)),
        ("waited anew", 300, |ready| {
            ready(true, false);
            ready(false, false);
            ready(true, false);
        }),
    ] {
        let (layer, watch) = watched(MemoryLayer::builder().timeout(300 * MS));
        let gate = Gate::default();
        let open = Arc::clone(&gate.open);
        let mut service = layer.layer(gate);
        assert!(!ready_as(&mut service, one));
        sleep(200 * MS).await;
        way(&mut |ready, by_other| {
            open.store(usize::from(ready), Ordering::Relaxed);
            ready_as(&mut service, if by_other { &other } else { one })
        });
        // Not a wait: nobody asked.
        sleep(50 * MS).await;
        let start = Instant::now();
        let response = service.call(get("/")).await.unwrap();
        assert_eq!(response.status(), 504, "{name}");
        let after = start.elapsed().as_millis() / 10 * 10;
        assert_eq!(after, expected, "{name}");
        drop(response);
        // The next one has not waited.
        let start = Instant::now();
        drop(service.call(get("/")).await.unwrap());
        assert_eq!(start.elapsed().as_millis() / 10 * 10, 300, "after {name}");
        watch.reports(2).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_clone_has_not_waited() {
    let (layer, watch) = watched(MemoryLayer::builder().timeout(300 * MS));
    let gate = Gate::default();
    let open = Arc::clone(&gate.open);
    let mut service = layer.layer(gate);
    assert!(!ready_as(&mut service, Waker::noop()));
    sleep(200 * MS).await;
    open.store(1, Ordering::Relaxed);
    assert!(ready_as(&mut service, Waker::noop()));
    let start = Instant::now();
    drop(service.clone().call(get("/")).await.unwrap());
    assert_eq!(start.elapsed().as_millis() / 10 * 10, 300);
    let start = Instant::now();
    drop(service.call(get("/")).await.unwrap());
    assert_eq!(start.elapsed().as_millis() / 10 * 10, 100);
    watch.reports(2).await;
}

#[tokio::test(start_paused = true)]
async fn a_wait_counts_towards_headers_and_policies_and_not_twice() {
    let headers = |request: &mut Request<Empty<Bytes>>| {
        let header = DeadlineHeader::RequestTimeout;
        let value = header.value(400 * MS).unwrap();
        request.headers_mut().insert(header.name(), value);
    };
    for (by_header, policy, expected) in [
        (true, None, 200),
        (false, Some(350), 150),
        (true, Some(900), 200),
    ] {
        let (layer, watch) = watched(
            MemoryLayer::builder()
                .timeout(600 * MS)
                .trust_deadline(DeadlineHeader::RequestTimeout),
        );
        let policy = policy.map_or_else(tower_memory::RoutePolicy::new, |ms| {
            tower_memory::RoutePolicy::new().timeout(ms * MS)
        });
        let gate = Gate::default();
        let open = Arc::clone(&gate.open);
        let mut service = layer.layer(policy.layer(gate));
        assert!(!ready_as(&mut service, Waker::noop()));
        sleep(200 * MS).await;
        open.store(1, Ordering::Relaxed);
        assert!(ready_as(&mut service, Waker::noop()));
        let mut request = get("/");
        if by_header {
            headers(&mut request);
        }
        let start = Instant::now();
        drop(service.call(request).await.unwrap());
        assert_eq!(start.elapsed().as_millis() / 10 * 10, expected);
        watch.report().await;
    }
}
