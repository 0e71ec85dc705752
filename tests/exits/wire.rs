//! The exits as real servers make them, over loopback.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    response::{IntoResponse, Response},
    routing::{any, get},
};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use tokio::sync::{Notify, mpsc};
use tower::{Layer, service_fn};
use tower_memory::{
    MemoryLayer, Outcome, RequestScope, cancel::DeadlineSource, middleware::MemoryLayerBuilder,
    middleware::RequestBodyLayer,
};

use super::support::{
    Client, Http, Refused, Step, Steps, Watch, arena_bytes, data, scope_of, serve, trailers,
    use_everything, watched,
};

/// Makes a test over each version of HTTP.
macro_rules! over_both {
    ($($name:ident),* $(,)?) => {
        mod http1 {
            $(#[tokio::test]
            async fn $name() {
                super::$name(super::Http::One).await;
            })*
        }
        mod http2 {
            $(#[tokio::test]
            async fn $name() {
                super::$name(super::Http::Two).await;
            })*
        }
    };
}

over_both! {
    a_body_of_exact_length_is_completed,
    a_streamed_body_is_completed,
    a_body_with_trailers_is_completed,
    an_empty_body_is_completed,
    a_response_to_head_is_completed,
    responses_that_never_have_a_body_are_completed,
    an_error_of_the_service_is_a_service_error,
    a_client_that_leaves_before_the_head_is_gone,
    a_client_that_leaves_during_the_body_is_gone,
    a_panic_in_the_handler_is_told_from_a_client_that_left,
    a_panic_in_the_body_is_told_from_a_client_that_left,
    an_error_of_the_body_is_a_service_error,
    a_body_that_is_cut_off_can_be_told_from_a_complete_one,
    the_deadline_is_answered_with_a_problem,
    the_deadline_cancels_the_tasks,
    the_deadline_of_head_is_answered_without_a_body,
    tasks_that_ignore_their_token_are_dropped_after_the_grace,
    garbage_in_request_headers_does_no_harm,
    many_requests_on_one_connection_are_reported_once_each,
}

async fn app(router: Router, layer: MemoryLayerBuilder, http: Http) -> (Client, Watch) {
    let (layer, watch) = watched(layer);
    let address = serve(router.layer(layer)).await;
    (Client::connect(http, address).await, watch)
}

/// A whole response.
struct Received {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
    trailers: Option<HeaderMap>,
}

async fn received(response: http::Response<Incoming>) -> Received {
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap();
    Received {
        status: parts.status,
        headers: parts.headers,
        trailers: body.trailers().cloned(),
        body: body.to_bytes(),
    }
}

async fn a_body_of_exact_length_is_completed(http: Http) {
    let router = Router::new().route(
        "/items/{n}",
        get(|scope: RequestScope| async move {
            use_everything(&scope);
            Body::from(arena_bytes(&scope, "0123456789"))
        }),
    );
    let (mut client, watch) = app(router, MemoryLayer::builder(), http).await;
    let response = received(client.get("/items/7").await.unwrap()).await;
    assert_eq!(response.status, 200);
    assert_eq!(response.body, "0123456789");
    assert_eq!(response.headers["content-length"], "10");
    assert_eq!(response.headers["x-alloc-route"], "/items/{n}");

    let report = watch.report().await;
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!(report.route.as_str(), "/items/{n}");
    assert_eq!((report.tasks_spawned, report.tasks_aborted), (1, 0));
    assert!(report.arena.bytes >= 10);
    assert!(
        report
            .time_to_head
            .is_some_and(|head| head <= report.total_time)
    );
}

async fn a_streamed_body_is_completed(http: Http) {
    let router = Router::new().route(
        "/",
        get(|scope: RequestScope| async move {
            use_everything(&scope);
            Body::new(Steps::new([
                Step::Data(arena_bytes(&scope, "one ")),
                data("two "),
                data("three"),
            ]))
        }),
    );
    let (mut client, watch) = app(router, MemoryLayer::builder(), http).await;
    let response = received(client.get("/").await.unwrap()).await;
    assert_eq!(response.body, "one two three");
    assert!(!response.headers.contains_key("content-length"));
    if http == Http::One {
        assert_eq!(response.headers["transfer-encoding"], "chunked");
    }
    assert_eq!(watch.outcome().await, Outcome::Completed);
}

