//! A growing array, wherever its memory comes from.
//!
//! # Invariants
//!
//! 1. `capacity` values fit into what `space` says it has; its start is aligned for `T`.
//! 2. The first `len` values are initialised and owned by this vector; `len <= capacity`.

use std::{alloc::Layout, fmt, marker::PhantomData, mem, ptr::NonNull, slice};

use super::{
    chunk::{Access, Region, Use},
    copy::copy,
    reference::RawArena,
};
use crate::arena::ArenaError;

/// Memory that one array has for itself.
///
/// # Safety
///
/// Behind [`start`](Self::start), which is aligned as was last asked for, lie as many bytes as the
/// space said last that it has. Nobody else uses them until it is dropped; those that are
/// [kept](Keep), not for as long as the arena is borrowed.
pub(in crate::arena) unsafe trait Space {
    /// Where the bytes begin.
    fn start(&self) -> NonNull<u8>;

    /// Makes room for at least `at_least` bytes, and for `wanted` if that costs no more, and says how
    /// many there are now. What `held` describes lies at the start before and after, aligned as it
    /// says. On an error everything is as before.
    ///
    /// # Safety
    ///
    /// `held` is at most as many bytes as the space has, and aligned as it was asked for before.
    unsafe fn grow(
        &mut self,
        held: Layout,
        at_least: usize,
        wanted: usize,
    ) -> Result<usize, ArenaError>;

    /// The arena in which the bytes lie.
    fn arena(&self) -> &RawArena;
}

/// A [`Space`] in an arena that is borrowed for `'a`.
///
/// # Safety
///
/// See [`Space`].
pub(in crate::arena) unsafe trait Keep<'a>: Space {
    /// Keeps the first `size` bytes for as long as the arena is borrowed, and gives the others back.
    ///
    /// # Safety
    ///
    /// The space has that many, and nothing points to the others.
    unsafe fn keep(self, size: usize) -> NonNull<u8>;
}

/// A region of its own.
pub(in crate::arena) struct Own<'a> {
    arena: &'a RawArena,
    region: Region,
}

// SAFETY: the region is this value's alone; `&RawArena` may go to other threads.
unsafe impl Send for Own<'_> {}
// SAFETY: `&Own` gives access to an address only.
unsafe impl Sync for Own<'_> {}

// SAFETY: a region has one owner (invariant 2 of the module), and this is it; `regrow` keeps the bytes
// and the alignment.
unsafe impl Space for Own<'_> {
    #[inline]
    fn start(&self) -> NonNull<u8> {
        self.region.ptr
    }

    #[inline]
    unsafe fn grow(
        &mut self,
        held: Layout,
        at_least: usize,
        wanted: usize,
    ) -> Result<usize, ArenaError> {
        let (written, align) = (held.size(), held.align());
        // SAFETY: shared access is always true; `held` lies in the region (the caller's promise).
        unsafe {
            self.arena.regrow(
                &mut self.region,
                written,
                (at_least, wanted),
                align,
                Access::Shared,
            )?;
        }
        Ok(self.region.size)
    }

    #[inline]
    fn arena(&self) -> &RawArena {
        self.arena
    }
}

// SAFETY: what is kept lies below the arena's position, and no region is left that could give it back.
unsafe impl<'a> Keep<'a> for Own<'a> {
    #[inline]
    unsafe fn keep(self, size: usize) -> NonNull<u8> {
        // Not dropped: that would give all of it back.
        let mut this = mem::ManuallyDrop::new(self);
        let arena = this.arena;
        // SAFETY: nothing points behind the first `size` bytes (the caller's promise); shared access is
        // always true.
        unsafe { arena.shrink(&mut this.region, size, Use::Advance, Access::Shared) };
        this.region.ptr
    }
}

impl Drop for Own<'_> {
    fn drop(&mut self) {
        // SAFETY: nobody uses the region any more.
        unsafe {
            self.arena
                .shrink(&mut self.region, 0, Use::Used, Access::Shared)
        };
    }
}

pub(in crate::arena) struct RawVec<S: Space, T> {
    capacity: usize,
    len: usize,
    values: PhantomData<T>,
    /// Last: it outlives the values.
    space: S,
}

impl<'a, T> RawVec<Own<'a>, T> {
    pub(in crate::arena) fn with_capacity(
        arena: &'a RawArena,
        capacity: usize,
    ) -> Result<Self, ArenaError> {
        let layout = Layout::array::<T>(capacity).map_err(|_| overflow::<T>(arena, capacity))?;
        let region = arena.region(layout)?;
        let size = region.size;
        // SAFETY: a region of an array of `T` has its size and alignment.
        Ok(unsafe { Self::new_in(Own { arena, region }, size) })
    }
}

#[cold]
fn overflow<T>(arena: &RawArena, count: usize) -> ArenaError {
    ArenaError::capacity_overflow(count.saturating_mul(size_of::<T>()), arena.used())
}

impl<S: Space, T> RawVec<S, T> {
    const MIN_CAPACITY: usize = if size_of::<T>() == 1 { 16 } else { 4 };

    /// An empty vector in `space`.
    ///
    /// # Safety
    ///
    /// `space` has `size` bytes, and its start is aligned for `T`.
    #[inline]
    pub(super) unsafe fn new_in(space: S, size: usize) -> Self {
        Self {
            capacity: Self::fit(size),
            len: 0,
            values: PhantomData,
            space,
        }
    }

