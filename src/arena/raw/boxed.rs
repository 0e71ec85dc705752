//! One value in an arena, dropped by its owner.
//!
//! # Invariant
//!
//! 1. `value` points to an initialised `T` that only this box reaches, in memory that lives for
//!    `'a`.

use std::{marker::PhantomData, ptr::NonNull};

use super::{reference::RawArena, typed::Allocate};
use crate::arena::ArenaError;

pub(in crate::arena) struct RawBox<'a, T> {
    value: NonNull<T>,
    owned: PhantomData<(&'a RawArena, T)>,
}

// SAFETY: only the box owns its value (invariant 1).
unsafe impl<T: Send> Send for RawBox<'_, T> {}
// SAFETY: `&RawBox` exposes `&T` only (invariant 1).
unsafe impl<T: Sync> Sync for RawBox<'_, T> {}

impl<'a, T> RawBox<'a, T> {
    #[inline]
    pub(in crate::arena) fn new(arena: &'a RawArena, value: T) -> Result<Self, ArenaError> {
        Ok(Self {
            value: NonNull::from(arena.slot()?.write(value)),
            owned: PhantomData,
        })
    }

    #[inline]
    pub(in crate::arena) fn get(&self) -> &T {
        // SAFETY: initialised and ours (invariant 1).
        unsafe { self.value.as_ref() }
    }

    #[inline]
    pub(in crate::arena) fn get_mut(&mut self) -> &mut T {
        // SAFETY: initialised and ours, and `&mut self` is the only way to it (invariant 1).
        unsafe { self.value.as_mut() }
    }

    pub(in crate::arena) fn into_inner(self) -> T {
        let this = std::mem::ManuallyDrop::new(self);
        // SAFETY: initialised (invariant 1); the box is not dropped, so the value is not either.
        unsafe { this.value.read() }
    }
}

impl<T> Drop for RawBox<'_, T> {
    fn drop(&mut self) {
        // SAFETY: initialised and ours (invariant 1), and not used afterwards.
        unsafe { self.value.drop_in_place() };
    }
}
