//! A private segment of an arena, and what is taken from it without atomic operations.
//!
//! # Invariants
//!
//! 1. `ptr..end` is the free tail of a region of `arena` that this cursor alone owns; without a
//!    chunk it is empty.
//! 2. `access` is [`Access::Alone`] only if the cursor holds the arena's only reference
//!    exclusively, for all of `'a`. Then nobody can take anything as long as the cursor, or anything
//!    it gave out, is in use, so the chunk's position need not say what is taken until the cursor
//!    needs more or goes.
//! 3. `ptr` is aligned to [`ALIGN`], or fewer than `ALIGN` bytes are left: sizes are rounded up, so
//!    most allocations need not be aligned one by one.
//! 4. What a growing list or text builds lies in `ptr..end` and counts as free: a list that is
//!    forgotten leaks its values, and its place is used again.

use std::{
    alloc::Layout,
    fmt,
    marker::PhantomData,
    mem::{ManuallyDrop, MaybeUninit},
    ptr::NonNull,
    slice,
};

use super::{
    chunk::{Access, Chunk, Region, Use},
    copy::copy,
    reference::{RawArena, dangling},
};
use crate::arena::ArenaError;

/// The largest segment that is taken in advance. What is not used of it goes back, unless somebody
/// else has taken something behind it.
const MAX_STEP: usize = 32 * 1024;

/// See invariant 3.
const ALIGN: usize = 8;

pub(in crate::arena) struct RawCursor<'a> {
    ptr: NonNull<u8>,
    end: NonNull<u8>,
    /// Where the region begins, before `ptr` was aligned. If nothing was taken since, all of it goes
    /// back.
    base: NonNull<u8>,
    arena: &'a RawArena,
    chunk: Option<NonNull<Chunk>>,
    /// Bytes to take in advance the next time.
    step: usize,
    access: Access,
}

// SAFETY: the segment is this cursor's alone (invariant 1), and `&RawArena` may go to other threads.
unsafe impl Send for RawCursor<'_> {}
// SAFETY: `&RawCursor` gives access to plain figures only.
unsafe impl Sync for RawCursor<'_> {}

impl<'a> RawCursor<'a> {
    #[inline]
    pub(in crate::arena) fn new(arena: &'a RawArena, step: usize) -> Self {
        Self {
            ptr: NonNull::dangling(),
            end: NonNull::dangling(),
            base: NonNull::dangling(),
            arena,
            chunk: None,
            step,
            access: Access::Shared,
        }
    }

    /// A cursor that moves the arena's own position without atomic operations, too, if `arena` is
    /// the only reference. Then nobody else can want anything of the chunk, and it takes all of it.
    #[inline]
    pub(in crate::arena) fn new_alone(arena: &'a mut RawArena, step: usize) -> Self {
        let access = arena.access();
        let mut this = Self::new(arena, step);
        this.access = access;
        if access == Access::Alone {
            this.step = usize::MAX;
            this.begin();
        }
        this
    }

    /// A cursor that has taken its first segment, if the current chunk has anything left.
    #[inline]
    pub(in crate::arena) fn new_begun(arena: &'a RawArena, step: usize) -> Self {
        let mut this = Self::new(arena, step);
        this.begin();
        this
    }

    #[inline]
    fn begin(&mut self) {
        let Some(chunk) = self.arena.current() else {
            return;
        };
        // SAFETY: the chunk is alive as long as the arena is borrowed; `access` is true.
        let region = unsafe {
            match self.access {
                // Not taken, and nobody else's all the same (invariant 2).
                Access::Alone => Some(Chunk::free_rest(chunk)).filter(|rest| rest.size >= ALIGN),
                Access::Shared => Chunk::claim(chunk, ALIGN, self.step, Access::Shared),
            }
        };
        if let Some(region) = region {
            self.own(&region);
        }
    }

    /// Takes over a region of at least `ALIGN - 1` bytes.
    #[inline]
    fn own(&mut self, region: &Region) {
        self.ptr = region.ptr;
        self.base = region.ptr;
        self.chunk = region.chunk;
        // SAFETY: the region's end, and an address before it.
        unsafe {
            self.end = region.ptr.add(region.size);
            self.ptr = region.ptr.add(self.pad(ALIGN));
        }
    }

