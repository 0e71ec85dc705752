//! One service calls another one and passes its remaining time on.
//!
//! ```sh
//! cargo run --example client --features full             # serves, and prints commands to try
//! cargo run --example client --features full -- --check  # sends requests to itself
//! ```

#[path = "check/args.rs"]
mod args;
#[path = "check/deadlines.rs"]
mod check;

use std::{error::Error, net::SocketAddr, process::ExitCode, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{Path, State},
    http::{Request, StatusCode},
    routing::get,
};
use http_body_util::BodyExt;
use hyper_util::{
    client::legacy::{Client as HyperClient, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::{net::TcpListener, time::sleep};
use tower::{Layer, ServiceExt};
use tower_memory::{
    MemoryHandle, MemoryLayer, RequestScope, TrackingAllocator,
    client::{PropagateDeadline, PropagateDeadlineLayer},
    deadline_header::DeadlineHeader,
};

#[global_allocator]
static ALLOC: TrackingAllocator = TrackingAllocator::system();

/// Timeout of a request to the front service.
const TIMEOUT: Duration = Duration::from_millis(500);
/// Part of the timeout that the front service reserves for itself.
const MARGIN: Duration = Duration::from_millis(100);
const HEADER: DeadlineHeader = DeadlineHeader::RequestTimeout;

#[derive(Clone)]
struct Back {
    addr: SocketAddr,
    client: PropagateDeadline<HyperClient<HttpConnector, Body>>,
}

/// Calls the back service, and returns its answer with the time left before the call.
async fn front(
    State(back): State<Back>,
    Path(what): Path<String>,
    scope: RequestScope,
) -> Result<String, (StatusCode, String)> {
    if what == "late" {
        sleep(TIMEOUT - MARGIN).await; // leaves no time for the call
    }
    let left = scope.remaining().expect("the layer has a timeout");
    let uri = format!("http://{}/{what}", back.addr);
    let call = Request::get(uri).body(Body::empty());
    let call = call.map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))?;
    let answer = back.client.oneshot(call).await.map_err(|error| {
        let status = if error.is_deadline_exceeded() {
            StatusCode::GATEWAY_TIMEOUT
        } else {
            StatusCode::BAD_GATEWAY
        };
        (status, format!("front: {error}\n"))
    })?;
    let status = answer.status();
    let body = answer.into_body().collect().await;
    let body = body.map_err(|error| (StatusCode::BAD_GATEWAY, error.to_string()))?;
    let body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
    let text = format!("front: {} ms left\nback: {body}\n", left.as_millis());
    if status.is_success() {
        Ok(text)
    } else {
        Err((StatusCode::BAD_GATEWAY, text))
    }
}

async fn back(Path(what): Path<String>, scope: RequestScope) -> String {
    if what == "slow" {
        std::future::pending::<()>().await;
    }
    match (scope.remaining(), scope.deadline_source()) {
        (Some(left), Some(source)) => format!("{} ms left, set by {source}", left.as_millis()),
        _ => "no deadline".to_owned(),
    }
}

/// Serves both on separate ports. Returns the front's address, and the handles of front and back.
async fn serve(addr: SocketAddr) -> std::io::Result<(SocketAddr, [MemoryHandle; 2])> {
    let inside = MemoryLayer::builder()
        .trust_deadline(HEADER)
        .build()
        .expect("valid settings");
    let outside = MemoryLayer::with_timeout(TIMEOUT);
    let handles = [outside.handle(), inside.handle()];

    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    let propagate = PropagateDeadlineLayer::new(HEADER).margin(MARGIN);
    let back_end = Back {
        addr: listener.local_addr()?,
        client: propagate.layer(HyperClient::builder(TokioExecutor::new()).build_http()),
    };
    let app = Router::new().route("/{what}", get(back)).layer(inside);
    tokio::spawn(axum::serve(listener, app).into_future());

    let listener = TcpListener::bind(addr).await?;
    let addr = listener.local_addr()?;
    let app = Router::new()
        .route("/{what}", get(front))
        .layer(outside)
        .with_state(back_end);
    tokio::spawn(axum::serve(listener, app).into_future());
    Ok((addr, handles))
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = args::Args::parse("client", 3000);
    match run(&args).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("client: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: &args::Args) -> Result<ExitCode, Box<dyn Error + Send + Sync>> {
    let (addr, handles) = serve(args.addr)
        .await
        .map_err(|error| format!("cannot listen on {}: {error}; try --port", args.addr))?;
    if args.check {
        return check::run(addr, &handles).await;
    }
    println!(
        "Listening on http://{addr}. Press Ctrl-C to stop. Try:

# the time left at the front and at the back
curl -sS http://{addr}/quick
# the back never responds: its deadline passes in time for the front to report it
curl -i http://{addr}/slow
# the front has no time left, so the call is not sent
curl -i http://{addr}/late
"
    );
    tokio::signal::ctrl_c().await?;
    for handle in handles {
        println!("\n{}", handle.snapshot());
    }
    Ok(ExitCode::SUCCESS)
}
