//! A growing array in an arena.
//!
//! # Invariants
//!
//! 1. `region` is aligned for `T` and holds at least `capacity` values.
//! 2. The first `len` values are initialised and owned by this vector; `len <= capacity`.

use std::{alloc::Layout, fmt, marker::PhantomData, mem, ptr::NonNull, slice};

use super::{
    chunk::{Access, Region, Use},
    copy::copy,
    reference::RawArena,
};
use crate::arena::ArenaError;

pub(in crate::arena) struct RawVec<'a, T> {
    arena: &'a RawArena,
    region: Region,
    capacity: usize,
    len: usize,
    values: PhantomData<T>,
}

// SAFETY: the vector owns its region and values alone; `&RawArena` may go to other threads.
unsafe impl<T: Send> Send for RawVec<'_, T> {}
// SAFETY: `&RawVec` gives access to `&T` only.
unsafe impl<T: Sync> Sync for RawVec<'_, T> {}

impl<'a, T> RawVec<'a, T> {
    const MIN_CAPACITY: usize = if size_of::<T>() == 1 { 16 } else { 4 };

    pub(in crate::arena) fn with_capacity(
        arena: &'a RawArena,
        capacity: usize,
    ) -> Result<Self, ArenaError> {
        let layout = Layout::array::<T>(capacity).map_err(|_| Self::overflow(arena, capacity))?;
        Ok(Self {
            arena,
            region: arena.region(layout)?,
            capacity: if size_of::<T>() == 0 {
                usize::MAX
            } else {
                capacity
            },
            len: 0,
            values: PhantomData,
        })
    }

    #[cold]
    fn overflow(arena: &RawArena, count: usize) -> ArenaError {
        ArenaError::capacity_overflow(count.saturating_mul(size_of::<T>()), arena.used())
    }

    pub(in crate::arena) fn len(&self) -> usize {
        self.len
    }

    pub(in crate::arena) fn capacity(&self) -> usize {
        self.capacity
    }

    #[inline]
    fn ptr(&self) -> NonNull<T> {
        self.region.ptr.cast()
    }

    #[inline]
    pub(in crate::arena) fn as_slice(&self) -> &[T] {
        // SAFETY: the first `len` values are initialised (invariant 2) and aligned (invariant 1).
        unsafe { slice::from_raw_parts(self.ptr().as_ptr(), self.len) }
    }

    #[inline]
    pub(in crate::arena) fn as_mut_slice(&mut self) -> &mut [T] {
        // SAFETY: as in `as_slice`, and `&mut self` is the only way to the values.
        unsafe { slice::from_raw_parts_mut(self.ptr().as_ptr(), self.len) }
    }

    /// Makes room for `additional` more values.
    #[inline]
    pub(in crate::arena) fn reserve(&mut self, additional: usize) -> Result<(), ArenaError> {
        if additional <= self.capacity - self.len {
            return Ok(());
        }
        let doubled = self.capacity.saturating_mul(2).max(Self::MIN_CAPACITY);
        self.grow(additional, doubled)
    }

    /// As [`reserve`](Self::reserve), without anything in advance.
    pub(in crate::arena) fn reserve_exact(&mut self, additional: usize) -> Result<(), ArenaError> {
        if additional <= self.capacity - self.len {
            return Ok(());
        }
        self.grow(additional, 0)
    }

    #[cold]
    #[inline(never)]
    fn grow(&mut self, additional: usize, preferred: usize) -> Result<(), ArenaError> {
        let needed = self
            .len
            .checked_add(additional)
            // Not a number of bytes that could be named, not even for values of size zero.
            .ok_or_else(|| ArenaError::capacity_overflow(usize::MAX, self.arena.used()))?;
        let at_least =
            Layout::array::<T>(needed).map_err(|_| Self::overflow(self.arena, needed))?;
        let wanted = Layout::array::<T>(needed.max(preferred)).unwrap_or(at_least);
        // SAFETY: shared access is always true.
        unsafe {
            self.arena.regrow(
                &mut self.region,
                self.len * size_of::<T>(),
                (at_least.size(), wanted.size()),
                align_of::<T>(),
                Access::Shared,
            )?;
        }
        self.capacity = self
            .region
            .size
            .checked_div(size_of::<T>())
            .unwrap_or(usize::MAX);
        Ok(())
    }

    #[inline]
    pub(in crate::arena) fn push(&mut self, value: T) -> Result<(), ArenaError> {
        self.reserve(1)?;
        // SAFETY: `len < capacity` after `reserve`, so the place is within the region
        // (invariant 1) and holds no value yet (invariant 2).
        unsafe { self.ptr().add(self.len).write(value) };
        self.len += 1;
        Ok(())
    }

