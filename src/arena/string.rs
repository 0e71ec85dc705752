use std::{
    fmt,
    ops::{Deref, DerefMut},
};

use super::{
    error::{ArenaError, or_panic},
    format::{PushStr, push_fmt},
    raw::{Own, RawArena, RawString},
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
    pub(super) fn with_capacity(arena: &'a RawArena, capacity: usize) -> Result<Self, ArenaError> {
        Ok(Self {
            raw: RawString::with_capacity(arena, capacity)?,
        })
    }
}

text_methods!(ArenaString<'a>, 'a);