async fn a_body_with_trailers_is_completed(http: Http) {
    let router = Router::new().route(
        "/",
        get(|scope: RequestScope| async move {
            use_everything(&scope);
            (
                [("trailer", "x-sum")],
                Body::new(Steps::new([data("data"), trailers()])),
            )
        }),
    );
    let (mut client, watch) = app(router, MemoryLayer::builder(), http).await;
    let request = Request::get("http://localhost/")
        .header(header::TE, "trailers")
        .body(Empty::new())
        .unwrap();
    let response = received(client.send(request).await.unwrap()).await;
    assert_eq!(response.body, "data");
    assert_eq!(response.trailers.expect("trailers")["x-sum"], "42");
    assert_eq!(watch.outcome().await, Outcome::Completed);
}

async fn an_empty_body_is_completed(http: Http) {
    let router = Router::new().route(
        "/",
        get(|scope: RequestScope| async move { use_everything(&scope) }),
    );
    let (mut client, watch) = app(router, MemoryLayer::builder(), http).await;
    let response = received(client.get("/").await.unwrap()).await;
    assert_eq!(response.headers["content-length"], "0");
    assert_eq!(response.body, "");
    assert_eq!(watch.outcome().await, Outcome::Completed);
}

async fn a_response_to_head_is_completed(http: Http) {
    let router = Router::new().route(
        "/",
        get(|scope: RequestScope| async move {
            use_everything(&scope);
            "0123456789"
        }),
    );
    let (mut client, watch) = app(router, MemoryLayer::builder(), http).await;
    let request = Request::head("http://localhost/")
        .body(Empty::new())
        .unwrap();
    let response = received(client.send(request).await.unwrap()).await;
    assert_eq!(response.headers["content-length"], "10");
    assert_eq!(response.body, "");
    assert_eq!(watch.outcome().await, Outcome::Completed);
}

async fn responses_that_never_have_a_body_are_completed(http: Http) {
    let mut statuses = Vec::new();
    for status in [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED] {
        let router = Router::new().route(
            "/",
            get(move |scope: RequestScope| async move {
                use_everything(&scope);
                status
            }),
        );
        let (mut client, watch) = app(router, MemoryLayer::builder(), http).await;
        let response = received(client.get("/").await.unwrap()).await;
        assert_eq!(response.body, "");
        assert_eq!(watch.outcome().await, Outcome::Completed, "{status}");
        statuses.push(response.status.as_u16());
    }
    assert_eq!(statuses, [204, 304]);
}

async fn an_error_of_the_service_is_a_service_error(http: Http) {
    let (layer, watch) = watched(MemoryLayer::builder());
    let service = layer.layer(service_fn(|request: Request<Incoming>| async move {
        use_everything(&scope_of(&request));
        tokio::task::yield_now().await;
        Err::<Response, _>(Refused)
    }));
    let mut client = Client::connect(http, serve(service).await).await;
    assert!(client.get("/").await.is_err());
    let report = watch.report().await;
    assert_eq!(report.outcome, Outcome::ServiceError);
    assert_eq!(report.time_to_head, None);
}

/// How clients leave: by resetting the one stream (HTTP/2 only), or by closing the connection.
fn ways_to_leave(http: Http) -> &'static [bool] {
    match http {
        Http::One => &[false],
        Http::Two => &[true, false],
    }
}

async fn a_client_that_leaves_before_the_head_is_gone(http: Http) {
    for &only_the_stream in ways_to_leave(http) {
        let called = Arc::new(Notify::new());
        let router = Router::new().route(
            "/",
            get({
                let called = Arc::clone(&called);
                async move |scope: RequestScope| {
                    use_everything(&scope);
                    called.notify_one();
                    std::future::pending::<()>().await;
                }
            }),
        );
        let (mut client, watch) = app(router, MemoryLayer::builder(), http).await;
        let mut pending = client.get("/");
        tokio::select! {
            _ = &mut pending => panic!("nothing is answered"),
            () = called.notified() => {}
        }
        watch.assert_open();
        drop(pending);
        if !only_the_stream {
            client.hang_up().await;
        }
        let report = watch.report().await;
        assert_eq!(report.outcome, Outcome::Abandoned);
        assert_eq!(report.time_to_head, None);
    }
}

async fn a_client_that_leaves_during_the_body_is_gone(http: Http) {
    for &only_the_stream in ways_to_leave(http) {
        let router = Router::new().route(
            "/",
            get(|scope: RequestScope| async move {
                use_everything(&scope);
                let first = Step::Data(arena_bytes(&scope, "first"));
                Body::new(Steps::new([first, Step::Stall]))
            }),
        );
        let (mut client, watch) = app(router, MemoryLayer::builder(), http).await;
        let mut response = client.get("/").await.unwrap();
        let first = response.body_mut().frame().await.unwrap().unwrap();
        assert_eq!(first.into_data().unwrap(), "first");
        watch.assert_open();
        drop(response);
        if !only_the_stream {
            client.hang_up().await;
        }
        let report = watch.report().await;
        assert_eq!(report.outcome, Outcome::Abandoned);
        assert!(report.time_to_head.is_some());
    }
}

