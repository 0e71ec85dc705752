//! Small numbers for threads, for tables of which each thread has its own part.

use std::{
    cell::Cell,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
};

/// So many threads at the same time have a number of their own, below this one.
pub(crate) const OWN: usize = 512;

/// Neither claimed, nor a number.
const NONE: usize = usize::MAX;

/// A bit for each number that a thread has.
// std's and not loom's, here and below: the models do not depend on the number of a thread.
static CLAIMED: [AtomicU64; OWN / 64] = [const { AtomicU64::new(0) }; OWN / 64];

thread_local! {
    static NUMBER: Cell<usize> = const { Cell::new(NONE) };
    static RELEASE: Release = const { Release(Cell::new(NONE)) };
}

/// Returns the calling thread's number.
///
/// Below [`OWN`], no other thread has it now, and what a former one did with it happens before. Other
/// numbers are those of further threads, and of threads whose locals are being destroyed.
#[inline]
pub(crate) fn thread_number() -> usize {
    let number = NUMBER.try_with(Cell::get).unwrap_or(OWN);
    if number == NONE { claim() } else { number }
}

#[cold]
#[inline(never)]
fn claim() -> usize {
    // Without a destructor, the number could not be released.
    let number = RELEASE.try_with(|release| {
        let number = lowest();
        if number < OWN {
            release.0.set(number);
        }
        number
    });
    let number = number.unwrap_or(OWN);
    let _ = NUMBER.try_with(|cell| cell.set(number));
    number
}

/// Claims the lowest number that is free, or returns one that others may have.
fn lowest() -> usize {
    for (at, claimed) in CLAIMED.iter().enumerate() {
        let mut bits = claimed.load(Ordering::Relaxed);
        while bits != u64::MAX {
            let bit = bits.trailing_ones();
            // Acquire: pairs with `Release::drop`, so what the former owner did happens before.
            let now = claimed.fetch_or(1 << bit, Ordering::Acquire);
            if now & 1 << bit == 0 {
                return at * 64 + bit as usize;
            }
            bits = now;
        }
    }
    static FURTHER: AtomicUsize = AtomicUsize::new(0);
    // Relaxed: the numbers only have to differ.
    OWN + FURTHER.fetch_add(1, Ordering::Relaxed) % OWN
}

/// Releases the thread's number when the thread ends.
struct Release(Cell<usize>);

impl Drop for Release {
    fn drop(&mut self) {
        let number = self.0.get();
        if number < OWN {
            // Destructors that run later share a number.
            let _ = NUMBER.try_with(|cell| cell.set(OWN + number));
            CLAIMED[number / 64].fetch_and(!(1 << (number % 64)), Ordering::Release);
        }
    }
}

#[cfg(all(test, not(tower_memory_loom)))]
mod tests {
    use std::{
        collections::HashSet,
        sync::{Arc, Barrier, mpsc},
        thread,
    };

    use super::*;

    #[test]
    fn threads_at_the_same_time_have_numbers_of_their_own_and_later_ones_reuse_them() {
        const THREADS: usize = 40;
        let mut highest = 0;
        for _ in 0..50 {
            let all = Arc::new(Barrier::new(THREADS));
            let (sender, numbers) = mpsc::channel();
            let threads: Vec<_> = (0..THREADS)
                .map(|_| {
                    let (all, sender) = (Arc::clone(&all), sender.clone());
                    thread::spawn(move || {
                        let number = thread_number();
                        all.wait();
                        assert_eq!(thread_number(), number);
                        sender.send(number).unwrap();
                    })
                })
                .collect();
            drop(sender);
            let numbers: HashSet<_> = numbers.iter().collect();
            assert_eq!(numbers.len(), THREADS);
            highest = highest.max(numbers.into_iter().max().unwrap());
            threads
                .into_iter()
                .for_each(|thread| thread.join().unwrap());
        }
        assert!(highest < 500, "{highest}: of 2000 threads, 40 at a time");
    }

    #[test]
    fn a_number_is_not_the_threads_own_any_more_while_its_locals_are_destroyed() {
        struct Late(mpsc::Sender<usize>);
        impl Drop for Late {
            fn drop(&mut self) {
                self.0.send(thread_number()).unwrap();
            }
        }
        thread_local! {
            static LATE: Cell<Option<Late>> = const { Cell::new(None) };
        }
        let (sender, numbers) = mpsc::channel();
        thread::spawn(move || {
            // Destroyed after what is used later.
            LATE.set(Some(Late(sender.clone())));
            sender.send(thread_number()).unwrap();
        })
        .join()
        .unwrap();
        let numbers: Vec<_> = numbers.iter().collect();
        assert!(numbers[0] < OWN);
        assert!(numbers[1] == numbers[0] || numbers[1] >= OWN, "{numbers:?}");
    }
}
