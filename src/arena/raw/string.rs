//! UTF-8 text in an arena.
//!
//! # Invariant
//!
//! 1. The bytes are valid UTF-8: only whole `str`s are appended, and cut only at their boundaries.

use super::{reference::RawArena, vec::RawVec};
use crate::arena::ArenaError;

#[derive(Debug)]
pub(in crate::arena) struct RawString<'a> {
    bytes: RawVec<'a, u8>,
}

impl<'a> RawString<'a> {
    pub(in crate::arena) fn with_capacity(
        arena: &'a RawArena,
        capacity: usize,
    ) -> Result<Self, ArenaError> {
        Ok(Self {
            bytes: RawVec::with_capacity(arena, capacity)?,
        })
    }

    pub(in crate::arena) fn bytes(&self) -> &RawVec<'a, u8> {
        &self.bytes
    }

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

    pub(in crate::arena) fn into_str(self) -> &'a mut str {
        // SAFETY: as above.
        unsafe { std::str::from_utf8_unchecked_mut(self.bytes.into_slice()) }
    }
}
