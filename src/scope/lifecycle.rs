//! The lifecycle of a scope, as one word.
//!
//! # Invariants
//!
//! 1. Every change is a read-modify-write of the one word, so all threads agree on their order. Each is
//!    `AcqRel`: a thread that makes one sees everything done before all earlier ones.
//! 2. `ENDED` is set once, and only if the response is over and, on an upgraded connection, no
//!    hold is left; or because the request failed. The call that sets it returns
//!    [`Transition::End`].
//! 3. Setting `ENDED` also counts one more task, which stands for the end itself (cancelling the
//!    token). So the count of tasks can reach zero, and the scope close, only after that.
//! 4. `CLOSED` is set once, when the count of tasks reaches zero after `ENDED`. The call that sets it
//!    returns [`Transition::Close`]. Without tasks it may be set together with `ENDED`
//!    ([`Transition::EndAndClose`]).

use crate::sync::{AtomicU64, Ordering};

/// The response is over.
const DONE: u64 = 1;
/// The connection was upgraded: holds count.
const UPGRADED: u64 = 1 << 1;
const ENDED: u64 = 1 << 2;
const CLOSED: u64 = 1 << 3;
/// A hold was taken up: the connection is served.
const TAKEN_UP: u64 = 1 << 4;

const HOLD: u64 = 1 << 8;
const HOLDS: u64 = 0xff_ffff << 8;
const TASK: u64 = 1 << 32;
const TASKS: u64 = 0xffff_ffff << 32;

#[derive(Debug)]
pub(super) struct Lifecycle {
    word: AtomicU64,
}

/// What the caller has to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(super) enum Transition {
    Nothing,
    /// Cancel the token, then call [`Lifecycle::task_ended`].
    End,
    /// Cancel the token, then make the report: there was no task.
    EndAndClose,
    /// Make the report.
    Close,
}

impl Lifecycle {
    pub(super) fn new() -> Self {
        Self {
            word: AtomicU64::new(0),
        }
    }

    /// Starts again, between two requests.
    pub(super) fn reset(&mut self) {
        // Relaxed: `&mut` excludes other threads.
        self.word.store(0, Ordering::Relaxed);
    }

    /// Whether the response is not over, and there are neither tasks nor holds.
    #[inline]
    pub(super) fn is_quiet(&self) -> bool {
        // Acquire: as `is_ended`.
        self.word.load(Ordering::Acquire) == 0
    }

    pub(super) fn is_ended(&self) -> bool {
        // Acquire: a thread that sees the end sees what happened before it.
        self.word.load(Ordering::Acquire) & ENDED != 0
    }

    pub(super) fn is_closed(&self) -> bool {
        self.word.load(Ordering::Acquire) & CLOSED != 0
    }

    /// The connection is upgraded, so holds keep the scope open.
    pub(super) fn upgraded(&self) {
        self.word.fetch_or(UPGRADED, Ordering::AcqRel);
    }

