use std::{fmt, mem::ManuallyDrop, ptr::NonNull};

use super::{
    block::{BlockPool, IdleBlock, POISON},
    buffers::Buffers,
    chunk::Chunk,
    rented_for::RentedFor,
    slot::{ALIGN, PoolHint, Pooled},
};
#[cfg(feature = "trace")]
use crate::trace;
use crate::{
    account,
    sync::{Arc, AtomicBool, AtomicPtr, AtomicUsize, Mutex, Ordering},
};

/// Capacity of an arena's first chunk by default.
const DEFAULT_FIRST_CHUNK: usize = 4 * 1024;

/// Takes an arena back when its last reference is dropped.
pub(crate) trait Recycler: BlockPool {
    /// Takes back an arena that is attached to this recycler. Runs in `Drop`: must not panic.
    ///
    /// An associated function, since the arena holds the only recycler reference that is known to
    /// exist, and the arena is passed by value. An implementation finds itself by its `address`, or
    /// calls [`IdleArena::recycle_owned`].
    fn recycle(arena: IdleArena, address: usize)
    where
        Self: Sized;

    /// Takes back an arena through a counted reference. See [`IdleArena::recycle_owned`].
    fn recycle_owned(self: Arc<Self>, arena: IdleArena);

    /// Called when an arena in use took `bytes` more from the system.
    fn grew(&self, bytes: usize);

    /// Called when an arena was left behind that was rented for `origin`. It comes back and
    /// [says so](IdleArena::take_left_behind).
    fn left_behind(&self, origin: u32);
}

/// The recycler that an arena is attached to. The arena keeps it while it waits in a pool, too, so
/// renting it again counts no reference.
#[repr(C)]
struct Attached {
    /// [`Recycler::recycle`] of the recycler.
    recycle: fn(IdleArena, usize),
    /// Where the recycler lies.
    address: usize,
    // The second cache line of the header.
    recycler: Arc<dyn Recycler>,
    /// [`BlockPool::take_block`] of the recycler.
    take_block: fn(usize, usize) -> Option<IdleBlock>,
}

/// The shared part of an arena. It is aligned to a pair of cache lines: two arenas in use on two
/// threads never share a line, and a pointer to a header has seven bits to spare.
///
/// The order of the fields matters. Everything that a trip through the pool touches is in the first
/// line, so only that line moves when one thread returns an arena that another one rented.
#[repr(C, align(128))]
pub(super) struct Header {
    pub(super) refs: AtomicUsize,
    /// The chunk allocated from, or null. Replaced under `grow` (invariant 4).
    pub(super) current: AtomicPtr<Chunk>,
    /// Sum of the chunks' capacities.
    pub(super) capacity: AtomicUsize,
    hint: PoolHint,
    /// Whether the arena was recycled and rented again.
    pub(super) reused: bool,
    /// What happened since the arena was rented. Each is a byte of its own, so that none takes a locked
    /// instruction: the arena had a buffer with memory,
    pub(super) has_buffers: AtomicBool,
    /// the memory of one was used before,
    pub(super) buffers_reused: AtomicBool,
    /// and its request is over, while others still use it.
    left_behind: AtomicBool,
    pub(super) rented_for: RentedFor,
    attached: Option<Attached>,
    pub(super) grow: Mutex<()>,
    /// Capacity of a chunk made when there is none.
    pub(super) first_chunk: usize,
    pub(super) buffers: Buffers,
}

const _: () = assert!(align_of::<Header>() == ALIGN);

#[cfg(not(tower_memory_loom))]
const _: () = assert!(
    std::mem::offset_of!(Header, attached) + std::mem::offset_of!(Attached, recycler) == 64
        || size_of::<usize>() != 8
);

impl Header {
    /// Counts the arena as left behind until it comes back, if it has an origin. The caller
    /// has a reference.
    #[cold]
    pub(super) fn leave_behind(&self) {
        let origin = self.rented_for.origin();
        if let (Some(attached), 1..) = (&self.attached, origin) {
            self.left_behind.store(true, Ordering::Relaxed);
            attached.recycler.left_behind(origin);
        }
    }

    /// Reports growth to the recycler.
    pub(super) fn grew(&self, bytes: usize) {
        if let Some(attached) = &self.attached {
            attached.recycler.grew(bytes);
        }
        #[cfg(feature = "trace")]
        trace::event(trace::Kind::ArenaGrowth, bytes as u64);
    }

