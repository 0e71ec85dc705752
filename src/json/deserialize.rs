use std::{borrow::Cow, error::Error, fmt};

use serde::Deserialize;
use serde_json::error::Category;
use serde_path_to_error::Segment;

use super::in_arena::InArena;
use crate::arena::Arena;

/// Bytes of a path, or of an error's text, that are shown. Both may quote the input.
const SHOWN: usize = 256;

impl Arena {
    /// Reads JSON as a value that borrows from `json` and from this arena.
    ///
    /// Fields of type `&str` borrow from `json`. A text with escapes, which serde_json refuses for such
    /// a field, is unescaped into the arena. Texts for a `String` or a `Cow<str>` with
    /// `#[serde(borrow)]` work as with serde_json.
    ///
    /// Only if there is an error is `json` read once more, to find the path of the value that does not
    /// fit. Tracking it in advance, as `axum::Json` does, costs about a third of the time.
    ///
    /// # Errors
    ///
    /// If `json` is not JSON, has more than 128 levels, continues behind its value, or does not fit
    /// the type.
    ///
    /// # Panics
    ///
    /// If the arena has no memory.
    ///
    /// # Examples
    ///
    /// ```
    /// #[derive(serde::Deserialize)]
    /// struct Item<'a> {
    ///     name: &'a str,
    ///     tags: Vec<&'a str>,
    /// }
    ///
    /// let arena = tower_memory::Arena::new();
    /// let item: Item<'_> = arena.deserialize_json(br#"{"name":"tea \"Assam\"","tags":["hot"]}"#)?;
    /// assert_eq!((item.name, item.tags[0]), ("tea \"Assam\"", "hot"));
    ///
    /// let error = arena.deserialize_json::<Item<'_>>(br#"{"name":"tea","tags":["hot",2]}"#);
    /// assert_eq!(
    ///     error.err().expect("2 is no text").to_string(),
    ///     "tags[1]: invalid type: integer `2`, expected a string at line 1 column 29",
    /// );
    /// # Ok::<(), tower_memory::json::DeserializeError>(())
    /// ```
    pub fn deserialize_json<'a, T: Deserialize<'a>>(
        &'a self,
        json: &'a [u8],
    ) -> Result<T, DeserializeError> {
        let mut deserializer = serde_json::Deserializer::from_slice(json);
        match T::deserialize(InArena::new(&mut deserializer, self)) {
            Ok(value) => match deserializer.end() {
                Ok(()) => Ok(value),
                Err(source) => Err(DeserializeError { source, path: None }),
            },
            Err(source) => Err(self.locate::<T>(json, source)),
        }
    }

    /// Reads `json` again, to say where the error is.
    #[cold]
    #[inline(never)]
    fn locate<'a, T: Deserialize<'a>>(
        &'a self,
        json: &'a [u8],
        source: serde_json::Error,
    ) -> DeserializeError {
        let mut deserializer = serde_json::Deserializer::from_slice(json);
        let deserializer = InArena::new(&mut deserializer, self);
        let again: Result<T, _> = serde_path_to_error::deserialize(deserializer);
        let path = again.err().and_then(|error| {
            let is_known = |segment: &Segment| !matches!(segment, Segment::Unknown);
            let known = error.path().iter().any(is_known);
            // An error between two values is after the last one, at a place without a name.
            known.then(|| error.path().to_string().trim_end_matches(".?").to_owned())
        });
        DeserializeError { source, path }
    }
}

/// JSON could not be read, or does not fit the type that it was read as.
///
/// Its text says where and why: `lines[3].qty: invalid type: string "x", expected u32 at line 1 column
/// 211`. It is at most about 600 bytes long, whatever the JSON contains.
#[cfg_attr(
    feature = "axum",
    doc = "\nWith the feature `axum` it is a response, with that text in a problem description \
           ([RFC 9457](https://www.rfc-editor.org/rfc/rfc9457))."
)]
///
/// # Examples
///
/// ```
/// let arena = tower_memory::Arena::new();
/// let error = arena.deserialize_json::<[u8; 2]>(b"[1,\n 300]").unwrap_err();
/// assert_eq!((error.path(), error.line(), error.column()), (Some("[1]"), 2, 4));
/// assert_eq!(error.status(), 422);
///
/// let error = arena.deserialize_json::<[u8; 2]>(b"[1, 2").unwrap_err();
/// assert_eq!(error.status(), 400);
/// assert_eq!(error.to_string(), "EOF while parsing a list at line 1 column 5");
/// ```
#[derive(Debug)]
pub struct DeserializeError {
    source: serde_json::Error,
    path: Option<String>,
}

impl DeserializeError {
    /// Returns the path of the value with the error, such as `lines[3].qty`; `None` for the whole.
    #[must_use]
    pub fn path(&self) -> Option<&str> {
        self.path.as_deref()
    }

    /// Returns the line of the error, from 1 on.
    #[must_use]
    pub fn line(&self) -> usize {
        self.source.line()
    }

    /// Returns the column of the error in bytes, from 1 on; 0 is in front of the line's first byte.
    #[must_use]
    pub fn column(&self) -> usize {
        self.source.column()
    }

    /// Whether it is JSON, but does not fit the type.
    pub(crate) fn is_data(&self) -> bool {
        self.source.classify() == Category::Data
    }
}

impl fmt::Display for DeserializeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(path) = &self.path {
            write!(f, "{}: ", shortened(path))?;
        }
        f.write_str(&shortened(&self.source.to_string()))
    }
}

impl Error for DeserializeError {}

/// Leaves out the middle of a long text.
fn shortened(text: &str) -> Cow<'_, str> {
    if text.len() <= SHOWN {
        return Cow::Borrowed(text);
    }
    // The end tells the position.
    let (mut head, mut tail) = (SHOWN * 2 / 3, text.len() - SHOWN / 3);
    while !text.is_char_boundary(head) {
        head -= 1;
    }
    while !text.is_char_boundary(tail) {
        tail += 1;
    }
    Cow::Owned(format!("{} ... {}", &text[..head], &text[tail..]))
}
