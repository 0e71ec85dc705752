//! The layer changes nothing of what goes over the wire but the headers it adds.

use std::{convert::Infallible, net::SocketAddr};

use http::{Request, Response, StatusCode, header};
use hyper::body::Incoming;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tower::{Layer, service_fn};
use tower_memory::{Expose, MemoryLayer, Outcome};

use super::support::{Steps, data, serve, trailers, watched};

/// Names of the responses that [`respond`] makes.
const SHAPES: [&str; 10] = [
    "/empty",
    "/empty-untold",
    "/exact",
    "/exact-in-parts",
    "/length-by-header",
    "/streamed",
    "/streamed-with-end",
    "/trailers",
    "/no-content",
    "/not-modified",
];

fn respond(path: &str) -> Response<Steps> {
    let mut response = Response::new(match path {
        "/empty" | "/no-content" | "/not-modified" => {
            Steps::data([]).with_length(0).telling_its_end()
        }
        "/empty-untold" => Steps::data([]),
        "/exact" => Steps::data(["0123456789"])
            .with_length(10)
            .telling_its_end(),
        "/exact-in-parts" => Steps::data(["01234", "56789"]).with_length(10),
        "/length-by-header" | "/streamed" => Steps::data(["01234", "56789"]),
        "/streamed-with-end" => Steps::data(["01234", "56789"]).telling_its_end(),
        "/trailers" => Steps::new([data("0123456789"), trailers()]),
        other => panic!("no response for {other}"),
    });
    match path {
        "/no-content" => *response.status_mut() = StatusCode::NO_CONTENT,
        "/not-modified" => *response.status_mut() = StatusCode::NOT_MODIFIED,
        _ => {}
    }
    let mut insert = |name, value| {
        let value = http::HeaderValue::from_static(value);
        response.headers_mut().insert(name, value);
    };
    match path {
        "/length-by-header" => insert(header::CONTENT_LENGTH, "10"),
        "/trailers" => insert(header::TRAILER, "x-sum"),
        _ => {}
    }
    response
}

async fn serve_with(layer: Option<MemoryLayer>) -> SocketAddr {
    let service = service_fn(async |request: Request<Incoming>| {
        Ok::<_, Infallible>(respond(request.uri().path()))
    });
    match layer {
        Some(layer) => serve(layer.layer(service)).await,
        None => serve(service).await,
    }
}

