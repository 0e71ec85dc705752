//! What a client is told when its deadline has passed. Time is paused.

use std::{convert::Infallible, time::Duration};

use axum::{Router, routing::post};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty, StreamBody};
use tower::{Layer, ServiceBuilder, ServiceExt, service_fn};
use tower_memory::{
    MemoryLayer, Outcome, RoutePolicy,
    cancel::{CancelReason, DeadlineSource},
    deadline_header::DeadlineHeader,
    middleware::MemoryLayerBuilder,
    middleware::{DeadlineContext, RequestBody, RequestBodyLayer},
};

use super::support::{Refused, Steps, get, never_answering, scope_of, use_everything, watched};

const SECOND: Duration = Duration::from_secs(1);

fn layer() -> MemoryLayerBuilder {
    MemoryLayer::builder()
        .timeout(SECOND)
        .trust_deadline(DeadlineHeader::GrpcTimeout)
}

fn call(headers: &[(&'static str, &'static str)]) -> Request<Empty<Bytes>> {
    let mut request = get("/");
    *request.method_mut() = Method::POST;
    for (name, value) in headers {
        let value = HeaderValue::from_static(value);
        request.headers_mut().insert(*name, value);
    }
    request
}

/// The answer of a layer whose handler never answers.
async fn answer(layer: MemoryLayerBuilder, request: Request<Empty<Bytes>>) -> Response<Bytes> {
    let (layer, watch) = watched(layer);
    let response = layer.layer(never_answering()).oneshot(request).await;
    let (parts, body) = response.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    assert_eq!(watch.outcome_now(), Outcome::DeadlineExceeded);
    Response::from_parts(parts, body)
}

fn problem(response: &Response<Bytes>) -> serde_json::Value {
    assert_eq!(
        response.headers()["content-type"],
        "application/problem+json"
    );
    let problem: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
    assert_eq!(problem["status"], response.status().as_u16());
    problem
}

#[tokio::test(start_paused = true)]
async fn a_closure_may_answer_with_any_status_and_body() {
    let teapot = layer().deadline_response(|expired: &DeadlineContext<'_>| {
        assert_eq!(expired.deadline_source(), DeadlineSource::Layer);
        assert_eq!(expired.scope().reason(), Some(expired.reason()));
        assert!(!expired.is_on_arrival() && !expired.is_body_missing());
        assert!(expired.after() >= SECOND);
        let text = format!("{} took too long", expired.scope().route());
        let mut response = Response::new(Bytes::from(text));
        *response.status_mut() = StatusCode::IM_A_TEAPOT;
        response
    });
    let response = answer(teapot.route("tea"), get("/")).await;
    assert_eq!(response.status(), 418);
    assert_eq!(response.body(), "tea took too long");
    let reason = response.extensions().get::<CancelReason>().unwrap();
    assert_eq!(reason.deadline_source(), Some(DeadlineSource::Layer));
    assert!(response.headers().contains_key("x-arena-source"));

    let unavailable = layer()
        .retry_after(Duration::from_millis(1500))
        .deadline_response(|e: &DeadlineContext<'_>| e.problem(StatusCode::SERVICE_UNAVAILABLE));
    let response = answer(unavailable, get("/")).await;
    assert_eq!(problem(&response)["title"], "Service Unavailable");
    assert_eq!(response.status(), 503);
    assert_eq!(response.headers()["retry-after"], "2");
}

