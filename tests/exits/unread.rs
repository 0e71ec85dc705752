//! Bodies with limits that the server does not poll, since the client reads nothing. Time is paused, except
//! where the housekeeping's own thread or a socket takes part.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    thread,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response};
use http_body::{Body, Frame};
use http_body_util::Empty;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpStream, time::sleep};
use tower::{Layer, ServiceExt, service_fn};
use tower_memory::{
    MemoryLayer, Outcome, RequestScope,
    cancel::{CancelReason, DeadlineSource},
    middleware::{BodyTimeoutError, MemoryLayerBuilder, ResponseBody},
};

use super::support::{
    BoxError, Refused, Watch, get, next_data, poll_body, scope_of, serve, use_everything, watched,
};

const SECOND: Duration = Duration::from_secs(1);
/// Within this time after its limit a body is ended.
const SOON: Duration = Duration::from_millis(100);

/// What is known of an inner body that was dropped.
#[derive(Default)]
struct Dropped {
    count: AtomicUsize,
    place: Mutex<Option<Place>>,
}

/// Where it was dropped.
struct Place {
    /// Why the scope around it was cancelled.
    reason: CancelReason,
    thread: Option<String>,
    /// Whether it could spawn.
    in_runtime: bool,
}

/// A part at every poll, for ever.
struct Parts {
    dropped: Arc<Dropped>,
    panics: bool,
}

impl Body for Parts {
    type Data = Bytes;
    type Error = Refused;

    fn poll_frame(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Refused>>> {
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[7; 16 * 1024])))))
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        self.dropped.count.fetch_add(1, Ordering::Relaxed);
        let reason = RequestScope::current().and_then(|scope| scope.reason());
        *self.dropped.place.lock().unwrap() = reason.map(|reason| Place {
            reason,
            thread: thread::current().name().map(str::to_owned),
            in_runtime: tokio::runtime::Handle::try_current().is_ok(),
        });
        assert!(!self.panics, "the drop of the body panics");
    }
}

/// A response that is not read yet, of a request that has used everything.
struct Unread {
    body: ResponseBody<Parts>,
    scope: RequestScope,
    dropped: Arc<Dropped>,
    watch: Watch,
}

async fn unread(layer: MemoryLayerBuilder, panics: bool, request: Request<Empty<Bytes>>) -> Unread {
    let (layer, watch) = watched(layer);
    let dropped = Arc::new(Dropped::default());
    let kept = Arc::new(Mutex::new(None));
    let service = layer.layer(service_fn({
        let (dropped, kept) = (Arc::clone(&dropped), Arc::clone(&kept));
        move |request: Request<Empty<Bytes>>| {
            let scope = scope_of(&request);
            use_everything(&scope);
            *kept.lock().unwrap() = Some(scope);
            let dropped = Arc::clone(&dropped);
            let body = Parts { dropped, panics };
            std::future::ready(Ok::<_, Refused>(Response::new(body)))
        }
    }));
    let body = service.oneshot(request).await.unwrap().into_body();
    let scope = kept.lock().unwrap().take().unwrap();
    Unread {
        body,
        scope,
        dropped,
        watch,
    }
}

impl Unread {
    fn drops(&self) -> usize {
        self.dropped.count.load(Ordering::Relaxed)
    }

    /// Everything has ended for this limit, while the server still holds the body.
    async fn assert_ended(mut self, source: DeadlineSource) {
        assert_eq!(self.drops(), 1);
        let place = self.dropped.place.lock().unwrap().take();
        let place = place.expect("inside of its cancelled scope");
        assert_eq!(place.reason.deadline_source(), Some(source));
        let now = self.watch.handle.snapshot();
        assert_eq!((now.in_flight, now.tasks), (0, 0));
        drop(self.scope);
        let report = self.watch.report().await;
        assert_eq!(report.outcome, Outcome::DeadlineExceeded);
        assert_eq!(report.deadline_source, Some(source));
        assert_eq!(report.tasks_spawned, 1);
        // The server must not take it for a complete one.
        assert!(!self.body.is_end_stream());
        assert_eq!(self.body.size_hint().exact(), None);
        let error = last_error(&mut self.body);
        assert_eq!(error.deadline_source(), source);
        assert!(matches!(poll_body(&mut self.body), Poll::Ready(None)));
        assert!(self.body.is_end_stream());
    }
}

