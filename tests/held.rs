//! What a request holds, beside an oracle that owns every block.
//!
//! The oracle is the allocator below the tracking one: it writes the owner in front of each block, so
//! it knows who allocated what is freed, wherever that is.
#![expect(unsafe_code, reason = "the oracle is an allocator")]

#[path = "support/random.rs"]
mod random;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    convert::Infallible,
    hint::black_box,
    pin::Pin,
    ptr,
    sync::{
        Arc, Barrier, Mutex,
        atomic::{AtomicI64, AtomicUsize, Ordering::SeqCst},
        mpsc,
    },
    task::{Context, Poll},
    thread,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full};
use tower::{Layer, ServiceExt, service_fn};
use tower_memory::{
    Account, MemoryLayer, RequestScope, ScopeReport, TrackingAllocator, scope::ArenaSource,
};

use self::random::Random;

#[global_allocator]
static ALLOC: TrackingAllocator<Owning> = TrackingAllocator::new(Owning);

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
/// What the layer and the runtime themselves may hold for a request.
const OWN: i64 = 2 * KIB as i64;

/// The oracle.
struct Owning;

/// One of the tests, whose blocks are told apart from those of others.
struct Truth {
    held: AtomicI64,
    peak: AtomicI64,
}

static TRUTHS: [Truth; 64] = [const {
    Truth {
        held: AtomicI64::new(0),
        peak: AtomicI64::new(0),
    }
}; 64];
static TAKEN: AtomicUsize = AtomicUsize::new(1);

thread_local! {
    static MINE: Cell<usize> = const { Cell::new(0) };
}

impl Truth {
    fn add(owner: usize, bytes: i64) {
        if owner != 0 {
            let truth = &TRUTHS[owner];
            let held = truth.held.fetch_add(bytes, SeqCst) + bytes;
            truth.peak.fetch_max(held, SeqCst);
        }
    }
}

const fn room(layout: Layout) -> usize {
    if layout.align() > 16 {
        layout.align()
    } else {
        16
    }
}

const fn with_room(layout: Layout, size: usize) -> Layout {
    // SAFETY: the alignment is one already, and no test asks for sizes near the maximum.
    unsafe { Layout::from_size_align_unchecked(size + room(layout), room(layout)) }
}

// SAFETY: each block is one of the system's, with its owner in front.
unsafe impl GlobalAlloc for Owning {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let owner = MINE.try_with(Cell::get).unwrap_or(0);
        // SAFETY: the block is as large as the layout and the room in front of it.
        unsafe {
            let block = System.alloc(with_room(layout, layout.size()));
            if block.is_null() {
                return ptr::null_mut();
            }
            block.cast::<usize>().write(owner);
            Truth::add(owner, layout.size() as i64);
            block.add(room(layout))
        }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: allocated above.
        unsafe {
            let block = ptr.sub(room(layout));
            Truth::add(block.cast::<usize>().read(), -(layout.size() as i64));
            System.dealloc(block, with_room(layout, layout.size()));
        }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let owner = MINE.try_with(Cell::get).unwrap_or(0);
        // SAFETY: allocated above.
        unsafe {
            let block = ptr.sub(room(layout));
            let former = block.cast::<usize>().read();
            let old = with_room(layout, layout.size());
            let block = System.realloc(block, old, size + room(layout));
            if block.is_null() {
                return ptr::null_mut();
            }
            block.cast::<usize>().write(owner);
            Truth::add(former, -(layout.size() as i64));
            Truth::add(owner, size as i64);
            block.add(room(layout))
        }
    }
}

/// Runs `f` as code of a request.
fn mine<R>(owner: usize, f: impl FnOnce() -> R) -> R {
    struct Restore(usize);
    impl Drop for Restore {
        fn drop(&mut self) {
            MINE.set(self.0);
        }
    }
    let _restore = Restore(MINE.replace(owner));
    f()
}

fn truth(owner: usize) -> (i64, i64) {
    let truth = &TRUTHS[owner];
    (truth.held.load(SeqCst), truth.peak.load(SeqCst))
}

fn new_owner() -> usize {
    TAKEN.fetch_add(1, SeqCst)
}

