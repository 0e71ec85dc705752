//! A flash sale: 600 clients at once against a server that may have 256 MiB.
//!
//! `flash_sale --check` starts itself as a server under `RLIMIT_DATA`, once for each way to protect it, plays
//! the sale over TCP, and compares: nothing, shedding by resident memory each second, a threshold each 10 ms, so
//! many requests in flight, and the limit of this crate. `flash_sale --play CONTROL` plays one of them:
//! `none`, `rss`, `threshold`, `flight:N` or `limit`. `flash_sale --long [SECONDS]` (600 unless said) plays against
//! the limit alone, with mixes that change, slow readers, clients that vanish, and a request that takes all it can.
//! Unix only, since it needs `ulimit -d`.
//!
//! Figures of goodput are judged while timers are at most 1.5 ms late, and those of `--check` if nothing else ran at
//! its start (load average below 1): on a busier machine the processors are the bottleneck, and memory is not.

mod client;
mod long;
mod server;

use std::{
    env, fs,
    io::{self, BufRead, BufReader},
    process::{Child, Command, ExitCode, Stdio},
    time::Duration,
};

use tower_memory::TrackingAllocator;

use self::client::Tally;

#[global_allocator]
static ALLOC: TrackingAllocator = TrackingAllocator::system();

/// What the process may have, and what the limit is told, in MiB.
const MAY_HAVE: u64 = 256;
const LIMIT: u64 = 170;

/// How a sale went.
struct Sale {
    tally: Tally,
    lived: bool,
    /// The highest number of live bytes, in MiB, if the server lived to tell.
    peak: Option<u64>,
}

/// The server, which ends with this.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Server {
    /// Starts this program as a server with a limit for its data. Returns it and its port.
    fn start(control: &str, stderr: Stdio) -> io::Result<(Self, u16)> {
        let script = format!("ulimit -d {} && exec \"$0\" \"$@\"", MAY_HAVE << 10);
        let mut child = Command::new("sh")
            .arg("-c")
            .arg(script)
            .arg(env::current_exe()?)
            .args(["--serve", control])
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        let port = line.trim().parse().map_err(io::Error::other)?;
        Ok((Self(child), port))
    }
}

fn play(control: &str) -> io::Result<Sale> {
    // Those that die say so.
    let (mut server, port) = Server::start(control, Stdio::null())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let tally = runtime.block_on(client::sale(port));
    let peak = runtime.block_on(client::peak(port));
    let lived = server.0.try_wait()?.is_none();
    let sale = Sale { tally, lived, peak };
    let Tally {
        good,
        refused,
        errors,
        failed,
        lag,
    } = tally;
    let end = if lived { "alive" } else { "dead" };
    let peak = peak.map_or(String::new(), |peak| {
        format!(", live heap up to {peak} MiB")
    });
    println!(
        "{control:12} {good:6} good, {refused:6} refused, {errors:4} errors, {failed:6} failed per second; {end}{peak}; timers {lag:.1?} late"
    );
    Ok(sale)
}

/// The load average of the last minute. Unknown, it is as on a busy machine.
fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = text.split(' ').next().and_then(|load| load.parse().ok());
    load.unwrap_or(f64::INFINITY)
}

fn check() -> io::Result<bool> {
    let load = load();
    println!("600 clients, {MAY_HAVE} MiB, limit {LIMIT} MiB");
    let mut passed = true;
    let mut expect = |holds: bool, what: &str| {
        if !holds {
            println!("FAILED: {what}");
            passed = false;
        }
    };
    for control in ["none", "rss", "threshold"] {
        expect(!play(control)?.lived, "it was expected to die");
    }
    let (mut best, mut lag) = (0, Duration::ZERO);
    for most in [32, 64, 128, 256] {
        let sale = play(&format!("flight:{most}"))?;
        if sale.lived {
            best = best.max(sale.tally.good);
            lag = lag.max(sale.tally.lag);
        }
    }
    let limit = play("limit")?;
    expect(limit.lived, "the limit keeps it alive");
    expect(limit.tally.failed == 0, "no request fails");
    expect(limit.tally.errors == 0, "no answer but 200 and 503");
    lag = lag.max(limit.tally.lag);
    if lag <= long::BUSY && load < 1.0 {
        expect(
            limit.tally.good >= 2 * best,
            "twice the answers of the best fixed number in flight",
        );
    } else {
        println!(
            "timers are {lag:.1?} late, the load average was {load}: too busy for a comparison of answers"
        );
    }
    let most = LIMIT + LIMIT / 20;
    expect(
        limit.peak.is_some_and(|peak| peak <= most),
        "the live heap is at most 5 % above the limit",
    );
    println!(
        "limit: {:.2} times the best fixed number",
        limit.tally.good as f64 / best.max(1) as f64
    );
    Ok(passed)
}

fn play_long(seconds: &str) -> io::Result<bool> {
    let time = Duration::from_secs(seconds.parse().map_err(io::Error::other)?);
    let (mut server, port) = Server::start("limit", Stdio::inherit())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let played = runtime.block_on(long::play(port, time, LIMIT));
    let peak = runtime.block_on(client::peak(port));
    let mut failed = played?;
    if server.0.try_wait()?.is_some() {
        failed.push("it has died".to_owned());
    }
    println!("live heap up to {} MiB", peak.unwrap_or(0));
    if peak.is_none_or(|peak| peak > LIMIT + LIMIT / 20) {
        failed.push("the live heap is more than 5 % above the limit".to_owned());
    }
    for what in &failed {
        println!("FAILED: {what}");
    }
    Ok(failed.is_empty())
}

fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["--check"] => check(),
        ["--long"] => play_long("600"),
        ["--long", seconds] => play_long(seconds),
        ["--play", control] => play(control).map(|_| true),
        ["--serve", control] => server::serve(control, LIMIT).map(|()| true),
        _ => {
            eprintln!(
                "usage: flash_sale --check | --long [SECONDS] | --play none|rss|threshold|flight:N|limit"
            );
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(passed) => ExitCode::from(u8::from(!passed)),
        Err(error) => {
            eprintln!("flash_sale: {error}");
            ExitCode::FAILURE
        }
    }
}
