//! The process's keeper and its thread.
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
use crate::sync::{AtomicU64, Mutex, lock};

/// Hooks and observers may run there.
const STACK: usize = 256 * 1024;

/// Least time between two attempts to start the thread.
const RETRY: Duration = Duration::from_secs(1);

/// A process's keeper, and that of its forked child.
struct Process {
    keeper: Keeper,
    thread: Starter,
    child: OnceLock<Box<Self>>,
}

/// std's in all builds, since models have no statics.
static FIRST: OnceLock<Box<Process>> = OnceLock::new();

/// How many forks lie between the first keeper and this process's.
static DEPTH: AtomicUsize = AtomicUsize::new(0);

impl Process {
    fn made(cell: &OnceLock<Box<Self>>) -> &Self {
        if cell.get().is_none() {
            // Made first and set then: a fork in between leaves the cell empty.
            let _ = cell.set(Box::new(Self {
                keeper: Keeper::new(Instant::now()),
                thread: Starter::new(),
                child: OnceLock::new(),
            }));
        }
        match cell.get() {
            Some(made) => made,
            None => unreachable!("set above"),
        }
    }

    /// As far as is known without asking for the process's id.
    fn known() -> &'static Self {
        let mut process = Self::made(&FIRST);
        // Relaxed: `OnceLock` publishes the rest.
        for _ in 0..DEPTH.load(Ordering::Relaxed) {
            process = Self::made(&process.child);
        }
        process
    }

    /// This process's. Asks for its id.
    fn own() -> &'static Self {
        let mut process = Self::made(&FIRST);
        let mut depth = 0;
        while !process.keeper.is_of_this_process() {
            process = Self::made(&process.child);
            depth += 1;
        }
        DEPTH.store(depth, Ordering::Relaxed);
        process
    }
}

pub(super) fn keeper() -> &'static Keeper {
    &Process::known().keeper
}

pub(super) fn follow_fork() {
    Process::own();
}

pub(super) fn schedule(now: Instant, at: Instant, waker: &Waker) -> Key {
    let mut process = Process::known();
    if !process.keeper.is_certain(now) {
        process = Process::own();
    }
    loop {
        match process.keeper.insert(at, waker) {
            Ok((key, kick)) => {
                if kick {
                    process.kick(now);
                }
                return key;
            }
            Err(Forked) => process = Process::own(),
        }
    }
}

impl Process {
    #[cold]
    fn kick(&'static self, now: Instant) {
        let started = self.thread.start(now, || {
            Builder::new()
                .name("tower-memory".to_owned())
                .stack_size(STACK)
                .spawn(|| {
                    loop {
                        self.keeper.fire(Instant::now());
                        self.keeper.sleep(Instant::now());
                    }
                })
                .map(drop)
        });
        if started {
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
    fn start(&self, now: Instant, spawn: impl FnOnce() -> io::Result<()>) -> bool {
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
                    warn(&error);
                }
                false
            }
        }
    }
}

#[cfg(feature = "tracing")]
fn warn(error: &io::Error) {
    tracing::warn!(
        %error,
        "the thread `tower-memory` cannot be started: arenas are not trimmed, deadlines and grace \
         periods do not end requests that are not polled, until a later attempt succeeds"
    );
}

#[cfg(not(feature = "tracing"))]
fn warn(_error: &io::Error) {}

#[cfg(all(test, not(tower_memory_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_cannot_be_started_is_tried_again_after_a_second_and_started_once() {
        let starter = Starter::new();
        let now = Instant::now();
        let mut attempts = 0;
        let mut start = |after, works: bool| {
            starter.start(now + Duration::from_millis(after), || {
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
