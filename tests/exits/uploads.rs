//! Requests whose body breaks off or falls silent.

use std::{
    convert::Infallible,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{Router, body::Body, routing::post};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, stream};
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    sync::mpsc,
    time::{Instant, sleep, timeout},
};
use tower::{Layer, ServiceBuilder, ServiceExt, service_fn};
use tower_memory::{
    MemoryLayer, Outcome, RequestScope, RoutePolicy,
    cancel::DeadlineSource,
    middleware::{BodyTimeoutError, MemoryLayerBuilder, RequestBody, RequestBodyLayer},
};

use super::support::{BoxError, Watch, never_answering, serve, watched};

const SECOND: Duration = Duration::from_secs(1);

/// Two ways to read an upload, both of which answer whatever happens.
fn uploads() -> (Router, Arc<AtomicUsize>) {
    let reading = Arc::new(AtomicUsize::new(0));
    let begun = |reading: &Arc<AtomicUsize>| {
        let reading = Arc::clone(reading);
        move || reading.fetch_add(1, Ordering::SeqCst)
    };
    let (in_bytes, in_arena) = (begun(&reading), begun(&reading));
    let router = Router::new()
        .route(
            "/bytes",
            post(async move |body: Body| {
                in_bytes();
                match axum::body::to_bytes(body, 1 << 20).await {
                    Ok(read) => read.len().to_string(),
                    Err(error) => error.to_string(),
                }
            }),
        )
        .route(
            "/arena",
            post(async move |scope: RequestScope, body: Body| {
                in_arena();
                match scope.arena().collect(body, 1 << 20).await {
                    Ok(read) => read.len().to_string(),
                    Err(error) => error.to_string(),
                }
            }),
        );
    (router, reading)
}

/// Twenty clients leave within their upload. Returns the outcomes.
async fn vanishing(watch_bodies: bool) -> Vec<Outcome> {
    let (router, reading) = uploads();
    let (layer, watch) = watched(MemoryLayer::builder());
    let address = if watch_bodies {
        serve(router.layer(RequestBodyLayer::new()).layer(layer)).await
    } else {
        serve(router.layer(layer)).await
    };
    let mut sent = 0;
    for path in ["/bytes", "/arena"] {
        for reset in [false, true] {
            for _ in 0..5 {
                let mut stream = TcpStream::connect(address).await.unwrap();
                let head =
                    format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\nabc");
                stream.write_all(head.as_bytes()).await.unwrap();
                sent += 1;
                while reading.load(Ordering::SeqCst) < sent {
                    sleep(Duration::from_millis(1)).await;
                }
                if reset {
                    stream.set_zero_linger().unwrap();
                }
            }
        }
    }
    let reports = watch.reports(20).await;
    reports.iter().map(|report| report.outcome).collect()
}

/// The field/27.
#[tokio::test]
async fn clients_that_vanish_within_a_watched_upload_are_gone() {
    assert_eq!(vanishing(true).await, [Outcome::ClientGone; 20]);
}

#[tokio::test]
async fn nothing_says_that_a_client_is_gone_if_its_upload_is_not_watched() {
    for outcome in vanishing(false).await {
        assert!(
            matches!(outcome, Outcome::Completed | Outcome::Abandoned),
            "{outcome}"
        );
    }
}

#[tokio::test]
async fn a_client_that_resets_its_http2_stream_within_the_upload_is_gone() {
    let (router, reading) = uploads();
    let (layer, watch) = watched(MemoryLayer::builder());
    let address = serve(router.layer(RequestBodyLayer::new()).layer(layer)).await;
    let stream = TokioIo::new(TcpStream::connect(address).await.unwrap());
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), stream)
            .await
            .unwrap();
    tokio::spawn(connection);
    let part = stream::iter([Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"abc")))]);
    let body = StreamBody::new(part.chain(stream::pending()).boxed());
    let request = Request::post("http://localhost/bytes")
        .header("content-length", 100)
        .body(body)
        .unwrap();
    let response = sender.send_request(request);
    let unanswered = timeout(Duration::from_millis(100), response).await;
    assert!(unanswered.is_err(), "dropped, which resets the stream");
    assert_eq!(reading.load(Ordering::SeqCst), 1);
    assert_eq!(watch.outcome().await, Outcome::ClientGone);
}