#[track_caller]
fn last_error(body: &mut ResponseBody<Parts>) -> BodyTimeoutError {
    let Poll::Ready(Some(Err(error))) = poll_body(body) else {
        panic!("no error");
    };
    let error: BoxError = error;
    *error.downcast::<BodyTimeoutError>().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_never_polled_ends_at_either_limit() {
    for (layer, source) in [
        (
            MemoryLayer::builder().body_timeout(3 * SECOND),
            DeadlineSource::BodyTimeout,
        ),
        (
            MemoryLayer::builder().body_idle_timeout(3 * SECOND),
            DeadlineSource::BodyIdleTimeout,
        ),
    ] {
        let response = unread(layer, false, get("/")).await;
        sleep(3 * SECOND - SOON).await;
        response.watch.assert_open();
        assert_eq!(response.drops(), 0);
        sleep(2 * SOON).await;
        response.assert_ended(source).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_silence_of_a_body_begins_anew_with_each_frame_that_the_server_takes() {
    let layer = MemoryLayer::builder().body_idle_timeout(3 * SECOND);
    let mut response = unread(layer, false, get("/")).await;
    for _ in 0..3 {
        sleep(2 * SECOND).await;
        assert_eq!(next_data(&mut response.body).len(), 16 * 1024);
    }
    sleep(3 * SECOND - SOON).await;
    response.watch.assert_open();
    sleep(2 * SOON).await;
    response.assert_ended(DeadlineSource::BodyIdleTimeout).await;
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_was_moved_or_cleared_does_not_end_a_body_at_its_former_time() {
    for (act, ends) in [
        (
            (|scope: &RequestScope| assert!(scope.extend_deadline(8 * SECOND)))
                as fn(&RequestScope),
            true,
        ),
        (RequestScope::clear_deadline, false),
    ] {
        let layer = MemoryLayer::builder().body_timeout(3 * SECOND);
        let response = unread(layer, false, get("/")).await;
        act(&response.scope);
        sleep(8 * SECOND - SOON).await;
        response.watch.assert_open();
        sleep(2 * SOON).await;
        if ends {
            response.assert_ended(DeadlineSource::Handler).await;
        } else {
            response.watch.assert_open();
            drop((response.body, response.scope));
            assert_eq!(response.watch.report().await.outcome, Outcome::Abandoned);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_grpc_call_that_is_not_read_ends_with_its_status() {
    let layer = MemoryLayer::builder().body_timeout(3 * SECOND);
    let mut request = get("/");
    *request.method_mut() = Method::POST;
    let value = HeaderValue::from_static("application/grpc");
    request.headers_mut().insert("content-type", value);
    let mut response = unread(layer, false, request).await;
    sleep(3 * SECOND + SOON).await;
    assert_eq!(response.drops(), 1);
    let Poll::Ready(Some(Ok(frame))) = poll_body(&mut response.body) else {
        panic!("no frame");
    };
    assert_eq!(frame.into_trailers().unwrap()["grpc-status"], "4");
    assert!(matches!(poll_body(&mut response.body), Poll::Ready(None)));
    drop(response.scope);
    let source = response.watch.report().await.deadline_source;
    assert_eq!(source, Some(DeadlineSource::BodyTimeout));
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_dropped_about_its_limit_ends_once() {
    let mut outcomes = Vec::new();
    for after in 0..=100 {
        let layer = MemoryLayer::builder().body_timeout(3 * SECOND);
        let response = unread(layer, false, get("/")).await;
        sleep(3 * SECOND + Duration::from_millis(after)).await;
        drop((response.body, response.scope));
        assert_eq!(response.dropped.count.load(Ordering::Relaxed), 1);
        outcomes.push(response.watch.report().await.outcome);
    }
    assert_eq!(outcomes.first(), Some(&Outcome::Abandoned));
    assert_eq!(outcomes.last(), Some(&Outcome::DeadlineExceeded));
    assert!(outcomes.is_sorted_by_key(|outcome| *outcome == Outcome::DeadlineExceeded));
}

/// The thread for hooks, on a runtime that has no timers: the drop of the inner body, also if it
/// panics.
#[test]
fn the_housekeeping_ends_a_body_on_its_own_thread_also_if_its_drop_panics() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    for panics in [false, true] {
        let layer = MemoryLayer::builder().body_timeout(Duration::from_millis(5));
        let mut response = runtime.block_on(unread(layer, panics, get("/")));
        let before = response.watch.handle.snapshot().housekeeping_panics;
        let ended = async {
            while response.watch.handle.snapshot().in_flight > 0 {
                tokio::task::yield_now().await;
            }
        };
        runtime.block_on(ended);
        let place = response.dropped.place.lock().unwrap().take();
        let place = place.expect("inside of its cancelled scope");
        assert_eq!(place.reason, Outcome::DeadlineExceeded);
        assert_eq!(place.thread.as_deref(), Some("tower-mem-hooks"));
        assert!(place.in_runtime);
        assert_eq!(
            last_error(&mut response.body).deadline_source(),
            DeadlineSource::BodyTimeout
        );
        drop(response.scope);
        while panics && response.watch.handle.snapshot().housekeeping_panics == before {
            thread::yield_now();
        }
        let report = response.watch.report_now();
        assert_eq!(report.outcome, Outcome::DeadlineExceeded);
    }
}

/// The clients announce a window of zero, and read nothing but heads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_http_2_clients_that_read_nothing_keep_no_body_open() {
    const CONNECTIONS: usize = 2;
    const STREAMS: usize = 50;

    let (layer, watch) = watched(
        MemoryLayer::builder()
            .body_timeout(20 * SECOND)
            .body_idle_timeout(SOON),
    );
    let dropped = Arc::new(Dropped::default());
    let service = layer.layer(service_fn({
        let dropped = Arc::clone(&dropped);
        move |request: Request<hyper::body::Incoming>| {
            use_everything(&scope_of(&request));
            let dropped = Arc::clone(&dropped);
            let body = Parts {
                dropped,
                panics: false,
            };
            std::future::ready(Ok::<_, Refused>(Response::new(body)))
        }
    }));
    let address = serve(service).await;
    let mut clients = Vec::new();
    let mut responses = Vec::new();
    for _ in 0..CONNECTIONS {
        let stream = TokioIo::new(TcpStream::connect(address).await.unwrap());
        let (mut sender, connection) =
            hyper::client::conn::http2::Builder::new(TokioExecutor::new())
                .initial_stream_window_size(0)
                .handshake(stream)
                .await
                .unwrap();
        clients.push(tokio::spawn(connection));
        for _ in 0..STREAMS {
            let response = sender.send_request(get("http://localhost/"));
            responses.push(response.await.unwrap());
        }
        clients.push(tokio::spawn(async move {
            let _sender = sender;
            std::future::pending().await
        }));
    }
    let reports = watch.reports(CONNECTIONS * STREAMS).await;
    for report in reports {
        assert_eq!(
            report.deadline_source,
            Some(DeadlineSource::BodyIdleTimeout)
        );
    }
    let drops = dropped.count.load(Ordering::Relaxed);
    assert_eq!(drops, CONNECTIONS * STREAMS, "while the clients are there");
    assert!(clients.iter().all(|client| !client.is_finished()));
    // The clients have got nothing.
    let body = responses.pop().unwrap().into_body();
    assert!(!body.is_end_stream());
    for client in clients {
        client.abort();
    }
}
