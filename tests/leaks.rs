//! Very many requests of all kinds: nothing of them is left, neither tasks nor memory.
//!
//! A binary of its own, since it measures the heap of the process.
#![forbid(unsafe_code)]

use std::{
    convert::Infallible,
    future::{pending, poll_fn},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tokio::time::{Instant, sleep};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_memory::{
    ArenaPool, MemoryHandle, MemoryLayer, Outcome, RequestScope, TrackingAllocator, account,
    middleware::ResponseBody,
};

#[global_allocator]
static ALLOC: TrackingAllocator = TrackingAllocator::system();

/// Long enough for a runtime that is busy, and under AddressSanitizer, to poll each task in time.
const GRACE: Duration = Duration::from_secs(2);
const TIMEOUT: Duration = Duration::from_millis(5);

/// How a request ends.
#[derive(Debug, Clone, Copy)]
enum End {
    Done,
    TimedOut,
    /// The response future is dropped.
    LeftEarly,
    /// The response body is dropped.
    LeftLate,
    Panicked,
}

/// How the `n`th request ends: different ones in turn, and at once.
const fn end_of(n: usize) -> End {
    ENDS[(n / 64 + n) % ENDS.len()]
}

const ENDS: [End; 5] = [
    End::Done,
    End::TimedOut,
    End::LeftEarly,
    End::LeftLate,
    End::Panicked,
];

impl End {
    const fn outcome(self) -> Outcome {
        match self {
            Self::Done => Outcome::Completed,
            Self::TimedOut => Outcome::DeadlineExceeded,
            Self::LeftEarly | Self::LeftLate => Outcome::Abandoned,
            Self::Panicked => Outcome::Panicked,
        }
    }
}

/// Starts two tasks, one of which waits for the token and one that now and then ignores it.
fn start_tasks(scope: &RequestScope, n: usize) {
    scope.arena().alloc_str("in the arena");
    let token = scope.child_token();
    let text = format!("request {n}");
    scope.spawn(async move {
        token.cancelled().await;
        drop(text);
    });
    let token = scope.child_token();
    scope.spawn(async move {
        if n % 97 == 0 {
            pending::<()>().await;
        }
        token.cancelled().await;
        tokio::task::yield_now().await;
    });
}

async fn handle(request: Request<(usize, End)>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (n, end) = *request.body();
    let scope = request.extensions().get::<RequestScope>();
    let scope = scope.expect("the layer is there");
    start_tasks(scope, n);
    match end {
        End::Done | End::LeftLate => Ok(Response::new(Full::new(Bytes::from_static(b"hello")))),
        End::TimedOut => {
            scope.shorten_deadline(TIMEOUT);
            pending().await
        }
        End::LeftEarly => pending().await,
        End::Panicked => {
            tokio::task::yield_now().await;
            panic!("the handler panics")
        }
    }
}

type Answer = Response<ResponseBody<Full<Bytes>>>;

/// One request from its beginning to its end.
async fn request<S>(service: S, n: usize, end: End)
where
    S: Service<Request<(usize, End)>, Response = Answer, Error = Infallible> + Send + 'static,
    S::Future: Send,
{
    let response = service.oneshot(Request::new((n, end)));
    match end {
        End::Done | End::TimedOut => {
            let response = response.await.unwrap_or_else(|never| match never {});
            response.into_body().collect().await.expect("no body fails");
        }
        End::LeftEarly => {
            let mut response = pin!(response);
            // Polled once, as by a server whose client leaves then.
            poll_fn(|cx| {
                assert!(response.as_mut().poll(cx).is_pending());
                Poll::Ready(())
            })
            .await;
        }
        End::LeftLate => drop(response.await),
        End::Panicked => {
            let panicked = tokio::spawn(response).await;
            assert!(panicked.is_err_and(|error| error.is_panic()));
        }
    }
}

/// Sends `count` requests, some at once, and waits until all of their tasks are gone.
async fn burst<S>(service: &S, handle: &MemoryHandle, first: usize, count: usize)
where
    S: Service<Request<(usize, End)>, Response = Answer, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
{
    let mut clients = tokio::task::JoinSet::new();
    for lane in 0..64 {
        let service = service.clone();
        clients.spawn(async move {
            for n in (first + lane..first + count).step_by(64) {
                request(service.clone(), n, end_of(n)).await;
            }
        });
    }
    while let Some(client) = clients.join_next().await {
        client.expect("no client panics");
    }
    let end = Instant::now();
    while !is_quiet(handle) {
        // Some timers are late on a busy machine; the grace itself is checked elsewhere.
        assert!(
            end.elapsed() < GRACE + Duration::from_secs(10),
            "something is left: {}",
            handle.snapshot()
        );
        sleep(Duration::from_millis(1)).await;
    }
}

/// Whether nothing is in use. The last task is gone a moment before its scope has closed.
fn is_quiet(handle: &MemoryHandle) -> bool {
    let now = handle.snapshot();
    let used = [
        now.in_flight,
        now.tasks,
        now.detached,
        now.tokens,
        now.pool.rented,
    ];
    used.iter().all(|&used| used == 0)
}

/// The live heap, without what the pool keeps, which has limits of its own, once it is no more than
/// `most`; what it is in the end if it stays above.
///
/// Threads that finish what they were at have memory in hand for a moment. A leak stays.
async fn settled_bytes(memory: &MemoryHandle, most: i64) -> i64 {
    let start = Instant::now();
    loop {
        memory.pool().trim();
        let live = account::process_usage().expect("installed").live_bytes();
        if live <= most || start.elapsed() > Duration::from_secs(5) {
            return live;
        }
        sleep(Duration::from_millis(10)).await;
    }
}

/// The same number each time, so that tables and queues have the same room.
const PART: usize = 20_000;

const ALL: usize = 5 * PART;

#[test]
fn a_hundred_thousand_requests_with_two_tasks_each_leave_nothing() {
    // The panics are meant.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let text = info.payload().downcast_ref::<&str>();
        if text != Some(&"the handler panics") {
            hook(info);
        }
    }));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        // The queue in which the pool's trimming waits keeps its room until it runs.
        let pool = ArenaPool::builder().trim_interval(Duration::from_secs(1));
        let layer = MemoryLayer::builder()
            .pool(pool.build().unwrap())
            .timeout(Duration::from_secs(60))
            .grace_period(GRACE)
            .build()
            .unwrap();
        let memory = layer.handle();
        let service = layer.layer(service_fn(handle));

        // A machine that stands still for seconds makes tasks overrun that do not ignore their token.
        let latest = Arc::new(AtomicU64::new(0));
        let seen = Arc::clone(&latest);
        let watch = tokio::spawn(async move {
            loop {
                let start = Instant::now();
                sleep(Duration::from_millis(1)).await;
                seen.fetch_max(start.elapsed().as_millis() as u64, Relaxed);
            }
        });

        burst(&service, &memory, 0, PART).await; // warms up
        // The lowest of several, so that what is in hand just now is not taken for the level.
        let mut before = i64::MAX;
        for _ in 0..10 {
            sleep(Duration::from_millis(10)).await;
            before = before.min(settled_bytes(&memory, i64::MAX).await);
        }
        // Not a byte per request. A leak of one task would be hundreds for each.
        let most = before + PART as i64;
        let mut levels = Vec::new();
        for part in 0..4 {
            burst(&service, &memory, PART * (part + 1), PART).await;
            levels.push(settled_bytes(&memory, most).await - before);
        }
        eprintln!("live heap after each {PART} requests: {levels:?} bytes more than {before}");

        assert!(memory.outliving().is_empty());
        let now = memory.snapshot();
        assert!(is_quiet(&memory), "{now}");
        let [route] = &now.routes[..] else {
            panic!("one route: {now}");
        };
        assert_eq!(route.requests, ALL as u64);
        for end in ENDS {
            let expected = (0..ALL)
                .filter(|n| end_of(*n).outcome() == end.outcome())
                .count();
            let counted = route.outcomes.get(end.outcome());
            assert_eq!(counted, expected as u64, "{end:?}");
            assert!(expected > PART / 2, "of each there are many");
        }
        let ignoring = (0..ALL).filter(|n| n % 97 == 0).count() as u64;
        // A machine that is very busy may keep others from ending in time, too, and a runtime from
        // polling a task for so long that it is given up first.
        let overran = memory.task_overruns();
        let overran: u64 = overran.iter().map(|o| o.aborted + o.given_up).sum();
        watch.abort();
        let latest = Duration::from_millis(latest.load(Relaxed));
        let most = if latest < GRACE / 2 {
            ignoring * 2
        } else {
            ALL as u64
        };
        assert!(
            (ignoring..most).contains(&overran),
            "{overran} overran, {ignoring} ignore their token, and timers were {latest:?} late"
        );
        let latency = &memory.cancel_latency()[0];
        // On a very busy machine a task may be given up, which has no latency.
        let given_up: u64 = memory.task_overruns().iter().map(|o| o.given_up).sum();
        let all = ALL as u64;
        assert!(
            (all - given_up..=all).contains(&latency.count),
            "{} latencies, {given_up} tasks given up",
            latency.count
        );

        // Each is as low as at the start: flat, not merely slow to grow.
        let highest = levels.iter().copied().max().unwrap_or(i64::MAX);
        assert!(highest <= PART as i64, "live heap grew: {levels:?}");
        let report = memory.shutdown(Duration::from_secs(1)).await;
        assert!(report.is_clean(), "{report}");
    });
}

