//! What is compared, and the measurements.

use std::{path::Path, time::Duration};

use crate::{
    Plan,
    build::Programs,
    load::{self, CONNECTIONS, Pace, percentile},
    server::Server,
    stats::Figures,
};

/// Requests per second of the load at a fixed rate: what each side can serve at a fraction of its core.
pub(crate) const RATE: u32 = 2000;

const ITEMS: usize = 1000;
const COUNTED: u64 = 2000;

/// Figures of one side.
#[derive(Default)]
pub(crate) struct Side {
    /// Short, without blanks: `natural`.
    pub(crate) key: &'static str,
    pub(crate) what: &'static str,
    pub(crate) per_second: Figures,
    /// Of the server's process, in microseconds per request, at saturation.
    pub(crate) cpu: Figures,
    /// p50, p99 and p99.9 in microseconds, at saturation and at the fixed rate.
    pub(crate) saturated: [Figures; 3],
    pub(crate) fixed: [Figures; 3],
    /// Of all rounds at the fixed rate together, for the plot.
    pub(crate) all: Vec<u32>,
    pub(crate) rss: Figures,
    /// Allocations and bytes per request of the process.
    pub(crate) heap: Option<[f64; 2]>,
    /// Collections per 1000 requests, and the pause of one in microseconds.
    pub(crate) gc: Option<[f64; 2]>,
}

/// One setting of a collector or of a pool, under 64 connections.
pub(crate) struct Setting {
    pub(crate) name: String,
    pub(crate) cpu: Figures,
    pub(crate) p50: Figures,
    pub(crate) p99: Figures,
    pub(crate) highest: Figures,
    /// A second after the load.
    pub(crate) kept: Figures,
}

pub(crate) struct Measured {
    pub(crate) sides: Vec<Side>,
    pub(crate) settings: Vec<Setting>,
}

const PERCENTILES: [f64; 3] = [0.5, 0.99, 0.999];

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A server that runs, and one that counts allocations if another program is needed for that.
struct Running {
    server: usize,
    counting: usize,
    request: Vec<u8>,
}

/// An order of 100 lines.
fn order() -> String {
    const KINDS: [&str; 8] = [
        "kettle", "teapot", "cup", "saucer", "spoon", "tray", "tin", "whisk",
    ];
    let lines = (0..100).map(|n| {
        format!(
            "{{\"sku\":\"{}-{n:03}\",\"qty\":{}}}",
            KINDS[n % 8],
            1 + n % 9
        )
    });
    let lines = lines.collect::<Vec<_>>().join(",");
    format!("{{\"customer\":\"Ada Lovelace\",\"lines\":[{lines}]}}")
}

