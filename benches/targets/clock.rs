//! Processor time, in nanoseconds.

#[cfg(unix)]
fn read(clock: libc::clockid_t) -> f64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is valid for writes of a `timespec`.
    let result = unsafe { libc::clock_gettime(clock, &raw mut time) };
    assert_eq!(result, 0, "this system has no clock {clock}");
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

/// What the calling thread has used so far.
#[cfg(unix)]
pub(crate) fn thread() -> f64 {
    read(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// What all threads of the process have used so far.
#[cfg(unix)]
pub(crate) fn process() -> f64 {
    read(libc::CLOCK_PROCESS_CPUTIME_ID)
}

/// Wall time.
#[cfg(unix)]
pub(crate) fn wall() -> f64 {
    read(libc::CLOCK_MONOTONIC)
}

/// Wall time, where there is nothing better.
#[cfg(not(unix))]
pub(crate) fn wall() -> f64 {
    use std::{sync::OnceLock, time::Instant};

    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_nanos() as f64
}

#[cfg(not(unix))]
pub(crate) use self::{wall as process, wall as thread};
