//! What needs a `MemoryLayer` and has none says so in the log. A binary of its own: the process has no
//! layer, and the subscriber is the process's.
#![cfg(all(feature = "axum", feature = "tracing"))]
#![forbid(unsafe_code)]

#[path = "support/collector.rs"]
mod collector;

use std::time::Duration;

use axum::{Router, body::Body, http::Method, routing::get};
use http::Request;
use tower::ServiceExt;
use tower_memory::{Arena, RoutePolicy, extract::RouteLabelLayer, middleware::RequestBodyLayer};
use tracing::Level;

use self::collector::Collector;

#[tokio::test]
async fn a_missing_layer_is_warned_of_once_with_the_line_to_paste() {
    let collector = Collector::default();
    tracing::subscriber::set_global_default(collector.clone()).unwrap();
    let app: Router = Router::new().route("/", get(|_arena: Arena| async {}));
    for _ in 0..3 {
        let request = Request::new(Body::empty());
        assert_eq!(app.clone().oneshot(request).await.unwrap().status(), 500);
    }
    let events = collector.0.lock().unwrap().clone();
    assert_eq!(events.len(), 1, "{events:#?}");
    let (level, text) = &events[0];
    assert_eq!(*level, Level::WARN);
    assert!(text.contains("`.layer(MemoryLayer::new())`"), "{text}");
}

/// What is logged while `app` answers four requests, of which the first is a preflight.
async fn warnings(app: Router) -> Vec<(Level, String)> {
    let collector = Collector::default();
    let _default = tracing::subscriber::set_default(collector.clone());
    for method in [Method::OPTIONS, Method::GET, Method::GET, Method::GET] {
        let mut request = Request::new(Body::empty());
        *request.method_mut() = method;
        drop(app.clone().oneshot(request).await.unwrap());
    }
    collector.0.lock().unwrap().clone()
}

#[track_caller]
fn assert_one(events: &[(Level, String)], parts: &[&str]) {
    let [(level, text)] = events else {
        panic!("{events:#?}");
    };
    assert_eq!(*level, Level::WARN);
    for part in parts {
        assert!(text.contains(part), "{part} is missing in: {text}");
    }
}

#[tokio::test]
async fn a_policy_in_a_process_without_a_layer_is_warned_of_once() {
    let app: Router = Router::new()
        .route("/", get(async || {}))
        .layer(RoutePolicy::new().timeout(Duration::from_secs(1)));
    let line = "`.layer(MemoryLayer::new())`";
    assert_one(&warnings(app).await, &["RoutePolicy", line]);
}

#[tokio::test]
async fn a_request_body_layer_without_a_layer_is_warned_of_once() {
    let app: Router = Router::new()
        .route("/", get(async || {}))
        .layer(RequestBodyLayer::new());
    let line = "`.layer(MemoryLayer::new())`";
    assert_one(&warnings(app).await, &["RequestBodyLayer", line]);
}

#[tokio::test]
async fn a_route_label_layer_without_a_layer_is_warned_of_once() {
    let app: Router = Router::new()
        .route("/", get(async || {}))
        .route_layer(RouteLabelLayer::new());
    let line = "`MemoryLayer::new().layer(router)`";
    assert_one(&warnings(app).await, &["RouteLabelLayer", line]);
}
