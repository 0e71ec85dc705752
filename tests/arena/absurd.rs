//! Sizes that no machine has.

use bytes::BufMut;
use tower_memory::{
    Arena,
    arena::{ArenaError, ArenaErrorKind},
};

use super::panic_text;

const ABSURD: [usize; 4] = [
    usize::MAX,
    usize::MAX - 1,
    isize::MAX as usize + 1,
    isize::MAX as usize,
];

#[track_caller]
fn assert_overflow<R>(arena: &Arena, asked: usize, result: Result<R, ArenaError>) {
    let Err(error) = result else {
        panic!("{asked} bytes were given out");
    };
    assert_eq!(error.kind(), ArenaErrorKind::CapacityOverflow, "{error}");
    assert_eq!(error.asked(), asked);
    assert_eq!(error.used(), arena.allocated_bytes());
    assert_eq!(error.limit(), Some(isize::MAX as usize));
    let text = error.to_string();
    assert!(text.contains(&asked.to_string()), "{text}");
}

#[test]
fn an_absurd_capacity_is_a_typed_error() {
    let arena = Arena::new();
    let kept = arena.alloc_str("kept");
    for n in ABSURD {
        let words = n.saturating_mul(8);
        assert_overflow(&arena, n, arena.vec::<u8>().try_reserve(n));
        assert_overflow(&arena, words, arena.vec::<u64>().try_reserve_exact(n));
        assert_overflow(&arena, n, arena.string().try_reserve(n));
        assert_overflow(&arena, n, arena.buf().try_reserve(n));
        let collected = arena.try_alloc_slice_fill_iter((0..n).map(|_| -> u64 { unreachable!() }));
        assert_overflow(&arena, words, collected);
    }
    assert_eq!(kept, "kept");
    assert_eq!(arena.allocated_bytes(), 4);
}

#[test]
fn an_absurd_growth_is_a_typed_error_and_changes_nothing() {
    let arena = Arena::new();
    let mut list = arena.vec_with_capacity::<u64>(3);
    list.extend([1, 2, 3]);
    let mut text = arena.string();
    text.push_str("text");
    let mut buf = arena.buf();
    buf.extend_from_slice(b"bytes");
    for n in ABSURD {
        let words = n.saturating_add(3).saturating_mul(8);
        assert_overflow(&arena, words, list.try_reserve(n));
        assert_overflow(&arena, words, list.try_reserve_exact(n));
        assert_overflow(&arena, n.saturating_add(4), text.try_reserve(n));
        assert_overflow(&arena, n.saturating_add(5), buf.try_reserve(n));
    }
    assert_eq!(
        (&*list, &*text, &*buf),
        (&[1, 2, 3][..], "text", &b"bytes"[..])
    );
    list.push(4);
    text.push('.');
    buf.put_u8(b'.');
    assert_eq!((list.len(), text.len(), buf.len()), (4, 5, 6));
}

#[test]
fn the_infallible_methods_panic_with_the_numbers() {
    let arena = Arena::new();
    arena.alloc_str("12");
    let n = usize::MAX;
    let texts = [
        panic_text(|| arena.vec_with_capacity::<u16>(n)),
        panic_text(|| arena.string_with_capacity(n)),
        panic_text(|| arena.buf_with_capacity(n)),
        panic_text(|| arena.alloc_slice_fill_iter((0..n).map(|_| 0_u8))),
        panic_text(|| arena.alloc_slice_fill_iter((0..n).map(|_| 0_u8))),
        panic_text(|| arena.vec::<u8>().reserve(n)),
        panic_text(|| arena.vec::<u8>().reserve_exact(n)),
        panic_text(|| arena.string().reserve(n)),
        panic_text(|| arena.buf().reserve(n)),
        panic_text(|| arena.vec::<u8>().extend((0..n).map(|_| 0_u8))),
        panic_text(|| arena.buf().extend((0..n).map(|_| 0_u8))),
    ];
    let expected = format!(
        "arena allocation of {n} bytes exceeds the maximum of {} bytes (2 in use)",
        isize::MAX
    );
    for text in texts {
        assert_eq!(text, expected);
    }
    assert_eq!(arena.alloc_str("usable"), "usable");
}

#[test]
fn more_than_the_machine_has_is_an_error_too() {
    let arena = Arena::new();
    // Fits the address space by its number, and no machine in truth.
    let n = isize::MAX as usize / 2;
    for error in [
        arena.vec::<u8>().try_reserve(n),
        arena.string().try_reserve(n),
        arena.vec::<u8>().try_reserve_exact(n),
        arena.buf().try_reserve(n),
    ] {
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ArenaErrorKind::OutOfMemory);
        assert_eq!((error.asked(), error.used()), (n, 0));
    }
    assert_eq!(arena.alloc_str("usable"), "usable");
}

#[test]
fn a_first_chunk_that_cannot_be_had_is_given_up_for_what_is_asked() {
    for first_chunk in [usize::MAX, isize::MAX as usize, isize::MAX as usize / 2] {
        let arena = Arena::with_capacity(first_chunk);
        assert_eq!(arena.alloc_str("small"), "small");
        assert!(arena.capacity() < 100);
    }
}

#[test]
fn a_list_of_nothing_overflows_with_an_error() {
    let arena = Arena::new();
    let mut list = arena.vec::<()>();
    assert_eq!(list.capacity(), usize::MAX);
    list.extend_from_slice(&[(); usize::MAX]);
    assert_eq!(list.len(), usize::MAX);
    assert_overflow(&arena, usize::MAX, list.try_reserve(1));
    assert_overflow(&arena, usize::MAX, list.try_reserve_exact(2));
    assert_eq!(list.len(), usize::MAX);
    assert_eq!(list.pop(), Some(()));
    list.push(());
    assert_eq!(list.into_slice().len(), usize::MAX);
    assert_eq!(arena.allocated_bytes(), 0);
}
