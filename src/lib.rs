//! Request-scoped memory control for [tower](https://docs.rs/tower) services: what did this
//! request allocate, an arena it can use and give back whole, and a deadline with which everything
//! it started ends.
//!
#![cfg_attr(all(feature = "axum", feature = "json"), doc = "```no_run")]
#![cfg_attr(not(all(feature = "axum", feature = "json")), doc = "```text")]
//! use std::time::Duration;
//!
//! use axum::{Router, extract::Path, response::Response, routing::get};
//! use tower_memory::{MemoryLayer, RequestScope, TrackingAllocator};
//!
//! #[global_allocator]
//! static ALLOC: TrackingAllocator = TrackingAllocator::system();
//!
//! async fn items(scope: RequestScope, Path(n): Path<usize>) -> Response {
//!     let arena = scope.arena(); // pooled; Send + Sync
//!     let mut items = arena.vec(); // lives in the arena ...
//!     for i in 0..n {
//!         items.push(arena.alloc_fmt(format_args!("item-{i}")));
//!     }
//!     tokio::task::yield_now().await; // ... and across .await
//!     arena.json(&items) // pooled buffer -> Bytes, no copy
//! }
//!
//! #[tokio::main]
//! async fn main() -> std::io::Result<()> {
//!     let app = Router::new()
//!         .route("/items/{n}", get(items))
//!         .layer(MemoryLayer::with_timeout(Duration::from_secs(5)));
//!     let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
//!     axum::serve(listener, app).await
//! }
//! ```
//!
//! # Where to look
//!
//! | for | see |
//! |---|---|
//! | the layer, its timeout, who sees the headers | [`MemoryLayer`], [`Expose`] |
//! | other limits for some routes or methods | [`RoutePolicy`] |
//! | deadlines that requests bring, and that calls take along | [`deadline_header`], [`client`] |
//! | what a handler is given | [`RequestScope`], [`Arena`] |
//! | figures of the heap without any HTTP | [`account`] |
//! | the arena and its pool without any HTTP | [`arena`], [`pool`] |
//! | tasks, and what outlives a request | [`RequestScope::spawn`], [`MemoryHandle::outliving`] |
//! | shutdown, sockets | [`MemoryHandle::shutdown`], [`RequestScope::hold`] |
//! | statistics, observers | [`observe`] |
//! | the extractors (feature `axum`) | `tower_memory::extract` |
//!
//! # What it does not do
//!
//! - It limits no memory: it measures and recycles.
//! - It finds no leaks. What a request allocated is exact; what it freed is not a leak figure, since
//!   servers free response bodies elsewhere.
//! - It does not see what happens outside of the layer (the server's own buffers), nor in tasks that
//!   were not started with [`RequestScope::spawn`].
//!
//! # Features
//!
#![cfg_attr(feature = "document-features", doc = document_features::document_features!())]
#![cfg_attr(
    not(feature = "document-features"),
    doc = "`axum`, `json`, `tracing`, or `full` for all of them; `Cargo.toml` says what each adds."
)]
//!
//! None is on by default, and none changes what others do.
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

mod background;
mod config;
mod histogram;
mod pack;
mod slab;
mod sync;

pub mod account;
pub mod arena;
pub mod cancel;
mod deadline;
pub mod pool;
mod route;
pub mod scope;
mod task;

pub mod observe;

pub mod middleware;
mod wire;

pub mod client;

#[cfg(feature = "axum")]
pub mod extract;

pub use self::account::{Account, TrackingAllocator};
#[doc(inline)]
pub use self::arena::{Arena, ArenaBuf, ArenaString, ArenaVec, Cursor};
pub use self::cancel::Outcome;
pub use self::config::ConfigError;
pub use self::deadline::RoutePolicy;
pub use self::middleware::{Expose, MemoryLayer, MemoryService};
pub use self::observe::MemoryHandle;
pub use self::pool::ArenaPool;
pub use self::scope::{RequestScope, ScopeReport};
pub use self::wire::{CollectError, CollectErrorKind, deadline_header, header};

/// Compiles the examples of the README.
#[cfg(all(doctest, feature = "axum", feature = "json"))]
#[doc = include_str!("../README.md")]
struct Readme;
