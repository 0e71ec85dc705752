//! `chat --long SECONDS`: 30 days of connections, compressed. Memory, tasks and arenas stay flat.

use std::{
    error::Error,
    fmt::Write,
    fs,
    net::SocketAddr,
    path::Path,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{SinkExt, StreamExt};
use tokio::{
    sync::oneshot,
    task::{JoinHandle, JoinSet},
    time::{sleep, sleep_until, timeout},
};
use tokio_tungstenite::tungstenite::Message;
use tower_memory::{
    MemoryHandle, account,
    observe::{ShutdownReport, Snapshot},
};

use super::{
    Chat, MAX_MESSAGE,
    check::{BOUND, Socket, connect},
    check::{Report, settled},
};

const DAYS: u32 = 30;

/// Days until all has been seen that a process keeps: threads, caches, sizes that are learned.
const WARM_UP: usize = 5;

/// Connections of a day by hour: few at night, most in the evening.
const BY_HOUR: [u32; 24] = [
    8, 4, 2, 1, 1, 2, 5, 12, 20, 24, 26, 28, 34, 30, 28, 28, 30, 36, 44, 56, 62, 54, 36, 18,
];

/// Ping interval: long enough for a machine that is busy.
pub(crate) const PING: Duration = Duration::from_secs(1);

/// Rooms of a day. Each day has others, as each month has.
const ROOMS: u64 = 12;

/// How a client leaves: of twenty, twelve close, four reset, three fall silent, one ends without a word. And every
/// 100th reads nothing while its room talks, until the server disconnects it.
#[derive(Default)]
struct Left {
    orderly: AtomicU64,
    reset: AtomicU64,
    silent: AtomicU64,
    slow: AtomicU64,
    /// Whom the server disconnected, or could not serve in time.
    lost: AtomicU64,
    lines: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// What there is at one moment.
#[derive(Clone, Copy)]
struct Sample {
    /// In days.
    at: f64,
    rss: f64,
    heap: f64,
    tasks: usize,
    arenas: usize,
}

/// One figure of a sample.
type Figure = fn(&Sample) -> f64;

const MIB: f64 = 1024.0 * 1024.0;

impl Sample {
    fn take(at: f64, now: &Snapshot) -> Self {
        let heap = account::process_usage().map_or(0, |usage| usage.live_bytes());
        Self {
            at,
            rss: rss().unwrap_or(f64::NAN),
            heap: heap as f64 / MIB,
            tasks: now.tasks,
            arenas: now.pool.rented,
        }
    }
}

/// Resident memory in MiB, where Linux tells.
fn rss() -> Option<f64> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: f64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * 4096.0 / MIB)
}

async fn visit(addr: SocketAddr, n: u64, day: u64, stay: Duration, left: Arc<Left>) {
    let visited = if n % 100 == 0 {
        read_nothing(addr, (1_000_000 + n) as usize, &left).await
    } else {
        talk(addr, n, day, stay, &left).await
    };
    if visited.is_err() {
        count(&left.lost);
    }
}

async fn talk(
    addr: SocketAddr,
    n: u64,
    day: u64,
    stay: Duration,
    left: &Left,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let room = (day * ROOMS + n % ROOMS) as usize;
    let mut socket = connect(addr, room, &format!("visitor-{n}")).await?;
    let hello = format!("hello, it is day {day}");
    socket.send(Message::text(hello)).await?;
    let end = tokio::time::Instant::now() + stay;
    loop {
        tokio::select! {
            () = sleep_until(end) => break,
            message = socket.next() => {
                message.ok_or("closed")??;
                count(&left.lines);
            }
        }
    }
    match n % 20 {
        0..12 => {
            socket.close(None).await?;
            while let Ok(Some(Ok(_))) = timeout(BOUND, socket.next()).await {}
            count(&left.orderly);
        }
        12..16 => {
            socket.get_ref().set_zero_linger()?;
            count(&left.reset);
        }
        16..19 => {
            // Keeps the connection, and answers no ping. The server gives up first.
            sleep(3 * PING).await;
            count(&left.silent);
        }
        _ => {} // the connection ends without a close message
    }
    Ok(())
}

