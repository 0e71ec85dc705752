//! What reports and statistics say of methods, statuses and times.

use std::{convert::Infallible, time::Duration};

use axum::{
    Router,
    body::Body,
    routing::{any, get},
};
use bytes::Bytes;
use futures_util::FutureExt;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full};
use tokio::time::sleep;
use tower::{Layer, ServiceExt, service_fn};
use tower_memory::{MemoryLayer, Outcome, RequestScope, observe::RouteSnapshot};

use super::support::{Steps, answering, data, never_answering, scope_of, watched};

const SECOND: Duration = Duration::from_secs(1);

fn request(method: &str, path: &str) -> Request<Body> {
    let request = Request::builder().method(method).uri(path);
    request.body(Body::empty()).unwrap()
}

/// Sends a request and reads the whole response.
async fn exchange(app: &Router, method: &str, path: &str) -> StatusCode {
    let response = app.clone().oneshot(request(method, path)).await.unwrap();
    let status = response.status();
    response.into_body().collect().await.unwrap();
    status
}

#[track_caller]
fn row<'a>(rows: &'a [RouteSnapshot], method: &str, route: &str) -> &'a RouteSnapshot {
    let row = rows
        .iter()
        .find(|row| row.method == method && row.route == route);
    row.unwrap_or_else(|| panic!("no row for {method} {route}: {rows:#?}"))
}

/// The field/13.
#[tokio::test]
async fn methods_of_a_path_have_figures_and_learned_sizes_of_their_own() {
    let (layer, watch) = watched(MemoryLayer::builder());
    let app = Router::new()
        .route(
            "/doc/{id}",
            get(async |scope: RequestScope| {
                scope.arena().alloc_slice_copy(&[1_u8; 500]);
            })
            .post(async |scope: RequestScope| {
                scope.arena().alloc_slice_copy(&vec![1_u8; 500_000]);
            }),
        )
        .layer(layer);
    for n in 0..500 {
        let method = if n % 10 == 0 { "POST" } else { "GET" };
        assert_eq!(exchange(&app, method, "/doc/1").await, 200);
    }
    let rows = watch.handle.snapshot().routes;
    assert_eq!(rows.len(), 2);
    for (method, requests, bytes) in [("GET", 450, 500), ("POST", 50, 500_000)] {
        let row = row(&rows, method, "/doc/{id}");
        assert_eq!((row.requests, row.in_flight), (requests, 0), "{method}");
        assert_eq!(row.outcomes.get(Outcome::Completed), requests);
        assert_eq!(row.arena_bytes.as_ref().unwrap().max, bytes as u64);
        let learned = row.learned_arena_bytes.unwrap();
        assert!((bytes..=bytes * 9 / 8).contains(&learned), "{learned}");
    }
    let reports = watch.reports(500).await;
    let posts = reports.iter().filter(|report| report.method == "POST");
    assert_eq!(posts.count(), 50);
    assert!(reports.iter().all(|report| report.status == Some(200)));
}

#[tokio::test(start_paused = true)]
async fn statuses_are_told_apart_by_class_and_no_response_is_one() {
    let (layer, watch) = watched(MemoryLayer::builder().timeout(SECOND));
    let app = Router::new()
        .route(
            "/{status}",
            get(async |path: axum::extract::Path<u16>| {
                StatusCode::from_u16(path.0).unwrap_or(StatusCode::IM_A_TEAPOT)
            }),
        )
        .route("/slow", get(async || sleep(2 * SECOND).await))
        .layer(layer);
    for status in [200, 204, 304, 400, 404, 500] {
        let path = format!("/{status}");
        assert_eq!(exchange(&app, "GET", &path).await, status);
    }
    assert_eq!(exchange(&app, "GET", "/slow").await, 504);
    let dropped = app.clone().oneshot(request("GET", "/slow")).now_or_never();
    assert!(dropped.is_none());
    let rows = watch.handle.snapshot().routes;
    let all = row(&rows, "GET", "/{status}");
    assert_eq!(all.statuses, [0, 0, 2, 1, 2, 1]);
    assert_eq!(
        all.outcomes.get(Outcome::Completed),
        6,
        "whatever the status"
    );
    assert_eq!(row(&rows, "GET", "/slow").statuses, [1, 0, 0, 0, 0, 1]);
    let statuses: Vec<_> = watch.reports(8).await.iter().map(|r| r.status).collect();
    let expected = [200, 204, 304, 400, 404, 500, 504].map(Some);
    assert_eq!(statuses, [&expected[..], &[None]].concat());
    // A status that HTTP does not have is no class.
    let (layer, watch) = watched(MemoryLayer::builder());
    let service = layer.layer(service_fn(async |_: Request<Body>| {
        let status = StatusCode::from_u16(999).unwrap();
        let response = Response::builder().status(status);
        Ok::<_, Infallible>(response.body(Empty::<Bytes>::new()).unwrap())
    }));
    drop(service.oneshot(request("GET", "/")).await.unwrap());
    assert_eq!(watch.handle.snapshot().routes[0].statuses[0], 1);
    assert_eq!(watch.report().await.status, Some(999));
}