/// The outcome of a request whose response is dropped after its body has failed.
fn dropped_after(error: BoxError) -> Outcome {
    let (layer, watch) = watched(MemoryLayer::builder());
    let service = ServiceBuilder::new()
        .layer(layer)
        .layer(RequestBodyLayer::new())
        .service(service_fn(async |request: Request<RequestBody<Upload>>| {
            let scope = request.extensions().get::<RequestScope>().unwrap().clone();
            assert!(request.into_body().collect().await.is_err());
            assert!(!scope.is_cancelled());
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from("for nobody"))))
        }));
    let upload = StreamBody::new(stream::iter([Err(error)]).boxed());
    let response = service.oneshot(Request::new(upload)).now_or_never();
    drop(response.expect("nothing waits").unwrap());
    watch.outcome_now()
}

#[test]
fn a_response_dropped_after_an_error_of_the_body_is_the_clients_unless_the_content_was_wrong() {
    assert_eq!(dropped_after("stream reset".into()), Outcome::ClientGone);
    let other = io::Error::other("stream reset");
    assert_eq!(dropped_after(other.into()), Outcome::ClientGone);
    for kind in [io::ErrorKind::InvalidData, io::ErrorKind::InvalidInput] {
        let malformed = io::Error::from(kind);
        assert_eq!(dropped_after(malformed.into()), Outcome::Abandoned);
    }
}

/// A body that announces ten bytes, yields five, and ends as it is told.
struct Half {
    sent: bool,
    end: Option<io::Error>,
}

impl http_body::Body for Half {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        Poll::Ready(if std::mem::replace(&mut self.sent, true) {
            self.end.take().map(Err)
        } else {
            Some(Ok(Frame::data(Bytes::from_static(b"01234"))))
        })
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(if self.sent { 5 } else { 10 })
    }
}

/// The outcome of a request that is answered after its body has ended like this.
fn answered_after(end: Option<io::Error>) -> Outcome {
    let (layer, watch) = watched(MemoryLayer::builder());
    let service = ServiceBuilder::new()
        .layer(layer)
        .layer(RequestBodyLayer::new())
        .service(service_fn(async |request: Request<RequestBody<Half>>| {
            let scope = request.extensions().get::<RequestScope>().unwrap().clone();
            let mut body = request.into_body();
            let first = body.frame().await.unwrap().unwrap();
            assert_eq!(first.into_data().unwrap(), "01234");
            assert!(!scope.is_cancelled());
            while let Some(Ok(_)) = body.frame().await {}
            let text = format!("{:?}", scope.reason().map(|reason| reason.outcome()));
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(text))))
        }));
    let half = Half { sent: false, end };
    let response = service.oneshot(Request::new(half));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let read = runtime.block_on(async {
        let response = response.await.unwrap();
        response.into_body().collect().await.unwrap().to_bytes()
    });
    let report = watch.report_now();
    let told = (report.outcome != Outcome::Completed).then_some(report.outcome);
    assert_eq!(read, format!("{told:?}"), "the handler knows it, too");
    report.outcome
}

