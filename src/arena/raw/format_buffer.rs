//! A text that is formatted on the stack until its length is known.
//!
//! Taking too much room and giving back the rest are two atomic operations on the arena's position;
//! taking exactly what is needed is one. Most texts are short enough for that.

use super::{reference::Arena, stack_text::StackText, string::ArenaString, typed::Allocate};
use crate::arena::ArenaError;

pub(in crate::arena) struct FormatBuffer<'a> {
    arena: &'a Arena,
    short: StackText,
    /// Where a text continues that is too long for the stack.
    long: Option<ArenaString<'a>>,
}

impl<'a> FormatBuffer<'a> {
    #[inline]
    pub(in crate::arena) fn new(arena: &'a Arena) -> Self {
        Self {
            arena,
            short: StackText::new(),
            long: None,
        }
    }

    /// Appends a part if the text is still short with it.
    #[inline(always)]
    pub(in crate::arena) fn push_short(&mut self, text: &str) -> bool {
        self.long.is_none() && self.short.push_str(text)
    }

    /// Appends a part of a text that is not short.
    pub(in crate::arena) fn push_long(&mut self, text: &str) -> Result<(), ArenaError> {
        let long = match &mut self.long {
            Some(long) => long,
            None => {
                let short = self.short.as_str();
                let mut long = self.arena.string();
                // One reservation for both parts: it succeeds or fails as a whole.
                long.make_room(short.len() + text.len())?;
                long.try_push_str(short)?;
                self.long.insert(long)
            }
        };
        long.try_push_str(text)
    }

    /// The text, for as long as the arena is borrowed.
    #[inline]
    pub(in crate::arena) fn into_str(self) -> Result<&'a mut str, ArenaError> {
        match self.long {
            Some(long) => Ok(long.into_str()),
            None => self.arena.copy_str(self.short.as_str()),
        }
    }
}
