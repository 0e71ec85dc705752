//! Where a request ends that holds more than its limit, and what it leaves behind: nothing.
//!
//! The cases of the table in `docs/guide/limits.md` are the tests of [`table`].
#![forbid(unsafe_code)]

#[cfg(feature = "tracing")]
#[path = "support/collector.rs"]
mod collector;

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
        mpsc,
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full};
use tokio::task::yield_now;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_memory::{
    ConfigError, Expose, MemoryHandle, MemoryLayer, Outcome, RequestScope, RoutePolicy,
    ScopeReport, TrackingAllocator,
    arena::{ArenaError, ArenaErrorKind},
    cancel::{CancelReason, Cancelled},
    middleware::{LimitContext, MemoryLayerBuilder, RequestBody, RequestBodyLayer, ResponseBody},
};

#[cfg(feature = "tracing")]
use self::collector::Collector;

#[global_allocator]
static ALLOC: TrackingAllocator = TrackingAllocator::system();

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const LIMIT: usize = 32 * MIB;

type Answer = Result<Response<Full<Bytes>>, Infallible>;

fn empty() -> Answer {
    Ok(Response::new(Full::default()))
}

fn scope_of<B>(request: &Request<B>) -> RequestScope {
    let scope = request.extensions().get::<RequestScope>();
    scope.expect("in the layer").clone()
}

/// A layer with its reports.
fn layer(builder: MemoryLayerBuilder) -> (MemoryLayer, mpsc::Receiver<ScopeReport>) {
    let (sender, reports) = mpsc::channel();
    let layer = builder
        .expose(Expose::Never)
        .observe(move |report: &ScopeReport| sender.send(report.clone()).unwrap())
        .build()
        .unwrap();
    (layer, reports)
}

fn limited() -> MemoryLayerBuilder {
    MemoryLayer::builder().request_limit(LIMIT)
}

/// Nothing is left of any request.
fn assert_nothing_left(handle: &MemoryHandle) {
    let snapshot = handle.snapshot();
    assert_eq!(
        (snapshot.in_flight, snapshot.tasks, snapshot.tokens),
        (0, 0, 0)
    );
    assert_eq!(snapshot.pool.rented, 0);
    for route in &snapshot.routes {
        assert_eq!(route.arenas_left.unwrap_or(0), 0);
        assert_eq!(route.unreleased_buffers.unwrap_or(0), 0);
    }
}

/// Sends a request, reads the response, and returns it with the report.
async fn send<S, B>(
    layer: &MemoryLayer,
    reports: &mpsc::Receiver<ScopeReport>,
    service: S,
    body: B,
) -> (Response<Bytes>, ScopeReport)
where
    S: Service<Request<B>, Response = Response<Full<Bytes>>, Error = Infallible>,
{
    let request = Request::post("/").body(body).unwrap();
    let response = layer.layer(service).oneshot(request).await.unwrap();
    let (head, body) = response.into_parts();
    let body = body.collect().await.expect("a whole body").to_bytes();
    let handle = layer.handle();
    // Tasks may have to wait for the end of their grace period.
    while handle.snapshot().in_flight > 0 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    handle.flush_observers();
    let report = reports.recv().unwrap();
    (Response::from_parts(head, body), report)
}

mod table {
    use super::*;

    /// How many MiB a handler that wants 100 gets.
    #[derive(Clone, Default)]
    struct Got(Arc<AtomicUsize>);

    impl Got {
        fn take(&self, kept: &mut Vec<Vec<u8>>) {
            kept.push(vec![0; MIB]);
            self.0.fetch_add(1, Relaxed);
        }

        fn mib(&self) -> usize {
            self.0.load(Relaxed)
        }
    }

    async fn run<F: Future<Output = Answer>>(
        handler: impl Fn(RequestScope, Got) -> F + Clone,
    ) -> (Response<Bytes>, ScopeReport, usize, u64) {
        let (layer, reports) = layer(limited());
        let got = Got::default();
        let service = service_fn(|request: Request<()>| handler(scope_of(&request), got.clone()));
        let (response, report) = send(&layer, &reports, service, ()).await;
        assert_nothing_left(&layer.handle());
        let over = layer.handle().snapshot().routes[0].over_limit;
        (response, report, got.mib(), over)
    }

    #[tokio::test(start_paused = true)]
    async fn an_await_that_waits_is_the_end() {
        let (response, report, mib, over) = run(async |_, got| {
            let mut kept = Vec::new();
            for _ in 0..100 {
                got.take(&mut kept);
                yield_now().await;
            }
            empty()
        })
        .await;
        assert_eq!(
            (response.status(), mib, over),
            (StatusCode::INTERNAL_SERVER_ERROR, 32, 0)
        );
        assert_eq!(report.outcome, Outcome::MemoryExceeded);
        let peak = report.usage.unwrap().peak_bytes.unwrap() as usize;
        assert!((LIMIT..LIMIT + MIB).contains(&peak), "{peak}");
        assert!(report.usage.unwrap().held_bytes.unwrap() < 2 * KIB as u64);
    }

    #[tokio::test(start_paused = true)]
    async fn awaits_that_are_ready_are_no_end_and_the_answer_is_sent() {
        let (response, report, mib, over) = run(async |_, got| {
            let mut kept = Vec::new();
            for _ in 0..100 {
                got.take(&mut kept);
                std::future::ready(()).await;
            }
            Ok(Response::new(Full::from(kept.concat())))
        })
        .await;
        assert_eq!((response.status(), mib, over), (StatusCode::OK, 100, 1));
        assert_eq!(response.body().len(), 100 * MIB);
        assert_eq!(report.outcome, Outcome::Completed);
    }

