//! Orders that are refused, and what is not an order. The stock stays as it was.

use http::Method;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::{client::Client, report::Report};
use crate::{
    BoxError, catalogue,
    order::{MAX_BODY, MAX_LINES},
    routes,
    store::{Place, Store, TableStore},
};

pub(super) fn order(lines: impl IntoIterator<Item = (String, Value)>) -> String {
    let lines = lines
        .into_iter()
        .map(|(sku, qty)| json!({ "sku": sku, "qty": qty }));
    json!({ "customer": "Ada", "lines": lines.collect::<Vec<_>>() }).to_string()
}

fn sku(n: usize) -> String {
    catalogue::items()[n % catalogue::ITEMS].sku.clone()
}

/// An order of one line.
fn of(qty: Value) -> String {
    order([(sku(0), qty)])
}

fn lines(n: usize) -> String {
    order((0..n).map(|n| (sku(n), json!(1))))
}

pub(super) async fn check(report: &mut Report) -> Result<(), BoxError> {
    let store = TableStore::open(Place::Memory, 1000)?;
    let (app, memory) = routes::app(store.clone())?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let client = Client::new(listener.local_addr()?);
    tokio::spawn(axum::serve(listener, app).into_future());
    for build in ["heap", "arena"] {
        refused(report, &client, build).await?;
        retried(report, &client, build).await?;
    }
    let elsewhere = [
        (Method::GET, "/nothing", 404),
        (Method::GET, "/arena/items/spaceship", 404),
        (Method::GET, "/heap/items/spaceship", 404),
        (Method::GET, "/orders/12345", 404),
        (Method::GET, "/orders/first", 404),
        (Method::POST, "/orders/18446744073709551616/cancel", 404),
        (Method::DELETE, "/arena/orders", 405),
    ];
    for (method, path, status) in elsewhere {
        let answer = client.send(method.clone(), path, &[], "").await?;
        let detail = answer.detail();
        report.expect(
            answer.is_problem(status),
            format!("{method} {path}: {status}, {detail}"),
        );
    }
    let [heap, arena] = [
        client.get("/heap/items").await?,
        client.get("/arena/items").await?,
    ];
    report.expect(
        heap.json == arena.json && heap.json.as_array().map(Vec::len) == Some(catalogue::ITEMS),
        "both builds list the same items",
    );
    report.expect_nothing_left(&memory).await;
    store.close();
    Ok(())
}

/// Sends what must be refused.
async fn refused(report: &mut Report, client: &Client, build: &str) -> Result<(), BoxError> {
    let before = client.get("/arena/items").await?.json;
    let cases: [(&str, u16, String, &str); 18] = [
        (
            "an unknown item",
            422,
            order([("spaceship".into(), json!(1))]),
            "lines[0].sku: unknown item \"spaceship\"",
        ),
        (
            "the quantity 0",
            422,
            of(json!(0)),
            "lines[0].qty: 0, expected 1 to 1000",
        ),
        ("a negative quantity", 422, of(json!(-1)), "lines[0].qty"),
        (
            "the quantity 1001",
            422,
            of(json!(1001)),
            "expected 1 to 1000",
        ),
        (
            "the quantity u32::MAX",
            422,
            of(json!(u32::MAX)),
            "expected 1 to 1000",
        ),
        ("the quantity 1e30", 422, of(json!(1e30)), "lines[0].qty"),
        (
            "a quantity that is a text",
            422,
            of(json!("2")),
            "lines[0].qty",
        ),
        ("the quantity 1.5", 422, of(json!(1.5)), "lines[0].qty"),
        ("no line", 422, lines(0), "0 lines, expected 1 to 100"),
        (
            "101 lines",
            422,
            lines(MAX_LINES + 1),
            "101 lines, expected 1 to 100",
        ),
        (
            "a line twice",
            422,
            order([(sku(7), json!(1)), (sku(8), json!(1)), (sku(7), json!(2))]),
            "lines[2].sku: \"whisk-007\" is in lines[0] already",
        ),
        (
            "no customer",
            422,
            json!({ "lines": [] }).to_string(),
            "customer",
        ),
        (
            "a customer of 101 characters",
            422,
            json!({ "customer": "x".repeat(101), "lines": [] }).to_string(),
            "1 to 100 characters",
        ),
        (
            "broken JSON",
            400,
            "{\"customer\":\"Ada\",\"lines\":[{]}".into(),
            "line 1 column",
        ),
        (
            "JSON that ends early",
            400,
            of(json!(1))[..20].into(),
            "EOF",
        ),
        (
            "two values",
            400,
            format!("{0}{0}", of(json!(1))),
            "trailing",
        ),
        ("nothing", 400, String::new(), "EOF"),
        (
            "more than is there",
            409,
            order([(sku(0), json!(1000)), (sku(1), json!(1))]),
            "available",
        ),
    ];
    // So that the last one is refused for its first line only.
    let some = client
        .order(build, &format!("{build}-some"), of(json!(1)))
        .await?;
    let cancelled = format!("/orders/{}/cancel", some.json["order"]);
    for (what, status, body, says) in cases {
        let answer = client.order(build, "refused", body).await?;
        let detail = answer.detail();
        report.expect(
            answer.is_problem(status) && detail.contains(says),
            format!("/{build}, {what}: {}, {detail}", answer.status),
        );
    }
    let answer = client.send(Method::POST, &cancelled, &[], "").await?;
    report.expect(
        answer.json["state"] == "cancelled",
        format!("/{build}, cancelled: {}", answer.json),
    );
    let path = format!("/{build}/orders");
    let key = ("idempotency-key", "wrong-type");
    for kind in [&[("content-type", "text/plain"), key][..], &[key]] {
        let answer = client.send(Method::POST, &path, kind, of(json!(1))).await?;
        let detail = answer.detail();
        report.expect(
            answer.is_problem(415),
            format!("/{build}, {:?}: 415, {detail}", kind[0]),
        );
    }
    let json = ("content-type", "application/json");
    let long = "k".repeat(65);
    for keys in [
        &[json][..],
        &[json, ("idempotency-key", "")],
        &[json, ("idempotency-key", &long)],
        &[json, ("idempotency-key", "a"), ("idempotency-key", "b")],
    ] {
        let answer = client.send(Method::POST, &path, keys, of(json!(1))).await?;
        let (keys, detail) = (keys.len() - 1, answer.detail());
        report.expect(
            answer.is_problem(400),
            format!("/{build}, {keys} wrong keys: 400, {detail}"),
        );
    }
    let body = of(json!(1));
    // It is answered when one byte too many has come, so no more is sent.
    let long = " ".repeat(MAX_BODY + 1);
    for (what, body, length, end, status) in [
        (
            "a body that is cut off",
            &body,
            body.len() + 10,
            true,
            "400",
        ),
        ("a body of 10 MiB", &long, 10 << 20, false, "413"),
    ] {
        let answer = client.cut_off(build, body, length, end).await?;
        let (head, problem) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        report.expect(
            head.starts_with(&format!("HTTP/1.1 {status}"))
                && head.contains("application/problem+json")
                && problem.contains(status),
            format!(
                "/{build}, {what}: {}, {problem}",
                head.lines().next().unwrap_or("no answer")
            ),
        );
    }
    let after = client.get("/heap/items").await?.json;
    report.expect(before == after, format!("/{build}: the stock is as it was"));
    Ok(())
}

