use std::{
    alloc::{self, Layout},
    ptr::NonNull,
};

use crate::sync::{AtomicUsize, Ordering};

/// Alignment of the data of every chunk, enough for all but deliberately over-aligned types.
pub(super) const DATA_ALIGN: usize = 16;

/// The head of a chunk, apart from its data, which has exactly the size that was asked for: with the head in
/// front of it, 16 KiB would take 20 KiB from allocators that round up, and 1 MiB 1.5.
pub(super) struct Chunk {
    /// `capacity` bytes.
    data: NonNull<u8>,
    /// The chunk that was current before; the arena's first chunk has none.
    prev: Option<NonNull<Self>>,
    capacity: usize,
    /// Offset of the first free byte. See invariants 2 and 3 of `raw`.
    pos: AtomicUsize,
    /// The highest `pos` from which something that was in use was given back.
    peak: AtomicUsize,
}

/// What bytes that are given back were used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// Taken in advance and not used.
    Advance,
    /// In use until now.
    Used,
}

/// Whether other code may access an arena at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// No: the caller holds the arena's only reference exclusively, and `pos` is moved by a load and
    /// a store (invariant 6 of `raw`).
    Exclusive,
    /// Yes: `pos` is moved by compare-and-swap.
    Shared,
}

/// A part of a chunk that has one owner.
///
/// Not `Clone`: the owner may write the bytes, give back the tail and try to extend it.
#[derive(Debug)]
pub(super) struct Region {
    pub(super) ptr: NonNull<u8>,
    pub(super) size: usize,
    /// The region's chunk; `None` for regions of size zero.
    pub(super) chunk: Option<NonNull<Chunk>>,
}

impl Region {
    /// A region of size zero with the alignment of `layout`.
    pub(super) fn empty(layout: Layout) -> Self {
        Self {
            ptr: dangling(layout),
            size: 0,
            chunk: None,
        }
    }
}

/// An aligned pointer for regions of size zero.
pub(super) fn dangling(layout: Layout) -> NonNull<u8> {
    // An alignment is never zero, so the fallback is never taken.
    NonNull::new(std::ptr::without_provenance_mut(layout.align())).unwrap_or(NonNull::dangling())
}

impl Chunk {
    /// The largest capacity a chunk can have.
    pub(super) const MAX_CAPACITY: usize = isize::MAX as usize - (DATA_ALIGN - 1);

    fn layout(capacity: usize) -> Option<Layout> {
        Layout::from_size_align(capacity, DATA_ALIGN).ok()
    }

    /// A new chunk; `None` if the allocator returns null, or `capacity` is zero or too large.
    pub(super) fn new(capacity: usize, prev: Option<NonNull<Self>>) -> Option<NonNull<Self>> {
        let layout = Self::layout(capacity).filter(|layout| layout.size() > 0)?;
        #[expect(clippy::disallowed_methods, reason = "chunks are allocated here only")]
        // SAFETY: neither layout is zero-sized.
        let (data, head) = unsafe {
            let data = NonNull::new(alloc::alloc(layout))?;
            (data, alloc::alloc(Layout::new::<Self>()))
        };
        let Some(head) = NonNull::new(head.cast::<Self>()) else {
            #[expect(clippy::disallowed_methods, reason = "as above")]
            // SAFETY: allocated above with this layout, and nothing else knows it.
            unsafe {
                alloc::dealloc(data.as_ptr(), layout);
            }
            return None;
        };
        let filled = Self {
            data,
            prev,
            capacity,
            pos: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
        };
        // SAFETY: allocated above for a head, and nothing else knows it.
        unsafe {
            head.write(filled);
        }
        Some(head)
    }

    /// Frees a chunk.
    ///
    /// # Safety
    ///
    /// `chunk` came from [`new`](Self::new), is not used afterwards, and nothing points into it.
    pub(super) unsafe fn free(chunk: NonNull<Self>) {
        // SAFETY: made in `new` as a box is, and not used afterwards (the caller's promise).
        let head = unsafe { Box::from_raw(chunk.as_ptr()) };
        if let Some(layout) = Self::layout(head.capacity) {
            #[expect(clippy::disallowed_methods, reason = "chunks are freed here only")]
            // SAFETY: allocated in `new` with the layout of the same capacity (invariant 4).
            unsafe {
                alloc::dealloc(head.data.as_ptr(), layout);
            }
        }
    }

    /// Where its data begins.
    pub(super) fn address(&self) -> usize {
        self.data.addr().get()
    }

    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    pub(super) fn prev(&self) -> Option<NonNull<Self>> {
        self.prev
    }

    /// Detaches the predecessor and returns it.
    pub(super) fn take_prev(&mut self) -> Option<NonNull<Self>> {
        self.prev.take()
    }

    /// Bytes in use, padding included.
    pub(super) fn used(&self) -> usize {
        // Relaxed: a figure for statistics.
        self.pos.load(Ordering::Relaxed)
    }

    /// The most bytes that were in use at the same time, padding included.
    pub(super) fn high_water(&self) -> usize {
        // Relaxed: a figure for statistics.
        self.used().max(self.peak.load(Ordering::Relaxed))
    }

