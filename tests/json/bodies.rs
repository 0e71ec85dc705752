//! `JsonBody` beside `axum::Json`.

use std::{io, sync::Mutex, time::Duration};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, FromRequest},
    response::Response,
    routing::post,
};
use futures_util::stream;
use http::{Request, StatusCode, header};
use http_body_util::BodyExt;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tower::ServiceExt;
use tower_memory::{
    MemoryLayer, account,
    extract::JsonBody,
    json::{self, DeserializeError},
};

const JSON: Option<&str> = Some("application/json");

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
    customer: &'a str,
    lines: L,
}

#[derive(Serialize)]
struct Sold<'a> {
    sku: &'a str,
    cents: u32,
}

async fn ours(body: JsonBody) -> Result<Response, DeserializeError> {
    let order: Order<'_> = body.json()?;
    // What is read is held across an await.
    tokio::task::yield_now().await;
    let lines = order.lines.iter().map(|line| Sold {
        sku: line.sku,
        cents: line.qty * 250,
    });
    Ok(body.arena().json(&Receipt {
        customer: order.customer,
        lines: json::seq(lines),
    }))
}

#[derive(Deserialize)]
struct OwnedOrder {
    customer: String,
    lines: Vec<OwnedLine>,
}

#[derive(Deserialize)]
struct OwnedLine {
    sku: String,
    qty: u32,
}

#[derive(Serialize)]
struct OwnedSold {
    sku: String,
    cents: u32,
}

/// Reachable, so that no search for leaks takes them for some.
static CUSTOMERS: Mutex<Vec<&str>> = Mutex::new(Vec::new());

async fn axums(Json(order): Json<OwnedOrder>) -> Json<Receipt<'static, Vec<OwnedSold>>> {
    let customer: &str = Box::leak(order.customer.into_boxed_str());
    CUSTOMERS.lock().unwrap().push(customer);
    let lines = order.lines.into_iter().map(|line| OwnedSold {
        sku: line.sku,
        cents: line.qty * 250,
    });
    Json(Receipt {
        customer,
        lines: lines.collect(),
    })
}

fn app() -> Router {
    Router::new()
        .route("/ours", post(ours))
        .route("/axums", post(axums))
        .layer(MemoryLayer::with_timeout(Duration::from_secs(5)))
}

async fn send(
    app: &Router,
    path: &str,
    content_type: Option<&str>,
    body: Body,
) -> (StatusCode, String, Bytes) {
    let mut request = Request::post(path);
    if let Some(content_type) = content_type {
        request = request.header(header::CONTENT_TYPE, content_type);
    }
    let response = app
        .clone()
        .oneshot(request.body(body).unwrap())
        .await
        .unwrap();
    let (parts, body) = response.into_parts();
    let content_type = parts.headers[header::CONTENT_TYPE]
        .to_str()
        .unwrap()
        .to_owned();
    (
        parts.status,
        content_type,
        body.collect().await.unwrap().to_bytes(),
    )
}

/// Sends the same to both. The response is the same, too; returns its status.
async fn send_both(
    app: &Router,
    content_type: Option<&str>,
    body: impl Fn() -> Body,
) -> StatusCode {
    let ours = send(app, "/ours", content_type, body()).await;
    let axums = send(app, "/axums", content_type, body()).await;
    assert_eq!(ours, axums, "{content_type:?}");
    ours.0
}

