use tokio::{
    sync::{Notify, futures::Notified},
    time::Instant,
};

use crate::sync::{AtomicBool, OnceLock, Ordering};

/// Whether the layer is shutting down.
///
/// From the moment it has begun, each scope that is open *is* cancelled: whoever asks for its
/// reason, or gives it another one, finds this word first. So nobody has to keep a list of open
/// scopes; only tokens are kept, since somebody may be asleep on them.
///
/// # Invariants
///
/// 1. `began` goes from false to true once, after `at` was set.
/// 2. A scope is counted as open before it looks at `began`, and the count is read after `began`
///    was set, all in one order (`SeqCst`). So of "opened" and "shut down" the later one sees
///    the earlier: a scope is counted, or it is refused.
/// 3. A token is put into the list before its maker looks at `began`, and the list is read, under
///    the same locks, after `began` was set. So a token is found in the list, or its maker
///    cancels it.
#[derive(Debug)]
pub(crate) struct Shutdown {
    began: AtomicBool,
    at: OnceLock<Instant>,
    /// Something that was open is over.
    changed: Notify,
}

impl Shutdown {
    pub(crate) fn new() -> Self {
        Self {
            began: AtomicBool::new(false),
            at: OnceLock::new(),
            changed: Notify::new(),
        }
    }

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

    /// A scope or a task is over.
    #[inline]
    pub(crate) fn changed(&self) {
        if self.has_begun() {
            self.changed.notify_waiters();
        }
    }

    /// Waits for the next such change.
    pub(crate) fn next_change(&self) -> Notified<'_> {
        self.changed.notified()
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        Self::new()
    }
}
