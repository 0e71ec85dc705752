//! Writes `results.md`: the verdict, the tables, the machine.

use std::{fmt::Write as _, fs, path::PathBuf};

use crate::{
    Plan,
    build::{Programs, ask, root},
    burst::Burst,
    load::CONNECTIONS,
    plots,
    sides::{Measured, RATE, Side},
    stats::{Figures, short},
};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What has to hold: a ratio and its limit.
struct Claim {
    what: String,
    ratio: Option<(f64, String)>,
    limit: Limit,
}

enum Limit {
    AtMost(f64),
    AtLeast(f64),
}

impl Claim {
    fn row(&self) -> String {
        let limit = match self.limit {
            Limit::AtMost(limit) => format!("at most {}", short(limit)),
            Limit::AtLeast(limit) => format!("at least {}", short(limit)),
        };
        let Some((ratio, shown)) = &self.ratio else {
            return format!("| {} | {limit} | - | not measured |\n", self.what);
        };
        let met = match self.limit {
            Limit::AtMost(limit) => *ratio <= limit,
            Limit::AtLeast(limit) => *ratio >= limit,
        };
        let verdict = if met { "met" } else { "**missed**" };
        format!("| {} | {limit} | {shown} | {verdict} |\n", self.what)
    }
}

impl Measured {
    fn side(&self, key: &str) -> Option<&Side> {
        self.sides.iter().find(|side| side.key == key)
    }

    /// The ratio of a figure of two sides.
    fn ratio(&self, a: &str, b: &str, figure: impl Fn(&Side) -> &Figures) -> Option<(f64, String)> {
        let ratio = figure(self.side(a)?).over(figure(self.side(b)?));
        Some((ratio.median(), ratio.to_string()))
    }

    fn allocations(&self, a: &str, b: &str) -> Option<(f64, String)> {
        let [a, b] = [self.side(a)?.heap?[0], self.side(b)?.heap?[0]];
        Some((
            a / b,
            format!("{} of {}, 1/{}", short(a), short(b), short(b / a)),
        ))
    }
}

fn claims(measured: &Measured, bursts: &[Result<Burst, String>]) -> Vec<Claim> {
    fn cpu(side: &Side) -> &Figures {
        &side.cpu
    }
    fn p50(side: &Side) -> &Figures {
        &side.saturated[0]
    }
    fn p99(side: &Side) -> &Figures {
        &side.saturated[1]
    }
    fn rate(side: &Side) -> &Figures {
        &side.per_second
    }
    let compare = |what: &str, a, b, figure: fn(&Side) -> &Figures, limit| Claim {
        what: what.into(),
        ratio: measured.ratio(a, b, figure),
        limit,
    };
    use Limit::{AtLeast, AtMost};
    let mut claims = vec![
        compare(
            "natural way, CPU per request, to plain",
            "natural",
            "plain",
            cpu,
            AtMost(0.36),
        ),
        compare(
            "natural way, p50, to plain",
            "natural",
            "plain",
            p50,
            AtMost(0.4),
        ),
        compare(
            "natural way, CPU per request, to the hand-tuned way",
            "natural",
            "hand",
            cpu,
            AtMost(1.3),
        ),
        compare(
            "hand-tuned way, CPU per request, to plain",
            "hand",
            "plain",
            cpu,
            AtMost(0.25),
        ),
        compare(
            "hand-tuned way, p50, to plain (the headline is 0.20)",
            "hand",
            "plain",
            p50,
            AtMost(0.25),
        ),
        compare(
            "hand-tuned way, requests/s, to plain",
            "hand",
            "plain",
            rate,
            AtLeast(3.0),
        ),
        compare(
            "natural way, CPU per request, to Go fully pooled",
            "natural",
            "go-pooled",
            cpu,
            AtMost(0.55),
        ),
        compare(
            "hand-tuned way, CPU per request, to Go fully pooled",
            "hand",
            "go-pooled",
            cpu,
            AtMost(0.37),
        ),
        compare(
            "hand-tuned way, requests/s, to Go fully pooled",
            "hand",
            "go-pooled",
            rate,
            AtLeast(2.0),
        ),
        compare(
            "hand-tuned way, p99, to Go fully pooled",
            "hand",
            "go-pooled",
            p99,
            AtMost(0.6),
        ),
    ];
    for side in ["natural", "hand"] {
        claims.push(Claim {
            what: format!("heap allocations per request of the process, {side} to plain"),
            ratio: measured.allocations(side, "plain"),
            limit: AtMost(1.0 / 50.0),
        });
    }
    let order = "order of 100 lines, arena to `axum::Json`";
    claims.push(compare(
        &format!("{order}, CPU per request"),
        "order-arena",
        "order-heap",
        cpu,
        AtMost(0.65),
    ));
    claims.push(Claim {
        what: format!("{order}, heap allocations"),
        ratio: measured.allocations("order-arena", "order-heap"),
        limit: AtMost(1.0 / 20.0),
    });
    let bursts: Vec<&Burst> = bursts.iter().flatten().collect();
    for name in ["glibc", "mimalloc", "jemalloc"] {
        let arena = |burst: &&&Burst| burst.name.starts_with(name) && burst.name.contains("arena");
        let burst = bursts.iter().find(arena);
        claims.push(Claim {
            what: format!("RSS 30 s after the burst, arena, {name}, MiB"),
            ratio: burst.map(|burst| (burst.after, short(burst.after))),
            limit: AtMost(burst.map_or(f64::NAN, |burst| burst.target())),
        });
    }
    claims
}

