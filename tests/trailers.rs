//! The final figures as trailers, over connections of HTTP/1.1 and HTTP/2, and the figures of routes in headers.
#![forbid(unsafe_code)]

#[path = "support/serve.rs"]
mod serve;

use std::{convert::Infallible, hint::black_box, net::SocketAddr, sync::mpsc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, Either, Empty, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_memory::{
    Expose, MemoryLayer, Outcome, RequestScope, ScopeReport, TrackingAllocator,
    header::{HeaderFormat, MEMORY_USAGE, X_ALLOC_BYTES, X_ALLOC_COUNT},
    middleware::MemoryLayerBuilder,
};

#[global_allocator]
static ALLOC: TrackingAllocator = TrackingAllocator::system();

type AnyBody = UnsyncBoxBody<Bytes, Infallible>;

/// Three frames, each of which takes 10 000 bytes to make.
fn stream(own: Option<HeaderMap>) -> AnyBody {
    let frames = (0..3).map(|_| {
        drop(black_box(vec![1_u8; 10_000]));
        Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"part")))
    });
    let own = own.into_iter().map(|own| Ok(Frame::trailers(own)));
    StreamBody::new(futures_util::stream::iter(frames.chain(own))).boxed_unsync()
}

async fn handler(request: Request<Incoming>) -> Result<Response<AnyBody>, Infallible> {
    let scope = request.extensions().get::<RequestScope>().unwrap();
    scope.set_route("/answers");
    let full = || Full::new(Bytes::from_static(b"hello")).boxed_unsync();
    let mut response = Response::new(match request.uri().path() {
        "/full" | "/length" => full(),
        "/empty" | "/204" => Empty::new().boxed_unsync(),
        "/own" | "/grpc" => {
            let mut own = HeaderMap::new();
            own.insert("grpc-status", "0".parse().unwrap());
            stream(Some(own))
        }
        _ => stream(None),
    });
    let headers = response.headers_mut();
    match request.uri().path() {
        "/own" => _ = headers.insert(header::TRAILER, "grpc-status".parse().unwrap()),
        "/grpc" => _ = headers.insert(header::CONTENT_TYPE, "application/grpc".parse().unwrap()),
        "/announced" => _ = headers.insert(header::CONTENT_LENGTH, 12.into()),
        "/204" => *response.status_mut() = StatusCode::NO_CONTENT,
        _ => {}
    }
    Ok(response)
}

fn exposing() -> MemoryLayerBuilder {
    MemoryLayer::builder()
        .expose(Expose::Always)
        .expose_trailers()
}

/// A server, and the reports of its requests.
async fn observed(layer: MemoryLayerBuilder) -> (SocketAddr, mpsc::Receiver<ScopeReport>) {
    let (sender, reports) = mpsc::channel();
    let layer = layer
        .observe(move |report: &ScopeReport| _ = sender.send(report.clone()))
        .build()
        .unwrap();
    let service = layer.layer(service_fn(handler));
    (serve::serve(service).await, reports)
}

fn next(reports: &mpsc::Receiver<ScopeReport>) -> ScopeReport {
    reports.recv_timeout(Duration::from_secs(10)).unwrap()
}

/// What a client of HTTP/2 gets: head, data and trailers.
async fn get_h2(
    address: SocketAddr,
    method: Method,
    path: &str,
) -> (http::response::Parts, Bytes, Option<HeaderMap>) {
    let socket = TcpStream::connect(address).await.unwrap();
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket))
            .await
            .unwrap();
    tokio::spawn(connection);
    let mut request = Request::builder()
        .method(method)
        .uri(format!("http://test{path}"));
    if path == "/grpc" {
        request = request.header(header::CONTENT_TYPE, "application/grpc");
    }
    let response = client
        .send_request(request.body(Empty::<Bytes>::new()).unwrap())
        .await
        .unwrap();
    let (parts, body) = response.into_parts();
    let collected = body.collect().await.unwrap();
    let trailers = collected.trailers().cloned();
    (parts, collected.to_bytes(), trailers)
}