    #[tokio::test(start_paused = true)]
    async fn a_check_fails_and_the_handler_answers() {
        let (response, report, mib, over) = run(async |scope, got| {
            let mut kept = Vec::new();
            for _ in 0..100 {
                if let Err(cancelled) = scope.check() {
                    assert_eq!(cancelled.reason(), Outcome::MemoryExceeded);
                    assert_eq!(cancelled.limit(), Some(LIMIT as u64));
                    let used = cancelled.used().unwrap() as usize;
                    assert!((LIMIT + 1..LIMIT + MIB).contains(&used));
                    assert!(scope.is_cancelled() && scope.child_token().is_cancelled());
                    let mut response = Response::new(Full::default());
                    *response.status_mut() = StatusCode::IM_A_TEAPOT;
                    return Ok(response);
                }
                got.take(&mut kept);
            }
            empty()
        })
        .await;
        assert_eq!(
            (response.status(), mib, over),
            (StatusCode::IM_A_TEAPOT, 32, 0)
        );
        assert_eq!(report.outcome, Outcome::MemoryExceeded);
    }

    #[tokio::test(start_paused = true)]
    async fn a_check_sees_pieces_of_1000_bytes() {
        let (_, report, _, over) = run(async |scope, _| {
            let mut kept = Vec::<Vec<u8>>::with_capacity(100 * KIB);
            while scope.check().is_ok() {
                kept.push(vec![0; 1000]);
            }
            empty()
        })
        .await;
        assert_eq!((report.outcome, over), (Outcome::MemoryExceeded, 0));
        let peak = report.usage.unwrap().peak_bytes.unwrap() as usize;
        assert!((LIMIT..LIMIT + 4 * KIB).contains(&peak), "{peak}");
    }

    #[tokio::test(start_paused = true)]
    async fn no_check_and_no_await_is_no_end() {
        let (response, report, mib, over) = run(async |_, got| {
            let mut kept = Vec::new();
            for _ in 0..100 {
                got.take(&mut kept);
            }
            empty()
        })
        .await;
        assert_eq!((response.status(), mib, over), (StatusCode::OK, 100, 1));
        assert_eq!(report.outcome, Outcome::Completed);
    }

    #[tokio::test(start_paused = true)]
    async fn a_blocking_closure_that_checks_ends_there() {
        let (response, report, mib, over) = run(async |scope, got| {
            let inner = (scope.clone(), got);
            let task = scope.spawn_blocking(move || {
                let (scope, got) = inner;
                let mut kept = Vec::new();
                for _ in 0..100 {
                    scope.check()?;
                    got.take(&mut kept);
                }
                Ok::<_, Cancelled>(())
            });
            let _ = task.await.expect("it returns");
            empty()
        })
        .await;
        assert_eq!((mib, over), (32, 0));
        assert_eq!(report.outcome, Outcome::MemoryExceeded);
        // The handler may be polled, or ended, first.
        assert!(response.status() == 500 || response.status() == 200);
    }

    #[tokio::test(start_paused = true)]
    async fn a_blocking_closure_that_does_not_check_runs_to_its_end() {
        let (response, report, mib, _) = run(async |scope, got| {
            let task = scope.spawn_blocking(move || {
                let mut kept = Vec::new();
                for _ in 0..100 {
                    got.take(&mut kept);
                }
            });
            task.await.expect("it returns");
            yield_now().await;
            empty()
        })
        .await;
        assert_eq!(
            (response.status(), mib),
            (StatusCode::INTERNAL_SERVER_ERROR, 100)
        );
        assert_eq!(report.outcome, Outcome::MemoryExceeded);
    }