/// Keys, retries, and orders that are settled.
async fn retried(report: &mut Report, client: &Client, build: &str) -> Result<(), BoxError> {
    let key = format!("{build}-key");
    let hundred = lines(MAX_LINES);
    let first = client.order(build, &key, hundred.clone()).await?;
    report.received(
        &format!("POST /{build}/orders"),
        first.status.as_str(),
        &first.headers,
    );
    let again = client.order(build, &key, hundred.clone()).await?;
    let other = client.order(build, &key, lines(MAX_LINES - 1)).await?;
    report.expect(
        first.status == 201
            && first.headers["idempotent-replayed"] == "false"
            && first.json["lines"].as_array().map(Vec::len) == Some(MAX_LINES),
        format!(
            "/{build}: an order of {MAX_LINES} lines, {} bytes of at most {MAX_BODY}",
            hundred.len()
        ),
    );
    report.expect(
        again.status == 201
            && again.headers["idempotent-replayed"] == "true"
            && again.json == first.json,
        format!("/{build}: the same again is answered with the same order"),
    );
    report.expect(
        other.is_problem(422),
        format!(
            "/{build}: the key with another body: 422, {}",
            other.detail()
        ),
    );
    let order = &first.json["order"];
    let settle = |what: &str| {
        let path = format!("/orders/{order}/{what}");
        async move { client.send(Method::POST, &path, &[], "").await }
    };
    let item = |name: &'static str| async move {
        let item = client.get(&format!("/{build}/items/{}", sku(5))).await?;
        Ok::<_, BoxError>(item.json[name].as_u64().unwrap_or(u64::MAX))
    };
    let sold = item("sold").await?;
    let confirmed = settle("confirm").await?;
    let twice = settle("confirm").await?;
    let cancelled = settle("cancel").await?;
    report.expect(
        confirmed.json["state"] == "confirmed"
            && twice.json == confirmed.json
            && cancelled.is_problem(409)
            && item("sold").await? == sold + 1,
        format!(
            "/{build}: confirmed once, then not cancelled: {}",
            cancelled.detail()
        ),
    );
    let escaped = json!({ "customer": "M\"\u{fc}ller\\", "lines": [{ "sku": sku(3), "qty": 2 }] });
    let escaped = escaped.to_string().replace("saucer", "s\\u0061ucer");
    let escaped = client
        .order(build, &format!("{build}-escaped"), escaped)
        .await?;
    report.expect(
        escaped.json["customer"] == "M\"\u{fc}ller\\" && escaped.json["lines"][0]["sku"] == sku(3),
        format!("/{build}: texts with escapes"),
    );
    Ok(())
}
