//! A text that is formatted on the stack until its length is known.
//!
//! Taking too much room and giving back the rest are two atomic operations on the arena's position;
//! taking exactly what is needed is one. Most texts are short enough for that.
//!
//! # Invariant
//!
//! 1. The first `len` bytes of `short` are initialised and valid UTF-8: only whole `str`s are appended.

use std::{mem::MaybeUninit, ptr::NonNull, slice};

use super::{copy::copy, reference::Arena, string::ArenaString, typed::Allocate};
use crate::arena::ArenaError;

/// Longer texts continue in the arena.
const SHORT: usize = 128;

pub(in crate::arena) struct FormatBuffer<'a> {
    arena: &'a Arena,
    len: usize,
    short: [MaybeUninit<u8>; SHORT],
    long: Option<ArenaString<'a>>,
}

impl<'a> FormatBuffer<'a> {
    #[inline]
    pub(in crate::arena) fn new(arena: &'a Arena) -> Self {
        Self {
            arena,
            len: 0,
            short: [const { MaybeUninit::uninit() }; SHORT],
            long: None,
        }
    }

    #[inline]
    fn as_str(&self) -> &str {
        // SAFETY: the first `len` bytes are initialised and valid UTF-8 (invariant 1).
        unsafe {
            let bytes = slice::from_raw_parts(self.short.as_ptr().cast(), self.len);
            std::str::from_utf8_unchecked(bytes)
        }
    }

    #[inline]
    pub(in crate::arena) fn push_str(&mut self, text: &str) -> Result<(), ArenaError> {
        let place = match self.long {
            None => self.short.get_mut(self.len..self.len + text.len()),
            Some(_) => None,
        };
        let Some(place) = place else {
            return self.push_long(text);
        };
        let from = NonNull::from(text).cast();
        let to = NonNull::from(place).cast();
        // SAFETY: `place` has room for the text, which lies elsewhere; it stays valid UTF-8
        // (invariant 1).
        unsafe { copy(from, to, text.len()) };
        self.len += text.len();
        Ok(())
    }

    /// [`push_str`](Self::push_str) for a text that is no longer short.
    #[cold]
    #[inline(never)]
    fn push_long(&mut self, text: &str) -> Result<(), ArenaError> {
        let long = match &mut self.long {
            Some(long) => long,
            None => {
                let mut long = self.arena.string();
                // One reservation for both parts: it succeeds or fails as a whole.
                long.try_reserve(self.len + text.len())?;
                long.try_push_str(self.as_str())?;
                self.long.insert(long)
            }
        };
        long.try_push_str(text)
    }

    /// The text, for as long as the arena is borrowed.
    #[inline]
    pub(in crate::arena) fn into_str(self) -> Result<&'a mut str, ArenaError> {
        match self.long {
            Some(long) => Ok(long.into_str()),
            None => self.arena.copy_str(self.as_str()),
        }
    }
}
