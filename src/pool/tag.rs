use super::class::CLASSES;
use crate::{
    arena::{IdleArena, Slot},
    pack::Field,
};

const CLASS: Field = Field::first(5);
const EPOCH: Field = CLASS.then(2);

const _: () = assert!(CLASSES as u64 - 1 <= CLASS.max());

/// What any thread may read of a waiting item without owning it: its size class, and the epoch in
/// which it was returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tag {
    bits: u8,
}

impl Tag {
    /// `epoch` counts without end; its last two bits are kept.
    #[inline]
    pub(super) const fn new(class: usize, epoch: usize) -> Self {
        const { assert!(1 << EPOCH.end() <= Slot::<IdleArena>::TAGS as u32) };
        Self {
            bits: (CLASS.pack(class as u64) | EPOCH.pack(epoch as u64)) as u8,
        }
    }

    pub(super) const fn from_bits(bits: u8) -> Self {
        Self { bits }
    }

    pub(super) const fn bits(self) -> u8 {
        self.bits
    }

    pub(super) const fn class(self) -> usize {
        CLASS.get(self.bits as u64) as usize
    }

    /// Whether the item has waited for at least one whole epoch when `now` begins.
    pub(super) const fn is_stale(self, now: usize) -> bool {
        let age = (now as u64).wrapping_sub(EPOCH.get(self.bits as u64)) & EPOCH.max();
        age >= 2
    }
}

#[cfg(all(test, not(tower_memory_loom)))]
mod tests {
    use super::*;

    #[test]
    fn an_arena_is_stale_after_one_whole_epoch_without_use() {
        for returned in 0..9 {
            let tag = Tag::new(31, returned);
            assert_eq!(tag.class(), 31);
            assert!(!tag.is_stale(returned) && !tag.is_stale(returned + 1));
            assert!(tag.is_stale(returned + 2) && tag.is_stale(returned + 3));
        }
    }
}
