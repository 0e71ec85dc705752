use std::{fmt, ptr::NonNull};

use super::{chunk::Chunk, reference::RawArena};
use crate::sync::{Arc, AtomicPtr, AtomicUsize, Mutex, Ordering};

/// Capacity of an arena's first chunk when nothing is known about its use.
const DEFAULT_FIRST_CHUNK: usize = 4 * 1024 - Chunk::OVERHEAD;

/// Byte that debug builds fill recycled memory with.
const POISON: u8 = 0xDD;

/// Where an arena goes when its last reference is dropped.
pub(crate) trait Home: Send + Sync {
    /// Takes the arena back. Runs in `Drop`: must not panic.
    ///
    /// The home comes along by value, since the arena may have been the last thing that kept it
    /// alive; an arena that is kept gets it back with [`IdleArena::settle`].
    fn take_back(self: Arc<Self>, arena: IdleArena);

    /// Told that an arena that is out took `bytes` more from the system.
    fn grew(&self, bytes: usize);
}

/// The shared part of an arena. Aligned like a pair of cache lines, so that two arenas in use on
/// two threads never share one, and so that a pointer to it has seven bits to spare.
#[repr(align(128))]
pub(super) struct Header {
    pub(super) refs: AtomicUsize,
    /// The chunk allocated from, or null. Replaced under `grow` (invariant 4).
    pub(super) current: AtomicPtr<Chunk>,
    /// Sum of the chunks' capacities.
    pub(super) capacity: AtomicUsize,
    pub(super) grow: Mutex<()>,
    /// Capacity of a chunk made when there is none.
    pub(super) first_chunk: usize,
    /// How often the arena came back to a home and was rented again.
    pub(super) reuses: u64,
    /// Kept while the arena waits in a pool, too: renting it again costs no reference.
    pub(super) home: Option<Arc<dyn Home>>,
}

/// An arena that nobody references: it can be rewound, kept, freed, or woken up again.
pub(crate) struct IdleArena {
    header: NonNull<Header>,
}

// SAFETY: the only pointer to the header and its chunks (invariant 1).
unsafe impl Send for IdleArena {}
// SAFETY: `&IdleArena` gives access to plain figures only.
unsafe impl Sync for IdleArena {}

/// What becomes of an arena's memory between two users.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rewind {
    /// The largest chunk that may be kept, in bytes.
    pub(crate) keep: usize,
    /// Whether what was written is overwritten with zeros.
    pub(crate) wipe: bool,
}

impl IdleArena {
    /// An arena without any chunk, whose first one will hold `first_chunk` bytes; zero means no
    /// preference.
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

    /// The arena behind a header that no reference points to any more.
    ///
    /// # Safety
    ///
    /// The header is alive and this becomes the only pointer to it.
    pub(super) const unsafe fn from_header(header: NonNull<Header>) -> Self {
        Self { header }
    }

