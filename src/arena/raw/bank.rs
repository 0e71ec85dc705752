//! Slots for idle arenas or blocks, of which a thread claims some at once.
//!
//! # Invariants
//!
//! 1. Each slot's bit is set in one of the sets, or the slot belongs to one [`Claim`]. Clearing a bit makes a
//!    claim, and only a claim of the slot sets it again. A slot is filled and emptied through its claim.
//! 2. A bit is set with release and cleared with acquire. So a claim sees its slots as the claim before left
//!    them.
//!
//! No thread waits for another: a thread that stops in the middle of a claim blocks its claimed slots
//! only. A pointer that comes back (ABA) does no harm, since a slot belongs to the thread that has its claim.

use super::slot::{Pooled, Slot};
use crate::sync::{AtomicU64, Ordering};

const WORDS: usize = if cfg!(tower_memory_loom) { 1 } else { 16 };
const BITS: usize = if cfg!(tower_memory_loom) { 2 } else { 64 };

/// A bit for each slot.
///
/// Aligned to a pair of cache lines: a thread that clears bits of one set and a thread that sets
/// bits of another do not share one.
#[derive(Debug)]
#[repr(align(128))]
struct Bits {
    words: [AtomicU64; WORDS],
}

/// The slots of one word of bits. Eight that are claimed together mostly are one cache line.
#[derive(Debug)]
#[repr(align(128))]
struct Slots<T: Pooled>([Slot<T>; BITS]);

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Bank<T: Pooled> {
    slots: Box<[Slots<T>]>,
    sets: Box<[Bits]>,
}

/// Slots that belong to this value until they are [passed on](Self::pass_to).
///
/// Those that are not stay claimed: nothing else uses them.
#[derive(Debug)]
#[must_use = "slots that are not passed to a set are lost"]
pub(crate) struct Claim<'a, T: Pooled> {
    bank: &'a Bank<T>,
    word: usize,
    bits: u64,
}

impl Bits {
    fn new(word: u64) -> Self {
        Self {
            words: std::array::from_fn(|_| AtomicU64::new(word)),
        }
    }

    /// Clears up to `most` bits of one word. Returns the word's index and the bits.
    fn claim(&self, most: u32) -> Option<(usize, u64)> {
        self.words.iter().enumerate().find_map(|(index, word)| {
            // Relaxed: the compare-and-swap checks it.
            let mut now = word.load(Ordering::Relaxed);
            loop {
                let bits = lowest(now, most);
                if bits == 0 {
                    return None;
                }
                // Acquire: see invariant 2.
                match word.compare_exchange_weak(
                    now,
                    now & !bits,
                    Ordering::Acquire,
                    Ordering::Relaxed,
                ) {
                    Ok(_) => return Some((index, bits)),
                    Err(changed) => now = changed,
                }
            }
        })
    }
}

/// The lowest `most` set bits of `word`.
const fn lowest(word: u64, most: u32) -> u64 {
    let (mut rest, mut left) = (word, most);
    while left > 0 && rest != 0 {
        rest &= rest - 1;
        left -= 1;
    }
    word & !rest
}

/// The set bits of `word`, one by one.
fn each(mut word: u64) -> impl Iterator<Item = u64> {
    std::iter::from_fn(move || {
        let bit = word & word.wrapping_neg();
        word &= !bit;
        (bit != 0).then_some(bit)
    })
}

impl<T: Pooled> Bank<T> {
    pub(crate) const SLOTS: usize = WORDS * BITS;

    /// A bank with so many sets. All slots are empty, and in the first one.
    pub(crate) fn new(sets: usize) -> Self {
        let all = u64::MAX >> (64 - BITS);
        Self {
            slots: std::iter::repeat_with(|| Slots(std::array::from_fn(|_| Slot::new())))
                .take(WORDS)
                .collect(),
            sets: (0..sets)
                .map(|set| Bits::new(if set == 0 { all } else { 0 }))
                .collect(),
        }
    }

    #[inline]
    fn slot(&self, word: usize, bit: u64) -> Option<&Slot<T>> {
        self.slots.get(word)?.0.get(bit.trailing_zeros() as usize)
    }