#[test]
fn the_bytes_of_a_task_are_its_own_and_those_of_its_request() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let layer = MemoryLayer::builder()
            .observe(move |report: &tower_memory::ScopeReport| {
                let _ = tell.send(report.clone());
            })
            .build()
            .unwrap();
        let memory = layer.handle();
        let service = layer.layer(service_fn(|request: Request<()>| async move {
            let scope = request.extensions().get::<RequestScope>().unwrap();
            for bytes in [1000, 30_000] {
                scope.spawn(async move {
                    let kept = vec![0_u8; bytes];
                    pending::<()>().await;
                    drop(kept);
                });
            }
            scope.detach("cache", async {
                drop(vec![0_u8; 500_000]);
                pending::<()>().await;
            });
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
        }));
        drop(service.oneshot(Request::new(())).await.unwrap());
        sleep(Duration::from_millis(1)).await;
        let mut bytes: Vec<_> = memory
            .outliving()
            .iter()
            .map(|task| task.usage.expect("installed").bytes_allocated)
            .collect();
        bytes.sort_unstable();
        assert_eq!(bytes, [1000, 30_000, 500_000]);

        let report = told.recv().await.unwrap();
        let usage = report.usage.expect("installed");
        assert!(
            (31_000..500_000).contains(&usage.bytes_allocated),
            "both tasks, and not the detached one: {usage:?}"
        );
        let mut bytes: Vec<_> = report
            .overruns
            .iter()
            .map(|task| task.usage.expect("installed").bytes_allocated)
            .collect();
        bytes.sort_unstable();
        // A timer for the grace is part of a task, and takes nothing of the heap.
        assert_eq!(bytes, [1000, 30_000]);
    });
}

