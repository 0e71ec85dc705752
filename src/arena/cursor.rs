use std::fmt;

use super::{
    cursor_string::CursorString,
    cursor_vec::CursorVec,
    error::{ArenaError, or_panic, refuse_drop_glue},
    raw::{RawArena, RawCursor},
};

/// What a cursor takes in advance the first time.
const FIRST_STEP: usize = 1024;

// `Cursor` says so.
const _: () = assert!(FIRST_STEP == 1 << 10);

/// Allocates in an [`Arena`](super::Arena) without atomic operations, from a segment of its own.
///
/// An `&Arena` may be used by several threads at once, so each allocation moves the arena's position
/// by a compare-and-swap. A cursor takes a stretch of the arena at once and cuts it up alone. For
/// that it needs `&mut self`; what it returns does not borrow the cursor, but the arena, so it may be
/// kept beside the cursor and held across `.await`. Take a cursor for a loop that allocates many small
/// things, and the arena itself for the rest: each task of a request may have a cursor of its own.
///
/// Dropped, it gives the rest of its segment back, if nobody has taken something behind it. Until then
/// [`Arena::allocated_bytes`] counts the whole segment. Segments begin with 1 KiB and grow up to 32 KiB;
/// sizes are rounded up to 8 bytes.
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
/// let first = cursor.alloc(1_u64);
/// let name = cursor.format(format_args!("item-{}", 7));
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
    pub(super) fn new_alone(arena: &'a mut RawArena) -> Self {
        Self {
            raw: RawCursor::new_alone(arena, FIRST_STEP),
        }
    }

    /// Bytes left of its segment; more is taken when they do not suffice.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.raw.room()
    }

    /// Moves `value` into the arena.
    ///
    /// Types with drop glue are refused at compile time, as by [`Arena::alloc`](super::Arena::alloc):
    ///
    /// ```compile_fail
    /// let arena = tower_memory::Arena::new();
    /// arena.cursor().alloc(String::from("its memory would never be freed"));
    /// ```
    #[inline(always)]
    pub fn alloc<T>(&mut self, value: T) -> &'a mut T {
        or_panic!(self.try_alloc(value))
    }

    /// As [`alloc`](Self::alloc).
    ///
    /// # Errors
    ///
    /// If the allocator has no memory.
    #[inline(always)]
    pub fn try_alloc<T>(&mut self, value: T) -> Result<&'a mut T, ArenaError> {
        const { refuse_drop_glue::<T>() };
        Ok(self.raw.slot()?.write(value))
    }

    /// Copies `text` into the arena.
    #[inline]
    pub fn alloc_str(&mut self, text: &str) -> &'a mut str {
        or_panic!(self.try_alloc_str(text))
    }

    /// As [`alloc_str`](Self::alloc_str).
    ///
    /// # Errors
    ///
    /// If the allocator has no memory.
    #[inline]
    pub fn try_alloc_str(&mut self, text: &str) -> Result<&'a mut str, ArenaError> {
        self.raw.copy_str(text)
    }

    /// Copies `values` into the arena.
    #[inline]
    pub fn alloc_slice_copy<T: Copy>(&mut self, values: &[T]) -> &'a mut [T] {
        or_panic!(self.try_alloc_slice_copy(values))
    }

    /// As [`alloc_slice_copy`](Self::alloc_slice_copy).
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
    /// A panic in `clone` drops the clones made so far, and their place is used again.
    pub fn alloc_slice_clone<T: Clone>(&mut self, values: &[T]) -> &'a mut [T] {
        or_panic!(self.try_alloc_slice_clone(values))
    }

    /// As [`alloc_slice_clone`](Self::alloc_slice_clone).
    ///
    /// # Errors
    ///
    /// If the allocator has no memory.
    pub fn try_alloc_slice_clone<T: Clone>(
        &mut self,
        values: &[T],
    ) -> Result<&'a mut [T], ArenaError> {
        self.try_alloc_slice_fill_iter(values.iter().cloned())
    }

    /// A slice of `len` values, each made by `value` from its index.
    ///
    /// A panic in `value` drops the values made so far, and their place is used again.
    pub fn alloc_slice_fill_with<T>(
        &mut self,
        len: usize,
        value: impl FnMut(usize) -> T,
    ) -> &'a mut [T] {
        or_panic!(self.try_alloc_slice_fill_with(len, value))
    }

    /// As [`alloc_slice_fill_with`](Self::alloc_slice_fill_with).
    ///
    /// # Errors
    ///
    /// If `len` values do not fit the address space, or the allocator has no memory.
    pub fn try_alloc_slice_fill_with<T>(
        &mut self,
        len: usize,
        value: impl FnMut(usize) -> T,
    ) -> Result<&'a mut [T], ArenaError> {
        self.try_alloc_slice_fill_iter((0..len).map(value))
    }

    /// A slice of the iterator's values.
    ///
    /// The iterator's `size_hint` says how much memory is taken in advance. A wrong one costs memory
    /// (or panics, if there is not that much), and changes no value.
    ///
    /// # Examples
    ///
    /// ```
    /// let arena = tower_memory::Arena::new();
    /// let squares = arena.cursor().alloc_slice_fill_iter((1..4).map(|n| n * n));
    /// assert_eq!(squares, &[1, 4, 9]);
    /// ```
    pub fn alloc_slice_fill_iter<T>(&mut self, values: impl IntoIterator<Item = T>) -> &'a mut [T] {
        or_panic!(self.try_alloc_slice_fill_iter(values))
    }

    /// As [`alloc_slice_fill_iter`](Self::alloc_slice_fill_iter).
    ///
    /// # Errors
    ///
    /// If the values do not fit the address space, or the allocator has no memory.
    pub fn try_alloc_slice_fill_iter<T>(
        &mut self,
        values: impl IntoIterator<Item = T>,
    ) -> Result<&'a mut [T], ArenaError> {
        const { refuse_drop_glue::<T>() };
        let values = values.into_iter();
        let mut slice = self.try_vec_with_capacity(values.size_hint().0)?;
        for value in values {
            slice.try_push(value)?;
        }
        Ok(slice.into_slice())
    }

    /// Formats straight into the arena.
    ///
    /// # Panics
    ///
    /// Also if a `Display` or `Debug` implementation returns an error.
    #[inline]
    pub fn format(&mut self, args: fmt::Arguments<'_>) -> &'a mut str {
        or_panic!(self.try_format(args))
    }

    /// As [`format`](Self::format).
    ///
    /// # Errors
    ///
    /// If the allocator has no memory.
    ///
    /// # Panics
    ///
    /// If a `Display` or `Debug` implementation returns an error.
    #[inline]
    pub fn try_format(&mut self, args: fmt::Arguments<'_>) -> Result<&'a mut str, ArenaError> {
        if let Some(text) = args.as_str() {
            return self.try_alloc_str(text);
        }
        let mut text = self.string();
        text.try_push_fmt(args)?;
        Ok(text.into_str())
    }

    /// An empty list that grows in the cursor's segment.
    #[must_use]
    #[inline]
    pub fn vec<T>(&mut self) -> CursorVec<'_, 'a, T> {
        CursorVec::new(&mut self.raw)
    }

    /// An empty list with room for `capacity` values.
    #[must_use]
    pub fn vec_with_capacity<T>(&mut self, capacity: usize) -> CursorVec<'_, 'a, T> {
        or_panic!(self.try_vec_with_capacity(capacity))
    }

    /// As [`vec_with_capacity`](Self::vec_with_capacity).
    ///
    /// # Errors
    ///
    /// If `capacity` values do not fit the address space, or the allocator has no memory.
    pub fn try_vec_with_capacity<T>(
        &mut self,
        capacity: usize,
    ) -> Result<CursorVec<'_, 'a, T>, ArenaError> {
        let mut vec = self.vec();
        vec.try_reserve(capacity)?;
        Ok(vec)
    }

    /// An empty text that grows in the cursor's segment.
    #[must_use]
    #[inline]
    pub fn string(&mut self) -> CursorString<'_, 'a> {
        CursorString::new(&mut self.raw)
    }

    /// An empty text with room for `capacity` bytes.
    #[must_use]
    pub fn string_with_capacity(&mut self, capacity: usize) -> CursorString<'_, 'a> {
        or_panic!(self.try_string_with_capacity(capacity))
    }

    /// As [`string_with_capacity`](Self::string_with_capacity).
    ///
    /// # Errors
    ///
    /// If `capacity` does not fit the address space, or the allocator has no memory.
    pub fn try_string_with_capacity(
        &mut self,
        capacity: usize,
    ) -> Result<CursorString<'_, 'a>, ArenaError> {
        let mut text = self.string();
        text.try_reserve(capacity)?;
        Ok(text)
    }
}

impl fmt::Debug for Cursor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.raw.fmt(f)
    }
}
