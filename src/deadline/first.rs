use super::{
    limit::Limit, limits::Limits, policy::RoutePolicy, source::DeadlineSource, word::packed,
};

/// The limits that a layer sets, as the words of a request without others.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FirstLimits {
    deadline: u64,
    bodies: [u64; 3],
}

impl FirstLimits {
    pub(crate) fn of(layer: &RoutePolicy) -> Self {
        Self {
            deadline: packed(layer.timeout.limit, DeadlineSource::Layer),
            bodies: layer.bodies().map(|rule| Limit::packed(rule.limit)),
        }
    }
}

impl Limits {
    /// As [`begin`](Self::begin), for a request that has no other limits and has not waited.
    #[inline]
    pub(crate) fn begin_first(&self, first: &FirstLimits) {
        self.deadline.begin(first.deadline);
        for (limit, &packed) in self.bodies().into_iter().zip(&first.bodies) {
            limit.restore(packed);
        }
    }

    /// Whether a response body may have a limit.
    #[inline]
    pub(crate) fn has_body_limits(&self) -> bool {
        self.deadline.is_set() || self.body_idle.is_set() || self.request_body_idle.is_set()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::*;

    #[test]
    fn the_limits_of_a_layer_are_the_same_in_one_step() {
        let second = Duration::from_secs(1);
        let policies = [
            RoutePolicy::new(),
            RoutePolicy::new().timeout(second),
            RoutePolicy::new().timeout(Duration::ZERO),
            RoutePolicy::new().timeout(Duration::from_nanos(17)),
            RoutePolicy::new().timeout(Duration::MAX),
            RoutePolicy::new().disable_timeout().timeout(second),
            RoutePolicy::new().disable_timeout().disable_body_timeout(),
            RoutePolicy::new()
                .body_timeout(second)
                .body_idle_timeout(2 * second)
                .request_body_idle_timeout(Duration::MAX),
        ];
        for layer in policies {
            let (steps, first) = (Limits::none(), Limits::none());
            assert_eq!(steps.begin(None, None, &layer, Duration::ZERO), None);
            first.begin_first(&FirstLimits::of(&layer));
            let start = Instant::now();
            assert_eq!(first.deadline.at(start), steps.deadline.at(start));
            let bodies = |limits: &Limits| limits.bodies().map(Limit::save);
            assert_eq!(bodies(&first), bodies(&steps), "{layer:?}");
            assert_eq!(first.has_body_limits(), steps.has_body_limits());
        }
    }
}
