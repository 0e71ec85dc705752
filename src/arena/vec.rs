//! The methods and traits of `Vec` that need no access to memory: everything else is in `raw/vec.rs`
//! and `raw/drain.rs`.

use std::{
    cmp::Ordering,
    fmt,
    hash::{Hash, Hasher},
    iter,
    ops::RangeBounds,
    slice,
};

use super::{
    error::{ArenaError, or_panic},
    limit::within_limit_if,
    raw::{ArenaVec, OwnedRegion, Storage, within},
};

impl<'a, T, S: Storage<'a>> ArenaVec<'a, T, S> {
    /// Inserts `value` at `index`; the values from there on move up.
    ///
    /// # Panics
    ///
    /// If `index` is greater than the length.
    ///
    /// # Examples
    ///
    /// ```
    /// let arena = tower_memory::Arena::new();
    /// let mut list = arena.vec();
    /// list.extend(["a", "c"]);
    /// list.insert(1, "b");
    /// assert_eq!(list.remove(0), "a");
    /// assert_eq!(list, ["b", "c"]);
    /// ```
    pub fn insert(&mut self, index: usize, value: T) {
        let len = self.len();
        assert!(
            index <= len,
            "insertion index (is {index}) should be <= len (is {len})"
        );
        self.push(value);
        self[index..].rotate_right(1);
    }

    /// Removes and returns the value at `index`, and moves the last value there.
    ///
    /// # Panics
    ///
    /// If `index` is out of bounds.
    pub fn swap_remove(&mut self, index: usize) -> T {
        let len = self.len();
        assert!(
            index < len,
            "swap_remove index (is {index}) should be < len (is {len})"
        );
        self.swap(index, len - 1);
        self.pop_last()
    }

    /// Removes and returns the value at `index`; the values behind it move down.
    ///
    /// # Panics
    ///
    /// If `index` is out of bounds.
    pub fn remove(&mut self, index: usize) -> T {
        let len = self.len();
        assert!(
            index < len,
            "removal index (is {index}) should be < len (is {len})"
        );
        self[index..].rotate_left(1);
        self.pop_last()
    }

    fn pop_last(&mut self) -> T {
        match self.pop() {
            Some(value) => value,
            None => unreachable!("the index was in bounds"),
        }
    }

    /// Makes the list `len` values long: drops those behind, or appends clones of `value`.
    pub fn resize(&mut self, len: usize, value: T)
    where
        T: Clone,
    {
        match len.checked_sub(self.len()) {
            Some(0) => {}
            Some(more) => {
                self.reserve(more);
                self.extend(iter::repeat_n(value, more));
            }
            None => self.truncate(len),
        }
    }

    /// Appends clones of the values in `range`.
    ///
    /// # Panics
    ///
    /// If the range is out of bounds, or its start lies behind its end.
    pub fn extend_from_within(&mut self, range: impl RangeBounds<usize>)
    where
        T: Clone,
    {
        let range = within(&range, self.len());
        self.reserve(range.len());
        for index in range {
            let value = self[index].clone();
            self.push(value);
        }
    }

    /// As [`extend`](Extend::extend), but returns an error instead of panicking. Values that were
    /// appended before stay.
    pub(super) fn try_extend(
        &mut self,
        values: impl IntoIterator<Item = T>,
        limited: bool,
    ) -> Result<(), ArenaError> {
        let values = values.into_iter();
        let more = values.size_hint().0;
        within_limit_if(limited, || self.make_room(more))?;
        for value in values {
            within_limit_if(limited, || self.make_room(1))?;
            self.push(value);
        }
        Ok(())
    }
}

/// The clone is in the same arena.
impl<'a, T: Clone> Clone for ArenaVec<'a, T, OwnedRegion<'a>> {
    fn clone(&self) -> Self {
        let mut clone = self.arena().vec_with_capacity(self.len());
        clone.extend(self.iter().cloned());
        clone
    }
}

impl<'a, T, S: Storage<'a>> Extend<T> for ArenaVec<'a, T, S> {
    fn extend<I: IntoIterator<Item = T>>(&mut self, values: I) {
        or_panic!(self.try_extend(values, false));
    }
}

impl<'v, 'a, T, S: Storage<'a>> IntoIterator for &'v ArenaVec<'a, T, S> {
    type Item = &'v T;
    type IntoIter = slice::Iter<'v, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<'v, 'a, T, S: Storage<'a>> IntoIterator for &'v mut ArenaVec<'a, T, S> {
    type Item = &'v mut T;
    type IntoIter = slice::IterMut<'v, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter_mut()
    }
}

impl<'a, T, S: Storage<'a>> AsRef<[T]> for ArenaVec<'a, T, S> {
    fn as_ref(&self) -> &[T] {
        self
    }
}

impl<'a, T: Ord, S: Storage<'a>> Ord for ArenaVec<'a, T, S> {
    fn cmp(&self, other: &Self) -> Ordering {
        (**self).cmp(&**other)
    }
}

impl<'a, 'b, T, S, R> PartialOrd<ArenaVec<'b, T, R>> for ArenaVec<'a, T, S>
where
    T: PartialOrd,
    S: Storage<'a>,
    R: Storage<'b>,
{
    fn partial_cmp(&self, other: &ArenaVec<'b, T, R>) -> Option<Ordering> {
        (**self).partial_cmp(&**other)
    }
}

impl<'a, T: Hash, S: Storage<'a>> Hash for ArenaVec<'a, T, S> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

impl<'a, 'b, T, U, S, R> PartialEq<ArenaVec<'b, U, R>> for ArenaVec<'a, T, S>
where
    T: PartialEq<U>,
    S: Storage<'a>,
    R: Storage<'b>,
{
    fn eq(&self, other: &ArenaVec<'b, U, R>) -> bool {
        **self == **other
    }
}

/// Implements comparison with what `$other` is, which dereferences to a slice by `$slice`.
macro_rules! equals {
    ($([$($n:tt)*] $other:ty),+ $(,)?) => {$(
        impl<'a, T: PartialEq<U>, U, S: Storage<'a>, $($n)*> PartialEq<$other> for ArenaVec<'a, T, S> {
            fn eq(&self, other: &$other) -> bool {
                **self == other[..]
            }
        }
    )+};
}

equals! {
    [] [U],
    [] &[U],
    [const N: usize] [U; N],
    [] Vec<U>,
}

impl<'a, T: Eq, S: Storage<'a>> Eq for ArenaVec<'a, T, S> {}

impl<'a, T: fmt::Debug, S: Storage<'a>> fmt::Debug for ArenaVec<'a, T, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

#[cfg(feature = "json")]
impl<'a, T: serde::Serialize, S: Storage<'a>> serde::Serialize for ArenaVec<'a, T, S> {
    fn serialize<R: serde::Serializer>(&self, serializer: R) -> Result<R::Ok, R::Error> {
        (**self).serialize(serializer)
    }
}
