use std::{fmt, io::Write};

use bytes::Bytes;
use serde::Serialize;

use super::serialize::SerializeError;
use crate::arena::{Arena, ArenaBuf, ArenaError, Parts, WriteParts};

/// A JSON array that is written value by value into a buffer of an arena.
///
/// [`Arena::json_list`] makes one. It is `'static` and `Send`, so it may be held across `.await` while
/// its values come from a database or another service; the values themselves need not live longer than
/// [`push`](Self::push).
#[cfg_attr(
    feature = "axum",
    doc = "With the feature `axum` it is a response: `200` with the content type `application/json`."
)]
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_memory::json::SerializeError> {
/// let mut list = tower_memory::Arena::new().json_list();
/// for id in 1..=2 {
///     tokio::task::yield_now().await;
///     list.push_text(("item-", id));
/// }
/// list.push(&[3, 4])?;
/// assert_eq!(list.freeze(), r#"["item-1","item-2",[3,4]]"#);
/// # Ok(())
/// # }
/// ```
#[must_use = "it does nothing until it is frozen or sent"]
pub struct List {
    /// Empty, or the array so far, without the closing bracket.
    buf: ArenaBuf,
}

impl Arena {
    /// An empty JSON array in a buffer of this arena, for values as they come.
    pub fn json_list(&self) -> List {
        List { buf: self.buf() }
    }
}

impl List {
    /// Appends a value.
    ///
    /// # Errors
    ///
    /// If the value's `Serialize` implementation returns an error, or the arena cannot grow. The list is
    /// unchanged.
    #[inline]
    pub fn push<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), SerializeError> {
        let before = self.buf.len();
        let separator: &[u8] = if before == 0 { b"[" } else { b"," };
        let result = match self.buf.write_all(separator) {
            Ok(()) => serde_json::to_writer(&mut self.buf, value),
            Err(error) => Err(serde_json::Error::io(error)),
        };
        result.map_err(|source| {
            let written = self.buf.len() - before;
            self.buf.truncate(before);
            SerializeError::new(source, written)
        })
    }

    /// Appends a text that is made of `parts`, as a JSON string.
    ///
    /// This is the fastest way to write short texts.
    ///
    /// # Panics
    ///
    /// If the arena has no memory.
    #[inline]
    pub fn push_text(&mut self, parts: impl Parts) {
        let before = self.buf.len();
        if let Err(error) = self.try_push_text(before, parts) {
            self.buf.truncate(before);
            error.panic();
        }
    }

    #[inline(always)]
    fn try_push_text(&mut self, before: usize, parts: impl Parts) -> Result<(), ArenaError> {
        let opening: &[u8; 2] = if before == 0 { b"[\"" } else { b",\"" };
        self.buf.try_extend_from_slice(opening)?;
        parts.write_parts(&mut Escaped(&mut self.buf))?;
        self.buf.try_extend_from_slice(b"\"")
    }

    /// Ends the array and freezes it, without a copy.
    ///
    /// # Panics
    ///
    /// If the arena has no memory.
    #[must_use]
    pub fn freeze(mut self) -> Bytes {
        let end: &[u8] = if self.buf.is_empty() { b"[]" } else { b"]" };
        self.buf.extend_from_slice(end);
        self.buf.freeze()
    }
}

impl fmt::Debug for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("List").field("buf", &self.buf).finish()
    }
}

/// Writes the inside of a JSON string.
struct Escaped<'b>(&'b mut ArenaBuf);

/// For each byte: what follows the backslash, `u` for a code, or zero if it needs no escape.
const ESCAPES: [u8; 256] = {
    let mut escapes = [0; 256];
    let mut control = 0;
    while control < 0x20 {
        escapes[control] = b'u';
        control += 1;
    }
    let short = *b"\x08b\tt\nn\x0cf\rr\"\"\\\\";
    let mut at = 0;
    while at < short.len() {
        escapes[short[at] as usize] = short[at + 1];
        at += 2;
    }
    escapes
};

impl Escaped<'_> {
    /// Writes a text from its first byte on that needs an escape.
    #[cold]
    #[inline(never)]
    fn write_escaped(&mut self, mut text: &[u8], mut first: usize) -> Result<(), ArenaError> {
        loop {
            let (plain, rest) = text.split_at(first);
            self.0.try_extend_from_slice(plain)?;
            let Some((&byte, rest)) = rest.split_first() else {
                return Ok(());
            };
            match ESCAPES[usize::from(byte)] {
                b'u' => {
                    let digit = |nibble: u8| b"0123456789abcdef"[usize::from(nibble)];
                    let (high, low) = (digit(byte >> 4), digit(byte & 15));
                    self.0
                        .try_extend_from_slice(&[b'\\', b'u', b'0', b'0', high, low])?;
                }
                letter => self.0.try_extend_from_slice(&[b'\\', letter])?,
            }
            text = rest;
            first = first_escape(text).unwrap_or(text.len());
        }
    }
}

#[inline(always)]
fn first_escape(text: &[u8]) -> Option<usize> {
    text.iter()
        .position(|&byte| ESCAPES[usize::from(byte)] != 0)
}

impl WriteParts for Escaped<'_> {
    type Error = ArenaError;

    #[inline(always)]
    fn write_text(&mut self, text: &str) -> Result<(), ArenaError> {
        match first_escape(text.as_bytes()) {
            None => self.write_plain(text),
            Some(first) => self.write_escaped(text.as_bytes(), first),
        }
    }

    #[inline(always)]
    fn write_plain(&mut self, text: &str) -> Result<(), ArenaError> {
        self.0.try_extend_from_slice(text.as_bytes())
    }
}
