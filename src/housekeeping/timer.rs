use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

use super::handle::{Housekeeping, Key};
use crate::account::aside;

/// Wakes a task at a moment, on a runtime with or without timers, or on none.
///
/// It is the housekeeping's, since tokio cannot be asked whether a runtime has timers: its own panic
/// without. Under a clock that a test has paused, or moved, it is tokio's.
pub(crate) struct Timer(State);

#[derive(Default)]
enum State {
    #[default]
    Stopped,
    Scheduled(Key),
    /// In no account, so that figures are the same as without a paused clock.
    Paused(Pin<Box<Sleep>>),
}

impl Timer {
    pub(crate) const fn new() -> Self {
        Self(State::Stopped)
    }

    /// Returns whether `at` has passed. If not, the task is woken then. `at` may be another moment each
    /// time.
    pub(crate) fn poll(&mut self, at: Instant, cx: &mut Context<'_>) -> bool {
        let clock = Housekeeping::Process;
        let (before, key) = match &mut self.0 {
            // A timer that is scheduled follows std's clock to its end.
            State::Stopped => (Some(clock.now()), None),
            State::Scheduled(key) => (None, Some(*key)),
            State::Paused(sleep) => return poll_paused(sleep, at, cx),
        };
        let now = Instant::now();
        if at <= now {
            self.stop();
            return true;
        }
        let due = at.into_std();
        if let Some(key) = key {
            if clock.renew(key, due, cx.waker()) {
                return false;
            }
            self.stop();
        }
        if before.is_some_and(|before| is_other_clock(before, now)) {
            let mut sleep = aside(|| Box::pin(sleep_until(at)));
            let passed = poll_paused(&mut sleep, at, cx);
            self.0 = State::Paused(sleep);
            return passed;
        }
        self.0 = State::Scheduled(clock.schedule(now.into_std(), due, cx.waker()));
        false
    }

    /// Wakes nobody any more.
    #[inline]
    pub(crate) fn stop(&mut self) {
        if !matches!(self.0, State::Stopped) {
            self.stop_scheduled();
        }
    }

    #[inline(never)]
    fn stop_scheduled(&mut self) {
        match std::mem::take(&mut self.0) {
            State::Stopped => {}
            State::Scheduled(key) => _ = Housekeeping::Process.cancel(key),
            State::Paused(sleep) => aside(|| drop(sleep)),
        }
    }
}

#[cold]
fn poll_paused(sleep: &mut Pin<Box<Sleep>>, at: Instant, cx: &mut Context<'_>) -> bool {
    if sleep.deadline() != at {
        sleep.as_mut().reset(at);
    }
    // Without tokio's cooperative budget: a handler that has used it up must time out, too.
    let mut sleep = tokio::task::unconstrained(sleep.as_mut());
    Pin::new(&mut sleep).poll(cx) == Poll::Ready(())
}

/// Time between two readings of a clock, at most, as a rule.
const TWO_READINGS: Duration = Duration::from_micros(1);

/// Whether tokio's clock, which showed `now` after std's showed `before`, is another one: a test has paused
/// or moved it.
pub(super) fn is_other_clock(before: std::time::Instant, now: Instant) -> bool {
    let now = now.into_std();
    match now.checked_duration_since(before) {
        None => true,
        Some(between) if between <= TWO_READINGS => false,
        // Any other clock is between two looks at std's.
        Some(_) => std::time::Instant::now() < now,
    }
}

impl Drop for Timer {
    #[inline]
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(all(test, not(tower_memory_loom)))]
mod tests {
    use std::{
        future::poll_fn,
        sync::{Arc, atomic::Ordering},
        thread,
    };

    use super::*;
    use crate::housekeeping::test_waker::{Woken, woken};

    fn wait(woken: &Woken) {
        while woken.0.load(Ordering::Relaxed) == 0 {
            thread::yield_now();
        }
    }

    const FAR: Duration = Duration::from_secs(1000);
    const NEAR: Duration = Duration::from_millis(5);

    #[test]
    fn the_last_waker_is_woken_at_the_last_moment_without_a_runtime() {
        let ((first, former), (second, waker)) = (woken(), woken());
        let [mut former, mut cx] = [&former, &waker].map(Context::from_waker);
        let mut timer = Timer::new();
        let start = Instant::now();
        assert!(!timer.poll(start + FAR, &mut former));
        assert!(!timer.poll(start + FAR, &mut cx), "another task");
        assert!(!timer.poll(start + NEAR, &mut cx), "another moment");
        wait(&second);
        assert!(start.elapsed() >= NEAR);
        assert!(timer.poll(start + NEAR, &mut cx));
        assert_eq!(first.0.load(Ordering::Relaxed), 0);
        assert_eq!(second.0.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_timer_that_is_dropped_keeps_no_waker() {
        let (woken, waker) = woken();
        let mut timer = Timer::new();
        timer.poll(Instant::now() + FAR, &mut Context::from_waker(&waker));
        assert_eq!(Arc::strong_count(&woken), 3, "one is scheduled");
        drop(timer);
        assert_eq!(Arc::strong_count(&woken), 2);
    }

    #[test]
    fn a_later_timer_does_not_wake_the_thread_and_an_earlier_one_does() {
        let (first, waker) = woken();
        let mut far = Timer::new();
        far.poll(Instant::now() + FAR, &mut Context::from_waker(&waker));
        let (second, waker) = woken();
        let mut near = Timer::new();
        near.poll(Instant::now() + NEAR, &mut Context::from_waker(&waker));
        wait(&second);
        assert_eq!(first.0.load(Ordering::Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_was_moved_differs_from_stds_in_both_directions() {
        let real = std::time::Instant::now;
        assert!(is_other_clock(real() + NEAR, Instant::now()), "behind");
        tokio::time::advance(FAR).await;
        assert!(is_other_clock(real(), Instant::now()), "ahead");
        // A thread may be interrupted between the two readings.
        assert!(!is_other_clock(real() - NEAR, Instant::from_std(real())));
        assert!(!is_other_clock(real(), Instant::from_std(real())));
    }

    #[tokio::test(start_paused = true)]
    async fn a_paused_clock_moves_to_the_next_timer() {
        let start = Instant::now();
        let mut timer = Timer::new();
        let mut at = start + FAR;
        poll_fn(|cx| {
            let passed = timer.poll(at, cx);
            if passed {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
        assert!(start.elapsed() >= FAR && start.elapsed() < FAR + NEAR);
        at += FAR;
        poll_fn(|cx| {
            if timer.poll(at, cx) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
        assert!(start.elapsed() >= 2 * FAR);
    }
}
