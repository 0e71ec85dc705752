//! The hot handlers with the request's arena: texts are borrowed from the body, and the record of an order
//! and the response are written to pooled memory.

use axum::{
    extract::{Path, State, rejection::JsonRejection},
    http::{HeaderValue, StatusCode},
    response::Response,
};
use serde::{Deserialize, Serialize};
use tower_memory::{Arena, extract::JsonBody, json};

use crate::{
    catalogue::{self, ItemNumber},
    order::{self, IdempotencyKey, Record},
    problem::Problem,
    routes::{REPLAYED, unknown_item},
    store::{Stock, Store},
};

#[derive(Serialize)]
struct Item<'a> {
    sku: &'a str,
    name: &'a str,
    cents: u32,
    #[serde(flatten)]
    stock: Stock,
}

impl Item<'static> {
    fn new(item: &'static catalogue::Item, stock: Stock) -> Self {
        Self {
            sku: &item.sku,
            name: &item.name,
            cents: item.cents,
            stock,
        }
    }
}

pub(crate) async fn items<S: Store>(
    State(store): State<S>,
    arena: Arena,
) -> Result<Response, Problem> {
    let mut stock = arena.vec_with_capacity(catalogue::ITEMS);
    store.stock(|each| stock.push(each))?;
    let items = catalogue::items().iter().zip(stock.iter());
    let items = items.map(|(item, stock)| Item::new(item, *stock));
    Ok(arena.json(&json::seq(items)))
}

pub(crate) async fn item<S: Store>(
    State(store): State<S>,
    Path(sku): Path<String>,
    arena: Arena,
) -> Result<Response, Problem> {
    let number = catalogue::find(&sku).ok_or_else(|| unknown_item(&sku))?;
    let stock = store.stock_of(number)?;
    Ok(arena.json(&Item::new(catalogue::item(number), stock)))
}

#[derive(Deserialize)]
struct Order<'a> {
    customer: &'a str,
    #[serde(borrow)]
    lines: Vec<Line<'a>>,
}

#[derive(Deserialize)]
struct Line<'a> {
    sku: &'a str,
    qty: u32,
}

#[derive(Serialize)]
struct Receipt<'a, L> {
    order: u64,
    state: order::State,
    customer: &'a str,
    cents: u64,
    lines: L,
}

#[derive(Serialize)]
struct ReceiptLine {
    sku: &'static str,
    name: &'static str,
    qty: u32,
    cents: u64,
}

pub(crate) async fn place<S: Store>(
    State(store): State<S>,
    IdempotencyKey(key): IdempotencyKey,
    body: Result<JsonBody, JsonRejection>,
) -> Result<Response, Problem> {
    let body = body?;
    let order: Order<'_> = body.json()?;
    let lines = order.lines.iter().map(|line| (line.sku, line.qty));
    let mut record = body.arena().buf();
    order::record(order.customer, lines, &mut record)?;
    let placed = store.place(key, record.freeze()).await?;
    let record = Record::parse(&placed.record).expect("written by this service");
    let receipt = Receipt {
        order: placed.order,
        state: placed.state,
        customer: order.customer,
        cents: record.cents(),
        lines: json::seq(record.lines().map(|line| {
            let (sku, name) = texts(line.item);
            ReceiptLine {
                sku,
                name,
                qty: line.quantity,
                cents: line.cents(),
            }
        })),
    };
    let mut response: Response = body.arena().json(&receipt);
    *response.status_mut() = StatusCode::CREATED;
    let replayed = if placed.replayed { "true" } else { "false" };
    let replayed = HeaderValue::from_static(replayed);
    response.headers_mut().insert(REPLAYED, replayed);
    Ok(response)
}

fn texts(item: ItemNumber) -> (&'static str, &'static str) {
    let item = catalogue::item(item);
    (&item.sku, &item.name)
}
