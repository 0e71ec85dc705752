//! Blocks: the memory of buffers, each with its head apart from its data.
//!
//! The data has exactly the size that was asked for, aligned to 16: with a head in front of it, a
//! block of 16 KiB would take 20 KiB from allocators that round up.
//!
//! # Invariants
//!
//! 1. A head and its data have one owner: an [`IdleBlock`], a [`Block`] or a slot. The owner frees
//!    them, or passes them on.
//! 2. `data` has `capacity` bytes, neither of which ever changes. The bytes count as uninitialised
//!    until the owner has written them.

use std::{
    alloc::{self, Layout},
    fmt,
    mem::ManuallyDrop,
    ptr::NonNull,
    slice,
};

use super::slot::{ALIGN, PoolHint, Pooled};
use crate::{account, sync::Arc};

/// Enough for what moves 16 bytes at once.
const DATA_ALIGN: usize = 16;

/// Byte that debug builds fill recycled memory with.
pub(super) const POISON: u8 = 0xDD;

/// Provides blocks, and takes them back.
pub(crate) trait BlockPool: Send + Sync {
    /// Provides a block of at least `bytes` bytes, if the calling thread has a part of the pool that
    /// lies at `address`. The caller holds an arena of it.
    fn take_block(bytes: usize, address: usize) -> Option<IdleBlock>
    where
        Self: Sized;

    /// As [`take_block`](Self::take_block), on any thread. `None` if there is no memory.
    fn take_block_owned(self: Arc<Self>, bytes: usize) -> Option<IdleBlock>;

    /// Takes back a block that is attached to this pool. Runs in `Drop`: must not panic.
    ///
    /// An implementation finds itself by its `address`, or calls [`IdleBlock::recycle_owned`].
    fn recycle_block(block: IdleBlock, address: usize)
    where
        Self: Sized;

    /// Takes back a block through a counted reference. See [`IdleBlock::recycle_owned`].
    fn recycle_block_owned(self: Arc<Self>, block: IdleBlock);

    /// Called when a block of `bytes` bytes was handed out on behalf of `origin`. It comes back with
    /// that [origin](IdleBlock::take_origin).
    fn handed_out(&self, origin: u32, bytes: usize);
}

/// The pool that a block belongs to. The block keeps it while it waits there, too.
struct Attached {
    /// [`BlockPool::recycle_block`] of the pool.
    recycle: fn(IdleBlock, usize),
    /// Where the pool lies.
    address: usize,
    pool: Arc<dyn BlockPool>,
}

/// The order of the fields matters: all that a trip through the pool touches is in the first line.
#[repr(C, align(128))]
struct Head {
    data: NonNull<u8>,
    hint: PoolHint,
    /// On whose behalf the block was handed out, see [`Block::hand_out`]; zero if it is not counted.
    origin: u32,
    /// Whether the block waited in its pool before.
    reused: bool,
    /// Whether the pool wipes what comes back.
    wiped: bool,
    /// Whether the owner shows some of the bytes, and writes none any more.
    frozen: bool,
    attached: Option<Attached>,
    /// Bytes that the owner has written and shows as a frozen block.
    shown: usize,
}

const _: () = assert!(align_of::<Head>() == ALIGN);

/// A block that is not in use.
pub(crate) struct IdleBlock {
    head: NonNull<Head>,
}

// SAFETY: the only pointer to the head and its data (invariant 1).
unsafe impl Send for IdleBlock {}
// SAFETY: `&IdleBlock` only reads plain numbers (invariant 1).
unsafe impl Sync for IdleBlock {}

// SAFETY: a head is aligned to `ALIGN`.
unsafe impl Pooled for IdleBlock {
    #[inline]
    fn into_word(self) -> NonNull<()> {
        ManuallyDrop::new(self).head.cast()
    }

    #[inline]
    unsafe fn from_word(word: NonNull<()>) -> Self {
        Self { head: word.cast() }
    }
}

impl IdleBlock {
    /// The largest capacity a block can have.
    pub(super) const MAX_CAPACITY: usize = isize::MAX as usize - (DATA_ALIGN - 1);

    fn layout(capacity: usize) -> Option<Layout> {
        Layout::from_size_align(capacity, DATA_ALIGN).ok()
    }

