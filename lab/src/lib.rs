//! The servers that the lab compares. Each binary in `bin/` is the same server with another allocator.

use std::{env, io::Write, net::Ipv4Addr};

use axum::{
    Json, Router,
    extract::Path,
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::net::TcpListener;
use tower_memory::{Arena, ArenaPool, Expose, MemoryLayer, account, extract::ArenaJson, json};

/// A list of strings, then JSON: what one writes without this crate.
async fn plain(Path(n): Path<usize>) -> Json<Vec<String>> {
    Json((0..n).map(|i| format!("item-{i}")).collect())
}

/// What one writes first with this crate.
async fn natural(Path(n): Path<usize>) -> impl IntoResponse {
    ArenaJson(json::seq((0..n).map(|i| json::concat(("item-", i)))))
}

/// The same by hand.
async fn hand(Path(n): Path<usize>, arena: Arena) -> Response {
    let mut body = arena.buf();
    let mut digits = itoa::Buffer::new();
    body.extend_from_slice(b"[");
    for i in 0..n {
        body.extend_from_slice(if i == 0 { b"\"item-" } else { b",\"item-" });
        body.extend_from_slice(digits.format(i).as_bytes());
        body.extend_from_slice(b"\"");
    }
    body.extend_from_slice(b"]");
    ([(CONTENT_TYPE, "application/json")], body.freeze()).into_response()
}

/// Allocations and allocated bytes of the process so far, if they are counted.
async fn usage() -> String {
    account::process_usage().map_or_else(String::new, |usage| {
        format!("{} {} 0 0", usage.allocations, usage.bytes_allocated)
    })
}

/// Reads the command line and serves: `[--headers] [--pool BYTES]`. Prints the port.
///
/// # Panics
///
/// If it cannot listen, or is called with other arguments.
pub fn serve() {
    let mut expose = Expose::Never;
    let mut pool = ArenaPool::builder();
    let mut words = env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--headers" => expose = Expose::Always,
            "--pool" => {
                let bytes = words.next().and_then(|text| text.parse().ok());
                let bytes: usize = bytes.expect("a number of bytes");
                pool = pool.enabled(bytes > 0).max_total_bytes(bytes.max(1 << 20));
            }
            _ => panic!("unknown argument {word:?}"),
        }
    }
    let pool = pool.build().expect("valid sizes");
    let layer = MemoryLayer::builder().pool(pool).expose(expose).build();
    let app = Router::new()
        .route("/natural/{n}", get(natural))
        .route("/hand/{n}", get(hand))
        .layer(layer.expect("valid settings"))
        // Without the layer.
        .route("/plain/{n}", get(plain))
        .route("/usage", get(usage));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.expect("a port");
        println!("{}", listener.local_addr().expect("bound").port());
        std::io::stdout().flush().expect("a reader");
        // Without: the last part of a response waits for the client's acknowledgement.
        let listener = axum::serve::ListenerExt::tap_io(listener, |stream| {
            stream.set_nodelay(true).expect("a socket option");
        });
        axum::serve(listener, app).await.expect("never ends");
    });
}
