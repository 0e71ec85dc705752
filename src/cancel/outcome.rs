use std::fmt;

/// How a request ended; exactly one per request.
///
/// # Examples
///
/// ```
/// use tower_memory::Outcome;
///
/// assert_eq!(Outcome::ClientGone.as_str(), "client_gone");
/// assert!(Outcome::ALL.contains(&Outcome::Shutdown));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// The application cancelled the request with `RequestScope::cancel`.
    Cancelled,
    /// The server dropped the response, or its body, before it was complete.
    ClientGone,
    /// The server received the whole response. Any status counts.
    Completed,
    /// The deadline passed before there was a response, or a limit for its body.
    DeadlineExceeded,
    /// The handler, or the response body, panicked.
    Panicked,
    /// The inner service, or the response body, returned an error.
    ServiceError,
    /// The server was shutting down.
    Shutdown,
}

impl Outcome {
    /// All outcomes, in the order of their names. A later version may have more.
    pub const ALL: &'static [Self] = &[
        Self::Cancelled,
        Self::ClientGone,
        Self::Completed,
        Self::DeadlineExceeded,
        Self::Panicked,
        Self::ServiceError,
        Self::Shutdown,
    ];

    /// Returns the name as a metric label, for example `client_gone`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cancelled => "cancelled",
            Self::ClientGone => "client_gone",
            Self::Completed => "completed",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::Panicked => "panicked",
            Self::ServiceError => "service_error",
            Self::Shutdown => "shutdown",
        }
    }

    /// The position in [`ALL`](Self::ALL).
    pub(crate) const fn index(self) -> usize {
        // The variants are declared in the order of `ALL`; a test compares the two.
        self as usize
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_the_position_in_all() {
        for (at, outcome) in Outcome::ALL.iter().enumerate() {
            assert_eq!(outcome.index(), at);
        }
    }
}
