//! What the process's housekeeping does whichever runtimes come, are idle, block or go. In real time:
//! tests wait for what must happen, and only a failing one waits for long.
#![expect(unsafe_code, reason = "calls fork")]

use std::{
    convert::Infallible,
    fs, io,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, StreamBody};
use tokio::runtime::{Builder, Runtime};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_memory::{
    Arena, ArenaPool, MemoryHandle, MemoryLayer, RequestScope, housekeeping::ManualClock,
};

const SOON: Duration = Duration::from_millis(20);

/// How long to wait for what must come.
const BOUND: Duration = Duration::from_secs(30);

#[track_caller]
fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < BOUND, "not in {BOUND:?}: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

fn pool() -> ArenaPool {
    ArenaPool::builder().trim_interval(SOON).build().unwrap()
}

fn used(pool: &ArenaPool) -> Arena {
    let arena = pool.rent();
    arena.alloc_slice_copy(&[1_u8; 9000]);
    arena
}

/// A runtime with one thread, for blocking work too.
fn runtime(timers: bool) -> Runtime {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(1);
    if timers {
        builder.enable_time();
    }
    builder.build().unwrap()
}

fn idle_runtime() -> Runtime {
    let mut builder = Builder::new_current_thread();
    builder.enable_time().build().unwrap()
}

/// `breaker/pooltime`: the first runtime is kept and not driven, or had no timers and is gone.
#[test]
fn a_pool_whose_first_runtime_is_idle_or_gone_is_trimmed() {
    for kept in [true, false] {
        let pool = pool();
        let first = if kept { idle_runtime() } else { runtime(false) };
        first.block_on(async { drop(used(&pool)) });
        let first = kept.then_some(first);
        let work = runtime(true);
        work.block_on(async {
            let pool = pool.clone();
            let burst = move || drop((0..400).map(|_| used(&pool)).collect::<Vec<_>>());
            work.spawn_blocking(burst).await.unwrap();
        });
        // Each thread keeps one small arena.
        wait_until("trimmed", || pool.stats().pooled <= 2);
        drop((first, work));
    }
}

#[test]
fn a_pool_is_trimmed_in_a_program_without_a_runtime() {
    let pool = pool();
    drop([used(&pool), used(&pool)]);
    wait_until("trimmed", || pool.stats().pooled == 0);
}

fn blocking_layer() -> MemoryLayer {
    MemoryLayer::builder().grace_period(SOON).build().unwrap()
}

