//! The clients' side: one request after the other, and what each must have come to.

use std::{
    future::poll_fn, net::SocketAddr, panic::AssertUnwindSafe, pin::Pin, task::Poll, time::Duration,
};

use axum::{Router, body::Body};
use bytes::Bytes;
use futures_util::{FutureExt, SinkExt, StreamExt, stream};
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    sync::oneshot,
    task::yield_now,
    time::{sleep, timeout},
};
use tokio_tungstenite::tungstenite::Message;
use tower::ServiceExt;
use tower_memory::Outcome;

use super::{
    plan::{Kind, MIX, check, word},
    random::Random,
    service::{LIMIT, reached},
};

/// How a request reaches the layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Via {
    InProcess,
    One,
    Two,
}

/// What a client saw.
#[derive(Debug)]
enum Answer {
    Whole(StatusCode, Vec<u8>),
    /// The body, or the head, was not sent to the end.
    Broken,
}

/// What the clients know about the requests of each kind.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally {
    /// By kind; all, also those whose outcome is known.
    pub(crate) sent: [u64; MIX.len()],
    /// By kind and place in [`Outcome::ALL`].
    pub(crate) known: [[u64; 16]; MIX.len()],
    pub(crate) unparsable: u64,
    pub(crate) forgotten_arenas: usize,
    pub(crate) forgotten_buffers: usize,
    /// By way: in process, HTTP/1, HTTP/2.
    pub(crate) ways: [u64; 3],
    pub(crate) bytes: u64,
}

impl Tally {
    fn add(&mut self, kind: Kind, outcome: Option<Outcome>) {
        self.sent[kind as usize] += 1;
        if let Some(outcome) = outcome {
            let place = Outcome::ALL.iter().position(|o| *o == outcome).unwrap();
            self.known[kind as usize][place] += 1;
        }
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        for (sum, add) in self.sent.iter_mut().zip(other.sent) {
            *sum += add;
        }
        let known = self.known.as_flattened_mut().iter_mut();
        for (sum, add) in known.zip(other.known.as_flattened()) {
            *sum += add;
        }
        for (sum, add) in self.ways.iter_mut().zip(other.ways) {
            *sum += add;
        }
        self.unparsable += other.unparsable;
        self.forgotten_arenas += other.forgotten_arenas;
        self.forgotten_buffers += other.forgotten_buffers;
        self.bytes += other.bytes;
    }
}

/// A client with a connection for each version of HTTP, made when it is needed.
pub(crate) struct Client {
    router: Router,
    address: SocketAddr,
    one: Option<http1::SendRequest<Body>>,
    two: Option<http2::SendRequest<Body>>,
    random: Random,
    /// Bodies that are kept for a while, as a cache would.
    kept: Vec<(u64, Bytes)>,
    pub(crate) tally: Tally,
}

/// Longer than a client waits for anything on a busy machine.
const BOUND: Duration = Duration::from_secs(60);

async fn in_time<F: Future>(what: &str, future: F) -> F::Output {
    match timeout(BOUND, future).await {
        Ok(done) => done,
        Err(_) => panic!("{what} took more than {BOUND:?}"),
    }
}

async fn poll_once<F: Future + ?Sized>(mut future: Pin<&mut F>) -> Option<F::Output> {
    poll_fn(|cx| {
        Poll::Ready(match future.as_mut().poll(cx) {
            Poll::Ready(done) => Some(done),
            Poll::Pending => None,
        })
    })
    .await
}

fn request(method: Method, path: &str, body: Body) -> Request<Body> {
    // HTTP/2 needs an authority, HTTP/1 a header.
    Request::builder()
        .method(method)
        .uri(format!("http://localhost{path}"))
        .header("host", "localhost")
        .body(body)
        .unwrap()
}

fn of(kind: Kind, id: u64, method: Method, body: Body) -> Request<Body> {
    request(method, &format!("/{}/{id}", kind.name()), body)
}

/// Reads a body to its end, or returns `None` if it breaks off. What came before that consists of the request's own
/// word, if there is an `id`.
async fn collect(mut body: Body, id: Option<u64>) -> Option<Vec<u8>> {
    let mut whole = Vec::new();
    loop {
        match AssertUnwindSafe(body.frame()).catch_unwind().await {
            Ok(None) => return Some(whole),
            Ok(Some(Ok(frame))) => {
                if let Ok(data) = frame.into_data() {
                    whole.extend_from_slice(&data);
                }
            }
            Ok(Some(Err(_))) | Err(_) => {
                if let Some(id) = id {
                    check(&whole, id);
                }
                return None;
            }
        }
    }
}

