use std::{alloc::Layout, fmt, ptr::NonNull};

use super::{
    chunk::{Access, Chunk, DATA_ALIGN, Region},
    header::{Header, IdleArena, recycle},
};
use crate::{
    arena::{ArenaError, limit},
    sync::{Ordering, lock},
};

/// Chunks double up to this size; then each new one has this size, or the requested one if larger.
const MAX_STEP: usize = 4 * 1024 * 1024;

/// More references than this can only come from a leak in a loop, as for `std::sync::Arc`.
const MAX_REFS: usize = isize::MAX as usize;

/// A handle to memory that is recycled in one piece.
///
/// Cloning makes another handle to the same memory, which is recycled when the last handle is dropped.
/// [`Bytes`](bytes::Bytes) frozen from its buffers have memory of their own. Allocation takes `&self` and works from
/// several threads at the same time. The references it returns live as long as the borrow of the
/// handle, so a future that is `Send` can hold them across `.await`.
///
/// A handler gets the arena of its request from [`RequestScope::arena`](crate::RequestScope::arena)
/// or, with the `axum` feature, as an extractor argument. Use the arena itself for single
/// allocations, and a [`cursor`](Self::cursor) for a loop of many small ones.
///
/// # Limits
///
/// - Memory is not freed value by value. Two exceptions: the last [`ArenaVec`](crate::ArenaVec) or
///   [`ArenaString`](crate::ArenaString) gives its memory back when it is dropped, or its unused tail
///   when it ends; and an [`ArenaBuf`](crate::ArenaBuf) has memory of its own.
/// - An arena drops no values. [`alloc`](Self::alloc) and the slices refuse types that need dropping
///   when the program is built; use [`alloc_box`](Self::alloc_box) or an `ArenaVec` for those.
///
/// # Panics
///
/// A method that needs memory panics if the allocator has none. Methods with `try_` in their name and
/// the `try_reserve` of the collections return an [`ArenaError`] instead.
///
/// # Examples
///
/// ```
/// use tower_memory::Arena;
///
/// let arena = Arena::new();
/// let point = arena.alloc((1, 2));
/// let name = arena.alloc_fmt(format_args!("item-{}", 7));
/// point.0 = 10;
/// assert_eq!((*point, &*name), ((10, 2), "item-7"));
/// ```
///
/// A type that needs dropping does not compile:
///
/// ```compile_fail
/// let arena = tower_memory::Arena::new();
/// arena.alloc(String::from("would never be dropped"));
/// ```
///
/// Nor does a reference that outlives its handle:
///
/// ```compile_fail
/// let text = {
///     let arena = tower_memory::Arena::new();
///     arena.alloc_str("gone")
/// };
/// println!("{text}");
/// ```
pub struct Arena {
    header: NonNull<Header>,
}

// SAFETY: all state behind the pointer is atomic, behind a lock, or constant while referenced
// (invariants 1 to 4); lifetimes of the wrappers govern the allocated memory.
unsafe impl Send for Arena {}
// SAFETY: all state behind the pointer is atomic, behind a lock, or constant while referenced
// (invariants 1 to 4), so several threads may call the methods that take `&self`.
unsafe impl Sync for Arena {}

impl IdleArena {
    /// Turns the arena into its first reference, with all memory free.
    ///
    /// Memory is rewound here and not when the arena came back: the thread that rents it is the one
    /// that will use it, and more often has it in its cache.
    #[inline]
    pub(crate) fn activate(self) -> Arena {
        let header = self.into_header();
        // SAFETY: an idle arena's header is alive, and this was the only pointer to it (invariant 1).
        let this = unsafe { header.as_ref() };
        let current = NonNull::new(this.current.load(Ordering::Relaxed));
        if let Some(mut chunk) = current.filter(|_| !bug!("chunk-not-rewound")) {
            // SAFETY: a chunk of an idle arena is alive and ours alone (invariant 1).
            unsafe { chunk.as_mut() }.rewind();
        }
        if this.has_buffers.load(Ordering::Relaxed) {
            this.has_buffers.store(false, Ordering::Relaxed);
            this.buffers_reused.store(false, Ordering::Relaxed);
            this.buffers.reset();
        }
        // A last reference leaves the count at one.
        if this.refs.load(Ordering::Relaxed) != 1 {
            this.refs.store(1, Ordering::Relaxed);
        }
        // SAFETY: the header is alive and counts one reference, this one (invariant 1).
        unsafe { Arena::from_header(header) }
    }
}

