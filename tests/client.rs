//! Outgoing calls on behalf of a request: what they are told, and when they end. Time is paused.
#![forbid(unsafe_code)]

use std::{
    error::Error,
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body_util::Full;
use tokio::time::{Instant, sleep};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_memory::{
    MemoryLayer, Outcome, RequestScope,
    cancel::DeadlineSource,
    client::{CallError, PropagateDeadlineLayer},
    deadline_header::DeadlineHeader,
};

const SECOND: Duration = Duration::from_secs(1);

#[derive(Debug, PartialEq)]
struct Refused;

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("refused")
    }
}

impl Error for Refused {}

/// What the other side was told, once for each call that was made.
type Told = Arc<Mutex<Vec<Option<String>>>>;

/// The other side: notes the header, and answers after `delay`.
fn upstream(
    header: DeadlineHeader,
    delay: Duration,
) -> (
    impl Service<Request<()>, Response = Response<()>, Error = Refused, Future: Send> + Clone,
    Told,
) {
    let told = Told::default();
    let service = service_fn({
        let told = Arc::clone(&told);
        move |request: Request<()>| {
            let values: Vec<_> = request.headers().get_all(header.name()).iter().collect();
            let value = values.first().map(|v| v.to_str().unwrap().to_owned());
            assert!(values.len() <= 1);
            told.lock().unwrap().push(value);
            async move {
                sleep(delay).await;
                Ok(Response::new(()))
            }
        }
    });
    (service, told)
}

