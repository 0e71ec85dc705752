//! Code of the user that panics, or uses the arena and the pool itself, where it is called by them.

use std::{
    cell::{Cell, RefCell},
    fmt,
    hash::{Hash, Hasher},
};

use tower_memory::{Arena, ArenaPool};

use super::{panic_text, quiet_panic};

/// Counts how many of them there are.
struct Alive<'c>(&'c Cell<i32>, u64);

impl<'c> Alive<'c> {
    fn new(count: &'c Cell<i32>, mark: u64) -> Self {
        count.set(count.get() + 1);
        Self(count, mark)
    }
}

impl Drop for Alive<'_> {
    fn drop(&mut self) {
        assert_eq!(self.1 >> 32, 0xA11E, "never was a value");
        self.0.set(self.0.get() - 1);
        if self.1 & 0xFF == 0xFF {
            quiet_panic();
        }
    }
}

const MARK: u64 = 0xA11E << 32;
const PANICS: u64 = MARK | 0xFF;

/// Every text may be formatted up to this.
struct Displays;

impl fmt::Display for Displays {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a part of it")?;
        quiet_panic()
    }
}

#[derive(Debug, PartialEq)]
struct Clones<'c>(&'c Cell<u32>);

impl Clone for Clones<'_> {
    fn clone(&self) -> Self {
        self.0.set(self.0.get() + 1);
        if self.0.get() % 5 == 0 {
            quiet_panic();
        }
        Self(self.0)
    }
}

fn fails_at(at: u64) -> impl Fn(u64) -> u64 {
    move |i| if i == at { quiet_panic() } else { i }
}

