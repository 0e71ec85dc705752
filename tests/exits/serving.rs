//! A server and its requests, shut down by a signal.

use std::{io, time::Duration};

use axum::{Router, body::Body, response::Response, routing::get as on_get};
use http_body_util::BodyExt;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::oneshot,
    time::{Instant, sleep},
};
use tower_memory::{MemoryLayer, Outcome, RequestScope};

use super::support::{Client, Http, use_everything, watched};

const GRACE: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_signal_stops_the_server_and_ends_its_requests() {
    let (layer, watch) = watched(MemoryLayer::builder());
    let app = Router::new()
        .route(
            "/told",
            on_get(async |scope: RequestScope| {
                use_everything(&scope);
                scope.cancelled().await.to_string()
            }),
        )
        .layer(layer);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (signal, signalled) = oneshot::channel::<()>();
    let handle = watch.handle.clone();
    let served = tokio::spawn(async move {
        let server = |stop| axum::serve(listener, app).with_graceful_shutdown(stop);
        handle.serve_until(signalled, GRACE, server).await
    });
    let mut client = Client::connect(Http::One, address).await;
    let told = tokio::spawn(client.get("/told"));
    let idle = TcpStream::connect(address).await.unwrap();
    while watch.handle.snapshot().in_flight == 0 {
        sleep(Duration::from_millis(1)).await;
    }
    assert!(!served.is_finished() && !watch.handle.is_shutting_down());
    signal.send(()).unwrap();
    let told = told.await.unwrap().unwrap().into_body();
    assert_eq!(
        told.collect().await.unwrap().to_bytes(),
        "the server is shutting down"
    );
    let report = served.await.unwrap().unwrap();
    assert!(report.is_clean() && report.elapsed < GRACE / 2, "{report}");
    assert!(
        TcpStream::connect(address).await.is_err(),
        "nothing listens"
    );
    assert_eq!(watch.outcome().await, Outcome::Shutdown);
    drop(idle);
}

#[tokio::test]
async fn streams_are_cut_off_and_the_server_ends_with_them() {
    let (layer, watch) = watched(MemoryLayer::builder());
    let endless = || {
        let first = futures_util::stream::iter([Ok::<_, io::Error>("first")]);
        Body::from_stream(futures_util::StreamExt::chain(
            first,
            futures_util::stream::pending(),
        ))
    };
    let app = Router::new()
        .route("/endless", on_get(async move || Response::new(endless())))
        .layer(layer);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = Client::connect(Http::Two, listener.local_addr().unwrap()).await;
    let (signal, signalled) = oneshot::channel::<()>();
    let handle = watch.handle.clone();
    let grace = Duration::from_millis(50);
    let served = tokio::spawn(async move {
        let server = |stop| axum::serve(listener, app).with_graceful_shutdown(stop);
        handle.serve_until(signalled, grace, server).await
    });
    let mut body = client.get("/endless").await.unwrap().into_body();
    let first = body.frame().await.unwrap().unwrap();
    assert_eq!(first.into_data().unwrap(), "first");
    signal.send(()).unwrap();
    assert!(body.frame().await.unwrap().is_err(), "cut off");
    let report = served.await.unwrap().unwrap();
    assert_eq!((report.requests.len(), report.cut_off), (1, 1), "{report}");
    assert!(report.elapsed >= grace);
    assert_eq!(watch.outcome().await, Outcome::Shutdown);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_fails_returns_its_error_and_shuts_nothing_down() {
    let handle = MemoryLayer::new().handle();
    let error = handle
        .serve_until(std::future::pending::<()>(), GRACE, |_stop| async {
            sleep(Duration::from_secs(1)).await;
            Err::<(), _>(io::Error::other("no more sockets"))
        })
        .await
        .unwrap_err();
    assert_eq!(error.to_string(), "no more sockets");
    assert!(!handle.is_shutting_down());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_fails_while_it_stops_returns_its_error() {
    let handle = MemoryLayer::new().handle();
    let result = handle.serve_until(async {}, GRACE, |stop| async {
        stop.await;
        sleep(Duration::from_secs(1)).await;
        Err::<(), _>("a broken connection")
    });
    assert_eq!(result.await.unwrap_err(), "a broken connection");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_end_is_dropped_a_second_after_the_grace() {
    let handle = MemoryLayer::new().handle();
    let start = Instant::now();
    let report = handle
        .serve_until(sleep(Duration::from_secs(5)), GRACE, |_stop| {
            std::future::pending::<Result<(), io::Error>>()
        })
        .await
        .unwrap();
    assert!(report.is_clean() && report.elapsed < Duration::from_secs(1));
    assert_eq!(start.elapsed().as_secs(), 5 + 10 + 1);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_ends_by_itself_is_followed_by_a_shutdown() {
    let handle = MemoryLayer::new().handle();
    let never = std::future::pending::<()>();
    let served = handle.serve_until(never, GRACE, |_stop| async { Ok::<(), io::Error>(()) });
    assert!(served.await.unwrap().is_clean());
    assert!(handle.is_shutting_down());
}
