use super::{
    outcome::Outcome,
    reason::{CODE_BITS, CancelReason},
};
use crate::sync::{AtomicU32, Ordering, SetMut};

/// A request's cancellation: its reason.
///
/// The low byte of `state` goes from zero to a reason's code once and never changes again: the first reason is
/// the reason. Whether the scope has a group of tasks is in the same word. So of "has a group" and "cancelled" the
/// later one sees the earlier, and a thread that sees the group later also sees the reason.
#[derive(Debug)]
pub(crate) struct CancelState {
    state: AtomicU32,
}

const REASON: u32 = (1 << CODE_BITS) - 1;
/// The request's body has failed, and the error does not say whether the connection has ended.
const BODY_FAILED: u32 = 1 << CODE_BITS;
/// The scope has a group of tasks, which a thread that cancels has to look at. It stays set for later requests.
const GROUP: u32 = BODY_FAILED << 1;

impl CancelState {
    pub(crate) fn new() -> Self {
        Self {
            state: AtomicU32::new(0),
        }
    }

    /// Cancels the request, if it is not cancelled yet. Returns whether `reason` is the first.
    pub(crate) fn cancel(&self, reason: CancelReason) -> bool {
        // AcqRel: a thread that sees the reason sees what happened before.
        self.state
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |state| {
                (state & REASON == 0).then_some(state | reason.to_code())
            })
            .is_ok()
    }

    /// Whether the request is not cancelled, and its body has not failed.
    #[inline]
    pub(crate) fn is_new(&self) -> bool {
        // Acquire: as `reason`.
        self.state.load(Ordering::Acquire) & !GROUP == 0
    }

    /// Whether the scope has a group of tasks.
    #[inline]
    pub(crate) fn has_group(&self) -> bool {
        // Acquire: a thread that sees it sees the group.
        self.state.load(Ordering::Acquire) & GROUP != 0
    }

    /// Notes that the scope has a group of tasks.
    pub(crate) fn note_group(&self) {
        if bug!("group-noted-unordered") {
            let state = self.state.load(Ordering::Relaxed);
            return self.state.store(state | GROUP, Ordering::Relaxed);
        }
        // AcqRel, as in `cancel`: of two read-modify-writes of one word the later one sees the earlier, and what
        // was done before it.
        self.state.fetch_or(GROUP, Ordering::AcqRel);
    }

    /// Records that the request's body has failed, perhaps since the connection has ended.
    #[cold]
    pub(crate) fn body_failed(&self) {
        // Relaxed: the task that polls the request's body tells the one that drops the response, if that
        // is another one at all, and a figure depends on it only.
        self.state.fetch_or(BODY_FAILED, Ordering::Relaxed);
    }

    /// The reason for which the response was dropped unfinished.
    pub(crate) fn dropped(&self) -> CancelReason {
        // Relaxed: see `body_failed`.
        let body_failed = self.state.load(Ordering::Relaxed) & BODY_FAILED != 0;
        CancelReason::new(if !body_failed || bug!("client-gone-forgotten") {
            Outcome::Abandoned
        } else {
            Outcome::ClientGone
        })
    }

    /// The reason, if the request is cancelled.
    #[inline]
    pub(crate) fn reason(&self) -> Option<CancelReason> {
        // Acquire: see `cancel`.
        CancelReason::from_code(self.state.load(Ordering::Acquire) & REASON)
    }

    /// As [`reason`](Self::reason), but ordered with [`cancel`](Self::cancel): if it returns `false`, the
    /// thread that cancels sees what this thread did before.
    pub(crate) fn is_cancelled_now(&self) -> bool {
        // AcqRel: as in `note_group`.
        self.state.fetch_or(0, Ordering::AcqRel) & REASON != 0
    }

    /// Starts again, between two requests. `has_group` says whether the scope keeps its group of tasks.
    pub(crate) fn reset(&mut self, has_group: bool) {
        self.state.set_mut(if has_group { GROUP } else { 0 });
    }
}

#[cfg(all(test, tower_memory_loom))]
mod loom_models {
    use loom::{sync::Arc, thread};

    use super::*;
    use crate::cancel::Outcome;

    #[test]
    fn the_first_of_two_reasons_stays() {
        loom::model(|| {
            let signal = Arc::new(CancelState::new());
            let thread = thread::spawn({
                let signal = Arc::clone(&signal);
                move || signal.cancel(CancelReason::new(Outcome::ClientGone))
            });
            let mine = signal.cancel(CancelReason::new(Outcome::Panicked));
            let other = thread.join().expect("no panic");
            assert!(mine ^ other);
            let expected = if mine {
                CancelReason::new(Outcome::Panicked)
            } else {
                CancelReason::new(Outcome::ClientGone)
            };
            assert_eq!(signal.reason(), Some(expected));
        });
    }
}
