//! What the allocator refers to from outside of any borrow: the records of accounts, the table of
//! large blocks and their owners, and the list of threads' counters (part of unsafe module 1).
//!
//! # Invariants
//!
//! 1. A [`Record`] is freed when its last [`RecordRef`] is dropped, unless it counts guards. Each account has a
//!    reference, and each entry of the table has one. So nothing that names a record can meet a later account
//!    at the same address.
//! 2. A [`Pinned`] record is alive: the section that it belongs to borrows the account, and its guard, if safe
//!    code can forget it, has a reference of its own or is counted in the record. A guard that is forgotten
//!    drops neither. Those that are counted are of one thread, and the account's reference is dropped, or used
//!    exclusively, after all guards have borrowed it, so it finds those that were forgotten.
//! 3. A level of the table is published once, complete, and never freed.
//! 4. An entry belongs to the thread that set its address, from zero, until that thread, or a thread
//!    that happens after it, takes it. A block's address is in the table only between its allocation
//!    and its release, so its entries are read by the one thread that may free the block.
//! 5. The list of blocks of counters only grows at its head and blocks are never freed, so a pointer
//!    read from the list is valid for the rest of the process.
//! 6. A block's `claimed` flag is true while a thread owns it. It goes from false to true by
//!    compare-and-swap (acquire) and back by a release store of the owner, so the next owner
//!    continues from the last values of the former owner.
//! 7. The cells of the block of threads that have none are never written: its marks have each count looked at,
//!    which finds the thread's own block or the shared counters; and its peak is the highest value.
#![expect(
    unsafe_code,
    reason = "counts references to records, and shares them and counters through pointers"
)]

mod owners;
mod record;
mod reference;
mod registry;

pub(super) use self::owners::{add_owner, take_owners};
pub(crate) use self::record::Budget;
pub(super) use self::record::{Record, SHORT_FRAME};
pub(super) use self::reference::{Kept, Pinned, RecordRef};
pub(super) use self::registry::{block, counters, disown_block, own, own_block};
