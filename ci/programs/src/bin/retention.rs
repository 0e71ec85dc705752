//! What a service keeps after a burst of large responses: RSS of the process beside the pool's figure.
//!
//!     retention [hook|plain] [arena|grow|vec]
//!
//! With the feature `jemalloc` or `mimalloc`, that allocator is the one that is tracked. Clients are
//! other processes. `hook` has the allocator give memory back when the pool has freed much; the run
//! fails if RSS 30 s after the burst is above 1.15 times that of the warmed-up service plus 4 MiB.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, ExitCode};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tower::{Layer, service_fn};
use tower_memory::{ArenaPool, MemoryLayer, RequestScope, TrackingAllocator};

#[cfg(feature = "jemalloc")]
mod allocator {
    use super::TrackingAllocator;

    pub const NAME: &str = "jemalloc";

    #[global_allocator]
    static ALLOC: TrackingAllocator<tikv_jemallocator::Jemalloc> =
        TrackingAllocator::new(tikv_jemallocator::Jemalloc);

    /// Returns the unused pages of all of jemalloc's arenas to the system.
    pub fn give_back() {
        // SAFETY: the name ends with a zero, and the control takes and returns nothing.
        unsafe {
            tikv_jemalloc_sys::mallctl(
                c"arena.4096.purge".as_ptr(), // MALLCTL_ARENAS_ALL
                std::ptr::null_mut(),
                std::ptr::null_mut(),
                std::ptr::null_mut(),
                0,
            );
        }
    }
}

#[cfg(all(feature = "mimalloc", not(feature = "jemalloc")))]
mod allocator {
    use std::{
        cell::Cell,
        sync::atomic::{AtomicUsize, Ordering::Relaxed},
    };

    use tokio::runtime::Handle;

    use super::{Duration, TrackingAllocator, WORKERS};

    pub const NAME: &str = "mimalloc";

    #[global_allocator]
    static ALLOC: TrackingAllocator<mimalloc::MiMalloc> =
        TrackingAllocator::new(mimalloc::MiMalloc);

    /// Returns the unused memory that the calling thread can reach: that of its own heap, and of
    /// threads that have ended.
    pub fn give_back() {
        // SAFETY: may be called at any time.
        unsafe { libmimalloc_sys::mi_collect(true) };
    }

    static ASKED: AtomicUsize = AtomicUsize::new(0);

    /// Each thread has to do that for its own heap: a worker does so before it sleeps next. The hook
    /// calls this, which wakes the workers up: tasks that block for a moment reach all of them.
    pub fn ask_workers(runtime: &Handle) {
        ASKED.fetch_add(1, Relaxed);
        for _ in 0..2 * WORKERS {
            runtime.spawn(async { std::thread::sleep(Duration::from_millis(2)) });
        }
    }

    /// For `on_thread_park`.
    pub fn before_sleep() {
        thread_local! {
            static DONE: Cell<usize> = const { Cell::new(0) };
        }
        let asked = ASKED.load(Relaxed);
        if DONE.replace(asked) != asked {
            give_back();
        }
    }
}

#[cfg(not(any(feature = "mimalloc", feature = "jemalloc")))]
mod allocator {
    use super::TrackingAllocator;

    pub const NAME: &str = "system";

    #[global_allocator]
    static ALLOC: TrackingAllocator = TrackingAllocator::system();

    /// Returns the unused pages of all of glibc's arenas to the system.
    pub fn give_back() {
        #[cfg(target_env = "gnu")]
        // SAFETY: may be called at any time.
        unsafe {
            libc::malloc_trim(0);
        }
    }
}

const WORKERS: usize = 2;
const BURST: usize = 1000;
const LARGE: usize = 1 << 20;
const SMALL: usize = 1 << 10;
/// Long enough for all requests of the burst to be open at once.
const HOLD: Duration = Duration::from_secs(3);
const MIB: f64 = (1 << 20) as f64;

/// Bytes of this process in memory, from Linux.
fn rss() -> f64 {
    let pages = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let resident = pages.split(' ').nth(1).expect("a second figure");
    resident.parse::<f64>().expect("a number") * 4096.0
}

async fn handle(kind: &str, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let scope = request
        .extensions()
        .get::<RequestScope>()
        .expect("inside the layer")
        .clone();
    drop(request);
    let large = scope.route().as_str() == "large";
    let bytes = if large { LARGE } else { SMALL };
    let part = [7; 1024];
    let body = if kind == "vec" {
        let mut body = Vec::new();
        (0..bytes / part.len()).for_each(|_| body.extend_from_slice(&part));
        tokio::time::sleep(if large { HOLD } else { Duration::ZERO }).await;
        body.into()
    } else {
        let mut body = if kind == "grow" {
            scope.arena().buf()
        } else {
            scope.arena().buf_with_capacity(bytes)
        };
        (0..bytes / part.len()).for_each(|_| body.extend_from_slice(&part));
        tokio::time::sleep(if large { HOLD } else { Duration::ZERO }).await;
        body.freeze()
    };
    Response::new(Full::new(body))
}

/// A process with that many connections, each of which makes requests one after the other.
fn clients(port: u16, path: &str, connections: usize, requests: usize) -> std::process::Child {
    let figures = [connections, requests].map(|n| n.to_string());
    Command::new(std::env::current_exe().expect("a path"))
        .args(["client", &port.to_string(), path])
        .args(figures)
        .spawn()
        .expect("a process")
}

