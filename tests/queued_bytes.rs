//! The bytes of a response that still waits in the server's write queue are never overwritten, on
//! a real connection: the handler's buffer is sent without a copy, and the server has dropped the
//! body long before the client has read it.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::{BufMut, Bytes};
use http::{Request, Response, Version};
use http_body_util::{BodyExt, Empty, Full};
use hyper::{body::Incoming, client::conn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    sync::{mpsc, watch},
    task::JoinSet,
};
use tower::{Layer, service_fn};
use tower_memory::{ArenaPool, MemoryHandle, MemoryLayer, Outcome, RequestScope, ScopeReport};

const BODY: usize = 256 * 1024;
/// So small that hardly anything of a body fits between the two ends.
const SOCKET_BUFFER: u32 = 4096;
const REQUESTS: usize = 240;

/// The byte at `at` of the response to request `id`.
fn canary(id: usize, at: usize) -> u8 {
    (id.wrapping_mul(131) ^ at.wrapping_mul(7) ^ (at >> 9)) as u8
}

#[track_caller]
fn assert_canaries(id: usize, from: usize, bytes: &[u8]) {
    for (i, &byte) in bytes.iter().enumerate() {
        let at = from + i;
        assert_eq!(byte, canary(id, at), "byte {at} of request {id}");
    }
}

async fn handler(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let scope = request.extensions().get::<RequestScope>().unwrap();
    scope.set_route(if request.uri().path().starts_with("/slow") {
        "slow"
    } else {
        "load"
    });
    let mut path = request.uri().path().rsplit('/');
    let len: usize = path.next().unwrap().parse().unwrap();
    let id: usize = path.next().unwrap().parse().unwrap();
    let mut body = scope.arena().buf_with_capacity(len);
    for at in 0..len {
        body.put_u8(canary(id, at));
    }
    Ok(Response::new(Full::new(body.freeze())))
}

struct Server {
    address: SocketAddr,
    handle: MemoryHandle,
    /// Requests on the route "slow" that have closed.
    slow: mpsc::UnboundedReceiver<Outcome>,
    stop: watch::Sender<()>,
    connections: Arc<AtomicUsize>,
}

impl Server {
    /// A server for HTTP/1 and HTTP/2 whose pool keeps the memory of two bodies.
    fn start() -> Self {
        let pool = ArenaPool::builder()
            .initial_bytes(BODY + 1024)
            .max_arena_bytes(BODY + 1024)
            .max_total_bytes(2 * (BODY + 1024))
            .build()
            .unwrap();
        let (closed, slow) = mpsc::unbounded_channel();
        let layer = MemoryLayer::builder()
            .pool(pool)
            .observe(move |report: &ScopeReport| {
                if report.route.as_str() == "slow" {
                    closed.send(report.outcome).unwrap();
                }
            })
            .build()
            .unwrap();
        let handle = layer.handle();
        let service = TowerToHyperService::new(layer.layer(service_fn(handler)));

        let socket = TcpSocket::new_v4().unwrap();
        socket.set_send_buffer_size(SOCKET_BUFFER).unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let listener = socket.listen(512).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, mut stopped) = watch::channel(());
        let connections = Arc::new(AtomicUsize::new(0));
        tokio::spawn({
            let connections = Arc::clone(&connections);
            async move {
                loop {
                    let (stream, _) = tokio::select! {
                        accepted = listener.accept() => accepted.unwrap(),
                        _ = stopped.changed() => break,
                    };
                    let (service, connections) = (service.clone(), Arc::clone(&connections));
                    connections.fetch_add(1, Relaxed);
                    tokio::spawn(async move {
                        let builder = auto::Builder::new(TokioExecutor::new());
                        // An error is a client that went away, which is part of the test.
                        let _ = builder
                            .serve_connection(TokioIo::new(stream), service)
                            .await;
                        connections.fetch_sub(1, Relaxed);
                    });
                }
            }
        });
        Self {
            address,
            handle,
            slow,
            stop,
            connections,
        }
    }

    /// Waits until the layer has seen the end of a slow request.
    async fn slow_closed(&mut self) -> Outcome {
        let closed = tokio::time::timeout(Duration::from_secs(60), self.slow.recv());
        closed.await.expect("it closes").expect("the server runs")
    }

    /// Blocks of bodies that are not sent yet, among others.
    fn buffers(&self) -> usize {
        self.handle.pool().stats().buffers
    }

    /// Stops accepting, and waits until all connections are gone.
    async fn finish(self) {
        self.stop.send(()).unwrap();
        let gone = async {
            while self.connections.load(Relaxed) > 0 || self.buffers() > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let all_gone = tokio::time::timeout(Duration::from_secs(60), gone).await;
        let snapshot = self.handle.snapshot();
        assert!(all_gone.is_ok(), "something stays: {snapshot}");
        assert_eq!((snapshot.in_flight, snapshot.pool.rented), (0, 0));
        assert_eq!(snapshot.pool.buffer_bytes, 0);
        assert!(snapshot.pool.pooled_bytes <= 2 * (BODY + 1024));
        assert_eq!(snapshot.observer_panics, 0);
    }
}

