use std::time::Duration;

use super::handle::ArenaPool;
use crate::config::ConfigError;

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
    settings: Settings,
}

/// What is kept of the arenas that come back.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settings {
    pub(super) initial_bytes: usize,
    pub(super) max_arena_bytes: usize,
    pub(super) max_total_bytes: usize,
    pub(super) enabled: bool,
    pub(super) wipe: bool,
    pub(super) trim_interval: Option<Duration>,
}

impl Settings {
    pub(super) const DEFAULT: Self = Self {
        initial_bytes: 16 * 1024,
        max_arena_bytes: 1024 * 1024,
        max_total_bytes: 64 * 1024 * 1024,
        enabled: true,
        wipe: false,
        trim_interval: Some(Duration::from_secs(10)),
    };
}

// The setters of `PoolBuilder` say so.
const _: () = {
    let Settings {
        initial_bytes,
        max_arena_bytes,
        max_total_bytes,
        enabled,
        wipe,
        trim_interval,
    } = Settings::DEFAULT;
    assert!(initial_bytes == 16 << 10 && max_arena_bytes == 1 << 20 && max_total_bytes == 64 << 20);
    assert!(
        enabled
            && !wipe
            && matches!(trim_interval, Some(interval) if interval.as_millis() == 10_000)
    );
};

impl PoolBuilder {
    pub(super) const fn new() -> Self {
        Self {
            settings: Settings::DEFAULT,
        }
    }

    /// Bytes of a new arena's first chunk (16 KiB unless set), taken at its first allocation.
    pub const fn initial_bytes(mut self, bytes: usize) -> Self {
        self.settings.initial_bytes = bytes;
        self
    }

    /// Bytes one arena may keep while it waits in the pool (1 MiB unless set).
    ///
    /// A request may use more; what lies above is given back to the system afterwards.
    pub const fn max_arena_bytes(mut self, bytes: usize) -> Self {
        self.settings.max_arena_bytes = bytes;
        self
    }

    /// Bytes all waiting arenas may keep together (64 MiB unless set).
    ///
    /// How many arenas that is has a limit of its own: 1024 wait where all threads share them, and up to
    /// nine with each thread. What is beyond is freed.
    pub const fn max_total_bytes(mut self, bytes: usize) -> Self {
        self.settings.max_total_bytes = bytes;
        self
    }

    /// Whether arenas are kept at all (they are, unless set).
    ///
    /// Switched off, each arena is new and is freed when it comes back: for finding out whether
    /// something has to do with pooling.
    pub const fn enabled(mut self, enabled: bool) -> Self {
        self.settings.enabled = enabled;
        self
    }

    /// Whether an arena's memory is overwritten with zeros before it is kept or freed (it is not, unless
    /// set).
    ///
    /// No request can read what a former one left, with or without this. It is for services whose
    /// secrets should not stay in memory for longer than needed, and costs writing the arena's memory
    /// from end to end once per request.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_memory::ArenaPool;
    ///
    /// let pool = ArenaPool::builder().zero_on_recycle(true).build()?;
    /// pool.rent().alloc_str("secret");
    /// # Ok::<(), tower_memory::ConfigError>(())
    /// ```
    pub const fn zero_on_recycle(mut self, wipe: bool) -> Self {
        self.settings.wipe = wipe;
        self
    }

    /// How long an arena may wait unused before it is freed, at least; at most it is twice that (10 s
    /// unless set, `None` for ever).
    ///
    /// As `sync.Pool` of Go does with two generations: at each interval's end the arenas that nobody
    /// took since the end before are freed. A tokio task sees to it as long as the pool has arenas,
    /// with or without traffic; the first rent within a runtime starts it, and it ends with the pool.
    /// The runtime needs its timers enabled. In a program without tokio, call
    /// [`trim`](ArenaPool::trim). What a thread keeps at hand, at most 64 KiB, is not freed.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_memory::ArenaPool;
    ///
    /// let pool = ArenaPool::builder()
    ///     .trim_interval(Duration::from_secs(60))
    ///     .build()?;
    /// let kept_for_ever = ArenaPool::builder().trim_interval(None).build()?;
    /// # let _ = (pool, kept_for_ever);
    /// # Ok::<(), tower_memory::ConfigError>(())
    /// ```
    pub fn trim_interval(mut self, interval: impl Into<Option<Duration>>) -> Self {
        self.settings.trim_interval = interval.into();
        self
    }

    /// The pool.
    ///
    /// # Errors
    ///
    /// If a size or the trim interval is zero where that makes no sense, a size is above
    /// `isize::MAX`, or `initial_bytes <= max_arena_bytes <= max_total_bytes` does not hold.
    pub fn build(self) -> Result<ArenaPool, ConfigError> {
        let Settings {
            initial_bytes,
            max_arena_bytes,
            max_total_bytes,
            trim_interval,
            ..
        } = self.settings;
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
        if trim_interval == Some(Duration::ZERO) {
            return Err(ConfigError::TrimIntervalZero);
        }
        Ok(ArenaPool::with_settings(self.settings))
    }
}
