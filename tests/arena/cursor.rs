//! Cursors, and what is built in them, against owned values; beside them others use the same arena.

use std::fmt::Write as _;

use bytes::{BufMut, Bytes};
use proptest::prelude::*;
use tower_memory::{
    Arena, ArenaBuf, ArenaPool, ArenaVec,
    arena::{ArenaError, ArenaErrorKind, Cursor},
};

use super::{
    model::{Span, letters, pattern, span_of},
    panic_text,
};

/// How many cursors, lists and buffers there are at once.
const SIDE_BY_SIDE: usize = 3;

#[derive(Debug, Clone, Copy)]
enum Op {
    Value(usize),
    Aligned(usize),
    Str(usize, usize),
    Copy(usize, usize),
    Clone(usize, usize),
    FillWith(usize, usize),
    FillIter(usize, usize),
    Format(usize, usize),
    Nothing(usize),
    /// A list of so many values; every so often, something else takes memory meanwhile.
    Vec {
        cursor: usize,
        len: usize,
        every: usize,
        keep: bool,
    },
    String {
        cursor: usize,
        len: usize,
        every: usize,
        keep: bool,
    },
    /// Drops a cursor, and begins another one in its place.
    Renew(usize),
    Beside(usize),
    Push(usize, usize),
    Put(usize, usize),
    Split(usize),
    Freeze(usize),
    DropFrozen,
}

fn op() -> impl Strategy<Value = Op> {
    let which = || 0..SIDE_BY_SIDE;
    let size = || prop_oneof![6 => 0..40_usize, 1 => 0..3000_usize];
    let both = move || (which(), size());
    let built = move || (which(), size(), 1..60_usize, any::<bool>());
    prop_oneof![
        which().prop_map(Op::Value),
        which().prop_map(Op::Aligned),
        both().prop_map(|(i, n)| Op::Str(i, n)),
        both().prop_map(|(i, n)| Op::Copy(i, n)),
        both().prop_map(|(i, n)| Op::Clone(i, n)),
        both().prop_map(|(i, n)| Op::FillWith(i, n)),
        both().prop_map(|(i, n)| Op::FillIter(i, n)),
        both().prop_map(|(i, n)| Op::Format(i, n)),
        which().prop_map(Op::Nothing),
        built().prop_map(|(cursor, len, every, keep)| Op::Vec {
            cursor,
            len,
            every,
            keep
        }),
        built().prop_map(|(cursor, len, every, keep)| Op::String {
            cursor,
            len,
            every,
            keep
        }),
        which().prop_map(Op::Renew),
        size().prop_map(Op::Beside),
        both().prop_map(|(i, n)| Op::Push(i, n)),
        both().prop_map(|(i, n)| Op::Put(i, n)),
        which().prop_map(Op::Split),
        which().prop_map(Op::Freeze),
        Just(Op::DropFrozen),
    ]
}

