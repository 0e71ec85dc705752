//! Arenas that are used again.
//!
//! What `sync.Pool` does for a Go service, with exact life times: an arena comes back the moment
//! its last handle is dropped, is rewound at once, and keeps at most the memory the pool allows.

mod error;
mod handle;
mod retention;
mod shelf;

pub use self::error::ConfigError;
pub use self::handle::ArenaPool;
pub use self::retention::PoolBuilder;
pub use self::shelf::PoolStats;