/// Code of a request: a future or a body.
struct Mine<F> {
    owner: usize,
    inner: Option<Pin<Box<F>>>,
}

impl<F> Mine<F> {
    fn new(owner: usize, inner: F) -> Self {
        // Not the request's: the box is as large as what a framework allocates.
        let inner = Some(mine(0, || Box::pin(inner)));
        Self { owner, inner }
    }
}

impl<F> Drop for Mine<F> {
    fn drop(&mut self) {
        mine(self.owner, || self.inner = None);
    }
}

impl<F: Future> Future for Mine<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let owner = self.owner;
        mine(owner, || self.inner.as_mut().unwrap().as_mut().poll(cx))
    }
}

impl<B: Body> Body for Mine<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let owner = self.owner;
        mine(owner, || {
            self.inner.as_mut().unwrap().as_mut().poll_frame(cx)
        })
    }
}

/// Frames that are made when they are asked for.
struct Frames<F> {
    left: usize,
    make: F,
}

impl<F: FnMut() -> Bytes + Unpin> Body for Frames<F> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.left -= 1;
        let data = (self.make)();
        Poll::Ready(Some(Ok(Frame::data(data))))
    }
}

type Job = Box<dyn FnMut() + Send>;

/// A thread that is not the request's: the server's connection, or a task that it knows nothing of.
struct Other(Mutex<(mpsc::SyncSender<Job>, mpsc::Receiver<Job>)>);

impl Other {
    fn new() -> Self {
        // With room for one, so that sending allocates nothing.
        let (sender, jobs) = mpsc::sync_channel::<Job>(1);
        let (done, back) = mpsc::sync_channel(1);
        thread::spawn(move || {
            for mut job in jobs {
                job();
                done.send(job).unwrap();
            }
        });
        Self(Mutex::new((sender, back)))
    }

    /// Runs `f` there, while the caller waits. What this allocates itself is freed by the caller.
    fn run<R: Send + 'static>(&self, f: impl FnOnce() -> R + Send + 'static) -> R {
        let result = Arc::new(Mutex::new(None));
        let (slot, mut f) = (Arc::clone(&result), Some(f));
        let job = Box::new(move || *slot.lock().unwrap() = f.take().map(|f| f()));
        let thread = self.0.lock().unwrap();
        thread.0.send(job).unwrap();
        drop(thread.1.recv().unwrap());
        let result = result.lock().unwrap().take();
        result.unwrap()
    }
}

async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|_| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        Poll::Pending
    })
    .await;
}

/// The figures of a request, and what they should be.
#[derive(Debug)]
struct Seen {
    /// At the end of the handler.
    held: Option<u64>,
    held_truth: i64,
    /// Of the whole request.
    peak: Option<u64>,
    peak_truth: i64,
}

impl Seen {
    #[track_caller]
    fn is_true(&self, tolerance: usize) {
        let tolerance = tolerance as i64 + OWN;
        let (held, peak) = (self.held.unwrap() as i64, self.peak.unwrap() as i64);
        assert!((held - self.held_truth).abs() <= tolerance, "{self:?}");
        assert!((peak - self.peak_truth).abs() <= tolerance, "{self:?}");
    }

    #[track_caller]
    fn peak_is_about(&self, bytes: usize, tolerance: usize) {
        let peak = self.peak.unwrap() as i64;
        let tolerance = tolerance as i64 + OWN;
        assert!((peak - bytes as i64).abs() <= tolerance, "{self:?}");
    }
}

