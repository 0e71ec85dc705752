use std::{
    fmt,
    ops::{Deref, DerefMut},
};

use super::{
    error::ArenaError,
    format::{PushStr, push_fmt},
    handle::{Arena, or_panic},
    raw::RawString,
};

/// A growing text in an [`Arena`], UTF-8 as ever.
///
/// As long as it is the last thing allocated it grows in place.
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
/// let mut text = arena.string_with_capacity(16);
/// text.push_str("item-");
/// write!(text, "{}", 7)?;
/// assert_eq!(&*text, "item-7");
/// # Ok::<(), std::fmt::Error>(())
/// ```
pub struct ArenaString<'a> {
    raw: RawString<'a>,
}

impl<'a> ArenaString<'a> {
    /// An empty text in `arena` with room for `capacity` bytes.
    ///
    /// # Errors
    ///
    /// If `capacity` does not fit the address space, or the allocator has no memory.
    pub fn try_with_capacity_in(capacity: usize, arena: &'a Arena) -> Result<Self, ArenaError> {
        Ok(Self {
            raw: RawString::with_capacity(arena.raw(), capacity)?,
        })
    }

    /// How many bytes fit without growing.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.raw.bytes().capacity()
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
    pub fn into_str(self) -> &'a mut str {
        self.raw.into_str()
    }
}

impl PushStr for ArenaString<'_> {
    #[inline]
    fn push(&mut self, text: &str) -> Result<(), ArenaError> {
        self.try_push_str(text)
    }
}

impl fmt::Write for ArenaString<'_> {
    #[inline]
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.try_push_str(text).map_err(|_| fmt::Error)
    }
}

impl Deref for ArenaString<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl DerefMut for ArenaString<'_> {
    fn deref_mut(&mut self) -> &mut str {
        self.raw.as_mut_str()
    }
}

impl fmt::Debug for ArenaString<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

impl fmt::Display for ArenaString<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

impl PartialEq<str> for ArenaString<'_> {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl PartialEq<&str> for ArenaString<'_> {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}

impl Extend<char> for ArenaString<'_> {
    fn extend<I: IntoIterator<Item = char>>(&mut self, characters: I) {
        for character in characters {
            self.push(character);
        }
    }
}

impl<'s> Extend<&'s str> for ArenaString<'_> {
    fn extend<I: IntoIterator<Item = &'s str>>(&mut self, texts: I) {
        for text in texts {
            self.push_str(text);
        }
    }
}

#[cfg(feature = "json")]
impl serde::Serialize for ArenaString<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}
