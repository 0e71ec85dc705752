use super::{error::ConfigError, handle::ArenaPool};

/// Settings of an [`ArenaPool`]: how much memory it may keep.
///
/// Made by [`ArenaPool::builder`].
///
/// # Examples
///
/// ```
/// use tower_memory::ArenaPool;
///
/// let pool = ArenaPool::builder()
///     .initial_bytes(32 * 1024)
///     .max_arena_bytes(256 * 1024)
///     .max_total_bytes(16 * 1024 * 1024)
///     .build()?;
/// assert_eq!(pool.stats().pooled_bytes, 0);
/// # Ok::<(), tower_memory::ConfigError>(())
/// ```
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until built"]
pub struct PoolBuilder {
    retention: Retention,
}

/// What is kept of the arenas that come back.
#[derive(Debug, Clone, Copy)]
pub(super) struct Retention {
    pub(super) initial_bytes: usize,
    pub(super) max_arena_bytes: usize,
    pub(super) max_total_bytes: usize,
}

impl Retention {
    pub(super) const DEFAULT: Self = Self {
        initial_bytes: 16 * 1024,
        max_arena_bytes: 1024 * 1024,
        max_total_bytes: 64 * 1024 * 1024,
    };
}

impl PoolBuilder {
    pub(super) const fn new() -> Self {
        Self {
            retention: Retention::DEFAULT,
        }
    }

    /// Bytes of a new arena's first chunk (16 KiB unless set), taken at its first allocation.
    pub const fn initial_bytes(mut self, bytes: usize) -> Self {
        self.retention.initial_bytes = bytes;
        self
    }

    /// Bytes one arena may keep while it waits in the pool (1 MiB unless set).
    ///
    /// A request may use more; what lies above is given back to the system afterwards.
    pub const fn max_arena_bytes(mut self, bytes: usize) -> Self {
        self.retention.max_arena_bytes = bytes;
        self
    }

    /// Bytes all waiting arenas may keep together (64 MiB unless set).
    pub const fn max_total_bytes(mut self, bytes: usize) -> Self {
        self.retention.max_total_bytes = bytes;
        self
    }

    /// The pool.
    ///
    /// # Errors
    ///
    /// If a size is zero where that makes no sense, above `isize::MAX`, or if
    /// `initial_bytes <= max_arena_bytes <= max_total_bytes` does not hold.
    pub fn build(self) -> Result<ArenaPool, ConfigError> {
        let Retention {
            initial_bytes,
            max_arena_bytes,
            max_total_bytes,
        } = self.retention;
        let limit = isize::MAX as usize;
        for (name, asked) in [
            ("initial_bytes", initial_bytes),
            ("max_arena_bytes", max_arena_bytes),
            ("max_total_bytes", max_total_bytes),
        ] {
            if asked > limit {
                return Err(ConfigError::SizeTooLarge { name, asked, limit });
            }
        }
        if initial_bytes == 0 {
            return Err(ConfigError::InitialZero);
        }
        if initial_bytes > max_arena_bytes {
            return Err(ConfigError::InitialAboveArena {
                initial_bytes,
                max_arena_bytes,
            });
        }
        if max_arena_bytes > max_total_bytes {
            return Err(ConfigError::ArenaAboveTotal {
                max_arena_bytes,
                max_total_bytes,
            });
        }
        Ok(ArenaPool::with_retention(self.retention))
    }
}
