use std::fmt;

use super::{
    error::{ArenaError, NoDropGlue, or_panic},
    raw::{Allocate, ArenaString, ArenaVec, CursorString, CursorVec, RawArena, RawCursor},
};

/// Size of a cursor's first segment.
const FIRST_STEP: usize = 1024;

// `Cursor` documents it.
const _: () = assert!(FIRST_STEP == 1 << 10);

/// Allocates in an [`Arena`](super::Arena) without atomic operations, from a segment of its own.
///
/// Several threads may use an `&Arena` at the same time, so each of its allocations is
/// a compare-and-swap. A cursor takes a segment of the arena and cuts it up alone, so it needs
/// `&mut self`. What it returns borrows the arena and not the cursor, and may be held across `.await`.
/// Use a cursor for a loop of many small allocations. Each task of a request may have its own.
///
/// The first segment has 1 KiB, each further one four times as much, up to 32 KiB. Sizes are
/// rounded up to 8 bytes. [`Arena::allocated_bytes`](super::Arena::allocated_bytes) counts the whole
/// segment until the cursor is dropped, which gives back the rest if nothing was allocated after it.
///
/// # Panics
///
/// A method that needs memory panics if the allocator has none. Methods with `try_` in their name and
/// the `try_reserve` of the collections return an [`ArenaError`] instead.
///
/// # Examples
///
/// ```
/// let arena = tower_memory::Arena::new();
/// let mut cursor = arena.cursor();
/// let first = cursor.alloc(1_u64);
/// let name = cursor.alloc_fmt(format_args!("item-{}", 7));
/// *first += 1;
/// drop(cursor);
/// assert_eq!((*first, &*name), (2, "item-7"));
/// assert_eq!(arena.allocated_bytes(), 8 + 8); // sizes are rounded up to 8
/// ```
///
/// What it returns cannot outlive the arena's handle:
///
/// ```compile_fail
/// let text = {
///     let arena = tower_memory::Arena::new();
///     arena.cursor().alloc_str("gone")
/// };
/// println!("{text}");
/// ```
pub struct Cursor<'a> {
    raw: RawCursor<'a>,
}

impl<'a> Cursor<'a> {
    #[inline]
    pub(super) fn new(arena: &'a RawArena) -> Self {
        Self {
            raw: RawCursor::new(arena, FIRST_STEP),
        }
    }

    #[inline]
    pub(super) fn new_exclusive(arena: &'a mut RawArena) -> Self {
        Self {
            raw: RawCursor::new_exclusive(arena, FIRST_STEP),
        }
    }