async fn connect(address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(SOCKET_BUFFER).unwrap();
    socket.connect(address).await.unwrap()
}

/// A client that has sent its HTTP/1 request and not read anything of the response.
struct SlowReader {
    stream: TcpStream,
    id: usize,
}

impl SlowReader {
    async fn start(address: SocketAddr, id: usize) -> Self {
        let mut stream = connect(address).await;
        let request = format!("GET /slow/{id}/{BODY} HTTP/1.1\r\nhost: test\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        Self { stream, id }
    }

    /// Reads in small pieces, as many as there are in `bytes` of the body.
    async fn read(&mut self, bytes: usize) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.stream.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 200"), "{head}");
        assert!(
            head.contains(&format!("content-length: {BODY}\r\n")),
            "{head}"
        );
        let mut read = 0;
        while read < bytes {
            let mut piece = [0; 509];
            let want = piece.len().min(bytes - read);
            let got = self.stream.read(&mut piece[..want]).await.unwrap();
            assert!(got > 0, "cut off after {read} bytes");
            assert_canaries(self.id, read, &piece[..got]);
            read += got;
            tokio::task::yield_now().await;
        }
    }
}

async fn get(address: SocketAddr, version: Version, ids: Vec<(usize, usize)>) {
    let stream = TokioIo::new(TcpStream::connect(address).await.unwrap());
    let uri = |(id, len)| format!("http://test/load/{id}/{len}");
    let check = async |id: usize, len: usize, response: Response<Incoming>| {
        assert_eq!(response.headers()["x-arena-bytes"], len.to_string());
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body.len(), len);
        assert_canaries(id, 0, &body);
    };
    if version == Version::HTTP_2 {
        let (sender, connection) = conn::http2::handshake(TokioExecutor::new(), stream)
            .await
            .unwrap();
        let connection = tokio::spawn(connection);
        // All at once, on one connection.
        let requests = ids.into_iter().map(|(id, len)| {
            let mut sender = sender.clone();
            async move {
                let request = Request::get(uri((id, len))).body(Empty::<Bytes>::new());
                let response = sender.send_request(request.unwrap()).await.unwrap();
                check(id, len, response).await;
            }
        });
        futures_util::future::join_all(requests).await;
        drop(sender);
        connection.await.unwrap().unwrap();
    } else {
        let (mut sender, connection) = conn::http1::handshake(stream).await.unwrap();
        let connection = tokio::spawn(connection);
        for (id, len) in ids {
            let request = Request::get(uri((id, len)))
                .header("host", "test")
                .body(Empty::<Bytes>::new());
            sender.ready().await.unwrap();
            let response = sender.send_request(request.unwrap()).await.unwrap();
            check(id, len, response).await;
        }
        drop(sender);
        connection.await.unwrap().unwrap();
    }
}

