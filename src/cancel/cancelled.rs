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
    /// The most bytes that were held, and the limit.
    figures: Option<(u64, u64)>,
}

impl Cancelled {
    /// With the bytes that the request has held, and its limit, if it exceeded that.
    pub(crate) const fn new(reason: CancelReason, figures: Option<(u64, u64)>) -> Self {
        Self { reason, figures }
    }

    /// Returns why the request is cancelled.
    #[must_use]
    pub const fn reason(&self) -> CancelReason {
        self.reason
    }

    /// Returns the most bytes that the request has held, if it exceeded its limit.
    #[must_use]
    pub fn used(&self) -> Option<u64> {
        self.figures.map(|(used, _)| used)
    }

    /// Returns the limit that the request exceeded, in bytes.
    #[must_use]
    pub fn limit(&self) -> Option<u64> {
        self.figures.map(|(_, limit)| limit)
    }
}

/// A sentence for a log, with the figures.
impl fmt::Display for Cancelled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason.fmt(f)?;
        if let Some((used, limit)) = self.figures {
            write!(f, " of {limit} bytes: it held {used}")?;
        }
        Ok(())
    }
}

impl Error for Cancelled {}
