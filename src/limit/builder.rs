use std::{env, fmt, path::PathBuf, time::Duration};

use super::{
    events,
    files::{Files, Found},
    handle::ProcessLimit,
    mode::LimitMode,
    process::{FOUND_SHARE, LEAST_LIMIT, Process, Reclaim, Settings},
    source::{Custom, MemorySource},
    stage::Stages,
};
use crate::{
    account::process_usage,
    config::ConfigError,
    housekeeping::{Housekeeping, ManualClock},
    sync::Arc,
};

/// Replaces the mode.
const VARIABLE: &str = "TOWER_MEMORY_LIMIT";

/// Settings of a [`ProcessLimit`].
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use tower_memory::limit::{LimitMode, ProcessLimit};
///
/// let limit = ProcessLimit::builder()
///     .bytes(512 << 20)
///     .mode(LimitMode::Observe)
///     .retry_after(Duration::from_secs(2), Duration::from_secs(30))
///     .build()?;
/// assert_eq!(limit.snapshot().limit, 512 << 20);
/// # Ok::<(), tower_memory::ConfigError>(())
/// ```
#[must_use = "a builder does nothing until `build` is called"]
pub struct ProcessLimitBuilder {
    bytes: Option<u64>,
    mode: LimitMode,
    root: PathBuf,
    sources: Vec<Custom>,
    reclaim: Option<Reclaim>,
    stages: Stages,
    min_stage_time: Duration,
    retry_after: (Duration, Duration),
    housekeeping: Housekeeping,
    variable: Option<String>,
}

/// Ways to make a limit.
impl ProcessLimit {
    /// Creates the limit that the container, the process or the machine has, times 0.9, with default settings.
    ///
    /// # Errors
    ///
    /// As [`ProcessLimitBuilder::build`].
    pub fn detect() -> Result<Self, ConfigError> {
        Self::builder().build()
    }

    /// Starts a limit with other settings.
    pub fn builder() -> ProcessLimitBuilder {
        ProcessLimitBuilder::new()
    }
}

impl ProcessLimitBuilder {
    fn new() -> Self {
        Self {
            bytes: None,
            mode: LimitMode::Enforce,
            root: PathBuf::from("/"),
            sources: Vec::new(),
            reclaim: None,
            stages: Stages::default(),
            min_stage_time: Duration::from_secs(1),
            retry_after: (Duration::from_secs(1), Duration::from_secs(60)),
            housekeeping: Housekeeping::Process,
            variable: env::var(VARIABLE).ok(),
        }
    }

    /// Sets the limit in bytes, at least 1 MiB.
    ///
    /// By default it is 0.9 of the least of: `memory.max` and `memory.high` of the control group (version 2)
    /// and its parents, `hierarchical_memory_limit` (version 1), `RLIMIT_DATA`, `RLIMIT_AS`, and the machine's
    /// memory. That is looked for again every 10 s while requests are open, since containers are resized.
    pub const fn bytes(mut self, bytes: u64) -> Self {
        self.bytes = Some(bytes);
        self
    }

    /// Sets what the limit does ([`LimitMode::Enforce`] by default).
    pub const fn mode(mut self, mode: LimitMode) -> Self {
        self.mode = mode;
        self
    }

    /// Adds a source of the bytes in use. Sources are tried in the order in which they were added, and then
    /// the crate's own: the heap with what the process has beside it, or else the resident memory.
    pub fn source(mut self, source: impl MemorySource) -> Self {
        self.sources.push(Custom::new(source));
        self
    }

    /// Calls `reclaim` to have the allocator give freed memory back to the system, such as `malloc_trim`.
    ///
    /// It is called on a [thread for hooks](crate::housekeeping), at most every 10 s, when the resident memory
    /// or the memory in use is above the share of [`Stages::brown_out`], and more than 64 MiB and a fifth of
    /// the resident memory is not in use. A panic in it is counted in
    /// [`Snapshot::housekeeping_panics`](crate::observe::Snapshot::housekeeping_panics).
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_memory::limit::ProcessLimit;
    ///
    /// let limit = ProcessLimit::builder().bytes(1 << 30).reclaim(|| {
    ///     #[cfg(all(target_os = "linux", target_env = "gnu"))]
    ///     // SAFETY: may be called at any time.
    ///     unsafe {
    ///         libc::malloc_trim(0);
    ///     }
    /// });
    /// # drop(limit);
    /// ```
    pub fn reclaim(mut self, reclaim: impl Fn() + Send + Sync + 'static) -> Self {
        self.reclaim = Some(Arc::new(reclaim));
        self
    }

