//! A growing byte buffer in a block of its own.
//!
//! # Invariants
//!
//! 1. With a block, `ptr` and `capacity` are those of its data, of which the first `len` bytes are
//!    initialised. Without one, `capacity` and `len` are zero, and the address of `ptr` is the size of
//!    the block to take next, if that is known.
//! 2. Frozen, the block belongs to a [`Frozen`](super::block::Frozen) owner, which returns shared
//!    slices only.

use std::{
    mem::{self, ManuallyDrop},
    ops::{Deref, DerefMut},
    ptr::{self, NonNull},
    slice,
};

use bytes::Bytes;

use super::{
    block::{Block, IdleBlock},
    copy::copy,
    reference::Arena,
};
use crate::arena::{
    error::{ArenaError, or_panic},
    limit, steps,
};
use crate::sync::Ordering;

/// Up to this many bytes are copied when a buffer is frozen. [`Bytes`] allocate anyway, and a long-lived
/// short message does not keep a block.
const COPIED: usize = 256;

// `ArenaBuf::freeze` says so.
const _: () = assert!(COPIED == 256);

/// A part of at most this many bytes moves to a block of its own when it is split off, if that is a
/// quarter of the block or less.
const MOVED_PART: usize = 4 * 1024;

/// Bytes that freezing must make available to move what was written to a smaller block.
const WORTH_MOVING: usize = 16 * 1024;

/// Blocks that grow become four times as large up to this size, then twice as large.
const GROWS_BY_FOUR: usize = 64 * 1024;

/// A growing byte buffer, for bodies.
///
/// Its memory is a block of its own, from the pool of the [`Arena`] it was made with. So it is `'static`
/// and may leave the handler, and [`freeze`](Self::freeze) turns it into [`Bytes`] that keep nothing
/// else alive. With the `axum` feature it is a response.
///
/// Write to it with `write!`, or through [`bytes::BufMut`], [`io::Write`](std::io::Write) or
/// [`fmt::Write`](std::fmt::Write).
///
/// # Panics
///
/// Methods that need memory, those of `BufMut` included, panic if there is none. `write!`, `io::Write`
/// and `fmt::Write` return an error, and [`try_reserve`](Self::try_reserve) returns it in advance.
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
#[repr(C)]
pub struct ArenaBuf {
    pub(super) ptr: NonNull<u8>,
    pub(super) capacity: usize,
    block: Option<Block>,
    /// Whose figures count the buffer, and whose pool its blocks come from. `None` for a buffer that
    /// was taken from a pool, which always has a block.
    arena: Option<Arena>,
    /// Last of an odd number of words: a move of the buffer loads it alone. Loaded together with
    /// another word right after it was stored, it would have to wait for the store.
    pub(super) len: usize,
}

// SAFETY: the block has one owner (invariant 1), and an `Arena` is `Send`.
unsafe impl Send for ArenaBuf {}
// SAFETY: `&ArenaBuf` exposes `&[u8]` only (invariant 1).
unsafe impl Sync for ArenaBuf {}

impl ArenaBuf {
    pub(super) const MIN_CAPACITY: usize = 64;

    /// A buffer with room for `capacity` bytes; it takes no memory for zero.
    #[inline]
    pub(in crate::arena) fn with_capacity(
        arena: Arena,
        capacity: usize,
    ) -> Result<Self, ArenaError> {
        if capacity == 0 {
            return Ok(Self {
                ptr: NonNull::dangling(),
                capacity: 0,
                block: None,
                arena: Some(arena),
                len: 0,
            });
        }
        match arena.header().take_block(capacity) {
            Some(block) => {
                let mut buf = Self::in_block(block);
                buf.arena = Some(arena);
                buf.count_taken(0);
                Ok(buf)
            }
            None => Err(no_memory(capacity, arena.allocated_bytes())),
        }
    }

    /// A buffer in a block that belongs to no arena's figures.
    #[inline]
    pub(crate) fn in_block(block: IdleBlock) -> Self {
        let block = Block::new(block);
        Self {
            ptr: block.data(),
            capacity: block.capacity(),
            block: Some(block),
            arena: None,
            len: 0,
        }
    }

    pub(in crate::arena) fn arena(&self) -> Option<&Arena> {
        self.arena.as_ref()
    }

