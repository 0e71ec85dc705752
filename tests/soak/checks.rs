//! What must hold after each round, and what must not grow.

use std::{
    fmt,
    io::Write,
    net::SocketAddr,
    sync::{
        Arc, Mutex, Once,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use axum::Router;
use tokio::time::sleep;
use tower_memory::{
    ArenaPool, MemoryHandle, MemoryLayer, Outcome, ScopeReport, account,
    middleware::MemoryLayerBuilder,
};

use super::{
    census,
    clients::{Client, Tally},
    plan::{Kind, MIX},
    random::Random,
    service::{self, IGNORING, MEANT},
};

/// Panics that were not meant: of handlers, tasks and bodies that found another request's bytes, say.
static UNMEANT: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Not `eprintln!`, whose output libtest captures.
pub(crate) fn say(text: &str) {
    let _ = std::io::stderr().write_all(format!("{text}\n").as_bytes());
}

pub(crate) fn watch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let payload = info.payload();
            let text = payload.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| payload.downcast_ref::<&str>().copied());
            if !text.is_some_and(|text| text.starts_with(MEANT)) {
                UNMEANT.lock().unwrap().push(info.to_string());
                hook(info);
            }
        }));
    });
}

pub(crate) struct Server {
    pub(crate) router: Router,
    pub(crate) address: SocketAddr,
}

/// The reports that observers were told of.
#[derive(Default)]
struct Reports {
    told: AtomicU64,
    /// A bit for each id. With room for all of them, as what it grows by would look as if requests left it.
    seen: Mutex<Vec<u64>>,
    twice: AtomicU64,
}

impl Reports {
    fn note(&self, report: &ScopeReport) {
        self.told.fetch_add(1, Ordering::Relaxed);
        let Some((_, id)) = report.annotations.iter().find(|(name, _)| *name == "id") else {
            return; // it was refused on arrival, or is one of the three of a shutdown
        };
        let id: usize = id.parse().unwrap();
        let mut seen = self.seen.lock().unwrap();
        if seen.len() <= id / 64 {
            seen.resize(id / 64 + 1, 0);
        }
        let bit = 1 << (id % 64);
        self.twice
            .fetch_add(u64::from(seen[id / 64] & bit != 0), Ordering::Relaxed);
        seen[id / 64] |= bit;
    }
}

/// Levels of memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Level {
    pub(crate) requests: u64,
    /// Live heap without what pools keep and what was forgotten on purpose.
    pub(crate) live: i64,
    pub(crate) resident: i64,
}

/// One variant and what became of it.
pub(crate) struct Soaked {
    pub(crate) name: &'static str,
    pooling: bool,
    pool: Option<ArenaPool>,
    layer: Option<MemoryLayer>,
    handle: MemoryHandle,
    reports: Arc<Reports>,
    seed: u64,
    next_id: u64,
    pub(crate) tally: Tally,
    pub(crate) levels: Vec<Level>,
    /// Bytes of live heap that forgetting once costs, beyond arenas and blocks.
    forgetting: f64,
    /// What other variants have made and freed, and their tasks that ignore their token.
    before: Before,
    pub(crate) took: Duration,
    pub(crate) outcomes: Vec<(Outcome, u64)>,
    /// Arenas and blocks made, and freed.
    pub(crate) heads: (i64, i64),
    pub(crate) reported: (u64, u64),
    pub(crate) overran: u64,
    stop: Arc<AtomicBool>,
    sampler: Option<std::thread::JoinHandle<u64>>,
    pub(crate) samples: u64,
}

struct Before {
    heads: (i64, i64),
    ignoring: u64,
}

/// Looks at the gauges while requests are open: none may have gone below zero, and wrapped.
fn sample(handle: &MemoryHandle, stop: &AtomicBool) -> u64 {
    let mut samples = 0;
    // All clients at once, each with requests whose tasks are in their grace period.
    let most = 100_000;
    while !stop.load(Ordering::Relaxed) {
        let now = handle.snapshot();
        for route in &now.routes {
            let ended = route.outcomes.total();
            assert!(
                ended <= route.requests,
                "{}: {ended} requests ended of {}",
                route.route,
                route.requests
            );
        }
        let gauges = [
            now.in_flight,
            now.tasks,
            now.tokens,
            now.detached,
            now.pool.rented,
            now.pool.buffers,
        ];
        assert!(gauges.iter().all(|gauge| *gauge < most), "{now}");
        samples += 1;
        std::thread::sleep(Duration::from_millis(20));
    }
    samples
}

