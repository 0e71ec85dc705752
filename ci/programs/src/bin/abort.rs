//! Requests under `panic = "abort"`, where a panic anywhere ends the program.

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tower::{Layer, ServiceExt, service_fn};
use tower_memory::{MemoryLayer, RequestScope, TrackingAllocator};

#[global_allocator]
static ALLOC: TrackingAllocator = TrackingAllocator::system();

const REQUESTS: u64 = 200;

async fn handle(request: Request<()>) -> Result<Response<Full<Bytes>>, Infallible> {
    let scope = request
        .extensions()
        .get::<RequestScope>()
        .expect("inside the layer")
        .clone();
    match request.uri().path() {
        "/hangs" => pending().await,
        "/spawns" => {
            let sum = scope
                .spawn(async { 40 + 2 })
                .await
                .expect("the task returns");
            assert_eq!(sum, 42);
        }
        _ => {}
    }
    let mut body = scope.arena().buf();
    body.extend_from_slice(b"hello");
    Ok(Response::new(Full::new(body.freeze())))
}

fn main() {
    if !cfg!(panic = "abort") {
        eprintln!("abort: built without panic = \"abort\"");
        std::process::exit(2);
    }
    for timers in [true, false] {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        if timers {
            runtime.enable_time();
        }
        print!("{} timers: ", if timers { "with" } else { "without" });
        runtime.build().expect("a runtime").block_on(run());
    }
}

async fn run() {
    let layer = MemoryLayer::with_timeout(Duration::from_secs(1));
    let handle_to = layer.handle();
    let service = layer.layer(service_fn(handle));
    let send = async |path: &str| {
        let request = Request::builder().uri(path).body(()).expect("a request");
        let response = service.clone().oneshot(request).await.expect("infallible");
        let status = response.status();
        let body = response.into_body().collect().await.expect("no body fails");
        (status, body.to_bytes())
    };
    for i in 0..REQUESTS {
        let path = ["/", "/spawns"][i as usize % 2];
        assert_eq!(send(path).await, (StatusCode::OK, Bytes::from("hello")));
    }
    assert_eq!(send("/hangs").await.0, StatusCode::GATEWAY_TIMEOUT);

    // A task that is still asleep at the request's end is dropped after the grace period.
    let dropped = Arc::new(AtomicBool::new(false));
    struct Told(Arc<AtomicBool>);
    impl Drop for Told {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Release);
        }
    }
    let told = Told(Arc::clone(&dropped));
    let layer = MemoryLayer::builder()
        .grace_period(Duration::from_millis(20))
        .build()
        .expect("valid settings");
    let outliving = layer.handle();
    let service = layer.layer(service_fn(move |request: Request<()>| {
        let told = Told(Arc::clone(&told.0));
        async move {
            let scope = request
                .extensions()
                .get::<RequestScope>()
                .expect("inside the layer");
            drop(scope.spawn(async move {
                let _told = told;
                pending::<()>().await;
            }));
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::new())))
        }
    }));
    drop(service.oneshot(Request::new(())).await);
    let report = outliving.shutdown(Duration::from_secs(5)).await;
    assert!(dropped.load(Ordering::Acquire), "{report:?}");

    let snapshot = handle_to.snapshot();
    println!(
        "{} requests, a deadline and a task: {:?}",
        REQUESTS + 1,
        snapshot.pool
    );
}
