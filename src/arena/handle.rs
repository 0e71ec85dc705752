use std::fmt;

use super::{
    error::{ArenaError, NoDropGlue, or_panic},
    format,
    limit::{within_limit, within_limit_if},
    parts::{self, Parts},
    raw::{
        Allocate, Arena, ArenaBox, ArenaBuf, ArenaString, ArenaVec, Cursor, FIRST_STEP,
        FormatBuffer, IdleArena,
    },
};

#[expect(
    clippy::must_use_candidate,
    reason = "allocating is an effect of its own"
)]
impl Arena {
    /// An arena that belongs to no pool; its memory is freed with its last handle.
    ///
    /// It takes no memory for data before the first allocation.
    #[must_use]
    pub fn new() -> Self {
        Self::with_capacity(0)
    }

    /// As [`new`](Self::new), with a first chunk of `bytes` bytes, taken at the first allocation.
    ///
    /// Zero means the default of about 4 KiB.
    #[must_use]
    pub fn with_capacity(bytes: usize) -> Self {
        IdleArena::new(bytes).activate()
    }

    /// Moves `value` into the arena, which does not drop it.
    ///
    /// Types that need dropping are refused when the program is built (`cargo check` does not see it);
    /// use [`alloc_box`](Self::alloc_box) for those.
    #[inline]
    pub fn alloc<T>(&self, value: T) -> &mut T {
        let () = NoDropGlue::<T>::CHECK;
        or_panic!(self.slot()).write(value)
    }

    /// As [`alloc`](Self::alloc), but returns an error instead of panicking.
    ///
    /// # Errors
    ///
    /// If the allocator has no memory, or the request would hold more than its limit.
    #[inline]
    pub fn try_alloc<T>(&self, value: T) -> Result<&mut T, ArenaError> {
        let () = NoDropGlue::<T>::CHECK;
        Ok(within_limit(|| self.slot())?.write(value))
    }

    /// Copies `text` into the arena.
    #[inline]
    pub fn alloc_str(&self, text: &str) -> &mut str {
        or_panic!(self.copy_str(text))
    }

    /// As [`alloc_str`](Self::alloc_str), but returns an error instead of panicking.
    ///
    /// # Errors
    ///
    /// If the allocator has no memory, or the request would hold more than its limit.
    #[inline]
    pub fn try_alloc_str(&self, text: &str) -> Result<&mut str, ArenaError> {
        within_limit(|| self.copy_str(text))
    }