    /// Frees all bytes. `&mut`: nothing points into the chunk (invariant 1).
    #[inline]
    pub(super) fn rewind(&mut self) {
        self.pos.store(0, Ordering::Relaxed);
        // Few requests give bytes back, and a load is cheaper than a store.
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
            // Relaxed: no other thread can see it (invariant 6).
            Access::Exclusive => {
                let found = self.pos.load(Ordering::Relaxed) == from;
                if found {
                    self.pos.store(to, Ordering::Relaxed);
                }
                found
            }
        }
    }

    /// Records `end` as a peak, before `pos` moves down from there.
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

    /// Takes `layout` from the chunk's free bytes; `None` if they do not suffice.
    ///
    /// # Safety
    ///
    /// `chunk` is alive, and `access` is correct (invariant 6).
    #[inline]
    pub(super) unsafe fn bump(
        chunk: NonNull<Self>,
        layout: Layout,
        access: Access,
    ) -> Option<NonNull<u8>> {
        // SAFETY: the chunk is alive (the caller's promise).
        let this = unsafe { chunk.as_ref() };
        // Data is aligned to `DATA_ALIGN`: up to that, offsets are as aligned as addresses.
        let base = if layout.align() <= DATA_ALIGN {
            0
        } else {
            this.data.addr().get()
        };
        let mask = layout.align() - 1;
        // Relaxed: a first guess; `step` verifies it.
        let mut pos = this.pos.load(Ordering::Relaxed);
        loop {
            // A free position is an address inside an allocation, which ends below isize::MAX:
            // adding an alignment (at most 2^63) cannot wrap twice, and `checked` catches once.
            let start = (base + pos).checked_add(mask)? & !mask;
            let start = start - base;
            let end = start.checked_add(layout.size())?;
            if end > this.capacity + usize::from(bug!("chunk-end-off-by-one")) {
                return None;
            }
            // Acquire: writes of a former owner of these bytes happened before (invariant 3).
            if this.step(pos, end, access, Ordering::Acquire) {
                // SAFETY: `start <= end <= capacity`, so it stays within the chunk (invariant 2).
                return Some(unsafe { this.data.add(start) });
            }
            pos = this.pos.load(Ordering::Relaxed);
        }
    }

    /// Takes `wanted` of the chunk's free bytes, or all of them if they are at least `at_least`; not
    /// aligned.
    ///
    /// # Safety
    ///
    /// `chunk` is alive, and `access` is correct (invariant 6).
    #[inline]
    pub(super) unsafe fn claim(
        chunk: NonNull<Self>,
        at_least: usize,
        wanted: usize,
        access: Access,
    ) -> Option<Region> {
        // SAFETY: the chunk is alive (the caller's promise).
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
                    // SAFETY: `pos <= capacity` (invariant 2), so it stays within the chunk.
                    ptr: unsafe { this.data.add(pos) },
                    size,
                    chunk: Some(chunk),
                });
            }
        }
    }

    /// The free bytes of the chunk, without taking them.
    ///
    /// # Safety
    ///
    /// `chunk` is alive.
    #[inline]
    pub(super) unsafe fn free_rest(chunk: NonNull<Self>) -> Region {
        // SAFETY: the chunk is alive (the caller's promise).
        let this = unsafe { chunk.as_ref() };
        // Relaxed: the caller has exclusive access (invariant 6).
        let pos = this.pos.load(Ordering::Relaxed);
        Region {
            // SAFETY: `pos <= capacity` (invariant 2), so it stays within the chunk.
            ptr: unsafe { this.data.add(pos) },
            size: this.capacity - pos,
            chunk: Some(chunk),
        }
    }

    /// Makes `end`, which lies in the chunk or at its end, the first free byte.
    ///
    /// # Safety
    ///
    /// `chunk` is alive, the caller has exclusive access to the arena (invariant 6), and nothing points
    /// to the bytes from `end` on.
    #[inline]
    pub(super) unsafe fn set_end(chunk: NonNull<Self>, end: NonNull<u8>) {
        // SAFETY: the chunk is alive (the caller's promise).
        let this = unsafe { chunk.as_ref() };
        let pos = end.addr().get() - this.data.addr().get();
        // Relaxed: no other thread can see it (invariant 6).
        this.pos.store(pos, Ordering::Relaxed);
    }

    /// Extends `region` in place to `wanted` bytes, or to the chunk's end if at least `at_least` bytes
    /// fit. Returns whether it grew.
    ///
    /// # Safety
    ///
    /// The region's chunk is alive, and `access` is correct (invariant 6).
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
        // SAFETY: the chunk is alive (the caller's promise).
        let this = unsafe { chunk.as_ref() };
        let start = region.ptr.addr().get() - this.data.addr().get();
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

    /// Gives back the bytes of `region` from `size` on, if nothing was allocated after it.
    ///
    /// # Safety
    ///
    /// The region's chunk is alive, nothing points to the bytes given back, and `access` is correct
    /// (invariant 6).
    #[inline]
    pub(super) unsafe fn shrink(region: &mut Region, size: usize, used: Use, access: Access) {
        let Some(chunk) = region.chunk else {
            return;
        };
        if size >= region.size {
            return;
        }
        // SAFETY: the chunk is alive (the caller's promise).
        let this = unsafe { chunk.as_ref() };
        let start = region.ptr.addr().get() - this.data.addr().get();
        let end = start + region.size;
        // Relaxed: only saves the locked instruction if the region is not the topmost one.
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
        // SAFETY: a chunk has `capacity` bytes of data, and no other code accesses them (invariant 1).
        unsafe { chunk.as_ref().data.write_bytes(byte, count) };
        // The chunk may be freed next, and the compiler could omit writes before that.
        std::hint::black_box(chunk);
    }
}