/// Sends one request through a layer, and frees its frames on another thread.
fn request<F, B>(handler: impl FnOnce(RequestScope, Arc<Other>) -> F) -> Seen
where
    F: Future<Output = B>,
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + std::fmt::Debug,
{
    let owner = new_owner();
    let other = Arc::new(Other::new());
    let (sender, reports) = mpsc::channel();
    let layer = MemoryLayer::builder()
        .observe(move |report: &ScopeReport| drop(sender.send(report.clone())))
        .build()
        .unwrap();
    let handler = Mutex::new(Some(handler));
    let held = Mutex::new((None, 0));
    let service = layer.layer(service_fn(|request: Request<()>| {
        let scope = request.extensions().get::<RequestScope>().unwrap().clone();
        let handler = handler.lock().unwrap().take().unwrap();
        let (held, inner) = (&held, handler(scope.clone(), Arc::clone(&other)));
        let handled = Mine::new(owner, async move {
            let body = inner.await;
            *held.lock().unwrap() = (scope.usage().unwrap().held_bytes, truth(owner).0);
            body
        });
        async move { Ok::<_, Infallible>(Response::new(Mine::new(owner, handled.await))) }
    }));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut called = Box::pin(service.oneshot(Request::new(())));
        // Polled until it is ready, since the handlers' own pauses wake nothing.
        let response = std::future::poll_fn(|cx| {
            cx.waker().wake_by_ref();
            called.as_mut().poll(cx)
        })
        .await
        .unwrap();
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            let data = frame.unwrap().into_data().unwrap();
            other.run(move || drop(data));
        }
        drop(body);
    });
    let report = reports.recv().unwrap();
    let (held, held_truth) = *held.lock().unwrap();
    let peak = report.usage.unwrap().peak_bytes;
    let counted = layer.handle().snapshot().routes[0].peak_bytes.clone();
    assert_eq!(counted.map(|counted| counted.total), peak);
    Seen {
        held,
        held_truth,
        peak,
        peak_truth: truth(owner).1,
    }
}

fn empty() -> Full<Bytes> {
    Full::default()
}

#[test]
fn case_1_a_body_of_one_block_that_the_connection_frees() {
    let seen = request(|_, _| async { Full::new(Bytes::from(vec![1_u8; MIB])) });
    seen.is_true(0);
    seen.peak_is_about(MIB, 0);
}

#[test]
fn case_2_a_stream_holds_one_frame() {
    for (count, size) in [(64, 16 * KIB), (1000, 200), (300, 64 * KIB)] {
        let seen = request(move |_, _| async move {
            Frames {
                left: count,
                make: move || Bytes::from(vec![1_u8; size]),
            }
        });
        seen.is_true(0);
        seen.peak_is_about(size, 0);
    }
}

#[test]
fn a_stream_of_frames_split_off_a_buffer_holds_a_buffer() {
    let seen = request(move |_, _| async move {
        let mut buffer = bytes::BytesMut::new();
        let make = move || {
            buffer.reserve(4 * KIB);
            buffer.resize(4 * KIB, 1);
            buffer.split().freeze()
        };
        Frames { left: 10_000, make }
    });
    seen.peak_is_about(4 * KIB, 4 * KIB);
}

#[test]
fn a_stream_of_static_data_takes_nothing_from_what_the_handler_holds() {
    static PART: [u8; 16 * KIB] = [1; 16 * KIB];
    let seen = request(|_, _| async {
        let kept: Vec<_> = (0..100).map(|_| vec![1_u8; KIB]).collect();
        let mut more = Vec::new();
        let mut count = 0;
        let make = move || {
            count += 1;
            if count == 500 {
                // Added to what was kept, not to what seems to be left of it.
                more.push((kept.len(), vec![1_u8; 50 * KIB]));
            }
            Bytes::from_static(&PART)
        };
        Frames { left: 1000, make }
    });
    seen.is_true(0);
    seen.peak_is_about(150 * KIB, 4 * KIB);
}

#[test]
fn case_3_an_upload_collected_into_one_block() {
    let seen = request(|_, other| async move {
        let mut all = Vec::new();
        for _ in 0..512 {
            let part = other.run(|| vec![1_u8; 8 * KIB]);
            all.extend_from_slice(&part);
            drop(part);
            yield_now().await;
        }
        black_box(&all);
        drop(all);
        empty()
    });
    seen.is_true(64 * KIB / 8);
    seen.peak_is_about(4 * MIB, 0);
}

#[test]
fn cases_4_and_5_an_upload_that_is_passed_on() {
    for copied in [false, true] {
        let seen = request(move |_, other| async move {
            for _ in 0..512 {
                let mut part = other.run(|| vec![1_u8; 8 * KIB]);
                if copied {
                    part = part.clone();
                }
                other.run(move || drop(part));
                yield_now().await;
            }
            empty()
        });
        seen.is_true(8 * KIB);
    }
}

