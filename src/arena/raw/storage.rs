//! Memory that one collection has for itself.

use std::{alloc::Layout, mem::ManuallyDrop, ptr::NonNull};

use super::{
    chunk::{Access, Chunk, Region, Use},
    reference::Arena,
};
use crate::arena::ArenaError;

/// The memory of an [`ArenaVec`](super::ArenaVec) or an [`ArenaString`](super::ArenaString) whose arena
/// is borrowed for `'a`.
///
/// Implemented by [`OwnedRegion`], the default, and by [`Segment`](super::Segment), which a
/// [`Cursor`](crate::arena::Cursor) lends. No other code can make a collection.
///
/// # Safety
///
/// Behind [`start`](Self::start) lie as many bytes as the storage reported last, aligned as last
/// requested. No other code accesses them until the storage is dropped; kept bytes, for as long as
/// the arena is borrowed.
pub unsafe trait Storage<'a> {
    /// Where the bytes begin.
    #[doc(hidden)]
    fn start(&self) -> NonNull<u8>;

    /// Makes room for at least `at_least` bytes, and for `wanted` if that costs no more. Returns how
    /// many there are now. The bytes that `held` describes lie at the start before and after, with
    /// the alignment of `held`. On an error nothing changes.
    ///
    /// # Safety
    ///
    /// The storage has at least `held.size()` bytes, and `held` has the alignment requested before.
    #[doc(hidden)]
    unsafe fn grow(
        &mut self,
        held: Layout,
        at_least: usize,
        wanted: usize,
    ) -> Result<usize, ArenaError>;

    /// Keeps the first `size` bytes for as long as the arena is borrowed, and gives back the others.
    ///
    /// # Safety
    ///
    /// The storage has that many bytes, and nothing points to the others.
    #[doc(hidden)]
    unsafe fn keep(self, size: usize) -> NonNull<u8>;

    /// Bytes in use in the arena, for errors.
    #[doc(hidden)]
    fn used(&self) -> usize;
}

/// A region of the arena that one collection owns: the default [`Storage`].
///
/// It grows in place while nothing was allocated after it.
#[derive(Debug)]
pub struct OwnedRegion<'a> {
    pub(super) arena: &'a Arena,
    region: Region,
}

// SAFETY: the region has one owner, this value (invariant 2 of `raw`); `&Arena` is `Send`.
unsafe impl Send for OwnedRegion<'_> {}
// SAFETY: `&OwnedRegion` exposes an address and no bytes (invariant 2 of `raw`).
unsafe impl Sync for OwnedRegion<'_> {}

impl<'a> OwnedRegion<'a> {
    /// A region of `layout`, and its size.
    #[inline]
    pub(super) fn new(arena: &'a Arena, layout: Layout) -> Result<(Self, usize), ArenaError> {
        let region = arena.region(layout)?;
        let size = region.size;
        Ok((Self { arena, region }, size))
    }
}

// SAFETY: a region has one owner (invariant 2 of `raw`), this value; `regrow` keeps its bytes and its
// alignment. Kept bytes stay below the arena's position, and no region is left that could give them
// back (invariant 3 of `raw`).
unsafe impl<'a> Storage<'a> for OwnedRegion<'a> {
    #[inline]
    fn start(&self) -> NonNull<u8> {
        self.region.ptr
    }

    #[inline]
    unsafe fn grow(
        &mut self,
        held: Layout,
        at_least: usize,
        wanted: usize,
    ) -> Result<usize, ArenaError> {
        let (written, align) = (held.size(), held.align());
        // SAFETY: `Access::Shared` is always true (invariant 6 of `raw`); `held` lies in the region
        // (the caller's promise).
        unsafe {
            self.arena.regrow(
                &mut self.region,
                written,
                (at_least, wanted),
                align,
                Access::Shared,
            )?;
        }
        Ok(self.region.size)
    }

    #[inline]
    unsafe fn keep(self, size: usize) -> NonNull<u8> {
        // Not dropped: that would give back all of it.
        let mut this = ManuallyDrop::new(self);
        // SAFETY: nothing points behind the first `size` bytes (the caller's promise), and
        // `Access::Shared` is always true (invariant 6 of `raw`).
        unsafe { Chunk::shrink(&mut this.region, size, Use::Advance, Access::Shared) };
        this.region.ptr
    }

    fn used(&self) -> usize {
        self.arena.allocated_bytes()
    }
}

impl Drop for OwnedRegion<'_> {
    fn drop(&mut self) {
        // SAFETY: the only owner of the region goes (invariant 2 of `raw`), so nothing points into it.
        unsafe { Chunk::shrink(&mut self.region, 0, Use::Used, Access::Shared) };
    }
}
