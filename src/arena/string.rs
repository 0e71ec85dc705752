//! The traits of `String` that need no access to memory: everything else is in `raw/string.rs`.

use std::{
    borrow::Borrow,
    cmp::Ordering,
    fmt,
    hash::{Hash, Hasher},
};

use super::raw::{ArenaString, Storage};

/// [`fmt::Error`] stands for an [`ArenaError`](super::ArenaError): the text could not grow.
impl<'a, S: Storage<'a>> fmt::Write for ArenaString<'a, S> {
    #[inline]
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.try_push_str(text).map_err(fmt::Error::from)
    }
}

impl<'a, S: Storage<'a>> Extend<char> for ArenaString<'a, S> {
    fn extend<I: IntoIterator<Item = char>>(&mut self, characters: I) {
        for character in characters {
            self.push(character);
        }
    }
}

impl<'a, S: Storage<'a>> AsRef<str> for ArenaString<'a, S> {
    fn as_ref(&self) -> &str {
        self
    }
}

impl<'a, S: Storage<'a>> Borrow<str> for ArenaString<'a, S> {
    fn borrow(&self) -> &str {
        self
    }
}

/// With a `str`, a `String`, or another text in an arena.
impl<'a, S: Storage<'a>, R: AsRef<str> + ?Sized> PartialEq<R> for ArenaString<'a, S> {
    fn eq(&self, other: &R) -> bool {
        **self == *other.as_ref()
    }
}

impl<'a, S: Storage<'a>> Eq for ArenaString<'a, S> {}

impl<'a, S: Storage<'a>, R: AsRef<str> + ?Sized> PartialOrd<R> for ArenaString<'a, S> {
    fn partial_cmp(&self, other: &R) -> Option<Ordering> {
        Some((**self).cmp(other.as_ref()))
    }
}

impl<'a, S: Storage<'a>> Ord for ArenaString<'a, S> {
    fn cmp(&self, other: &Self) -> Ordering {
        (**self).cmp(other)
    }
}

impl<'a, S: Storage<'a>> Hash for ArenaString<'a, S> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

impl<'a, S: Storage<'a>> fmt::Debug for ArenaString<'a, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<'a, S: Storage<'a>> fmt::Display for ArenaString<'a, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

#[cfg(feature = "json")]
impl<'a, S: Storage<'a>> serde::Serialize for ArenaString<'a, S> {
    fn serialize<R: serde::Serializer>(&self, serializer: R) -> Result<R::Ok, R::Error> {
        serializer.serialize_str(self)
    }
}
