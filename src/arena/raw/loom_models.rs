//! Interleavings of two threads at the arena's three shared places: the count of references, the
//! bump pointer, and the replacement of the current chunk.

use std::alloc::Layout;

use loom::{
    sync::{
        Arc as LoomArc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use super::{
    Home, IdleArena, RawArena, Rewind,
    chunk::{Access, Use},
};
use crate::sync::Arc;

/// Counts arenas that came back; a plain loom atomic, so that a double return shows.
struct Counter(LoomArc<AtomicUsize>);

impl Home for Counter {
    fn take_back(arena: IdleArena) {
        arena.go_home();
    }

    fn receive(self: Arc<Self>, mut arena: IdleArena) {
        arena.rewind(Rewind {
            keep: usize::MAX,
            wipe: false,
        });
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn grew(&self, _bytes: usize) {}
}

fn arena(first_chunk: usize, returns: &LoomArc<AtomicUsize>) -> RawArena {
    let home = Arc::new(Counter(LoomArc::clone(returns)));
    let mut arena = IdleArena::new(first_chunk);
    arena.settle(home);
    arena.wake()
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
            first.shrink(&mut region, 4, Use::Used, Access::Shared);
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
        assert_eq!(first.used(), 16, "both are counted");
        drop(kept);
    });
}
