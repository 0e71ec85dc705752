//! Counts the heads of arenas and blocks in the allocator, independently of the pool's own figures.
//! A head is made with its arena, or block, and freed with it.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicI64, AtomicUsize, Ordering},
};

use tower_memory::ArenaPool;

/// How heads are aligned, and little else.
const ALIGN: usize = 128;

static LAST: AtomicUsize = AtomicUsize::new(0);

/// The size of an arena's head, and of a block's.
static SIZES: [AtomicUsize; 2] = [const { AtomicUsize::new(usize::MAX) }; 2];

static MADE: AtomicI64 = AtomicI64::new(0);
static FREED: AtomicI64 = AtomicI64::new(0);

/// How many heads were made, and how many of them were freed, since [`begin`].
pub(crate) fn made_and_freed() -> (i64, i64) {
    let freed = FREED.load(Ordering::SeqCst);
    (MADE.load(Ordering::SeqCst), freed)
}

/// The size of what `make` allocated last with the alignment of heads.
fn size_of_head<T>(make: impl FnOnce() -> T) -> usize {
    LAST.store(0, Ordering::SeqCst);
    drop(make());
    let size = LAST.load(Ordering::SeqCst);
    assert!(size != 0, "no head was allocated");
    size
}

/// Learns what heads look like, and counts them from now on. Nothing else may use a pool meanwhile.
pub(crate) fn begin() {
    let pool = ArenaPool::builder().enabled(false).build().unwrap();
    let arena = || {
        let arena = pool.rent();
        arena.alloc_str("in the arena");
        arena
    };
    let block = || {
        let mut buffer = pool.buf(4000);
        buffer.extend_from_slice(&[0; 4000]);
        buffer
    };
    drop((arena(), block())); // the thread's share of the pool is made
    let sizes = [size_of_head(arena), size_of_head(block)];
    for (place, size) in SIZES.iter().zip(sizes) {
        place.store(size, Ordering::SeqCst);
    }
    drop((arena(), block()));
    assert_eq!(made_and_freed(), (2, 2), "two heads are counted");
}

pub(crate) struct Census;

fn count(layout: Layout, sum: &AtomicI64) {
    // Relaxed: set while nothing else runs.
    if layout.align() == ALIGN
        && SIZES
            .iter()
            .any(|size| size.load(Ordering::Relaxed) == layout.size())
    {
        sum.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: forwards to `System`.
unsafe impl GlobalAlloc for Census {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.align() == ALIGN {
            LAST.store(layout.size(), Ordering::Relaxed);
        }
        count(layout, &MADE);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        count(layout, &FREED);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout, &MADE);
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // No head grows.
        // SAFETY: the caller's promise.
        unsafe { System.realloc(block, layout, size) }
    }
}
