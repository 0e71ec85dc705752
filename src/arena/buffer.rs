use std::{
    fmt,
    io::{self, IoSlice},
    ops::{Deref, DerefMut},
};

use bytes::Bytes;

use super::{
    error::{ArenaError, or_panic},
    format,
    raw::{RawArena, RawBytes},
};

/// A growing byte buffer in an [`Arena`](super::Arena), for bodies.
///
/// It holds a handle of its arena, so it is `'static` and may leave the handler. With the `axum`
/// feature it is a response. [`freeze`](Self::freeze) turns it into [`Bytes`] that keep the arena alive
/// until the server has sent them. While nothing is allocated after the buffer it grows in place.
///
/// Write to it with `write!`, or through [`bytes::BufMut`], [`io::Write`] or [`fmt::Write`].
///
/// # Panics
///
/// Methods that need memory, those of `BufMut` included, panic if the arena has none. `write!`,
/// `io::Write` and `fmt::Write` return an error, and [`try_reserve`](Self::try_reserve) returns it in
/// advance.
///
/// # Examples
///
/// ```
/// let arena = tower_memory::Arena::new();
/// let mut body = arena.buf();
/// write!(body, "{{\"id\":{}}}", 7)?;
/// let bytes = body.freeze();
/// drop(arena);
/// assert_eq!(bytes, "{\"id\":7}");
/// # Ok::<(), tower_memory::arena::ArenaError>(())
/// ```
pub struct ArenaBuf {
    raw: RawBytes,
}

impl ArenaBuf {
    #[inline]
    pub(super) fn with_capacity(arena: RawArena, capacity: usize) -> Result<Self, ArenaError> {
        Ok(Self {
            raw: RawBytes::with_capacity(arena, capacity)?,
        })
    }

    pub(super) const fn raw(&self) -> &RawBytes {
        &self.raw
    }

    pub(super) const fn raw_mut(&mut self) -> &mut RawBytes {
        &mut self.raw
    }

    /// How many bytes fit without growing.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.raw.capacity()
    }

    /// How many bytes can be written without growing.
    #[must_use]
    pub fn spare_capacity(&self) -> usize {
        self.raw.capacity() - self.raw.len()
    }

    /// Appends `bytes`.
    #[inline]
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        or_panic!(self.try_extend_from_slice(bytes));
    }

    /// On an error the buffer is unchanged.
    #[inline]
    pub(super) fn try_extend_from_slice(&mut self, bytes: &[u8]) -> Result<(), ArenaError> {
        self.raw.extend_from_slice(bytes)
    }

    /// Appends formatted text; this is what `write!` calls, without an import.
    ///
    /// The buffer also implements [`io::Write`] and [`fmt::Write`]. This method takes precedence over
    /// theirs, so `write!` is not ambiguous when both traits are imported.
    ///
    /// # Errors
    ///
    /// If the buffer cannot grow. What was written before stays appended. The error converts into
    /// [`fmt::Error`] and [`io::Error`], so `?` works in functions that return those.
    ///
    /// # Panics
    ///
    /// If a `Display` or `Debug` implementation returns an error, like [`format!`].
    ///
    /// # Examples
    ///
    /// ```
    /// use std::io::{self, Write};
    ///
    /// fn body() -> io::Result<tower_memory::ArenaBuf> {
    ///     let mut body = tower_memory::Arena::new().buf();
    ///     write!(body, "{{\"id\":{}}}", 7)?;
    ///     body.write_all(b"\n")?;
    ///     Ok(body)
    /// }
    /// assert_eq!(&*body()?, b"{\"id\":7}\n");
    /// # Ok::<(), io::Error>(())
    /// ```
    #[inline]
    pub fn write_fmt(&mut self, args: fmt::Arguments<'_>) -> Result<(), ArenaError> {
        format::write(args, |text| self.try_extend_from_slice(text.as_bytes()))
    }

    /// Makes room for at least `additional` more bytes.
    pub fn reserve(&mut self, additional: usize) {
        or_panic!(self.try_reserve(additional));
    }

    /// As [`reserve`](Self::reserve), but returns an error instead of panicking.
    ///
    /// # Errors
    ///
    /// If the bytes do not fit the address space, or the allocator has no memory. The buffer is
    /// unchanged.
    pub fn try_reserve(&mut self, additional: usize) -> Result<(), ArenaError> {
        self.raw.reserve(additional)
    }

    /// Shortens the buffer to `len` bytes; does nothing if it is not longer.
    pub fn truncate(&mut self, len: usize) {
        self.raw.truncate(len);
    }

    /// Removes all bytes.
    pub fn clear(&mut self) {
        self.truncate(0);
    }

    /// Splits off the written bytes without a copy; the spare capacity stays here.
    ///
    /// For bodies that are sent in parts: write, [`split`](Self::split), [`freeze`](Self::freeze) the
    /// part, and continue to write.
    ///
    /// # Examples
    ///
    /// ```
    /// let arena = tower_memory::Arena::new();
    /// let mut body = arena.buf_with_capacity(1024);
    /// body.extend_from_slice(b"first");
    /// let first = body.split().freeze();
    /// body.extend_from_slice(b"second");
    /// assert_eq!((&first[..], &body[..]), (&b"first"[..], &b"second"[..]));
    /// assert_eq!(body.capacity(), 1024 - 5);
    /// ```
    #[must_use = "the written bytes are in the returned buffer"]
    pub fn split(&mut self) -> Self {
        Self {
            raw: self.raw.split(),
        }
    }

    /// Turns the buffer into [`Bytes`] without a copy.
    ///
    /// Makes one small heap allocation (none if the buffer is empty). The arena is recycled only after
    /// the last clone or slice of the bytes is dropped.
    #[must_use]
    #[inline]
    pub fn freeze(self) -> Bytes {
        self.raw.freeze()
    }
}

impl Deref for ArenaBuf {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.raw.as_slice()
    }
}

impl DerefMut for ArenaBuf {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        self.raw.as_mut_slice()
    }
}

impl AsRef<[u8]> for ArenaBuf {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl From<ArenaBuf> for Bytes {
    fn from(buf: ArenaBuf) -> Self {
        buf.freeze()
    }
}

impl io::Write for ArenaBuf {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes)?;
        Ok(bytes.len())
    }

    #[inline]
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        Ok(self.try_extend_from_slice(bytes)?)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut written = 0;
        for slice in slices {
            self.write_all(slice)?;
            written += slice.len();
        }
        Ok(written)
    }

    #[inline]
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Write for ArenaBuf {
    #[inline]
    fn write_str(&mut self, text: &str) -> fmt::Result {
        Ok(self.try_extend_from_slice(text.as_bytes())?)
    }
}

impl Extend<u8> for ArenaBuf {
    fn extend<I: IntoIterator<Item = u8>>(&mut self, bytes: I) {
        let bytes = bytes.into_iter();
        self.reserve(bytes.size_hint().0);
        for byte in bytes {
            self.extend_from_slice(&[byte]);
        }
    }
}

impl<'b> Extend<&'b u8> for ArenaBuf {
    fn extend<I: IntoIterator<Item = &'b u8>>(&mut self, bytes: I) {
        self.extend(bytes.into_iter().copied());
    }
}

impl fmt::Debug for ArenaBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ArenaBuf")
            .field("len", &self.len())
            .field("capacity", &self.capacity())
            .field("arena", self.raw.arena())
            .finish()
    }
}
