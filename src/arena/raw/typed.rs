use std::{alloc::Layout, mem::MaybeUninit, ptr::NonNull, slice};

use super::{copy::copy, reference::RawArena};
use crate::arena::ArenaError;

impl RawArena {
    /// A place for one `T`, with the arena's lifetime.
    #[inline]
    #[expect(clippy::mut_from_ref, reason = "each call gives out memory of its own")]
    pub(in crate::arena) fn slot<T>(&self) -> Result<&mut MaybeUninit<T>, ArenaError> {
        let ptr = self.alloc(Layout::new::<T>())?.cast::<MaybeUninit<T>>();
        // SAFETY: aligned memory for one `T` that nobody else owns (invariant 2), valid while this
        // reference to the arena is borrowed (invariant 1); `MaybeUninit` needs no value.
        Ok(unsafe { &mut *ptr.as_ptr() })
    }

    /// A copy of `values`, with the arena's lifetime.
    #[inline]
    #[expect(clippy::mut_from_ref, reason = "each call gives out memory of its own")]
    pub(in crate::arena) fn copy_slice<T: Copy>(
        &self,
        values: &[T],
    ) -> Result<&mut [T], ArenaError> {
        let layout = Layout::for_value(values);
        let ptr = self.alloc(layout)?;
        // SAFETY: new memory of the layout of `values`, so the two do not overlap (invariant 2);
        // all of it is written before it is handed out (invariant 5).
        unsafe {
            copy(NonNull::from(values).cast(), ptr, layout.size());
            Ok(slice::from_raw_parts_mut(ptr.cast().as_ptr(), values.len()))
        }
    }

    /// A copy of `text`, with the arena's lifetime.
    #[inline]
    #[expect(clippy::mut_from_ref, reason = "each call gives out memory of its own")]
    pub(in crate::arena) fn copy_str(&self, text: &str) -> Result<&mut str, ArenaError> {
        let bytes = self.copy_slice(text.as_bytes())?;
        // SAFETY: a copy of valid UTF-8.
        Ok(unsafe { std::str::from_utf8_unchecked_mut(bytes) })
    }
}
