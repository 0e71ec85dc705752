//! gRPC through the layer, with tonic's own client: statuses as the specification has them
//! (<https://github.com/grpc/grpc/blob/master/doc/statuscodes.md>).
#![forbid(unsafe_code)]

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use http::Uri;
use hyper_util::{client::legacy, rt::TokioExecutor};
use tokio::net::TcpListener;
use tokio_stream::{StreamExt, wrappers::TcpListenerStream};
use tonic::{
    Code, Request, Status,
    metadata::MetadataValue,
    transport::{Channel, Endpoint, Server},
};
use tonic_health::{
    pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient},
    server::health_reporter,
};
use tower::{Layer, ServiceExt, layer::layer_fn, service_fn};
use tower_memory::{
    Expose, MemoryHandle, MemoryLayer, Outcome, RequestScope, ScopeReport, cancel::DeadlineSource,
    client::PropagateDeadlineLayer, deadline_header::DeadlineHeader,
    middleware::MemoryLayerBuilder,
};

const SERVED: &str = "example.Greeter";

/// A tonic server with the layer, around the health service. A request with `x-delay-ms` is delayed
/// by that, inside the layer.
struct Rig {
    address: SocketAddr,
    handle: MemoryHandle,
    reports: Arc<Mutex<Vec<ScopeReport>>>,
}

impl Rig {
    async fn new(layer: MemoryLayerBuilder) -> Self {
        let reports = Arc::new(Mutex::new(Vec::new()));
        let layer = layer.observe({
            let reports = Arc::clone(&reports);
            move |report: &ScopeReport| reports.lock().unwrap().push(report.clone())
        });
        let layer = layer.build().unwrap();
        let handle = layer.handle();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (reporter, health) = health_reporter();
        let serving = tonic_health::ServingStatus::Serving;
        reporter.set_service_status(SERVED, serving).await;
        let server = Server::builder()
            .layer(layer)
            .layer(layer_fn(|inner| Delayed { inner }))
            .add_service(health)
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(server);
        Self {
            address,
            handle,
            reports,
        }
    }

    async fn channel(&self) -> HealthClient<Channel> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address)).unwrap();
        HealthClient::new(endpoint.connect().await.unwrap())
    }

    /// tonic's client over a connection that does not look at `grpc-timeout` itself.
    fn patient(
        &self,
    ) -> HealthClient<legacy::Client<legacy::connect::HttpConnector, tonic::body::Body>> {
        let client = legacy::Client::builder(TokioExecutor::new())
            .http2_only(true)
            .build_http();
        let origin = Uri::try_from(format!("http://{}", self.address)).unwrap();
        HealthClient::with_origin(client, origin)
    }

    /// Whose deadlines ended the requests, once nothing is left of them.
    async fn sources(&self, expected: usize) -> Vec<Option<DeadlineSource>> {
        let reports = self.reports(expected).await;
        reports
            .iter()
            .map(|report| report.deadline_source)
            .collect()
    }

    /// How the requests ended, once nothing is left of them.
    async fn outcomes(&self, expected: usize) -> Vec<Outcome> {
        let reports = self.reports(expected).await;
        reports.iter().map(|report| report.outcome).collect()
    }

    async fn reports(&self, expected: usize) -> Vec<ScopeReport> {
        let settled = async {
            loop {
                let now = self.handle.snapshot();
                let told = self.reports.lock().unwrap().len();
                let out = [now.in_flight, now.tasks, now.tokens, now.pool.rented];
                if told >= expected && out == [0; 4] {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let settled = tokio::time::timeout(Duration::from_secs(30), settled).await;
        assert!(settled.is_ok(), "{}", self.handle.snapshot());
        let reports = self.reports.lock().unwrap();
        assert_eq!(reports.len(), expected);
        reports.clone()
    }
}

#[derive(Clone)]
struct Delayed<S> {
    inner: S,
}

impl<S, B> tower::Service<http::Request<B>> for Delayed<S>
where
    S: tower::Service<http::Request<B>> + Clone + Send + 'static,
    S::Future: Send,
    B: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future =
        std::pin::Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send + 'static>>;

    fn poll_ready(
        &mut self,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let scope = request.extensions().get::<RequestScope>().unwrap().clone();
        scope.arena().alloc_str("in the arena");
        let token = scope.child_token();
        scope.spawn(async move { token.cancelled().await });
        let delay = request.headers().get("x-delay-ms").map(|value| {
            let millis = value.to_str().unwrap().parse().unwrap();
            Duration::from_millis(millis)
        });
        let ready = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, ready);
        Box::pin(async move {
            if let Some(delay) = delay {
                tokio::time::sleep(delay).await;
            }
            inner.call(request).await
        })
    }
}