/// Reads nothing, while another one fills the room.
async fn read_nothing(
    addr: SocketAddr,
    room: usize,
    left: &Left,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let slow: Socket = connect(addr, room, "slow").await?;
    let (mut talk, mut hear) = connect(addr, room, "much").await?.split();
    let line = "x".repeat(MAX_MESSAGE - 100);
    let reading = async {
        while let Some(Ok(message)) = hear.next().await {
            if matches!(message, Message::Text(text) if text.contains("\"left\"")) {
                return true;
            }
        }
        false
    };
    let flooding = async { while talk.send(Message::text(line.clone())).await.is_ok() {} };
    let both = async {
        tokio::select! {
            left = reading => left,
            () = flooding => false,
        }
    };
    if timeout(BOUND, both).await? {
        count(&left.slow);
    }
    drop(slow);
    Ok(())
}

/// Plays a day, and returns samples of its noon, its evening and its night, when nobody is there.
async fn day(
    addr: SocketAddr,
    handle: &MemoryHandle,
    day: u64,
    length: Duration,
    left: &Arc<Left>,
    samples: &mut Vec<Sample>,
) -> Result<(Sample, u64), Box<dyn Error + Send + Sync>> {
    let mut visitors = JoinSet::new();
    let (start, mut n) = (tokio::time::Instant::now(), 0);
    let hour = length / 24;
    for (at, joining) in (0..).zip(BY_HOUR) {
        for of in 0..joining {
            sleep_until(start + hour * at + hour * of / joining).await;
            // From a few minutes to two hours.
            let stay = hour * (1 + (n as u32 * 7) % 24) / 12;
            visitors.spawn(visit(addr, n, day, stay, Arc::clone(left)));
            n += 1;
        }
        if at == 12 || at == 20 {
            let now = day as f64 + f64::from(at) / 24.0;
            samples.push(Sample::take(now, &handle.snapshot()));
        }
    }
    while let Some(visitor) = visitors.join_next().await {
        visitor?;
    }
    let night = settled(handle, |now| {
        [now.in_flight, now.tasks, now.tokens, now.pool.rented] == [0; 4]
    });
    let night = Sample::take(day as f64 + 1.0, &night.await);
    samples.push(night);
    Ok((night, n))
}

