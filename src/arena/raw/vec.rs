//! A growing array, wherever its memory lies.
//!
//! # Invariants
//!
//! 1. `capacity` values fit into the bytes that `storage` reported; its start is aligned for `T`.
//! 2. The first `len` values are initialised and owned by this vector; `len <= capacity`.

use std::{
    alloc::Layout,
    marker::PhantomData,
    mem::ManuallyDrop,
    ops::{Deref, DerefMut},
    ptr::{self, NonNull},
    slice,
};

use super::{
    copy::copy,
    reference::Arena,
    storage::{OwnedRegion, Storage},
};
use crate::arena::{
    error::{ArenaError, NoDropGlue, or_panic},
    limit::within_limit,
};

/// A growing list in an [`Arena`], with the methods of [`Vec`].
///
/// [`Arena::vec`](crate::Arena::vec) makes one, and [`Cursor::vec`](crate::Cursor::vec) makes
/// a [`CursorVec`](super::CursorVec), the same type in a cursor's segment.
///
/// While nothing is allocated after the list it grows in place. Otherwise each growth at least
/// doubles it, and its former place stays unused until the arena is recycled. Dropped, the list
/// drops its values; [`into_slice`](Self::into_slice) keeps them for as long as the arena is borrowed.
///
/// # Panics
///
/// Methods that need memory panic if the arena has none; call
/// [`try_reserve`](Self::try_reserve) first to handle that.
///
/// # Examples
///
/// ```
/// let arena = tower_memory::Arena::new();
/// let mut names = arena.vec_with_capacity(2);
/// names.push(arena.alloc_str("b"));
/// names.push(arena.alloc_str("a"));
/// names.sort();
/// assert_eq!(names, ["a", "b"]);
/// ```
pub struct ArenaVec<'a, T, S: Storage<'a> = OwnedRegion<'a>> {
    capacity: usize,
    len: usize,
    values: PhantomData<(&'a (), T)>,
    /// Last: it outlives the values.
    storage: S,
}

#[cold]
fn overflow<T>(count: usize, used: usize) -> ArenaError {
    ArenaError::capacity_overflow(count.saturating_mul(size_of::<T>()), used)
}

impl<'a, T> ArenaVec<'a, T> {
    #[inline]
    pub(in crate::arena) fn with_capacity(
        arena: &'a Arena,
        capacity: usize,
    ) -> Result<Self, ArenaError> {
        let layout = Layout::array::<T>(capacity)
            .map_err(|_| overflow::<T>(capacity, arena.allocated_bytes()))?;
        let (storage, size) = OwnedRegion::new(arena, layout)?;
        // SAFETY: a region of an array of `T` has its size and alignment (invariant 1).
        Ok(unsafe { Self::new_in(storage, size) })
    }

    #[inline]
    pub(in crate::arena) fn arena(&self) -> &'a Arena {
        self.storage.arena
    }
}

