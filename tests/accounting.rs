//! What is counted, to the byte: an oracle computes each figure arithmetically.

#[path = "support/random.rs"]
mod random;

use std::{
    array,
    cell::Cell,
    collections::HashMap,
    convert::Infallible,
    hint::black_box,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    sync::{
        Arc, LockResult, Mutex, MutexGuard, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
        mpsc,
    },
    task::{Context, Poll, Waker},
    thread::{self, ThreadId},
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::{Path, State},
    routing::get,
};
use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty};
use tokio::runtime::{Builder, Runtime};
use tower::{Layer, ServiceExt, service_fn};
use tower_memory::{
    Account, MemoryHandle, MemoryLayer, Outcome, RequestScope, ScopeReport, TrackingAllocator,
    account::{HeapUsage, Usage, is_installed, process_usage, thread_usage},
};

use self::random::Random;

#[global_allocator]
static ALLOC: TrackingAllocator = TrackingAllocator::system();

/// A known use of the heap, and what it must be counted as.
#[derive(Debug, Clone, Copy)]
enum Op {
    Alloc { slot: usize, bytes: usize },
    Zeroed { slot: usize, bytes: usize },
    Resize { slot: usize, bytes: usize },
    Free { slot: usize },
}

const SLOTS: usize = 4;

/// The blocks a request holds.
type Blocks = [Option<Vec<u8>>; SLOTS];

fn run(ops: &[Op], blocks: &mut Blocks) {
    for &op in ops {
        match op {
            Op::Alloc { slot, bytes } => blocks[slot] = Some(black_box(Vec::with_capacity(bytes))),
            Op::Zeroed { slot, bytes } => {
                let mut block = black_box(vec![0; bytes]);
                block.clear();
                blocks[slot] = Some(block);
            }
            Op::Resize { slot, bytes } => {
                let block = blocks[slot].as_mut().expect("the plan allocated it");
                if bytes > block.capacity() {
                    block.reserve_exact(bytes);
                } else {
                    block.shrink_to(bytes);
                }
                black_box(block);
            }
            Op::Free { slot } => drop(black_box(blocks[slot].take())),
        }
    }
}

/// The arithmetic.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Oracle {
    allocations: u64,
    deallocations: u64,
    reallocations: u64,
    allocated: u64,
    freed: u64,
    peak: u64,
    sizes: [u64; SLOTS],
}

impl Oracle {
    fn apply(&mut self, ops: &[Op]) {
        for &op in ops {
            match op {
                Op::Alloc { slot, bytes } | Op::Zeroed { slot, bytes } => {
                    self.allocations += 1;
                    self.allocated += bytes as u64;
                    self.sizes[slot] = bytes as u64;
                }
                Op::Resize { slot, bytes } => {
                    let before = std::mem::replace(&mut self.sizes[slot], bytes as u64);
                    self.reallocations += 1;
                    self.allocated += (bytes as u64).saturating_sub(before);
                    self.freed += before.saturating_sub(bytes as u64);
                }
                Op::Free { slot } => self.free(slot),
            }
            self.peak = self.peak.max(self.allocated - self.freed);
        }
    }

    fn free(&mut self, slot: usize) {
        let before = std::mem::take(&mut self.sizes[slot]);
        self.deallocations += u64::from(before > 0);
        self.freed += before;
    }

    fn free_all(&mut self) {
        (0..SLOTS).for_each(|slot| self.free(slot));
    }

    #[track_caller]
    fn assert_is(&self, usage: &Usage) {
        assert_eq!(usage.bytes_allocated, self.allocated, "bytes allocated");
        assert_eq!(usage.allocations, self.allocations, "allocations");
        assert_eq!(usage.reallocations, self.reallocations, "reallocations");
        assert_eq!(usage.deallocations, self.deallocations, "deallocations");
        assert_eq!(usage.bytes_deallocated, self.freed, "bytes freed");
        assert_eq!(usage.peak_bytes, Some(self.peak), "peak");
    }
}

fn random_ops(random: &mut Random, sizes: &mut [usize; SLOTS], count: usize) -> Vec<Op> {
    (0..count)
        .map(|_| {
            let slot = random.below(SLOTS);
            let most = if random.below(8) == 0 { 100_000 } else { 900 };
            let bytes = 1 + random.below(most);
            if sizes[slot] == 0 {
                sizes[slot] = bytes;
                if random.below(3) == 0 {
                    Op::Zeroed { slot, bytes }
                } else {
                    Op::Alloc { slot, bytes }
                }
            } else if random.below(2) == 0 || bytes == sizes[slot] {
                sizes[slot] = 0;
                Op::Free { slot }
            } else {
                sizes[slot] = bytes;
                Op::Resize { slot, bytes }
            }
        })
        .collect()
}

const STEPS: usize = 6;

/// What one request does. All of it is allocated beforehand.
struct Plan {
    handler: Vec<Vec<Op>>,
    body: Vec<Vec<Op>>,
    /// In a task of the scope, and inside `spawn_blocking`: each with blocks of its own.
    task: Vec<Op>,
    blocking: Vec<Op>,
    /// Whether the handler goes on yielding until it was polled by a second thread.
    migrates: bool,
    threads: Threads,
}

