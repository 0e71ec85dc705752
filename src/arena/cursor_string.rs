use std::{
    fmt,
    ops::{Deref, DerefMut},
};

use super::{
    error::{ArenaError, or_panic},
    format::{PushStr, push_fmt},
    raw::{RawCursor, RawString, Segment},
    text::text_methods,
};

/// A text that grows in a [`Cursor`](super::Cursor)'s segment.
///
/// It has the cursor for itself, so nothing can come between its parts and it grows in place until
/// the segment ends. Turn it [into a `str`](Self::into_str) to keep it; dropped, its place is used
/// again.
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
/// let mut cursor = arena.cursor();
/// let mut text = cursor.string();
/// for n in 0..3 {
///     write!(text, "{n};")?;
/// }
/// let text = text.into_str();
/// assert_eq!(text, "0;1;2;");
/// # Ok::<(), std::fmt::Error>(())
/// ```
pub struct CursorString<'c, 'a> {
    raw: RawString<Segment<'c, 'a>>,
}

impl<'c, 'a> CursorString<'c, 'a> {
    #[inline]
    pub(super) fn new(cursor: &'c mut RawCursor<'a>) -> Self {
        Self {
            raw: RawString::in_segment(cursor),
        }
    }
}

text_methods!(CursorString<'c, 'a>, 'a);