/// Cursors round sizes up to this.
fn rounded(bytes: usize) -> usize {
    bytes.next_multiple_of(8)
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Odd([u8; 3]);

#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(align(64))]
struct Wide(u16);

#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(align(4096))]
struct Page(u16);

struct World<'a> {
    arena: &'a Arena,
    cursors: [Cursor<'a>; SIDE_BY_SIDE],
    bytes: Vec<(&'a mut [u8], Vec<u8>)>,
    words: Vec<(&'a mut [u64], Vec<u64>)>,
    odds: Vec<(&'a mut [Odd], Vec<Odd>)>,
    strs: Vec<(&'a mut str, String)>,
    wides: Vec<(&'a mut Wide, u16)>,
    pages: Vec<(&'a mut Page, u16)>,
    lists: [(ArenaVec<'a, u64>, Vec<u64>); SIDE_BY_SIDE],
    bufs: [(ArenaBuf, Vec<u8>); SIDE_BY_SIDE],
    frozen: Vec<(Bytes, Vec<u8>)>,
}

impl<'a> World<'a> {
    fn new(arena: &'a Arena) -> Self {
        Self {
            arena,
            cursors: std::array::from_fn(|_| arena.cursor()),
            bytes: Vec::new(),
            words: Vec::new(),
            odds: Vec::new(),
            strs: Vec::new(),
            wides: Vec::new(),
            pages: Vec::new(),
            lists: std::array::from_fn(|_| (arena.vec(), Vec::new())),
            bufs: std::array::from_fn(|_| (arena.buf(), Vec::new())),
            frozen: Vec::new(),
        }
    }

    fn apply(&mut self, seed: usize, op: Op) {
        let arena = self.arena;
        let word = |i: usize| (seed as u64) << 32 | i as u64;
        let odd = |i: usize| Odd([seed as u8, i as u8, (i >> 8) as u8]);
        match op {
            Op::Value(c) => {
                let value = std::slice::from_mut(self.cursors[c].alloc(word(0)));
                self.words.push((value, vec![word(0)]));
            }
            Op::Aligned(c) => {
                let mark = seed as u16;
                self.wides.push((self.cursors[c].alloc(Wide(mark)), mark));
                if seed % 4 == 0 {
                    self.pages.push((self.cursors[c].alloc(Page(mark)), mark));
                }
            }
            Op::Str(c, n) => {
                let text = letters(seed, n);
                self.strs.push((self.cursors[c].alloc_str(&text), text));
            }
            Op::Copy(c, n) => {
                let bytes = pattern(seed, n);
                self.bytes
                    .push((self.cursors[c].alloc_slice_copy(&bytes), bytes));
            }
            Op::Clone(c, n) => {
                let odds: Vec<Odd> = (0..n).map(odd).collect();
                self.odds.push((
                    self.cursors[c].alloc_slice_fill_iter(odds.iter().cloned()),
                    odds,
                ));
            }
            Op::FillWith(c, n) => {
                let slice = self.cursors[c].alloc_slice_fill_iter((0..n).map(word));
                self.words.push((slice, (0..n).map(word).collect()));
            }
            Op::FillIter(c, n) => {
                // No lower bound: it grows as it goes.
                let values = (0..n).map(odd).filter(|_| true);
                let slice = self.cursors[c].alloc_slice_fill_iter(values);
                self.odds.push((slice, (0..n).map(odd).collect()));
            }
            Op::Format(c, n) => {
                let text = letters(seed, n);
                let made = self.cursors[c].alloc_fmt(format_args!("{seed}-{text}"));
                self.strs.push((made, format!("{seed}-{text}")));
            }
            Op::Nothing(c) => {
                let cursor = &mut self.cursors[c];
                let room = cursor.remaining();
                assert!(cursor.alloc_slice_copy::<Page>(&[]).is_empty());
                assert_eq!(cursor.alloc(()), &());
                assert!(cursor.vec::<Odd>().into_slice().is_empty());
                assert!(cursor.string().into_str().is_empty());
                assert_eq!(
                    cursor.alloc_slice_fill_iter((0..seed).map(|_| ())).len(),
                    seed
                );
                assert_eq!(cursor.remaining(), room);
            }
            Op::Vec {
                cursor,
                len,
                every,
                keep,
            } => {
                let mut list = self.cursors[cursor].vec();
                let mut twin = Vec::new();
                for i in 0..len {
                    list.push(odd(i));
                    twin.push(odd(i));
                    if i % every == every - 1 {
                        let bytes = pattern(seed + i, 9);
                        self.bytes.push((arena.alloc_slice_copy(&bytes), bytes));
                        assert_eq!(list.pop(), twin.pop());
                        list.extend_from_slice(&[odd(i), odd(i + 1)]);
                        twin.extend_from_slice(&[odd(i), odd(i + 1)]);
                    }
                }
                list.truncate(len / 2 + 1);
                twin.truncate(len / 2 + 1);
                assert_eq!(list[..], twin[..]);
                if keep {
                    self.odds.push((list.into_slice(), twin));
                }
            }
            Op::String {
                cursor,
                len,
                every,
                keep,
            } => {
                let mut text = self.cursors[cursor].string_with_capacity(len % 50);
                let mut twin = String::new();
                for (i, letter) in letters(seed, len).chars().enumerate() {
                    text.push(letter);
                    twin.push(letter);
                    if i % every == every - 1 {
                        self.words
                            .push((std::slice::from_mut(arena.alloc(word(i))), vec![word(i)]));
                        write!(text, "{i}").unwrap();
                        write!(twin, "{i}").unwrap();
                    }
                }
                let cut = twin.char_indices().nth(len / 2).map_or(0, |(at, _)| at);
                text.truncate(cut);
                twin.truncate(cut);
                assert_eq!(&*text, twin);
                if keep {
                    self.strs.push((text.into_str(), twin));
                }
            }
            Op::Renew(c) => {
                let (used, room) = (arena.allocated_bytes(), self.cursors[c].remaining());
                self.cursors[c] = arena.cursor();
                let now = arena.allocated_bytes();
                // All of it, with the padding in front if it was not used, or nothing, because somebody
                // has taken something behind it.
                let given_back = used - now;
                assert!(
                    given_back == 0 || (room..room + 8).contains(&given_back),
                    "{given_back} of {room}"
                );
            }
            Op::Beside(n) => {
                let bytes = pattern(seed, n);
                self.bytes.push((arena.alloc_slice_copy(&bytes), bytes));
            }
            Op::Push(i, n) => {
                let (list, twin) = &mut self.lists[i];
                list.extend((0..n).map(word));
                twin.extend((0..n).map(word));
            }
            Op::Put(i, n) => {
                let (buf, twin) = &mut self.bufs[i];
                buf.put_slice(&pattern(seed, n));
                twin.extend(pattern(seed, n));
            }
            Op::Split(i) => {
                let (buf, twin) = &mut self.bufs[i];
                let part = buf.split();
                assert_eq!(part.len(), twin.len());
                assert!(buf.is_empty());
                self.frozen.push((part.freeze(), std::mem::take(twin)));
            }
            Op::Freeze(i) => {
                let (buf, twin) = std::mem::replace(&mut self.bufs[i], (arena.buf(), Vec::new()));
                self.frozen.push((buf.freeze(), twin));
            }
            Op::DropFrozen => {
                if !self.frozen.is_empty() {
                    self.frozen.swap_remove(seed % self.frozen.len());
                }
            }
        }
    }

    fn check(&self) {
        self.bytes.iter().for_each(|(a, b)| assert_eq!(a, b));
        self.words.iter().for_each(|(a, b)| assert_eq!(a, b));
        self.odds.iter().for_each(|(a, b)| assert_eq!(a, b));
        self.strs.iter().for_each(|(a, b)| assert_eq!(**a, **b));
        self.wides.iter().for_each(|(a, b)| assert_eq!(a.0, *b));
        self.pages.iter().for_each(|(a, b)| assert_eq!(a.0, *b));
        self.lists
            .iter()
            .for_each(|(a, b)| assert_eq!(a[..], b[..]));
        self.bufs.iter().for_each(|(a, b)| assert_eq!(a[..], b[..]));
        self.frozen.iter().for_each(|(a, b)| assert_eq!(a, b));
    }

    fn check_overlaps(&self) {
        let mut spans: Vec<Span> = Vec::new();
        spans.extend(self.bytes.iter().map(|(a, _)| span_of(a)));
        spans.extend(self.words.iter().map(|(a, _)| span_of(a)));
        spans.extend(self.odds.iter().map(|(a, _)| span_of(a)));
        spans.extend(self.strs.iter().map(|(a, _)| span_of(a.as_bytes())));
        spans.extend(
            self.wides
                .iter()
                .map(|(a, _)| span_of(std::slice::from_ref(*a))),
        );
        spans.extend(
            self.pages
                .iter()
                .map(|(a, _)| span_of(std::slice::from_ref(*a))),
        );
        spans.extend(self.lists.iter().map(|(a, _)| span_of(a)));
        spans.extend(self.bufs.iter().map(|(a, _)| span_of(a)));
        spans.extend(self.frozen.iter().map(|(a, _)| span_of(a)));
        spans.retain(|span| span.start < span.end);
        spans.sort_unstable();
        for pair in spans.windows(2) {
            assert!(pair[0].end <= pair[1].start, "{pair:?} overlap");
        }
        assert!(
            self.pages
                .iter()
                .all(|(a, _)| (&raw const **a).addr() % 4096 == 0)
        );
        assert!(
            self.wides
                .iter()
                .all(|(a, _)| (&raw const **a).addr() % 64 == 0)
        );
    }
}

/// What is taken through `exclusive_cursor`, one cursor after the other.
#[derive(Debug, Clone, Copy)]
enum Alone {
    /// A handle, so that the next cursors are not alone.
    CloneHandle,
    DropHandle,
    /// So many bytes, in pieces of at most so many.
    Take(usize, usize),
    /// A list of so many values that is dropped.
    Drop(usize),
    Freeze(usize),
    DropFrozen,
}

fn alone() -> impl Strategy<Value = Alone> {
    prop_oneof![
        1 => Just(Alone::CloneHandle),
        2 => Just(Alone::DropHandle),
        4 => (0..4000_usize, 1..200_usize).prop_map(|(n, piece)| Alone::Take(n, piece)),
        1 => (0..2000_usize).prop_map(Alone::Drop),
        1 => (0..300_usize).prop_map(Alone::Freeze),
        2 => Just(Alone::DropFrozen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(128) })]

    #[test]
    fn several_cursors_behave_as_owned_values_do(
        ops in prop::collection::vec(op(), 1..80),
        first_chunk in 1..6000_usize,
        recycled in any::<bool>(),
    ) {
        let pool = ArenaPool::builder().initial_bytes(first_chunk).build().unwrap();
        if recycled {
            pool.rent().alloc_slice_fill_iter((0..first_chunk).map(|_| 0xEE_u8));
        }
        let arena = pool.rent();
        let mut world = World::new(&arena);
        for (seed, op) in ops.into_iter().enumerate() {
            world.apply(seed, op);
            world.check();
        }
        world.check_overlaps();
        let frozen = std::mem::take(&mut world.frozen);
        drop(world);
        drop(arena);
        frozen.iter().for_each(|(a, b)| assert_eq!(a, b));
        drop(frozen);
        prop_assert_eq!(pool.stats().rented, 0);
    }

    #[test]
    fn a_cursor_that_may_be_alone_behaves_like_any_other(
        ops in prop::collection::vec(alone(), 1..40),
        first_chunk in 1..3000_usize,
    ) {
        let mut arena = Arena::with_capacity(first_chunk);
        let mut handles: Vec<Arena> = Vec::new();
        let mut frozen: Vec<(Bytes, Vec<u8>)> = Vec::new();
        for (seed, op) in ops.into_iter().enumerate() {
            let used = arena.allocated_bytes();
            match op {
                Alone::CloneHandle => handles.push(arena.clone()),
                Alone::DropHandle => drop(handles.pop()),
                Alone::Take(n, piece) => {
                    let bytes = pattern(seed, n);
                    let capacity = arena.capacity();
                    let mut cursor = arena.exclusive_cursor();
                    let kept: Vec<&mut [u8]> = bytes
                        .chunks(piece)
                        .map(|piece| cursor.alloc_slice_copy(piece))
                        .collect();
                    drop(cursor);
                    for (kept, piece) in kept.iter().zip(bytes.chunks(piece)) {
                        prop_assert_eq!(&kept[..], piece);
                        for (bytes, twin) in &frozen {
                            prop_assert_eq!(bytes, twin);
                        }
                    }
                    if arena.capacity() == capacity {
                        // Each piece is rounded up, and so is where the first one begins.
                        let pieces: usize =
                            bytes.chunks(piece).map(|piece| rounded(piece.len())).sum();
                        let began = arena.allocated_bytes() - pieces;
                        prop_assert!((used..used + 8).contains(&began), "{} of {}", began, used);
                    }
                }
                Alone::Drop(n) => {
                    let capacity = arena.capacity();
                    let mut cursor = arena.exclusive_cursor();
                    let mut list = cursor.vec::<u8>();
                    list.extend(pattern(seed, n));
                    prop_assert_eq!(&list[..], &pattern(seed, n)[..]);
                    drop(list);
                    drop(cursor);
                    if arena.capacity() == capacity {
                        let now = arena.allocated_bytes();
                        prop_assert!((used..used + 8).contains(&now), "{} of {}", now, used);
                    }
                }
                Alone::Freeze(n) => {
                    let mut buf = arena.buf_with_capacity(n / 2);
                    buf.put_slice(&pattern(seed, n));
                    frozen.push((buf.freeze(), pattern(seed, n)));
                }
                Alone::DropFrozen => drop(frozen.pop()),
            }
            for (bytes, twin) in &frozen {
                prop_assert_eq!(bytes, twin);
            }
        }
    }
}

#[test]
fn a_cursor_at_the_top_gives_back_all_it_did_not_use() {
    let mut arena = Arena::with_capacity(100_000);
    let mut cursor = arena.cursor();
    for n in 0..1000_u64 {
        cursor.alloc(n);
    }
    assert!(cursor.remaining() > 0 && arena.allocated_bytes() > 8000);
    drop(cursor);
    assert_eq!(arena.allocated_bytes(), 8000);
    let mut cursor = arena.exclusive_cursor();
    cursor.alloc_str("abc");
    cursor.string().push_str("not kept");
    drop(cursor);
    assert_eq!(arena.allocated_bytes(), 8008);
    // Nothing was taken at all.
    drop(arena.cursor());
    assert_eq!(arena.alloc_fmt(format_args!("{}", 1)), "1");
    assert_eq!(arena.allocated_bytes(), 8009);
}

#[test]
fn a_cursor_that_others_have_built_upon_keeps_its_tail() {
    let arena = Arena::with_capacity(10_000);
    let mut below = arena.cursor();
    below.alloc(1_u8);
    let mut above = arena.cursor();
    above.alloc(2_u8);
    let used = arena.allocated_bytes();
    drop(below);
    assert_eq!(arena.allocated_bytes(), used);
    let room = above.remaining();
    drop(above);
    assert_eq!(arena.allocated_bytes(), used - room);
}

#[test]
#[expect(clippy::mem_forget, reason = "that is the case that is tested")]
fn a_forgotten_list_leaves_the_cursor_as_it_was() {
    let arena = Arena::new();
    let mut cursor = arena.cursor();
    let kept = cursor.alloc(7_u64);
    let mut list = cursor.vec::<u64>();
    list.extend(0..5);
    std::mem::forget(list);
    let after = cursor.alloc_slice_copy(&[1_u64, 2]);
    assert_eq!((*kept, &*after), (7, &[1, 2][..]));
    std::mem::forget(cursor);
    assert_eq!(arena.alloc_str("behind"), "behind");
    assert_eq!((*kept, &*after), (7, &[1, 2][..]));
}

#[test]
fn an_absurd_size_is_an_error_and_changes_nothing() {
    let arena = Arena::new();
    let mut cursor = arena.cursor();
    let kept = cursor.alloc(1_u64);
    let (used, room) = (arena.allocated_bytes(), cursor.remaining());
    type Grow = fn(&mut Cursor<'_>) -> Result<(), ArenaError>;
    let overflows: [Grow; 5] = [
        |cursor| cursor.vec::<u64>().try_reserve(usize::MAX),
        |cursor| {
            let beyond = isize::MAX as usize / 8 + 1;
            cursor.vec::<u64>().try_reserve_exact(beyond)
        },
        |cursor| cursor.vec::<u8>().try_reserve(usize::MAX),
        |cursor| cursor.string().try_reserve(isize::MAX as usize + 1),
        |cursor| {
            let values = (0..usize::MAX).map(|n| n as u64);
            cursor.try_alloc_slice_fill_iter(values).map(drop)
        },
    ];
    for overflow in overflows {
        let error = overflow(&mut cursor).unwrap_err();
        assert_eq!(error.kind(), ArenaErrorKind::CapacityOverflow);
        assert_eq!(error.used(), used);
        assert!(error.asked() > isize::MAX as usize, "{error}");
    }
    assert_eq!((arena.allocated_bytes(), cursor.remaining()), (used, room));

    let mut list = cursor.vec::<u64>();
    list.extend(0..10);
    assert!(list.try_reserve(usize::MAX).is_err());
    assert!(list.try_reserve(isize::MAX as usize / 8).is_err());
    let mut nothing = arena.cursor();
    let mut nothing = nothing.vec::<()>();
    nothing.push(());
    assert_eq!(
        nothing.try_reserve(usize::MAX).unwrap_err().asked(),
        usize::MAX
    );
    assert_eq!(nothing.into_slice().len(), 1);
    assert!(list.iter().copied().eq(0..10));
    let list = list.into_slice();
    let mut text = cursor.string();
    text.push_str("text");
    assert!(text.try_reserve(usize::MAX).is_err());
    assert_eq!(
        (text.into_str(), list.len(), *kept),
        (&mut *String::from("text"), 10, 1)
    );

    let panics = panic_text(|| drop(cursor.vec_with_capacity::<u16>(usize::MAX)));
    assert!(panics.contains(&usize::MAX.to_string()), "{panics}");
    let panics = panic_text(|| drop(cursor.string_with_capacity(usize::MAX)));
    assert!(panics.contains("exceeds the maximum"), "{panics}");
    let panics = panic_text(|| cursor.vec::<u8>().reserve(usize::MAX));
    assert!(panics.contains("exceeds the maximum"), "{panics}");
    assert_eq!(*cursor.alloc(2_u64), 2);
}

#[test]
fn a_text_in_a_cursor_is_cut_between_characters_only() {
    let arena = Arena::new();
    let mut cursor = arena.cursor();
    let mut text = cursor.string();
    text.push_str("aé漢");
    assert!(panic_text(|| text.truncate(2)).contains("byte 2 lies within a character"));
    text.truncate(3);
    text.make_ascii_uppercase();
    assert_eq!(text.into_str(), "Aé");
}

#[test]
fn short_texts_fit_wherever_a_chunk_ends() {
    for (size, used) in (57..=64).flat_map(|size| (0..=size).map(move |used| (size, used))) {
        for number in [7_u64, 1234, 1_234_567, 123_456_789_012] {
            let arena = Arena::with_capacity(size);
            let before = arena.alloc_slice_fill_iter((0..used).map(|_| 0xa5_u8));
            let mut cursor = arena.cursor();
            let own = cursor.alloc_fmt(format_args!("{number}+{number}"));
            let list = cursor.alloc_slice_fill_iter((0..3_u8).chain([9]));
            drop(cursor);
            let shared = arena.alloc_fmt(format_args!("{number}-{number}"));
            let after = arena.alloc_str("after");
            assert_eq!(*own, format!("{number}+{number}"));
            assert_eq!((&*list, &*after), (&[0, 1, 2, 9][..], "after"));
            assert_eq!(*shared, format!("{number}-{number}"));
            assert!(before.iter().all(|&byte| byte == 0xa5));
        }
    }
}

#[test]
fn lists_and_texts_of_a_cursor_can_do_what_those_of_an_arena_can() {
    let arena = Arena::new();
    let mut cursor = arena.cursor();
    let mut list = cursor.vec();
    list.extend([3, 1, 2]);
    for value in &mut list {
        *value *= 10;
    }
    list.sort_unstable();
    assert_eq!(list, [10, 20, 30][..]);
    assert_eq!((&list).into_iter().sum::<i32>(), 60);
    list.try_reserve_exact(100).unwrap();
    assert!(list.capacity() >= 103);
    #[cfg(feature = "json")]
    assert_eq!(serde_json::to_string(&list).unwrap(), "[10,20,30]");
    drop(list);

    let mut text = cursor.string();
    text.push_str("a");
    text.push_str("\u{e4}");
    text.extend(['b', '\u{1f600}']);
    assert_eq!(text, "a\u{e4}b\u{1f600}");
    assert_eq!(text, *"a\u{e4}b\u{1f600}");
    text.make_ascii_uppercase();
    #[cfg(feature = "json")]
    assert_eq!(
        serde_json::to_string(&text).unwrap(),
        "\"A\u{e4}B\u{1f600}\""
    );
    assert_eq!(text.into_str(), "A\u{e4}B\u{1f600}");
}
