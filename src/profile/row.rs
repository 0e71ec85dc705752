//! One key of a profile, with its sums.

use std::sync::Arc;

use super::symbols::Frame;

/// Which of a row's figures is shown: the four that Go's heap profiles have.
///
/// # Examples
///
/// ```
/// use tower_memory::profile::Value;
///
/// assert_eq!(Value::InUseBytes.as_str(), "inuse_space");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Value {
    /// `alloc_objects`: blocks allocated since the profile was started.
    AllocatedObjects,
    /// `alloc_space`: bytes allocated since the profile was started.
    AllocatedBytes,
    /// `inuse_objects`: blocks that are not freed.
    InUseObjects,
    /// `inuse_space`: bytes that are not freed.
    InUseBytes,
}

impl Value {
    /// All, in the order of a Go profile.
    pub(super) const ALL: [Self; 4] = [
        Self::AllocatedObjects,
        Self::AllocatedBytes,
        Self::InUseObjects,
        Self::InUseBytes,
    ];

    /// Returns the name that `go tool pprof -sample_index` takes.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AllocatedObjects => "alloc_objects",
            Self::AllocatedBytes => "alloc_space",
            Self::InUseObjects => "inuse_objects",
            Self::InUseBytes => "inuse_space",
        }
    }

    pub(super) const fn unit(self) -> &'static str {
        match self {
            Self::AllocatedObjects | Self::InUseObjects => "count",
            Self::AllocatedBytes | Self::InUseBytes => "bytes",
        }
    }
}

/// An estimate. In the difference of two profiles it may be negative.
///
/// # Examples
///
/// ```
/// use tower_memory::profile::Amount;
///
/// let amount = Amount::default();
/// assert_eq!((amount.objects, amount.bytes), (0, 0));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Amount {
    /// Blocks.
    pub objects: i64,
    /// Bytes. A block that grows allocates what it grows by.
    pub bytes: i64,
}

impl Amount {
    pub(super) fn new((objects, bytes): (u64, u64)) -> Self {
        let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        Self {
            objects: signed(objects),
            bytes: signed(bytes),
        }
    }

    pub(super) fn minus(self, other: Self) -> Self {
        Self {
            objects: self.objects.saturating_sub(other.objects),
            bytes: self.bytes.saturating_sub(other.bytes),
        }
    }
}

/// What was allocated under one route and task with one stack.
///
/// # Examples
///
/// ```
/// use tower_memory::profile::{Profile, Value};
///
/// for row in Profile::snapshot().resolve().rows() {
///     let place = row.functions().next().unwrap_or("(no stack)");
///     println!("{:?} {place}: {} bytes in use", row.route(), row.value(Value::InUseBytes));
/// }
/// ```
#[derive(Debug, Clone)]
pub struct Row {
    /// Which key it is, in all profiles of the process.
    pub(super) index: usize,
    pub(super) route: Option<&'static str>,
    pub(super) task: Option<Arc<str>>,
    /// Innermost first.
    pub(super) frames: Vec<Frame>,
    /// What was allocated since the profile was started.
    pub allocated: Amount,
    /// What of that is not freed.
    pub in_use: Amount,
}

impl Row {
    /// Returns the label of the request's route, or of the account; `None` outside of both.
    #[must_use]
    pub const fn route(&self) -> Option<&str> {
        self.route
    }

    /// Returns the name of a detached task, or the place where another task of a request was started, as
    /// `file:line`. `None` outside of tasks.
    #[must_use]
    pub fn task(&self) -> Option<&str> {
        self.task.as_deref()
    }

    /// Returns the functions of the stack, innermost first: those that were inlined, too. Empty before
    /// [`Profile::resolve`](super::Profile::resolve), and without a stack.
    pub fn functions(&self) -> impl Iterator<Item = &str> {
        let frames = self.frames.iter();
        frames.flat_map(|frame| frame.functions().iter().map(|function| &*function.name))
    }

    /// Returns one of the figures.
    #[must_use]
    pub const fn value(&self, value: Value) -> i64 {
        match value {
            Value::AllocatedObjects => self.allocated.objects,
            Value::AllocatedBytes => self.allocated.bytes,
            Value::InUseObjects => self.in_use.objects,
            Value::InUseBytes => self.in_use.bytes,
        }
    }
}
