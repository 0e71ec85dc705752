//! Connections that leave HTTP, and the holds that keep their scopes open.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Wake, Waker},
    time::Duration,
};

use axum::{Router, body::Body, routing::get as on_get};
use bytes::Bytes;
use futures_util::FutureExt;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tower::{Layer, ServiceExt, service_fn};
use tower_memory::{
    MemoryLayer, Outcome, RequestScope, housekeeping::ManualClock, middleware::MemoryLayerBuilder,
    scope::ScopeHold,
};

use super::support::{
    Client, Http, Refused, Steps, Watch, scope_of, serve, use_everything, watched,
};

/// A response with this status whose handler holds its scope `holds` times; its body is dropped.
fn held(method: Method, status: StatusCode, holds: usize) -> (Vec<ScopeHold>, Watch) {
    held_by(MemoryLayer::builder(), method, status, holds)
}

fn held_by(
    layer: MemoryLayerBuilder,
    method: Method,
    status: StatusCode,
    holds: usize,
) -> (Vec<ScopeHold>, Watch) {
    let kept = Arc::new(Mutex::new(Vec::new()));
    let (layer, watch) = watched(layer);
    let service = layer.layer(service_fn({
        let kept = Arc::clone(&kept);
        move |request: Request<Empty<Bytes>>| {
            let scope = scope_of(&request);
            kept.lock()
                .unwrap()
                .extend((0..holds).map(|_| scope.hold()));
            let response = Response::builder().status(status);
            std::future::ready(Ok::<_, Refused>(
                response.body(Steps::data([]).telling_its_end()).unwrap(),
            ))
        }
    }));
    let request = Request::builder()
        .method(method)
        .body(Empty::new())
        .unwrap();
    drop(service.oneshot(request).now_or_never().unwrap().unwrap());
    let holds = std::mem::take(&mut *kept.lock().unwrap());
    (holds, watch)
}

#[test]
fn holds_keep_the_scope_of_an_upgraded_connection_open_until_the_last_is_dropped() {
    for (method, status) in [
        (Method::GET, StatusCode::SWITCHING_PROTOCOLS),
        (Method::CONNECT, StatusCode::OK),
    ] {
        let (mut holds, watch) = held(method, status, 2);
        watch.assert_open();
        let token = holds[0].scope().child_token();
        holds.pop();
        watch.assert_open();
        assert!(!token.is_cancelled() && !holds[0].scope().is_ended());
        holds.pop();
        assert!(token.is_cancelled());
        assert_eq!(watch.outcome_now(), Outcome::Completed);
    }
}

#[test]
fn a_hold_is_inert_if_the_response_is_no_upgrade() {
    for (method, status) in [
        (Method::GET, StatusCode::OK),
        (Method::GET, StatusCode::BAD_REQUEST),
        (Method::CONNECT, StatusCode::BAD_GATEWAY),
    ] {
        let (holds, watch) = held(method, status, 1);
        assert!(holds[0].scope().is_ended());
        drop(holds);
        assert_eq!(watch.outcome_now(), Outcome::Completed);
    }
}

#[test]
fn an_upgrade_without_a_hold_ends_with_its_response() {
    let (_, watch) = held(Method::GET, StatusCode::SWITCHING_PROTOCOLS, 0);
    assert_eq!(watch.outcome_now(), Outcome::Completed);
}

#[test]
fn a_hold_does_not_outlive_a_request_that_failed() {
    let kept = Arc::new(Mutex::new(None));
    let (layer, watch) = watched(MemoryLayer::builder());
    let service = layer.layer(service_fn({
        let kept = Arc::clone(&kept);
        move |request: Request<Empty<Bytes>>| {
            *kept.lock().unwrap() = Some(scope_of(&request).hold());
            std::future::ready(Err::<Response<Steps>, _>(Refused))
        }
    }));
    let request = Request::new(Empty::new());
    assert!(service.oneshot(request).now_or_never().unwrap().is_err());
    let hold = kept.lock().unwrap().take().unwrap();
    assert!(hold.scope().is_ended());
    drop(hold);
    assert_eq!(watch.outcome_now(), Outcome::ServiceError);
}

