use std::{error::Error, fmt};

/// The error of parsing a deadline header.
///
/// # Examples
///
/// ```
/// use tower_memory::deadline_header::{DeadlineHeader, ParseDeadlineErrorKind};
///
/// let error = DeadlineHeader::GrpcTimeout.parse(b"123456789S").unwrap_err();
/// assert_eq!(error.kind(), ParseDeadlineErrorKind::OutOfRange);
/// assert_eq!(error.to_string(), "value of 9 digits exceeds the maximum of 8 digits");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParseDeadlineError {
    fault: Fault,
}

/// The kind of a [`ParseDeadlineError`].
///
/// # Examples
///
/// ```
/// use tower_memory::deadline_header::{DeadlineHeader, ParseDeadlineErrorKind};
///
/// let kind = |value| DeadlineHeader::GrpcTimeout.parse(value).unwrap_err().kind();
/// assert_eq!(kind(b"soon"), ParseDeadlineErrorKind::Malformed);
/// assert_eq!(kind(b"123456789S"), ParseDeadlineErrorKind::OutOfRange);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParseDeadlineErrorKind {
    /// The value does not follow the header's grammar.
    Malformed,
    /// The value follows the grammar, but its time is implausible or too large.
    OutOfRange,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    NoDigit { at: usize },
    NoUnit { at: usize },
    OutOfRange { digits: usize },
    TooManyDigits { digits: usize, limit: usize },
}

impl ParseDeadlineError {
    #[cold]
    pub(super) const fn no_digit(at: usize) -> Self {
        Self {
            fault: Fault::NoDigit { at },
        }
    }

    #[cold]
    pub(super) const fn no_unit(at: usize) -> Self {
        Self {
            fault: Fault::NoUnit { at },
        }
    }

    #[cold]
    pub(super) const fn out_of_range(digits: usize) -> Self {
        Self {
            fault: Fault::OutOfRange { digits },
        }
    }

    #[cold]
    pub(super) const fn too_many_digits(digits: usize, limit: usize) -> Self {
        Self {
            fault: Fault::TooManyDigits { digits, limit },
        }
    }

    /// Returns the kind of this error.
    #[must_use]
    pub const fn kind(&self) -> ParseDeadlineErrorKind {
        match self.fault {
            Fault::NoDigit { .. } | Fault::NoUnit { .. } => ParseDeadlineErrorKind::Malformed,
            Fault::OutOfRange { .. } | Fault::TooManyDigits { .. } => {
                ParseDeadlineErrorKind::OutOfRange
            }
        }
    }
}

impl fmt::Display for ParseDeadlineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.fault {
            Fault::NoDigit { at } => write!(f, "expected a digit at byte {at}"),
            Fault::NoUnit { at } => {
                write!(f, "expected one of the units H, M, S, m, u, n at byte {at}")
            }
            Fault::OutOfRange { digits } => {
                write!(f, "value of {digits} digits is out of range")
            }
            Fault::TooManyDigits { digits, limit } => write!(
                f,
                "value of {digits} digits exceeds the maximum of {limit} digits"
            ),
        }
    }
}

impl Error for ParseDeadlineError {}
