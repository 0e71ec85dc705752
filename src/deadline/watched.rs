//! A value with a limit in time, which ends although nothing polls it.
//!
//! # Invariants
//!
//! 1. The value is used and taken under one lock, so it is taken once: by its owner, or by the thread that
//!    ends it. It is dropped after the lock was released.
//! 2. The thread that ends it only tries the lock. While the value is in use, it looks again later.
//! 3. After the owner has left, the alarm is cancelled for good. So a thread that found the value in use
//!    schedules nothing any more.

use std::{
    task::{Wake, Waker},
    time::Duration,
};

use tokio::{runtime::Handle, time::Instant};

use crate::{
    housekeeping::{Alarm, Housekeeping},
    sync::{Arc, Mutex, lock, try_lock},
};

/// Time for the owner to notice the limit itself, when a timer wakes it. Also the time between two looks at
/// a value in use.
const SLACK: Duration = Duration::from_millis(50);

// `MemoryLayerBuilder::body_timeout` promises this.
const _: () = assert!(SLACK.as_millis() <= 100);

/// What can be ended at its limit by another thread.
pub(crate) trait Limited<L> {
    /// Why it ends.
    type Reason: Copy + Send + Sync + 'static;

    /// Its limit now. It may move.
    fn due(&self) -> Option<(Instant, Self::Reason)>;

    /// After how long to look again at the latest, if the limit may become an earlier one by itself.
    fn looks_again(&self) -> Option<Duration>;

    /// What the owner finds in its place. Called under the lock.
    fn left(&self, reason: Self::Reason) -> L;

    /// Tells those who wait for its end. Runs no code of users.
    fn cancel(&self, reason: Self::Reason);

    /// Ends it, which drops values of users.
    fn end(self, reason: Self::Reason);
}

/// The owner of a value that the housekeeping ends at its limit.
#[derive(Debug)]
pub(crate) struct Watched<T, L> {
    shared: Arc<Shared<T, L>>,
}

#[derive(Debug)]
struct Shared<T, L> {
    part: Mutex<Part<T, L>>,
    alarm: Alarm,
    /// Where the value was made, since its drop may spawn.
    runtime: Option<Handle>,
}

#[derive(Debug)]
enum Part<T, L> {
    Here(T),
    Ended(L),
    Gone,
}

impl<T, L> Watched<T, L>
where
    T: Limited<L> + Send + 'static,
    L: Send + 'static,
{
    pub(crate) fn new(value: T, housekeeping: Housekeeping) -> Self {
        let due = value
            .due()
            .map(|due| next_look(&value, Instant::now(), due.0));
        let shared = Arc::new(Shared {
            part: Mutex::new(Part::Here(value)),
            alarm: Alarm::new(housekeeping),
            runtime: Handle::try_current().ok(),
        });
        if let Some(at) = due {
            shared.look_after(at);
        }
        Self { shared }
    }

    /// A waker that has the value looked at.
    pub(crate) fn looker(&self) -> Waker {
        Waker::from(Arc::clone(&self.shared))
    }
}

/// When to look at a value whose limit is `at`, unless it has passed.
fn next_look<L>(value: &impl Limited<L>, now: Instant, at: Instant) -> Instant {
    let again = value.looks_again().and_then(|after| now.checked_add(after));
    again.map_or(at, |again| again.min(at))
}

impl<T, L> Watched<T, L> {
    /// Uses the value, which cannot be ended meanwhile. If it was ended, returns what was left in its place,
    /// once.
    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> Result<R, Option<L>> {
        let mut part = lock(&self.shared.part);
        match &mut *part {
            Part::Here(value) => Ok(f(value)),
            Part::Ended(_) => match std::mem::replace(&mut *part, Part::Gone) {
                Part::Ended(left) => Err(Some(left)),
                Part::Here(_) | Part::Gone => Err(None),
            },
            Part::Gone => Err(None),
        }
    }

    /// Looks at the value, unless it was ended.
    pub(crate) fn look<R>(&self, f: impl FnOnce(&T) -> R) -> Option<R> {
        match &*lock(&self.shared.part) {
            Part::Here(value) => Some(f(value)),
            Part::Ended(_) | Part::Gone => None,
        }
    }
}

impl<T, L> Drop for Watched<T, L> {
    fn drop(&mut self) {
        self.shared.alarm.cancel();
        let part = std::mem::replace(&mut *lock(&self.shared.part), Part::Gone);
        drop(part);
    }
}

