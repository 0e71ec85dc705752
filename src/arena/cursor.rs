//! The methods of a cursor that need no access to memory: everything else is in `raw/cursor.rs`.

use std::fmt;

use super::{
    error::{ArenaError, NoDropGlue, or_panic},
    format,
    limit::{within_limit, within_limit_if},
    parts::Parts,
    raw::{Allocate, ArenaString, ArenaVec, Cursor, CursorString, CursorVec},
};

impl<'a> Cursor<'a> {
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
        or_panic!(self.slot()).write(value)
    }

    /// As [`alloc`](Self::alloc), but returns an error instead of panicking.
    ///
    /// # Errors
    ///
    /// If the allocator has no memory, or the request would hold more than its limit.
    #[inline(always)]
    pub fn try_alloc<T>(&mut self, value: T) -> Result<&'a mut T, ArenaError> {
        let () = NoDropGlue::<T>::CHECK;
        Ok(within_limit(|| self.slot())?.write(value))
    }

    /// Copies `text` into the arena.
    #[inline]
    pub fn alloc_str(&mut self, text: &str) -> &'a mut str {
        or_panic!(self.copy_str(text))
    }

    /// As [`alloc_str`](Self::alloc_str), but returns an error instead of panicking.
    ///
    /// # Errors
    ///
    /// If the allocator has no memory, or the request would hold more than its limit.
    #[inline]
    pub fn try_alloc_str(&mut self, text: &str) -> Result<&'a mut str, ArenaError> {
        within_limit(|| self.copy_str(text))
    }

    /// Formats straight into the arena.
    ///
    /// # Panics
    ///
    /// Also if a `Display` or `Debug` implementation returns an error, like [`format!`].
    #[inline]
    pub fn alloc_fmt(&mut self, args: fmt::Arguments<'_>) -> &'a mut str {
        or_panic!(self.format::<false>(args))
    }

    /// As [`alloc_fmt`](Self::alloc_fmt), but returns an error if there is no memory.
    ///
    /// # Errors
    ///
    /// If the allocator has no memory, or the request would hold more than its limit.
    ///
    /// # Panics
    ///
    /// If a `Display` or `Debug` implementation returns an error.
    #[inline]
    pub fn try_alloc_fmt(&mut self, args: fmt::Arguments<'_>) -> Result<&'a mut str, ArenaError> {
        self.format::<true>(args)
    }

    /// `LIMITED` is known when compiled, since each part of the text asks for it.
    #[inline]
    fn format<const LIMITED: bool>(
        &mut self,
        args: fmt::Arguments<'_>,
    ) -> Result<&'a mut str, ArenaError> {
        if let Some(text) = args.as_str() {
            return within_limit_if(LIMITED, || self.copy_str(text));
        }
        let mut text = self.string();
        format::write(args, |part, error| {
            let pushed = within_limit_if(LIMITED, || text.try_push_str(part));
            format::keep(pushed, error)
        })?;
        Ok(text.into_str())
    }

    /// Joins `parts` to one text in the arena, as [`Arena::alloc_concat`](super::Arena::alloc_concat).
    #[inline]
    pub fn alloc_concat(&mut self, parts: impl Parts) -> &'a mut str {
        or_panic!(self.concat(parts))
    }

    /// As [`alloc_concat`](Self::alloc_concat), but returns an error instead of panicking.
    ///
    /// # Errors
    ///
    /// If the allocator has no memory, or the request would hold more than its limit.
    #[inline]
    pub fn try_alloc_concat(&mut self, parts: impl Parts) -> Result<&'a mut str, ArenaError> {
        within_limit(|| self.concat(parts))
    }

    #[inline]
    fn concat(&mut self, parts: impl Parts) -> Result<&'a mut str, ArenaError> {
        let mut text = self.string();
        parts.write_parts(&mut text)?;
        Ok(text.into_str())
    }

    /// Copies `values` into the arena.
    #[inline]
    pub fn alloc_slice_copy<T: Copy>(&mut self, values: &[T]) -> &'a mut [T] {
        or_panic!(self.copy_slice(values))
    }

    /// As [`alloc_slice_copy`](Self::alloc_slice_copy), but returns an error instead of panicking.
    ///
    /// # Errors
    ///
    /// If the allocator has no memory, or the request would hold more than its limit.
    #[inline]
    pub fn try_alloc_slice_copy<T: Copy>(
        &mut self,
        values: &[T],
    ) -> Result<&'a mut [T], ArenaError> {
        within_limit(|| self.copy_slice(values))
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
        or_panic!(self.fill_slice(values, false))
    }

    /// As [`alloc_slice_fill_iter`](Self::alloc_slice_fill_iter), but returns an error instead of panicking.
    ///
    /// # Errors
    ///
    /// If the values do not fit the address space, the allocator has no memory, or the request would hold more
    /// than its limit.
    pub fn try_alloc_slice_fill_iter<T>(
        &mut self,
        values: impl IntoIterator<Item = T>,
    ) -> Result<&'a mut [T], ArenaError> {
        let () = NoDropGlue::<T>::CHECK;
        self.fill_slice(values, true)
    }

    fn fill_slice<T>(
        &mut self,
        values: impl IntoIterator<Item = T>,
        limited: bool,
    ) -> Result<&'a mut [T], ArenaError> {
        let mut slice = self.vec();
        slice.try_extend(values, limited)?;
        Ok(slice.into_slice())
    }

    /// An empty list that grows in the cursor's segment. It borrows the cursor until it ends.
    #[must_use]
    #[inline]
    pub fn vec<T>(&mut self) -> CursorVec<'_, 'a, T> {
        ArenaVec::in_segment(self)
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
        ArenaString::in_place_of(self.vec())
    }

    /// An empty text with room for `capacity` bytes.
    #[must_use]
    pub fn string_with_capacity(&mut self, capacity: usize) -> CursorString<'_, 'a> {
        ArenaString::in_place_of(self.vec_with_capacity(capacity))
    }
}