fn heap(side: &Side) -> String {
    side.heap.map_or("- | -".into(), |[count, bytes]| {
        format!("{} | {}", short(count), short(bytes / 1024.0))
    })
}

fn tables(measured: &Measured, bursts: &[Result<Burst, String>]) -> Result<String, Failure> {
    let mut text = String::new();
    writeln!(
        text,
        "\n## At saturation\n\n{CONNECTIONS} connections, each with one request at a time. CPU \
         is that of the server's \
         process. Allocations are those of the whole process, its HTTP library included.\n\n\
         | side | requests/s | CPU us/request | p50 us | p99 us | p99.9 us | allocations | KiB \
         allocated | collections \
         per 1000 requests, pause us | RSS MiB |\n|---|---|---|---|---|---|---|---|---|---|"
    )?;
    for side in &measured.sides {
        let [p50, p99, p999] = &side.saturated;
        let gc = side.gc.map_or("-".into(), |[count, pause]| {
            format!("{}, {}", short(count), short(pause))
        });
        writeln!(
            text,
            "| {}: {} | {} | {} | {p50} | {p99} | {} | {} | {gc} | {} |",
            side.key,
            side.what,
            side.per_second,
            side.cpu,
            short(p999.median()),
            heap(side),
            short(side.rss.median())
        )?;
    }
    writeln!(
        text,
        "\n![CPU per request](results/cpu.svg)\n\n## At {RATE} requests/s\n\nThe same \
         connections; a request is due at its \
         time, whether or not the one before is answered, and its latency counts from then. So a \
         stall of the server \
         is in the latency of all requests that were due meanwhile.\n\n\
         | side | p50 us | p99 us | p99.9 us |\n|---|---|---|---|"
    )?;
    for side in &measured.sides {
        let [p50, p99, p999] = &side.fixed;
        writeln!(text, "| {} | {p50} | {p99} | {p999} |", side.key)?;
    }
    writeln!(
        text,
        "\n![Latency at a fixed rate](results/latency.svg)\n\n## Memory kept against \
         latency\n\n64 connections at \
         saturation. Go's collector trades memory for CPU (`GOGC`, `GOMEMLIMIT`); a pool has a \
         limit, and what it may \
         not keep is freed at once. What a request uses is all that this route needs, so one MiB \
         is enough.\n\n\
         | setting | CPU us/request | p50 us | p99 us | highest RSS MiB | RSS MiB a second later \
         |\n\
         |---|---|---|---|---|---|"
    )?;
    for setting in &measured.settings {
        writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} |",
            setting.name,
            setting.cpu,
            setting.p50,
            setting.p99,
            short(setting.highest.median()),
            short(setting.kept.median())
        )?;
    }
    text.push_str("\n![Memory against latency](results/memory.svg)\n");
    if !bursts.is_empty() {
        text.push_str(
            "\n## RSS after a burst\n\n1000 clients get 1 MiB each, all at once, one run each. \
             `on_trim` calls \
             `malloc_trim(0)` with glibc, `arena.4096.purge` with jemalloc, and `mi_collect` on \
             each thread of the \
             runtime with mimalloc (`ci/programs/src/bin/retention.rs`). The target is 1.15 x \
             before + 4 MiB.\n\n\
             | allocator | before, MiB | highest | at its end | 30 s later | target \
             |\n|---|---|---|---|---|---|\n",
        );
    }
    for burst in bursts {
        match burst {
            Ok(burst) => writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} |",
                burst.name,
                short(burst.before),
                short(burst.highest),
                short(burst.at_end),
                short(burst.after),
                short(burst.target())
            )?,
            Err(error) => writeln!(
                text,
                "| {} | failed | | | | |",
                error.lines().next().unwrap_or("")
            )?,
        }
    }
    Ok(text)
}

