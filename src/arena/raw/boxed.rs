//! One value in an arena, dropped by its owner.
//!
//! # Invariant
//!
//! 1. `value` is neither taken nor dropped before its box is.

use std::{
    mem::{ManuallyDrop, MaybeUninit},
    ops::{Deref, DerefMut},
};

/// A value in an [`Arena`](crate::Arena) that is dropped with its box.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
///
/// let arena = tower_memory::Arena::new();
/// let shared = Arc::new(1);
/// let boxed = arena.alloc_box(Arc::clone(&shared));
/// assert_eq!(Arc::strong_count(&shared), 2);
/// drop(boxed);
/// assert_eq!(Arc::strong_count(&shared), 1);
/// ```
pub struct ArenaBox<'a, T> {
    value: &'a mut ManuallyDrop<T>,
}

impl<'a, T> ArenaBox<'a, T> {
    #[inline]
    pub(in crate::arena) fn new(slot: &'a mut MaybeUninit<ManuallyDrop<T>>, value: T) -> Self {
        Self {
            value: slot.write(ManuallyDrop::new(value)),
        }
    }

    /// Moves the value out.
    #[must_use]
    pub fn into_inner(this: Self) -> T {
        let mut this = ManuallyDrop::new(this);
        // SAFETY: not taken or dropped before (invariant 1), nor later: the box is not dropped.
        unsafe { ManuallyDrop::take(this.value) }
    }
}

impl<T> Deref for ArenaBox<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        self.value
    }
}

impl<T> DerefMut for ArenaBox<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        self.value
    }
}

impl<T> Drop for ArenaBox<'_, T> {
    fn drop(&mut self) {
        // SAFETY: not taken or dropped before (invariant 1), and not used afterwards.
        unsafe { ManuallyDrop::drop(self.value) };
    }
}
