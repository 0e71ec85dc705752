//! `Arena` as an allocator of `allocator-api2`.
//!
//! A handle meets the trait's contract: memory does not move with the handle, clones are handles of
//! the same memory, and the memory lives until the last one is dropped. `&Arena` is an allocator
//! through the trait's own implementation for references.

use std::ptr::NonNull;

use super::{chunk::Region, reference::Arena};

impl Arena {
    /// The region of `size` bytes at `ptr`, allocated from this arena. Its end can be moved only if it
    /// lies in the current chunk.
    fn region_at(&self, ptr: NonNull<u8>, size: usize) -> Region {
        let chunk = self.current().filter(|&chunk| {
            // SAFETY: the chunks of a referenced arena are alive (invariant 1).
            let chunk = unsafe { chunk.as_ref() };
            let offset = ptr.addr().get().checked_sub(chunk.address());
            size > 0 && offset.is_some_and(|offset| offset < chunk.capacity())
        });
        Region { ptr, size, chunk }
    }
}

/// Implements the trait of one line of `allocator-api2`; the two are alike, but distinct.
macro_rules! allocator {
    ($api:ident) => {
        use std::{alloc::Layout, ptr::NonNull};

        use $api::alloc::{AllocError, Allocator};

        use super::super::chunk::{Access, Chunk, Use};
        use crate::arena::Arena;

        /// Takes memory from the arena. The last block grows and shrinks in place, and gives its memory
        /// back; the memory of other blocks stays unused until the arena is recycled.
        // SAFETY: a block is a region without another owner, valid until the last handle is dropped
        // (invariants 1 and 2 of `raw`); clones are handles of the same arena.
        unsafe impl Allocator for Arena {
            #[inline]
            fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
                let ptr = self.region(layout).map_err(|_| AllocError)?.ptr;
                Ok(NonNull::slice_from_raw_parts(ptr, layout.size()))
            }

            #[inline]
            unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout) {
                let mut region = self.region_at(ptr, layout.size());
                // SAFETY: a region of this arena that its owner gives back (invariant 3 of `raw`).
                unsafe { Chunk::shrink(&mut region, 0, Use::Used, Access::Shared) };
            }

            unsafe fn grow(
                &self,
                ptr: NonNull<u8>,
                old: Layout,
                new: Layout,
            ) -> Result<NonNull<[u8]>, AllocError> {
                if ptr.addr().get() % new.align() == 0 {
                    let mut region = self.region_at(ptr, old.size());
                    let size = new.size();
                    // SAFETY: a region of this arena, whose chunk is alive (invariant 1 of `raw`), and
                    // its owner extends it (invariant 2 of `raw`).
                    if unsafe { Chunk::extend(&mut region, size, size, Access::Shared) } {
                        return Ok(NonNull::slice_from_raw_parts(ptr, size));
                    }
                }
                let block = self.allocate(new)?;
                // SAFETY: the new block is not smaller than the old one, and regions do not overlap
                // (invariant 2 of `raw`).
                unsafe { ptr.copy_to_nonoverlapping(block.cast(), old.size()) };
                // SAFETY: the caller owns the block (its promise), and the content has moved.
                unsafe { self.deallocate(ptr, old) };
                Ok(block)
            }

            unsafe fn grow_zeroed(
                &self,
                ptr: NonNull<u8>,
                old: Layout,
                new: Layout,
            ) -> Result<NonNull<[u8]>, AllocError> {
                // SAFETY: the caller's promise is the one that `grow` needs.
                let block = unsafe { self.grow(ptr, old, new)? };
                let added = new.size() - old.size();
                // SAFETY: the part of the block behind its former content (invariant 2 of `raw`).
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
                    let mut region = self.region_at(ptr, old.size());
                    // SAFETY: a region of this arena, whose owner gives back the tail (invariant 3 of
                    // `raw`).
                    unsafe { Chunk::shrink(&mut region, new.size(), Use::Used, Access::Shared) };
                    return Ok(NonNull::slice_from_raw_parts(ptr, new.size()));
                }
                let block = self.allocate(new)?;
                // SAFETY: both are at least as large as the new size, and regions do not overlap
                // (invariant 2 of `raw`).
                unsafe { ptr.copy_to_nonoverlapping(block.cast(), new.size()) };
                // SAFETY: the caller owns the block (its promise), and the content has moved.
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
