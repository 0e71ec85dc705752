//! The long form: a mix that changes each 30 s, slow readers, clients that vanish, and a greedy request each second.

use std::{
    io,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::{Instant, interval, sleep, timeout},
};

use super::client::{self, ERRORS, FAILED, ITEMS, REPORT_SHARE, REPORTS, get};

const CLIENTS: usize = 630;
/// A mix lasts so long, and is judged when it has settled.
const MIX: Duration = Duration::from_secs(30);
const SETTLES: Duration = Duration::from_secs(5);
/// The share of reports, in percent.
const SHARES: [u64; 4] = [3, 0, 6, 1];
const WINDOW: Duration = Duration::from_millis(250);
/// A machine whose timers are later than this is too busy to tell what memory allows.
pub(crate) const BUSY: Duration = Duration::from_micros(1500);
/// What one request holds over its time, in MiB and seconds: three steps, of which the second one is the mean.
const ITEM: f64 = 0.4 * 0.190;
const REPORT: f64 = 8.0 * 2.0 / 3.0 * 0.300;

/// Greedy requests that were sent, and that were ended for what they held. The others were refused.
static SENT: AtomicU64 = AtomicU64::new(0);
static ENDED: AtomicU64 = AtomicU64::new(0);

/// Reads 4 MiB, 64 KiB at a time.
async fn slow_reader(port: u16, end: Instant) -> io::Result<()> {
    while Instant::now() < end {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream
            .write_all(b"GET /feed HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n")
            .await?;
        let mut part = vec![0; 64 << 10];
        for _ in 0..64 {
            if stream.read(&mut part).await? == 0 {
                break;
            }
            sleep(Duration::from_millis(30)).await;
        }
    }
    Ok(())
}

/// Sends a request, and is gone before the answer.
async fn vanishing(port: u16, end: Instant) -> io::Result<()> {
    while Instant::now() < end {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream
            .write_all(b"GET /report HTTP/1.1\r\nhost: shop\r\n\r\n")
            .await?;
        sleep(Duration::from_millis(70)).await;
    }
    Ok(())
}

/// Asks for more than a request may have, each second.
async fn greedy(port: u16, end: Instant) -> io::Result<()> {
    let mut second = interval(Duration::from_secs(1));
    while Instant::now() < end {
        second.tick().await;
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        SENT.fetch_add(1, Relaxed);
        let (status, _) = get(&mut stream, "/greedy").await?;
        match status {
            500 => ENDED.fetch_add(1, Relaxed),
            503 => continue,
            other => return Err(io::Error::other(format!("a greedy request: {other}"))),
        };
    }
    Ok(())
}

/// What was seen of one mix.
struct Mix {
    share: u64,
    good: f64,
    /// The standard deviation of windows of 250 ms, over their mean.
    deviation: f64,
    /// The memory that the answered requests held on average, in MiB.
    held: f64,
    lag: Duration,
}

async fn mix(share: u64, end: Instant) -> Mix {
    REPORT_SHARE.store(share, Relaxed);
    sleep(SETTLES).await;
    let lag = tokio::spawn(client::lag_until(end));
    let good = || [&ITEMS, &REPORTS].map(|counter| counter.load(Relaxed));
    let (since, before) = (Instant::now(), good());
    let (mut last, mut windows) = (before, Vec::new());
    let mut window = interval(WINDOW);
    window.tick().await;
    while Instant::now() + WINDOW <= end {
        window.tick().await;
        let now = good();
        windows.push((now[0] + now[1] - last[0] - last[1]) as f64);
        last = now;
    }
    sleep(end.saturating_duration_since(Instant::now())).await;
    let seconds = since.elapsed().as_secs_f64();
    let [items, reports] = [0, 1].map(|kind| (good()[kind] - before[kind]) as f64 / seconds);
    let mean = windows.iter().sum::<f64>() / windows.len().max(1) as f64;
    let squares = windows.iter().map(|window| (window - mean).powi(2));
    let variance = squares.sum::<f64>() / windows.len().max(1) as f64;
    Mix {
        share,
        good: items + reports,
        deviation: variance.sqrt() / mean.max(1.0),
        held: items * ITEM + reports * REPORT,
        lag: lag.await.unwrap_or_default(),
    }
}

