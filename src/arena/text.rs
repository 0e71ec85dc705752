//! What all texts can do, wherever their bytes lie.

/// Implements it for a type with a field `raw` that is a `RawString`; `$arena` is for how long the
/// arena is borrowed.
macro_rules! text_methods {
    ($Text:ident<$($lifetime:lifetime),+>, $arena:lifetime) => {
        impl<$($lifetime),+> $Text<$($lifetime),+> {
            /// How many bytes fit without taking more memory.
            #[must_use]
            pub fn capacity(&self) -> usize {
                self.raw.capacity()
            }

            /// The text so far.
            #[must_use]
            pub fn as_str(&self) -> &str {
                self.raw.as_str()
            }

            /// Appends `text`.
            #[inline]
            pub fn push_str(&mut self, text: &str) {
                or_panic!(self.try_push_str(text));
            }

            /// As [`push_str`](Self::push_str).
            ///
            /// # Errors
            ///
            /// If the text cannot grow; it is as before.
            #[inline]
            pub fn try_push_str(&mut self, text: &str) -> Result<(), ArenaError> {
                self.raw.push_str(text)
            }

            /// Appends `character`.
            #[inline]
            pub fn push(&mut self, character: char) {
                or_panic!(self.try_push(character));
            }

            /// As [`push`](Self::push).
            ///
            /// # Errors
            ///
            /// If the text cannot grow; it is as before.
            #[inline]
            pub fn try_push(&mut self, character: char) -> Result<(), ArenaError> {
                self.try_push_str(character.encode_utf8(&mut [0; 4]))
            }

            /// Appends what `args` formats to, as `write!` does, which returns a [`fmt::Result`].
            #[inline]
            pub fn push_fmt(&mut self, args: fmt::Arguments<'_>) {
                or_panic!(self.try_push_fmt(args));
            }

            /// As [`push_fmt`](Self::push_fmt).
            ///
            /// # Errors
            ///
            /// If the text cannot grow; what was formatted before stays appended.
            ///
            /// # Panics
            ///
            /// If a `Display` or `Debug` implementation returns an error.
            #[inline]
            pub fn try_push_fmt(&mut self, args: fmt::Arguments<'_>) -> Result<(), ArenaError> {
                push_fmt(self, args)
            }

            /// Makes room for at least `additional` more bytes.
            pub fn reserve(&mut self, additional: usize) {
                or_panic!(self.try_reserve(additional));
            }

            /// As [`reserve`](Self::reserve).
            ///
            /// # Errors
            ///
            /// If the bytes do not fit the address space, or the allocator has no memory.
            pub fn try_reserve(&mut self, additional: usize) -> Result<(), ArenaError> {
                self.raw.reserve(additional)
            }

            /// Shortens the text to `len` bytes, or does nothing if it is not longer.
            ///
            /// # Panics
            ///
            /// If `len` lies within a character, as `String::truncate`.
            pub fn truncate(&mut self, len: usize) {
                assert!(
                    self.raw.truncate(len),
                    "byte {len} lies within a character of a text of {} bytes",
                    self.len()
                );
            }

            /// Removes all of the text.
            pub fn clear(&mut self) {
                self.truncate(0);
            }

            /// Ends the text and returns it for as long as the arena is borrowed.
            #[must_use]
            #[inline]
            pub fn into_str(self) -> &$arena mut str {
                self.raw.into_str()
            }
        }

        impl<$($lifetime),+> PushStr for $Text<$($lifetime),+> {
            #[inline]
            fn push(&mut self, text: &str) -> Result<(), ArenaError> {
                self.try_push_str(text)
            }
        }

        impl<$($lifetime),+> fmt::Write for $Text<$($lifetime),+> {
            #[inline]
            fn write_str(&mut self, text: &str) -> fmt::Result {
                self.try_push_str(text).map_err(|_| fmt::Error)
            }
        }

        impl<$($lifetime),+> Deref for $Text<$($lifetime),+> {
            type Target = str;

            #[inline]
            fn deref(&self) -> &str {
                self.as_str()
            }
        }

        impl<$($lifetime),+> DerefMut for $Text<$($lifetime),+> {
            #[inline]
            fn deref_mut(&mut self) -> &mut str {
                self.raw.as_mut_str()
            }
        }

        impl<$($lifetime),+> fmt::Debug for $Text<$($lifetime),+> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.as_str().fmt(f)
            }
        }

        impl<$($lifetime),+> fmt::Display for $Text<$($lifetime),+> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.as_str().fmt(f)
            }
        }

        impl<$($lifetime),+> PartialEq<str> for $Text<$($lifetime),+> {
            fn eq(&self, other: &str) -> bool {
                self.as_str() == other
            }
        }

        impl<$($lifetime),+> PartialEq<&str> for $Text<$($lifetime),+> {
            fn eq(&self, other: &&str) -> bool {
                self.as_str() == *other
            }
        }

        impl<$($lifetime),+> Extend<char> for $Text<$($lifetime),+> {
            fn extend<I: IntoIterator<Item = char>>(&mut self, characters: I) {
                for character in characters {
                    self.push(character);
                }
            }
        }

        impl<'s, $($lifetime),+> Extend<&'s str> for $Text<$($lifetime),+> {
            fn extend<I: IntoIterator<Item = &'s str>>(&mut self, texts: I) {
                for text in texts {
                    self.push_str(text);
                }
            }
        }

        #[cfg(feature = "json")]
        impl<$($lifetime),+> serde::Serialize for $Text<$($lifetime),+> {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }
    };
}
pub(super) use text_methods;
