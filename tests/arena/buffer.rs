//! `ArenaBuf` and what it is frozen into.

#![expect(unsafe_code, reason = "BufMut::advance_mut is unsafe to call")]

use std::{
    fmt::Write as _,
    io::{IoSlice, Write as _},
    thread,
};

use bytes::{Buf, BufMut, Bytes};
use tower_memory::{Arena, ArenaBuf, ArenaPool};

use super::panic_text;

#[test]
fn buf_mut_writes_what_a_vec_would() {
    let arena = Arena::new();
    let mut buf = arena.buf();
    let mut model = Vec::new();
    fn write(out: &mut impl BufMut) {
        for i in 0..100 {
            out.put_u8(1);
            out.put_u16_le(i);
            out.put_i64(-7);
            out.put_bytes(9, usize::from(i));
            out.put_slice(b"slice");
            out.put(&b"buf"[..]);
            out.put(Buf::chain(&b"first"[..], Bytes::from_static(b"second")));
        }
    }
    write(&mut buf);
    write(&mut model);
    assert_eq!(*buf, *model);
    assert_eq!(buf.remaining_mut(), isize::MAX as usize - model.len());
    assert_eq!(buf.freeze(), model);
}

#[test]
fn bytes_are_written_in_place_through_chunk_mut() {
    let arena = Arena::new();
    let mut buf = arena.buf();
    assert_eq!((buf.len(), buf.capacity()), (0, 0));
    for round in 0..200_u8 {
        let chunk = buf.chunk_mut();
        assert!(chunk.len() > 0, "there is always room for more");
        chunk.write_byte(0, round);
        // SAFETY: one byte was written.
        unsafe { buf.advance_mut(1) };
    }
    assert!(buf.iter().copied().eq(0..200));
    assert_eq!(buf.spare_capacity(), buf.capacity() - 200);
}

#[test]
fn advancing_past_the_end_panics() {
    let arena = Arena::new();
    let mut buf = arena.buf_with_capacity(10);
    buf.put_slice(b"1234");
    // SAFETY: it does not return, so no byte counts as written.
    let text = panic_text(|| unsafe { buf.advance_mut(7) });
    assert_eq!(text, "cannot advance by 7 bytes: `chunk_mut` returned 6");
    // SAFETY: as above.
    panic_text(|| unsafe { buf.advance_mut(usize::MAX) });
    assert_eq!(*buf, *b"1234");
}

#[test]
fn the_write_traits_of_std_append() {
    let arena = Arena::new();
    let mut buf = arena.buf();
    assert_eq!(std::io::Write::write(&mut buf, b"ab").unwrap(), 2);
    buf.write_all(b"cd").unwrap();
    let slices = [IoSlice::new(b"e"), IoSlice::new(b""), IoSlice::new(b"fg")];
    assert_eq!(buf.write_vectored(&slices).unwrap(), 3);
    buf.flush().unwrap();
    buf.write_str("-é-").unwrap();
    buf.write_char('h').unwrap();
    buf.extend(*b"!?");
    assert_eq!(&*buf, "abcdefg-é-h!?".as_bytes());
    buf[0] = b'A';
    assert_eq!(buf.as_ref()[0], b'A');
    buf.clear();
    assert_eq!(buf.freeze(), Bytes::new());
}

#[test]
fn frozen_bytes_keep_their_block_and_give_it_back_last() {
    let pool = ArenaPool::new();
    let arena = pool.rent();
    let mut buf = arena.buf();
    buf.put_slice(&[7; 1000]);
    let bytes: Bytes = buf.into();
    let clone = bytes.clone();
    let slice = bytes.slice(100..200);
    drop(arena);
    drop(bytes);
    assert_eq!(pool.stats().rented, 0, "the bytes do not keep the arena");
    // Another block is not this one.
    let mut other = pool.buf(1000);
    other.put_slice(&[1; 1000]);
    assert_eq!((pool.stats().buffers, pool.stats().buffer_bytes), (2, 2048));
    thread::spawn(move || {
        assert_eq!(clone, [7; 1000].as_slice());
        drop(clone);
        slice
    })
    .join()
    .map(|slice| {
        assert_eq!(slice, [7; 100].as_slice());
        assert_eq!(pool.stats().buffers, 2, "a slice is enough");
        drop(slice);
    })
    .unwrap();
    assert_eq!(pool.stats().buffers, 1);
    drop(other);
    assert_eq!((pool.stats().buffers, pool.stats().pooled_buffers), (0, 2));
}