#[test]
fn user_code_that_panics_in_a_cursor_leaves_it_usable() {
    let pool = ArenaPool::new();
    // Used before, so what was never written does not look like zeros.
    pool.rent()
        .alloc_slice_fill_iter((0..16 * 1024).map(|_| 0xEE_u8));
    let arena = pool.rent();
    let clones = Cell::new(0);
    let source: [Clones<'_>; 8] = std::array::from_fn(|_| Clones(&clones));
    let mut cursor = arena.cursor();
    let earlier = cursor.alloc_str("earlier");
    let room = cursor.remaining();
    let fill = |i: usize| fails_at(20)(i as u64);
    assert_eq!(
        panic_text(|| cursor.alloc_slice_fill_iter((0..30).map(fill))),
        "quiet"
    );
    let values = (0..30).map(fails_at(29));
    assert_eq!(panic_text(|| cursor.alloc_slice_fill_iter(values)), "quiet");
    assert_eq!(
        panic_text(|| cursor.alloc_slice_fill_iter(source.iter().cloned())),
        "quiet"
    );
    assert_eq!(
        panic_text(|| cursor.alloc_fmt(format_args!("{Displays}"))),
        "quiet"
    );
    assert_eq!(cursor.remaining(), room, "what was begun is used again");

    let mut list = cursor.vec();
    assert_eq!(
        panic_text(|| list.extend((0..100).map(fails_at(50)))),
        "quiet"
    );
    assert!(list.iter().copied().eq(0..50));
    list.push(50);
    let list = list.into_slice();
    let mut text = cursor.string();
    let panic = panic_text(|| write!(text, "{Displays}"));
    assert_eq!((panic.as_str(), &*text), ("quiet", "a part of it"));
    text.push('!');
    let text = text.into_str();
    assert_eq!(
        (&*earlier, &*text, list.len()),
        ("earlier", "a part of it!", 51)
    );

    drop(cursor);
    drop(arena);
    assert_eq!((pool.stats().rented, pool.stats().rented_bytes), (0, 0));
}

#[test]
fn values_of_a_cursors_list_are_dropped_once_whatever_panics() {
    let arena = Arena::new();
    let count = Cell::new(0);
    let mut cursor = arena.cursor();
    {
        let mut list = cursor.vec();
        let values = (0..100).map(|i| Alive::new(&count, MARK | fails_at(60)(i)));
        assert_eq!(panic_text(|| list.extend(values)), "quiet");
        assert_eq!((list.len(), count.get()), (60, 60));
        drop(list.pop());
        list.truncate(10);
        assert_eq!(count.get(), 10);
    }
    assert_eq!(count.get(), 0);

    let mut list = cursor.vec();
    list.extend([MARK, PANICS, MARK | 1, MARK | 2].map(|mark| Alive::new(&count, mark)));
    assert_eq!(panic_text(|| list.truncate(1)), "quiet");
    assert_eq!((list.len(), count.get()), (1, 1));
    list.push(Alive::new(&count, PANICS));
    assert_eq!(panic_text(|| drop(list)), "quiet");
    assert_eq!(count.get(), 0);
    assert_eq!(*cursor.alloc(7), 7);

    let list = arena.vec::<Alive<'_>>();
    let mut values = list.into_iter();
    assert!(values.next().is_none());
}

#[test]
fn a_panic_in_a_collection_of_the_arena_loses_nothing() {
    #[derive(PartialEq, Eq)]
    struct Key(u32);
    impl Hash for Key {
        fn hash<H: Hasher>(&self, state: &mut H) {
            if self.0 == 700 {
                quiet_panic();
            }
            self.0.hash(state);
        }
    }
    let pool = ArenaPool::new();
    let arena = pool.rent();
    let count = Cell::new(0);
    let mut list = allocator_api2::vec::Vec::new_in(&arena);
    let values = (0..100).map(|i| Alive::new(&count, MARK | fails_at(60)(i)));
    assert_eq!(panic_text(|| list.extend(values)), "quiet");
    assert_eq!((list.len(), count.get()), (60, 60));
    let mut map = hashbrown::HashMap::new_in(&arena);
    let insert = || (0..1000).for_each(|n| drop(map.insert(Key(n), Alive::new(&count, MARK))));
    assert_eq!(panic_text(insert), "quiet");
    assert_eq!((map.len(), count.get()), (700, 760));
    drop(map);
    assert_eq!(count.get(), 60);
    drop(list);
    assert_eq!(count.get(), 0);
    drop(arena);
    assert_eq!((pool.stats().rented, pool.stats().pooled), (0, 1));
}

#[test]
fn a_value_may_use_its_arena_and_its_pool_while_it_is_dropped() {
    struct Busy<'a> {
        arena: &'a Arena,
        pool: &'a ArenaPool,
        seen: &'a RefCell<Vec<&'a str>>,
    }
    impl Drop for Busy<'_> {
        fn drop(&mut self) {
            self.seen
                .borrow_mut()
                .push(self.arena.alloc_str("while dropped"));
            let other = self.pool.rent();
            assert_eq!(other.alloc_str("another"), "another");
            self.pool.trim();
        }
    }
    let pool = ArenaPool::new();
    let arena = pool.rent();
    let seen = RefCell::new(Vec::new());
    let busy = || Busy {
        arena: &arena,
        pool: &pool,
        seen: &seen,
    };
    let mut list = arena.vec();
    (0..10).for_each(|_| list.push(busy()));
    list.truncate(5);
    drop(list.pop());
    let mut values = list.into_iter();
    drop(values.next());
    drop(values);
    drop(arena.alloc_box(busy()));
    let mut cursor = arena.cursor();
    let mut list = cursor.vec();
    (0..10).for_each(|_| list.push(busy()));
    list.truncate(5);
    drop(list);
    assert_eq!(&*cursor.alloc_str("after"), "after");
    drop(cursor);
    assert_eq!(*seen.borrow(), ["while dropped"; 21]);
    assert_eq!(pool.stats().rented, 1);
}

#[test]
fn the_last_handle_of_a_pool_may_go_in_the_midst_of_its_arenas() {
    struct Last(Option<ArenaPool>, Option<Arena>);
    impl Drop for Last {
        fn drop(&mut self) {
            self.0 = None;
            self.1 = None;
        }
    }
    let pool = ArenaPool::new();
    let (arena, other) = (pool.rent(), pool.rent());
    other.alloc_str("other");
    let value = arena.alloc_box(Last(Some(pool), Some(other)));
    assert_eq!(arena.alloc_str("kept"), "kept");
    drop(value);
    assert_eq!(arena.alloc_str("still"), "still");
}