impl Soaked {
    /// For at most so many requests.
    pub(crate) fn new(
        name: &'static str,
        pooling: bool,
        pool: ArenaPool,
        seed: u64,
        most: u64,
    ) -> Self {
        let reports = Arc::new(Reports {
            seen: Mutex::new(Vec::with_capacity(most as usize / 64)),
            ..Reports::default()
        });
        let layer: MemoryLayerBuilder = service::layer(pool.clone());
        let layer = layer.observe({
            let reports = Arc::clone(&reports);
            move |report: &ScopeReport| reports.note(report)
        });
        let layer = layer.build().unwrap();
        let handle = layer.handle();
        let stop = Arc::new(AtomicBool::new(false));
        let sampler = std::thread::spawn({
            let (handle, stop) = (handle.clone(), Arc::clone(&stop));
            move || sample(&handle, &stop)
        });
        let before = Before {
            heads: census::made_and_freed(),
            ignoring: IGNORING.load(Ordering::SeqCst),
        };
        Self {
            name,
            pooling,
            pool: Some(pool),
            layer: Some(layer),
            handle,
            reports,
            seed,
            next_id: 1,
            tally: Tally::default(),
            levels: Vec::new(),
            forgetting: 0.0,
            before,
            took: Duration::ZERO,
            outcomes: Vec::new(),
            heads: (0, 0),
            reported: (0, 0),
            overran: 0,
            stop,
            sampler: Some(sampler),
            samples: 0,
        }
    }

    pub(crate) fn serve(&mut self) -> Server {
        let router = service::router(self.layer.take().expect("served once"));
        let address = service::serve(router.clone());
        Server { router, address }
    }

    pub(crate) fn replay(&self) -> String {
        format!("{}: replay with SOAK_SEED={}", self.name, self.seed)
    }

    /// The first of so many numbers that are not used yet.
    pub(crate) fn ids(&mut self, count: u64) -> u64 {
        let first = self.next_id;
        self.next_id += count;
        first
    }

    pub(crate) fn requests(&self) -> u64 {
        self.tally.sent.iter().sum()
    }

    pub(crate) fn took(&mut self, took: Duration) {
        self.took = took;
    }

    /// What is in use beyond what was forgotten on purpose.
    fn in_use(&self) -> [i64; 6] {
        let now = self.handle.snapshot();
        [
            now.in_flight as i64,
            now.tasks as i64,
            now.detached as i64,
            now.tokens as i64,
            now.pool.rented as i64 - self.tally.forgotten_arenas as i64,
            now.pool.buffers as i64 - self.tally.forgotten_buffers as i64,
        ]
    }

    /// Forgets `count` times, to know what that costs.
    pub(crate) async fn weigh(&mut self, server: &Server, count: u64) {
        let before = self.live_bytes().await;
        let mut tally = Tally::default();
        let first = self.ids(count);
        for id in first..first + count {
            let random = Random::new(self.seed, id);
            let mut client = Client::new(server.router.clone(), server.address, random);
            client.send(Kind::Forget, id).await;
            tally.merge(&client.tally);
        }
        self.check(&tally, Duration::from_secs(5)).await;
        let live = self.live_bytes().await - before;
        self.forgetting = live as f64 / count as f64;
    }

