//! `chat --check`: connects 200 WebSocket clients over TCP, half of which vanish.

mod client;
mod report;

use std::{
    error::Error,
    net::SocketAddr,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::http::Method;
use futures_util::{SinkExt, StreamExt};
use tokio::{
    net::{TcpSocket, TcpStream},
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::Message};
use tokio_util::sync::CancellationToken;
use tower_memory::{Outcome, observe::ShutdownReport};

use self::client::Client;
pub(crate) use self::report::{Report, settled};
use super::{Chat, MAX_MESSAGE};

/// Short, so that the check is fast.
pub(crate) const PING: Duration = Duration::from_millis(1500);

const CLIENTS: usize = 200;
const ROOMS: usize = 10;
/// Clients that reset their connection.
const RESET: usize = 50;
/// Clients that keep their connection but stop responding.
const SILENT: usize = 50;
/// Clients that close their connection properly.
const ORDERLY: usize = 50;

/// Timeout of each step. Only a failing check reaches it.
pub(crate) const BOUND: Duration = Duration::from_secs(20);

type BoxError = Box<dyn Error + Send + Sync>;
pub(crate) type Socket = WebSocketStream<TcpStream>;

pub(crate) async fn connect(addr: SocketAddr, room: usize, name: &str) -> Result<Socket, BoxError> {
    let socket = TcpSocket::new_v4()?;
    // Small, so that socket buffers do not hide a client that reads nothing.
    socket.set_recv_buffer_size(16 * 1024)?;
    let stream = socket.connect(addr).await?;
    let url = format!("ws://{addr}/rooms/room-{room}?name={name}");
    Ok(client_async(url, stream).await?.0)
}

/// How the connection of a peer ended.
enum End {
    /// Handed over by a [`Peer`], and no longer read.
    Kept(Box<Socket>),
    Goodbye,
    Lost,
}

/// A client that reads and therefore answers pings.
struct Peer {
    say: mpsc::Sender<String>,
    heard: Arc<AtomicUsize>,
    hand_over: CancellationToken,
    task: JoinHandle<Result<End, BoxError>>,
}

impl Peer {
    fn start(addr: SocketAddr, n: usize) -> Self {
        let (say, mut said) = mpsc::channel::<String>(1);
        let (heard, hand_over) = (Arc::new(AtomicUsize::new(0)), CancellationToken::new());
        let (hears, asked) = (Arc::clone(&heard), hand_over.clone());
        let task = tokio::spawn(async move {
            let mut socket = connect(addr, n % ROOMS, &format!("peer-{n}")).await?;
            loop {
                let message = tokio::select! {
                    () = asked.cancelled() => return Ok(End::Kept(Box::new(socket))),
                    Some(line) = said.recv() => {
                        socket.send(Message::text(line)).await?;
                        continue;
                    }
                    message = socket.next() => message,
                };
                match message {
                    Some(Ok(Message::Text(text))) if text.contains("\"said\"") => {
                        hears.fetch_add(1, Ordering::Relaxed);
                    }
                    Some(Ok(Message::Close(_))) => return Ok(End::Goodbye),
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return Ok(End::Lost),
                }
            }
        });
        Self {
            say,
            heard,
            hand_over,
            task,
        }
    }

    /// Returns the socket, which is no longer read.
    async fn keep(self) -> Result<Box<Socket>, BoxError> {
        self.hand_over.cancel();
        match self.task.await?? {
            End::Kept(socket) => Ok(socket),
            End::Goodbye => Err("the server closed a connection too early".into()),
            End::Lost => Err("a peer lost its connection".into()),
        }
    }
}

/// Waits until each peer has received `wanted` lines. Returns whether they arrived in time.
async fn all_heard(peers: &[Peer], wanted: usize) -> bool {
    let all = async {
        while peers
            .iter()
            .any(|peer| peer.heard.load(Ordering::Relaxed) < wanted)
        {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(BOUND, all).await.is_ok()
}

/// Connects a peer that does not read and one that floods its room.
async fn read_slowly(addr: SocketAddr, chat: &Chat) -> Result<bool, BoxError> {
    let slow = connect(addr, ROOMS, "slow").await?;
    let (mut talk, _unread) = slow.split();
    let talking = tokio::spawn(async move {
        // It talks, so that it does not become stale.
        while talk.send(Message::text("I am here")).await.is_ok() {
            sleep(PING / 3).await;
        }
    });
    let (mut talk, mut hear) = connect(addr, ROOMS, "much").await?.split();
    let reading = tokio::spawn(async move { while let Some(Ok(_)) = hear.next().await {} });
    let line = "x".repeat(MAX_MESSAGE);
    let flooding = async {
        while chat.rooms.dropped().1 == 0 {
            talk.send(Message::text(line.clone())).await?;
        }
        Ok::<_, BoxError>(())
    };
    let dropped = timeout(BOUND, flooding)
        .await
        .is_ok_and(|sent| sent.is_ok());
    // The peer that reads is still connected.
    let kept = talk.send(Message::text("still here")).await.is_ok();
    talking.abort();
    reading.abort();
    Ok(dropped && kept)
}

pub(crate) async fn run(
    addr: SocketAddr,
    chat: &Chat,
    stop: oneshot::Sender<()>,
    server: JoinHandle<std::io::Result<ShutdownReport>>,
) -> Result<ExitCode, BoxError> {
    let mut report = Report::default();
    let handle = &chat.handle;
    let http = Client::new(addr);
    let page = http.send(Method::GET, "/").await?;
    report.received("GET /", page.status.as_str(), &page.headers);
    let text = String::from_utf8(page.body.to_vec())?;
    let remote = ["src=\"http", "href=\"http", "url(", "@import"];
    report.expect(
        page.status == 200
            && text.contains("new WebSocket")
            && !remote.iter().any(|r| text.contains(r)),
        format!("the page has {} bytes and loads nothing else", text.len()),
    );
    let long = format!("/rooms/{}?name=x", "r".repeat(33));
    let refused = http.send(Method::GET, &long).await?;
    report.received(
        "GET /rooms/.. (no upgrade)",
        refused.status.as_str(),
        &refused.headers,
    );
    report.expect(
        refused.status.is_client_error(),
        format!(
            "a request without an upgrade is refused: {}",
            refused.status
        ),
    );

    let mut peers: Vec<_> = (0..CLIENTS).map(|n| Peer::start(addr, n)).collect();
    let open = settled(handle, |now| {
        now.in_flight == CLIENTS && now.tasks == CLIENTS
    })
    .await;
    let (rooms, members) = chat.rooms.count();
    report.expect(
        [open.in_flight, open.tasks, open.pool.rented] == [CLIENTS; 3]
            && (rooms, members) == (ROOMS, CLIENTS),
        format!(
            "connected: {} scopes, {} tasks, {} arenas, {rooms} rooms",
            open.in_flight, open.tasks, open.pool.rented
        ),
    );
    for (n, peer) in peers.iter().enumerate() {
        peer.say.send(format!("hello from {n}")).await?;
    }
    let lines = CLIENTS / ROOMS;
    let heard = all_heard(&peers, lines).await;
    report.expect(
        heard,
        format!("each peer received the {lines} lines of its room"),
    );

    let staying = peers.split_off(RESET + SILENT);
    let mut silent = Vec::new();
    for (n, peer) in peers.into_iter().enumerate() {
        let socket = peer.keep().await?;
        if n < RESET {
            socket.get_ref().set_zero_linger()?; // reset when dropped
        } else {
            silent.push(socket); // kept but not read: no pong
        }
    }
    let stayed = CLIENTS - RESET - SILENT;
    let left = settled(handle, |now| {
        [now.in_flight, now.tasks, now.pool.rented] == [stayed; 3]
    })
    .await;
    let (stale, slow) = chat.rooms.dropped();
    report.expect(
        left.in_flight == stayed && (stale, slow) == (SILENT, 0),
        format!(
            "half of the clients vanished: {} scopes are left, {stale} peers were stale",
            left.in_flight
        ),
    );
    report.expect(
        [left.tasks, left.pool.rented] == [stayed; 2],
        format!(
            "their tasks and arenas are gone, too: {} and {} are left",
            left.tasks, left.pool.rented
        ),
    );
    report.expect(
        staying.iter().all(|peer| !peer.task.is_finished()),
        "peers that answer pings stay connected",
    );
    drop(silent);

    let dropped = read_slowly(addr, chat).await?;
    report.expect(
        dropped,
        "a peer that does not read is disconnected, and its room keeps working",
    );

    let mut orderly = Vec::new();
    for n in 0..ORDERLY {
        let mut socket = connect(addr, n % ROOMS, "visitor").await?;
        socket.close(None).await?;
        orderly.push(socket);
    }
    for mut socket in orderly {
        // Wait for the closing handshake.
        while let Ok(Some(Ok(_))) = timeout(BOUND, socket.next()).await {}
    }
    let left = settled(handle, |now| now.in_flight == stayed).await;
    report.expect(
        left.in_flight == stayed,
        format!(
            "{ORDERLY} clients joined and closed properly: {} scopes",
            left.in_flight
        ),
    );

    let _ = stop.send(());
    let down = timeout(BOUND, server).await???;
    report.expect(down.is_clean(), format!("shutdown: {down}"));
    let mut told = 0;
    for peer in staying {
        let end = timeout(BOUND, peer.task).await???;
        told += usize::from(matches!(end, End::Goodbye));
    }
    report.expect(
        told == stayed,
        format!("{told} peers received a close message"),
    );
    report.expect(chat.rooms.count() == (0, 0), "no room is left");
    report.expect_nothing_left(handle).await;
    report.expect(
        handle.outliving().is_empty() && handle.task_overruns().is_empty(),
        "no task outlived its connection",
    );
    let routes = handle.snapshot().routes;
    let rooms = routes
        .iter()
        .find(|seen| seen.route.as_str() == "/rooms/{room}");
    let shut_down = rooms.map_or(0, |seen| seen.outcomes.get(Outcome::Shutdown));
    report.expect(
        shut_down == stayed as u64,
        format!("{shut_down} connections ended because of the shutdown"),
    );
    if let Some(latency) = handle.cancel_latency().first() {
        println!(
            "time from the end of a connection to the end of its task: p50 {:.0?}, p99 {:.0?}, max {:.0?}\n",
            latency.p50, latency.p99, latency.max
        );
    }
    Ok(report.finish())
}
