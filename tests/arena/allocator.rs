//! The arena as an allocator of collections, against the global one.
#![expect(unsafe_code, reason = "calls the methods of `Allocator`")]

use std::{alloc::Layout, ptr::NonNull, thread};

use proptest::prelude::*;
use tower_memory::{Arena, ArenaPool};

/// The largest alignment that is asked for, as a power of two.
const MAX_ALIGN: u32 = 12;

/// What is done to the block at a place, or to a new one.
#[derive(Debug, Clone, Copy)]
enum Op {
    Alloc {
        zeroed: bool,
        size: usize,
        align: u32,
    },
    /// By so many bytes more; with another alignment, or the one it has.
    Grow {
        at: usize,
        by: usize,
        zeroed: bool,
        align: Option<u32>,
    },
    /// To so many in 256 parts.
    Shrink {
        at: usize,
        to: u8,
        align: Option<u32>,
    },
    Free {
        at: usize,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let size = || prop_oneof![1 => Just(0_usize), 8 => 1..64_usize, 2 => 64..5000_usize];
    let align = || 0..=MAX_ALIGN;
    let other = || prop_oneof![3 => Just(None), 1 => align().prop_map(Some)];
    // The last block more often: it is the one that grows in place.
    let at = || prop_oneof![Just(0_usize), 0..8_usize];
    prop_oneof![
        3 => (any::<bool>(), size(), align())
            .prop_map(|(zeroed, size, align)| Op::Alloc { zeroed, size, align }),
        3 => (at(), size(), any::<bool>(), other())
            .prop_map(|(at, by, zeroed, align)| Op::Grow { at, by, zeroed, align }),
        2 => (at(), any::<u8>(), other()).prop_map(|(at, to, align)| Op::Shrink { at, to, align }),
        2 => at().prop_map(|at| Op::Free { at }),
    ]
}

/// Numbers that look random, the same in each run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> usize {
        (self.next() % limit) as usize
    }

    fn size(&mut self) -> usize {
        match self.below(16) {
            0 => 0,
            1..=12 => 1 + self.below(63),
            13 | 14 => self.below(512),
            _ => self.below(4096),
        }
    }

    fn align(&mut self) -> u32 {
        let small = self.below(4) > 0;
        self.below(if small { 5 } else { u64::from(MAX_ALIGN) + 1 }) as u32
    }

    fn op(&mut self) -> Op {
        let at = if self.below(2) == 0 {
            0
        } else {
            self.below(64)
        };
        let other = (self.below(4) == 0).then(|| self.align());
        match self.below(10) {
            0..=2 => Op::Alloc {
                zeroed: self.below(2) == 0,
                size: self.size(),
                align: self.align(),
            },
            3..=5 => Op::Grow {
                at,
                by: self.size(),
                zeroed: self.below(2) == 0,
                align: other,
            },
            6 | 7 => Op::Shrink {
                at,
                to: self.below(256) as u8,
                align: other,
            },
            _ => Op::Free { at },
        }
    }
}

