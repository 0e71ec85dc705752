use std::{fmt, time::Duration};

use super::{
    handle::ArenaPool,
    settings::{OnTrim, Settings},
};
use crate::{
    config::ConfigError,
    housekeeping::{Housekeeping, ManualClock},
    sync::Arc,
};

/// Settings of an [`ArenaPool`]: how much memory it may keep, and for how long.
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
#[derive(Clone)]
#[must_use = "a builder does nothing until built"]
pub struct PoolBuilder {
    settings: Settings,
    housekeeping: Housekeeping,
    on_trim: Option<OnTrim>,
}

impl ArenaPool {
    /// Settings for a pool, beginning with the defaults.
    pub const fn builder() -> PoolBuilder {
        PoolBuilder {
            settings: Settings::DEFAULT,
            housekeeping: Housekeeping::Process,
            on_trim: None,
        }
    }
}

impl PoolBuilder {
    /// Sets the size of a new arena's first chunk (16 KiB by default). The chunk is allocated when
    /// the arena is first used.
    pub const fn initial_bytes(mut self, bytes: usize) -> Self {
        self.settings.initial_bytes = bytes;
        self
    }

    /// Sets how many bytes one arena, or one block of a buffer, may keep while it waits in the pool (1
    /// MiB by default).
    ///
    /// A request may use more. The rest is freed when the arena is returned, as is what exceeds four
    /// times the size that was asked for.
    pub const fn max_arena_bytes(mut self, bytes: usize) -> Self {
        self.settings.max_arena_bytes = bytes;
        self
    }

    /// Sets how many bytes all waiting arenas and blocks may keep together (64 MiB by default).
    ///
    /// The number of waiting arenas is limited as well: 1024 in the cache that threads share, and
    /// nine per thread. So is that of blocks. What is above either limit is freed when it is returned.
    pub const fn max_total_bytes(mut self, bytes: usize) -> Self {
        self.settings.max_total_bytes = bytes;
        self
    }

    /// Sets whether arenas are kept at all (`true` by default).
    ///
    /// If `false`, each rented arena is new, and is freed when it is returned. This is for
    /// debugging: it shows whether a problem depends on pooling.
    pub const fn enabled(mut self, enabled: bool) -> Self {
        self.settings.enabled = enabled;
        self
    }

    /// Sets whether an arena's memory is overwritten with zeros before it is kept or freed (`false`
    /// by default).
    ///
    /// No request can read the data of an earlier one, with or without this setting. It is for
    /// services whose secrets should not stay in memory. It costs one write of the arena's whole
    /// memory per request.
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

    /// Sets the interval at which unused arenas are freed (10 s by default). `None` keeps them for
    /// ever.
    ///
    /// At the end of each interval, the pool frees the arenas that have waited since the end of the
    /// interval before. So an arena is freed after one to two intervals without use, as in Go's
    /// `sync.Pool`. The small arena and the small block that each thread keeps for itself, of at most
    /// 64 KiB each, are not freed.
    ///
    /// The [housekeeping](crate::housekeeping) does this, with or without traffic and runtimes.
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

    /// Calls `hook` after much was freed, for example to have the allocator give memory back to the
    /// system.
    ///
    /// At the end of a [trim interval](Self::trim_interval), if at least 1 MiB of arenas was freed since
    /// the hook was called last, it is called on a [thread for hooks](crate::housekeeping) with
    /// the number of bytes. It may take its time: trimming goes on. Allocators keep freed memory for
    /// later; without a hook, the process may keep what a burst needed. glibc and jemalloc give back from
    /// any thread; with mimalloc, each thread of the runtime has to collect for itself
    /// (`ci/programs/src/bin/retention.rs` shows how). A panic in it is counted in
    /// [`Snapshot::housekeeping_panics`](crate::observe::Snapshot::housekeeping_panics). It is not called
    /// by a pool that is not trimmed.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_memory::ArenaPool;
    ///
    /// let pool = ArenaPool::builder()
    ///     .on_trim(|bytes| {
    ///         println!("{bytes} bytes of arenas were freed");
    ///         #[cfg(all(target_os = "linux", target_env = "gnu"))]
    ///         // SAFETY: may be called at any time.
    ///         unsafe {
    ///             libc::malloc_trim(0);
    ///         }
    ///     })
    ///     .build()?;
    /// # drop(pool);
    /// # Ok::<(), tower_memory::ConfigError>(())
    /// ```
    pub fn on_trim(mut self, hook: impl Fn(u64) + Send + Sync + 'static) -> Self {
        self.on_trim = Some(Arc::new(hook));
        self
    }

    /// Trims by a clock that a test moves. See [`ManualClock`].
    pub fn clock(mut self, clock: &ManualClock) -> Self {
        self.housekeeping = Housekeeping::Manual(clock.clone());
        self
    }

    /// Makes the pool.
    ///
    /// # Errors
    ///
    /// If `initial_bytes` or the trim interval is zero, a size exceeds `isize::MAX`, or
    /// `initial_bytes <= max_arena_bytes <= max_total_bytes` does not hold.
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
        Ok(ArenaPool::with_settings(
            self.settings,
            self.housekeeping,
            self.on_trim,
        ))
    }
}

impl fmt::Debug for PoolBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolBuilder")
            .field("settings", &self.settings)
            .field("housekeeping", &self.housekeeping)
            .field("on_trim", &self.on_trim.is_some())
            .finish()
    }
}