    #[inline]
    pub(in crate::arena) fn room(&self) -> usize {
        self.end.addr().get() - self.ptr.addr().get()
    }

    /// A place for one `T`, with the arena's lifetime.
    #[inline(always)]
    pub(in crate::arena) fn slot<T>(&mut self) -> Result<&'a mut MaybeUninit<T>, ArenaError> {
        let ptr = self.take(Layout::new::<T>())?.cast::<MaybeUninit<T>>();
        // SAFETY: aligned memory for one `T` that nobody else owns, and that lives as long as the
        // arena is borrowed; `MaybeUninit` needs no value.
        Ok(unsafe { &mut *ptr.as_ptr() })
    }

    /// A copy of `values`, with the arena's lifetime.
    #[inline]
    pub(in crate::arena) fn copy_slice<T: Copy>(
        &mut self,
        values: &[T],
    ) -> Result<&'a mut [T], ArenaError> {
        let layout = Layout::for_value(values);
        let ptr = self.take(layout)?;
        // SAFETY: new memory of the layout of `values`, so the two do not overlap; all of it is
        // written before it is handed out.
        unsafe {
            copy(NonNull::from(values).cast(), ptr, layout.size());
            Ok(slice::from_raw_parts_mut(ptr.cast().as_ptr(), values.len()))
        }
    }

    /// A copy of `text`, with the arena's lifetime.
    #[inline]
    pub(in crate::arena) fn copy_str(&mut self, text: &str) -> Result<&'a mut str, ArenaError> {
        let bytes = self.copy_slice(text.as_bytes())?;
        // SAFETY: a copy of valid UTF-8.
        Ok(unsafe { std::str::from_utf8_unchecked_mut(bytes) })
    }

    /// Takes `layout` from the segment.
    #[inline(always)]
    fn take(&mut self, layout: Layout) -> Result<NonNull<u8>, ArenaError> {
        if layout.size() == 0 {
            return Ok(dangling(layout));
        }
        // A size is at most isize::MAX, so neither sum wraps.
        let rounded = (layout.size() + (ALIGN - 1)) & !(ALIGN - 1);
        let slack = layout.align().saturating_sub(ALIGN);
        if self.room() < rounded + slack {
            self.refill(rounded + slack, 0, None)
                .map_err(|error| error.of_cursor(layout.size(), self.rest().size))?;
        }
        let pad = if slack == 0 {
            0
        } else {
            self.pad(layout.align())
        };
        // SAFETY: there are `rounded + slack` bytes (invariant 1), so at least `ALIGN`, and `ptr` is
        // aligned to that (invariant 3): `pad <= slack`.
        unsafe {
            let start = self.ptr.add(pad);
            self.ptr = start.add(rounded);
            Ok(start)
        }
    }

    /// Bytes from `ptr` to the next address of this alignment.
    #[inline(always)]
    fn pad(&self, align: usize) -> usize {
        self.ptr.addr().get().wrapping_neg() & (align - 1)
    }

    /// Makes the segment hold at least `at_least` bytes from `ptr` on, and `wanted` if that is
    /// possible; `ptr` is aligned then. `held`, if it had to be moved, lies at the new `ptr`, aligned
    /// as it says.
    #[cold]
    #[inline(never)]
    fn refill(
        &mut self,
        at_least: usize,
        wanted: usize,
        held: Option<Layout>,
    ) -> Result<(), ArenaError> {
        // `ALIGN` at least, so that a list finds room (`RawCursorVec::measure`), and what it takes to
        // align `ptr`. Not more than the address space: `claim` checks.
        let at_least = at_least.max(ALIGN).saturating_add(ALIGN - 1);
        let wanted = wanted
            .saturating_add(ALIGN - 1)
            .max(self.step)
            .max(at_least);
        match (self.access, self.chunk) {
            (Access::Shared, _) => self.step = self.step.saturating_mul(4).min(MAX_STEP),
            // From here on the position has to say what is taken.
            // SAFETY: the chunk is alive as long as the arena is borrowed, the cursor is alone, and
            // nothing lies behind its segment (invariants 1 and 2).
            (Access::Alone, Some(chunk)) => unsafe { Chunk::set_end(chunk, self.end) },
            (Access::Alone, None) => {}
        }
        let mut region = Region {
            ptr: self.ptr,
            size: self.room(),
            chunk: self.chunk,
        };
        // SAFETY: the region's chunk is alive as long as the arena is borrowed; `access` is true
        // (invariant 2).
        if unsafe { Chunk::extend(&mut region, at_least, wanted, self.access) } {
            // If it holds something it was aligned before (`RawCursorVec`, invariant 1).
            self.own(&region);
            return Ok(());
        }
        // SAFETY: `access` is true (invariant 2).
        let new = unsafe { self.arena.claim(at_least, wanted, self.access)? };
        let old_pad = held.map_or(0, |held| self.pad(held.align()));
        self.own(&new);
        if let Some(held) = held.filter(|held| held.size() > 0) {
            // SAFETY: `held` bytes lie in the old region behind its padding; the new one has room
            // for them, since `at_least` is more; the two do not overlap.
            unsafe {
                let to = self.ptr.add(self.pad(held.align()));
                region
                    .ptr
                    .add(old_pad)
                    .copy_to_nonoverlapping(to, held.size());
            }
        }
        // SAFETY: as above, and what was held has moved.
        unsafe { Chunk::shrink(&mut region, 0, Use::Advance, self.access) };
        Ok(())
    }

    /// What is left of the segment.
    #[inline]
    fn rest(&self) -> Region {
        let padding = self.ptr.addr().get() - self.base.addr().get();
        let ptr = if padding < ALIGN { self.base } else { self.ptr };
        Region {
            ptr,
            size: self.end.addr().get() - ptr.addr().get(),
            chunk: self.chunk,
        }
    }

    /// Notes that everything before `end`, which lies in the segment, is taken.
    #[inline]
    fn advance_to(&mut self, end: NonNull<u8>) {
        self.ptr = end;
        // Rounded up, but for the last bytes of a segment (invariant 3).
        let pad = self.pad(ALIGN).min(self.room());
        // SAFETY: at most what is left.
        self.ptr = unsafe { end.add(pad) };
    }
}

