//! Chunks, bump pointer and reference count of an arena (unsafe module 2 of 2).
//!
//! # Invariants
//!
//! 1. A header is alive while its count of references is not zero, and then until the one
//!    [`IdleArena`] made by the last reference is dropped. Chunks are freed or rewound only
//!    through an `IdleArena`, that is, when nothing can point into them.
//! 2. In each chunk, the bytes below `pos` are given out: every region that was returned and not
//!    given back lies below `pos`, and no two such regions overlap. `pos` moves by
//!    compare-and-swap only, so one mover wins and all others look again.
//! 3. `pos` goes down only from the end of a region to somewhere within that same region, by the
//!    owner of that region. The move down is a release and each move up an acquire, so who
//!    gets the bytes next writes after the former owner's last access.
//! 4. A chunk's address, capacity and predecessor never change while the arena is referenced; the
//!    current chunk is replaced only under the `grow` lock.
//! 5. A region's bytes count as uninitialised until its owner has written them: no safe function
//!    reads a byte that was not written through the same region.
//!
//! The typed wrappers ([`RawVec`], [`RawString`], [`RawBytes`]) state their own invariants.
#![expect(unsafe_code, reason = "hands out memory by pointer, behind safe types")]

mod boxed;
mod bytes;
mod chunk;
mod header;
#[cfg(all(test, tower_memory_loom))]
mod loom_models;
mod string;
mod typed;
mod vec;

pub(super) use self::{
    boxed::RawBox,
    string::RawString,
    vec::{RawIntoIter, RawVec},
};
pub(crate) use self::{
    bytes::RawBytes,
    header::{Home, IdleArena, RawArena},
};