pub(crate) async fn run(
    addr: SocketAddr,
    chat: &Chat,
    seconds: u32,
    plot: Option<&Path>,
    stop: oneshot::Sender<()>,
    server: JoinHandle<std::io::Result<ShutdownReport>>,
) -> Result<ExitCode, Box<dyn Error + Send + Sync>> {
    let mut report = Report::default();
    let (handle, left) = (&chat.handle, Arc::new(Left::default()));
    let length = Duration::from_secs(u64::from(seconds)) / DAYS;
    let (mut samples, mut nights, mut connections) = (Vec::new(), Vec::new(), 0);
    let start = Instant::now();
    println!("day  connections  tasks  arenas  live heap MiB  RSS MiB (at night)");
    for n in 0..u64::from(DAYS) {
        let (night, joined) = day(addr, handle, n, length, &left, &mut samples).await?;
        connections += joined;
        println!(
            "{:3}  {connections:11}  {:5}  {:6}  {:13.2}  {:7.1}",
            n + 1,
            night.tasks,
            night.arenas,
            night.heap,
            night.rss
        );
        nights.push(night);
    }
    println!();
    let took = start.elapsed();
    let _ = stop.send(());
    let down = timeout(BOUND, server).await???;
    report.expect(down.is_clean(), format!("shutdown: {down}"));
    if let Some(path) = plot {
        fs::write(path, drawn(&samples))?;
        println!("wrote {}", path.display());
    }

    let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let (stale, slow) = chat.rooms.dropped();
    let ways = [&left.orderly, &left.reset, &left.silent, &left.slow].map(of);
    let [orderly, reset, silent, unread] = ways;
    let (lines, lost) = (of(&left.lines), of(&left.lost));
    report.expect(
        !ways.contains(&0) && lost * 10 < connections,
        format!(
            "{DAYS} days in {took:.0?}: {connections} connections, {lines} messages; {orderly} \
             closed, {reset} reset, {silent} fell silent, {unread} read nothing, {lost} were lost"
        ),
    );
    report.expect(
        stale > 0 && slow > 0 && (stale + slow) as u64 >= silent + unread,
        format!("the server disconnected {stale} stale and {slow} slow ones"),
    );
    report.expect(
        nights
            .iter()
            .all(|night| (night.tasks, night.arenas) == (0, 0)),
        "no task and no arena is left in any night",
    );
    let evening = samples
        .iter()
        .map(|sample| sample.arenas)
        .max()
        .unwrap_or(0);
    report.expect(
        evening > 0,
        format!("in the evening there are up to {evening} arenas"),
    );
    let (early, late) = (&nights[WARM_UP..WARM_UP + 5], &nights[nights.len() - 5..]);
    for (name, figure, more) in [
        ("live heap", (|night: &Sample| night.heap) as Figure, 0.25),
        ("RSS", |night: &Sample| night.rss, 4.0),
    ] {
        let [early, late] = [early, late].map(|nights| median(nights, figure));
        report.expect(
            late.is_nan() || late <= early * 1.1 + more,
            format!(
                "{name} at night: {early:.2} MiB after {WARM_UP} days, {late:.2} MiB at the end"
            ),
        );
    }
    report.expect_nothing_left(handle).await;
    Ok(report.finish())
}

fn median(nights: &[Sample], figure: Figure) -> f64 {
    let mut figures: Vec<f64> = nights.iter().map(figure).collect();
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// Draws four plots, one below the other, each with its own scale.
fn drawn(samples: &[Sample]) -> String {
    const WIDTH: f64 = 760.0;
    const HEIGHT: f64 = 90.0;
    let mut svg = String::from(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 840 560\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"840\" height=\"560\" fill=\"#fff\"/>\n",
    );
    let rows: [(&str, Figure); 4] = [
        ("RSS, MiB", |sample| sample.rss),
        ("live heap, MiB", |sample| sample.heap),
        ("tasks", |sample| sample.tasks as f64),
        ("arenas in use", |sample| sample.arenas as f64),
    ];
    for (row, (name, figure)) in rows.into_iter().enumerate() {
        let bottom = 30.0 + (row as f64 + 1.0) * 125.0;
        let most = samples.iter().map(figure).fold(1.0, f64::max);
        let points = samples.iter().map(|sample| {
            let x = 60.0 + WIDTH * sample.at / f64::from(DAYS);
            format!("{x:.1},{:.1}", bottom - HEIGHT * figure(sample) / most)
        });
        let points = points.collect::<Vec<_>>().join(" ");
        let top = bottom - HEIGHT;
        let written = writeln!(
            svg,
            "<text x=\"60\" y=\"{}\">{name}</text>\
             <text x=\"54\" y=\"{}\" text-anchor=\"end\">{most:.1}</text>\
             <text x=\"54\" y=\"{bottom}\" text-anchor=\"end\">0</text>\
             <path d=\"M60 {top}V{bottom}H820\" fill=\"none\" stroke=\"#9aa3ab\"/>\
             <polyline points=\"{points}\" fill=\"none\" stroke=\"#2f7d5b\" \
             stroke-width=\"1.5\"/>",
            top - 8.0,
            top + 4.0,
        );
        written.expect("a String takes all");
    }
    svg.push_str(
        "<text x=\"820\" y=\"548\" text-anchor=\"end\">30 days, compressed</text>\n</svg>\n",
    );
    svg
}
