//! Memory that runs out: an error with the numbers, and nothing lost.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    panic::{AssertUnwindSafe, catch_unwind},
    thread,
};

use tower_memory::{
    Arena, ArenaPool, ArenaVec,
    arena::{ArenaError, ArenaErrorKind},
};

use super::{REFUSED, Refuse, refusing};

/// An arena whose only chunk is given out to the last byte.
fn full() -> Arena {
    let arena = Arena::with_capacity(64);
    arena.alloc([7_u8; 64]);
    assert_eq!((arena.allocated_bytes(), arena.capacity()), (64, 64));
    arena
}

/// `f` finds no memory; nothing else changes, and it works when there is some.
#[track_caller]
fn assert_refused<R>(arena: &Arena, asked: usize, mut f: impl FnMut() -> Result<R, ArenaError>) {
    let (used, capacity) = (arena.allocated_bytes(), arena.capacity());
    let before = REFUSED.get();
    let Err(error) = refusing(Refuse::Chunks(0), &mut f) else {
        panic!("it had memory");
    };
    assert!(REFUSED.get() > before);
    assert_eq!(error.kind(), ArenaErrorKind::OutOfMemory);
    assert_eq!((error.used(), error.limit()), (used, None), "{error}");
    assert!(
        (asked..asked + 16).contains(&error.asked()),
        "asked {asked}: {error}"
    );
    assert_eq!(
        (arena.allocated_bytes(), arena.capacity()),
        (used, capacity)
    );
    if let Err(error) = f() {
        panic!("still: {error}");
    }
}

macro_rules! refused {
    ($($asked:literal: |$arena:ident| $call:expr;)*) => {
        $({
            let full = full();
            let $arena = &full;
            assert_refused(&full, $asked, || $call);
        })*
    };
}

#[test]
fn what_an_arena_cannot_get_is_an_error_with_the_numbers() {
    let n = 1234;
    refused! {
        8: |arena| arena.try_alloc(1_u64);
        24: |arena| arena.try_alloc_box(String::from("dropped"));
        5: |arena| arena.try_alloc_str("abcde");
        12: |arena| arena.try_alloc_slice_copy(&[1_u32; 3]);
        48: |arena| arena.try_alloc_slice_fill_iter([Some(1_u64); 3]);
        3: |arena| arena.try_alloc_slice_fill_iter([1_u8, 2, 3]);
        4: |arena| arena.try_alloc_fmt(format_args!("{n}"));
        9: |arena| arena.try_alloc_concat(("item-", n));
        32: |arena| arena.vec::<u64>().try_reserve_exact(4);
        9: |arena| arena.string().try_reserve(9);
        10: |arena| arena.buf().try_reserve(10);
        11: |arena| arena.clone().into_buf(0).try_reserve(11);
    }
}

#[test]
fn what_a_cursor_cannot_get_is_an_error_with_the_numbers() {
    let n = 1234;
    refused! {
        8: |arena| arena.cursor().try_alloc(1_u64);
        5: |arena| arena.cursor().try_alloc_str("abcde");
        12: |arena| arena.cursor().try_alloc_slice_copy(&[1_u32; 3]);
        48: |arena| arena.cursor().try_alloc_slice_fill_iter([Some(1_u64); 3]);
        3: |arena| arena.cursor().try_alloc_slice_fill_iter([1_u8, 2, 3]);
        4: |arena| arena.cursor().try_alloc_fmt(format_args!("{n}"));
        5: |arena| arena.cursor().try_alloc_concat(("item-", n));
        32: |arena| arena.cursor().vec::<u64>().try_reserve_exact(4);
        9: |arena| arena.cursor().string().try_reserve(9);
    }
    let mut alone = full();
    let error = refusing(Refuse::Chunks(0), || {
        alone.exclusive_cursor().try_alloc(1_u64).unwrap_err()
    });
    assert_eq!(error.used(), 64);
    assert_eq!(*alone.exclusive_cursor().alloc(1_u64), 1);
}