/// A request whose task holds its thread until the result is dropped.
fn blocks(layer: &MemoryLayer, runtime: &Runtime) -> mpsc::Sender<()> {
    let (release, wait) = mpsc::channel::<()>();
    let mut wait = Some(wait);
    let mut service = layer.layer(service_fn(move |request: Request<()>| {
        let scope = request.extensions().get::<RequestScope>().unwrap().clone();
        let wait = wait.take().unwrap();
        async move {
            drop(scope.spawn_blocking(move || wait.recv()));
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    }));
    runtime.block_on(async { drop(service.call(Request::new(())).await.unwrap()) });
    release
}

fn open(handle: &MemoryHandle) -> [usize; 2] {
    let now = handle.snapshot();
    [now.in_flight, now.tasks]
}

/// `breaker/sweeper`.
#[test]
fn tasks_are_given_up_though_the_runtime_of_the_first_one_shuts_down() {
    for shut_down in [false, true] {
        let layer = blocking_layer();
        let handle = layer.handle();
        let [first, second] = [runtime(true), runtime(true)];
        let tasks = [blocks(&layer, &first), blocks(&layer, &second)];
        let first = if shut_down {
            first.shutdown_background();
            None
        } else {
            Some(first)
        };
        wait_until("given up", || handle.snapshot().in_flight == 0);
        assert_eq!(handle.outliving().len(), 2);
        drop((tasks, first, second));
        wait_until("returned", || open(&handle) == [0, 0]);
    }
}

/// `field/28`: a warm-up request on a runtime that is not driven any more.
#[test]
fn tasks_are_given_up_and_the_pool_is_trimmed_though_the_first_runtime_is_idle() {
    let (pool, idle, main) = (pool(), idle_runtime(), runtime(true));
    let layer = MemoryLayer::builder().grace_period(SOON).pool(pool.clone());
    let layer = layer.build().unwrap();
    let warm_up = layer.layer(service_fn(|request: Request<()>| async move {
        let scope = request.extensions().get::<RequestScope>().unwrap();
        scope.arena().alloc_slice_copy(&[1_u8; 9000]);
        scope.spawn(std::future::pending::<()>());
        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
    }));
    idle.block_on(async { drop(warm_up.oneshot(Request::new(())).await.unwrap()) });
    drop((0..20).map(|_| used(&pool)).collect::<Vec<_>>());
    let handle = layer.handle();
    for _ in 0..4 {
        let release = blocks(&layer, &main);
        // All but that of the warm-up.
        wait_until("given up", || handle.snapshot().in_flight == 1);
        drop(release);
    }
    wait_until("trimmed", || pool.stats().pooled <= 1);
    drop(idle);
    wait_until("all ended", || open(&handle) == [0, 0]);
}

#[test]
fn a_task_of_a_runtime_that_is_not_driven_is_given_up_after_some_seconds() {
    let (clock, idle) = (ManualClock::new(), idle_runtime());
    let layer = MemoryLayer::builder().grace_period(SOON).clock(&clock);
    let layer = layer.build().unwrap();
    let service = layer.layer(service_fn(|request: Request<()>| async move {
        let scope = request.extensions().get::<RequestScope>().unwrap();
        scope.spawn(std::future::pending::<()>());
        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
    }));
    idle.block_on(async { drop(service.oneshot(Request::new(())).await.unwrap()) });
    let handle = layer.handle();
    // A busy runtime may be late.
    clock.advance(SOON + Duration::from_secs(8));
    assert_eq!(open(&handle), [1, 1]);
    clock.advance(Duration::from_secs(1));
    assert_eq!(open(&handle), [0, 1], "it exists while its runtime does");
    assert_eq!(handle.task_overruns()[0].given_up, 1);
    drop(idle);
    assert_eq!(open(&handle), [0, 0]);
}

/// Runs a future on runtimes without timers.
fn without_timers(run: impl Fn(&dyn Fn(LocalFuture))) {
    let current = Builder::new_current_thread().build().unwrap();
    run(&|future| current.block_on(future));
    let several = runtime(false);
    run(&|future| several.block_on(future));
}

type LocalFuture = std::pin::Pin<Box<dyn Future<Output = ()>>>;

/// `breaker/ioonly`: the first use of an arena.
#[test]
fn an_arena_is_used_and_trimmed_without_timers() {
    without_timers(|run| {
        let pool = pool();
        let arenas = pool.clone();
        run(Box::pin(async move {
            for _ in 0..3 {
                drop([used(&arenas), used(&arenas)]);
                tokio::task::yield_now().await;
            }
        }));
        wait_until("trimmed", || pool.stats().pooled == 0);
    });
}

/// `breaker/notimer2`.
#[test]
fn a_cancelled_task_has_its_grace_period_without_timers() {
    without_timers(|run| {
        let layer = blocking_layer();
        let handle = layer.handle();
        let (tell, told) = mpsc::channel();
        let service = layer.layer(service_fn(move |request: Request<()>| {
            let scope = request.extensions().get::<RequestScope>().unwrap().clone();
            let tell = tell.clone();
            async move {
                let token = scope.child_token();
                let ends = async move {
                    token.cancelled().await;
                    for _ in 0..5 {
                        tokio::task::yield_now().await;
                    }
                    tell.send(()).unwrap();
                };
                drop((scope.spawn(ends), scope.spawn(std::future::pending::<()>())));
                tokio::task::yield_now().await;
                Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
            }
        }));
        let tasks = handle.clone();
        run(Box::pin(async move {
            drop(service.oneshot(Request::new(())).await.unwrap());
            // The one that ignores its token is dropped after the grace period.
            while tasks.snapshot().tasks > 0 {
                tokio::task::yield_now().await;
            }
        }));
        told.try_recv()
            .expect("the task did what it does at its end");
        assert_eq!(handle.task_overruns()[0].aborted, 1);
        assert_eq!(open(&handle), [0, 0]);
    });
}

fn limited() -> MemoryLayer {
    let layer = MemoryLayer::builder().timeout(SOON).body_timeout(SOON);
    layer.build().unwrap()
}

#[test]
fn deadlines_and_shutdowns_end_without_timers() {
    without_timers(|run| {
        let layer = limited();
        let handle = layer.handle();
        run(Box::pin(async move {
            let never = service_fn(|_: Request<()>| {
                std::future::pending::<Result<Response<Empty<Bytes>>, Infallible>>()
            });
            let start = Instant::now();
            let response = layer.layer(never).oneshot(Request::new(())).await.unwrap();
            assert_eq!(response.status(), 504);
            assert!(start.elapsed() >= SOON);
            let stalls = service_fn(async |_: Request<()>| {
                let never = futures_util::stream::pending::<Result<Frame<Bytes>, Infallible>>();
                Ok::<_, Infallible>(Response::new(StreamBody::new(never)))
            });
            let response = layer.layer(stalls).oneshot(Request::new(())).await.unwrap();
            assert!(response.into_body().collect().await.is_err());

            let waits = service_fn(|request: Request<()>| async move {
                let scope = request.extensions().get::<RequestScope>().unwrap();
                scope.detach("stays", std::future::pending::<()>());
                Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
            });
            drop(layer.layer(waits).oneshot(Request::new(())).await.unwrap());
            let report = handle.shutdown(SOON).await;
            assert_eq!(report.tasks.len(), 1);
        }));
    });
}

#[test]
fn a_deadline_passes_without_a_runtime() {
    let never = service_fn(|_: Request<()>| {
        std::future::pending::<Result<Response<Empty<Bytes>>, Infallible>>()
    });
    let response = limited().layer(never).oneshot(Request::new(()));
    let response = futures_util::FutureExt::boxed(response);
    let (done, answer) = mpsc::channel();
    // Polled by a thread that sleeps in between.
    let unparked = thread::spawn(move || {
        struct Unpark(thread::Thread);
        impl std::task::Wake for Unpark {
            fn wake(self: std::sync::Arc<Self>) {
                self.0.unpark();
            }
        }
        let waker = std::task::Waker::from(std::sync::Arc::new(Unpark(thread::current())));
        let mut response = response;
        let mut cx = std::task::Context::from_waker(&waker);
        loop {
            if let std::task::Poll::Ready(response) = response.as_mut().poll(&mut cx) {
                return done.send(response.unwrap().status()).unwrap();
            }
            thread::park();
        }
    });
    assert_eq!(answer.recv_timeout(BOUND).unwrap(), 504);
    unparked.join().unwrap();
}

/// A request of a layer of its own ends at its deadline, and its pool is trimmed.
#[track_caller]
fn deadlines_and_trimming_go_on() {
    let pool = pool();
    let layer = MemoryLayer::builder().timeout(SOON).pool(pool.clone());
    let never = service_fn(|request: Request<()>| async move {
        let scope = request.extensions().get::<RequestScope>().unwrap();
        scope.arena().alloc_slice_copy(&[1_u8; 9000]);
        std::future::pending::<Result<Response<Empty<Bytes>>, Infallible>>().await
    });
    let service = layer.build().unwrap().layer(never);
    // Without timers: the housekeeping wakes it, or nothing does.
    let (runtime, (done, answer)) = (runtime(false), mpsc::channel());
    runtime.spawn(async move {
        let response = service.oneshot(Request::new(())).await.unwrap();
        let _ = done.send(response.status());
    });
    assert_eq!(answer.recv_timeout(BOUND).expect("a deadline"), 504);
    drop((0..8).map(|_| used(&pool)).collect::<Vec<_>>());
    // Each thread keeps one small arena.
    wait_until("trimmed", || pool.stats().pooled <= 2);
}

#[test]
fn an_observer_that_blocks_delays_no_deadline_and_no_trimming() {
    let (called, calls) = mpsc::channel();
    let (release, wait) = mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let layer = MemoryLayer::builder().observe(move |_: &tower_memory::ScopeReport| {
        called.send(()).unwrap();
        let _ = wait.lock().unwrap().recv();
    });
    let layer = layer.build().unwrap();
    let answers = layer.layer(service_fn(async |_: Request<()>| {
        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
    }));
    let request = answers.oneshot(Request::new(()));
    drop(idle_runtime().block_on(request).unwrap());
    calls.recv_timeout(BOUND).expect("called");
    deadlines_and_trimming_go_on();
    drop(release);
}

#[test]
fn a_hook_that_blocks_delays_no_deadline_and_no_trimming() {
    let (called, calls) = mpsc::channel();
    let (release, wait) = mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let pool = ArenaPool::builder()
        .trim_interval(SOON)
        .max_total_bytes(4 << 20)
        .on_trim(move |bytes| {
            called.send(bytes).unwrap();
            let _ = wait.lock().unwrap().recv();
        });
    let pool = pool.build().unwrap();
    let burst = || {
        let large = |_| {
            let arena = pool.rent_with_capacity(1 << 20);
            arena.alloc(1_u8);
            arena
        };
        drop((0..8).map(large).collect::<Vec<_>>());
    };
    burst();
    let first = calls.recv_timeout(BOUND).expect("called");
    assert!(first >= 1 << 20);
    deadlines_and_trimming_go_on();
    // The pool's own as well.
    burst();
    wait_until("trimmed", || pool.stats().pooled <= 1);
    assert!(calls.try_recv().is_err(), "one call at a time");
    drop(release);
    let second = calls.recv_timeout(BOUND).expect("called again");
    assert!(second >= 4 << 20, "what was freed meanwhile: {second}");
}

#[test]
fn the_drop_of_a_body_that_nobody_polls_delays_no_deadline_and_no_trimming() {
    struct Blocks(mpsc::Sender<()>, mpsc::Receiver<()>);

    impl Drop for Blocks {
        fn drop(&mut self) {
            let _ = self.0.send(());
            let _ = self.1.recv();
        }
    }

    let (dropped, drops) = mpsc::channel();
    let (release, wait) = mpsc::channel();
    let mut blocks = Some(Blocks(dropped, wait));
    let service = limited().layer(service_fn(move |_: Request<()>| {
        let blocks = blocks.take();
        let never = futures_util::stream::poll_fn(move |_| {
            let _held = &blocks;
            std::task::Poll::<Option<Result<Frame<Bytes>, Infallible>>>::Pending
        });
        std::future::ready(Ok::<_, Infallible>(Response::new(StreamBody::new(never))))
    }));
    let response = runtime(false).block_on(service.oneshot(Request::new(())));
    drops.recv_timeout(BOUND).expect("dropped at its limit");
    deadlines_and_trimming_go_on();
    drop(release);
    drop(response);
}

/// The housekeeping threads of this process: their numbers.
fn threads() -> Vec<String> {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.map(|task| task.unwrap().path()).filter(|task| {
        // A thread that has just ended has no name.
        fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim() == "tower-memory")
    });
    names.map(|task| task.display().to_string()).collect()
}

