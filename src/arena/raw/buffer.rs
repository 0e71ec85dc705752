//! A growing byte buffer that keeps its arena alive, and the owner behind frozen `Bytes`.
//!
//! # Invariants
//!
//! 1. `region` is of `arena`; its first `len` bytes are initialised; `len <= region.size`.
//! 2. After `freeze` no code writes the bytes: the region moved into the [`Frozen`] owner, which
//!    returns shared slices only.

use std::{
    alloc::Layout,
    mem,
    ops::{Deref, DerefMut},
    ptr::NonNull,
    slice,
};

use bytes::{Buf, BufMut, Bytes, buf::UninitSlice};

use super::{
    chunk::{Access, Chunk, Region, Use},
    copy::copy,
    reference::Arena,
};
use crate::arena::error::{ArenaError, or_panic};

/// Up to this many bytes are copied when a buffer is frozen. [`Bytes`] allocate anyway, and a long-lived
/// short message does not keep memory for others.
const COPIED: usize = 256;

// `ArenaBuf::freeze` says so.
const _: () = assert!(COPIED == 256);

/// A growing byte buffer in an [`Arena`], for bodies.
///
/// It holds a handle of its arena, so it is `'static` and may leave the handler. With the `axum`
/// feature it is a response. [`freeze`](Self::freeze) turns it into [`Bytes`] that keep the arena alive
/// until the server has sent them. While nothing is allocated after the buffer it grows in place.
///
/// Write to it with `write!`, or through [`bytes::BufMut`], [`io::Write`](std::io::Write) or
/// [`fmt::Write`](std::fmt::Write).
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
    pub(in crate::arena) arena: Arena,
    region: Region,
    len: usize,
}

// SAFETY: only the buffer owns its region (invariant 1), and a `Arena` is `Send`.
unsafe impl Send for ArenaBuf {}
// SAFETY: `&ArenaBuf` exposes `&[u8]` only (invariant 1).
unsafe impl Sync for ArenaBuf {}

impl ArenaBuf {
    const MIN_CAPACITY: usize = 64;

    #[inline]
    pub(in crate::arena) fn with_capacity(
        mut arena: Arena,
        capacity: usize,
    ) -> Result<Self, ArenaError> {
        let region = if capacity == 0 {
            Region::empty(Layout::new::<u8>())
        } else {
            let access = arena.access();
            // SAFETY: this reference is held exclusively, so `access` is correct (invariant 6 of `raw`).
            unsafe { arena.claim(capacity, capacity, access)? }
        };
        Ok(Self {
            region,
            arena,
            len: 0,
        })
    }

    /// Appends `bytes`.
    #[inline]
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        or_panic!(self.try_extend_from_slice(bytes));
    }

    /// On an error the buffer is unchanged.
    #[inline(always)]
    pub(in crate::arena) fn try_extend_from_slice(
        &mut self,
        bytes: &[u8],
    ) -> Result<(), ArenaError> {
        self.try_reserve(bytes.len())?;
        // SAFETY: `try_reserve` made room for them behind the first `len` bytes (invariant 1), and a shared
        // slice cannot lie in this buffer's own region.
        unsafe {
            let end = self.region.ptr.add(self.len);
            copy(NonNull::from(bytes).cast(), end, bytes.len());
        }
        self.len += bytes.len();
        Ok(())
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
        let len = mem::take(&mut self.len);
        let written = Region {
            ptr: self.region.ptr,
            size: len,
            chunk: self.region.chunk,
        };
        // SAFETY: `len <= region.size` (invariant 1), so this is within the region or at its end.
        self.region.ptr = unsafe { self.region.ptr.add(len) };
        self.region.size -= len;
        Self {
            arena: self.arena.clone(),
            region: written,
            len,
        }
    }

    /// Turns the buffer into [`Bytes`].
    ///
    /// Makes one small heap allocation (none if the buffer is empty). Up to 256 bytes are copied into
    /// it, so they pin nothing else. More bytes are not copied; the arena is recycled only after their
    /// last clone or slice is dropped.
    #[must_use]
    #[inline]
    pub fn freeze(mut self) -> Bytes {
        let len = self.len;
        // If this is the only reference, no code could use the tail.
        if self.arena.access() == Access::Shared {
            // SAFETY: nothing points behind the initialised bytes (invariant 1), and `Access::Shared` is
            // always correct (invariant 6 of `raw`).
            unsafe { Chunk::shrink(&mut self.region, len, Use::Advance, Access::Shared) };
        }
        if len <= COPIED {
            // The buffer is dropped, and gives its place back.
            return Bytes::copy_from_slice(&self);
        }
        Bytes::from_owner(Frozen(self))
    }

    /// Shortens the buffer to `len` bytes; does nothing if it is not longer.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// How many bytes fit without growing.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.region.size
    }

    /// How many bytes can be written without growing.
    #[must_use]
    pub fn spare_capacity(&self) -> usize {
        self.region.size - self.len
    }

    /// Makes room for at least `additional` more bytes.
    #[inline]
    pub fn reserve(&mut self, additional: usize) {
        or_panic!(self.try_reserve(additional));
    }

    /// As [`reserve`](Self::reserve), but returns an error instead of panicking.
    ///
    /// # Errors
    ///
    /// If the bytes do not fit the address space, or the allocator has no memory. The buffer is
    /// unchanged.
    #[inline]
    pub fn try_reserve(&mut self, additional: usize) -> Result<(), ArenaError> {
        if additional <= self.spare_capacity() {
            return Ok(());
        }
        self.grow(additional)
    }

    #[cold]
    #[inline(never)]
    fn grow(&mut self, additional: usize) -> Result<(), ArenaError> {
        let needed = self
            .len
            .checked_add(additional)
            .filter(|&needed| Layout::from_size_align(needed, 1).is_ok())
            .ok_or_else(|| {
                ArenaError::capacity_overflow(
                    self.len.saturating_add(additional),
                    self.arena.allocated_bytes(),
                )
            })?;
        let doubled = self.region.size.saturating_mul(2);
        let wanted = needed.max(doubled.max(Self::MIN_CAPACITY));
        let access = self.arena.access();
        // SAFETY: the region is of this arena (invariant 1), and `&mut self` holds the reference
        // exclusively, so `access` is correct (invariant 6 of `raw`).
        unsafe {
            self.arena
                .regrow(&mut self.region, self.len, (needed, wanted), 1, access)
        }
    }
}

