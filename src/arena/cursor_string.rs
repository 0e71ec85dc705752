use std::{
    fmt,
    ops::{Deref, DerefMut},
};

use super::{
    error::ArenaError,
    format::{PushStr, push_fmt},
    handle::or_panic,
    raw::{RawCursor, RawCursorString},
};

/// A text that grows in a [`Cursor`](super::Cursor)'s segment.
///
/// It has the cursor for itself, so nothing can come between its parts and it grows in place until
/// the segment ends. Turn it [into a `str`](Self::into_str) to keep it; dropped, its place is used
/// again.
///
/// # Panics
///
/// Each method without `try_` panics where its `try_` twin returns an [`ArenaError`]. Writing
/// through `fmt::Write` reports the same as [`fmt::Error`].
///
/// # Examples
///
/// ```
/// use std::fmt::Write;
///
/// let arena = tower_memory::Arena::new();
/// let mut cursor = arena.cursor();
/// let mut text = cursor.string();
/// for n in 0..3 {
///     write!(text, "{n};")?;
/// }
/// let text = text.into_str();
/// assert_eq!(text, "0;1;2;");
/// # Ok::<(), std::fmt::Error>(())
/// ```
pub struct CursorString<'c, 'a> {
    raw: RawCursorString<'c, 'a>,
}

impl<'c, 'a> CursorString<'c, 'a> {
    #[inline]
    pub(super) fn new(cursor: &'c mut RawCursor<'a>) -> Self {
        Self {
            raw: RawCursorString::new(cursor),
        }
    }

    /// How many bytes fit without taking another segment.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.raw.capacity()
    }

    /// The text so far.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.raw.as_str()
    }

    /// Appends `text`.
    #[inline]
    pub fn push_str(&mut self, text: &str) {
        or_panic!(self.try_push_str(text));
    }

    /// As [`push_str`](Self::push_str).
    ///
    /// # Errors
    ///
    /// If the text cannot grow; it is as before.
    #[inline]
    pub fn try_push_str(&mut self, text: &str) -> Result<(), ArenaError> {
        self.raw.push_str(text)
    }

    /// Appends `character`.
    #[inline]
    pub fn push(&mut self, character: char) {
        self.push_str(character.encode_utf8(&mut [0; 4]));
    }

    /// Appends what `args` formats to.
    ///
    /// # Errors
    ///
    /// If the text cannot grow; what was formatted before stays appended.
    ///
    /// # Panics
    ///
    /// If a `Display` or `Debug` implementation returns an error.
    #[inline]
    pub fn try_push_fmt(&mut self, args: fmt::Arguments<'_>) -> Result<(), ArenaError> {
        push_fmt(self, args)
    }

    /// Makes room for at least `additional` more bytes.
    pub fn reserve(&mut self, additional: usize) {
        or_panic!(self.try_reserve(additional));
    }

    /// As [`reserve`](Self::reserve).
    ///
    /// # Errors
    ///
    /// If the bytes do not fit the address space, or the allocator has no memory.
    pub fn try_reserve(&mut self, additional: usize) -> Result<(), ArenaError> {
        self.raw.reserve(additional)
    }

    /// Shortens the text to `len` bytes, or does nothing if it is not longer.
    ///
    /// # Panics
    ///
    /// If `len` lies within a character, as `String::truncate`.
    pub fn truncate(&mut self, len: usize) {
        assert!(
            self.raw.truncate(len),
            "byte {len} lies within a character of a text of {} bytes",
            self.len()
        );
    }

    /// Removes all of the text.
    pub fn clear(&mut self) {
        self.truncate(0);
    }

    /// Ends the text and returns it for as long as the arena is borrowed.
    #[must_use]
    #[inline]
    pub fn into_str(self) -> &'a mut str {
        self.raw.into_str()
    }
}

impl<'a> CursorString<'_, 'a> {
    /// As [`into_str`](Self::into_str), for a cursor that nothing else is taken from.
    pub(super) fn into_last_str(self) -> &'a mut str {
        self.raw.into_last_str()
    }
}

impl PushStr for CursorString<'_, '_> {
    #[inline]
    fn push(&mut self, text: &str) -> Result<(), ArenaError> {
        self.try_push_str(text)
    }
}

impl fmt::Write for CursorString<'_, '_> {
    #[inline]
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.try_push_str(text).map_err(|_| fmt::Error)
    }
}

impl Deref for CursorString<'_, '_> {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl DerefMut for CursorString<'_, '_> {
    fn deref_mut(&mut self) -> &mut str {
        self.raw.as_mut_str()
    }
}

impl fmt::Debug for CursorString<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

impl fmt::Display for CursorString<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}