impl Arena {
    /// # Safety
    ///
    /// The header is alive and counts this reference.
    pub(super) const unsafe fn from_header(header: NonNull<Header>) -> Self {
        Self { header }
    }

    #[inline]
    pub(super) fn header(&self) -> &Header {
        // SAFETY: this reference is counted, so the header is alive (invariant 1).
        unsafe { self.header.as_ref() }
    }

    #[inline]
    pub(super) fn current(&self) -> Option<NonNull<Chunk>> {
        // Acquire: pairs with the release in `grow`, so the chunk's fields are seen as written.
        NonNull::new(self.header().current.load(Ordering::Acquire))
    }

    /// How the exclusive owner of this reference may access the arena: exclusively, if there is no
    /// other reference. Another one can only be made from a borrow of this one.
    #[inline]
    pub(super) fn access(&mut self) -> Access {
        // Acquire: everything done through other references happened before they were dropped.
        if self.header().refs.load(Ordering::Acquire) == 1 {
            Access::Exclusive
        } else {
            Access::Shared
        }
    }

    /// A region of `layout`.
    #[inline]
    pub(super) fn region(&self, layout: Layout) -> Result<Region, ArenaError> {
        if layout.size() == 0 {
            return Ok(Region::empty(layout));
        }
        let region = |(ptr, chunk)| Region {
            ptr,
            size: layout.size(),
            chunk: Some(chunk),
        };
        if let Some(chunk) = self.current() {
            // SAFETY: the chunks of a referenced arena are alive (invariant 1).
            if let Some(ptr) = unsafe { Chunk::bump(chunk, layout, Access::Shared) } {
                return Ok(region((ptr, chunk)));
            }
        }
        self.grow(layout).map(region)
    }

    #[cold]
    #[inline(never)]
    fn grow(&self, layout: Layout) -> Result<(NonNull<u8>, NonNull<Chunk>), ArenaError> {
        let header = self.header();
        let locked = lock(&header.grow);
        // Acquire: the lock orders it already, but ThreadSanitizer does not see std's lock.
        let current = NonNull::new(header.current.load(Ordering::Acquire));
        if let Some(chunk) = current {
            // SAFETY: the chunks of a referenced arena are alive (invariant 1).
            if let Some(ptr) = unsafe { Chunk::bump(chunk, layout, Access::Shared) } {
                // Another thread grew the arena meanwhile.
                return Ok((ptr, chunk));
            }
        }
        // Data is aligned to 16: only larger alignments need room.
        let slack = layout.align().saturating_sub(DATA_ALIGN);
        let needed = layout
            .size()
            .checked_add(slack)
            .filter(|&needed| needed <= Chunk::MAX_CAPACITY)
            .ok_or_else(|| ArenaError::capacity_overflow(layout.size(), self.allocated_bytes()))?;
        let preferred = current.map_or(header.first_chunk, |chunk| {
            // SAFETY: the chunks of a referenced arena are alive (invariant 1).
            let capacity = unsafe { chunk.as_ref() }.capacity();
            capacity.saturating_mul(2).min(MAX_STEP)
        });
        let mut preferred = needed.max(preferred.min(Chunk::MAX_CAPACITY));
        if limit::exceeds(|| preferred) {
            preferred = needed;
            limit::check(needed, layout.size())?;
        }
        let chunk = Chunk::new(preferred, current)
            // Short of memory: exactly what was requested.
            .or_else(|| Chunk::new(needed, current))
            .ok_or_else(|| ArenaError::out_of_memory(layout.size(), self.allocated_bytes()))?;
        // SAFETY: `needed` covers size and alignment, so a fresh chunk suffices; no other thread knows
        // the chunk, so access is exclusive (invariant 6).
        let ptr = unsafe { Chunk::bump(chunk, layout, Access::Exclusive) }
            .ok_or_else(|| ArenaError::out_of_memory(layout.size(), self.allocated_bytes()))?;
        // SAFETY: a live chunk, owned by the arena from here on (invariant 1).
        let capacity = unsafe { chunk.as_ref() }.capacity();
        header.capacity.fetch_add(capacity, Ordering::Relaxed);
        // Release: publishes the chunk's fields.
        header.current.store(chunk.as_ptr(), Ordering::Release);
        drop(locked);
        header.grew(capacity);
        Ok((ptr, chunk))
    }