impl Deref for ArenaBuf {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: the first `len` bytes are initialised (invariant 1).
        unsafe { slice::from_raw_parts(self.region.ptr.as_ptr(), self.len) }
    }
}

impl DerefMut for ArenaBuf {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: the first `len` bytes are initialised (invariant 1), and `&mut self` is the only way
        // to them.
        unsafe { slice::from_raw_parts_mut(self.region.ptr.as_ptr(), self.len) }
    }
}

impl Drop for ArenaBuf {
    #[inline]
    fn drop(&mut self) {
        // Gives back the region if it is the topmost one, so that an unused buffer, or the part of
        // a body that was sent, costs a streaming request no memory. The last reference recycles
        // the whole arena anyway.
        if self.arena.access() == Access::Shared {
            // SAFETY: the only owner of the region goes (invariants 1 and 2), so nothing points into it;
            // `Access::Shared` is always correct (invariant 6 of `raw`).
            unsafe { Chunk::shrink(&mut self.region, 0, Use::Used, Access::Shared) };
        }
    }
}

/// Bytes that no code writes any more (invariant 2).
struct Frozen(ArenaBuf);

impl AsRef<[u8]> for Frozen {
    #[inline]
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

// SAFETY: `chunk_mut` returns the `region.size - len` bytes behind the first `len` (invariant 1), and
// `advance_mut` moves `len` over bytes the caller has initialised.
unsafe impl BufMut for ArenaBuf {
    #[inline]
    fn remaining_mut(&self) -> usize {
        // As for `Vec<u8>`: it grows as needed.
        isize::MAX as usize - self.len
    }

    #[inline]
    unsafe fn advance_mut(&mut self, count: usize) {
        let left = self.spare_capacity();
        assert!(
            count <= left,
            "cannot advance by {count} bytes: `chunk_mut` returned {left}"
        );
        self.len += count;
    }

    #[inline]
    fn chunk_mut(&mut self) -> &mut UninitSlice {
        if self.len == self.region.size {
            self.reserve(Self::MIN_CAPACITY);
        }
        let left = self.spare_capacity();
        // SAFETY: within the region, which only this buffer owns (invariant 1).
        unsafe { UninitSlice::from_raw_parts_mut(self.region.ptr.add(self.len).as_ptr(), left) }
    }

    #[inline]
    fn put_slice(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }

    fn put<B: Buf>(&mut self, mut bytes: B)
    where
        Self: Sized,
    {
        while bytes.has_remaining() {
            let chunk = bytes.chunk();
            let count = chunk.len();
            self.put_slice(chunk);
            bytes.advance(count);
        }
    }
}
