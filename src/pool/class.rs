use crate::arena::{PoolHint, steps};

/// How many size classes there are; a class fits into five bits.
pub(super) const CLASSES: usize = if cfg!(tower_memory_loom) { 10 } else { 32 };

/// The class of the initial size. Sizes are halved below it and doubled above.
const INITIAL: usize = 8;

/// No arena is made smaller than this, except by a smaller initial size.
const SMALLEST: usize = 1024;

/// A request takes arenas of up to this many classes above its own.
const LARGER: usize = 2;

/// A buffer takes blocks of up to this many classes above its own.
const LARGER_BLOCKS: usize = 3;

/// The size classes of waiting arenas. With them, a small request does not pin the memory of a
/// large one.
#[derive(Debug)]
pub(super) struct Classes {
    /// Class `n` has arenas of at least `sizes[n]` bytes and fewer than `sizes[n + 1]`.
    sizes: [usize; CLASSES],
    lowest: usize,
    top: usize,
    max: usize,
}

impl Classes {
    /// The classes of a pool with this initial size, which keeps no arena above `max` bytes.
    pub(super) fn new(initial: usize, max: usize) -> Self {
        let sizes = std::array::from_fn(|class| {
            if class <= INITIAL {
                initial >> (INITIAL - class)
            } else {
                let doubled = initial.checked_mul(1 << (class - INITIAL));
                doubled.unwrap_or(usize::MAX)
            }
        });
        let floor = |bytes| {
            sizes
                .partition_point(|&size| size <= bytes)
                .saturating_sub(1)
        };
        Self {
            sizes,
            lowest: sizes.partition_point(|&size| size < initial.min(SMALLEST)),
            top: floor(max),
            max,
        }
    }

    /// The class of an arena of `capacity` bytes.
    pub(super) fn of(&self, capacity: usize) -> usize {
        let above = self.sizes.partition_point(|&size| size <= capacity);
        above.saturating_sub(1).min(self.top)
    }

    /// The lowest class whose arenas all have `bytes` bytes, or the highest class of the pool.
    fn class_holding(&self, bytes: usize) -> usize {
        let class = self.sizes.partition_point(|&size| size < bytes);
        class.max(self.lowest).min(self.top)
    }

    /// The size of a new arena of `class`.
    pub(super) fn size(&self, class: usize) -> usize {
        if class >= self.top {
            return self.max;
        }
        self.sizes[class]
    }

    /// The most that an arena keeps that was rented as one of `class`: what is larger was needed by one
    /// request and not asked for, and requests that ask for the class would not take it.
    pub(super) fn most_kept(&self, class: usize) -> usize {
        self.size((class + LARGER).max(INITIAL).min(self.top))
    }

    /// The classes for a request of unknown size: the initial size, or any arena that has grown.
    #[inline]
    pub(super) const fn any(&self) -> Wanted {
        Wanted {
            class: INITIAL,
            last: CLASSES - 1,
        }
    }

    /// The classes for a request of `bytes` bytes. Arenas of the initial size suit all smaller
    /// requests.
    #[inline]
    pub(super) fn holding(&self, bytes: usize) -> Wanted {
        let class = self.class_holding(bytes) - usize::from(bug!("class-too-small"));
        Wanted {
            class,
            last: if bug!("any-class-suits") {
                CLASSES - 1
            } else {
                (class + LARGER).clamp(INITIAL, CLASSES - 1)
            },
        }
    }
}

/// The size classes of waiting blocks, by step (see [`steps`]). The highest one has the largest
/// blocks that the pool keeps, which need not be those of a step.
#[derive(Debug)]
pub(super) struct BlockClasses {
    top: usize,
    max: usize,
}

impl BlockClasses {
    /// The classes of a pool that keeps no block above `max` bytes.
    pub(super) const fn new(max: usize) -> Self {
        let top = steps::holding(max);
        if top < CLASSES {
            return Self { top, max };
        }
        let top = CLASSES - 1;
        Self {
            top,
            max: steps::size(top),
        }
    }

