//! The debug pages in a browser: starts servers, and runs `tests/browser/check.mjs` against them.
//!
//! ```sh
//! .ci/run browser                             # installs playwright-core, and says SKIPPED without node or Chromium
//! SCREENSHOTS=docs .ci/run browser            # also writes the screenshots
//! ```

use std::{net::SocketAddr, path::Path, time::Duration};

use axum::{Router, routing::get};
use http::HeaderMap;
use http_body_util::BodyExt;
use tokio::{net::TcpListener, process::Command};
use tower::ServiceExt;
use tower_memory::{
    Expose, MemoryLayer, RequestScope, TrackingAllocator, debug::DebugPages, header::HeaderFormat,
    housekeeping::ManualClock, trace::TraceSettings,
};

#[global_allocator]
static ALLOC: TrackingAllocator = TrackingAllocator::system();

/// Names that a program might make of what it got.
const HOSTILE: [&str; 3] = [
    "/<script>alert(1)</script>",
    "/'\"><img src=x onerror=alert(2)>",
    "/<svg onload=window.pwned=1>&amp;&lt;b&gt;",
];

async fn serve(router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let addr = listener.local_addr().expect("bound");
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(axum::serve(listener, service).into_future());
    addr
}

/// As many bytes of the heap and the arena as its headers say.
async fn take(scope: RequestScope, headers: HeaderMap) {
    if headers.contains_key("x-block") {
        // What an incident is made of.
        std::thread::sleep(Duration::from_millis(150));
    }
    let number = |name: &str| headers.get(name)?.to_str().ok()?.parse::<usize>().ok();
    if let Some(label) = headers.get("x-label").and_then(|label| label.to_str().ok()) {
        scope.set_route(label);
    }
    for _ in 0..number("x-count").unwrap_or(1) {
        drop(std::hint::black_box(vec![
            0_u8;
            number("x-bytes").unwrap_or(100)
        ]));
    }
    let arena = number("x-arena").unwrap_or(0);
    scope.arena().alloc_slice_copy(&vec![0_u8; arena]);
}

struct Load<'a> {
    label: &'a str,
    bytes: usize,
    count: usize,
    arena: usize,
}

async fn send(app: &Router, load: &Load<'_>) {
    let request = http::Request::get("/take")
        .header("x-label", load.label)
        .header("x-bytes", load.bytes)
        .header("x-count", load.count)
        .header("x-arena", load.arena)
        .body(axum::body::Body::empty())
        .expect("valid");
    let response = app.clone().oneshot(request).await.expect("infallible");
    response.into_body().collect().await.expect("no error");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs node, playwright-core and Chromium: .ci/run browser"]
async fn the_pages_hold_what_they_promise_in_chromium() {
    let clock = ManualClock::new();
    let layer = MemoryLayer::builder()
        .clock(&clock)
        .list_requests()
        .timeout(Duration::from_secs(30))
        .expose(Expose::Always)
        .header_format(HeaderFormat::ServerTiming)
        .build()
        .expect("valid");
    let handle = layer.handle();
    let app = Router::new()
        .route("/hello", get(|| async { "hello" }))
        .route("/take", get(take))
        .route("/wait", get(std::future::pending::<()>))
        .layer(layer);
    let pages = DebugPages::new(&handle).allow_loopback();
    let open = serve(app.clone().nest("/debug", pages.into_router())).await;
    let closed = serve(Router::new().nest("/debug", DebugPages::new(&handle).into_router())).await;

    TraceSettings::new()
        .slow_poll(Duration::from_millis(100))
        .start();
    // Ten minutes of a shop.
    let mut kept = Vec::new();
    for n in 0..121_usize {
        let wave = (n as f64 / 9.0).sin().mul_add(0.5, 0.5);
        let orders = [
            Load {
                label: "/items/{id}",
                bytes: 900,
                count: 3,
                arena: 2000,
            },
            Load {
                label: "/search",
                bytes: 14_000,
                count: 40,
                arena: 9000 + n * 100,
            },
            Load {
                label: "/cart/{id}/lines",
                bytes: 300,
                count: 12,
                arena: 700,
            },
            Load {
                label: "/reports/{month}",
                bytes: 900_000,
                count: 2,
                arena: 40_000,
            },
        ];
        for (order, every) in orders.iter().zip([1, 2, 3, 11]) {
            for _ in 0..(1 + (wave * 4.0) as usize) * usize::from(n % every == 0) {
                send(&app, order).await;
            }
        }
        kept.truncate((wave * 60.0) as usize);
        kept.resize_with((wave * 60.0) as usize, || vec![1_u8; 100_000]);
        clock.advance(Duration::from_secs(5));
    }
    for label in HOSTILE {
        send(
            &app,
            &Load {
                label,
                bytes: 10,
                count: 1,
                arena: 0,
            },
        )
        .await;
    }
    let waiting: Vec<_> = (0..2)
        .map(|_| {
            let request = http::Request::get("/wait").body(axum::body::Body::empty());
            tokio::spawn(app.clone().oneshot(request.expect("valid")))
        })
        .collect();
    let request = http::Request::get("/take")
        .header("x-label", "/thumbnails/{id}")
        .header("x-block", "");
    let request = request.body(axum::body::Body::empty()).expect("valid");
    drop(app.clone().oneshot(request).await.expect("infallible"));

    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser");
    let chromium = std::env::var("CHROMIUM").unwrap_or_else(|_| "/usr/bin/chromium".to_owned());
    let shots = std::env::var("SCREENSHOTS").ok();
    let shots = shots.map(|shots| Path::new(env!("CARGO_MANIFEST_DIR")).join(shots));
    let status = Command::new("node")
        .arg(directory.join("check.mjs"))
        .arg(chromium)
        .arg(open.port().to_string())
        .arg(closed.port().to_string())
        .args(shots)
        .status()
        .await
        .expect("node starts");
    for request in waiting {
        request.abort();
    }
    tower_memory::trace::stop();
    assert!(status.success());
}