    /// Waits for `limit` at most until nothing is in use, and compares all sums.
    pub(crate) async fn check(&mut self, sent: &Tally, limit: Duration) {
        self.tally.merge(sent);
        let start = Instant::now();
        while self.in_use() != [0; 6] && start.elapsed() < limit {
            sleep(Duration::from_millis(5)).await;
        }
        let replay = self.replay();
        let now = self.handle.snapshot();
        let unmeant = UNMEANT.lock().unwrap().clone();
        assert!(unmeant.is_empty(), "{replay}: {unmeant:#?}");
        assert_eq!(
            self.in_use(),
            [0; 6],
            "{replay}: [in flight, tasks, detached, tokens, arenas, blocks] after {limit:?}:\n{now}\n{:?}",
            self.handle.outliving()
        );

        // One outcome for each request, and the one that its client knows.
        for (kind, _) in MIX {
            let path = format!("/{}/", kind.name());
            let routes = now
                .routes
                .iter()
                .filter(|route| route.route.as_str().starts_with(&path));
            let routes: Vec<_> = routes.collect();
            let sent = self.tally.sent[kind as usize];
            let started: u64 = routes.iter().map(|route| route.requests).sum();
            assert_eq!(started, sent, "{replay}: {kind:?}: started, and sent");
            let mut ended = 0;
            for (place, &outcome) in Outcome::ALL.iter().enumerate() {
                let count: u64 = routes.iter().map(|route| route.outcomes.get(outcome)).sum();
                let known = self.tally.known[kind as usize][place];
                let unknown = sent - self.tally.known[kind as usize].iter().sum::<u64>();
                let possible = kind.outcomes().contains(&outcome);
                let most = if possible { known + unknown } else { known };
                assert!(
                    (known..=most).contains(&count),
                    "{replay}: {kind:?}: {count} times {outcome}, and by the clients {known} to {most}"
                );
                ended += count;
            }
            assert_eq!(ended, sent, "{replay}: {kind:?}: ended, and sent");
        }
        let started: u64 = now.routes.iter().map(|route| route.requests).sum();
        assert_eq!(started, self.requests(), "{replay}: also on other routes");
        self.handle.flush_observers();
        let told = self.reports.told.load(Ordering::SeqCst);
        assert_eq!(told + now.dropped_reports, started, "{replay}: reports");
        assert_eq!(
            self.reports.twice.load(Ordering::SeqCst),
            0,
            "{replay}: reported twice"
        );
        assert_eq!(now.unparsable_deadlines, self.tally.unparsable, "{replay}");
        assert_eq!(
            (now.observer_panics, now.housekeeping_panics),
            (0, 0),
            "{replay}"
        );
        assert!(self.handle.outliving().is_empty(), "{replay}");
        self.reported = (told, now.dropped_reports);
        let mut outcomes = Vec::new();
        for &outcome in Outcome::ALL {
            let count = now
                .routes
                .iter()
                .map(|route| route.outcomes.get(outcome))
                .sum();
            outcomes.push((outcome, count));
        }
        self.outcomes = outcomes;

        // Tasks that ignored their token were aborted; a busy machine makes others late.
        let ignoring = IGNORING.load(Ordering::SeqCst) - self.before.ignoring;
        let overruns = self.handle.task_overruns();
        self.overran = overruns.iter().map(|o| o.aborted + o.given_up).sum();
        assert!(
            self.overran >= ignoring,
            "{replay}: {} of {ignoring} overran",
            self.overran
        );

        // Created == pooled + destroyed + forgotten on purpose, by the allocator's own count.
        let pooled = (now.pool.pooled + now.pool.pooled_buffers) as i64;
        let kept = pooled + self.heads_forgotten();
        assert_eq!(
            self.heads_left(),
            kept,
            "{replay}: heads that exist, and that are known"
        );
        if !self.pooling {
            assert_eq!(
                (now.pool.pooled, now.pool.pooled_buffers),
                (0, 0),
                "{replay}"
            );
        }
    }

    /// Arenas and blocks that exist.
    fn heads_left(&mut self) -> i64 {
        let (made, freed) = census::made_and_freed();
        self.heads = (made - self.before.heads.0, freed - self.before.heads.1);
        self.heads.0 - self.heads.1
    }

    pub(crate) fn heads_forgotten(&self) -> i64 {
        (self.tally.forgotten_arenas + self.tally.forgotten_buffers) as i64
    }

    /// The live heap without what the pool keeps and what was forgotten: the lowest of several, since
    /// connections that end just now have memory in hand.
    async fn live_bytes(&self) -> i64 {
        let mut lowest = i64::MAX;
        for _ in 0..10 {
            let pool = self.handle.pool().stats();
            let live = account::process_usage().expect("installed").live_bytes();
            let pools = pool.pooled_bytes + pool.rented_bytes + pool.buffer_bytes;
            lowest = lowest.min(live - pools as i64);
            sleep(Duration::from_millis(10)).await;
        }
        lowest - (self.forgetting * self.forgotten()) as i64
    }

