//! Chat rooms over WebSocket, with one scope per connection.
//!
//! ```sh
//! cargo run --example chat --features full               # serves a chat for browsers
//! cargo run --example chat --features full -- --ping 5   # detects vanished peers sooner
//! cargo run --example chat --features full -- --check    # connects 200 clients to itself
//! cargo run --example chat --features full -- --long 120 # plays 30 days of connections in two minutes
//! ```

#[path = "check/args.rs"]
mod args;
#[path = "check/chat.rs"]
mod check;
#[path = "check/long.rs"]
mod long;
#[path = "chat/room.rs"]
mod room;

use std::{error::Error, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{
        Path, Query, State, WebSocketUpgrade,
        ws::{CloseFrame, Message, WebSocket, close_code},
    },
    http::StatusCode,
    response::{Html, IntoResponse, Response},
    routing::{any, get},
};
use futures_util::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use serde::Deserialize;
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
    time::{interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tower_memory::{MemoryHandle, MemoryLayer, RequestScope, TrackingAllocator, scope::ScopeHold};

use self::room::{Line, Member, Rooms};

#[global_allocator]
static ALLOC: TrackingAllocator = TrackingAllocator::system();

const PING: Duration = Duration::from_secs(30);
/// Longest message, in bytes.
const MAX_MESSAGE: usize = 4096;
/// Timeout of the close message, and of its reply.
const GOODBYE: Duration = Duration::from_secs(1);
const SHUTDOWN: Duration = Duration::from_secs(5);

/// State shared by all connections.
struct Chat {
    rooms: Rooms,
    /// Ping interval. A peer that sends nothing for twice as long is stale.
    ping: Duration,
    handle: MemoryHandle,
}

fn app(ping: Duration) -> (Router, Arc<Chat>) {
    let memory = MemoryLayer::with_timeout(Duration::from_secs(5));
    let chat = Arc::new(Chat {
        rooms: Rooms::default(),
        ping,
        handle: memory.handle(),
    });
    let app = Router::new()
        .route("/", get(|| async { Html(include_str!("chat/index.html")) }))
        .route("/rooms/{room}", any(join))
        .layer(memory)
        .route("/stats", get(stats))
        .with_state(Arc::clone(&chat));
    (app, chat)
}

#[derive(Deserialize)]
struct Joining {
    name: String,
}

async fn join(
    scope: RequestScope,
    Path(room): Path<String>,
    Query(Joining { name }): Query<Joining>,
    State(chat): State<Arc<Chat>>,
    upgrade: WebSocketUpgrade,
) -> Response {
    if let Some(refusal) = refused("room", &room).or_else(|| refused("name", &name)) {
        return (StatusCode::BAD_REQUEST, refusal).into_response();
    }
    // The response is complete after the upgrade. The hold keeps its scope open.
    let hold: ScopeHold = scope.hold();
    upgrade
        .max_message_size(MAX_MESSAGE)
        .on_upgrade(move |socket| hold.run(connection(chat, scope, room, name, socket)))
}

/// Returns why `name` is invalid for a room or a peer.
fn refused(what: &str, name: &str) -> Option<String> {
    let length = name.chars().count();
    if !(1..=32).contains(&length) {
        return Some(format!("{what} of {length} characters: expected 1 to 32\n"));
    }
    let control = name.chars().any(char::is_control);
    control.then(|| format!("{what} must not contain control characters\n"))
}

/// Serves one peer until it leaves, vanishes or is disconnected.
async fn connection(
    chat: Arc<Chat>,
    scope: RequestScope,
    room: String,
    name: String,
    socket: WebSocket,
) {
    let name = scope.arena().alloc_str(&name);
    let (sink, mut stream) = socket.split();
    let (queue, lines) = mpsc::channel(room::QUEUE);
    let too_slow = CancellationToken::new();
    // Leaves the room when it is dropped.
    let Some(member) = chat.rooms.join(&room, name, queue, too_slow.clone()) else {
        return; // too many rooms: close at once
    };
    // Ends with the scope, which ends with this function.
    scope.spawn(write(scope.clone(), chat.ping, sink, lines));

    loop {
        let heard = tokio::select! {
            _ = scope.cancelled() => {
                // The server is shutting down. A socket that is closed before it has been read to
                // the end resets the connection, and the peer loses the close message.
                let rest = async { while let Some(Ok(_)) = stream.next().await {} };
                let _ = timeout(GOODBYE, rest).await;
                false
            }
            () = too_slow.cancelled() => false,
            () = sleep(2 * chat.ping) => {
                chat.rooms.note_stale();
                false
            }
            heard = listen(&mut stream, &member) => heard,
        };
        if !heard {
            return;
        }
    }
}

/// Handles one message of a peer. Returns whether there may be more.
async fn listen(stream: &mut SplitStream<WebSocket>, member: &Member<'_>) -> bool {
    match stream.next().await {
        Some(Ok(Message::Text(text))) => member.say(&text).await,
        Some(Ok(Message::Close(_)) | Err(_)) | None => return false,
        Some(Ok(_)) => {} // a pong: the peer is alive
    }
    true
}

/// Sends lines and pings until the scope ends, then closes the connection.
async fn write(
    scope: RequestScope,
    ping: Duration,
    mut sink: SplitSink<WebSocket, Message>,
    mut lines: mpsc::Receiver<Line>,
) {
    let mut pings = interval(ping);
    let sending = async {
        loop {
            let message = tokio::select! {
                line = lines.recv() => match line {
                    Some(line) => Message::Text(line.text),
                    None => return, // the reader has ended
                },
                _ = pings.tick() => Message::Ping(axum::body::Bytes::new()),
            };
            if sink.send(message).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        _ = scope.cancelled() => {}
        () = sending => {}
    }
    let frame = CloseFrame {
        code: close_code::AWAY,
        reason: "goodbye".into(),
    };
    // Do not wait for a peer that does not read.
    let _ = timeout(GOODBYE, sink.send(Message::Close(Some(frame)))).await;
}

async fn stats(State(chat): State<Arc<Chat>>) -> String {
    format!("{}\n{}\n", chat.rooms, chat.handle.snapshot())
}

#[tokio::main]
async fn main() -> ExitCode {
    let (mut ping, mut long, mut plot) = (PING, None, None);
    let args = args::Args::parse_with(
        "chat",
        3000,
        "--ping SECONDS  ping interval; peers that are silent for twice as long are \
         disconnected (default: 30)\n  \
         --long SECONDS  play 30 days of connections in so many seconds, check that nothing grows, and exit\n  \
         --plot FILE     draw what --long measured, as SVG",
        |word, value| match word {
            "--ping" => Some(value().and_then(|text| {
                ping = Duration::from_secs(seconds(word, &text)?.into());
                Ok(())
            })),
            "--long" => Some(value().and_then(|text| {
                long = Some(seconds(word, &text)?);
                Ok(())
            })),
            "--plot" => Some(value().map(|file| plot = Some(PathBuf::from(file)))),
            _ => None,
        },
    );
    let long = long.map(|seconds| (seconds, plot));
    match run(&args, ping, long).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("chat: {error}");
            ExitCode::FAILURE
        }
    }
}