impl<'a, T, S: Storage<'a>> ArenaVec<'a, T, S> {
    const MIN_CAPACITY: usize = if size_of::<T>() == 1 { 16 } else { 4 };

    /// An empty vector in `storage`.
    ///
    /// # Safety
    ///
    /// `storage` has `size` bytes, and its start is aligned for `T`.
    #[inline]
    pub(super) unsafe fn new_in(storage: S, size: usize) -> Self {
        Self {
            capacity: Self::fit(size),
            len: 0,
            values: PhantomData,
            storage,
        }
    }

    #[inline]
    fn fit(size: usize) -> usize {
        size.checked_div(size_of::<T>()).unwrap_or(usize::MAX)
    }

    #[inline]
    pub(super) fn ptr(&self) -> NonNull<T> {
        self.storage.start().cast()
    }

    /// # Safety
    ///
    /// The first `len` values are initialised and owned by this vector, and fit (invariant 2).
    #[inline]
    pub(super) unsafe fn set_len(&mut self, len: usize) {
        self.len = len;
    }

    /// Appends `value`.
    #[inline]
    pub fn push(&mut self, value: T) {
        if self.len == self.capacity {
            or_panic!(self.grow_doubling(1));
        }
        // Read before the value is written: for all the compiler knows, that changes it.
        let len = self.len;
        // SAFETY: `len < capacity`, so the place is within the storage (invariant 1) and holds no
        // value yet (invariant 2).
        unsafe { self.ptr().add(len).write(value) };
        self.len = len + 1;
    }

    /// Removes and returns the last value.
    #[inline]
    pub fn pop(&mut self) -> Option<T> {
        self.len = self.len.checked_sub(1)?;
        // SAFETY: the value was initialised, and `len` no longer counts it (invariant 2).
        Some(unsafe { self.ptr().add(self.len).read() })
    }

    /// Appends copies of `values`.
    ///
    /// For values that are only [`Clone`], use `extend(values.iter().cloned())`.
    #[inline]
    pub fn extend_from_slice(&mut self, values: &[T])
    where
        T: Copy,
    {
        or_panic!(self.try_extend_from_slice(values));
    }

    /// On an error the list is unchanged.
    #[inline]
    pub(in crate::arena) fn try_extend_from_slice(&mut self, values: &[T]) -> Result<(), ArenaError>
    where
        T: Copy,
    {
        self.make_room(values.len())?;
        // SAFETY: `make_room` made room for them behind the first `len` (invariants 1 and 2), and
        // a shared slice cannot lie in this vector's own storage.
        unsafe {
            let end = self.ptr().add(self.len).cast();
            copy(NonNull::from(values).cast(), end, size_of_val(values));
        }
        self.len += values.len();
        Ok(())
    }

    /// Drops all values from `len` on; does nothing if there are fewer.
    pub fn truncate(&mut self, len: usize) {
        if len >= self.len {
            return;
        }
        let tail = self.len - len;
        // Before the drops: a panic in one of them must not drop anything twice.
        self.len = len;
        // SAFETY: these values were initialised, and `len` no longer counts them (invariant 2).
        unsafe {
            ptr::slice_from_raw_parts_mut(self.ptr().add(len).as_ptr(), tail).drop_in_place();
        }
    }

    /// Drops all values.
    pub fn clear(&mut self) {
        self.truncate(0);
    }

    /// How many values fit without taking more memory.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Makes room for at least `additional` more values.
    #[inline]
    pub fn reserve(&mut self, additional: usize) {
        or_panic!(self.make_room(additional));
    }

    /// As [`reserve`](Self::reserve), but returns an error instead of panicking.
    ///
    /// # Errors
    ///
    /// If the values do not fit the address space, the request would hold more than its limit, or the allocator
    /// has no memory. The list is unchanged.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_memory::arena::ArenaErrorKind;
    ///
    /// let arena = tower_memory::Arena::new();
    /// let mut list = arena.vec::<u64>();
    /// let error = list.try_reserve(usize::MAX / 2).unwrap_err();
    /// assert_eq!(error.kind(), ArenaErrorKind::CapacityOverflow);
    /// list.try_reserve(3)?;
    /// assert!(list.capacity() >= 3);
    /// # Ok::<(), tower_memory::arena::ArenaError>(())
    /// ```
    #[inline]
    pub fn try_reserve(&mut self, additional: usize) -> Result<(), ArenaError> {
        if additional <= self.capacity - self.len {
            return Ok(());
        }
        within_limit(|| self.grow_doubling(additional))
    }

    /// As [`try_reserve`](Self::try_reserve), beyond the request's limit if need be.
    #[inline]
    pub(in crate::arena) fn make_room(&mut self, additional: usize) -> Result<(), ArenaError> {
        if additional <= self.capacity - self.len {
            return Ok(());
        }
        self.grow_doubling(additional)
    }

    /// Makes room for `additional` more values, without extra room for later growth.
    pub fn reserve_exact(&mut self, additional: usize) {
        or_panic!(self.make_exact_room(additional));
    }

    /// As [`reserve_exact`](Self::reserve_exact), but returns an error instead of panicking.
    ///
    /// # Errors
    ///
    /// If the values do not fit the address space, the request would hold more than its limit, or the allocator
    /// has no memory. The list is unchanged.
    pub fn try_reserve_exact(&mut self, additional: usize) -> Result<(), ArenaError> {
        within_limit(|| self.make_exact_room(additional))
    }

    fn make_exact_room(&mut self, additional: usize) -> Result<(), ArenaError> {
        if additional <= self.capacity - self.len {
            return Ok(());
        }
        self.grow(additional, 0)
    }

    // Not a part of `make_room`, which would keep the capacity in a register for it.
    #[cold]
    #[inline(never)]
    fn grow_doubling(&mut self, additional: usize) -> Result<(), ArenaError> {
        let doubled = self.capacity.saturating_mul(2).max(Self::MIN_CAPACITY);
        self.grow(additional, doubled)
    }

    #[cold]
    fn grow(&mut self, additional: usize, preferred: usize) -> Result<(), ArenaError> {
        let overflow = |count| overflow::<T>(count, self.storage.used());
        let needed = self
            .len
            .checked_add(additional)
            // The number of bytes has no name, not even for values of size zero.
            .ok_or_else(|| ArenaError::capacity_overflow(usize::MAX, self.storage.used()))?;
        let at_least = Layout::array::<T>(needed).map_err(|_| overflow(needed))?;
        let wanted = Layout::array::<T>(needed.max(preferred)).unwrap_or(at_least);
        // Cannot fail: the values exist.
        let held = Layout::array::<T>(self.len).map_err(|_| overflow(self.len))?;
        // SAFETY: `held` is the present values, which fit and are aligned (invariants 1 and 2).
        let size = unsafe { self.storage.grow(held, at_least.size(), wanted.size())? };
        self.capacity = Self::fit(size);
        Ok(())
    }

    /// Ends the list and returns its values for as long as the arena is borrowed.
    ///
    /// Types that need dropping are refused when the program is built: an arena drops no values.
    ///
    /// ```compile_fail
    /// let arena = tower_memory::Arena::new();
    /// let mut list = arena.vec();
    /// list.push(String::from("would never be dropped"));
    /// list.into_slice();
    /// ```
    #[must_use]
    #[inline]
    pub fn into_slice(self) -> &'a mut [T] {
        let () = NoDropGlue::<T>::CHECK;
        let this = ManuallyDrop::new(self);
        let len = this.len;
        // SAFETY: read once, since `this` is not dropped (invariant 2: the caller gets the values).
        let storage = unsafe { ptr::read(&this.storage) };
        // SAFETY: `len` values fit (invariants 1 and 2), and nothing points behind them.
        let start = unsafe { storage.keep(len * size_of::<T>()) };
        // SAFETY: `len` initialised, aligned values (invariants 1 and 2), in memory that no other code
        // accesses while the arena is borrowed (the contract of `Storage::keep`).
        unsafe { slice::from_raw_parts_mut(start.cast().as_ptr(), len) }
    }
}

impl<'a, T, S: Storage<'a>> Deref for ArenaVec<'a, T, S> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: the first `len` values are initialised (invariant 2) and aligned (invariant 1).
        unsafe { slice::from_raw_parts(self.ptr().as_ptr(), self.len) }
    }
}

impl<'a, T, S: Storage<'a>> DerefMut for ArenaVec<'a, T, S> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: the first `len` values are initialised (invariant 2) and aligned (invariant 1), and
        // `&mut self` is the only way to them.
        unsafe { slice::from_raw_parts_mut(self.ptr().as_ptr(), self.len) }
    }
}

impl<'a, T, S: Storage<'a>> Drop for ArenaVec<'a, T, S> {
    fn drop(&mut self) {
        self.clear();
    }
}
