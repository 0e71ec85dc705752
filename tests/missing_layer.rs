//! What needs a `MemoryLayer` and has none says so in the log. A binary of its own: the process has no
//! layer, and the subscriber is the process's.
#![cfg(all(feature = "axum", feature = "tracing"))]
#![forbid(unsafe_code)]

use std::{
    fmt::{self, Write as _},
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Router, body::Body, http::Method, routing::get};
use http::Request;
use tower::ServiceExt;
use tower_memory::{Arena, RoutePolicy, extract::RouteLabelLayer, middleware::RequestBodyLayer};
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

/// Collects events as text, with their level.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<(Level, String)>>>);

#[derive(Default)]
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        write!(self.0, "{field}={value:?} ").unwrap();
    }
}

impl Subscriber for Collector {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("tower_memory")
    }

    fn new_span(&self, _span: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _span: &span::Id, _values: &span::Record<'_>) {}

    fn record_follows_from(&self, _span: &span::Id, _follows: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text::default();
        event.record(&mut text);
        let level = *event.metadata().level();
        self.0.lock().unwrap().push((level, text.0));
    }

    fn enter(&self, _span: &span::Id) {}

    fn exit(&self, _span: &span::Id) {}
}

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
