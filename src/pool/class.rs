/// How many size classes there are; a class fits into five bits.
pub(super) const CLASSES: usize = if cfg!(tower_memory_loom) { 10 } else { 32 };

/// The class of the initial size. Sizes are halved below it and doubled above.
const INITIAL: usize = 8;

/// No arena is made smaller than this, except by a smaller initial size.
const SMALLEST: usize = 1024;

/// A request takes arenas of up to this many classes above its own.
const LARGER: usize = 2;

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
        let class = self.class_holding(bytes);
        Wanted {
            class,
            last: (class + LARGER).clamp(INITIAL, CLASSES - 1),
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
    fn an_initial_size_at_the_limit_is_a_class_of_its_own() {
        let classes = Classes::new(4096, 4096);
        assert_eq!(classes.size(classes.any().class), 4096);
        assert_eq!(classes.holding(1 << 30).class, INITIAL);
        assert_eq!(classes.size(classes.holding(1 << 30).class), 4096);
    }
}
