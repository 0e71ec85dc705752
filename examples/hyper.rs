//! The layer around a single hyper service, without a router.
//!
//! ```sh
//! cargo run --example hyper             # serves, and prints commands to try
//! cargo run --example hyper -- --check  # sends requests to itself
//! ```

#[path = "check/args.rs"]
mod args;
#[path = "check/hyper.rs"]
mod check;

use std::{convert::Infallible, error::Error, process::ExitCode, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::net::TcpListener;
use tower::{Layer, service_fn};
use tower_memory::{MemoryHandle, MemoryLayer, RequestScope, TrackingAllocator};

#[global_allocator]
static ALLOC: TrackingAllocator = TrackingAllocator::system();

async fn hello(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let scope = request.extensions().get::<RequestScope>();
    let scope = scope.expect("the layer wraps this service");
    let mut body = scope.arena().buf();
    writeln!(body, "hello, {}", request.uri().path()).expect("fails only without memory");
    Ok(Response::new(Full::new(body.freeze())))
}

async fn serve(listener: TcpListener, layer: MemoryLayer) {
    let service = TowerToHyperService::new(layer.layer(service_fn(hello)));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // For instance too many open files. Retrying at once would spin.
                eprintln!("hyper: accept failed: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let service = service.clone();
        tokio::spawn(async move {
            let server = auto::Builder::new(TokioExecutor::new());
            let connection = server.serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                eprintln!("hyper: connection failed: {error}");
            }
        });
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = args::Args::parse("hyper", 3000);
    match run(&args).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("hyper: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: &args::Args) -> Result<ExitCode, Box<dyn Error + Send + Sync>> {
    // Without a router, the label is set here.
    let layer = MemoryLayer::builder()
        .timeout(Duration::from_secs(5))
        .route("hello")
        .build()?;
    let handle: MemoryHandle = layer.handle();
    let listener = TcpListener::bind(args.addr)
        .await
        .map_err(|error| format!("cannot listen on {}: {error}; try --port", args.addr))?;
    let addr = listener.local_addr()?;
    let server = serve(listener, layer);
    if args.check {
        tokio::spawn(server);
        return check::run(addr, &handle).await;
    }
    println!(
        "Listening on http://{addr}. Press Ctrl-C to stop. Try:\n\ncurl -i http://{addr}/you\n"
    );
    tokio::select! {
        () = server => {}
        _ = tokio::signal::ctrl_c() => println!("\n{}", handle.snapshot()),
    }
    Ok(ExitCode::SUCCESS)
}