/// More than any table of the crate has room for at first.
const MANY: usize = 1000;

#[test]
fn a_table_that_grows_for_all_requests_is_in_the_account_of_none() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let layer = MemoryLayer::builder()
            .grace_period(Duration::from_secs(600))
            .build()
            .unwrap();
        let memory = layer.handle();
        let service = layer.layer(service_fn(move |request: Request<()>| {
            let tell = tell.clone();
            async move {
                let scope = request.extensions().get::<RequestScope>().unwrap();
                let before = scope.usage().expect("installed").bytes_allocated;
                scope.spawn(async {
                    let kept = vec![0_u8; 1000];
                    pending::<()>().await;
                    drop(kept);
                });
                let after = scope.usage().expect("installed").bytes_allocated;
                tell.send(after - before).expect("received below");
                Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
            }
        }));
        let mut open = Vec::new();
        for _ in 0..MANY {
            open.push(service.clone().oneshot(Request::new(())).await.unwrap());
            // The task begins, so that tokio's queue does not grow.
            tokio::task::yield_now().await;
        }
        let first = told.recv().await.unwrap();
        for n in 1..MANY {
            assert_eq!(told.recv().await, Some(first), "request {n}");
        }

        // Each task is cancelled, and waits for the end of its grace period.
        drop(open);
        sleep(Duration::from_millis(1)).await;
        let tasks = memory.outliving();
        assert_eq!(tasks.len(), MANY);
        for task in tasks {
            assert_eq!(task.usage.expect("installed").bytes_allocated, 1000);
        }
    });
}