/// Connects with HTTP/2. The connection is driven by a task that can be aborted.
async fn connect_two(
    stream: TcpStream,
    window: u32,
) -> (http2::SendRequest<Body>, tokio::task::AbortHandle) {
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(window)
        .handshake(TokioIo::new(stream))
        .await
        .unwrap();
    let driver = tokio::spawn(async move {
        let _ = connection.await;
    });
    (sender, driver.abort_handle())
}

/// The rest of a request whose client leaves at once.
async fn begin(
    sender: &mut http2::SendRequest<Body>,
    request: Request<Body>,
    told: oneshot::Receiver<()>,
) -> Pin<Box<dyn Future<Output = hyper::Result<Response<hyper::body::Incoming>>> + Send>> {
    sender.ready().await.unwrap();
    let mut response = Box::pin(sender.send_request(request));
    let mut told = Box::pin(told);
    // The response stays unread, so that it can be dropped at any time.
    in_time(
        "a handler",
        poll_fn(|cx| told.as_mut().poll(cx).map(|told| told.unwrap())),
    )
    .await;
    match poll_once(response.as_mut()).await {
        // The answer came meanwhile. A future that is complete must not be polled again.
        Some(response) => Box::pin(std::future::ready(response)),
        None => response,
    }
}

impl Client {
    pub(crate) fn new(router: Router, address: SocketAddr, random: Random) -> Self {
        Self {
            router,
            address,
            one: None,
            two: None,
            random,
            kept: Vec::new(),
            tally: Tally::default(),
        }
    }

    /// Sends one request of that kind, and waits for its end.
    pub(crate) async fn send(&mut self, kind: Kind, id: u64) {
        let via = match (kind, self.random.below(20)) {
            (Kind::Forget | Kind::Shutdown, _) | (_, 0..14) => Via::InProcess,
            (_, 14..17) => Via::One,
            _ => Via::Two,
        };
        // Some are about a connection.
        let via = match (kind, via) {
            (Kind::Reset | Kind::UploadAbort, Via::InProcess) => match self.random.below(2) {
                0 => Via::One,
                _ => Via::Two,
            },
            (Kind::Upgrade, _) => Via::One,
            (Kind::Abort, Via::One) => Via::Two,
            (_, via) => via,
        };
        self.tally.ways[via as usize] += kind.requests();
        let outcome = in_time(kind.name(), self.send_via(kind, id, via)).await;
        if kind == Kind::Shutdown {
            let ends = [Outcome::Abandoned, Outcome::Abandoned, Outcome::Completed];
            for end in ends {
                self.tally.add(kind, Some(end));
            }
        } else {
            self.tally.add(kind, outcome);
        }
    }

    /// Returns the outcome, if the client knows it.
    async fn send_via(&mut self, kind: Kind, id: u64, via: Via) -> Option<Outcome> {
        match kind {
            Kind::Abort if via == Via::InProcess => return Some(self.abort(id).await),
            Kind::Abort => self.abort_two(id).await,
            Kind::SlowReader => self.slow(id, via).await,
            Kind::Reset => {
                self.reset(id, via).await;
                return (id % 2 == 0).then_some(Outcome::Abandoned);
            }
            Kind::UploadAbort => {
                self.upload_abort(id, via).await;
                return (via == Via::One).then_some(Outcome::ClientGone);
            }
            Kind::Upgrade => self.upgrade(id).await,
            Kind::Shutdown => self.shutdown(id).await,
            _ => self.exchange(kind, id, via).await,
        }
        let [only] = kind.outcomes() else {
            return None;
        };
        Some(*only)
    }

