use super::builder::MemoryLayerBuilder;
use crate::config::ConfigError;

/// Settings about what requests may hold.
impl MemoryLayerBuilder {
    /// Ends requests that hold more than `bytes`.
    ///
    /// By default there is no limit, or with a [`process_limit`](Self::process_limit) an eighth of that, as it is
    /// when the request begins. The mode of that limit holds for this one, too: in
    /// [`LimitMode::Observe`](crate::limit::LimitMode::Observe) no request is ended, and those that would be are
    /// counted in [`RouteSnapshot::would_exceed`](crate::observe::RouteSnapshot::would_exceed).
    ///
    /// What a request holds is [`Usage::held_bytes`](crate::account::Usage::held_bytes): its blocks, those
    /// of its tasks, and its arena. A request beyond its limit ends where the first of these comes:
    ///
    /// - its handler waits at an `.await`. Then the token is cancelled, the handler is dropped and the client
    ///   gets `500` (see [`limit_response`](Self::limit_response)). With a
    ///   [`RequestBodyLayer`](super::RequestBodyLayer) the client gets `413` if the handler was reading the
    ///   request's body, and no frame is read that would exceed the limit;
    /// - its code calls [`RequestScope::check`](crate::RequestScope::check), which fails;
    /// - its response's body is asked for the next frame. The body is cut off as by
    ///   [`body_timeout`](Self::body_timeout); a gRPC client gets the status `RESOURCE_EXHAUSTED`.
    ///
    /// The outcome is [`Outcome::MemoryExceeded`](crate::Outcome::MemoryExceeded). Tasks are dropped at their
    /// next `.await`, without a grace period. Methods of the arena with `try_` in their name and [`Arena::collect`](crate::Arena::collect)
    /// fail before they exceed the limit, with
    /// [`ArenaErrorKind::LimitExceeded`](crate::arena::ArenaErrorKind::LimitExceeded), and end nothing.
    ///
    /// **A poll that neither waits nor checks runs to its end**, however much it allocates: unwinding out of
    /// an allocator is undefined, and an allocator that fails ends the process. The response of such a poll is
    /// sent, since its memory has been spent. These are counted in
    /// [`RouteSnapshot::over_limit`](crate::observe::RouteSnapshot::over_limit), and with the `tracing`
    /// feature the first of each route is a warning.
    ///
    /// One thread notices at most 1 KiB of small blocks too late, each further one 64 KiB. It needs an
    /// installed [`TrackingAllocator`](crate::TrackingAllocator). For other limits on some routes see
    /// [`RoutePolicy::request_limit`](crate::RoutePolicy::request_limit); the guide's page
    /// [limits](crate::guide::limits) has a table.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_memory::{ConfigError, MemoryLayer};
    ///
    /// let layer = MemoryLayer::builder().request_limit(32 << 20).build()?;
    /// # let _ = layer;
    /// let error = MemoryLayer::builder().request_limit(0).build().unwrap_err();
    /// assert_eq!(error, ConfigError::RequestLimitZero);
    /// # Ok::<(), ConfigError>(())
    /// ```
    pub const fn request_limit(mut self, bytes: usize) -> Self {
        self.limits = self.limits.request_limit(bytes);
        self
    }

    pub(super) fn check_request_limit(&self) -> Result<(), ConfigError> {
        const LIMIT: usize = isize::MAX as usize;

        let process = self.load.process.as_ref();
        let process = process.map(|limit| limit.snapshot().limit);
        match self.limits.request_limit.limit {
            Some(0) => Err(ConfigError::RequestLimitZero),
            Some(asked) if asked > LIMIT => Err(ConfigError::SizeTooLarge {
                name: "request_limit",
                asked,
                limit: LIMIT,
            }),
            Some(asked) => match process.filter(|process| asked as u64 > *process) {
                Some(process) => Err(ConfigError::RequestLimitAboveProcess { asked, process }),
                None => Ok(()),
            },
            None => Ok(()),
        }
    }
}