#[test]
fn an_empty_buffer_freezes_to_bytes_that_hold_nothing() {
    let arena = Arena::new();
    let buf = arena.buf_with_capacity(100);
    assert_eq!((arena.handle_count(), arena.allocated_bytes()), (2, 100));
    let bytes = buf.freeze();
    assert!(bytes.is_empty());
    assert_eq!((arena.handle_count(), arena.allocated_bytes()), (1, 0));
}

#[test]
fn a_stream_of_bodies_takes_the_memory_of_one() {
    let arena = Arena::new();
    for round in 0..100_u8 {
        let mut buf = arena.buf();
        buf.put_bytes(round, 1000);
        assert_eq!(buf.freeze(), [round; 1000].as_slice());
    }
    assert_eq!((arena.allocated_bytes(), arena.capacity()), (0, 0));
}

/// The most that the blocks of `stream` and what is held of it take, with `held` parts not sent yet.
fn most_held(held: usize, parts: usize, mut next: impl FnMut(usize, &Arena) -> Bytes) -> usize {
    let pool = ArenaPool::new();
    let arena = pool.rent();
    let mut queue = std::collections::VecDeque::new();
    let mut most = 0;
    for n in 0..parts {
        queue.push_back((n, next(n, &arena)));
        most = most.max(pool.buffer_bytes());
        if queue.len() > held {
            let (n, part) = queue.pop_front().unwrap();
            let ends = part[..32].iter().chain(&part[part.len() - 32..]);
            assert!(ends.copied().all(|byte| byte == n as u8), "overwritten");
        }
    }
    drop(queue);
    assert_eq!(arena.capacity(), 0, "no buffer takes memory of the arena");
    let stats = pool.stats();
    assert!(stats.pooled_bytes <= most + 64 * 1024, "{stats:?}");
    assert!(stats.buffer_misses <= 8 + held as u64, "{stats:?}");
    most
}

#[test]
fn a_stream_holds_the_parts_that_are_not_sent_and_one_more() {
    const PART: usize = 16 * 1024;
    // 256 MiB, and less; of one buffer, and each of a buffer of its own.
    for (held, parts) in [(1, 16 * 1024), (0, 500), (3, 500)] {
        let mut body = None;
        let most = most_held(held, parts, |n, arena| {
            let body = body.get_or_insert_with(|| arena.buf());
            body.extend_from_slice(&[n as u8; PART]);
            body.split().freeze()
        });
        assert!(most <= (held + 1) * PART, "{most} with {held} parts held");
        let most = most_held(held, parts, |n, arena| {
            let mut buf = arena.buf_with_capacity(PART);
            buf.put_bytes(n as u8, PART);
            buf.freeze()
        });
        assert!(most <= (held + 1) * PART, "{most} with {held} parts held");
    }
}

#[test]
fn a_stream_of_parts_of_all_sizes_keeps_what_is_kept_of_it() {
    for pool_buf in [false, true] {
        let pool = ArenaPool::new();
        let arena = pool.rent();
        let mut body = if pool_buf { pool.buf(0) } else { arena.buf() };
        let (mut kept, mut sent) = (Vec::new(), Bytes::new());
        for n in 0..1024_usize {
            let len = 100 + n.wrapping_mul(7919) % 20_000;
            // Written piece by piece.
            for piece in vec![n as u8; len].chunks(700) {
                body.put_slice(piece);
            }
            let part = body.split().freeze();
            assert!(part.len() == len && part.iter().all(|&byte| byte == n as u8));
            if n % 32 == 0 {
                kept.push(part.clone());
            }
            assert!(sent.iter().all(|&byte| byte == (n as u8).wrapping_sub(1)));
            sent = part;
        }
        drop((body, sent));
        let bytes: usize = kept.iter().map(Bytes::len).sum();
        let held = pool.buffer_bytes();
        assert!(held < 4 * bytes, "{held} for {bytes}");
    }
}

