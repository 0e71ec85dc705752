use std::{error::Error, fmt};

/// Why an arena could not give the memory that was asked for.
///
/// Nothing is lost when it is returned: everything allocated before stays as it was.
///
/// # Examples
///
/// ```
/// use tower_memory::arena::{Arena, ArenaErrorKind};
///
/// let arena = Arena::new();
/// let error = arena.try_vec_with_capacity::<u64>(usize::MAX).unwrap_err();
/// assert_eq!(error.kind(), ArenaErrorKind::CapacityOverflow);
/// assert_eq!(error.used(), 0);
/// assert!(error.to_string().contains("more than the address space allows"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArenaError {
    kind: ArenaErrorKind,
    asked: usize,
    used: usize,
}

/// What kind of error an [`ArenaError`] is.
///
/// # Examples
///
/// ```
/// use tower_memory::{Arena, arena::ArenaErrorKind};
///
/// let arena = Arena::new();
/// // Fits the address space by its number, and no machine in truth.
/// let error = arena.try_buf_with_capacity(isize::MAX as usize / 2).unwrap_err();
/// assert_eq!(error.kind(), ArenaErrorKind::OutOfMemory);
/// let error = arena.try_buf_with_capacity(isize::MAX as usize + 1).unwrap_err();
/// assert_eq!(error.kind(), ArenaErrorKind::CapacityOverflow);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ArenaErrorKind {
    /// The size does not fit the address space (above `isize::MAX` bytes).
    CapacityOverflow,
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
        }
    }

    #[cold]
    pub(crate) const fn out_of_memory(asked: usize, used: usize) -> Self {
        Self {
            kind: ArenaErrorKind::OutOfMemory,
            asked,
            used,
        }
    }

    /// The same error of a cursor, which asks for more than was wanted of it, and has taken `advance`
    /// bytes that nobody uses.
    #[cold]
    pub(crate) const fn of_cursor(mut self, asked: usize, advance: usize) -> Self {
        self.asked = asked;
        self.used = self.used.saturating_sub(advance);
        self
    }

    /// What kind of error this is.
    #[must_use]
    pub const fn kind(&self) -> ArenaErrorKind {
        self.kind
    }

    /// Bytes that were asked for; `usize::MAX` if their number itself does not fit.
    #[must_use]
    pub const fn asked(&self) -> usize {
        self.asked
    }

    /// Bytes the arena had given out before.
    #[must_use]
    pub const fn used(&self) -> usize {
        self.used
    }

    /// The largest number of bytes that could be asked for, where there is such a bound.
    #[must_use]
    pub const fn limit(&self) -> Option<usize> {
        match self.kind {
            ArenaErrorKind::CapacityOverflow => Some(isize::MAX as usize),
            ArenaErrorKind::OutOfMemory => None,
        }
    }

    /// Ends an infallible method that could not be carried out.
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
                "arena allocation of {} bytes is more than the address space allows ({} bytes), with {} in use",
                self.asked,
                isize::MAX,
                self.used
            ),
            ArenaErrorKind::OutOfMemory => write!(
                f,
                "the allocator has no memory for {} bytes of an arena, with {} in use",
                self.asked, self.used
            ),
        }
    }
}

impl Error for ArenaError {}

macro_rules! or_panic {
    ($result:expr) => {
        match $result {
            Ok(value) => value,
            Err(error) => error.panic(),
        }
    };
}
pub(super) use or_panic;

pub(super) const fn refuse_drop_glue<T>() {
    assert!(
        !std::mem::needs_drop::<T>(),
        "an arena does not drop its values: use `alloc_box` or an `ArenaVec`"
    );
}