    /// Gives up ownership: whoever gets the pointer answers for the arena.
    pub(super) fn into_header(self) -> NonNull<Header> {
        std::mem::ManuallyDrop::new(self).header
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

    /// Makes all memory free again, and keeps the largest chunk that is not above `how.keep` bytes.
    pub(crate) fn rewind(&mut self, how: Rewind) {
        let header = self.header_mut();
        // Nearly always: one chunk, which is kept.
        if let Some(mut chunk) = NonNull::new(header.current.load(Ordering::Relaxed)) {
            // SAFETY: a chunk of an idle arena: alive, and ours alone (invariant 1).
            let this = unsafe { chunk.as_mut() };
            if this.prev().is_none() && this.capacity() <= how.keep {
                // SAFETY: as above.
                unsafe { clean(chunk, how.wipe) };
                return;
            }
        }
        self.rewind_all(how);
    }

    #[cold]
    fn rewind_all(&mut self, how: Rewind) {
        let mut next = NonNull::new(self.header().current.load(Ordering::Relaxed));
        let mut kept: Option<NonNull<Chunk>> = None;
        let free = |chunk: NonNull<Chunk>| {
            // SAFETY: a chunk of an idle arena: alive, ours alone (invariant 1), and detached.
            unsafe {
                if how.wipe {
                    Chunk::fill(chunk, 0, chunk.as_ref().high_water());
                }
                Chunk::free(chunk);
            }
        };
        while let Some(mut chunk) = next {
            // SAFETY: a chunk of an idle arena: alive, and ours alone (invariant 1).
            next = unsafe { chunk.as_mut() }.take_prev();
            // SAFETY: as above.
            let capacity = unsafe { chunk.as_ref() }.capacity();
            // SAFETY: as above; `kept` was detached from the list in an earlier round.
            let best = kept.map_or(0, |kept| unsafe { kept.as_ref() }.capacity());
            if capacity <= how.keep && capacity > best {
                if let Some(smaller) = kept.replace(chunk) {
                    free(smaller);
                }
            } else {
                free(chunk);
            }
        }
        let mut capacity = 0;
        if let Some(chunk) = kept {
            // SAFETY: alive, and ours alone.
            capacity = unsafe { chunk.as_ref() }.capacity();
            // SAFETY: as above.
            unsafe { clean(chunk, how.wipe) };
        }
        let current = kept.map_or(std::ptr::null_mut(), NonNull::as_ptr);
        let header = self.header_mut();
        header.current.store(current, Ordering::Relaxed);
        header.capacity.store(capacity, Ordering::Relaxed);
    }

    /// Notes where the arena goes when its last reference is dropped.
    #[inline]
    pub(crate) fn settle(&mut self, home: Arc<dyn Home>) {
        self.header_mut().home = Some(home);
    }

    /// Turns the arena into its first reference.
    #[inline]
    pub(crate) fn wake(mut self) -> RawArena {
        self.header_mut().refs.store(1, Ordering::Relaxed);
        // SAFETY: the one reference that was counted.
        unsafe { RawArena::from_header(self.into_header()) }
    }

    /// Notes that the arena will be used again.
    #[inline]
    pub(crate) fn reused(&mut self) {
        let header = self.header_mut();
        header.reuses = header.reuses.saturating_add(1);
    }
}

/// Makes a chunk ready for its next user.
///
/// # Safety
///
/// `chunk` is alive, and nothing points into it.
#[inline]
unsafe fn clean(mut chunk: NonNull<Chunk>, wipe: bool) {
    // SAFETY: alive, and ours alone.
    let this = unsafe { chunk.as_mut() };
    let (used, capacity) = (this.high_water(), this.capacity());
    this.rewind();
    // SAFETY: nothing points into the chunk, which has this many bytes.
    unsafe {
        if wipe {
            Chunk::fill(chunk, 0, used);
        } else if cfg!(debug_assertions) {
            // Also what was given back meanwhile, so that a stale pointer shows.
            Chunk::fill(chunk, POISON, capacity);
        }
    }
}

impl Drop for IdleArena {
    fn drop(&mut self) {
        self.rewind_all(Rewind {
            keep: 0,
            wipe: false,
        });
        // SAFETY: made by `Box::leak`, alive, and this is the only pointer to it (invariant 1).
        drop(unsafe { Box::from_raw(self.header.as_ptr()) });
    }
}

/// Hands an arena back that its last reference has left.
///
/// # Safety
///
/// The count of references is zero, or the caller's is the last one and not used any more.
#[cold]
#[inline(never)]
pub(super) unsafe fn recycle(header: NonNull<Header>) {
    // SAFETY: the caller's promise.
    let mut idle = unsafe { IdleArena::from_header(header) };
    // Taken out: the home may outlive the arena by this call only, or the other way around.
    if let Some(home) = idle.header_mut().home.take() {
        home.take_back(idle);
    }
}

impl fmt::Debug for IdleArena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdleArena")
            .field("capacity", &self.capacity())
            .finish()
    }
}