#[tokio::test]
async fn a_client_cannot_make_more_rows_than_there_are_known_methods() {
    let (layer, watch) = watched(MemoryLayer::builder());
    let app = Router::new()
        .route("/any", any(async || "hello"))
        .layer(layer);
    let known = [
        "CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE",
    ];
    for method in known {
        exchange(&app, method, "/any").await;
    }
    for n in 0..1000 {
        exchange(&app, &format!("BREW{n}"), "/any").await;
    }
    let rows = watch.handle.snapshot().routes;
    assert_eq!(rows.len(), known.len() + 1);
    for method in known {
        assert_eq!(row(&rows, method, "/any").requests, 1, "{method}");
    }
    assert_eq!(row(&rows, "other", "/any").requests, 1000);
}

#[test]
fn an_open_request_counts_in_its_row_and_leaves_no_blanks_at_the_end_of_a_line() {
    let (layer, watch) = watched(MemoryLayer::builder().route("open"));
    let service = layer.layer(never_answering());
    let mut future = Box::pin(service.oneshot(Request::new(Empty::new())));
    assert!(super::support::poll_once(&mut future).is_pending());
    let snapshot = watch.handle.snapshot();
    let open = row(&snapshot.routes, "GET", "open");
    assert_eq!((open.requests, open.in_flight), (1, 1));
    assert_eq!((open.outcomes.total(), open.statuses), (0, [0; 6]));
    for line in snapshot.to_string().lines() {
        assert_eq!(line, line.trim_end());
    }
    drop(future);
    assert_eq!(watch.outcome_now(), Outcome::Abandoned);
}

#[test]
fn every_method_keeps_its_name_in_the_report() {
    for (method, name) in [
        (Method::PUT, "PUT"),
        (Method::from_bytes(b"BREW").unwrap(), "other"),
    ] {
        let (layer, watch) = watched(MemoryLayer::builder());
        let service = layer.layer(answering(Full::<Bytes>::default()));
        let request = Request::builder().method(method).body(Empty::new());
        let response = service.oneshot(request.unwrap()).now_or_never().unwrap();
        drop(response);
        assert_eq!(watch.report_now().method, name);
    }
}

/// The newcomer's A13: a response of 0.2 ms was "completed after 307.8ms".
#[tokio::test(start_paused = true)]
async fn the_time_to_the_end_does_not_include_tasks_and_the_total_does() {
    let (layer, watch) = watched(MemoryLayer::builder());
    let service = layer.layer(service_fn(async |request: Request<Empty<Bytes>>| {
        let scope = scope_of(&request);
        sleep(SECOND).await;
        scope.spawn(sleep(4 * SECOND));
        Ok::<_, Infallible>(Response::new(Steps::new([data("part")])))
    }));
    let response = service.oneshot(Request::new(Empty::new())).await.unwrap();
    sleep(SECOND).await;
    response.into_body().collect().await.unwrap();
    let report = watch.report().await;
    let times = [
        report.time_to_head.unwrap(),
        report.time_to_end,
        report.total_time,
    ];
    assert_eq!(times.map(|time| time.as_secs()), [1, 2, 5]);
    let text = "GET {unmatched}: 200 completed after 2.0s (head after 1.0s), closed after 5.0s";
    assert!(report.to_string().starts_with(text), "{report}");
    let route = &watch.handle.snapshot().routes[0];
    let head = route.time_to_head.as_ref().unwrap();
    let total = route.total_time.as_ref().unwrap();
    let times = [head.total, route.time_to_end, total.total, total.max];
    assert_eq!(times.map(|time| time.as_secs()), [1, 2, 5, 5]);
}

/// The word that holds both has room for 208 days.
#[tokio::test(start_paused = true)]
async fn a_head_after_three_hundred_days_has_its_status_and_the_longest_time() {
    const DAY: Duration = Duration::from_secs(24 * 3600);

    let (layer, watch) = watched(MemoryLayer::builder());
    let service = layer.layer(service_fn(|_: Request<Body>| async {
        sleep(300 * DAY).await;
        let response = Response::builder().status(202).body(Body::empty());
        Ok::<_, Infallible>(response.unwrap())
    }));
    drop(service.oneshot(request("GET", "/")).await.unwrap());
    let report = watch.report().await;
    assert_eq!(report.status, Some(202));
    let head = report.time_to_head.unwrap();
    assert!((208 * DAY..209 * DAY).contains(&head), "{head:?}");
    assert!(report.total_time >= 300 * DAY, "{:?}", report.total_time);
}

#[tokio::test(start_paused = true)]
async fn an_upgraded_connection_ends_with_its_last_hold() {
    let (layer, watch) = watched(MemoryLayer::builder());
    let service = layer.layer(service_fn(async |request: Request<Empty<Bytes>>| {
        tokio::spawn(scope_of(&request).hold().run(sleep(3 * SECOND)));
        let response = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS);
        Ok::<_, Infallible>(response.body(Empty::<Bytes>::new()).unwrap())
    }));
    drop(service.oneshot(Request::new(Empty::new())).await.unwrap());
    let open = &watch.handle.snapshot().routes[0];
    assert_eq!((open.in_flight, open.outcomes.total()), (1, 0));
    let report = watch.report().await;
    assert_eq!(report.status, Some(101));
    assert!(report.time_to_head.unwrap() < SECOND);
    assert_eq!(
        (report.time_to_end.as_secs(), report.total_time.as_secs()),
        (3, 3)
    );
}
