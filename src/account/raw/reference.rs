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
    /// Makes a record.
    ///
    /// Its memory comes from the system allocator, since the last reference may be dropped by the global
    /// one.
    pub(in crate::account) fn new() -> Self {
        let layout = Layout::new::<Record>();
        // SAFETY: a record is not zero-sized; the memory is ours until the last reference is dropped
        // (invariant 1).
        let record = unsafe { std::alloc::GlobalAlloc::alloc(&System, layout) }.cast::<Record>();
        let Some(record) = NonNull::new(record) else {
            handle_alloc_error(layout);
        };
        // SAFETY: `record` was allocated with this layout, and is not shared yet (invariant 1).
        unsafe { record.write(Record::new()) };
        Self(record)
    }

    /// Begins anew, with a record that nothing else refers to.
    pub(in crate::account) fn reset(&mut self) {
        // Acquire: pairs with the release in `drop`, so the writes of others come before those below.
        if self.refs.load(Ordering::Acquire) != 1 && !bug!("owner-handed-on-too-early") {
            *self = Self::new();
            return;
        }
        // No other thread can get a reference from `&mut self`.
        self.begin_anew();
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

/// A record that a section on this thread's stack refers to.
#[derive(Clone, Copy, PartialEq, Eq)]
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