fn load() -> String {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

fn processor() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let mut lines = info.lines();
    let model = lines.find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    model
        .map_or("unknown processor", |(_, model)| model)
        .to_owned()
}

fn machine(programs: &Programs) -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let changed = if ask("git", &["status", "--porcelain", "--untracked-files=no"]).is_empty() {
        ""
    } else {
        ", with changes"
    };
    let go = programs
        .go
        .as_ref()
        .map_or("Go: SKIPPED, absent", |(_, version)| version);
    format!(
        "{}, {} cores seen ({cores} by this process), {}; {}; {go}.\n{} UTC, commit \
         {}{changed}. Load average at \
         the end: {} (others used the machine if it is far above 2).\n",
        processor(),
        info.lines()
            .filter(|line| line.starts_with("processor"))
            .count(),
        ask("uname", &["-sr"]),
        ask("rustc", &["--version"]),
        ask("date", &["-u", "+%Y-%m-%d %H:%M"]),
        ask("git", &["rev-parse", "--short", "HEAD"]),
        load(),
    )
}

/// Writes the results and their plots. Returns the path.
pub(crate) fn write(
    plan: &Plan,
    programs: &Programs,
    measured: &Measured,
    bursts: &[Result<Burst, String>],
) -> Result<PathBuf, Failure> {
    let mut text = String::from(
        "# Results\n\nThis crate beside plain axum and Go, over loopback: 1000 strings as JSON \
         (10 891 bytes), and an \
         order of 100 lines. Written by\n\n```sh\ncargo run --release -p tower-memory-lab\n```\n\n",
    );
    text.push_str(&machine(programs));
    write!(
        text,
        "Server on core 0, load on core 1. Rounds: {} of {} ms, all sides in each round, in \
         rotating order. Figures are \
         medians, with the quartiles of the rounds in parentheses; ratios are made within a \
         round.\n\n\
         ## Claims\n\n| claim | target | measured | |\n|---|---|---|---|\n",
        plan.rounds,
        plan.time.as_millis()
    )?;
    let claims = claims(measured, bursts);
    claims.iter().for_each(|claim| text.push_str(&claim.row()));
    text.push_str(
        "\nCPU, p50 and p99 are those at saturation, without headers. Plain axum has neither the \
         layer nor a counting \
         allocator there. Both builds of the order path are routes of one process, \
         `examples/inventory`, with the layer. \
         That it never oversells is what `cargo run --release -p inventory -- --check --orders \
         1000000` checks.\n",
    );
    text.push_str(&tables(measured, bursts)?);
    let plots = plan.out.join("results");
    fs::create_dir_all(&plots)?;
    plots::cpu(&plots.join("cpu.svg"), &measured.sides)?;
    plots::latency(&plots.join("latency.svg"), &measured.sides)?;
    plots::memory(&plots.join("memory.svg"), &measured.settings)?;
    let path = plan.out.join("results.md");
    fs::write(&path, &text)?;
    print!("\n{text}");
    if !plan.quick {
        readme(measured)?;
    }
    Ok(path)
}

/// Replaces the table of README.md.
fn readme(measured: &Measured) -> Result<(), Failure> {
    const BEGIN: &str = "<!-- written by the lab: -->\n";
    const END: &str = "<!-- end -->";
    let path = root().join("README.md");
    let text = fs::read_to_string(&path)?;
    let (before, rest) = text
        .split_once(BEGIN)
        .ok_or("README.md: no place for results")?;
    let (_, after) = rest.split_once(END).ok_or("README.md: no end of results")?;
    let mut table = format!(
        "{}, {CONNECTIONS} connections, {} UTC, load average {}:\n\n| | CPU us/request | p50 us | p99 us | requests/s | \
         allocations |\n|---|---|---|---|---|---|\n",
        processor(),
        ask("date", &["-u", "+%Y-%m-%d %H:%M"]),
        load(),
    );
    let keys = [
        "plain",
        "natural",
        "hand",
        "go",
        "go-pooled",
        "order-heap",
        "order-arena",
        "order-go",
    ];
    for side in keys.iter().filter_map(|key| measured.side(key)) {
        let median = |figures: &Figures| short(figures.median());
        let heap = side.heap.map_or("-".into(), |[count, _]| short(count));
        let [p50, p99, _] = &side.saturated;
        let [cpu, p50, p99, rate] = [&side.cpu, p50, p99, &side.per_second].map(median);
        let what = side.what;
        writeln!(
            table,
            "| {what} | {cpu} | {p50} | {p99} | {rate} | {heap} |"
        )?;
    }
    fs::write(path, format!("{before}{BEGIN}{table}{END}{after}"))?;
    Ok(())
}
