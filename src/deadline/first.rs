use super::{limit::Limit, limits::Limits, rules::TimeRules, source::DeadlineSource, word::packed};

/// The limits that a layer sets, as the words of a request without others.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FirstLimits {
    deadline: u64,
    bodies: [u64; 3],
}

impl FirstLimits {
    pub(crate) fn of(layer: &TimeRules) -> Self {
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
    use crate::deadline::Rule;

    #[test]
    fn the_limits_of_a_layer_are_the_same_in_one_step() {
        let second = Duration::from_secs(1);
        let limit = |limit| Rule {
            disable: false,
            limit: Some(limit),
        };
        let timeout = |timeout| TimeRules {
            timeout: limit(timeout),
            ..TimeRules::NOTHING
        };
        let disable = Rule {
            disable: true,
            limit: None,
        };
        let layers = [
            TimeRules::NOTHING,
            timeout(second),
            timeout(Duration::ZERO),
            timeout(Duration::from_nanos(17)),
            timeout(Duration::MAX),
            TimeRules {
                timeout: Rule {
                    disable: true,
                    limit: Some(second),
                },
                ..TimeRules::NOTHING
            },
            TimeRules {
                timeout: disable,
                body_timeout: disable,
                ..TimeRules::NOTHING
            },
            TimeRules {
                body_timeout: limit(second),
                body_idle_timeout: limit(2 * second),
                request_body_idle_timeout: limit(Duration::MAX),
                ..TimeRules::NOTHING
            },
        ];
        for layer in layers {
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
