//! An allocator that refuses, counts, and looks at what is given back.
#![expect(unsafe_code, reason = "is the global allocator")]

mod ended;
mod null;
mod return_path;
mod wipe;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    ptr,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

/// Chunks of arenas, and nothing else here, are aligned to this.
const CHUNK_ALIGN: usize = 16;

/// What the allocator refuses on one thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refuse {
    Nothing,
    /// Chunks above so many bytes, their header included.
    Chunks(usize),
    /// What is as aligned as the heads of blocks.
    Heads,
    Everything,
}

/// What a recycled arena must not hold.
const SECRET: [u8; 16] = *b"\xC3secret canary\xA7!";

thread_local! {
    static REFUSE: Cell<Refuse> = const { Cell::new(Refuse::Nothing) };
    static REFUSED: Cell<usize> = const { Cell::new(0) };
    static CALLS: Cell<usize> = const { Cell::new(0) };
    /// How many blocks with the secret in them were given back, while that is looked for.
    static LEAKS: Cell<Option<usize>> = const { Cell::new(None) };
    /// The first chunks that were taken and not given back.
    static CHUNKS: Cell<[(usize, usize); 64]> = const { Cell::new([(0, 0); 64]) };
}

/// The size of the blocks that are counted on all threads, and how many of them were made, and freed.
static COUNTED: AtomicUsize = AtomicUsize::new(usize::MAX);
static MADE: AtomicUsize = AtomicUsize::new(0);
static FREED: AtomicUsize = AtomicUsize::new(0);

fn count(layout: Layout, sum: &AtomicUsize) {
    if layout.size() == COUNTED.load(Relaxed) {
        sum.fetch_add(1, Relaxed);
    }
}

struct Hostile;

#[global_allocator]
static ALLOCATOR: Hostile = Hostile;

fn refuses(layout: Layout) -> bool {
    CALLS.set(CALLS.get() + 1);
    let refused = match REFUSE.get() {
        Refuse::Nothing => false,
        Refuse::Chunks(above) => layout.align() == CHUNK_ALIGN && layout.size() > above,
        Refuse::Heads => layout.align() == 128,
        Refuse::Everything => true,
    };
    REFUSED.set(REFUSED.get() + usize::from(refused));
    refused
}

// SAFETY: forwards to `System`, or returns null.
unsafe impl GlobalAlloc for Hostile {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if refuses(layout) {
            return ptr::null_mut();
        }
        // Zeroed, so that a block that is not written all over holds no secret of an earlier test.
        // SAFETY: the caller's promise.
        let block = unsafe { System.alloc_zeroed(layout) };
        count(layout, &MADE);
        if layout.align() == CHUNK_ALIGN {
            let mut chunks = CHUNKS.get();
            if let Some(free) = chunks.iter_mut().find(|chunk| chunk.0 == 0) {
                *free = (block.expose_provenance(), layout.size());
            }
            CHUNKS.set(chunks);
        }
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        CALLS.set(CALLS.get() + 1);
        count(layout, &FREED);
        let mut chunks = CHUNKS.get();
        if let Some(chunk) = chunks.iter_mut().find(|chunk| chunk.0 == block.addr()) {
            *chunk = (0, 0);
            CHUNKS.set(chunks);
        }
        // The pool's own state is made on the stack, and its padding holds what was there before. No
        // memory of requests is that aligned.
        if let Some(leaks) = LEAKS.get().filter(|_| layout.align() < 128) {
            // SAFETY: the block is still this long.
            let leaked = unsafe { holds_secret(block, layout.size()) };
            LEAKS.set(Some(leaks + usize::from(leaked)));
        }
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(block, layout) };
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if refuses(layout) {
            return ptr::null_mut();
        }
        // SAFETY: the caller's promise.
        unsafe { System.realloc(block, layout, size) }
    }
}

/// Whether the secret lies somewhere in a block, or the larger part of it.
///
/// # Safety
///
/// The block is alive and has `size` bytes, which nobody writes.
unsafe fn holds_secret(block: *const u8, size: usize) -> bool {
    const PART: usize = 9;
    if size < PART {
        return false;
    }
    (0..=size - PART).any(|start| {
        // SAFETY: within the block. Volatile: some bytes were never written, whatever they are.
        (0..PART).all(|at| unsafe { block.add(start + at).read_volatile() } == SECRET[at])
    })
}

/// Runs `f` while the allocator refuses this to the calling thread.
fn refusing<R>(what: Refuse, f: impl FnOnce() -> R) -> R {
    struct Restore;
    impl Drop for Restore {
        fn drop(&mut self) {
            REFUSE.set(Refuse::Nothing);
        }
    }
    let _restore = Restore;
    REFUSE.set(what);
    f()
}

/// How often the calling thread called the allocator during `f`.
fn calls<R>(f: impl FnOnce() -> R) -> (R, usize) {
    let before = CALLS.get();
    let result = f();
    (result, CALLS.get() - before)
}
