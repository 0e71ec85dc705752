use std::{task::Context, time::Duration};

use tokio::time::Instant;

/// How long the request that is called next has waited for the service to be ready.
///
/// `poll_ready` does not know the request. So a wait belongs to the task that polls. It is forgotten
/// when another task polls, and when a service that became ready is polled again without a call.
#[derive(Debug)]
pub(super) enum Readiness {
    /// Not polled since the last call, or ready at once.
    Immediate,
    /// Not ready.
    Pending {
        since: Instant,
        /// The address in the waker, which identifies the task. The waker itself would keep the task.
        task: usize,
    },
    /// Ready, and not called yet.
    Ready { waited: Duration },
}

impl Readiness {
    /// The service was polled by the task of `cx`, and was `ready` or not.
    #[inline]
    pub(super) fn polled(&mut self, ready: bool, cx: &Context<'_>) {
        if !ready || !matches!(self, Self::Immediate) {
            self.changed(ready, cx.waker().data().addr());
        }
    }

    #[cold]
    fn changed(&mut self, ready: bool, by: usize) {
        let since = match *self {
            Self::Pending { since, task } if task == by => Some(since),
            _ => None,
        };
        *self = match (ready, since) {
            (true, Some(since)) => Self::Ready {
                waited: since.elapsed(),
            },
            (true, None) => Self::Immediate,
            (false, since) => Self::Pending {
                since: since.unwrap_or_else(Instant::now),
                task: by,
            },
        };
    }

    /// The service is called. Returns how long the request has waited.
    #[inline]
    pub(super) fn take(&mut self) -> Duration {
        match self {
            Self::Immediate => Duration::ZERO,
            _ => self.take_wait(),
        }
    }

    #[cold]
    fn take_wait(&mut self) -> Duration {
        match std::mem::replace(self, Self::Immediate) {
            Self::Ready { waited } => waited,
            Self::Immediate | Self::Pending { .. } => Duration::ZERO,
        }
    }
}

/// A clone is as ready as a clone of the inner service, for a request that has not waited yet.
impl Clone for Readiness {
    fn clone(&self) -> Self {
        if let (Self::Ready { waited }, true) = (self, bug!("wait-shared-by-clones")) {
            return Self::Ready { waited: *waited };
        }
        Self::Immediate
    }
}
