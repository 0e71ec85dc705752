//! Chunks, bump pointer and reference count of an arena (unsafe module 2 of 3).
//!
//! # Invariants
//!
//! 1. A header is alive while it has references, which it counts, and then until the one
//!    [`IdleArena`] made by the last reference is dropped. Chunks are freed or rewound only
//!    through an `IdleArena`, that is, when nothing can point into them.
//! 2. In each chunk, the bytes below `pos` are allocated: every region that was returned and not
//!    given back lies below `pos`, and no two such regions overlap. `pos` moves by
//!    compare-and-swap, so one thread wins and the others retry (except under invariant 6).
//! 3. Only the owner of the topmost region moves `pos` down, to an address within that region. The
//!    move down is a release and each move up an acquire, so the next owner of the bytes writes
//!    them after the former owner's last access.
//! 4. A chunk's address, data, capacity and predecessor never change while the arena is referenced; the
//!    current chunk is replaced only under the `grow` lock.
//! 5. A region's bytes count as uninitialised until its owner has written them: no safe function
//!    reads a byte that was not written through the same region.
//! 6. [`Access::Exclusive`](chunk::Access) is used only by a caller that holds the arena's only
//!    reference exclusively. Every region and every other reference comes from a borrow of
//!    a reference, so no other code can reach `pos`, and it needs no compare-and-swap.
//!    [`Access::Shared`](chunk::Access) is always correct.
//!
//! [`ArenaVec`], [`ArenaString`], [`IntoIter`], [`Segment`], [`ArenaBuf`], [`IdleBlock`], [`Cursor`],
//! [`ArenaBox`], [`Slot`] and [`Bank`] state their own invariants.
#![expect(unsafe_code, reason = "allocates memory by pointer, behind safe types")]

#[cfg(any(feature = "allocator-api2", feature = "allocator-api2-04"))]
mod allocator_api;
mod bank;
mod block;
mod boxed;
mod buf_mut;
mod buffer;
mod buffers;
mod chunk;
mod copy;
mod cursor;
mod drain;
mod figures;
mod format_buffer;
mod header;
#[cfg(all(test, tower_memory_loom))]
mod loom_models;
mod reference;
mod rented_for;
mod segment;
mod slot;
mod stack_text;
mod storage;
mod string;
mod typed;
mod vec;

#[cfg(feature = "json")]
pub(crate) use self::stack_text::StackText;
pub(crate) use self::{
    bank::Bank,
    block::{BlockPool, IdleBlock},
    buffers::Buffers,
    header::{IdleArena, Recycler, Retain},
    rented_for::RentedFor,
    slot::{PoolHint, Pooled, Slot},
};
pub use self::{
    boxed::ArenaBox,
    buffer::ArenaBuf,
    cursor::Cursor,
    drain::{Drain, IntoIter},
    reference::Arena,
    segment::Segment,
    storage::{OwnedRegion, Storage},
    string::ArenaString,
    vec::ArenaVec,
};
pub(super) use self::{
    cursor::FIRST_STEP, drain::within, format_buffer::FormatBuffer, typed::Allocate,
};

/// An [`ArenaVec`] that grows in a [`Cursor`]'s segment.
///
/// It borrows the cursor, so nothing comes between its values and it grows in place until the segment
/// ends. [`into_slice`](ArenaVec::into_slice) keeps the values; dropped, the list drops them and its
/// place is used again. To build two lists at once, take a second cursor.
///
/// # Examples
///
/// ```
/// let arena = tower_memory::Arena::new();
/// let mut cursor = arena.cursor();
/// let mut even = cursor.vec();
/// even.extend((1..10).filter(|n| n % 2 == 0));
/// let even = even.into_slice();
/// assert_eq!(even, &[2, 4, 6, 8]);
/// ```
pub type CursorVec<'c, 'a, T> = ArenaVec<'a, T, Segment<'c, 'a>>;

/// An [`ArenaString`] that grows in a [`Cursor`]'s segment.
///
/// It borrows the cursor, so nothing comes between its parts and it grows in place until the segment
/// ends. [`into_str`](ArenaString::into_str) keeps the text; dropped, its place is used again.
///
/// # Examples
///
/// ```
/// let arena = tower_memory::Arena::new();
/// let mut cursor = arena.cursor();
/// let mut text = cursor.string();
/// for n in 0..3 {
///     write!(text, "{n};")?;
/// }
/// assert_eq!(text.into_str(), "0;1;2;");
/// # Ok::<(), tower_memory::arena::ArenaError>(())
/// ```
pub type CursorString<'c, 'a> = ArenaString<'a, Segment<'c, 'a>>;
