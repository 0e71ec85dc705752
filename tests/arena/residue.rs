//! Memory that was used before looks to its next user as if it had never been.

use std::io::Write as _;

use allocator_api2::alloc::Allocator as _;
use bytes::{BufMut, buf::UninitSlice};
use tower_memory::{Arena, ArenaPool};

const BYTES: usize = 8 * 1024;
const CANARY: u8 = 0xC5;

/// An arena whose memory somebody has written all over.
fn recycled(wipe: bool) -> (ArenaPool, Arena) {
    let pool = ArenaPool::builder()
        .initial_bytes(BYTES)
        .zero_on_recycle(wipe)
        .build()
        .unwrap();
    let arena = pool.rent();
    let first = arena.alloc_slice_fill_iter((0..BYTES).map(|_| CANARY));
    let place = first.as_ptr().addr();
    assert_eq!(arena.capacity(), BYTES);
    drop(arena);
    let arena = pool.rent();
    assert_eq!(
        arena.alloc(1_u8) as *mut u8 as usize,
        place,
        "the same memory"
    );
    (pool, arena)
}

#[test]
fn nothing_shows_what_a_former_request_wrote() {
    for wipe in [false, true] {
        let (_pool, arena) = recycled(wipe);
        assert_eq!(arena.allocated_bytes(), 1);

        let list = arena.vec_with_capacity::<u8>(100);
        assert!(list.is_empty() && list.into_slice().is_empty());
        let mut list = arena.vec::<u8>();
        list.reserve(100);
        assert!(list.is_empty() && list.iter().next().is_none());
        list.extend([1; 50]);
        list.truncate(10);
        list.extend([2; 20]);
        assert!(list.into_iter().eq([1; 10].into_iter().chain([2; 20])));
        assert!(arena.string_with_capacity(100).is_empty());
        assert_eq!(
            arena.alloc_fmt(format_args!("{:>30}", 7)),
            &*format!("{:>30}", 7)
        );
        // Compared with what was written, since debug builds overwrite the canary.
        let zeros = [0_u8; 100];
        assert_eq!(arena.alloc_slice_fill_iter((0..100).map(|_| 0_u8)), zeros);
        let repeated = std::iter::repeat_n(0_u8, 100);
        assert_eq!(arena.alloc_slice_fill_iter(repeated), zeros);
        assert_eq!(arena.alloc_slice_fill_iter(zeros.iter().cloned()), zeros);
        // A hint that promises more values than there are.
        let fewer = std::iter::from_fn({
            let mut left = 3;
            move || (left > 0).then(|| left -= 1)
        });
        assert_eq!(arena.alloc_slice_fill_iter(fewer.map(|()| 9_u8)), [9; 3]);

        let mut cursor = arena.cursor();
        assert!(cursor.vec_with_capacity::<u8>(100).is_empty());
        assert!(cursor.vec_with_capacity::<u8>(100).into_slice().is_empty());
        assert!(cursor.string_with_capacity(100).into_str().is_empty());
        assert_eq!(cursor.alloc_slice_fill_iter((0..100).map(|_| 0_u8)), zeros);
    }
}

#[test]
fn a_buffer_shows_only_what_was_put_into_it() {
    for wipe in [false, true] {
        let (pool, arena) = recycled(wipe);
        let mut buf = arena.into_buf(500);
        assert!(buf.is_empty() && buf.capacity() >= 500);
        // Not `&mut [u8]`: what lies there cannot be read.
        let room: &mut UninitSlice = buf.chunk_mut();
        assert!(room.len() >= 500);
        assert!(buf.split().is_empty() && buf.split().freeze().is_empty());
        buf.put_bytes(1, 100);
        buf.truncate(10);
        buf.write_all(&[2; 10]).unwrap();
        buf.extend([3; 10]);
        let part = buf.split();
        assert!(buf.is_empty());
        buf.clear();
        assert_eq!(part[..], [[1; 10], [2; 10], [3; 10]].concat());
        let frozen = part.freeze();
        assert_eq!(frozen, [[1; 10], [2; 10], [3; 10]].concat());
        assert!(buf.freeze().is_empty());
        drop(frozen);
        assert_eq!(pool.stats().rented, 0);

        // The block of a buffer that was sent. 1000 bytes are not copied elsewhere.
        let sent = |byte, bytes| {
            let mut buf = pool.buf(1000);
            let place = buf.chunk_mut().as_mut_ptr().addr();
            buf.put_bytes(byte, bytes);
            (place, buf.freeze())
        };
        let (place, former) = sent(CANARY, 1000);
        drop(former);
        let (again, frozen) = sent(4, 300);
        assert_eq!(again, place, "the same memory");
        assert_eq!(frozen, [4; 300][..]);
    }
}

#[test]
fn memory_that_is_asked_for_zeroed_is_zeroed() {
    let (_pool, arena) = recycled(false);
    let layout = |size| std::alloc::Layout::from_size_align(size, 8).unwrap();
    let block = arena.allocate_zeroed(layout(1000)).unwrap();
    let mut list = allocator_api2::vec::Vec::<u8, _>::new_in(&arena);
    list.resize(1000, 0);
    assert_eq!(list[..], [0; 1000]);
    let boxed = allocator_api2::boxed::Box::<[u64], _>::new_zeroed_slice_in(100, &arena);
    #[expect(unsafe_code, reason = "reads what was promised to be zero")]
    // SAFETY: zeroed by the allocator, and zero is a `u64`.
    unsafe {
        assert!(block.as_ref().iter().all(|&byte| byte == 0));
        assert!(boxed.assume_init().iter().all(|&word| word == 0));
        let grown = arena.allocate(layout(8)).unwrap();
        grown.cast::<u64>().write(u64::MAX);
        let grown = arena
            .grow_zeroed(grown.cast(), layout(8), layout(500))
            .unwrap();
        assert!(grown.as_ref()[..8].iter().all(|&byte| byte == 0xFF));
        assert!(grown.as_ref()[8..].iter().all(|&byte| byte == 0));
    }
}
