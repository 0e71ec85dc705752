//! References to records.

use std::{
    alloc::{Layout, System, handle_alloc_error},
    fmt,
    ops::Deref,
    ptr::NonNull,
};

use super::record::Record;
use crate::sync::{Ordering, Ordering::Relaxed, fence};

/// A counted reference to a [`Record`].
pub(in crate::account) struct RecordRef(NonNull<Record>);

// SAFETY: a record is made of atomics, and stays until its last reference is dropped (invariant 1).
unsafe impl Send for RecordRef {}
// SAFETY: as above (invariant 1).
unsafe impl Sync for RecordRef {}

impl RecordRef {
    /// Makes a record of an account without an owner.
    pub(in crate::account) fn new() -> Self {
        Self::with_owner(false)
    }

    /// Makes a record of an account with an owner.
    pub(in crate::account) fn owned() -> Self {
        Self::with_owner(true)
    }

    /// Its memory comes from the system allocator, since the last reference may be dropped by the global
    /// one.
    fn with_owner(owned: bool) -> Self {
        let layout = Layout::new::<Record>();
        // SAFETY: a record is not zero-sized; the memory is ours until the last reference is dropped
        // (invariant 1).
        let record = unsafe { std::alloc::GlobalAlloc::alloc(&System, layout) }.cast::<Record>();
        let Some(record) = NonNull::new(record) else {
            handle_alloc_error(layout);
        };
        // SAFETY: `record` was allocated with this layout, and is not shared yet (invariant 1).
        unsafe { record.write(Record::new(owned)) };
        Self(record)
    }

    /// Begins anew, with a record that nothing else refers to.
    pub(in crate::account) fn reset(&mut self) {
        // Acquire: pairs with the release in `drop`, so the writes of others come before those below.
        let is_only = self.refs.load(Ordering::Acquire) == 1 && !self.has_guards();
        if !is_only && !bug!("owner-handed-on-too-early") {
            *self = Self::with_owner(self.owned);
            return;
        }
        // SAFETY: this reference is held exclusively and is the only one, and the account is not borrowed, so
        // no section is in it (invariants 1 and 2).
        unsafe { self.0.as_mut() }.begin_anew();
    }

    /// Keeps the record for a guard of `thread`, the calling one, which is in the account and can be forgotten.
    #[inline]
    pub(in crate::account) fn keep_for_guard(&self, thread: usize) -> Kept {
        if self.add_guard(thread) {
            Kept::ByThread(self.pin())
        } else {
            Kept::Counted(self.clone())
        }
    }

    /// The record, for a section that borrows the account or keeps a reference (invariant 2).
    #[inline]
    pub(in crate::account) const fn pin(&self) -> Pinned {
        Pinned(self.0)
    }

    /// Gives the reference up, for [`from_raw`](Self::from_raw).
    pub(super) fn into_raw(self) -> *mut Record {
        let raw = self.0.as_ptr();
        #[expect(clippy::mem_forget, reason = "the pointer is the reference now")]
        std::mem::forget(self);
        raw
    }

    /// # Safety
    ///
    /// `raw` comes from [`into_raw`](Self::into_raw), and is used once.
    pub(super) unsafe fn from_raw(raw: *mut Record) -> Option<Self> {
        NonNull::new(raw).map(Self)
    }
}

impl Default for RecordRef {
    fn default() -> Self {
        Self::new()
    }
}

impl Deref for RecordRef {
    type Target = Record;

    #[inline]
    fn deref(&self) -> &Record {
        // SAFETY: this is a reference to it (invariant 1).
        unsafe { self.0.as_ref() }
    }
}

impl Clone for RecordRef {
    fn clone(&self) -> Self {
        // Relaxed: a new reference is made from one that exists.
        self.refs.fetch_add(1, Relaxed);
        Self(self.0)
    }
}

impl Drop for RecordRef {
    fn drop(&mut self) {
        // Release: what this reference was used for comes before the record is freed or reset.
        if self.refs.fetch_sub(1, Ordering::Release) != 1 {
            return;
        }
        // Acquire: pairs with the releases of the other references.
        fence(Ordering::Acquire);
        if self.has_guards() {
            // The stack of a thread still refers to it (invariant 2).
            return;
        }
        // SAFETY: this was the last reference (invariant 1).
        unsafe {
            self.0.drop_in_place();
            std::alloc::GlobalAlloc::dealloc(
                &System,
                self.0.as_ptr().cast(),
                Layout::new::<Record>(),
            );
        }
    }
}

impl fmt::Debug for RecordRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RecordRef").field(&self.0).finish()
    }
}

/// What a guard that can be forgotten keeps of a record (invariant 2).
#[derive(Debug)]
pub(in crate::account) enum Kept {
    /// It is counted in the record, by its thread and without locked instructions.
    ByThread(Pinned),
    /// It has a reference.
    Counted(#[expect(dead_code, reason = "for its drop")] RecordRef),
}

impl Drop for Kept {
    #[inline]
    fn drop(&mut self) {
        if let Self::ByThread(record) = self {
            record.with(Record::remove_guard);
        }
    }
}

/// A record that a section on this thread's stack refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::account) struct Pinned(NonNull<Record>);

impl Pinned {
    /// Returns another reference to the record.
    pub(in crate::account) fn to_ref(self) -> RecordRef {
        // SAFETY: a pinned record is alive (invariant 2), and the count is raised for the reference.
        unsafe { self.0.as_ref() }.refs.fetch_add(1, Relaxed);
        RecordRef(self.0)
    }

    /// Calls `f` with the record.
    #[inline]
    pub(in crate::account) fn with<R>(self, f: impl FnOnce(&Record) -> R) -> R {
        // SAFETY: a pinned record is alive (invariant 2).
        f(unsafe { self.0.as_ref() })
    }
}

#[cfg(all(test, tower_memory_loom))]
mod loom_models {
    use loom::thread;

    use super::*;
    use crate::sync::Arc;

    /// Two threads guard an account at the same time, and `forget` their guards or drop them.
    fn model(forget: [bool; 2], stays: bool) {
        loom::model(move || {
            let account = Arc::new(RecordRef::new());
            let threads = [1, 2].map(|number| {
                let account = Arc::clone(&account);
                thread::spawn(move || {
                    let kept = account.keep_for_guard(number);
                    if forget[number - 1] {
                        std::mem::forget(kept);
                    }
                })
            });
            for thread in threads {
                thread.join().expect("no panic");
            }
            let mut account = Arc::into_inner(account).expect("the threads have ended");
            let former = account.pin();
            account.reset();
            assert_eq!(account.pin() != former, stays);
        });
    }

    /// Invariant 2.
    #[test]
    fn a_record_whose_guard_was_forgotten_is_not_used_again() {
        model([true, false], true);
        model([true, true], true);
    }

    #[test]
    fn a_record_whose_guards_were_dropped_is_used_again() {
        model([false, false], false);
    }
}
