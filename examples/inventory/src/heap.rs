//! The hot handlers as one writes them with axum alone: `String`s, `Vec`s, `axum::Json`.

use axum::{
    Json,
    extract::{Path, State, rejection::JsonRejection},
    http::StatusCode,
    response::IntoResponse,
};
use serde::{Deserialize, Serialize};

use crate::{
    catalogue,
    order::{self, IdempotencyKey, Record},
    problem::Problem,
    routes::{REPLAYED, unknown_item},
    store::{Stock, Store},
};

#[derive(Serialize)]
pub(crate) struct Item {
    sku: String,
    name: String,
    cents: u32,
    #[serde(flatten)]
    stock: Stock,
}

impl Item {
    fn new(item: &catalogue::Item, stock: Stock) -> Self {
        Self {
            sku: item.sku.clone(),
            name: item.name.clone(),
            cents: item.cents,
            stock,
        }
    }
}

pub(crate) async fn items<S: Store>(State(store): State<S>) -> Result<Json<Vec<Item>>, Problem> {
    let mut stock = Vec::with_capacity(catalogue::ITEMS);
    store.stock(|each| stock.push(each))?;
    let items = catalogue::items().iter().zip(stock);
    Ok(Json(
        items.map(|(item, stock)| Item::new(item, stock)).collect(),
    ))
}

pub(crate) async fn item<S: Store>(
    State(store): State<S>,
    Path(sku): Path<String>,
) -> Result<Json<Item>, Problem> {
    let number = catalogue::find(&sku).ok_or_else(|| unknown_item(&sku))?;
    let stock = store.stock_of(number)?;
    Ok(Json(Item::new(catalogue::item(number), stock)))
}

#[derive(Deserialize)]
pub(crate) struct Order {
    customer: String,
    lines: Vec<Line>,
}

#[derive(Deserialize)]
struct Line {
    sku: String,
    qty: u32,
}

#[derive(Serialize)]
struct Receipt {
    order: u64,
    state: order::State,
    customer: String,
    cents: u64,
    lines: Vec<ReceiptLine>,
}

#[derive(Serialize)]
struct ReceiptLine {
    sku: String,
    name: String,
    qty: u32,
    cents: u64,
}

pub(crate) async fn place<S: Store>(
    State(store): State<S>,
    IdempotencyKey(key): IdempotencyKey,
    order: Result<Json<Order>, JsonRejection>,
) -> Result<impl IntoResponse, Problem> {
    let Json(order) = order?;
    let lines = order.lines.iter().map(|line| (line.sku.as_str(), line.qty));
    let mut record = Vec::new();
    order::record(&order.customer, lines, &mut record)?;
    let placed = store.place(key, record.into()).await?;
    let record = Record::parse(&placed.record).expect("written by this service");
    let receipt = Receipt {
        order: placed.order,
        state: placed.state,
        customer: order.customer,
        cents: record.cents(),
        lines: record
            .lines()
            .map(|line| {
                let item = catalogue::item(line.item);
                ReceiptLine {
                    sku: item.sku.clone(),
                    name: item.name.clone(),
                    qty: line.quantity,
                    cents: line.cents(),
                }
            })
            .collect(),
    };
    let replayed = [(REPLAYED, if placed.replayed { "true" } else { "false" })];
    Ok((StatusCode::CREATED, replayed, Json(receipt)))
}