#[test]
fn case_6_small_messages_that_others_free_make_the_figure_unknown() {
    let handler = |tasks: bool| {
        move |scope: RequestScope, other: Arc<Other>| async move {
            let send = async move {
                for _ in 0..20_000 {
                    let message = vec![1_u8; 200];
                    other.run(move || drop(message));
                    yield_now().await;
                }
            };
            if tasks {
                let mut held = Box::pin(scope.hold().run(send));
                std::future::poll_fn(|cx| held.as_mut().poll(cx)).await;
            } else {
                send.await;
            }
            empty()
        }
    };
    for tasks in [false, true] {
        let seen = request(handler(tasks));
        assert_eq!((seen.held, seen.peak), (None, None), "{seen:?}");
    }
}

#[test]
fn case_7_freed_rows_of_others_make_no_room() {
    let seen = request(|_, other| async move {
        let rows = other.run(|| (0..4000).map(|_| vec![1_u8; 512]).collect::<Vec<_>>());
        drop(rows);
        yield_now().await;
        let own: Vec<_> = (0..2000).map(|_| vec![1_u8; 512]).collect();
        yield_now().await;
        drop(own);
        empty()
    });
    seen.is_true(0);
    seen.peak_is_about(2000 * (512 + 24), 0);
}

#[test]
fn case_8_a_cache_filled_by_a_request_holds_what_it_was_given() {
    static CACHE: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());
    let seen = request(|_, _| async {
        let pieces: Vec<_> = (0..256).map(|_| vec![1_u8; 4 * KIB]).collect();
        *CACHE.lock().unwrap() = pieces;
        yield_now().await;
        empty()
    });
    seen.is_true(0);
    assert!(seen.held.unwrap() >= MIB as u64, "{seen:?}");
}

#[test]
fn case_9_a_block_that_grows_and_goes_in_one_poll_is_in_the_peak() {
    let seen = request(|_, _| async {
        let mut all = Vec::new();
        (0..4 * MIB).for_each(|i| all.push(i as u8));
        drop(black_box(all));
        empty()
    });
    seen.is_true(0);
    seen.peak_is_about(4 * MIB, 0);
}

#[test]
fn case_10_parts_of_others_copied_into_small_pieces() {
    let seen = request(|_, other| async move {
        let mut own = Vec::new();
        for _ in 0..64 {
            let part = other.run(|| vec![1_u8; 64 * KIB]);
            part.chunks(KIB).for_each(|piece| own.push(piece.to_vec()));
            drop(part);
            yield_now().await;
        }
        drop(own);
        empty()
    });
    seen.is_true(0);
    seen.peak_is_about(4 * MIB + 96 * KIB, 0);
}

/// What three closures of one request hold at the same time.
fn three_hold(make: fn() -> Vec<Vec<u8>>, tolerance: usize) {
    let seen = request(move |scope, _| async move {
        let at_once = Arc::new(Barrier::new(3));
        // The second round holds as much, and not twice as much.
        for _ in 0..2 {
            let tasks: Vec<_> = (0..3)
                .map(|_| {
                    let (at_once, owner) = (Arc::clone(&at_once), MINE.get());
                    scope.spawn_blocking(move || {
                        mine(owner, || {
                            let held = make();
                            at_once.wait();
                            drop(held);
                            at_once.wait();
                        });
                    })
                })
                .collect();
            for task in tasks {
                task.await.unwrap();
            }
        }
        empty()
    });
    seen.peak_is_about(30 * MIB, tolerance);
}

#[test]
fn three_tasks_that_hold_10_mib_each_at_once_hold_30() {
    three_hold(|| vec![vec![1_u8; 10 * MIB]], 8 * KIB);
    // In small blocks, each thread is seen up to the last 64 KiB. Their vectors are seen exactly.
    let vectors = 3 * 10 * KIB * size_of::<Vec<u8>>();
    three_hold(
        || (0..10 * KIB).map(|_| vec![1_u8; KIB]).collect(),
        vectors + 3 * 64 * KIB,
    );
}