fn seconds(word: &str, text: &str) -> Result<u32, String> {
    let seconds = text.parse().ok();
    let seconds = seconds.filter(|seconds| (1..=3600).contains(seconds));
    seconds.ok_or_else(|| format!("invalid {word} {text:?}: expected 1 to 3600 seconds"))
}

async fn run(
    args: &args::Args,
    ping: Duration,
    long: Option<(u32, Option<PathBuf>)>,
) -> Result<ExitCode, Box<dyn Error + Send + Sync>> {
    let ping = match (args.check, &long) {
        (true, _) => check::PING,
        (false, Some(_)) => long::PING,
        (false, None) => ping,
    };
    let (app, chat) = app(ping);
    let addr = match long {
        Some(_) => ([127, 0, 0, 1], 0).into(),
        None => args.addr,
    };
    let listener = TcpListener::bind(addr)
        .await
        .map_err(|error| format!("cannot listen on {addr}: {error}; try --port"))?;
    let addr = listener.local_addr()?;
    let (stop, stopped) = oneshot::channel::<()>();
    let handle = chat.handle.clone();
    // axum does not wait for upgraded connections. This does, and tells them to end.
    let server = tokio::spawn(async move {
        let server = |stop| axum::serve(listener, app).with_graceful_shutdown(stop);
        handle.serve_until(stopped, SHUTDOWN, server).await
    });
    if args.check {
        return check::run(addr, &chat, stop, server).await;
    }
    if let Some((seconds, plot)) = long {
        return long::run(addr, &chat, seconds, plot.as_deref(), stop, server).await;
    }
    println!(
        "Open http://{addr} in two browser windows. http://{addr}/stats shows what is alive. \
         Press Ctrl-C to stop."
    );
    tokio::signal::ctrl_c().await?;
    let _ = stop.send(());
    println!("\n{}", server.await??);
    Ok(ExitCode::SUCCESS)
}
