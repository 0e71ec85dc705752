//! Tasks that stay longer than their request: who they are, and what is said of them.

use std::{
    panic::Location,
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use axum::{Router, response::IntoResponse, routing::get as on_get};
use http::{Request, StatusCode};
use http_body_util::Empty;
use tokio::time::{Instant, sleep, timeout};
use tower::ServiceExt;
use tower_memory::{
    MemoryHandle, MemoryLayer, Outcome, RequestScope,
    middleware::MemoryLayerBuilder,
    observe::TaskOverruns,
    scope::{TaskHandle, TaskKind},
};

use super::support::{Watch, use_everything, watched};

type Place = &'static Location<'static>;

/// A request to `/items/{n}`, which shows its scope to `f` and is over.
async fn over<T: Send + 'static>(
    layer: MemoryLayerBuilder,
    f: impl Fn(&RequestScope) -> T + Clone + Send + Sync + 'static,
) -> (T, Watch) {
    let (layer, watch) = watched(layer);
    let kept = Arc::new(Mutex::new(None));
    let app = Router::new().route(
        "/items/{n}",
        on_get({
            let kept = Arc::clone(&kept);
            async move |scope: RequestScope| {
                *kept.lock().unwrap() = Some(f(&scope));
                StatusCode::OK.into_response()
            }
        }),
    );
    let request = Request::get("/items/1").body(Empty::new()).unwrap();
    let response = app
        .layer(layer)
        .oneshot(request.map(axum::body::Body::new))
        .await;
    drop(response.unwrap());
    let kept = kept.lock().unwrap().take().unwrap();
    (kept, watch)
}