    /// Formats straight into the arena.
    ///
    /// # Panics
    ///
    /// Also if a `Display` or `Debug` implementation returns an error, like [`format!`].
    ///
    /// # Examples
    ///
    /// ```
    /// let arena = tower_memory::Arena::new();
    /// let text = arena.alloc_fmt(format_args!("{}-{:02}", "item", 7));
    /// assert_eq!(text, "item-07");
    /// ```
    #[inline]
    pub fn alloc_fmt(&self, args: fmt::Arguments<'_>) -> &mut str {
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
    pub fn try_alloc_fmt(&self, args: fmt::Arguments<'_>) -> Result<&mut str, ArenaError> {
        self.format::<true>(args)
    }

    /// `LIMITED` is known when compiled, since each part of the text asks for it.
    #[inline]
    fn format<const LIMITED: bool>(
        &self,
        args: fmt::Arguments<'_>,
    ) -> Result<&mut str, ArenaError> {
        if let Some(text) = args.as_str() {
            return within_limit_if(LIMITED, || self.copy_str(text));
        }
        let mut text = FormatBuffer::new(self);
        format::write(args, |part, error| {
            if text.push_short(part) {
                return Ok(());
            }
            push_long::<LIMITED>(&mut text, part, error)
        })?;
        within_limit_if(LIMITED, || text.into_str())
    }

    /// Joins `parts` to one text in the arena.
    ///
    /// For texts of strings and integers this takes about half the time of
    /// [`alloc_fmt`](Self::alloc_fmt), which goes through `core::fmt`.
    ///
    /// # Examples
    ///
    /// ```
    /// let arena = tower_memory::Arena::new();
    /// assert_eq!(arena.alloc_concat(("item-", 7)), "item-7");
    /// ```
    #[inline]
    pub fn alloc_concat(&self, parts: impl Parts) -> &mut str {
        or_panic!(self.concat(parts))
    }

    /// As [`alloc_concat`](Self::alloc_concat), but returns an error instead of panicking.
    ///
    /// # Errors
    ///
    /// If the allocator has no memory, or the request would hold more than its limit.
    #[inline]
    pub fn try_alloc_concat(&self, parts: impl Parts) -> Result<&mut str, ArenaError> {
        within_limit(|| self.concat(parts))
    }

    #[inline]
    fn concat(&self, parts: impl Parts) -> Result<&mut str, ArenaError> {
        // To measure the parts takes less time than to put them together on the stack and copy them.
        let bytes = ArenaVec::with_capacity(self, parts::len(&parts))?;
        let mut text = ArenaString::in_place_of(bytes);
        parts.write_parts(&mut text)?;
        Ok(text.into_str())
    }

    /// Copies `values` into the arena.
    #[inline]
    pub fn alloc_slice_copy<T: Copy>(&self, values: &[T]) -> &mut [T] {
        or_panic!(self.copy_slice(values))
    }

    /// As [`alloc_slice_copy`](Self::alloc_slice_copy), but returns an error instead of panicking.
    ///
    /// # Errors
    ///
    /// If the allocator has no memory, or the request would hold more than its limit.
    #[inline]
    pub fn try_alloc_slice_copy<T: Copy>(&self, values: &[T]) -> Result<&mut [T], ArenaError> {
        within_limit(|| self.copy_slice(values))
    }

    /// A slice of the iterator's values.
    ///
    /// The iterator's `size_hint` decides how much memory is taken in advance. A wrong one costs memory
    /// (or panics, if there is not that much), and changes no value. If the iterator panics, the memory
    /// taken so far stays unused until the arena is recycled.
    ///
    /// # Examples
    ///
    /// ```
    /// let arena = tower_memory::Arena::new();
    /// let squares = arena.alloc_slice_fill_iter((1..4).map(|n| n * n));
    /// let copies = arena.alloc_slice_fill_iter(squares.iter().cloned());
    /// assert_eq!(copies, &[1, 4, 9]);
    /// ```
    pub fn alloc_slice_fill_iter<T>(&self, values: impl IntoIterator<Item = T>) -> &mut [T] {
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
        &self,
        values: impl IntoIterator<Item = T>,
    ) -> Result<&mut [T], ArenaError> {
        let () = NoDropGlue::<T>::CHECK;
        self.fill_slice(values, true)
    }

    fn fill_slice<T>(
        &self,
        values: impl IntoIterator<Item = T>,
        limited: bool,
    ) -> Result<&mut [T], ArenaError> {
        let values = values.into_iter();
        let capacity = values.size_hint().0;
        let slice = within_limit_if(limited, || ArenaVec::with_capacity(self, capacity));
        let mut slice = slice?;
        slice.try_extend(values, limited)?;
        Ok(slice.into_slice())
    }

    /// Moves `value` into the arena, behind a box that drops it.
    ///
    /// # Examples
    ///
    /// ```
    /// let arena = tower_memory::Arena::new();
    /// let name = arena.alloc_box(String::from("dropped with its box"));
    /// assert!(name.starts_with("dropped"));
    /// ```
    #[inline]
    pub fn alloc_box<T>(&self, value: T) -> ArenaBox<'_, T> {
        ArenaBox::new(or_panic!(self.slot()), value)
    }

