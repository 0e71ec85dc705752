//! UTF-8 text in an arena.
//!
//! # Invariant
//!
//! 1. The bytes are valid UTF-8: only whole `str`s are appended, and cut only at their boundaries.

use super::{
    cursor::{RawCursor, Segment},
    reference::RawArena,
    vec::{Keep, Own, RawVec, Space},
};
use crate::arena::ArenaError;

pub(in crate::arena) struct RawString<S: Space> {
    bytes: RawVec<S, u8>,
}

impl<'a> RawString<Own<'a>> {
    pub(in crate::arena) fn with_capacity(
        arena: &'a RawArena,
        capacity: usize,
    ) -> Result<Self, ArenaError> {
        Ok(Self {
            bytes: RawVec::with_capacity(arena, capacity)?,
        })
    }
}

impl<'c, 'a> RawString<Segment<'c, 'a>> {
    #[inline]
    pub(in crate::arena) fn in_segment(cursor: &'c mut RawCursor<'a>) -> Self {
        Self {
            bytes: RawVec::in_segment(cursor),
        }
    }
}

impl<S: Space> RawString<S> {
    pub(in crate::arena) const fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    #[inline]
    pub(in crate::arena) fn reserve(&mut self, additional: usize) -> Result<(), ArenaError> {
        self.bytes.reserve(additional)
    }

    #[inline]
    pub(in crate::arena) fn push_str(&mut self, text: &str) -> Result<(), ArenaError> {
        self.bytes.extend_from_slice(text.as_bytes())
    }

    /// Shortens the text to `len` bytes; `false`, and nothing done, within a character.
    pub(in crate::arena) fn truncate(&mut self, len: usize) -> bool {
        let cut = len >= self.bytes.len() || self.as_str().is_char_boundary(len);
        if cut {
            self.bytes.truncate(len);
        }
        cut
    }

    #[inline]
    pub(in crate::arena) fn as_str(&self) -> &str {
        // SAFETY: valid UTF-8 (invariant 1).
        unsafe { std::str::from_utf8_unchecked(self.bytes.as_slice()) }
    }

    #[inline]
    pub(in crate::arena) fn as_mut_str(&mut self) -> &mut str {
        // SAFETY: valid UTF-8 (invariant 1), and `&mut str` keeps it so.
        unsafe { std::str::from_utf8_unchecked_mut(self.bytes.as_mut_slice()) }
    }

    #[inline]
    pub(in crate::arena) fn into_str<'a>(self) -> &'a mut str
    where
        S: Keep<'a>,
    {
        // SAFETY: as above.
        unsafe { std::str::from_utf8_unchecked_mut(self.bytes.into_slice()) }
    }
}
