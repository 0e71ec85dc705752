use std::{
    fmt,
    ops::{Deref, DerefMut},
};

use super::{
    error::ArenaError,
    raw::{RawArena, RawBox},
};

/// A value in an [`Arena`](super::Arena) that is dropped with its box.
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
    raw: RawBox<'a, T>,
}

impl<'a, T> ArenaBox<'a, T> {
    #[inline]
    pub(super) fn new(arena: &'a RawArena, value: T) -> Result<Self, ArenaError> {
        Ok(Self {
            raw: RawBox::new(arena, value)?,
        })
    }

    /// Moves the value out.
    #[must_use]
    pub fn into_inner(this: Self) -> T {
        this.raw.into_inner()
    }
}

impl<T> Deref for ArenaBox<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.raw.get()
    }
}

impl<T> DerefMut for ArenaBox<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.raw.get_mut()
    }
}

impl<T: fmt::Debug> fmt::Debug for ArenaBox<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: fmt::Display> fmt::Display for ArenaBox<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

#[cfg(feature = "json")]
impl<T: serde::Serialize> serde::Serialize for ArenaBox<'_, T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (**self).serialize(serializer)
    }
}
