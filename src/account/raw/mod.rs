//! What the allocator refers to from outside of any borrow: the records of accounts, and the table of
//! large blocks and their owners (part of unsafe module 1).
//!
//! # Invariants
//!
//! 1. A [`Record`] is freed when its last [`RecordRef`] is dropped. Each account has one, each entry of
//!    the table has one, and each guard that safe code can forget has one. So nothing that names a
//!    record can meet a later account at the same address.
//! 2. A [`Pinned`] record is alive: the section that it belongs to borrows the account, or its guard
//!    has a reference of its own. A guard that is forgotten never drops that reference.
//! 3. A level of the table is published once, complete, and never freed.
//! 4. An entry belongs to the thread that set its address, from zero, until that thread, or a thread
//!    that happens after it, takes it. A block's address is in the table only between its allocation
//!    and its release, so its entries are read by the one thread that may free the block.
#![expect(
    unsafe_code,
    reason = "counts references to records and shares them through a table of pointers"
)]

mod owners;
mod record;

pub(super) use self::owners::{disown, own};
pub(super) use self::record::{Pinned, Record, RecordRef};
