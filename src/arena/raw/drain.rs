//! Values that leave an [`ArenaVec`] from any place, and what closes the gap behind them.
//!
//! # Invariants
//!
//! 1. While a [`Gap`] exists, its vector's `len` counts the values before the gap, and the values
//!    `tail..end` are initialised and owned by the gap, which moves them down when it is dropped.
//!    A forgotten gap leaks them.
//! 2. The values `next..last` of a [`Drain`], which lie in its gap, and of an [`IntoIter`] are
//!    initialised and owned by the iterator; no `len` counts them.

use std::{
    fmt,
    iter::FusedIterator,
    ops::{Bound, Range, RangeBounds},
    ptr::{self, NonNull},
    slice,
};

use super::{
    storage::{OwnedRegion, Storage},
    vec::ArenaVec,
};

struct Gap<'v, 'a, T, S: Storage<'a>> {
    vec: &'v mut ArenaVec<'a, T, S>,
    tail: usize,
    end: usize,
}

impl<'v, 'a, T, S: Storage<'a>> Gap<'v, 'a, T, S> {
    /// An empty gap at `at`.
    fn new(vec: &'v mut ArenaVec<'a, T, S>, at: usize) -> Self {
        let end = vec.len();
        debug_assert!(at <= end);
        // SAFETY: fewer values than before; the gap owns the others (invariant 1).
        unsafe { vec.set_len(at) };
        Self { vec, tail: at, end }
    }
}

impl<'a, T, S: Storage<'a>> Drop for Gap<'_, 'a, T, S> {
    fn drop(&mut self) {
        let (to, count) = (self.vec.len(), self.end - self.tail);
        let start = self.vec.ptr();
        // SAFETY: `tail..end` are initialised values within the storage, and the places from `to` on
        // hold none (invariant 1); afterwards the vector owns them.
        unsafe {
            ptr::copy(start.add(self.tail).as_ptr(), start.add(to).as_ptr(), count);
            self.vec.set_len(to + count);
        }
    }
}

impl<'a, T, S: Storage<'a>> ArenaVec<'a, T, S> {
    /// Drops the values for which `keep` returns `false`; the others, which it may change, stay in
    /// order.
    pub fn retain(&mut self, mut keep: impl FnMut(&mut T) -> bool) {
        let mut gap = Gap::new(self, 0);
        while gap.tail < gap.end {
            let value = gap.vec.ptr();
            // SAFETY: `tail < end`, so this value is initialised and the gap owns it (invariant 1).
            let value = unsafe { value.add(gap.tail) };
            // SAFETY: initialised and owned by the gap, which is borrowed mutably (invariant 1).
            let kept = keep(unsafe { &mut *value.as_ptr() });
            gap.tail += 1;
            // SAFETY: `tail` has passed the value, so the gap no longer owns it (invariant 1): it moves
            // to the first free place, which `len` counts then, or it is dropped.
            unsafe {
                if kept {
                    let len = gap.vec.len();
                    ptr::copy(value.as_ptr(), gap.vec.ptr().add(len).as_ptr(), 1);
                    gap.vec.set_len(len + 1);
                } else {
                    value.drop_in_place();
                }
            }
        }
    }

    /// Removes the values of `range` and returns them one by one, from either end; the rest closes up
    /// when the iterator is dropped. A forgotten iterator leaks the values from the range's start on.
    ///
    /// # Panics
    ///
    /// If the range is out of bounds, or its start lies behind its end.
    ///
    /// # Examples
    ///
    /// ```
    /// let arena = tower_memory::Arena::new();
    /// let mut list = arena.vec();
    /// list.extend(0..6);
    /// assert!(list.drain(1..4).eq(1..4));
    /// assert_eq!(list, [0, 4, 5]);
    /// ```
    pub fn drain(&mut self, range: impl RangeBounds<usize>) -> Drain<'_, 'a, T, S> {
        let Range { start, end } = within(&range, self.len());
        let mut gap = Gap::new(self, start);
        gap.tail = end;
        Drain {
            gap,
            next: start,
            last: end,
        }
    }
}

