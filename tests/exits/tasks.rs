//! Tokens and tasks of a request, and where its scope is found.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Wake, Waker},
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use tokio::time::{Instant, sleep};
use tower::{Layer, ServiceExt, service_fn};
use tower_memory::{MemoryLayer, Outcome, RequestScope};

use super::support::{Refused, Steps, Watch, get, scope_of, watched};

type Plain = Full<Bytes>;

/// A service that shows its scope to `f` and answers with an empty body.
fn showing(
    layer: &MemoryLayer,
    f: impl Fn(RequestScope) + Clone + Send + 'static,
) -> impl tower::Service<
    Request<Empty<Bytes>>,
    Response = Response<tower_memory::middleware::ResponseBody<Plain>>,
    Error = Refused,
    Future: Send,
> + Clone {
    layer.layer(service_fn(move |request: Request<Empty<Bytes>>| {
        let (scope, f) = (scope_of(&request), f.clone());
        async move {
            f(scope);
            Ok(Response::new(Plain::default()))
        }
    }))
}

/// A request that is over, and its scope, which is still held.
fn ended() -> (RequestScope, Watch) {
    let kept = Arc::new(Mutex::new(None));
    let (layer, watch) = watched(MemoryLayer::builder());
    let service = showing(&layer, {
        let kept = Arc::clone(&kept);
        move |scope| *kept.lock().unwrap() = Some(scope)
    });
    drop(service.oneshot(get("/")).now_or_never().unwrap().unwrap());
    let scope = kept.lock().unwrap().take().unwrap();
    assert!(scope.is_ended() && scope.is_cancelled());
    (scope, watch)
}

#[test]
fn a_token_made_after_the_end_is_cancelled() {
    let (scope, watch) = ended();
    assert!(scope.child_token().is_cancelled());
    assert!(
        scope
            .reason()
            .is_some_and(|reason| reason == Outcome::Completed)
    );
    assert!(
        scope
            .cancelled()
            .now_or_never()
            .is_some_and(|reason| reason == Outcome::Completed)
    );
    drop(scope);
    assert_eq!(watch.outcome_now(), Outcome::Completed);
}

