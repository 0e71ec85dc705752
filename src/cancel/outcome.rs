use std::fmt;

/// How a request ended; exactly one per request.
///
/// An outcome says what the layer knows, and no more. A server drops the response of a client that has
/// left, and an outer timeout drops it in the same way: both are [`Abandoned`](Self::Abandoned). A
/// [`RequestBodyLayer`] notices when the connection ends within an upload: that is
/// [`ClientGone`](Self::ClientGone). Without one, such a request is `Completed` if the handler answers
/// nevertheless, and `Abandoned` otherwise.
///
/// [`RequestBodyLayer`]: crate::middleware::RequestBodyLayer
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
    /// The response, or its body, was dropped before it was complete. The client has left, or an outer
    /// layer has given up. The two cannot be told apart.
    Abandoned,
    /// The application cancelled the request with `RequestScope::cancel`.
    Cancelled,
    /// The client's connection, or stream of HTTP/2, ended before the request's body was complete.
    /// Noticed by a `RequestBodyLayer` while the handler reads the body.
    ClientGone,
    /// The server received the whole response. Any status counts.
    Completed,
    /// The deadline passed before there was a response, or a limit for its body.
    DeadlineExceeded,
    /// The request, with its tasks, held more than its
    /// [limit](crate::middleware::MemoryLayerBuilder::request_limit).
    MemoryExceeded,
    /// The request held the most memory, compared with others of its route, when the process was at its
    /// [limit](crate::limit::ProcessLimit).
    MemoryPressure,
    /// The response was an upgrade, but no [hold](crate::RequestScope::hold) was taken up in time: an outer
    /// layer replaced the response, or the connection failed.
    NotUpgraded,
    /// The handler, or the response body, panicked.
    Panicked,
    /// The inner service, or the response body, returned an error.
    ServiceError,
    /// The server refused the request: the [limit of the process](crate::limit::ProcessLimit) had no room for
    /// it, or clients had not taken as many bytes of earlier responses as
    /// [`max_unreleased_bytes`](crate::middleware::MemoryLayerBuilder::max_unreleased_bytes) allows.
    Shed,
    /// The server was shutting down.
    Shutdown,
}

impl Outcome {
    /// All outcomes, in the order of their names. A later version may have more.
    pub const ALL: &'static [Self] = &[
        Self::Abandoned,
        Self::Cancelled,
        Self::ClientGone,
        Self::Completed,
        Self::DeadlineExceeded,
        Self::MemoryExceeded,
        Self::MemoryPressure,
        Self::NotUpgraded,
        Self::Panicked,
        Self::ServiceError,
        Self::Shed,
        Self::Shutdown,
    ];

    /// Returns the name as a metric label, for example `client_gone`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Abandoned => "abandoned",
            Self::Cancelled => "cancelled",
            Self::ClientGone => "client_gone",
            Self::Completed => "completed",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::MemoryExceeded => "memory_exceeded",
            Self::MemoryPressure => "memory_pressure",
            Self::NotUpgraded => "not_upgraded",
            Self::Panicked => "panicked",
            Self::ServiceError => "service_error",
            Self::Shed => "shed",
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
