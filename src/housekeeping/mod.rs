//! One thread per process looks after all pools and layers: it trims pools, ends tasks and requests
//! whose time is up, and calls hooks.
//!
//! The thread is named `tower-memory`. It is started when there is first something to look after,
//! and sleeps without waking up while there is nothing. It depends on no runtime: pools are trimmed
//! and deadlines pass whichever runtimes come, are idle, block or end. A forked child gets a thread
//! of its own. If the thread cannot be started, that is logged once (feature `tracing`), requests
//! are served, and it is tried again.
//!
//! It has a stack of 256 KiB. Drops of an application's types run there too: those of response bodies that
//! exceed their limit while the server does not poll them. They must not block. They can spawn: the thread
//! enters the runtime that made the body.
//!
//! Tests of trimming use a [`ManualClock`] instead. Tests of deadlines and grace periods use tokio's
//! paused clock.

mod alarm;
mod clock;
mod handle;
mod job;
mod keeper;
mod queue;
mod thread;
mod timer;

pub use self::clock::ManualClock;

pub(crate) use self::alarm::Alarm;
pub(crate) use self::handle::{Housekeeping, Key};
pub(crate) use self::job::{Chore, Job, start};
pub(crate) use self::timer::Timer;