async fn a_panic_in_the_handler_is_told_from_a_client_that_left(http: Http) {
    async fn panics(scope: RequestScope) {
        use_everything(&scope);
        tokio::task::yield_now().await;
        panic!("the handler panics");
    }
    let (mut client, watch) = app(
        Router::new().route("/", get(panics)),
        MemoryLayer::builder(),
        http,
    )
    .await;
    assert!(client.get("/").await.is_err());
    let report = watch.report().await;
    assert_eq!(report.outcome, Outcome::Panicked);
    assert_eq!(report.time_to_head, None);
}

async fn a_panic_in_the_body_is_told_from_a_client_that_left(http: Http) {
    let router = Router::new().route(
        "/",
        get(|scope: RequestScope| async move {
            use_everything(&scope);
            Body::new(Steps::new([data("first"), Step::Panic]))
        }),
    );
    let (mut client, watch) = app(router, MemoryLayer::builder(), http).await;
    // The head may or may not be sent before the connection breaks.
    if let Ok(response) = client.get("/").await {
        assert!(response.into_body().collect().await.is_err());
    }
    assert_eq!(watch.outcome().await, Outcome::Panicked);
}

async fn an_error_of_the_body_is_a_service_error(http: Http) {
    let router = Router::new().route(
        "/",
        get(|scope: RequestScope| async move {
            use_everything(&scope);
            Body::new(Steps::new([data("first"), Step::Fail]))
        }),
    );
    let (mut client, watch) = app(router, MemoryLayer::builder(), http).await;
    if let Ok(response) = client.get("/").await {
        assert!(response.into_body().collect().await.is_err());
    }
    assert_eq!(watch.outcome().await, Outcome::ServiceError);
}

async fn a_body_that_is_cut_off_can_be_told_from_a_complete_one(http: Http) {
    let router = Router::new().route(
        "/",
        get(|scope: RequestScope| async move {
            use_everything(&scope);
            let first = Step::Data(arena_bytes(&scope, "first"));
            Body::new(Steps::new([first, Step::Stall]))
        }),
    );
    let limit = Duration::from_millis(50);
    for (layer, source) in [
        (
            MemoryLayer::builder().body_timeout(limit),
            DeadlineSource::BodyTimeout,
        ),
        (
            MemoryLayer::builder().body_idle_timeout(limit),
            DeadlineSource::BodyIdleTimeout,
        ),
    ] {
        let (mut client, watch) = app(router.clone(), layer, http).await;
        let response = client.get("/").await.unwrap();
        assert_eq!(response.status(), 200);
        assert!(response.into_body().collect().await.is_err());
        let report = watch.report().await;
        assert_eq!(report.deadline_source, Some(source));
    }
}

/// A handler that never answers.
fn stuck() -> Router {
    Router::new().route(
        "/",
        any(|scope: RequestScope| async move {
            use_everything(&scope);
            std::future::pending::<()>().await;
        }),
    )
}

async fn the_deadline_is_answered_with_a_problem(http: Http) {
    let layer = MemoryLayer::builder().timeout(Duration::from_millis(20));
    let (mut client, watch) = app(stuck(), layer, http).await;
    let response = received(client.get("/").await.unwrap()).await;
    assert_eq!(response.status, 504);
    assert_eq!(response.headers["content-type"], "application/problem+json");
    assert_eq!(
        response.headers["content-length"],
        response.body.len().to_string()
    );
    let problem: serde_json::Value = serde_json::from_slice(&response.body).unwrap();
    assert_eq!(problem["status"], 504);
    assert_eq!(problem["title"], "Gateway Timeout");
    assert_eq!(problem["type"], "about:blank");
    let detail = problem["detail"].as_str().unwrap();
    assert!(
        detail.starts_with("the deadline set by the layer passed after "),
        "{detail}"
    );

    let report = watch.report().await;
    assert_eq!(report.outcome, Outcome::DeadlineExceeded);
    let source = DeadlineSource::Layer;
    assert_eq!(report.deadline_source, Some(source));
    assert!(report.time_to_head >= Some(Duration::from_millis(20)));
}