/// What the server sends until it closes the connection, without the date and the layer's headers.
async fn http1_bytes(address: SocketAddr, request_line: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request =
        format!("{request_line}\r\nhost: localhost\r\nte: trailers\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = String::new();
    stream.read_to_string(&mut bytes).await.unwrap();
    assert!(bytes.starts_with("HTTP/1."), "{bytes}");
    bytes
        .split_inclusive("\r\n")
        .filter(|line| {
            !["date:", "x-alloc-", "x-arena-"]
                .iter()
                .any(|name| line.starts_with(name))
        })
        .collect()
}

#[tokio::test]
async fn http1_bytes_are_the_same_with_and_without_the_layer() {
    let (exposing, watch) = watched(MemoryLayer::builder());
    let (silent, silent_watch) = watched(MemoryLayer::builder().expose(Expose::Never));
    let without = serve_with(None).await;
    let exposed = serve_with(Some(exposing)).await;
    let silent = serve_with(Some(silent)).await;
    let mut requests = 0;
    for path in SHAPES {
        for (method, version) in [("GET", "1.1"), ("HEAD", "1.1"), ("GET", "1.0")] {
            let line = format!("{method} {path} HTTP/{version}");
            let expected = http1_bytes(without, &line).await;
            assert_eq!(http1_bytes(exposed, &line).await, expected, "{line}");
            assert_eq!(http1_bytes(silent, &line).await, expected, "{line}");
            requests += 1;
        }
    }
    for watch in [watch, silent_watch] {
        let reports = watch.reports(requests).await;
        assert!(
            reports.iter().all(|r| r.outcome == Outcome::Completed),
            "{reports:#?}"
        );
    }
}

#[tokio::test]
async fn http1_framing_is_what_the_body_told() {
    let address = serve_with(Some(MemoryLayer::new())).await;
    for path in ["/empty", "/exact", "/exact-in-parts", "/length-by-header"] {
        let bytes = http1_bytes(address, &format!("GET {path} HTTP/1.1")).await;
        let length = if path == "/empty" { 0 } else { 10 };
        assert!(
            bytes.contains(&format!("content-length: {length}\r\n")),
            "{bytes}"
        );
        assert!(!bytes.contains("transfer-encoding"), "{bytes}");
    }
    for path in ["/streamed", "/streamed-with-end", "/trailers"] {
        let bytes = http1_bytes(address, &format!("GET {path} HTTP/1.1")).await;
        assert!(bytes.contains("transfer-encoding: chunked\r\n"), "{bytes}");
        assert!(!bytes.contains("content-length"), "{bytes}");
    }
    let bytes = http1_bytes(address, "GET /trailers HTTP/1.1").await;
    assert!(bytes.ends_with("\r\n0\r\nx-sum: 42\r\n\r\n"), "{bytes}");
}

/// A frame of HTTP/2: its type, its flags, and the payload if that is data.
#[derive(Debug, PartialEq, Eq)]
struct RawFrame {
    kind: u8,
    flags: u8,
    data: Vec<u8>,
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const END_STREAM: u8 = 1;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// The frames with which a server answers a request, up to the end of the stream.
async fn http2_frames(address: SocketAddr, method: &str, path: &str) -> Vec<RawFrame> {
    const SETTINGS: u8 = 4;
    const END_HEADERS: u8 = 4;

    // HPACK: `:scheme http` indexed, the others as literals with an indexed name.
    let mut head = vec![0x86];
    for (name, value) in [(1, "localhost"), (2, method), (4, path)] {
        head.extend([name, u8::try_from(value.len()).unwrap()]);
        head.extend(value.as_bytes());
    }
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &[]));
    bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, 1, &head));
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(&bytes).await.unwrap();

    let mut frames = Vec::new();
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.unwrap();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        stream.read_exact(&mut payload).await.unwrap();
        let (kind, flags) = (head[3], head[4]);
        // Those of the connection itself come at any time.
        if u32::from_be_bytes([head[5], head[6], head[7], head[8]]) != 1 {
            continue;
        }
        assert!([DATA, HEADERS].contains(&kind), "a frame of type {kind}");
        frames.push(RawFrame {
            kind,
            flags,
            data: if kind == DATA { payload } else { Vec::new() },
        });
        if flags & END_STREAM != 0 {
            return frames;
        }
    }
}

#[tokio::test]
async fn http2_frames_are_the_same_with_and_without_the_layer() {
    let (layer, watch) = watched(MemoryLayer::builder());
    let without = serve_with(None).await;
    let with = serve_with(Some(layer)).await;
    for path in SHAPES {
        let expected = http2_frames(without, "GET", path).await;
        assert_eq!(http2_frames(with, "GET", path).await, expected, "{path}");
    }
    let reports = watch.reports(SHAPES.len()).await;
    assert!(
        reports.iter().all(|r| r.outcome == Outcome::Completed),
        "{reports:#?}"
    );
}

#[tokio::test]
async fn http2_ends_the_stream_with_the_last_data_of_a_body_that_tells_its_end() {
    let address = serve_with(Some(MemoryLayer::new())).await;
    let kinds = |frames: Vec<RawFrame>| {
        let kinds = frames
            .iter()
            .map(|frame| (frame.kind, frame.flags & END_STREAM));
        kinds.collect::<Vec<_>>()
    };
    let empty = kinds(http2_frames(address, "GET", "/empty").await);
    assert_eq!(empty, [(HEADERS, END_STREAM)]);
    let exact = kinds(http2_frames(address, "GET", "/exact").await);
    assert_eq!(exact, [(HEADERS, 0), (DATA, END_STREAM)]);
    let streamed = kinds(http2_frames(address, "GET", "/streamed-with-end").await);
    assert_eq!(streamed, [(HEADERS, 0), (DATA, 0), (DATA, END_STREAM)]);
    let trailers = kinds(http2_frames(address, "GET", "/trailers").await);
    assert_eq!(trailers, [(HEADERS, 0), (DATA, 0), (HEADERS, END_STREAM)]);
}