fn asked(service: &str) -> Request<HealthCheckRequest> {
    Request::new(HealthCheckRequest {
        service: service.to_owned(),
    })
}

fn delayed(millis: &'static str) -> Request<HealthCheckRequest> {
    let mut request = asked(SERVED);
    let delay = MetadataValue::from_static(millis);
    request.metadata_mut().insert("x-delay-ms", delay);
    request
}

#[track_caller]
fn assert_exceeded(status: &Status, set_by: &str) {
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    let message = format!("the deadline set by {set_by} ");
    assert!(status.message().starts_with(&message), "{status:?}");
}

#[tokio::test]
async fn a_unary_call_keeps_its_message_and_its_trailers() {
    let rig = Rig::new(MemoryLayer::builder().timeout(Duration::from_secs(5))).await;
    let answer = rig.channel().await.check(asked(SERVED)).await.unwrap();
    assert_eq!(answer.metadata().get("grpc-status").unwrap(), "0");
    assert_eq!(answer.get_ref().status(), ServingStatus::Serving);
    assert_eq!(rig.outcomes(1).await, [Outcome::Completed]);
}

/// The client of tonic refuses a call whose trailers have no status.
#[tokio::test]
async fn the_trailers_of_a_call_keep_their_status_beside_the_figures() {
    let layer = MemoryLayer::builder().expose(Expose::Always);
    let rig = Rig::new(layer.expose_trailers()).await;
    let mut channel = rig.channel().await;
    let answer = channel.check(asked(SERVED)).await.unwrap();
    assert_eq!(answer.metadata().get("grpc-status").unwrap(), "0");
    assert!(answer.metadata().get("x-arena-source").is_some());
    assert!(answer.metadata().get("trailer").is_none());
    assert_eq!(answer.get_ref().status(), ServingStatus::Serving);
    let status = channel.check(asked("nobody")).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert_eq!(rig.outcomes(2).await, [Outcome::Completed; 2]);
}

#[tokio::test]
async fn an_error_without_any_message_keeps_its_status_and_is_a_complete_response() {
    let rig = Rig::new(MemoryLayer::builder()).await;
    let status = rig
        .channel()
        .await
        .check(asked("nobody"))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert_eq!(status.message(), "service not registered");
    assert!(status.metadata().get("x-alloc-route").is_some());
    assert_eq!(rig.outcomes(1).await, [Outcome::Completed]);
}

#[tokio::test]
async fn a_server_stream_is_open_until_its_client_leaves() {
    let rig = Rig::new(MemoryLayer::builder().timeout(Duration::from_millis(50))).await;
    let mut client = rig.channel().await;
    let mut messages = client.watch(asked(SERVED)).await.unwrap().into_inner();
    let first = messages.next().await.unwrap().unwrap();
    assert_eq!(first.status(), ServingStatus::Serving);
    // The layer's timeout is for the head.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(rig.handle.snapshot().in_flight, 1);
    drop(messages);
    assert_eq!(rig.outcomes(1).await, [Outcome::Abandoned]);
}

#[tokio::test]
async fn the_layers_timeout_is_deadline_exceeded() {
    let rig = Rig::new(MemoryLayer::builder().timeout(Duration::from_millis(50))).await;
    let status = rig
        .channel()
        .await
        .check(delayed("30000"))
        .await
        .unwrap_err();
    assert_exceeded(&status, "the layer");
    assert_eq!(rig.sources(1).await, [Some(DeadlineSource::Layer)]);
}

