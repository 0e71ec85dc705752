//! Requests that end badly, in numbers: nothing is lost, and nothing is seen by another request.
//!
//! ```sh
//! cargo test --all-features --test soak                   # a few thousand
//! just soak                                               # five million, optimised
//! SOAK_SEED=7 SOAK_REQUESTS=100000 cargo test --release --all-features --test soak
//! ```
//!
//! The kinds of the requests, their order and what their clients do follow from the seed, which is
//! printed. How tasks and connections interleave does not. `SOAK_REPORT=FILE` writes a report.
#![cfg(feature = "axum")]
#![expect(unsafe_code, reason = "is the global allocator")]

mod census;
mod checks;
mod clients;
mod plan;
#[path = "../support/random.rs"]
mod random;
mod report;
mod service;

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use tokio::task::JoinSet;
use tower_memory::{ArenaPool, TrackingAllocator, pool::PoolBuilder};

use self::{
    checks::Soaked,
    clients::{Client, Tally},
    plan::{DECK, Kind},
    random::Random,
};

#[global_allocator]
static ALLOC: TrackingAllocator<census::Census> = TrackingAllocator::new(census::Census);

/// Clients at the same time.
const CLIENTS: usize = 64;

/// Without `SOAK_REQUESTS`.
const FEW: u64 = 4_000;

struct Variant {
    name: &'static str,
    pool: PoolBuilder,
    pooling: bool,
    /// Of ten requests.
    share: u64,
}

fn variants() -> [Variant; 3] {
    let variant = |name, pool, pooling, share| Variant {
        name,
        pool,
        pooling,
        share,
    };
    [
        variant("default pool", ArenaPool::builder(), true, 8),
        variant(
            "zero_on_recycle",
            ArenaPool::builder().zero_on_recycle(true),
            true,
            1,
        ),
        variant("pooling off", ArenaPool::builder().enabled(false), false, 1),
    ]
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text} is no number")),
    )
}

#[test]
fn requests_that_end_badly_leave_nothing_and_see_nothing_of_one_another() {
    let seed = number("SOAK_SEED").unwrap_or_else(|| {
        let since = std::time::UNIX_EPOCH.elapsed().unwrap();
        u64::from(since.subsec_nanos())
    });
    let requests = number("SOAK_REQUESTS").unwrap_or(FEW);
    // Also if the test hangs or the process ends.
    checks::say(&format!("soak: SOAK_SEED={seed} SOAK_REQUESTS={requests}"));
    checks::watch_panics();
    census::begin();
    let mut results = Vec::new();
    for variant in variants() {
        let decks = (requests * variant.share / 10 / DECK as u64).max(2);
        let soaked = soak(&variant, seed, decks);
        checks::say(&soaked.to_string());
        results.push(soaked);
    }
    if let Ok(file) = std::env::var("SOAK_REPORT") {
        std::fs::write(file, report::markdown(seed, requests, &results)).unwrap();
    }
}

fn soak(variant: &Variant, seed: u64, decks: u64) -> Soaked {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(8)
        .enable_all()
        .build()
        .unwrap();
    let pool = variant.pool.clone().build().unwrap();
    let most = 2 * decks * DECK as u64;
    let mut soaked = Soaked::new(variant.name, variant.pooling, pool, seed, most);
    let start = Instant::now();
    runtime.block_on(async {
        let server = soaked.serve();
        // Tables and queues get their room, and what is forgotten is weighed.
        let few = (decks / 20).max(1);
        round(&mut soaked, &server, seed, u64::MAX - few..u64::MAX, true).await;
        soaked.weigh(&server, (decks * 4).clamp(60, 3000)).await;
        let rounds = decks.min(if decks < 100 { 2 } else { 20 });
        for n in 0..rounds {
            let numbers = decks * n / rounds..decks * (n + 1) / rounds;
            round(&mut soaked, &server, seed, numbers, n < rounds.div_ceil(4)).await;
            soaked.note_level().await;
        }
    });
    soaked.took(start.elapsed());
    drop(runtime);
    soaked.finish()
}

/// Sends the requests of some decks, waits until all are over, and checks all sums.
async fn round(
    soaked: &mut Soaked,
    server: &checks::Server,
    seed: u64,
    decks: Range<u64>,
    forgets: bool,
) {
    let salt = decks.start;
    let kinds: Vec<Kind> = decks
        .flat_map(|number| plan::deck(seed, number, forgets))
        .collect();
    let kinds: std::sync::Arc<[Kind]> = kinds.into();
    let first = soaked.ids(kinds.len() as u64);
    let mut clients = JoinSet::new();
    for lane in 0..CLIENTS {
        let random = Random::new(seed ^ salt, lane as u64);
        let mut client = Client::new(server.router.clone(), server.address, random);
        let kinds = std::sync::Arc::clone(&kinds);
        clients.spawn(async move {
            for at in (lane..kinds.len()).step_by(CLIENTS) {
                client.send(kinds[at], first + at as u64).await;
            }
            std::mem::take(&mut client.tally)
        });
    }
    let mut tally = Tally::default();
    while let Some(client) = clients.join_next().await {
        match client {
            Ok(sent) => tally.merge(&sent),
            Err(error) => panic!("a client failed: {error}; {}", soaked.replay()),
        }
    }
    soaked.check(&tally, Duration::from_secs(5)).await;
}
