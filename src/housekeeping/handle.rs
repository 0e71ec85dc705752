use std::{fmt, task::Waker, time::Instant};

use super::{
    clock::ManualClock,
    keeper::{Forked, Keeper},
    thread,
};

pub(crate) use super::keeper::Key;

/// Who looks after a pool or a layer: the process's thread, or a test.
#[derive(Clone, Default)]
pub(crate) enum Housekeeping {
    #[default]
    Process,
    Manual(ManualClock),
}

impl Housekeeping {
    /// The time by which everything is scheduled.
    pub(crate) fn now(&self) -> Instant {
        match self {
            Self::Process => Instant::now(),
            Self::Manual(clock) => clock.now(),
        }
    }

    /// Wakes `waker` at a moment, once. The waker may do some work itself, and may panic.
    pub(crate) fn schedule(&self, now: Instant, at: Instant, waker: &Waker) -> Key {
        match self {
            Self::Process => thread::schedule(now, at, waker),
            Self::Manual(clock) => match clock.keeper().insert(at, waker) {
                Ok((key, _)) => key,
                Err(Forked) => unreachable!("a test's clock has no thread"),
            },
        }
    }

    /// In a forked child, uses its own thread from now on. Asks for the process's id.
    pub(super) fn follow_fork(&self) {
        if let Self::Process = self {
            thread::follow_fork();
        }
    }

    fn keeper(&self) -> &Keeper {
        match self {
            Self::Process => thread::keeper(),
            Self::Manual(clock) => clock.keeper(),
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

    /// Panics that the housekeeping has caught so far.
    pub(crate) fn panics(&self) -> u64 {
        self.keeper().panics()
    }
}

impl fmt::Debug for Housekeeping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Process => "Process",
            Self::Manual(_) => "Manual",
        })
    }
}
