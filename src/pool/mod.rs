//! A pool of arenas, so that requests use memory again instead of allocating it.
//!
//! It does for an async service what `sync.Pool` does in Go, with exact lifetimes: an arena is
//! returned when its last handle is dropped, and keeps at most the memory that the pool allows.
//! Arenas that are not used are freed, also when there is no traffic.

mod budget;
mod builder;
mod class;
mod counters;
mod handle;
mod hook;
mod kind;
mod learned_sizes;
mod local;
#[cfg(all(test, tower_memory_loom))]
mod loom_models;
mod origins;
mod rent;
mod returns;
mod settings;
mod shared_cache;
mod state;
mod stats;
mod tag;
mod thread_cache;
mod trim;

pub use self::builder::PoolBuilder;
pub use self::handle::ArenaPool;
pub use self::stats::PoolStats;

pub(crate) use self::learned_sizes::LearnedSizes;
