//! Memory that belongs to one request: allocated piece by piece, recycled all at once.
//!
//! An [`Arena`] allocates by moving a pointer and frees nothing until its last handle is dropped. Then
//! the [`ArenaPool`](crate::ArenaPool) it came from recycles it. Other arenas borrow themselves mutably
//! or stay on one thread; this one is a reference-counted handle that is `Send + Sync`, so values in it
//! can be held across `.await`.
//!
//! | you need | use |
//! |---|---|
//! | a value, a string or a slice for the length of a borrow | [`Arena::alloc`], [`Arena::alloc_str`], [`Arena::alloc_fmt`], ... |
//! | many small values in a loop | a [`Cursor`]: it allocates without atomic operations |
//! | a text of a few parts, without the cost of `format_args!` | [`Arena::alloc_concat`] |
//! | a growing list or text | [`ArenaVec`], [`ArenaString`]; in a cursor [`CursorVec`], [`CursorString`] |
//! | a value that must be dropped | [`ArenaBox`], or an [`ArenaVec`] |
//! | bytes for a response body | [`ArenaBuf`], frozen into [`Bytes`](bytes::Bytes) without a copy |
//! | maps, sets, boxed trait objects | the feature `allocator-api2`: `Arena` and `&Arena` are allocators |
//!
//! The collections' last parameter says where their memory lies: in a region of the arena by default,
//! or in the segment of a cursor.

mod boxed;
mod buffer;
mod cursor;
mod error;
mod format;
mod handle;
mod limit;
mod parts;
mod raw;
pub(crate) mod steps;
mod string;
mod vec;

pub use self::error::{ArenaError, ArenaErrorKind};
pub use self::parts::Parts;
pub use self::raw::{
    Arena, ArenaBox, ArenaBuf, ArenaString, ArenaVec, Cursor, CursorString, CursorVec,
};
#[doc(hidden)]
pub use self::raw::{Drain, IntoIter, OwnedRegion, Segment, Storage};

pub(crate) use self::raw::{
    Bank, BlockPool, Buffers, IdleArena, IdleBlock, PoolHint, Pooled, Recycler, RentedFor, Retain,
    Slot,
};
#[cfg(feature = "json")]
pub(crate) use self::{parts::WriteParts, raw::StackText};
