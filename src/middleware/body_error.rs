use std::{error::Error, fmt, time::Duration};

use crate::cancel::{CancelReason, DeadlineSource};

/// A response body was cut off, since its time was over.
///
/// [`ResponseBody`](super::ResponseBody) gives it to the server, which breaks off the response: the
/// client can tell that it is not complete. Found by downcasting the body's error.
///
/// # Examples
///
/// ```
/// use tower_memory::middleware::BodyTimeoutError;
///
/// fn is_ours(error: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
///     error.is::<BodyTimeoutError>()
/// }
/// # let _ = is_ours;
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyTimeoutError {
    pub(super) source: DeadlineSource,
    pub(super) after: Duration,
}

impl BodyTimeoutError {
    /// Who had set the limit that passed.
    #[must_use]
    pub const fn deadline_source(&self) -> DeadlineSource {
        self.source
    }

    /// Time since the service was called.
    #[must_use]
    pub const fn after(&self) -> Duration {
        self.after
    }
}

impl fmt::Display for BodyTimeoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reason = CancelReason::DeadlineExceeded {
            source: self.source,
        };
        write!(f, "{reason} after {} ms", self.after.as_millis())
    }
}

impl Error for BodyTimeoutError {}