/// What stands on the wire of a connection of HTTP/1.
async fn get_h1(address: SocketAddr, request_line: &str, te: &str) -> String {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let request = format!("{request_line}\r\nhost: test\r\nconnection: close\r\n{te}\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    socket.read_to_string(&mut text).await.unwrap();
    text
}

/// What follows the last chunk.
fn trailers_of(text: &str) -> Option<&str> {
    let (_, after) = text.split_once("\r\n0\r\n")?;
    after.strip_suffix("\r\n")
}

fn figure(figures: &HeaderMap, name: &http::HeaderName) -> u64 {
    figures[name].to_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn trailers_of_http_2_are_the_final_figures() {
    let (address, reports) = observed(exposing()).await;
    let (head, data, trailers) = get_h2(address, Method::GET, "/stream").await;
    let trailers = trailers.expect("trailers");
    assert_eq!(data, "partpartpart");
    let usage = next(&reports).usage.unwrap();
    assert_eq!(figure(&trailers, &X_ALLOC_BYTES), usage.bytes_allocated);
    assert_eq!(figure(&trailers, &X_ALLOC_COUNT), usage.allocations);
    assert_eq!(trailers["x-alloc-route"], "/answers");
    let head_bytes = figure(&head.headers, &X_ALLOC_BYTES);
    assert!(usage.bytes_allocated >= head_bytes + 30_000);
    let announced = head.headers[header::TRAILER].to_str().unwrap();
    for name in trailers.keys() {
        assert!(announced.split(", ").any(|known| known == name.as_str()));
    }
}

#[tokio::test]
async fn a_client_of_http_1_gets_trailers_if_it_says_that_it_reads_them() {
    let (address, reports) = observed(exposing()).await;
    let text = get_h1(address, "GET /stream HTTP/1.1", "te: trailers\r\n").await;
    let usage = next(&reports).usage.unwrap();
    let trailers = trailers_of(&text).expect("trailers");
    let expected = format!("x-alloc-bytes: {}\r\n", usage.bytes_allocated);
    assert!(trailers.contains(&expected), "{text}");
    assert!(trailers.contains("x-arena-source: unused\r\n"));

    for (line, te) in [
        ("GET /stream HTTP/1.1", ""),
        ("GET /stream HTTP/1.1", "te: gzip\r\n"),
        ("GET /stream HTTP/1.0", "te: trailers\r\n"),
    ] {
        let text = get_h1(address, line, te).await;
        assert!(!text.contains("\r\ntrailer: "), "{text}");
        assert!(matches!(trailers_of(&text), None | Some("")), "{text}");
        assert_eq!(next(&reports).outcome, Outcome::Completed);
    }
}

#[tokio::test]
async fn the_trailers_of_the_body_stay_among_the_figures() {
    let (address, reports) = observed(exposing()).await;
    for (method, path) in [(Method::GET, "/own"), (Method::POST, "/grpc")] {
        let (head, data, trailers) = get_h2(address, method, path).await;
        let trailers = trailers.expect("trailers");
        assert_eq!(
            (data.len(), &trailers["grpc-status"]),
            (12, &"0".parse().unwrap())
        );
        let usage = next(&reports).usage.unwrap();
        assert_eq!(figure(&trailers, &X_ALLOC_BYTES), usage.bytes_allocated);
        // The protocol of gRPC announces them.
        let announced = head.headers.get_all(header::TRAILER).iter().count();
        assert_eq!(announced, if path == "/own" { 2 } else { 0 });
    }
    let text = get_h1(address, "GET /own HTTP/1.1", "te: trailers\r\n").await;
    let trailers = trailers_of(&text).expect("trailers");
    assert!(trailers.contains("grpc-status: 0\r\n") && trailers.contains("x-alloc-bytes: "));
}

#[tokio::test]
async fn responses_without_a_stream_stay_as_they_are() {
    let (address, reports) = observed(exposing()).await;
    for (method, path, length) in [
        (Method::HEAD, "/stream", 0),
        (Method::GET, "/204", 0),
        (Method::GET, "/empty", 0),
        (Method::GET, "/full", 5),
        (Method::GET, "/announced", 12),
    ] {
        // hyper sends the body of a response to HEAD if there is one, in HTTP/2.
        let path_h2 = if method == Method::HEAD {
            "/empty"
        } else {
            path
        };
        let (head, data, trailers) = get_h2(address, method.clone(), path_h2).await;
        assert_eq!((data.len(), trailers), (length, None), "{method} {path}");
        assert!(!head.headers.contains_key(header::TRAILER));
        assert!(head.headers.contains_key(X_ALLOC_BYTES));
        assert_eq!(next(&reports).outcome, Outcome::Completed);

        let line = format!("{method} {path} HTTP/1.1");
        let text = get_h1(address, &line, "te: trailers\r\n").await;
        assert!(!text.contains("\r\ntrailer: "), "{text}");
        assert_eq!(
            text.split_once("\r\n\r\n").unwrap().1.len(),
            length,
            "{text}"
        );
        assert_eq!(next(&reports).outcome, Outcome::Completed);
    }
}

#[tokio::test]
async fn trailers_have_the_form_of_the_headers_and_are_for_the_same_clients() {
    let (address, reports) = observed(exposing().header_format(HeaderFormat::Dictionary)).await;
    let (_, _, trailers) = get_h2(address, Method::GET, "/stream").await;
    let usage = next(&reports).usage.unwrap();
    let expected = format!("alloc-bytes={}, ", usage.bytes_allocated);
    let trailers = trailers.unwrap();
    assert!(
        trailers[MEMORY_USAGE]
            .to_str()
            .unwrap()
            .starts_with(&expected)
    );
    assert_eq!(trailers.len(), 1);

    let (address, reports) = observed(exposing().header_format(HeaderFormat::ServerTiming)).await;
    let text = get_h1(address, "GET /stream HTTP/1.1", "te: trailers\r\n").await;
    let usage = next(&reports).usage.unwrap();
    let expected = format!(
        "server-timing: alloc-bytes;desc={}, ",
        usage.bytes_allocated
    );
    assert!(trailers_of(&text).unwrap().starts_with(&expected), "{text}");

    let (address, _reports) = observed(exposing().expose(Expose::Never)).await;
    let (head, _, trailers) = get_h2(address, Method::GET, "/stream").await;
    assert_eq!((head.headers.get(header::TRAILER), trailers), (None, None));
}

#[tokio::test]
async fn a_body_with_limits_has_trailers_and_one_that_is_cut_off_has_none() {
    let limited = || exposing().body_timeout(Duration::from_secs(30));
    let (address, reports) = observed(limited()).await;
    let (_, _, trailers) = get_h2(address, Method::GET, "/stream").await;
    let usage = next(&reports).usage.unwrap();
    assert_eq!(
        figure(&trailers.unwrap(), &X_ALLOC_BYTES),
        usage.bytes_allocated
    );

    let layer = exposing()
        .body_timeout(Duration::from_millis(1))
        .build()
        .unwrap();
    let service = layer.layer(service_fn(|_: Request<()>| async {
        let body = StreamBody::new(futures_util::stream::pending::<
            Result<Frame<Bytes>, Infallible>,
        >());
        Ok::<_, Infallible>(Response::new(body))
    }));
    let request = Request::builder().version(http::Version::HTTP_2).body(());
    let response = service.oneshot(request.unwrap()).await.unwrap();
    let mut body = response.into_body();
    assert!(body.frame().await.unwrap().is_err());
    assert!(body.frame().await.is_none());
}

/// A request of HTTP/2 whose body has a last frame that says so.
#[tokio::test]
async fn a_drop_after_the_last_frame_is_no_abandoned_response() {
    let layer = exposing().build().unwrap();
    let mut service = layer.layer(service_fn(|request: Request<bool>| async move {
        let stream = Either::<_, AnyBody>::Left(if *request.body() {
            // Knows that it is at its end after the frame, and not how long it was.
            Either::Left(Unsized(Some(Bytes::from_static(b"all"))))
        } else {
            Either::Right(stream(None))
        });
        Ok::<_, Infallible>(Response::new(stream))
    }));
    for knows in [true, false] {
        let request = Request::builder()
            .version(http::Version::HTTP_2)
            .body(knows);
        let response = service.ready().await.unwrap().call(request.unwrap());
        let mut body = response.await.unwrap().into_body();
        let frame = body.frame().await.unwrap().unwrap();
        assert!(frame.is_data());
        assert!(!http_body::Body::is_end_stream(&body), "trailers follow");
    }
    let outcomes = layer.handle().snapshot().routes[0].outcomes;
    assert_eq!(outcomes.get(Outcome::Completed), 1);
    assert_eq!(outcomes.get(Outcome::Abandoned), 1);
}

struct Unsized(Option<Bytes>);

impl http_body::Body for Unsized {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        std::task::Poll::Ready(self.0.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }
}

#[tokio::test(start_paused = true)]
async fn headers_have_the_figures_of_the_route_as_of_the_last_second() {
    for (format, names) in [
        (HeaderFormat::Fields, "x-alloc-bytes-"),
        (HeaderFormat::Dictionary, "alloc-bytes-"),
        (HeaderFormat::ServerTiming, "alloc-bytes-"),
    ] {
        let layer = MemoryLayer::builder()
            .expose(Expose::Always)
            .header_format(format)
            .expose_route_figures()
            .build()
            .unwrap();
        let mut service = layer.layer(service_fn(|request: Request<usize>| async move {
            drop(black_box(vec![1_u8; *request.body()]));
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }));
        let mut send = async |bytes| {
            let response = service.ready().await.unwrap().call(Request::new(bytes));
            response.await.unwrap().headers().clone()
        };
        let shown = |headers: &HeaderMap| -> Option<[u64; 3]> {
            let line = |name: &str| headers.get(name)?.to_str().ok().map(str::to_owned);
            let of = |suffix: &str| match format {
                HeaderFormat::Fields => line(&format!("{names}{suffix}"))?.parse().ok(),
                _ => {
                    let line = line("memory-usage").or_else(|| line("server-timing"))?;
                    let (_, rest) = line.split_once(&format!(", {names}{suffix}"))?;
                    let digits = rest.trim_start_matches(";desc").trim_start_matches('=');
                    digits.split(',').next()?.parse().ok()
                }
            };
            Some([of("mean")?, of("p50")?, of("p99")?])
        };
        assert_eq!(shown(&send(1000).await), None, "none has closed");
        for n in 1..100 {
            send(1000 + 10 * n).await;
        }
        assert_eq!(shown(&send(1000).await), None, "at most once in a second");
        tokio::time::advance(Duration::from_secs(1)).await;
        let now = layer.handle().snapshot();
        let figures = now.routes[0].bytes.as_ref().unwrap();
        let expected = [
            figures.mean().round() as u64,
            figures.percentile(0.5),
            figures.percentile(0.99),
        ];
        assert_eq!(shown(&send(1_000_000).await), Some(expected), "{format:?}");
        assert_eq!(shown(&send(1000).await), Some(expected));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(shown(&send(1000).await).unwrap()[0] > expected[0]);
    }
}