    /// Appends `bytes`.
    #[inline]
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        or_panic!(self.try_extend_from_slice(bytes));
    }

    /// On an error the buffer is unchanged.
    #[inline(always)]
    pub(crate) fn try_extend_from_slice(&mut self, bytes: &[u8]) -> Result<(), ArenaError> {
        self.make_room(bytes.len())?;
        // SAFETY: `make_room` made room for them behind the first `len` bytes (invariant 1), and a shared
        // slice cannot lie in this buffer's own block.
        unsafe {
            let end = self.ptr.add(self.len);
            copy(NonNull::from(bytes).cast(), end, bytes.len());
        }
        self.len += bytes.len();
        Ok(())
    }

    /// Splits off the written bytes, for bodies that are sent in parts: write, [`split`](Self::split),
    /// [`freeze`](Self::freeze) the part, and continue to write.
    ///
    /// The part takes the block with it, without a copy, and this buffer takes another one with its
    /// next byte. Only a part of up to 4 KiB in a block at least four times as large is moved to a
    /// smaller one, and this buffer keeps its block. So a stream holds at most the parts that are not
    /// sent yet, and one more block.
    ///
    /// # Examples
    ///
    /// ```
    /// let arena = tower_memory::Arena::new();
    /// let mut body = arena.buf_with_capacity(1024);
    /// body.extend_from_slice(&[1; 1000]);
    /// let first = body.split().freeze();
    /// body.extend_from_slice(&[2; 1000]);
    /// assert_eq!((&first[..], &body[..]), (&[1; 1000][..], &[2; 1000][..]));
    /// drop((first, body.split().freeze()));
    /// assert_eq!(arena.allocated_bytes(), 0);
    /// ```
    #[must_use = "the written bytes are in the returned buffer"]
    pub fn split(&mut self) -> Self {
        if COPIED < self.len && self.len <= MOVED_PART && self.len <= self.capacity / 4 {
            if let Some(block) = self.another(self.len) {
                let mut part = Self::in_block(block);
                part.arena.clone_from(&self.arena);
                part.count_taken(0);
                // SAFETY: the block has room for `len` bytes, which are initialised here (invariant 1).
                unsafe { self.ptr.copy_to_nonoverlapping(part.ptr, self.len) };
                part.len = mem::take(&mut self.len);
                return part;
            }
        }
        let next = match self.arena {
            Some(_) => Self {
                // As large as what was written this time (invariant 1).
                ptr: NonNull::new(ptr::without_provenance_mut(self.len))
                    .unwrap_or(NonNull::dangling()),
                capacity: 0,
                block: None,
                arena: self.arena.clone(),
                len: 0,
            },
            // Without an arena there is always a block.
            None => match self.another(self.capacity) {
                Some(block) => Self::in_block(block),
                None => self.no_memory(self.capacity).panic(),
            },
        };
        mem::replace(self, next)
    }

    /// Turns the buffer into [`Bytes`].
    ///
    /// Makes one small heap allocation (none if the buffer is empty). Up to 256 bytes are copied into
    /// it, unless the pool [wipes](crate::pool::PoolBuilder::zero_on_recycle) what it gets back. More bytes
    /// stay in their block, which the last clone or slice of them gives back. They are copied only if
    /// they fill less than a quarter of a block, and a smaller one saves 16 KiB or more.
    #[must_use]
    #[inline]
    pub fn freeze(mut self) -> Bytes {
        let len = self.len;
        if len <= COPIED && !self.block.as_ref().is_some_and(Block::is_wiped) {
            return Bytes::copy_from_slice(&self);
        }
        if len <= self.capacity / 4 && self.capacity - len >= WORTH_MOVING {
            // Without memory for a smaller block, it stays where it is.
            let _ = self.replace_block(len, len);
        }
        self.count_ended();
        // What is left has nothing to drop.
        let mut empty = ManuallyDrop::new(self);
        let (block, arena) = (empty.block.take(), empty.arena.take());
        let Some(mut block) = block else {
            return Bytes::new();
        };
        if let Some(origin) = arena.as_ref().map(|arena| arena.rented_for().origin()) {
            if origin != 0 {
                block.hand_out(origin);
            }
        }
        // SAFETY: the first `len` bytes are initialised, and nothing else points to them (invariant 1).
        Bytes::from_owner(unsafe { block.freeze(len) })
    }

    /// Shortens the buffer to `len` bytes; does nothing if it is not longer.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// How many bytes fit without growing.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// How many bytes can be written without growing.
    #[must_use]
    pub fn spare_capacity(&self) -> usize {
        self.capacity - self.len
    }

    /// Makes room for at least `additional` more bytes.
    #[inline]
    pub fn reserve(&mut self, additional: usize) {
        or_panic!(self.make_room(additional));
    }

    /// As [`reserve`](Self::reserve), but returns an error instead of panicking.
    ///
    /// # Errors
    ///
    /// If the bytes do not fit the address space, the request would hold more than its limit, or the allocator
    /// has no memory. The buffer is unchanged.
    #[inline]
    pub fn try_reserve(&mut self, additional: usize) -> Result<(), ArenaError> {
        if additional <= self.spare_capacity() {
            return Ok(());
        }
        limit::within_limit(|| self.grow(additional))
    }

    /// As [`try_reserve`](Self::try_reserve), beyond the request's limit if need be.
    #[inline]
    pub(in crate::arena) fn make_room(&mut self, additional: usize) -> Result<(), ArenaError> {
        if additional <= self.spare_capacity() {
            return Ok(());
        }
        self.grow(additional)
    }

    #[cold]
    #[inline(never)]
    fn grow(&mut self, additional: usize) -> Result<(), ArenaError> {
        let needed = self.len.checked_add(additional);
        let needed = needed
            .filter(|&needed| needed <= IdleBlock::MAX_CAPACITY)
            .ok_or_else(|| self.no_memory(self.len.saturating_add(additional)))?;
        let preferred = match (self.capacity, &self.arena) {
            // What was written before it was split, or what the largest buffers of such requests need.
            (0, Some(arena)) => {
                let step = arena.rented_for().buffer_step();
                let learned = if step == 0 { 0 } else { steps::size(step) };
                self.ptr.addr().get().max(learned)
            }
            (capacity, _) if capacity <= GROWS_BY_FOUR / 4 => capacity * 4,
            (capacity, _) => capacity.saturating_mul(2),
        };
        self.replace_block(needed, needed.max(preferred).max(Self::MIN_CAPACITY))
    }

    /// Moves what is written to another block, of `preferred` bytes if there is memory for that, and
    /// of `needed` bytes otherwise. On an error the buffer is unchanged.
    fn replace_block(&mut self, needed: usize, mut preferred: usize) -> Result<(), ArenaError> {
        // Blocks are rounded up. The present one is held until its bytes are copied.
        let size = |bytes| steps::size(steps::holding(bytes));
        if limit::exceeds(|| size(preferred)) {
            preferred = needed;
            limit::check(size(needed), needed)?;
        }
        let block = self.another(preferred).or_else(|| {
            // Short of memory: exactly what is needed.
            (needed < preferred).then(|| self.another(needed))?
        });
        let block = Block::new(block.ok_or_else(|| self.no_memory(needed))?);
        debug_assert!(self.len <= block.capacity());
        // SAFETY: the block has room for `len` bytes, and the first `len` bytes here are initialised
        // (invariant 1).
        unsafe { self.ptr.copy_to_nonoverlapping(block.data(), self.len) };
        let before = self.capacity;
        (self.ptr, self.capacity) = (block.data(), block.capacity());
        let former = self.block.replace(block);
        self.count_taken(before);
        drop(former);
        Ok(())
    }

    /// A block from where this buffer has its blocks.
    #[inline]
    fn another(&self, bytes: usize) -> Option<IdleBlock> {
        match (&self.arena, &self.block) {
            (Some(arena), _) => arena.header().take_block(bytes),
            (None, Some(block)) => block.another(bytes),
            (None, None) => IdleBlock::new(bytes),
        }
    }

    /// Tells the arena that a new block has replaced `before` bytes.
    #[inline]
    fn count_taken(&mut self, before: usize) {
        let reused = self.block.as_ref().is_some_and(Block::is_reused);
        let Some(arena) = &mut self.arena else {
            return;
        };
        let access = arena.access();
        let header = arena.header();
        // Relaxed: statistics.
        header.has_buffers.store(true, Ordering::Relaxed);
        if reused {
            header.buffers_reused.store(true, Ordering::Relaxed);
        }
        header
            .buffers
            .took(self.capacity.wrapping_sub(before), access);
    }

    /// Tells the arena that the buffer ends.
    #[inline]
    fn count_ended(&mut self) {
        if self.capacity == 0 {
            return;
        }
        if let Some(arena) = &mut self.arena {
            let access = arena.access();
            arena
                .header()
                .buffers
                .ended(self.len, self.capacity, access);
        }
    }

    /// Bytes in use by the arena, or by the buffer alone.
    fn in_use(&self) -> usize {
        let arena = self.arena.as_ref();
        arena.map_or(self.capacity, Arena::allocated_bytes)
    }

    #[cold]
    fn no_memory(&self, asked: usize) -> ArenaError {
        no_memory(asked, self.in_use())
    }
}

#[cold]
fn no_memory(asked: usize, in_use: usize) -> ArenaError {
    if asked > IdleBlock::MAX_CAPACITY {
        return ArenaError::capacity_overflow(asked, in_use);
    }
    ArenaError::out_of_memory(asked, in_use)
}

impl Deref for ArenaBuf {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: the first `len` bytes are initialised (invariant 1).
        unsafe { slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }
}

impl DerefMut for ArenaBuf {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: the first `len` bytes are initialised (invariant 1), and `&mut self` is the only way
        // to them.
        unsafe { slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len) }
    }
}

impl Drop for ArenaBuf {
    #[inline]
    fn drop(&mut self) {
        self.count_ended();
    }
}
