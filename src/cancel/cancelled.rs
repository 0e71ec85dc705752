use std::{error::Error, fmt};

use super::reason::CancelReason;

/// The request is cancelled, so its work should stop. Returned by
/// [`RequestScope::check`](crate::RequestScope::check).
///
/// With the `axum` feature it is a response: `504` after a deadline, `500` for a request that holds too
/// much, and `503` otherwise, with a problem description without figures.
///
/// # Examples
///
/// ```
/// use tower_memory::{RequestScope, cancel::Cancelled};
///
/// fn fill(scope: &RequestScope, rows: u32) -> Result<Vec<String>, Cancelled> {
///     let mut lines = Vec::new();
///     for row in 0..rows {
///         scope.check()?;
///         lines.push(format!("row {row}"));
///     }
///     Ok(lines)
/// }
/// # let _ = fill;
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cancelled {
    reason: CancelReason,
    figures: Option<Exceeded>,
}

/// A limit of a request that was exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exceeded {
    /// What it asked for, if it was ended before it held too much.
    pub(crate) asked: Option<u64>,
    /// The most bytes that it held.
    pub(crate) used: u64,
    pub(crate) limit: u64,
}

impl Cancelled {
    /// With the limit of the request, if it exceeded that.
    pub(crate) const fn new(reason: CancelReason, figures: Option<Exceeded>) -> Self {
        Self { reason, figures }
    }

    /// Returns why the request is cancelled.
    #[must_use]
    pub const fn reason(&self) -> CancelReason {
        self.reason
    }

    /// Returns the size of the frame that was not read, if the request was ended since that frame of its body
    /// would have exceeded its limit.
    #[must_use]
    pub fn asked(&self) -> Option<u64> {
        self.figures?.asked
    }

    /// Returns the most bytes that the request has held, if it exceeded its limit.
    #[must_use]
    pub fn used(&self) -> Option<u64> {
        Some(self.figures?.used)
    }

    /// Returns the limit that the request exceeded, in bytes.
    #[must_use]
    pub fn limit(&self) -> Option<u64> {
        Some(self.figures?.limit)
    }
}

/// A sentence for a log, with the figures.
impl fmt::Display for Cancelled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason.fmt(f)?;
        if let Some(Exceeded { asked, used, limit }) = self.figures {
            write!(f, " of {limit} bytes: it held {used}")?;
            if let Some(asked) = asked {
                write!(f, " and asked for {asked} more")?;
            }
        }
        Ok(())
    }
}

impl Error for Cancelled {}
