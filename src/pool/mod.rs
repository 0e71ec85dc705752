//! Arenas that are used again.
//!
//! What `sync.Pool` does for a Go service, with exact life times: an arena comes back the moment
//! its last handle is dropped, and keeps at most the memory the pool allows. What
//! nobody needs any more is freed, also when there is no traffic.

mod claims;
mod class;
mod handle;
mod local;
#[cfg(all(test, tower_memory_loom))]
mod loom_models;
mod retention;
mod returns;
mod shared;
mod shelf;
mod sizing;
mod slots;
mod stats;
mod trim;

pub use self::handle::ArenaPool;
pub use self::retention::PoolBuilder;
pub use self::stats::PoolStats;

pub(crate) use self::sizing::LearnedSizes;
