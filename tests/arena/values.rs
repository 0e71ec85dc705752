//! What is dropped, when, and what happens if user code panics or lies in the middle.

use std::{
    cell::Cell,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
};

use tower_memory::{Arena, ArenaVec};

use super::{panic_text, quiet_panic};

/// Counts its drops; some of them panic.
struct Counted<'c> {
    drops: &'c [Cell<u32>],
    at: usize,
    panics: bool,
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        let drops = &self.drops[self.at];
        drops.set(drops.get() + 1);
        if self.panics && !std::thread::panicking() {
            quiet_panic();
        }
    }
}

fn counters<const N: usize>() -> [Cell<u32>; N] {
    [const { Cell::new(0) }; N]
}

fn counted(drops: &[Cell<u32>], at: usize) -> Counted<'_> {
    Counted {
        drops,
        at,
        panics: false,
    }
}

#[track_caller]
fn assert_each_once(drops: &[Cell<u32>]) {
    let drops: Vec<_> = drops.iter().map(Cell::get).collect();
    assert_eq!(drops, vec![1; drops.len()]);
}

#[test]
fn a_list_drops_each_value_once_however_it_leaves() {
    let arena = Arena::new();
    let drops = counters::<12>();
    let mut list = arena.vec();
    for at in 0..10 {
        list.push(counted(&drops, at)); // grows several times
        arena.alloc_str("in the way");
    }
    drop(list.pop());
    assert_eq!(drops[9].get(), 1);
    list.truncate(6);
    assert_eq!(
        drops.each_ref().map(Cell::get),
        [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 0, 0]
    );
    let mut rest = list.into_iter();
    drop(rest.next());
    drop(rest.next_back());
    assert_eq!((drops[0].get(), drops[5].get(), rest.len()), (1, 1, 4));
    assert_eq!(format!("{:?}", rest.size_hint()), "(4, Some(4))");
    drop(rest);
    let mut cleared = arena.vec_with_capacity(1);
    cleared.extend([counted(&drops, 10), counted(&drops, 11)]);
    cleared.clear();
    drop(cleared);
    assert_each_once(&drops);
}

#[test]
fn a_box_drops_its_value_once() {
    let arena = Arena::new();
    let drops = counters::<2>();
    let boxed = arena.alloc_box(counted(&drops, 0));
    let moved = tower_memory::arena::ArenaBox::into_inner(arena.alloc_box(counted(&drops, 1)));
    assert_eq!(drops.each_ref().map(Cell::get), [0, 0]);
    drop(boxed);
    drop(moved);
    assert_each_once(&drops);
}

#[test]
fn values_of_size_zero_are_dropped_once_each() {
    thread_local! {
        static DROPS: Cell<u32> = const { Cell::new(0) };
    }
    struct Nothing;
    impl Drop for Nothing {
        fn drop(&mut self) {
            DROPS.set(DROPS.get() + 1);
        }
    }
    let arena = Arena::new();
    let mut list = arena.vec();
    list.extend((0..100).map(|_| Nothing));
    list.truncate(90);
    assert_eq!(DROPS.get(), 10);
    let mut rest = list.into_iter();
    drop((rest.next(), rest.next_back()));
    drop(rest);
    assert_eq!(DROPS.get(), 100);
    drop(arena.alloc_box(Nothing));
    assert_eq!(DROPS.get(), 101);
    assert_eq!(arena.allocated_bytes(), 0);
}

#[test]
fn a_drop_that_panics_loses_and_doubles_nothing() {
    fn with_panic<'a>(arena: &'a Arena, drops: &'a [Cell<u32>]) -> ArenaVec<'a, Counted<'a>> {
        let mut list = arena.vec();
        list.extend((0..8).map(|at| Counted {
            drops,
            at,
            panics: at == 3,
        }));
        list
    }
    let arena = Arena::new();
    let quietly = |f: &mut dyn FnMut()| catch_unwind(AssertUnwindSafe(f)).is_err();

    let drops = counters::<8>();
    let mut list = Some(with_panic(&arena, &drops));
    assert!(quietly(&mut || drop(list.take())));
    assert_each_once(&drops);

    let drops = counters::<8>();
    let mut list = with_panic(&arena, &drops);
    assert!(quietly(&mut || list.truncate(1)));
    assert_eq!(list.len(), 1);
    drop(list);
    assert_each_once(&drops);

    let drops = counters::<8>();
    let mut values = Some(with_panic(&arena, &drops).into_iter());
    values.as_mut().map(Iterator::next);
    assert!(quietly(&mut || drop(values.take())));
    assert_each_once(&drops);

    let drops = counters::<1>();
    let mut boxed = Some(arena.alloc_box(Counted {
        drops: &drops,
        at: 0,
        panics: true,
    }));
    assert!(quietly(&mut || drop(boxed.take())));
    assert_each_once(&drops);

    assert_eq!(arena.alloc_str("usable"), "usable");
}

