use std::{
    fmt,
    ops::{Deref, DerefMut},
};

use super::{
    error::ArenaError,
    format::{PushStr, push_fmt},
    handle::{Arena, or_panic},
    raw::{Own, RawString},
    text::text_methods,
};

/// A growing text in an [`Arena`], UTF-8 as ever.
///
/// As long as it is the last thing allocated it grows in place.
///
/// # Panics
///
/// Each method without `try_` panics where its `try_` twin returns an [`ArenaError`]. Writing
/// through `fmt::Write` reports the same as [`fmt::Error`].
///
/// # Examples
///
/// ```
/// use std::fmt::Write;
///
/// let arena = tower_memory::Arena::new();
/// let mut text = arena.string_with_capacity(16);
/// text.push_str("item-");
/// write!(text, "{}", 7)?;
/// assert_eq!(&*text, "item-7");
/// # Ok::<(), std::fmt::Error>(())
/// ```
pub struct ArenaString<'a> {
    raw: RawString<Own<'a>>,
}

impl<'a> ArenaString<'a> {
    /// An empty text in `arena`, which takes memory with its first character.
    #[must_use]
    pub fn new_in(arena: &'a Arena) -> Self {
        Self::with_capacity_in(0, arena)
    }

    /// An empty text in `arena` with room for `capacity` bytes.
    #[must_use]
    pub fn with_capacity_in(capacity: usize, arena: &'a Arena) -> Self {
        or_panic!(Self::try_with_capacity_in(capacity, arena))
    }

    /// As [`with_capacity_in`](Self::with_capacity_in).
    ///
    /// # Errors
    ///
    /// If `capacity` does not fit the address space, or the allocator has no memory.
    pub fn try_with_capacity_in(capacity: usize, arena: &'a Arena) -> Result<Self, ArenaError> {
        Ok(Self {
            raw: RawString::with_capacity(arena.raw(), capacity)?,
        })
    }
}

text_methods!(ArenaString<'a>, 'a);