#[test]
fn tokens_are_counted_once_per_request_and_only_if_asked_for() {
    let counts = Arc::new(Mutex::new(Vec::new()));
    let (layer, watch) = watched(MemoryLayer::builder());
    let service = showing(&layer, {
        let (counts, handle) = (Arc::clone(&counts), watch.handle.clone());
        move |scope| {
            let now = || handle.snapshot().tokens;
            let before = now();
            let tokens = [scope.child_token(), scope.child_token()];
            counts.lock().unwrap().extend([before, now()]);
            assert!(tokens.iter().all(|token| !token.is_cancelled()));
        }
    });
    drop(service.oneshot(get("/")).now_or_never().unwrap().unwrap());
    assert_eq!(*counts.lock().unwrap(), [0, 1]);
    assert_eq!(watch.outcome_now(), Outcome::Completed);
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
fn waiting_for_the_cancellation_takes_no_token_and_leaves_no_waker() {
    let (layer, watch) = watched(MemoryLayer::builder());
    let service = showing(&layer, {
        let handle = watch.handle.clone();
        move |scope| {
            let wakes: [_; 4] = std::array::from_fn(|_| Arc::new(Wakes::default()));
            let wakers = wakes.each_ref().map(|wakes| Waker::from(Arc::clone(wakes)));
            let mut contexts = wakers.each_ref().map(Context::from_waker);
            // How often each was woken, and where it is kept besides.
            let counts = || {
                let count = |wakes: &Arc<Wakes>| {
                    (
                        wakes.0.load(Ordering::Relaxed),
                        Arc::strong_count(wakes) - 2,
                    )
                };
                wakes.each_ref().map(count)
            };
            let mut waiting: Vec<_> = (0..4).map(|_| Box::pin(scope.cancelled())).collect();
            for (waiting, cx) in waiting.iter_mut().zip(&mut contexts) {
                assert!(waiting.as_mut().poll(cx).is_pending());
                assert!(waiting.as_mut().poll(cx).is_pending(), "listed once");
            }
            assert_eq!(handle.snapshot().tokens, 0);
            assert_eq!(counts(), [(0, 1); 4]);
            // Another task waits on, and one waits no more.
            assert!(waiting[1].as_mut().poll(&mut contexts[0]).is_pending());
            drop(waiting.pop());
            assert_eq!(counts(), [(0, 2), (0, 0), (0, 1), (0, 0)]);
            scope.cancel();
            assert_eq!(counts(), [(2, 0), (0, 0), (1, 0), (0, 0)]);
            for waiting in &mut waiting {
                let reason = waiting.now_or_never().expect("the request is cancelled");
                assert_eq!(reason, Outcome::Cancelled);
            }
        }
    });
    drop(service.oneshot(get("/")).now_or_never().unwrap().unwrap());
    assert_eq!(watch.outcome_now(), Outcome::Cancelled);
}

#[test]
fn cancelling_a_token_cancels_neither_the_request_nor_other_tokens() {
    let (layer, watch) = watched(MemoryLayer::builder());
    let service = showing(&layer, |scope| {
        let (mine, other) = (scope.child_token(), scope.child_token());
        mine.cancel();
        assert!(mine.is_cancelled() && !other.is_cancelled());
        assert!(!scope.is_cancelled() && !scope.child_token().is_cancelled());
    });
    drop(service.oneshot(get("/")).now_or_never().unwrap().unwrap());
    assert_eq!(watch.outcome_now(), Outcome::Completed);
}

#[test]
fn a_handler_that_cancels_its_request_answers_itself() {
    let (layer, watch) = watched(MemoryLayer::builder());
    let service = showing(&layer, |scope| {
        let token = scope.child_token();
        scope.cancel();
        assert!(token.is_cancelled() && scope.is_cancelled());
        let reason = scope.reason().unwrap();
        assert_eq!(reason.to_string(), "the application cancelled the request");
    });
    let response = service.oneshot(get("/")).now_or_never().unwrap().unwrap();
    assert_eq!(response.status(), 200);
    drop(response);
    assert_eq!(watch.outcome_now(), Outcome::Cancelled);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_ignores_its_token_is_dropped_after_the_grace_and_not_before() {
    let handles = Arc::new(Mutex::new(Vec::new()));
    let grace = Duration::from_secs(3);
    let (layer, watch) = watched(MemoryLayer::builder().grace_period(grace));
    let service = showing(&layer, {
        let handles = Arc::clone(&handles);
        move |scope| {
            let ignoring = scope.spawn(std::future::pending::<u8>());
            let in_time = scope.spawn(async {
                sleep(Duration::from_secs(2)).await;
                2
            });
            handles.lock().unwrap().extend([ignoring, in_time]);
        }
    });
    drop(service.oneshot(get("/")).await.unwrap());
    let end = Instant::now();
    watch.assert_open();
    assert_eq!(watch.handle.snapshot().tasks, 2);

    let [ignoring, in_time]: [_; 2] = {
        let handles = std::mem::take(&mut *handles.lock().unwrap());
        handles.try_into().unwrap()
    };
    assert_eq!(in_time.await.unwrap(), 2);
    watch.assert_open();
    assert_eq!(watch.handle.snapshot().tasks, 1);
    let error = ignoring.await.unwrap_err();
    assert!(error.is_grace_exceeded());
    let after = end.elapsed();
    assert!(
        after >= grace && after - grace <= Duration::from_millis(2),
        "{after:?}"
    );

    let report = watch.report().await;
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!((report.tasks_spawned, report.tasks_aborted), (2, 1));
    assert!(report.total_time >= grace);
}

#[tokio::test(start_paused = true)]
async fn tasks_that_ignore_their_token_are_dropped_after_every_kind_of_end() {
    for kind in ["done", "fails", "left", "deadline", "panics"] {
        let layer = MemoryLayer::builder()
            .timeout(Duration::from_secs(60))
            .grace_period(Duration::from_secs(1));
        let (layer, watch) = watched(layer);
        let service = layer.layer(service_fn(move |request: Request<Empty<Bytes>>| {
            let scope = scope_of(&request);
            async move {
                scope.spawn(std::future::pending::<()>());
                tokio::task::yield_now().await;
                match kind {
                    "done" => Ok(Response::new(Steps::data([]))),
                    "fails" => Err(Refused),
                    "panics" => panic!("the handler panics"),
                    _ => std::future::pending().await,
                }
            }
        }));
        let request = tokio::spawn(async move {
            let response = service.oneshot(get("/")).await;
            if let Ok(response) = response {
                response.into_body().collect().await.unwrap();
            }
        });
        if kind == "left" {
            sleep(Duration::from_secs(1)).await;
            request.abort();
        }
        let _ = request.await;
        let expected = match kind {
            "done" => Outcome::Completed,
            "fails" => Outcome::ServiceError,
            "panics" => Outcome::Panicked,
            "left" => Outcome::Abandoned,
            _ => Outcome::DeadlineExceeded,
        };
        let report = watch.report().await;
        assert_eq!(report.outcome, expected);
        assert_eq!(
            (report.tasks_spawned, report.tasks_aborted),
            (1, 1),
            "{kind}"
        );
    }
}

#[tokio::test]
async fn a_task_that_panics_or_is_aborted_changes_nothing_of_the_outcome() {
    let handles = Arc::new(Mutex::new(Vec::new()));
    let (layer, watch) = watched(MemoryLayer::builder());
    let service = showing(&layer, {
        let handles = Arc::clone(&handles);
        move |scope| {
            let panicking = scope.spawn(async { panic!("the task panics") });
            let aborted = scope.spawn(std::future::pending::<()>());
            aborted.abort();
            handles.lock().unwrap().extend([panicking, aborted]);
        }
    });
    drop(service.oneshot(get("/")).await.unwrap());
    let handles = std::mem::take(&mut *handles.lock().unwrap());
    let mut kinds = Vec::new();
    for handle in handles {
        let error = handle.await.unwrap_err();
        kinds.push((
            error.is_panic(),
            error.is_aborted(),
            error.is_grace_exceeded(),
        ));
    }
    assert_eq!(kinds, [(true, false, false), (false, true, false)]);
    let report = watch.report().await;
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!((report.tasks_spawned, report.tasks_aborted), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_task_started_after_the_end_is_dropped_after_the_grace_and_reported_by_nobody() {
    let (scope, watch) = ended();
    let task = scope.spawn(std::future::pending::<()>());
    drop(scope);
    assert_eq!(watch.handle.snapshot().tasks, 1);
    let error = task.await.unwrap_err();
    assert!(error.is_grace_exceeded());
    let report = watch.report().await;
    assert_eq!(
        (report.outcome, report.tasks_spawned),
        (Outcome::Completed, 0)
    );
}

#[test]
fn tasks_that_go_down_with_their_runtime_close_the_scope() {
    let (layer, watch) = watched(MemoryLayer::builder());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let service = showing(&layer, |scope| {
            scope.arena().alloc_str("in the arena");
            scope.spawn(std::future::pending::<()>());
        });
        drop(service.oneshot(get("/")).await.unwrap());
    });
    watch.assert_open();
    drop(runtime);
    let report = watch.report_now();
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!((report.tasks_spawned, report.tasks_aborted), (1, 0));
}

#[tokio::test]
async fn the_current_scope_is_found_in_all_its_polls_and_nowhere_else() {
    type Places = Arc<Mutex<Vec<(&'static str, bool)>>>;

    /// Whether the current scope is the one of the route.
    fn found() -> bool {
        RequestScope::current().is_some_and(|scope| scope.route().as_str() == "mine")
    }

    let places = Places::default();
    let note = {
        let places = Arc::clone(&places);
        move |place| places.lock().unwrap().push((place, found()))
    };
    let (layer, watch) = watched(MemoryLayer::builder().route("mine"));
    let service = layer.layer(service_fn({
        let note = note.clone();
        move |request: Request<Empty<Bytes>>| {
            let (scope, note) = (scope_of(&request), note.clone());
            note("call");
            async move {
                note("handler");
                tokio::task::yield_now().await;
                note("handler after an await");
                let of_task = note.clone();
                scope.spawn(async move { of_task("task") }).await.unwrap();
                assert!(
                    tokio::spawn(async { RequestScope::current().is_none() })
                        .await
                        .unwrap()
                );
                let (of_blocking, blocking_scope) = (note.clone(), scope.clone());
                tokio::task::spawn_blocking(move || {
                    assert!(RequestScope::current().is_none());
                    blocking_scope.in_scope(|| of_blocking("entered"));
                    assert!(RequestScope::current().is_none());
                })
                .await
                .unwrap();
                drop(scope);
                let body = Full::new(Bytes::from_static(b"data")).map_frame(move |frame| {
                    note("body");
                    frame
                });
                Ok::<_, Refused>(Response::new(body))
            }
        }
    }));
    assert!(RequestScope::current().is_none());
    let response = service.oneshot(get("/")).await.unwrap();
    assert!(RequestScope::current().is_none());
    response.into_body().collect().await.unwrap();
    assert!(RequestScope::current().is_none());
    let expected = [
        "call",
        "handler",
        "handler after an await",
        "task",
        "entered",
        "body",
    ];
    assert_eq!(*places.lock().unwrap(), expected.map(|place| (place, true)));
    assert_eq!(watch.outcome().await, Outcome::Completed);
}