async fn the_deadline_of_head_is_answered_without_a_body(http: Http) {
    let layer = MemoryLayer::builder().timeout(Duration::from_millis(20));
    let (mut client, watch) = app(stuck(), layer, http).await;
    let request = Request::builder()
        .method(Method::HEAD)
        .uri("http://localhost/")
        .body(Empty::new())
        .unwrap();
    let response = received(client.send(request).await.unwrap()).await;
    assert_eq!(response.status, 504);
    assert_eq!(response.body, "");
    assert_eq!(watch.outcome().await, Outcome::DeadlineExceeded);
}

async fn the_deadline_cancels_the_tasks(http: Http) {
    let (told, mut tell) = mpsc::unbounded_channel();
    let router = Router::new().route(
        "/",
        get(async move |scope: RequestScope| {
            let token = scope.child_token();
            scope.spawn({
                let (scope, told) = (scope.clone(), told.clone());
                async move {
                    token.cancelled().await;
                    told.send(scope.reason()).unwrap();
                }
            });
            scope.spawn({
                let (scope, told) = (scope.clone(), told.clone());
                async move { told.send(Some(scope.cancelled().await)).unwrap() }
            });
            std::future::pending::<()>().await;
        }),
    );
    let layer = MemoryLayer::builder().timeout(Duration::from_millis(20));
    let (mut client, watch) = app(router, layer, http).await;
    assert_eq!(client.get("/").await.unwrap().status(), 504);
    for _ in 0..2 {
        let reason = tell.recv().await.unwrap().unwrap();
        assert_eq!(reason.deadline_source(), Some(DeadlineSource::Layer));
    }
    let report = watch.report().await;
    assert_eq!(report.outcome, Outcome::DeadlineExceeded);
    assert_eq!((report.tasks_spawned, report.tasks_aborted), (2, 0));
}

async fn tasks_that_ignore_their_token_are_dropped_after_the_grace(http: Http) {
    let router = Router::new().route(
        "/",
        get(|scope: RequestScope| async move {
            use_everything(&scope);
            for _ in 0..3 {
                scope.spawn(std::future::pending::<()>());
            }
            "done"
        }),
    );
    let layer = MemoryLayer::builder().grace_period(Duration::from_millis(20));
    let (mut client, watch) = app(router, layer, http).await;
    let response = received(client.get("/").await.unwrap()).await;
    assert_eq!(response.body, "done");
    let report = watch.report().await;
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!((report.tasks_spawned, report.tasks_aborted), (4, 3));
    assert!(report.total_time >= Duration::from_millis(20));
}

async fn garbage_in_request_headers_does_no_harm(http: Http) {
    let router = Router::new().route(
        "/",
        get(|scope: RequestScope| async move { use_everything(&scope) }),
    );
    let (mut client, watch) = app(router, MemoryLayer::builder(), http).await;
    let garbage = || http::HeaderValue::from_bytes(b"\xff\xfe\x80 \xf0").unwrap();
    let request = Request::get("http://localhost/?%ff%fe")
        .header("x-garbage", garbage())
        .header("x-alloc-route", garbage())
        .header("x-alloc-bytes", garbage())
        .header("grpc-timeout", garbage())
        .header("x-request-timeout-ms", garbage())
        .body(Empty::new())
        .unwrap();
    let response = received(client.send(request).await.unwrap()).await;
    assert_eq!(response.status, 200);
    assert_eq!(response.headers["x-alloc-route"], "/");
    assert!(!response.headers.contains_key("x-alloc-bytes"));
    assert_eq!(watch.outcome().await, Outcome::Completed);
}

