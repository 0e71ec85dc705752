//! Streams that watch no token, and are cut off at the end of a shutdown's grace period.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Router, body::Body, response::IntoResponse, routing::any};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, stream};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, StreamBody};
use tokio::time::{Instant, sleep};
use tower::{Layer, ServiceExt, service_fn};
use tower_memory::{
    MemoryLayer, Outcome, RequestScope, middleware::ResponseBody, scope::ScopeHold,
};

use super::support::{
    Client, Http, Refused, Watch, next_data, poll_body, scope_of, serve, use_everything, watched,
};

const GRACE: Duration = Duration::from_secs(10);

type Stream = StreamBody<stream::BoxStream<'static, Result<Frame<Bytes>, Refused>>>;

fn frame(text: &'static str) -> Result<Frame<Bytes>, Refused> {
    Ok(Frame::data(Bytes::from_static(text.as_bytes())))
}

/// One frame, and nothing more.
fn silent() -> Stream {
    StreamBody::new(
        stream::iter([frame("first")])
            .chain(stream::pending())
            .boxed(),
    )
}

/// A frame at every poll.
fn busy() -> Stream {
    StreamBody::new(stream::repeat_with(|| frame("more")).boxed())
}

/// The response of a request that has used everything, with this body.
async fn streaming(
    content_type: Option<&'static str>,
    body: fn() -> Stream,
) -> (Response<ResponseBody<Stream>>, Watch) {
    let (layer, watch) = watched(MemoryLayer::builder());
    let service = layer.layer(service_fn(move |request: Request<Empty<Bytes>>| {
        use_everything(&scope_of(&request));
        std::future::ready(Ok::<_, Refused>(Response::new(body())))
    }));
    let mut request = Request::new(Empty::new());
    if let Some(content_type) = content_type {
        *request.method_mut() = Method::POST;
        let value = HeaderValue::from_static(content_type);
        request.headers_mut().insert("content-type", value);
    }
    (service.oneshot(request).await.unwrap(), watch)
}