#[test]
fn only_an_end_of_the_connection_says_that_the_client_is_gone() {
    use io::ErrorKind::*;
    for kind in [
        BrokenPipe,
        ConnectionAborted,
        ConnectionReset,
        NotConnected,
        UnexpectedEof,
    ] {
        assert_eq!(
            answered_after(Some(kind.into())),
            Outcome::ClientGone,
            "{kind}"
        );
    }
    for kind in [InvalidData, InvalidInput, Other, OutOfMemory] {
        assert_eq!(
            answered_after(Some(kind.into())),
            Outcome::Completed,
            "{kind}"
        );
    }
    // Wrapped, as servers and frameworks do.
    let wrapped = io::Error::other(io::Error::from(ConnectionReset));
    assert_eq!(answered_after(Some(wrapped)), Outcome::ClientGone);
    // Shorter than announced.
    assert_eq!(answered_after(None), Outcome::ClientGone);
}

/// `soak` 7: the layer cannot tell an outer timeout from a client that has left.
#[tokio::test(start_paused = true)]
async fn a_request_that_an_outer_timeout_drops_is_abandoned() {
    let (layer, watch) = watched(MemoryLayer::builder());
    let service = layer.layer(never_answering());
    let outer = timeout(SECOND, service.oneshot(Request::new(Empty::new())));
    assert!(outer.await.is_err());
    assert_eq!(watch.outcome_now(), Outcome::Abandoned);
}

type Upload = StreamBody<stream::BoxStream<'static, Result<Frame<Bytes>, BoxError>>>;

/// A body of `parts` parts of a byte, one after each `every`, and then silence for ever.
fn trickle(parts: usize, every: Duration) -> Upload {
    let parts = stream::iter(0..parts).then(move |_| async move {
        sleep(every).await;
        Ok(Frame::data(Bytes::from_static(b"x")))
    });
    StreamBody::new(parts.chain(stream::pending()).boxed())
}

/// Sends an upload to a handler that reads all of it. Returns the status, and after how long.
async fn read_all(
    layer: MemoryLayerBuilder,
    policy: RoutePolicy,
    upload: Upload,
    in_a_task: bool,
) -> (u16, Duration, Watch) {
    let (layer, watch) = watched(layer);
    let service = ServiceBuilder::new()
        .layer(layer)
        .layer(policy)
        .layer(RequestBodyLayer::new())
        .service(service_fn(
            move |request: Request<RequestBody<Upload>>| async move {
                let scope = request.extensions().get::<RequestScope>().unwrap().clone();
                let body = request.into_body();
                let read = if in_a_task {
                    scope.spawn(body.collect()).await.unwrap()
                } else {
                    body.collect().await
                };
                Ok::<_, Infallible>(Response::new(Full::new(read.unwrap().to_bytes())))
            },
        ));
    let start = Instant::now();
    let response = service.oneshot(Request::post("/").body(upload).unwrap());
    let response = timeout(100 * SECOND, response).await;
    let status = response.map_or(0, |response| response.unwrap().status().as_u16());
    (status, start.elapsed(), watch)
}

/// The field/11.
#[tokio::test(start_paused = true)]
async fn a_silent_upload_is_answered_with_408_and_a_slow_one_is_not() {
    for in_a_task in [false, true] {
        let layer = || {
            MemoryLayer::builder()
                .timeout(5 * SECOND)
                .grace_period(Duration::ZERO)
                .request_body_idle_timeout(2 * SECOND)
        };
        let unlimited = RoutePolicy::new().disable_timeout();
        // 20 parts take longer than both limits; then there is silence.
        let upload = || trickle(20, SECOND);
        let (status, after, watch) = read_all(layer(), unlimited, upload(), in_a_task).await;
        assert_eq!(
            (status, after.as_secs()),
            (408, 22),
            "in a task: {in_a_task}"
        );
        let report = watch.report().await;
        assert_eq!(report.outcome, Outcome::DeadlineExceeded);
        let source = Some(DeadlineSource::RequestBodyIdleTimeout);
        assert_eq!(report.deadline_source, source);
        // The limit for the whole is the earlier one.
        let (status, after, watch) =
            read_all(layer(), RoutePolicy::new(), upload(), in_a_task).await;
        assert_eq!((status, after.as_secs()), (408, 5));
        assert_eq!(
            watch.report().await.deadline_source,
            Some(DeadlineSource::Layer)
        );
        // A policy makes it shorter, or lifts it.
        let shorter = unlimited.request_body_idle_timeout(SECOND / 2);
        let (status, after, _) = read_all(layer(), shorter, upload(), in_a_task).await;
        assert_eq!((status, after.as_millis()), (408, 500));
        let lifted = unlimited.disable_request_body_idle_timeout();
        let (status, ..) = read_all(layer(), lifted, upload(), in_a_task).await;
        assert_eq!(status, 0, "still waiting after 100 s");
    }
}

