use std::fmt;

/// How tight memory is, and what the process does about it.
///
/// A stage is entered when the memory in use reaches its share of the limit, and left when it is five
/// points lower, but not before [`min_stage_time`](super::ProcessLimitBuilder::min_stage_time). Each
/// stage includes what the earlier ones do.
///
/// # Examples
///
/// ```
/// use tower_memory::limit::Stage;
///
/// assert!(Stage::BrownOut > Stage::Trim);
/// assert_eq!(Stage::BrownOut.as_str(), "brown_out");
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Stage {
    /// There is room.
    #[default]
    Normal,
    /// The pool gives memory back at each interval, and keeps less.
    Trim,
    /// The pool keeps nothing, idle response bodies end earlier, and
    /// [`Pressure::level`](super::Pressure::level) is above zero.
    BrownOut,
    /// Only critical requests are admitted.
    Refuse,
    /// The requests that hold the most, compared with others of their route, are cancelled.
    Cancel,
}

impl Stage {
    /// All stages, in rising order. A later version may have more.
    pub const ALL: &'static [Self] = &[
        Self::Normal,
        Self::Trim,
        Self::BrownOut,
        Self::Refuse,
        Self::Cancel,
    ];

    /// Returns the name as a metric label, for example `brown_out`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Trim => "trim",
            Self::BrownOut => "brown_out",
            Self::Refuse => "refuse",
            Self::Cancel => "cancel",
        }
    }

    /// The position in [`ALL`](Self::ALL).
    pub(crate) const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The shares of the limit at which something is done, each from 0 to 1.
///
/// # Examples
///
/// ```
/// use tower_memory::limit::{ProcessLimit, Stages};
///
/// let stages = Stages { trim: 0.5, ..Stages::default() };
/// let limit = ProcessLimit::builder().bytes(1 << 30).stages(stages).build()?;
/// # drop(limit);
/// # Ok::<(), tower_memory::ConfigError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stages {
    /// [`Stage::Trim`] begins (0.70 by default).
    pub trim: f64,
    /// [`Stage::BrownOut`] begins (0.80).
    pub brown_out: f64,
    /// Requests of [`Priority::Low`](super::Priority::Low) are admitted up to here (0.70).
    pub admit_low: f64,
    /// Requests of [`Priority::Normal`](super::Priority::Normal) are admitted up to here (0.90).
    pub admit: f64,
    /// [`Stage::Refuse`] begins. [Critical](super::Priority::Critical) requests are admitted up to here
    /// (0.97).
    pub refuse: f64,
    /// [`Stage::Cancel`] begins (1.00).
    pub cancel: f64,
}

impl Default for Stages {
    fn default() -> Self {
        Self {
            trim: 0.70,
            brown_out: 0.80,
            admit_low: 0.70,
            admit: 0.90,
            refuse: 0.97,
            cancel: 1.0,
        }
    }
}

impl Stages {
    /// Whether all are in 0..=1 and rise.
    pub(crate) fn are_valid(&self) -> bool {
        let rising = [
            0.0,
            self.trim,
            self.brown_out,
            self.admit,
            self.refuse,
            self.cancel,
        ];
        // A comparison with NaN is false.
        rising.is_sorted_by(|lower, upper| lower < upper)
            && self.cancel <= 1.0
            && self.admit_low > 0.0
            && self.admit_low <= self.admit
    }

    /// Where a stage begins.
    pub(crate) const fn mark(&self, stage: Stage) -> f64 {
        match stage {
            Stage::Normal => 0.0,
            Stage::Trim => self.trim,
            Stage::BrownOut => self.brown_out,
            Stage::Refuse => self.refuse,
            Stage::Cancel => self.cancel,
        }
    }
}
