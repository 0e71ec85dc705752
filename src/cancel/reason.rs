use std::fmt;

use super::source::DeadlineSource;

/// Why a request's token was cancelled.
///
/// [`as_str`](Self::as_str) is the name for labels; `Display` is a sentence for people, as error
/// messages have it.
///
/// # Examples
///
/// ```
/// use tower_memory::cancel::{CancelReason, DeadlineSource};
///
/// fn whose_deadline(reason: CancelReason) -> Option<DeadlineSource> {
///     match reason {
///         CancelReason::DeadlineExceeded { source, .. } => Some(source),
///         _ => None,
///     }
/// }
/// assert_eq!(whose_deadline(CancelReason::Shutdown), None);
/// assert_eq!(CancelReason::Shutdown.deadline_source(), None);
/// assert_eq!(CancelReason::Shutdown.as_str(), "shutdown");
/// assert_eq!(CancelReason::Shutdown.to_string(), "the server is going down");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CancelReason {
    /// The response, body included, was dropped before it was complete.
    ClientGone,
    /// The response is complete.
    Completed,
    /// The deadline passed before there was a response, or a limit for its body.
    #[non_exhaustive]
    DeadlineExceeded {
        /// Who had set it.
        source: DeadlineSource,
    },
    /// The request would have used more memory than it may.
    MemoryExceeded,
    /// The handler, or the response body, panicked.
    Panicked,
    /// The inner service, or the response body, returned an error.
    ServiceError,
    /// The request was refused to save memory.
    Shed,
    /// The server is going down.
    Shutdown,
}

impl CancelReason {
    /// Who had set the deadline that passed; `None` for all other reasons.
    #[must_use]
    pub const fn deadline_source(self) -> Option<DeadlineSource> {
        match self {
            Self::DeadlineExceeded { source } => Some(source),
            _ => None,
        }
    }

    /// The name as a metric label has it, which is that of the
    /// [`Outcome`](crate::scope::Outcome); whose deadline it was, the
    /// [source](Self::deadline_source) says.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ClientGone => "client_gone",
            Self::Completed => "completed",
            Self::DeadlineExceeded { .. } => "deadline_exceeded",
            Self::MemoryExceeded => "memory_exceeded",
            Self::Panicked => "panicked",
            Self::ServiceError => "service_error",
            Self::Shed => "shed",
            Self::Shutdown => "shutdown",
        }
    }

    /// A code that is never zero.
    pub(crate) const fn to_code(self) -> u8 {
        match self {
            Self::ClientGone => 1,
            Self::Completed => 2,
            Self::MemoryExceeded => 3,
            Self::Panicked => 4,
            Self::ServiceError => 5,
            Self::Shed => 6,
            Self::Shutdown => 7,
            Self::DeadlineExceeded { source } => 16 + source.to_code(),
        }
    }

    /// The reason of a code; zero, and any other unknown code, is no reason.
    pub(crate) const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::ClientGone,
            2 => Self::Completed,
            3 => Self::MemoryExceeded,
            4 => Self::Panicked,
            5 => Self::ServiceError,
            6 => Self::Shed,
            7 => Self::Shutdown,
            16.. => match DeadlineSource::from_code(code - 16) {
                Some(source) => Self::DeadlineExceeded { source },
                None => return None,
            },
            _ => return None,
        })
    }
}

impl fmt::Display for CancelReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ClientGone => "the client went away",
            Self::Completed => "the response is complete",
            Self::DeadlineExceeded { source } => {
                return write!(f, "the deadline set by {source} passed");
            }
            Self::MemoryExceeded => "the request used too much memory",
            Self::Panicked => "the handler panicked",
            Self::ServiceError => "the service failed",
            Self::Shed => "the request was refused to save memory",
            Self::Shutdown => "the server is going down",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_survives_its_code() {
        let deadlines = [
            DeadlineSource::BodyIdleTimeout,
            DeadlineSource::BodyTimeout,
            DeadlineSource::EnvoyExpectedRqTimeout,
            DeadlineSource::GrpcTimeout,
            DeadlineSource::Handler,
            DeadlineSource::Layer,
            DeadlineSource::Policy,
            DeadlineSource::RequestTimeout,
        ]
        .map(|source| CancelReason::DeadlineExceeded { source });
        for reason in deadlines.into_iter().chain([
            CancelReason::ClientGone,
            CancelReason::Completed,
            CancelReason::MemoryExceeded,
            CancelReason::Panicked,
            CancelReason::ServiceError,
            CancelReason::Shed,
            CancelReason::Shutdown,
        ]) {
            assert_ne!(reason.to_code(), 0);
            assert_eq!(CancelReason::from_code(reason.to_code()), Some(reason));
        }
        assert_eq!(CancelReason::from_code(0), None);
        assert_eq!(CancelReason::from_code(15), None);
        assert_eq!(CancelReason::from_code(255), None);
    }
}