/// Waits until no request is in flight.
async fn closed(handle: &MemoryHandle) {
    let closed = async {
        while handle.snapshot().in_flight != 0 {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(Duration::from_secs(30), closed)
        .await
        .expect("the scope closes");
}

/// A task that holds its thread until the sender is used.
struct Stuck {
    task: TaskHandle<()>,
    place: Place,
    release: mpsc::Sender<()>,
}

#[track_caller]
fn here() -> Place {
    Location::caller()
}

fn stuck_closure(scope: &RequestScope) -> Stuck {
    use_everything(scope);
    let (release, wait) = mpsc::channel();
    let (task, place) = (scope.spawn_blocking(move || wait.recv().unwrap()), here());
    Stuck {
        task,
        place,
        release,
    }
}

fn stuck_poll(scope: &RequestScope) -> Stuck {
    use_everything(scope);
    let (release, wait) = mpsc::channel();
    let (task, place) = (scope.spawn(async move { wait.recv().unwrap() }), here());
    Stuck {
        task,
        place,
        release,
    }
}

async fn is_given_up(kind: TaskKind, stuck: fn(&RequestScope) -> Stuck) {
    // In real time. A busy machine has to start the task within it.
    let grace = Duration::from_millis(500);
    let layer = MemoryLayer::builder().grace_period(grace);
    let (stuck, watch) = over(layer, stuck).await;
    let start = Instant::now();
    let handle = &watch.handle;
    closed(handle).await;
    assert!(start.elapsed() < Duration::from_secs(5), "not waited for");

    let [task] = handle.outliving().try_into().expect("one");
    assert_eq!((task.kind, task.running), (kind, true));
    // The file and the line of the call.
    assert_eq!(task.location.file(), file!());
    assert_eq!(task.location.line(), stuck.place.line());
    assert_eq!(task.route.as_str(), "/items/{n}");
    assert!(task.since_end >= Some(grace));
    assert!(task.age >= grace);
    let place = format!("{kind} task started at {}", task.location);
    assert!(task.to_string().starts_with(&place), "{task}");
    let expected = TaskOverruns::clone(&handle.task_overruns()[0]);
    assert_eq!(expected.location, Some(task.location));
    assert_eq!((expected.aborted, expected.given_up), (0, 1));
    assert_eq!(handle.snapshot().tasks, 1);

    stuck.release.send(()).unwrap();
    // It returned by itself, though late.
    stuck.task.await.unwrap();
    let report = watch.report().await;
    assert!(handle.outliving().is_empty());
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!(
        (
            report.tasks_spawned,
            report.tasks_aborted,
            report.tasks_given_up
        ),
        (2, 0, 1)
    );
    assert_eq!(report.overruns.len(), 1);
    assert_eq!(report.overruns[0].location, task.location);
    assert_eq!(report.cancel_latency, None);
    // It was given up, so the request's tasks have no latency that is known.
    assert!(handle.cancel_latency().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closure_that_blocks_is_given_up_and_named_with_file_and_line() {
    is_given_up(TaskKind::Blocking, stuck_closure).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_task_that_blocks_in_its_poll_is_given_up_and_named_with_file_and_line() {
    is_given_up(TaskKind::Async, stuck_poll).await;
}

#[tokio::test(start_paused = true)]
async fn a_task_that_ignores_its_token_is_aborted_and_named_with_file_and_line() {
    let grace = Duration::from_secs(3);
    let ((task, line), watch) = over(MemoryLayer::builder().grace_period(grace), |scope| {
        (scope.spawn(std::future::pending::<()>()), line!())
    })
    .await;
    let [outliving] = watch.handle.outliving().try_into().expect("one");
    assert_eq!(
        (outliving.kind, outliving.running),
        (TaskKind::Async, false)
    );
    assert_eq!(outliving.since_end, Some(Duration::ZERO));
    let error = task.await.unwrap_err();
    assert!(error.is_grace_exceeded());

    let report = watch.report().await;
    assert!(watch.handle.outliving().is_empty());
    assert_eq!((report.tasks_aborted, report.tasks_given_up), (1, 0));
    let [overrun] = report.overruns.try_into().expect("one");
    assert_eq!(overrun.location.file(), file!());
    assert_eq!(overrun.location.line(), line);
    assert!(!overrun.running && overrun.age >= grace);
    let counts = &watch.handle.task_overruns()[0];
    assert_eq!((counts.aborted, counts.given_up), (1, 0));
    assert!(report.cancel_latency >= Some(grace));
}

#[tokio::test(start_paused = true)]
async fn overruns_are_counted_by_the_place_that_started_the_task() {
    let layer = MemoryLayer::builder().grace_period(Duration::from_millis(1));
    let (tasks, watch) = over(layer, |scope| {
        let mut tasks: Vec<_> = (0..3)
            .map(|_| scope.spawn(std::future::pending::<()>()))
            .collect();
        tasks.push(scope.spawn(std::future::pending()));
        tasks.push(scope.spawn(async {}));
        tasks
    })
    .await;
    for task in tasks {
        let _ = task.await;
    }
    let report = watch.report().await;
    assert_eq!(report.tasks_aborted, 4);
    let counts: Vec<_> = watch
        .handle
        .task_overruns()
        .iter()
        .map(|o| o.aborted)
        .collect();
    // In the order of the source.
    assert_eq!(counts, [3, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_report_names_a_bounded_number_of_tasks_and_counts_all() {
    let layer = MemoryLayer::builder().grace_period(Duration::from_millis(1));
    let (_, watch) = over(layer, |scope| {
        for _ in 0..200 {
            scope.spawn(std::future::pending::<()>());
        }
    })
    .await;
    let report = watch.report().await;
    assert_eq!((report.tasks_aborted, report.overruns.len()), (200, 64));
}

#[tokio::test(start_paused = true)]
async fn a_detached_task_outlives_its_request_and_keeps_nothing_of_it() {
    let (mut tasks, watch) = over(MemoryLayer::builder(), |scope| {
        use_everything(scope);
        let handle = scope.detach("audit", async {
            assert!(RequestScope::current().is_none());
            sleep(Duration::from_secs(60)).await;
            7
        });
        let panicking = scope.detach("audit", async { panic!("the task panics") });
        let pending = scope.detach("cache", std::future::pending::<i32>());
        [handle, panicking, pending]
    })
    .await;
    // The request is over, and everything of it is back.
    let report = watch.report().await;
    assert_eq!(
        (report.outcome, report.tasks_spawned),
        (Outcome::Completed, 1)
    );
    assert_eq!(watch.handle.snapshot().detached, 2);
    sleep(Duration::from_secs(30)).await;
    let outliving = watch.handle.outliving();
    let names: Vec<_> = outliving.iter().map(|task| task.name).collect();
    assert_eq!(names, [Some("audit"), Some("cache")]);
    assert!(outliving.iter().all(|task| task.kind == TaskKind::Detached
        && task.route.as_str() == "/items/{n}"
        && task.since_end >= Some(Duration::from_secs(30))));
    assert!(
        outliving[0]
            .to_string()
            .starts_with("detached task \"audit\" started at ")
    );

    assert_eq!((&mut tasks[0]).await.unwrap(), 7);
    let error = (&mut tasks[1]).await.unwrap_err();
    assert!(error.is_panic());
    let counts = watch.handle.detached();
    let counts: Vec<_> = counts
        .iter()
        .map(|d| (d.name, d.started, d.alive))
        .collect();
    assert_eq!(counts, [("audit", 2, 0), ("cache", 1, 1)]);
    tasks[2].abort();
    let _ = (&mut tasks[2]).await;
    assert!(watch.handle.outliving().is_empty());
    assert!(
        watch.handle.task_overruns().is_empty(),
        "it was meant to stay"
    );
}

#[tokio::test]
async fn a_task_of_an_open_request_is_not_outliving() {
    let seen = Arc::new(Mutex::new(None));
    let (layer, watch) = watched(MemoryLayer::builder());
    let app = Router::new().route(
        "/",
        on_get({
            let (seen, handle) = (Arc::clone(&seen), watch.handle.clone());
            async move |scope: RequestScope| {
                use_everything(&scope);
                scope.detach("name", async {});
                *seen.lock().unwrap() = Some((handle.outliving().len(), handle.snapshot().tasks));
            }
        }),
    );
    let request = Request::get("/").body(axum::body::Body::empty()).unwrap();
    drop(app.layer(layer).oneshot(request).await.unwrap());
    assert_eq!(*seen.lock().unwrap(), Some((0, 1)));
    watch.report().await;
}

#[test]
fn a_closure_that_found_no_thread_in_time_is_never_run() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(1)
        .build()
        .unwrap();
    let (release, wait) = mpsc::channel::<()>();
    let busy = runtime.spawn_blocking(move || wait.recv());
    runtime.block_on(async {
        let layer = MemoryLayer::builder().grace_period(Duration::from_millis(20));
        let ((task, line), watch) = over(layer, |scope| {
            use_everything(scope);
            (scope.spawn_blocking(|| unreachable!()), line!())
        })
        .await;
        closed(&watch.handle).await;
        let [waiting] = watch.handle.outliving().try_into().expect("one");
        assert_eq!((waiting.kind, waiting.running), (TaskKind::Blocking, false));
        release.send(()).unwrap();
        let error = task.await.map(|()| unreachable!()).unwrap_err();
        assert!(error.is_grace_exceeded());
        let report = watch.report().await;
        assert_eq!((report.tasks_aborted, report.tasks_given_up), (1, 0));
        assert_eq!(report.overruns[0].location.line(), line);
        busy.await.unwrap().unwrap();
    });
}

#[tokio::test]
async fn a_closure_is_of_the_request_and_sees_its_token() {
    let layer = MemoryLayer::builder();
    let (task, watch) = over(layer, |scope| {
        let cloned = scope.clone();
        scope.spawn_blocking(move || {
            let found = RequestScope::current().expect("the scope");
            while !cloned.is_cancelled() {
                std::thread::sleep(Duration::from_millis(1));
            }
            found.reason()
        })
    })
    .await;
    assert!(
        task.await
            .unwrap()
            .is_some_and(|reason| reason == Outcome::Completed)
    );
    let report = watch.report().await;
    assert_eq!((report.tasks_spawned, report.tasks_given_up), (1, 0));
    assert!(report.cancel_latency.is_some());
}

#[tokio::test]
async fn a_closure_that_panics_changes_nothing_of_the_outcome() {
    let (task, watch) = over(MemoryLayer::builder(), |scope| {
        scope.spawn_blocking(|| panic!("the closure panics"))
    })
    .await;
    assert!(task.await.unwrap_err().is_panic());
    let report = watch.report().await;
    assert_eq!(
        (report.outcome, report.tasks_spawned),
        (Outcome::Completed, 1)
    );
}

/// A handler that starts tasks which end so long after the token, and never answers.
async fn cancelled_after(layer: MemoryLayerBuilder, ends: &'static [u64]) -> Watch {
    let (layer, watch) = watched(layer);
    let app = Router::new().route(
        "/slow",
        on_get(async move |scope: RequestScope| {
            for &after in ends {
                let token = scope.child_token();
                scope.spawn(async move {
                    token.cancelled().await;
                    sleep(Duration::from_millis(after)).await;
                });
            }
            std::future::pending::<()>().await;
        }),
    );
    let request = Request::get("/slow")
        .body(axum::body::Body::empty())
        .unwrap();
    drop(app.layer(layer).oneshot(request).await.unwrap());
    watch
}

#[tokio::test(start_paused = true)]
async fn the_cancel_latency_is_that_of_the_last_task() {
    let layer = MemoryLayer::builder().timeout(Duration::from_millis(500));
    let watch = cancelled_after(layer, &[10, 30, 20]).await;
    let report = watch.report().await;
    assert_eq!(report.outcome, Outcome::DeadlineExceeded);
    // A timer counts in milliseconds and may be one late.
    let latency = report.cancel_latency.unwrap();
    assert!((30..=32).contains(&latency.as_millis()), "{latency:?}");
    let [seen] = watch.handle.cancel_latency().try_into().expect("one route");
    assert_eq!((seen.route.as_str(), seen.count), ("/slow", 1));
    assert_eq!([seen.p50, seen.p99, seen.max], [latency; 3]);
}

#[tokio::test(start_paused = true)]
async fn a_request_whose_tasks_were_over_before_it_has_no_cancel_latency() {
    let (_, watch) = over(MemoryLayer::builder(), |_| ()).await;
    assert_eq!(watch.report().await.cancel_latency, None);
    let (layer, watch) = watched(MemoryLayer::builder());
    let app = Router::new().route(
        "/",
        on_get(async |scope: RequestScope| scope.spawn(async {}).await.unwrap()),
    );
    let request = Request::get("/").body(axum::body::Body::empty()).unwrap();
    drop(app.layer(layer).oneshot(request).await.unwrap());
    let report = watch.report().await;
    assert_eq!((report.tasks_spawned, report.cancel_latency), (1, None));
    assert!(watch.handle.cancel_latency().is_empty());
}