    /// Adds a hold; `false` if the scope has ended already, or has 16 million holds.
    pub(super) fn hold(&self) -> bool {
        self.word
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| {
                (word & ENDED == 0 && word & HOLDS != HOLDS).then_some(word.wrapping_add(HOLD))
            })
            .is_ok()
    }

    pub(super) fn release_hold(&self) -> Transition {
        let before = self.word.fetch_sub(HOLD, Ordering::AcqRel);
        if before & HOLDS == HOLD && before & DONE != 0 {
            self.end()
        } else {
            Transition::Nothing
        }
    }

    /// The response is complete.
    pub(super) fn response_done(&self) -> Transition {
        // Most requests have neither tasks nor holds: one transition.
        let quiet = self.word.compare_exchange(
            0,
            DONE | ENDED | CLOSED,
            Ordering::AcqRel,
            Ordering::Acquire,
        );
        if quiet.is_ok() {
            return Transition::EndAndClose;
        }
        let before = self.word.fetch_or(DONE, Ordering::AcqRel);
        if before & UPGRADED != 0 && before & HOLDS != 0 {
            Transition::Nothing
        } else {
            self.end()
        }
    }

    /// Ends the scope even if it is held.
    pub(super) fn end(&self) -> Transition {
        self.end_if(|_| true)
    }

    /// As [`end`](Self::end), if the response is over.
    pub(super) fn end_held(&self) -> Transition {
        self.end_if(|word| word & DONE != 0)
    }

    /// As [`end`](Self::end), if no hold was taken up.
    pub(super) fn end_untaken(&self) -> Transition {
        self.end_if(|word| word & TAKEN_UP == 0 && !bug!("hold-never-given-up"))
    }

    /// A hold is taken up.
    pub(super) fn take_up(&self) {
        self.word.fetch_or(TAKEN_UP, Ordering::AcqRel);
    }

    /// A hold is taken up if the response is over. Returns whether one has been.
    pub(super) fn take_up_if_done(&self) -> bool {
        let take = |word| (word & DONE != 0).then_some(word | TAKEN_UP);
        self.word
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, take)
            .is_ok()
    }

    /// Whether there is a hold.
    pub(super) fn is_held(&self) -> bool {
        self.word.load(Ordering::Acquire) & HOLDS != 0
    }

    /// Whether the scope is held and no hold was taken up.
    pub(super) fn is_untaken(&self) -> bool {
        let word = self.word.load(Ordering::Acquire);
        word & (ENDED | TAKEN_UP) == 0 && word & UPGRADED != 0 && word & HOLDS != 0
    }

    fn end_if(&self, may_end: impl Fn(u64) -> bool) -> Transition {
        let ended = self
            .word
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| {
                (word & ENDED == 0 && may_end(word))
                    .then_some((word | ENDED | DONE).wrapping_add(TASK))
            });
        if ended.is_ok() {
            Transition::End
        } else {
            Transition::Nothing
        }
    }

    /// Counts one more task. Returns whether the scope has ended already.
    #[inline]
    pub(super) fn task_started(&self) -> bool {
        self.word.fetch_add(TASK, Ordering::AcqRel) & ENDED != 0
    }

    /// The number of tasks.
    pub(super) fn tasks(&self) -> usize {
        // Acquire: as `is_ended`.
        let word = self.word.load(Ordering::Acquire);
        // Invariant 3: the end counts as one until it is done, which is a moment.
        ((word & TASKS) / TASK) as usize
    }

    /// As [`is_ended`](Self::is_ended), but ordered with the end: if it returns `false`, the thread that
    /// ends the scope sees what this thread did before.
    pub(super) fn is_ended_now(&self) -> bool {
        self.word.fetch_or(0, Ordering::AcqRel) & ENDED != 0
    }

    pub(super) fn task_ended(&self) -> Transition {
        let before = self.word.fetch_sub(TASK, Ordering::AcqRel);
        let none_left = before & TASKS == TASK || bug!("closed-before-its-tasks");
        let last = none_left && before & ENDED != 0;
        let closed = || self.word.fetch_or(CLOSED, Ordering::AcqRel) & CLOSED != 0;
        if last && (!closed() || bug!("reported-twice")) {
            Transition::Close
        } else {
            Transition::Nothing
        }
    }
}

#[cfg(all(test, not(tower_memory_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_response_without_tasks_ends_and_then_closes() {
        let life = Lifecycle::new();
        assert_eq!(life.response_done(), Transition::EndAndClose);
        assert_eq!(life.end(), Transition::Nothing);
        assert_eq!(life.response_done(), Transition::Nothing);
    }

    #[test]
    fn a_task_keeps_an_ended_scope_from_closing() {
        let life = Lifecycle::new();
        assert!(!life.task_started());
        assert_eq!(life.response_done(), Transition::End);
        assert_eq!(life.task_ended(), Transition::Nothing);
        assert_eq!(life.task_ended(), Transition::Close);
    }

    #[test]
    fn a_task_started_after_the_close_changes_nothing() {
        let life = Lifecycle::new();
        assert_eq!(life.response_done(), Transition::EndAndClose);
        assert!(life.task_started());
        assert_eq!(life.task_ended(), Transition::Nothing);
    }

    #[test]
    fn a_hold_that_is_not_taken_up_ends_with_the_response_only() {
        let life = Lifecycle::new();
        assert!(life.hold());
        life.upgraded();
        assert!(!life.take_up_if_done());
        assert_eq!(life.response_done(), Transition::Nothing);
        assert!(life.is_untaken());
        assert_eq!(life.end_untaken(), Transition::End);
        assert_eq!(life.end_untaken(), Transition::Nothing);
        assert!(!life.is_untaken());

        let life = Lifecycle::new();
        assert!(life.hold());
        life.upgraded();
        assert_eq!(life.response_done(), Transition::Nothing);
        assert!(life.take_up_if_done());
        assert_eq!(life.end_untaken(), Transition::Nothing);
        assert_eq!(life.release_hold(), Transition::End);
    }

    #[test]
    fn a_hold_counts_only_on_an_upgraded_connection() {
        let plain = Lifecycle::new();
        assert!(plain.hold());
        assert_eq!(plain.response_done(), Transition::End);
        assert_eq!(plain.task_ended(), Transition::Close);
        assert_eq!(plain.release_hold(), Transition::Nothing);

        let upgraded = Lifecycle::new();
        assert!(upgraded.hold());
        upgraded.upgraded();
        assert_eq!(upgraded.response_done(), Transition::Nothing);
        assert_eq!(upgraded.release_hold(), Transition::End);
        assert!(!upgraded.hold());
    }

    #[test]
    fn a_hold_that_is_dropped_before_the_response_ends_nothing() {
        let life = Lifecycle::new();
        assert!(life.hold());
        assert!(!life.is_untaken());
        life.upgraded();
        assert_eq!(life.release_hold(), Transition::Nothing);
        assert!(!life.is_ended_now());
        assert_eq!(life.response_done(), Transition::End);
        assert!(life.is_ended_now());
    }
}

