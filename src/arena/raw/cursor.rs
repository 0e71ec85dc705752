//! A private segment of an arena, and allocation from it without atomic operations.
//!
//! # Invariants
//!
//! 1. `ptr..end` is the free tail of a region of `arena` that only this cursor owns; without a
//!    chunk it is empty.
//! 2. `access` is [`Access::Exclusive`] only if the cursor holds the arena's only reference
//!    exclusively, for all of `'a`. Then no other code can allocate while the cursor, or memory it
//!    returned, is in use, so the chunk's position need not be exact until the cursor needs more or
//!    is dropped.
//! 3. `ptr` is aligned to [`ALIGN`], or fewer than `ALIGN` bytes are left: sizes are rounded up, so
//!    most allocations need no aligning.
//! 4. The values of a growing collection lie in `ptr..end` and count as free: a forgotten list leaks
//!    its values, and its place is used again.

use std::{alloc::Layout, fmt, ptr::NonNull};

use super::{
    chunk::{Access, Chunk, Region, Use, dangling},
    reference::Arena,
};
use crate::arena::ArenaError;

/// The largest segment. Its unused part is given back if nothing was allocated after it.
const MAX_STEP: usize = 32 * 1024;

/// Size of the first segment.
pub(in crate::arena) const FIRST_STEP: usize = 1024;

/// See invariant 3.
pub(super) const ALIGN: usize = 8;

// `Cursor` documents them.
const _: () = assert!(FIRST_STEP == 1 << 10 && MAX_STEP == 32 << 10 && ALIGN == 8);

/// Allocates in an [`Arena`] without atomic operations, from a segment of its own.
///
/// Several threads may use an `&Arena` at the same time, so each of its allocations is
/// a compare-and-swap. A cursor takes a segment of the arena and cuts it up alone, so it needs
/// `&mut self`. What it returns borrows the arena and not the cursor, and may be held across `.await`.
/// Use a cursor for a loop of many small allocations. Each task of a request may have its own.
///
/// The first segment has 1 KiB, each further one four times as much, up to 32 KiB. Sizes are
/// rounded up to 8 bytes. [`Arena::allocated_bytes`](crate::Arena::allocated_bytes) counts the whole
/// segment until the cursor is dropped, which gives back the rest if nothing was allocated after it.
///
/// # Panics
///
/// A method that needs memory panics if the allocator has none. Methods with `try_` in their name and
/// the `try_reserve` of the collections return an [`ArenaError`] instead.
///
/// # Examples
///
/// ```
/// let arena = tower_memory::Arena::new();
/// let mut cursor = arena.cursor();
/// let first = cursor.alloc(1_u64);
/// let name = cursor.alloc_fmt(format_args!("item-{}", 7));
/// *first += 1;
/// drop(cursor);
/// assert_eq!((*first, &*name), (2, "item-7"));
/// assert_eq!(arena.allocated_bytes(), 8 + 8); // sizes are rounded up to 8
/// ```
///
/// What it returns cannot outlive the arena's handle:
///
/// ```compile_fail
/// let text = {
///     let arena = tower_memory::Arena::new();
///     arena.cursor().alloc_str("gone")
/// };
/// println!("{text}");
/// ```
pub struct Cursor<'a> {
    pub(super) ptr: NonNull<u8>,
    end: NonNull<u8>,
    /// Where the region begins, before `ptr` was aligned, so that an unused one is given back whole.
    base: NonNull<u8>,
    pub(super) arena: &'a Arena,
    chunk: Option<NonNull<Chunk>>,
    /// Size of the next segment.
    step: usize,
    access: Access,
}

// SAFETY: only this cursor owns the segment (invariant 1), and `&Arena` is `Send`.
unsafe impl Send for Cursor<'_> {}
// SAFETY: `&Cursor` exposes numbers and no bytes (invariant 1).
unsafe impl Sync for Cursor<'_> {}

impl<'a> Cursor<'a> {
    #[inline]
    pub(in crate::arena) fn new(arena: &'a Arena, step: usize) -> Self {
        Self {
            ptr: NonNull::dangling(),
            end: NonNull::dangling(),
            base: NonNull::dangling(),
            arena,
            chunk: None,
            step,
            access: Access::Shared,
        }
    }

    /// A cursor that also moves the arena's position without atomic operations, if `arena` is the only
    /// reference. Then no other code needs the chunk, and the segment is all that is free of it.
    #[inline]
    pub(in crate::arena) fn new_exclusive(arena: &'a mut Arena, step: usize) -> Self {
        let access = arena.access();
        let mut this = Self::new(arena, step);
        this.access = access;
        if access == Access::Exclusive {
            this.step = usize::MAX;
            if let Some(chunk) = this.arena.current() {
                // SAFETY: the chunk of a borrowed arena is alive (invariant 1 of `raw`).
                let rest = unsafe { Chunk::free_rest(chunk) };
                // Not allocated, and still no other code can reach it (invariant 2).
                if rest.size >= ALIGN {
                    this.own(&rest);
                }
            }
        }
        this
    }

    /// Takes over a region of at least `ALIGN - 1` bytes.
    #[inline]
    fn own(&mut self, region: &Region) {
        self.ptr = region.ptr;
        self.base = region.ptr;
        self.chunk = region.chunk;
        // SAFETY: the region's end, and an address before it: `pad < ALIGN` (invariant 3).
        unsafe {
            self.end = region.ptr.add(region.size);
            self.ptr = region.ptr.add(self.pad(ALIGN));
        }
    }

    /// Bytes left of the present segment. If an allocation needs more, the cursor takes another one.
    #[must_use]
    #[inline]
    pub fn remaining(&self) -> usize {
        self.end.addr().get() - self.ptr.addr().get()
    }

