//! The routes of the service.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Path, Request, State},
    http::{HeaderName, StatusCode, header::CONTENT_TYPE},
    response::{Html, IntoResponse, Response},
    routing::{get, post},
};
use prometheus_client::{encoding::text::encode, registry::Registry};
use serde::Serialize;
use tower_memory::{Arena, ConfigError, MemoryHandle, MemoryLayer, debug::DebugPages, json};

use crate::{
    arena, catalogue, heap, live,
    order::{MAX_BODY, Record, State as OrderState},
    problem::Problem,
    store::{Placed, Store},
};

const TIMEOUT: Duration = Duration::from_secs(5);

/// Tells whether an order was there before.
pub(crate) const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

pub(crate) struct App<S> {
    pub(crate) store: S,
    pub(crate) memory: MemoryHandle,
    metrics: Registry,
}

/// The state of the routes that look at the service.
#[derive(Clone)]
struct Shared<S>(Arc<App<S>>);

/// Makes the service.
pub(crate) fn app<S: Store>(store: S) -> Result<(Router, MemoryHandle), ConfigError> {
    let layer = MemoryLayer::builder().timeout(TIMEOUT).build()?;
    let memory = layer.handle();
    let mut metrics = Registry::default();
    metrics.register_collector(Box::new(memory.collector()));
    let hot_heap = Router::new()
        .route("/items", get(heap::items::<S>))
        .route("/items/{sku}", get(heap::item::<S>))
        .route("/orders", post(heap::place::<S>));
    let hot_arena = Router::new()
        .route("/items", get(arena::items::<S>))
        .route("/items/{sku}", get(arena::item::<S>))
        .route("/orders", post(arena::place::<S>));
    let orders = Router::new()
        .route("/orders/{order}", get(order::<S>))
        .route("/orders/{order}/confirm", post(confirm::<S>))
        .route("/orders/{order}/cancel", post(cancel::<S>));
    let app = Router::new()
        .nest("/heap", hot_heap.with_state(store.clone()))
        .nest("/arena", hot_arena.with_state(store.clone()))
        .merge(orders.with_state(store.clone()))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .method_not_allowed_fallback(no_such_method)
        .fallback(no_such_path)
        .layer(layer);
    // Only for browsers of this machine.
    let debug = DebugPages::new(&memory).allow_loopback().into_router();
    // What looks at the service is not covered by the layer, and answers during a shutdown.
    let shared = Shared(Arc::new(App {
        store,
        memory: memory.clone(),
        metrics,
    }));
    let watch = Router::new()
        .route("/", get(|| async { Html(include_str!("page.html")) }))
        .route("/live", get(live_figures::<S>))
        .route("/metrics", get(metrics_text::<S>))
        .with_state(shared);
    Ok((app.merge(watch).nest("/debug", debug), memory))
}

async fn no_such_path(request: Request) -> Problem {
    let path = request.uri().path();
    Problem::new(StatusCode::NOT_FOUND, format!("no route {path:?}"))
}

async fn no_such_method(request: Request) -> Problem {
    let method = request.method();
    let detail = format!("{method} is not possible here");
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail)
}

pub(crate) fn unknown_item(sku: &str) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, format!("unknown item {sku:?}"))
}

#[derive(Serialize)]
struct Order<'a, L> {
    order: u64,
    state: OrderState,
    customer: &'a str,
    cents: u64,
    lines: L,
}

#[derive(Serialize)]
struct OrderLine {
    sku: &'static str,
    qty: u32,
}

fn show(arena: &Arena, placed: &Placed) -> Response {
    let Some(record) = Record::parse(&placed.record) else {
        let detail = format!("order {} cannot be read", placed.order);
        return Problem::new(StatusCode::INTERNAL_SERVER_ERROR, detail).into_response();
    };
    arena.json(&Order {
        order: placed.order,
        state: placed.state,
        customer: record.customer,
        cents: record.cents(),
        lines: json::seq(record.lines().map(|line| OrderLine {
            sku: &catalogue::item(line.item).sku,
            qty: line.quantity,
        })),
    })
}

fn number(order: &str) -> Result<u64, Problem> {
    let refused = || Problem::new(StatusCode::NOT_FOUND, format!("no order {order:?}"));
    order.parse().map_err(|_| refused())
}

async fn order<S: Store>(
    State(store): State<S>,
    Path(order): Path<String>,
    arena: Arena,
) -> Result<Response, Problem> {
    Ok(show(&arena, &store.order(number(&order)?)?))
}

async fn confirm<S: Store>(
    State(store): State<S>,
    Path(order): Path<String>,
    arena: Arena,
) -> Result<Response, Problem> {
    let placed = store.settle(number(&order)?, OrderState::Confirmed).await?;
    Ok(show(&arena, &placed))
}

async fn cancel<S: Store>(
    State(store): State<S>,
    Path(order): Path<String>,
    arena: Arena,
) -> Result<Response, Problem> {
    let placed = store.settle(number(&order)?, OrderState::Cancelled).await?;
    Ok(show(&arena, &placed))
}

async fn live_figures<S: Store>(
    State(Shared(app)): State<Shared<S>>,
) -> Result<impl IntoResponse, Problem> {
    Ok(Json(live::Figures::of(&app)?))
}

async fn metrics_text<S: Store>(State(Shared(app)): State<Shared<S>>) -> Response {
    let mut text = String::new();
    if let Err(error) = encode(&mut text, &app.metrics) {
        let detail = error.to_string();
        return Problem::new(StatusCode::INTERNAL_SERVER_ERROR, detail).into_response();
    }
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(CONTENT_TYPE, kind)], text).into_response()
}
