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
    /// The highest `pos` from which something that was in use was given back.
    peak: AtomicUsize,
}

/// What bytes were that are given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// Taken in advance, and not needed.
    Advance,
    /// In use up to now.
    Used,
}

/// Whether others may reach an arena at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// The caller has the only reference to the arena, and holds it exclusively: `pos` is moved by
    /// a load and a store (invariant 6 of the module).
    Exclusive,
    /// They may: `pos` is moved by compare-and-swap.
    Shared,
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
                peak: AtomicUsize::new(0),
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

    /// The most bytes that were in use at once, padding included.
    pub(super) fn high_water(&self) -> usize {
        // Relaxed: as `used`.
        self.used().max(self.peak.load(Ordering::Relaxed))
    }

    /// Makes all bytes free again. `&mut`: nothing points into the chunk (invariant 1).
    #[inline]
    pub(super) fn rewind(&mut self) {
        self.pos.store(0, Ordering::Relaxed);
        // Most requests give nothing back, and a load is cheaper than a store.
        if self.peak.load(Ordering::Relaxed) != 0 {
            self.peak.store(0, Ordering::Relaxed);
        }
    }

    /// Moves `pos` from `from` to `to`, if it is there; `success` orders a shared move.
    #[inline]
    fn step(&self, from: usize, to: usize, access: Access, success: Ordering) -> bool {
        match access {
            Access::Shared => self
                .pos
                .compare_exchange(from, to, success, Ordering::Relaxed)
                .is_ok(),
            // Relaxed: nobody else is there to see it (invariant 6).
            Access::Exclusive => {
                let found = self.pos.load(Ordering::Relaxed) == from;
                if found {
                    self.pos.store(to, Ordering::Relaxed);
                }
                found
            }
        }
    }

    /// Notes how far `pos` had come, before it goes down from `end`.
    #[inline]
    fn note_peak(&self, end: usize, access: Access) {
        // Relaxed: a figure. The load spares the usual case the locked instruction.
        if self.peak.load(Ordering::Relaxed) >= end {
            return;
        }
        match access {
            Access::Exclusive => self.peak.store(end, Ordering::Relaxed),
            Access::Shared => {
                self.peak.fetch_max(end, Ordering::Relaxed);
            }
        }
    }

    /// Address of the data of `chunk`.
    ///
    /// Takes the pointer and not a reference, since a reference to the header would not be allowed
    /// to reach the bytes behind it.
    pub(super) fn data(chunk: NonNull<Self>) -> NonNull<u8> {
        // SAFETY: every chunk is followed by its data (`new`), so this is in or one past the end
        // of the same allocation.
        unsafe { chunk.cast::<u8>().add(Self::OVERHEAD) }
    }

    /// Takes `layout` from the chunk's free bytes; `None` if they do not suffice.
    ///
    /// # Safety
    ///
    /// `chunk` is alive, and `access` is true.
    #[inline]
    pub(super) unsafe fn bump(
        chunk: NonNull<Self>,
        layout: Layout,
        access: Access,
    ) -> Option<NonNull<u8>> {
        // SAFETY: the caller keeps the chunk alive.
        let this = unsafe { chunk.as_ref() };
        // Data begins at `CHUNK_ALIGN`: up to that, offsets are as aligned as addresses.
        let base = if layout.align() <= CHUNK_ALIGN {
            0
        } else {
            Self::data(chunk).addr().get()
        };
        let mask = layout.align() - 1;
        // Relaxed: only a first guess, the step decides.
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
            if this.step(pos, end, access, Ordering::Acquire) {
                // SAFETY: `start <= end <= capacity`, so it stays within the chunk.
                return Some(unsafe { Self::data(chunk).add(start) });
            }
            pos = this.pos.load(Ordering::Relaxed);
        }
    }

    /// Takes `wanted` of the chunk's free bytes, or as many as there are if they are at least
    /// `at_least`; not aligned.
    ///
    /// # Safety
    ///
    /// `chunk` is alive, and `access` is true.
    #[inline]
    pub(super) unsafe fn claim(
        chunk: NonNull<Self>,
        at_least: usize,
        wanted: usize,
        access: Access,
    ) -> Option<Region> {
        // SAFETY: the caller keeps the chunk alive.
        let this = unsafe { chunk.as_ref() };
        loop {
            let pos = this.pos.load(Ordering::Relaxed);
            let room = this.capacity - pos;
            if room < at_least {
                return None;
            }
            let size = wanted.min(room);
            // Acquire: as in `bump`.
            if this.step(pos, pos + size, access, Ordering::Acquire) {
                return Some(Region {
                    // SAFETY: `pos <= capacity`, so it stays within the chunk.
                    ptr: unsafe { Self::data(chunk).add(pos) },
                    size,
                    chunk: Some(chunk),
                });
            }
        }
    }

    /// All that is free of the chunk, without taking it.
    ///
    /// # Safety
    ///
    /// `chunk` is alive.
    #[inline]
    pub(super) unsafe fn free_rest(chunk: NonNull<Self>) -> Region {
        // SAFETY: the caller keeps the chunk alive.
        let this = unsafe { chunk.as_ref() };
        // Relaxed: for somebody who is alone.
        let pos = this.pos.load(Ordering::Relaxed);
        Region {
            // SAFETY: `pos <= capacity`, so it stays within the chunk.
            ptr: unsafe { Self::data(chunk).add(pos) },
            size: this.capacity - pos,
            chunk: Some(chunk),
        }
    }

    /// Makes `end`, which lies in the chunk or at its end, the first free byte.
    ///
    /// # Safety
    ///
    /// `chunk` is alive, the caller is alone with its arena, and nothing points to the bytes from `end`
    /// on.
    #[inline]
    pub(super) unsafe fn set_end(chunk: NonNull<Self>, end: NonNull<u8>) {
        let pos = end.addr().get() - Self::data(chunk).addr().get();
        // Relaxed: nobody else is there to see it (invariant 6).
        // SAFETY: the caller keeps the chunk alive.
        unsafe { chunk.as_ref() }.pos.store(pos, Ordering::Relaxed);
    }

    /// Moves the end of `region` to `wanted` bytes if that is possible where it lies, and
    /// otherwise (`at_least` fits) as far as the chunk goes. Returns whether it grew.
    ///
    /// # Safety
    ///
    /// The region's chunk is alive, and `access` is true.
    #[inline]
    pub(super) unsafe fn extend(
        region: &mut Region,
        at_least: usize,
        wanted: usize,
        access: Access,
    ) -> bool {
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
        // Acquire: as in `bump`.
        let moved = this.step(start + region.size, start + size, access, Ordering::Acquire);
        if moved {
            region.size = size;
        }
        moved
    }

    /// Gives back what `region` holds beyond `size` bytes, if nothing was taken after it.
    ///
    /// # Safety
    ///
    /// The region's chunk is alive, nothing points to the bytes given back, and `access` is true.
    #[inline]
    pub(super) unsafe fn shrink(region: &mut Region, size: usize, used: Use, access: Access) {
        let Some(chunk) = region.chunk else {
            return;
        };
        if size >= region.size {
            return;
        }
        // SAFETY: the caller keeps the chunk alive.
        let this = unsafe { chunk.as_ref() };
        let start = region.ptr.addr().get() - Self::data(chunk).addr().get();
        let end = start + region.size;
        // Relaxed: only spares a region that is not the last one the locked instruction.
        if this.pos.load(Ordering::Relaxed) != end {
            return;
        }
        if used == Use::Used {
            this.note_peak(end, access);
        }
        // Release: this owner's accesses to the bytes happened before the next owner's
        // (invariant 3).
        if this.step(end, start + size, access, Ordering::Release) {
            region.size = size;
        }
    }
}

impl Chunk {
    /// Overwrites the first `count` bytes, whether or not they are in use.
    ///
    /// # Safety
    ///
    /// `chunk` is alive, nothing points into it, and it has at least `count` bytes.
    pub(super) unsafe fn fill(chunk: NonNull<Self>, byte: u8, count: usize) {
        // SAFETY: a chunk has `capacity` bytes of data, and nobody else reaches them.
        unsafe { Self::data(chunk).write_bytes(byte, count) };
        // The chunk may be freed next, which would allow the compiler to leave the writing out.
        std::hint::black_box(chunk);
    }
}