#[test]
fn user_code_that_panics_midway_leaves_the_arena_usable() {
    #[derive(Debug)]
    struct Clones<'c>(&'c Cell<u32>);
    impl Clone for Clones<'_> {
        fn clone(&self) -> Self {
            self.0.set(self.0.get() + 1);
            if self.0.get() == 5 {
                quiet_panic();
            }
            Self(self.0)
        }
    }
    struct Displays;
    impl fmt::Display for Displays {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a part of it")?;
            quiet_panic()
        }
    }
    let arena = Arena::new();
    let earlier = arena.alloc_str("earlier.");
    let used = arena.allocated_bytes();
    let fails_at = |at| {
        move |i| {
            if i == at {
                quiet_panic();
            }
            i
        }
    };
    let clones = Cell::new(0);
    let source = std::array::from_fn::<_, 8, _>(|_| Clones(&clones));
    let mut list = arena.vec_with_capacity::<usize>(2);
    let mut buf = arena.buf();
    let mut text = arena.string();

    assert_eq!(
        panic_text(|| arena.alloc_slice_fill_iter((0..100).map(fails_at(50)))),
        "quiet"
    );
    assert_eq!(
        panic_text(|| arena.alloc_slice_fill_iter((0..100).map(fails_at(99)))),
        "quiet"
    );
    assert_eq!(
        panic_text(|| arena.alloc_slice_fill_iter(source.iter().cloned())),
        "quiet"
    );
    assert_eq!(
        panic_text(|| arena.alloc_fmt(format_args!("{Displays}"))),
        "quiet"
    );
    assert_eq!(
        arena.allocated_bytes() - used,
        2 * size_of::<usize>(),
        "each gave back what it had begun; what is left is the list's"
    );
    assert_eq!(
        panic_text(|| list.extend((0..100).map(fails_at(50)))),
        "quiet"
    );
    assert_eq!(
        panic_text(|| buf.extend((0..100).map(fails_at(50)).map(|i| i as u8))),
        "quiet"
    );
    assert_eq!(panic_text(|| write!(text, "{Displays}")), "quiet");

    assert_eq!(earlier, "earlier.");
    assert_eq!(clones.get(), 5);
    assert!(list.iter().copied().eq(0..50));
    assert!(buf.iter().copied().eq(0..50));
    assert_eq!(&*text, "a part of it");
    list.push(50);
    text.push('!');
    assert_eq!((list[50], &*text), (50, "a part of it!"));
    assert_eq!(arena.alloc_slice_fill_iter(0..3), [0, 1, 2]);
}

#[test]
fn a_display_that_returns_an_error_panics_as_in_std() {
    struct Fails;
    impl fmt::Display for Fails {
        fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
            Err(fmt::Error)
        }
    }
    let arena = Arena::new();
    let text = panic_text(|| arena.alloc_fmt(format_args!("{Fails}")));
    assert_eq!(text, "a formatting trait implementation returned an error");
    assert_eq!(arena.alloc_str("usable"), "usable");
}

/// Gives `len` numbers and claims to give `claimed`.
struct Lying {
    given: usize,
    len: usize,
    claimed: (usize, Option<usize>),
}

impl Iterator for Lying {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        self.given += 1;
        (self.given <= self.len).then_some(self.given as u32)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.claimed
    }
}

#[test]
fn a_wrong_size_hint_changes_no_value() {
    let arena = Arena::new();
    for claimed in [
        (0, None),
        (0, Some(0)),
        (5, Some(5)),
        (70, Some(2)),
        (10_000, None),
    ] {
        for len in [0, 1, 5, 64, 65, 3000] {
            let lying = || Lying {
                given: 0,
                len,
                claimed,
            };
            let expected: Vec<u32> = (1..=len as u32).collect();
            let before = arena.allocated_bytes();
            let slice = arena.alloc_slice_fill_iter(lying());
            assert_eq!(slice, expected, "{claimed:?} of {len}");
            if claimed.0 > 4 && len < claimed.0 {
                let taken = arena.allocated_bytes() - before;
                assert!(taken <= len * 4 + 4 * claimed.0, "{taken}");
            }
            let mut list = arena.vec();
            list.extend(lying());
            assert_eq!(*list, *expected);
            let mut buf = arena.buf();
            buf.extend(lying().map(|n| n as u8));
            assert!(buf.iter().copied().eq(expected.iter().map(|&n| n as u8)));
        }
    }
}

#[test]
fn a_size_hint_beyond_all_memory_is_an_error_before_the_first_value() {
    let arena = Arena::new();
    let lying = Lying {
        given: 0,
        len: 3,
        claimed: (usize::MAX, None),
    };
    let error = arena.try_alloc_slice_fill_iter(lying).unwrap_err();
    assert_eq!(error.asked(), usize::MAX);
    assert_eq!(arena.allocated_bytes(), 0);
}