    /// Takes `layout` from the segment.
    #[inline(always)]
    pub(super) fn take(&mut self, layout: Layout) -> Result<NonNull<u8>, ArenaError> {
        if layout.size() == 0 {
            return Ok(dangling(layout));
        }
        // A size is at most isize::MAX, so neither sum wraps.
        let rounded = (layout.size() + (ALIGN - 1)) & !(ALIGN - 1);
        let slack = layout.align().saturating_sub(ALIGN);
        if self.remaining() < rounded + slack {
            self.refill(rounded + slack, 0, None)
                .map_err(|error| error.of_cursor(layout.size(), self.rest().size))?;
        }
        let pad = if slack == 0 {
            0
        } else {
            self.pad(layout.align())
        };
        // SAFETY: there are `rounded + slack` bytes (invariant 1), so at least `ALIGN`, and `ptr` is
        // aligned to that (invariant 3): `pad <= slack`.
        unsafe {
            let start = self.ptr.add(pad);
            self.ptr = start.add(rounded);
            Ok(start)
        }
    }

    /// Bytes from `ptr` to the next address of this alignment.
    #[inline(always)]
    pub(super) fn pad(&self, align: usize) -> usize {
        self.ptr.addr().get().wrapping_neg() & (align - 1)
    }

    /// Makes the segment hold at least `at_least` bytes from `ptr` on, and `wanted` if possible. `ptr` is
    /// aligned then. If the bytes of `held` had to move, they lie at the new `ptr`, aligned as `held`.
    #[cold]
    #[inline(never)]
    pub(super) fn refill(
        &mut self,
        at_least: usize,
        wanted: usize,
        held: Option<Layout>,
    ) -> Result<(), ArenaError> {
        // `ALIGN` at least, so that a list finds room (`Segment::measure`), and what it takes to
        // align `ptr`. Not more than the address space: `claim` checks.
        let at_least = at_least.max(ALIGN).saturating_add(ALIGN - 1);
        let wanted = wanted
            .saturating_add(ALIGN - 1)
            .max(self.step)
            .max(at_least);
        match (self.access, self.chunk) {
            (Access::Shared, _) => self.step = self.step.saturating_mul(4).min(MAX_STEP),
            // From here on the position has to be exact.
            // SAFETY: the chunk of a borrowed arena is alive (invariant 1 of `raw`), `access` is
            // correct, and nothing lies behind the segment (invariants 1 and 2).
            (Access::Exclusive, Some(chunk)) => unsafe { Chunk::set_end(chunk, self.end) },
            (Access::Exclusive, None) => {}
        }
        let mut region = Region {
            ptr: self.ptr,
            size: self.remaining(),
            chunk: self.chunk,
        };
        // SAFETY: the chunk of a borrowed arena is alive (invariant 1 of `raw`); `access` is correct
        // (invariant 2).
        if unsafe { Chunk::extend(&mut region, at_least, wanted, self.access) } {
            // If it holds something it was aligned before (`Segment`, invariant 1).
            self.own(&region);
            return Ok(());
        }
        // SAFETY: `access` is correct (invariant 2).
        let new = unsafe { self.arena.claim(at_least, wanted, self.access)? };
        let old_pad = held.map_or(0, |held| self.pad(held.align()));
        self.own(&new);
        if let Some(held) = held.filter(|held| held.size() > 0) {
            // SAFETY: the `held` bytes lie in the old region behind its padding, and fit into the new
            // one, since `at_least` is larger; regions do not overlap (invariant 2 of `raw`).
            unsafe {
                let to = self.ptr.add(self.pad(held.align()));
                region
                    .ptr
                    .add(old_pad)
                    .copy_to_nonoverlapping(to, held.size());
            }
        }
        // SAFETY: the chunk is alive (invariant 1 of `raw`), `access` is correct (invariant 2), and the
        // held bytes have moved, so nothing points into the old region (invariant 1).
        unsafe { Chunk::shrink(&mut region, 0, Use::Advance, self.access) };
        Ok(())
    }

    /// The rest of the segment.
    #[inline]
    pub(super) fn rest(&self) -> Region {
        let padding = self.ptr.addr().get() - self.base.addr().get();
        let ptr = if padding < ALIGN { self.base } else { self.ptr };
        Region {
            ptr,
            size: self.end.addr().get() - ptr.addr().get(),
            chunk: self.chunk,
        }
    }

    /// Makes everything before `end`, which lies in the segment, allocated.
    #[inline]
    pub(super) fn advance_to(&mut self, end: NonNull<u8>) {
        self.ptr = end;
        // Rounded up, but for the last bytes of a segment (invariant 3).
        let pad = self.pad(ALIGN).min(self.remaining());
        // SAFETY: at most the rest of the segment (invariant 1).
        self.ptr = unsafe { end.add(pad) };
    }
}

impl Drop for Cursor<'_> {
    #[inline]
    fn drop(&mut self) {
        let mut region = self.rest();
        // SAFETY: only this cursor owns the tail and nothing points into it (invariant 1); with exclusive
        // access, nothing lies behind it either (invariant 2).
        unsafe {
            match (self.access, self.chunk) {
                (Access::Exclusive, Some(chunk)) => Chunk::set_end(chunk, region.ptr),
                (Access::Exclusive, None) => {}
                (Access::Shared, _) => {
                    Chunk::shrink(&mut region, 0, Use::Advance, Access::Shared);
                }
            }
        }
    }
}

impl fmt::Debug for Cursor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cursor")
            .field("remaining", &self.remaining())
            .finish_non_exhaustive()
    }
}
