//! A growing byte buffer that keeps its arena alive, and the owner behind frozen `Bytes`.
//!
//! # Invariants
//!
//! 1. `region` is of `arena`; its first `len` bytes are initialised; `len <= region.size`.
//! 2. After `freeze` no code writes the bytes: the region moved into the [`Frozen`] owner, which
//!    returns shared slices only.

use std::{alloc::Layout, fmt, mem, ptr::NonNull, slice};

use bytes::{Buf, BufMut, Bytes, buf::UninitSlice};

use super::{
    chunk::{Access, Region, Use},
    copy::copy,
    reference::{RawArena, dangling},
};
use crate::arena::ArenaError;

pub(crate) struct RawBytes {
    arena: RawArena,
    region: Region,
    len: usize,
}

// SAFETY: only the buffer owns its region (invariant 1), and a `RawArena` is `Send`.
unsafe impl Send for RawBytes {}
// SAFETY: `&RawBytes` exposes `&[u8]` only (invariant 1).
unsafe impl Sync for RawBytes {}

const fn layout(size: usize) -> Option<Layout> {
    match Layout::from_size_align(size, 1) {
        Ok(layout) => Some(layout),
        Err(_) => None,
    }
}

impl RawBytes {
    const MIN_CAPACITY: usize = 64;

    #[inline]
    pub(crate) fn with_capacity(mut arena: RawArena, capacity: usize) -> Result<Self, ArenaError> {
        let region = if capacity == 0 {
            Region {
                ptr: dangling(Layout::new::<u8>()),
                size: 0,
                chunk: None,
            }
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

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn capacity(&self) -> usize {
        self.region.size
    }

    pub(crate) const fn arena(&self) -> &RawArena {
        &self.arena
    }

    #[inline]
    pub(crate) fn as_slice(&self) -> &[u8] {
        // SAFETY: the first `len` bytes are initialised (invariant 1).
        unsafe { slice::from_raw_parts(self.region.ptr.as_ptr(), self.len) }
    }

    #[inline]
    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: the first `len` bytes are initialised (invariant 1), and `&mut self` is the only way
        // to them.
        unsafe { slice::from_raw_parts_mut(self.region.ptr.as_ptr(), self.len) }
    }

    pub(crate) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    #[inline]
    pub(crate) fn reserve(&mut self, additional: usize) -> Result<(), ArenaError> {
        if additional <= self.region.size - self.len {
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
            .filter(|&needed| layout(needed).is_some())
            .ok_or_else(|| {
                ArenaError::capacity_overflow(
                    self.len.saturating_add(additional),
                    self.arena.used(),
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

    #[inline]
    pub(crate) fn extend_from_slice(&mut self, bytes: &[u8]) -> Result<(), ArenaError> {
        self.reserve(bytes.len())?;
        // SAFETY: `reserve` made room for them behind the first `len` bytes (invariant 1), and a shared
        // slice cannot lie in this buffer's own region.
        unsafe {
            let end = self.region.ptr.add(self.len);
            copy(NonNull::from(bytes).cast(), end, bytes.len());
        }
        self.len += bytes.len();
        Ok(())
    }

    /// Splits off the written bytes; the spare capacity stays here.
    pub(crate) fn split(&mut self) -> Self {
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

    #[inline]
    pub(crate) fn freeze(mut self) -> Bytes {
        let len = self.len;
        if len == 0 {
            return Bytes::new();
        }
        // If this is the only reference, no code could use the tail.
        if self.arena.access() == Access::Shared {
            // SAFETY: nothing points behind the initialised bytes (invariant 1), and `Access::Shared` is
            // always correct (invariant 6 of `raw`).
            unsafe {
                self.arena
                    .shrink(&mut self.region, len, Use::Advance, Access::Shared)
            };
        }
        Bytes::from_owner(Frozen(self))
    }
}

impl Drop for RawBytes {
    #[inline]
    fn drop(&mut self) {
        // Gives back the region if it is the topmost one, so that an unused buffer, or the part of
        // a body that was sent, costs a streaming request no memory. The last reference recycles
        // the whole arena anyway.
        if self.arena.access() == Access::Shared {
            // SAFETY: the only owner of the region goes (invariants 1 and 2), so nothing points into it;
            // `Access::Shared` is always correct (invariant 6 of `raw`).
            unsafe {
                self.arena
                    .shrink(&mut self.region, 0, Use::Used, Access::Shared)
            };
        }
    }
}

impl fmt::Debug for RawBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawBytes")
            .field("len", &self.len)
            .field("capacity", &self.region.size)
            .finish()
    }
}

/// Bytes that no code writes any more (invariant 2).
struct Frozen(RawBytes);

impl AsRef<[u8]> for Frozen {
    #[inline]
    fn as_ref(&self) -> &[u8] {
        self.0.as_slice()
    }
}

// SAFETY: `chunk_mut` returns the `region.size - len` bytes behind the first `len` (invariant 1), and
// `advance_mut` moves `len` over bytes the caller has initialised.
unsafe impl BufMut for RawBytes {
    #[inline]
    fn remaining_mut(&self) -> usize {
        // As for `Vec<u8>`: it grows as needed.
        isize::MAX as usize - self.len
    }

    #[inline]
    unsafe fn advance_mut(&mut self, count: usize) {
        let left = self.region.size - self.len;
        assert!(
            count <= left,
            "cannot advance by {count} bytes: `chunk_mut` returned {left}"
        );
        self.len += count;
    }

    #[inline]
    fn chunk_mut(&mut self) -> &mut UninitSlice {
        if self.len == self.region.size {
            if let Err(error) = self.reserve(Self::MIN_CAPACITY) {
                error.panic();
            }
        }
        let left = self.region.size - self.len;
        // SAFETY: within the region, which only this buffer owns (invariant 1).
        unsafe { UninitSlice::from_raw_parts_mut(self.region.ptr.add(self.len).as_ptr(), left) }
    }

    #[inline]
    fn put_slice(&mut self, bytes: &[u8]) {
        if let Err(error) = self.extend_from_slice(bytes) {
            error.panic();
        }
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
