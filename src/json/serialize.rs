use std::{error::Error, fmt};

use bytes::Bytes;
use serde::Serialize;

use crate::{arena::Arena, sync::Arc};

/// A value could not be serialized as JSON.
///
/// Its [`source`](Error::source) is the cause: the value's own `Serialize` implementation returned an
/// error, or the arena could not grow.
///
/// # Examples
///
/// ```
/// use std::{collections::HashMap, error::Error};
///
/// let arena = tower_memory::Arena::new();
/// // JSON has no such keys.
/// let pairs = HashMap::from([([1, 2], "a")]);
/// let error = arena.json_bytes(&pairs).unwrap_err();
/// assert_eq!(error.written(), 1);
/// assert_eq!(error.to_string(), "JSON serialization failed after 1 bytes");
/// assert!(error.source().is_some());
/// ```
#[derive(Debug, Clone)]
pub struct SerializeError {
    /// Shared, since what lies in the extensions of a response must be `Clone`.
    source: Arc<serde_json::Error>,
    written: usize,
}

impl SerializeError {
    pub(super) fn new(source: serde_json::Error, written: usize) -> Self {
        let source = Arc::new(source);
        Self { source, written }
    }

    /// Bytes written before the error.
    #[must_use]
    pub const fn written(&self) -> usize {
        self.written
    }
}

impl fmt::Display for SerializeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JSON serialization failed after {} bytes", self.written)
    }
}

impl Error for SerializeError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.source)
    }
}

impl Arena {
    /// Serializes `value` as JSON into a buffer of this arena and freezes it, without a copy.
    ///
    /// # Errors
    ///
    /// If the value's `Serialize` implementation returns an error, or the arena cannot grow.
    ///
    /// # Examples
    ///
    /// ```
    /// let arena = tower_memory::Arena::new();
    /// let bytes = arena.json_bytes(&["a", "b"])?;
    /// assert_eq!(bytes, r#"["a","b"]"#);
    /// # Ok::<(), tower_memory::json::SerializeError>(())
    /// ```
    pub fn json_bytes<T: Serialize + ?Sized>(&self, value: &T) -> Result<Bytes, SerializeError> {
        // By value: through a `&mut` the compiler leaves each write as a call.
        let mut serializer = serde_json::Serializer::new(self.buf());
        let result = value.serialize(&mut serializer);
        let buf = serializer.into_inner();
        match result {
            Ok(()) => Ok(buf.freeze()),
            Err(source) => Err(SerializeError::new(source, buf.len())),
        }
    }
}