    /// What a failed growth says.
    fn assert_exceeded(error: &ArenaError, asked: usize, kept: usize) {
        assert_eq!(error.kind(), ArenaErrorKind::LimitExceeded);
        assert_eq!((error.asked(), error.limit()), (asked, Some(LIMIT)));
        assert!((kept..kept + MIB).contains(&error.used()), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn try_reserve_fails_before_the_limit_and_the_request_goes_on() {
        let (response, report, _, over) = run(async |scope, _| {
            let arena = scope.arena();
            let mut buf = arena.buf_with_capacity(20 * MIB);
            assert_exceeded(&buf.try_reserve(25 * MIB).unwrap_err(), 25 * MIB, 20 * MIB);
            let mut list = arena.vec::<u64>();
            assert_exceeded(&list.try_reserve(2 * MIB).unwrap_err(), 16 * MIB, 20 * MIB);
            assert_exceeded(
                &list.try_reserve_exact(2 * MIB).unwrap_err(),
                16 * MIB,
                20 * MIB,
            );
            let mut text = arena.string();
            assert_exceeded(&text.try_reserve(16 * MIB).unwrap_err(), 16 * MIB, 20 * MIB);
            // There is room for less.
            list.try_reserve(MIB).unwrap();
            drop(buf);
            yield_now().await;
            assert_eq!(scope.check(), Ok(()));
            empty()
        })
        .await;
        assert_eq!(
            (response.status(), report.outcome, over),
            (StatusCode::OK, Outcome::Completed, 0)
        );
        assert!(report.usage.unwrap().peak_bytes.unwrap() <= LIMIT as u64);
    }

    #[tokio::test(start_paused = true)]
    async fn try_methods_of_the_arena_fail_before_the_limit() {
        let (response, report, _, _) = run(async |scope, _| {
            let large = vec![1_u8; 20 * MIB];
            let (asked, kept) = (large.len(), large.len());
            let text = std::str::from_utf8(&large).unwrap();
            let arena = scope.arena();
            assert_exceeded(
                &arena.try_alloc_slice_copy(&large).unwrap_err(),
                asked,
                kept,
            );
            assert_exceeded(&arena.try_alloc_str(text).unwrap_err(), asked, kept);
            let error = arena.try_alloc_fmt(format_args!("{text}!")).unwrap_err();
            assert!(error.kind() == ArenaErrorKind::LimitExceeded && error.asked() >= asked);
            let error = arena
                .try_alloc_slice_fill_iter(large.iter().copied())
                .unwrap_err();
            assert_exceeded(&error, asked, kept);
            let mut cursor = arena.cursor();
            assert_exceeded(
                &cursor.try_alloc_slice_copy(&large).unwrap_err(),
                asked,
                kept,
            );
            assert_exceeded(&cursor.try_alloc_str(text).unwrap_err(), asked, kept);
            assert!(cursor.try_alloc_fmt(format_args!("{text}!")).is_err());
            assert!(
                cursor
                    .try_alloc_slice_fill_iter(large.iter().copied())
                    .is_err()
            );
            assert!(arena.try_alloc(7).is_ok() && arena.try_alloc_box(String::new()).is_ok());
            yield_now().await;
            empty()
        })
        .await;
        assert_eq!(
            (response.status(), report.outcome),
            (StatusCode::OK, Outcome::Completed)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn other_methods_of_the_arena_grow_and_the_request_ends() {
        let (response, report, _, _) = run(async |scope, _| {
            let large = vec![1_u8; 20 * MIB];
            let arena = scope.arena();
            // Also from within one that would fail, in code of the caller.
            let values = (0..300).map(|n| arena.alloc_fmt(format_args!("{n:0>65535}")).len());
            let lens = arena.try_alloc_slice_fill_iter(values);
            assert_eq!(lens.expect("its own memory was taken before").len(), 300);
            assert_eq!(scope.check().unwrap_err().reason(), Outcome::MemoryExceeded);
            assert_eq!(arena.alloc_slice_copy(&large).len(), large.len());
            let mut buf = arena.buf();
            buf.extend_from_slice(&large);
            yield_now().await;
            empty()
        })
        .await;
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(report.outcome, Outcome::MemoryExceeded);
    }

    #[tokio::test(start_paused = true)]
    async fn collect_fails_before_the_limit_with_413() {
        let (layer, reports) = layer(limited());
        let service = service_fn(async |request: Request<Upload>| {
            let scope = scope_of(&request);
            let read = scope.arena().collect(request.into_body(), usize::MAX).await;
            let error = read.expect_err("100 MiB are too many");
            assert_eq!(
                error.to_string(),
                "body exceeds the memory limit of its request after 16777216 bytes"
            );
            // A buffer for what has come and one frame more.
            assert_eq!(
                (error.asked(), error.limit(), error.received()),
                (Some(17 * MIB as u64), Some(LIMIT), 16 * MIB)
            );
            assert!(
                (16 * MIB..LIMIT).contains(&error.used().unwrap()),
                "{error:?}"
            );
            yield_now().await;
            assert_eq!(scope.check(), Ok(()));
            let mut response = Response::new(Full::default());
            *response.status_mut() = error.status();
            Ok(response)
        });
        let (body, read) = upload(100);
        let (response, report) = send(&layer, &reports, service, body).await;
        assert_eq!(
            (response.status(), read.load(Relaxed)),
            (StatusCode::PAYLOAD_TOO_LARGE, 17)
        );
        assert_eq!(report.outcome, Outcome::Completed);
        assert!(report.usage.unwrap().peak_bytes.unwrap() <= LIMIT as u64);
        assert_nothing_left(&layer.handle());
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_of_any_length_passes() {
        const FRAME: usize = 64 * KIB;
        let (layer, reports) = layer(limited());
        let service = layer.layer(service_fn(|_: Request<()>| async {
            let frames = futures_util::stream::iter(
                (0..(1 << 30) / FRAME)
                    .map(|_| Ok::<_, Infallible>(Frame::data(Bytes::from(vec![0; FRAME])))),
            );
            Ok::<_, Infallible>(Response::new(http_body_util::StreamBody::new(frames)))
        }));
        let response = service.oneshot(Request::new(())).await.unwrap();
        let mut body = response.into_body();
        let mut read = 0;
        while let Some(frame) = body.frame().await {
            read += frame.expect("it is not cut off").into_data().unwrap().len();
        }
        drop(body);
        layer.handle().flush_observers();
        let report = reports.recv().unwrap();
        assert_eq!((read, report.outcome), (1 << 30, Outcome::Completed));
        assert!(report.usage.unwrap().peak_bytes.unwrap() < MIB as u64);
        assert_nothing_left(&layer.handle());
    }
}

/// A body whose every frame keeps 1 MiB more.
struct Hoarding {
    kept: Vec<Vec<u8>>,
    waits: bool,
}

impl Body for Hoarding {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.kept.push(vec![0; MIB]);
        if self.waits && self.kept.len() % 2 == 0 {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"x")))))
    }
}