    /// A block of at least `bytes` bytes: of the arena's pool, or new if it has none. `None` if there
    /// is no memory.
    #[inline]
    pub(super) fn take_block(&self, bytes: usize) -> Option<IdleBlock> {
        match &self.attached {
            Some(attached) => (attached.take_block)(bytes, attached.address)
                .or_else(|| Arc::clone(&attached.recycler).take_block_owned(bytes)),
            None => IdleBlock::new(bytes),
        }
    }
}

/// An arena without references: it can be kept, freed, or activated again with all memory free.
pub(crate) struct IdleArena {
    header: NonNull<Header>,
}

// SAFETY: the only pointer to the header and its chunks (invariant 1).
unsafe impl Send for IdleArena {}
// SAFETY: `&IdleArena` only reads plain numbers of a header that is alive (invariant 1).
unsafe impl Sync for IdleArena {}

// SAFETY: a header is aligned to `ALIGN`.
unsafe impl Pooled for IdleArena {
    #[inline]
    fn into_word(self) -> NonNull<()> {
        self.into_header().cast()
    }

    #[inline]
    unsafe fn from_word(word: NonNull<()>) -> Self {
        Self {
            header: word.cast(),
        }
    }
}

/// How much of an arena's memory is kept when it is recycled.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Retain {
    /// The largest chunk that may be kept, in bytes.
    pub(crate) most: usize,
    /// Whether all memory is overwritten with zeros.
    pub(crate) wipe: bool,
}

impl IdleArena {
    /// An arena without chunks, whose first chunk will hold `first_chunk` bytes; zero means the
    /// default.
    pub(crate) fn new(first_chunk: usize) -> Self {
        let header = Box::new(Header {
            refs: AtomicUsize::new(0),
            current: AtomicPtr::new(std::ptr::null_mut()),
            capacity: AtomicUsize::new(0),
            hint: PoolHint {
                capacity: 0,
                class: 0,
                hot: false,
            },
            reused: false,
            has_buffers: AtomicBool::new(false),
            buffers_reused: AtomicBool::new(false),
            left_behind: AtomicBool::new(false),
            rented_for: RentedFor::default(),
            attached: None,
            grow: Mutex::new(()),
            buffers: Buffers::new(),
            first_chunk: if first_chunk == 0 {
                DEFAULT_FIRST_CHUNK
            } else {
                first_chunk
            },
        });
        Self {
            header: NonNull::from(Box::leak(header)),
        }
    }

    /// Gives up ownership; the caller becomes responsible for the arena.
    pub(super) fn into_header(self) -> NonNull<Header> {
        ManuallyDrop::new(self).header
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
    #[inline]
    pub(crate) fn capacity(&self) -> usize {
        self.header().capacity.load(Ordering::Relaxed)
    }

    /// [`retain`](Self::retain) for an arena that is known to keep everything and is not wiped.
    /// Touches no chunk, except in debug builds.
    #[inline]
    pub(crate) fn retain_unchanged(&mut self) {
        if cfg!(debug_assertions) {
            if let Some(chunk) = NonNull::new(self.header_mut().current.load(Ordering::Relaxed)) {
                // SAFETY: a chunk of an idle arena is alive and ours alone (invariant 1).
                unsafe { cover(chunk, false) };
            }
        }
    }

    /// Frees all memory but the largest chunk that is not above `how.most` bytes.
    #[cold]
    pub(crate) fn retain(&mut self, how: Retain) {
        let mut next = NonNull::new(self.header().current.load(Ordering::Relaxed));
        let mut kept: Option<NonNull<Chunk>> = None;
        let free = |chunk: NonNull<Chunk>| {
            // SAFETY: a detached chunk of an idle arena is alive and ours alone (invariant 1).
            unsafe {
                if how.wipe {
                    Chunk::fill(chunk, 0, chunk.as_ref().capacity());
                }
                Chunk::free(chunk);
            }
        };
        while let Some(mut chunk) = next {
            // SAFETY: a chunk of an idle arena is alive and ours alone (invariant 1).
            next = unsafe { chunk.as_mut() }.take_prev();
            // SAFETY: alive and ours alone (invariant 1).
            let capacity = unsafe { chunk.as_ref() }.capacity();
            // SAFETY: alive and ours alone (invariant 1); an earlier round detached `kept`.
            let best = kept.map_or(0, |kept| unsafe { kept.as_ref() }.capacity());
            if capacity <= how.most && capacity > best {
                if let Some(smaller) = kept.replace(chunk) {
                    free(smaller);
                }
            } else {
                free(chunk);
            }
        }
        let mut capacity = 0;
        if let Some(chunk) = kept {
            // SAFETY: alive and ours alone (invariant 1).
            let kept = unsafe { chunk.as_ref() };
            capacity = kept.capacity();
            if capacity >= account::LARGE {
                // It was a block of the request that made it, and is lent from now on.
                account::returned(kept.address(), capacity);
            }
            // SAFETY: nothing points into the chunk of an idle arena (invariant 1).
            unsafe { cover(chunk, how.wipe) };
        }
        let current = kept.map_or(std::ptr::null_mut(), NonNull::as_ptr);
        let header = self.header_mut();
        header.current.store(current, Ordering::Relaxed);
        header.capacity.store(capacity, Ordering::Relaxed);
    }

    /// The hint set last, whether or not it is still valid.
    #[inline]
    pub(crate) fn hint(&self) -> PoolHint {
        self.header().hint
    }

    /// Sets the hint for the present capacity.
    pub(crate) fn set_hint(&mut self, hint: PoolHint) {
        self.header_mut().hint = hint;
    }

    /// Attaches the arena: `recycler` takes it back whenever its last reference is dropped.
    pub(crate) fn attach<R: Recycler + 'static>(&mut self, recycler: Arc<R>) {
        self.header_mut().attached = Some(Attached {
            recycle: R::recycle,
            address: Arc::as_ptr(&recycler).addr(),
            recycler,
            take_block: R::take_block,
        });
    }

