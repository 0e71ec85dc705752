//! What the tests share: reports collected, a body made of steps, a server and its clients.

use std::{
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    error::Error,
    fmt,
    io::Write,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, Once,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Empty;
use hyper::{body::Incoming, client::conn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::{sleep, timeout},
};
use tower::Service;
use tower_memory::{
    MemoryHandle, MemoryLayer, Outcome, RequestScope, ScopeReport, middleware::MemoryLayerBuilder,
};

/// How long to wait for what must come. Only a failing test waits that long.
const BOUND: Duration = Duration::from_secs(5);

/// As [`BOUND`], after three waits were in vain. A fault that keeps requests open would make every test wait.
const SHORT_BOUND: Duration = Duration::from_millis(100);

static IN_VAIN: AtomicUsize = AtomicUsize::new(0);

/// Whether three waits were in vain, so that the rest of the tests need not be patient.
fn much_failed() -> bool {
    IN_VAIN.load(Ordering::Relaxed) >= 3
}

/// Waits until `done` returns `true`, or for long enough. Returns whether it did.
async fn wait_until(done: impl Fn() -> bool) -> bool {
    let waiting = async {
        while !done() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    let bound = if much_failed() { SHORT_BOUND } else { BOUND };
    let in_time = timeout(bound, waiting).await.is_ok();
    IN_VAIN.fetch_add(usize::from(!in_time), Ordering::Relaxed);
    in_time
}

/// The longest that a test may run. The slowest takes 10 s on a quiet machine, and 28 s on a busy one.
const LONGEST: Duration = Duration::from_secs(50);

/// As [`LONGEST`], after three waits were in vain.
const SHORT_LONGEST: Duration = Duration::from_secs(25);

/// Ends the process if a test with a watched layer hangs, and says which.
struct Watchdog {
    number: usize,
}

/// The tests that run, by number: since when, and their name.
static RUNNING: Mutex<BTreeMap<usize, (Instant, String)>> = Mutex::new(BTreeMap::new());

impl Watchdog {
    fn start() -> Arc<Self> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        static DOG: Once = Once::new();
        DOG.call_once(|| {
            std::thread::spawn(|| {
                loop {
                    std::thread::sleep(Duration::from_millis(500));
                    let longest = if much_failed() {
                        SHORT_LONGEST
                    } else {
                        LONGEST
                    };
                    let running = RUNNING.lock().unwrap();
                    let hang: Vec<_> = running
                        .values()
                        .filter(|(since, _)| since.elapsed() > longest)
                        .map(|(_, name)| name)
                        .collect();
                    if !hang.is_empty() {
                        let text =
                            format!("watchdog: still running after {longest:?}: {hang:#?}\n");
                        // Not `eprintln!`, whose output libtest captures.
                        let _ = std::io::stderr().write_all(text.as_bytes());
                        std::process::exit(101);
                    }
                }
            });
        });
        let name = std::thread::current().name().unwrap_or("?").to_owned();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        RUNNING
            .lock()
            .unwrap()
            .insert(number, (Instant::now(), name));
        Arc::new(Self { number })
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        RUNNING.lock().unwrap().remove(&self.number);
    }
}

/// The reports and the handle of a layer.
#[derive(Clone)]
pub(crate) struct Watch {
    pub(crate) handle: MemoryHandle,
    reports: Arc<Mutex<Vec<ScopeReport>>>,
    _watchdog: Arc<Watchdog>,
}

/// Collects the reports of `layer`.
pub(crate) fn watched(layer: MemoryLayerBuilder) -> (MemoryLayer, Watch) {
    let reports = Arc::new(Mutex::new(Vec::new()));
    let layer = layer.observe({
        let reports = Arc::clone(&reports);
        move |report: &ScopeReport| reports.lock().unwrap().push(report.clone())
    });
    let layer = layer.build().unwrap();
    let handle = layer.handle();
    let watch = Watch {
        handle,
        reports,
        _watchdog: Watchdog::start(),
    };
    (layer, watch)
}

/// In flight, tasks, tokens and arenas out.
fn out(handle: &MemoryHandle) -> [usize; 4] {
    let now = handle.snapshot();
    [now.in_flight, now.tasks, now.tokens, now.pool.rented]
}

#[track_caller]
fn assert_nothing_is_out(handle: &MemoryHandle) {
    assert_eq!(
        out(handle),
        [0; 4],
        "[in flight, tasks, tokens, arenas out] did not return to zero:\n{}",
        handle.snapshot()
    );
}

/// Waits until nothing is out any more.
pub(crate) async fn settled(handle: &MemoryHandle) {
    // What is wrong after the bound is told below.
    wait_until(|| out(handle) == [0; 4]).await;
    assert_nothing_is_out(handle);
}

impl Watch {
    fn told(&self) -> usize {
        self.handle.flush_observers();
        self.reports.lock().unwrap().len()
    }

    /// Waits until `expected` requests are over and nothing is out; there must be no more reports.
    pub(crate) async fn reports(&self, expected: usize) -> Vec<ScopeReport> {
        let in_time = wait_until(|| self.told() >= expected).await;
        assert!(
            in_time,
            "{} of {expected} requests have closed:\n{}",
            self.told(),
            self.handle.snapshot()
        );
        settled(&self.handle).await;
        self.checked(expected)
    }

    /// The one report there is to be.
    pub(crate) async fn report(&self) -> ScopeReport {
        self.reports(1).await.remove(0)
    }

    /// The outcome of the one request.
    pub(crate) async fn outcome(&self) -> Outcome {
        self.report().await.outcome
    }

    /// The one report, which must be there already, with nothing out.
    #[track_caller]
    pub(crate) fn report_now(&self) -> ScopeReport {
        assert_nothing_is_out(&self.handle);
        self.checked(1).remove(0)
    }

    #[track_caller]
    pub(crate) fn outcome_now(&self) -> Outcome {
        self.report_now().outcome
    }

    /// The one request is still open, and has not been reported.
    #[track_caller]
    pub(crate) fn assert_open(&self) {
        assert_eq!(self.told(), 0, "reported before its end");
        assert_eq!(self.handle.snapshot().in_flight, 1);
    }

    #[track_caller]
    fn checked(&self, expected: usize) -> Vec<ScopeReport> {
        self.handle.flush_observers();
        let reports = self.reports.lock().unwrap().clone();
        assert_eq!(reports.len(), expected, "reports: {reports:#?}");
        let routes = self.handle.snapshot().routes;
        for &outcome in Outcome::ALL {
            let reported = reports.iter().filter(|r| r.outcome == outcome).count();
            let counted: u64 = routes.iter().map(|r| r.outcomes.get(outcome)).sum();
            assert_eq!(counted, reported as u64, "{outcome} in the statistics");
        }
        let requests: u64 = routes.iter().map(|r| r.requests).sum();
        assert_eq!(requests, expected as u64, "requests in the statistics");
        reports
    }
}

/// The scope the layer put into the request.
#[track_caller]
pub(crate) fn scope_of<B>(request: &Request<B>) -> RequestScope {
    let scope = request.extensions().get::<RequestScope>();
    scope.expect("the layer is there").clone()
}

/// Takes one of everything a scope has, so that all of it has to come back.
pub(crate) fn use_everything(scope: &RequestScope) {
    scope.arena().alloc_str("in the arena");
    let token = scope.child_token();
    scope.spawn(async move { token.cancelled().await });
}

/// Bytes of the scope's arena.
pub(crate) fn arena_bytes(scope: &RequestScope, text: &str) -> Bytes {
    let mut buf = scope.arena().buf();
    buf.extend_from_slice(text.as_bytes());
    buf.freeze()
}

/// Polls once, without a runtime's help.
pub(crate) fn poll_once<F: Future>(future: &mut Pin<Box<F>>) -> Poll<F::Output> {
    future
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
}

/// What a body gives out.
type FrameOf<B> = Result<Frame<<B as Body>::Data>, <B as Body>::Error>;

/// Polls a body once.
pub(crate) fn poll_body<B: Body + Unpin>(body: &mut B) -> Poll<Option<FrameOf<B>>> {
    Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop()))
}