async fn hoard(waits: bool, grpc: bool) -> (ResponseBody<Hoarding>, MemoryLayer) {
    let layer = limited().expose(Expose::Never).build().unwrap();
    let service = layer.layer(service_fn(move |_: Request<()>| async move {
        let kept = Vec::new();
        Ok::<_, Infallible>(Response::new(Hoarding { kept, waits }))
    }));
    let mut request = Request::post("/");
    if grpc {
        request = request.header("content-type", "application/grpc");
    }
    let response = service.oneshot(request.body(()).unwrap()).await.unwrap();
    (response.into_body(), layer)
}

fn outcomes(layer: &MemoryLayer) -> Vec<(Outcome, u64)> {
    layer.handle().snapshot().routes[0]
        .outcomes
        .iter()
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_body_that_keeps_too_much_fails_before_the_next_frame() {
    for waits in [false, true] {
        let (mut body, layer) = hoard(waits, false).await;
        let mut frames = 0;
        let error = loop {
            match body.frame().await.expect("it does not end") {
                Ok(_) => frames += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(frames, if waits { 16 } else { 32 });
        let cause = error.downcast_ref::<Cancelled>().expect("by the layer");
        assert_eq!(cause.reason(), Outcome::MemoryExceeded);
        assert_eq!(cause.limit(), Some(LIMIT as u64));
        assert!(body.frame().await.is_none());
        assert_eq!(outcomes(&layer), [(Outcome::MemoryExceeded, 1)]);
        assert_nothing_left(&layer.handle());
    }
}

#[tokio::test(start_paused = true)]
async fn a_grpc_body_that_keeps_too_much_ends_with_resource_exhausted() {
    let (body, layer) = hoard(false, true).await;
    let read = body.collect().await.expect("trailers, and no error");
    let trailers = read.trailers().expect("gRPC ends with trailers");
    assert_eq!(trailers["grpc-status"], "8");
    // Figures are not for clients.
    assert_eq!(
        trailers["grpc-message"],
        "the request exceeded its memory limit"
    );
    assert_eq!(outcomes(&layer), [(Outcome::MemoryExceeded, 1)]);
}

/// Holds twice the limit, and waits.
async fn greedy(_: Request<()>) -> Answer {
    let kept = vec![0_u8; 2 * LIMIT];
    std::future::pending::<()>().await;
    drop(kept);
    empty()
}

#[tokio::test(start_paused = true)]
async fn the_answer_is_a_problem_without_figures_unless_the_client_may_see_them() {
    for expose in [Expose::Never, Expose::Always] {
        let shown = matches!(expose, Expose::Always);
        let layer = limited().expose(expose).build().unwrap();
        let response = layer
            .layer(service_fn(greedy))
            .oneshot(Request::new(()))
            .await
            .unwrap();
        assert_eq!(response.status(), 500);
        assert_eq!(
            response
                .extensions()
                .get::<CancelReason>()
                .map(|reason| reason.outcome()),
            Some(Outcome::MemoryExceeded)
        );
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let text = std::str::from_utf8(&body).unwrap();
        let common = "{\"type\":\"about:blank\",\"title\":\"Internal Server Error\",\"status\":500,\
            \"detail\":\"the request exceeded its memory limit\",\"durability\":\"permanent\"";
        let rest = text.strip_prefix(common).expect(text);
        if shown {
            let used = rest.strip_prefix(",\"used\":").expect(rest);
            let used = used.strip_suffix(",\"limit\":33554432}").expect(rest);
            let used: usize = used.parse().unwrap();
            assert!((2 * LIMIT..2 * LIMIT + 4 * KIB).contains(&used));
        } else {
            assert_eq!(rest, "}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_grpc_call_is_answered_with_resource_exhausted() {
    let layer = limited().expose(Expose::Always).build().unwrap();
    let request = Request::post("/")
        .header("content-type", "application/grpc")
        .body(())
        .unwrap();
    let response = layer
        .layer(service_fn(greedy))
        .oneshot(request)
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["grpc-status"], "8");
    assert_eq!(
        response.headers()["grpc-message"],
        "the request exceeded its memory limit"
    );
}

#[tokio::test(start_paused = true)]
async fn the_answer_can_be_another_one() {
    let (layer, reports) = layer(limited().limit_response(|exceeded: &LimitContext<'_>| {
        assert_eq!(exceeded.limit(), Some(LIMIT as u64));
        assert!(exceeded.used() >= Some(2 * LIMIT as u64) && !exceeded.is_body_read());
        exceeded.problem(StatusCode::INSUFFICIENT_STORAGE)
    }));
    let (response, report) = send(&layer, &reports, service_fn(greedy), ()).await;
    assert_eq!(response.status(), 507);
    assert_eq!(
        (report.status, report.outcome),
        (Some(507), Outcome::MemoryExceeded)
    );
}

/// A body of frames of 1 MiB, made outside of any request as a server does.
struct Upload {
    frames: usize,
    read: Arc<AtomicUsize>,
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.frames == 0 {
            return Poll::Ready(None);
        }
        self.frames -= 1;
        self.read.fetch_add(1, Relaxed);
        let server = std::thread::spawn(|| Bytes::from(vec![1; MIB]));
        Poll::Ready(Some(Ok(Frame::data(server.join().unwrap()))))
    }
}

fn upload(frames: usize) -> (Upload, Arc<AtomicUsize>) {
    let read = Arc::default();
    let upload = Upload {
        frames,
        read: Arc::clone(&read),
    };
    (upload, read)
}

/// Copies the body into a list, or drops each frame.
async fn read_all(request: Request<RequestBody<Upload>>, keep: bool) -> Answer {
    let mut body = request.into_body();
    let mut kept = Vec::new();
    while let Some(frame) = body.frame().await {
        let data = frame.expect("no error").into_data().unwrap();
        if keep {
            kept.push(data.to_vec());
        }
    }
    empty()
}

#[tokio::test(start_paused = true)]
async fn an_upload_is_not_read_beyond_the_limit_and_is_too_large() {
    let (layer, reports) = layer(limited());
    let service = ServiceBuilder::new()
        .layer(RequestBodyLayer::new())
        .service(service_fn(|request| read_all(request, true)));
    let (body, read) = upload(100);
    let (response, report) = send(&layer, &reports, service, body).await;
    assert_eq!(
        (response.status(), read.load(Relaxed)),
        (StatusCode::PAYLOAD_TOO_LARGE, 31)
    );
    assert!(String::from_utf8_lossy(response.body()).contains("while its body was read"));
    assert!(!String::from_utf8_lossy(response.body()).contains("asked"));
    assert_eq!(report.outcome, Outcome::MemoryExceeded);
    assert!(report.usage.unwrap().peak_bytes.unwrap() <= LIMIT as u64);
    assert_nothing_left(&layer.handle());
}

#[tokio::test(start_paused = true)]
async fn an_answer_with_figures_has_the_frame_that_was_not_read() {
    let told = Arc::new(Mutex::new(None));
    let tell = Arc::clone(&told);
    let layer = limited()
        .expose(Expose::Always)
        .limit_response(move |exceeded: &LimitContext<'_>| {
            // Not asserted here, since a response function may panic.
            *tell.lock().unwrap() = Some((exceeded.asked(), exceeded.is_body_read()));
            exceeded.response()
        })
        .build()
        .unwrap();
    let service = ServiceBuilder::new()
        .layer(layer)
        .layer(RequestBodyLayer::new())
        .service(service_fn(|request| read_all(request, true)));
    let request = Request::post("/").body(upload(100).0).unwrap();
    let response = service.oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(*told.lock().unwrap(), Some((Some(MIB as u64), true)));
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let text = std::str::from_utf8(&body).unwrap();
    let (_, figures) = text
        .split_once(",\"durability\":\"permanent\"")
        .expect(text);
    let used = figures
        .strip_prefix(",\"asked\":1048576,\"used\":")
        .expect(text);
    let used = used.strip_suffix(",\"limit\":33554432}").expect(text);
    let used: usize = used.parse().unwrap();
    assert!((LIMIT - MIB..=LIMIT).contains(&used), "{text}");
}

#[tokio::test(start_paused = true)]
async fn an_upload_of_any_length_passes_if_it_is_not_kept() {
    let (layer, reports) = layer(limited());
    let service = ServiceBuilder::new()
        .layer(RequestBodyLayer::new())
        .service(service_fn(|request| read_all(request, false)));
    let (body, read) = upload(100);
    let (response, report) = send(&layer, &reports, service, body).await;
    assert_eq!(
        (response.status(), read.load(Relaxed)),
        (StatusCode::OK, 100)
    );
    assert_eq!(report.outcome, Outcome::Completed);
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_a_task_reads_ends_the_request() {
    let (layer, reports) = layer(limited());
    let service = ServiceBuilder::new()
        .layer(RequestBodyLayer::new())
        .service(service_fn(async |request: Request<RequestBody<Upload>>| {
            let scope = scope_of(&request);
            let task = scope.spawn(async move { read_all(request, true).await });
            assert!(task.await.is_err());
            std::future::pending::<()>().await;
            empty()
        }));
    let (body, read) = upload(100);
    let (response, report) = send(&layer, &reports, service, body).await;
    assert_eq!(
        (response.status(), read.load(Relaxed)),
        (StatusCode::PAYLOAD_TOO_LARGE, 31)
    );
    assert_eq!(
        (report.outcome, report.tasks_aborted),
        (Outcome::MemoryExceeded, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn a_task_counts_to_its_request_and_is_cancelled_with_it() {
    let (layer, reports) = layer(limited());
    let service = service_fn(async |request: Request<()>| {
        let scope = scope_of(&request);
        let other = scope.clone();
        scope.spawn(async move {
            assert_eq!(other.cancelled().await, Outcome::MemoryExceeded);
        });
        scope.spawn(async move {
            let mut kept = Vec::new();
            loop {
                kept.push(vec![0_u8; MIB]);
                yield_now().await;
            }
        });
        std::future::pending::<Answer>().await
    });
    let (response, report) = send(&layer, &reports, service, ()).await;
    assert_eq!(response.status(), 500);
    assert_eq!(report.outcome, Outcome::MemoryExceeded);
    assert_nothing_left(&layer.handle());
}

mod nested {
    use super::*;

    const SMALL: RoutePolicy = RoutePolicy::new().request_limit(4 * MIB);
    const NONE: RoutePolicy = RoutePolicy::new().disable_request_limit();
    const LARGE: RoutePolicy = RoutePolicy::new().request_limit(100 * MIB);
    const LARGER: RoutePolicy = RoutePolicy::new()
        .disable_request_limit()
        .request_limit(100 * MIB);

    /// The response to a request that takes `mib` inside of `policy`, and its report.
    async fn inside(policy: RoutePolicy, mib: usize) -> (StatusCode, Outcome) {
        let (layer, reports) = layer(limited());
        let service = ServiceBuilder::new()
            .map_response(|response: Response<ResponseBody<Full<Bytes>>>| {
                response.map(|_| Full::<Bytes>::default())
            })
            .layer(policy)
            .service(service_fn(move |_: Request<()>| async move {
                let kept = vec![0_u8; mib * MIB];
                yield_now().await;
                drop(kept);
                empty()
            }));
        let (response, report) = send(&layer, &reports, service, ()).await;
        assert_nothing_left(&layer.handle());
        (response.status(), report.outcome)
    }

    #[tokio::test(start_paused = true)]
    async fn an_inner_limit_is_lower_unless_the_outer_one_is_disabled() {
        const OK: (StatusCode, Outcome) = (StatusCode::OK, Outcome::Completed);
        const ENDED: (StatusCode, Outcome) =
            (StatusCode::INTERNAL_SERVER_ERROR, Outcome::MemoryExceeded);
        for (policy, mib, expected) in [
            (SMALL, 3, OK),
            (SMALL, 5, ENDED),
            (NONE, 200, OK),
            (LARGE, 31, OK),
            (LARGE, 33, ENDED),
            (LARGER, 99, OK),
            (LARGER, 101, ENDED),
            (RoutePolicy::new(), 33, ENDED),
        ] {
            assert_eq!(inside(policy, mib).await, expected, "{policy:?} {mib}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn of_a_limit_around_the_layer_and_the_layers_the_lower_holds() {
        for (policy, mib, expected) in [
            (SMALL, 3, Outcome::Completed),
            (SMALL, 5, Outcome::MemoryExceeded),
            (NONE, 31, Outcome::Completed),
            (LARGE, 33, Outcome::MemoryExceeded),
        ] {
            let (layer, reports) = layer(limited());
            let service = layer.layer(service_fn(move |_: Request<()>| async move {
                let kept = vec![0_u8; mib * MIB];
                yield_now().await;
                drop(kept);
                empty()
            }));
            let response = policy
                .layer(service)
                .oneshot(Request::new(()))
                .await
                .unwrap();
            drop(response);
            layer.handle().flush_observers();
            let outcome = reports.recv().unwrap().outcome;
            assert_eq!(outcome, expected, "{policy:?} {mib}");
            assert_nothing_left(&layer.handle());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_limit_of_a_call_ends_with_the_call() {
        let (layer, reports) = layer(limited());
        let greedy = SMALL.layer(service_fn(greedy));
        let service = service_fn(move |request: Request<()>| {
            let greedy = greedy.clone();
            async move {
                let scope = scope_of(&request);
                let left = scope.request_limit_left().unwrap() as usize;
                assert!((LIMIT - MIB..=LIMIT).contains(&left));
                // The request is not the call: it goes on.
                let response = greedy.oneshot(request).await?;
                assert_eq!(response.status(), 500);
                drop(response);
                assert_eq!(scope.check(), Ok(()));
                let kept = vec![0_u8; 5 * MIB];
                yield_now().await;
                let left = scope.request_limit_left().unwrap() as usize;
                assert!((LIMIT - 6 * MIB..LIMIT - 4 * MIB).contains(&left));
                drop(kept);
                empty()
            }
        });
        let (response, report) = send(&layer, &reports, service, ()).await;
        assert_eq!(
            (response.status(), report.outcome),
            (StatusCode::OK, Outcome::Completed)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn code_in_a_call_sees_its_limit_and_the_request_is_not_cancelled() {
        let (layer, reports) = layer(limited());
        let call = SMALL.layer(service_fn(async |request: Request<()>| {
            let scope = scope_of(&request);
            let kept = vec![0_u8; 5 * MIB];
            let error = scope.check().expect_err("more than 4 MiB");
            assert_eq!(error.limit(), Some(4 * MIB as u64));
            assert!(scope.is_cancelled());
            drop(kept);
            empty()
        }));
        let service = service_fn(move |request: Request<()>| {
            let call = call.clone();
            async move {
                let scope = scope_of(&request);
                drop(call.oneshot(request).await?);
                assert!(!scope.is_cancelled() && !scope.child_token().is_cancelled());
                empty()
            }
        });
        let (_, report) = send(&layer, &reports, service, ()).await;
        assert_eq!(report.outcome, Outcome::Completed);
    }

    #[tokio::test(start_paused = true)]
    async fn a_layer_inside_answers_and_the_request_has_exceeded_its_limit() {
        for inner in [MIB, 100 * MIB] {
            let (outer, reports) = layer(limited());
            let inner = MemoryLayer::builder().request_limit(inner).build().unwrap();
            let service = ServiceBuilder::new()
                .map_response(|response: Response<ResponseBody<Full<Bytes>>>| {
                    response.map(|_| Full::<Bytes>::default())
                })
                .layer(inner)
                .service(service_fn(greedy));
            let (response, report) = send(&outer, &reports, service, ()).await;
            assert_eq!(response.status(), 500);
            assert_eq!(report.outcome, Outcome::MemoryExceeded);
            assert_nothing_left(&outer.handle());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_policy_outside_of_the_layer_bounds_the_request() {
        let (layer, reports) = layer(MemoryLayer::builder());
        let service = ServiceBuilder::new()
            .layer(SMALL)
            .layer(layer.clone())
            .service(service_fn(greedy));
        let response = service.oneshot(Request::new(())).await.unwrap();
        assert_eq!(response.status(), 500);
        drop(response);
        layer.handle().flush_observers();
        assert_eq!(reports.recv().unwrap().outcome, Outcome::MemoryExceeded);
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_request_holds_counts_for_the_handler_that_has_sent_it_too() {
        let (layer, reports) = layer(limited());
        let (again, inner) = (layer.clone(), reports);
        let service = service_fn(move |request: Request<()>| {
            let again = again.clone();
            async move {
                let response = again
                    .layer(service_fn(greedy))
                    .oneshot(Request::new(()))
                    .await?;
                assert_eq!(response.status(), 500);
                drop((request, response));
                yield_now().await;
                empty()
            }
        });
        let response = layer
            .layer(service)
            .oneshot(Request::new(()))
            .await
            .unwrap();
        assert_eq!(response.status(), 500);
        drop(response);
        layer.handle().flush_observers();
        let outcomes: Vec<_> = inner.try_iter().map(|report| report.outcome).collect();
        // A parent's reason comes first, and becomes `Cancelled`.
        assert_eq!(outcomes, [Outcome::Cancelled, Outcome::MemoryExceeded]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_sets_another_limit() {
    let (layer, reports) = layer(limited());
    let ends = AtomicUsize::new(0);
    let service = service_fn(async |request: Request<()>| {
        let scope = scope_of(&request);
        scope.set_request_limit(64 * MIB);
        let kept = vec![0_u8; 40 * MIB];
        yield_now().await;
        assert_eq!(scope.check(), Ok(()));
        let left = scope.request_limit_left().unwrap() as usize;
        assert!((23 * MIB..=24 * MIB).contains(&left));
        scope.set_request_limit(usize::MAX);
        assert_eq!((scope.request_limit_left(), scope.check()), (None, Ok(())));
        // What it holds already counts.
        scope.set_request_limit(39 * MIB);
        assert_eq!(scope.request_limit_left(), Some(0));
        assert!(scope.check().is_err());
        drop(kept);
        ends.fetch_add(1, Relaxed);
        std::future::pending::<Answer>().await
    });
    let (response, report) = send(&layer, &reports, service, ()).await;
    assert_eq!(ends.load(Relaxed), 1, "it was ended by the first limit");
    assert_eq!(
        (response.status(), report.outcome),
        (StatusCode::INTERNAL_SERVER_ERROR, Outcome::MemoryExceeded)
    );
}

#[tokio::test(start_paused = true)]
async fn a_limit_exceeded_once_ends_the_request_although_memory_was_freed() {
    let (layer, reports) = layer(limited());
    let service = service_fn(async |_: Request<()>| {
        drop(vec![0_u8; 40 * MIB]);
        yield_now().await;
        empty()
    });
    let (response, report) = send(&layer, &reports, service, ()).await;
    assert_eq!(
        (response.status(), report.outcome),
        (StatusCode::INTERNAL_SERVER_ERROR, Outcome::MemoryExceeded)
    );
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_comes_first() {
    let (layer, reports) = layer(limited());
    let handle = layer.handle();
    let service = service_fn(move |_: Request<()>| {
        let handle = handle.clone();
        async move {
            let shutdown =
                tokio::spawn(async move { handle.shutdown(std::time::Duration::ZERO).await });
            while !shutdown.is_finished() {
                yield_now().await;
            }
            let kept = vec![0_u8; 40 * MIB];
            yield_now().await;
            drop(kept);
            empty()
        }
    });
    let (response, report) = send(&layer, &reports, service, ()).await;
    assert_eq!(
        (response.status(), report.outcome),
        (StatusCode::INTERNAL_SERVER_ERROR, Outcome::Shutdown)
    );
}

#[tokio::test(start_paused = true)]
async fn buffers_in_blocks_that_the_pool_had_count_as_any_other() {
    for size in [32 * KIB, 512 * KIB] {
        let (layer, reports) = layer(MemoryLayer::builder().request_limit(2 * MIB));
        let pool = layer.handle().pool().clone();
        drop([(); 100].map(|()| pool.buf(size)));
        let misses = pool.stats().buffer_misses;
        let taken = Arc::new(AtomicUsize::new(0));
        let service = service_fn(|request: Request<()>| {
            let (scope, taken) = (scope_of(&request), Arc::clone(&taken));
            async move {
                let mut kept = Vec::new();
                loop {
                    kept.push(scope.arena().buf_with_capacity(size));
                    taken.fetch_add(1, Relaxed);
                    yield_now().await;
                }
            }
        });
        let (response, report) = send(&layer, &reports, service, ()).await;
        assert_eq!(report.outcome, Outcome::MemoryExceeded);
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        let bytes = taken.load(Relaxed) * size;
        assert!(
            (2 * MIB - size..=2 * MIB + size).contains(&bytes),
            "{bytes}"
        );
        assert_eq!(pool.stats().buffer_misses, misses, "all of them waited");
    }
}

/// Announces 1 TiB, and has a byte.
struct Announces(bool);

impl Body for Announces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let first = std::mem::replace(&mut self.0, false);
        Poll::Ready(first.then(|| Ok(Frame::data(Bytes::from_static(b"x")))))
    }

    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::with_exact(1 << 40)
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_announces_a_tebibyte_takes_no_memory_for_it() {
    let (layer, reports) = layer(limited());
    let service = service_fn(|request: Request<Announces>| async move {
        let scope = scope_of(&request);
        let read = scope.arena().collect(request.into_body(), usize::MAX).await;
        // Either way: what was announced, or what came.
        assert!(read.is_err() || read.is_ok_and(|bytes| bytes.len() == 1));
        empty()
    });
    let (response, report) = send(&layer, &reports, service, Announces(true)).await;
    assert_eq!(
        (response.status(), report.outcome),
        (StatusCode::OK, Outcome::Completed)
    );
    let peak = report.usage.unwrap().peak_bytes.unwrap();
    assert!(peak < MIB as u64, "{peak} bytes");
}

#[cfg(feature = "axum")]
#[tokio::test(start_paused = true)]
async fn the_error_of_a_check_is_a_response_of_axum() {
    use axum::{Router, body::Body, routing::get};

    async fn hoards(scope: RequestScope) -> Result<(), Cancelled> {
        let mut kept = Vec::new();
        loop {
            scope.check()?;
            kept.push(vec![1_u8; MIB]);
        }
    }

    let (layer, _reports) = layer(limited());
    let app = Router::new().route("/", get(hoards)).layer(layer.clone());
    let response = app.oneshot(Request::new(Body::empty())).await.unwrap();
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let kind = &response.headers()["content-type"];
    assert_eq!(kind, "application/problem+json");
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let body = String::from_utf8_lossy(&body);
    assert!(body.contains("\"durability\":\"permanent\""), "{body}");
    assert!(!body.contains(&LIMIT.to_string()), "no figures: {body}");
    assert_eq!(outcomes(&layer), [(Outcome::MemoryExceeded, 1)]);
}

#[cfg(feature = "tracing")]
#[tokio::test(start_paused = true)]
async fn the_first_poll_of_a_route_that_could_not_be_stopped_is_warned_of() {
    let collector = Collector::default();
    let _collects = tracing::subscriber::set_default(collector.clone());
    let (layer, reports) = layer(limited().route("/hoard"));
    for _ in 0..3 {
        let service = service_fn(|_: Request<()>| async {
            drop(vec![1_u8; 2 * LIMIT]);
            empty()
        });
        let (response, _) = send(&layer, &reports, service, ()).await;
        assert_eq!(response.status(), StatusCode::OK);
    }
    let events = collector.0.lock().unwrap().clone();
    let warned = events
        .iter()
        .filter(|(_, text)| text.contains("held more than its limit"));
    let warned: Vec<_> = warned.collect();
    assert_eq!(warned.len(), 1, "{events:?}");
    let (level, text) = warned[0];
    assert_eq!(*level, tracing::Level::WARN);
    for part in ["route=\"/hoard\"", "limit=33554432", "RequestScope::check"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert_eq!(layer.handle().snapshot().routes[0].over_limit, 3);
}

#[test]
fn impossible_limits_are_refused() {
    let build = |bytes| {
        MemoryLayer::builder()
            .request_limit(bytes)
            .build()
            .map(drop)
    };
    assert_eq!(build(0), Err(ConfigError::RequestLimitZero));
    assert_eq!(build(1), Ok(()));
    assert_eq!(build(isize::MAX as usize), Ok(()));
    let asked = isize::MAX as usize + 1;
    let error = build(asked).unwrap_err();
    assert!(
        matches!(error, ConfigError::SizeTooLarge { name: "request_limit", asked: a, .. } if a == asked)
    );
}

#[test]
fn requests_and_tasks_on_many_threads_end_and_leave_nothing() {
    const REQUESTS: u64 = 200;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_time()
        .build()
        .unwrap();
    let layer = MemoryLayer::builder()
        .request_limit(MIB)
        .expose(Expose::Never)
        .build()
        .unwrap();
    let handle = layer.handle();
    let service = layer.layer(service_fn(async |request: Request<()>| {
        let scope = scope_of(&request);
        scope.arena().alloc([7_u8; 1000]);
        for _ in 0..4 {
            let of_task = scope.clone();
            scope.spawn(async move {
                let mut kept = Vec::new();
                // Each task of four may hold a quarter, and another 64 KiB that no other has seen.
                while of_task.check().is_ok() {
                    kept.push(vec![0_u8; 10 * KIB]);
                    if kept.len() % 8 == 0 {
                        yield_now().await;
                    }
                    assert!(kept.len() < 200);
                }
            });
        }
        std::future::pending::<Answer>().await
    }));
    runtime.block_on(async {
        let requests: Vec<_> = (0..REQUESTS)
            .map(|_| tokio::spawn(service.clone().oneshot(Request::new(()))))
            .collect();
        for request in requests {
            let response = request.await.unwrap().unwrap();
            assert_eq!(response.status(), 500);
        }
    });
    // The tasks have been woken, and end on their own.
    runtime.block_on(async {
        while handle.snapshot().in_flight > 0 {
            yield_now().await;
        }
    });
    drop(runtime);
    assert_eq!(outcomes(&layer), [(Outcome::MemoryExceeded, REQUESTS)]);
    assert_nothing_left(&handle);
}