/// Runs `f` as the handler of a request with this timeout.
async fn handling<F, R>(timeout: Option<Duration>, f: impl FnOnce(RequestScope) -> F) -> R
where
    F: Future<Output = R>,
{
    let layer = timeout.map_or_else(MemoryLayer::new, MemoryLayer::with_timeout);
    let handle = layer.handle();
    let mut result = None;
    let f = Mutex::new(Some(f));
    {
        let result = Mutex::new(&mut result);
        let service = layer.layer(service_fn(|request: Request<()>| {
            let scope = request.extensions().get::<RequestScope>().unwrap().clone();
            let running = f.lock().unwrap().take().unwrap()(scope);
            async {
                let output = running.await;
                **result.lock().unwrap() = Some(output);
                Ok::<_, Refused>(Response::new(Full::<Bytes>::default()))
            }
        }));
        let response = service.oneshot(Request::new(())).await.unwrap();
        assert_eq!(response.status(), 200, "the handler came to its end");
    }
    let now = handle.snapshot();
    assert_eq!((now.in_flight, now.tokens, now.pool.rented), (0, 0, 0));
    result.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_call_is_told_what_remains_less_the_margin() {
    for (header, expected) in [
        (DeadlineHeader::GrpcTimeout, "3900000u"),
        (DeadlineHeader::RequestTimeout, "3900"),
        (DeadlineHeader::EnvoyExpectedRqTimeout, "3900"),
    ] {
        let (service, told) = upstream(header, Duration::ZERO);
        let layer = PropagateDeadlineLayer::new(header).margin(Duration::from_millis(100));
        let client = layer.layer(service);
        handling(Some(5 * SECOND), |_| async {
            sleep(SECOND).await;
            assert!(client.oneshot(Request::new(())).await.is_ok());
        })
        .await;
        assert_eq!(*told.lock().unwrap(), [Some(expected.to_owned())]);
    }
}

#[tokio::test(start_paused = true)]
async fn the_shorter_of_what_remains_and_what_the_call_says_already_is_sent() {
    let header = DeadlineHeader::RequestTimeout;
    for (said, expected) in [
        (Some("300"), Some("300")),
        (Some("9000"), Some("5000")),
        (Some("nonsense"), Some("5000")),
        (None, Some("5000")),
    ] {
        let (service, told) = upstream(header, Duration::ZERO);
        let client = PropagateDeadlineLayer::new(header).layer(service);
        let mut request = Request::new(());
        if let Some(said) = said {
            let said = HeaderValue::from_static(said);
            request.headers_mut().insert(header.name(), said);
        }
        handling(Some(5 * SECOND), |_| async {
            assert!(client.oneshot(request).await.is_ok());
        })
        .await;
        assert_eq!(*told.lock().unwrap(), [expected.map(str::to_owned)]);
    }
}

#[tokio::test(start_paused = true)]
async fn calls_of_no_request_and_of_those_without_a_deadline_pass_as_they_are() {
    let header = DeadlineHeader::GrpcTimeout;
    let (service, told) = upstream(header, SECOND);
    let client = PropagateDeadlineLayer::new(header).layer(service);
    assert!(client.clone().oneshot(Request::new(())).await.is_ok());
    handling(None, |_| async {
        assert!(client.clone().oneshot(Request::new(())).await.is_ok());
    })
    .await;
    assert_eq!(*told.lock().unwrap(), [None, None]);
}

#[tokio::test(start_paused = true)]
async fn the_scope_may_come_with_the_call_instead() {
    let header = DeadlineHeader::RequestTimeout;
    let (service, told) = upstream(header, Duration::ZERO);
    let client = PropagateDeadlineLayer::new(header).layer(service);
    handling(Some(2 * SECOND), |scope| async {
        // A task of its own, out of sight of the scope.
        let call = tokio::spawn(async move {
            assert!(RequestScope::current().is_none());
            let mut request = Request::new(());
            request.extensions_mut().insert(scope);
            client.oneshot(request).await.map(drop)
        });
        assert!(call.await.unwrap().is_ok());
    })
    .await;
    assert_eq!(*told.lock().unwrap(), [Some("2000".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn a_call_for_which_nothing_remains_is_not_made() {
    let header = DeadlineHeader::RequestTimeout;
    for (margin, made) in [
        (SECOND, false),
        (2 * SECOND, false),
        // Less than a millisecond is nothing to this header.
        (SECOND - Duration::from_micros(999), false),
        (SECOND - Duration::from_millis(1), true),
    ] {
        let (service, told) = upstream(header, Duration::ZERO);
        let layer = PropagateDeadlineLayer::new(header).margin(margin);
        let client = layer.layer(service);
        let result = handling(Some(SECOND), |_| client.oneshot(Request::new(()))).await;
        assert_eq!(told.lock().unwrap().len(), usize::from(made));
        if !made {
            let error = result.unwrap_err();
            assert!(error.is_deadline_exceeded());
            assert_eq!(error.reason(), None);
            let text =
                format!("call not sent: 1.0s left before the deadline, {margin:.1?} reserved");
            assert_eq!(error.to_string(), text);
            assert!(error.source().is_none());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_s_call_ends_with_the_request() {
    let header = DeadlineHeader::GrpcTimeout;
    let (service, told) = upstream(header, 60 * SECOND);
    let client = PropagateDeadlineLayer::new(header).layer(service);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let layer = MemoryLayer::with_timeout(2 * SECOND);
    let handle = layer.handle();
    let service = layer.layer(service_fn({
        let seen = Arc::clone(&seen);
        move |request: Request<()>| {
            let scope = request.extensions().get::<RequestScope>().unwrap().clone();
            for _ in 0..2 {
                let (client, seen) = (client.clone(), Arc::clone(&seen));
                scope.spawn(async move {
                    let during = client.clone().oneshot(Request::new(())).await;
                    let after = client.oneshot(Request::new(())).await;
                    for error in [during.unwrap_err(), after.unwrap_err()] {
                        let told = (error.is_deadline_exceeded(), error.reason(), Instant::now());
                        seen.lock().unwrap().push(told);
                    }
                });
            }
            std::future::pending::<Result<Response<Full<Bytes>>, Refused>>()
        }
    }));
    let start = Instant::now();
    drop(service.oneshot(Request::new(())).await.unwrap());
    while handle.snapshot().in_flight > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(start.elapsed().as_secs(), 2);
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 4);
    for (exceeded, said, at) in seen.iter() {
        assert!(exceeded);
        let source = said.unwrap().deadline_source();
        assert_eq!(source, Some(DeadlineSource::Layer));
        assert_eq!((*at - start).as_secs(), 2);
    }
    assert_eq!(
        told.lock().unwrap().len(),
        2,
        "the later calls were not made"
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_of_a_client_that_left_is_cancelled() {
    let header = DeadlineHeader::GrpcTimeout;
    let (service, _told) = upstream(header, 60 * SECOND);
    let client = PropagateDeadlineLayer::new(header).layer(service);
    let (tell, told) = tokio::sync::oneshot::channel();
    let tell = Mutex::new(Some(tell));
    let mut service = MemoryLayer::new().layer(service_fn(move |request: Request<()>| {
        let scope = request.extensions().get::<RequestScope>().unwrap().clone();
        let (client, tell) = (client.clone(), tell.lock().unwrap().take().unwrap());
        scope.spawn(async move {
            let error = client.oneshot(Request::new(())).await.unwrap_err();
            tell.send(error).unwrap();
        });
        std::future::pending::<Result<Response<Full<Bytes>>, Refused>>()
    }));
    let request = service.call(Request::new(()));
    let gone = tokio::time::timeout(SECOND, request).await;
    assert!(gone.is_err(), "dropped, as a server does");
    let error = told.await.unwrap();
    assert!(!error.is_deadline_exceeded());
    assert!(
        error
            .reason()
            .is_some_and(|reason| reason == Outcome::Abandoned)
    );
    assert_eq!(
        error.to_string(),
        "call cancelled: the response was abandoned"
    );
}

#[tokio::test(start_paused = true)]
async fn errors_of_the_service_come_as_the_source() {
    let fails = service_fn(async |_: Request<()>| Err::<Response<()>, _>(Refused));
    let client = PropagateDeadlineLayer::new(DeadlineHeader::GrpcTimeout).layer(fails);
    let error = client.oneshot(Request::new(())).await.unwrap_err();
    assert!(!error.is_deadline_exceeded() && error.reason().is_none());
    assert_eq!(error.to_string(), "call failed");
    assert!(error.source().unwrap().is::<Refused>());
    let inner = error.into_service_error().unwrap();
    assert_eq!(*inner.downcast::<Refused>().unwrap(), Refused);
}

#[test]
fn what_the_client_side_is_made_of_may_cross_threads() {
    fn crosses<T: Send + Sync + 'static>() {}
    crosses::<CallError>();
    crosses::<PropagateDeadlineLayer>();
    crosses::<tower_memory::client::PropagateDeadline<()>>();
    crosses::<tower_memory::client::PropagateDeadlineFuture<std::future::Ready<()>>>();
    crosses::<tower_memory::RoutePolicy>();
    crosses::<tower_memory::middleware::BodyTimeoutError>();
    crosses::<tower_memory::middleware::DeadlineContext<'static>>();
    crosses::<tower_memory::middleware::RequestBody<()>>();
    crosses::<tower_memory::middleware::RequestBodyService<()>>();
    crosses::<tower_memory::middleware::PolicyService<()>>();
}