pub(crate) async fn measure(plan: &Plan, programs: &Programs) -> Result<Measured, Failure> {
    let program = |name: &str| programs.release.join(name);
    let mut servers = Vec::new();
    let mut start = |program: &Path, args: &[&str]| {
        servers.push(Server::start(program, args, &[])?);
        Ok::<_, String>(servers.len() - 1)
    };
    let [system, tracked, mimalloc, mimalloc_tracked] = [
        "serve-system",
        "serve-tracked",
        "serve-mimalloc",
        "serve-mimalloc-tracked",
    ]
    .map(program);
    let system = start(&system, &[])?;
    let ours = start(&tracked, &[])?;
    let headers = start(&tracked, &["--headers"])?;
    let mimalloc = start(&mimalloc, &[])?;
    let ours_mimalloc = start(&mimalloc_tracked, &[])?;
    let inventory = start(&program("inventory"), &["--no-store", "--port", "0"])?;
    let go = match &programs.go {
        Some((program, _)) => Some(start(program, &[])?),
        None => None,
    };
    let items = |route: &str| load::request(&format!("/{route}/{ITEMS}"), None);
    let orders = |path: &str| load::request(path, Some(&order()));
    let mut all: Vec<(&'static str, &'static str, usize, usize, Vec<u8>)> = vec![
        (
            "plain",
            "`axum::Json(Vec<String>)`, no layer",
            system,
            ours,
            items("plain"),
        ),
        (
            "natural",
            "`json::seq` of `json::concat`",
            ours,
            ours,
            items("natural"),
        ),
        (
            "natural-headers",
            "the same, six headers",
            headers,
            headers,
            items("natural"),
        ),
        ("hand", "`ArenaBuf` and itoa", ours, ours, items("hand")),
        (
            "hand-headers",
            "the same, six headers",
            headers,
            headers,
            items("hand"),
        ),
        (
            "plain-mimalloc",
            "plain, with mimalloc",
            mimalloc,
            ours_mimalloc,
            items("plain"),
        ),
        (
            "natural-mimalloc",
            "natural, with mimalloc",
            ours_mimalloc,
            ours_mimalloc,
            items("natural"),
        ),
        (
            "hand-mimalloc",
            "by hand, with mimalloc",
            ours_mimalloc,
            ours_mimalloc,
            items("hand"),
        ),
    ];
    if let Some(go) = go {
        all.extend([
            (
                "go",
                "Go: `Sprintf`, `json.Marshal`",
                go,
                go,
                items("unpooled"),
            ),
            (
                "go-slice",
                "Go: the slice from a `sync.Pool`",
                go,
                go,
                items("slice"),
            ),
            (
                "go-pooled",
                "Go: `AppendInt` to a pooled buffer",
                go,
                go,
                items("pooled"),
            ),
        ]);
    }
    all.extend([
        (
            "order-heap",
            "order of 100 lines: `axum::Json`, `String`s",
            inventory,
            inventory,
            orders("/heap/orders"),
        ),
        (
            "order-arena",
            "order of 100 lines: `JsonBody`, `&str`",
            inventory,
            inventory,
            orders("/arena/orders"),
        ),
    ]);
    if let Some(go) = go {
        all.push((
            "order-go",
            "order of 100 lines: Go, all pooled",
            go,
            go,
            orders("/orders"),
        ));
    }
    let mut sides = Vec::new();
    let mut running = Vec::new();
    for (key, what, server, counting, request) in all {
        sides.push(Side {
            key,
            what,
            ..Side::default()
        });
        running.push(Running {
            server,
            counting,
            request,
        });
    }
    same_bodies(&servers, system, ours, go)?;

    for round in 0..=plan.rounds {
        if round > 0 {
            println!("round {round} of {}", plan.rounds);
        }
        for n in 0..sides.len() {
            // Another order in each round.
            let at = (n + round) % sides.len();
            let (side, run) = (&mut sides[at], &running[at]);
            let server = &servers[run.server];
            if round == 0 {
                // Learns sizes and fills pools.
                load::round(
                    server.addr,
                    &run.request,
                    CONNECTIONS,
                    Pace::Saturation,
                    plan.time / 4,
                )
                .await?;
                continue;
            }
            saturate(plan, side, server, &run.request).await?;
            let pace = Pace::Fixed(RATE);
            let fixed =
                load::round(server.addr, &run.request, CONNECTIONS, pace, plan.time).await?;
            for (figures, part) in side.fixed.iter_mut().zip(PERCENTILES) {
                figures.push(percentile(&fixed.latencies, part));
            }
            side.all.extend(fixed.latencies);
        }
    }
    for (side, run) in sides.iter_mut().zip(&running) {
        side.all.sort_unstable();
        let server = &servers[run.counting];
        load::repeat(server.addr, &run.request, 100).await?;
        let before = server.usage();
        load::repeat(server.addr, &run.request, COUNTED).await?;
        if let (Some(before), Some(after)) = (before, server.usage()) {
            let [allocations, bytes, ..] = after.since(before);
            side.heap = Some([allocations, bytes].map(|n| n as f64 / COUNTED as f64));
        }
    }
    drop(servers);
    let settings = settings(plan, programs).await?;
    Ok(Measured { sides, settings })
}

async fn saturate(
    plan: &Plan,
    side: &mut Side,
    server: &Server,
    request: &[u8],
) -> Result<(), Failure> {
    let (cpu, usage) = (server.cpu(), server.usage());
    let load = load::round(
        server.addr,
        request,
        CONNECTIONS,
        Pace::Saturation,
        plan.time,
    )
    .await?;
    let cpu = server.cpu().saturating_sub(cpu);
    let sent = load.requests + CONNECTIONS as u64; // each connection begins with one
    side.cpu.push(cpu.as_secs_f64() * 1e6 / sent as f64);
    side.per_second.push(load.per_second());
    for (figures, part) in side.saturated.iter_mut().zip(PERCENTILES) {
        figures.push(percentile(&load.latencies, part));
    }
    side.rss.push(server.rss());
    if let (Some(before), Some(after)) = (usage, server.usage()) {
        let [_, _, collections, pauses] = after.since(before);
        if collections > 0 {
            let pause = pauses as f64 / 1000.0 / collections as f64;
            side.gc = Some([collections as f64 * 1000.0 / sent as f64, pause]);
        }
    }
    Ok(())
}

