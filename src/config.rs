//! The error of invalid settings, shared by the builders.

use std::{error::Error, fmt, time::Duration};

/// An invalid setting, or two settings that contradict each other.
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
/// assert_eq!(error.to_string(), "max_arena_bytes of 2048 exceeds max_total_bytes of 1024");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigError {
    /// `max_arena_bytes` exceeds `max_total_bytes`: one arena could hold more than the whole pool.
    #[non_exhaustive]
    ArenaAboveTotal {
        /// Maximum bytes of an arena that the pool keeps.
        max_arena_bytes: usize,
        /// Maximum bytes that the pool keeps in total.
        max_total_bytes: usize,
    },
    /// `initial_bytes` exceeds `max_arena_bytes`, so that no arena could ever be reused.
    #[non_exhaustive]
    InitialAboveArena {
        /// Size of a new arena's first chunk, in bytes.
        initial_bytes: usize,
        /// Maximum bytes of an arena that the pool keeps.
        max_arena_bytes: usize,
    },
    /// `initial_bytes` is zero.
    InitialZero,
    /// The limit of the process is below what it uses already.
    #[non_exhaustive]
    LimitBelowUse {
        /// The limit, in bytes.
        asked: u64,
        /// The bytes in use.
        used: u64,
    },
    /// No limit for the process was set, and none can be found.
    #[non_exhaustive]
    LimitNotFound {
        /// Where it was looked for.
        tried: Vec<&'static str>,
    },
    /// The limit of the process is below the minimum.
    #[non_exhaustive]
    LimitTooSmall {
        /// The limit, in bytes.
        asked: u64,
        /// The minimum, in bytes.
        least: u64,
    },
    /// `max_routes` is zero or above the maximum.
    #[non_exhaustive]
    MaxRoutes {
        /// The value that was set.
        asked: usize,
        /// The maximum; the minimum is 1.
        limit: usize,
    },
    /// `request_limit` exceeds the limit of the process.
    #[non_exhaustive]
    RequestLimitAboveProcess {
        /// What a request may hold, in bytes.
        asked: usize,
        /// The limit of the process, in bytes.
        process: u64,
    },
    /// `request_limit` is zero: every request would exceed it.
    RequestLimitZero,
    /// The lower bound of `retry_after` is above the upper one.
    #[non_exhaustive]
    RetryAfter {
        /// The lower bound.
        min: Duration,
        /// The upper bound.
        max: Duration,
    },
    /// A route label is empty, too long, or has characters that are invalid in a header value.
    #[non_exhaustive]
    RouteLabel {
        /// The label.
        label: String,
        /// Maximum length of a label, in bytes.
        limit: usize,
    },
    /// A size exceeds `isize::MAX`.
    #[non_exhaustive]
    SizeTooLarge {
        /// Name of the setting.
        name: &'static str,
        /// The value that was set, in bytes.
        asked: usize,
        /// The maximum, in bytes.
        limit: usize,
    },
    /// Shares of [`Stages`](crate::limit::Stages) do not rise, or are outside of 0 to 1.
    StagesNotRising,
    /// `trim_interval` is zero. To free arenas as soon as they are returned, use `enabled(false)`.
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
                "max_arena_bytes of {max_arena_bytes} exceeds max_total_bytes of {max_total_bytes}"
            ),
            Self::InitialAboveArena {
                initial_bytes,
                max_arena_bytes,
            } => write!(
                f,
                "initial_bytes of {initial_bytes} exceeds max_arena_bytes of {max_arena_bytes}"
            ),
            Self::InitialZero => f.write_str("initial_bytes must be at least 1"),
            Self::LimitBelowUse { asked, used } => write!(
                f,
                "process limit of {asked} bytes is below the {used} bytes in use"
            ),
            Self::LimitNotFound { tried } => write!(
                f,
                "no process limit was set, and none was found in: {}",
                tried.join(", ")
            ),
            Self::LimitTooSmall { asked, least } => write!(
                f,
                "process limit of {asked} bytes is below the minimum of {least}"
            ),
            Self::MaxRoutes { asked, limit } => {
                write!(f, "max_routes of {asked} is outside of 1 to {limit}")
            }
            Self::RequestLimitAboveProcess { asked, process } => write!(
                f,
                "request_limit of {asked} bytes exceeds the process limit of {process}"
            ),
            Self::RequestLimitZero => f.write_str("request_limit must be at least 1"),
            Self::RetryAfter { min, max } => {
                write!(
                    f,
                    "retry_after has a minimum of {min:?} above its maximum of {max:?}"
                )
            }
            Self::RouteLabel { label, limit } => write!(
                f,
                "route label {label:?} of {} bytes is invalid: expected 1 to {limit} bytes of visible ASCII",
                label.len()
            ),
            Self::SizeTooLarge { name, asked, limit } => {
                write!(f, "{name} of {asked} bytes exceeds the maximum of {limit}")
            }
            Self::StagesNotRising => {
                f.write_str("the shares of the stages must rise, from above 0 to at most 1")
            }
            Self::TrimIntervalZero => {
                f.write_str("trim_interval must be longer than zero, or `None`")
            }
        }
    }
}

impl Error for ConfigError {}
