use std::fmt;

/// What set a deadline.
///
/// [`as_str`](Self::as_str) is the name for metric labels, `Display` a phrase for error messages ("the
/// deadline set by the layer passed").
///
/// # Examples
///
/// ```
/// use tower_memory::cancel::DeadlineSource;
///
/// assert_eq!(DeadlineSource::Layer.as_str(), "layer");
/// assert_eq!(DeadlineSource::Layer.to_string(), "the layer");
/// assert!(DeadlineSource::GrpcTimeout.is_request());
/// assert!(!DeadlineSource::Policy.is_request());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DeadlineSource {
    /// The limit for the time between two frames of a response body: `body_idle_timeout` of a
    /// `MemoryLayer` or `RoutePolicy`.
    BodyIdleTimeout,
    /// The limit for a whole response body: `body_timeout` of a `MemoryLayer` or `RoutePolicy`.
    BodyTimeout,
    /// The request's header `x-envoy-expected-rq-timeout-ms`, which the layer trusts.
    EnvoyExpectedRqTimeout,
    /// The request's header `grpc-timeout`, which the layer trusts.
    GrpcTimeout,
    /// The application, through `RequestScope::shorten_deadline` or `extend_deadline`.
    Handler,
    /// A `MemoryLayer`'s `timeout`.
    Layer,
    /// The `timeout` of a `RoutePolicy`.
    Policy,
    /// The limit for the time between two frames of a request body: `request_body_idle_timeout` of a
    /// `MemoryLayer` or `RoutePolicy`.
    RequestBodyIdleTimeout,
    /// The request's header `x-request-timeout-ms`, which the layer trusts.
    RequestTimeout,
}

impl DeadlineSource {
    /// All sources, in the order of their names. A later version may have more.
    pub const ALL: &'static [Self] = &[
        Self::BodyIdleTimeout,
        Self::BodyTimeout,
        Self::EnvoyExpectedRqTimeout,
        Self::GrpcTimeout,
        Self::Handler,
        Self::Layer,
        Self::Policy,
        Self::RequestBodyIdleTimeout,
        Self::RequestTimeout,
    ];

    /// Returns whether a header of the request set the deadline. The server cannot extend such a
    /// deadline, because the client, or a proxy on its behalf, waits no longer.
    #[must_use]
    pub const fn is_request(self) -> bool {
        matches!(
            self,
            Self::EnvoyExpectedRqTimeout | Self::GrpcTimeout | Self::RequestTimeout
        )
    }

    /// Returns the name as a metric label, for example `grpc_timeout`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BodyIdleTimeout => "body_idle_timeout",
            Self::BodyTimeout => "body_timeout",
            Self::EnvoyExpectedRqTimeout => "envoy_expected_rq_timeout",
            Self::GrpcTimeout => "grpc_timeout",
            Self::Handler => "handler",
            Self::Layer => "layer",
            Self::Policy => "policy",
            Self::RequestBodyIdleTimeout => "request_body_idle_timeout",
            Self::RequestTimeout => "request_timeout",
        }
    }

    /// A number from 1 on: the position in [`ALL`](Self::ALL) plus one.
    pub(crate) const fn code(self) -> usize {
        // The variants are declared in the order of `ALL`; a test compares the two.
        self as usize + 1
    }

    /// The source of a code; `None` for zero.
    pub(crate) fn from_code(code: usize) -> Option<Self> {
        Self::ALL.get(code.checked_sub(1)?).copied()
    }
}

impl fmt::Display for DeadlineSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BodyIdleTimeout => "the limit for idle bodies",
            Self::BodyTimeout => "the limit for bodies",
            Self::EnvoyExpectedRqTimeout => "the header x-envoy-expected-rq-timeout-ms",
            Self::GrpcTimeout => "the header grpc-timeout",
            Self::Handler => "the application",
            Self::Layer => "the layer",
            Self::Policy => "the route's policy",
            Self::RequestBodyIdleTimeout => "the limit for idle request bodies",
            Self::RequestTimeout => "the header x-request-timeout-ms",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_source_survives_its_code() {
        for source in DeadlineSource::ALL {
            assert_eq!(DeadlineSource::from_code(source.code()), Some(*source));
        }
        assert_eq!(DeadlineSource::from_code(0), None);
        assert_eq!(
            DeadlineSource::from_code(DeadlineSource::ALL.len() + 1),
            None
        );
    }
}