#[tokio::test]
async fn an_upgraded_connection_is_open_until_it_is_closed_and_has_no_deadline() {
    let router = Router::new().route(
        "/",
        on_get(|scope: RequestScope, request: Request<Body>| async move {
            use_everything(&scope);
            let hold = scope.hold();
            tokio::spawn(async move {
                let upgraded = hyper::upgrade::on(request).await.unwrap();
                let mut io = TokioIo::new(upgraded);
                let mut byte = [0];
                while io.read_exact(&mut byte).await.is_ok() {
                    hold.scope().arena().alloc_str("a byte");
                    io.write_all(&[byte[0] + 1]).await.unwrap();
                }
                drop(hold);
            });
            Response::builder()
                .status(StatusCode::SWITCHING_PROTOCOLS)
                .header(header::CONNECTION, "upgrade")
                .header(header::UPGRADE, "echo")
                .body(Body::empty())
                .unwrap()
        }),
    );
    let (layer, watch) = watched(MemoryLayer::builder().timeout(Duration::from_millis(50)));
    let address = serve(router.layer(layer)).await;
    let mut client = Client::connect(Http::One, address).await;
    let request = Request::get("http://localhost/")
        .header(header::CONNECTION, "upgrade")
        .header(header::UPGRADE, "echo")
        .body(Empty::new())
        .unwrap();
    let response = client.send(request).await.unwrap();
    assert_eq!(response.status(), 101);
    let mut io = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    for n in 0..3 {
        io.write_all(&[n]).await.unwrap();
        assert_eq!(io.read_u8().await.unwrap(), n + 1);
        watch.assert_open();
        // Beyond the deadline.
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    watch.assert_open();
    drop(io);
    let report = watch.report().await;
    assert_eq!(report.outcome, Outcome::Completed);
    assert!(report.total_time > Duration::from_millis(50));
}

/// The one hold of an upgraded connection.
fn upgraded() -> (ScopeHold, Watch) {
    let (mut holds, watch) = held(Method::GET, StatusCode::SWITCHING_PROTOCOLS, 1);
    (holds.pop().unwrap(), watch)
}

#[tokio::test]
async fn a_held_future_runs_inside_its_scope_and_ends_it() {
    let (hold, watch) = upgraded();
    let scope = hold.scope().clone();
    let held = hold.run(async {
        let of_first_poll = RequestScope::current().expect("the scope");
        tokio::task::yield_now().await;
        let token = of_first_poll.child_token();
        let task = of_first_poll.spawn(async move { token.cancelled().await });
        assert!(RequestScope::current().is_some());
        Some(task)
    });
    assert!(held.scope().is_some());
    watch.assert_open();
    let task = tokio::spawn(held).await.unwrap();
    assert!(scope.is_ended() && RequestScope::current().is_none());
    // Its task ends with it.
    task.expect("given back").await.unwrap();
    drop(scope);
    let report = watch.report().await;
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!((report.tasks_spawned, report.tasks_aborted), (1, 0));
}

/// Notes whether a scope is found when it is dropped.
struct FoundAtDrop(Arc<Mutex<Option<bool>>>);

impl Drop for FoundAtDrop {
    fn drop(&mut self) {
        *self.0.lock().unwrap() = Some(RequestScope::current().is_some());
    }
}

#[tokio::test]
async fn a_held_future_is_dropped_inside_its_scope() {
    for ready in [true, false] {
        let found = Arc::new(Mutex::new(None));
        let (hold, watch) = upgraded();
        let at_drop = FoundAtDrop(Arc::clone(&found));
        let mut held = Box::pin(hold.run(async move {
            let _at_drop = at_drop;
            if !ready {
                std::future::pending::<()>().await;
            }
        }));
        assert_eq!(super::support::poll_once(&mut held).is_ready(), ready);
        if !ready {
            watch.assert_open();
        }
        // Over with the future, whether or not that is kept.
        let kept = ready.then_some(held);
        assert_eq!(*found.lock().unwrap(), Some(true));
        assert_eq!(watch.outcome_now(), Outcome::Completed);
        assert!(kept.is_none_or(|held| held.scope().is_none()));
    }
}

#[tokio::test]
async fn a_held_future_that_panics_ends_its_scope_as_panicked() {
    let (hold, watch) = upgraded();
    let held = hold.run(async {
        tokio::task::yield_now().await;
        panic!("the socket's task panics")
    });
    assert!(tokio::spawn(held).await.unwrap_err().is_panic());
    assert_eq!(watch.outcome().await, Outcome::Panicked);
}

/// Counts how often it was woken.
#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_scope_that_outlives_its_connection_does_not_keep_the_task_that_served_it() {
    for ready in [true, false] {
        let (hold, watch) = upgraded();
        let scope = hold.scope().clone();
        let mut polls = 0;
        let mut held = Box::pin(hold.run(std::future::poll_fn(move |_| {
            polls += 1;
            if ready && polls == 2 {
                std::task::Poll::Ready(())
            } else {
                std::task::Poll::Pending
            }
        })));
        let wakes = Arc::new(Wakes::default());
        let waker = Waker::from(Arc::clone(&wakes));
        let mut cx = Context::from_waker(&waker);
        assert!(held.as_mut().poll(&mut cx).is_pending());
        assert!(Arc::strong_count(&wakes) > 2, "it is to be woken");
        assert_eq!(held.as_mut().poll(&mut cx).is_ready(), ready);
        drop(held);
        drop(waker);
        assert_eq!(Arc::strong_count(&wakes), 1, "ready: {ready}");
        drop(scope);
        assert_eq!(watch.outcome_now(), Outcome::Completed);
    }
}