    fn forgotten(&self) -> f64 {
        self.tally.sent[Kind::Forget as usize] as f64
    }

    pub(crate) async fn note_level(&mut self) {
        self.levels.push(Level {
            requests: self.requests(),
            live: self.live_bytes().await,
            resident: resident_bytes(),
        });
    }

    /// Bytes of live heap by which the second half is above the first, and bytes of the resident set
    /// per million requests, if that half has a million: before, allocator and pools still settle.
    pub(crate) fn growth(&self) -> (i64, Option<f64>) {
        let (first, second) = self.levels.split_at(self.levels.len() / 2);
        // Without the quarter that forgets, if there are so many rounds: a forgotten scope may have had a task in
        // an earlier life, and takes its group along, which was not weighed.
        let first = if first.len() < 4 {
            first
        } else {
            &first[first.len() / 2..]
        };
        let lowest = |levels: &[Level]| levels.iter().map(|level| level.live).min().unwrap_or(0);
        let live = lowest(second) - lowest(first);
        // Nothing has been forgotten for a quarter, and pools and the allocator have their size.
        let levels = second;
        let n = levels.len() as f64;
        let x = levels.iter().map(|level| level.requests as f64 / 1e6);
        let y = levels.iter().map(|level| level.resident as f64);
        let (mean_x, mean_y) = (x.clone().sum::<f64>() / n, y.clone().sum::<f64>() / n);
        let over: f64 = x
            .clone()
            .zip(y)
            .map(|(x, y)| (x - mean_x) * (y - mean_y))
            .sum();
        let under: f64 = x.map(|x| (x - mean_x).powi(2)).sum();
        let requests = levels.last().map_or(0, |last| last.requests)
            - levels.first().map_or(0, |level| level.requests);
        (live, (requests >= 1_000_000).then_some(over / under))
    }

    /// After the runtime's end: checks that nothing grew, and that the pool's memory goes with it.
    pub(crate) fn finish(mut self) -> Self {
        self.stop.store(true, Ordering::SeqCst);
        let sampler = self.sampler.take().expect("joined once");
        self.samples = sampler.join().expect("every sample is plausible");
        let replay = self.replay();
        assert_eq!(self.in_use(), [0; 6], "{replay}: after the runtime's end");
        let (live, resident) = self.growth();
        // A tenth of a byte per request. One leak in a thousand of the smallest block would be more.
        let most = self.requests() as i64 / 20 + 256 * 1024;
        assert!(
            live <= most,
            "{replay}: live heap grew by {live} bytes: {:?}",
            self.levels
        );
        if let Some(resident) = resident {
            let mib = f64::from(1 << 20);
            assert!(
                resident <= mib,
                "{replay}: resident set: {resident} bytes per million requests: {:?}",
                self.levels
            );
        }
        // The handle keeps the pool; what is forgotten keeps it too, so it is emptied by hand.
        self.pool.take();
        self.handle.pool().trim();
        self.handle.pool().trim();
        let forgotten = self.heads_forgotten();
        assert_eq!(
            self.heads_left(),
            forgotten,
            "{replay}: all others are freed"
        );
        self
    }
}

fn resident_bytes() -> i64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: i64 = text
        .split(' ')
        .nth(1)
        .and_then(|n| n.parse().ok())
        .unwrap_or(0);
    pages * 4096
}

impl fmt::Display for Soaked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (live, resident) = self.growth();
        write!(
            f,
            "soak: {}: {} requests in {:.1} s, {:.0}/s; live heap {live:+} bytes between halves, RSS {} \
             MiB per million",
            self.name,
            self.requests(),
            self.took.as_secs_f64(),
            self.requests() as f64 / self.took.as_secs_f64(),
            mib(resident),
        )
    }
}

/// A growth in MiB, as text.
pub(crate) fn mib(bytes: Option<f64>) -> String {
    let mib = bytes.map(|bytes| format!("{:+.2}", bytes / f64::from(1 << 20)));
    mib.unwrap_or_else(|| "unknown".to_owned())
}