    #[inline]
    fn fit(size: usize) -> usize {
        size.checked_div(size_of::<T>()).unwrap_or(usize::MAX)
    }

    pub(in crate::arena) const fn len(&self) -> usize {
        self.len
    }

    pub(in crate::arena) const fn capacity(&self) -> usize {
        self.capacity
    }

    #[inline]
    fn ptr(&self) -> NonNull<T> {
        self.space.start().cast()
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
        self.grow_doubling(additional)
    }

    /// As [`reserve`](Self::reserve), without anything in advance.
    pub(in crate::arena) fn reserve_exact(&mut self, additional: usize) -> Result<(), ArenaError> {
        if additional <= self.capacity - self.len {
            return Ok(());
        }
        self.grow(additional, 0)
    }

    // Not a part of `reserve`, which would keep the capacity in a register for it.
    #[cold]
    #[inline(never)]
    fn grow_doubling(&mut self, additional: usize) -> Result<(), ArenaError> {
        let doubled = self.capacity.saturating_mul(2).max(Self::MIN_CAPACITY);
        self.grow(additional, doubled)
    }

    #[cold]
    fn grow(&mut self, additional: usize, preferred: usize) -> Result<(), ArenaError> {
        let overflow = |count| overflow::<T>(self.space.arena(), count);
        let needed = self
            .len
            .checked_add(additional)
            // Not a number of bytes that could be named, not even for values of size zero.
            .ok_or_else(|| ArenaError::capacity_overflow(usize::MAX, self.space.arena().used()))?;
        let at_least = Layout::array::<T>(needed).map_err(|_| overflow(needed))?;
        let wanted = Layout::array::<T>(needed.max(preferred)).unwrap_or(at_least);
        // Cannot fail: the values are there already.
        let held = Layout::array::<T>(self.len).map_err(|_| overflow(self.len))?;
        // SAFETY: `held` is the values there are, which fit (invariants 1 and 2).
        let size = unsafe { self.space.grow(held, at_least.size(), wanted.size())? };
        self.capacity = Self::fit(size);
        Ok(())
    }

    #[inline]
    pub(in crate::arena) fn push(&mut self, value: T) -> Result<(), ArenaError> {
        self.reserve(1)?;
        // Read before the value is written: for all the compiler knows, that changes it.
        let len = self.len;
        // SAFETY: `len < capacity` after `reserve`, so the place is within the space
        // (invariant 1) and holds no value yet (invariant 2).
        unsafe { self.ptr().add(len).write(value) };
        self.len = len + 1;
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

    /// The space, and how many values lie in it, which nobody drops any more.
    #[inline]
    pub(super) fn into_parts(self) -> (S, usize) {
        let this = mem::ManuallyDrop::new(self);
        // SAFETY: read once, and `this` is not dropped.
        (unsafe { std::ptr::read(&this.space) }, this.len)
    }

    /// Ends the vector; its values stay where they are for as long as the arena is borrowed.
    ///
    /// Their drop glue, if any, never runs.
    #[inline]
    pub(in crate::arena) fn into_slice<'a>(self) -> &'a mut [T]
    where
        S: Keep<'a>,
        T: 'a,
    {
        let (space, len) = self.into_parts();
        // SAFETY: `len` values fit (invariants 1 and 2), and nothing points behind them.
        let start = unsafe { space.keep(len * size_of::<T>()) };
        // SAFETY: `len` initialised values, aligned as they were, in memory that nobody else uses as
        // long as the arena is borrowed (`Keep`).
        unsafe { slice::from_raw_parts_mut(start.cast().as_ptr(), len) }
    }

    pub(in crate::arena) fn into_iter(mut self) -> RawIntoIter<S, T> {
        let end = mem::take(&mut self.len);
        RawIntoIter {
            start: 0,
            end,
            vec: self,
        }
    }
}

impl<S: Space, T: Copy> RawVec<S, T> {
    #[inline]
    pub(in crate::arena) fn extend_from_slice(&mut self, values: &[T]) -> Result<(), ArenaError> {
        self.reserve(values.len())?;
        // SAFETY: `reserve` made room for them behind the first `len`, and a shared slice cannot
        // lie in this vector's own space.
        unsafe {
            let end = self.ptr().add(self.len).cast();
            copy(NonNull::from(values).cast(), end, size_of_val(values));
        }
        self.len += values.len();
        Ok(())
    }
}

impl<S: Space, T> Drop for RawVec<S, T> {
    fn drop(&mut self) {
        self.truncate(0);
    }
}

impl<S: Space, T: fmt::Debug> fmt::Debug for RawVec<S, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_slice().fmt(f)
    }
}

/// The values of a [`RawVec`], by value. The vector's own `len` is zero meanwhile.
pub(in crate::arena) struct RawIntoIter<S: Space, T> {
    /// Values `start..end` are initialised and owned by the iterator.
    start: usize,
    end: usize,
    vec: RawVec<S, T>,
}

impl<S: Space, T> RawIntoIter<S, T> {
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

impl<S: Space, T> Iterator for RawIntoIter<S, T> {
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

impl<S: Space, T> DoubleEndedIterator for RawIntoIter<S, T> {
    fn next_back(&mut self) -> Option<T> {
        if self.start == self.end {
            return None;
        }
        self.end -= 1;
        // SAFETY: the value was initialised and ours; `end` no longer covers it.
        Some(unsafe { self.vec.ptr().add(self.end).read() })
    }
}

impl<S: Space, T> Drop for RawIntoIter<S, T> {
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
