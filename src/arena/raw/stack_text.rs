//! A short text on the stack.
//!
//! # Invariant
//!
//! 1. The first `len` bytes are initialised and valid UTF-8: only whole `str`s are appended.

use std::{mem::MaybeUninit, ptr::NonNull, slice};

use super::copy::copy;

const CAPACITY: usize = 128;

/// At most 128 bytes of text, built without taking memory.
pub(crate) struct StackText {
    len: usize,
    bytes: [MaybeUninit<u8>; CAPACITY],
}

impl StackText {
    #[inline(always)]
    pub(crate) const fn new() -> Self {
        Self {
            len: 0,
            bytes: [const { MaybeUninit::uninit() }; CAPACITY],
        }
    }

    #[inline(always)]
    pub(crate) fn as_str(&self) -> &str {
        // SAFETY: the first `len` bytes are initialised and valid UTF-8 (invariant 1).
        unsafe {
            let bytes = slice::from_raw_parts(self.bytes.as_ptr().cast(), self.len);
            std::str::from_utf8_unchecked(bytes)
        }
    }

    /// Appends `text`, or returns `false` and changes nothing if there is no room for it.
    #[inline(always)]
    pub(crate) fn push_str(&mut self, text: &str) -> bool {
        let Some(place) = self.bytes.get_mut(self.len..self.len + text.len()) else {
            return false;
        };
        let from = NonNull::from(text).cast();
        let to = NonNull::from(place).cast();
        // SAFETY: `place` has room for the text, which lies elsewhere; it stays valid UTF-8
        // (invariant 1).
        unsafe { copy(from, to, text.len()) };
        self.len += text.len();
        true
    }
}

#[cfg(all(test, not(tower_memory_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_does_not_fit_changes_nothing() {
        let mut text = StackText::new();
        assert_eq!(text.as_str(), "");
        let (long, rest) = ("ä".repeat(60), "0123456");
        assert!(text.push_str(&long) && text.push_str(rest));
        assert!(!text.push_str("ö"));
        assert!(text.push_str("8") && text.push_str("") && !text.push_str("9"));
        assert_eq!(text.as_str(), format!("{long}{rest}8"));
    }
}
