use std::{
    fmt,
    iter::FusedIterator,
    ops::{Deref, DerefMut},
};

use super::{
    error::{ArenaError, or_panic},
    list::list_methods,
    raw::{Own, RawArena, RawIntoIter, RawVec},
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
    raw: RawVec<Own<'a>, T>,
}

impl<'a, T> ArenaVec<'a, T> {
    pub(super) fn with_capacity(arena: &'a RawArena, capacity: usize) -> Result<Self, ArenaError> {
        Ok(Self {
            raw: RawVec::with_capacity(arena, capacity)?,
        })
    }
}

list_methods!(ArenaVec<'a>, 'a);

impl<'a, T> IntoIterator for ArenaVec<'a, T> {
    type Item = T;
    type IntoIter = IntoIter<'a, T>;

    fn into_iter(self) -> IntoIter<'a, T> {
        IntoIter {
            raw: self.raw.into_iter(),
        }
    }
}

/// The values of an [`ArenaVec`], moved out of it one by one; the rest is dropped with it.
///
/// # Examples
///
/// ```
/// let arena = tower_memory::Arena::new();
/// let mut words = arena.vec();
/// words.extend(["a", "b", "c"].map(String::from));
/// let mut words = words.into_iter();
/// assert_eq!((words.next().as_deref(), words.next_back().as_deref()), (Some("a"), Some("c")));
/// assert_eq!(words.len(), 1);
/// ```
pub struct IntoIter<'a, T> {
    raw: RawIntoIter<Own<'a>, T>,
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
