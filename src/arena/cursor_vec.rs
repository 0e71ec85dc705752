use std::{
    fmt,
    ops::{Deref, DerefMut},
};

use super::{cursor::Cursor, error::ArenaError, handle::or_panic, raw::RawCursorVec};

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
    raw: RawCursorVec<'c, 'a, T>,
}

impl<'c, 'a, T> CursorVec<'c, 'a, T> {
    #[inline]
    pub(super) fn new(cursor: &'c mut Cursor<'a>) -> Self {
        Self {
            raw: RawCursorVec::new(cursor.raw_mut()),
        }
    }

    /// How many values fit without taking another segment.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.raw.capacity()
    }

    /// Appends `value`.
    #[inline]
    pub fn push(&mut self, value: T) {
        or_panic!(self.try_push(value));
    }

    /// As [`push`](Self::push).
    ///
    /// # Errors
    ///
    /// If the list cannot grow; `value` is dropped, the list is as before.
    #[inline]
    pub fn try_push(&mut self, value: T) -> Result<(), ArenaError> {
        self.raw.push(value)
    }

    /// Removes and returns the last value.
    #[inline]
    pub fn pop(&mut self) -> Option<T> {
        self.raw.pop()
    }

    /// Makes room for at least `additional` more values.
    pub fn reserve(&mut self, additional: usize) {
        or_panic!(self.try_reserve(additional));
    }

    /// As [`reserve`](Self::reserve).
    ///
    /// # Errors
    ///
    /// If the values do not fit the address space, or the allocator has no memory.
    pub fn try_reserve(&mut self, additional: usize) -> Result<(), ArenaError> {
        self.raw.reserve(additional)
    }

    /// Drops all values from `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.raw.truncate(len);
    }

    /// Drops all values.
    pub fn clear(&mut self) {
        self.truncate(0);
    }

    /// Appends copies of `values`.
    #[inline]
    pub fn extend_from_slice(&mut self, values: &[T])
    where
        T: Copy,
    {
        or_panic!(self.try_extend_from_slice(values));
    }

    /// As [`extend_from_slice`](Self::extend_from_slice).
    ///
    /// # Errors
    ///
    /// If the list cannot grow; it is as before.
    #[inline]
    pub fn try_extend_from_slice(&mut self, values: &[T]) -> Result<(), ArenaError>
    where
        T: Copy,
    {
        self.raw.extend_from_slice(values)
    }

    /// Ends the list and returns its values for as long as the arena is borrowed.
    ///
    /// Types with drop glue are refused at compile time: nobody would drop them.
    ///
    /// ```compile_fail
    /// let arena = tower_memory::Arena::new();
    /// let mut cursor = arena.cursor();
    /// let mut list = cursor.vec();
    /// list.push(String::from("nobody would drop it"));
    /// list.into_slice();
    /// ```
    #[must_use]
    #[inline]
    pub fn into_slice(self) -> &'a mut [T] {
        const {
            assert!(
                !std::mem::needs_drop::<T>(),
                "nobody would drop the values of this slice: use an `ArenaVec`"
            );
        }
        self.raw.into_slice()
    }
}

impl<T> Deref for CursorVec<'_, '_, T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        self.raw.as_slice()
    }
}

impl<T> DerefMut for CursorVec<'_, '_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        self.raw.as_mut_slice()
    }
}

impl<T> Extend<T> for CursorVec<'_, '_, T> {
    fn extend<I: IntoIterator<Item = T>>(&mut self, values: I) {
        let values = values.into_iter();
        self.reserve(values.size_hint().0);
        for value in values {
            self.push(value);
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for CursorVec<'_, '_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}