macro_rules! line {
    ($line:ident, $api:ident) => {
        mod $line {
            use super::*;
            use $api::{
                alloc::{Allocator, Global},
                boxed::Box,
                vec::Vec as ArenaVec,
            };

            /// A block of the arena and its twin on the heap, which hold the same.
            struct Block {
                arena: NonNull<u8>,
                heap: NonNull<u8>,
                layout: Layout,
            }

            impl Block {
                fn new(arena: NonNull<[u8]>, heap: NonNull<[u8]>, layout: Layout) -> Self {
                    assert!(arena.len() >= layout.size());
                    assert_eq!(arena.addr().get() % layout.align(), 0, "{layout:?}");
                    Self {
                        arena: arena.cast(),
                        heap: heap.cast(),
                        layout,
                    }
                }

                fn bytes(&self, count: usize) -> (&[u8], &[u8]) {
                    // SAFETY: both blocks are alive, and so many of their bytes were written.
                    unsafe {
                        (
                            std::slice::from_raw_parts(self.arena.as_ptr(), count),
                            std::slice::from_raw_parts(self.heap.as_ptr(), count),
                        )
                    }
                }

                /// The first `count` bytes are what the twin has.
                fn check(&self, count: usize) {
                    let (arena, heap) = self.bytes(count);
                    assert!(
                        arena == heap,
                        "{:?}: {arena:?} is not {heap:?}",
                        self.layout
                    );
                }

                /// Writes the same to both from `start` on.
                fn fill(&mut self, start: usize, mark: u8) {
                    for block in [self.arena, self.heap] {
                        // SAFETY: as long as the layout says.
                        unsafe {
                            let rest = self.layout.size() - start;
                            block.add(start).write_bytes(mark, rest);
                        }
                    }
                }
            }

            pub(super) struct World<'a> {
                arena: &'a Arena,
                blocks: Vec<Block>,
                mark: u8,
            }

            impl<'a> World<'a> {
                pub(super) fn new(arena: &'a Arena) -> Self {
                    Self {
                        arena,
                        blocks: Vec::new(),
                        mark: 0,
                    }
                }

                /// Counted from the last one.
                fn place(&self, at: usize) -> Option<usize> {
                    let count = self.blocks.len();
                    (count > 0).then(|| count - 1 - at % count)
                }

                pub(super) fn apply(&mut self, op: Op) {
                    self.mark = self.mark.wrapping_add(1);
                    // Both kinds of handle are the same allocator.
                    let arena = self.arena;
                    if self.mark % 2 == 0 {
                        self.apply_with(&arena.clone(), op);
                    } else {
                        self.apply_with(&arena, op);
                    }
                }

                fn apply_with<A: Allocator>(&mut self, allocator: &A, op: Op) {
                    let mark = self.mark;
                    let layout =
                        |size, align: u32| Layout::from_size_align(size, 1 << align).unwrap();
                    match op {
                        Op::Alloc {
                            zeroed,
                            size,
                            align,
                        } => {
                            let layout = layout(size, align);
                            let heap = Global.allocate_zeroed(layout).unwrap();
                            let arena = if zeroed {
                                allocator.allocate_zeroed(layout)
                            } else {
                                allocator.allocate(layout)
                            };
                            let mut block = Block::new(arena.unwrap(), heap, layout);
                            if zeroed {
                                block.check(size);
                            }
                            block.fill(0, mark);
                            self.blocks.push(block);
                        }
                        Op::Grow {
                            at,
                            by,
                            zeroed,
                            align,
                        } => {
                            let Some(place) = self.place(at) else { return };
                            let Block {
                                arena,
                                heap,
                                layout: old,
                            } = self.blocks.swap_remove(place);
                            let align = align.unwrap_or(old.align().trailing_zeros());
                            let new = layout(old.size() + by, align);
                            // SAFETY: blocks of these allocators and of this layout, which are
                            // given up for what is returned.
                            let mut block = unsafe {
                                let heap = Global.grow_zeroed(heap, old, new).unwrap();
                                let arena = if zeroed {
                                    allocator.grow_zeroed(arena, old, new)
                                } else {
                                    allocator.grow(arena, old, new)
                                };
                                Block::new(arena.unwrap(), heap, new)
                            };
                            block.check(if zeroed { new.size() } else { old.size() });
                            block.fill(old.size(), mark);
                            self.blocks.push(block);
                        }
                        Op::Shrink { at, to, align } => {
                            let Some(place) = self.place(at) else { return };
                            let Block {
                                arena,
                                heap,
                                layout: old,
                            } = self.blocks.swap_remove(place);
                            let align = align.unwrap_or(old.align().trailing_zeros());
                            let new = layout(old.size() * usize::from(to) / 255, align);
                            // SAFETY: as above.
                            let block = unsafe {
                                Block::new(
                                    allocator.shrink(arena, old, new).unwrap(),
                                    Global.shrink(heap, old, new).unwrap(),
                                    new,
                                )
                            };
                            block.check(new.size());
                            self.blocks.push(block);
                        }
                        Op::Free { at } => {
                            let Some(place) = self.place(at) else { return };
                            let block = self.blocks.swap_remove(place);
                            block.check(block.layout.size());
                            // SAFETY: as above, and nothing is returned.
                            unsafe {
                                allocator.deallocate(block.arena, block.layout);
                                Global.deallocate(block.heap, block.layout);
                            }
                        }
                    }
                }

                pub(super) fn check(&self) {
                    for block in &self.blocks {
                        block.check(block.layout.size());
                    }
                }
            }

            impl Drop for World<'_> {
                fn drop(&mut self) {
                    for block in self.blocks.drain(..) {
                        // SAFETY: a block of the global allocator. The arena's go with the arena.
                        unsafe { Global.deallocate(block.heap, block.layout) };
                    }
                }
            }

            #[test]
            fn half_a_million_operations_do_what_the_global_allocator_does() {
                const EPISODES: u64 = 500;
                const OPERATIONS: usize = 1000;
                let pool = ArenaPool::builder().trim_interval(None).build().unwrap();
                for episode in 0..EPISODES {
                    // Used before, so nothing is zero by chance.
                    let arena = pool.rent();
                    let mut world = World::new(&arena);
                    let mut random = Random(episode);
                    for _ in 0..OPERATIONS {
                        world.apply(random.op());
                    }
                    world.check();
                }
                assert_eq!((pool.stats().rented, pool.stats().rented_bytes), (0, 0));
                assert_eq!(pool.stats().hits, EPISODES - 1);
            }

            proptest! {
                #![proptest_config(ProptestConfig {
                    failure_persistence: None,
                    ..ProptestConfig::with_cases(256)
                })]

                #[test]
                fn short_sequences_do_what_the_global_allocator_does(
                    ops in prop::collection::vec(op(), 1..40),
                    first_chunk in 1..2000_usize,
                ) {
                    let arena = Arena::with_capacity(first_chunk);
                    let mut world = World::new(&arena);
                    for op in ops {
                        world.apply(op);
                        world.check();
                    }
                }
            }

            #[test]
            fn the_last_block_grows_and_shrinks_in_place_and_gives_its_memory_back() {
                let arena = Arena::with_capacity(4096);
                arena.alloc(1_u64);
                let layout = |size| Layout::from_size_align(size, 8).unwrap();
                // SAFETY: each block is used with the layout it has.
                unsafe {
                    let first = arena.allocate(layout(100)).unwrap();
                    let grown = arena.grow(first.cast(), layout(100), layout(200)).unwrap();
                    assert_eq!((grown.addr(), arena.allocated_bytes()), (first.addr(), 208));
                    let grown = arena
                        .grow_zeroed(grown.cast(), layout(200), layout(300))
                        .unwrap();
                    assert_eq!((grown.addr(), arena.allocated_bytes()), (first.addr(), 308));
                    let shrunk = arena.shrink(grown.cast(), layout(300), layout(50)).unwrap();
                    assert_eq!((shrunk.addr(), arena.allocated_bytes()), (first.addr(), 58));
                    arena.deallocate(shrunk.cast(), layout(50));
                    assert_eq!(arena.allocated_bytes(), 8);
                    // Another one behind it: it stays until the arena is recycled.
                    let below = arena.allocate(layout(16)).unwrap();
                    let above = arena.allocate(layout(16)).unwrap();
                    arena.deallocate(below.cast(), layout(16));
                    assert_eq!(arena.allocated_bytes(), 40);
                    arena.deallocate(above.cast(), layout(16));
                    assert_eq!(arena.allocated_bytes(), 24);
                }
            }

            #[test]
            fn what_cannot_be_had_is_an_error() {
                let arena = Arena::new();
                let most = Layout::from_size_align(isize::MAX as usize - 4095, 4096).unwrap();
                // An address space of 32 bits has room for the first one, which the arena then keeps.
                assert!((0..2).any(|_| arena.allocate(most).is_err()));
                assert!(arena.allocate_zeroed(most).is_err());
                let mut list = ArenaVec::<u64, _>::new_in(&arena);
                list.extend([1, 2]);
                assert!(list.try_reserve(usize::MAX / 16).is_err());
                assert_eq!(list[..], [1, 2]);
            }

            #[test]
            fn its_lists_and_boxes_live_in_an_arena_or_with_it() {
                let pool = ArenaPool::new();
                let arena = pool.rent();
                let mut borrowed = ArenaVec::new_in(&arena);
                borrowed.extend((0..100).map(|n| n.to_string()));
                assert!(
                    borrowed
                        .iter()
                        .enumerate()
                        .all(|(n, text)| *text == n.to_string())
                );
                borrowed.shrink_to_fit();
                drop(borrowed);
                let mut owned: ArenaVec<u64, Arena> = ArenaVec::new_in(arena.clone());
                owned.extend(0..1000);
                let boxed: Box<[u8; 64], Arena> = Box::new_in([7; 64], arena);
                // 'static, so they may go anywhere, and the last of them returns the arena.
                let (owned, boxed) = thread::spawn(move || {
                    owned.push(1000);
                    owned.retain(|n| n % 2 == 0);
                    let copy = owned.clone();
                    drop(owned);
                    (copy, boxed)
                })
                .join()
                .unwrap();
                assert!(owned.iter().copied().eq((0..=1000).step_by(2)));
                drop(owned);
                assert_eq!(pool.stats().rented, 1);
                assert_eq!(*boxed, [7; 64]);
                drop(boxed);
                assert_eq!(pool.stats().rented, 0);
            }
        }
    };
}