    /// A region of `wanted` bytes, or of the rest of the current chunk if that is at least `at_least`;
    /// not aligned. `at_least` is not zero.
    ///
    /// # Safety
    ///
    /// `access` is correct (invariant 6).
    #[inline]
    pub(super) unsafe fn claim(
        &self,
        at_least: usize,
        wanted: usize,
        access: Access,
    ) -> Result<Region, ArenaError> {
        if let Some(chunk) = self.current() {
            // SAFETY: the chunks of a referenced arena are alive (invariant 1), and `access` is correct
            // (the caller's promise).
            if let Some(region) = unsafe { Chunk::claim(chunk, at_least, wanted, access) } {
                return Ok(region);
            }
        }
        // SAFETY: `access` is correct (the caller's promise).
        unsafe { self.claim_new(at_least, wanted, access) }
    }

    /// [`claim`](Self::claim) from a new chunk, with the same contract.
    #[cold]
    #[inline(never)]
    unsafe fn claim_new(
        &self,
        at_least: usize,
        wanted: usize,
        access: Access,
    ) -> Result<Region, ArenaError> {
        let layout = Layout::from_size_align(at_least, 1)
            .map_err(|_| ArenaError::capacity_overflow(at_least, self.allocated_bytes()))?;
        let (ptr, chunk) = self.grow(layout)?;
        let mut region = Region {
            ptr,
            size: at_least,
            chunk: Some(chunk),
        };
        // SAFETY: the region's chunk is alive (invariant 1), and `access` is correct (the caller's
        // promise). If another thread allocated in between, `at_least` bytes suffice.
        unsafe { Chunk::extend(&mut region, at_least, wanted, access) };
        Ok(region)
    }

    /// Makes `region`, of which `written` bytes are in use, at least `at_least` bytes large, and `wanted`
    /// if that costs no more: in place, or in a new place with one copy. On an error it is unchanged.
    ///
    /// # Safety
    ///
    /// The region is of this arena, and `access` is correct (invariant 6).
    #[inline]
    pub(super) unsafe fn regrow(
        &self,
        region: &mut Region,
        written: usize,
        (at_least, wanted): (usize, usize),
        align: usize,
        access: Access,
    ) -> Result<(), ArenaError> {
        // SAFETY: the region is of this arena (the caller's promise), so its chunk is alive
        // (invariant 1); `access` is correct (the caller's promise).
        if unsafe { Chunk::extend(region, at_least, wanted, access) } {
            return Ok(());
        }
        let layout = |size| {
            Layout::from_size_align(size, align)
                .map_err(|_| ArenaError::capacity_overflow(size, self.allocated_bytes()))
        };
        let new = match layout(wanted).and_then(|layout| self.region(layout)) {
            Ok(new) => new,
            Err(_) if at_least < wanted => self.region(layout(at_least)?)?,
            Err(error) => return Err(error),
        };
        debug_assert!(written <= region.size && region.size <= new.size);
        // SAFETY: both regions are at least `written` bytes large and do not overlap
        // (invariant 2).
        unsafe { region.ptr.copy_to_nonoverlapping(new.ptr, written) };
        *region = new;
        Ok(())
    }
}

impl Clone for Arena {
    #[inline]
    fn clone(&self) -> Self {
        // Relaxed: a new reference is made from an existing one, which already orders everything.
        let before = self.header().refs.fetch_add(1, Ordering::Relaxed);
        if before > MAX_REFS {
            std::process::abort();
        }
        Self {
            header: self.header,
        }
    }
}

impl Drop for Arena {
    #[inline]
    fn drop(&mut self) {
        // The only reference needs no locked instruction: no other code can make another one.
        // Acquire: as in `access`.
        let refs = &self.header().refs;
        if refs.load(Ordering::Acquire) != 1 {
            // Release: everything done through this reference happens before the arena is recycled.
            if refs.fetch_sub(1, Ordering::Release) != 1 {
                return;
            }
            // Acquire: everything done through the other references happened before (a load and not
            // a fence, which ThreadSanitizer does not follow).
            refs.load(Ordering::Acquire);
        }
        // SAFETY: the last reference, and it is not used any more (invariant 1).
        unsafe { recycle(self.header) };
    }
}

impl fmt::Debug for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arena")
            .field("allocated_bytes", &self.allocated_bytes())
            .field("capacity", &self.capacity())
            .finish()
    }
}
