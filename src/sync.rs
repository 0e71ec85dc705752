//! The one place where the crate's synchronisation primitives come from.
//!
//! `std` in every ordinary build; `loom`'s twins under `--cfg tower_memory_loom`, so that the
//! lock-free parts can be model-checked as they are, not as a copy.

#[cfg(not(tower_memory_loom))]
pub(crate) use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence},
};

#[cfg(tower_memory_loom)]
pub(crate) use loom::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence},
};

/// `Arc` and `OnceLock` are std's in both builds: what the models check is the crate's own
/// protocols, and loom's `Arc` cannot hold trait objects.
pub(crate) use std::sync::{Arc, OnceLock};

use std::sync::PoisonError;

/// Locks `mutex` whether or not a former holder panicked.
///
/// Every critical section of the crate leaves its data consistent at each step, and most of them
/// are reached from `Drop`, where a second panic would abort the process.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    #[cfg(test)]
    LOCKED.set(LOCKED.get() + 1);
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
thread_local! {
    /// How often the thread took one of the crate's locks, all of which are taken by [`lock`].
    pub(crate) static LOCKED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}
