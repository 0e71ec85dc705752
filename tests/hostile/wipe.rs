//! What is left in memory that is given back, seen from below.

use bytes::BufMut;
use tower_memory::{Arena, ArenaPool};

use super::{CHUNKS, LEAKS, SECRET, holds_secret};

/// How many blocks with the secret in them are given back during `f`.
fn leaks(f: impl FnOnce()) -> usize {
    LEAKS.set(Some(0));
    f();
    LEAKS.take().unwrap()
}

fn kept_secret() -> bool {
    CHUNKS.get().iter().any(|&(address, size)| {
        // SAFETY: the chunk was not given back, and nobody writes to it.
        address != 0 && unsafe { holds_secret(std::ptr::with_exposed_provenance(address), size) }
    })
}

fn pool(wipe: bool) -> ArenaPool {
    ArenaPool::builder()
        .initial_bytes(4096)
        .max_arena_bytes(8192)
        .zero_on_recycle(wipe)
        .trim_interval(None)
        .build()
        .unwrap()
}

/// Writes the secret wherever something can be written, also where it is given back at once.
fn write(arena: &mut Arena) {
    arena.alloc(SECRET);
    arena.alloc_slice_copy(&SECRET);
    let mut list = arena.vec();
    for byte in SECRET.iter().cycle().take(300) {
        list.push(*byte);
        if list.len() % 64 == 0 {
            // In its way, so that the list moves and leaves its former place.
            arena.alloc(0_u8);
        }
    }
    drop(list);
    let mut buf = arena.buf_with_capacity(64);
    buf.put_slice(&SECRET);
    let part = buf.split().freeze();
    buf.chunk_mut()[..16].copy_from_slice(&SECRET);
    drop((part, buf));
    let mut cursor = arena.exclusive_cursor();
    cursor.alloc(SECRET);
    let mut forgotten = cursor.vec::<u8>();
    forgotten.extend_from_slice(&SECRET);
    drop(forgotten);
    drop(cursor);
    // The last thing: it takes its place back, and leaves no trace in the position.
    let mut last = arena.buf_with_capacity(1000);
    (0..60).for_each(|_| last.put_slice(&SECRET));
    drop(last);
}

/// As [`write`], in several chunks, of which some are larger than a pool keeps.
fn write_much(arena: &mut Arena) {
    for _ in 0..10 {
        write(arena);
        arena.alloc([1_u8; 3000]);
    }
    assert!(arena.capacity() > 3 * 8192);
}

#[test]
fn wiped_memory_holds_nothing_of_its_former_user_when_kept() {
    let pool = pool(true);
    let mut arena = pool.rent();
    write(&mut arena);
    assert_eq!(arena.capacity(), 4096, "one chunk, and no buffer is left");
    assert!(kept_secret(), "the test looks in the right place");
    drop(arena);
    assert_eq!(pool.stats().pooled, 1);
    assert!(!kept_secret());
    assert_eq!(leaks(|| assert!(pool.trim() > 4096)), 0, "blocks too");
}

/// How many chunks with the secret in them are freed: those beyond what is kept, those of a pool that is closed, and
/// those of one that keeps nothing.
fn freed_with_the_secret(wipe: bool) -> [usize; 3] {
    let open = pool(wipe);
    let mut arena = open.rent();
    write_much(&mut arena);
    let beyond = leaks(|| drop(arena));

    let closed = pool(wipe);
    let mut arena = closed.rent();
    write_much(&mut arena);
    drop(closed);
    let closed = leaks(|| drop(arena));

    let disabled = ArenaPool::builder()
        .enabled(false)
        .zero_on_recycle(wipe)
        .build()
        .unwrap();
    let mut arena = disabled.rent();
    write_much(&mut arena);
    [beyond, closed, leaks(|| drop(arena))]
}

#[test]
fn wiped_memory_holds_nothing_of_its_former_user_when_freed() {
    assert_eq!(freed_with_the_secret(true), [0; 3]);
}

#[test]
fn a_short_message_of_a_wiped_pool_is_not_copied_to_where_it_stays() {
    for wipe in [false, true] {
        let pool = pool(wipe);
        let message = leaks(|| {
            let mut buf = pool.buf(64);
            buf.put_slice(&SECRET);
            drop(buf.freeze());
            drop(pool);
        });
        // The copy, and the block, which debug builds overwrite in any case.
        let expected = if cfg!(debug_assertions) { 1 } else { 2 };
        assert_eq!(message, if wipe { 0 } else { expected });
    }
}

/// Ways to build something that is not in use afterwards.
#[expect(clippy::mem_forget, reason = "that is one of the cases")]
const BUILD: [fn(&mut Arena); 3] = [
    |arena| {
        let mut cursor = arena.cursor();
        let mut list = cursor.vec();
        list.extend_from_slice(&SECRET);
        std::mem::forget(list);
    },
    |arena| {
        let mut cursor = arena.exclusive_cursor();
        let mut text = cursor.string();
        SECRET
            .iter()
            .for_each(|&byte| text.push(char::from(byte & 0x7F)));
        drop(text);
        let mut list = cursor.vec();
        SECRET.iter().for_each(|&byte| list.push(byte));
        while list.pop().is_some() {}
        assert!(list.into_slice().is_empty());
    },
    |arena| arena.vec().extend_from_slice(&SECRET),
];

#[test]
fn what_was_built_and_given_up_or_forgotten_is_wiped_too() {
    for build in BUILD {
        let pool = pool(true);
        let mut arena = pool.rent();
        build(&mut arena);
        assert!(kept_secret() && arena.allocated_bytes() < 16);
        drop(arena);
        assert!(!kept_secret());
    }
}

#[test]
fn the_block_of_a_buffer_is_wiped_when_it_goes_back() {
    let pool = pool(true);
    let arena = pool.rent();
    let mut buf = arena.buf();
    buf.extend_from_slice(&SECRET);
    assert!(kept_secret());
    drop(buf);
    assert!(!kept_secret());
    let mut buf = arena.buf_with_capacity(1000);
    (0..60).for_each(|_| buf.extend_from_slice(&SECRET));
    let bytes = buf.freeze();
    assert!(kept_secret());
    drop(bytes);
    assert!(!kept_secret());
}

#[test]
fn without_wiping_the_same_look_finds_it() {
    let freed = freed_with_the_secret(false);
    let [beyond, closed, disabled] = freed;
    assert!(beyond > 1 && disabled > 0, "{freed:?}");
    // A closed pool frees the chunk, too, that an open one keeps. Debug builds overwrite that one.
    assert_eq!(
        closed,
        beyond + usize::from(!cfg!(debug_assertions)),
        "{freed:?}"
    );

    // What is kept: debug builds overwrite it with what is no zero.
    for build in BUILD {
        let pool = pool(false);
        let mut arena = pool.rent();
        build(&mut arena);
        drop(arena);
        assert_eq!(pool.stats().pooled, 1);
        assert_eq!(kept_secret(), !cfg!(debug_assertions));
    }
    let pool = pool(false);
    let mut buf = pool.buf(1000);
    (0..60).for_each(|_| buf.extend_from_slice(&SECRET));
    drop(buf);
    let trimmed = leaks(|| assert!(pool.trim() >= 1000));
    assert_eq!(trimmed, usize::from(!cfg!(debug_assertions)));
}

#[test]
fn debug_builds_overwrite_all_of_a_kept_chunk() {
    let pool = pool(false);
    let mut arena = pool.rent();
    write(&mut arena);
    drop(arena);
    assert_eq!(kept_secret(), !cfg!(debug_assertions));
}
