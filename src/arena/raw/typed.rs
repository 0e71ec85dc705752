use std::{alloc::Layout, mem::MaybeUninit, ptr::NonNull, slice, str};

use super::{copy::copy, cursor::Cursor, reference::Arena};
use crate::arena::ArenaError;

/// Typed allocation over one way to take memory.
///
/// # Safety
///
/// [`take`](Self::take) returns memory of the layout that no other code owns and that lives for `'a`.
pub(in crate::arena) unsafe trait Allocate<'a>: Sized {
    fn take(self, layout: Layout) -> Result<NonNull<u8>, ArenaError>;

    /// A place for one `T`.
    #[inline(always)]
    fn slot<T: 'a>(self) -> Result<&'a mut MaybeUninit<T>, ArenaError> {
        let ptr = self.take(Layout::new::<T>())?.cast::<MaybeUninit<T>>();
        // SAFETY: aligned memory for one `T` that no other code owns, valid for `'a` (the contract of
        // this trait); `MaybeUninit` needs no value.
        Ok(unsafe { &mut *ptr.as_ptr() })
    }

    /// A copy of `values`.
    #[inline]
    fn copy_slice<T: Copy + 'a>(self, values: &[T]) -> Result<&'a mut [T], ArenaError> {
        let layout = Layout::for_value(values);
        let ptr = self.take(layout)?;
        // SAFETY: new memory of the layout of `values`, so the two do not overlap (the contract of this
        // trait); all of it is written before it is returned (invariant 5 of `raw`).
        unsafe {
            copy(NonNull::from(values).cast(), ptr, layout.size());
            Ok(slice::from_raw_parts_mut(ptr.cast().as_ptr(), values.len()))
        }
    }

    /// A copy of `text`.
    #[inline]
    fn copy_str(self, text: &str) -> Result<&'a mut str, ArenaError> {
        let bytes = self.copy_slice(text.as_bytes())?;
        // SAFETY: a copy of valid UTF-8 (invariant 5 of `raw`).
        Ok(unsafe { str::from_utf8_unchecked_mut(bytes) })
    }
}

// SAFETY: `alloc` returns a region without another owner (invariant 2 of `raw`), valid while this
// reference to the arena is borrowed (invariant 1 of `raw`).
unsafe impl<'a> Allocate<'a> for &'a Arena {
    #[inline]
    fn take(self, layout: Layout) -> Result<NonNull<u8>, ArenaError> {
        Ok(self.region(layout)?.ptr)
    }
}

// SAFETY: `take` cuts off a part of the segment, which the cursor owns alone (its invariant 1), and
// which lives as long as the arena is borrowed.
unsafe impl<'a> Allocate<'a> for &mut Cursor<'a> {
    #[inline(always)]
    fn take(self, layout: Layout) -> Result<NonNull<u8>, ArenaError> {
        Cursor::take(self, layout)
    }
}