#[test]
fn when_one_of_two_held_futures_ends_the_other_one_is_still_woken_at_a_limit() {
    let (mut holds, watch) = held(Method::GET, StatusCode::SWITCHING_PROTOCOLS, 2);
    let scope = holds[0].scope().clone();
    let wakes: [_; 2] = std::array::from_fn(|_| Arc::new(Wakes::default()));
    let wakers = wakes.each_ref().map(|wakes| Waker::from(Arc::clone(wakes)));
    let mut contexts = wakers.each_ref().map(Context::from_waker);
    let mut futures =
        [(); 2].map(|()| Box::pin(holds.pop().unwrap().run(std::future::pending::<()>())));
    for (future, cx) in futures.iter_mut().zip(&mut contexts) {
        assert!(future.as_mut().poll(cx).is_pending());
    }
    let [first, mut second] = futures;
    drop(first);
    // As a task does that was woken.
    if wakes[1].0.swap(0, Ordering::Relaxed) > 0 {
        assert!(second.as_mut().poll(&mut contexts[1]).is_pending());
    }
    scope.shorten_deadline(Duration::ZERO);
    assert_eq!(wakes[1].0.load(Ordering::Relaxed), 1);
    drop((second, scope));
    assert_eq!(watch.outcome_now(), Outcome::Completed);
}

#[tokio::test]
async fn a_held_future_waits_for_other_holds() {
    let (mut holds, watch) = held(Method::GET, StatusCode::SWITCHING_PROTOCOLS, 2);
    holds.pop().unwrap().run(async {}).await;
    watch.assert_open();
    drop(holds);
    assert_eq!(watch.outcome_now(), Outcome::Completed);
}