/// Notes on which threads a request was polled, without allocating.
#[derive(Default)]
struct Threads {
    first: OnceLock<ThreadId>,
    several: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Threads {
    fn note(&self) {
        let this = thread::current().id();
        if *self.first.get_or_init(|| this) != this {
            self.several.store(true, Relaxed);
        }
    }

    /// Pending once, until [`wake_all`] finds its waker: who was woken by no worker is run by
    /// any.
    async fn woken_from_outside(&self) {
        let mut waited = false;
        std::future::poll_fn(|cx| {
            if std::mem::replace(&mut waited, true) {
                return Poll::Ready(());
            }
            // Long enough for the other worker to take one of those that wait.
            let start = Instant::now();
            while start.elapsed() < Duration::from_micros(50) {
                std::hint::spin_loop();
            }
            *self.waker.lock().unwrap() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// Wakes the plans' requests until `done`.
fn wake_all(plans: &[Arc<Plan>], done: &AtomicBool) {
    while !done.load(Relaxed) {
        for plan in plans {
            let waker = plan.threads.waker.lock().unwrap().take();
            waker.into_iter().for_each(Waker::wake);
        }
        thread::yield_now();
    }
}

impl Plan {
    fn random(seed: usize) -> Self {
        let mut random = Random(seed as u64);
        let mut sizes = [0; SLOTS];
        let mut steps = |sizes: &mut _| {
            (0..STEPS)
                .map(|_| random_ops(&mut random, sizes, 5))
                .collect()
        };
        let (handler, body) = (steps(&mut sizes), steps(&mut sizes));
        Self {
            handler,
            body,
            task: random_ops(&mut random, &mut [0; SLOTS], 10),
            blocking: random_ops(&mut random, &mut [0; SLOTS], 10),
            migrates: seed % 8 == 0 && seed < REQUESTS,
            threads: Threads::default(),
        }
    }

    /// As many steps, none of which touches the heap.
    fn empty() -> Self {
        Self {
            handler: vec![Vec::new(); STEPS],
            body: vec![Vec::new(); STEPS],
            task: Vec::new(),
            blocking: Vec::new(),
            migrates: false,
            threads: Threads::default(),
        }
    }

    async fn run_handler(&self, blocks: &mut Blocks) {
        for ops in &self.handler {
            self.threads.note();
            run(ops, blocks);
            yield_now().await;
        }
        let start = Instant::now();
        while self.migrates
            && !self.threads.several.load(Relaxed)
            && start.elapsed() < Duration::from_secs(20)
        {
            self.threads.note();
            self.threads.woken_from_outside().await;
        }
    }
}

/// As tokio's, but without the runtime's list of those who yielded, which may have to grow.
async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Gives one frame for each step of the plan, and is pending in between.
struct PlanBody {
    plan: Arc<Plan>,
    blocks: Blocks,
    polls: usize,
}

impl Body for PlanBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = &mut *self;
        this.plan.threads.note();
        this.polls += 1;
        if this.polls % 2 == 1 {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let Some(ops) = this.plan.body.get(this.polls / 2 - 1) else {
            return Poll::Ready(None);
        };
        run(ops, &mut this.blocks);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"frame")))))
    }
}

/// The reports of a layer by route.
struct Reports {
    handle: MemoryHandle,
    by_route: Arc<Mutex<HashMap<String, ScopeReport>>>,
}

impl Reports {
    /// All reports so far.
    fn lock(&self) -> LockResult<MutexGuard<'_, HashMap<String, ScopeReport>>> {
        self.handle.flush_observers();
        self.by_route.lock()
    }
}

/// A layer that collects its reports by route.
fn layer_with_reports() -> (MemoryLayer, Reports) {
    let by_route = Arc::new(Mutex::new(HashMap::new()));
    let layer = MemoryLayer::builder()
        .observe({
            let by_route = Arc::clone(&by_route);
            move |report: &ScopeReport| {
                let former = by_route
                    .lock()
                    .unwrap()
                    .insert(report.route.as_str().to_owned(), report.clone());
                assert!(former.is_none(), "one request for each label");
            }
        })
        .build()
        .unwrap();
    let handle = layer.handle();
    (layer, Reports { handle, by_route })
}

fn runtime() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(1)
        .thread_keep_alive(Duration::from_secs(3600))
        .enable_all()
        .build()
        .unwrap()
}

fn figure(headers: &HeaderMap, name: &str) -> u64 {
    headers[name].to_str().unwrap().parse().unwrap()
}

const REQUESTS: usize = 200;

