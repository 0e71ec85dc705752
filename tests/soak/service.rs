//! The server's side: a route for each kind, on a layer with everything switched on.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Mutex, atomic::AtomicU64},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{
        Path, Request, WebSocketUpgrade,
        ws::{Message, WebSocket},
    },
    handler::Handler,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{any, get, post},
};
use bytes::Bytes;
use futures_util::stream;
use http_body_util::BodyExt;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpSocket, TcpStream},
    sync::oneshot,
    task::yield_now,
    time::sleep,
};
use tower_memory::{
    ArenaBuf, ArenaPool, MemoryLayer, RequestScope, RoutePolicy,
    deadline_header::DeadlineHeader,
    middleware::{MemoryLayerBuilder, RequestBodyLayer},
};

use super::plan::{Kind, check, word};

/// What the panics that are meant begin with.
pub(crate) const MEANT: &str = "soak: ";

/// How long tasks get after the end of their request.
pub(crate) const GRACE: Duration = Duration::from_millis(60);

/// Longer than anything runs.
const FOREVER: Duration = Duration::from_secs(3600);

pub(crate) const LIMIT: usize = 1000;

/// Tasks that ignore their token until they are aborted.
pub(crate) static IGNORING: AtomicU64 = AtomicU64::new(0);

/// The clients that wait until the handler of their request runs.
static WAITING: Mutex<Option<HashMap<u64, oneshot::Sender<()>>>> = Mutex::new(None);

/// Ready when the handler of `id` has [reached](reach) its point.
pub(crate) fn reached(id: u64) -> oneshot::Receiver<()> {
    let (tell, told) = oneshot::channel();
    let mut waiting = WAITING.lock().unwrap();
    waiting.get_or_insert_default().insert(id, tell);
    told
}

fn reach(id: u64) {
    let tell = WAITING
        .lock()
        .unwrap()
        .as_mut()
        .and_then(|all| all.remove(&id));
    if let Some(tell) = tell {
        let _ = tell.send(());
    }
}

fn fill(buffer: &mut ArenaBuf, id: u64, words: u64) {
    for _ in 0..words {
        buffer.extend_from_slice(&word(id));
    }
}

/// Uses the arena in several ways across an await, and looks at the values afterwards.
async fn scratch(scope: &RequestScope, id: u64) {
    let arena = scope.arena();
    let one = arena.alloc(word(id));
    let mut list = arena.vec::<[u8; 8]>();
    let mut cursor = arena.cursor();
    let slice = cursor.alloc_slice_copy(&[word(id); 9]);
    let boxed = arena.alloc_box(vec![word(id); 3]);
    for n in 0..id % 40 {
        list.push(word(id));
        if n == 20 {
            yield_now().await;
        }
    }
    check(one, id);
    check(slice.as_flattened(), id);
    check(list.as_flattened(), id);
    check(boxed.as_flattened(), id);
}

fn body(scope: &RequestScope, id: u64, words: u64) -> Body {
    let mut buffer = scope.arena().buf();
    fill(&mut buffer, id, words);
    Body::from(buffer.freeze())
}

async fn plain(scope: RequestScope, Path(id): Path<u64>) -> Body {
    scope.annotate("id", id);
    scratch(&scope, id).await;
    body(&scope, id, 8 + id * 31 % 600)
}

/// Five parts of one buffer.
fn parts(scope: &RequestScope, id: u64, panics: bool) -> Body {
    let buffer = scope.arena().buf();
    let parts = stream::unfold((buffer, 0), move |(mut buffer, n)| async move {
        if n == 5 {
            return None;
        }
        assert!(n != 2 || !panics, "{MEANT}the body panics");
        if n % 2 == 0 {
            yield_now().await;
        }
        fill(&mut buffer, id, 40 + n * 170);
        let part = buffer.split().freeze();
        Some((Ok::<Bytes, std::io::Error>(part), (buffer, n + 1)))
    });
    Body::from_stream(parts)
}

async fn streamed(scope: RequestScope, Path(id): Path<u64>) -> Body {
    scope.annotate("id", id);
    parts(&scope, id, false)
}

async fn no_body(scope: RequestScope, Path(id): Path<u64>) -> Response {
    scope.annotate("id", id);
    scope.arena().alloc(id);
    if id % 2 == 0 {
        StatusCode::NO_CONTENT.into_response()
    } else {
        (StatusCode::NOT_MODIFIED, body(&scope, id, 4)).into_response()
    }
}

