use bytes::{Buf, BufMut, buf::UninitSlice};

use crate::arena::ArenaBuf;

// SAFETY: forwards every method to `RawBytes`, whose implementation upholds the contract.
unsafe impl BufMut for ArenaBuf {
    #[inline]
    fn remaining_mut(&self) -> usize {
        self.raw().remaining_mut()
    }

    #[inline]
    unsafe fn advance_mut(&mut self, count: usize) {
        // SAFETY: the caller's promise.
        unsafe { self.raw_mut().advance_mut(count) };
    }

    #[inline]
    fn chunk_mut(&mut self) -> &mut UninitSlice {
        self.raw_mut().chunk_mut()
    }

    #[inline]
    fn put_slice(&mut self, bytes: &[u8]) {
        self.raw_mut().put_slice(bytes);
    }

    fn put<B: Buf>(&mut self, bytes: B)
    where
        Self: Sized,
    {
        self.raw_mut().put(bytes);
    }
}