#[test]
fn a_list_that_cannot_grow_is_as_before() {
    let arena = Arena::with_capacity(64);
    let mut vec = arena.vec_with_capacity::<u32>(16);
    vec.extend(0..16);
    let before: Vec<u32> = vec.to_vec();
    type Grow = fn(&mut ArenaVec<'_, u32>) -> Result<(), ArenaError>;
    let grow: [Grow; 2] = [|vec| vec.try_reserve(1), |vec| vec.try_reserve_exact(1)];
    for grow in grow {
        let error = refusing(Refuse::Chunks(0), || grow(&mut vec).unwrap_err());
        assert_eq!((error.asked(), error.used()), (68, 64));
        assert_eq!((&vec[..], vec.capacity()), (&before[..], 16));
    }
    let grow: [fn(&mut ArenaVec<'_, u32>); 5] = [
        |vec| vec.push(16),
        |vec| vec.insert(0, 16),
        |vec| vec.extend_from_slice(&[16]),
        |vec| vec.extend_from_within(..1),
        |vec| vec.resize(17, 16),
    ];
    for grow in grow {
        let panic = refusing(Refuse::Chunks(0), || {
            catch_unwind(AssertUnwindSafe(|| grow(&mut vec))).unwrap_err()
        });
        let text = panic.downcast_ref::<String>().unwrap();
        assert!(text.contains("of 68 bytes"), "{text}");
        assert_eq!((&vec[..], vec.capacity()), (&before[..], 16));
    }
    vec.push(16);
    assert_eq!(vec.len(), 17);

    let arena = Arena::with_capacity(8);
    let mut text = arena.string_with_capacity(8);
    text.push_str("12345678");
    let n = 9;
    refusing(Refuse::Chunks(0), || {
        assert_eq!(text.try_reserve(2).unwrap_err().asked(), 10);
        assert_eq!(write!(text, "{n}").unwrap_err().asked(), 9);
        assert_eq!(write!(text, "€").unwrap_err().asked(), 11);
        assert!(text.write_str("9").is_err() && text.write_char('€').is_err());
    });
    assert_eq!(&*text, "12345678");
    text.push('9');
    assert_eq!(&*text, "123456789");
}

#[test]
fn a_list_of_a_cursor_that_cannot_grow_is_as_before() {
    let arena = Arena::with_capacity(64);
    let mut cursor = arena.cursor();
    let kept = cursor.alloc(1_u64);
    let mut vec = cursor.vec::<u32>();
    vec.extend(0..14);
    assert_eq!(vec.capacity(), 14);
    refusing(Refuse::Chunks(0), || {
        assert_eq!(
            vec.try_reserve(1).unwrap_err().used(),
            8,
            "what is free of its segment is not in use"
        );
        assert_eq!(
            vec.try_reserve_exact(1).unwrap_err().used(),
            8,
            "what is free of its segment is not in use"
        );
    });
    assert!(vec.iter().copied().eq(0..14));
    vec.push(14);
    let vec = vec.into_slice();
    let after = cursor.alloc(2_u64);
    assert!(vec.iter().copied().eq(0..15));
    assert_eq!((*kept, *after), (1, 2));
    drop(cursor);

    let arena = Arena::with_capacity(64);
    let mut cursor = arena.cursor();
    let mut text = cursor.string_with_capacity(1);
    let before = "x".repeat(text.capacity());
    assert!(before.len() >= 48);
    text.push_str(&before);
    let n = 9;
    refusing(Refuse::Chunks(0), || {
        assert_eq!(text.try_reserve(2).unwrap_err().used(), 0);
        let error = write!(text, "{n}").unwrap_err();
        assert_eq!((error.asked(), error.used()), (before.len() + 1, 0));
        assert!(text.write_str("9").is_err() && text.write_char('€').is_err());
    });
    assert_eq!(*text, before);
    text.push('9');
    assert_eq!(*text.into_str(), before + "9");
}

#[test]
fn a_buffer_that_cannot_grow_is_as_before() {
    for alone in [false, true] {
        let arena = Arena::with_capacity(8);
        let other = (!alone).then(|| arena.clone());
        let mut buf = arena.into_buf(8);
        buf.extend_from_slice(b"12345678");
        refusing(Refuse::Chunks(0), || {
            assert_eq!(write!(buf, "9").unwrap_err().asked(), 9);
            assert_eq!(buf.try_reserve(2).unwrap_err().asked(), 10);
            assert!(write!(&mut buf as &mut dyn std::fmt::Write, "9").is_err());
        });
        // The error of `io` is itself on the heap, so only the arena is refused memory.
        let error = refusing(Refuse::Chunks(0), || buf.write_all(b"9").unwrap_err());
        assert_eq!(error.kind(), io::ErrorKind::OutOfMemory);
        assert!(error.to_string().contains("of 9 bytes"), "{error}");
        assert_eq!(&buf[..], b"12345678");
        buf.extend_from_slice(b"9");
        assert_eq!(buf.freeze(), &b"123456789"[..]);
        drop(other);
    }
}

#[test]
fn a_buffer_whose_block_gets_no_head_is_as_before() {
    let pool = ArenaPool::new();
    let arena = pool.rent();
    for mut buf in [
        arena.buf(),
        pool.buf(0),
        Arena::with_capacity(8).into_buf(0),
    ] {
        for written in [0, 1000] {
            let before = REFUSED.get();
            let error = refusing(Refuse::Heads, || buf.try_reserve(1 << 20).unwrap_err());
            assert!(REFUSED.get() > before);
            assert_eq!(error.kind(), ArenaErrorKind::OutOfMemory);
            assert_eq!((error.asked(), buf.len()), (written + (1 << 20), written));
            buf.extend_from_slice(&[7; 1000]);
        }
    }
    assert_eq!(pool.buffer_bytes(), 0);
}

macro_rules! collections {
    ($name:ident, $api:ident) => {
        #[test]
        fn $name() {
            use $api::{boxed::Box, vec::Vec};

            let arena = full();
            let mut vec = Vec::<u32, _>::new_in(&arena);
            refusing(Refuse::Chunks(0), || {
                assert!(vec.try_reserve(1).is_err());
                assert!(Box::try_new_in(1_u64, &arena).is_err());
                assert!(Box::try_new_in(1_u64, arena.clone()).is_err());
            });
            assert_eq!(arena.allocated_bytes(), 64);
            vec.extend(0..1000);
            let capacity = vec.capacity();
            arena.alloc(1_u8);
            refusing(Refuse::Chunks(0), || {
                assert!(vec.try_reserve(1_000_000).is_err());
            });
            assert_eq!(vec.capacity(), capacity);
            assert!(vec.iter().copied().eq(0..1000), "moved half-way");
            assert_eq!(*Box::try_new_in(5_u64, &arena).unwrap(), 5);
        }
    };
}
collections!(a_collection_that_cannot_grow_is_as_before, allocator_api2);
collections!(the_newer_collections_too, allocator_api2_04);

#[test]
fn a_map_that_cannot_grow_is_as_before() {
    let arena = full();
    let mut map = hashbrown::HashMap::with_capacity_in(4, &arena);
    map.extend([(1, 'a'), (2, 'b')]);
    refusing(Refuse::Chunks(0), || {
        assert!(map.try_reserve(100_000).is_err());
    });
    assert_eq!(
        (map.get(&1), map.get(&2), map.len()),
        (Some(&'a'), Some(&'b'), 2)
    );
    map.extend((3..1000).map(|n| (n, 'c')));
    assert_eq!(map.len(), 999);
}

#[test]
fn the_infallible_methods_panic_with_the_numbers() {
    type Panics = fn(&Arena);
    let panics: [(&str, Panics); 7] = [
        ("of 8 bytes", |arena| *arena.alloc(1_u64) = 2),
        ("of 5 bytes", |arena| {
            arena.alloc_str("abcde").make_ascii_uppercase()
        }),
        ("of 32 bytes", |arena| {
            drop(arena.vec_with_capacity::<u64>(4))
        }),
        ("of 10 bytes", |arena| drop(arena.buf_with_capacity(10))),
        ("of 8 bytes", |arena| *arena.cursor().alloc(1_u64) = 2),
        ("of 64 bytes", |arena| {
            assert!(bytes::BufMut::chunk_mut(&mut arena.buf()).len() > 0)
        }),
        ("of 7 bytes", |arena| {
            bytes::BufMut::put_slice(&mut arena.buf(), b"1234567")
        }),
    ];
    for (numbers, f) in panics {
        let arena = full();
        let payload = refusing(Refuse::Chunks(0), || {
            catch_unwind(AssertUnwindSafe(|| f(&arena))).unwrap_err()
        });
        let text = payload.downcast_ref::<String>().unwrap();
        assert!(
            text.contains(numbers) && text.contains("64 in use"),
            "{text}"
        );
        assert_eq!(arena.allocated_bytes(), 64);
        assert_eq!(arena.handle_count(), 1, "a handle is lost");
        f(&arena);
    }
}

#[test]
fn what_is_taken_in_advance_is_given_up_first() {
    let arena = Arena::with_capacity(1024);
    arena.alloc([1_u8; 1024]);
    refusing(Refuse::Chunks(200), || {
        let text = arena.try_alloc_str("fits where 2048 bytes do not").unwrap();
        assert_eq!(text.len(), arena.capacity() - 1024);
        let mut cursor = arena.cursor();
        assert_eq!(*cursor.try_alloc(9_u64).unwrap(), 9);
        let mut list = arena.vec::<u8>();
        list.try_reserve_exact(100).unwrap();
        list.extend(0..100);
        assert_eq!(
            list.try_reserve(1).map_err(|error| error.kind()),
            Ok(()),
            "101 of 200 bytes"
        );
        list.push(100);
        assert!(list.try_reserve(200).is_err());
        assert!(list.iter().copied().eq(0..=100));
    });
}

#[test]
fn a_pool_rents_what_it_keeps_and_takes_back_without_any_memory() {
    let pool = ArenaPool::builder().trim_interval(None).build().unwrap();
    let arenas = [(); 3].map(|()| {
        let arena = pool.rent();
        arena.alloc([1_u8; 100]);
        arena
    });
    drop(arenas);
    refusing(Refuse::Everything, || {
        for _ in 0..10 {
            let arena = pool.rent();
            assert_eq!(arena.alloc_str("kept memory"), "kept memory");
            let error = arena
                .try_alloc_slice_fill_iter((0..1 << 20).map(|_| 0_u8))
                .unwrap_err();
            assert_eq!((error.asked(), error.used()), (1 << 20, 11));
        }
    });
    let stats = pool.stats();
    assert_eq!(
        (stats.rented, stats.pooled, stats.misses, stats.hits),
        (0, 3, 3, 10)
    );
    let arena = pool.rent();
    thread::scope(|threads| {
        threads.spawn(|| refusing(Refuse::Everything, || drop(arena)));
    });
    refusing(Refuse::Everything, || {
        assert_eq!(pool.stats().rented_bytes, 0);
        assert_eq!(pool.trim(), stats.pooled_bytes);
    });
    assert_eq!((pool.stats().pooled, pool.stats().pooled_bytes), (0, 0));
}

#[test]
fn an_arena_that_got_nothing_goes_back_to_its_pool() {
    let pool = ArenaPool::new();
    let arena = pool.rent();
    let error = refusing(Refuse::Chunks(0), || arena.try_alloc(1_u64).unwrap_err());
    assert_eq!((error.asked(), error.used()), (8, 0));
    let stats = pool.stats();
    assert_eq!((stats.rented, stats.rented_bytes), (1, 0));
    drop(arena);
    assert_eq!((pool.stats().rented, pool.stats().evicted_bytes), (0, 0));
}