fn trusting() -> MemoryLayerBuilder {
    MemoryLayer::builder()
        .timeout(Duration::from_secs(20))
        .trust_deadline(DeadlineHeader::GrpcTimeout)
}

/// tonic's client and server both end a call at its deadline by themselves, and say `CANCELLED`; the
/// margin is what lets the right answer come first.
#[tokio::test]
async fn with_a_margin_a_call_that_takes_too_long_is_deadline_exceeded_and_not_cancelled() {
    let rig = Rig::new(trusting().deadline_margin(Duration::from_millis(300))).await;
    let mut request = delayed("30000");
    request.set_timeout(Duration::from_millis(500));
    let start = Instant::now();
    let status = rig.channel().await.check(request).await.unwrap_err();
    assert_exceeded(&status, "the header grpc-timeout");
    assert!(start.elapsed() < Duration::from_millis(500));
    assert_eq!(rig.sources(1).await, [Some(DeadlineSource::GrpcTimeout)]);
}

#[tokio::test]
async fn without_trust_tonic_cancels_the_call_and_the_handler_sees_a_client_that_left() {
    let rig = Rig::new(MemoryLayer::builder()).await;
    let mut request = delayed("30000");
    request.set_timeout(Duration::from_millis(100));
    let status = rig.channel().await.check(request).await.unwrap_err();
    assert_eq!(status.code(), Code::Cancelled, "{status:?}");
    assert_eq!(rig.outcomes(1).await, [Outcome::Abandoned]);
}

#[tokio::test]
async fn a_call_that_is_over_on_arrival_is_not_run() {
    let rig = Rig::new(trusting()).await;
    let mut request = asked(SERVED);
    request.set_timeout(Duration::ZERO);
    let status = rig.patient().check(request).await.unwrap_err();
    assert_exceeded(&status, "the header grpc-timeout");
    assert!(status.message().ends_with("had passed on arrival"));
    assert_eq!(rig.sources(1).await, [Some(DeadlineSource::GrpcTimeout)]);
}

#[tokio::test]
async fn the_deadline_of_a_stream_ends_it_after_its_messages() {
    let rig = Rig::new(trusting()).await;
    for patient in [false, true] {
        let mut request = asked(SERVED);
        request.set_timeout(Duration::from_millis(200));
        let start = Instant::now();
        let mut messages = if patient {
            rig.patient().watch(request).await.unwrap().into_inner()
        } else {
            let mut client = rig.channel().await;
            client.watch(request).await.unwrap().into_inner()
        };
        let first = messages.next().await.unwrap().unwrap();
        assert_eq!(first.status(), ServingStatus::Serving);
        let status = messages.next().await.unwrap().unwrap_err();
        assert_exceeded(&status, "the header grpc-timeout");
        assert!(start.elapsed() >= Duration::from_millis(200));
        assert!(messages.next().await.is_none());
    }
    let source = DeadlineSource::GrpcTimeout;
    assert_eq!(rig.sources(2).await, [Some(source); 2]);
}

#[tokio::test]
async fn a_stream_that_is_silent_for_too_long_is_deadline_exceeded() {
    let rig = Rig::new(MemoryLayer::builder().body_idle_timeout(Duration::from_millis(50))).await;
    let mut client = rig.channel().await;
    let mut messages = client.watch(asked(SERVED)).await.unwrap().into_inner();
    assert!(messages.next().await.unwrap().is_ok());
    let status = messages.next().await.unwrap().unwrap_err();
    assert_exceeded(&status, "the limit for idle bodies");
    let source = DeadlineSource::BodyIdleTimeout;
    assert_eq!(rig.sources(1).await, [Some(source)]);
}