    /// As [`alloc_box`](Self::alloc_box), but returns an error instead of panicking.
    ///
    /// # Errors
    ///
    /// If the allocator has no memory, or the request would hold more than its limit.
    #[inline]
    pub fn try_alloc_box<T>(&self, value: T) -> Result<ArenaBox<'_, T>, ArenaError> {
        Ok(ArenaBox::new(within_limit(|| self.slot())?, value))
    }

    /// An empty list, which takes memory with its first value.
    #[must_use]
    pub fn vec<T>(&self) -> ArenaVec<'_, T> {
        self.vec_with_capacity(0)
    }

    /// An empty list with room for `capacity` values.
    #[must_use]
    pub fn vec_with_capacity<T>(&self, capacity: usize) -> ArenaVec<'_, T> {
        or_panic!(ArenaVec::with_capacity(self, capacity))
    }

    /// An empty text, which takes memory with its first character.
    #[must_use]
    pub fn string(&self) -> ArenaString<'_> {
        self.string_with_capacity(0)
    }

    /// An empty text with room for `capacity` bytes.
    #[must_use]
    pub fn string_with_capacity(&self, capacity: usize) -> ArenaString<'_> {
        ArenaString::in_place_of(self.vec_with_capacity(capacity))
    }

    /// An empty byte buffer, which takes a block of memory with its first byte.
    ///
    /// In a request whose route is known, the block has the size that its largest buffers needed before
    /// ([`RouteSnapshot::learned_buffer_bytes`](crate::observe::RouteSnapshot::learned_buffer_bytes)).
    #[must_use]
    pub fn buf(&self) -> ArenaBuf {
        self.buf_with_capacity(0)
    }

    /// An empty byte buffer with room for `capacity` bytes.
    #[must_use]
    #[inline]
    pub fn buf_with_capacity(&self, capacity: usize) -> ArenaBuf {
        self.clone().into_buf(capacity)
    }

    /// Turns this handle into an empty byte buffer with room for `capacity` bytes.
    ///
    /// For one buffer without a request, [`ArenaPool::buf`](crate::ArenaPool::buf) needs no arena.
    ///
    /// # Examples
    ///
    /// ```
    /// let mut body = tower_memory::Arena::new().into_buf(16 * 1024);
    /// write!(body, "hello")?;
    /// assert_eq!(body.freeze(), "hello");
    /// # Ok::<(), tower_memory::arena::ArenaError>(())
    /// ```
    #[must_use]
    #[inline]
    pub fn into_buf(self, capacity: usize) -> ArenaBuf {
        or_panic!(ArenaBuf::with_capacity(self, capacity))
    }

    /// A cursor: it allocates without atomic operations, for one user at a time.
    ///
    /// It takes no memory before its first allocation.
    #[must_use]
    #[inline]
    pub fn cursor(&self) -> Cursor<'_> {
        Cursor::new(self, FIRST_STEP)
    }

    /// As [`cursor`](Self::cursor), but needs `&mut self`: if this is the arena's only handle, taking
    /// and giving back segments needs no atomic operations either.
    ///
    /// # Examples
    ///
    /// ```
    /// let mut arena = tower_memory::ArenaPool::new().rent();
    /// let mut cursor = arena.exclusive_cursor();
    /// let (a, b) = (cursor.alloc(1), cursor.alloc(2));
    /// assert_eq!(*a + *b, 3);
    /// ```
    #[must_use]
    #[inline]
    pub fn exclusive_cursor(&mut self) -> Cursor<'_> {
        Cursor::new_exclusive(self, FIRST_STEP)
    }
}

/// A part of a text that is too long for the stack.
#[cold]
#[inline(never)]
fn push_long<const LIMITED: bool>(
    text: &mut FormatBuffer<'_>,
    part: &str,
    error: &mut Option<ArenaError>,
) -> fmt::Result {
    let pushed = within_limit_if(LIMITED, || text.push_long(part));
    format::keep(pushed, error)
}

impl Default for Arena {
    fn default() -> Self {
        Self::new()
    }
}
