//! The client: HTTP/1.1 over connections that stay open.
//!
//! It runs in the lab's own process, on one thread, which main pins to another core than the servers.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream as StdStream},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

pub(crate) const CONNECTIONS: usize = 16;

/// How requests are sent.
#[derive(Clone, Copy)]
pub(crate) enum Pace {
    /// Each connection sends the next one when the last is answered.
    Saturation,
    /// So many per second in all, each at its time. What is late waits, and the wait counts.
    Fixed(u32),
}

/// One round of load.
pub(crate) struct Round {
    pub(crate) requests: u64,
    pub(crate) took: Duration,
    /// From when each request should have been sent until its answer was there, in nanoseconds, ascending.
    pub(crate) latencies: Vec<u32>,
}

impl Round {
    pub(crate) fn per_second(&self) -> f64 {
        self.requests as f64 / self.took.as_secs_f64()
    }
}

/// The value that `part` of them do not exceed, in microseconds.
pub(crate) fn percentile(ascending: &[u32], part: f64) -> f64 {
    let last = ascending.len().saturating_sub(1);
    let at = (last as f64 * part).round() as usize;
    ascending
        .get(at)
        .map_or(f64::NAN, |&nanos| f64::from(nanos) / 1000.0)
}

/// Returns the bytes of a request.
pub(crate) fn request(path: &str, body: Option<&str>) -> Vec<u8> {
    match body {
        None => format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n"),
        Some(body) => format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
             idempotency-key: lab\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        ),
    }
    .into_bytes()
}

struct Connection {
    stream: TcpStream,
    answer: Vec<u8>,
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

impl Connection {
    async fn new(addr: SocketAddr) -> Result<Self, Failure> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        let answer = Vec::with_capacity(64 * 1024);
        Ok(Self { stream, answer })
    }

    /// Sends a request and reads the answer to its end. Returns the length of its body.
    async fn exchange(&mut self, request: &[u8]) -> Result<usize, Failure> {
        self.stream.write_all(request).await?;
        self.answer.clear();
        let mut end = None;
        loop {
            if self.stream.read_buf(&mut self.answer).await? == 0 {
                return Err("the server closed a connection".into());
            }
            if end.is_none() {
                end = head(&self.answer)?;
            }
            if let Some((head, body)) = end
                && self.answer.len() >= head + body
            {
                return Ok(body);
            }
        }
    }
}

/// Returns the lengths of head and body, once the head is complete.
fn head(answer: &[u8]) -> Result<Option<(usize, usize)>, Failure> {
    let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Ok(None);
    };
    let text = std::str::from_utf8(&answer[..end])?;
    if !text.starts_with("HTTP/1.1 2") {
        return Err(text.lines().next().unwrap_or("no answer").to_owned().into());
    }
    let length = text.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        let named = name.eq_ignore_ascii_case("content-length");
        named.then(|| value.parse().ok())?
    });
    let length = length.ok_or("an answer without content-length")?;
    Ok(Some((end + 4, length)))
}

/// Sends requests for so long.
pub(crate) async fn round(
    addr: SocketAddr,
    request: &[u8],
    connections: usize,
    pace: Pace,
    time: Duration,
) -> Result<Round, Failure> {
    let request: Arc<[u8]> = request.into();
    let mut open = Vec::new();
    for _ in 0..connections {
        let mut connection = Connection::new(addr).await?;
        connection.exchange(&request).await?;
        open.push(connection);
    }
    let start = Instant::now();
    let mut running = JoinSet::new();
    for (n, mut connection) in open.into_iter().enumerate() {
        let request = Arc::clone(&request);
        running.spawn(async move {
            let mut latencies = Vec::with_capacity(32 * 1024);
            let mut due = start;
            let every = match pace {
                Pace::Saturation => None,
                Pace::Fixed(rate) => {
                    due += Duration::from_secs_f64(n as f64 / f64::from(rate));
                    Some(Duration::from_secs_f64(
                        connections as f64 / f64::from(rate),
                    ))
                }
            };
            loop {
                let now = Instant::now();
                match every {
                    None => due = now,
                    Some(_) => {
                        // A timer of tokio is a millisecond late. The core is for this alone.
                        while Instant::now() < due {
                            tokio::task::yield_now().await;
                        }
                    }
                }
                if due.duration_since(start) >= time {
                    return Ok::<_, Failure>(latencies);
                }
                connection.exchange(&request).await?;
                let latency = due.elapsed().as_nanos();
                latencies.push(u32::try_from(latency).unwrap_or(u32::MAX));
                due += every.unwrap_or_default();
            }
        });
    }
    let mut latencies = Vec::new();
    while let Some(done) = running.join_next().await {
        latencies.extend(done??);
    }
    let took = start.elapsed();
    latencies.sort_unstable();
    Ok(Round {
        requests: latencies.len() as u64,
        took,
        latencies,
    })
}

/// Sends so many requests one after the other.
pub(crate) async fn repeat(addr: SocketAddr, request: &[u8], n: u64) -> Result<(), Failure> {
    let mut connection = Connection::new(addr).await?;
    for _ in 0..n {
        connection.exchange(request).await?;
    }
    Ok(())
}

/// Sends one request on each of many connections at once. Returns how many were answered.
pub(crate) async fn burst(addr: SocketAddr, request: &[u8], n: usize) -> usize {
    let request: Arc<[u8]> = request.into();
    let mut running = JoinSet::new();
    for _ in 0..n {
        let request = Arc::clone(&request);
        running.spawn(async move {
            let mut connection = Connection::new(addr).await?;
            connection.exchange(&request).await
        });
    }
    let mut answered = 0;
    while let Some(done) = running.join_next().await {
        answered += usize::from(matches!(done, Ok(Ok(_))));
    }
    answered
}

/// Returns the body of one response.
pub(crate) fn fetch(addr: SocketAddr, path: &str) -> Result<String, Failure> {
    let mut stream = StdStream::connect(addr)?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let body = answer.split_once("\r\n\r\n").ok_or("no response")?.1;
    Ok(body.to_owned())
}