#[tokio::test]
async fn a_timeout_that_is_none_is_ignored_and_counted() {
    let rig = Rig::new(trusting()).await;
    for value in ["123456789n", "1s", "-1S", ""] {
        let mut request = asked(SERVED);
        let value = value.parse().unwrap();
        request.metadata_mut().insert("grpc-timeout", value);
        assert!(rig.patient().check(request).await.is_ok());
    }
    assert_eq!(rig.outcomes(4).await, [Outcome::Completed; 4]);
    let snapshot = rig.handle.snapshot();
    assert_eq!(snapshot.unparsable_deadlines, 4);
    assert_eq!(snapshot.routes[0].outcomes.get(Outcome::Completed), 4);
}

/// What a tonic client is told if it makes a call within a request that `end` has ended, or will end.
async fn called_within(end: impl Fn(&RequestScope) + Clone) -> Status {
    let rig = Rig::new(MemoryLayer::builder()).await;
    let endpoint = Endpoint::from_shared(format!("http://{}", rig.address)).unwrap();
    let channel = endpoint.connect().await.unwrap();
    let channel = PropagateDeadlineLayer::new(DeadlineHeader::GrpcTimeout).layer(channel);
    let (sender, told) = std::sync::mpsc::channel();
    let service = MemoryLayer::new().layer(service_fn(|request: http::Request<()>| {
        end(request.extensions().get::<RequestScope>().unwrap());
        let mut client = HealthClient::new(channel.clone());
        let sender = sender.clone();
        async move {
            let call = client.check(delayed("30000"));
            sender.send(call.await.unwrap_err()).unwrap();
            Ok::<_, std::convert::Infallible>(http::Response::new(tonic::body::Body::empty()))
        }
    }));
    // The handler may be dropped at the deadline, after its call was.
    drop(service.oneshot(http::Request::new(())).await.unwrap());
    told.recv().unwrap()
}

#[tokio::test]
async fn a_call_for_which_no_time_is_left_is_deadline_exceeded_and_not_unknown() {
    let status = called_within(|scope| scope.shorten_deadline(Duration::ZERO)).await;
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    let message = "call not sent: 0.0ns left before the deadline, 0.0ns reserved";
    assert_eq!(status.message(), message);
}

#[tokio::test]
async fn a_call_of_a_cancelled_request_is_cancelled() {
    for before in [true, false] {
        let status = called_within(move |scope| {
            let scope = scope.clone();
            if before {
                scope.cancel();
            } else {
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    scope.cancel();
                });
            }
        })
        .await;
        assert_eq!(status.code(), Code::Cancelled, "{status:?}");
        let message = "call cancelled: the application cancelled the request";
        assert_eq!(status.message(), message);
    }
}

/// A server of gRPC-Web with the layer on this side of the translation.
async fn web(layer: &MemoryLayer, around: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (reporter, health) = health_reporter();
    let serving = tonic_health::ServingStatus::Serving;
    reporter.set_service_status(SERVED, serving).await;
    let listener = TcpListenerStream::new(listener);
    let server = Server::builder().accept_http1(true);
    let translate = tonic_web::GrpcWebLayer::new();
    if around {
        let layers = tower::ServiceBuilder::new()
            .layer(layer.clone())
            .layer(translate);
        let server = server.layer(layers).add_service(health);
        tokio::spawn(server.serve_with_incoming(listener));
    } else {
        let layers = tower::ServiceBuilder::new()
            .layer(translate)
            .layer(layer.clone());
        let server = server.layer(layers).add_service(health);
        tokio::spawn(server.serve_with_incoming(listener));
    }
    address
}

