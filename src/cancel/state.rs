use tokio_util::sync::CancellationToken;

use super::{
    outcome::Outcome,
    reason::{CODE_BITS, CancelReason},
};
use crate::sync::{AtomicUsize, OnceLock, Ordering};

/// A request's cancellation: its reason, and its token if one was made.
///
/// # Invariants
///
/// 1. The low byte of `state` goes from zero to a reason's code once and never changes again: the
///    first reason is the reason.
/// 2. [`HAS_TOKEN`] is set after `token` was filled. That bit and the reason are set by
///    read-modify-writes of one word, so of "token made" and "cancelled" the later one sees the
///    earlier and cancels the token.
#[derive(Debug)]
pub(crate) struct CancelState {
    state: AtomicUsize,
    token: OnceLock<CancellationToken>,
}

const REASON: usize = (1 << CODE_BITS) - 1;
const HAS_TOKEN: usize = 1 << CODE_BITS;
/// The request's body has failed, and the error does not say whether the connection has ended.
const BODY_FAILED: usize = HAS_TOKEN << 1;

impl CancelState {
    pub(crate) fn new() -> Self {
        Self {
            state: AtomicUsize::new(0),
            token: OnceLock::new(),
        }
    }

    /// Cancels the request, if it is not cancelled yet. Returns whether `reason` is the first.
    pub(crate) fn cancel(&self, reason: CancelReason) -> bool {
        // AcqRel: a token seen through HAS_TOKEN is initialized, and a thread that sees the reason sees
        // what happened before.
        let before = self
            .state
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |state| {
                (state & REASON == 0).then_some(state | reason.to_code())
            });
        match before {
            Ok(before) => {
                if before & HAS_TOKEN != 0 && !bug!("token-not-cancelled") {
                    if let Some(token) = self.token.get() {
                        token.cancel();
                    }
                }
                true
            }
            Err(_) => false,
        }
    }

    /// Whether the request is not cancelled, has no token, and its body has not failed.
    #[inline]
    pub(crate) fn is_new(&self) -> bool {
        // Acquire: as `reason`.
        self.state.load(Ordering::Acquire) == 0
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
        if bug!("cancellation-read-unordered") {
            return self.reason().is_some();
        }
        // AcqRel, as in `cancel`: of two read-modify-writes of one word the later one sees the earlier,
        // and what was done before it.
        self.state.fetch_or(0, Ordering::AcqRel) & REASON != 0
    }

    /// The token, which the first call makes.
    pub(crate) fn token(&self, make: impl FnOnce() -> CancellationToken) -> &CancellationToken {
        let token = self.token.get_or_init(make);
        // Relaxed: this only saves the locked instruction once the bit is set.
        if self.state.load(Ordering::Relaxed) & HAS_TOKEN == 0 {
            // Release: the token is published with the bit. Acquire: see `cancel`.
            let before = self.state.fetch_or(HAS_TOKEN, Ordering::AcqRel);
            if before & REASON != 0 {
                token.cancel();
            }
        }
        token
    }

    /// Starts again, between two requests.
    pub(crate) fn reset(&mut self) {
        // Relaxed: `&mut` excludes other threads.
        self.state.store(0, Ordering::Relaxed);
        self.token.take();
    }
}

#[cfg(all(test, tower_memory_loom))]
mod loom_models {
    use loom::{sync::Arc, thread};

    use super::*;
    use crate::cancel::Outcome;

    #[test]
    fn a_token_made_while_cancelling_is_cancelled() {
        loom::model(|| {
            let signal = Arc::new(CancelState::new());
            let thread = thread::spawn({
                let signal = Arc::clone(&signal);
                move || signal.cancel(CancelReason::new(Outcome::ClientGone))
            });
            let token = signal.token(CancellationToken::new).clone();
            assert!(thread.join().expect("no panic"));
            assert!(token.is_cancelled());
        });
    }

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
