use std::{fmt, ptr::NonNull};

use super::{chunk::Chunk, reference::RawArena};
use crate::sync::{Arc, AtomicPtr, AtomicUsize, Mutex, Ordering};

/// Capacity of an arena's first chunk when nothing is known about its use.
const DEFAULT_FIRST_CHUNK: usize = 4 * 1024 - Chunk::OVERHEAD;

/// Byte that debug builds fill recycled memory with.
const POISON: u8 = 0xDD;

/// Where an arena goes when its last reference is dropped.
pub(crate) trait Home: Send + Sync {
    /// Takes back an arena that settled here. Runs in `Drop`: must not panic.
    ///
    /// Not a method, since the arena holds the only reference that is sure to be there, and it is
    /// given away. An implementation finds what it needs by [`IdleArena::home_address`], or goes
    /// through [`receive`](Self::receive).
    fn take_back(arena: IdleArena)
    where
        Self: Sized;

    /// Takes back an arena when there is nothing but the arena to go by. See
    /// [`IdleArena::go_home`].
    fn receive(self: Arc<Self>, arena: IdleArena);

    /// Told that an arena that is out took `bytes` more from the system.
    fn grew(&self, bytes: usize);
}

/// What a home wants to remember of an arena. It holds as long as the arena has the capacity that it
/// was made for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Note {
    /// The capacity it was made for.
    pub(crate) capacity: usize,
    /// The same capacity if the arena may wait where only its thread can reach it; no capacity
    /// otherwise.
    pub(crate) hot: usize,
    pub(crate) class: u8,
}

impl Note {
    /// What no arena's capacity is.
    pub(crate) const NOT_HOT: usize = usize::MAX;
}

/// The shared part of an arena. Aligned like a pair of cache lines, so that two arenas in use on
/// two threads never share one, and so that a pointer to it has seven bits to spare.
///
/// In this order: all that going back to a pool and coming out of it takes is in the first line, which
/// is then the only one that moves when one thread gives back what another one has taken.
#[repr(C, align(128))]
pub(super) struct Header {
    pub(super) refs: AtomicUsize,
    /// The chunk allocated from, or null. Replaced under `grow` (invariant 4).
    pub(super) current: AtomicPtr<Chunk>,
    /// Sum of the chunks' capacities.
    pub(super) capacity: AtomicUsize,
    /// What the home knows of the arena: a [`Note`].
    noted_capacity: usize,
    noted_hot: usize,
    noted_class: u8,
    /// Whether the arena came back to a home and was rented again.
    pub(super) reused: bool,
    /// The address of the home, or zero: see [`IdleArena::home_address`].
    home_at: usize,
    /// [`Home::take_back`] of the home.
    take_back: Option<fn(IdleArena)>,
    // The second line.
    /// Kept while the arena waits in a pool, too: renting it again costs no reference.
    pub(super) home: Option<Arc<dyn Home>>,
    pub(super) grow: Mutex<()>,
    /// Capacity of a chunk made when there is none.
    pub(super) first_chunk: usize,
}

#[cfg(not(tower_memory_loom))]
const _: () = assert!(std::mem::offset_of!(Header, home) == 64 || size_of::<usize>() != 8);

/// An arena that nobody references: it can be kept, freed, or woken up again, with its memory free.
pub(crate) struct IdleArena {
    header: NonNull<Header>,
}

// SAFETY: the only pointer to the header and its chunks (invariant 1).
unsafe impl Send for IdleArena {}
// SAFETY: `&IdleArena` gives access to plain figures only.
unsafe impl Sync for IdleArena {}