impl<T, L> Shared<T, L>
where
    T: Limited<L> + Send + 'static,
    L: Send + 'static,
{
    /// Looks again when the owner has had the time to notice a limit at `at` itself.
    fn look_after(self: &Arc<Self>, at: Instant) {
        if let Some(at) = at.checked_add(SLACK) {
            self.alarm.set(at, &Waker::from(Arc::clone(self)));
        }
    }

    /// Takes the value if it is over its limit now. Otherwise returns after when to look again.
    fn take_due(&self, now: Instant) -> Result<(T, T::Reason), Option<Instant>> {
        let Some(mut part) = try_lock(&self.part) else {
            return Err(Some(now));
        };
        let Part::Here(value) = &*part else {
            return Err(None);
        };
        let (at, reason) = value.due().ok_or(None)?;
        if at.checked_add(SLACK).is_none_or(|at| at > now) {
            return Err(Some(next_look(value, now, at)));
        }
        let left = Part::Ended(value.left(reason));
        match std::mem::replace(&mut *part, left) {
            Part::Here(value) => Ok((value, reason)),
            Part::Ended(_) | Part::Gone => Err(None),
        }
    }
}

/// The alarm.
impl<T, L> Wake for Shared<T, L>
where
    T: Limited<L> + Send + 'static,
    L: Send + 'static,
{
    fn wake(self: Arc<Self>) {
        match self.take_due(Instant::now()) {
            Ok((value, reason)) => {
                value.cancel(reason);
                let runtime = self.runtime.clone();
                self.alarm.call(move || {
                    let _entered = runtime.as_ref().map(Handle::enter);
                    value.end(reason);
                });
            }
            Err(Some(at)) => self.look_after(at),
            Err(None) => {}
        }
    }
}

#[cfg(all(test, tower_memory_loom))]
mod loom_models {
    use loom::thread;

    use super::*;
    use crate::{
        housekeeping::ManualClock,
        sync::{AtomicUsize, Ordering},
    };

    /// Counts how it ends: by the alarm, or by its owner's drop.
    struct Value {
        due: Instant,
        ended: Arc<AtomicUsize>,
        dropped: Arc<AtomicUsize>,
    }

    impl Limited<&'static str> for Value {
        type Reason = ();

        fn due(&self) -> Option<(Instant, ())> {
            Some((self.due, ()))
        }

        fn looks_again(&self) -> Option<Duration> {
            None
        }

        fn left(&self, (): ()) -> &'static str {
            "late"
        }

        fn cancel(&self, (): ()) {}

        fn end(self, (): ()) {
            self.ended.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Drop for Value {
        fn drop(&mut self) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    const SOON: Duration = Duration::from_millis(1);
    const LATER: Duration = Duration::from_secs(3600);

    /// A value whose limit has passed, and the clock of its alarm.
    fn late() -> (
        Watched<Value, &'static str>,
        ManualClock,
        [Arc<AtomicUsize>; 2],
    ) {
        let due = Instant::now()
            .checked_sub(2 * SLACK)
            .expect("not at the start of time");
        let counts = [(); 2].map(|()| Arc::new(AtomicUsize::new(0)));
        let [ended, dropped] = counts.clone();
        let clock = ManualClock::new();
        let housekeeping = Housekeeping::Manual(clock.clone());
        let watched = Watched::new(
            Value {
                due,
                ended,
                dropped,
            },
            housekeeping,
        );
        (watched, clock, counts)
    }

    /// Invariants 1 and 3.
    #[test]
    fn a_value_that_is_used_and_dropped_at_its_limit_ends_once_and_leaves_no_alarm() {
        loom::model(|| {
            let (watched, clock, [ended, dropped]) = late();
            let ender = thread::spawn({
                let clock = clock.clone();
                move || clock.advance(SOON)
            });
            let used = watched.with(|value| {
                assert_eq!(value.dropped.load(Ordering::Relaxed), 0);
            });
            let at_use = ended.load(Ordering::Relaxed);
            drop(watched);
            ender.join().expect("no panic");
            assert!(used.is_ok() || used == Err(Some("late")));
            assert!(used.is_ok() || at_use <= 1);
            assert_eq!(dropped.load(Ordering::Relaxed), 1);
            assert!(ended.load(Ordering::Relaxed) <= 1);
            assert_eq!(clock.scheduled(), 0, "alarms left");
        });
    }

    /// Invariant 2, and what is left is found once.
    #[test]
    fn a_value_in_use_at_its_limit_is_ended_at_a_later_look() {
        loom::model(|| {
            let (watched, clock, [ended, dropped]) = late();
            let ender = thread::spawn({
                let clock = clock.clone();
                move || clock.advance(SOON)
            });
            let used = watched.with(|_| ());
            ender.join().expect("no panic");
            clock.advance(LATER);
            assert_eq!(ended.load(Ordering::Relaxed), 1);
            assert_eq!(dropped.load(Ordering::Relaxed), 1);
            let left = [used, watched.with(|_| ()), watched.with(|_| ())];
            let found = left.iter().filter(|left| **left == Err(Some("late")));
            assert_eq!(found.count(), 1);
            assert_eq!(watched.look(|_| ()), None);
        });
    }
}
