//! Arenas that are used again.
//!
//! What `sync.Pool` does for a Go service, with exact life times: an arena comes back the moment
//! its last handle is dropped, and keeps at most the memory the pool allows. What
//! nobody needs any more is freed, also when there is no traffic.

mod budget;
mod builder;
mod class;
mod handle;
mod learned_sizes;
mod local;
#[cfg(all(test, tower_memory_loom))]
mod loom_models;
mod returns;
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