    /// For whom the arena was rented, if it was left behind; zero otherwise.
    #[inline]
    pub(crate) fn take_left_behind(&mut self) -> u32 {
        let header = self.header_mut();
        if !header.left_behind.load(Ordering::Relaxed) {
            return 0;
        }
        header.left_behind.store(false, Ordering::Relaxed);
        header.rented_for.origin()
    }

    /// Says for whom the arena is rented.
    #[inline]
    pub(crate) fn rent_for(&mut self, whom: RentedFor) {
        let header = self.header_mut();
        if header.rented_for != whom {
            header.rented_for = whom;
        }
    }

    /// Passes the arena to its recycler, which is kept alive meanwhile by a counted reference.
    pub(crate) fn recycle_owned(self) {
        if let Some(attached) = &self.header().attached {
            Arc::clone(&attached.recycler).recycle_owned(self);
        }
    }

    /// Marks the arena as used again, unless it has no memory that could be.
    #[inline]
    pub(crate) fn mark_reused(&mut self) {
        let header = self.header_mut();
        if !header.reused && header.capacity.load(Ordering::Relaxed) > 0 {
            header.reused = true;
        }
    }
}

/// Overwrites a chunk's bytes: with zeros if `wipe` is set, with [`POISON`] in debug builds.
///
/// # Safety
///
/// `chunk` is alive, and nothing points into it.
unsafe fn cover(chunk: NonNull<Chunk>, wipe: bool) {
    if (wipe || cfg!(debug_assertions)) && !bug!("kept-arena-not-wiped") {
        let byte = if wipe { 0 } else { POISON };
        // All of the chunk, since bytes above `pos` may have been written and given back.
        // SAFETY: alive, nothing points into it, and it has this many bytes (the caller's promise).
        unsafe { Chunk::fill(chunk, byte, chunk.as_ref().capacity()) };
    }
}

impl Drop for IdleArena {
    fn drop(&mut self) {
        self.retain(Retain {
            most: 0,
            wipe: false,
        });
        // SAFETY: made by `Box::leak`, alive, and this is the only pointer to it (invariant 1).
        drop(unsafe { Box::from_raw(self.header.as_ptr()) });
    }
}

/// Recycles an arena after its last reference.
///
/// # Safety
///
/// The count of references is zero, or the caller's is the last one and not used any more.
#[cold]
#[inline(never)]
pub(super) unsafe fn recycle(header: NonNull<Header>) {
    // SAFETY: the header is alive until its `IdleArena` is dropped (invariant 1).
    let attached = unsafe { &header.as_ref().attached };
    let recycler = attached.as_ref().map(|to| (to.recycle, to.address));
    // The last reference is gone (the caller's promise), so this pointer is the only one (invariant
    // 1).
    let idle = IdleArena { header };
    match recycler {
        Some((recycle, address)) => {
            if bug!("arena-returned-twice") {
                recycle(IdleArena { header }, address);
            }
            recycle(idle, address);
        }
        None => drop(idle),
    }
}

impl fmt::Debug for IdleArena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdleArena")
            .field("capacity", &self.capacity())
            .finish()
    }
}