line!(line_02, allocator_api2);
line!(line_04, allocator_api2_04);

#[test]
fn maps_and_sets_live_in_an_arena() {
    use hashbrown::{HashMap, HashSet};

    let arena = Arena::new();
    let mut map = HashMap::new_in(&arena);
    let mut set = HashSet::new_in(&arena);
    for n in 0..5000_u32 {
        map.insert(n, arena.alloc_fmt(format_args!("item-{n}")));
        set.insert(n % 100);
        if n % 3 == 0 {
            map.remove(&(n / 2));
        }
    }
    assert_eq!(set.len(), 100);
    for (n, text) in &map {
        assert_eq!(**text, format!("item-{n}"));
    }
    map.shrink_to_fit();
    assert!(map.contains_key(&4999) && !map.contains_key(&0));
}

#[test]
fn maps_that_own_a_handle_may_go_to_other_threads() {
    use hashbrown::{HashMap, HashSet};

    let pool = ArenaPool::new();
    let mut map: HashMap<u32, String, _, Arena> = HashMap::new_in(pool.rent());
    map.extend((0..100).map(|n| (n, n.to_string())));
    let map = thread::spawn(move || {
        map.extend((100..1000).map(|n| (n, n.to_string())));
        let set: HashSet<u32, _, Arena> = {
            let mut set = HashSet::new_in(map.allocator().clone());
            set.extend(map.keys().copied());
            set
        };
        assert_eq!(set.len(), 1000);
        map
    })
    .join()
    .unwrap();
    assert!((0..1000).all(|n| map[&n] == n.to_string()));
    assert_eq!(pool.stats().rented, 1);
    drop(map);
    assert_eq!((pool.stats().rented, pool.stats().pooled), (0, 1));
}
