//! Fields of a packed word.
//!
//! Each field declares its width and the field it follows. Shifts and masks are computed, and a
//! field that does not fit into the word fails to compile when it is a constant.
//!
//! The idea is that of the `Pack` trait of the crate `sharded-slab`.

/// A field of a word of up to 64 bits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Field {
    shift: u32,
    bits: u32,
}

impl Field {
    /// The lowest field of a word.
    pub(crate) const fn first(bits: u32) -> Self {
        Self { shift: 0, bits: 0 }.then(bits)
    }

    /// The field above this one.
    pub(crate) const fn then(self, bits: u32) -> Self {
        let shift = self.end();
        assert!(bits > 0 && bits <= u64::BITS - shift, "no room in the word");
        Self { shift, bits }
    }

    /// How many bits this field and those below take.
    pub(crate) const fn end(self) -> u32 {
        self.shift + self.bits
    }

    /// The highest value.
    pub(crate) const fn max(self) -> u64 {
        u64::MAX >> (u64::BITS - self.bits)
    }

    /// A word with `value` in this field and zeros elsewhere. Higher bits of `value` are cut off.
    #[inline]
    pub(crate) const fn pack(self, value: u64) -> u64 {
        (value & self.max()) << self.shift
    }

    /// The value of this field in `word`.
    #[inline]
    pub(crate) const fn get(self, word: u64) -> u64 {
        (word >> self.shift) & self.max()
    }
}

#[cfg(all(test, not(tower_memory_loom)))]
mod tests {
    use super::*;

    #[test]
    fn fields_follow_each_other_and_keep_to_themselves() {
        const FLAG: Field = Field::first(1);
        const COUNT: Field = FLAG.then(31);
        const TOTAL: Field = COUNT.then(32);
        assert_eq!([FLAG, COUNT, TOTAL].map(Field::end), [1, 32, 64]);
        assert_eq!(
            FLAG.pack(1) | COUNT.max() << 1 | TOTAL.pack(u64::MAX),
            u64::MAX
        );
        let word = FLAG.pack(1) | COUNT.pack(5) | TOTAL.pack(7);
        assert_eq!([FLAG, COUNT, TOTAL].map(|field| field.get(word)), [1, 5, 7]);
        // A unit to add to an atomic word.
        assert_eq!(COUNT.get(word + COUNT.pack(1)), 6);
        assert_eq!(FLAG.pack(2), 0, "cut off");
        assert_eq!(Field::first(64).pack(u64::MAX), u64::MAX);
    }

    #[test]
    #[should_panic(expected = "no room in the word")]
    fn a_field_beyond_the_word_is_refused() {
        let _ = Field::first(60).then(5);
    }
}