/// What becomes of an arena's memory when its user has gone.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Retain {
    /// The largest chunk that may be kept, in bytes.
    pub(crate) most: usize,
    /// Whether all of it is overwritten with zeros.
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
            noted_capacity: 0,
            noted_hot: Note::NOT_HOT,
            noted_class: 0,
            reused: false,
            home_at: 0,
            take_back: None,
            home: None,
            grow: Mutex::new(()),
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

    /// Frees all memory but the largest chunk that is not above `how.most` bytes.
    pub(crate) fn retain(&mut self, how: Retain) {
        if !self.retain_whole(how) {
            self.retain_one(how);
        }
    }

    /// Keeps all memory, if that is one chunk that may be kept.
    fn retain_whole(&mut self, how: Retain) -> bool {
        let current = NonNull::new(self.header_mut().current.load(Ordering::Relaxed));
        let Some(chunk) = current else {
            return false;
        };
        // SAFETY: a chunk of an idle arena: alive, and ours alone (invariant 1).
        let this = unsafe { chunk.as_ref() };
        let whole = this.prev().is_none() && this.capacity() <= how.most;
        if whole {
            // SAFETY: as above.
            unsafe { cover(chunk, how.wipe) };
        }
        whole
    }

    /// What [`retain`](Self::retain) does to an arena that keeps all it has, as is known without looking
    /// at its memory, and without wiping: nothing, but in debug builds.
    #[inline]
    pub(crate) fn retain_unchanged(&mut self) {
        if cfg!(debug_assertions) {
            if let Some(chunk) = NonNull::new(self.header_mut().current.load(Ordering::Relaxed)) {
                // SAFETY: a chunk of an idle arena: alive, and ours alone (invariant 1).
                unsafe { cover(chunk, false) };
            }
        }
    }

    #[cold]
    fn retain_one(&mut self, how: Retain) {
        let mut next = NonNull::new(self.header().current.load(Ordering::Relaxed));
        let mut kept: Option<NonNull<Chunk>> = None;
        let free = |chunk: NonNull<Chunk>| {
            // SAFETY: a chunk of an idle arena: alive, ours alone (invariant 1), and detached.
            unsafe {
                if how.wipe {
                    Chunk::fill(chunk, 0, chunk.as_ref().capacity());
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
            // SAFETY: alive, and ours alone.
            capacity = unsafe { chunk.as_ref() }.capacity();
            // SAFETY: as above.
            unsafe { cover(chunk, how.wipe) };
        }
        let current = kept.map_or(std::ptr::null_mut(), NonNull::as_ptr);
        let header = self.header_mut();
        header.current.store(current, Ordering::Relaxed);
        header.capacity.store(capacity, Ordering::Relaxed);
    }

    /// What was noted last, whether or not it still holds.
    #[inline]
    pub(crate) fn note(&self) -> Note {
        let header = self.header();
        Note {
            capacity: header.noted_capacity,
            hot: header.noted_hot,
            class: header.noted_class,
        }
    }

    /// Notes something for as long as the capacity stays.
    pub(crate) fn set_note(&mut self, note: Note) {
        let header = self.header_mut();
        header.noted_capacity = note.capacity;
        header.noted_hot = note.hot;
        header.noted_class = note.class;
    }

    /// Makes the arena go to `home` each time its last reference is dropped.
    pub(crate) fn settle<H: Home + 'static>(&mut self, home: Arc<H>) {
        let header = self.header_mut();
        header.home_at = Arc::as_ptr(&home).addr();
        header.take_back = Some(H::take_back);
        header.home = Some(home);
    }

    /// The address of the home that the arena settled at; zero if it has none.
    #[inline]
    pub(crate) fn home_address(&self) -> usize {
        self.header().home_at
    }

    /// Gives the arena to its home, by a reference of its own.
    pub(crate) fn go_home(self) {
        if let Some(home) = self.header().home.clone() {
            home.receive(self);
        }
    }

    /// Turns the arena into its first reference, with all of its memory free.
    ///
    /// That is done here and not when it came back, since a thread that takes memory has it in its cache
    /// more often than one that only drops what others have taken.
    #[inline]
    pub(crate) fn wake(mut self) -> RawArena {
        let header = self.header_mut();
        if let Some(mut chunk) = NonNull::new(header.current.load(Ordering::Relaxed)) {
            // SAFETY: a chunk of an idle arena: alive, and ours alone (invariant 1).
            unsafe { chunk.as_mut() }.rewind();
        }
        // An only reference leaves the count as it is when it goes.
        if header.refs.load(Ordering::Relaxed) != 1 {
            header.refs.store(1, Ordering::Relaxed);
        }
        // SAFETY: the one reference that was counted.
        unsafe { RawArena::from_header(self.into_header()) }
    }

    /// Notes that the arena will be used again, unless it has no memory that could be.
    #[inline]
    pub(crate) fn reused(&mut self) {
        let header = self.header_mut();
        if !header.reused && header.capacity.load(Ordering::Relaxed) > 0 {
            header.reused = true;
        }
    }
}

/// Overwrites what a chunk's user has left, if `wipe` is set, and in debug builds anyway.
///
/// # Safety
///
/// `chunk` is alive, and nothing points into it.
unsafe fn cover(chunk: NonNull<Chunk>, wipe: bool) {
    if wipe || cfg!(debug_assertions) {
        let byte = if wipe { 0 } else { POISON };
        // All of it, since what was given back meanwhile was written to, too.
        // SAFETY: alive, nothing points into it, and it has this many bytes.
        unsafe { Chunk::fill(chunk, byte, chunk.as_ref().capacity()) };
    }
}

impl Drop for IdleArena {
    fn drop(&mut self) {
        self.retain_one(Retain {
            most: 0,
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
    let idle = unsafe { IdleArena::from_header(header) };
    if let Some(take_back) = idle.header().take_back {
        take_back(idle);
    }
}

impl fmt::Debug for IdleArena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdleArena")
            .field("capacity", &self.capacity())
            .finish()
    }
}