fn client(port: u16, path: &str, connections: usize, requests: usize) {
    let connected = Barrier::new(connections);
    std::thread::scope(|scope| {
        for _ in 0..connections {
            let run = || {
                let mut socket = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
                connected.wait();
                for n in 1..=requests {
                    let close = if n == requests { "close" } else { "keep-alive" };
                    let head =
                        format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: {close}\r\n\r\n");
                    socket.write_all(head.as_bytes()).expect("sent");
                    let length = if path == "/large" { LARGE } else { SMALL };
                    let (mut read, mut buffer) = (0, [0; 16 * 1024]);
                    while read < length {
                        let part = socket.read(&mut buffer).expect("read");
                        assert!(part > 0, "closed early");
                        // The head comes in the first part; its length does not matter much.
                        read += part;
                    }
                    if n < requests {
                        // The rest of the head's share, if the last part was cut.
                        socket.set_nonblocking(true).expect("a socket");
                        std::thread::sleep(Duration::from_millis(1));
                        while matches!(socket.read(&mut buffer), Ok(1..)) {}
                        socket.set_nonblocking(false).expect("a socket");
                    }
                }
                let _ = socket.read_to_end(&mut Vec::new());
            };
            std::thread::Builder::new()
                .stack_size(64 * 1024)
                .spawn_scoped(scope, run)
                .expect("a thread");
        }
    });
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let limit = libc::rlimit {
        rlim_cur: 8192,
        rlim_max: 8192,
    };
    // SAFETY: a valid place to read from.
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    let (hook, kind): (bool, &'static str) = match args[..] {
        ["client", port, path, connections, requests] => {
            let number = |text: &str| text.parse().expect("a number");
            client(
                port.parse().expect("a port"),
                path,
                number(connections),
                number(requests),
            );
            return ExitCode::SUCCESS;
        }
        ["plain"] => (false, "arena"),
        [] | ["hook"] => (true, "arena"),
        ["plain", kind] => (false, String::leak(kind.to_owned())),
        ["hook", kind] => (true, String::leak(kind.to_owned())),
        _ => {
            eprintln!("usage: retention [hook|plain] [arena|grow|vec]");
            return ExitCode::from(2);
        }
    };
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(WORKERS).enable_all();
    #[cfg(all(feature = "mimalloc", not(feature = "jemalloc")))]
    runtime.on_thread_park(allocator::before_sleep);
    let runtime = runtime.build().expect("a runtime");
    #[cfg(all(feature = "mimalloc", not(feature = "jemalloc")))]
    let workers = runtime.handle().clone();
    let mut pool = ArenaPool::builder();
    if hook {
        pool = pool.on_trim(move |bytes| {
            let (start, before) = (Instant::now(), rss());
            allocator::give_back();
            #[cfg(all(feature = "mimalloc", not(feature = "jemalloc")))]
            allocator::ask_workers(&workers);
            println!(
                "  {:.1} MiB of arenas were freed: RSS {:.1} -> {:.1} MiB, in {:.1?}",
                bytes as f64 / MIB,
                before / MIB,
                rss() / MIB,
                start.elapsed()
            );
        });
    }
    let layer = MemoryLayer::builder().pool(pool.build().expect("valid settings"));
    let layer = layer.build().expect("valid settings");
    let handle_to = layer.handle();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.set_nonblocking(true).expect("a socket");
    let port = listener.local_addr().expect("bound").port();
    runtime.spawn(async move {
        let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
        let service = service_fn(move |request: Request<Incoming>| async move {
            if let Some(scope) = request.extensions().get::<RequestScope>() {
                scope.set_route(request.uri().path().trim_start_matches('/'));
            }
            Ok::<_, std::convert::Infallible>(handle(kind, request).await)
        });
        let service = TowerToHyperService::new(layer.layer(service));
        loop {
            let Ok((socket, _)) = listener.accept().await else {
                continue;
            };
            let service = service.clone();
            tokio::spawn(async move {
                let server = auto::Builder::new(TokioExecutor::new());
                let _ = server.serve_connection(TokioIo::new(socket), service).await;
            });
        }
    });
    let show = |at: &str| {
        let pool = handle_to.pool().stats();
        println!(
            "{at}: RSS {:.1} MiB; pool {:.2} MiB waiting, {:.2} MiB rented",
            rss() / MIB,
            pool.pooled_bytes as f64 / MIB,
            pool.rented_bytes as f64 / MIB
        );
        rss()
    };
    println!(
        "{}, {kind}, {}",
        allocator::NAME,
        if hook { "hook" } else { "plain" }
    );
    // As many connections as in the burst, so that theirs are part of the warmed-up service.
    let warm_up = clients(port, "/small", 64, 100).wait();
    assert!(warm_up.expect("it ran").success());
    std::thread::sleep(Duration::from_secs(1));
    let before = show("warmed up");
    let mut burst = clients(port, "/large", BURST, 1);
    let mut most = 0_f64;
    let status = loop {
        most = most.max(rss());
        if let Some(status) = burst.try_wait().expect("a child") {
            break status;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(status.success());
    println!("highest in the burst: RSS {:.1} MiB", most / MIB);
    let mut after = show("after it");
    for seconds in [10, 20, 30] {
        std::thread::sleep(Duration::from_secs(10));
        after = show(&format!("{seconds} s later"));
    }
    let target = 1.15 * before + 4.0 * MIB;
    let met = after <= target;
    println!(
        "target {:.1} MiB: {}",
        target / MIB,
        if met { "met" } else { "missed" }
    );
    ExitCode::from(u8::from(hook && !met))
}
