//! The one place where the crate's synchronisation primitives come from.
//!
//! `std` in every ordinary build; `loom`'s twins under `--cfg tower_memory_loom`, so that the
//! lock-free parts can be model-checked as they are, not as a copy.

#[cfg(not(tower_memory_loom))]
pub(crate) use std::sync::{
    Condvar, Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence},
};

#[cfg(tower_memory_loom)]
pub(crate) use loom::sync::{
    Condvar, Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence},
};

/// Sets an atomic that no other thread can use meanwhile.
///
/// Unlike `Relaxed` stores, several of these may become one instruction.
pub(crate) trait SetMut<T> {
    fn set_mut(&mut self, value: T);
}

macro_rules! set_mut {
    ($($atomic:ty: $value:ty)*) => {$(
        impl SetMut<$value> for $atomic {
            #[inline]
            fn set_mut(&mut self, value: $value) {
                #[cfg(not(tower_memory_loom))]
                {
                    *self.get_mut() = value;
                }
                #[cfg(tower_memory_loom)]
                self.store(value, Ordering::Relaxed);
            }
        }
    )*};
}

set_mut!(AtomicBool: bool AtomicU8: u8 AtomicU32: u32 AtomicU64: u64 AtomicUsize: usize);

/// std's in both builds, since loom's `Arc` cannot hold trait objects.
pub(crate) use std::sync::Arc;

#[cfg(not(tower_memory_loom))]
pub(crate) use std::sync::OnceLock;

#[cfg(tower_memory_loom)]
pub(crate) use self::once_lock::OnceLock;

use std::sync::{PoisonError, TryLockError};

/// Locks `mutex` whether or not a former holder panicked.
///
/// Every critical section of the crate leaves its data consistent at each step, and most of them
/// are reached from `Drop`, where a second panic would abort the process.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    #[cfg(test)]
    LOCKED.set(LOCKED.get() + 1);
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// As [`lock`], or `None` if another thread holds it.
pub(crate) fn try_lock<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    let guard = match mutex.try_lock() {
        Ok(guard) => guard,
        Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        Err(TryLockError::WouldBlock) => return None,
    };
    #[cfg(test)]
    LOCKED.set(LOCKED.get() + 1);
    Some(guard)
}

#[cfg(test)]
thread_local! {
    /// How often the thread took one of the crate's locks, all of which are taken here.
    pub(crate) static LOCKED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// std's `OnceLock` with points at which a model may switch threads: before each read, and between
/// the initialization and its publication.
#[cfg(tower_memory_loom)]
mod once_lock {
    use super::{AtomicBool, Ordering};

    #[derive(Debug)]
    pub(crate) struct OnceLock<T> {
        value: std::sync::OnceLock<T>,
        is_set: AtomicBool,
    }

    impl<T> Default for OnceLock<T> {
        fn default() -> Self {
            Self::new()
        }
    }

    impl<T> OnceLock<T> {
        pub(crate) fn new() -> Self {
            Self {
                value: std::sync::OnceLock::new(),
                is_set: AtomicBool::new(false),
            }
        }

        pub(crate) fn get(&self) -> Option<&T> {
            self.is_set
                .load(Ordering::Acquire)
                .then(|| self.value.get())
                .flatten()
        }

        pub(crate) fn get_or_init(&self, init: impl FnOnce() -> T) -> &T {
            if self.is_set.load(Ordering::Acquire) {
                if let Some(value) = self.value.get() {
                    return value;
                }
            }
            let value = self.value.get_or_init(init);
            self.is_set.store(true, Ordering::Release);
            value
        }

        pub(crate) fn get_mut(&mut self) -> Option<&mut T> {
            self.value.get_mut()
        }

        pub(crate) fn take(&mut self) -> Option<T> {
            self.is_set.store(false, Ordering::Relaxed);
            self.value.take()
        }
    }
}
