use std::{hint::black_box, sync::atomic::Ordering};

use super::{
    counters::{Block, SHARED},
    raw::{self, own_block},
    usage::HeapUsage,
};

/// Returns whether a [`TrackingAllocator`] is the program's global allocator.
///
/// The first call allocates once and checks whether the allocation was counted.
///
/// # Examples
///
/// ```
/// // This program did not install it.
/// assert!(!tower_memory::account::is_installed());
/// assert!(tower_memory::account::process_usage().is_none());
/// ```
///
/// [`TrackingAllocator`]: super::TrackingAllocator
#[must_use]
#[inline]
pub fn is_installed() -> bool {
    const UNKNOWN: u8 = 0;
    const NO: u8 = 1;
    const YES: u8 = 2;
    static STATE: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(UNKNOWN);

    #[cold]
    fn probe() -> bool {
        let Some(block) = own_block() else {
            // An ending thread cannot tell. The next caller probes again.
            return false;
        };
        let before = block.read().allocations;
        drop(black_box(Box::new(0_u64)));
        let installed = block.read().allocations != before;
        if !installed {
            // Without a block this thread enters no accounts.
            raw::disown_block();
        }
        // Relaxed: every thread computes the same result.
        STATE.store(if installed { YES } else { NO }, Ordering::Relaxed);
        installed
    }

    match STATE.load(Ordering::Relaxed) {
        YES => true,
        NO => false,
        _ => probe(),
    }
}

/// Returns the counters of the whole process since its start, including ended threads.
///
/// Returns `None` if no [`TrackingAllocator`] is installed. The result is a sum over threads that keep
/// running: each thread's counters are read at some moment during the call.
///
/// # Examples
///
/// ```
/// use tower_memory::{TrackingAllocator, account::process_usage};
///
/// #[global_allocator]
/// static ALLOC: TrackingAllocator = TrackingAllocator::system();
///
/// let before = process_usage().expect("installed").bytes_allocated;
/// std::thread::spawn(|| drop(vec![0_u8; 1_000_000])).join().expect("no panic");
/// let after = process_usage().expect("installed").bytes_allocated;
/// assert!(after - before >= 1_000_000);
/// ```
///
/// [`TrackingAllocator`]: super::TrackingAllocator
#[must_use]
pub fn process_usage() -> Option<HeapUsage> {
    if !is_installed() {
        return None;
    }
    let sum = raw::counters().fold(SHARED.read(), |sum, one| sum.plus(&one.read()));
    Some(sum)
}

/// Returns the counters of the calling thread.
///
/// A new thread continues the counters of an ended one, so only the difference of two calls on the
/// same thread is meaningful. Returns `None` if no [`TrackingAllocator`] is installed.
///
/// # Examples
///
/// ```
/// use tower_memory::{TrackingAllocator, account::thread_usage};
///
/// #[global_allocator]
/// static ALLOC: TrackingAllocator = TrackingAllocator::system();
///
/// let before = thread_usage().expect("installed");
/// let text = String::with_capacity(64);
/// let after = thread_usage().expect("installed");
/// assert_eq!(after.bytes_allocated - before.bytes_allocated, 64);
/// # drop(text);
/// ```
///
/// [`TrackingAllocator`]: super::TrackingAllocator
#[must_use]
pub fn thread_usage() -> Option<HeapUsage> {
    if !is_installed() {
        return None;
    }
    own_block().map(Block::read)
}

/// The bytes that the calling thread has allocated, without those [aside](super::aside) of the accounts that were
/// entered. Only differences are meaningful; zero if the thread counts none.
#[cfg(feature = "trace")]
#[inline]
pub(crate) fn thread_bytes() -> u64 {
    raw::own().map_or(0, Block::attributed_bytes)
}