#[test]
fn a_large_block_that_outlives_its_request_is_credited_to_no_later_one() {
    let kept = Arc::new(Mutex::new(None));
    let first = request({
        let kept = Arc::clone(&kept);
        |_, _| async move {
            *kept.lock().unwrap() = Some(vec![1_u8; MIB]);
            empty()
        }
    });
    first.peak_is_about(MIB, 0);
    // The same thread's next request takes the recycled scope.
    let second = request(|_, other| async move {
        let own = vec![1_u8; 300 * KIB];
        let foreign = kept.lock().unwrap().take();
        other.run(move || drop(foreign));
        yield_now().await;
        drop(own);
        empty()
    });
    second.is_true(0);
    second.peak_is_about(300 * KIB, 0);
}

#[test]
fn statistics_have_the_peaks_of_a_routes_requests() {
    let (sender, reports) = mpsc::channel();
    let layer = MemoryLayer::builder()
        .observe(move |report: &ScopeReport| drop(sender.send(report.clone())))
        .build()
        .unwrap();
    let service = layer.layer(service_fn(|request: Request<usize>| async move {
        // The same in sum, in parts that are held together or one after the other.
        for _ in 0..8 / request.body() {
            drop(vec![vec![0_u8; 100 * KIB]; *request.body()]);
        }
        Ok::<_, Infallible>(Response::new(empty()))
    }));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut peaks = Vec::new();
    for parts in [1, 4, 2] {
        let response = runtime.block_on(service.clone().oneshot(Request::new(parts)));
        drop(response.unwrap());
        let usage = reports.recv().unwrap().usage.unwrap();
        let peak = usage.peak_bytes.unwrap() as usize;
        assert!((parts * 100 * KIB..=parts * 100 * KIB + OWN as usize).contains(&peak));
        peaks.push(peak as u64);
    }
    let figures = layer.handle().snapshot().routes[0]
        .peak_bytes
        .clone()
        .unwrap();
    assert_eq!((figures.count, figures.max), (3, peaks[1]));
    assert_eq!(figures.total, peaks.iter().sum::<u64>());
}

#[test]
fn the_arena_is_held_with_its_capacity() {
    let (sender, reports) = mpsc::channel();
    let layer = MemoryLayer::builder()
        .observe(move |report: &ScopeReport| drop(sender.send(report.clone())))
        .build()
        .unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut extra = Vec::new();
    for _ in 0..8 {
        let service = layer.layer(service_fn(|request: Request<()>| async move {
            let scope = request.extensions().get::<RequestScope>().unwrap();
            scope.arena().alloc_slice_copy(&[1_u8; 40 * KIB]);
            Ok::<_, Infallible>(Response::new(empty()))
        }));
        drop(runtime.block_on(service.oneshot(Request::new(()))).unwrap());
        let report = reports.recv().unwrap();
        let held = report.usage.unwrap().held_bytes.unwrap() as usize;
        // The request frees a little that the server allocated.
        assert!(held + OWN as usize >= report.arena.capacity, "{report:?}");
        extra.push((
            report.arena.source,
            held.saturating_sub(report.arena.capacity),
        ));
    }
    // A list of the crate that happens to grow is paid for by the request that makes it.
    for source in [ArenaSource::Fresh, ArenaSource::Pool] {
        let of_source = extra.iter().filter(|(of, _)| *of == source);
        let least = of_source.map(|(_, extra)| *extra).min().unwrap();
        assert!(least <= 2 * OWN as usize, "{extra:?}");
    }
}

/// Runs `handler` in a request of a layer whose pool has the blocks that it needs.
fn with_waiting_blocks<B>(handler: impl Fn(RequestScope) -> B + Clone + Send) -> ScopeReport
where
    B: Body<Data = Bytes, Error = Infallible> + Send + Unpin + 'static,
{
    let (sender, reports) = mpsc::channel();
    let layer = MemoryLayer::builder()
        .observe(move |report: &ScopeReport| drop(sender.send(report.clone())))
        .build()
        .unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut last = None;
    for _ in 0..5 {
        let misses = layer.handle().pool().stats().buffer_misses;
        let handler = handler.clone();
        let service = layer.layer(service_fn(move |request: Request<()>| {
            let scope = request.extensions().get::<RequestScope>().unwrap().clone();
            let response = Response::new(handler(scope));
            async move { Ok::<_, Infallible>(response) }
        }));
        runtime.block_on(async {
            let mut body = service.oneshot(Request::new(())).await.unwrap().into_body();
            while let Some(frame) = body.frame().await {
                drop(frame.unwrap());
            }
        });
        let report = reports.recv().unwrap();
        last = Some((report, layer.handle().pool().stats().buffer_misses - misses));
    }
    let (report, misses) = last.unwrap();
    assert_eq!(
        misses, 0,
        "the last request took all of its blocks from the pool"
    );
    report
}

