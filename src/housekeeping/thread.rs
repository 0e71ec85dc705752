//! The process's keepers and their threads: one for what must not be late, one for code of users.
//!
//! A forked child has its parent's memory and one thread. It finds out by the process's id, gets a
//! keeper and a thread of its own, and leaves its parent's alone, whose locks may be held for ever by
//! threads that it does not have.

use std::{
    io,
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    task::Waker,
    thread::Builder,
    time::{Duration, Instant},
};

use super::keeper::{Forked, Keeper, Key};
use crate::{
    account::aside,
    sync::{AtomicU64, Mutex, lock},
};

/// Hooks and observers run there, and wakers.
const STACK: usize = 256 * 1024;

/// Least time between two attempts to start the thread.
const RETRY: Duration = Duration::from_secs(1);

/// A keeper per process, with a thread of its own.
pub(super) struct Lane {
    /// The thread's. Linux keeps 15 bytes.
    name: &'static str,
    /// std's in all builds, since models have no statics.
    first: OnceLock<Box<Process>>,
    /// How many forks lie between the first keeper and this process's.
    depth: AtomicUsize,
}

/// Trims, and wakes what waits for a moment.
pub(super) static TIMES: Lane = Lane::new("tower-memory");

/// Calls code of users, which may take its time.
pub(super) static HOOKS: Lane = Lane::new("tower-mem-hooks");

/// A process's keeper, and that of its forked child.
struct Process {
    keeper: Keeper,
    thread: Starter,
    child: OnceLock<Box<Self>>,
}

impl Process {
    fn made(cell: &OnceLock<Box<Self>>) -> &Self {
        if cell.get().is_none() {
            // Made first and set then: a fork in between leaves the cell empty.
            aside(|| {
                let _ = cell.set(Box::new(Self {
                    keeper: Keeper::new(Instant::now()),
                    thread: Starter::new(),
                    child: OnceLock::new(),
                }));
            });
        }
        match cell.get() {
            Some(made) => made,
            None => unreachable!("set above"),
        }
    }
}

impl Lane {
    const fn new(name: &'static str) -> Self {
        Self {
            name,
            first: OnceLock::new(),
            depth: AtomicUsize::new(0),
        }
    }

    /// As far as is known without asking for the process's id.
    fn known(&'static self) -> &'static Process {
        let mut process = Process::made(&self.first);
        // Relaxed: `OnceLock` publishes the rest.
        for _ in 0..self.depth.load(Ordering::Relaxed) {
            process = Process::made(&process.child);
        }
        process
    }

    /// This process's. Asks for its id.
    fn own(&'static self) -> &'static Process {
        let mut process = Process::made(&self.first);
        let mut depth = 0;
        while !process.keeper.is_of_this_process() {
            process = Process::made(&process.child);
            depth += 1;
        }
        self.depth.store(depth, Ordering::Relaxed);
        process
    }

    pub(super) fn keeper(&'static self) -> &'static Keeper {
        &self.known().keeper
    }

    pub(super) fn follow_fork(&'static self) {
        self.own();
    }

    /// Panics of what was woken in this process, if anything was.
    pub(super) fn panics(&'static self) -> u64 {
        self.first.get().map_or(0, |_| self.keeper().panics())
    }

    pub(super) fn schedule(&'static self, now: Instant, at: Instant, waker: &Waker) -> Key {
        let mut process = self.known();
        if !process.keeper.is_certain(now) {
            process = self.own();
        }
        loop {
            match process.keeper.insert(at, waker) {
                Ok((key, kick)) => {
                    if kick {
                        process.kick(now, self.name);
                    }
                    return key;
                }
                Err(Forked) => process = self.own(),
            }
        }
    }
}

impl Process {
    #[cold]
    fn kick(&'static self, now: Instant, name: &'static str) {
        let spawn = || {
            Builder::new()
                .name(name.to_owned())
                .stack_size(STACK)
                .spawn(|| {
                    loop {
                        self.keeper.fire(Instant::now());
                        self.keeper.sleep(Instant::now());
                    }
                })
                .map(drop)
        };
        if self.thread.start(now, name, || aside(spawn)) {
            self.keeper.kick();
        }
    }
}

/// Starts the thread once.
struct Starter {
    state: Mutex<Started>,
    failures: AtomicU64,
}

enum Started {
    No,
    FailedAt(Instant),
    Yes,
}

impl Starter {
    fn new() -> Self {
        Self {
            state: Mutex::new(Started::No),
            failures: AtomicU64::new(0),
        }
    }

    /// Starts the thread if it does not run. Returns whether it does.
    fn start(
        &self,
        now: Instant,
        name: &'static str,
        spawn: impl FnOnce() -> io::Result<()>,
    ) -> bool {
        let mut state = lock(&self.state);
        match *state {
            Started::Yes => return true,
            Started::FailedAt(at) if now.saturating_duration_since(at) < RETRY => return false,
            Started::No | Started::FailedAt(_) => {}
        }
        match spawn() {
            Ok(()) => {
                *state = Started::Yes;
                true
            }
            Err(error) => {
                *state = Started::FailedAt(now);
                if self.failures.fetch_add(1, Ordering::Relaxed) == 0 {
                    warn(name, &error);
                }
                false
            }
        }
    }
}

#[cfg(feature = "tracing")]
fn warn(name: &'static str, error: &io::Error) {
    tracing::warn!(
        %error,
        "the thread `{name}` cannot be started. Until a later attempt succeeds, arenas are not trimmed, \
         and deadlines and grace periods do not end requests that are not polled (`tower-memory`), or \
         observers and hooks are not called (`tower-mem-hooks`)"
    );
}

#[cfg(not(feature = "tracing"))]
fn warn(_name: &'static str, _error: &io::Error) {}

#[cfg(all(test, not(tower_memory_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_cannot_be_started_is_tried_again_after_a_second_and_started_once() {
        let starter = Starter::new();
        let now = Instant::now();
        let mut attempts = 0;
        let mut start = |after, works: bool| {
            starter.start(now + Duration::from_millis(after), "test", || {
                attempts += 1;
                works
                    .then_some(())
                    .ok_or_else(|| io::ErrorKind::WouldBlock.into())
            })
        };
        assert!(!start(0, false));
        assert!(!start(999, true), "too soon");
        assert!(!start(1000, false));
        assert!(start(2000, true));
        assert!(start(2000, false), "it runs");
        assert_eq!(attempts, 3);
        assert_eq!(starter.failures.load(Ordering::Relaxed), 2);
    }
}
