//! What the loom models of groups share, here and in the scope.

use std::time::Duration;

use super::{
    group::User,
    supervision::{Supervised, Terms},
};
use crate::housekeeping::Housekeeping;

/// A task that does not end by itself.
pub(crate) struct Task;

impl Supervised for Task {
    fn is_released(&self) -> bool {
        false
    }

    fn overdue(&self) -> Option<Duration> {
        None
    }
}

pub(crate) const USER: User = User {
    layer: 1,
    follows_shutdown: true,
};

/// Never due, so that nothing is scheduled.
pub(crate) fn terms() -> Terms {
    Terms {
        grace: Duration::MAX,
        housekeeping: Housekeeping::Process,
    }
}
