use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

/// Tells how many bytes the process uses.
///
/// Closures are sources. The crate has sources of its own, so one is needed only where those do not suffice:
/// the statistics of another allocator, memory outside of the heap, or tests.
///
/// A source is read by a request that finds the last figure older than 5 ms, so it should be quick. If it
/// blocks, that request waits, and others use the last figures. A reading of `None` or 0, or a panic, is a
/// failure: it is counted, the next source is used, and the source is tried again after 10 s. It must not call
/// [`ProcessLimit::snapshot`](super::ProcessLimit::snapshot) or `set_bytes`, which would wait for it.
///
/// # Examples
///
/// ```
/// use tower_memory::limit::{ProcessLimit, Stage};
///
/// let limit = ProcessLimit::builder().bytes(100 << 20).source(|| Some(85 << 20)).build()?;
/// let pressure = limit.pressure();
/// assert_eq!((pressure.used, pressure.stage), (Some(85 << 20), Stage::BrownOut));
/// # Ok::<(), tower_memory::ConfigError>(())
/// ```
pub trait MemorySource: Send + Sync + 'static {
    /// Returns the bytes in use, or `None` if they cannot be read.
    fn used(&self) -> Option<u64>;

    /// Returns the name for figures and logs (`custom` by default).
    fn name(&self) -> &'static str {
        "custom"
    }
}

impl<F: Fn() -> Option<u64> + Send + Sync + 'static> MemorySource for F {
    fn used(&self) -> Option<u64> {
        self()
    }
}

/// How long a source that failed is left alone.
const PAUSE: Duration = Duration::from_secs(10);

/// A source of the user, and when it may be tried again.
pub(super) struct Custom {
    source: Box<dyn MemorySource>,
    paused_until: Option<Duration>,
}

impl Custom {
    pub(super) fn new(source: impl MemorySource) -> Self {
        Self {
            source: Box::new(source),
            paused_until: None,
        }
    }

    /// Reads the source, unless it has failed a moment ago. `Err` is a failure now.
    pub(super) fn read(&mut self, now: Duration) -> Result<Option<(u64, &'static str)>, Failed> {
        if self.paused_until.is_some_and(|until| now < until) {
            return Ok(None);
        }
        let read = catch_unwind(AssertUnwindSafe(|| {
            Some((
                self.source.used().filter(|used| *used > 0)?,
                self.source.name(),
            ))
        }));
        match read {
            Ok(Some(read)) => {
                self.paused_until = None;
                Ok(Some(read))
            }
            Ok(None) | Err(_) => {
                self.paused_until = Some(now.saturating_add(PAUSE));
                Err(Failed)
            }
        }
    }
}

/// A source could not be read.
pub(super) struct Failed;

impl fmt::Debug for Custom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Custom")
            .field("paused_until", &self.paused_until)
            .finish_non_exhaustive()
    }
}

/// The least of what was added in the last ten minutes.
#[derive(Debug, Clone, Copy)]
pub(super) struct RecentLeast {
    /// One per minute, the newest last; `u64::MAX` without a value.
    minutes: [u64; 10],
    minute: u64,
}

impl RecentLeast {
    pub(super) const fn new() -> Self {
        Self {
            minutes: [u64::MAX; 10],
            minute: 0,
        }
    }

    pub(super) fn add(&mut self, now: Duration, value: u64) {
        let minute = now.as_secs() / 60;
        let passed = minute.saturating_sub(self.minute).min(10) as usize;
        self.minute = self.minute.max(minute);
        self.minutes.rotate_left(passed);
        self.minutes[10 - passed..].fill(u64::MAX);
        self.minutes[9] = self.minutes[9].min(value);
    }

    /// The least, or zero without a value.
    pub(super) fn get(&self) -> u64 {
        let least = self.minutes.iter().copied().min().unwrap_or(u64::MAX);
        if least == u64::MAX { 0 } else { least }
    }
}

#[cfg(all(test, not(tower_memory_loom)))]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::sync::Arc;

    #[test]
    fn the_least_of_ten_minutes_forgets() {
        let at = Duration::from_secs;
        let mut least = RecentLeast::new();
        assert_eq!(least.get(), 0);
        least.add(at(0), 50);
        least.add(at(30), 70);
        assert_eq!(least.get(), 50);
        least.add(at(599), 90);
        assert_eq!(least.get(), 50);
        least.add(at(600), 95);
        assert_eq!(least.get(), 90, "ten minutes later");
        least.add(at(100), 94);
        assert_eq!(least.get(), 90, "a clock that goes back");
        least.add(at(100_000), 99);
        assert_eq!(least.get(), 99);
    }

    #[test]
    fn a_source_that_fails_is_left_alone_for_ten_seconds() {
        let calls = Arc::new(AtomicU64::new(0));
        let mut source = Custom::new({
            let calls = Arc::clone(&calls);
            move || match calls.fetch_add(1, Ordering::Relaxed) {
                0 => Some(5),
                1 => Some(0),
                2 => None,
                3 => std::panic::resume_unwind(Box::new("the source panics")),
                _ => Some(7),
            }
        });
        let mut at = Duration::ZERO;
        let mut read = |after: u64| {
            at += Duration::from_secs(after);
            source.read(at).map(|read| read.map(|read| read.0)).ok()
        };
        assert_eq!(read(0), Some(Some(5)));
        for _ in 0..3 {
            assert_eq!(read(10), None, "fails");
            assert_eq!(read(9), Some(None), "is not called");
        }
        assert_eq!(read(10), Some(Some(7)));
        assert_eq!(calls.load(Ordering::Relaxed), 5);
    }
}