    /// Claims up to `most` slots of a set; `None` if it has none.
    pub(crate) fn claim(&self, set: usize, most: u32) -> Option<Claim<'_, T>> {
        let (word, bits) = self.sets.get(set)?.claim(most)?;
        Some(Claim {
            bank: self,
            word,
            bits,
        })
    }

    /// Claims slots of a set one by one, of those whose tag seems to suit.
    pub(crate) fn claim_each(
        &self,
        set: usize,
        suits: impl Fn(u8) -> bool,
    ) -> impl Iterator<Item = Claim<'_, T>> {
        let words = self.sets.get(set).map(|bits| &bits.words[..]);
        let bits = words.unwrap_or(&[]).iter().enumerate();
        bits.flat_map(|(index, word)| {
            // Relaxed: a guess, which clearing a bit checks.
            each(word.load(Ordering::Relaxed)).map(move |bit| (index, word, bit))
        })
        .filter_map(move |(index, word, bit)| {
            // A guess: without it, each slot would be claimed.
            self.slot(index, bit)?.tag().filter(|tag| suits(*tag))?;
            // Acquire: see invariant 2.
            let was_set = word.fetch_and(!bit, Ordering::Acquire) & bit != 0;
            was_set.then_some(Claim {
                bank: self,
                word: index,
                bits: bit,
            })
        })
    }

    /// The number of slots in a set.
    #[cfg(test)]
    pub(crate) fn count(&self, set: usize) -> usize {
        let ones = |word: &AtomicU64| word.load(Ordering::Relaxed).count_ones() as usize;
        self.sets[set].words.iter().map(ones).sum()
    }
}

impl<'a, T: Pooled> Claim<'a, T> {
    /// The claimed slots, by their bits.
    #[inline]
    pub(crate) fn slots(&self) -> impl Iterator<Item = u64> + use<T> {
        each(self.bits)
    }

    #[inline]
    fn slot(&self, slot: u64) -> Option<&'a Slot<T>> {
        if self.bits & slot == 0 {
            return None;
        }
        self.bank.slot(self.word, slot)
    }

    /// The tag of the item in a claimed slot, if there is one.
    pub(crate) fn tag(&self, slot: u64) -> Option<u8> {
        self.slot(slot)?.tag()
    }

    /// Takes the item out of a claimed slot, if there is one, with its tag.
    #[inline]
    pub(crate) fn take(&mut self, slot: u64) -> Option<(T, u8)> {
        // SAFETY: the slot belongs to this claim, which is held exclusively (invariant 1), and is seen as it
        // was left (invariant 2).
        unsafe { self.slot(slot)?.take_unshared() }
    }

    /// Fills a claimed slot. Returns `item` if it is not empty.
    #[inline]
    pub(crate) fn put(&mut self, slot: u64, item: T, tag: u8) -> Option<T> {
        match self.slot(slot) {
            Some(slot) => slot.put(item, tag),
            None => Some(item),
        }
    }

    /// Passes claimed slots to a set.
    #[inline]
    pub(crate) fn pass_to(&mut self, set: usize, slots: u64) {
        let slots = slots & self.bits;
        if let Some(word) = self
            .bank
            .sets
            .get(set)
            .and_then(|bits| bits.words.get(self.word))
        {
            self.bits &= !slots;
            // Release: see invariant 2.
            word.fetch_or(slots, Ordering::Release);
        }
    }

    /// Passes all claimed slots to a set.
    #[inline]
    pub(crate) fn pass_all_to(mut self, set: usize) {
        self.pass_to(set, u64::MAX);
    }
}