/// All sides answer with the same bytes.
fn same_bodies(
    servers: &[Server],
    system: usize,
    ours: usize,
    go: Option<usize>,
) -> Result<(), Failure> {
    let body = |server: usize, route: &str| {
        load::fetch(servers[server].addr, &format!("/{route}/{ITEMS}"))
    };
    let expected = body(system, "plain")?;
    let mut others = vec![(ours, "natural"), (ours, "hand"), (ours, "plain")];
    if let Some(go) = go {
        others.extend(["unpooled", "slice", "pooled"].map(|route| (go, route)));
    }
    for (server, route) in others {
        if body(server, route)? != expected {
            return Err(format!("/{route} answers with other bytes than /plain").into());
        }
    }
    println!("all answer with the same {} bytes", expected.len());
    Ok(())
}

/// Memory kept against latency: settings of Go's collector beside limits of the pool.
async fn settings(plan: &Plan, programs: &Programs) -> Result<Vec<Setting>, Failure> {
    let tracked = programs.release.join("serve-tracked");
    let system = programs.release.join("serve-system");
    let mut all: Vec<(String, Server, &str)> = Vec::new();
    let start =
        |program: &Path, args: &[&str], env: &[(&str, &str)]| Server::start(program, args, env);
    all.push(("plain".into(), start(&system, &[], &[])?, "plain"));
    for (name, bytes) in [
        ("no pool", "0"),
        ("pool of 1 MiB", "1048576"),
        ("pool of 64 MiB", "67108864"),
    ] {
        let server = start(&tracked, &["--pool", bytes], &[])?;
        all.push((format!("natural, {name}"), server, "natural"));
    }
    if let Some((program, _)) = &programs.go {
        let env: [(&str, &[(&str, &str)]); 4] = [
            ("GOGC=50", &[("GOGC", "50")]),
            ("GOGC=100", &[("GOGC", "100")]),
            ("GOGC=200", &[("GOGC", "200")]),
            (
                "GOGC=off GOMEMLIMIT=64MiB",
                &[("GOGC", "off"), ("GOMEMLIMIT", "64MiB")],
            ),
        ];
        for (name, env) in env {
            for route in ["unpooled", "pooled"] {
                let server = start(program, &[], env)?;
                all.push((format!("Go {route}, {name}"), server, route));
            }
        }
    }
    let mut settings: Vec<Setting> = all
        .iter()
        .map(|(name, ..)| Setting {
            name: name.clone(),
            cpu: Figures::default(),
            p50: Figures::default(),
            p99: Figures::default(),
            highest: Figures::default(),
            kept: Figures::default(),
        })
        .collect();
    println!("settings of pools and collectors");
    for _ in 0..plan.rounds.min(3) {
        for (setting, (_, server, route)) in settings.iter_mut().zip(&all) {
            let request = load::request(&format!("/{route}/{ITEMS}"), None);
            let before = server.cpu();
            let load = load::round(server.addr, &request, 64, Pace::Saturation, plan.time);
            let mut highest: f64 = 0.0;
            let mut load = std::pin::pin!(load);
            let load = loop {
                highest = highest.max(server.rss());
                let wait = tokio::time::timeout(Duration::from_millis(50), &mut load);
                if let Ok(load) = wait.await {
                    break load?;
                }
            };
            let cpu = server.cpu().saturating_sub(before);
            setting
                .cpu
                .push(cpu.as_secs_f64() * 1e6 / (load.requests + 64) as f64);
            setting.p50.push(percentile(&load.latencies, 0.5));
            setting.p99.push(percentile(&load.latencies, 0.99));
            setting.highest.push(highest);
            tokio::time::sleep(plan.time.min(Duration::from_secs(1))).await;
            setting.kept.push(server.rss());
        }
    }
    Ok(settings)
}
