use std::task::Waker;

use tokio::{
    runtime::Handle,
    task::AbortHandle,
    time::{Instant, sleep_until},
};

use super::{
    handle::{Housekeeping, Key},
    timer::is_other_clock,
};
use crate::sync::{Mutex, lock};

/// Wakes a waker at a moment, for what is not polled. Until then it can be put off.
///
/// Unlike a [`Timer`](super::Timer), any thread may use it. The waker is woken by the housekeeping or, under
/// a clock that a test has paused or moved, by a task of that test's runtime.
#[derive(Debug)]
pub(crate) struct Alarm {
    housekeeping: Housekeeping,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    Unset,
    Scheduled(Key),
    Paused(AbortHandle),
    /// For good.
    Cancelled,
}

impl Alarm {
    pub(crate) fn new(housekeeping: Housekeeping) -> Self {
        Self {
            housekeeping,
            state: Mutex::new(State::Unset),
        }
    }

    /// Wakes `waker` at `at`, and no more at a moment that was set before. Does nothing after
    /// [`cancel`](Self::cancel).
    pub(crate) fn set(&self, at: Instant, waker: &Waker) {
        let mut state = lock(&self.state);
        if matches!(*state, State::Cancelled) {
            return;
        }
        let former = std::mem::replace(&mut *state, State::Unset);
        former.end(&self.housekeeping);
        *state = if self.is_paused() {
            paused(at, waker)
        } else {
            let now = self.housekeeping.now();
            let key = self.housekeeping.schedule(now, at.into_std(), waker);
            State::Scheduled(key)
        };
    }

    fn is_paused(&self) -> bool {
        let before = self.housekeeping.now();
        let is_process = matches!(self.housekeeping, Housekeeping::Process);
        is_process && is_other_clock(before, Instant::now())
    }

    /// For what the alarm wakes: calls `f`, which runs code of users, and must delay no other alarm. Under a
    /// clock that a test has paused or moved it is called here, otherwise on the thread for hooks.
    pub(crate) fn call(&self, f: impl FnOnce() + Send + 'static) {
        if self.is_paused() {
            f();
        } else {
            self.housekeeping.call(f);
        }
    }

    /// Wakes nothing from now on, unless that has begun.
    pub(crate) fn cancel(&self) {
        let former = std::mem::replace(&mut *lock(&self.state), State::Cancelled);
        former.end(&self.housekeeping);
    }
}

impl State {
    fn end(self, housekeeping: &Housekeeping) {
        match self {
            Self::Scheduled(key) => {
                housekeeping.cancel(key);
            }
            Self::Paused(task) => task.abort(),
            Self::Unset | Self::Cancelled => {}
        }
    }
}

/// For a runtime with a clock of its own.
#[cold]
fn paused(at: Instant, waker: &Waker) -> State {
    // Nothing is woken if such a runtime has ended.
    let Ok(runtime) = Handle::try_current() else {
        return State::Unset;
    };
    let waker = waker.clone();
    let task = runtime.spawn(async move {
        sleep_until(at).await;
        waker.wake();
    });
    State::Paused(task.abort_handle())
}

#[cfg(all(test, not(tower_memory_loom)))]
mod tests {
    use std::{
        sync::{Arc, atomic::Ordering},
        thread,
        time::Duration,
    };

    use super::*;
    use crate::housekeeping::test_waker::woken;

    const FAR: Duration = Duration::from_secs(1000);
    const NEAR: Duration = Duration::from_millis(5);

    #[test]
    fn an_alarm_wakes_at_the_last_moment_set_without_a_runtime() {
        let (count, waker) = woken();
        let alarm = Alarm::new(Housekeeping::Process);
        let start = Instant::now();
        alarm.set(start + FAR, &waker);
        alarm.set(start + NEAR, &waker);
        while count.0.load(Ordering::Relaxed) == 0 {
            thread::yield_now();
        }
        assert!(start.elapsed() >= NEAR);
        alarm.cancel();
        drop(waker);
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert_eq!(Arc::strong_count(&count), 1, "nothing is scheduled");
    }

    #[tokio::test(start_paused = true)]
    async fn under_a_paused_clock_an_alarm_follows_it_and_can_be_cancelled() {
        let (count, waker) = woken();
        let alarm = Alarm::new(Housekeeping::Process);
        let start = Instant::now();
        alarm.set(start + FAR, &waker);
        alarm.set(start + 2 * FAR, &waker);
        tokio::time::sleep(FAR + NEAR).await;
        assert_eq!(count.0.load(Ordering::Relaxed), 0, "put off");
        tokio::time::sleep(FAR).await;
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        alarm.set(start + 3 * FAR, &waker);
        alarm.cancel();
        alarm.set(start + 3 * FAR, &waker);
        tokio::time::sleep(FAR).await;
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
    }
}