#[test]
fn a_slice_that_is_kept_keeps_the_block_of_its_bytes_only() {
    let pool = ArenaPool::new();
    let arena = pool.rent();
    arena.alloc_slice_copy(&[1_u8; 100_000]);
    let mut body = arena.buf();
    body.put_bytes(7, 8000);
    let cached = body.freeze().slice(100..200);
    drop(arena);
    let stats = pool.stats();
    assert_eq!(
        (stats.rented, stats.buffers, stats.buffer_bytes),
        (0, 1, 8192)
    );
    assert_eq!(cached, [7; 100].as_slice());
    drop(cached);
    assert_eq!(pool.buffer_bytes(), 0);
}

#[test]
fn a_small_body_in_a_large_block_moves_to_a_small_one() {
    let pool = ArenaPool::new();
    let mut body = pool.buf(64 * 1024);
    body.put_bytes(3, 1000);
    let frozen = body.freeze();
    assert_eq!(frozen, [3; 1000].as_slice());
    assert_eq!(pool.buffer_bytes(), 1024);
    let mut body = pool.buf(16 * 1024);
    body.put_bytes(3, 1000);
    assert_eq!(body.freeze(), frozen, "where little is saved it stays");
    assert_eq!(pool.stats().buffer_misses, 3);
}

#[test]
fn a_buffer_grows_by_four_and_then_by_two() {
    let arena = ArenaPool::new().rent();
    let mut buf = arena.buf();
    let mut capacities = vec![];
    for _ in 0..1 << 20 {
        buf.put_u8(1);
        if capacities.last() != Some(&buf.capacity()) {
            capacities.push(buf.capacity());
        }
    }
    let kib = |n: usize| n << 10;
    assert_eq!(capacities, [1, 4, 16, 64, 128, 256, 512, 1024].map(kib));
    drop(buf);
    assert_eq!(arena.allocated_bytes(), 0);
}

#[test]
fn a_short_message_pins_nothing_but_itself() {
    let arena = Arena::new();
    let mut queued = Bytes::new();
    for round in 0..200_000_u32 {
        let message = [round as u8; 160];
        let mut buf = arena.buf();
        buf.put_slice(&message);
        let next = buf.freeze();
        // The former one is still queued when this one is made.
        assert!(
            queued
                .iter()
                .all(|&byte| byte == (round as u8).wrapping_sub(1))
        );
        queued = next;
    }
    assert_eq!((arena.handle_count(), arena.allocated_bytes()), (1, 0));
    let mut own = queued.try_into_mut().expect("no other owner");
    own[0] = 1;
    assert_eq!(own.len(), 160);
}

#[cfg(debug_assertions)]
#[test]
fn recycled_memory_is_overwritten_in_debug_builds() {
    let pool = ArenaPool::new();
    let mut buf = pool.rent().buf();
    buf.put_slice(b"a secret of 24 bytes ...");
    let place = buf.as_ptr();
    drop(buf.freeze());
    let mut again = pool.rent().buf_with_capacity(24);
    assert_eq!(again.as_ptr(), place, "the same memory");
    assert!(again.is_empty(), "of which no safe code sees anything");
    let chunk = again.chunk_mut();
    for at in 0..24 {
        // SAFETY: within the chunk, and written before, by the former user or since.
        let byte = unsafe { chunk.as_mut_ptr().add(at).read() };
        assert_eq!(byte, 0xdd);
    }
}

/// This file imports both traits; the method of the buffer itself takes precedence.
#[test]
fn write_is_not_ambiguous_and_converts_its_error() {
    fn to_io(buf: &mut ArenaBuf) -> std::io::Result<()> {
        write!(buf, "{};", 1)?;
        writeln!(buf, "{:>3}", 2)?;
        Ok(())
    }
    fn to_fmt(buf: &mut ArenaBuf) -> std::fmt::Result {
        Ok(write!(buf, "é")?)
    }
    let mut buf = Arena::new().buf();
    to_io(&mut buf).unwrap();
    to_fmt(&mut buf).unwrap();
    assert_eq!(&*buf, "1;  2\né".as_bytes());
    let error = buf.try_reserve(usize::MAX).unwrap_err();
    assert_eq!(std::fmt::Error::from(error.clone()), std::fmt::Error);
    let error = std::io::Error::from(error);
    assert_eq!(error.kind(), std::io::ErrorKind::OutOfMemory);
}

#[test]
#[should_panic(expected = "a formatting trait implementation returned an error")]
fn a_display_that_fails_panics_in_write() {
    struct Fails;
    impl std::fmt::Display for Fails {
        fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            Err(std::fmt::Error)
        }
    }
    let _ = write!(Arena::new().buf(), "{Fails}");
}
