//! Limits of response bodies, and what has none. Time is paused.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty, StreamBody};
use tokio::time::{Instant, Sleep, sleep};
use tower::{Layer, ServiceExt, service_fn};
use tower_memory::{
    MemoryLayer, Outcome, RequestScope, RoutePolicy,
    cancel::DeadlineSource,
    deadline_header::DeadlineHeader,
    middleware::MemoryLayerBuilder,
    middleware::{BodyTimeoutError, RequestBody, RequestBodyLayer, ResponseBody},
};

use super::support::{Refused, Watch, get, scope_of, use_everything, watched};

const SECOND: Duration = Duration::from_secs(1);

/// One byte after each pause.
struct Ticks {
    pauses: std::collections::VecDeque<u64>,
    wait: Option<Pin<Box<Sleep>>>,
}

impl Ticks {
    fn new(pauses: &[u64]) -> Self {
        Self {
            pauses: pauses.iter().copied().collect(),
            wait: None,
        }
    }
}

impl Body for Ticks {
    type Data = Bytes;
    type Error = Refused;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Refused>>> {
        if self.wait.is_none() {
            let Some(seconds) = self.pauses.pop_front() else {
                return Poll::Ready(None);
            };
            self.wait = Some(Box::pin(sleep(Duration::from_secs(seconds))));
        }
        match self.wait.as_mut().unwrap().as_mut().poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(()) => {
                self.wait = None;
                Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b".")))))
            }
        }
    }
}

/// A response with this body, in this layer.
async fn opened<B>(
    layer: MemoryLayerBuilder,
    policy: RoutePolicy,
    body: impl FnOnce(RequestScope) -> B + Clone,
) -> (ResponseBody<ResponseBody<B>>, Watch)
where
    B: Body<Data = Bytes, Error = Refused> + Send + 'static,
{
    let (layer, watch) = watched(layer);
    let service = layer.layer(
        policy.layer(service_fn(move |request: Request<Empty<Bytes>>| {
            let scope = scope_of(&request);
            use_everything(&scope);
            std::future::ready(Ok::<_, Refused>(Response::new(body.clone()(scope))))
        })),
    );
    let response = service.oneshot(get("/")).await.unwrap();
    (response.into_body(), watch)
}

/// Reads all: how many bytes, after how many seconds, and which limit ended it.
async fn read<B>(body: B) -> (usize, u64, Option<DeadlineSource>)
where
    B: Body<Data = Bytes, Error = Box<dyn std::error::Error + Send + Sync>>,
{
    let start = Instant::now();
    let mut body = Box::pin(body);
    let mut bytes = 0;
    let limit = loop {
        match body.frame().await {
            None => break None,
            Some(Ok(frame)) => bytes += frame.into_data().unwrap().len(),
            Some(Err(error)) => {
                let error = error.downcast::<BodyTimeoutError>().unwrap();
                let after = error.after();
                assert!(after >= start.elapsed());
                assert!(
                    error
                        .to_string()
                        .ends_with(&format!("{} ms", after.as_millis()))
                );
                assert!(body.is_end_stream());
                assert!(body.frame().await.is_none());
                break Some(error.deadline_source());
            }
        }
    };
    (bytes, start.elapsed().as_secs(), limit)
}

