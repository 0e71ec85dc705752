use std::fmt;

use super::{
    boxed::ArenaBox,
    buffer::ArenaBuf,
    cursor::Cursor,
    error::{ArenaError, or_panic, refuse_drop_glue},
    format::push_fmt,
    raw::{Draft, IdleArena, RawArena},
    string::ArenaString,
    vec::ArenaVec,
};

/// A handle to memory that is given back all at once.
///
/// Cloning makes another handle to the same memory; the memory is recycled when the last handle
/// (and the last [`Bytes`](bytes::Bytes) frozen from it) is dropped. Allocating takes `&self`,
/// works from several threads at once, and returns references that live as long as the borrow of
/// the handle, so they may be held across `.await` in a future that must be `Send`.
///
/// A handler gets one from [`RequestScope::arena`](crate::RequestScope::arena) or, with the `axum`
/// feature, as an extractor argument.
///
/// # What it does not do
///
/// - Nothing is freed one by one, with one exception: the thing allocated last gives its tail or
///   itself back where it can ([`ArenaVec`], [`ArenaString`], [`ArenaBuf`]).
/// - Values are not dropped with the arena. Types with drop glue are refused at compile time by
///   [`alloc`](Self::alloc) and the slices; use [`alloc_box`](Self::alloc_box) or an [`ArenaVec`].
///
/// # Panics
///
/// Each method without `try_` panics where its `try_` twin returns an [`ArenaError`].
///
/// # Examples
///
/// ```
/// use tower_memory::Arena;
///
/// let arena = Arena::new();
/// let point = arena.alloc((1, 2));
/// let name = arena.format(format_args!("item-{}", 7));
/// point.0 = 10;
/// assert_eq!((*point, &*name), ((10, 2), "item-7"));
/// ```
///
/// A type that needs dropping does not compile:
///
/// ```compile_fail
/// let arena = tower_memory::Arena::new();
/// arena.alloc(String::from("its memory would never be freed"));
/// ```
///
/// Nor does a reference that outlives its handle:
///
/// ```compile_fail
/// let text = {
///     let arena = tower_memory::Arena::new();
///     arena.alloc_str("gone")
/// };
/// println!("{text}");
/// ```
#[derive(Clone)]
pub struct Arena {
    raw: RawArena,
}

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
    /// Zero means no preference.
    #[must_use]
    pub fn with_capacity(bytes: usize) -> Self {
        Self {
            raw: IdleArena::new(bytes).activate(),
        }
    }

    pub(crate) const fn from_raw(raw: RawArena) -> Self {
        Self { raw }
    }

    pub(crate) const fn raw(&self) -> &RawArena {
        &self.raw
    }

    /// Bytes given out so far, padding included.
    ///
    /// # Examples
    ///
    /// ```
    /// let arena = tower_memory::Arena::new();
    /// assert_eq!(arena.allocated_bytes(), 0);
    /// arena.alloc_str("four");
    /// assert_eq!(arena.allocated_bytes(), 4);
    /// ```
    #[must_use]
    pub fn allocated_bytes(&self) -> usize {
        self.raw.used()
    }

    /// Bytes taken from the global allocator for data.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.raw.capacity()
    }

    /// Whether both handles refer to the same memory.
    #[must_use]
    pub fn ptr_eq(&self, other: &Self) -> bool {
        self.raw.is_same(&other.raw)
    }

    /// How many handles there are, frozen [`Bytes`](bytes::Bytes) and buffers included.
    ///
    /// Others may change the number at any time.
    #[must_use]
    pub fn handles(&self) -> usize {
        self.raw.references()
    }

    /// Moves `value` into the arena.
    #[inline]
    pub fn alloc<T>(&self, value: T) -> &mut T {
        or_panic!(self.try_alloc(value))
    }

    /// As [`alloc`](Self::alloc).
    ///
    /// # Errors
    ///
    /// If the allocator has no memory.
    #[inline]
    pub fn try_alloc<T>(&self, value: T) -> Result<&mut T, ArenaError> {
        const { refuse_drop_glue::<T>() };
        Ok(self.raw.slot()?.write(value))
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
        or_panic!(self.try_alloc_box(value))
    }

    /// As [`alloc_box`](Self::alloc_box).
    ///
    /// # Errors
    ///
    /// If the allocator has no memory.
    #[inline]
    pub fn try_alloc_box<T>(&self, value: T) -> Result<ArenaBox<'_, T>, ArenaError> {
        ArenaBox::new(&self.raw, value)
    }

    /// Copies `text` into the arena.
    #[inline]
    pub fn alloc_str(&self, text: &str) -> &mut str {
        or_panic!(self.try_alloc_str(text))
    }

    /// As [`alloc_str`](Self::alloc_str).
    ///
    /// # Errors
    ///
    /// If the allocator has no memory.
    #[inline]
    pub fn try_alloc_str(&self, text: &str) -> Result<&mut str, ArenaError> {
        self.raw.copy_str(text)
    }

    /// Copies `values` into the arena.
    #[inline]
    pub fn alloc_slice_copy<T: Copy>(&self, values: &[T]) -> &mut [T] {
        or_panic!(self.try_alloc_slice_copy(values))
    }

    /// As [`alloc_slice_copy`](Self::alloc_slice_copy).
    ///
    /// # Errors
    ///
    /// If the allocator has no memory.
    #[inline]
    pub fn try_alloc_slice_copy<T: Copy>(&self, values: &[T]) -> Result<&mut [T], ArenaError> {
        self.raw.copy_slice(values)
    }

    /// Clones `values` into the arena.
    ///
    /// A panic in `clone` leaves the memory taken so far unused until the arena is recycled.
    pub fn alloc_slice_clone<T: Clone>(&self, values: &[T]) -> &mut [T] {
        or_panic!(self.try_alloc_slice_clone(values))
    }

    /// As [`alloc_slice_clone`](Self::alloc_slice_clone).
    ///
    /// # Errors
    ///
    /// If the allocator has no memory.
    pub fn try_alloc_slice_clone<T: Clone>(&self, values: &[T]) -> Result<&mut [T], ArenaError> {
        self.try_alloc_slice_fill_iter(values.iter().cloned())
    }

    /// A slice of `len` values, each made by `value` from its index.
    ///
    /// A panic in `value` leaves the memory taken so far unused until the arena is recycled.
    ///
    /// # Examples
    ///
    /// ```
    /// let arena = tower_memory::Arena::new();
    /// assert_eq!(arena.alloc_slice_fill_with(4, |i| i * i), &[0, 1, 4, 9]);
    /// ```
    pub fn alloc_slice_fill_with<T>(&self, len: usize, value: impl FnMut(usize) -> T) -> &mut [T] {
        or_panic!(self.try_alloc_slice_fill_with(len, value))
    }

    /// As [`alloc_slice_fill_with`](Self::alloc_slice_fill_with).
    ///
    /// # Errors
    ///
    /// If `len` values do not fit the address space, or the allocator has no memory.
    pub fn try_alloc_slice_fill_with<T>(
        &self,
        len: usize,
        value: impl FnMut(usize) -> T,
    ) -> Result<&mut [T], ArenaError> {
        self.try_alloc_slice_fill_iter((0..len).map(value))
    }

    /// A slice of the iterator's values.
    ///
    /// The iterator's `size_hint` says how much memory is taken in advance. A wrong one costs memory
    /// (or panics, if there is not that much), and changes no value.
    pub fn alloc_slice_fill_iter<T>(&self, values: impl IntoIterator<Item = T>) -> &mut [T] {
        or_panic!(self.try_alloc_slice_fill_iter(values))
    }

    /// As [`alloc_slice_fill_iter`](Self::alloc_slice_fill_iter).
    ///
    /// # Errors
    ///
    /// If the values do not fit the address space, or the allocator has no memory.
    pub fn try_alloc_slice_fill_iter<T>(
        &self,
        values: impl IntoIterator<Item = T>,
    ) -> Result<&mut [T], ArenaError> {
        const { refuse_drop_glue::<T>() };
        let values = values.into_iter();
        let mut slice = ArenaVec::with_capacity(&self.raw, values.size_hint().0)?;
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
    ///
    /// # Examples
    ///
    /// ```
    /// let arena = tower_memory::Arena::new();
    /// let text = arena.format(format_args!("{}-{:02}", "item", 7));
    /// assert_eq!(text, "item-07");
    /// ```
    #[inline]
    pub fn format(&self, args: fmt::Arguments<'_>) -> &mut str {
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
    pub fn try_format(&self, args: fmt::Arguments<'_>) -> Result<&mut str, ArenaError> {
        if let Some(text) = args.as_str() {
            return self.try_alloc_str(text);
        }
        let mut text = Draft::new(&self.raw);
        push_fmt(&mut text, args)?;
        text.into_str()
    }

    /// A cursor: it allocates without atomic operations, for one user at a time.
    ///
    /// It takes no memory before its first allocation.
    #[must_use]
    #[inline]
    pub fn cursor(&self) -> Cursor<'_> {
        Cursor::new(&self.raw)
    }

    /// As [`cursor`](Self::cursor); if this is the arena's only handle, taking and giving back
    /// segments needs no atomic operations, either.
    ///
    /// # Examples
    ///
    /// ```
    /// let mut arena = tower_memory::ArenaPool::new().rent();
    /// let mut cursor = arena.cursor_mut();
    /// let (a, b) = (cursor.alloc(1), cursor.alloc(2));
    /// assert_eq!(*a + *b, 3);
    /// ```
    #[must_use]
    #[inline]
    pub fn cursor_mut(&mut self) -> Cursor<'_> {
        Cursor::new_alone(&mut self.raw)
    }

    /// An empty list, which takes memory with its first value.
    #[must_use]
    pub fn vec<T>(&self) -> ArenaVec<'_, T> {
        or_panic!(self.try_vec_with_capacity(0))
    }

    /// An empty list with room for `capacity` values.
    #[must_use]
    pub fn vec_with_capacity<T>(&self, capacity: usize) -> ArenaVec<'_, T> {
        or_panic!(self.try_vec_with_capacity(capacity))
    }

    /// As [`vec_with_capacity`](Self::vec_with_capacity).
    ///
    /// # Errors
    ///
    /// If `capacity` values do not fit the address space, or the allocator has no memory.
    pub fn try_vec_with_capacity<T>(&self, capacity: usize) -> Result<ArenaVec<'_, T>, ArenaError> {
        ArenaVec::with_capacity(&self.raw, capacity)
    }

    /// An empty text, which takes memory with its first character.
    #[must_use]
    pub fn string(&self) -> ArenaString<'_> {
        or_panic!(self.try_string_with_capacity(0))
    }

    /// An empty text with room for `capacity` bytes.
    #[must_use]
    pub fn string_with_capacity(&self, capacity: usize) -> ArenaString<'_> {
        or_panic!(self.try_string_with_capacity(capacity))
    }

    /// As [`string_with_capacity`](Self::string_with_capacity).
    ///
    /// # Errors
    ///
    /// If `capacity` does not fit the address space, or the allocator has no memory.
    pub fn try_string_with_capacity(&self, capacity: usize) -> Result<ArenaString<'_>, ArenaError> {
        ArenaString::with_capacity(&self.raw, capacity)
    }

    /// An empty byte buffer that keeps the arena alive, with room for `capacity` bytes.
    #[must_use]
    pub fn buf_with_capacity(&self, capacity: usize) -> ArenaBuf {
        or_panic!(self.try_buf_with_capacity(capacity))
    }

    /// As [`buf_with_capacity`](Self::buf_with_capacity).
    ///
    /// # Errors
    ///
    /// If `capacity` does not fit the address space, or the allocator has no memory.
    pub fn try_buf_with_capacity(&self, capacity: usize) -> Result<ArenaBuf, ArenaError> {
        ArenaBuf::with_capacity(self.raw.clone(), capacity)
    }

    /// An empty byte buffer that keeps the arena alive.
    #[must_use]
    pub fn buf(&self) -> ArenaBuf {
        or_panic!(self.try_buf_with_capacity(0))
    }

    /// Turns this handle into an empty byte buffer with room for `capacity` bytes.
    ///
    /// As [`buf_with_capacity`](Self::buf_with_capacity), for an arena that is rented for one buffer:
    /// if this is its only handle, the buffer grows without atomic operations.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::io::Write;
    ///
    /// let pool = tower_memory::ArenaPool::new();
    /// let mut body = pool.rent().into_buf(16 * 1024);
    /// write!(body, "hello")?;
    /// let bytes = body.freeze();
    /// assert_eq!((&bytes[..], pool.stats().rented), (&b"hello"[..], 1));
    /// drop(bytes);
    /// assert_eq!(pool.stats().rented, 0);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    #[inline]
    pub fn into_buf(self, capacity: usize) -> ArenaBuf {
        or_panic!(self.try_into_buf(capacity))
    }

    /// As [`into_buf`](Self::into_buf).
    ///
    /// # Errors
    ///
    /// If `capacity` does not fit the address space, or the allocator has no memory.
    #[inline]
    pub fn try_into_buf(self, capacity: usize) -> Result<ArenaBuf, ArenaError> {
        ArenaBuf::with_capacity(self.raw, capacity)
    }
}

impl Default for Arena {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.raw.fmt(f)
    }
}
