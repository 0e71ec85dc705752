//! Connections that leave HTTP, and the holds that keep their scopes open.

use std::{
    sync::{Arc, Mutex},
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
use tower_memory::{MemoryLayer, Outcome, RequestScope, scope::ScopeHold};

use super::support::{
    Client, Http, Refused, Steps, Watch, scope_of, serve, use_everything, watched,
};

/// A response with this status whose handler holds its scope `holds` times; its body is dropped.
fn held(method: Method, status: StatusCode, holds: usize) -> (Vec<ScopeHold>, Watch) {
    let kept = Arc::new(Mutex::new(Vec::new()));
    let (layer, watch) = watched(MemoryLayer::builder());
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

#[tokio::test]
async fn a_held_future_waits_for_other_holds() {
    let (mut holds, watch) = held(Method::GET, StatusCode::SWITCHING_PROTOCOLS, 2);
    holds.pop().unwrap().run(async {}).await;
    watch.assert_open();
    drop(holds);
    assert_eq!(watch.outcome_now(), Outcome::Completed);
}
