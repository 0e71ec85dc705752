//! Arenas as allocators of the standard collections' twins.
//!
//! An arena's handle is an allocator as the trait demands it: memory stays where it is when the
//! handle moves, all its clones are handles of the same memory, and that lives until the last of
//! them is dropped. `&Arena` is one through the trait's own implementation for references.

use std::ptr::NonNull;

use super::{
    chunk::{Chunk, Region},
    reference::RawArena,
};

impl RawArena {
    /// The region of `size` bytes at `ptr`, which this arena gave out. Its end can be moved only if
    /// it lies in the current chunk.
    fn region_at(&self, ptr: NonNull<u8>, size: usize) -> Region {
        let chunk = self.current().filter(|&chunk| {
            // SAFETY: the chunks of a referenced arena are alive (invariant 1).
            let capacity = unsafe { chunk.as_ref() }.capacity();
            let start = Chunk::data(chunk).addr().get();
            let offset = ptr.addr().get().checked_sub(start);
            size > 0 && offset.is_some_and(|offset| offset < capacity)
        });
        Region { ptr, size, chunk }
    }
}

/// Implements one line of `allocator-api2`; their traits are alike, but not the same.
macro_rules! allocator {
    ($api:ident) => {
        use std::{alloc::Layout, ptr::NonNull};

        use $api::alloc::{AllocError, Allocator};

        use super::super::chunk::{Access, Chunk, Use};
        use crate::arena::Arena;

        /// Takes memory from the arena. The last block gives its memory back, and grows and shrinks
        /// where it is; others wait for the arena to be recycled.
        // SAFETY: blocks are memory of the arena that nobody else owns, valid until its last handle
        // is dropped (invariants 1 and 2 of `raw`); clones are handles of the same arena.
        unsafe impl Allocator for Arena {
            #[inline]
            fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
                let ptr = self.raw().alloc(layout).map_err(|_| AllocError)?;
                Ok(NonNull::slice_from_raw_parts(ptr, layout.size()))
            }

            #[inline]
            unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout) {
                let mut region = self.raw().region_at(ptr, layout.size());
                // SAFETY: of this arena, and the caller gives the block up.
                unsafe { self.raw().shrink(&mut region, 0, Use::Used, Access::Shared) };
            }

            unsafe fn grow(
                &self,
                ptr: NonNull<u8>,
                old: Layout,
                new: Layout,
            ) -> Result<NonNull<[u8]>, AllocError> {
                if ptr.addr().get() % new.align() == 0 {
                    let mut region = self.raw().region_at(ptr, old.size());
                    let size = new.size();
                    // SAFETY: a block of this arena that the caller owns.
                    if unsafe { Chunk::extend(&mut region, size, size, Access::Shared) } {
                        return Ok(NonNull::slice_from_raw_parts(ptr, size));
                    }
                }
                let block = self.allocate(new)?;
                // SAFETY: the new block is not smaller than the old one, and apart from it.
                unsafe { ptr.copy_to_nonoverlapping(block.cast(), old.size()) };
                // SAFETY: the caller's promise; its content has moved.
                unsafe { self.deallocate(ptr, old) };
                Ok(block)
            }

            unsafe fn grow_zeroed(
                &self,
                ptr: NonNull<u8>,
                old: Layout,
                new: Layout,
            ) -> Result<NonNull<[u8]>, AllocError> {
                // SAFETY: the caller's promise.
                let block = unsafe { self.grow(ptr, old, new)? };
                let added = new.size() - old.size();
                // SAFETY: the part of the block behind what it held before.
                unsafe { block.cast::<u8>().add(old.size()).write_bytes(0, added) };
                Ok(block)
            }

            unsafe fn shrink(
                &self,
                ptr: NonNull<u8>,
                old: Layout,
                new: Layout,
            ) -> Result<NonNull<[u8]>, AllocError> {
                if ptr.addr().get() % new.align() == 0 {
                    let mut region = self.raw().region_at(ptr, old.size());
                    // SAFETY: a block of this arena, whose tail the caller gives up.
                    unsafe {
                        self.raw()
                            .shrink(&mut region, new.size(), Use::Used, Access::Shared)
                    };
                    return Ok(NonNull::slice_from_raw_parts(ptr, new.size()));
                }
                let block = self.allocate(new)?;
                // SAFETY: both are at least as large as the new size, and apart.
                unsafe { ptr.copy_to_nonoverlapping(block.cast(), new.size()) };
                // SAFETY: the caller's promise; its content has moved.
                unsafe { self.deallocate(ptr, old) };
                Ok(block)
            }
        }
    };
}

#[cfg(feature = "allocator-api2")]
mod v02 {
    allocator!(allocator_api2);
}

#[cfg(feature = "allocator-api2-04")]
mod v04 {
    allocator!(allocator_api2_04);
}