#[tokio::test(start_paused = true)]
async fn a_body_has_a_limit_for_all_of_it_and_one_for_each_silence() {
    let new = MemoryLayer::builder;
    let idle = Some(DeadlineSource::BodyIdleTimeout);
    let whole = Some(DeadlineSource::BodyTimeout);
    for (layer, pauses, expected) in [
        (new(), &[1, 9, 1][..], (3, 11, None)),
        (
            new().body_idle_timeout(3 * SECOND),
            &[2, 2, 2, 2],
            (4, 8, None),
        ),
        (
            new().body_idle_timeout(3 * SECOND),
            &[2, 2, 9],
            (2, 7, idle),
        ),
        (new().body_idle_timeout(3 * SECOND), &[9], (0, 3, idle)),
        (new().body_timeout(5 * SECOND), &[2, 2, 0], (3, 4, None)),
        (new().body_timeout(5 * SECOND), &[2, 2, 2], (2, 5, whole)),
        (
            new().body_timeout(5 * SECOND).body_idle_timeout(3 * SECOND),
            &[2, 2, 2],
            (2, 5, whole),
        ),
        (
            new().body_timeout(5 * SECOND).body_idle_timeout(3 * SECOND),
            &[1, 9],
            (1, 4, idle),
        ),
        // The timeout for the head says nothing about the body.
        (new().timeout(SECOND), &[2, 2], (2, 4, None)),
        (
            new().timeout(SECOND).body_timeout(Duration::MAX),
            &[2, 2],
            (2, 4, None),
        ),
    ] {
        let (body, watch) = opened(layer, RoutePolicy::new(), |_| Ticks::new(pauses)).await;
        assert_eq!(read(body).await, expected, "{pauses:?}");
        let report = watch.report().await;
        assert_eq!(report.deadline_source, expected.2, "{pauses:?}");
        let completed = expected.2.is_none();
        assert_eq!(
            report.outcome == Outcome::Completed,
            completed,
            "{pauses:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn policies_tighten_and_disable_the_limits_of_bodies() {
    let layer = || {
        MemoryLayer::builder()
            .body_timeout(5 * SECOND)
            .body_idle_timeout(3 * SECOND)
    };
    let new = RoutePolicy::new;
    let idle = Some(DeadlineSource::BodyIdleTimeout);
    let whole = Some(DeadlineSource::BodyTimeout);
    for (policy, pauses, expected) in [
        (new().body_timeout(SECOND), &[2][..], (0, 1, whole)),
        (new().body_timeout(9 * SECOND), &[2, 2, 2], (2, 5, whole)),
        (new().disable_body_timeout(), &[2, 2, 2, 9], (3, 9, idle)),
        (
            new().disable_body_timeout().body_timeout(7 * SECOND),
            &[2, 2, 2, 2],
            (3, 7, whole),
        ),
        (new().body_idle_timeout(SECOND), &[2], (0, 1, idle)),
        (new().disable_body_idle_timeout(), &[9], (0, 5, whole)),
        (
            new().disable_body_idle_timeout().disable_body_timeout(),
            &[60],
            (1, 60, None),
        ),
    ] {
        let (body, watch) = opened(layer(), policy, |_| Ticks::new(pauses)).await;
        assert_eq!(read(body).await, expected, "{policy:?} {pauses:?}");
        watch.report().await;
    }
}

/// `unread.rs` has bodies that the server does not poll. Here it polls again after the limit.
#[tokio::test(start_paused = true)]
async fn a_server_that_asks_too_late_finds_the_error_of_either_limit() {
    let new = MemoryLayer::builder;
    for (layer, expected) in [
        (
            new().body_idle_timeout(3 * SECOND),
            DeadlineSource::BodyIdleTimeout,
        ),
        (new().body_timeout(3 * SECOND), DeadlineSource::BodyTimeout),
    ] {
        let (mut body, watch) = opened(layer, RoutePolicy::new(), |_| Ticks::new(&[1, 1])).await;
        assert!(body.frame().await.unwrap().is_ok());
        sleep(60 * SECOND).await;
        assert_eq!(read(body).await, (0, 0, Some(expected)));
        watch.report().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_always_has_something_to_say_ends_at_its_limit_too() {
    let layer = MemoryLayer::builder().body_timeout(3 * SECOND);
    let (mut body, watch) = opened(layer, RoutePolicy::new(), |_| {
        let frame = || Ok::<_, Refused>(Frame::data(Bytes::from_static(b".")));
        StreamBody::new(stream::repeat_with(frame))
    })
    .await;
    let start = Instant::now();
    let error = loop {
        match body.frame().await.unwrap() {
            Ok(_) => sleep(SECOND / 10).await,
            Err(error) => break error,
        }
    };
    assert!(error.is::<BodyTimeoutError>());
    assert_eq!(start.elapsed().as_secs(), 3);
    assert_eq!(watch.report().await.outcome, Outcome::DeadlineExceeded);
}

#[tokio::test(start_paused = true)]
async fn while_it_is_made_a_body_can_move_its_deadline() {
    for (act, expected) in [
        (
            (|scope: &RequestScope| scope.shorten_deadline(SECOND)) as fn(&RequestScope),
            (1, 3, Some(DeadlineSource::Handler)),
        ),
        (RequestScope::clear_deadline, (3, 22, None)),
        (
            |scope| assert!(scope.extend_deadline(8 * SECOND)),
            (2, 10, Some(DeadlineSource::Handler)),
        ),
    ] {
        let layer = MemoryLayer::builder()
            .timeout(SECOND)
            .body_timeout(5 * SECOND);
        let (body, watch) = opened(layer, RoutePolicy::new(), move |scope| {
            assert!(scope.remaining() <= Some(SECOND), "of the head");
            tokio::spawn(async move {
                sleep(2 * SECOND).await;
                assert_eq!(scope.remaining(), Some(3 * SECOND), "of the body");
                act(&scope);
            });
            Ticks::new(&[1, 3, 18])
        })
        .await;
        let (_, seconds, limit) = read(body).await;
        assert_eq!((seconds, limit), (expected.1, expected.2));
        watch.report().await;
    }
}

/// Headers of the request that say two seconds.
fn asking(method: Method, content_type: &'static str) -> Request<Empty<Bytes>> {
    let mut request = get("/");
    *request.method_mut() = method;
    let headers = request.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert("grpc-timeout", HeaderValue::from_static("2S"));
    request
}

#[tokio::test(start_paused = true)]
async fn the_deadline_of_a_grpc_call_is_for_its_messages_and_ends_them_with_a_status() {
    let layer = MemoryLayer::builder()
        .timeout(30 * SECOND)
        .trust_deadline(DeadlineHeader::GrpcTimeout);
    let (layer, watch) = watched(layer);
    let service = layer.layer(service_fn(async |_: Request<Empty<Bytes>>| {
        Ok::<_, Refused>(Response::new(Ticks::new(&[1, 9])))
    }));
    let call = asking(Method::POST, "application/grpc+proto");
    let response = service.clone().oneshot(call).await.unwrap();
    let mut body = response.into_body();
    assert!(body.frame().await.unwrap().unwrap().is_data());
    let trailers = body
        .frame()
        .await
        .unwrap()
        .unwrap()
        .into_trailers()
        .unwrap();
    assert_eq!(trailers["grpc-status"], "4");
    let message = "the deadline set by the header grpc-timeout passed after 20";
    let said = trailers["grpc-message"].to_str().unwrap();
    assert!(said.starts_with(message), "{said}");
    assert!(body.is_end_stream() && body.frame().await.is_none());
    let source = DeadlineSource::GrpcTimeout;
    let report = watch.report().await;
    assert_eq!(report.deadline_source, Some(source));

    // Elsewhere the header is for the head alone.
    let plain = service.oneshot(asking(Method::GET, "text/plain")).await;
    assert_eq!(read(plain.unwrap().into_body()).await, (2, 10, None));
    watch.reports(2).await;
}

#[tokio::test(start_paused = true)]
async fn an_upgraded_connection_has_no_limits() {
    let limits = || {
        MemoryLayer::builder()
            .timeout(SECOND)
            .body_timeout(SECOND)
            .body_idle_timeout(SECOND)
            .request_body_idle_timeout(SECOND)
            .trust_deadline(DeadlineHeader::GrpcTimeout)
    };
    let upgrades = [
        (Method::GET, StatusCode::SWITCHING_PROTOCOLS),
        (Method::CONNECT, StatusCode::OK),
    ];
    for (n, (method, status)) in (0..4).flat_map(|n| upgrades.clone().map(|upgrade| (n, upgrade))) {
        // The connection's task owns its hold, or runs within it; the server keeps the response, or drops it.
        let (within, keeps) = (n % 2 == 0, n / 2 == 0);
        let (layer, watch) = watched(limits());
        let (tell, told) = tokio::sync::oneshot::channel();
        let tell = std::sync::Mutex::new(Some(tell));
        let inner = service_fn(move |request: Request<RequestBody<Ticks>>| {
            let hold = scope_of(&request).hold();
            let scope = hold.scope().clone();
            let tell = tell.lock().unwrap().take().unwrap();
            let mut body = request.into_body();
            // It waits for the client all the time, as a tunnel does.
            let connection = async move {
                for _ in 0..60 {
                    let silent = tokio::time::timeout(SECOND, body.frame()).await;
                    assert!(silent.is_err());
                }
                tell.send((scope.reason(), scope.deadline())).unwrap();
            };
            if within {
                tokio::spawn(hold.run(connection));
            } else {
                tokio::spawn(async move {
                    connection.await;
                    drop(hold);
                });
            }
            let mut response = Response::new(Ticks::new(&[]));
            *response.status_mut() = status;
            std::future::ready(Ok::<_, Refused>(response))
        });
        let service = layer.layer(RequestBodyLayer::new().layer(inner));
        let request = asking(method, "application/grpc").map(|_| Ticks::new(&[1000]));
        let start = Instant::now();
        let response = service.oneshot(request).await.unwrap();
        let kept = keeps.then_some(response);
        sleep(30 * SECOND).await;
        watch.assert_open();
        assert_eq!(told.await.unwrap(), (None, None));
        drop(kept);
        assert_eq!(watch.outcome().await, Outcome::Completed);
        assert_eq!(start.elapsed().as_secs(), 60);
    }
}

#[tokio::test(start_paused = true)]
async fn a_limited_body_dropped_while_it_waits_is_a_client_that_left() {
    let layer = MemoryLayer::builder().body_timeout(5 * SECOND);
    let (mut body, watch) = opened(layer, RoutePolicy::new(), |_| Ticks::new(&[9])).await;
    let waiting = tokio::time::timeout(SECOND, body.frame()).await;
    assert!(waiting.is_err());
    drop(body);
    assert_eq!(watch.report().await.outcome, Outcome::Abandoned);
}