/// The deadline of a call covers its body, and ends it in the client's protocol, on both sides of the
/// translation. tonic-web's client reads the answer.
#[tokio::test]
async fn the_deadline_of_a_grpc_web_stream_ends_it_on_both_sides_of_the_translation() {
    for around in [false, true] {
        let reports = Arc::new(Mutex::new(Vec::new()));
        let layer = trusting()
            .observe({
                let reports = Arc::clone(&reports);
                move |report: &ScopeReport| reports.lock().unwrap().push(report.clone())
            })
            .build()
            .unwrap();
        let address = web(&layer, around).await;
        let client = legacy::Client::builder(TokioExecutor::new()).build_http();
        let client = tower::ServiceBuilder::new()
            .layer(tonic_web::GrpcWebClientLayer::new())
            .service(client);
        let origin = Uri::try_from(format!("http://{address}")).unwrap();
        let mut client = HealthClient::with_origin(client, origin);
        // A message in time, a call that is late before its head, and a stream that is late after it.
        let answer = client.check(asked(SERVED)).await.unwrap();
        assert_eq!(answer.get_ref().status(), ServingStatus::Serving);
        let mut late = asked(SERVED);
        late.set_timeout(Duration::ZERO);
        let status = client.check(late).await.unwrap_err();
        assert_exceeded(&status, "the header grpc-timeout");
        let mut request = asked(SERVED);
        request.set_timeout(Duration::from_millis(300));
        let start = Instant::now();
        let mut messages = client.watch(request).await.unwrap().into_inner();
        let first = messages.next().await.unwrap().unwrap();
        assert_eq!(first.status(), ServingStatus::Serving);
        let status = messages.next().await.unwrap().unwrap_err();
        assert_exceeded(&status, "the header grpc-timeout");
        assert!(start.elapsed() >= Duration::from_millis(300));
        drop(messages);
        let told = async {
            while reports.lock().unwrap().len() < 3 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), told)
            .await
            .unwrap();
        let sources: Vec<_> = reports
            .lock()
            .unwrap()
            .iter()
            .map(|report| report.deadline_source)
            .collect();
        let late = Some(DeadlineSource::GrpcTimeout);
        assert_eq!(sources, [None, late, late], "around: {around}");
    }
}

/// Decodes base64 with padding.
fn decoded(text: &str) -> Vec<u8> {
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        other => panic!("{other} is no digit"),
    };
    let groups = text.as_bytes().chunks(4).map(|group| {
        let digits = group.iter().copied().filter(|byte| *byte != b'=');
        let bits = digits.clone().map(digit).enumerate();
        let bits = bits.fold(0, |bits, (at, digit)| {
            bits | u32::from(digit) << (18 - 6 * at)
        });
        bits.to_be_bytes()[1..digits.count()].to_vec()
    });
    groups.flatten().collect()
}

/// As a browser asks: in base64, over HTTP/1.1.
#[tokio::test]
async fn a_grpc_web_text_stream_ends_with_trailers_in_base64() {
    use http_body_util::BodyExt;

    let layer = trusting().build().unwrap();
    let address = web(&layer, true).await;
    let client = legacy::Client::builder(TokioExecutor::new()).build_http();
    // An empty message: a flag and a length.
    let message = http_body_util::Full::new(bytes::Bytes::from_static(b"AAAAAAA="));
    let request = http::Request::post(format!("http://{address}/grpc.health.v1.Health/Watch"))
        .header("content-type", "application/grpc-web-text")
        .header("accept", "application/grpc-web-text")
        .header("grpc-timeout", "200m")
        .body(message)
        .unwrap();
    let response = client.request(request).await.unwrap();
    assert_eq!(response.status(), 200);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let text = String::from_utf8(body.to_vec()).unwrap();
    // Each part is padded, so the trailers are a part of their own.
    let at = text
        .rfind("gAAAA")
        .expect("a flag of 0x80 and a short length");
    let trailers = decoded(&text[at..]);
    let lines = String::from_utf8_lossy(&trailers[5..]);
    let length = u32::from_be_bytes(trailers[1..5].try_into().unwrap());
    assert_eq!(length as usize, lines.len());
    assert!(lines.starts_with("grpc-status:4\r\ngrpc-message:the deadline set by"));
    assert!(lines.ends_with("\r\n"));
    let now = layer.handle().snapshot();
    let routes = &now.routes[0];
    assert_eq!(routes.outcomes.get(Outcome::DeadlineExceeded), 1, "{now}");
}
