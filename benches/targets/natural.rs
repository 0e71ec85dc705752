//! `natural/`: what a user writes first, beside the same by hand and beside plain axum, as whole requests
//! through a router, without a network.

use std::{fmt::Write, hint::black_box, time::Duration};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    http::{Method, Request, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use http_body_util::BodyExt;
use serde::{Deserialize, Serialize};
use tokio::runtime::{Builder, Runtime};
use tower::ServiceExt;
use tower_memory::{
    Arena, Expose, MemoryLayer, account,
    extract::{ArenaJson, JsonBody},
    json::{self, DeserializeError},
};

use crate::{
    clock,
    harness::{Contest, Report, Samples, Target, measure},
    layer::ITEMS,
    load::put_items,
    sides::Side,
};

async fn items_seq_concat() -> impl IntoResponse {
    ArenaJson(json::seq(
        (0..ITEMS).map(|i| json::concat(("item-", black_box(i)))),
    ))
}

async fn items_list(arena: Arena) -> json::List {
    let mut list = arena.json_list();
    for i in 0..ITEMS {
        list.push_text(("item-", black_box(i)));
    }
    list
}

async fn items_alloc_concat(arena: Arena) -> Response {
    let mut items = arena.vec_with_capacity(ITEMS);
    for i in 0..ITEMS {
        items.push(arena.alloc_concat(("item-", black_box(i))));
    }
    arena.json(&items)
}

async fn items_cursor_concat(arena: Arena) -> Response {
    let mut items = arena.vec_with_capacity(ITEMS);
    let mut cursor = arena.cursor();
    for i in 0..ITEMS {
        items.push(cursor.alloc_concat(("item-", black_box(i))));
    }
    drop(cursor);
    arena.json(&items)
}

async fn items_alloc_fmt(arena: Arena) -> Response {
    let mut items = arena.vec_with_capacity(ITEMS);
    for i in 0..ITEMS {
        items.push(arena.alloc_fmt(format_args!("item-{}", black_box(i))));
    }
    arena.json(&items)
}

async fn items_by_hand(arena: Arena) -> impl IntoResponse {
    let mut body = arena.buf();
    put_items(&mut body);
    ([(header::CONTENT_TYPE, "application/json")], body.freeze())
}

async fn items_plain() -> Json<Vec<String>> {
    Json(
        (0..ITEMS)
            .map(|i| format!("item-{}", black_box(i)))
            .collect(),
    )
}

#[derive(Deserialize)]
struct Order<'a> {
    id: u64,
    customer: &'a str,
    note: &'a str,
    #[serde(borrow)]
    lines: Vec<Line<'a>>,
}

#[derive(Deserialize)]
struct Line<'a> {
    sku: &'a str,
    name: &'a str,
    qty: u32,
    price_cents: u64,
}

#[derive(Serialize)]
struct Receipt<'a, L> {
    id: u64,
    customer: &'a str,
    note: &'a str,
    total_cents: u64,
    lines: L,
}

#[derive(Serialize)]
struct Sold<'a> {
    sku: &'a str,
    name: &'a str,
    amount_cents: u64,
}

impl Line<'_> {
    const fn amount_cents(&self) -> u64 {
        self.price_cents * self.qty as u64
    }
}

fn receipt<'a>(order: &'a Order<'_>) -> Receipt<'a, impl Serialize> {
    let lines = order.lines.iter().map(|line| Sold {
        sku: line.sku,
        name: line.name,
        amount_cents: line.amount_cents(),
    });
    Receipt {
        id: order.id,
        customer: order.customer,
        note: order.note,
        total_cents: order.lines.iter().map(Line::amount_cents).sum(),
        lines: json::seq(lines),
    }
}

async fn order_json_body(body: JsonBody) -> Result<Response, DeserializeError> {
    let order: Order<'_> = body.json()?;
    Ok(body.arena().json(&receipt(&order)))
}

/// Without escapes, content types and paths of errors.
async fn order_by_hand(arena: Arena, body: Bytes) -> Response {
    match serde_json::from_slice::<Order<'_>>(&body) {
        Ok(order) => arena.json(&receipt(&order)),
        Err(error) => (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    }
}

#[derive(Deserialize)]
struct OwnedOrder {
    id: u64,
    customer: String,
    note: String,
    lines: Vec<OwnedLine>,
}