/// A figure of the server.
async fn figure(port: u16, name: &str) -> io::Result<u64> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let (_, body) = timeout(Duration::from_secs(5), get(&mut stream, "/figures")).await??;
    let mut lines = body.lines().filter_map(|line| line.split_once(' '));
    let line = lines.find(|(of, _)| *of == name);
    let value = line.and_then(|(_, value)| value.parse().ok());
    value.ok_or_else(|| io::Error::other(format!("no {name} in {body:?}")))
}

/// Plays for so long. Returns what did not hold.
pub(crate) async fn play(port: u16, time: Duration, limit: u64) -> io::Result<Vec<String>> {
    let mut failed = Vec::new();
    let end = Instant::now() + time;
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        clients.spawn(client::client(port, number as u64 * 31 + 5, end));
    }
    let mut odd = JoinSet::new();
    for _ in 0..4 {
        odd.spawn(slow_reader(port, end));
        odd.spawn(vanishing(port, end));
    }
    odd.spawn(greedy(port, end));
    println!(
        "reports  good/s  deviation  held of 0.9 * limit - base  timers late by  live at most  data now"
    );
    for (number, share) in SHARES.into_iter().cycle().enumerate() {
        let until = Instant::now() + MIX;
        if until > end {
            break;
        }
        let it = mix(share, until).await;
        let base = figure(port, "base").await? >> 20;
        let free = 0.9 * limit as f64 - base as f64;
        let used = it.held / free;
        println!(
            "{:5} %  {:6.0}  {:9.3}  {:25.2}  {:14.1?}  {:8} MiB  {} MiB",
            it.share,
            it.good,
            it.deviation,
            used,
            it.lag,
            figure(port, "live_most").await? >> 20,
            figure(port, "data").await? >> 20
        );
        // Otherwise the processors are the limit.
        if it.lag <= BUSY {
            if it.deviation >= 0.15 {
                failed.push(format!("deviation of {:.3} at {share} %", it.deviation));
            }
            // In the first mix it still learns what requests hold.
            if used < 0.85 && number > 0 {
                failed.push(format!("only {used:.2} of the memory is used at {share} %"));
            }
        }
    }
    sleep(end.saturating_duration_since(Instant::now())).await;
    clients.join_all().await;
    while let Some(ended) = odd.join_next().await {
        if let Ok(Err(error)) = ended {
            failed.push(format!("a client: {error}"));
        }
    }
    sleep(Duration::from_secs(5)).await;
    for name in [
        "in_flight",
        "reserved",
        "held",
        "candidates",
        "held_after_close",
        "buffers",
    ] {
        let left = figure(port, name).await?;
        if left != 0 {
            failed.push(format!("{name} is {left} after 5 s"));
        }
    }
    let (most, least) = (
        figure(port, "greedy_most").await?,
        figure(port, "greedy_least").await?,
    );
    let (budget, block) = ((limit << 20) / 8, 1 << 20);
    let [errors, lost] = [&ERRORS, &FAILED].map(|counter| counter.load(Relaxed));
    let (sent, seen) = (SENT.load(Relaxed), ENDED.load(Relaxed));
    let ended = figure(port, "greedy_ended").await?;
    println!(
        "greedy requests: {sent} sent, {} refused, {seen} ended at {least} to {most} bytes, with a budget of {budget}",
        sent - seen
    );
    println!(
        "the heap was highest {} ms after the start",
        figure(port, "live_most_at").await?
    );
    println!(
        "{errors} errors, {lost} failed, cancelled {}",
        figure(port, "cancelled").await?
    );
    if seen == 0 || ended < seen || least + block < budget || most > budget + block + (64 << 10) {
        failed.push("a greedy request does not end at its budget".to_owned());
    }
    if errors != 0 {
        failed.push(format!("{errors} answers were neither 200 nor 503"));
    }
    Ok(failed)
}
