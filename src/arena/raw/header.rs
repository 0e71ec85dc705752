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

/// A home, and the way to it.
pub(super) struct Address {
    pub(super) home: Arc<dyn Home>,
    take_back: fn(IdleArena),
}

/// What a home wants to remember of an arena. It holds as long as the arena has the capacity that it
/// was made for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Note {
    /// The capacity it was made for.
    pub(crate) capacity: usize,
    pub(crate) class: usize,
    /// The same capacity if the arena may wait where only its thread can reach it; no capacity
    /// otherwise.
    pub(crate) hot: usize,
}

impl Note {
    /// What no arena's capacity is.
    pub(crate) const NOT_HOT: usize = usize::MAX;
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
    /// Whether the arena came back to a home and was rented again.
    pub(super) reused: bool,
    /// What the home knows of the arena.
    note: Note,
    /// The address of the home, or zero: see [`IdleArena::home_address`].
    home_at: usize,
    /// Kept while the arena waits in a pool, too: renting it again costs no reference.
    pub(super) home: Option<Address>,
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
            grow: Mutex::new(()),
            first_chunk: if first_chunk == 0 {
                DEFAULT_FIRST_CHUNK
            } else {
                first_chunk
            },
            reused: false,
            note: Note {
                capacity: 0,
                class: 0,
                hot: Note::NOT_HOT,
            },
            home_at: 0,
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
        if !self.rewind_whole(how) {
            self.rewind_all(how);
        }
    }

    /// Makes all memory free again, if that is one chunk that is kept.
    fn rewind_whole(&mut self, how: Rewind) -> bool {
        let current = NonNull::new(self.header_mut().current.load(Ordering::Relaxed));
        let Some(mut chunk) = current else {
            return false;
        };
        // SAFETY: a chunk of an idle arena: alive, and ours alone (invariant 1).
        let this = unsafe { chunk.as_mut() };
        let whole = this.prev().is_none() && this.capacity() <= how.keep;
        if whole {
            // SAFETY: as above.
            unsafe { clean(chunk, how.wipe) };
        }
        whole
    }

    /// Makes all memory of the only chunk free again, without looking further.
    #[inline]
    pub(crate) fn rewind_single(&mut self) {
        let current = NonNull::new(self.header_mut().current.load(Ordering::Relaxed));
        if let Some(chunk) = current {
            // SAFETY: a chunk of an idle arena: alive, and ours alone (invariant 1).
            unsafe { clean(chunk, false) };
        }
    }

    #[cold]
    fn rewind_all(&mut self, how: Rewind) {
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

    /// What was noted last, whether or not it still holds.
    #[inline]
    pub(crate) fn note(&self) -> Note {
        self.header().note
    }

    /// Notes something for as long as the capacity stays.
    pub(crate) fn set_note(&mut self, note: Note) {
        self.header_mut().note = note;
    }

    /// Makes the arena go to `home` each time its last reference is dropped.
    pub(crate) fn settle<H: Home + 'static>(&mut self, home: Arc<H>) {
        let header = self.header_mut();
        header.home_at = Arc::as_ptr(&home).addr();
        header.home = Some(Address {
            take_back: H::take_back,
            home,
        });
    }

    /// The address of the home that the arena settled at; zero if it has none.
    #[inline]
    pub(crate) fn home_address(&self) -> usize {
        self.header().home_at
    }

    /// Gives the arena to its home, by a reference of its own.
    pub(crate) fn go_home(self) {
        let home = self.header().home.as_ref();
        if let Some(home) = home.map(|home| Arc::clone(&home.home)) {
            home.receive(self);
        }
    }

    /// Turns the arena into its first reference.
    #[inline]
    pub(crate) fn wake(mut self) -> RawArena {
        let header = self.header_mut();
        // An only reference leaves the count as it is when it goes.
        if header.refs.load(Ordering::Relaxed) != 1 {
            header.refs.store(1, Ordering::Relaxed);
        }
        // SAFETY: the one reference that was counted.
        unsafe { RawArena::from_header(self.into_header()) }
    }

    /// Notes that the arena will be used again.
    #[inline]
    pub(crate) fn reused(&mut self) {
        let header = self.header_mut();
        if !header.reused {
            header.reused = true;
        }
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
    let capacity = this.capacity();
    this.rewind();
    if wipe || cfg!(debug_assertions) {
        let byte = if wipe { 0 } else { POISON };
        // All of it, since what was given back meanwhile was written to, too.
        // SAFETY: nothing points into the chunk, which has this many bytes.
        unsafe { Chunk::fill(chunk, byte, capacity) };
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
    let idle = unsafe { IdleArena::from_header(header) };
    let way = idle.header().home.as_ref().map(|home| home.take_back);
    if let Some(take_back) = way {
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
