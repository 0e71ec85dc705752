//! A service whose figures are scraped by Prometheus and pushed by OpenTelemetry.
//!
//! ```sh
//! cargo run -p tower-memory-opentelemetry             # serves on 127.0.0.1:3000, or on $PORT
//! cargo run -p tower-memory-opentelemetry -- --check  # sends requests to itself, and compares
//! ```
//!
//! Instruments follow OpenTelemetry's conventions: dots in names, units apart, attributes `http.route` and
//! `http.request.method`. A program that sends them somewhere takes another exporter, such as
//! `opentelemetry-otlp`'s.

mod instruments;
mod lines;

use std::{error::Error, process::ExitCode};

use axum::{Router, extract::Path, http::header, response::IntoResponse, routing::get};
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider};
use prometheus_client::{encoding::text::encode, registry::Registry};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tower_memory::{MemoryHandle, MemoryLayer, RequestScope, TrackingAllocator};

use self::lines::Lines;

#[global_allocator]
static ALLOC: TrackingAllocator = TrackingAllocator::system();

/// A list of so many items, made in the request's arena.
async fn items(Path(count): Path<usize>, scope: RequestScope) -> impl IntoResponse {
    let mut body = scope.arena().buf();
    for item in 0..count.min(10_000) {
        body.extend_from_slice(format!("item {item}\n").as_bytes());
    }
    body.freeze()
}

async fn metrics(handle: MemoryHandle) -> impl IntoResponse {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(handle.collector()));
    let mut text = String::new();
    encode(&mut text, &registry).expect("fails only without memory");
    let format = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, format)], text)
}

fn app(layer: MemoryLayer) -> Router {
    let handle = layer.handle();
    Router::new()
        .route("/items/{count}", get(items))
        .route("/sleep", get(async || tokio::task::yield_now().await))
        .layer(layer)
        // After the layer: scrapes do not count themselves.
        .route("/metrics", get(move || metrics(handle.clone())))
}

/// Sends what the layer knows, as often as `OTEL_METRIC_EXPORT_INTERVAL` says (60 s by default).
fn provider(handle: &MemoryHandle, lines: &Lines) -> SdkMeterProvider {
    let reader = PeriodicReader::builder(lines.clone()).build();
    let provider = SdkMeterProvider::builder().with_reader(reader).build();
    instruments::observe(&provider, handle);
    provider
}

async fn run() -> Result<(), Box<dyn Error>> {
    let layer = MemoryLayer::new();
    let handle = layer.handle();
    let check = std::env::args().any(|arg| arg == "--check");
    let lines = Lines::new(!check);
    let provider = provider(&handle, &lines);
    let port = match std::env::var("PORT") {
        Ok(port) => port.parse()?,
        Err(_) if check => 0,
        Err(_) => 3000,
    };
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let address = listener.local_addr()?;
    let app = app(layer);
    let server = tokio::spawn(async move { axum::serve(listener, app).await });
    println!("serving http://{address}/items/100 and http://{address}/metrics");
    if !check {
        server.await??;
        return Ok(());
    }
    for count in [1, 20, 300] {
        let mut socket = TcpStream::connect(address).await?;
        let request =
            format!("GET /items/{count} HTTP/1.1\r\nhost: check\r\nconnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await?;
        let mut text = String::new();
        socket.read_to_string(&mut text).await?;
        assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    }
    while handle.snapshot().in_flight > 0 {
        tokio::task::yield_now().await;
    }
    provider.force_flush()?;
    lines.compare(&handle.snapshot());
    println!("checked: OpenTelemetry has the figures of the snapshot");
    provider.shutdown()?;
    Ok(())
}

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("opentelemetry: {error}");
            ExitCode::FAILURE
        }
    }
}
