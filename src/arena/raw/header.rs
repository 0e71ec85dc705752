use std::{alloc::Layout, fmt, ptr::NonNull};

use super::chunk::{Chunk, Region};
use crate::{
    arena::ArenaError,
    sync::{Arc, AtomicPtr, AtomicUsize, Mutex, Ordering, lock},
};

/// Capacity of an arena's first chunk when nothing is known about its use.
const DEFAULT_FIRST_CHUNK: usize = 4 * 1024 - Chunk::OVERHEAD;

/// Chunks double up to this size; beyond, each new one is as large as this, or as what is asked.
const MAX_STEP: usize = 4 * 1024 * 1024;

/// More references than this are a leak in a loop, as for `std::sync::Arc`.
const MAX_REFS: usize = isize::MAX as usize;

/// Byte that debug builds fill recycled memory with.
const POISON: u8 = 0xDD;

/// Where an arena goes when its last reference is dropped.
pub(crate) trait Home: Send + Sync {
    /// Takes the arena back. Runs in `Drop`: must not panic.
    fn take_back(&self, arena: IdleArena);

    /// Told that an arena that is out took `bytes` more from the system.
    fn grew(&self, bytes: usize);
}

/// The shared part of an arena. Aligned like a pair of cache lines, so that two arenas in use on
/// two threads never share one.
#[repr(align(128))]
struct Header {
    refs: AtomicUsize,
    /// The chunk allocated from, or null. Replaced under `grow` (invariant 4).
    current: AtomicPtr<Chunk>,
    /// Sum of the chunks' capacities.
    capacity: AtomicUsize,
    grow: Mutex<()>,
    first_chunk: usize,
    /// How often the arena came back to a home and was rented again.
    reuses: u64,
    home: Option<Arc<dyn Home>>,
}

/// A reference to an arena; the last one recycles it.
pub(crate) struct RawArena {
    header: NonNull<Header>,
}

// SAFETY: all state behind the pointer is atomic, behind a lock, or constant while referenced
// (invariants 1 to 4); the memory handed out is governed by the wrappers' lifetimes.
unsafe impl Send for RawArena {}
// SAFETY: as above; every method that takes `&self` is safe to call from several threads.
unsafe impl Sync for RawArena {}

/// An arena that nobody references: it can be rewound, kept, freed, or woken up again.
pub(crate) struct IdleArena {
    header: NonNull<Header>,
}

// SAFETY: the only pointer to the header and its chunks (invariant 1).
unsafe impl Send for IdleArena {}
// SAFETY: `&IdleArena` gives access to plain figures only.
unsafe impl Sync for IdleArena {}

impl IdleArena {
    /// An arena without any chunk, whose first one will hold `first_chunk` bytes.
    pub(crate) fn new(first_chunk: usize) -> Self {
        let header = Box::new(Header {
            refs: AtomicUsize::new(0),
            current: AtomicPtr::new(std::ptr::null_mut()),
            capacity: AtomicUsize::new(0),
            grow: Mutex::new(()),
            first_chunk: if first_chunk == 0 {
                DEFAULT_FIRST_CHUNK
            } else {
                first_chunk
            },
            reuses: 0,
            home: None,
        });
        Self {
            header: NonNull::from(Box::leak(header)),
        }
    }

    fn header(&self) -> &Header {
        // SAFETY: alive until this value is dropped (invariant 1).
        unsafe { self.header.as_ref() }
    }

    fn header_mut(&mut self) -> &mut Header {
        // SAFETY: alive, and this is the only pointer to it (invariant 1).
        unsafe { self.header.as_mut() }
    }

    /// Bytes taken from the system.
    pub(crate) fn capacity(&self) -> usize {
        self.header().capacity.load(Ordering::Relaxed)
    }

    /// Makes all memory free again, and keeps the largest chunk that is not above `keep` bytes.
    pub(crate) fn rewind(&mut self, keep: usize) {
        let mut next = NonNull::new(self.header().current.load(Ordering::Relaxed));
        let mut kept: Option<NonNull<Chunk>> = None;
        while let Some(mut chunk) = next {
            // SAFETY: a chunk of an idle arena: alive, and ours alone (invariant 1).
            next = unsafe { chunk.as_mut() }.take_prev();
            // SAFETY: as above.
            let capacity = unsafe { chunk.as_ref() }.capacity();
            // SAFETY: as above; `kept` was detached from the list in an earlier round.
            let best = kept.map_or(0, |kept| unsafe { kept.as_ref() }.capacity());
            if capacity <= keep && capacity > best {
                if let Some(smaller) = kept.replace(chunk) {
                    // SAFETY: detached, and nothing points into an idle arena's chunks.
                    unsafe { Chunk::free(smaller) };
                }
            } else {
                // SAFETY: as above.
                unsafe { Chunk::free(chunk) };
            }
        }
        let mut capacity = 0;
        if let Some(mut chunk) = kept {
            if cfg!(debug_assertions) {
                // SAFETY: alive, and nothing points into it.
                unsafe { Chunk::poison(chunk, POISON) };
            }
            // SAFETY: alive, and ours alone.
            let chunk = unsafe { chunk.as_mut() };
            chunk.rewind();
            capacity = chunk.capacity();
        }
        let current = kept.map_or(std::ptr::null_mut(), NonNull::as_ptr);
        let header = self.header_mut();
        header.current.store(current, Ordering::Relaxed);
        header.capacity.store(capacity, Ordering::Relaxed);
    }

