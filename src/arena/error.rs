use std::{error::Error, fmt, io, marker::PhantomData};

/// An arena could not provide memory.
///
/// Everything allocated before is unchanged. It converts into [`fmt::Error`] and [`io::Error`].
///
/// # Examples
///
/// ```
/// use tower_memory::arena::{Arena, ArenaErrorKind};
///
/// let arena = Arena::new();
/// let error = arena.vec::<u64>().try_reserve(usize::MAX).unwrap_err();
/// assert_eq!(error.kind(), ArenaErrorKind::CapacityOverflow);
/// assert_eq!(error.used(), 0);
/// assert!(error.to_string().contains("exceeds the maximum"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArenaError {
    kind: ArenaErrorKind,
    asked: usize,
    used: usize,
    /// That of the request, if it is exceeded.
    limit: usize,
}

/// What kind of error an [`ArenaError`] is.
///
/// # Examples
///
/// ```
/// use tower_memory::{Arena, arena::ArenaErrorKind};
///
/// let arena = Arena::new();
/// let mut buf = arena.buf();
/// // A valid size that no machine has.
/// let error = buf.try_reserve(isize::MAX as usize / 2).unwrap_err();
/// assert_eq!(error.kind(), ArenaErrorKind::OutOfMemory);
/// let error = buf.try_reserve(isize::MAX as usize + 1).unwrap_err();
/// assert_eq!(error.kind(), ArenaErrorKind::CapacityOverflow);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ArenaErrorKind {
    /// The size does not fit the address space (above `isize::MAX` bytes).
    CapacityOverflow,
    /// The request would hold more than its
    /// [limit](crate::middleware::MemoryLayerBuilder::request_limit). Nothing was taken, and the request goes
    /// on.
    LimitExceeded,
    /// The global allocator had no memory.
    OutOfMemory,
}

impl ArenaError {
    #[cold]
    pub(crate) const fn capacity_overflow(asked: usize, used: usize) -> Self {
        Self {
            kind: ArenaErrorKind::CapacityOverflow,
            asked,
            used,
            limit: isize::MAX as usize,
        }
    }

    #[cold]
    pub(crate) const fn out_of_memory(asked: usize, used: usize) -> Self {
        Self {
            kind: ArenaErrorKind::OutOfMemory,
            asked,
            used,
            limit: 0,
        }
    }

    #[cold]
    pub(super) const fn limit_exceeded(asked: usize, used: usize, limit: usize) -> Self {
        Self {
            kind: ArenaErrorKind::LimitExceeded,
            asked,
            used,
            limit,
        }
    }

    /// Corrects the numbers for a cursor: it requests more than its caller did, and holds `advance`
    /// unused bytes.
    #[cold]
    pub(crate) const fn of_cursor(mut self, asked: usize, advance: usize) -> Self {
        self.asked = asked;
        if !matches!(self.kind, ArenaErrorKind::LimitExceeded) {
            self.used = self.used.saturating_sub(advance);
        }
        self
    }

    /// What kind of error this is.
    #[must_use]
    pub const fn kind(&self) -> ArenaErrorKind {
        self.kind
    }

    /// Bytes requested; `usize::MAX` if their number itself does not fit.
    #[must_use]
    pub const fn asked(&self) -> usize {
        self.asked
    }

    /// Bytes the arena had in use, or those that the request held if they exceed its limit.
    #[must_use]
    pub const fn used(&self) -> usize {
        self.used
    }

    /// The largest size that can be asked for, or what the request may hold in sum, if that was exceeded.
    #[must_use]
    pub const fn limit(&self) -> Option<usize> {
        match self.kind {
            ArenaErrorKind::CapacityOverflow | ArenaErrorKind::LimitExceeded => Some(self.limit),
            ArenaErrorKind::OutOfMemory => None,
        }
    }

    /// Panics on behalf of a method without a `Result`.
    #[cold]
    #[inline(never)]
    #[track_caller]
    pub(crate) fn panic(self) -> ! {
        panic!("{self}")
    }
}

impl fmt::Display for ArenaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            ArenaErrorKind::CapacityOverflow => write!(
                f,
                "arena allocation of {} bytes exceeds the maximum of {} bytes ({} in use)",
                self.asked,
                isize::MAX,
                self.used
            ),
            ArenaErrorKind::LimitExceeded => write!(
                f,
                "arena allocation of {} bytes exceeds the request's limit of {} bytes ({} held)",
                self.asked, self.limit, self.used
            ),
            ArenaErrorKind::OutOfMemory => write!(
                f,
                "arena allocation of {} bytes failed: out of memory ({} in use)",
                self.asked, self.used
            ),
        }
    }
}

impl Error for ArenaError {}

/// Drops the details, which `fmt::Error` cannot carry.
impl From<ArenaError> for fmt::Error {
    fn from(_: ArenaError) -> Self {
        Self
    }
}

impl From<ArenaError> for io::Error {
    fn from(error: ArenaError) -> Self {
        Self::new(io::ErrorKind::OutOfMemory, error)
    }
}

macro_rules! or_panic {
    ($result:expr) => {
        match $result {
            Ok(value) => value,
            Err(error) => error.panic(),
        }
    };
}
pub(super) use or_panic;

/// Refuses a type that needs dropping when `CHECK` is evaluated. Public methods evaluate it
/// themselves, so that the compiler's note names the caller's line.
pub(super) struct NoDropGlue<T>(PhantomData<T>);

impl<T> NoDropGlue<T> {
    pub(super) const CHECK: () = assert!(
        !std::mem::needs_drop::<T>(),
        "this type needs dropping, and an arena drops no values: use `alloc_box`, or keep the `ArenaVec`"
    );
}