/// Time in which the handler does something else is not the client's.
#[tokio::test(start_paused = true)]
async fn a_handler_that_does_not_read_does_not_count_as_a_silent_upload() {
    let (layer, watch) = watched(MemoryLayer::builder().request_body_idle_timeout(SECOND));
    let service = ServiceBuilder::new()
        .layer(layer)
        .layer(RequestBodyLayer::new())
        .service(service_fn(async |request: Request<RequestBody<Upload>>| {
            let mut body = request.into_body();
            body.frame().await.unwrap().unwrap();
            sleep(10 * SECOND).await;
            drop(body);
            sleep(10 * SECOND).await;
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }));
    let upload = trickle(1, SECOND / 2);
    let response = service.oneshot(Request::post("/").body(upload).unwrap());
    assert_eq!(response.await.unwrap().status(), 200);
    assert_eq!(watch.outcome().await, Outcome::Completed);
}

#[tokio::test(start_paused = true)]
async fn a_response_that_streams_a_silent_upload_is_cut_off() {
    let (layer, watch) = watched(MemoryLayer::builder().request_body_idle_timeout(SECOND));
    let service = ServiceBuilder::new()
        .layer(layer)
        .layer(RequestBodyLayer::new())
        .service(service_fn(async |request: Request<RequestBody<Upload>>| {
            Ok::<_, Infallible>(Response::new(request.into_body()))
        }));
    let upload = trickle(3, SECOND / 2);
    let response = service.oneshot(Request::post("/").body(upload).unwrap());
    let mut body = response.await.unwrap().into_body();
    let start = Instant::now();
    for _ in 0..3 {
        let part = body.frame().await.unwrap().unwrap();
        assert_eq!(part.into_data().unwrap(), "x");
    }
    let error = body.frame().await.unwrap().unwrap_err();
    let error = error.downcast_ref::<BodyTimeoutError>().unwrap();
    let source = DeadlineSource::RequestBodyIdleTimeout;
    assert_eq!(error.deadline_source(), source);
    assert_eq!(start.elapsed().as_millis(), 2500);
    assert_eq!(watch.report_now().deadline_source, Some(source));
}

/// A reader in a task of its own, which the response future does not poll.
#[tokio::test(start_paused = true)]
async fn an_upload_that_another_task_reads_is_timed_although_nothing_wakes_the_response() {
    let (layer, watch) = watched(
        MemoryLayer::builder()
            .grace_period(Duration::ZERO)
            .request_body_idle_timeout(SECOND),
    );
    let (told, mut tells) = mpsc::unbounded_channel();
    let service = ServiceBuilder::new()
        .layer(layer)
        .layer(RequestBodyLayer::new())
        .service(service_fn(move |request: Request<RequestBody<Upload>>| {
            let told = told.clone();
            async move {
                // Waits for nothing before the task begins to read.
                tokio::spawn(async move {
                    sleep(SECOND).await;
                    let mut body = request.into_body();
                    while let Some(Ok(_)) = body.frame().await {}
                    told.send(()).unwrap();
                });
                std::future::pending::<Result<Response<Empty<Bytes>>, Infallible>>().await
            }
        }));
    let start = Instant::now();
    let upload = trickle(0, SECOND);
    let response = service.oneshot(Request::post("/").body(upload).unwrap());
    assert_eq!(response.await.unwrap().status(), 408);
    assert_eq!(start.elapsed(), 2 * SECOND);
    assert!(tells.try_recv().is_err(), "the task is not the request's");
    let report = watch.report().await;
    assert_eq!(report.outcome, Outcome::DeadlineExceeded);
}

