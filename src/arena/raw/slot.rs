//! A place where one idle arena waits, shared by threads.
//!
//! # Invariants
//!
//! 1. The word is null or owns the idle arena it points to: whoever puts one in gives it up, and
//!    whoever takes one out does so by a read-modify-write that leaves null, so one taker gets it.
//! 2. Headers are aligned to 128, so the lowest seven bits of the word are free for a tag. They say
//!    of the arena what a passer-by may know without owning it.

use std::ptr::NonNull;

use super::header::{Header, IdleArena};
use crate::sync::{AtomicPtr, Ordering};

const TAG: usize = align_of::<Header>() - 1;

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct ArenaSlot {
    word: AtomicPtr<Header>,
}

impl ArenaSlot {
    /// Tags are below this.
    pub(crate) const TAGS: u8 = align_of::<Header>() as u8;

    pub(crate) fn new() -> Self {
        Self {
            word: AtomicPtr::new(std::ptr::null_mut()),
        }
    }

    /// The tag of the arena that waits here, if there is one; it may be gone the next moment.
    #[inline]
    pub(crate) fn tag(&self) -> Option<u8> {
        // Relaxed: only a hint, nothing is read through the pointer.
        let word = self.word.load(Ordering::Relaxed);
        (!word.is_null()).then(|| (word.addr() & TAG) as u8)
    }

    /// Takes what waits here.
    #[inline]
    pub(crate) fn take(&self) -> Option<IdleArena> {
        // Acquire: the arena is seen as its former owner left it.
        let word = self.word.swap(std::ptr::null_mut(), Ordering::Acquire);
        // SAFETY: out of the word, so its own (invariant 1).
        unsafe { Self::own(word) }
    }

    /// Takes what waits here if it has this tag.
    pub(crate) fn take_tagged(&self, tag: u8) -> Option<IdleArena> {
        // Relaxed: a guess, which the compare-and-swap checks.
        let word = self.word.load(Ordering::Relaxed);
        if word.is_null() || word.addr() & TAG != usize::from(tag) {
            return None;
        }
        // Acquire: as in `take`. That the same arena came back with the same tag meanwhile does no
        // harm: it is as good as the one that was seen.
        self.word
            .compare_exchange(
                word,
                std::ptr::null_mut(),
                Ordering::Acquire,
                Ordering::Relaxed,
            )
            .ok()
            // SAFETY: as in `take`.
            .and_then(|word| unsafe { Self::own(word) })
    }

    /// Puts `arena` here if the place is empty, and returns it otherwise.
    ///
    /// For the one thread that puts arenas into this place: it needs no locked instruction, since
    /// others only make an empty place of it. Were there two such threads, an arena could be lost,
    /// its memory with it, and nothing worse.
    #[inline]
    pub(crate) fn put(&self, arena: IdleArena, tag: u8) -> Option<IdleArena> {
        // Relaxed: only this thread fills the place, so null stays null, and nothing is read through
        // the pointer.
        if !self.word.load(Ordering::Relaxed).is_null() {
            return Some(arena);
        }
        let tag = usize::from(tag) & TAG;
        let word = arena.into_header().as_ptr().map_addr(|addr| addr | tag);
        // Release: the next owner sees the arena as it is now.
        self.word.store(word, Ordering::Release);
        None
    }

    /// # Safety
    ///
    /// `word` was taken out of a place.
    #[inline]
    unsafe fn own(word: *mut Header) -> Option<IdleArena> {
        let header = NonNull::new(word.map_addr(|addr| addr & !TAG))?;
        // SAFETY: put in by `put`, which gave the arena up (invariant 1).
        Some(unsafe { IdleArena::from_header(header) })
    }
}

impl Drop for ArenaSlot {
    fn drop(&mut self) {
        drop(self.take());
    }
}