#[tokio::test(start_paused = true)]
async fn a_closure_that_panics_leaves_nothing_behind() {
    let panics = layer().deadline_response(|_: &DeadlineContext<'_>| panic!("the closure panics"));
    let (layer, watch) = watched(panics);
    let service = layer.layer(never_answering());
    assert!(tokio::spawn(service.oneshot(get("/"))).await.is_err());
    assert_eq!(watch.outcome_now(), Outcome::DeadlineExceeded);
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_for_deadlines_of_this_side_alone() {
    let retry = || layer().retry_after(30 * SECOND);
    let ours = answer(retry(), get("/")).await;
    assert_eq!(
        (ours.status().as_u16(), &ours.headers()["retry-after"]),
        (504, &HeaderValue::from(30))
    );
    let unset = answer(layer(), get("/")).await;
    assert!(!unset.headers().contains_key("retry-after"));
    for timeout in ["500m", "0S"] {
        let theirs = answer(retry(), call(&[("grpc-timeout", timeout)])).await;
        assert_eq!(theirs.status(), 504);
        assert!(!theirs.headers().contains_key("retry-after"), "{timeout}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_says_if_the_deadline_had_passed_on_arrival() {
    let response = answer(layer(), call(&[("grpc-timeout", "0S")])).await;
    let detail = "the deadline set by the header grpc-timeout had passed on arrival";
    assert_eq!(problem(&response)["detail"], detail);
}

#[tokio::test(start_paused = true)]
async fn a_grpc_call_is_answered_with_status_200_and_the_trailers_in_the_head() {
    for (asked, answered) in [
        ("application/grpc", "application/grpc"),
        ("application/grpc+proto", "application/grpc"),
        ("application/grpc-web+proto", "application/grpc-web"),
        ("application/grpc-web-text", "application/grpc-web-text"),
    ] {
        for (timeout, message) in [
            ("2S", "the deadline set by the layer passed after 100"),
            (
                "500m",
                "the deadline set by the header grpc-timeout passed after 50",
            ),
            (
                "0m",
                "the deadline set by the header grpc-timeout had passed on arrival",
            ),
        ] {
            // A closure is not asked: the protocol says what the answer is.
            let layer = layer()
                .retry_after(SECOND)
                .deadline_response(|_: &DeadlineContext<'_>| Response::new(Bytes::from("no grpc")));
            let (layer, watch) = watched(layer);
            let request = call(&[("content-type", asked), ("grpc-timeout", timeout)]);
            let response = layer.layer(never_answering()).oneshot(request).await;
            let response = response.unwrap();
            assert_eq!(response.status(), 200);
            let headers = response.headers();
            assert_eq!(headers["content-type"], answered);
            assert_eq!(headers["grpc-status"], "4");
            let said = headers["grpc-message"].to_str().unwrap();
            assert!(said.starts_with(message), "{said}");
            assert!(!headers.contains_key("retry-after"));
            // HTTP/2 sends the end of the stream with the head.
            assert!(response.body().is_end_stream());
            drop(response);
            assert_eq!(watch.outcome_now(), Outcome::DeadlineExceeded);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_inner_layer_gives_its_own_answer_at_its_own_deadline() {
    let (outer, watch) = watched(MemoryLayer::builder().timeout(5 * SECOND));
    let inner =
        layer().deadline_response(|e: &DeadlineContext<'_>| e.problem(StatusCode::BAD_GATEWAY));
    let service = outer.layer(inner.build().unwrap().layer(never_answering()));
    let response = service.clone().oneshot(get("/")).await.unwrap();
    assert_eq!(response.status(), 502);
    drop(response);
    let request = call(&[("content-type", "application/grpc")]);
    let response = service.oneshot(request).await.unwrap();
    assert_eq!(response.headers()["grpc-status"], "4");
    drop(response);
    watch.reports(2).await;
}

/// A body that gives these parts, then waits for ever (`stuck`) or is complete.
fn upload(
    parts: &[&'static str],
    stuck: bool,
) -> impl Body<Data = Bytes, Error = Infallible> + Send + Unpin + 'static {
    let parts: Vec<_> = parts
        .iter()
        .map(|part| Ok(Frame::data(Bytes::from_static(part.as_bytes()))))
        .collect();
    let rest = if stuck {
        stream::pending().left_stream()
    } else {
        stream::empty().right_stream()
    };
    StreamBody::new(stream::iter(parts).chain(rest))
}

/// How the handler treats the request's body before it never answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Treats {
    Reads,
    Holds,
    Drops,
    GivesUp,
}

async fn uploaded(
    observed: bool,
    treats: Treats,
    stuck: bool,
    version: Version,
) -> (u16, HeaderMap) {
    async fn never<B>(request: Request<B>, treats: Treats) -> Result<Response<Steps>, Refused>
    where
        B: Body<Data: Send, Error: std::fmt::Debug> + Unpin,
    {
        use_everything(&scope_of(&request));
        let mut body = request.into_body();
        match treats {
            Treats::Drops => drop(body),
            Treats::Holds => {
                std::future::pending::<()>().await;
                drop(body);
            }
            Treats::Reads => while body.frame().await.is_some() {},
            Treats::GivesUp => {
                let read = async { while body.frame().await.is_some() {} };
                let _ = tokio::time::timeout(SECOND / 2, read).await;
                drop(body);
            }
        }
        std::future::pending().await
    }

    let (layer, watch) = watched(layer().retry_after(SECOND));
    let mut request = Request::post("/").body(upload(&["a", "b"], stuck)).unwrap();
    *request.version_mut() = version;
    let response = if observed {
        let service = ServiceBuilder::new()
            .layer(layer)
            .layer(RequestBodyLayer::new())
            .service(service_fn(move |r: Request<RequestBody<_>>| {
                never(r, treats)
            }));
        service.oneshot(request).await.unwrap()
    } else {
        let service = layer.layer(service_fn(move |r| never(r, treats)));
        service.oneshot(request).await.unwrap()
    };
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let response = Response::from_parts(parts, body);
    problem(&response);
    watch.report().await;
    (response.status().as_u16(), response.headers().clone())
}

#[tokio::test(start_paused = true)]
async fn the_answer_is_408_if_the_handler_was_waiting_for_the_request_body() {
    for version in [Version::HTTP_11, Version::HTTP_2] {
        for (treats, stuck, status) in [
            (Treats::Reads, true, 408),
            (Treats::Reads, false, 504),
            // The handler's own slowness: it did not ask for the body, or does not any more.
            (Treats::Holds, true, 504),
            (Treats::Drops, true, 504),
            (Treats::GivesUp, true, 504),
        ] {
            let (said, headers) = uploaded(true, treats, stuck, version).await;
            assert_eq!(said, status, "{treats:?} {stuck}");
            // It may be repeated at once, but on a connection of its own.
            let close = status == 408 && version == Version::HTTP_11;
            assert_eq!(headers.contains_key(header::CONNECTION), close);
            assert_eq!(headers.contains_key(header::RETRY_AFTER), status == 504);
            // Without the layer nobody knows.
            assert_eq!(uploaded(false, treats, stuck, version).await.0, 504);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn axum_takes_observed_bodies_as_they_are() {
    async fn length(body: Bytes) -> String {
        body.len().to_string()
    }
    let (layer, watch) = watched(layer());
    let app = Router::new()
        .route("/", post(length))
        .layer(RequestBodyLayer::new())
        .layer(layer);
    for (stuck, status, body) in [(false, 200, Some("4")), (true, 408, None)] {
        let body_in = axum::body::Body::new(upload(&["abcd"], stuck));
        let request = Request::post("/").body(body_in).unwrap();
        let response = app.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), status);
        let read = response.into_body().collect().await.unwrap().to_bytes();
        if let Some(body) = body {
            assert_eq!(read, body);
        }
    }
    watch.reports(2).await;
}

#[tokio::test(start_paused = true)]
async fn the_limit_of_a_policy_is_answered_by_the_layer_around_it() {
    let (layer, watch) = watched(
        MemoryLayer::builder()
            .deadline_response(|e: &DeadlineContext<'_>| e.problem(StatusCode::BAD_GATEWAY)),
    );
    let policy = RoutePolicy::new().timeout(SECOND);
    let service = layer.layer(policy.layer(never_answering()));
    assert_eq!(service.oneshot(get("/")).await.unwrap().status(), 502);
    let source = DeadlineSource::Policy;
    let report = watch.report_now();
    assert_eq!(report.deadline_source, Some(source));
}
