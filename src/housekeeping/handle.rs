use std::{
    fmt,
    task::{Wake, Waker},
    time::Instant,
};

use super::{
    clock::ManualClock,
    keeper::{Forked, Keeper},
    thread::{HOOKS, Lane, TIMES},
};
use crate::sync::{Arc, Mutex, lock};

pub(crate) use super::keeper::Key;

/// Who looks after a pool or a layer: the process's threads, or a test.
#[derive(Clone, Default)]
pub(crate) enum Housekeeping {
    #[default]
    Process,
    /// The process's thread for code of users.
    Hooks,
    Manual(ManualClock),
}

impl Housekeeping {
    /// Where code of users is called. However long that takes, it delays only other code of users.
    pub(crate) fn hooks(&self) -> Self {
        match self {
            Self::Process | Self::Hooks => Self::Hooks,
            Self::Manual(clock) => Self::Manual(clock.clone()),
        }
    }

    /// Calls `f` where code of users is called, soon. A panic in it is counted.
    pub(crate) fn call(&self, f: impl FnOnce() + Send + 'static) {
        let hooks = self.hooks();
        let call = Waker::from(Arc::new(Call(Mutex::new(Some(f)))));
        let now = hooks.now();
        hooks.schedule(now, now, &call);
    }

    fn place(&self) -> Place<'_> {
        match self {
            Self::Process => Place::Lane(&TIMES),
            Self::Hooks => Place::Lane(&HOOKS),
            Self::Manual(clock) => Place::Clock(clock),
        }
    }

    /// The time by which everything is scheduled.
    pub(crate) fn now(&self) -> Instant {
        match self.place() {
            Place::Lane(_) => Instant::now(),
            Place::Clock(clock) => clock.now(),
        }
    }

    /// Whether [`now`](Self::now) is the time.
    #[inline]
    pub(crate) const fn has_real_clock(&self) -> bool {
        !matches!(self, Self::Manual(_))
    }

    /// Wakes `waker` at a moment, once. The waker may do some work itself, and may panic.
    pub(crate) fn schedule(&self, now: Instant, at: Instant, waker: &Waker) -> Key {
        match self.place() {
            Place::Lane(lane) => lane.schedule(now, at, waker),
            Place::Clock(clock) => match clock.keeper().insert(at, waker) {
                Ok((key, _)) => key,
                Err(Forked) => unreachable!("a test's clock has no thread"),
            },
        }
    }

    /// In a forked child, uses its own thread from now on. Asks for the process's id.
    pub(super) fn follow_fork(&self) {
        if let Place::Lane(lane) = self.place() {
            lane.follow_fork();
        }
    }

    fn keeper(&self) -> &Keeper {
        match self.place() {
            Place::Lane(lane) => lane.keeper(),
            Place::Clock(clock) => clock.keeper(),
        }
    }

    /// Whether an entry is scheduled for this moment. If so, it wakes `waker`.
    pub(crate) fn renew(&self, key: Key, at: Instant, waker: &Waker) -> bool {
        self.keeper().renew(key, at, waker)
    }

    /// Removes an entry. Returns whether it was still scheduled.
    pub(crate) fn cancel(&self, key: Key) -> bool {
        self.keeper().cancel(key)
    }

    /// Panics that the housekeeping has caught so far, on all of its threads.
    pub(crate) fn panics(&self) -> u64 {
        match self.place() {
            Place::Lane(_) => TIMES.panics() + HOOKS.panics(),
            Place::Clock(clock) => clock.keeper().panics(),
        }
    }
}

/// What is to be called once.
struct Call<F>(Mutex<Option<F>>);

impl<F: FnOnce() + Send + 'static> Wake for Call<F> {
    fn wake(self: Arc<Self>) {
        let f = lock(&self.0).take();
        if let Some(f) = f {
            f();
        }
    }
}

enum Place<'a> {
    Lane(&'static Lane),
    Clock(&'a ManualClock),
}

impl fmt::Debug for Housekeeping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Process => "Process",
            Self::Hooks => "Hooks",
            Self::Manual(_) => "Manual",
        })
    }
}
