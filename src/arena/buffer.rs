//! The methods and traits of a buffer that need no access to memory: everything else is in
//! `raw/buffer.rs`.

use std::{
    fmt,
    io::{self, IoSlice},
};

use bytes::Bytes;

use super::{error::ArenaError, format, raw::ArenaBuf};

impl ArenaBuf {
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
        format::write(args, |text, error| {
            format::keep(self.try_extend_from_slice(text.as_bytes()), error)
        })
    }

    /// Removes all bytes.
    pub fn clear(&mut self) {
        self.truncate(0);
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

    /// As a call it would cost more than the copy of a short text, and serde_json writes many of those.
    #[inline(always)]
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

impl fmt::Debug for ArenaBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ArenaBuf")
            .field("len", &self.len())
            .field("capacity", &self.capacity())
            .field("arena", &self.arena())
            .finish()
    }
}
