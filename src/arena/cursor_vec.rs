use std::{
    fmt,
    ops::{Deref, DerefMut},
};

use super::{
    error::{ArenaError, or_panic},
    list::list_methods,
    raw::{RawCursor, RawVec, Segment},
};

/// A list that grows in a [`Cursor`]'s segment.
///
/// It has the cursor for itself, so nothing can come between its values and it grows in place until
/// the segment ends. Turn it [into a slice](Self::into_slice) to keep the values; dropped, it drops
/// them and its place is used again.
///
/// # Panics
///
/// Each method without `try_` panics where its `try_` twin returns an [`ArenaError`].
///
/// # Examples
///
/// ```
/// let arena = tower_memory::Arena::new();
/// let mut cursor = arena.cursor();
/// let mut even = cursor.vec();
/// even.extend((1..10).filter(|n| n % 2 == 0));
/// let even = even.into_slice();
/// assert_eq!(even, &[2, 4, 6, 8]);
/// ```
pub struct CursorVec<'c, 'a, T> {
    raw: RawVec<Segment<'c, 'a>, T>,
}

impl<'c, 'a, T> CursorVec<'c, 'a, T> {
    #[inline]
    pub(super) fn new(cursor: &'c mut RawCursor<'a>) -> Self {
        Self {
            raw: RawVec::in_segment(cursor),
        }
    }
}

list_methods!(CursorVec<'c, 'a>, 'a);