    /// Turns the arena into its first reference. It goes to `home` after the last one.
    pub(crate) fn wake(mut self, home: Option<Arc<dyn Home>>) -> RawArena {
        let header = self.header_mut();
        header.home = home;
        header.refs.store(1, Ordering::Relaxed);
        let raw = RawArena {
            header: self.header,
        };
        // Ownership went over to the reference.
        #[expect(
            clippy::mem_forget,
            reason = "the header lives on behind the reference"
        )]
        std::mem::forget(self);
        raw
    }

    /// Notes that the arena will be used again.
    pub(crate) fn reused(&mut self) {
        let header = self.header_mut();
        header.reuses = header.reuses.saturating_add(1);
    }
}

impl Drop for IdleArena {
    fn drop(&mut self) {
        self.rewind(0);
        // SAFETY: made by `Box::leak`, alive, and this is the only pointer to it (invariant 1).
        drop(unsafe { Box::from_raw(self.header.as_ptr()) });
    }
}

impl RawArena {
    #[inline]
    fn header(&self) -> &Header {
        // SAFETY: this reference is counted, so the header is alive (invariant 1).
        unsafe { self.header.as_ref() }
    }

    /// Bytes given out so far, padding included.
    pub(crate) fn used(&self) -> usize {
        // Acquire: the chunks' fields are seen as written.
        let mut next = NonNull::new(self.header().current.load(Ordering::Acquire));
        let mut used = 0_usize;
        while let Some(chunk) = next {
            // SAFETY: the chunks of a referenced arena are alive, and so are their predecessors
            // (invariants 1 and 4).
            let chunk = unsafe { chunk.as_ref() };
            used = used.saturating_add(chunk.used());
            next = chunk.prev();
        }
        used
    }

    /// Bytes taken from the system.
    pub(crate) fn capacity(&self) -> usize {
        self.header().capacity.load(Ordering::Relaxed)
    }

    /// Whether the arena was used before and came back from a pool.
    pub(crate) fn is_reused(&self) -> bool {
        self.header().reuses > 0
    }

    /// How many references there are, this one included. Others may change it meanwhile.
    pub(crate) fn references(&self) -> usize {
        self.header().refs.load(Ordering::Relaxed)
    }