    /// Moves `value` into the arena, which does not drop it.
    ///
    /// Types that need dropping are refused when the program is built, as by
    /// [`Arena::alloc`](super::Arena::alloc):
    ///
    /// ```compile_fail
    /// let arena = tower_memory::Arena::new();
    /// arena.cursor().alloc(String::from("would never be dropped"));
    /// ```
    #[inline(always)]
    pub fn alloc<T>(&mut self, value: T) -> &'a mut T {
        let () = NoDropGlue::<T>::CHECK;
        or_panic!(self.raw.slot()).write(value)
    }

    /// As [`alloc`](Self::alloc), but returns an error instead of panicking.
    ///
    /// # Errors
    ///
    /// If the allocator has no memory.
    #[inline(always)]
    pub fn try_alloc<T>(&mut self, value: T) -> Result<&'a mut T, ArenaError> {
        let () = NoDropGlue::<T>::CHECK;
        Ok(self.raw.slot()?.write(value))
    }

    /// Copies `text` into the arena.
    #[inline]
    pub fn alloc_str(&mut self, text: &str) -> &'a mut str {
        or_panic!(self.try_alloc_str(text))
    }

    /// As [`alloc_str`](Self::alloc_str), but returns an error instead of panicking.
    ///
    /// # Errors
    ///
    /// If the allocator has no memory.
    #[inline]
    pub fn try_alloc_str(&mut self, text: &str) -> Result<&'a mut str, ArenaError> {
        self.raw.copy_str(text)
    }

    /// Formats straight into the arena.
    ///
    /// # Panics
    ///
    /// Also if a `Display` or `Debug` implementation returns an error, like [`format!`].
    #[inline]
    pub fn alloc_fmt(&mut self, args: fmt::Arguments<'_>) -> &'a mut str {
        or_panic!(self.try_alloc_fmt(args))
    }

    /// As [`alloc_fmt`](Self::alloc_fmt), but returns an error if there is no memory.
    ///
    /// # Errors
    ///
    /// If the allocator has no memory.
    ///
    /// # Panics
    ///
    /// If a `Display` or `Debug` implementation returns an error.
    #[inline]
    pub fn try_alloc_fmt(&mut self, args: fmt::Arguments<'_>) -> Result<&'a mut str, ArenaError> {
        if let Some(text) = args.as_str() {
            return self.try_alloc_str(text);
        }
        let mut text = self.string();
        text.write_fmt(args)?;
        Ok(text.into_str())
    }

    /// Copies `values` into the arena.
    #[inline]
    pub fn alloc_slice_copy<T: Copy>(&mut self, values: &[T]) -> &'a mut [T] {
        or_panic!(self.try_alloc_slice_copy(values))
    }

    /// As [`alloc_slice_copy`](Self::alloc_slice_copy), but returns an error instead of panicking.
    ///
    /// # Errors
    ///
    /// If the allocator has no memory.
    #[inline]
    pub fn try_alloc_slice_copy<T: Copy>(
        &mut self,
        values: &[T],
    ) -> Result<&'a mut [T], ArenaError> {
        self.raw.copy_slice(values)
    }

    /// Clones `values` into the arena.
    ///
    /// To handle a lack of memory, use
    /// [`try_alloc_slice_fill_iter`](Self::try_alloc_slice_fill_iter) with `values.iter().cloned()`.
    pub fn alloc_slice_clone<T: Clone>(&mut self, values: &[T]) -> &'a mut [T] {
        let () = NoDropGlue::<T>::CHECK;
        self.alloc_slice_fill_iter(values.iter().cloned())
    }

    /// A slice of `len` values, each made by `value` from its index.
    ///
    /// To handle a lack of memory, use
    /// [`try_alloc_slice_fill_iter`](Self::try_alloc_slice_fill_iter) with `(0..len).map(value)`.
    pub fn alloc_slice_fill_with<T>(
        &mut self,
        len: usize,
        value: impl FnMut(usize) -> T,
    ) -> &'a mut [T] {
        let () = NoDropGlue::<T>::CHECK;
        self.alloc_slice_fill_iter((0..len).map(value))
    }

    /// A slice of the iterator's values.
    ///
    /// The iterator's `size_hint` decides how much memory is taken in advance. A wrong one costs memory
    /// (or panics, if there is not that much), and changes no value. If the iterator panics, the values
    /// made so far are dropped, and their place is used again.
    ///
    /// # Examples
    ///
    /// ```
    /// let arena = tower_memory::Arena::new();
    /// let squares = arena.cursor().alloc_slice_fill_iter((1..4).map(|n| n * n));
    /// assert_eq!(squares, &[1, 4, 9]);
    /// ```
    pub fn alloc_slice_fill_iter<T>(&mut self, values: impl IntoIterator<Item = T>) -> &'a mut [T] {
        let () = NoDropGlue::<T>::CHECK;
        or_panic!(self.try_alloc_slice_fill_iter(values))
    }

    /// As [`alloc_slice_fill_iter`](Self::alloc_slice_fill_iter), but returns an error instead of panicking.
    ///
    /// # Errors
    ///
    /// If the values do not fit the address space, or the allocator has no memory.
    pub fn try_alloc_slice_fill_iter<T>(
        &mut self,
        values: impl IntoIterator<Item = T>,
    ) -> Result<&'a mut [T], ArenaError> {
        let () = NoDropGlue::<T>::CHECK;
        let values = values.into_iter();
        let mut slice = self.vec();
        slice.try_reserve(values.size_hint().0)?;
        for value in values {
            slice.try_reserve(1)?;
            slice.push(value);
        }
        Ok(slice.into_slice())
    }

    /// An empty list that grows in the cursor's segment. It borrows the cursor until it ends.
    #[must_use]
    #[inline]
    pub fn vec<T>(&mut self) -> CursorVec<'_, 'a, T> {
        ArenaVec::in_segment(&mut self.raw)
    }

    /// An empty list with room for `capacity` values.
    #[must_use]
    pub fn vec_with_capacity<T>(&mut self, capacity: usize) -> CursorVec<'_, 'a, T> {
        let mut vec = self.vec();
        vec.reserve(capacity);
        vec
    }

    /// An empty text that grows in the cursor's segment. It borrows the cursor until it ends.
    #[must_use]
    #[inline]
    pub fn string(&mut self) -> CursorString<'_, 'a> {
        ArenaString::in_segment(&mut self.raw)
    }

    /// An empty text with room for `capacity` bytes.
    #[must_use]
    pub fn string_with_capacity(&mut self, capacity: usize) -> CursorString<'_, 'a> {
        let mut text = self.string();
        text.reserve(capacity);
        text
    }

    /// Bytes left of the present segment. If an allocation needs more, the cursor takes another one.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.raw.room()
    }
}

impl fmt::Debug for Cursor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.raw.fmt(f)
    }
}