/// Polls a body once, for data.
#[track_caller]
pub(crate) fn next_data<B>(body: &mut B) -> B::Data
where
    B: Body<Error: fmt::Debug> + Unpin,
{
    match poll_body(body) {
        Poll::Ready(Some(Ok(frame))) => frame.into_data().ok().expect("data"),
        Poll::Ready(Some(Err(error))) => panic!("{error:?} instead of data"),
        Poll::Ready(None) => panic!("end instead of data"),
        Poll::Pending => panic!("pending instead of data"),
    }
}

/// A request without a body.
pub(crate) fn get(path: &str) -> Request<Empty<Bytes>> {
    Request::get(path).body(Empty::new()).unwrap()
}

/// An error that tests can recognise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refused;

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("refused")
    }
}

impl Error for Refused {}

pub(crate) type BoxError = Box<dyn Error + Send + Sync>;

/// One poll of a [`Steps`] body.
#[derive(Clone)]
pub(crate) enum Step {
    Data(Bytes),
    Trailers(HeaderMap),
    Fail,
    Panic,
    /// Pending for ever.
    Stall,
}

/// A body that does as it is told.
#[derive(Clone, Default)]
pub(crate) struct Steps {
    steps: VecDeque<Step>,
    hint: SizeHint,
    tells_its_end: bool,
}

impl Steps {
    /// By default the body tells nothing about its length or end.
    pub(crate) fn new(steps: impl IntoIterator<Item = Step>) -> Self {
        Self {
            steps: steps.into_iter().collect(),
            ..Self::default()
        }
    }

