use std::{fmt, time::Duration};

use super::{mode::LimitMode, stage::Stage};

/// Why a request was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RefusedBy {
    /// What requests of its route hold did not fit.
    Prediction,
    /// The stage admits critical requests only.
    Stage,
    /// Even the smallest request of its route would not fit into an empty process.
    Size,
}

impl RefusedBy {
    /// All reasons, in the order of [`LimitSnapshot::refused`]. A later version may have more.
    pub const ALL: &'static [Self] = &[Self::Prediction, Self::Stage, Self::Size];

    /// Returns the name as a metric label, for example `prediction`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Prediction => "prediction",
            Self::Stage => "stage",
            Self::Size => "size",
        }
    }

    /// The position in [`ALL`](Self::ALL).
    pub(crate) const fn index(self) -> usize {
        self as usize
    }
}

/// The figures of a [`ProcessLimit`](super::ProcessLimit) at one moment.
///
/// Its `Display` is a line for people.
///
/// # Examples
///
/// ```
/// use tower_memory::limit::ProcessLimit;
///
/// let limit = ProcessLimit::builder().bytes(100 << 20).source(|| Some(50 << 20)).build()?;
/// let snapshot = limit.snapshot();
/// assert_eq!((snapshot.limit, snapshot.used), (100 << 20, Some(50 << 20)));
/// assert_eq!(snapshot.source, Some("custom"));
/// assert_eq!(snapshot.refused, [0, 0, 0]);
/// # Ok::<(), tower_memory::ConfigError>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct LimitSnapshot {
    /// The mode.
    pub mode: LimitMode,
    /// Bytes that the process may use.
    pub limit: u64,
    /// Where the limit was found: `cgroup v2`, `cgroup v1`, `RLIMIT_DATA`, `RLIMIT_AS`, `machine`, or `set`.
    pub limit_source: &'static str,
    /// Bytes in use; `None` if no source can tell.
    pub used: Option<u64>,
    /// The source of `used`: `heap`, `resident`, or the name of a [`MemorySource`](super::MemorySource).
    pub source: Option<&'static str>,
    /// Bytes of these that open requests hold; `None` without a
    /// [`TrackingAllocator`](crate::TrackingAllocator).
    pub held: Option<u64>,
    /// The others; `None` if `held` is.
    pub base: Option<u64>,
    /// Bytes that open requests have reserved.
    pub reserved: u64,
    /// The share of the reservations that is expected to be held at once, from 0.25 to 1.
    pub k: f64,
    /// The stage.
    pub stage: Stage,
    /// Time in each stage, in the order of [`Stage::ALL`].
    pub stage_times: [Duration; Stage::ALL.len()],
    /// Requests admitted.
    pub admitted: u64,
    /// Requests refused, in the order of [`RefusedBy::ALL`]. In [`LimitMode::Observe`] and
    /// [`LimitMode::Warn`] nothing is refused.
    pub refused: [u64; RefusedBy::ALL.len()],
    /// Open requests that are listed since they hold much more than others of their route, and may be cancelled.
    pub candidates: usize,
    /// Requests cancelled because they held the most.
    pub cancelled: u64,
    /// Requests that would have been refused in those modes.
    pub would_refuse: u64,
    /// Requests that would have been cancelled in those modes.
    pub would_cancel: u64,
    /// Requests that held more than their own
    /// [limit](crate::middleware::MemoryLayerBuilder::request_limit) in those modes.
    pub would_exceed: u64,
    /// Readings of sources that failed.
    pub failed_readings: u64,
    /// Calls of the reclaim hook, and how many bytes of resident memory they gave back.
    pub reclaims: u64,
    /// See `reclaims`.
    pub reclaimed_bytes: u64,
}

/// `k` is a number.
impl Eq for LimitSnapshot {}

impl fmt::Display for LimitSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes >> 20;
        write!(f, "{} of {} MiB", self.stage, mib(self.limit))?;
        if let (Some(used), Some(source)) = (self.used, self.source) {
            write!(f, ", {} MiB used by {source}", mib(used))?;
        }
        if let (Some(held), Some(base)) = (self.held, self.base) {
            write!(f, " ({} held, {} others)", mib(held), mib(base))?;
        }
        write!(
            f,
            ", {} MiB reserved, k {:.2}; {} admitted, {} refused, {} cancelled",
            mib(self.reserved),
            self.k,
            self.admitted,
            self.refused.iter().sum::<u64>(),
            self.cancelled
        )
    }
}
