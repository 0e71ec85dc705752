//! What all lists can do, wherever their values lie.

/// Implements it for a type with a field `raw` that is a `RawVec`; `$arena` is for how long the
/// arena is borrowed.
macro_rules! list_methods {
    ($List:ident<$($lifetime:lifetime),+>, $arena:lifetime) => {
        impl<$($lifetime,)+ T> $List<$($lifetime,)+ T> {
            /// How many values fit without taking more memory.
            #[must_use]
            pub fn capacity(&self) -> usize {
                self.raw.capacity()
            }

            /// Appends `value`.
            #[inline]
            pub fn push(&mut self, value: T) {
                or_panic!(self.try_push(value));
            }

            /// As [`push`](Self::push).
            ///
            /// # Errors
            ///
            /// If the list cannot grow; `value` is dropped, the list is as before.
            #[inline]
            pub fn try_push(&mut self, value: T) -> Result<(), ArenaError> {
                self.raw.push(value)
            }

            /// Removes and returns the last value.
            #[inline]
            pub fn pop(&mut self) -> Option<T> {
                self.raw.pop()
            }

            /// Makes room for at least `additional` more values.
            pub fn reserve(&mut self, additional: usize) {
                or_panic!(self.try_reserve(additional));
            }

            /// As [`reserve`](Self::reserve).
            ///
            /// # Errors
            ///
            /// If the values do not fit the address space, or the allocator has no memory.
            pub fn try_reserve(&mut self, additional: usize) -> Result<(), ArenaError> {
                self.raw.reserve(additional)
            }

            /// Makes room for `additional` more values, and for no more than that if it has to be
            /// taken elsewhere.
            pub fn reserve_exact(&mut self, additional: usize) {
                or_panic!(self.try_reserve_exact(additional));
            }

            /// As [`reserve_exact`](Self::reserve_exact).
            ///
            /// # Errors
            ///
            /// If the values do not fit the address space, or the allocator has no memory.
            pub fn try_reserve_exact(&mut self, additional: usize) -> Result<(), ArenaError> {
                self.raw.reserve_exact(additional)
            }

            /// Drops all values from `len` on.
            pub fn truncate(&mut self, len: usize) {
                self.raw.truncate(len);
            }

            /// Drops all values.
            pub fn clear(&mut self) {
                self.truncate(0);
            }

            /// Appends copies of `values`.
            #[inline]
            pub fn extend_from_slice(&mut self, values: &[T])
            where
                T: Copy,
            {
                or_panic!(self.try_extend_from_slice(values));
            }

            /// As [`extend_from_slice`](Self::extend_from_slice).
            ///
            /// # Errors
            ///
            /// If the list cannot grow; it is as before.
            #[inline]
            pub fn try_extend_from_slice(&mut self, values: &[T]) -> Result<(), ArenaError>
            where
                T: Copy,
            {
                self.raw.extend_from_slice(values)
            }

            /// Ends the list and returns its values for as long as the arena is borrowed.
            ///
            /// Types with drop glue are refused at compile time: nobody would drop them.
            ///
            /// ```compile_fail
            /// let arena = tower_memory::Arena::new();
            /// let mut cursor = arena.cursor();
            /// let mut list = cursor.vec();
            /// list.push(String::from("nobody would drop it"));
            /// list.into_slice();
            /// ```
            #[must_use]
            #[inline]
            pub fn into_slice(self) -> &$arena mut [T] {
                const {
                    assert!(
                        !std::mem::needs_drop::<T>(),
                        "nobody would drop the values of this slice: keep them in an `ArenaVec`"
                    );
                }
                self.raw.into_slice()
            }
        }

        impl<$($lifetime,)+ T> Deref for $List<$($lifetime,)+ T> {
            type Target = [T];

            #[inline]
            fn deref(&self) -> &[T] {
                self.raw.as_slice()
            }
        }

        impl<$($lifetime,)+ T> DerefMut for $List<$($lifetime,)+ T> {
            #[inline]
            fn deref_mut(&mut self) -> &mut [T] {
                self.raw.as_mut_slice()
            }
        }

        impl<$($lifetime,)+ T> Extend<T> for $List<$($lifetime,)+ T> {
            fn extend<I: IntoIterator<Item = T>>(&mut self, values: I) {
                let values = values.into_iter();
                self.reserve(values.size_hint().0);
                for value in values {
                    self.push(value);
                }
            }
        }

        impl<$($lifetime,)+ T: fmt::Debug> fmt::Debug for $List<$($lifetime,)+ T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                (**self).fmt(f)
            }
        }

        impl<$($lifetime,)+ T: PartialEq<U>, U> PartialEq<[U]> for $List<$($lifetime,)+ T> {
            fn eq(&self, other: &[U]) -> bool {
                **self == *other
            }
        }

        impl<'v, $($lifetime,)+ T> IntoIterator for &'v $List<$($lifetime,)+ T> {
            type Item = &'v T;
            type IntoIter = std::slice::Iter<'v, T>;

            fn into_iter(self) -> Self::IntoIter {
                self.iter()
            }
        }

        impl<'v, $($lifetime,)+ T> IntoIterator for &'v mut $List<$($lifetime,)+ T> {
            type Item = &'v mut T;
            type IntoIter = std::slice::IterMut<'v, T>;

            fn into_iter(self) -> Self::IntoIter {
                self.iter_mut()
            }
        }

        #[cfg(feature = "json")]
        impl<$($lifetime,)+ T: serde::Serialize> serde::Serialize for $List<$($lifetime,)+ T> {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                (**self).serialize(serializer)
            }
        }
    };
}
pub(super) use list_methods;
