//! One thread per process looks after all pools and layers: it trims pools, and ends tasks and requests
//! whose time is up. A second one calls observers and hooks.
//!
//! The threads are named `tower-memory` and `tower-mem-hooks`. Each is started when there is first something
//! for it to do, and sleeps without waking up while there is nothing. They depend on no runtime: pools are
//! trimmed and deadlines pass whichever runtimes come, are idle, block or end. A forked child gets threads
//! of its own. If a thread cannot be started, that is logged once (feature `tracing`), requests
//! are served, and it is tried again.
//!
//! Response bodies that exceed their limit while the server does not poll them are dropped on the second thread.
//! Such a drop can spawn: the thread enters the runtime that made the body.
//!
//! An observer, a hook or such a drop that takes long, or blocks, delays others of these, of all layers and
//! pools of the process, and nothing else. The threads have stacks of 256 KiB.
//!
//! Tests of trimming use a [`ManualClock`] instead. Tests of deadlines and grace periods use tokio's
//! paused clock.

mod alarm;
mod clock;
mod handle;
mod job;
mod keeper;
mod queue;
#[cfg(test)]
pub(crate) mod test_waker;
mod thread;
mod timer;

pub use self::clock::ManualClock;

pub(crate) use self::alarm::Alarm;
pub(crate) use self::handle::{Housekeeping, Key};
pub(crate) use self::job::{Chore, Job, start};
pub(crate) use self::timer::Timer;