async fn many_requests_on_one_connection_are_reported_once_each(http: Http) {
    let router = Router::new()
        .route(
            "/{n}",
            get(|scope: RequestScope| async move { use_everything(&scope) }),
        )
        .route(
            "/fails",
            get(|| async { StatusCode::IM_A_TEAPOT.into_response() }),
        );
    let (mut client, watch) = app(router, MemoryLayer::builder(), http).await;
    for n in 0..50 {
        let path = if n % 5 == 0 {
            "/fails".into()
        } else {
            format!("/{n}")
        };
        let response = received(client.get(&path).await.unwrap()).await;
        assert_eq!(response.body, "");
    }
    let reports = watch.reports(50).await;
    assert!(reports.iter().all(|r| r.outcome == Outcome::Completed));
    let fails = reports.iter().filter(|r| r.route.as_str() == "/fails");
    assert_eq!(fails.count(), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exits_of_all_kinds_at_once_leave_one_report_each() {
    async fn handler(scope: RequestScope, request: Request<Body>) -> Response {
        use_everything(&scope);
        let first = Step::Data(arena_bytes(&scope, "first"));
        let stuck = Steps::new([first.clone(), Step::Stall]);
        match request.uri().path() {
            "/done" => Body::from(arena_bytes(&scope, "done")).into_response(),
            "/streamed" => Body::new(Steps::new([first, data("last")])).into_response(),
            "/fails" => Body::new(Steps::new([first, Step::Fail])).into_response(),
            "/panics" => panic!("the handler panics"),
            "/body-panics" => Body::new(Steps::new([first, Step::Panic])).into_response(),
            "/left" => Body::new(stuck).into_response(),
            _ => std::future::pending().await,
        }
    }
    let paths = [
        ("/done", Outcome::Completed),
        ("/streamed", Outcome::Completed),
        ("/fails", Outcome::ServiceError),
        ("/panics", Outcome::Panicked),
        ("/body-panics", Outcome::Panicked),
        ("/left", Outcome::Abandoned),
        ("/stuck", Outcome::DeadlineExceeded),
    ];
    let mut router = Router::new();
    for (path, _) in paths {
        router = router.route(path, get(handler));
    }
    let rounds = 8;
    let (layer, watch) = watched(MemoryLayer::builder().timeout(Duration::from_millis(300)));
    let address = serve(router.layer(layer)).await;

    let mut clients = tokio::task::JoinSet::new();
    for http in [Http::One, Http::Two] {
        for (path, _) in paths {
            for _ in 0..rounds {
                clients.spawn(async move {
                    let mut client = Client::connect(http, address).await;
                    let Ok(mut response) = client.get(path).await else {
                        return;
                    };
                    if path == "/left" {
                        let first = response.body_mut().frame().await;
                        assert_eq!(first.unwrap().unwrap().into_data().unwrap(), "first");
                        drop(response);
                        client.hang_up().await;
                    } else {
                        // Cut short where the body fails.
                        let _ = response.into_body().collect().await;
                    }
                });
            }
        }
    }
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }

    let reports = watch.reports(paths.len() * rounds * 2).await;
    for (path, outcome) in paths {
        let mut seen: Vec<_> = reports
            .iter()
            .filter(|report| report.route.as_str() == path)
            .map(|report| report.outcome)
            .collect();
        assert_eq!(seen.len(), rounds * 2, "{path}");
        seen.dedup();
        assert_eq!(seen, [outcome], "{path}");
    }
}

/// The answer says that the connection ends, and it does: what is left of the body is not read as the
/// next request.
#[tokio::test]
async fn a_client_that_is_too_slow_with_its_body_gets_408_and_the_connection_closed() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let router = Router::new().route(
        "/",
        any(|scope: RequestScope, body: Body| async move {
            use_everything(&scope);
            body.collect().await.unwrap().to_bytes().len().to_string()
        }),
    );
    let (layer, watch) = watched(MemoryLayer::builder().timeout(Duration::from_millis(50)));
    let app = router.layer(RequestBodyLayer::new()).layer(layer);
    let mut stream = tokio::net::TcpStream::connect(serve(app).await)
        .await
        .unwrap();
    let half = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n01234";
    stream.write_all(half).await.unwrap();
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer);
    let read = tokio::time::timeout(Duration::from_secs(30), read).await;
    read.expect("the end of the connection").unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(answer.contains("connection: close\r\n"), "{answer}");
    assert!(
        answer.contains("the request body was not complete"),
        "{answer}"
    );
    assert_eq!(watch.outcome().await, Outcome::DeadlineExceeded);
}

/// hyper tells the request body, and then waits for the handler.
#[tokio::test]
async fn a_client_that_leaves_with_its_request_half_sent_is_ended_by_the_deadline() {
    use tokio::io::AsyncWriteExt;

    let called = Arc::new(Notify::new());
    let seen = Arc::new(Mutex::new(None));
    let router = Router::new().route(
        "/",
        any({
            let (called, seen) = (Arc::clone(&called), Arc::clone(&seen));
            async move |scope: RequestScope, body: Body| {
                use_everything(&scope);
                called.notify_one();
                let failed = body.collect().await.is_err();
                *seen.lock().unwrap() = Some(failed);
                std::future::pending::<()>().await;
            }
        }),
    );
    let (layer, watch) = watched(MemoryLayer::builder().timeout(Duration::from_millis(200)));
    let address = serve(router.layer(layer)).await;
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let half = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n01234";
    stream.write_all(half).await.unwrap();
    called.notified().await;
    drop(stream);
    assert_eq!(watch.outcome().await, Outcome::DeadlineExceeded);
    assert_ne!(*seen.lock().unwrap(), Some(false), "the body was not whole");
}