/// A body that announces `announced` bytes and yields `come` of them, in frames of `frame`.
fn announcing(
    announced: u64,
    come: usize,
    frame: usize,
) -> impl http_body::Body<Data = Bytes, Error = Infallible> {
    struct Announcing(SizeHint, usize, usize);

    impl http_body::Body for Announcing {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            let part = self.1.min(self.2);
            self.1 -= part;
            let frame = Frame::data(Bytes::from(vec![b'x'; part]));
            Poll::Ready((part > 0).then_some(Ok(frame)))
        }

        fn size_hint(&self) -> SizeHint {
            self.0
        }
    }

    Announcing(SizeHint::with_exact(announced), come, frame)
}

/// The newcomer's A3: a body that came took 2.4 times its size.
#[tokio::test]
async fn an_announced_length_is_reserved_once_enough_of_it_has_come() {
    const MIB: usize = 1 << 20;
    // What was announced, what came, and the most that the arena may have taken.
    for (announced, come, most) in [
        (100 * MIB, 1, 128 * 1024),
        (100 * MIB, 64 * 1024, 256 * 1024),
        (8 * MIB, MIB - 1, 4 * MIB),
        (8 * MIB, 8 * MIB, 8 * MIB * 3 / 2),
        (MIB, MIB, MIB * 3 / 2),
        (64 * 1024, 64 * 1024, 128 * 1024),
        (40_000, 40_000, 80_000),
    ] {
        let arena = tower_memory::Arena::new();
        let body = announcing(announced as u64, come, 16 * 1024);
        let read = arena.collect(body, 100 * MIB).await.unwrap();
        assert_eq!(read.len(), come);
        let took = arena.capacity();
        assert!(took <= most, "{announced} announced, {come} came: {took}");
    }
}

#[tokio::test]
async fn fields_of_a_multipart_form_are_read_into_the_arena_up_to_a_limit() {
    use axum::{extract::Multipart, response::IntoResponse};

    let (layer, watch) = watched(MemoryLayer::builder());
    let app = Router::new()
        .route(
            "/",
            post(async |scope: RequestScope, mut form: Multipart| {
                let mut sum = 0;
                while let Some(mut field) = form.next_field().await.unwrap() {
                    let mut read = scope.arena().buf();
                    while let Some(chunk) = field.chunk().await.unwrap() {
                        if let Err(error) = read.append(chunk, 10) {
                            return error.into_response();
                        }
                    }
                    sum += read.len();
                }
                sum.to_string().into_response()
            }),
        )
        .layer(layer);
    for (fields, status, body) in [
        (&["01234", "0123456789"][..], 200, "15"),
        (&["01234", "0123456789a"], 413, ""),
    ] {
        let mut form = String::new();
        for field in fields {
            form += "--b\r\ncontent-disposition: form-data; name=\"x\"\r\n\r\n";
            form += field;
            form += "\r\n";
        }
        form += "--b--\r\n";
        let request = Request::post("/")
            .header("content-type", "multipart/form-data; boundary=b")
            .body(Body::from(form))
            .unwrap();
        let response = app.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), status);
        let read = response.into_body().collect().await.unwrap().to_bytes();
        let read = String::from_utf8_lossy(&read);
        if status == 200 {
            assert_eq!(read, body);
        } else {
            let text = "body of at least 11 bytes exceeds the limit of 10";
            assert!(read.contains(text), "{read}");
        }
    }
    let reports = watch.reports(2).await;
    assert_eq!(
        reports.iter().map(|report| report.status.unwrap()).max(),
        Some(413)
    );
}