    #[inline]
    pub(in crate::arena) fn pop(&mut self) -> Option<T> {
        self.len = self.len.checked_sub(1)?;
        // SAFETY: the value was initialised (invariant 2), and `len` no longer counts it.
        Some(unsafe { self.ptr().add(self.len).read() })
    }

    pub(in crate::arena) fn truncate(&mut self, len: usize) {
        if len >= self.len {
            return;
        }
        let tail = self.len - len;
        // Before the drops: a panic in one of them must not drop anything twice.
        self.len = len;
        // SAFETY: these values were initialised (invariant 2), and `len` no longer counts them.
        unsafe {
            std::ptr::slice_from_raw_parts_mut(self.ptr().add(len).as_ptr(), tail).drop_in_place();
        }
    }

    /// Ends the vector; its values stay where they are for as long as the arena is borrowed.
    ///
    /// Their drop glue, if any, never runs.
    pub(in crate::arena) fn into_slice(self) -> &'a mut [T] {
        // Not dropped: that would give the region back.
        let mut this = mem::ManuallyDrop::new(self);
        let (ptr, len, arena) = (this.ptr(), this.len, this.arena);
        // SAFETY: nothing points behind the initialised values.
        unsafe {
            arena.shrink(
                &mut this.region,
                len * size_of::<T>(),
                Use::Advance,
                Access::Shared,
            )
        };
        // SAFETY: `len` initialised values at `ptr`, in memory that lives as long as the arena is
        // borrowed and that nobody else owns (invariant 2 of the module).
        unsafe { slice::from_raw_parts_mut(ptr.as_ptr(), len) }
    }

    pub(in crate::arena) fn into_iter(mut self) -> RawIntoIter<'a, T> {
        let end = mem::take(&mut self.len);
        RawIntoIter {
            start: 0,
            end,
            vec: self,
        }
    }
}

impl<T: Copy> RawVec<'_, T> {
    #[inline]
    pub(in crate::arena) fn extend_from_slice(&mut self, values: &[T]) -> Result<(), ArenaError> {
        self.reserve(values.len())?;
        // SAFETY: `reserve` made room for them behind the first `len`, and a shared slice cannot
        // lie in this vector's own region.
        unsafe {
            let end = self.ptr().add(self.len).cast();
            copy(NonNull::from(values).cast(), end, size_of_val(values));
        }
        self.len += values.len();
        Ok(())
    }
}

impl<T> Drop for RawVec<'_, T> {
    fn drop(&mut self) {
        self.truncate(0);
        // SAFETY: all values were dropped, nothing points into the region.
        unsafe {
            self.arena
                .shrink(&mut self.region, 0, Use::Used, Access::Shared)
        };
    }
}

impl<T: fmt::Debug> fmt::Debug for RawVec<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_slice().fmt(f)
    }
}

/// The values of a [`RawVec`], by value. The vector's own `len` is zero meanwhile.
pub(in crate::arena) struct RawIntoIter<'a, T> {
    /// Values `start..end` are initialised and owned by the iterator.
    start: usize,
    end: usize,
    vec: RawVec<'a, T>,
}

impl<T> RawIntoIter<'_, T> {
    pub(in crate::arena) fn as_slice(&self) -> &[T] {
        // SAFETY: values `start..end` are initialised and ours.
        unsafe {
            slice::from_raw_parts(
                self.vec.ptr().add(self.start).as_ptr(),
                self.end - self.start,
            )
        }
    }
}

impl<T> Iterator for RawIntoIter<'_, T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        if self.start == self.end {
            return None;
        }
        let at = self.start;
        self.start += 1;
        // SAFETY: the value was initialised and ours; `start` has passed it.
        Some(unsafe { self.vec.ptr().add(at).read() })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.end - self.start;
        (left, Some(left))
    }
}

impl<T> DoubleEndedIterator for RawIntoIter<'_, T> {
    fn next_back(&mut self) -> Option<T> {
        if self.start == self.end {
            return None;
        }
        self.end -= 1;
        // SAFETY: the value was initialised and ours; `end` no longer covers it.
        Some(unsafe { self.vec.ptr().add(self.end).read() })
    }
}

impl<T> Drop for RawIntoIter<'_, T> {
    fn drop(&mut self) {
        let (start, end) = (self.start, self.end);
        self.start = end;
        // SAFETY: values `start..end` are initialised and ours, and not counted any more.
        unsafe {
            std::ptr::slice_from_raw_parts_mut(self.vec.ptr().add(start).as_ptr(), end - start)
                .drop_in_place();
        }
    }
}