#[cfg(all(test, not(tower_memory_loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::arena::IdleArena;

    #[test]
    fn the_lowest_bits_are_taken_first() {
        assert_eq!(lowest(0b1011_0100, 0), 0);
        assert_eq!(lowest(0b1011_0100, 2), 0b0001_0100);
        assert_eq!(lowest(0b1011_0100, 9), 0b1011_0100);
        assert_eq!(lowest(u64::MAX, 64), u64::MAX);
        assert_eq!(each(0b1010).collect::<Vec<_>>(), [0b10, 0b1000]);
    }

    #[test]
    fn a_claim_reaches_its_own_slots_only() {
        let bank = Bank::new(2);
        let (mut first, mut second) = (bank.claim(0, 1).unwrap(), bank.claim(0, 1).unwrap());
        let (of_first, of_second) = (
            first.slots().next().unwrap(),
            second.slots().next().unwrap(),
        );
        assert_ne!(of_first, of_second);
        assert!(first.put(of_second, IdleArena::new(1), 0).is_some());
        assert!(second.put(of_second, IdleArena::new(1), 0).is_none());
        assert!(
            second.put(of_second, IdleArena::new(1), 0).is_some(),
            "filled"
        );
        assert!(first.take(of_second).is_none());
        first.pass_to(1, of_second);
        first.pass_to(2, of_first);
        assert_eq!(bank.count(1), 0, "another one's slot, and no such set");
        first.pass_all_to(1);
        assert!(second.take(of_second).is_some());
        second.pass_all_to(1);
        assert_eq!(
            (bank.count(0), bank.count(1)),
            (Bank::<IdleArena>::SLOTS - 2, 2)
        );
    }

    #[derive(Debug, Clone, Copy)]
    enum Step {
        /// Claims slots of a set.
        Claim(usize, u32),
        /// Fills the claimed slots that are empty with the claim's index, or empties the full ones.
        Fill(usize, u8),
        Empty(usize),
        /// Passes some of the slots of a claim to a set.
        Pass(usize, usize, u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let at = any::<usize>();
        prop_oneof![
            3 => (0..SETS, 0_u32..12).prop_map(|(set, most)| Step::Claim(set, most)),
            3 => (at, 0_u8..128).prop_map(|(claim, tag)| Step::Fill(claim, tag)),
            2 => at.prop_map(Step::Empty),
            3 => (at, 0..SETS, any::<u64>())
                .prop_map(|(claim, set, slots)| Step::Pass(claim, set, slots)),
        ]
    }

    const SETS: usize = 3;

    proptest! {
        // Not persisted: Miri shows no directory to do it in.
        #![proptest_config(ProptestConfig {
            cases: if cfg!(miri) { 2 } else { 128 },
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        /// The model: where each slot is, and the tag of what it holds. The items' capacity is not looked at;
        /// their drop would find one that is owned twice.
        #[test]
        fn slots_are_where_a_model_has_them(
            steps in prop::collection::vec(step(), 1..if cfg!(miri) { 20 } else { 200 })
        ) {
            let bank = Bank::<IdleArena>::new(SETS);
            let mut sets = [Bank::<IdleArena>::SLOTS, 0, 0];
            let mut held: std::collections::HashMap<(usize, u64), u8> = Default::default();
            let mut claims: Vec<Claim<'_, IdleArena>> = Vec::new();
            for step in steps {
                let known = claims.len().max(1);
                match step {
                    Step::Claim(set, most) => {
                        if let Some(claim) = bank.claim(set, most) {
                            prop_assert!(claim.slots().count() <= most as usize);
                            sets[set] -= claim.slots().count();
                            claims.push(claim);
                        }
                    }
                    Step::Fill(at, tag) => if let Some(claim) = claims.get_mut(at % known) {
                        for slot in claim.slots() {
                            let refused = claim.put(slot, IdleArena::new(1), tag);
                            let full = held.contains_key(&(claim.word, slot));
                            prop_assert_eq!(refused.is_some(), full);
                            held.entry((claim.word, slot)).or_insert(tag);
                        }
                    },
                    Step::Empty(at) => if let Some(claim) = claims.get_mut(at % known) {
                        for slot in claim.slots() {
                            let expected = held.remove(&(claim.word, slot));
                            prop_assert_eq!(claim.tag(slot), expected);
                            let taken = claim.take(slot).map(|(_, tag)| tag);
                            prop_assert_eq!(taken, expected);
                        }
                    },
                    Step::Pass(at, set, slots) if !claims.is_empty() => {
                        let claim = &mut claims[at % known];
                        let before = claim.slots().count();
                        claim.pass_to(set, slots);
                        sets[set] += before - claim.slots().count();
                        if claim.slots().count() == 0 {
                            let _passed = claims.swap_remove(at % known);
                        }
                    }
                    Step::Pass(..) => {}
                }
                for (set, slots) in sets.iter().enumerate() {
                    prop_assert_eq!(bank.count(set), *slots);
                }
            }
        }
    }
}