/// [`REQUESTS`] requests from 12 connections of both kinds, each verified.
async fn load(address: SocketAddr) {
    let mut clients = JoinSet::new();
    for client in 0..12 {
        let version = if client % 2 == 0 {
            Version::HTTP_11
        } else {
            Version::HTTP_2
        };
        let ids = (0..REQUESTS / 12)
            .map(|i| {
                let id = 1000 + client * 100 + i;
                (id, [1, 700, 9000, 40_000][id % 4] + id)
            })
            .collect();
        clients.spawn(get(address, version, ids));
    }
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_queued_for_a_slow_http1_reader_stay_as_they_are() {
    let mut server = Server::start();
    let mut readers = Vec::new();
    for id in 1..=4 {
        readers.push(SlowReader::start(server.address, id).await);
    }
    for _ in &readers {
        assert_eq!(server.slow_closed().await, Outcome::Completed);
    }
    assert_eq!(server.handle.snapshot().in_flight, 0, "the bodies are gone");
    assert_eq!(server.buffers(), 4, "their bytes are not");

    load(server.address).await;
    assert!(
        server.handle.pool().stats().buffer_hits > 0,
        "blocks were reused"
    );
    assert!(server.buffers() >= 4);
    // Half read, half under way while others go on.
    let others = tokio::spawn(load(server.address));
    for reader in &mut readers {
        reader.read(BODY).await;
    }
    others.await.unwrap();
    drop(readers);
    server.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_queued_for_a_slow_http2_reader_stay_as_they_are() {
    let mut server = Server::start();
    let stream = TokioIo::new(connect(server.address).await);
    let (sender, connection) = conn::http2::Builder::new(TokioExecutor::new())
        // The server may send this much of each body before it is read.
        .initial_stream_window_size(4096)
        .handshake(stream)
        .await
        .unwrap();
    let connection = tokio::spawn(connection);
    let mut bodies = Vec::new();
    for id in 1..=4 {
        let request = Request::get(format!("http://test/slow/{id}/{BODY}"))
            .body(Empty::<Bytes>::new())
            .unwrap();
        let response = sender.clone().send_request(request).await.unwrap();
        bodies.push((id, response.into_body()));
    }
    for _ in &bodies {
        assert_eq!(server.slow_closed().await, Outcome::Completed);
    }
    assert_eq!(
        server.buffers(),
        4,
        "the bodies are gone, their bytes are not"
    );

    load(server.address).await;
    assert!(server.buffers() >= 4);
    let others = tokio::spawn(load(server.address));
    for (id, mut body) in bodies {
        let mut read = 0;
        while let Some(frame) = body.frame().await {
            let data = frame.unwrap().into_data().unwrap();
            assert_canaries(id, read, &data);
            read += data.len();
            tokio::task::yield_now().await;
        }
        assert_eq!(read, BODY);
    }
    others.await.unwrap();
    drop(sender);
    connection.await.unwrap().unwrap();
    server.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_vanishes_midway_gives_the_block_back() {
    let mut server = Server::start();
    for (id, bytes) in [(1, 0), (2, 1), (3, BODY / 2), (4, BODY - 1)] {
        let mut reader = SlowReader::start(server.address, id).await;
        if bytes > 0 {
            reader.read(bytes).await;
        }
        assert_eq!(server.slow_closed().await, Outcome::Completed);
        drop(reader);
    }
    load(server.address).await;
    server.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_are_reset_midway_give_their_blocks_back() {
    let mut server = Server::start();
    let stream = TokioIo::new(connect(server.address).await);
    let (mut sender, connection) = conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(4096)
        .handshake(stream)
        .await
        .unwrap();
    let connection = tokio::spawn(connection);
    for id in 1..=20 {
        let request = Request::get(format!("http://test/slow/{id}/{BODY}"))
            .body(Empty::<Bytes>::new())
            .unwrap();
        let mut body = sender.send_request(request).await.unwrap().into_body();
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_canaries(id, 0, &first);
        drop(body);
        server.slow_closed().await;
    }
    drop(sender);
    connection.await.unwrap().unwrap();
    server.finish().await;
}