    /// The classes for a buffer of `bytes` bytes; `None` if the pool keeps no block that large.
    ///
    /// A buffer that grows by four has less than four times what it needs, so its next one is content
    /// with three classes more.
    #[inline]
    pub(super) fn holding(&self, bytes: usize) -> Option<Wanted> {
        let class = steps::holding(bytes).min(self.top);
        (bytes <= self.size(class)).then(|| Wanted {
            class,
            last: (class + LARGER_BLOCKS).min(self.top),
        })
    }

    /// Whether a waiting block suits a buffer of `bytes` bytes, as [`holding`](Self::holding) says.
    #[inline]
    pub(super) fn suits(&self, block: PoolHint, bytes: usize) -> bool {
        // Nearly always: from `bytes` to twice as much, which is at most two classes more.
        block.capacity.wrapping_sub(bytes) <= bytes
            || self
                .holding(bytes)
                .is_some_and(|wanted| wanted.includes(block.class.into()))
    }

    /// The size of a new block of `class`.
    #[inline]
    pub(super) fn size(&self, class: usize) -> usize {
        if class < self.top {
            steps::size(class)
        } else {
            self.max
        }
    }
}

/// The classes that suit a request. A new arena is of the first one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) class: usize,
    pub(super) last: usize,
}

impl Wanted {
    #[inline]
    pub(super) const fn includes(self, class: usize) -> bool {
        self.class <= class && class <= self.last
    }
}

#[cfg(all(test, not(tower_memory_loom)))]
mod tests {
    use super::*;

    #[test]
    fn an_arena_of_a_class_holds_what_the_class_was_chosen_for() {
        for (initial, max) in [
            (16 * 1024, 1 << 20),
            (1000, 10_000),
            (1, 1),
            (3, usize::MAX / 2),
        ] {
            let classes = Classes::new(initial, max);
            assert_eq!(classes.of(initial), INITIAL.min(classes.top));
            for bytes in (0..12).map(|n| 7_usize.pow(n)) {
                let class = classes.holding(bytes).class;
                assert!(classes.size(class) >= bytes.min(max), "{bytes} of {max}");
                assert!(classes.size(class) <= max);
                assert_eq!(classes.of(classes.size(class)), class, "{bytes} of {max}");
            }
        }
    }

    #[test]
    fn a_block_of_a_class_holds_what_the_class_was_chosen_for() {
        for max in [1, 1000, 1024, 10_000, 1 << 20, 263_168, usize::MAX / 2] {
            let classes = BlockClasses::new(max);
            for bytes in [1, 1000, 1024, 1025, 9000, 10_000, 65_536, 1 << 20] {
                match classes.holding(bytes) {
                    Some(wanted) => {
                        let size = classes.size(wanted.class);
                        assert!(bytes <= size && size <= max && wanted.last < CLASSES);
                        assert_eq!(classes.holding(size), Some(wanted));
                    }
                    None => assert!(bytes > max),
                }
            }
        }
    }

    #[test]
    fn a_waiting_block_suits_if_its_class_does() {
        for max in [1, 1024, 1025, 10_000, 65_535, 65_536, 1 << 20] {
            let classes = BlockClasses::new(max);
            for class in 0..=classes.top {
                let capacity = classes.size(class);
                let block = PoolHint {
                    capacity,
                    class: class as u8,
                    hot: true,
                };
                let around = |bytes: usize| bytes.saturating_sub(2)..=bytes + 2;
                let sizes = (0..=classes.top).flat_map(|class| around(classes.size(class)));
                let halves = (0..4).flat_map(|power| around(capacity >> power));
                for bytes in sizes.chain(halves).chain(around(max)) {
                    let wanted = classes.holding(bytes);
                    let suits = wanted.is_some_and(|wanted| wanted.includes(class));
                    assert_eq!(
                        classes.suits(block, bytes),
                        suits,
                        "{bytes} in {capacity} of {max}"
                    );
                }
            }
        }
    }

    #[test]
    fn an_initial_size_at_the_limit_is_a_class_of_its_own() {
        let classes = Classes::new(4096, 4096);
        assert_eq!(classes.size(classes.any().class), 4096);
        assert_eq!(classes.holding(1 << 30).class, INITIAL);
        assert_eq!(classes.size(classes.holding(1 << 30).class), 4096);
    }
}