#[test]
fn each_of_200_concurrent_requests_is_counted_to_the_byte() {
    let (layer, reports) = layer_with_reports();
    let service = layer.layer(service_fn(|request: Request<Arc<Plan>>| async move {
        let (parts, plan) = request.into_parts();
        let mut blocks = [const { None }; SLOTS];
        plan.run_handler(&mut blocks).await;
        let mut response = Response::new(PlanBody {
            plan,
            blocks,
            polls: 0,
        });
        // Not made in the scope, so not to be freed in it.
        *response.extensions_mut() = parts.extensions;
        Ok::<_, Infallible>(response)
    }));
    let plans: Vec<_> = (0..REQUESTS).map(|i| Arc::new(Plan::random(i))).collect();
    let runtime = runtime();
    let done = Arc::new(AtomicBool::new(false));
    let waking = thread::spawn({
        let (plans, done) = (plans.clone(), Arc::clone(&done));
        move || wake_all(&plans, &done)
    });
    runtime.block_on(async {
        let tasks: Vec<_> = plans
            .iter()
            .enumerate()
            .map(|(i, plan)| {
                let (service, plan) = (service.clone(), Arc::clone(plan));
                tokio::spawn(async move {
                    let mut oracle = Oracle::default();
                    plan.handler.iter().for_each(|ops| oracle.apply(ops));
                    let mut response = service.oneshot(Request::new(plan)).await.unwrap();
                    let headers = response.headers();
                    assert_eq!(figure(headers, "x-alloc-bytes"), oracle.allocated);
                    assert_eq!(figure(headers, "x-alloc-count"), oracle.allocations);
                    assert_eq!(figure(headers, "x-alloc-peak"), oracle.peak);
                    let scope = response.extensions_mut().remove::<RequestScope>().unwrap();
                    scope.set_route(&format!("request-{i}"));
                    let body = response.into_body().collect().await.unwrap();
                    assert_eq!(body.to_bytes().len(), 5 * STEPS);
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
    done.store(true, Relaxed);
    waking.join().unwrap();
    drop(runtime);

    let reports = reports.lock().unwrap();
    assert_eq!(reports.len(), REQUESTS);
    let mut later = 0;
    for (i, plan) in plans.iter().enumerate() {
        let mut oracle = Oracle::default();
        plan.handler.iter().for_each(|ops| oracle.apply(ops));
        let head = oracle;
        plan.body.iter().for_each(|ops| oracle.apply(ops));
        oracle.free_all();
        let report = &reports[&format!("request-{i}")];
        assert_eq!(report.outcome, Outcome::Completed);
        oracle.assert_is(&report.usage.unwrap());
        later += usize::from(oracle.allocated > head.allocated);
    }
    assert!(later > REQUESTS / 2, "bodies allocate, too");
    let migrated = plans
        .iter()
        .filter(|plan| plan.threads.several.load(Relaxed))
        .count();
    assert!(
        migrated >= REQUESTS / 8,
        "only {migrated} requests were polled by both threads"
    );
}

/// What each request is to do.
type Plans = Arc<Mutex<HashMap<usize, Arc<Plan>>>>;

struct Axum {
    router: Router,
    plans: Plans,
    reports: Reports,
}

impl Axum {
    fn new() -> Self {
        let plans = Plans::default();
        let (layer, reports) = layer_with_reports();
        let router = Router::new()
            .route("/{request}", get(planned))
            .layer(layer)
            .with_state(Arc::clone(&plans));
        Self {
            router,
            plans,
            reports,
        }
    }

    /// What each of [`REQUESTS`] concurrent requests used.
    fn usages(&self, runtime: &Runtime, plan: impl Fn(usize) -> Plan) -> Vec<Usage> {
        *self.plans.lock().unwrap() = (0..REQUESTS).map(|i| (i, Arc::new(plan(i)))).collect();
        self.reports.lock().unwrap().clear();
        runtime.block_on(async {
            let tasks: Vec<_> = (0..REQUESTS)
                .map(|i| {
                    let request = Request::get(format!("/{i:03}"))
                        .body(axum::body::Body::empty())
                        .unwrap();
                    let response = self.router.clone().oneshot(request);
                    tokio::spawn(async move {
                        let body = response.await.unwrap().into_body();
                        assert_eq!(body.collect().await.unwrap().to_bytes().len(), 5 * STEPS);
                    })
                })
                .collect();
            for task in tasks {
                task.await.unwrap();
            }
        });
        let reports = self.reports.lock().unwrap();
        (0..REQUESTS)
            .map(|i| reports[&format!("request-{i}")].usage.unwrap())
            .collect()
    }
}

async fn planned(
    scope: RequestScope,
    Path(i): Path<usize>,
    State(plans): State<Plans>,
) -> Response<axum::body::Body> {
    scope.set_route(&format!("request-{i}"));
    let plan = Arc::clone(&plans.lock().unwrap()[&i]);
    let mut blocks = [const { None }; SLOTS];
    plan.run_handler(&mut blocks).await;
    let task = scope.spawn({
        let plan = Arc::clone(&plan);
        async move {
            let mut blocks = [const { None }; SLOTS];
            let (first, second) = plan.task.split_at(plan.task.len() / 2);
            run(first, &mut blocks);
            yield_now().await;
            run(second, &mut blocks);
        }
    });
    let blocking = tokio::task::spawn_blocking({
        let (plan, scope) = (Arc::clone(&plan), scope.clone());
        move || {
            scope.in_scope(|| run(&plan.blocking, &mut [const { None }; SLOTS]));
        }
    });
    task.await.unwrap();
    blocking.await.unwrap();
    Response::new(axum::body::Body::new(PlanBody {
        plan,
        blocks,
        polls: 0,
    }))
}

/// Makes the runtime's queue of blocking jobs as large as it will be needed.
fn grow_blocking_queue(runtime: &Runtime) {
    let (release, wait) = mpsc::channel::<()>();
    let first = runtime.spawn_blocking(move || wait.recv().is_ok());
    let others: Vec<_> = (0..2 * REQUESTS)
        .map(|_| runtime.spawn_blocking(|| {}))
        .collect();
    release.send(()).unwrap();
    runtime.block_on(async {
        assert!(first.await.unwrap());
        for job in others {
            job.await.unwrap();
        }
    });
}

#[test]
fn in_a_router_tasks_blocking_code_and_bodies_add_exactly_what_they_allocate() {
    let runtime = runtime();
    grow_blocking_queue(&runtime);
    let axum = Axum::new();
    // The first time makes the labels.
    axum.usages(&runtime, |_| Plan::empty());
    let baseline = axum.usages(&runtime, |_| Plan::empty());
    let measured = axum.usages(&runtime, |i| Plan::random(i + 1000));
    for (i, (baseline, measured)) in baseline.iter().zip(&measured).enumerate() {
        let plan = Plan::random(i + 1000);
        let mut oracle = Oracle::default();
        plan.handler.iter().for_each(|ops| oracle.apply(ops));
        plan.body.iter().for_each(|ops| oracle.apply(ops));
        oracle.free_all();
        for ops in [&plan.task, &plan.blocking] {
            oracle.apply(ops);
            oracle.free_all();
        }
        let more = |of: fn(&Usage) -> u64| of(measured) - of(baseline);
        assert_eq!(more(|u| u.bytes_allocated), oracle.allocated, "request {i}");
        assert_eq!(more(|u| u.allocations), oracle.allocations, "request {i}");
        assert_eq!(more(|u| u.reallocations), oracle.reallocations);
        assert!(
            baseline.allocations < 100,
            "the framework itself: {baseline:?}"
        );
    }
}

#[tokio::test]
async fn usage_inside_the_handler_includes_the_current_poll() {
    let service = MemoryLayer::new().layer(service_fn(|request: Request<()>| async move {
        let scope = request.extensions().get::<RequestScope>().unwrap().clone();
        let bytes = |scope: &RequestScope| scope.usage().unwrap().bytes_allocated;
        assert_eq!(bytes(&scope), 0);
        let first = black_box(Vec::<u8>::with_capacity(100));
        assert_eq!(bytes(&scope), 100);
        yield_now().await;
        assert_eq!(bytes(&scope), 100);
        let second = black_box(Vec::<u8>::with_capacity(11));
        assert_eq!(bytes(&scope), 111);
        assert_eq!(RequestScope::current().unwrap().usage(), scope.usage());
        drop((first, second));
        let usage = scope.usage().unwrap();
        assert_eq!(
            (usage.bytes_deallocated, usage.peak_bytes),
            (111, Some(111))
        );
        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
    }));
    let response = service.oneshot(Request::new(())).await.unwrap();
    assert_eq!(figure(response.headers(), "x-alloc-bytes"), 111);
}

/// A handler that sends a request of its own, made of its extensions or anew, on its own thread.
#[tokio::test]
async fn the_figures_of_a_request_include_those_of_a_request_that_it_sends() {
    /// What was allocated while the part was served, and the part's own figure.
    #[derive(Debug, Clone)]
    struct Seen {
        by_batch: u64,
        on_thread: u64,
        by_part: u64,
    }

    let (layer, reports) = layer_with_reports();
    let inner = layer.layer(service_fn(async |request: Request<()>| {
        let scope = request.extensions().get::<RequestScope>().unwrap();
        scope.set_route("part");
        churn(100);
        yield_now().await;
        churn(20);
        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
    }));
    let outer = layer.layer(service_fn(move |request: Request<bool>| {
        let inner = inner.clone();
        async move {
            let scope = request.extensions().get::<RequestScope>().unwrap();
            let scope = scope.clone();
            scope.set_route("batch");
            churn(1000);
            let mut sub = Request::new(());
            if *request.body() {
                *sub.extensions_mut() = request.extensions().clone();
            }
            let figures = || {
                let on_thread = thread_usage().unwrap().bytes_allocated;
                (scope.usage().unwrap().bytes_allocated, on_thread)
            };
            let before = figures();
            let answer = inner.oneshot(sub).await.unwrap();
            let after = figures();
            let mut response = Response::new(Empty::<Bytes>::new());
            response.extensions_mut().insert(Seen {
                by_batch: after.0 - before.0,
                on_thread: after.1 - before.1,
                by_part: figure(answer.headers(), "x-alloc-bytes"),
            });
            Ok::<_, Infallible>(response)
        }
    }));
    // The first request makes the labels.
    for (i, copied) in [true, true, false].into_iter().enumerate() {
        let response = outer.clone().oneshot(Request::new(copied)).await.unwrap();
        let batch = figure(response.headers(), "x-alloc-bytes");
        let seen = response.extensions().get::<Seen>().unwrap().clone();
        drop(response);
        let mut reports = reports.lock().unwrap();
        let used = |route: &str| reports[route].usage.unwrap().bytes_allocated;
        let by_report = (used("part"), used("batch"));
        reports.clear();
        // The labels are in no request's account.
        assert!(seen.by_batch <= seen.on_thread, "copied: {copied}");
        if i > 0 {
            assert_eq!(seen.by_batch, seen.on_thread, "copied: {copied}");
            // The layer's and tower's own blocks are the batch's, too.
            assert_eq!((seen.by_part, by_report.0), (120, 120));
            assert!(seen.by_batch > 120, "{seen:?}");
            assert!(batch > 1000 + seen.by_batch, "{batch} {seen:?}");
            assert_eq!(by_report.1, batch);
        }
    }
}

/// The statistics of a route are kept by thread. Neither a label nor a thread's part is made in a
/// request's account.
#[test]
fn a_label_costs_no_request_anything() {
    let service = MemoryLayer::new().layer(service_fn(|request: Request<()>| async move {
        let scope = request.extensions().get::<RequestScope>().unwrap();
        scope.set_route("label");
        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
    }));
    let allocated = [0, 1].map(|_| {
        let service = service.clone();
        let answered = thread::spawn(move || {
            let response = service.oneshot(Request::new(())).now_or_never();
            figure(response.unwrap().unwrap().headers(), "x-alloc-bytes")
        });
        answered.join().unwrap()
    });
    // The first one makes the label.
    assert_eq!(allocated, [0, 0]);
}

/// What the layer keeps of a cancellation, of more than two that wait and of how a request ends is in no account.
#[tokio::test]
async fn a_handler_that_cancels_itself_has_the_figures_of_one_that_does_not() {
    const WAITING: usize = 5;

    let (layer, reports) = layer_with_reports();
    let service = layer.layer(service_fn(async |request: Request<&'static str>| {
        let scope = request.extensions().get::<RequestScope>().unwrap().clone();
        scope.set_route(request.body());
        for _ in 0..WAITING {
            let task = scope.clone();
            scope.spawn(async move { _ = task.cancelled().await });
        }
        // Each task is polled, and waits.
        yield_now().await;
        if *request.body() != "served" {
            scope.cancel();
        }
        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
    }));
    let mut figures = Vec::new();
    // The first request makes what the runtime keeps.
    for route in ["warm-up", "served", "cancelled"] {
        let response = service.clone().oneshot(Request::new(route)).await.unwrap();
        drop(response);
        while reports.handle.snapshot().in_flight > 0 {
            tokio::task::yield_now().await;
        }
        let report = reports.lock().unwrap().remove(route).unwrap();
        assert_eq!(report.tasks_spawned, WAITING);
        figures.push((report.outcome, report.usage.unwrap().heap));
    }
    let [_, served, cancelled] = figures[..] else {
        unreachable!();
    };
    assert_eq!(
        (served.0, cancelled.0),
        (Outcome::Completed, Outcome::Cancelled)
    );
    assert_eq!(served.1, cancelled.1);
}

/// Allocates `bytes` and frees them again.
fn churn(bytes: usize) {
    drop(black_box(Vec::<u8>::with_capacity(bytes)));
}

fn bytes(account: &Account) -> u64 {
    account.usage().unwrap().bytes_allocated
}

fn peak(account: &Account) -> u64 {
    account.usage().unwrap().peak_bytes.unwrap()
}

#[test]
fn an_outer_account_includes_what_an_inner_one_is_credited_with() {
    let (outer, inner) = (Account::new(), Account::new());
    outer.in_scope(|| {
        churn(10);
        inner.in_scope(|| churn(5));
        churn(3);
    });
    churn(1000);
    assert_eq!((bytes(&outer), bytes(&inner)), (18, 5));
    assert_eq!((peak(&outer), peak(&inner)), (10, 5));
    let usage = outer.usage().unwrap();
    assert_eq!((usage.allocations, usage.deallocations), (3, 3));
}

#[test]
fn an_account_that_is_entered_again_counts_once() {
    let (a, b) = (Account::new(), Account::new());
    a.in_scope(|| a.in_scope(|| a.in_scope(|| churn(7))));
    assert_eq!(bytes(&a), 7);
    // Also if another one is in between.
    a.in_scope(|| {
        b.in_scope(|| {
            a.in_scope(|| churn(11));
            churn(13);
        });
        churn(17);
    });
    assert_eq!((bytes(&a), bytes(&b)), (7 + 11 + 13 + 17, 11 + 13));
    assert_eq!(a.usage().unwrap().allocations, 4);
}

#[test]
fn guards_may_be_dropped_in_any_order() {
    churn(1 << 20); // a height of this thread that is nobody's
    let (a, b, c) = (Account::new(), Account::new(), Account::new());
    let in_a = a.enter();
    churn(1000);
    let in_b = b.enter();
    churn(100);
    let in_c = c.enter();
    churn(10);
    drop(in_a);
    assert_eq!((bytes(&a), peak(&a)), (1110, 1000));
    assert_eq!((bytes(&b), peak(&b)), (110, 100));
    churn(1);
    drop(in_b);
    assert_eq!((bytes(&b), peak(&b)), (111, 100));
    churn(5);
    drop(in_c);
    churn(50_000);
    assert_eq!((bytes(&a), peak(&a)), (1110, 1000));
    assert_eq!((bytes(&b), peak(&b)), (111, 100));
    assert_eq!((bytes(&c), peak(&c)), (16, 10));
}

#[test]
fn an_inner_account_does_not_hide_the_outer_ones_peak() {
    let (outer, inner) = (Account::new(), Account::new());
    outer.in_scope(|| {
        churn(1000);
        inner.in_scope(|| {
            churn(10);
            assert_eq!((peak(&outer), peak(&inner)), (1000, 10));
        });
        assert_eq!(peak(&outer), 1000);
    });
    assert_eq!((peak(&outer), peak(&inner)), (1000, 10));
}

#[test]
fn the_peak_counts_what_was_kept_from_before() {
    let account = Account::new();
    let kept = account.in_scope(|| black_box(Vec::<u8>::with_capacity(500)));
    account.in_scope(|| churn(300));
    assert_eq!(peak(&account), 800);
    account.in_scope(|| drop(kept));
    account.in_scope(|| churn(700));
    assert_eq!(peak(&account), 800);
    let usage = account.usage().unwrap();
    assert_eq!(usage.bytes_deallocated, usage.bytes_allocated);
}

#[test]
fn an_account_that_finds_no_room_has_no_figure_and_the_others_are_right() {
    let accounts: [Account; 20] = array::from_fn(|_| Account::new());
    let mut guards: Vec<_> = accounts.iter().map(Account::enter).collect();
    churn(9);
    for (i, account) in accounts.iter().enumerate() {
        let expected = (i < 16).then_some(9);
        // The guards' own vector was allocated before any of them.
        let figure = account.usage().map(|usage| usage.bytes_allocated);
        assert_eq!(figure, expected, "account {i}");
    }
    while guards.pop().is_some() {}
    for (i, account) in accounts.iter().enumerate() {
        account.in_scope(|| churn(1));
        let figure = account.usage().map(|usage| usage.bytes_allocated);
        assert_eq!(figure, (i < 16).then_some(10), "account {i} afterwards");
    }
    let fresh = Account::new();
    fresh.in_scope(|| churn(2));
    assert_eq!(bytes(&fresh), 2, "the room is free again");
}

#[test]
fn a_tracked_future_counts_polls_and_drop_on_whatever_thread() {
    struct ChurnOnDrop;
    impl Drop for ChurnOnDrop {
        fn drop(&mut self) {
            churn(1000);
        }
    }
    let account = Arc::new(Account::new());
    let mut future = Box::pin(Account::track(&account, async {
        let _on_drop = ChurnOnDrop;
        loop {
            churn(1);
            yield_now().await;
        }
    }));
    let poll = |future: &mut Pin<Box<_>>| {
        let future: &mut Pin<Box<tower_memory::account::Tracked<_>>> = future;
        let mut cx = Context::from_waker(Waker::noop());
        let polled: Poll<()> = future.as_mut().poll(&mut cx);
        assert!(polled.is_pending());
    };
    poll(&mut future);
    churn(5000);
    assert_eq!(bytes(&account), 1);
    for _ in 0..2 {
        thread::scope(|threads| {
            threads.spawn(|| poll(&mut future));
        });
    }
    assert_eq!(bytes(&account), 3);
    thread::spawn(move || drop(future)).join().unwrap();
    let usage = account.usage().unwrap();
    assert_eq!((usage.allocations, usage.bytes_allocated), (4, 1003));
    assert_eq!(usage.peak_bytes, Some(1000));
}

#[test]
fn a_tracked_future_that_completes_is_dropped_inside_the_account() {
    let account = Arc::new(Account::new());
    let kept = black_box(Vec::<u8>::with_capacity(64));
    let mut future = pin!(Account::track(&account, async move {
        let _kept = kept;
        42
    }));
    let mut cx = Context::from_waker(Waker::noop());
    assert_eq!(future.as_mut().poll(&mut cx), Poll::Ready(42));
    assert_eq!(account.usage().unwrap().bytes_deallocated, 64);
}

#[test]
fn a_panic_leaves_the_account() {
    let account = Account::new();
    let caught = catch_unwind(AssertUnwindSafe(|| {
        account.in_scope(|| {
            churn(100);
            std::panic::resume_unwind(Box::new("from within"));
        });
    }));
    assert_eq!(caught.unwrap_err().downcast_ref(), Some(&"from within"));
    let usage = account.usage().unwrap();
    assert!(usage.bytes_allocated >= 100);
    churn(10_000);
    assert_eq!(
        account.usage(),
        Some(usage),
        "left, and nothing more counted"
    );
    account.in_scope(|| churn(5));
    assert_eq!(bytes(&account), usage.bytes_allocated + 5);
}

/// A server that catches the panic goes on with the thread.
#[test]
fn a_handler_that_panics_leaves_the_account_of_its_request() {
    let (sender, scopes) = mpsc::channel();
    let service = MemoryLayer::new().layer(service_fn(move |request: Request<()>| {
        let scope = request.extensions().get::<RequestScope>().unwrap();
        sender.send(scope.clone()).unwrap();
        async move {
            churn(100);
            if request.method() == http::Method::GET {
                std::panic::resume_unwind(Box::new("from within"));
            }
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    }));
    let mut response = Box::pin(service.oneshot(Request::new(())));
    let polled = catch_unwind(AssertUnwindSafe(|| {
        (&mut response).now_or_never().is_some()
    }));
    assert!(polled.is_err());
    let scope = scopes.recv().unwrap();
    let usage = scope.usage().unwrap();
    assert!(usage.bytes_allocated >= 100);
    churn(10_000);
    assert_eq!(scope.usage(), Some(usage));
    drop(response);
    let usage = scope.usage();
    churn(10_000);
    assert_eq!(scope.usage(), usage);
}

#[test]
fn several_threads_inside_one_account_add_up() {
    let account = Account::new();
    thread::scope(|threads| {
        for _ in 0..4 {
            threads.spawn(|| {
                for _ in 0..1000 {
                    account.in_scope(|| churn(10));
                }
            });
        }
    });
    let usage = account.usage().unwrap();
    assert_eq!((usage.allocations, usage.bytes_allocated), (4000, 40_000));
}

/// How this thread's figures move while `f` runs.
fn moved<R>(f: impl FnOnce() -> R) -> (R, HeapUsage) {
    let before = thread_usage().unwrap();
    let result = f();
    let now = thread_usage().unwrap();
    let mut moved = HeapUsage::default();
    moved.allocations = now.allocations - before.allocations;
    moved.deallocations = now.deallocations - before.deallocations;
    moved.reallocations = now.reallocations - before.reallocations;
    moved.bytes_allocated = now.bytes_allocated - before.bytes_allocated;
    moved.bytes_deallocated = now.bytes_deallocated - before.bytes_deallocated;
    (result, moved)
}

#[test]
fn growing_and_shrinking_count_the_difference_and_one_reallocation() {
    let (mut vec, usage) = moved(|| black_box(vec![0_u8; 100]));
    assert_eq!((usage.allocations, usage.bytes_allocated), (1, 100));
    let ((), usage) = moved(|| vec.reserve_exact(60));
    assert_eq!((usage.reallocations, usage.bytes_allocated), (1, 60));
    assert_eq!((usage.allocations, usage.deallocations), (0, 0));
    vec.clear();
    let ((), usage) = moved(|| vec.shrink_to(30));
    assert_eq!((usage.reallocations, usage.bytes_deallocated), (1, 130));
    assert_eq!((usage.bytes_allocated, usage.deallocations), (0, 0));
    let ((), usage) = moved(|| drop(vec));
    assert_eq!((usage.deallocations, usage.bytes_deallocated), (1, 30));
    assert_eq!(usage.live_bytes(), -30, "freed here, allocated before");
}

#[test]
fn an_allocation_that_fails_is_not_counted() {
    let absurd = isize::MAX as usize / 2;
    let mut kept = black_box(vec![1_u8; 10]);
    let (failed, usage) = moved(|| {
        let mut fresh = Vec::<u8>::new();
        fresh.try_reserve_exact(absurd).is_err() && kept.try_reserve_exact(absurd).is_err()
    });
    assert!(failed);
    assert_eq!(usage, HeapUsage::default());
    assert_eq!(kept, [1; 10]);
}

/// Tests that look at process totals, one at a time: others only add little.
static TOTALS: Mutex<()> = Mutex::new(());
const MIB: u64 = 1 << 20;

/// How the whole process' figures move while `f` runs.
fn process_moved(f: impl FnOnce()) -> HeapUsage {
    let _alone = TOTALS
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    assert!(is_installed());
    let before = process_usage().unwrap();
    f();
    let now = process_usage().unwrap();
    let mut moved = HeapUsage::default();
    moved.bytes_allocated = now.bytes_allocated - before.bytes_allocated;
    moved.bytes_deallocated = now.bytes_deallocated - before.bytes_deallocated;
    moved
}

#[track_caller]
fn assert_about(figure: u64, expected: u64) {
    let range = expected..expected + expected / 4;
    assert!(range.contains(&figure), "{figure} is not in {range:?}");
}

#[test]
fn process_totals_keep_what_ended_threads_did() {
    let usage = process_moved(|| {
        for _ in 0..10 {
            let threads: Vec<_> = (0..5)
                .map(|_| thread::spawn(|| churn(10 * MIB as usize)))
                .collect();
            for thread in threads {
                thread.join().unwrap();
            }
        }
    });
    // Neither lost nor counted twice.
    assert_about(usage.bytes_allocated, 500 * MIB);
    assert_about(usage.bytes_deallocated, 500 * MIB);
}

/// What a program's constructors allocate.
#[cfg(target_os = "linux")]
mod before_main {
    use std::sync::Mutex;

    use super::{Account, HeapUsage, black_box, process_usage, thread_usage};

    /// The block, and what was counted of it by process, thread and account.
    pub(super) static MADE: Mutex<Option<(Vec<u8>, [HeapUsage; 3])>> = Mutex::new(None);

    extern "C" fn make() {
        let account = Account::new();
        let before = (process_usage(), thread_usage());
        let block = account.in_scope(|| black_box(Vec::with_capacity(54_321)));
        let (Some(by_process), Some(by_thread)) = before else {
            return;
        };
        let (Some(process), Some(thread), Some(usage)) =
            (process_usage(), thread_usage(), account.usage())
        else {
            return;
        };
        let counted = [process - by_process, thread - by_thread, usage.heap];
        *MADE.lock().expect("one thread") = Some((block, counted));
    }

    #[expect(unsafe_code, reason = "the loader calls it before `main`")]
    #[used]
    #[unsafe(link_section = ".init_array")]
    static CONSTRUCTOR: extern "C" fn() = make;
}

#[cfg(target_os = "linux")]
#[test]
fn an_allocation_before_main_is_counted_and_freed_later() {
    let made = before_main::MADE.lock().unwrap().take();
    let (block, counted) = made.expect("figures before `main`");
    for usage in counted {
        assert_eq!((usage.allocations, usage.bytes_allocated), (1, 54_321));
    }
    let ((), usage) = moved(|| drop(block));
    assert_eq!((usage.deallocations, usage.bytes_deallocated), (1, 54_321));
}

struct ChurnAtThreadExit;

impl Drop for ChurnAtThreadExit {
    fn drop(&mut self) {
        churn(100 * MIB as usize);
        AT_EXIT.fetch_add(1, Relaxed);
    }
}

static AT_EXIT: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static FIRST: ChurnAtThreadExit = const { ChurnAtThreadExit };
    static SECOND: Cell<Option<ChurnAtThreadExit>> = const { Cell::new(None) };
}

#[test]
fn allocations_in_destructors_of_thread_locals_are_in_the_totals() {
    let before = AT_EXIT.load(Relaxed);
    let usage = process_moved(|| {
        // Made before and after the thread's first allocations, so that one of the two is dropped
        // when the thread's own counters are gone.
        let thread = thread::spawn(|| {
            FIRST.with(|_| ());
            churn(1);
            SECOND.set(Some(ChurnAtThreadExit));
        });
        thread.join().unwrap();
    });
    assert_eq!(AT_EXIT.load(Relaxed) - before, 2);
    assert_about(usage.bytes_allocated, 200 * MIB);
    assert_about(usage.bytes_deallocated, 200 * MIB);
}

#[test]
fn a_threads_figures_never_go_backwards() {
    let (mut last, mut process) = (thread_usage().unwrap(), process_usage().unwrap());
    for size in 1..200 {
        churn(size);
        thread::spawn(move || churn(size)).join().unwrap();
        let (now, total) = (thread_usage().unwrap(), process_usage().unwrap());
        assert!(now.bytes_allocated >= last.bytes_allocated + size as u64);
        assert!(now.allocations > last.allocations);
        assert!(now.bytes_deallocated >= last.bytes_deallocated + size as u64);
        assert!(now.deallocations > last.deallocations);
        assert!(now.reallocations >= last.reallocations);
        assert!(total.bytes_allocated >= process.bytes_allocated + 2 * size as u64);
        assert!(total.deallocations >= process.deallocations + 2);
        (last, process) = (now, total);
    }
}

#[test]
fn freeing_what_others_allocated_does_not_lower_later_peaks() {
    let foreign = Vec::<u8>::with_capacity(10_000);
    let account = Account::new();
    account.in_scope(|| drop(foreign));
    let kept = account.in_scope(|| Vec::<u8>::with_capacity(500));
    let usage = account.usage().expect("installed");
    assert_eq!(usage.bytes_deallocated, 10_000);
    assert_eq!(usage.peak_bytes, Some(500));
    drop(kept);
}

#[test]
fn a_difference_of_two_usages_is_what_was_credited_between_them() {
    let account = Account::new();
    account.in_scope(|| churn(300));
    let before = account.usage().unwrap();
    let kept = account.in_scope(|| black_box(Vec::<u8>::with_capacity(500)));
    let between = account.usage().unwrap() - before;
    assert_eq!((between.allocations, between.live_bytes()), (1, 500));
    drop(kept);
}

#[test]
fn futures_of_a_join_set_are_counted_if_they_are_tracked() {
    const BYTES: u64 = 100_000;
    let (layer, reports) = layer_with_reports();
    let service = layer.layer(service_fn(|request: Request<()>| async move {
        let scope = request.extensions().get::<RequestScope>().unwrap().clone();
        let used = || scope.usage().unwrap().bytes_allocated;
        for (tracked, expected) in [(false, 0), (true, 3 * BYTES)] {
            let work = || async {
                black_box(vec![0_u8; BYTES as usize]);
                tokio::task::yield_now().await;
                black_box(vec![0_u8; 0]);
            };
            let mut set = tokio::task::JoinSet::new();
            let before = used();
            for _ in 0..3 {
                if tracked {
                    set.spawn(scope.track(work()).map(|output| output.unwrap()));
                } else {
                    set.spawn(work());
                }
            }
            set.join_all().await;
            let counted = used() - before;
            // The set, and what belongs to each task.
            assert!(
                (expected..expected + 10_000).contains(&counted),
                "{counted}"
            );
        }
        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
    }));
    let runtime = runtime();
    drop(runtime.block_on(service.oneshot(Request::new(()))).unwrap());
    drop(reports);
}

/// The newcomer's A6: a socket showed nothing for as long as it was open.
#[test]
fn an_open_stream_and_a_socket_show_what_they_have_allocated_so_far() {
    const BYTES: u64 = 100_000;
    let layer = MemoryLayer::new();
    let handle = layer.handle();
    let service = layer.layer(service_fn(|request: Request<()>| async move {
        let scope = request.extensions().get::<RequestScope>().unwrap().clone();
        black_box(vec![0_u8; BYTES as usize]);
        let mut response = Response::new(Stalled);
        if request.uri().path() == "/socket" {
            tokio::spawn(scope.hold().run(std::future::pending::<()>()));
            *response.status_mut() = http::StatusCode::SWITCHING_PROTOCOLS;
        }
        scope.set_route(request.uri().path());
        Ok::<_, Infallible>(response)
    }));
    let runtime = runtime();
    runtime.block_on(async {
        let get = |path: &str| {
            service
                .clone()
                .oneshot(Request::get(path).body(()).unwrap())
        };
        drop(get("/socket").await.unwrap());
        let mut bodies = Vec::new();
        for _ in 0..2 {
            let mut body = Box::pin(get("/stream").await.unwrap().into_body());
            assert!(body.frame().now_or_never().is_none());
            bodies.push(body);
        }
        let rows = handle.snapshot().routes;
        for (path, count) in [("/socket", 1), ("/stream", 2)] {
            let row = rows.iter().find(|row| row.route == path).unwrap();
            assert_eq!((row.in_flight, &row.bytes), (count, &None), "{path}");
            let open = row.open_bytes.as_ref().unwrap();
            assert_eq!(open.count, count as u64, "{path}");
            assert!((BYTES..2 * BYTES).contains(&open.max), "{path}: {open:?}");
            assert!(open.total <= open.count * open.max);
        }
        bodies.pop();
        let rows = handle.snapshot().routes;
        let row = rows.iter().find(|row| row.route == "/stream").unwrap();
        assert_eq!(row.open_bytes.as_ref().unwrap().count, 1);
        assert_eq!(row.bytes.as_ref().unwrap().count, 1);
    });
}

/// A body without an end.
struct Stalled;

impl Body for Stalled {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Pending
    }
}