/// A body in frames.
fn frames(frames: impl IntoIterator<Item = Bytes> + Send + 'static) -> Body
where
    <Vec<Bytes> as IntoIterator>::IntoIter: Send,
{
    let frames: Vec<_> = frames.into_iter().map(Ok::<_, io::Error>).collect();
    Body::from_stream(stream::iter(frames))
}

fn order(lines: usize) -> String {
    let lines = (0..lines).map(|n| format!(r#"{{"sku":"tea \"{n}\"","qty":{n}}}"#));
    let lines: Vec<_> = lines.collect();
    format!(
        r#"{{"customer":"Maria \ud83d\ude00","lines":[{}]}}"#,
        lines.join(",")
    )
}

#[tokio::test]
async fn an_order_is_answered_as_by_axum_wherever_its_frames_end() {
    let app = app();
    let order = Bytes::from(order(3));
    let whole = || Body::from(order.clone());
    assert_eq!(send_both(&app, JSON, whole).await, 200);
    for at in 0..order.len() {
        let parts = [order.slice(..at), Bytes::new(), order.slice(at..)];
        assert_eq!(send_both(&app, JSON, || frames(parts.clone())).await, 200);
    }
    let bytes = order.chunks(1).map(Bytes::copy_from_slice);
    let bytes: Vec<_> = bytes.collect();
    assert_eq!(send_both(&app, JSON, || frames(bytes.clone())).await, 200);
}

#[tokio::test]
async fn content_types_are_taken_and_refused_as_by_axum() {
    let app = app();
    let body = || Body::from(order(1));
    for (content_type, expected) in [
        (JSON, 200),
        (Some("application/json; charset=utf-8"), 200),
        (Some("application/json;charset=utf-8"), 200),
        (Some("Application/JSON"), 200),
        (Some("application/problem+json"), 200),
        (Some("application/json2"), 415),
        (Some("application/jsonp"), 415),
        (Some("text/json"), 415),
        (Some("text/plain"), 415),
        (Some("json"), 415),
        (Some(""), 415),
        (None, 415),
    ] {
        assert_eq!(
            send_both(&app, content_type, body).await,
            expected,
            "{content_type:?}"
        );
    }
}

#[tokio::test]
async fn a_body_of_the_wrong_type_is_not_read() {
    let endless = stream::repeat_with(|| -> io::Result<Bytes> { panic!("polled") });
    let (status, ..) = send(
        &app(),
        "/ours",
        Some("text/plain"),
        Body::from_stream(endless),
    )
    .await;
    assert_eq!(status, 415);
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_refused_as_by_axum() {
    const MIB: usize = 1 << 20;
    let large = Bytes::from(vec![b' '; 10 * MIB]);
    let one = || Body::from(large.clone());
    let cut = |size: usize| {
        let parts: Vec<_> = large
            .chunks(size)
            .map(|part| large.slice_ref(part))
            .collect();
        move || frames(parts.clone())
    };
    let app = app();
    assert_eq!(send_both(&app, JSON, one).await, 413);
    assert_eq!(send_both(&app, JSON, cut(MIB)).await, 413);
    assert_eq!(send_both(&app, JSON, cut(1000)).await, 413);

    let small = app.clone().layer(DefaultBodyLimit::max(100));
    let body = order(3);
    assert!(body.len() > 100);
    assert_eq!(
        send_both(&small, JSON, || Body::from(body.clone())).await,
        413
    );
    // A limit around the body itself, as of tower-http's `RequestBodyLimitLayer`.
    let limited = || {
        let stream = frames([Bytes::from(vec![b' '; 60]), Bytes::from(vec![b' '; 60])]);
        Body::new(http_body_util::Limited::new(stream, 100))
    };
    assert_eq!(send_both(&app, JSON, limited).await, 413);

    let unlimited = app.layer(DefaultBodyLimit::disable());
    let body = order(100_000);
    assert!(body.len() > 2 * MIB);
    let parts: Vec<_> = body
        .as_bytes()
        .chunks(9999)
        .map(Bytes::copy_from_slice)
        .collect();
    assert_eq!(
        send_both(&unlimited, JSON, || frames(parts.clone())).await,
        200
    );
    assert_eq!(send_both(&unlimited, JSON, limited).await, 413);
}

#[tokio::test]
async fn a_body_that_fails_is_refused_as_by_axum() {
    let app = app();
    let order = Bytes::from(order(3));
    for parts in 0..3 {
        let body = || {
            let parts = (0..parts).map(|nth| Ok(order.slice(nth * 10..nth * 10 + 10)));
            let failed = Err(io::Error::new(io::ErrorKind::ConnectionReset, "cut off"));
            let parts: Vec<_> = parts.chain([failed]).collect();
            Body::from_stream(stream::iter(parts))
        };
        assert_eq!(send_both(&app, JSON, body).await, 400);
    }
}

#[tokio::test]
async fn broken_and_unfitting_json_is_answered_by_a_problem_with_path_and_position() {
    let app = app();
    for (body, status, detail) in [
        (
            r#"{"customer":"a","lines":[{"sku":"tea","qty":-1}]}"#,
            422,
            "lines[0].qty: invalid value: integer `-1`, expected u32 at line 1 column 46",
        ),
        (
            r#"{"customer":7,"lines":[]}"#,
            422,
            "customer: invalid type: integer `7`, expected a string at line 1 column 13",
        ),
        (
            r#"{"customer":"a","lines":[{"sku":"tea","qty":"\"\u0000"}]}"#,
            422,
            r#"lines[0].qty: invalid type: string "\"\0", expected u32 at line 1 column 54"#,
        ),
        (
            r#"{"customer":"a","lines":["#,
            400,
            "lines: EOF while parsing a list at line 1 column 25",
        ),
        (
            r#"{"customer":"a","lines":[],}"#,
            400,
            "trailing comma at line 1 column 28",
        ),
        ("", 400, "EOF while parsing a value at line 1 column 0"),
        (
            "{\"customer\":\"a\",\"lines\":[]}\n}",
            400,
            "trailing characters at line 2 column 1",
        ),
    ] {
        let (found, content_type, answer) = send(&app, "/ours", JSON, Body::from(body)).await;
        assert_eq!(
            (found.as_u16(), &*content_type),
            (status, "application/problem+json")
        );
        let problem: Value = serde_json::from_slice(&answer).unwrap();
        assert_eq!(problem["detail"], detail);
        assert_eq!(problem["status"], status);
        let (axums, ..) = send(&app, "/axums", JSON, Body::from(body)).await;
        assert_eq!(found, axums, "{body}");
    }
    // A key with what JSON must escape is in the path.
    let app = Router::new().route(
        "/ours",
        post(async |body: JsonBody| {
            body.json::<std::collections::BTreeMap<&str, u8>>()
                .map(|_| ())
        }),
    );
    let body = Body::from(r#"{"\"\n\u0001":"x"}"#);
    let (status, _, answer) = send(&app, "/ours", JSON, body).await;
    let problem: Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!(status, 422);
    let detail = problem["detail"].as_str().unwrap();
    assert!(
        detail.starts_with("\"\n\u{1}: invalid type: string \"x\""),
        "{detail}"
    );
}

#[tokio::test]
async fn one_frame_is_kept_as_it_came_and_several_are_put_together_in_the_arena() {
    let body = |body| {
        let request = Request::post("/").header(header::CONTENT_TYPE, "application/json");
        JsonBody::from_request(request.body(body).unwrap(), &())
    };
    let bytes = Bytes::from(order(1));
    let whole = body(Body::from(bytes.clone())).await.unwrap();
    assert_eq!(whole.as_bytes().as_ptr(), bytes.as_ptr());
    assert_eq!(whole.arena().allocated_bytes(), 0);
    // Frames without data are none.
    let parts = [Bytes::new(), bytes.clone(), Bytes::new()];
    let whole = body(frames(parts)).await.unwrap();
    assert_eq!(whole.as_bytes().as_ptr(), bytes.as_ptr());

    let parts = [bytes.slice(..10), bytes.slice(10..)];
    let parts = body(frames(parts)).await.unwrap();
    assert_eq!(parts.as_bytes(), bytes);
    assert!(parts.arena().allocated_bytes() >= bytes.len());
    let order: Order<'_> = parts.json().unwrap();
    assert_eq!(
        (order.customer, order.lines[0].sku),
        ("Maria \u{1f600}", "tea \"0\"")
    );
}

#[tokio::test]
async fn without_a_layer_a_body_is_read_into_a_new_arena() {
    let app = Router::new().route("/ours", post(ours));
    let (status, _, answer) = send(&app, "/ours", JSON, Body::from(order(1))).await;
    assert_eq!(status, 200);
    let expected = r#"{"customer":"Maria 😀","lines":[{"sku":"tea \"0\"","cents":0}]}"#;
    assert_eq!(answer, expected);
}

#[tokio::test]
async fn an_order_of_100_lines_allocates_at_most_a_twentieth_of_axums() {
    let app = app().with_state(());
    let order = Bytes::from(order(100));
    let mut counts = [0; 2];
    for _ in 0..10 {
        for (path, count) in ["/ours", "/axums"].into_iter().zip(&mut counts) {
            let before = account::thread_usage().unwrap().allocations;
            assert_eq!(
                send(&app, path, JSON, Body::from(order.clone())).await.0,
                200
            );
            *count = account::thread_usage().unwrap().allocations - before;
        }
    }
    let [ours, axums] = counts;
    assert!(20 * ours <= axums, "{ours} and {axums} allocations");
}
