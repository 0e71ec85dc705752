use std::{
    alloc::{self, Layout},
    ptr::NonNull,
};

use crate::sync::{AtomicUsize, Ordering};

/// Alignment of every chunk, enough for all types but deliberately over-aligned ones.
const CHUNK_ALIGN: usize = 16;

/// One block of memory from the global allocator: this header, then `capacity` bytes.
#[repr(C, align(16))]
pub(super) struct Chunk {
    /// The chunk that was current before; the arena's first chunk has none.
    prev: Option<NonNull<Self>>,
    capacity: usize,
    /// Offset of the first free byte. See invariants 2 and 3 of the module.
    pos: AtomicUsize,
}

/// A stretch of a chunk that has one owner.
///
/// Not `Clone`: whoever holds it may write the bytes, give its tail back and try to extend it.
#[derive(Debug)]
pub(super) struct Region {
    pub(super) ptr: NonNull<u8>,
    pub(super) size: usize,
    /// Where the region lies; `None` for regions of size zero, which lie nowhere.
    pub(super) chunk: Option<NonNull<Chunk>>,
}

impl Chunk {
    /// Bytes of bookkeeping in front of a chunk's data.
    pub(super) const OVERHEAD: usize = size_of::<Self>();

    /// The largest capacity a chunk can have.
    pub(super) const MAX_CAPACITY: usize = isize::MAX as usize - (CHUNK_ALIGN - 1) - Self::OVERHEAD;

    fn layout(capacity: usize) -> Option<Layout> {
        let size = Self::OVERHEAD.checked_add(capacity)?;
        Layout::from_size_align(size, CHUNK_ALIGN).ok()
    }

    /// A new chunk, or `None` if the allocator returns null or `capacity` is beyond all bounds.
    pub(super) fn new(capacity: usize, prev: Option<NonNull<Self>>) -> Option<NonNull<Self>> {
        let layout = Self::layout(capacity)?;
        #[expect(clippy::disallowed_methods, reason = "this is the one place")]
        // SAFETY: the layout is not zero-sized, it holds at least the header.
        let ptr = NonNull::new(unsafe { alloc::alloc(layout) })?.cast::<Self>();
        // SAFETY: `ptr` is valid for writes of a header and aligned to it (16).
        unsafe {
            ptr.write(Self {
                prev,
                capacity,
                pos: AtomicUsize::new(0),
            });
        }
        Some(ptr)
    }

    /// Frees a chunk and returns its predecessor.
    ///
    /// # Safety
    ///
    /// `chunk` came from [`new`](Self::new), is not used afterwards, and nothing points into it.
    pub(super) unsafe fn free(chunk: NonNull<Self>) -> Option<NonNull<Self>> {
        // SAFETY: the caller gives the chunk up, so it is read by value and dropped here.
        let Self { prev, capacity, .. } = unsafe { chunk.read() };
        if let Some(layout) = Self::layout(capacity) {
            #[expect(clippy::disallowed_methods, reason = "this is the one place")]
            // SAFETY: allocated in `new` with the layout of this same capacity.
            unsafe {
                alloc::dealloc(chunk.cast().as_ptr(), layout)
            };
        }
        prev
    }

    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    pub(super) fn prev(&self) -> Option<NonNull<Self>> {
        self.prev
    }

    /// Cuts the chunk off from its predecessor and returns that.
    pub(super) fn take_prev(&mut self) -> Option<NonNull<Self>> {
        self.prev.take()
    }

    /// Bytes given out, padding included.
    pub(super) fn used(&self) -> usize {
        // Relaxed: a figure for statistics.
        self.pos.load(Ordering::Relaxed)
    }

    /// Makes all bytes free again. `&mut`: nothing points into the chunk (invariant 1).
    pub(super) fn rewind(&mut self) {
        self.pos.store(0, Ordering::Relaxed);
    }

    /// Address of the data of `chunk`.
    ///
    /// Takes the pointer and not a reference, since a reference to the header would not be allowed
    /// to reach the bytes behind it.
    fn data(chunk: NonNull<Self>) -> NonNull<u8> {
        // SAFETY: every chunk is followed by its data (`new`), so this is in or one past the end
        // of the same allocation.
        unsafe { chunk.cast::<u8>().add(Self::OVERHEAD) }
    }

