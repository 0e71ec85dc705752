//! The clients: 30 all the time, and 600 more during the sale. Each sends one request after the other, gives up
//! after two seconds, and pauses after a refusal.

use std::{
    io,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

const REGULAR: usize = 30;
const MORE: usize = 600;
const BEFORE: Duration = Duration::from_secs(1);
const SALE: Duration = Duration::from_secs(5);
/// Clients of the sale connect first; the figures are of the rest.
const SETTLES: Duration = Duration::from_secs(2);

/// What clients got, per second.
#[derive(Clone, Copy)]
pub(crate) struct Tally {
    pub(crate) good: usize,
    pub(crate) refused: usize,
    pub(crate) errors: usize,
    pub(crate) failed: usize,
    /// How late timers were, which tells how busy the machine is.
    pub(crate) lag: Duration,
}

pub(crate) static ITEMS: AtomicUsize = AtomicUsize::new(0);
pub(crate) static REPORTS: AtomicUsize = AtomicUsize::new(0);
pub(crate) static REFUSED: AtomicUsize = AtomicUsize::new(0);
pub(crate) static ERRORS: AtomicUsize = AtomicUsize::new(0);
pub(crate) static FAILED: AtomicUsize = AtomicUsize::new(0);
/// Of a hundred requests, so many are for reports.
pub(crate) static REPORT_SHARE: AtomicU64 = AtomicU64::new(3);

/// Sends a request and reads the response: its status and its body.
pub(crate) async fn get(stream: &mut TcpStream, path: &str) -> io::Result<(u16, String)> {
    let request = format!("GET {path} HTTP/1.1\r\nhost: shop\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut read = Vec::with_capacity(8192);
    loop {
        if stream.read_buf(&mut read).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let text = String::from_utf8_lossy(&read);
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let head = head.to_ascii_lowercase();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .and_then(|length| length.parse().ok())
            .unwrap_or(0);
        if body.len() >= length {
            let status = head.get(9..12).and_then(|status| status.parse().ok());
            return Ok((status.unwrap_or(0), body.to_owned()));
        }
    }
}

pub(crate) async fn client(port: u16, number: u64, end: Instant) {
    let mut random = number;
    let mut stream: Option<TcpStream> = None;
    while Instant::now() < end {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let is_report = (random >> 33) % 100 < REPORT_SHARE.load(Relaxed);
        let path = if is_report {
            "/report".to_owned()
        } else {
            format!("/item/{}", (random >> 40) % 100)
        };
        let open = match stream.take() {
            Some(open) => Ok(open),
            None => TcpStream::connect(("127.0.0.1", port)).await,
        };
        let Ok(mut open) = open else {
            FAILED.fetch_add(1, Relaxed);
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        let answer = timeout(Duration::from_secs(2), get(&mut open, &path)).await;
        let Ok(Ok((status, _))) = answer else {
            FAILED.fetch_add(1, Relaxed);
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        stream = Some(open);
        match status {
            200 => {
                let good = if is_report { &REPORTS } else { &ITEMS };
                good.fetch_add(1, Relaxed);
            }
            503 => {
                REFUSED.fetch_add(1, Relaxed);
                sleep(Duration::from_millis(100)).await;
            }
            _ => {
                ERRORS.fetch_add(1, Relaxed);
            }
        }
    }
}

/// Plays the sale, and returns what clients got from three seconds after its start to its end.
pub(crate) async fn sale(port: u16) -> Tally {
    let counters = [&ITEMS, &REPORTS, &REFUSED, &ERRORS, &FAILED];
    let end = Instant::now() + BEFORE + SALE;
    let mut clients = JoinSet::new();
    for number in 0..REGULAR {
        clients.spawn(client(port, number as u64 * 77 + 1, end));
    }
    sleep(BEFORE).await;
    for number in 0..MORE {
        clients.spawn(client(port, number as u64 * 31 + 5, end));
    }
    sleep(SETTLES).await;
    let before = counters.map(|counter| counter.load(Relaxed));
    let since = Instant::now();
    let lag = lag_until(end).await;
    let seconds = since.elapsed().as_secs_f64();
    let mut after = counters.map(|counter| counter.load(Relaxed));
    for (after, before) in after.iter_mut().zip(before) {
        *after = ((*after - before) as f64 / seconds) as usize;
    }
    clients.join_all().await;
    let [items, reports, refused, errors, failed] = after;
    Tally {
        good: items + reports,
        refused,
        errors,
        failed,
        lag,
    }
}

/// Returns by how much timers of 10 ms are late, on average until `end`.
pub(crate) async fn lag_until(end: Instant) -> Duration {
    const EVERY: Duration = Duration::from_millis(10);
    let (mut late, mut times) = (Duration::ZERO, 0);
    while Instant::now() < end {
        let due = Instant::now() + EVERY;
        sleep(EVERY).await;
        late += Instant::now().saturating_duration_since(due);
        times += 1;
    }
    late / times.max(1)
}

/// Asks the server for the highest number of live MiB.
pub(crate) async fn peak(port: u16) -> Option<u64> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    let (_, body) = timeout(Duration::from_secs(2), get(&mut stream, "/peak"))
        .await
        .ok()?
        .ok()?;
    body.parse().ok()
}