/// `range` as indices below `len`.
pub(in crate::arena) fn within(range: &impl RangeBounds<usize>, len: usize) -> Range<usize> {
    let overflow = || -> ! { panic!("range end overflows") };
    let start = match range.start_bound() {
        Bound::Included(&start) => start,
        Bound::Excluded(&before) => before.checked_add(1).unwrap_or_else(|| overflow()),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(&last) => last.checked_add(1).unwrap_or_else(|| overflow()),
        Bound::Excluded(&end) => end,
        Bound::Unbounded => len,
    };
    assert!(
        start <= end && end <= len,
        "range {start}..{end} is out of bounds of a list of {len} values"
    );
    start..end
}

/// The values of a range, removed from an [`ArenaVec`]. See [`ArenaVec::drain`].
pub struct Drain<'v, 'a, T, S: Storage<'a> = OwnedRegion<'a>> {
    next: usize,
    last: usize,
    gap: Gap<'v, 'a, T, S>,
}

/// The values of an [`ArenaVec`], moved out of it one by one; the iterator drops the rest.
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
pub struct IntoIter<'a, T, S: Storage<'a> = OwnedRegion<'a>> {
    next: usize,
    last: usize,
    /// Its own `len` is zero.
    vec: ArenaVec<'a, T, S>,
}

impl<'a, T, S: Storage<'a>> IntoIterator for ArenaVec<'a, T, S> {
    type Item = T;
    type IntoIter = IntoIter<'a, T, S>;

    fn into_iter(mut self) -> IntoIter<'a, T, S> {
        let last = self.len();
        // SAFETY: fewer values than before; the iterator owns them (invariant 2).
        unsafe { self.set_len(0) };
        IntoIter {
            next: 0,
            last,
            vec: self,
        }
    }
}

/// Implements iteration over the values `next..last` that lie behind `start`.
macro_rules! by_value {
    ($Iter:ident<$($lifetime:lifetime),+>, $start:expr) => {
        impl<'a, T, S: Storage<'a>> $Iter<$($lifetime,)+ T, S> {
            #[inline]
            fn start(&self) -> NonNull<T> {
                let start: fn(&Self) -> NonNull<T> = $start;
                start(self)
            }
        }

        impl<'a, T, S: Storage<'a>> Iterator for $Iter<$($lifetime,)+ T, S> {
            type Item = T;

            #[inline]
            fn next(&mut self) -> Option<T> {
                if self.next == self.last {
                    return None;
                }
                self.next += 1;
                // SAFETY: initialised and owned by this iterator; `next` has passed it (invariant 2).
                Some(unsafe { self.start().add(self.next - 1).read() })
            }

            #[inline]
            fn size_hint(&self) -> (usize, Option<usize>) {
                let left = self.last - self.next;
                (left, Some(left))
            }
        }

        impl<'a, T, S: Storage<'a>> DoubleEndedIterator for $Iter<$($lifetime,)+ T, S> {
            #[inline]
            fn next_back(&mut self) -> Option<T> {
                if self.next == self.last {
                    return None;
                }
                self.last -= 1;
                // SAFETY: initialised and owned by this iterator; `last` excludes it now (invariant 2).
                Some(unsafe { self.start().add(self.last).read() })
            }
        }

        impl<'a, T, S: Storage<'a>> ExactSizeIterator for $Iter<$($lifetime,)+ T, S> {}

        impl<'a, T, S: Storage<'a>> FusedIterator for $Iter<$($lifetime,)+ T, S> {}

        impl<'a, T, S: Storage<'a>> Drop for $Iter<$($lifetime,)+ T, S> {
            fn drop(&mut self) {
                let (next, left) = (self.next, self.last - self.next);
                self.next = self.last;
                // SAFETY: the values were initialised and owned by this iterator, which no longer
                // counts them (invariant 2). Its fields are dropped afterwards, also on a panic.
                unsafe {
                    let values = self.start().add(next).as_ptr();
                    ptr::slice_from_raw_parts_mut(values, left).drop_in_place();
                }
            }
        }

        impl<'a, T: fmt::Debug, S: Storage<'a>> fmt::Debug for $Iter<$($lifetime,)+ T, S> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                // SAFETY: `next..last` are initialised and owned by this iterator (invariant 2).
                let left = unsafe {
                    let values = self.start().add(self.next).as_ptr();
                    slice::from_raw_parts(values, self.last - self.next)
                };
                f.debug_tuple(stringify!($Iter)).field(&left).finish()
            }
        }
    };
}

by_value!(Drain<'_, 'a>, |drain| drain.gap.vec.ptr());
by_value!(IntoIter<'a>, |values| values.vec.ptr());
