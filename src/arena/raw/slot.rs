//! A slot for one idle arena, shared by threads.
//!
//! # Invariants
//!
//! 1. The word is null or owns the idle arena it points to. `put` moves an arena in; `take` moves it
//!    out by a read-modify-write that leaves null, so only one thread gets it.
//! 2. Headers are aligned to 128, so the lowest seven bits of the word hold a tag, which any thread may
//!    read without owning the arena.

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

    /// The tag of the arena in the slot, if there is one. Another thread may take it at any time.
    #[inline]
    pub(crate) fn tag(&self) -> Option<u8> {
        // Relaxed: only a hint, nothing is read through the pointer.
        let word = self.word.load(Ordering::Relaxed);
        (!word.is_null()).then(|| (word.addr() & TAG) as u8)
    }

    /// Takes the arena, if there is one.
    #[inline]
    pub(crate) fn take(&self) -> Option<IdleArena> {
        // Acquire: the arena is seen as its former owner left it.
        let word = self.word.swap(std::ptr::null_mut(), Ordering::Acquire);
        // SAFETY: taken out of the word, which owned it (invariant 1).
        unsafe { Self::own(word) }
    }

    /// Takes the arena if it has this tag.
    pub(crate) fn take_tagged(&self, tag: u8) -> Option<IdleArena> {
        // Relaxed: a guess, which the compare-and-swap checks.
        let word = self.word.load(Ordering::Relaxed);
        if word.is_null() || word.addr() & TAG != usize::from(tag) {
            return None;
        }
        // Acquire: as in `take`. If the same arena left and came back with the same tag (ABA), it is
        // still a valid one to take.
        self.word
            .compare_exchange(
                word,
                std::ptr::null_mut(),
                Ordering::Acquire,
                Ordering::Relaxed,
            )
            .ok()
            // SAFETY: taken out of the word, which owned it (invariant 1).
            .and_then(|word| unsafe { Self::own(word) })
    }

    /// Stores `arena` if the slot is empty; returns it otherwise.
    ///
    /// Only one thread may put arenas into a slot: it needs no locked instruction, since other threads
    /// only empty the slot. With two such threads, an arena could be leaked, and nothing worse.
    #[inline]
    pub(crate) fn put(&self, arena: IdleArena, tag: u8) -> Option<IdleArena> {
        // Relaxed: only this thread fills the slot, so null stays null, and nothing is read through the
        // pointer.
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
    /// `word` was taken out of a slot.
    #[inline]
    unsafe fn own(word: *mut Header) -> Option<IdleArena> {
        let header = NonNull::new(word.map_addr(|addr| addr & !TAG))?;
        // SAFETY: stored by `put`, which moved the arena in (invariant 1).
        Some(unsafe { IdleArena::from_header(header) })
    }
}

impl Drop for ArenaSlot {
    fn drop(&mut self) {
        drop(self.take());
    }
}