#[cfg(all(test, tower_memory_loom))]
mod loom_models {
    use loom::{
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering::Relaxed},
        },
        thread,
    };

    use super::*;

    struct Scope {
        life: Lifecycle,
        ends: AtomicUsize,
        closes: AtomicUsize,
    }

    impl Scope {
        fn new() -> Arc<Self> {
            Arc::new(Self {
                life: Lifecycle::new(),
                ends: AtomicUsize::new(0),
                closes: AtomicUsize::new(0),
            })
        }

        fn step(&self, step: Transition) {
            match step {
                Transition::Nothing => {}
                Transition::End => {
                    assert_eq!(self.closes.load(Relaxed), 0, "closed before the end");
                    self.ends.fetch_add(1, Relaxed);
                    self.step(self.life.task_ended());
                }
                Transition::EndAndClose => {
                    self.ends.fetch_add(1, Relaxed);
                    self.closes.fetch_add(1, Relaxed);
                }
                Transition::Close => {
                    self.closes.fetch_add(1, Relaxed);
                }
            }
        }

        fn assert_once(&self) {
            assert_eq!(self.ends.load(Relaxed), 1);
            assert_eq!(self.closes.load(Relaxed), 1);
        }
    }

    #[test]
    fn response_and_task_ending_together_close_once() {
        loom::model(|| {
            let scope = Scope::new();
            assert!(!scope.life.task_started());
            let task = thread::spawn({
                let scope = Arc::clone(&scope);
                move || scope.step(scope.life.task_ended())
            });
            scope.step(scope.life.response_done());
            task.join().expect("no panic");
            scope.assert_once();
        });
    }

    #[test]
    fn response_hold_and_task_ending_together_close_once() {
        loom::model(|| {
            let scope = Scope::new();
            assert!(!scope.life.task_started());
            assert!(scope.life.hold());
            scope.life.upgraded();
            let hold = thread::spawn({
                let scope = Arc::clone(&scope);
                move || scope.step(scope.life.release_hold())
            });
            let task = thread::spawn({
                let scope = Arc::clone(&scope);
                move || scope.step(scope.life.task_ended())
            });
            scope.step(scope.life.response_done());
            hold.join().expect("no panic");
            task.join().expect("no panic");
            scope.assert_once();
        });
    }

    #[test]
    fn a_task_started_while_the_response_ends_is_harmless() {
        loom::model(|| {
            let scope = Scope::new();
            let task = thread::spawn({
                let scope = Arc::clone(&scope);
                move || {
                    let _ = scope.life.task_started();
                    scope.step(scope.life.task_ended());
                }
            });
            scope.step(scope.life.response_done());
            task.join().expect("no panic");
            scope.assert_once();
        });
    }

    #[test]
    fn a_hold_is_either_taken_up_or_given_up() {
        loom::model(|| {
            let scope = Scope::new();
            assert!(scope.life.hold());
            scope.life.upgraded();
            scope.step(scope.life.response_done());
            let given_up = thread::spawn({
                let scope = Arc::clone(&scope);
                move || {
                    let step = scope.life.end_untaken();
                    scope.step(step);
                    step != Transition::Nothing
                }
            });
            scope.life.take_up();
            let ended = scope.life.is_ended();
            let given_up = given_up.join().expect("no panic");
            assert_eq!(given_up, scope.life.is_ended());
            assert!(!given_up || ended, "given up after it was taken up");
            scope.step(scope.life.release_hold());
            scope.assert_once();
        });
    }

    #[test]
    fn two_holds_dropped_together_end_once() {
        loom::model(|| {
            let scope = Scope::new();
            assert!(scope.life.hold() && scope.life.hold());
            scope.life.upgraded();
            scope.step(scope.life.response_done());
            let other = thread::spawn({
                let scope = Arc::clone(&scope);
                move || scope.step(scope.life.release_hold())
            });
            scope.step(scope.life.release_hold());
            other.join().expect("no panic");
            scope.assert_once();
        });
    }
}
