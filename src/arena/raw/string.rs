//! UTF-8 text in an arena.
//!
//! # Invariant
//!
//! 1. The bytes are valid UTF-8: only whole `str`s are appended, and cut only at their boundaries.

use std::{
    fmt,
    ops::{Deref, DerefMut},
    str,
};

use super::{
    storage::{OwnedRegion, Storage},
    vec::ArenaVec,
};
use crate::arena::{
    error::{ArenaError, or_panic},
    format,
};

/// A growing text in an [`Arena`](crate::Arena), valid UTF-8 like [`String`].
///
/// [`Arena::string`](crate::Arena::string) makes one, and
/// [`Cursor::string`](crate::Cursor::string) makes a [`CursorString`](super::CursorString), the same
/// type in a cursor's segment. While nothing is allocated after the text it grows in place.
///
/// # Panics
///
/// Methods that need memory panic if the arena has none; call
/// [`try_reserve`](Self::try_reserve) first, or use `write!`, to handle that.
///
/// # Examples
///
/// `write!` needs no import:
///
/// ```
/// let arena = tower_memory::Arena::new();
/// let mut text = arena.string_with_capacity(16);
/// text.push_str("item-");
/// write!(text, "{}", 7)?;
/// assert_eq!(text, "item-7");
/// # Ok::<(), tower_memory::arena::ArenaError>(())
/// ```
pub struct ArenaString<'a, S: Storage<'a> = OwnedRegion<'a>> {
    bytes: ArenaVec<'a, u8, S>,
}

impl<'a, S: Storage<'a>> ArenaString<'a, S> {
    /// An empty text in place of an empty list.
    #[inline]
    pub(in crate::arena) fn in_place_of(bytes: ArenaVec<'a, u8, S>) -> Self {
        assert!(bytes.is_empty());
        Self { bytes }
    }

    /// The text so far.
    #[must_use]
    #[inline]
    pub fn as_str(&self) -> &str {
        self
    }

    /// Appends `text`.
    #[inline]
    pub fn push_str(&mut self, text: &str) {
        or_panic!(self.try_push_str(text));
    }

    /// On an error the text is unchanged.
    #[inline]
    pub(in crate::arena) fn try_push_str(&mut self, text: &str) -> Result<(), ArenaError> {
        self.bytes.try_extend_from_slice(text.as_bytes())
    }

    /// Appends `character`.
    #[inline]
    pub fn push(&mut self, character: char) {
        self.push_str(character.encode_utf8(&mut [0; 4]));
    }

    /// Appends formatted text; this is what `write!` calls, without an import.
    ///
    /// # Errors
    ///
    /// If the text cannot grow. What was written before stays appended. The error converts into
    /// [`fmt::Error`] and [`io::Error`](std::io::Error), so `?` works in functions that return those.
    ///
    /// # Panics
    ///
    /// If a `Display` or `Debug` implementation returns an error, like [`format!`].
    #[inline]
    pub fn write_fmt(&mut self, args: fmt::Arguments<'_>) -> Result<(), ArenaError> {
        format::write(args, |text, error| {
            format::keep(self.try_push_str(text), error)
        })
    }

    /// Removes and returns the last character.
    pub fn pop(&mut self) -> Option<char> {
        let last = self.chars().next_back()?;
        self.bytes.truncate(self.len() - last.len_utf8());
        Some(last)
    }

    /// Shortens the text to `len` bytes; does nothing if it is not longer.
    ///
    /// # Panics
    ///
    /// If `len` lies within a character, like [`String::truncate`].
    pub fn truncate(&mut self, len: usize) {
        assert!(
            len >= self.len() || self.is_char_boundary(len),
            "byte {len} lies within a character of a text of {} bytes",
            self.len()
        );
        self.bytes.truncate(len);
    }

    /// Removes all of the text.
    pub fn clear(&mut self) {
        self.bytes.clear();
    }

    /// How many bytes fit without taking more memory.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Makes room for at least `additional` more bytes.
    pub fn reserve(&mut self, additional: usize) {
        self.bytes.reserve(additional);
    }

    /// As [`reserve`](Self::reserve), but returns an error instead of panicking.
    ///
    /// # Errors
    ///
    /// If the bytes do not fit the address space, the request would hold more than its limit, or the allocator
    /// has no memory. The text is unchanged.
    #[inline]
    pub fn try_reserve(&mut self, additional: usize) -> Result<(), ArenaError> {
        self.bytes.try_reserve(additional)
    }

    /// As [`try_reserve`](Self::try_reserve), beyond the request's limit if need be.
    pub(in crate::arena) fn make_room(&mut self, additional: usize) -> Result<(), ArenaError> {
        self.bytes.make_room(additional)
    }

    /// Ends the text and returns it for as long as the arena is borrowed.
    #[must_use]
    #[inline]
    pub fn into_str(self) -> &'a mut str {
        // SAFETY: valid UTF-8 (invariant 1).
        unsafe { str::from_utf8_unchecked_mut(self.bytes.into_slice()) }
    }
}

/// The clone is in the same arena.
impl<'a> Clone for ArenaString<'a, OwnedRegion<'a>> {
    fn clone(&self) -> Self {
        let mut clone = self.bytes.arena().string_with_capacity(self.len());
        clone.push_str(self);
        clone
    }
}

impl<'a, S: Storage<'a>> Deref for ArenaString<'a, S> {
    type Target = str;

    #[inline]
    fn deref(&self) -> &str {
        // SAFETY: valid UTF-8 (invariant 1).
        unsafe { str::from_utf8_unchecked(&self.bytes) }
    }
}

impl<'a, S: Storage<'a>> DerefMut for ArenaString<'a, S> {
    #[inline]
    fn deref_mut(&mut self) -> &mut str {
        // SAFETY: valid UTF-8 (invariant 1), and `&mut str` keeps it so.
        unsafe { str::from_utf8_unchecked_mut(&mut self.bytes) }
    }
}