impl Drop for RawCursor<'_> {
    #[inline]
    fn drop(&mut self) {
        let mut region = self.rest();
        // SAFETY: the tail is this cursor's alone and nothing points into it (invariant 1); alone, nothing
        // lies behind it either (invariant 2).
        unsafe {
            match (self.access, self.chunk) {
                (Access::Alone, Some(chunk)) => Chunk::set_end(chunk, region.ptr),
                (Access::Alone, None) => {}
                (Access::Shared, _) => {
                    Chunk::shrink(&mut region, 0, Use::Advance, Access::Shared);
                }
            }
        }
    }
}

impl fmt::Debug for RawCursor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cursor")
            .field("remaining", &self.room())
            .finish_non_exhaustive()
    }
}

/// A list that grows in a cursor's segment.
///
/// # Invariants
///
/// 1. Its values begin at the first aligned address from the cursor's `ptr` on, and `capacity` of
///    them fit the segment. There are none while `ptr` is not aligned to [`ALIGN`].
/// 2. The first `len` values are initialised and owned by this list; `len <= capacity`.
pub(in crate::arena) struct RawCursorVec<'c, 'a, T> {
    cursor: &'c mut RawCursor<'a>,
    start: NonNull<T>,
    capacity: usize,
    len: usize,
    values: PhantomData<T>,
}

// SAFETY: the list owns its values alone, and a `RawCursor` may go to other threads.
unsafe impl<T: Send> Send for RawCursorVec<'_, '_, T> {}
// SAFETY: `&RawCursorVec` gives access to `&T` only.
unsafe impl<T: Sync> Sync for RawCursorVec<'_, '_, T> {}

impl<'c, 'a, T> RawCursorVec<'c, 'a, T> {
    const MIN_CAPACITY: usize = if size_of::<T>() == 1 { 16 } else { 4 };

    #[inline]
    pub(in crate::arena) fn new(cursor: &'c mut RawCursor<'a>) -> Self {
        let mut this = Self {
            cursor,
            start: NonNull::dangling(),
            capacity: 0,
            len: 0,
            values: PhantomData,
        };
        this.measure();
        this
    }