    pub(crate) fn data<const N: usize>(parts: [&'static str; N]) -> Self {
        Self::new(parts.map(data))
    }

    pub(crate) fn with_length(mut self, length: u64) -> Self {
        self.hint = SizeHint::with_exact(length);
        self
    }

    pub(crate) fn telling_its_end(mut self) -> Self {
        self.tells_its_end = true;
        self
    }
}

pub(crate) fn data(text: &'static str) -> Step {
    Step::Data(Bytes::from_static(text.as_bytes()))
}

pub(crate) fn trailers() -> Step {
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", http::HeaderValue::from_static("42"));
    Step::Trailers(trailers)
}

impl Body for Steps {
    type Data = Bytes;
    type Error = Refused;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Refused>>> {
        Poll::Ready(match self.steps.pop_front() {
            None => None,
            Some(Step::Data(bytes)) => {
                let left = self.hint.exact().map(|left| left - bytes.len() as u64);
                if let Some(left) = left {
                    self.hint.set_exact(left);
                }
                Some(Ok(Frame::data(bytes)))
            }
            Some(Step::Trailers(trailers)) => Some(Ok(Frame::trailers(trailers))),
            Some(Step::Fail) => Some(Err(Refused)),
            Some(Step::Panic) => panic!("the body panics"),
            Some(Step::Stall) => {
                self.steps.push_front(Step::Stall);
                return Poll::Pending;
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.tells_its_end && self.steps.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        self.hint
    }
}

/// A service whose `call` answers with `body`, having used everything the scope has.
pub(crate) fn answering<B: Clone>(
    body: B,
) -> impl Service<
    Request<Empty<Bytes>>,
    Response = Response<B>,
    Error = Infallible,
    Future = std::future::Ready<Result<Response<B>, Infallible>>,
> + Clone {
    tower::service_fn(move |request: Request<Empty<Bytes>>| {
        scope_of(&request).arena().alloc_str("in the arena");
        drop(scope_of(&request).child_token());
        std::future::ready(Ok(Response::new(body.clone())))
    })
}

/// A service that never answers, having used everything the scope has but tasks.
pub(crate) fn never_answering() -> impl Service<
    Request<Empty<Bytes>>,
    Response = Response<Steps>,
    Error = Refused,
    Future: Unpin + Send + 'static,
> + Clone {
    tower::service_fn(|request: Request<Empty<Bytes>>| {
        let scope = scope_of(&request);
        scope.arena().alloc_str("in the arena");
        let token = scope.child_token();
        Box::pin(async move {
            let _held = (scope, token);
            std::future::pending::<Result<Response<Steps>, Refused>>().await
        })
    })
}

/// The versions of HTTP that tests go over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Http {
    One,
    Two,
}

/// Serves both versions on a port of its own.
pub(crate) async fn serve<S, B>(service: S) -> SocketAddr
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = TowerToHyperService::new(service.clone());
            tokio::spawn(async move {
                // Many tests end a connection with an error; the reports tell the rest.
                let _ = auto::Builder::new(TokioExecutor::new())
                    .serve_connection_with_upgrades(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    address
}

enum Sender {
    One(conn::http1::SendRequest<Empty<Bytes>>),
    Two(conn::http2::SendRequest<Empty<Bytes>>),
}

/// A client with one connection.
pub(crate) struct Client {
    sender: Sender,
    connection: JoinHandle<()>,
}

pub(crate) type Pending =
    Pin<Box<dyn Future<Output = Result<Response<Incoming>, hyper::Error>> + Send>>;

impl Client {
    pub(crate) async fn connect(http: Http, address: SocketAddr) -> Self {
        let stream = TokioIo::new(TcpStream::connect(address).await.unwrap());
        let (sender, connection) = match http {
            Http::One => {
                let (sender, connection) = conn::http1::handshake(stream).await.unwrap();
                let connection = tokio::spawn(async move {
                    let _ = connection.with_upgrades().await;
                });
                (Sender::One(sender), connection)
            }
            Http::Two => {
                let (sender, connection) = conn::http2::handshake(TokioExecutor::new(), stream)
                    .await
                    .unwrap();
                let connection = tokio::spawn(async move {
                    let _ = connection.await;
                });
                (Sender::Two(sender), connection)
            }
        };
        Self { sender, connection }
    }

    pub(crate) fn send(&mut self, request: Request<Empty<Bytes>>) -> Pending {
        match &mut self.sender {
            Sender::One(sender) => Box::pin(sender.send_request(request)),
            Sender::Two(sender) => Box::pin(sender.send_request(request)),
        }
    }

    /// Sends a request without a body.
    pub(crate) fn get(&mut self, path: &str) -> Pending {
        self.send(get(&format!("http://localhost{path}")))
    }

    /// Closes the connection, whatever goes on.
    pub(crate) async fn hang_up(self) {
        self.connection.abort();
        let _ = self.connection.await;
    }
}