    /// A block of `capacity` bytes; `None` if the allocator has no memory, or `capacity` is zero or
    /// above what can be asked for.
    pub(crate) fn new(capacity: usize) -> Option<Self> {
        let layout = Self::layout(capacity).filter(|layout| layout.size() > 0)?;
        #[expect(clippy::disallowed_methods, reason = "blocks are allocated here only")]
        // SAFETY: neither layout is zero-sized.
        let (data, head) = unsafe {
            let data = NonNull::new(alloc::alloc(layout))?;
            (data, alloc::alloc(Layout::new::<Head>()))
        };
        let Some(head) = NonNull::new(head.cast::<Head>()) else {
            #[expect(clippy::disallowed_methods, reason = "as above")]
            // SAFETY: allocated above with this layout, and nothing else knows it.
            unsafe {
                alloc::dealloc(data.as_ptr(), layout);
            }
            return None;
        };
        let filled = Head {
            data,
            hint: PoolHint {
                capacity,
                class: 0,
                hot: false,
            },
            origin: 0,
            reused: false,
            wiped: false,
            frozen: false,
            attached: None,
            shown: 0,
        };
        // SAFETY: allocated above for a `Head`, and nothing else knows it.
        unsafe {
            head.write(filled);
        }
        Some(Self { head })
    }

    fn head(&self) -> &Head {
        // SAFETY: alive and ours alone (invariant 1).
        unsafe { self.head.as_ref() }
    }

    fn head_mut(&mut self) -> &mut Head {
        // SAFETY: alive and ours alone (invariant 1).
        unsafe { self.head.as_mut() }
    }

    /// Bytes of data.
    #[inline]
    pub(crate) fn capacity(&self) -> usize {
        self.head().hint.capacity
    }

    #[inline]
    pub(crate) fn hint(&self) -> PoolHint {
        self.head().hint
    }

    pub(crate) fn set_hint(&mut self, hint: PoolHint) {
        self.head_mut().hint = PoolHint {
            capacity: self.capacity(),
            ..hint
        };
    }

    /// Attaches the block: `pool` takes it back whenever it is dropped.
    pub(crate) fn attach<P: BlockPool + 'static>(&mut self, pool: Arc<P>) {
        self.head_mut().attached = Some(Attached {
            recycle: P::recycle_block,
            address: Arc::as_ptr(&pool).addr(),
            pool,
        });
    }

    /// Says that the pool wipes what comes back, so its content must not be copied elsewhere.
    pub(crate) fn set_wiped(&mut self, wiped: bool) {
        self.head_mut().wiped = wiped;
    }

    /// Passes the block to its pool, which is kept alive meanwhile by a counted reference.
    pub(crate) fn recycle_owned(self) {
        if let Some(attached) = &self.head().attached {
            Arc::clone(&attached.pool).recycle_block_owned(self);
        }
    }

    /// Marks the block as used again.
    #[inline]
    pub(crate) fn mark_reused(&mut self) {
        if !self.head().reused {
            self.head_mut().reused = true;
        }
    }

    /// On whose behalf the block was handed out, which is over now; zero if it is not counted.
    #[inline]
    pub(crate) fn take_origin(&mut self) -> u32 {
        let origin = self.head().origin;
        if origin != 0 {
            self.head_mut().origin = 0;
        }
        origin
    }

    /// Says that the block is in use from now on. To accounts that is an allocation, as the first one was.
    #[inline]
    fn begin(&mut self) {
        let head = self.head_mut();
        head.frozen = false;
        if head.reused && !bug!("pool-blocks-held-by-nobody") {
            account::taken(head.data.addr().get(), head.hint.capacity);
        } else if head.attached.is_some() {
            // The head is the pool's.
            account::returned(0, size_of::<Head>());
        }
    }

    /// Overwrites all of the data: with zeros if `wipe` is set, else in debug builds only.
    #[inline]
    pub(crate) fn cover(&mut self, wipe: bool) {
        if wipe || cfg!(debug_assertions) {
            let byte = if wipe { 0 } else { POISON };
            // SAFETY: the data has `capacity` bytes, and nothing else points into it (invariants 1
            // and 2).
            unsafe { self.head().data.write_bytes(byte, self.capacity()) };
            // The block may be freed next, and the compiler could omit writes before that.
            std::hint::black_box(self.head);
        }
    }
}

impl Drop for IdleBlock {
    fn drop(&mut self) {
        if let Some(_pooled) = &self.head().attached {
            // It belonged to no account, and is freed now.
            account::taken(0, small(self.capacity()));
            account::taken(0, size_of::<Head>());
        }
        // SAFETY: made in `new` as a box is, alive, and this is the only pointer to it (invariant 1).
        let head = unsafe { Box::from_raw(self.head.as_ptr()) };
        if let Some(layout) = Self::layout(head.hint.capacity) {
            #[expect(clippy::disallowed_methods, reason = "blocks are freed here only")]
            // SAFETY: allocated in `new` with the layout of the same capacity (invariant 2), and the
            // only pointer to it (invariant 1).
            unsafe {
                alloc::dealloc(head.data.as_ptr(), layout);
            }
        }
    }
}