#[derive(Deserialize)]
struct OwnedLine {
    sku: String,
    name: String,
    qty: u32,
    price_cents: u64,
}

#[derive(Serialize)]
struct OwnedReceipt {
    id: u64,
    customer: String,
    note: String,
    total_cents: u64,
    lines: Vec<OwnedSold>,
}

#[derive(Serialize)]
struct OwnedSold {
    sku: String,
    name: String,
    amount_cents: u64,
}

async fn order_plain(Json(order): Json<OwnedOrder>) -> Json<OwnedReceipt> {
    let sold = order.lines.into_iter().map(|line| OwnedSold {
        sku: line.sku,
        name: line.name,
        amount_cents: line.price_cents * u64::from(line.qty),
    });
    let lines: Vec<_> = sold.collect();
    Json(OwnedReceipt {
        id: order.id,
        customer: order.customer,
        note: order.note,
        total_cents: lines.iter().map(|line| line.amount_cents).sum(),
        lines,
    })
}

fn order(lines: usize, escapes: bool) -> Bytes {
    let (name, inches) = if escapes {
        (r#"\"MM\""#, r#" 3\""#)
    } else {
        ("MM", "")
    };
    let mut order = format!(
        r#"{{"id":4711,"customer":"Maria Musterfrau {name}","note":"please ring twice","lines":["#
    );
    for i in 0..lines {
        let (comma, qty, price) = (if i == 0 { "" } else { "," }, i % 9 + 1, 1999 + i * 10);
        write!(
            order,
            r#"{comma}{{"sku":"SKU-{i:06}-XL","name":"Product number {i} of usual length{inches}","qty":{qty},"price_cents":{price}}}"#
        )
        .expect("a String grows");
    }
    (order + "]}").into()
}

/// A router with one route, and the request that it is sent.
struct Served {
    app: Router,
    method: Method,
    body: Bytes,
}

impl Served {
    fn new(app: Router, method: Method, body: &Bytes) -> Self {
        // As a server calls it: without this, axum applies the layers anew to each request.
        let app = app.with_state(());
        let body = body.clone();
        Self { app, method, body }
    }

    async fn exchange(&self) -> Bytes {
        let request = Request::builder()
            .method(&self.method)
            .uri("/")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Body::from(self.body.clone()));
        let response = self.app.clone().oneshot(request.expect("valid")).await;
        let response = response.expect("infallible");
        assert_eq!(response.status(), StatusCode::OK);
        let body = response.into_body().collect().await;
        black_box(body.expect("no body fails").to_bytes())
    }

    fn side<'a>(&'a self, label: &'static str, runtime: &'a Runtime) -> Side<'a> {
        Side::new(label, |n| {
            let start = clock::thread();
            runtime.block_on(async {
                for _ in 0..n {
                    self.exchange().await;
                }
            });
            clock::thread() - start
        })
    }

    /// Blocks per request, reallocations included.
    fn allocations(&self, runtime: &Runtime) -> f64 {
        const REQUESTS: u32 = 200;
        let count = || {
            let usage = account::thread_usage().expect("the allocator is installed");
            usage.allocations + usage.reallocations
        };
        runtime.block_on(async {
            let before = count();
            for _ in 0..REQUESTS {
                self.exchange().await;
            }
            (count() - before) as f64 / f64::from(REQUESTS)
        })
    }
}

fn runtime() -> Runtime {
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime")
}

fn layer() -> MemoryLayer {
    MemoryLayer::builder()
        .timeout(Duration::from_secs(5))
        .expose(Expose::Never)
        .build()
        .expect("valid settings")
}

