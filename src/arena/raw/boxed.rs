//! One value in an arena, dropped by its owner.
//!
//! # Invariant
//!
//! 1. `value` points to an initialised `T` that only this box reaches, in memory that lives for
//!    `'a`.

use std::{
    marker::PhantomData,
    mem::ManuallyDrop,
    ops::{Deref, DerefMut},
    ptr::NonNull,
};

use super::{reference::Arena, typed::Allocate};
use crate::arena::ArenaError;

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
    value: NonNull<T>,
    owned: PhantomData<(&'a Arena, T)>,
}

// SAFETY: only the box owns its value (invariant 1).
unsafe impl<T: Send> Send for ArenaBox<'_, T> {}
// SAFETY: `&ArenaBox` exposes `&T` only (invariant 1).
unsafe impl<T: Sync> Sync for ArenaBox<'_, T> {}

impl<'a, T> ArenaBox<'a, T> {
    #[inline]
    pub(in crate::arena) fn new(arena: &'a Arena, value: T) -> Result<Self, ArenaError> {
        Ok(Self {
            value: NonNull::from(arena.slot()?.write(value)),
            owned: PhantomData,
        })
    }

    /// Moves the value out.
    #[must_use]
    pub fn into_inner(this: Self) -> T {
        let this = ManuallyDrop::new(this);
        // SAFETY: initialised (invariant 1); the box is not dropped, so the value is not either.
        unsafe { this.value.read() }
    }
}

impl<T> Deref for ArenaBox<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: initialised and ours (invariant 1).
        unsafe { self.value.as_ref() }
    }
}

impl<T> DerefMut for ArenaBox<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: initialised and ours, and `&mut self` is the only way to it (invariant 1).
        unsafe { self.value.as_mut() }
    }
}

impl<T> Drop for ArenaBox<'_, T> {
    fn drop(&mut self) {
        // SAFETY: initialised and ours (invariant 1), and not used afterwards.
        unsafe { self.value.drop_in_place() };
    }
}