impl fmt::Debug for IdleBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("IdleBlock").field(&self.capacity()).finish()
    }
}

/// `bytes`, if no account is the owner of a block as large as that.
#[inline]
const fn small(bytes: usize) -> usize {
    if bytes < account::LARGE { bytes } else { 0 }
}

/// A block in use. Dropped, it goes back to its pool.
pub(super) struct Block {
    head: NonNull<Head>,
}

// SAFETY: the only pointer to the head and its data (invariant 1).
unsafe impl Send for Block {}
// SAFETY: `&Block` gives plain numbers, and bytes that are not written any more (see `Frozen`).
unsafe impl Sync for Block {}

impl Block {
    #[inline]
    pub(super) fn new(mut idle: IdleBlock) -> Self {
        idle.begin();
        Self {
            head: ManuallyDrop::new(idle).head,
        }
    }

    #[inline]
    fn head(&self) -> &Head {
        // SAFETY: alive and ours alone (invariant 1).
        unsafe { self.head.as_ref() }
    }

    #[inline]
    pub(super) fn data(&self) -> NonNull<u8> {
        self.head().data
    }

    #[inline]
    pub(super) fn capacity(&self) -> usize {
        self.head().hint.capacity
    }

    /// Counts the block as handed out on behalf of `origin` (not zero), until it comes back.
    pub(super) fn hand_out(&mut self, origin: u32) {
        // SAFETY: alive and ours alone (invariant 1).
        let head = unsafe { self.head.as_mut() };
        if let Some(attached) = &head.attached {
            head.origin = origin;
            attached.pool.handed_out(origin, head.hint.capacity);
        }
    }

    /// Ends writing.
    ///
    /// # Safety
    ///
    /// The first `len` bytes are initialised, and nothing but the result points to them.
    #[inline]
    pub(super) unsafe fn freeze(mut self, len: usize) -> Frozen {
        // SAFETY: alive and ours alone (invariant 1).
        let head = unsafe { self.head.as_mut() };
        (head.shown, head.frozen) = (len, true);
        if head.attached.is_some() && head.hint.capacity < account::LARGE {
            // A large block keeps its owners until it comes back.
            account::froze(head.hint.capacity, len);
        }
        if bug!("rest-of-block-shown") {
            head.shown = head.hint.capacity;
        }
        Frozen(self)
    }

    /// Tells the accounts that the block comes back to its pool.
    #[inline]
    fn count_return(&self) {
        let head = self.head();
        let capacity = head.hint.capacity;
        if head.frozen && capacity < account::LARGE {
            account::dropped_frozen(head.shown);
        } else {
            account::returned(head.data.addr().get(), capacity);
        }
    }

    /// Whether the pool wipes the block when it comes back.
    #[inline]
    pub(super) fn is_wiped(&self) -> bool {
        self.head().wiped
    }

    #[inline]
    pub(super) fn is_reused(&self) -> bool {
        self.head().reused
    }

    /// Another block of the same pool, or of the global allocator if there is no pool.
    pub(super) fn another(&self, bytes: usize) -> Option<IdleBlock> {
        match &self.head().attached {
            Some(attached) => Arc::clone(&attached.pool).take_block_owned(bytes),
            None => IdleBlock::new(bytes),
        }
    }
}

impl Drop for Block {
    #[inline]
    fn drop(&mut self) {
        let attached = self.head().attached.as_ref();
        let attached = attached.map(|to| (to.recycle, to.address));
        let idle = IdleBlock { head: self.head };
        match attached {
            Some((recycle, address)) => {
                self.count_return();
                recycle(idle, address);
            }
            None => drop(idle),
        }
    }
}

/// A block that is not written any more.
///
/// # Invariants
///
/// 1. The first `shown` bytes are initialised, and nothing writes them.
pub(super) struct Frozen(Block);

impl AsRef<[u8]> for Frozen {
    #[inline]
    fn as_ref(&self) -> &[u8] {
        let head = self.0.head();
        // SAFETY: initialised and not written any more (invariant 1); the block is alive as long as
        // this owner (invariant 1 of `block`).
        unsafe { slice::from_raw_parts(head.data.as_ptr(), head.shown) }
    }
}
