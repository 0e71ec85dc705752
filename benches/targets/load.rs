//! `load/`: whole requests over loopback TCP, HTTP/1.1 with connections that stay open: the time from
//! one request to the next, and how long a client waits.
//!
//! The server has one thread, and the clients another one. What the clients cost is the same for all.

use std::{
    cell::RefCell,
    hint::black_box,
    net::SocketAddr,
    rc::Rc,
    sync::mpsc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Body,
    http::{Response, header},
    response::IntoResponse,
    routing::get,
};
use bytes::{BufMut, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::{Builder, Runtime},
    task::LocalSet,
};
use tower_memory::{Expose, MemoryLayer, RequestScope};

use crate::{
    clock,
    harness::{Contest, Report, Samples, Target, measure, nanos},
    layer::{ITEMS, items_in_the_arena, items_into_a_buffer, items_on_the_heap},
    sides::Side,
};

/// Connections, each with one request at a time.
const CLIENTS: u64 = 8;

const REQUEST: &[u8] = b"GET /items HTTP/1.1\r\nhost: localhost\r\n\r\n";

/// What is served.
#[derive(Clone, Copy)]
struct Answer {
    /// How it ends.
    end: &'static [u8],
    /// Panics if a body is another one.
    check: fn(&str),
    /// What is measured.
    clock: fn() -> f64,
}

const ALL_ITEMS: Answer = Answer {
    end: b"\"]",
    check: |body| {
        let expected: Vec<_> = (0..ITEMS).map(|i| format!("item-{i}")).collect();
        let items: Vec<String> = serde_json::from_str(body).expect("JSON");
        assert_eq!(items, expected);
    },
    clock: clock::wall,
};

const HELLO: Answer = Answer {
    end: b"hello",
    check: |body| assert_eq!(body, "hello"),
    clock: clock::process,
};

/// The items without the formatting machinery: what `strconv.AppendInt` does in Go.
pub(crate) fn put_items(body: &mut impl BufMut) {
    let mut digits = itoa::Buffer::new();
    let mut before: &[u8] = b"[\"item-";
    for i in 0..ITEMS {
        body.put_slice(before);
        body.put_slice(digits.format(black_box(i)).as_bytes());
        before = b"\",\"item-";
    }
    body.put_slice(b"\"]");
}

async fn items_by_digits(scope: RequestScope) -> Response<Body> {
    let mut body = scope.arena().buf();
    put_items(&mut body);
    ([(header::CONTENT_TYPE, "application/json")], body.freeze()).into_response()
}

/// As good as it gets by hand, on one thread: a buffer that is used again once it was sent.
async fn items_into_a_kept_buffer() -> Response<Body> {
    thread_local! {
        static KEPT: RefCell<BytesMut> = RefCell::new(BytesMut::new());
    }
    let body = KEPT.with_borrow_mut(|kept| {
        kept.reserve(16 * 1024);
        put_items(kept);
        kept.split().freeze()
    });
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// Serves `apps` on a thread of their own, for as long as the process runs.
fn serve<const N: usize>(apps: [Router; N]) -> [SocketAddr; N] {
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            for app in apps {
                let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
                tell.send(listener.local_addr().expect("bound"))
                    .expect("awaited");
                tokio::spawn(async move {
                    // Without: the last part of a response waits for the client's acknowledgement.
                    let listener = axum::serve::ListenerExt::tap_io(listener, |stream| {
                        stream.set_nodelay(true).expect("a socket option");
                    });
                    axum::serve(listener, app).await
                });
            }
            std::future::pending::<()>().await;
        });
    });
    std::array::from_fn(|_| told.recv().expect("served"))
}

/// A connection, and what it has measured.
struct Client {
    stream: TcpStream,
    end: &'static [u8],
    answer: Vec<u8>,
    waits: Vec<f64>,
}

impl Client {
    async fn new(address: SocketAddr, end: &'static [u8]) -> Self {
        let stream = TcpStream::connect(address).await.expect("a connection");
        stream.set_nodelay(true).expect("a socket option");
        Self {
            stream,
            end,
            answer: Vec::with_capacity(64 * 1024),
            waits: Vec::new(),
        }
    }

    /// Sends `n` requests one after the other, and reads each response to its end.
    async fn run(&mut self, n: u64) {
        for _ in 0..n {
            let start = Instant::now();
            self.stream.write_all(REQUEST).await.expect("sent");
            self.answer.clear();
            while !self.answer.ends_with(self.end) {
                let read = self.stream.read_buf(&mut self.answer).await;
                assert_ne!(read.expect("read"), 0, "closed");
            }
            self.waits.push(start.elapsed().as_nanos() as f64);
        }
    }
}

