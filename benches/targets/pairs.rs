//! Allocations and their frees, by direct calls of an allocator.

use std::{
    alloc::{GlobalAlloc, Layout},
    hint::black_box,
};

/// Blocks at a time, so that one address that the filter takes for a live sample's does not decide.
const BLOCKS: usize = 16;

/// How often [`work`] allocates all of them.
const TIMES: usize = 64;

/// Pairs of [`work`].
pub(crate) const PAIRS: u32 = (TIMES * BLOCKS) as u32;

/// Calls that a stack has more than the harness's own.
const DEPTH: usize = 16;

#[inline(never)]
fn pairs<A: GlobalAlloc>(allocator: &A, layout: Layout) {
    let blocks: [*mut u8; BLOCKS] = std::array::from_fn(|_| {
        // SAFETY: the size is not zero.
        black_box(unsafe { allocator.alloc(layout) })
    });
    for block in blocks {
        assert!(!block.is_null());
        // SAFETY: allocated above with this layout, and freed once.
        unsafe { allocator.dealloc(block, layout) };
    }
}

/// The pairs, some calls further down.
#[inline(never)]
fn deep<A: GlobalAlloc>(depth: usize, allocator: &A, layout: Layout) {
    if depth > 0 {
        deep(black_box(depth - 1), allocator, layout);
        // Not the last thing, so that the call is no jump.
        black_box(depth);
        return;
    }
    for _ in 0..TIMES {
        pairs(allocator, layout);
    }
}

/// [`PAIRS`] of them, of blocks of `size` bytes.
pub(crate) fn work<A: GlobalAlloc>(allocator: &A, size: usize) {
    let layout = Layout::from_size_align(size, 8).expect("a layout");
    deep(DEPTH, allocator, layout);
}
