//! The layer inside and outside of those of tower and tower-http, in many orders. What each order
//! means stands in `docs/guide/placing.md`. Time is paused.

use std::{io, panic::AssertUnwindSafe, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use futures_util::{FutureExt, stream};
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use tokio::{task::yield_now, time::sleep};
use tower::{
    Layer, Service, ServiceExt, buffer::BufferLayer, limit::ConcurrencyLimitLayer,
    load_shed::LoadShedLayer, service_fn, util::BoxCloneSyncService,
};
use tower_http::{
    catch_panic::CatchPanicLayer,
    compression::CompressionLayer,
    limit::{RequestBodyLimitLayer, ResponseBody as LimitedBody},
    timeout::TimeoutLayer,
    trace::TraceLayer,
};
use tower_memory::{
    MemoryLayer, Outcome,
    deadline_header::DeadlineHeader,
    middleware::{RequestBody, RequestBodyLayer},
};

use super::{
    random::Random,
    support::{BoxError, Watch, poll_once, scope_of, use_everything, watched},
};

type Boxed = BoxCloneSyncService<Request<Body>, Response<Body>, BoxError>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Other {
    CatchPanic,
    Timeout,
    Compression,
    Trace,
    BodyLimit,
    Concurrency,
    LoadShed,
    Buffer,
}

const OTHERS: [Other; 8] = [
    Other::CatchPanic,
    Other::Timeout,
    Other::Compression,
    Other::Trace,
    Other::BodyLimit,
    Other::Concurrency,
    Other::LoadShed,
    Other::Buffer,
];

/// Shorter than the layer's own.
const OTHER_TIMEOUT: Duration = Duration::from_millis(15);
const TIMEOUT: Duration = Duration::from_millis(30);
const SLOW: Duration = Duration::from_millis(200);

const LIMIT: usize = 500;

fn boxed<L, B>(layer: L, inner: Boxed) -> Boxed
where
    L: Layer<Boxed>,
    L::Service: Service<
            Request<Body>,
            Response = Response<B>,
            Error: Into<BoxError> + Send + Sync + 'static,
            Future: Send + 'static,
        > + Clone
        + Send
        + Sync
        + 'static,
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let service = layer.layer(inner);
    let service = service.map_response(|response: Response<B>| response.map(Body::new));
    BoxCloneSyncService::new(service.map_err(Into::into))
}

