//! What `LimitMode::Warn` logs of requests.

use super::{events, snapshot::RefusedBy};
use crate::route::{KnownMethod, RouteLabel};

/// A request that `LimitMode::Enforce` would have refused or ended, once for each route and minute.
///
/// The limit knows the number of a route only. So the caller logs it, with the label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Warning {
    WouldRefuse {
        method: KnownMethod,
        by: RefusedBy,
        used: Option<u64>,
        limit: u64,
    },
    WouldExceed {
        method: KnownMethod,
        peak: Option<u64>,
        limit: u64,
    },
}

impl Warning {
    #[cold]
    #[inline(never)]
    pub(crate) fn log(self, route: &RouteLabel) {
        match self {
            Self::WouldRefuse {
                method,
                by,
                used,
                limit,
            } => events::would_refuse(route, method, by, used, limit),
            Self::WouldExceed {
                method,
                peak,
                limit,
            } => events::would_exceed(route, method, peak, limit),
        }
    }
}
