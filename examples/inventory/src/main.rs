//! A flash-sale service: stock, orders and retries, with a durable store.
//!
//! ```sh
//! cargo run -p inventory            # serves, with a store in a temporary directory
//! cargo run -p inventory -- --file shop.redb
//! cargo run -p inventory -- --check # sends requests to itself, also while it is killed and started again
//! ```
//!
//! The hot handlers exist twice: below `/heap` as one writes them with axum alone, below `/arena` with the
//! request's arena.

mod arena;
#[path = "../../check/args.rs"]
mod args;
mod catalogue;
mod check;
mod heap;
mod live;
mod order;
mod problem;
mod routes;
mod store;

use std::{error::Error, net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use tokio::{net::TcpListener, signal};
use tower_memory::TrackingAllocator;

use self::store::{NoStore, Place, Store, TableStore};

#[global_allocator]
static ALLOC: TrackingAllocator = TrackingAllocator::system();

/// Time for requests to end after Ctrl-C or SIGTERM.
const SHUTDOWN: Duration = Duration::from_secs(10);

const USAGE: &str =
    "--file FILE     keep the store in this file (default: one in a temporary directory)
  --memory        keep the store in memory
  --no-store      keep no orders, and have endless stock: for measuring everything else
  --stock N       stock of each item in a new store (default: 1000)
  --orders N      orders of the sale that --check plays (default: 3000)
  --audit FILE    compare the orders in a store with its stock, and exit";

#[derive(Default)]
struct Options {
    place: Option<Kept>,
    stock: Option<u32>,
    orders: Option<u32>,
    audit: Option<PathBuf>,
}

enum Kept {
    In(Place),
    Nowhere,
}

type BoxError = Box<dyn Error + Send + Sync>;

#[tokio::main]
async fn main() -> ExitCode {
    let mut options = Options::default();
    let args = args::Args::parse_with("inventory", 3000, USAGE, |word, value| {
        let read = match word {
            "--file" => {
                value().map(|file| options.place = Some(Kept::In(Place::File(file.into()))))
            }
            "--memory" => {
                options.place = Some(Kept::In(Place::Memory));
                Ok(())
            }
            "--no-store" => {
                options.place = Some(Kept::Nowhere);
                Ok(())
            }
            "--stock" => value().and_then(|text| {
                options.stock = Some(number(word, &text)?);
                Ok(())
            }),
            "--orders" => value().and_then(|text| {
                options.orders = Some(number(word, &text)?);
                Ok(())
            }),
            "--audit" => value().map(|file| options.audit = Some(file.into())),
            _ => return None,
        };
        Some(read)
    });
    match run(&args, options).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("inventory: {error}");
            ExitCode::FAILURE
        }
    }
}

fn number(word: &str, text: &str) -> Result<u32, String> {
    let number = text
        .parse()
        .ok()
        .filter(|n| (1..=1_000_000_000).contains(n));
    number.ok_or_else(|| format!("invalid {word} {text:?}: expected 1 to 1000000000"))
}

async fn run(args: &args::Args, options: Options) -> Result<ExitCode, BoxError> {
    if let Some(file) = options.audit {
        return check::audit(&file);
    }
    let stock = options.stock.unwrap_or(1000);
    if args.check {
        return check::run(options.orders.unwrap_or(3000)).await;
    }
    let directory; // removed when this returns
    let place = match options.place {
        Some(Kept::Nowhere) => return serve(args.addr, NoStore::default(), "no store").await,
        Some(Kept::In(place)) => place,
        None => {
            directory = tempfile::tempdir()?;
            Place::File(directory.path().join("inventory.redb"))
        }
    };
    let store = TableStore::open(place.clone(), stock)?;
    serve(args.addr, store, &format!("store: {place}")).await
}

async fn serve<S: Store>(addr: SocketAddr, store: S, what: &str) -> Result<ExitCode, BoxError> {
    let (app, memory) = routes::app(store.clone())?;
    let listener = TcpListener::bind(addr)
        .await
        .map_err(|error| format!("cannot listen on {addr}: {error}; try --port"))?;
    let addr = listener.local_addr()?;
    println!(
        "Listening on http://{addr} ({what}). Press Ctrl-C to stop.\n{}",
        to_try(addr)
    );
    // Without: the last part of a response waits for the client's acknowledgement.
    let listener = axum::serve::ListenerExt::tap_io(listener, |stream| {
        let _ = stream.set_nodelay(true);
    });
    let report = memory
        .serve_until(stopped(), SHUTDOWN, |stop| {
            let app = app.into_make_service_with_connect_info::<SocketAddr>();
            axum::serve(listener, app).with_graceful_shutdown(stop)
        })
        .await?;
    store.close();
    println!("\n{}\n{report}", memory.snapshot());
    Ok(ExitCode::SUCCESS)
}

/// Waits for Ctrl-C, or for SIGTERM where there are signals.
async fn stopped() {
    #[cfg(unix)]
    {
        let terminated = signal::unix::SignalKind::terminate();
        if let Ok(mut terminated) = signal::unix::signal(terminated) {
            tokio::select! {
                _ = signal::ctrl_c() => {}
                _ = terminated.recv() => {}
            }
            return;
        }
    }
    let _ = signal::ctrl_c().await;
}

fn to_try(addr: SocketAddr) -> String {
    format!(
        "
http://{addr}/ shows stock and memory, http://{addr}/debug what the layer knows. In another terminal:

curl -sS http://{addr}/arena/items/kettle-000
curl -sS -D- http://{addr}/arena/orders -H 'content-type: application/json' -H 'idempotency-key: 1' \\
  -d '{{\"customer\":\"Ada\",\"lines\":[{{\"sku\":\"kettle-000\",\"qty\":2}},{{\"sku\":\"teapot-001\",\"qty\":1}}]}}'
# the same with Strings and axum::Json
curl -sS -D- http://{addr}/heap/orders -H 'content-type: application/json' -H 'idempotency-key: 2' \\
  -d '{{\"customer\":\"Ada\",\"lines\":[{{\"sku\":\"kettle-000\",\"qty\":2}},{{\"sku\":\"teapot-001\",\"qty\":1}}]}}'
curl -sS -X POST http://{addr}/orders/1/confirm
curl -sS http://{addr}/metrics
"
    )
}
