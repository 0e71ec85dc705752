use std::{error::Error, fmt};

use bytes::Bytes;
use serde::Serialize;

use super::handle::Arena;

/// A value that could not be written as JSON.
///
/// Its source says why: the value's own `Serialize` implementation refused, or the arena could not
/// grow.
///
/// # Examples
///
/// ```
/// use std::{collections::HashMap, error::Error};
///
/// let arena = tower_memory::Arena::new();
/// // JSON has no such keys.
/// let pairs = HashMap::from([([1, 2], "a")]);
/// let error = arena.to_json(&pairs).unwrap_err();
/// assert_eq!(error.written(), 1);
/// assert_eq!(error.to_string(), "the value could not be written as json after 1 bytes");
/// assert!(error.source().is_some());
/// ```
#[derive(Debug)]
pub struct JsonError {
    source: serde_json::Error,
    written: usize,
}

impl JsonError {
    /// Bytes that had been written before the error.
    #[must_use]
    pub const fn written(&self) -> usize {
        self.written
    }
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the value could not be written as json after {} bytes",
            self.written
        )
    }
}

impl Error for JsonError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.source)
    }
}

impl Arena {
    /// Writes `value` as JSON into a buffer of this arena and freezes it, without a copy.
    ///
    /// # Errors
    ///
    /// If the value's `Serialize` implementation refuses, or the arena cannot grow.
    ///
    /// # Examples
    ///
    /// ```
    /// let arena = tower_memory::Arena::new();
    /// let bytes = arena.to_json(&["a", "b"])?;
    /// assert_eq!(bytes, r#"["a","b"]"#);
    /// # Ok::<(), tower_memory::arena::JsonError>(())
    /// ```
    pub fn to_json<T: Serialize + ?Sized>(&self, value: &T) -> Result<Bytes, JsonError> {
        let mut buf = self.buf();
        match serde_json::to_writer(&mut buf, value) {
            Ok(()) => Ok(buf.freeze()),
            Err(source) => Err(JsonError {
                source,
                written: buf.len(),
            }),
        }
    }
}