    /// Finds where the values begin and how many fit.
    #[inline]
    fn measure(&mut self) {
        if size_of::<T>() == 0 {
            self.capacity = usize::MAX;
            return;
        }
        let room = self.cursor.room();
        // Only before the first `refill`, which makes room for as much.
        if room < ALIGN {
            self.capacity = 0;
            return;
        }
        let pad = self.cursor.pad(align_of::<T>());
        let room = room.saturating_sub(pad);
        self.capacity = room.checked_div(size_of::<T>()).unwrap_or(usize::MAX);
        if self.capacity > 0 {
            // SAFETY: `pad` bytes and at least one value fit the segment.
            self.start = unsafe { self.cursor.ptr.add(pad) }.cast();
        }
    }

    pub(in crate::arena) const fn len(&self) -> usize {
        self.len
    }

    pub(in crate::arena) const fn capacity(&self) -> usize {
        self.capacity
    }

    #[inline]
    pub(in crate::arena) fn reserve(&mut self, additional: usize) -> Result<(), ArenaError> {
        if additional <= self.capacity - self.len {
            return Ok(());
        }
        self.grow(additional)
    }

    #[cold]
    #[inline(never)]
    fn grow(&mut self, additional: usize) -> Result<(), ArenaError> {
        let arena = self.cursor.arena;
        let overflow = |bytes| ArenaError::capacity_overflow(bytes, arena.used());
        let needed = self
            .len
            .checked_add(additional)
            // Not a number of bytes that could be named, not even for values of size zero.
            .ok_or_else(|| overflow(usize::MAX))?;
        let slack = align_of::<T>() - 1;
        let bytes = |count: usize| Some(Layout::array::<T>(count).ok()?.size() + slack);
        let at_least =
            bytes(needed).ok_or_else(|| overflow(needed.saturating_mul(size_of::<T>())))?;
        let doubled = needed
            .max(self.len.saturating_mul(2))
            .max(Self::MIN_CAPACITY);
        let wanted = bytes(doubled).unwrap_or(at_least);
        // Cannot fail: the values are there already.
        let held = Layout::array::<T>(self.len).map_err(|_| overflow(usize::MAX))?;
        self.cursor
            .refill(at_least, wanted, Some(held))
            .map_err(|error| error.of_cursor(at_least - slack, self.cursor.rest().size))?;
        self.measure();
        Ok(())
    }

    #[inline]
    pub(in crate::arena) fn push(&mut self, value: T) -> Result<(), ArenaError> {
        self.reserve(1)?;
        // SAFETY: `len < capacity` after `reserve` (invariant 1), and no value is there yet
        // (invariant 2).
        unsafe { self.start.add(self.len).write(value) };
        self.len += 1;
        Ok(())
    }

    #[inline]
    pub(in crate::arena) fn pop(&mut self) -> Option<T> {
        self.len = self.len.checked_sub(1)?;
        // SAFETY: the value was initialised (invariant 2), and `len` no longer counts it.
        Some(unsafe { self.start.add(self.len).read() })
    }

    pub(in crate::arena) fn truncate(&mut self, len: usize) {
        if len >= self.len {
            return;
        }
        let tail = self.len - len;
        // Before the drops: a panic in one of them must not drop anything twice.
        self.len = len;
        // SAFETY: these values were initialised (invariant 2), and `len` no longer counts them.
        unsafe {
            std::ptr::slice_from_raw_parts_mut(self.start.add(len).as_ptr(), tail).drop_in_place();
        }
    }

