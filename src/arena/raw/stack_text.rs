//! A short text on the stack.
//!
//! # Invariant
//!
//! 1. The first `len` bytes are initialised and valid UTF-8: only whole `str`s and digits are appended.

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

    /// Appends `number` in decimal, or returns `false` and changes nothing if there is no room for it.
    ///
    /// The digits are written where they stay. Copied from another buffer, such as `itoa`'s, they would be
    /// read in wider pieces than they were just written in, and a processor waits for that.
    #[cfg(feature = "json")]
    #[inline(always)]
    pub(crate) fn push_unsigned(&mut self, mut number: u64) -> bool {
        let digits = number.checked_ilog10().map_or(1, |log| log as usize + 1);
        let Some(place) = self.bytes.get_mut(self.len..self.len + digits) else {
            return false;
        };
        let mut pairs = place.rchunks_exact_mut(2);
        for pair in &mut pairs {
            let at = (number % 100) as usize * 2;
            pair[0].write(PAIRS[at]);
            pair[1].write(PAIRS[at + 1]);
            number /= 100;
        }
        if let [first] = pairs.into_remainder() {
            first.write(b'0' + number as u8);
        }
        self.len += digits;
        true
    }
}

/// The decimals of 0 to 99, two digits each.
#[cfg(feature = "json")]
const PAIRS: [u8; 200] = {
    let mut pairs = [b'0'; 200];
    let mut at = 0;
    while at < 200 {
        pairs[at] += (at / 20) as u8;
        pairs[at + 1] += (at / 2 % 10) as u8;
        at += 2;
    }
    pairs
};

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

    #[cfg(feature = "json")]
    #[test]
    fn numbers_of_every_length_are_written_in_decimal() {
        let powers = (0..20).map(|exponent| 10_u64.pow(exponent));
        for number in powers.flat_map(|power| [power - 1, power, power + 1, power.wrapping_mul(7)])
        {
            let mut text = StackText::new();
            assert!(text.push_str("n") && text.push_unsigned(number));
            assert_eq!(text.as_str(), format!("n{number}"));
        }
        // Six of 20 digits, and no part of a seventh.
        let mut text = StackText::new();
        while text.push_unsigned(u64::MAX) {}
        assert_eq!(text.as_str(), u64::MAX.to_string().repeat(6));
    }
}
