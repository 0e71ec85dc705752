use std::{
    fmt,
    iter::FusedIterator,
    ops::{Deref, DerefMut},
};

use super::{
    error::ArenaError,
    handle::{Arena, or_panic},
    raw::{RawIntoIter, RawVec},
};

/// A growing list in an [`Arena`].
///
/// As long as it is the last thing allocated it grows in place; otherwise each growth at least
/// doubles it and leaves its former place unused until the arena is recycled. It drops its
/// values.
///
/// # Panics
///
/// Each method without `try_` panics where its `try_` twin returns an [`ArenaError`].
///
/// # Examples
///
/// ```
/// let arena = tower_memory::Arena::new();
/// let mut names = arena.vec_with_capacity(2);
/// names.push(arena.alloc_str("b"));
/// names.push(arena.alloc_str("a"));
/// names.sort();
/// assert_eq!(*names, ["a", "b"]);
/// ```
pub struct ArenaVec<'a, T> {
    raw: RawVec<'a, T>,
}

impl<'a, T> ArenaVec<'a, T> {
    /// An empty list in `arena`.
    #[must_use]
    pub fn new_in(arena: &'a Arena) -> Self {
        or_panic!(Self::try_with_capacity_in(0, arena))
    }

    /// An empty list in `arena` with room for `capacity` values.
    ///
    /// # Errors
    ///
    /// If `capacity` values do not fit the address space, or the allocator has no memory.
    pub fn try_with_capacity_in(capacity: usize, arena: &'a Arena) -> Result<Self, ArenaError> {
        Ok(Self {
            raw: RawVec::with_capacity(arena.raw(), capacity)?,
        })
    }

    /// How many values fit without growing.
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

    /// Makes room for `additional` more values, and no more than that.
    ///
    /// # Errors
    ///
    /// If the values do not fit the address space, or the allocator has no memory.
    pub fn try_reserve_exact(&mut self, additional: usize) -> Result<(), ArenaError> {
        self.raw.reserve_exact(additional)
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
    pub fn try_extend_from_slice(&mut self, values: &[T]) -> Result<(), ArenaError>
    where
        T: Copy,
    {
        self.raw.extend_from_slice(values)
    }

    /// Ends the list and returns its values for as long as the arena is borrowed.
    ///
    /// Types with drop glue are refused at compile time: nobody would drop them.
    #[must_use]
    pub fn into_slice(self) -> &'a mut [T] {
        const {
            assert!(
                !std::mem::needs_drop::<T>(),
                "nobody would drop the values of this slice: keep the `ArenaVec`"
            );
        }
        self.raw.into_slice()
    }
}

impl<T> Deref for ArenaVec<'_, T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        self.raw.as_slice()
    }
}

impl<T> DerefMut for ArenaVec<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        self.raw.as_mut_slice()
    }
}

impl<T> Extend<T> for ArenaVec<'_, T> {
    fn extend<I: IntoIterator<Item = T>>(&mut self, values: I) {
        let values = values.into_iter();
        self.reserve(values.size_hint().0);
        for value in values {
            self.push(value);
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for ArenaVec<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.raw.fmt(f)
    }
}

impl<T: PartialEq<U>, U> PartialEq<[U]> for ArenaVec<'_, T> {
    fn eq(&self, other: &[U]) -> bool {
        **self == *other
    }
}

impl<'a, T> IntoIterator for ArenaVec<'a, T> {
    type Item = T;
    type IntoIter = IntoIter<'a, T>;

    fn into_iter(self) -> IntoIter<'a, T> {
        IntoIter {
            raw: self.raw.into_iter(),
        }
    }
}

impl<'v, T> IntoIterator for &'v ArenaVec<'_, T> {
    type Item = &'v T;
    type IntoIter = std::slice::Iter<'v, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<'v, T> IntoIterator for &'v mut ArenaVec<'_, T> {
    type Item = &'v mut T;
    type IntoIter = std::slice::IterMut<'v, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter_mut()
    }
}

/// The values of an [`ArenaVec`], moved out of it one by one; the rest is dropped with it.
pub struct IntoIter<'a, T> {
    raw: RawIntoIter<'a, T>,
}

impl<T> Iterator for IntoIter<'_, T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        self.raw.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.raw.size_hint()
    }
}

impl<T> DoubleEndedIterator for IntoIter<'_, T> {
    fn next_back(&mut self) -> Option<T> {
        self.raw.next_back()
    }
}

impl<T> ExactSizeIterator for IntoIter<'_, T> {}

impl<T> FusedIterator for IntoIter<'_, T> {}

impl<T: fmt::Debug> fmt::Debug for IntoIter<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("IntoIter")
            .field(&self.raw.as_slice())
            .finish()
    }
}

#[cfg(feature = "json")]
impl<T: serde::Serialize> serde::Serialize for ArenaVec<'_, T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (**self).serialize(serializer)
    }
}
