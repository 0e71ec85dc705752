//! The free part of a cursor's segment, in which one collection grows.
//!
//! # Invariant
//!
//! 1. `start` is the first aligned address from the cursor's `ptr` on, and what fits behind it lies in
//!    the segment. Nothing fits while `ptr` is not aligned to [`ALIGN`].

use std::{alloc::Layout, ptr::NonNull};

use super::{
    cursor::{ALIGN, Cursor},
    storage::Storage,
    vec::ArenaVec,
};
use crate::arena::ArenaError;

/// The [`Storage`] of collections that a [`Cursor`] makes: its segment, borrowed
/// for `'c`.
#[derive(Debug)]
pub struct Segment<'c, 'a> {
    cursor: &'c mut Cursor<'a>,
    start: NonNull<u8>,
}

// SAFETY: the segment belongs to the cursor alone (its invariant 1), and a `Cursor` is `Send`.
unsafe impl Send for Segment<'_, '_> {}
// SAFETY: `&Segment` exposes an address and no bytes (invariant 1 of the cursor).
unsafe impl Sync for Segment<'_, '_> {}

impl Segment<'_, '_> {
    /// Finds where values of this alignment begin, and how many bytes there are for them.
    #[inline]
    fn measure(&mut self, align: usize) -> usize {
        let room = self.cursor.remaining();
        let pad = self.cursor.pad(align);
        // Less than `ALIGN` only before the first `refill`, which makes room for as much.
        if room < ALIGN || room < pad {
            return 0;
        }
        // SAFETY: `pad <= room`: within the segment, or at its end (invariant 1 of the cursor).
        self.start = unsafe { self.cursor.ptr.add(pad) };
        room - pad
    }
}

// SAFETY: what `measure` reports lies in the segment (invariant 1), which the cursor owns alone, and
// this value borrows the cursor exclusively. `refill` moves what is held. Kept bytes are no longer
// part of the segment (`advance_to`).
unsafe impl<'a> Storage<'a> for Segment<'_, 'a> {
    #[inline]
    fn start(&self) -> NonNull<u8> {
        self.start
    }

    #[inline]
    unsafe fn grow(
        &mut self,
        held: Layout,
        at_least: usize,
        wanted: usize,
    ) -> Result<usize, ArenaError> {
        // Neither wraps: a size is at most isize::MAX, and so is an alignment.
        let slack = held.align() - 1;
        self.cursor
            .refill(at_least + slack, wanted + slack, Some(held))
            .map_err(|error| error.of_cursor(at_least, self.cursor.rest().size))?;
        Ok(self.measure(held.align()))
    }

    #[inline]
    unsafe fn keep(self, size: usize) -> NonNull<u8> {
        if size > 0 {
            // SAFETY: that many bytes lie in the segment (the caller's promise, and invariant 1).
            self.cursor.advance_to(unsafe { self.start.add(size) });
        }
        self.start
    }

    fn used(&self) -> usize {
        self.cursor.arena.allocated_bytes()
    }
}

impl<'c, 'a, T> ArenaVec<'a, T, Segment<'c, 'a>> {
    /// A list that grows in a cursor's segment.
    #[inline]
    pub(in crate::arena) fn in_segment(cursor: &'c mut Cursor<'a>) -> Self {
        let mut segment = Segment {
            cursor,
            start: NonNull::<T>::dangling().cast(),
        };
        let size = segment.measure(align_of::<T>());
        // SAFETY: `measure` found `size` bytes aligned for `T` (invariant 1).
        unsafe { Self::new_in(segment, size) }
    }
}