/// What an upgraded connection waits for, by a clock that the test moves.
fn waiting(holds: usize, timeout: Option<Duration>) -> (Vec<ScopeHold>, Watch, ManualClock) {
    let clock = ManualClock::new();
    let mut layer = MemoryLayer::builder().clock(&clock);
    if let Some(timeout) = timeout {
        layer = layer.hold_timeout(timeout);
    }
    let (holds, watch) = held_by(layer, Method::GET, StatusCode::SWITCHING_PROTOCOLS, holds);
    (holds, watch, clock)
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_hold_that_is_not_taken_up_is_given_up() {
    for (timeout, seconds) in [(None, 10), (Some(3 * SECOND), 3)] {
        let (holds, watch, clock) = waiting(2, timeout);
        let token = holds[0].scope().child_token();
        clock.advance(seconds * SECOND - Duration::from_nanos(1));
        watch.assert_open();
        clock.advance(Duration::from_nanos(1));
        assert!(token.is_cancelled() && holds[0].scope().is_ended());
        let reason = holds[0].scope().reason().unwrap();
        assert_eq!(reason.to_string(), "the connection was not upgraded");
        assert_eq!(watch.handle.snapshot().in_flight, 0);
        drop(holds);
        assert_eq!(watch.outcome_now(), Outcome::NotUpgraded);
    }
}

#[tokio::test(start_paused = true)]
async fn a_hold_that_is_taken_up_is_kept() {
    for run in [true, false] {
        let (mut holds, watch, clock) = waiting(2, None);
        let hold = holds.pop().unwrap();
        clock.advance(9 * SECOND);
        let held: Box<dyn std::any::Any> = if run {
            let mut held = Box::pin(hold.run(std::future::pending::<()>()));
            assert!(super::support::poll_once(&mut held).is_pending());
            Box::new(held)
        } else {
            hold.upgraded();
            Box::new(hold)
        };
        // The other hold is kept as well.
        clock.advance(1000 * SECOND);
        watch.assert_open();
        drop(held);
        clock.advance(1000 * SECOND);
        watch.assert_open();
        drop(holds);
        assert_eq!(watch.outcome_now(), Outcome::Completed);
    }
}

#[test]
fn a_hold_without_a_timeout_waits_for_ever() {
    let (holds, watch, clock) = waiting(1, Some(Duration::MAX));
    clock.advance(100_000 * SECOND);
    watch.assert_open();
    drop(holds);
    assert_eq!(watch.outcome_now(), Outcome::Completed);
}

#[test]
fn a_future_that_is_polled_before_the_response_has_not_taken_its_hold_up() {
    let clock = ManualClock::new();
    let (layer, watch) = watched(MemoryLayer::builder().clock(&clock));
    let kept = Arc::new(Mutex::new(None));
    let service = layer.layer(service_fn({
        let kept = Arc::clone(&kept);
        move |request: Request<Empty<Bytes>>| {
            // As a task that awaits the upgrade itself.
            let upgrade = std::future::pending::<()>();
            let mut held = Box::pin(scope_of(&request).hold().run(upgrade));
            assert!(super::support::poll_once(&mut held).is_pending());
            *kept.lock().unwrap() = Some(held);
            let response = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS);
            std::future::ready(Ok::<_, Refused>(
                response.body(Steps::data([]).telling_its_end()).unwrap(),
            ))
        }
    }));
    let response = service.oneshot(Request::new(Empty::new()));
    drop(response.now_or_never().unwrap().unwrap());
    watch.assert_open();
    clock.advance(10 * SECOND);
    assert_eq!(watch.handle.snapshot().in_flight, 0);
    drop(kept.lock().unwrap().take());
    assert_eq!(watch.outcome_now(), Outcome::NotUpgraded);
}

#[test]
fn a_released_hold_leaves_nothing_to_be_done_later() {
    let (holds, watch, clock) = waiting(1, None);
    drop(holds);
    assert_eq!(watch.outcome_now(), Outcome::Completed);
    clock.advance(100 * SECOND);
    assert_eq!(watch.outcome_now(), Outcome::Completed);
}

#[tokio::test]
async fn an_upgrade_that_an_outer_layer_refuses_ends_its_scope_while_its_connection_goes_on() {
    let (layer, watch) = watched(MemoryLayer::builder().hold_timeout(Duration::from_millis(50)));
    let router = Router::new()
        .route(
            "/socket",
            on_get(
                |scope: RequestScope, upgrade: axum::extract::WebSocketUpgrade| async move {
                    use_everything(&scope);
                    let hold = scope.hold();
                    upgrade.on_upgrade(|socket| hold.run(async { drop(socket) }))
                },
            ),
        )
        .route("/other", on_get(async || "other"))
        .layer(layer)
        .layer(axum::middleware::map_response(
            |mut response: Response<Body>| async {
                if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                    *response.status_mut() = StatusCode::FORBIDDEN;
                    response.headers_mut().clear();
                }
                response
            },
        ));
    let address = serve(router).await;
    let mut client = Client::connect(Http::One, address).await;
    let request = Request::get("http://localhost/socket")
        .header(header::CONNECTION, "upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_VERSION, "13")
        .header(header::SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ==")
        .body(Empty::new())
        .unwrap();
    assert_eq!(client.send(request).await.unwrap().status(), 403);
    let other = client.get("/other").await.unwrap();
    assert_eq!(other.status(), 200);
    drop(other);
    let closed = async {
        while watch.handle.snapshot().in_flight > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(5 * SECOND, closed)
        .await
        .expect("the scope closes");
    // The connection is still there, and a shutdown waits for nothing.
    assert_eq!(client.get("/other").await.unwrap().status(), 200);
    assert!(watch.handle.shutdown(10 * SECOND).await.is_clean());
    // hyper keeps the callback, and with it the hold's arena, until the connection ends.
    client.hang_up().await;
    let reports = watch.reports(3).await;
    let socket = reports.iter().find(|r| r.route.as_str() == "/socket");
    assert_eq!(socket.unwrap().outcome, Outcome::NotUpgraded);
}
