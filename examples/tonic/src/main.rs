//! The layer in a tonic server with the health service.
//!
//! ```sh
//! cargo run -p tower-memory-tonic             # serves
//! cargo run -p tower-memory-tonic -- --check  # sends calls to itself
//! ```

#[path = "../../check/args.rs"]
mod args;
mod check;
#[path = "../../check/report.rs"]
mod report;

use std::{error::Error, future::Future, process::ExitCode, time::Duration};

use http::Request;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic_health::server::health_reporter;
use tower::util::MapRequestLayer;
use tower_memory::{MemoryHandle, MemoryLayer, RequestScope, TrackingAllocator};

#[global_allocator]
static ALLOC: TrackingAllocator = TrackingAllocator::system();

const SERVED: &str = "example.Greeter";

/// All methods of the server. Labels come from this list, since a client may send any path.
const METHODS: [&str; 2] = [
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
];

/// Sets the route label, since there is no router.
fn name_route<B>(request: Request<B>) -> Request<B> {
    let method = METHODS.iter().find(|path| **path == request.uri().path());
    if let (Some(method), Some(scope)) = (method, request.extensions().get::<RequestScope>()) {
        scope.set_route(method);
    }
    request
}

async fn serve(
    listener: TcpListener,
    layer: MemoryLayer,
    stop: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    let (reporter, health) = health_reporter();
    reporter
        .set_service_status(SERVED, tonic_health::ServingStatus::Serving)
        .await;
    Server::builder()
        .layer(layer)
        .layer(MapRequestLayer::new(name_route)) // inside, where the scope exists
        .add_service(health)
        .serve_with_incoming_shutdown(TcpListenerStream::new(listener), stop)
        .await
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = args::Args::parse("tonic", 50051);
    match run(&args).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("tonic: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: &args::Args) -> Result<ExitCode, Box<dyn Error + Send + Sync>> {
    let layer = MemoryLayer::with_timeout(Duration::from_secs(5));
    let handle: MemoryHandle = layer.handle();
    let listener = TcpListener::bind(args.addr)
        .await
        .map_err(|error| format!("cannot listen on {}: {error}; try --port", args.addr))?;
    let addr = listener.local_addr()?;
    if args.check {
        tokio::spawn(serve(listener, layer, std::future::pending()));
        return check::run(addr, &handle).await;
    }
    println!(
        "Listening on http://{addr}. Press Ctrl-C to stop. With grpcurl and health.proto:\n\n\
         grpcurl -v -plaintext -proto health.proto -d '{{\"service\":\"{SERVED}\"}}' {addr} \
         grpc.health.v1.Health/Check\n"
    );
    let grace = Duration::from_secs(10);
    let report = handle
        .serve_until(tokio::signal::ctrl_c(), grace, |stop| {
            serve(listener, layer, stop)
        })
        .await?;
    println!("\n{}\n{report}", handle.snapshot());
    Ok(ExitCode::SUCCESS)
}
