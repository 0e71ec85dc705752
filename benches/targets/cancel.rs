//! `cancel/`: how soon tasks end when their client has gone, over real connections, and what
//! starting them costs.

use std::{
    convert::Infallible,
    hint::black_box,
    net::SocketAddr,
    time::{Duration, Instant},
};

use axum::{Router, routing::get};
use bytes::Bytes;
use http::Request;
use http_body_util::Empty;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    runtime::Builder,
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
};
use tower::{Layer, ServiceExt, service_fn};
use tower_memory::{MemoryLayer, RequestScope};

use crate::{
    clock,
    harness::{Contest, Report, Target, measure},
    sides::Side,
};

/// Clients that vanish in each row.
const CLIENTS: usize = 1000;

/// How a client vanishes.
#[derive(Clone, Copy)]
enum Vanishes {
    Http1Fin,
    Http1Rst,
    Http2Fin,
    Http2Rst,
    /// The stream alone; the connection stays.
    Http2RstStream,
}

impl Vanishes {
    const ALL: [Self; 5] = [
        Self::Http1Fin,
        Self::Http1Rst,
        Self::Http2Fin,
        Self::Http2Rst,
        Self::Http2RstStream,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Http1Fin => "http1_fin",
            Self::Http1Rst => "http1_rst",
            Self::Http2Fin => "http2_fin",
            Self::Http2Rst => "http2_rst",
            Self::Http2RstStream => "http2_rst_stream",
        }
    }

    /// Sends a request, waits until its task is there, and vanishes. Returns when that was, and the
    /// connection if there is one still.
    async fn vanish(
        self,
        address: SocketAddr,
        begun: &mut UnboundedReceiver<()>,
    ) -> (Instant, Option<TcpStream>) {
        let mut client = TcpStream::connect(address).await.expect("a connection");
        // By hand: a client's own way to close a connection is not of interest.
        let request = match self {
            Self::Http1Fin | Self::Http1Rst => HTTP1_REQUEST,
            _ => HTTP2_REQUEST,
        };
        client.write_all(request).await.expect("sent");
        begun.recv().await;
        // The server is at rest again.
        tokio::time::sleep(Duration::from_millis(1)).await;
        let gone = Instant::now();
        match self {
            // Not dropped: it has not read all, and would reset the connection.
            Self::Http1Fin | Self::Http2Fin => client.shutdown().await.expect("shut down"),
            Self::Http1Rst | Self::Http2Rst => {
                client.set_zero_linger().expect("a socket option");
                drop(client);
                return (gone, None);
            }
            Self::Http2RstStream => client.write_all(HTTP2_RST_STREAM).await.expect("sent"),
        }
        (gone, Some(client))
    }
}

const HTTP1_REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";

/// Preface, empty settings, and the headers of `GET http://localhost/` on stream 1
/// (RFC 9113, 3.4 and 6.2; RFC 7541, appendix A).
const HTTP2_REQUEST: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\
    \0\0\x0e\x01\x05\0\0\0\x01\x82\x86\x84\x41\x09localhost";

/// Cancels stream 1 (RFC 9113, 6.4).
const HTTP2_RST_STREAM: &[u8] = b"\0\0\x04\x03\0\0\0\0\x01\0\0\0\x08";

/// A server whose handler starts a task that waits for the token, and never answers. Tells when a
/// task has begun, and when it has ended.
async fn server() -> (
    SocketAddr,
    UnboundedReceiver<()>,
    UnboundedReceiver<Instant>,
) {
    let ((begin, begun), (end, ended)) = (unbounded_channel(), unbounded_channel());
    let app = Router::new().route(
        "/",
        get(async move |scope: RequestScope| {
            let token = scope.child_token();
            scope.spawn(async move {
                begin.send(()).expect("the row runs");
                token.cancelled().await;
                end.send(Instant::now()).expect("the row runs");
            });
            std::future::pending::<()>().await;
        }),
    );
    let app = app.layer(MemoryLayer::new()).with_state(());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            let service = TowerToHyperService::new(app.clone());
            tokio::spawn(async move {
                // It ends with an error: the client vanishes.
                let _ = auto::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    (address, begun, ended)
}

fn disconnect(vanishes: Vanishes) -> Contest {
    let row = format!("cancel/disconnect_to_task_end/{}", vanishes.name());
    Contest::new([row], move |report: &mut Report, [row]| {
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let client = runtime.spawn(async move {
            let (address, mut begun, mut ended) = server().await;
            let mut took = Vec::with_capacity(CLIENTS);
            for _ in 0..CLIENTS {
                let (gone, connection) = vanishes.vanish(address, &mut begun).await;
                let end = ended.recv().await.expect("the task ends");
                drop(connection);
                took.push(end.saturating_duration_since(gone));
            }
            took.sort_unstable();
            took
        });
        let took = runtime.block_on(client).expect("no panic");
        let micros = |at: usize| took[at].as_nanos() as f64 / 1e3;
        let (p50, max) = (micros((CLIENTS - 1) / 2), micros(CLIENTS - 1));
        let p99 = micros((CLIENTS - 1) * 99 / 100);
        report.line(
            row,
            &format!("p50 {p50:.1} us, p99 {p99:.1} us, max {max:.1} us"),
            "-",
            "-",
            "p50 < 1000 us",
            Some(p50 < 1000.0),
        );
    })
}

/// A request whose handler starts a task, and the same with `tokio::spawn`.
fn spawn() -> Contest {
    Contest::new(
        ["cancel/spawn/request_cpu".to_owned()],
        |report: &mut Report, [row]| {
            let runtime = &Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            let side = |label, scoped: bool| {
                let service = MemoryLayer::new().layer(service_fn(
                    move |request: Request<Empty<Bytes>>| async move {
                        let scope = request.extensions().get::<RequestScope>();
                        let scope = scope.expect("the layer is there");
                        let token = scope.child_token();
                        let task = async move { token.cancelled().await };
                        if scoped {
                            scope.spawn(task);
                        } else {
                            tokio::spawn(task);
                        }
                        Ok::<_, Infallible>(http::Response::new(Empty::<Bytes>::new()))
                    },
                ));
                Side::new(label, move |n| {
                    let service = service.clone();
                    let start = clock::thread();
                    runtime.block_on(async move {
                        for _ in 0..n {
                            let request = Request::new(Empty::new());
                            drop(black_box(service.clone().oneshot(request).await));
                            tokio::task::yield_now().await;
                        }
                    });
                    clock::thread() - start
                })
            };
            let [ours, peer] = measure([
                side("scope.spawn", true),
                side("tokio::spawn, same layer", false),
            ]);
            report.compare(row, &ours, &peer, Target::None);
        },
    )
}

pub(crate) fn add(contests: &mut Vec<Contest>) {
    contests.extend(Vanishes::ALL.map(disconnect));
    contests.push(spawn());
}
