//! What is said of settings that cannot work, wherever they belong.

use std::{error::Error, fmt};

/// A configuration that cannot work, with the values that contradict each other.
///
/// # Examples
///
/// ```
/// use tower_memory::{ArenaPool, ConfigError};
///
/// let error = ArenaPool::builder()
///     .initial_bytes(512)
///     .max_arena_bytes(2048)
///     .max_total_bytes(1024)
///     .build()
///     .unwrap_err();
/// assert!(matches!(error, ConfigError::ArenaAboveTotal { max_total_bytes: 1024, .. }));
/// assert_eq!(error.to_string(), "max_arena_bytes (2048) is above max_total_bytes (1024)");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigError {
    /// One arena may keep more than the whole pool.
    #[non_exhaustive]
    ArenaAboveTotal {
        /// Bytes one arena may keep.
        max_arena_bytes: usize,
        /// Bytes the pool may keep.
        max_total_bytes: usize,
    },
    /// A new arena starts larger than it may be kept, so none would ever be reused.
    #[non_exhaustive]
    InitialAboveArena {
        /// Bytes of a new arena's first chunk.
        initial_bytes: usize,
        /// Bytes one arena may keep.
        max_arena_bytes: usize,
    },
    /// A new arena starts with nothing.
    InitialZero,
    /// More routes are to be told apart than there is room for, or none.
    #[non_exhaustive]
    MaxRoutes {
        /// What was asked for.
        asked: usize,
        /// The most that is possible; the least is 1.
        limit: usize,
    },
    /// A route label that is empty, too long, or has characters a header value may not have.
    #[non_exhaustive]
    RouteLabel {
        /// The label.
        label: String,
        /// The most bytes a label may have.
        limit: usize,
    },
    /// A size above `isize::MAX`.
    #[non_exhaustive]
    SizeTooLarge {
        /// The setting.
        name: &'static str,
        /// What was asked for, in bytes.
        asked: usize,
        /// The most that is possible, in bytes.
        limit: usize,
    },
    /// Arenas would be freed the moment they come back; `enabled(false)` does that.
    TrimIntervalZero,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ArenaAboveTotal {
                max_arena_bytes,
                max_total_bytes,
            } => write!(
                f,
                "max_arena_bytes ({max_arena_bytes}) is above max_total_bytes ({max_total_bytes})"
            ),
            Self::InitialAboveArena {
                initial_bytes,
                max_arena_bytes,
            } => write!(
                f,
                "initial_bytes ({initial_bytes}) is above max_arena_bytes ({max_arena_bytes})"
            ),
            Self::InitialZero => f.write_str("initial_bytes is 0, and must be at least 1"),
            Self::MaxRoutes { asked, limit } => {
                write!(f, "max_routes is {asked}, and must be from 1 to {limit}")
            }
            Self::RouteLabel { label, limit } => write!(
                f,
                "route label {label:?} ({} bytes) must have 1 to {limit} visible characters",
                label.len()
            ),
            Self::SizeTooLarge { name, asked, limit } => {
                write!(
                    f,
                    "{name} is {asked} bytes, more than is possible ({limit})"
                )
            }
            Self::TrimIntervalZero => {
                f.write_str("trim_interval is 0, and must be longer (or `None`)")
            }
        }
    }
}

impl Error for ConfigError {}