    /// Takes `layout` from the chunk's free bytes; `None` if they do not suffice.
    ///
    /// # Safety
    ///
    /// `chunk` is alive.
    #[inline]
    pub(super) unsafe fn bump(chunk: NonNull<Self>, layout: Layout) -> Option<NonNull<u8>> {
        // SAFETY: the caller keeps the chunk alive.
        let this = unsafe { chunk.as_ref() };
        // Data begins at `CHUNK_ALIGN`: up to that, offsets are as aligned as addresses.
        let base = if layout.align() <= CHUNK_ALIGN {
            0
        } else {
            Self::data(chunk).addr().get()
        };
        let mask = layout.align() - 1;
        // Relaxed: only a first guess, the compare-and-swap decides.
        let mut pos = this.pos.load(Ordering::Relaxed);
        loop {
            // A free position is an address inside an allocation, which ends below isize::MAX:
            // adding an alignment (at most 2^63) cannot wrap twice, and `checked` catches once.
            let start = (base + pos).checked_add(mask)? & !mask;
            let start = start - base;
            let end = start.checked_add(layout.size())?;
            if end > this.capacity {
                return None;
            }
            // Acquire: writes of a former owner of these bytes happened before (invariant 3).
            match this
                .pos
                .compare_exchange_weak(pos, end, Ordering::Acquire, Ordering::Relaxed)
            {
                // SAFETY: `start <= end <= capacity`, so it stays within the chunk.
                Ok(_) => return Some(unsafe { Self::data(chunk).add(start) }),
                Err(now) => pos = now,
            }
        }
    }

    /// Moves the end of `region` to `wanted` bytes if that is possible where it lies, and
    /// otherwise (`at_least` fits) as far as the chunk goes. Returns whether it grew.
    ///
    /// # Safety
    ///
    /// The region's chunk is alive.
    #[inline]
    pub(super) unsafe fn extend(region: &mut Region, at_least: usize, wanted: usize) -> bool {
        let Some(chunk) = region.chunk else {
            return false;
        };
        // SAFETY: the caller keeps the chunk alive.
        let this = unsafe { chunk.as_ref() };
        let start = region.ptr.addr().get() - Self::data(chunk).addr().get();
        let room = this.capacity - start;
        if room < at_least {
            return false;
        }
        let size = wanted.min(room);
        let end = start + region.size;
        // Acquire: as in `bump`.
        let moved = this
            .pos
            .compare_exchange(end, start + size, Ordering::Acquire, Ordering::Relaxed)
            .is_ok();
        if moved {
            region.size = size;
        }
        moved
    }

    /// Gives back what `region` holds beyond `size` bytes, if nothing was taken after it.
    ///
    /// # Safety
    ///
    /// The region's chunk is alive, and nothing points to the bytes given back.
    #[inline]
    pub(super) unsafe fn shrink(region: &mut Region, size: usize) {
        let Some(chunk) = region.chunk else {
            return;
        };
        if size >= region.size {
            return;
        }
        // SAFETY: the caller keeps the chunk alive.
        let this = unsafe { chunk.as_ref() };
        let start = region.ptr.addr().get() - Self::data(chunk).addr().get();
        // Release: this owner's accesses to the bytes happened before the next owner's
        // (invariant 3).
        let moved = this
            .pos
            .compare_exchange(
                start + region.size,
                start + size,
                Ordering::Release,
                Ordering::Relaxed,
            )
            .is_ok();
        if moved {
            region.size = size;
        }
    }
}

impl Chunk {
    /// Overwrites all bytes, so that a stale pointer shows in debug builds; also those that were
    /// given back in the meantime.
    ///
    /// # Safety
    ///
    /// `chunk` is alive and nothing points into it.
    pub(super) unsafe fn poison(chunk: NonNull<Self>, byte: u8) {
        // SAFETY: the caller keeps the chunk alive.
        let capacity = unsafe { chunk.as_ref() }.capacity();
        // SAFETY: a chunk has `capacity` bytes of data, and nobody else reaches them.
        unsafe { Self::data(chunk).write_bytes(byte, capacity) };
    }
}