    /// A request whose answer is read to its end.
    async fn exchange(&mut self, kind: Kind, id: u64, via: Via) {
        let mut request = match kind {
            Kind::Head => of(kind, id, Method::HEAD, Body::empty()),
            Kind::TooLarge if id % 2 == 0 => {
                of(kind, id, Method::POST, Body::from(vec![0; 5 * LIMIT]))
            }
            Kind::TooLarge => {
                let part = Bytes::from(vec![0; LIMIT / 2 + 1]);
                let parts = [(); 5].map(|()| Ok::<_, std::io::Error>(part.clone()));
                of(
                    kind,
                    id,
                    Method::POST,
                    Body::from_stream(stream::iter(parts)),
                )
            }
            _ => of(kind, id, Method::GET, Body::empty()),
        };
        if kind == Kind::Deadline {
            let millis = if id % 8 == 0 { "0" } else { "4" };
            request
                .headers_mut()
                .insert("x-request-timeout-ms", millis.parse().unwrap());
        } else if kind == Kind::Plain && id % 32 == 0 {
            let junk = [
                "",
                "-1",
                "abc",
                "99999999999999999999999999",
                "1e3",
                "0x10",
                "+5",
            ];
            let junk = junk[id as usize / 32 % junk.len()];
            request
                .headers_mut()
                .insert("x-request-timeout-ms", junk.parse().unwrap());
            self.tally.unparsable += 1;
        }
        let answer = self.answer(request, id, via).await;
        match (kind, &answer) {
            (Kind::Panic | Kind::BodyPanic, Answer::Broken) => {}
            (Kind::Timeout | Kind::Deadline, Answer::Whole(StatusCode::GATEWAY_TIMEOUT, _)) => {}
            (Kind::TooLarge, Answer::Whole(StatusCode::PAYLOAD_TOO_LARGE, _)) => {}
            // The server closes while the client still writes.
            (Kind::TooLarge, Answer::Broken) if via == Via::One => {}
            // Only HTTP/1 leaves out the body of a 304.
            (Kind::NoBody, Answer::Whole(status, body)) if body.is_empty() || via != Via::One => {
                check(body, id);
                assert_eq!(status.as_u16(), [204, 304][id as usize % 2]);
            }
            (Kind::Head, Answer::Whole(StatusCode::OK, body)) => assert!(body.is_empty()),
            (
                Kind::Plain | Kind::Stream | Kind::Outlive | Kind::Forget,
                Answer::Whole(StatusCode::OK, body),
            ) => {
                assert!(!body.is_empty());
                check(body, id);
                self.tally.bytes += body.len() as u64;
            }
            _ => panic!("{kind:?} {id} via {via:?} was answered with {answer:?}"),
        }
        if kind == Kind::Forget {
            self.tally.forgotten_arenas += 1;
            let buffer = super::service::forgotten(id) == "buffer";
            self.tally.forgotten_buffers += usize::from(buffer);
        }
        // Neither connection is of use afterwards.
        if matches!(answer, Answer::Broken) || kind == Kind::TooLarge {
            match via {
                Via::InProcess => {}
                Via::One => self.one = None,
                Via::Two => self.two = None,
            }
        }
    }

    async fn answer(&mut self, request: Request<Body>, id: u64, via: Via) -> Answer {
        let keeps = self.random.below(16) == 0;
        let response = match via {
            Via::InProcess => {
                let response = self.router.clone().oneshot(request);
                let response = AssertUnwindSafe(response).catch_unwind().await;
                response.ok().map(|response| response.unwrap())
            }
            Via::One => {
                let response = self.one().await.send_request(request).await;
                response.ok().map(|response| response.map(Body::new))
            }
            Via::Two => {
                let response = self.two().await.send_request(request).await;
                response.ok().map(|response| response.map(Body::new))
            }
        };
        let Some(response) = response else {
            return Answer::Broken;
        };
        let (head, mut body) = response.into_parts();
        if !keeps || via != Via::InProcess {
            let own = (head.status == StatusCode::OK).then_some(id);
            return collect(body, own)
                .await
                .map_or(Answer::Broken, |body| Answer::Whole(head.status, body));
        }
        // Frames are kept as they are, and looked at when others take their place.
        let mut whole = Vec::new();
        loop {
            match AssertUnwindSafe(body.frame()).catch_unwind().await {
                Ok(None) => return Answer::Whole(head.status, whole),
                Ok(Some(Ok(frame))) => {
                    let Ok(data) = frame.into_data() else {
                        continue;
                    };
                    whole.extend_from_slice(&data);
                    if head.status == StatusCode::OK && data.len() >= 8 {
                        self.keep(data);
                    }
                }
                Ok(Some(Err(_))) | Err(_) => {
                    check(&whole, id);
                    return Answer::Broken;
                }
            }
        }
    }

    /// Keeps bytes of whole words, instead of earlier ones.
    fn keep(&mut self, data: Bytes) {
        let first = u64::from_le_bytes(data[..8].try_into().unwrap());
        if self.kept.len() < 8 {
            self.kept.push((first, data));
            return;
        }
        let place = self.random.below(8);
        let old = std::mem::replace(&mut self.kept[place], (first, data));
        unchanged(&old);
    }

