//! The traits of `String` that need no access to memory: everything else is in `raw/string.rs`.

use std::{
    borrow::{Borrow, Cow},
    cmp::Ordering,
    fmt,
    hash::{Hash, Hasher},
};

use super::{
    error::or_panic,
    raw::{ArenaString, OwnedRegion, Storage},
};

/// The clone is in the same arena.
impl<'a> Clone for ArenaString<'a, OwnedRegion<'a>> {
    fn clone(&self) -> Self {
        let mut clone = or_panic!(Self::with_capacity(self.arena(), self.len()));
        clone.push_str(self);
        clone
    }
}

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

impl<'s, 'a, S: Storage<'a>> Extend<&'s str> for ArenaString<'a, S> {
    fn extend<I: IntoIterator<Item = &'s str>>(&mut self, texts: I) {
        for text in texts {
            self.push_str(text);
        }
    }
}

impl<'a, S: Storage<'a>> AsRef<str> for ArenaString<'a, S> {
    fn as_ref(&self) -> &str {
        self
    }
}

impl<'a, S: Storage<'a>> AsRef<[u8]> for ArenaString<'a, S> {
    fn as_ref(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl<'a, S: Storage<'a>> Borrow<str> for ArenaString<'a, S> {
    fn borrow(&self) -> &str {
        self
    }
}

impl<'a, 'b, S: Storage<'a>, R: Storage<'b>> PartialEq<ArenaString<'b, R>> for ArenaString<'a, S> {
    fn eq(&self, other: &ArenaString<'b, R>) -> bool {
        **self == **other
    }
}

/// Implements comparison with `$other` in both directions.
macro_rules! equals {
    ($($other:ty),+) => {$(
        impl<'a, S: Storage<'a>> PartialEq<$other> for ArenaString<'a, S> {
            fn eq(&self, other: &$other) -> bool {
                **self == other[..]
            }
        }

        impl<'a, S: Storage<'a>> PartialEq<ArenaString<'a, S>> for $other {
            fn eq(&self, other: &ArenaString<'a, S>) -> bool {
                self[..] == **other
            }
        }
    )+};
}

equals!(str, &str, String, Cow<'_, str>);

impl<'a, S: Storage<'a>> Eq for ArenaString<'a, S> {}

impl<'a, 'b, S: Storage<'a>, R: Storage<'b>> PartialOrd<ArenaString<'b, R>> for ArenaString<'a, S> {
    fn partial_cmp(&self, other: &ArenaString<'b, R>) -> Option<Ordering> {
        Some((**self).cmp(other))
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
