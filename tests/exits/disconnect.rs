//! Clients that vanish while a task of their request waits for the token: the task ends, and soon.
//!
//! `cargo bench -p tower-memory-targets --bench targets -- cancel` measures how soon.

use std::{net::SocketAddr, time::Duration};

use axum::{Router, routing::get as on_get};
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    time::timeout,
};
use tower_memory::{MemoryLayer, Outcome, RequestScope, cancel::CancelReason};

use super::support::{Http, Watch, serve, watched};

/// A server whose handler starts two tasks that wait for the token, and never answers. Tells when
/// both have begun, and why each has ended.
async fn server() -> (
    SocketAddr,
    Watch,
    UnboundedReceiver<()>,
    UnboundedReceiver<CancelReason>,
) {
    let ((begin, begun), (end, ended)) = (unbounded_channel(), unbounded_channel());
    let router = Router::new().route(
        "/",
        on_get(async move |scope: RequestScope| {
            for _ in 0..2 {
                let (begin, end, of_task) = (begin.clone(), end.clone(), scope.clone());
                scope.spawn(async move {
                    begin.send(()).unwrap();
                    end.send(of_task.cancelled().await).unwrap();
                });
            }
            std::future::pending::<()>().await;
        }),
    );
    let (layer, watch) = watched(MemoryLayer::builder());
    let address = serve(router.layer(layer)).await;
    (address, watch, begun, ended)
}

/// How a client vanishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Vanishes {
    Fin,
    Rst,
    /// The stream alone; the connection stays.
    RstStream,
}

const HTTP1_REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";

/// Preface and empty settings (RFC 9113, 3.4).
const HTTP2_BEGIN: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// The headers of `GET http://localhost/` on this stream, which they also end (RFC 9113, 6.2;
/// RFC 7541, appendix A).
fn http2_request(stream: u8) -> [u8; 23] {
    let mut frame = *b"\0\0\x0e\x01\x05\0\0\0_\x82\x86\x84\x41\x09localhost";
    frame[8] = stream;
    frame
}

/// Cancels stream 1 (RFC 9113, 6.4).
const HTTP2_RST_STREAM: &[u8] = b"\0\0\x04\x03\0\0\0\0\x01\0\0\0\x08";

/// Waits until both tasks have ended, and their request is reported.
async fn assert_ended(watch: &Watch, ended: &mut UnboundedReceiver<CancelReason>) {
    for _ in 0..2 {
        let reason = timeout(Duration::from_secs(10), ended.recv()).await;
        let reason = reason.expect("the task ends").unwrap();
        assert_eq!(reason, Outcome::Abandoned);
    }
    let report = watch.report().await;
    assert_eq!(report.outcome, Outcome::Abandoned);
    assert_eq!((report.tasks_spawned, report.tasks_aborted), (2, 0));
    let latency = report.cancel_latency.expect("there were tasks");
    let [seen] = watch.handle.cancel_latency().try_into().expect("one route");
    assert_eq!(
        (seen.route.as_str(), seen.count, seen.max),
        ("/", 1, latency)
    );
    assert!(watch.handle.outliving().is_empty());
}

async fn vanishing(http: Http, vanishes: Vanishes) {
    let (address, watch, mut begun, mut ended) = server().await;
    let mut both_begun = async || {
        for _ in 0..2 {
            let begun = timeout(Duration::from_secs(10), begun.recv()).await;
            begun.expect("the tasks begin").unwrap();
        }
    };
    // By hand: a client's own way to close a connection is not of interest.
    let mut client = TcpStream::connect(address).await.unwrap();
    if http == Http::One {
        client.write_all(HTTP1_REQUEST).await.unwrap();
    } else {
        client.write_all(HTTP2_BEGIN).await.unwrap();
        client.write_all(&http2_request(1)).await.unwrap();
    }
    both_begun().await;
    match vanishes {
        // Not dropped: it has not read all, and would reset the connection.
        Vanishes::Fin => client.shutdown().await.unwrap(),
        Vanishes::Rst => {
            client.set_zero_linger().unwrap();
            drop(client);
            assert_ended(&watch, &mut ended).await;
            return;
        }
        Vanishes::RstStream => client.write_all(HTTP2_RST_STREAM).await.unwrap(),
    }
    assert_ended(&watch, &mut ended).await;
    if vanishes == Vanishes::RstStream {
        // The connection is of use still.
        client.write_all(&http2_request(3)).await.unwrap();
        both_begun().await;
        drop(client);
        watch.reports(2).await;
    }
}

#[tokio::test]
async fn fin_of_http1_ends_the_tasks() {
    vanishing(Http::One, Vanishes::Fin).await;
}

#[tokio::test]
async fn rst_of_http1_ends_the_tasks() {
    vanishing(Http::One, Vanishes::Rst).await;
}

#[tokio::test]
async fn fin_of_http2_ends_the_tasks() {
    vanishing(Http::Two, Vanishes::Fin).await;
}

#[tokio::test]
async fn rst_of_http2_ends_the_tasks() {
    vanishing(Http::Two, Vanishes::Rst).await;
}

#[tokio::test]
async fn rst_stream_of_http2_ends_the_tasks() {
    vanishing(Http::Two, Vanishes::RstStream).await;
}