    async fn one(&mut self) -> &mut http1::SendRequest<Body> {
        if let Some(sender) = &mut self.one {
            if sender.ready().await.is_err() {
                self.one = None;
            }
        }
        if self.one.is_none() {
            let stream = self.connect().await;
            let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
            tokio::spawn(async move {
                let _ = connection.await;
            });
            self.one = Some(sender);
        }
        self.one.as_mut().unwrap()
    }

    async fn two(&mut self) -> &mut http2::SendRequest<Body> {
        if let Some(sender) = &mut self.two {
            if sender.ready().await.is_err() {
                self.two = None;
            }
        }
        if self.two.is_none() {
            let (sender, _) = connect_two(self.connect().await, 1 << 16).await;
            self.two = Some(sender);
        }
        self.two.as_mut().unwrap()
    }

    async fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    /// Drops what is open of a request, now and then on a thread without a runtime.
    fn leave<T: Send + 'static>(&mut self, open: T) {
        if self.random.below(8) == 0 {
            std::thread::spawn(move || drop(open)).join().unwrap();
        }
    }

    async fn step(&mut self) {
        if self.random.below(4) == 0 {
            sleep(Duration::from_micros(300)).await;
        } else {
            yield_now().await;
        }
    }

    async fn abort(&mut self, id: u64) -> Outcome {
        let request = of(Kind::Abort, id, Method::GET, Body::empty());
        // A router calls the layer at its first poll.
        let mut response = Box::pin(self.router.clone().oneshot(request));
        let mut body = None;
        for _ in 0..=self.random.below(12) {
            if let Some(response) = poll_once(response.as_mut()).await {
                body = Some(response.unwrap().into_body());
                break;
            }
            self.step().await;
        }
        let Some(mut body) = body else {
            self.leave(response);
            return Outcome::Abandoned;
        };
        drop(response);
        let mut polls = self.random.below(12);
        while polls > 0 {
            polls -= 1;
            match poll_once(Pin::new(&mut body.frame())).await {
                Some(None) => return Outcome::Completed,
                Some(Some(frame)) => {
                    let data = frame.unwrap().into_data().unwrap();
                    check(&data, id);
                    self.tally.bytes += data.len() as u64;
                }
                None => self.step().await,
            }
        }
        self.leave(body);
        Outcome::Abandoned
    }

    async fn abort_two(&mut self, id: u64) {
        let request = of(Kind::Abort, id, Method::GET, Body::empty());
        let told = reached(id);
        let mut response = begin(self.two().await, request, told).await;
        for _ in 0..self.random.below(12) {
            self.step().await;
            let Some(answer) = poll_once(response.as_mut()).await else {
                continue;
            };
            let mut body = answer.unwrap().into_body();
            for _ in 0..self.random.below(4) {
                if let Some(frame) = body.frame().await {
                    check(&frame.unwrap().into_data().unwrap(), id);
                }
            }
            return;
        }
    }

    async fn slow(&mut self, id: u64, via: Via) {
        let path = format!("/{}/{id}", Kind::SlowReader.name());
        let sent = request(Method::GET, &path, Body::empty());
        let mut whole = Vec::new();
        let pause = Duration::from_micros(300);
        match via {
            Via::One => {
                let socket = TcpSocket::new_v4().unwrap();
                socket.set_recv_buffer_size(4096).unwrap();
                let mut stream = socket.connect(self.address).await.unwrap();
                let head = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
                stream.write_all(head.as_bytes()).await.unwrap();
                let mut part = [0; 4096];
                loop {
                    let read = stream.read(&mut part).await.unwrap();
                    if read == 0 {
                        break;
                    }
                    whole.extend_from_slice(&part[..read]);
                    sleep(pause).await;
                }
                let end = whole
                    .windows(4)
                    .position(|four| four == b"\r\n\r\n")
                    .unwrap();
                whole.drain(..end + 4);
            }
            Via::InProcess | Via::Two => {
                let mut driver = None;
                let response = if via == Via::Two {
                    let (mut sender, abort) = connect_two(self.connect().await, 4096).await;
                    driver = Some(abort);
                    let response = sender.send_request(sent).await.unwrap();
                    response.map(Body::new)
                } else {
                    self.router.clone().oneshot(sent).await.unwrap()
                };
                let mut body = response.into_body();
                while let Some(frame) = body.frame().await {
                    whole.extend_from_slice(&frame.unwrap().into_data().unwrap());
                    sleep(pause).await;
                }
                drop((body, driver));
            }
        }
        assert_eq!(whole.len() as u64, 8 * (3000 + id % 2000), "a whole body");
        check(&whole, id);
        self.tally.bytes += whole.len() as u64;
    }

    async fn reset(&mut self, id: u64, via: Via) {
        let told = reached(id);
        let stream = self.connect().await;
        stream.set_zero_linger().unwrap();
        let path = format!("/{}/{id}", Kind::Reset.name());
        let wait = self.random.below(900) as u64;
        if via == Via::One {
            let mut stream = stream;
            let head = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            in_time("a handler", told).await.unwrap();
            if id % 2 == 1 && wait > 300 {
                let mut some = [0; 700];
                let read = stream.read(&mut some).await.unwrap_or(0);
                let head = some[..read].windows(4).position(|four| four == b"\r\n\r\n");
                if let Some(head) = head {
                    check(&some[head + 4..read], id);
                }
            }
            sleep(Duration::from_micros(wait)).await;
        } else {
            let (mut sender, driver) = connect_two(stream, 1 << 16).await;
            let sent = request(Method::GET, &path, Body::empty());
            let response = begin(&mut sender, sent, told).await;
            sleep(Duration::from_micros(wait)).await;
            driver.abort();
            drop(response);
        }
    }

    async fn upload_abort(&mut self, id: u64, via: Via) {
        let told = reached(id);
        let resets = self.random.below(2) == 0;
        let stream = self.connect().await;
        if resets {
            stream.set_zero_linger().unwrap();
        }
        let path = format!("/{}/{id}", Kind::UploadAbort.name());
        if via == Via::One {
            let mut stream = stream;
            let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 900\r\n\r\nabc");
            stream.write_all(head.as_bytes()).await.unwrap();
            in_time("a handler", told).await.unwrap();
        } else {
            let (mut sender, driver) = connect_two(stream, 1 << 16).await;
            let part = stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"abc"))]);
            let body = Body::from_stream(part.chain(stream::pending()));
            let mut sent = request(Method::POST, &path, body);
            sent.headers_mut()
                .insert("content-length", "900".parse().unwrap());
            let response = begin(&mut sender, sent, told).await;
            drop(response); // resets the stream
            if resets {
                driver.abort();
            }
        }
    }

    async fn upgrade(&mut self, id: u64) {
        let url = format!("ws://localhost/{}/{id}", Kind::Upgrade.name());
        let stream = self.connect().await;
        let (mut socket, _) = tokio_tungstenite::client_async(url, stream).await.unwrap();
        for _ in 0..self.random.below(4) {
            let text = word(id).repeat(20);
            socket.send(Message::Binary(text.into())).await.unwrap();
            match socket.next().await {
                Some(Ok(Message::Binary(echo))) => check(&echo, id),
                other => panic!("{other:?} instead of an echo"),
            }
        }
        match self.random.below(3) {
            0 => socket.close(None).await.unwrap(),
            1 => socket.get_ref().set_zero_linger().unwrap(),
            _ => {}
        }
    }

    async fn shutdown(&mut self, id: u64) {
        let router = self.router.clone();
        let told = reached(id);
        let how = self.random.below(4);
        let done = tokio::task::spawn_blocking(move || {
            let runtime = if id % 2 == 0 {
                tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
            } else {
                tokio::runtime::Builder::new_multi_thread()
                    .worker_threads(1)
                    .enable_all()
                    .build()
            };
            let runtime = runtime.unwrap();
            let send = |what: u64| {
                let path = format!("/{}/{id}/{what}", Kind::Shutdown.name());
                router
                    .clone()
                    .oneshot(request(Method::GET, &path, Body::empty()))
            };
            runtime.block_on(async {
                tokio::spawn(send(0));
                told.await.unwrap();
                let mut body = send(1).await.unwrap().into_body();
                check(
                    &body.frame().await.unwrap().unwrap().into_data().unwrap(),
                    id,
                );
                tokio::spawn(async move {
                    std::future::pending::<()>().await;
                    drop(body);
                });
                let body = send(2).await.unwrap().into_body();
                let whole = collect(body, Some(id)).await.unwrap();
                check(&whole, id);
            });
            match how {
                0 => runtime.shutdown_background(),
                1 => runtime.shutdown_timeout(Duration::from_millis(20)),
                2 => std::thread::spawn(move || drop(runtime)).join().unwrap(),
                _ => drop(runtime),
            }
        });
        done.await.unwrap();
    }
}

#[track_caller]
fn unchanged((first, data): &(u64, Bytes)) {
    let word = first.to_le_bytes();
    let same = data.chunks(8).all(|chunk| *chunk == word[..chunk.len()]);
    assert!(same, "residue: bytes that were kept have changed");
}

impl Drop for Client {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.kept.iter().for_each(unchanged);
        }
    }
}