#[tokio::test(start_paused = true)]
async fn a_silent_stream_is_cut_off_at_the_end_of_the_grace_period() {
    let (response, watch) = streaming(None, silent).await;
    let start = Instant::now();
    let reader = tokio::spawn(response.into_body().collect());
    sleep(Duration::from_secs(1)).await;
    let report = watch.handle.shutdown_and_cut_off(GRACE).await;
    assert_eq!(start.elapsed(), GRACE + Duration::from_secs(1));
    assert_eq!((report.requests.len(), report.cut_off), (1, 1));
    let text = report.to_string();
    assert!(
        text.starts_with("still running after 10.0s, 1 cut off:\n  GET "),
        "{text}"
    );
    let error = reader.await.unwrap().unwrap_err();
    assert_eq!(error.to_string(), "the server is shutting down");
    assert_eq!(watch.report().await.outcome, Outcome::Shutdown);
    // Nothing is left, and nothing to cut off.
    let report = watch.handle.shutdown_and_cut_off(GRACE).await;
    assert!(report.is_clean() && report.cut_off == 0, "{report}");
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_another_task_reads_meanwhile_wakes_that_one() {
    let (response, watch) = streaming(None, silent).await;
    let mut body = response.into_body();
    let first = tokio::spawn(async move {
        body.frame().await.unwrap().unwrap();
        assert!(futures_util::poll!(body.frame()).is_pending());
        body
    });
    let reader = tokio::spawn(first.await.unwrap().collect());
    sleep(Duration::from_secs(1)).await;
    watch.handle.shutdown_and_cut_off(GRACE).await;
    let read = tokio::time::timeout(GRACE, reader).await;
    let error = read.expect("it is woken").unwrap().unwrap_err();
    assert_eq!(error.to_string(), "the server is shutting down");
    assert_eq!(watch.report().await.outcome, Outcome::Shutdown);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_always_has_data_is_cut_off() {
    let (response, watch) = streaming(None, busy).await;
    let mut body = response.into_body();
    assert_eq!(next_data(&mut body), "more");
    let report = watch.handle.shutdown_and_cut_off(Duration::ZERO).await;
    assert_eq!(report.cut_off, 1);
    assert!(body.frame().await.unwrap().is_err());
    assert!(body.frame().await.is_none());
    assert_eq!(watch.report().await.outcome, Outcome::Shutdown);
}

#[tokio::test(start_paused = true)]
async fn the_scope_of_a_stream_that_is_not_polled_is_over_when_it_is_cut_off() {
    let (response, watch) = streaming(None, busy).await;
    let mut body = response.into_body();
    assert_eq!(next_data(&mut body), "more");
    let report = watch.handle.shutdown_and_cut_off(Duration::ZERO).await;
    assert_eq!(report.cut_off, 1);
    sleep(Duration::from_millis(1)).await;
    let now = watch.handle.snapshot();
    assert_eq!(
        (now.in_flight, now.tasks),
        (0, 0),
        "while the server holds the body"
    );
    drop(body);
    assert_eq!(watch.report_now().outcome, Outcome::Shutdown);
}

#[tokio::test(start_paused = true)]
async fn a_grpc_stream_ends_with_a_status() {
    let (response, watch) = streaming(Some("application/grpc"), silent).await;
    let reader = tokio::spawn(response.into_body().collect());
    sleep(Duration::from_secs(1)).await;
    watch.handle.shutdown_and_cut_off(GRACE).await;
    let read = reader.await.unwrap().unwrap();
    let trailers = read.trailers().expect("a status").clone();
    assert_eq!(trailers["grpc-status"], "14");
    assert_eq!(trailers["grpc-message"], "the server is shutting down");
    assert_eq!(watch.report().await.outcome, Outcome::Shutdown);
}

#[tokio::test(start_paused = true)]
async fn without_being_asked_a_shutdown_cuts_off_nothing() {
    let (response, watch) = streaming(None, silent).await;
    let mut body = response.into_body();
    assert_eq!(next_data(&mut body), "first");
    let report = watch.handle.shutdown(GRACE).await;
    assert_eq!((report.requests.len(), report.cut_off), (1, 0));
    assert!(poll_body(&mut body).is_pending());
    assert_eq!(watch.handle.snapshot().in_flight, 1);
    drop(body);
    assert_eq!(watch.report().await.outcome, Outcome::Shutdown);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_watches_its_token_is_not_cut_off() {
    let (layer, watch) = watched(MemoryLayer::builder());
    let app = Router::new().route(
        "/",
        any(async |scope: RequestScope| {
            let end = async move {
                scope.cancelled().await;
                Ok::<_, Refused>("the end")
            };
            Body::from_stream(end.into_stream())
        }),
    );
    let request = Request::new(Body::empty());
    let response = app.layer(layer).oneshot(request).await.unwrap();
    let reader = tokio::spawn(response.into_body().collect());
    tokio::task::yield_now().await;
    let report = watch.handle.shutdown_and_cut_off(GRACE).await;
    assert!(report.is_clean() && report.cut_off == 0, "{report}");
    assert_eq!(reader.await.unwrap().unwrap().to_bytes(), "the end");
    assert_eq!(watch.report().await.outcome, Outcome::Shutdown);
}

#[tokio::test]
async fn a_client_can_tell_a_stream_that_was_cut_off_from_a_complete_one() {
    for http in [Http::One, Http::Two] {
        let (layer, watch) = watched(MemoryLayer::builder());
        let app = Router::new().route("/", any(async || Body::new(silent()).into_response()));
        let address = serve(app.layer(layer)).await;
        let mut client = Client::connect(http, address).await;
        let mut body = client.get("/").await.unwrap().into_body();
        let first = body.frame().await.unwrap().unwrap();
        assert_eq!(first.into_data().unwrap(), "first");
        let report = watch.handle.shutdown_and_cut_off(Duration::ZERO).await;
        assert_eq!(report.cut_off, 1);
        assert!(body.frame().await.unwrap().is_err(), "{http:?}");
        assert_eq!(watch.report().await.outcome, Outcome::Shutdown);
    }
}

/// An upgraded connection, held.
async fn upgraded() -> (ScopeHold, Watch) {
    let kept = Arc::new(Mutex::new(None));
    let (layer, watch) = watched(MemoryLayer::builder());
    let service = layer.layer(service_fn({
        let kept = Arc::clone(&kept);
        move |request: Request<Empty<Bytes>>| {
            let scope = scope_of(&request);
            use_everything(&scope);
            *kept.lock().unwrap() = Some(scope.hold());
            let response = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS);
            std::future::ready(Ok::<_, Refused>(
                response.body(Empty::<Bytes>::new()).unwrap(),
            ))
        }
    }));
    drop(service.oneshot(Request::new(Empty::new())).await.unwrap());
    let hold = kept.lock().unwrap().take().unwrap();
    (hold, watch)
}

/// Notes in which scope it is dropped.
struct Socket(Arc<Mutex<Option<bool>>>);

impl Drop for Socket {
    fn drop(&mut self) {
        *self.0.lock().unwrap() = Some(RequestScope::current().is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn a_held_connection_that_ignores_its_token_is_dropped_inside_its_scope() {
    let (hold, watch) = upgraded().await;
    let dropped = Arc::new(Mutex::new(None));
    let socket = Socket(Arc::clone(&dropped));
    let task = tokio::spawn(hold.run(async move {
        let _socket = socket;
        std::future::pending::<()>().await;
    }));
    sleep(Duration::from_secs(1)).await;
    let report = watch.handle.shutdown_and_cut_off(GRACE).await;
    assert_eq!((report.requests.len(), report.cut_off), (1, 1));
    tokio::task::yield_now().await;
    assert_eq!(*dropped.lock().unwrap(), Some(true));
    assert_eq!(watch.report().await.outcome, Outcome::Shutdown);
    // There is no output, so it is never ready.
    assert!(!task.is_finished());
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
}

#[tokio::test(start_paused = true)]
async fn of_a_hold_that_runs_no_future_the_scope_is_cut_off() {
    let (hold, watch) = upgraded().await;
    let report = watch.handle.shutdown_and_cut_off(GRACE).await;
    assert_eq!(report.cut_off, 1);
    sleep(Duration::from_millis(1)).await;
    assert!(hold.scope().is_ended());
    assert_eq!(watch.handle.snapshot().in_flight, 0);
    drop(hold);
    assert_eq!(watch.report_now().outcome, Outcome::Shutdown);
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_holds_its_scope_is_not_cut_off_before_it_has_answered() {
    let (layer, watch) = watched(MemoryLayer::builder());
    let app = Router::new().route(
        "/",
        any(async |scope: RequestScope| {
            let hold = scope.hold();
            let busy = hold.run(sleep(2 * GRACE));
            busy.await;
            "done"
        }),
    );
    let request = tokio::spawn(app.layer(layer).oneshot(Request::new(Body::empty())));
    sleep(Duration::from_secs(1)).await;
    let report = watch.handle.shutdown_and_cut_off(GRACE).await;
    assert_eq!((report.requests.len(), report.cut_off), (1, 0));
    let response = request.await.unwrap().unwrap();
    assert_eq!(
        response.into_body().collect().await.unwrap().to_bytes(),
        "done"
    );
    assert_eq!(watch.report().await.outcome, Outcome::Shutdown);
}
