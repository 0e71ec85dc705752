//! The shop, and the ways to protect it.

use std::{
    fs, io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::{Path, Request},
    http::StatusCode,
    middleware::{Next, from_fn},
    response::{IntoResponse, Response},
    routing::get,
};
use tower_memory::{
    MemoryLayer, Outcome, ScopeReport, account::process_usage, limit::ProcessLimit,
    observe::Snapshot,
};

const MIB: u64 = 1 << 20;

/// The highest number of live bytes so far, and how many milliseconds after the start that was.
static PEAK: AtomicU64 = AtomicU64::new(0);
static PEAK_AT: AtomicU64 = AtomicU64::new(0);

fn live() -> u64 {
    process_usage().map_or(0, |heap| heap.bytes_allocated - heap.bytes_deallocated)
}

/// Takes memory in three steps, around a database that answers after `millis`.
async fn work(tenths_of_mib: usize, millis: u64) -> Vec<u8> {
    let mut kept = Vec::new();
    for _ in 0..3 {
        kept.push(vec![7_u8; (tenths_of_mib << 20) / 30]);
        tokio::time::sleep(Duration::from_millis(millis / 3)).await;
    }
    vec![b'x'; 4096]
}

async fn item(Path(n): Path<u64>) -> Vec<u8> {
    work(6, 150 + n % 5 * 20).await
}

async fn report() -> Vec<u8> {
    work(80, 300).await
}

/// Takes more and more.
async fn greedy() {
    let mut kept = Vec::new();
    loop {
        kept.push(vec![7_u8; 1 << 20]);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// 4 MiB, for clients that read slowly.
async fn feed() -> Vec<u8> {
    vec![b'x'; 4 << 20]
}

/// How much greedy requests held that were ended.
struct Greedy {
    ended: AtomicU64,
    most: AtomicU64,
    least: AtomicU64,
}

static GREEDY: Greedy = Greedy {
    ended: AtomicU64::new(0),
    most: AtomicU64::new(0),
    least: AtomicU64::new(u64::MAX),
};

impl Greedy {
    fn see(report: &ScopeReport) {
        let peak = report.usage.and_then(|usage| usage.peak_bytes);
        if let (Outcome::MemoryExceeded, Some(peak)) = (report.outcome, peak) {
            GREEDY.ended.fetch_add(1, Relaxed);
            GREEDY.most.fetch_max(peak, Relaxed);
            GREEDY.least.fetch_min(peak, Relaxed);
        }
    }
}

/// One figure a line.
fn figures(snapshot: &Snapshot) -> String {
    let Some(limit) = &snapshot.limit else {
        return String::new();
    };
    let after = snapshot
        .routes
        .iter()
        .filter_map(|row| row.held_after_close);
    let figures = [
        ("in_flight", snapshot.in_flight as u64),
        ("buffers", snapshot.pool.buffers as u64),
        ("held_after_close", after.sum()),
        ("reserved", limit.reserved),
        ("held", limit.held.unwrap_or(0)),
        ("base", limit.base.unwrap_or(0)),
        ("candidates", limit.candidates as u64),
        ("cancelled", limit.cancelled),
        ("live_most", PEAK.load(Relaxed)),
        ("live_most_at", PEAK_AT.load(Relaxed)),
        ("data", data()),
        ("greedy_ended", GREEDY.ended.load(Relaxed)),
        ("greedy_most", GREEDY.most.load(Relaxed)),
        ("greedy_least", GREEDY.least.load(Relaxed)),
    ];
    figures
        .map(|(name, value)| format!("{name} {value}\n"))
        .concat()
}

/// Refuses all while `refuses` is set, and what is above `most` at the same time.
#[derive(Clone)]
struct Gate {
    refuses: Arc<AtomicBool>,
    most: usize,
    flying: Arc<AtomicUsize>,
}

struct Flying(Arc<AtomicUsize>);

impl Drop for Flying {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Gate {
    fn new(most: usize) -> Self {
        Self {
            refuses: Arc::default(),
            most,
            flying: Arc::default(),
        }
    }

    /// Looks at a figure again and again.
    fn watch(self, every: Duration, too_much: impl Fn() -> bool + Send + 'static) -> Self {
        let refuses = Arc::clone(&self.refuses);
        thread::spawn(move || {
            loop {
                refuses.store(too_much(), Relaxed);
                thread::sleep(every);
            }
        });
        self
    }

    async fn pass(self, request: Request, next: Next) -> Response {
        let flying = Flying(Arc::clone(&self.flying));
        if self.flying.fetch_add(1, Relaxed) >= self.most || self.refuses.load(Relaxed) {
            return StatusCode::SERVICE_UNAVAILABLE.into_response();
        }
        let response = next.run(request).await;
        drop(flying);
        response
    }
}

fn resident() -> u64 {
    let text = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = text.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    pages.unwrap_or(0_u64) * 4096
}

/// What `RLIMIT_DATA` limits.
fn data() -> u64 {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmData:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

fn protected(app: Router, control: &str, limit: u64) -> io::Result<Router> {
    let gate = match control.split_once(':') {
        None if control == "limit" => {
            let limit = ProcessLimit::builder().bytes(limit * MIB).build();
            let limit = limit.map_err(io::Error::other)?;
            let layer = MemoryLayer::builder()
                .process_limit(&limit)
                .observe(Greedy::see)
                .build()
                .map_err(io::Error::other)?;
            let handle = layer.handle();
            let figures = move || async move { figures(&handle.snapshot()) };
            return Ok(app.layer(layer).route("/figures", get(figures)));
        }
        None if control == "none" => return Ok(app.layer(MemoryLayer::new())),
        None if control == "rss" => {
            Gate::new(usize::MAX).watch(Duration::from_secs(1), || resident() > 220 * MIB)
        }
        None if control == "threshold" => {
            Gate::new(usize::MAX).watch(Duration::from_millis(10), move || live() > limit * MIB)
        }
        Some(("flight", most)) => Gate::new(most.parse().map_err(io::Error::other)?),
        _ => return Err(io::Error::other("no such control")),
    };
    let pass = move |request, next| gate.clone().pass(request, next);
    Ok(app.layer(from_fn(pass)))
}

pub(crate) fn serve(control: &str, limit: u64) -> io::Result<()> {
    let start = Instant::now();
    thread::spawn(move || {
        loop {
            let live = live();
            if live > PEAK.fetch_max(live, Relaxed) {
                PEAK_AT.store(start.elapsed().as_millis() as u64, Relaxed);
            }
            thread::sleep(Duration::from_millis(2));
        }
    });
    let app = Router::new()
        .route("/item/{n}", get(item))
        .route("/report", get(report))
        .route("/feed", get(feed))
        .route("/greedy", get(greedy));
    let app = protected(app, control, limit)?;
    let peak = || async { (PEAK.load(Relaxed) / MIB).to_string() };
    let app = app.route("/peak", get(peak));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?.port());
        axum::serve(listener, app).await
    })
}