    #[inline]
    pub(in crate::arena) fn as_slice(&self) -> &[T] {
        // SAFETY: the first `len` values are initialised (invariant 2) and aligned (invariant 1).
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    #[inline]
    pub(in crate::arena) fn as_mut_slice(&mut self) -> &mut [T] {
        // SAFETY: as in `as_slice`, and `&mut self` is the only way to the values.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }

    /// Ends the list; its values stay where they are for as long as the arena is borrowed.
    ///
    /// Their drop glue, if any, never runs.
    #[inline]
    pub(in crate::arena) fn into_slice(self) -> &'a mut [T] {
        // Not dropped: that would drop the values.
        let mut this = ManuallyDrop::new(self);
        let (start, len) = (this.start, this.len);
        if size_of::<T>() > 0 && len > 0 {
            // SAFETY: the values lie in the segment, so their end does, too. From here on the cursor
            // does not count their place as free.
            this.cursor.advance_to(unsafe { start.add(len) }.cast());
        }
        // SAFETY: `len` initialised values that nobody else owns from here on, in memory that lives
        // as long as the arena is borrowed.
        unsafe { slice::from_raw_parts_mut(start.as_ptr(), len) }
    }
}

impl<T: Copy> RawCursorVec<'_, '_, T> {
    #[inline]
    pub(in crate::arena) fn extend_from_slice(&mut self, values: &[T]) -> Result<(), ArenaError> {
        self.reserve(values.len())?;
        // SAFETY: `reserve` made room for them behind the first `len`, and a shared slice cannot
        // lie in this list's own place.
        unsafe {
            copy(
                NonNull::from(values).cast(),
                self.start.add(self.len).cast(),
                size_of_val(values),
            );
        }
        self.len += values.len();
        Ok(())
    }
}

impl<T> Drop for RawCursorVec<'_, '_, T> {
    fn drop(&mut self) {
        self.truncate(0);
    }
}

/// A text that grows in a cursor's segment.
///
/// # Invariant
///
/// 1. The bytes are valid UTF-8: only whole `str`s are appended, and cut only at their boundaries.
pub(in crate::arena) struct RawCursorString<'c, 'a> {
    bytes: RawCursorVec<'c, 'a, u8>,
}

impl<'c, 'a> RawCursorString<'c, 'a> {
    #[inline]
    pub(in crate::arena) fn new(cursor: &'c mut RawCursor<'a>) -> Self {
        Self {
            bytes: RawCursorVec::new(cursor),
        }
    }

    pub(in crate::arena) const fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    #[inline]
    pub(in crate::arena) fn reserve(&mut self, additional: usize) -> Result<(), ArenaError> {
        self.bytes.reserve(additional)
    }

    #[inline]
    pub(in crate::arena) fn push_str(&mut self, text: &str) -> Result<(), ArenaError> {
        self.bytes.extend_from_slice(text.as_bytes())
    }

    /// Shortens the text to `len` bytes; `false`, and nothing done, within a character.
    pub(in crate::arena) fn truncate(&mut self, len: usize) -> bool {
        let cut = len >= self.bytes.len() || self.as_str().is_char_boundary(len);
        if cut {
            self.bytes.truncate(len);
        }
        cut
    }

    #[inline]
    pub(in crate::arena) fn as_str(&self) -> &str {
        // SAFETY: valid UTF-8 (invariant 1).
        unsafe { std::str::from_utf8_unchecked(self.bytes.as_slice()) }
    }

    #[inline]
    pub(in crate::arena) fn as_mut_str(&mut self) -> &mut str {
        // SAFETY: valid UTF-8 (invariant 1), and `&mut str` keeps it so.
        unsafe { std::str::from_utf8_unchecked_mut(self.bytes.as_mut_slice()) }
    }

    #[inline]
    pub(in crate::arena) fn into_str(self) -> &'a mut str {
        // SAFETY: as above.
        unsafe { std::str::from_utf8_unchecked_mut(self.bytes.into_slice()) }
    }

    /// As [`into_str`](Self::into_str), and gives all that lies behind the text back.
    pub(in crate::arena) fn into_last_str(self) -> &'a mut str {
        let mut this = ManuallyDrop::new(self);
        let (start, len) = (this.bytes.start, this.bytes.len);
        let cursor = &mut *this.bytes.cursor;
        if len > 0 {
            // SAFETY: the text lies in the segment, so its end does, too.
            cursor.ptr = unsafe { start.add(len) };
        }
        cursor.base = cursor.ptr;
        let mut rest = cursor.rest();
        cursor.end = cursor.ptr;
        // SAFETY: nothing points behind the text; `access` is true.
        unsafe { Chunk::shrink(&mut rest, 0, Use::Advance, cursor.access) };
        // SAFETY: as in `RawCursorVec::into_slice`, and valid UTF-8 (invariant 1).
        unsafe { std::str::from_utf8_unchecked_mut(slice::from_raw_parts_mut(start.as_ptr(), len)) }
    }
}