/// Eight clients of one server, and the time of `n` requests.
fn side<'a>(
    label: &'static str,
    runtime: &'a Runtime,
    address: SocketAddr,
    answer: Answer,
) -> Loaded<'a> {
    let clients: Rc<RefCell<Vec<Client>>> = Rc::default();
    runtime.block_on(async {
        for _ in 0..CLIENTS {
            let mut client = Client::new(address, answer.end).await;
            client.run(1).await;
            let text = String::from_utf8(client.answer.clone()).expect("UTF-8");
            let (head, body) = text.split_once("\r\n\r\n").expect("a response");
            assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
            (answer.check)(body);
            client.waits.clear();
            clients.borrow_mut().push(client);
        }
    });
    let run = {
        let clients = Rc::clone(&clients);
        move |n: u64| {
            let start = (answer.clock)();
            let each = n.div_ceil(CLIENTS);
            let tasks = LocalSet::new();
            let handles: Vec<_> = clients
                .take()
                .into_iter()
                .map(|mut client| {
                    tasks.spawn_local(async move {
                        client.run(each).await;
                        client
                    })
                })
                .collect();
            let done = async {
                for handle in handles {
                    let client = handle.await.expect("no panic");
                    clients.borrow_mut().push(client);
                }
            };
            tasks.block_on(runtime, done);
            ((answer.clock)() - start) * n as f64 / (each * CLIENTS) as f64
        }
    };
    Loaded {
        side: Side::new(label, run),
        clients,
    }
}

struct Loaded<'a> {
    side: Side<'a>,
    clients: Rc<RefCell<Vec<Client>>>,
}

/// How long the clients of a side waited: p50 and p99.
fn waits(clients: &Rc<RefCell<Vec<Client>>>) -> [f64; 2] {
    let clients = clients.borrow();
    let mut waits: Vec<f64> = clients
        .iter()
        .flat_map(|client| client.waits.iter().copied())
        .collect();
    waits.sort_by(f64::total_cmp);
    [50, 99].map(|percent| waits[(waits.len() - 1) * percent / 100])
}

fn json_route() -> Contest {
    Contest::new(
        [
            "load/json_1000/arena.json",
            "load/json_1000/ArenaBuf_write",
            "load/json_1000/ArenaBuf_itoa",
            "load/json_1000/ArenaBuf_itoa/kept_BytesMut_itoa",
            "load/json_1000/wait_p50",
            "load/json_1000/wait_p99",
        ]
        .map(str::to_owned),
        |report: &mut Report, [json_row, write_row, itoa_row, kept_row, p50_row, p99_row]| {
            let ours = MemoryLayer::builder()
                .timeout(Duration::from_secs(5))
                .expose(Expose::Always);
            let ours = ours.build().unwrap();
            let app = |handler| Router::new().route("/items", handler);
            let [heap, json, write, itoa, kept] = serve([
                app(get(items_on_the_heap)),
                app(get(items_in_the_arena)).layer(ours.clone()),
                app(get(items_into_a_buffer)).layer(ours.clone()),
                app(get(items_by_digits)).layer(ours),
                app(get(items_into_a_kept_buffer)),
            ]);
            let runtime = Builder::new_current_thread().enable_all().build();
            let runtime = &runtime.expect("a runtime");
            let sides = [
                side("arena.json", runtime, json, ALL_ITEMS),
                side("ArenaBuf, write!", runtime, write, ALL_ITEMS),
                side("ArenaBuf, itoa", runtime, itoa, ALL_ITEMS),
                side("kept BytesMut, itoa, no layer", runtime, kept, ALL_ITEMS),
                side("Vec<String>, no layer", runtime, heap, ALL_ITEMS),
            ];
            let clients = sides.each_ref().map(|side| Rc::clone(&side.clients));
            let [json, write, itoa, kept, heap]: [Samples; 5] =
                measure(sides.map(|side| side.side));
            // DESIGN: four times the requests.
            for (row, side) in [(json_row, &json), (write_row, &write), (itoa_row, &itoa)] {
                report.compare(row, side, &heap, Target::AtMost(0.25));
            }
            report.compare(kept_row, &itoa, &kept, Target::None);
            let [_, _, itoa, _, heap] = clients.each_ref().map(waits);
            for (row, at) in [(p50_row, 0), (p99_row, 1)] {
                report.line(
                    row,
                    &format!("{} (ArenaBuf, itoa)", nanos(itoa[at])),
                    &format!("{} (Vec<String>, no layer)", nanos(heap[at])),
                    &format!("{:.2}", itoa[at] / heap[at]),
                    "-",
                    None,
                );
            }
        },
    )
}

/// A handler that does nothing else: processor time of server and clients.
fn hello() -> Contest {
    Contest::new(
        ["load/hello/headers_off".to_owned()],
        |report: &mut Report, [row]| {
            let app = || Router::new().route("/items", get(async || "hello"));
            let ours = MemoryLayer::builder()
                .timeout(Duration::from_secs(5))
                .expose(Expose::Never);
            let ours = ours.build().expect("valid");
            let [ours, none] = serve([app().layer(ours), app()]);
            let runtime = Builder::new_current_thread().enable_all().build();
            let runtime = &runtime.expect("a runtime");
            let [ours, none] = measure([
                side("ours", runtime, ours, HELLO).side,
                side("no layer", runtime, none, HELLO).side,
            ]);
            report.added(row, &ours, &none, Some(350.0));
        },
    )
}

pub(crate) fn add(contests: &mut Vec<Contest>) {
    contests.push(json_route());
    contests.push(hello());
}
