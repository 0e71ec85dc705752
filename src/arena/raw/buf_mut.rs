//! Writing to a buffer through the traits of `bytes`.

use bytes::{Buf, BufMut, buf::UninitSlice};

use super::buffer::ArenaBuf;

// SAFETY: `chunk_mut` returns the `capacity - len` bytes behind the first `len` (invariant 1 of `buffer`), and
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
        if self.len == self.capacity {
            self.reserve(Self::MIN_CAPACITY);
        }
        let left = self.spare_capacity();
        // SAFETY: within the block, which only this buffer owns (invariant 1 of `buffer`).
        unsafe { UninitSlice::from_raw_parts_mut(self.ptr.add(self.len).as_ptr(), left) }
    }

    #[inline]
    fn put_slice(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }

    fn put_bytes(&mut self, byte: u8, count: usize) {
        self.reserve(count);
        // SAFETY: there is room behind the first `len` bytes (invariant 1 of `buffer`).
        unsafe { self.ptr.add(self.len).write_bytes(byte, count) };
        self.len += count;
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