#[test]
fn text_is_cut_between_characters_only() {
    let arena = Arena::new();
    let mut text = arena.string();
    text.extend(['a', 'é', '漢']);
    text.push_str("😀");
    text.push_str("z");
    assert_eq!(&*text, "aé漢😀z");
    assert_eq!(
        panic_text(|| text.truncate(2)),
        "byte 2 lies within a character of a text of 11 bytes"
    );
    assert_eq!(&*text, "aé漢😀z");
    text.truncate(100);
    text.truncate(6);
    assert_eq!(&*text, "aé漢");
    text.make_ascii_uppercase();
    assert_eq!(text.into_str(), "Aé漢");
}

#[test]
fn the_last_thing_grows_in_place_and_gives_its_tail_back() {
    let arena = Arena::with_capacity(4096);
    let mut list = arena.vec_with_capacity::<u8>(8);
    let place = list.as_ptr();
    list.extend_from_slice(&[1; 100]);
    assert_eq!(list.as_ptr(), place);
    let slice = list.into_slice();
    assert_eq!((slice.len(), arena.allocated_bytes()), (100, 100));
    drop(arena.vec_with_capacity::<u8>(1000));
    drop(arena.string_with_capacity(1000));
    drop(arena.buf_with_capacity(1000));
    assert_eq!(arena.allocated_bytes(), 100);
    let mut under = arena.vec_with_capacity::<u8>(8);
    under.push(1);
    let above = arena.alloc_str("in the way");
    under.extend_from_slice(&[2; 50]);
    assert_eq!((under.len(), &*above), (51, "in the way"));
}

#[test]
fn clones_are_handles_of_one_arena() {
    let arena = Arena::new();
    let clone = arena.clone();
    let buf = arena.buf();
    assert_eq!(arena.handle_count(), 3);
    drop(arena);
    assert_eq!(clone.alloc_str("lives"), "lives");
    drop(buf);
    assert_eq!((clone.handle_count(), clone.allocated_bytes()), (1, 5));
}

/// A text in parts, of which none ends where the arena would like it to.
struct Parts(usize);

impl fmt::Display for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = "\u{e4}b\u{1f600}defg".repeat(self.0.div_ceil(11));
        let mut rest: &str = &text;
        for part in (0..7).cycle() {
            let end = (part..=rest.len()).find(|&end| rest.is_char_boundary(end));
            let (now, later) = rest.split_at(end.unwrap_or(rest.len()));
            f.write_str(now)?;
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        Ok(())
    }
}

#[test]
fn short_and_long_texts_are_formatted_as_std_does() {
    let arena = Arena::new();
    // What is longer than 128 bytes is written elsewhere than what is not.
    for parts in [0, 1, 11, 12, 13, 40, 500] {
        for fill in 0..11 {
            let expected = format!("{:1$}{2}", "", fill, Parts(parts * 11));
            let before = arena.allocated_bytes();
            let text = arena.alloc_fmt(format_args!("{:1$}{2}", "", fill, Parts(parts * 11)));
            assert_eq!(*text, expected);
            if expected.len() <= 128 {
                assert_eq!(arena.allocated_bytes() - before, expected.len());
            }
        }
    }
    assert_eq!(
        arena.alloc_fmt(format_args!("{}", "x".repeat(129))).len(),
        129
    );
}

#[test]
fn what_is_made_in_an_arena_takes_memory_when_it_is_told_to_or_written_to() {
    let arena = Arena::new();
    let mut list = arena.vec();
    let mut text = arena.string();
    let mut buf = arena.buf();
    assert_eq!(
        [list.capacity(), text.capacity(), buf.capacity()],
        [0, 0, 0]
    );
    assert_eq!(arena.allocated_bytes(), 0);
    list.push(7_u64);
    text.push('€');
    write!(text, "{}", 7).unwrap();
    buf.extend_from_slice(b"seven");
    assert_eq!((&*list, &*text, &*buf), (&[7][..], "€7", &b"seven"[..]));

    let list = arena.vec_with_capacity::<u64>(3);
    let text = arena.string_with_capacity(4);
    let buf = arena.buf_with_capacity(5);
    assert!(list.capacity() >= 3 && text.capacity() >= 4 && buf.capacity() >= 5);
}

#[test]
fn reserving_exactly_takes_no_more_than_that() {
    let arena = Arena::new();
    let mut list = arena.vec_with_capacity(4);
    list.extend(0..4_u64);
    // Something behind it, so that it has to move.
    let behind = arena.alloc(1_u8);
    list.reserve_exact(1);
    assert_eq!((list.capacity(), &*list), (5, &[0, 1, 2, 3][..]));
    assert_eq!(*behind, 1);
    let mut cursor = arena.cursor();
    let mut list = cursor.vec::<u64>();
    list.reserve_exact(3);
    assert!(list.capacity() >= 3);
}