/// Starts a task that ends with the request.
fn obedient(scope: &RequestScope, id: u64) {
    let owned = scope.clone();
    scope.spawn(async move {
        let words = owned.arena().alloc_slice_copy(&[word(id); 30]);
        owned.cancelled().await;
        yield_now().await;
        check(words.as_flattened(), id);
    });
}

async fn panics(scope: RequestScope, Path(id): Path<u64>) -> Body {
    scope.annotate("id", id);
    obedient(&scope, id);
    let mut list = scope.arena().vec();
    list.push(vec![id]);
    if id % 2 == 0 {
        yield_now().await;
    }
    panic!("{MEANT}the handler panics");
}

async fn body_panics(scope: RequestScope, Path(id): Path<u64>) -> Body {
    scope.annotate("id", id);
    parts(&scope, id, true)
}

/// Is ended by a deadline, or by a client that leaves.
async fn waits(scope: RequestScope, Path(id): Path<u64>) -> Body {
    scope.annotate("id", id);
    obedient(&scope, id);
    let words = scope.arena().alloc_slice_copy(&[word(id); 30]);
    reach(id);
    sleep(FOREVER).await;
    check(words.as_flattened(), id);
    Body::empty()
}

/// Has several awaits, a task, and a body in parts.
async fn awaits(scope: RequestScope, Path(id): Path<u64>) -> Body {
    scope.annotate("id", id);
    reach(id);
    scratch(&scope, id).await;
    yield_now().await;
    obedient(&scope, id);
    sleep(Duration::from_micros(id % 700)).await;
    scratch(&scope, id).await;
    yield_now().await;
    parts(&scope, id, false)
}

/// More than the sockets' buffers hold.
async fn long(scope: RequestScope, Path(id): Path<u64>) -> Body {
    scope.annotate("id", id);
    body(&scope, id, 3000 + id % 2000)
}

async fn reset(scope: RequestScope, path: Path<u64>) -> Body {
    if path.0 % 2 == 0 {
        waits(scope, path).await
    } else {
        reach(path.0);
        long(scope, path).await
    }
}

async fn upload(scope: RequestScope, Path(id): Path<u64>, request: Request) -> Response {
    scope.annotate("id", id);
    obedient(&scope, id);
    let watched = request.into_body().map_frame(move |frame| {
        reach(id);
        frame
    });
    match scope.arena().collect(watched, LIMIT).await {
        Ok(read) => Body::from(read.freeze()).into_response(),
        Err(error) => error.status().into_response(),
    }
}

async fn outlives(scope: RequestScope, path: Path<u64>) -> Body {
    let Path(id) = path;
    let owned = scope.clone();
    scope.spawn(async move {
        let words = owned.arena().alloc_slice_copy(&[word(id); 9]);
        owned.cancelled().await;
        sleep(Duration::from_millis(id % 4)).await;
        check(words.as_flattened(), id);
    });
    let owned = scope.clone();
    match id % 6 {
        0 => {
            IGNORING.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            drop(scope.spawn(async move {
                let words = owned.arena().alloc_slice_copy(&[word(id); 9]);
                sleep(FOREVER).await;
                check(words.as_flattened(), id);
            }));
        }
        1 => drop(scope.detach("soak", async move {
            sleep(Duration::from_millis(3)).await;
            drop(owned);
        })),
        2 => drop(scope.spawn(async {
            yield_now().await;
            panic!("{MEANT}the task panics");
        })),
        3 => drop(scope.spawn_blocking(move || {
            let words = owned.arena().alloc_slice_copy(&[word(id); 99]);
            std::thread::sleep(Duration::from_micros(id % 900));
            check(words.as_flattened(), id);
        })),
        _ => {
            let mut set = tokio::task::JoinSet::new();
            for n in 0..4 {
                set.spawn(scope.track(sleep(Duration::from_micros(n * 100))));
            }
            set.detach_all();
        }
    }
    plain(scope, path).await
}