impl Other {
    fn around(self, inner: Boxed) -> Boxed {
        match self {
            Self::CatchPanic => boxed(CatchPanicLayer::new(), inner),
            Self::Timeout => boxed(
                TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, OTHER_TIMEOUT),
                inner,
            ),
            Self::Compression => boxed(CompressionLayer::new(), inner),
            Self::Trace => boxed(TraceLayer::new_for_http(), inner),
            Self::BodyLimit => {
                // It changes the type of the request's body.
                let inner =
                    inner.map_request(|request: Request<tower_http::body::Limited<Body>>| {
                        request.map(Body::new)
                    });
                let service = RequestBodyLimitLayer::new(LIMIT).layer(inner);
                BoxCloneSyncService::new(
                    service.map_response(|response: Response<LimitedBody<Body>>| {
                        response.map(Body::new)
                    }),
                )
            }
            Self::Concurrency => boxed(ConcurrencyLimitLayer::new(2), inner),
            Self::LoadShed => boxed(LoadShedLayer::new(), inner),
            Self::Buffer => boxed(BufferLayer::new(8), inner),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Case {
    Whole,
    Stream,
    Zipped,
    Head,
    Panic,
    BodyPanic,
    BodyError,
    Error,
    Slow,
    /// A header leaves it less time than all other limits.
    Deadline,
    /// The client is gone within its upload.
    ClientGone,
    /// The handler cancels its request, and answers.
    Cancelled,
    /// The connection leaves HTTP.
    Upgraded,
    /// The body turns out to be too large.
    Large,
    /// `content-length` says so.
    AnnouncedLarge,
    FutureDropped,
    BodyDropped,
    /// The body falls silent, which ends at the layer's limit for bodies, if it has one.
    BodySilent,
}

const CASES: [Case; 18] = [
    Case::Whole,
    Case::Stream,
    Case::Zipped,
    Case::Head,
    Case::Panic,
    Case::BodyPanic,
    Case::BodyError,
    Case::Error,
    Case::Slow,
    Case::Deadline,
    Case::ClientGone,
    Case::Cancelled,
    Case::Upgraded,
    Case::Large,
    Case::AnnouncedLarge,
    Case::FutureDropped,
    Case::BodyDropped,
    Case::BodySilent,
];

impl Case {
    fn request(self) -> Request<Body> {
        let method = match self {
            Self::Head => Method::HEAD,
            Self::Large | Self::AnnouncedLarge | Self::ClientGone => Method::POST,
            _ => Method::GET,
        };
        let part = Bytes::from(vec![7; LIMIT / 2]);
        let parts = [(); 3].map(|()| Ok::<_, BoxError>(part.clone()));
        let mut request = Request::builder().method(method).uri(format!("/{self:?}"));
        match self {
            Self::Zipped => request = request.header("accept-encoding", "gzip"),
            Self::Deadline => {
                request = request.header(DeadlineHeader::RequestTimeout.name(), "5");
            }
            _ => {}
        }
        let body = match self {
            Self::ClientGone => {
                let gone = io::Error::from(io::ErrorKind::ConnectionReset);
                Body::from_stream(stream::iter([Ok(part), Err(gone)]))
            }
            Self::Large => Body::from_stream(stream::iter(parts)),
            Self::AnnouncedLarge => {
                request = request.header("content-length", LIMIT * 2);
                Body::from(vec![7; LIMIT * 2])
            }
            _ => Body::empty(),
        };
        request.body(body).unwrap()
    }

    /// How the request must end, with these layers inside and outside. `None`: it is not reached.
    fn outcome(self, inside: &[Other], outside: &[Other]) -> Option<Outcome> {
        Some(match self {
            Self::Panic if inside.contains(&Other::CatchPanic) => Outcome::Completed,
            Self::Panic | Self::BodyPanic => Outcome::Panicked,
            Self::BodyError | Self::Error => Outcome::ServiceError,
            Self::Slow if inside.contains(&Other::Timeout) => Outcome::Completed,
            Self::Slow if outside.contains(&Other::Timeout) => Outcome::Abandoned,
            Self::Slow | Self::Deadline | Self::BodySilent => Outcome::DeadlineExceeded,
            Self::ClientGone => Outcome::ClientGone,
            Self::Cancelled => Outcome::Cancelled,
            Self::AnnouncedLarge if outside.contains(&Other::BodyLimit) => return None,
            Self::FutureDropped | Self::BodyDropped => Outcome::Abandoned,
            Self::Whole
            | Self::Stream
            | Self::Zipped
            | Self::Head
            | Self::Upgraded
            | Self::Large
            | Self::AnnouncedLarge => Outcome::Completed,
        })
    }
}

/// Parts of a buffer, with an end of their own.
fn parts(whole: Bytes, end: &'static str) -> Body {
    let parts = stream::unfold((whole, 0), move |(mut whole, n)| async move {
        yield_now().await;
        match (n, end) {
            (1, "Panic") => panic!("the body panics"),
            (1, "Error") => Some((Err(BoxError::from("the body fails")), (whole, 2))),
            (1, "Silence") => std::future::pending().await,
            _ if whole.is_empty() => None,
            _ => {
                let part = whole.split_to(whole.len().min(800));
                Some((Ok(part), (whole, n + 1)))
            }
        }
    });
    // tower-http's compression polls a body after its end.
    Body::from_stream(futures_util::StreamExt::fuse(parts))
}

const WHOLE: usize = 2400;

async fn handler(request: Request<RequestBody<Body>>) -> Result<Response<Body>, BoxError> {
    let scope = scope_of(&request);
    use_everything(&scope);
    let mut buffer = scope.arena().buf();
    buffer.extend_from_slice(&b"canary!!".repeat(WHOLE / 8));
    let whole = buffer.freeze();
    yield_now().await;
    Ok(Response::new(match request.uri().path() {
        "/Stream" | "/Zipped" | "/BodyDropped" => parts(whole, "None"),
        "/BodyPanic" => parts(whole, "Panic"),
        "/BodyError" => parts(whole, "Error"),
        "/BodySilent" => parts(whole, "Silence"),
        "/Panic" => panic!("the handler panics"),
        "/Error" => return Err("the service fails".into()),
        "/Cancelled" => {
            scope.cancel();
            Body::from(whole)
        }
        "/Upgraded" => {
            let hold = scope.hold();
            tokio::spawn(async move {
                hold.upgraded();
                sleep(Duration::from_millis(1)).await;
                drop(hold);
            });
            let upgrade = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS);
            return Ok(upgrade.body(Body::empty()).unwrap());
        }
        "/Slow" | "/Deadline" | "/FutureDropped" => {
            sleep(SLOW).await;
            Body::empty()
        }
        "/Large" | "/AnnouncedLarge" | "/ClientGone" => match request.into_body().collect().await {
            Ok(read) => Body::from(read.to_bytes()),
            Err(_) => {
                let mut refusal = Response::new(Body::from("too large"));
                *refusal.status_mut() = StatusCode::PAYLOAD_TOO_LARGE;
                return Ok(refusal);
            }
        },
        _ => Body::from(whole),
    }))
}

/// The layers from the outside to the inside, the layer between them. Bodies with a limit are watched in another way
/// than those without.
fn stack(outside: &[Other], inside: &[Other], limits_bodies: bool) -> (Boxed, Watch) {
    let mut memory = MemoryLayer::builder()
        .timeout(TIMEOUT)
        .trust_deadline(DeadlineHeader::RequestTimeout);
    if limits_bodies {
        memory = memory.body_timeout(TIMEOUT);
    }
    let (memory, watch): (MemoryLayer, _) = watched(memory);
    let handler = RequestBodyLayer::new().layer(service_fn(handler));
    let mut service = BoxCloneSyncService::new(handler);
    for other in inside.iter().rev() {
        service = other.around(service);
    }
    service = boxed(memory, service);
    for other in outside.iter().rev() {
        service = other.around(service);
    }
    (service, watch)
}

/// Sends one request of that case.
async fn send(service: Boxed, case: Case) {
    let response = AssertUnwindSafe(service.oneshot(case.request())).catch_unwind();
    if case == Case::FutureDropped {
        let mut response = Box::pin(response);
        for _ in 0..20 {
            assert!(poll_once(&mut response).is_pending());
            yield_now().await; // a buffer's worker
        }
        return;
    }
    let Ok(Ok(response)) = response.await else {
        assert!(matches!(case, Case::Panic | Case::Error), "{case:?}");
        return;
    };
    if case == Case::BodyDropped {
        return;
    }
    if case == Case::Upgraded {
        assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
        drop(response);
        // The hold, which is taken up, is dropped.
        return sleep(Duration::from_millis(2)).await;
    }
    let (head, body) = response.into_parts();
    let collected = AssertUnwindSafe(body.collect()).catch_unwind().await;
    match case {
        Case::Whole | Case::Stream => {
            let whole = collected.unwrap().unwrap().to_bytes();
            assert_eq!((head.status, whole.len()), (StatusCode::OK, WHOLE));
            assert!(whole.chunks(8).all(|word| word == b"canary!!"));
        }
        Case::Zipped => assert!(!collected.unwrap().unwrap().to_bytes().is_empty()),
        Case::BodyPanic => assert!(collected.is_err()),
        Case::BodyError | Case::BodySilent => assert!(collected.unwrap().is_err()),
        Case::Panic => assert_eq!(head.status, StatusCode::INTERNAL_SERVER_ERROR),
        Case::Slow => assert!(matches!(head.status.as_u16(), 408 | 504)),
        Case::Deadline => assert_eq!(head.status, StatusCode::GATEWAY_TIMEOUT),
        _ => {}
    }
}

/// Sends a request of each case through the stack, with and without a limit for bodies, and one during a shutdown.
async fn every_case(outside: &[Other], inside: &[Other]) {
    for limits_bodies in [false, true] {
        every_case_of(outside, inside, limits_bodies).await;
    }
}

async fn every_case_of(outside: &[Other], inside: &[Other], limits_bodies: bool) {
    let (service, watch) = stack(outside, inside, limits_bodies);
    let mut reached = 0;
    for case in CASES {
        if case == Case::BodySilent && !limits_bodies {
            continue;
        }
        send(service.clone(), case).await;
        let expected = case.outcome(inside, outside);
        reached += usize::from(expected.is_some());
        let reports = watch.reports(reached).await;
        if let Some(expected) = expected {
            let last = &reports[reached - 1];
            assert_eq!(
                last.outcome, expected,
                "{case:?} with {outside:?} outside and {inside:?} inside"
            );
        }
    }
    assert!(watch.handle.shutdown(Duration::ZERO).await.is_clean());
    let refused = service.oneshot(Case::Whole.request()).await.unwrap();
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    let reports = watch.reports(reached + 1).await;
    assert_eq!(reports[reached].outcome, Outcome::Shutdown);
}

#[tokio::test(start_paused = true)]
async fn each_request_has_the_outcome_of_its_order_whatever_lies_inside_and_outside() {
    for set in 0..1_u32 << OTHERS.len() {
        let (inside, outside): (Vec<_>, Vec<_>) =
            (0..).zip(OTHERS).partition(|(n, _)| set & (1 << n) != 0);
        let [inside, outside] = [inside, outside].map(|layers| {
            layers
                .into_iter()
                .map(|(_, layer)| layer)
                .collect::<Vec<_>>()
        });
        every_case(&outside, &inside).await;
    }
}

#[tokio::test(start_paused = true)]
async fn each_request_has_the_outcome_of_its_order_beside_each_two_layers_in_both_orders() {
    for first in OTHERS {
        for second in OTHERS.into_iter().filter(|second| *second != first) {
            let both = [first, second];
            for place in 0..=both.len() {
                let (outside, inside) = both.split_at(place);
                every_case(outside, inside).await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn each_request_has_the_outcome_of_its_order_in_shuffled_stacks() {
    let mut random = Random(13);
    for _ in 0..64 {
        let mut layers = OTHERS.to_vec();
        for last in (1..layers.len()).rev() {
            layers.swap(last, random.below(last + 1));
        }
        // Some are left out.
        layers.truncate(random.below(layers.len()) + 1);
        let place = random.below(layers.len() + 1);
        let (outside, inside) = layers.split_at(place);
        every_case(outside, inside).await;
    }
}

/// Six slow requests at once, of which two may run. Returns the outcomes that the layer knows, and
/// after how many milliseconds the last was over.
async fn six(outside: &[Other], inside: &[Other]) -> (Vec<Outcome>, u128) {
    let start = tokio::time::Instant::now();
    let (service, watch) = stack(outside, inside, false);
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let response = service.clone().oneshot(Case::Slow.request());
        clients.spawn(async move { drop(response.await) });
    }
    while clients.join_next().await.is_some() {}
    let took = start.elapsed().as_millis();
    let known = watch.handle.snapshot().routes;
    let known = known.iter().map(|route| route.requests as usize).sum();
    let reports = watch.reports(known).await;
    let mut outcomes: Vec<_> = reports.iter().map(|report| report.outcome).collect();
    outcomes.sort_by_key(|outcome| outcome.as_str());
    (outcomes, took)
}

#[tokio::test(start_paused = true)]
async fn what_is_shed_inside_is_an_error_of_the_service_and_outside_it_is_not_seen() {
    use Outcome::{DeadlineExceeded, ServiceError};
    let (outcomes, _) = six(&[], &[Other::LoadShed, Other::Concurrency]).await;
    assert_eq!(outcomes[..2], [DeadlineExceeded; 2]);
    assert_eq!(outcomes[2..], [ServiceError; 4]);
    let (outside, between) = ([Other::LoadShed], [Other::Concurrency]);
    assert_eq!(six(&outside, &between).await.0, [DeadlineExceeded; 2]);
    let outside = [Other::LoadShed, Other::Concurrency];
    assert_eq!(six(&outside, &[]).await.0, [DeadlineExceeded; 2]);
}

#[tokio::test(start_paused = true)]
async fn a_wait_for_a_place_counts_towards_the_deadline_only_if_the_limit_is_inside() {
    let all = [Outcome::DeadlineExceeded; 6].to_vec();
    // In `poll_ready`, and in a buffer's queue.
    for inside in [
        &[Other::Concurrency][..],
        &[Other::Buffer, Other::Concurrency],
    ] {
        let (outcomes, took) = six(&[], inside).await;
        assert_eq!(outcomes, all, "{inside:?}");
        assert!((30..40).contains(&took), "{inside:?}: {took} ms");
    }
    // Three times two, each with all of its time.
    let (outcomes, took) = six(&[Other::Concurrency], &[]).await;
    assert_eq!(outcomes, all);
    assert!((90..100).contains(&took), "{took} ms");
}

#[tokio::test(start_paused = true)]
async fn what_a_buffer_outside_has_not_passed_on_is_not_seen() {
    let (service, watch) = stack(&[Other::Buffer], &[], false);
    let mut response = Box::pin(service.oneshot(Case::Whole.request()));
    assert!(poll_once(&mut response).is_pending());
    drop(response);
    for _ in 0..20 {
        yield_now().await;
    }
    assert_eq!(watch.reports(0).await.len(), 0);
}
