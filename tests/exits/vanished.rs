//! Clients that vanish where hyper does not look: only the deadline ends their requests.
//!
//! `cargo test --all-features --test exits vanished -- --nocapture` prints the times.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use axum::{Router, body::Body, routing::any};
use http_body_util::BodyExt;
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    time::sleep,
};
use tower_memory::{MemoryLayer, Outcome, RequestScope};

use super::support::{Watch, serve, settled, use_everything, watched};

/// Long enough for hyper to notice what it notices at all.
const DEADLINE: Duration = Duration::from_millis(400);

/// A server whose handlers never answer; `/reads` waits for the request's body. Each tells when it
/// has begun.
async fn server() -> (SocketAddr, Watch, UnboundedReceiver<()>) {
    let (tell, told) = unbounded_channel();
    let router = Router::new().route(
        "/{what}",
        any(
            async move |scope: RequestScope, request: http::Request<Body>| {
                use_everything(&scope);
                let (parts, body) = request.into_parts();
                tell.send(()).unwrap();
                if parts.uri.path() == "/reads" {
                    // An error, if hyper sees that the client has gone.
                    let read = body.collect().await;
                    assert!(read.is_err(), "the body is never complete");
                } else {
                    let _unread = body;
                    std::future::pending::<()>().await;
                }
            },
        ),
    );
    let (layer, watch) = watched(MemoryLayer::builder().timeout(DEADLINE));
    let address = serve(router.layer(layer)).await;
    (address, watch, told)
}

/// How a client leaves: an orderly end (FIN) or a reset.
#[derive(Debug, Clone, Copy)]
enum Leaves {
    Fin,
    Rst,
}

/// Sends this, waits until the handler has begun, and leaves. Returns how the first request ended,
/// and how long after that.
async fn vanishing(sent: &str, leaves: Leaves) -> (Outcome, Duration) {
    let (address, watch, mut told) = server().await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(sent.as_bytes()).await.unwrap();
    told.recv().await.unwrap();
    if let Leaves::Rst = leaves {
        stream.set_zero_linger().unwrap();
    }
    drop(stream);
    let left = Instant::now();
    let outcome = loop {
        let closed = watch.handle.snapshot().routes.remove(0).outcomes;
        let first = closed.iter().next();
        if let Some((outcome, _)) = first {
            break outcome;
        }
        sleep(Duration::from_millis(1)).await;
    };
    let after = left.elapsed();
    settled(&watch.handle).await;
    println!(
        "{leaves:?} after {sent:?}: {outcome} in {:.1} ms",
        after.as_secs_f64() * 1e3
    );
    (outcome, after)
}

const ONE: &str = "GET /one HTTP/1.1\r\nhost: x\r\n\r\n";
const HALF: &str = "POST /unread HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n01234";
const HALF_READ: &str = "POST /reads HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n01234";

/// For comparison: what hyper does see, it sees long before the deadline.
#[tokio::test]
async fn a_client_that_leaves_with_nothing_unread_is_noticed() {
    for leaves in [Leaves::Fin, Leaves::Rst] {
        let (outcome, after) = vanishing(ONE, leaves).await;
        assert_eq!(outcome, Outcome::Abandoned, "{leaves:?}");
        assert!(after < DEADLINE / 2, "{leaves:?}: {after:?}");
        // A handler that reads is told, and ends by itself.
        let (outcome, after) = vanishing(HALF_READ, leaves).await;
        assert_ne!(outcome, Outcome::DeadlineExceeded, "{leaves:?}");
        assert!(after < DEADLINE / 2, "{leaves:?}: {after:?}");
    }
}

/// hyper reads the connection no further while a second request waits in its buffer.
#[tokio::test]
async fn a_client_that_leaves_a_pipelined_request_behind_is_ended_by_the_deadline() {
    for leaves in [Leaves::Fin, Leaves::Rst] {
        let (outcome, after) = vanishing(&ONE.repeat(2), leaves).await;
        assert_eq!(outcome, Outcome::DeadlineExceeded, "{leaves:?}");
        assert!(after > DEADLINE * 9 / 10, "{leaves:?}: {after:?}");
    }
}

/// hyper reads the connection no further than somebody wants the request's body.
#[tokio::test]
async fn a_client_that_leaves_while_its_request_body_is_unread_is_ended_by_the_deadline() {
    for leaves in [Leaves::Fin, Leaves::Rst] {
        let (outcome, after) = vanishing(HALF, leaves).await;
        assert_eq!(outcome, Outcome::DeadlineExceeded, "{leaves:?}");
        assert!(after > DEADLINE * 9 / 10, "{leaves:?}: {after:?}");
    }
}
