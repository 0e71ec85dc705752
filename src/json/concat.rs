use std::fmt;

use serde::{Serialize, Serializer};

use crate::arena::{Parts, StackText, WriteParts};

/// A text of several parts, without the cost of `format_args!`: a JSON string when it is serialized.
///
/// [`Parts`] says what can be a part. Unlike `format_args!`, the result can leave a closure.
/// [`Arena::alloc_concat`](crate::Arena::alloc_concat) makes a `&str` of the same parts.
///
/// # Examples
///
/// ```
/// use tower_memory::{Arena, json};
///
/// let text = json::concat(("/users/", 7, '/', "\"quoted\""));
/// assert_eq!(text.to_string(), "/users/7/\"quoted\"");
/// assert_eq!(Arena::new().json_bytes(&text)?, r#""/users/7/\"quoted\"""#);
/// # Ok::<(), json::SerializeError>(())
/// ```
pub const fn concat<P: Parts>(parts: P) -> Concat<P> {
    Concat(parts)
}

/// The text that [`concat()`] makes.
#[derive(Debug, Clone, Copy)]
#[must_use = "it does nothing until it is serialized or displayed"]
pub struct Concat<P>(P);

impl<P: Parts> Serialize for Concat<P> {
    /// Up to 128 bytes are put together on the stack.
    #[inline]
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = StackText::new();
        match self.0.write_parts(&mut text) {
            Ok(()) => serializer.serialize_str(text.as_str()),
            // Too long for the stack.
            Err(fmt::Error) => serializer.collect_str(self),
        }
    }
}

impl<P: Parts> fmt::Display for Concat<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.write_parts(&mut Formatted(f))
    }
}

impl WriteParts for StackText {
    type Error = fmt::Error;

    #[inline(always)]
    fn write_text(&mut self, text: &str) -> fmt::Result {
        if self.push_str(text) {
            Ok(())
        } else {
            Err(fmt::Error)
        }
    }

    #[inline(always)]
    fn write_unsigned(&mut self, number: u64) -> fmt::Result {
        if self.push_unsigned(number) {
            Ok(())
        } else {
            Err(fmt::Error)
        }
    }
}

struct Formatted<'f, 'a>(&'f mut fmt::Formatter<'a>);

impl WriteParts for Formatted<'_, '_> {
    type Error = fmt::Error;

    fn write_text(&mut self, text: &str) -> fmt::Result {
        self.0.write_str(text)
    }
}
