use std::time::Duration;

/// What a policy does to one limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Rule<T = Duration> {
    /// Whether the outer limit is removed.
    pub(crate) disable: bool,
    pub(crate) limit: Option<T>,
}

impl<T> Rule<T> {
    /// Leaves the outer limit as it is.
    pub(crate) const NOTHING: Self = Self {
        disable: false,
        limit: None,
    };
}

impl<T: Ord + Copy> Rule<T> {
    pub(crate) fn inside(self, outer: Self) -> Self {
        let outer_limit = outer.limit.filter(|_| !self.disable);
        Self {
            disable: self.disable || outer.disable,
            limit: match (self.limit, outer_limit) {
                (Some(inner), Some(outer)) => Some(inner.min(outer)),
                (inner, outer) => inner.or(outer),
            },
        }
    }
}

/// The rules of a policy, or of a layer, for a request's times.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct TimeRules {
    pub(crate) timeout: Rule,
    pub(crate) body_timeout: Rule,
    pub(crate) body_idle_timeout: Rule,
    pub(crate) request_body_idle_timeout: Rule,
}

impl TimeRules {
    /// Rules that change nothing.
    pub(crate) const NOTHING: Self = Self {
        timeout: Rule::NOTHING,
        body_timeout: Rule::NOTHING,
        body_idle_timeout: Rule::NOTHING,
        request_body_idle_timeout: Rule::NOTHING,
    };

    /// The rules for bodies: the response's, its parts, and the request's.
    pub(crate) const fn bodies(&self) -> [Rule; 3] {
        [
            self.body_timeout,
            self.body_idle_timeout,
            self.request_body_idle_timeout,
        ]
    }

    /// Whether a rule for bodies changes something.
    pub(crate) fn limits_bodies(&self) -> bool {
        self.bodies().iter().any(|rule| *rule != Rule::NOTHING)
    }

    /// These rules and outer ones combined.
    pub(crate) fn inside(self, outer: Self) -> Self {
        Self {
            timeout: self.timeout.inside(outer.timeout),
            body_timeout: self.body_timeout.inside(outer.body_timeout),
            body_idle_timeout: self.body_idle_timeout.inside(outer.body_idle_timeout),
            request_body_idle_timeout: self
                .request_body_idle_timeout
                .inside(outer.request_body_idle_timeout),
        }
    }
}
