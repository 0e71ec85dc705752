//! Interleavings of two threads at the arena's three shared places: the count of references, the
//! bump pointer, and the replacement of the current chunk; and of a cursor with its neighbours.

use std::alloc::Layout;

use loom::{
    sync::{
        Arc as LoomArc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use super::{
    Allocate, Arena, BlockPool, Cursor, IdleArena, IdleBlock, Recycler, Retain,
    chunk::{Access, Chunk, Use},
};
use crate::sync::Arc;

/// Recyclers whose models have no blocks.
macro_rules! without_blocks {
    ($($recycler:ty),*) => {
        $(impl BlockPool for $recycler {
            fn take_block(_: usize, _: usize) -> Option<IdleBlock> {
                None
            }

            fn take_block_owned(self: Arc<Self>, _: usize) -> Option<IdleBlock> {
                None
            }

            fn recycle_block(_: IdleBlock, _: usize) {}

            fn recycle_block_owned(self: Arc<Self>, _: IdleBlock) {}

            fn handed_out(&self, _: u32, _: usize) {}
        })*
    };
}
without_blocks!(Counter, Whole);

/// Counts arenas that came back; a plain loom atomic, so that a double return shows.
struct Counter(LoomArc<AtomicUsize>);

impl Recycler for Counter {
    fn recycle(arena: IdleArena, _: usize) {
        arena.recycle_owned();
    }

    fn recycle_owned(self: Arc<Self>, mut arena: IdleArena) {
        arena.retain(Retain {
            most: usize::MAX,
            wipe: false,
        });
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn grew(&self, _bytes: usize) {}

    fn left_behind(&self, _: u32) {}
}

fn arena(first_chunk: usize, returns: &LoomArc<AtomicUsize>) -> Arena {
    let recycler = Arc::new(Counter(LoomArc::clone(returns)));
    let mut arena = IdleArena::new(first_chunk);
    arena.attach(recycler);
    arena.activate()
}

#[test]
fn the_last_of_two_handles_recycles_once() {
    loom::model(|| {
        let returns = LoomArc::new(AtomicUsize::new(0));
        let first = arena(64, &returns);
        first.copy_slice(b"first").expect("memory");
        let second = first.clone();
        let thread = thread::spawn(move || {
            second.copy_slice(b"second").expect("memory");
            drop(second);
        });
        drop(first);
        thread.join().expect("no panic");
        assert_eq!(returns.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn two_threads_never_get_the_same_bytes() {
    loom::model(|| {
        let returns = LoomArc::new(AtomicUsize::new(0));
        let first = arena(64, &returns);
        // The chunk exists already: this model is about the bump alone.
        first.copy_slice(b"x").expect("memory");
        let second = first.clone();
        let thread = thread::spawn(move || {
            let bytes = second.copy_slice(&[2_u8; 8]).expect("memory");
            (bytes.as_ptr().addr(), second.clone())
        });
        let mine = first.copy_slice(&[1_u8; 8]).expect("memory");
        let (other, kept) = thread.join().expect("no panic");
        assert!(mine.as_ptr().addr().abs_diff(other) >= 8);
        assert_eq!(mine, &[1_u8; 8], "written over by the other thread");
        drop(kept);
    });
}

#[test]
fn a_tail_given_back_goes_to_one_owner() {
    loom::model(|| {
        let returns = LoomArc::new(AtomicUsize::new(0));
        let first = arena(64, &returns);
        let mut region = first
            .region(Layout::from_size_align(16, 1).expect("layout"))
            .expect("memory");
        let second = first.clone();
        let thread = thread::spawn(move || {
            let bytes = second.copy_slice(&[2_u8; 8]).expect("memory");
            let address = bytes.as_ptr().addr();
            (address, second.clone())
        });
        // SAFETY: nothing points into the region.
        #[expect(unsafe_code, reason = "the model drives the raw operation")]
        unsafe {
            Chunk::shrink(&mut region, 4, Use::Used, Access::Shared);
        }
        let mine = first
            .copy_slice(&[1_u8; 8])
            .expect("memory")
            .as_ptr()
            .addr();
        let (other, _kept) = thread.join().expect("no panic");
        assert!(mine.abs_diff(other) >= 8);
        let start = region.ptr.as_ptr().addr();
        assert!(other >= start + region.size, "inside what was kept");
        assert!(mine >= start + region.size, "inside what was kept");
    });
}

#[test]
fn two_threads_that_both_find_the_chunk_full_both_get_memory() {
    loom::model(|| {
        let returns = LoomArc::new(AtomicUsize::new(0));
        let first = arena(8, &returns);
        let second = first.clone();
        let thread = thread::spawn(move || {
            let bytes = second.copy_slice(&[2_u8; 8]).expect("memory");
            assert_eq!(bytes, &[2_u8; 8]);
            let address = bytes.as_ptr().addr();
            (address, second.clone())
        });
        let mine = first.copy_slice(&[1_u8; 8]).expect("memory");
        let (other, kept) = thread.join().expect("no panic");
        assert!(mine.as_ptr().addr().abs_diff(other) >= 8);
        assert_eq!(mine, &[1_u8; 8]);
        assert_eq!(first.allocated_bytes(), 16, "both are counted");
        drop(kept);
    });
}

/// Asserts what an arena holds when it comes back.
struct Whole {
    capacity: usize,
    returns: LoomArc<AtomicUsize>,
}

impl Recycler for Whole {
    fn recycle(arena: IdleArena, _: usize) {
        arena.recycle_owned();
    }

    fn recycle_owned(self: Arc<Self>, arena: IdleArena) {
        assert_eq!(arena.capacity(), self.capacity, "not all that was taken");
        self.returns.fetch_add(1, Ordering::Relaxed);
    }

    fn grew(&self, _bytes: usize) {}

    fn left_behind(&self, _: u32) {}
}

/// Says that a thread is through, and orders nothing. loom remembers one access to each atomic, and a
/// handle's drop begins with a load that hides what came before: without this it would not look at the
/// case that the other thread has gone before this one begins.
fn through() -> LoomArc<AtomicUsize> {
    LoomArc::new(AtomicUsize::new(0))
}

/// Invariant 1, with the way of the only reference, which decrements nothing.
#[test]
fn the_recycling_thread_sees_what_the_others_took() {
    loom::model(|| {
        let returns = LoomArc::new(AtomicUsize::new(0));
        let mut arena = IdleArena::new(8);
        arena.attach(Arc::new(Whole {
            capacity: 8 + 16,
            returns: LoomArc::clone(&returns),
        }));
        let first = arena.activate();
        first.copy_slice(&[1_u8; 8]).expect("memory");
        let second = first.clone();
        let through = through();
        let thread = thread::spawn({
            let through = LoomArc::clone(&through);
            move || {
                second.copy_slice(&[2_u8; 8]).expect("memory");
                drop(second);
                through.store(1, Ordering::Relaxed);
            }
        });
        through.load(Ordering::Relaxed);
        drop(first);
        thread.join().expect("no panic");
        assert_eq!(returns.load(Ordering::Relaxed), 1);
    });
}

/// Invariant 6: an exclusive owner continues where the other threads stopped.
#[test]
fn an_exclusive_cursor_starts_behind_what_others_took() {
    loom::model(|| {
        let returns = LoomArc::new(AtomicUsize::new(0));
        let mut first = arena(64, &returns);
        first.copy_slice(b"x").expect("memory");
        let second = first.clone();
        let through = through();
        let thread = thread::spawn({
            let through = LoomArc::clone(&through);
            move || {
                let bytes = second.copy_slice(&[2_u8; 8]).expect("memory");
                let address = bytes.as_ptr().addr();
                drop(second);
                through.store(1, Ordering::Relaxed);
                address
            }
        });
        through.load(Ordering::Relaxed);
        let mut cursor = Cursor::new_exclusive(&mut first, 16);
        let mine = cursor.copy_slice(&[1_u8; 8]).expect("memory");
        let mine = mine.as_ptr().addr();
        drop(cursor);
        let other = thread.join().expect("no panic");
        assert!(mine.abs_diff(other) >= 8, "the same bytes twice");
        assert!(first.allocated_bytes() >= 17);
    });
}

/// Invariant 3, and 1 of the cursor: its tail is given back, or another thread allocated after it.
#[test]
fn a_cursor_gives_its_tail_back_while_another_thread_allocates() {
    loom::model(|| {
        let returns = LoomArc::new(AtomicUsize::new(0));
        let first = arena(64, &returns);
        let mut cursor = Cursor::new(&first, 16);
        let mine = cursor.copy_slice(&[1_u8; 4]).expect("memory");
        let second = first.clone();
        let thread = thread::spawn(move || {
            let bytes = second.copy_slice(&[2_u8; 8]).expect("memory");
            (bytes.as_ptr().addr(), second.clone())
        });
        drop(cursor);
        let more = first.copy_slice(&[3_u8; 8]).expect("memory");
        let (other, kept) = thread.join().expect("no panic");
        let start = mine.as_ptr().addr();
        assert!(other >= start + 4 && more.as_ptr().addr() >= start + 4);
        assert!(more.as_ptr().addr().abs_diff(other) >= 8);
        assert_eq!((&*mine, &*more), (&[1_u8; 4][..], &[3_u8; 8][..]));
        drop(kept);
        assert!(
            [24, 25, 32, 40].contains(&first.allocated_bytes()),
            "{}",
            first.allocated_bytes()
        );
    });
}

/// Invariants 1 to 3 of the cursor: two grow side by side, from one chunk into the next.
#[test]
fn two_cursors_never_share_a_segment() {
    loom::model(|| {
        let returns = LoomArc::new(AtomicUsize::new(0));
        let first = arena(24, &returns);
        first.copy_slice(b"x").expect("memory");
        let second = first.clone();
        let take = |arena: &Arena, mark: u8| {
            let mut cursor = Cursor::new(arena, 8);
            let parts = [(); 2].map(|()| {
                let part = cursor.copy_slice(&[mark; 6]).expect("memory");
                (part.as_ptr().addr(), part)
            });
            drop(cursor);
            parts.map(|(address, part)| {
                assert_eq!(part, &[mark; 6], "written over");
                address
            })
        };
        let thread = thread::spawn(move || (take(&second, 2), second.clone()));
        let mine = take(&first, 1);
        let (other, kept) = thread.join().expect("no panic");
        for (mine, other) in mine.into_iter().flat_map(|m| other.map(|o| (m, o))) {
            assert!(mine.abs_diff(other) >= 6);
        }
        drop(kept);
    });
}
