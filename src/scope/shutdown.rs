use tokio::{
    sync::{Notify, futures::Notified},
    time::Instant,
};

use crate::sync::{AtomicBool, OnceLock, Ordering};

/// Whether the layer is shutting down.
///
/// Once it has begun, each open scope *is* cancelled: a thread that reads or sets its reason reads this
/// word first. So there is no list of open scopes. Only tokens are listed, since tasks may sleep on
/// them.
///
/// # Invariants
///
/// 1. `began` goes from false to true once, after `at` was set.
/// 2. A scope is counted as open before its request reads `began`, and the count is read after `began`
///    was set, all in one order (`SeqCst`). So of "opened" and "shut down" the later one sees the
///    earlier: a scope is counted, or its request is refused.
/// 3. A thread that makes a token lists it before it reads `began`. The list is read, under the same
///    locks, after `began` was set. So a token is found in the list, or the thread that made it
///    cancels it.
#[derive(Debug, Default)]
pub(crate) struct Shutdown {
    began: AtomicBool,
    at: OnceLock<Instant>,
    /// Notified when a scope or a task has ended.
    changed: Notify,
}

impl Shutdown {
    pub(crate) fn begin(&self) {
        self.at.get_or_init(Instant::now);
        // SeqCst: invariant 2.
        self.began.store(true, Ordering::SeqCst);
    }

    /// Whether it has begun.
    #[inline]
    pub(crate) fn has_begun(&self) -> bool {
        // SeqCst: invariant 2. A plain load on most processors.
        self.began.load(Ordering::SeqCst)
    }

    /// When it began, if it has.
    #[inline]
    pub(crate) fn began(&self) -> Option<Instant> {
        if self.has_begun() {
            self.at.get().copied()
        } else {
            None
        }
    }

    /// Notifies a shutdown that a scope or a task has ended.
    #[inline]
    pub(crate) fn changed(&self) {
        if self.has_begun() {
            self.changed.notify_waiters();
        }
    }

    /// Waits for the next scope or task that ends.
    pub(crate) fn next_change(&self) -> Notified<'_> {
        self.changed.notified()
    }
}
