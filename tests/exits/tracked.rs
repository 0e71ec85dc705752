//! Futures of a request that something else polls, and tasks that stay on their thread.

use std::{
    rc::Rc,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::FutureExt;
use http::{Request, Response};
use http_body_util::Empty;
use tokio::{
    task::{JoinSet, LocalSet},
    time::sleep,
};
use tower::{Layer, ServiceExt, service_fn};
use tower_memory::{
    MemoryLayer, Outcome, RequestScope,
    housekeeping::ManualClock,
    middleware::MemoryLayerBuilder,
    scope::{TaskError, TaskKind, TrackedFuture},
};

use super::support::{Refused, Steps, Watch, get, scope_of, watched};

const GRACE: Duration = Duration::from_secs(1);

/// Runs `f` as the handler of a request whose response is dropped at once.
async fn handled<Fut: Future<Output = ()>>(f: impl FnOnce(RequestScope) -> Fut) -> Watch {
    handled_by(MemoryLayer::builder().grace_period(GRACE), f).await
}

async fn handled_by<Fut: Future<Output = ()>>(
    layer: MemoryLayerBuilder,
    f: impl FnOnce(RequestScope) -> Fut,
) -> Watch {
    let (layer, watch) = watched(layer);
    let f = Mutex::new(Some(f));
    let service = layer.layer(service_fn(|request: Request<Empty<bytes::Bytes>>| {
        let running = f.lock().unwrap().take().unwrap()(scope_of(&request));
        async {
            running.await;
            Ok::<_, Refused>(Response::new(Steps::data([]).telling_its_end()))
        }
    }));
    drop(service.oneshot(get("/")).await.unwrap());
    watch
}

#[tokio::test(start_paused = true)]
async fn futures_of_a_join_set_find_their_scope_and_are_counted() {
    let watch = handled(|scope| async move {
        let mut set = JoinSet::new();
        for n in 0..3 {
            set.spawn(scope.track(async move {
                tokio::task::yield_now().await;
                assert!(RequestScope::current().is_some());
                n
            }));
        }
        set.spawn(scope.track(async { panic!("one of four") }));
        let results = std::iter::from_fn(|| set.join_next().now_or_never().flatten());
        assert_eq!(results.count(), 0, "none has run");
        let mut sum = 0;
        while let Some(joined) = set.join_next().await {
            sum += joined.map_or(10, |output| output.unwrap());
        }
        assert_eq!(sum, 3 + 10);
    })
    .await;
    let report = watch.report_now();
    assert_eq!((report.tasks_spawned, report.tasks_aborted), (4, 0));
}

#[tokio::test(start_paused = true)]
async fn a_tracked_future_is_cancelled_with_its_request_and_keeps_its_scope_open() {
    let watch = handled(|scope| async move {
        let token = scope.child_token();
        tokio::spawn(scope.track(async move {
            token.cancelled().await;
            sleep(GRACE / 2).await;
        }));
    })
    .await;
    watch.assert_open();
    sleep(GRACE * 3 / 4).await;
    let report = watch.report_now();
    assert_eq!(
        (report.outcome, report.tasks_aborted),
        (Outcome::Completed, 0)
    );
    assert!(report.cancel_latency.unwrap() >= GRACE / 2);
}

#[tokio::test(start_paused = true)]
async fn a_tracked_future_is_dropped_at_the_end_of_its_grace_and_named() {
    let (sender, joined) = tokio::sync::oneshot::channel();
    let watch = handled(|scope| async move {
        let task = scope.track(std::future::pending::<()>());
        let _ = sender.send((tokio::spawn(task), line!() - 1));
    })
    .await;
    let (joined, line) = joined.await.unwrap();
    let error: TaskError = joined.await.unwrap().unwrap_err();
    assert!(error.is_grace_exceeded() && !error.is_aborted());
    let report = watch.report().await;
    assert_eq!((report.tasks_aborted, report.tasks_given_up), (1, 0));
    let overrun = &report.overruns[0];
    assert_eq!(overrun.kind, TaskKind::Tracked);
    assert_eq!(
        (overrun.location.file(), overrun.location.line()),
        (file!(), line)
    );
}

#[tokio::test(start_paused = true)]
async fn a_tracked_future_that_nothing_polls_is_given_up() {
    let kept = Arc::new(Mutex::new(None::<TrackedFuture<_>>));
    let clock = ManualClock::new();
    let layer = MemoryLayer::builder().grace_period(GRACE).clock(&clock);
    let watch = handled_by(layer, |scope| {
        *kept.lock().unwrap() = Some(scope.track(std::future::ready(())));
        async {}
    })
    .await;
    watch.assert_open();
    clock.advance(GRACE + Duration::from_secs(8));
    watch.assert_open();
    clock.advance(Duration::from_secs(1));
    assert_eq!(watch.handle.snapshot().in_flight, 0);
    let outliving = watch.handle.outliving();
    assert_eq!(
        (outliving[0].kind, outliving[0].running),
        (TaskKind::Tracked, false)
    );
    assert_eq!(watch.handle.task_overruns()[0].given_up, 1);
    // Too late, but not dropped by force.
    let forgotten = kept.lock().unwrap().take().unwrap();
    assert!(forgotten.await.is_ok());
    let report = watch.report_now();
    assert_eq!((report.tasks_aborted, report.tasks_given_up), (0, 1));
    assert!(!report.overruns[0].running);
}

#[tokio::test(start_paused = true)]
async fn a_tracked_future_that_is_ready_no_longer_keeps_its_scope_open() {
    let kept = Arc::new(Mutex::new(None));
    let watch = handled(|scope| {
        let mut future = Box::pin(scope.track(std::future::ready(())));
        let kept = Arc::clone(&kept);
        async move {
            future.as_mut().await.unwrap();
            *kept.lock().unwrap() = Some(future);
        }
    })
    .await;
    assert_eq!(watch.outcome_now(), Outcome::Completed);
    drop(kept);
}

#[tokio::test(start_paused = true)]
async fn a_local_task_is_of_the_request_and_ends_with_it() {
    let local = LocalSet::new();
    let watch = local
        .run_until(handled(|scope| async move {
            let shared = Rc::new(7);
            let task = scope.spawn_local(async move {
                tokio::task::yield_now().await;
                assert!(RequestScope::current().is_some());
                *shared
            });
            assert_eq!(task.await.unwrap(), 7);
            let endless = Rc::new(());
            scope.spawn_local(async move {
                std::future::pending::<()>().await;
                drop(endless);
            });
        }))
        .await;
    watch.assert_open();
    local.run_until(sleep(2 * GRACE)).await;
    let report = watch.report_now();
    assert_eq!((report.tasks_spawned, report.tasks_aborted), (2, 1));
    assert_eq!(report.overruns[0].kind, TaskKind::Async);
}

/// Panics when it is dropped.
struct Boom;

impl Drop for Boom {
    fn drop(&mut self) {
        assert!(
            std::thread::panicking(),
            "a task's value panics in its drop"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_whose_drop_panics_at_the_end_of_its_grace_is_aborted_and_named() {
    for tracked in [false, true] {
        let watch = handled(|scope| async move {
            let boom = Boom;
            let task = async move {
                let _boom = boom;
                std::future::pending::<()>().await;
            };
            if tracked {
                tokio::spawn(scope.track(task));
            } else {
                scope.spawn(task);
            }
        })
        .await;
        sleep(2 * GRACE).await;
        let report = watch.report_now();
        assert_eq!((report.tasks_aborted, report.tasks_given_up), (1, 0));
        assert_eq!(report.overruns.len(), 1);
        assert_eq!(watch.handle.task_overruns()[0].aborted, 1);
    }
}