    /// Whether both refer to the same arena.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.header == other.header
    }

    /// Memory of `layout`, uninitialised, with the arena's lifetime.
    #[inline]
    pub(super) fn alloc(&self, layout: Layout) -> Result<NonNull<u8>, ArenaError> {
        if layout.size() == 0 {
            return Ok(dangling(layout));
        }
        self.bump(layout).map(|(ptr, _)| ptr)
    }

    #[inline]
    fn bump(&self, layout: Layout) -> Result<(NonNull<u8>, NonNull<Chunk>), ArenaError> {
        // Acquire: pairs with the release in `grow`, so the chunk's fields are seen as written.
        if let Some(chunk) = NonNull::new(self.header().current.load(Ordering::Acquire)) {
            // SAFETY: the chunks of a referenced arena are alive (invariant 1).
            if let Some(ptr) = unsafe { Chunk::bump(chunk, layout) } {
                return Ok((ptr, chunk));
            }
        }
        self.grow(layout)
    }

    #[cold]
    #[inline(never)]
    fn grow(&self, layout: Layout) -> Result<(NonNull<u8>, NonNull<Chunk>), ArenaError> {
        let header = self.header();
        let locked = lock(&header.grow);
        // Relaxed: replaced only under the lock we hold.
        let current = NonNull::new(header.current.load(Ordering::Relaxed));
        if let Some(chunk) = current {
            // SAFETY: the chunks of a referenced arena are alive (invariant 1).
            if let Some(ptr) = unsafe { Chunk::bump(chunk, layout) } {
                // Somebody else grew the arena while we waited.
                return Ok((ptr, chunk));
            }
        }
        // Chunks are aligned to 16: only what lies above needs room to align.
        let slack = layout.align().saturating_sub(align_of::<Chunk>());
        let needed = layout
            .size()
            .checked_add(slack)
            .filter(|&needed| needed <= Chunk::MAX_CAPACITY)
            .ok_or_else(|| ArenaError::capacity_overflow(layout.size(), self.used()))?;
        let preferred = current.map_or(header.first_chunk, |chunk| {
            // SAFETY: as above.
            let capacity = unsafe { chunk.as_ref() }.capacity();
            capacity.saturating_mul(2).min(MAX_STEP)
        });
        let chunk = Chunk::new(needed.max(preferred.min(Chunk::MAX_CAPACITY)), current)
            // Short of memory: what is asked for, without anything in advance.
            .or_else(|| Chunk::new(needed, current))
            .ok_or_else(|| ArenaError::out_of_memory(layout.size(), self.used()))?;
        // SAFETY: `needed` covers size and alignment, so a fresh chunk of it suffices.
        let ptr = unsafe { Chunk::bump(chunk, layout) }
            .ok_or_else(|| ArenaError::out_of_memory(layout.size(), self.used()))?;
        // SAFETY: created above and owned by the arena from here on.
        let capacity = unsafe { chunk.as_ref() }.capacity();
        header.capacity.fetch_add(capacity, Ordering::Relaxed);
        // Release: publishes the chunk's fields.
        header.current.store(chunk.as_ptr(), Ordering::Release);
        drop(locked);
        if let Some(home) = &header.home {
            home.grew(capacity);
        }
        Ok((ptr, chunk))
    }

    /// A region of `size` bytes aligned to `align`.
    #[inline]
    pub(super) fn region(&self, layout: Layout) -> Result<Region, ArenaError> {
        if layout.size() == 0 {
            return Ok(Region {
                ptr: dangling(layout),
                size: 0,
                chunk: None,
            });
        }
        let (ptr, chunk) = self.bump(layout)?;
        Ok(Region {
            ptr,
            size: layout.size(),
            chunk: Some(chunk),
        })
    }

    /// Makes `region`, of which `written` bytes are in use, at least `at_least` bytes large and
    /// `wanted` if that costs no more: in place, or in a new place with one copy.
    ///
    /// The region must be of this arena. On an error it is as before.
    #[inline]
    pub(super) fn regrow(
        &self,
        region: &mut Region,
        written: usize,
        at_least: usize,
        wanted: usize,
        align: usize,
    ) -> Result<(), ArenaError> {
        // SAFETY: the region is of this arena, which is referenced (invariant 1).
        if unsafe { Chunk::extend(region, at_least, wanted) } {
            return Ok(());
        }
        let layout = |size| {
            Layout::from_size_align(size, align)
                .map_err(|_| ArenaError::capacity_overflow(size, self.used()))
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

    /// Gives back what `region` holds beyond `size` bytes, if it is the last thing allocated.
    ///
    /// # Safety
    ///
    /// The region is of this arena and nothing points to its bytes from `size` on.
    #[inline]
    pub(super) unsafe fn shrink(&self, region: &mut Region, size: usize) {
        // SAFETY: the region's chunk is alive (invariant 1); the rest is the caller's promise.
        unsafe { Chunk::shrink(region, size) };
    }
}

/// A well aligned pointer to nothing, for regions of size zero.
fn dangling(layout: Layout) -> NonNull<u8> {
    // An alignment is never zero, so the fallback is never taken.
    NonNull::new(std::ptr::without_provenance_mut(layout.align())).unwrap_or(NonNull::dangling())
}

impl Clone for RawArena {
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

impl Drop for RawArena {
    #[inline]
    fn drop(&mut self) {
        // Release: what this reference did happened before the arena is recycled.
        if self.header().refs.fetch_sub(1, Ordering::Release) == 1 {
            recycle(self.header);
        }
    }
}

#[cold]
fn recycle(header: NonNull<Header>) {
    let mut idle = IdleArena { header };
    // Acquire: what the other references did happened before (a load and not a fence, which
    // ThreadSanitizer does not follow). The count stays zero from here on (invariant 1).
    idle.header().refs.load(Ordering::Acquire);
    // The home is taken out for as long as the arena is idle: an arena in a pool's shelf must not
    // keep that pool alive.
    if let Some(home) = idle.header_mut().home.take() {
        home.take_back(idle);
    }
}

impl fmt::Debug for RawArena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arena")
            .field("allocated_bytes", &self.used())
            .field("capacity", &self.capacity())
            .finish()
    }
}

impl fmt::Debug for IdleArena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdleArena")
            .field("capacity", &self.capacity())
            .finish()
    }
}
