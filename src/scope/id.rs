//! Numbers of requests.

use std::{
    cell::Cell,
    ops::Range,
    // std's and not loom's: the models do not depend on the numbers.
    sync::atomic::{AtomicU64, Ordering},
};

/// Numbers that a thread takes at once.
const BLOCK: u64 = 256;

/// The next number that no thread has taken. Zero is none.
static NEXT: AtomicU64 = AtomicU64::new(1);

thread_local! {
    static OWN: Cell<Range<u64>> = const { Cell::new(0..0) };
}

/// Returns a number that no other request of this process has.
pub(super) fn next() -> u64 {
    let own = OWN.try_with(|own| {
        let mut range = own.take();
        if range.is_empty() {
            let first = NEXT.fetch_add(BLOCK, Ordering::Relaxed);
            range = first..first + BLOCK;
        }
        let id = range.start;
        range.start += 1;
        own.set(range);
        id
    });
    // A thread that is ending has no thread-local.
    own.unwrap_or_else(|_| NEXT.fetch_add(1, Ordering::Relaxed))
}

#[cfg(all(test, not(tower_memory_loom)))]
mod tests {
    use std::{collections::HashSet, thread};

    use super::*;

    #[test]
    fn threads_never_get_the_same_number() {
        let all: Vec<u64> = thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..3 * BLOCK).map(|_| next()).collect::<Vec<_>>()))
                .collect();
            let numbers = threads.into_iter().map(|thread| thread.join().unwrap());
            numbers.flatten().collect()
        });
        assert!(!all.contains(&0));
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len());
    }
}
