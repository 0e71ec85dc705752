//! Request-scoped memory control for [tower](https://docs.rs/tower) services: axum, tonic and plain
//! hyper.
//!
//! One [`MemoryLayer`] gives every request three things: a count of what it allocates, a pooled
//! [`Arena`] it can use across `.await`, and a deadline whose expiry also ends the tasks it started.
//! Handlers reach them through the [`RequestScope`].
//!
#![cfg_attr(all(feature = "axum", feature = "json"), doc = "```no_run")]
#![cfg_attr(not(all(feature = "axum", feature = "json")), doc = "```text")]
//! use std::time::Duration;
//!
//! use axum::{
//!     Router,
//!     extract::Path,
//!     response::{IntoResponse, Response},
//!     routing::get,
//! };
//! use tower_memory::{Arena, MemoryLayer, TrackingAllocator, extract::ArenaJson, json};
//!
//! #[global_allocator]
//! static ALLOC: TrackingAllocator = TrackingAllocator::system();
//!
//! async fn items(Path(n): Path<usize>) -> impl IntoResponse {
//!     // Into a pooled buffer, which becomes the response's `Bytes`: no list, no strings, no copy.
//!     ArenaJson(json::seq((0..n).map(|i| json::concat(("item-", i)))))
//! }
//!
//! async fn names(arena: Arena) -> Response {
//!     let mut names = arena.vec::<&str>(); // lives in the arena ...
//!     for i in 0..3 {
//!         names.push(arena.alloc_concat(("name-", i)));
//!     }
//!     tokio::task::yield_now().await; // ... and across .await
//!     arena.json(&names)
//! }
//!
//! #[tokio::main]
//! async fn main() -> std::io::Result<()> {
//!     let app = Router::new()
//!         .route("/items/{n}", get(items))
//!         .route("/names", get(names))
//!         .layer(MemoryLayer::with_timeout(Duration::from_secs(5)));
//!     let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
//!     axum::serve(listener, app).await
//! }
//! ```
//!
//! Each response carries its figures in [headers](header), by default in debug builds only: see
//! [`Expose`]. [`MemoryHandle::snapshot`] returns statistics by route in all builds.
//!
//! # Where to look
//!
//! | for | see |
//! |---|---|
//! | the layer and its settings | [`MemoryLayer`], [`MemoryLayerBuilder`](middleware::MemoryLayerBuilder) |
//! | which clients see the headers | [`Expose`], [`header`] |
//! | other limits for some routes or methods | [`RoutePolicy`] |
//! | deadlines from request headers, and for outgoing calls | [`deadline_header`], [`client`] |
//! | what a handler can use | [`RequestScope`], [`Arena`] |
//! | allocation accounting without HTTP | [`account`] |
//! | the arena and its pool without HTTP | [`arena`], [`pool`] |
//! | tasks, and those that outlive their request | [`RequestScope::spawn`], [`MemoryHandle::outliving`] |
//! | shutdown, sockets | [`MemoryHandle::shutdown`], [`RequestScope::hold`] |
//! | statistics, observers | [`observe`] |
#![cfg_attr(
    feature = "profile",
    doc = "| which route and stack allocates, and what leaks | [`profile`] |"
)]
#![cfg_attr(feature = "axum", doc = "| extractors for axum | [`extract`] |")]
#![cfg_attr(
    not(feature = "axum"),
    doc = "| extractors for axum (feature `axum`) | `tower_memory::extract` |"
)]
#![cfg_attr(
    feature = "trace",
    doc = "| the last polls of each thread, and what blocks | [`trace`] |"
)]
#![cfg_attr(
    not(feature = "trace"),
    doc = "| the last polls of each thread, and what blocks (feature `trace`) | `tower_memory::trace` |"
)]
#![cfg_attr(feature = "debug", doc = "| pages for a browser | [`debug`] |")]
#![cfg_attr(
    not(feature = "debug"),
    doc = "| pages for a browser (feature `debug`) | `tower_memory::debug` |"
)]
//!
//! # What it does not do
//!
//! - It does not stop a poll that does not return, whatever it allocates. A [`limit`] for the process admits
//!   what fits.
//! - Figures of a request do not find leaks: they are exact, but servers free response bodies elsewhere, so
//!   allocated minus freed bytes do not measure leaks. The profile does (feature `profile`).
//! - It does not count memory outside of the layer, such as the server's own buffers, nor tasks that
//!   were not started with [`RequestScope::spawn`].
//!
//! # Features
//!
#![cfg_attr(feature = "document-features", doc = document_features::document_features!())]
#![cfg_attr(
    not(feature = "document-features"),
    doc = "`allocator-api2`, `allocator-api2-04`, `axum`, `debug`, `json`, `metrics`, `profile`, `prometheus`, `serde`, `test-util`, `trace`, `tracing`, or `full` for all of \
           them. The README lists what each adds."
)]
//!
//! No feature is enabled by default. A feature only adds API.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(
    not(test),
    warn(
        clippy::expect_used,
        clippy::print_stderr,
        clippy::print_stdout,
        clippy::unwrap_used
    )
)]
#![doc(test(attr(deny(warnings), allow(dead_code))))]

#[macro_use]
mod bug;

mod config;
mod counted;
mod histogram;
mod label_table;
mod names;
mod pack;
mod recycled;
mod sharded;
mod slab;
mod sync;
mod thread_number;

pub mod account;
pub mod arena;
pub mod cancel;
mod deadline;
pub mod housekeeping;
mod journal;
#[cfg(feature = "json")]
pub mod json;
pub mod limit;
pub mod pool;
#[cfg(feature = "profile")]
pub mod profile;
mod route;
mod sampler;
pub mod scope;
mod task;
#[cfg(feature = "trace")]
pub mod trace;

pub mod observe;

pub mod middleware;
mod wire;

pub mod client;

#[cfg(feature = "debug")]
pub mod debug;
#[cfg(feature = "axum")]
pub mod extract;

#[cfg(feature = "test-util")]
pub mod test_util;

// Its examples use every feature.
#[cfg(any(
    all(doc, not(doctest)),
    all(
        doctest,
        feature = "axum",
        feature = "debug",
        feature = "json",
        feature = "profile",
        feature = "test-util",
        feature = "trace"
    )
))]
pub mod guide;

#[doc(inline)]
pub use self::account::{Account, TrackingAllocator};
#[doc(inline)]
pub use self::arena::{Arena, ArenaBuf, ArenaString, ArenaVec, Cursor};
#[doc(inline)]
pub use self::cancel::outcome::Outcome;
#[doc(inline)]
pub use self::config::ConfigError;
#[doc(inline)]
#[doc(inline)]
pub use self::middleware::expose::Expose;
#[doc(inline)]
pub use self::middleware::layer::MemoryLayer;
#[doc(inline)]
pub use self::middleware::service::MemoryService;
#[doc(inline)]
pub use self::observe::handle::MemoryHandle;
#[doc(inline)]
pub use self::pool::ArenaPool;
#[doc(inline)]
pub use self::scope::handle::RequestScope;
#[doc(inline)]
pub use self::scope::policy::RoutePolicy;
#[doc(inline)]
pub use self::scope::report::ScopeReport;
#[doc(inline)]
pub use self::wire::{CollectError, deadline_header, header};

/// Compiles the examples in the README.
#[cfg(all(doctest, feature = "axum", feature = "json"))]
#[doc = include_str!("../README.md")]
struct Readme;
