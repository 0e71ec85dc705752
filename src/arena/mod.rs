//! Memory that belongs to one request: taken piece by piece, given back all at once.
//!
//! An [`Arena`] hands out memory by moving a pointer and frees nothing until its last handle is
//! dropped; then it goes back to the [`ArenaPool`](crate::ArenaPool) it came from, ready to be
//! used again. Unlike an arena that borrows itself mutably or is bound to one thread, this one is a
//! reference-counted `Send + Sync` handle, so what lives in it can be held across `.await`.
//!
//! | you need | take |
//! |---|---|
//! | a value, a string, a slice for the length of a borrow | [`Arena::alloc`], [`Arena::alloc_str`], [`Arena::format`], ... |
//! | many small things in a row | a [`Cursor`]: a segment for one user, without atomic operations |
//! | a list, a text that grows | [`ArenaVec`], [`ArenaString`] |
//! | a value that must be dropped | [`ArenaBox`], or an [`ArenaVec`] |
//! | bytes for a response body | [`ArenaBuf`], frozen into [`Bytes`](bytes::Bytes) without a copy |
//! | maps, sets, boxed trait objects | the feature `allocator-api2`: `&Arena` and `Arena` are allocators |

mod boxed;
mod buffer;
mod cursor;
mod error;
mod format;
mod handle;
#[cfg(feature = "json")]
mod json;
mod raw;
mod string;
mod vec;

pub use self::boxed::ArenaBox;
pub use self::buffer::ArenaBuf;
pub use self::cursor::Cursor;
pub use self::error::{ArenaError, ArenaErrorKind};
pub use self::handle::Arena;
#[cfg(feature = "json")]
pub use self::json::JsonError;
pub use self::raw::{
    ArenaString, ArenaVec, CursorString, CursorVec, Drain, IntoIter, OwnedRegion, Segment, Storage,
};

pub(crate) use self::raw::{ArenaSlot, IdleArena, PoolHint, Recycler, Retain};