/// `natural/items_1000`: a list of short texts as JSON. Half of the rows are beside the same by hand, and
/// half beside plain axum.
fn items() -> Contest {
    let ways = [
        "seq_concat",
        "list_push_text",
        "cursor_concat",
        "alloc_concat",
        "alloc_fmt",
        "by_hand",
    ];
    let [by_hand, plain] =
        ["by_hand", "plain"].map(|peer| ways.map(|way| format!("natural/items_1000/{way}/{peer}")));
    let rows: Vec<String> = by_hand.into_iter().chain(plain).collect();
    let rows: [String; 12] = rows.try_into().expect("two times six");
    Contest::new(rows, |report: &mut Report, rows| {
        let runtime = &runtime();
        let serve = |handler| {
            let app = Router::new().route("/", handler).layer(layer());
            Served::new(app, Method::GET, &Bytes::new())
        };
        let plain = Router::new().route("/", get(items_plain));
        let apps = [
            serve(get(items_seq_concat)),
            serve(get(items_list)),
            serve(get(items_cursor_concat)),
            serve(get(items_alloc_concat)),
            serve(get(items_alloc_fmt)),
            serve(get(items_by_hand)),
            Served::new(plain, Method::GET, &Bytes::new()),
        ];
        let expected = runtime.block_on(apps[6].exchange());
        for app in &apps {
            assert_eq!(runtime.block_on(app.exchange()), expected);
        }
        let [a, b, c, d, e, f, g] = &apps;
        let samples: [Samples; 7] = measure([
            a.side("seq, concat", runtime),
            b.side("List::push_text", runtime),
            c.side("Cursor::alloc_concat", runtime),
            d.side("Arena::alloc_concat", runtime),
            e.side("Arena::alloc_fmt", runtime),
            f.side("ArenaBuf, itoa", runtime),
            g.side("axum, Vec<String>, no layer", runtime),
        ]);
        let (ways, plain) = samples.split_at(6);
        let (by_hand_rows, plain_rows) = rows.split_at(6);
        for (nth, (row, way)) in by_hand_rows.iter().zip(ways).enumerate() {
            let target = match nth {
                0 | 1 => Target::AtMost(1.3),
                _ => Target::None,
            };
            report.compare(row, way, &ways[5], target);
        }
        for (nth, (row, way)) in plain_rows.iter().zip(ways).enumerate() {
            let target = match nth {
                0 | 1 => Target::AtMost(0.36),
                5 => Target::AtMost(0.25),
                _ => Target::None,
            };
            report.compare(row, way, &plain[0], target);
        }
    })
}

/// `natural/order_*`: an order in, a receipt out.
fn orders(lines: usize, escapes: bool) -> Contest {
    let text = if escapes { "_escaped" } else { "" };
    Contest::new(
        ["by_hand", "plain", "allocations"]
            .map(|row| format!("natural/order_{lines}{text}/json_body/{row}")),
        move |report: &mut Report, [by_hand_row, plain_row, allocations_row]| {
            let runtime = &runtime();
            let body = order(lines, escapes);
            let serve = |app| Served::new(app, Method::POST, &body);
            let layered = |handler| serve(Router::new().route("/", handler).layer(layer()));
            let natural = layered(post(order_json_body));
            let plain = serve(Router::new().route("/", post(order_plain)));
            let expected = runtime.block_on(plain.exchange());
            assert_eq!(runtime.block_on(natural.exchange()), expected);
            // Plain serde refuses escapes in a `&str`.
            let by_hand = layered(if escapes {
                post(order_json_body)
            } else {
                post(order_by_hand)
            });
            assert_eq!(runtime.block_on(by_hand.exchange()), expected);
            let [ours, hand, heap]: [Samples; 3] = measure([
                natural.side("JsonBody", runtime),
                by_hand.side("Bytes, from_slice", runtime),
                plain.side("axum::Json, no layer", runtime),
            ]);
            let is_long = lines >= 100 && !escapes;
            let target = |most| {
                if is_long {
                    Target::AtMost(most)
                } else {
                    Target::None
                }
            };
            if !escapes {
                report.compare(by_hand_row, &ours, &hand, target(1.3));
            }
            report.compare(plain_row, &ours, &heap, target(0.65));
            let (ours, heap) = (natural.allocations(runtime), plain.allocations(runtime));
            report.line(
                allocations_row,
                &format!("{ours:.2}"),
                &format!("{heap:.2} (axum::Json, no layer)"),
                &format!("1/{:.1}", heap / ours),
                "<= 1/20",
                is_long.then_some(ours <= heap / 20.0),
            );
        },
    )
}

pub(crate) fn add(contests: &mut Vec<Contest>) {
    contests.extend([
        items(),
        orders(1, false),
        orders(10, false),
        orders(100, false),
        orders(100, true),
    ]);
}