#[test]
fn blocks_that_the_pool_had_are_held_until_they_are_dropped() {
    for size in [4 * KIB, 32 * KIB, 64 * KIB, 256 * KIB] {
        let held = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&held);
        let report = with_waiting_blocks(move |scope| {
            let before = scope.usage().unwrap().held_bytes.unwrap();
            let mut buffers: Vec<_> = (0..8)
                .map(|_| scope.arena().buf_with_capacity(size))
                .collect();
            let full = scope.usage().unwrap().held_bytes.unwrap();
            buffers.truncate(4);
            let half = scope.usage().unwrap().held_bytes.unwrap();
            drop(buffers);
            let none = scope.usage().unwrap().held_bytes.unwrap();
            *seen.lock().unwrap() = [full, half, none]
                .map(|held| (held - before) as usize)
                .to_vec();
            empty()
        });
        let held = held.lock().unwrap().clone();
        for (held, blocks) in held.iter().zip([8, 4, 0]) {
            assert!(
                held.abs_diff(blocks * size) <= OWN as usize,
                "{size}: {held} for {blocks}"
            );
        }
        let peak = report.usage.unwrap().peak_bytes.unwrap() as usize;
        assert!(peak >= 8 * size, "{report:?}");
        assert!(peak >= report.arena.bytes, "{report:?}");
    }
}

#[test]
fn a_stream_of_blocks_that_the_pool_had_holds_one() {
    for size in [1000, 3000, 20 * KIB, 100 * KIB] {
        let report = with_waiting_blocks(move |scope| {
            let make = move || {
                let mut part = scope.arena().buf();
                part.extend_from_slice(&vec![1; size]);
                part.freeze()
            };
            Frames { left: 3000, make }
        });
        let peak = report
            .usage
            .unwrap()
            .peak_bytes
            .unwrap_or_else(|| panic!("{size}: {report:?}")) as usize;
        // The part, what it is copied from, and the block that it grew from.
        assert!(peak <= 5 * size + 4 * KIB, "{size}: {report:?}");
    }
}

#[test]
fn what_closed_requests_still_own_is_counted_by_route_until_it_is_freed() {
    let layer = MemoryLayer::new();
    let kept = Mutex::new(Vec::new());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let call = |path: &'static str, size: usize| {
        let kept = &kept;
        let service = layer.layer(service_fn(move |request: Request<()>| async move {
            let scope = request.extensions().get::<RequestScope>().unwrap();
            scope.set_route(path);
            scope.arena().alloc_slice_copy(&vec![1_u8; 3 * size]);
            kept.lock().unwrap().push((path, vec![1_u8; size]));
            let mut part = scope.arena().buf();
            part.extend_from_slice(&vec![1_u8; size]);
            Ok::<_, Infallible>(Response::new(Full::new(part.freeze())))
        }));
        let answered = runtime.block_on(service.oneshot(Request::new(()))).unwrap();
        let body = runtime.block_on(answered.into_body().collect());
        body.unwrap().to_bytes()
    };
    let after = |path| {
        let rows = layer.handle().snapshot().routes;
        let row = rows.into_iter().find(|row| row.route == path).unwrap();
        row.held_after_close.unwrap() as usize
    };
    let slow = call("/large", MIB);
    let block = after("/large") - MIB;
    assert!(
        (MIB..=2 * MIB).contains(&block),
        "the client's bytes: {block}"
    );
    drop(slow);
    assert_eq!(after("/large"), MIB, "what the handler has kept");
    for _ in 0..200 {
        drop(call("/many", 100 * KIB));
        drop(call("/small", 10 * KIB));
    }
    assert_eq!(after("/many"), 200 * 100 * KIB);
    assert_eq!(after("/small"), 0);
    kept.lock().unwrap().retain(|(path, _)| *path == "/large");
    assert_eq!((after("/large"), after("/many")), (MIB, 0));
    // On another thread.
    thread::scope(|scope| drop(scope.spawn(|| kept.lock().unwrap().clear())));
    assert_eq!(after("/large"), 0);
}

