//! A slot for one idle arena or block, shared by threads.
//!
//! # Invariants
//!
//! 1. The word is null or owns the item it points to. `put` moves an item in; `take` moves it out by
//!    a read-modify-write that leaves null, so only one thread gets it. `take_unshared` does it by a load and a
//!    store, where no other thread takes.
//! 2. What words point to is aligned to 128, so their lowest seven bits hold a tag, which any thread
//!    may read without owning the item.

use std::{marker::PhantomData, ptr::NonNull};

use crate::sync::{AtomicPtr, Ordering};

/// The alignment of what a slot points to.
pub(super) const ALIGN: usize = 128;

const TAG: usize = ALIGN - 1;

/// Something that one word owns.
///
/// # Safety
///
/// [`into_word`](Self::into_word) returns a pointer that is aligned to [`ALIGN`].
pub(crate) unsafe trait Pooled: Sized {
    /// Gives up ownership: the word owns the item from now on.
    fn into_word(self) -> NonNull<()>;

    /// # Safety
    ///
    /// `word` came from [`into_word`](Self::into_word), and this is its only use.
    unsafe fn from_word(word: NonNull<()>) -> Self;
}

/// What the pool caches with an item; valid while the capacity is unchanged.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PoolHint {
    /// The capacity at which the hint was set.
    pub(crate) capacity: usize,
    /// The size class of that capacity.
    pub(crate) class: u8,
    /// Whether the item may wait where only its thread can reach it.
    pub(crate) hot: bool,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Slot<T: Pooled> {
    word: AtomicPtr<()>,
    item: PhantomData<T>,
}

impl<T: Pooled> Slot<T> {
    /// Tags are below this.
    pub(crate) const TAGS: u8 = ALIGN as u8;

    pub(crate) fn new() -> Self {
        Self {
            word: AtomicPtr::new(std::ptr::null_mut()),
            item: PhantomData,
        }
    }

    /// The tag of the item in the slot, if there is one. Another thread may take it at any time.
    #[inline]
    pub(crate) fn tag(&self) -> Option<u8> {
        // Relaxed: only a hint, nothing is read through the pointer.
        let word = self.word.load(Ordering::Relaxed);
        (!word.is_null()).then(|| (word.addr() & TAG) as u8)
    }

    /// Takes the item, if there is one.
    #[inline]
    pub(crate) fn take(&self) -> Option<T> {
        // Acquire: the item is seen as its former owner left it.
        let word = self.word.swap(std::ptr::null_mut(), Ordering::Acquire);
        // SAFETY: taken out of the word, which owned it (invariant 1).
        unsafe { Self::own(word) }
    }

    /// Takes the item, if there is one, with its tag, and without a read-modify-write.
    ///
    /// # Safety
    ///
    /// No other thread takes from this slot, or puts into it, at the same time. What was done to it before happens
    /// before this call.
    #[inline]
    pub(super) unsafe fn take_unshared(&self) -> Option<(T, u8)> {
        // Relaxed: what was put in before is seen, and what is put in later sees this (the caller's promises).
        let word = self.word.load(Ordering::Relaxed);
        self.word.store(std::ptr::null_mut(), Ordering::Relaxed);
        // SAFETY: taken out of the word, which owned it and which no other thread takes from (invariant 1, and
        // the caller's promise).
        let item = unsafe { Self::own(word) }?;
        Some((item, (word.addr() & TAG) as u8))
    }

    /// Takes the item if it has this tag.
    pub(crate) fn take_tagged(&self, tag: u8) -> Option<T> {
        // Relaxed: a guess, which the compare-and-swap checks.
        let word = self.word.load(Ordering::Relaxed);
        if word.is_null() || word.addr() & TAG != usize::from(tag) {
            return None;
        }
        // Acquire: as in `take`. If the same item left and came back with the same tag (ABA), it is
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

    /// Stores `item` if the slot is empty; returns it otherwise.
    ///
    /// Only one thread may put items into a slot: it needs no locked instruction, since other threads
    /// only empty the slot. With two such threads, an item could be leaked, and nothing worse.
    #[inline]
    pub(crate) fn put(&self, item: T, tag: u8) -> Option<T> {
        // Relaxed: only this thread fills the slot, so null stays null, and nothing is read through the
        // pointer.
        if !self.word.load(Ordering::Relaxed).is_null() {
            return Some(item);
        }
        let tag = usize::from(tag) & TAG;
        let word = item.into_word().as_ptr().map_addr(|addr| addr | tag);
        // Release: the next owner sees the item as it is now.
        self.word.store(word, Ordering::Release);
        None
    }

    /// # Safety
    ///
    /// `word` was taken out of a slot.
    #[inline]
    unsafe fn own(word: *mut ()) -> Option<T> {
        let word = NonNull::new(word.map_addr(|addr| addr & !TAG))?;
        // SAFETY: stored by `put`, which moved the item in (invariant 1).
        Some(unsafe { T::from_word(word) })
    }
}

impl<T: Pooled> Drop for Slot<T> {
    fn drop(&mut self) {
        drop(self.take());
    }
}