async fn upgrade(scope: RequestScope, Path(id): Path<u64>, upgrade: WebSocketUpgrade) -> Response {
    scope.annotate("id", id);
    let hold = scope.hold();
    upgrade.on_upgrade(move |mut socket: WebSocket| {
        hold.run(async move {
            obedient(&scope, id);
            let words = scope.arena().alloc_slice_copy(&[word(id); 64]);
            while let Some(Ok(message)) = socket.recv().await {
                let Message::Binary(message) = message else {
                    continue;
                };
                let mut answer = scope.arena().buf();
                answer.extend_from_slice(&message);
                if socket.send(Message::Binary(answer.freeze())).await.is_err() {
                    break;
                }
            }
            check(words.as_flattened(), id);
        })
    })
}

/// Which of three things a [`Kind::Forget`] forgets.
pub(crate) const fn forgotten(id: u64) -> &'static str {
    ["scope", "arena", "buffer"][id as usize % 3]
}

async fn forgets(scope: RequestScope, Path(id): Path<u64>) -> Body {
    scope.annotate("id", id);
    // Written all over, so that the resident set knows all of it.
    scope.arena().alloc_slice_copy(&[word(id); 380]);
    #[expect(clippy::mem_forget, reason = "is what this is about")]
    match forgotten(id) {
        "scope" => std::mem::forget(scope.clone()),
        "arena" => std::mem::forget(scope.arena().clone()),
        _ => {
            let mut buffer = scope.arena().buf_with_capacity(1000);
            fill(&mut buffer, id, 125);
            std::mem::forget(buffer);
        }
    }
    body(&scope, id, 8)
}

/// What is open when its runtime goes: a handler, a stream, a task.
async fn shuts_down(scope: RequestScope, Path((id, what)): Path<(u64, u64)>) -> Body {
    // Three requests, and one id.
    obedient(&scope, id);
    match what {
        0 => {
            reach(id);
            sleep(FOREVER).await;
            Body::empty()
        }
        1 => parts(&scope, id, false),
        _ => {
            drop(scope.spawn(sleep(FOREVER)));
            body(&scope, id, 8)
        }
    }
}

pub(crate) fn layer(pool: ArenaPool) -> MemoryLayerBuilder {
    MemoryLayer::builder()
        .pool(pool)
        .timeout(Duration::from_secs(120))
        .body_timeout(Duration::from_secs(120))
        .body_idle_timeout(Duration::from_secs(60))
        .grace_period(GRACE)
        .trust_deadline(DeadlineHeader::RequestTimeout)
}

pub(crate) const TIMEOUT: Duration = Duration::from_millis(4);

pub(crate) fn router(layer: MemoryLayer) -> Router {
    let path = |kind: Kind| format!("/{}/{{id}}", kind.name());
    let soon = RoutePolicy::new().timeout(TIMEOUT);
    Router::new()
        .route(&path(Kind::Plain), get(plain))
        .route(&path(Kind::Stream), get(streamed))
        .route(&path(Kind::Head), get(plain))
        .route(&path(Kind::NoBody), get(no_body))
        .route(&path(Kind::Panic), get(panics))
        .route(&path(Kind::BodyPanic), get(body_panics))
        .route(&path(Kind::Timeout), get(waits.layer(soon)))
        .route(&path(Kind::Deadline), get(waits))
        .route(&path(Kind::Abort), get(awaits))
        .route(&path(Kind::SlowReader), get(long))
        .route(&path(Kind::Reset), get(reset))
        .route(&path(Kind::UploadAbort), post(upload))
        .route(&path(Kind::Outlive), get(outlives))
        .route(&path(Kind::TooLarge), post(upload))
        .route(&path(Kind::Upgrade), any(upgrade))
        .route(&path(Kind::Forget), get(forgets))
        .route("/shutdown/{id}/{what}", get(shuts_down))
        .layer(RequestBodyLayer::new())
        .layer(layer)
}

/// Serves both versions of HTTP with small buffers, so that clients that read slowly are felt.
pub(crate) fn serve(router: Router) -> SocketAddr {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_send_buffer_size(8 * 1024).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1024).unwrap();
    let address = listener.local_addr().unwrap();
    let serve_one = move |stream: TcpStream| {
        let service = TowerToHyperService::new(router.clone());
        tokio::spawn(async move {
            // Clients that leave end a connection with an error.
            let _ = auto::Builder::new(TokioExecutor::new())
                .serve_connection_with_upgrades(TokioIo::new(stream), service)
                .await;
        });
    };
    tokio::spawn(async move {
        loop {
            if let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                serve_one(stream);
            }
        }
    });
    address
}