fn in_child(f: impl FnOnce() -> bool) -> bool {
    // SAFETY: the child does what one thread may do after a fork on Linux with glibc, whose
    // allocator it can use, and ends without running the parent's exit handlers.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "{}", io::Error::last_os_error());
    if child == 0 {
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).unwrap_or(false);
        // SAFETY: as above.
        unsafe { libc::_exit(i32::from(!done)) };
    }
    let mut status = 0;
    let start = Instant::now();
    // SAFETY: a child of this process, and a valid place to write to.
    while unsafe { libc::waitpid(child, &raw mut status, libc::WNOHANG) } == 0 {
        if start.elapsed() > BOUND {
            // SAFETY: a child of this process that has not been waited for.
            unsafe { libc::kill(child, libc::SIGKILL) };
        }
        thread::sleep(Duration::from_millis(1));
    }
    status == 0
}

#[cfg(target_os = "linux")]
#[test]
fn there_is_one_thread_and_a_forked_child_gets_its_own() {
    let pool = pool();
    drop([used(&pool), used(&pool)]);
    wait_until("the thread", || threads().len() == 1);
    wait_until("trimmed", || pool.stats().pooled == 0);
    // Scheduled in this process, not in the child.
    let kept = [used(&pool), used(&pool)];
    for round in 0..20 {
        let trims = in_child(|| {
            let few = round % 2 == 0;
            let mut arenas: Vec<Arena> = (0..if few { 8 } else { 300 })
                .map(|_| used(&pool))
                .collect();
            arenas.truncate(10);
            for _ in 0..if few { 0 } else { 300 } {
                drop(used(&pool));
            }
            drop(arenas);
            let start = Instant::now();
            // One is hot.
            while pool.stats().pooled > 1 && start.elapsed() < BOUND {
                thread::sleep(Duration::from_millis(1));
            }
            pool.stats().pooled <= 1 && threads().len() == 1
        });
        assert!(trims);
    }
    drop(kept);
    wait_until("trimmed", || pool.stats().pooled <= 1);
    assert_eq!(threads().len(), 1);
}

#[cfg(target_os = "linux")]
#[test]
fn a_forked_child_calls_observers_on_a_thread_of_its_own() {
    let (called, calls) = mpsc::channel();
    let layer = MemoryLayer::builder().observe(move |_: &tower_memory::ScopeReport| {
        let on_the_thread = thread::current().name() == Some("tower-mem-hooks");
        let _ = called.send((std::process::id(), on_the_thread));
    });
    let layer = layer.build().unwrap();
    let request = || {
        let answers = layer.layer(service_fn(async |_: Request<()>| {
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }));
        drop(
            idle_runtime()
                .block_on(answers.oneshot(Request::new(())))
                .unwrap(),
        );
    };
    let here = (std::process::id(), true);
    for _ in 0..10 {
        request();
        assert_eq!(calls.recv_timeout(BOUND), Ok(here));
        // No observer is in the middle of a call.
        layer.handle().flush_observers();
        assert!(in_child(|| {
            let start = Instant::now();
            // One in a few requests notices the fork.
            while calls.try_recv() != Ok((std::process::id(), true)) {
                request();
                thread::sleep(Duration::from_millis(1));
                if start.elapsed() > BOUND {
                    return false;
                }
            }
            true
        }));
    }
}