#[test]
fn a_large_block_that_the_pool_had_is_held_until_another_thread_drops_it() {
    let other = Arc::new(Other::new());
    with_waiting_blocks(move |scope| {
        let mut body = scope.arena().buf_with_capacity(256 * KIB);
        body.extend_from_slice(&[1; 200 * KIB]);
        let bytes = body.freeze();
        let held = || scope.usage().unwrap().held_bytes.unwrap() as usize;
        let before = held();
        other.run(move || drop(bytes));
        assert!((before - held()).abs_diff(256 * KIB) <= OWN as usize);
        empty()
    });
}

/// A server on a socket of the loopback interface, and the reports of its requests.
async fn serve(router: axum::Router) -> (std::net::SocketAddr, mpsc::Receiver<ScopeReport>) {
    let (sender, reports) = mpsc::channel();
    let layer = MemoryLayer::builder()
        .observe(move |report: &ScopeReport| drop(sender.send(report.clone())))
        .build()
        .unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let served = axum::serve(listener, router.layer(layer));
    tokio::spawn(async move { served.await.unwrap() });
    (address, reports)
}

type Client = hyper_util::client::legacy::Client<
    hyper_util::client::legacy::connect::HttpConnector,
    Full<Bytes>,
>;

fn client(http2: bool) -> Client {
    hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new())
        .http2_only(http2)
        .build_http()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_over_tcp_holds_one_frame() {
    let router = axum::Router::new().route(
        "/{count}",
        axum::routing::get(|count: axum::extract::Path<usize>| async move {
            let make = || Bytes::from(vec![1_u8; 16 * KIB]);
            axum::body::Body::new(Frames { left: *count, make })
        }),
    );
    let (address, reports) = serve(router).await;
    for (http2, frames) in [(false, 100_000), (true, 10_000)] {
        let uri = format!("http://{address}/{frames}").parse().unwrap();
        let mut body = client(http2).get(uri).await.unwrap().into_body();
        let mut read = 0;
        while let Some(frame) = body.frame().await {
            read += frame.unwrap().into_data().unwrap().len();
        }
        assert_eq!(read, frames * 16 * KIB);
        let usage = reports.recv().unwrap().usage.unwrap();
        assert!(usage.bytes_allocated >= read as u64, "{usage:?}");
        let peak = usage.peak_bytes.unwrap();
        let most = (16 * KIB) as u64;
        assert!((most..most + 1500).contains(&peak), "{usage:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_was_dropped_is_no_room_for_what_is_held_later() {
    let router = axum::Router::new().route(
        "/",
        axum::routing::post(|mut body: axum::body::Body| async move {
            while let Some(frame) = body.frame().await {
                drop(frame.unwrap());
            }
            drop(body);
            drop(black_box(
                (0..200).map(|_| vec![1_u8; 1000]).collect::<Vec<_>>(),
            ));
        }),
    );
    let (address, reports) = serve(router).await;
    for http2 in [false, true] {
        for size in [0, 100_000, 400_000, 10_000_000] {
            let upload = Full::new(Bytes::from(vec![1_u8; size]));
            let request = Request::post(format!("http://{address}/"))
                .body(upload)
                .unwrap();
            let response = client(http2).request(request).await.unwrap();
            assert_eq!(response.status(), 200);
            let shown = response.headers()["x-alloc-peak"].to_str().unwrap();
            let peak: u64 = shown.parse().unwrap();
            // 200 blocks of 1000 bytes, and their vector.
            assert!(
                (204_800..206_500).contains(&peak),
                "http2 {http2}, {size}: {peak}"
            );
            drop(response);
            let usage = reports.recv().unwrap().usage.unwrap();
            assert_eq!(usage.peak_bytes, Some(peak));
        }
    }
}

#[test]
fn what_one_poll_hands_on_is_not_added_up_for_ever() {
    let account = Account::new();
    for _ in 0..100_000 {
        let message = account.in_scope(|| vec![0_u8; 1000]);
        drop(message);
    }
    assert_eq!(account.usage().unwrap().peak_bytes, None);
}

#[test]
fn a_forgotten_guard_credits_no_later_account() {
    let (sender, done) = mpsc::channel();
    thread::spawn(move || {
        let forgotten = Box::new(Account::new());
        #[expect(clippy::mem_forget, reason = "a guard that is never dropped")]
        std::mem::forget(forgotten.enter());
        drop(forgotten);
        let others = vec![0_u8; 1000];
        for _ in 0..100 {
            let later = Box::new(Account::new());
            assert_eq!(later.usage().unwrap().allocations, 0);
            let kept = later.in_scope(|| vec![0_u8; 50]);
            thread::scope(|threads| {
                threads.spawn(|| assert_eq!(later.usage().unwrap().bytes_allocated, 50));
            });
            drop(kept);
        }
        drop(others);
        sender.send(()).unwrap();
        // What was forgotten can be reached from this thread, so it is no leak.
        loop {
            thread::park();
        }
    });
    done.recv().expect("no panic");
}

#[test]
fn an_account_is_left_with_its_last_guard() {
    let account = Account::new();
    let bytes = || account.usage().unwrap().bytes_allocated;
    let (first, second) = (account.enter(), account.enter());
    drop(first);
    let kept = black_box(String::with_capacity(64));
    drop(second);
    assert_eq!(bytes(), 64);
    drop(black_box(String::with_capacity(100)));
    assert_eq!(bytes(), 64);
    drop(kept);
}

/// A block, and the accounts that were entered when it got its size.
type Owned = (Vec<u8>, Vec<usize>);

#[test]
fn large_blocks_are_held_by_who_allocated_them_wherever_they_are_freed() {
    const ACCOUNTS: usize = 5;
    let accounts: [Account; ACCOUNTS] = std::array::from_fn(|_| Account::new());
    let expected: [AtomicI64; ACCOUNTS] = [const { AtomicI64::new(0) }; ACCOUNTS];
    let shared: Mutex<Vec<Owned>> = Mutex::new(Vec::with_capacity(100_000));
    let count = |owners: &[usize], bytes: i64| {
        owners.iter().for_each(|owner| {
            expected[*owner].fetch_add(bytes, SeqCst);
        });
    };
    thread::scope(|threads| {
        for seed in 0..4 {
            let (accounts, shared) = (&accounts, &shared);
            threads.spawn(move || {
                let mut random = Random(seed);
                for _ in 0..3000 {
                    let size = (64 + random.below(200)) * KIB + random.below(100);
                    let owners: Vec<usize> =
                        (0..ACCOUNTS).filter(|_| random.below(3) == 0).collect();
                    let taken = (random.below(3) > 0)
                        .then(|| {
                            let mut blocks = shared.lock().unwrap();
                            let count = blocks.len();
                            (count > 0).then(|| blocks.swap_remove(random.below(count)))
                        })
                        .flatten();
                    let resize = random.below(2) == 0;
                    // Only the large blocks are allocated within the accounts.
                    let guards: Vec<_> = owners.iter().map(|at| accounts[*at].enter()).collect();
                    let (block, former) = match taken {
                        None => (Some(Vec::<u8>::with_capacity(size)), None),
                        Some((mut block, former)) => {
                            let old = block.capacity() as i64;
                            let block = if resize {
                                block.clear();
                                block.shrink_to(0);
                                block.reserve_exact(size);
                                Some(block)
                            } else {
                                drop(block);
                                None
                            };
                            (block, Some((former, old)))
                        }
                    };
                    drop(guards);
                    if let Some((former, old)) = former {
                        count(&former, -old);
                    }
                    if let Some(block) = block {
                        count(&owners, block.capacity() as i64);
                        shared.lock().unwrap().push((block, owners));
                    }
                }
            });
        }
    });
    let held = || {
        accounts
            .each_ref()
            .map(|account| account.usage().unwrap().held_bytes.unwrap() as i64)
    };
    assert_eq!(held(), expected.each_ref().map(|bytes| bytes.load(SeqCst)));
    shared.lock().unwrap().clear();
    assert_eq!(held(), [0; ACCOUNTS]);
}