    /// Sets the shares of the limit at which something is done.
    pub const fn stages(mut self, stages: Stages) -> Self {
        self.stages = stages;
        self
    }

    /// Sets how long a stage is kept at least (1 s by default). Stages that refuse or cancel are kept for
    /// 200 ms at most: a second of refusals because of one large request costs a tenth of the answers.
    pub const fn min_stage_time(mut self, time: Duration) -> Self {
        self.min_stage_time = time;
        self
    }

    /// Sets the bounds of `retry-after` (1 s and 60 s by default).
    pub const fn retry_after(mut self, min: Duration, max: Duration) -> Self {
        self.retry_after = (min, max);
        self
    }

    /// Looks for the system's files below this directory (`/` by default). For tests.
    pub fn root(mut self, root: impl Into<PathBuf>) -> Self {
        self.root = root.into();
        self
    }

    /// Goes by a clock that a test moves. See [`ManualClock`].
    pub fn clock(mut self, clock: &ManualClock) -> Self {
        self.housekeeping = Housekeeping::Manual(clock.clone());
        self
    }

    /// Builds the limit.
    ///
    /// # Errors
    ///
    /// If no limit can be found, it is below 1 MiB or below what is in use, the stages do not rise or are
    /// outside of 0 to 1, or the lower bound of [`retry_after`](Self::retry_after) is above the upper one.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_memory::limit::ProcessLimit;
    ///
    /// let error = ProcessLimit::builder().bytes(1000).build().unwrap_err();
    /// assert_eq!(error.to_string(), "process limit of 1000 bytes is below the minimum of 1048576");
    /// ```
    pub fn build(self) -> Result<ProcessLimit, ConfigError> {
        let (min, max) = self.retry_after;
        if min > max {
            return Err(ConfigError::RetryAfter { min, max });
        }
        if !self.stages.are_valid() {
            return Err(ConfigError::StagesNotRising);
        }
        let files = Files::under(self.root);
        let limit = match self.bytes {
            Some(bytes) => Found {
                bytes,
                source: "set",
            },
            None => files
                .limit()
                .map(|found| Found {
                    bytes: (found.bytes as f64 * FOUND_SHARE) as u64,
                    ..found
                })
                .map_err(|tried| ConfigError::LimitNotFound { tried })?,
        };
        if limit.bytes < LEAST_LIMIT {
            return Err(ConfigError::LimitTooSmall {
                asked: limit.bytes,
                least: LEAST_LIMIT,
            });
        }
        // A limit with sources of its own is not one of the heap.
        let heap = process_usage().filter(|_| self.sources.is_empty());
        let live = heap.map(|heap| heap.bytes_allocated.wrapping_sub(heap.bytes_deallocated));
        if let Some(used) = live.filter(|used| *used > limit.bytes) {
            return Err(ConfigError::LimitBelowUse {
                asked: limit.bytes,
                used,
            });
        }
        let named = self
            .variable
            .as_deref()
            .map(|word| (word, LimitMode::from_name(word)));
        let mode = match named {
            Some((_, Some(mode))) => mode,
            Some((word, None)) => {
                events::unknown_mode(word);
                self.mode
            }
            None => self.mode,
        };
        Ok(ProcessLimit::new(Process::new(Settings {
            mode,
            limit,
            searches: self.bytes.is_none(),
            files,
            sources: self.sources,
            reclaim: self.reclaim,
            stages: self.stages,
            min_stage_time: self.min_stage_time,
            retry_after: self.retry_after,
            housekeeping: self.housekeeping,
        })))
    }
}

impl fmt::Debug for ProcessLimitBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessLimitBuilder")
            .field("bytes", &self.bytes)
            .field("mode", &self.mode)
            .field("root", &self.root)
            .field("sources", &self.sources)
            .field("reclaim", &self.reclaim.is_some())
            .field("stages", &self.stages)
            .field("min_stage_time", &self.min_stage_time)
            .field("retry_after", &self.retry_after)
            .field("housekeeping", &self.housekeeping)
            .finish()
    }
}
